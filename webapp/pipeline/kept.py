"""Kept answers: the very same question of the same person (or organization) again gets the same answer, at once and free.

A key is a hash over who asks, the operation, all the turns that the model would read with their pictures, and every parameter
that shapes the answer. Which model would serve is not part of it. Organizations never share answers.

The output cap is not part of it either: it differs by plan, and only answers that ended by themselves are kept, which a longer
cap would not have changed. An answer is given to whoever may have one of its length.

They are kept in Redis alone, for the operation's time; while Redis is away nothing is found, and the models are asked. Each is
signed for its key, so that whoever writes into Redis cannot put words into our mouth, or move an answer to another key.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import redis
from flask import current_app
from sqlalchemy import and_, func, select
from sqlalchemy.orm import aliased

from webapp.contracts.calls import Finish, Turn
from webapp.extensions import current_settings, queue_redis, reading
from webapp.models import Request, RequestStatus
from webapp.pipeline.claims import Claimed
from webapp.pipeline.endings import Ending
from webapp.routing import prices

log = logging.getLogger(__name__)

PREFIX = "switchhook:kept:"
_MAX_CHARS = 200_000
_NOT_SHAPING = frozenset({"fresh", "pictures", "user"})
"""Parameters that do not change an answer; pictures are in the turns. An unknown parameter counts as one that does."""
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Key:
    """Where an answer is kept, and the longest that may be given, in tokens. False if there is nothing to look for."""

    name: str
    max_output_tokens: int

    def __bool__(self) -> bool:
        return bool(self.name)


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer that was given before: `by` (provider/model, '' if that is not known) under an output cap of `cap` tokens."""

    answer: str
    finish: str
    by: str = ""
    cap: int = 0

    def fits(self, max_output_tokens: int) -> bool:
        """Whether somebody with this cap may have it. Under the cap that it was given under it fits whatever its length: the
        count of its tokens is only an estimate, and rather too high."""
        return max_output_tokens >= self.cap or prices.estimate_tokens(self.answer) <= max_output_tokens

    @property
    def route(self) -> Mapping[str, Any]:
        """What the request's record says of how it was answered, in the form of any route."""
        gave = {"model": self.by, "what": "completed", "why": "it gave this answer before"}
        return {"by": "a kept answer", "models": [gave] if self.by else []}


def lifetime_s(operation: str) -> int:
    """For how long answers of an operation are kept, 0 for not at all."""
    settings = current_settings()
    if settings.cache_scope == "off":
        return 0
    if operation == "chat":
        return settings.cache_chat_s
    if operation.startswith("content."):
        return settings.cache_content_s
    return settings.cache_sentiment_s if operation == "sentiment.analyze" else 0


def key(taken: Claimed, turns: tuple[Turn, ...]) -> Key:
    """The key of a request; it is false if its answers are not kept."""
    name = name_of(taken.organization_id, taken.person_id, taken.operation, taken.parameters, turns)
    return Key(name, taken.max_output_tokens)


def name_of(
    organization_id: uuid.UUID,
    person_id: uuid.UUID,
    operation: str,
    parameters: Mapping[str, Any],
    turns: tuple[Turn, ...],
) -> str:
    """The name in Redis of the answer to what somebody asks or would ask, '' if such answers are not kept."""
    if not lifetime_s(operation):
        return ""
    whose = str(person_id) if current_settings().cache_scope == "person" else "everybody"
    shape = {name: value for name, value in parameters.items() if value is not None and name not in _NOT_SHAPING}
    digest = hashlib.sha256(json.dumps([str(organization_id), whose, operation, shape], sort_keys=True).encode())
    for turn in turns:
        # Lengths keep two turns from being taken for one.
        text = turn.text.encode("utf-8", "replace")
        digest.update(f"|{turn.role.value}:{len(text)}:{len(turn.pictures)}:".encode() + text)
        for picture in turn.pictures:
            digest.update(hashlib.sha256(picture.data).digest())
    return PREFIX + digest.hexdigest()


def find(key: Key) -> Kept | None:
    """The answer under a key, None if there is none within its output cap, or nobody can tell."""
    try:
        raw = queue_redis().get(key.name)
    except redis.RedisError as exc:
        log.debug("kept answers cannot be looked at: %s", type(exc).__name__)
        return None
    found = _read(key.name, raw) if isinstance(raw, bytes) else None
    return found if found is not None and found.fits(key.max_output_tokens) else None


def keep(key: Key, taken: Claimed, ending: Ending, by: str = "") -> None:
    """Keep a whole answer. One that was cut off or filtered, is very long, or is not the JSON that was asked for is not worth
    keeping. `by` is the model that gave it, as provider/model."""
    if not key or not ending.answer or ending.finish != Finish.STOP or len(ending.answer) > _MAX_CHARS:
        return
    if taken.parameters.get("output") and ending.result is None:
        return
    value = {"answer": ending.answer, "finish": ending.finish, "by": by, "cap": key.max_output_tokens}
    body = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
    try:
        queue_redis().set(key.name, _signature(key.name, body) + body, ex=lifetime_s(taken.operation))
    except redis.RedisError as exc:
        log.debug("an answer cannot be kept: %s", type(exc).__name__)


def _signature(name: str, body: bytes) -> bytes:
    secret = str(current_app.config["SECRET_KEY"]).encode()
    return hmac.digest(secret, b"kept answer:" + name.encode() + body, "sha256")


def _read(name: str, raw: bytes) -> Kept | None:
    """What was kept, None for anything else that stands there."""
    signature, body = raw[:32], raw[32:]
    if not hmac.compare_digest(signature, _signature(name, body)):
        log.warning("a kept answer is ignored: it is damaged, or was not written by this installation")
        return None
    try:
        value = json.loads(body)
        return Kept(value["answer"], value["finish"], value["by"], value["cap"])
    except (ValueError, KeyError, TypeError, RecursionError):
        # Signed, so it is ours: another release kept it in another form.
        return None


# -- for the operator ----------------------------------------------------------------------------------------------------
def are_there(names: Sequence[str]) -> list[bool]:
    """Which of the names have an answer. Raises `redis.RedisError` while Redis is away."""
    found: list[bool] = []
    client = queue_redis()
    for start in range(0, len(names), _PAGE):
        with client.pipeline(transaction=False) as pipe:
            for name in names[start : start + _PAGE]:
                pipe.exists(name)
            found += [bool(each) for each in pipe.execute()]
    return found


def count(most: int) -> int:
    """How many answers are kept now, counted up to `most`. Raises `redis.RedisError` while Redis is away."""
    found: set[bytes] = set()  # a scan may name a key twice
    for name in _names(PREFIX):
        found.add(name)
        if len(found) >= most:
            break
    return len(found)


@dataclass(frozen=True, slots=True)
class Saved:
    """Requests that a kept answer has served. For `known` of them the request that first paid for the answer was found; those
    cost `cost_microusd` together."""

    hits: int
    known: int
    cost_microusd: int


def saved(since: datetime) -> Saved:
    """What kept answers have saved since then."""
    hit, first = aliased(Request), aliased(Request)
    oldest = since - timedelta(seconds=max(map(lifetime_s, ("chat", "content.generate", "sentiment.analyze"))))
    costs = (
        select(hit.id, func.max(first.cost_microusd).label("cost"))
        .outerjoin(
            first,
            and_(
                first.organization_id == hit.organization_id,
                first.operation == hit.operation,
                first.prompt == hit.prompt,
                first.id < hit.id,
                first.id >= _id_at(oldest),
                first.cached.is_(False),
                first.status == RequestStatus.COMPLETED,
            ),
        )
        .where(hit.id >= _id_at(since), hit.cached.is_(True), hit.status == RequestStatus.COMPLETED)
        .group_by(hit.id)
        .subquery()
    )
    with reading() as connection:
        row = connection.execute(
            select(func.count(), func.count(costs.c.cost), func.coalesce(func.sum(costs.c.cost), 0)).select_from(costs)
        ).one()
    return Saved(*map(int, row))


def _id_at(moment: datetime) -> uuid.UUID:
    """The lowest id of that moment or later: ids are UUIDv7, which begin with milliseconds, and there is no other index."""
    return uuid.UUID(int=max(0, int(moment.timestamp() * 1000)) << 80)


def clear(prefix: str = PREFIX) -> int:
    """Forget every answer (or whatever else is kept under a prefix); returns how many there were. Raises `redis.RedisError`
    while Redis is away."""
    client, page, gone = queue_redis(), list[bytes](), 0
    for name in _names(prefix):
        page.append(name)
        if len(page) == _PAGE:
            gone += int(client.unlink(*page))
            page.clear()
    return gone + (int(client.unlink(*page)) if page else 0)


def _names(prefix: str) -> Iterator[bytes]:
    """The keys under a prefix, without holding Redis up."""
    yield from queue_redis().scan_iter(match=f"{prefix}*", count=_PAGE)
