"""The answer while it is being written: a Redis stream per request, which any process can read from any point.

The stream is a convenience, the database is the truth: when Redis is away nothing is lost but the view of the answer growing.
"""

from __future__ import annotations

import logging
import math
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import redis
from sqlalchemy import select

from webapp.extensions import queue_redis, reading, waiting_redis
from webapp.models import ENDED, Request

log = logging.getLogger(__name__)

KEEP_S = 3600
WAIT_MS = 5000
_OUTAGE_POLL_S = 1.0
_LAST_ATTEMPT = 1_000_000
_POSITION = re.compile(r"(\d{1,20}-\d{1,20})\.(\d{1,7})")


class Kind(StrEnum):
    """What happened in a stream."""

    PIECE = "piece"
    """More text."""
    RESET = "reset"
    """What was read so far is void; the text that comes along starts it anew."""
    END = "end"
    """Nothing follows; the text is the request's status."""
    WAITING = "waiting"
    """Nothing yet; for doors that must show that they are alive. Has no id."""


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One thing to tell a reader. Reading on from `id` gives what follows it.

    An id is Redis's own and the number of the execution that wrote the entry: a worker that was taken for dead may still be
    writing, and what it writes after its successor began must not be mixed in.
    """

    id: str
    kind: Kind
    text: str


def _key(request_id: uuid.UUID | str) -> str:
    return f"switchhook:stream:{request_id}"


def _cancel_key(request_id: uuid.UUID | str) -> str:
    return f"switchhook:cancel:{request_id}"


class Publisher:
    """Writes one execution's pieces. Never raises for Redis: the answer goes on without an audience."""

    def __init__(self, request_id: uuid.UUID, attempt: int) -> None:
        self._client = queue_redis()
        self._key = _key(request_id)
        self._cancel = _cancel_key(request_id)
        self._so_far: list[str] = []
        # An earlier execution may have left pieces in the stream; and pieces may be lost while Redis is away.
        self._must_reset = attempt > 1
        self._attempt = attempt
        self._begun = False
        self._length = 0
        self._retry_at = 0.0

    def piece(self, text: str) -> bool:
        """Publish a piece in one round trip. True if somebody has asked meanwhile to stop."""
        self._so_far.append(text)
        if self._must_reset:
            return self._send(Kind.RESET, "".join(self._so_far))
        return self._send(Kind.PIECE, text)

    def end(self, status: str) -> None:
        """Publish that the request has ended, and first whatever could not be published before."""
        self._retry_at = 0.0
        if self._must_reset and self._so_far:
            self._send(Kind.RESET, self.text)
        self._send(Kind.END, status)

    @property
    def text(self) -> str:
        """Everything published so far."""
        return "".join(self._so_far)

    def _send(self, kind: Kind, text: str) -> bool:
        if time.monotonic() < self._retry_at:
            self._must_reset = True
            return False
        try:
            with self._client.pipeline(transaction=False) as pipe:
                pipe.xadd(self._key, {"k": kind.value, "t": text, "a": self._attempt})
                pipe.exists(self._cancel)
                pipe.xlen(self._key)
                if not self._begun or kind is Kind.END:
                    pipe.expire(self._key, KEEP_S)
                answers = pipe.execute()
        except redis.RedisError as exc:
            if not self._retry_at:
                log.warning("an answer is being written unseen: Redis is away (%s)", type(exc).__name__)
            self._must_reset = True
            self._retry_at = time.monotonic() + _OUTAGE_POLL_S
            return False
        self._begun = True
        before, self._length = self._length, int(answers[2])
        if kind is Kind.RESET:
            self._must_reset = False
        elif self._length <= before and kind is Kind.PIECE:
            # Redis has forgotten the beginning: a reader who comes now gets it once more.
            return self._send(Kind.RESET, self.text) or bool(answers[1])
        return bool(answers[1])


def stop_asked(client: redis.Redis, request_id: uuid.UUID) -> bool:
    """Whether somebody has asked an execution to stop. Raises `redis.RedisError`."""
    return bool(client.exists(_cancel_key(request_id)))


def ask_to_stop(request_id: uuid.UUID) -> None:
    """Tell the execution, wherever it runs, to stop at its next piece."""
    try:
        queue_redis().set(_cancel_key(request_id), 1, ex=KEEP_S)
    except redis.RedisError as exc:
        log.warning("could not ask an execution to stop: Redis is away (%s)", type(exc).__name__)


def publish_end(request_id: uuid.UUID, status: str) -> None:
    """End the stream of a request that ended without being executed here."""
    try:
        with queue_redis().pipeline(transaction=False) as pipe:
            pipe.xadd(_key(request_id), {"k": Kind.END.value, "t": status, "a": _LAST_ATTEMPT})
            pipe.expire(_key(request_id), KEEP_S)
            pipe.execute()
    except redis.RedisError as exc:
        log.warning("could not end a stream: Redis is away (%s)", type(exc).__name__)


def forget(request_id: uuid.UUID) -> None:
    """Drop what was published of a request that begins anew, and any wish to stop it. Raises `redis.RedisError`."""
    queue_redis().delete(_key(request_id), _cancel_key(request_id))


def read(request_id: uuid.UUID, after: str = "", for_s: float = 600.0) -> Iterator[StreamEvent]:
    """Everything that follows the event `after`, as it happens, until the end or for `for_s` seconds.

    Starts with the database, so that a request that ended long ago ends at once; and goes on with it while Redis is away.
    """
    until = time.monotonic() + for_s
    last, attempt = _position(after)
    first = last
    client = waiting_redis()
    while time.monotonic() < until:
        try:
            if last == first and not client.exists(_key(request_id)) and (status := _ended(request_id)):
                yield StreamEvent(after, Kind.END, status)
                return
            left_ms = math.ceil((until - time.monotonic()) * 1000)
            found = client.xread({_key(request_id): last}, block=min(WAIT_MS, max(1, left_ms)), count=500)
        except redis.RedisError:
            found = None
            time.sleep(_OUTAGE_POLL_S)
        if not found and (status := _ended(request_id)):
            # What was published between the read and this look is still to be read; then it is the end.
            try:
                found = client.xread({_key(request_id): last}, count=10_000)
            except redis.RedisError:
                found = None
            if not found:
                yield StreamEvent(f"{last}.{attempt}", Kind.END, status)
                return
        if not found:
            yield StreamEvent("", Kind.WAITING, "")
            continue
        for entry, by, event in _events(found):
            last = entry
            if by < attempt:
                continue
            attempt = by
            yield event
            if event.kind is Kind.END:
                return


def _position(after: str) -> tuple[str, int]:
    """Redis's id and the execution's number of an event id; the beginning for anything that is not one."""
    found = _POSITION.fullmatch(after)
    return (found[1], int(found[2])) if found else ("0-0", 0)


def _events(found: object) -> Iterator[tuple[str, int, StreamEvent]]:
    """(Redis's id, execution, event) of an XREAD answer, in whichever of redis-py's two shapes it comes."""
    streams = found.values() if isinstance(found, dict) else [entries for _, entries in found]  # type: ignore[attr-defined]
    for entries in streams:
        # RESP3 wraps the list of entries in a list of its own.
        flat = entries[0] if entries and isinstance(entries[0], list) else entries
        for raw_id, fields in flat:
            entry, by = raw_id.decode(), int(fields[b"a"])
            yield entry, by, StreamEvent(f"{entry}.{by}", Kind(fields[b"k"].decode()), fields[b"t"].decode())


def _ended(request_id: uuid.UUID) -> str:
    with reading() as connection:
        status = connection.execute(select(Request.status).where(Request.id == request_id)).scalar()
    return status if status in ENDED else ""
