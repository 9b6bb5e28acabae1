"""What a request is about: the surest of the categorizers, and a cheap model's opinion where none of them is sure.

What the model costs is charged to the house, within a daily bound, and an opinion is kept for a day. Sorting is never worth a
request: whatever goes wrong here, the request goes on with what is known, at most eight seconds later.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from typing import TypeGuard

import redis
from sqlalchemy.exc import SQLAlchemyError

from webapp.contracts.calls import Role, Text, TextCall, ToolPiece, Turn, Usage
from webapp.contracts.errors import BadCredentials, LimitReached, OutOfCredit, ProviderError, RateLimited
from webapp.contracts.sorting import AskingCategorizer, Question, Sorting
from webapp.contracts.texts import frames
from webapp.extensions import current_settings, now, queue_redis, writing
from webapp.pipeline import charges, lease
from webapp.pipeline.claims import Claimed
from webapp.pipeline.endings import Call
from webapp.quota import house
from webapp.quota.house import Reservation
from webapp.registry import current_registry
from webapp.routing import costs, http, prices, route
from webapp.routing.calls import Calls, closable
from webapp.routing.route import Ask, Route, Target

log = logging.getLogger(__name__)

OPERATION = "categorize"
UNSURE = 0.5
"""Below this confidence a model is asked."""
TIMEOUT_S = 8.0
"""How long all of it may take."""
KEEP_S = 86_400
PREFIX = "switchhook:sorted:"
_PAUSED = "switchhook:sorting:paused"
_PAUSE_S, _LONGEST_PAUSE_S = 30, 3600
_ANSWER_CHARS = 4000
_OUTPUT_TOKENS_MAX = 2000
_JOB_IS_OVER = "JobTimeoutException"
"""RQ's time limit, known by name here as in `execute`: it ends the request, not only the sorting."""


def sort(taken: Claimed) -> tuple[Sorting | None, tuple[Call, ...]]:
    """The surest opinion, and the calls that the house paid for it. Whoever asked may have said what it is about."""
    if said := taken.parameters.get("category"):
        return Sorting(str(said), 1.0, 0.5), ()
    best = _quick(taken.prompt)
    if taken.parameters.get("model"):
        return best, ()  # the category is for the record only, and not worth a call
    settings = current_settings()
    if not settings.sort_model or (best is not None and best.confidence >= UNSURE):
        return best, ()
    until = time.monotonic() + min(TIMEOUT_S, settings.request_timeout_s)
    for categorizer in current_registry().categorizers.values():
        if not isinstance(categorizer, AskingCategorizer) or time.monotonic() >= until:
            continue
        opinion, calls = _opinion(categorizer, taken, until)
        if opinion is not None and (best is None or opinion.confidence > best.confidence):
            best = opinion
        if calls:
            return best, calls
    return best, ()


def _quick(text: str) -> Sorting | None:
    """The surest opinion of those that need no model; one that fails has none."""
    best: Sorting | None = None
    for categorizer in current_registry().categorizers.values():
        try:
            opinion = categorizer.sort(text)
        except Exception as exc:
            _failed(categorizer.name, exc)
            continue
        if opinion is not None and sound(opinion) and (best is None or opinion.confidence > best.confidence):
            best = opinion
    return best


def sound(opinion: object) -> TypeGuard[Sorting]:
    """Whether something is an opinion that can be compared and stored: plugins and Redis may hold anything."""
    return (
        isinstance(opinion, Sorting)
        and isinstance(opinion.category, str)
        and 0 < len(opinion.category) <= 40
        and type(opinion.confidence) in (int, float)
        and 0 <= opinion.confidence <= 1  # which no NaN is
        and type(opinion.complexity) in (int, float)
        and 0 <= opinion.complexity <= 1
    )


def _failed(name: str, exc: BaseException) -> None:
    log.error("categorizer %s failed: %s\n%s", name, type(exc).__name__, frames(exc))


# -- the model's opinion -------------------------------------------------------------------------------------------------
def _opinion(categorizer: AskingCategorizer, taken: Claimed, until: float) -> tuple[Sorting | None, tuple[Call, ...]]:
    """What a model thinks, from memory or asked now. Calls that were made are returned whatever became of them: they were
    paid for."""
    try:
        question = categorizer.question(taken.prompt)
        if question is None:
            return None, ()
        key = _key(categorizer, taken, question)
        if (known := _known(key)) is not None:
            return known, ()
    except Exception as exc:
        _failed(categorizer.name, exc)
        return None, ()
    calls: tuple[Call, ...] = ()
    try:
        answer, calls = _answer(question, taken, until)
        if not answer:
            return None, calls
        opinion = categorizer.read(answer)
    except Exception as exc:
        if type(exc).__name__ == _JOB_IS_OVER:
            raise
        _failed(categorizer.name, exc)
        return None, calls
    if not sound(opinion):
        log.warning("categorizer %s finds no opinion in the model's answer", categorizer.name)
        return None, calls
    try:
        queue_redis().set(key, json.dumps(asdict(opinion)), ex=KEEP_S)
    except redis.RedisError:
        log.debug("an opinion cannot be kept: Redis is away")
    return opinion, calls


def _key(categorizer: AskingCategorizer, taken: Claimed, question: Question) -> str:
    # By organization: whether a text was seen before is nobody else's business. By the question, not the text: another
    # instruction, as of a newer plugin, is another question.
    parts = [str(taken.organization_id), categorizer.name, question.instruction, question.text]
    return PREFIX + hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _known(key: str) -> Sorting | None:
    try:
        raw = queue_redis().get(key)
        opinion = Sorting(**json.loads(raw)) if raw else None
    except (redis.RedisError, ValueError, TypeError, RecursionError):
        return None
    return opinion if sound(opinion) else None


# -- the call ------------------------------------------------------------------------------------------------------------
def _leave_sorting_alone(_: Target, exc: ProviderError) -> None:
    """A failure here is nobody else's: a vendor that has enough of the sorting may still answer people, so sorting pauses,
    and not the vendor."""
    if isinstance(exc, RateLimited | BadCredentials | OutOfCredit):
        pause_s = exc.retry_after_s if exc.retry_after_s is not None else _PAUSE_S
        _pause(int(min(max(pause_s, 1), _LONGEST_PAUSE_S)))


def _pause(seconds: int) -> None:
    try:
        queue_redis().set(_PAUSED, "1", ex=seconds)
    except redis.RedisError:
        log.debug("sorting cannot be paused: Redis is away")


def _paused() -> bool:
    try:
        return bool(queue_redis().exists(_PAUSED))
    except redis.RedisError:
        return False


def _answer(question: Question, taken: Claimed, until: float) -> tuple[str, tuple[Call, ...]]:
    """What a model says, '' if it failed or the house has spent today's bound, and the calls that were made for it."""
    turns = (Turn(Role.SYSTEM, question.instruction), Turn(Role.USER, question.text))
    output_tokens = max(1, min(question.max_output_tokens, _OUTPUT_TOKENS_MAX))
    ask = Ask(
        OPERATION,
        plan=taken.plan_code,
        organization_id=taken.organization_id,
        input_tokens=prices.estimate_input(turns),
        output_tokens=output_tokens,
    )
    path = _route(ask)
    if not path.targets:
        log.warning("no model can sort requests: %s", path.why_none)
        return "", ()
    if _paused():
        return "", ()
    # Each model of the route may be called and charged, if the one before it failed half-way.
    most = sum(costs.most(target, ask.input_tokens, output_tokens).cost_microusd for target in path.targets)
    with writing() as connection:
        room = house.reserve(connection, most, house.bound_microusd(), now())
    if room is None:
        log.info("a request is not sorted by a model: the house has spent today's SWITCHHOOK_HOUSE_DAILY_USD")
        return "", ()

    def start(target: Target, left_s: float) -> Iterator[Text | ToolPiece | Usage]:
        call = TextCall(str(taken.id), target.model, turns, output_tokens, left_s)
        yield from closable(target.text.stream(call, http.client()))

    calls = Calls(
        path,
        start,
        lambda _: ask.input_tokens + output_tokens,
        max(0.1, until - time.monotonic()),
        stop=lambda: lease.asked_to_stop(taken.claim),
        patient=False,
        leave_alone=_leave_sorting_alone,
    )
    said: list[str] = []
    charged: tuple[Call, ...] = ()
    complete = False
    try:
        complete = _listen(calls, said, until)
    finally:
        charged = _charged(calls, ask, "".join(said))
        _settle(room, charged)
    return "".join(said) if complete else "", charged


def _listen(calls: Calls[Text | ToolPiece | Usage], said: list[str], until: float) -> bool:
    """Collect what is said; whether it was said to its end."""
    try:
        with closing(calls.pieces()) as stream:
            for piece in stream:
                if isinstance(piece, Usage):
                    continue
                text: object = getattr(piece, "text", None)  # a plugin yields what it likes
                if not isinstance(text, str):
                    log.error("a provider plugin yielded a %s", type(piece).__name__)
                    return False
                said.append(text)
                if calls.stop() or time.monotonic() > until or sum(map(len, said)) > _ANSWER_CHARS:
                    return False
            return True
    except (ProviderError, LimitReached) as exc:
        log.warning("sorting by a model failed: %s", exc.code)
    except Exception as exc:
        if type(exc).__name__ == _JOB_IS_OVER:
            raise
        log.error("sorting by a model failed: %s\n%s", type(exc).__name__, frames(exc))
    return False


def _settle(room: Reservation, charged: tuple[Call, ...]) -> None:
    try:
        with writing() as connection:
            house.settle(connection, room, sum(call.used.cost_microusd for call in charged))
    except SQLAlchemyError as exc:
        # What was held stays held until tomorrow: the bound is kept, and the person's request goes on.
        log.error("what sorting cost could not be counted for the house: %s", type(exc).__name__)


def _charged(calls: Calls[Text | ToolPiece | Usage], ask: Ask, said: str) -> tuple[Call, ...]:
    return tuple(
        charges.call_of(
            tried,
            lambda _: charges.Guess(ask.input_tokens, prices.estimate_tokens(said), ask.output_tokens),
            produced=tried is calls.tried[-1] and calls.streamed,
            operation=OPERATION,
            house=True,
        )
        for tried in calls.tried
    )


def _route(ask: Ask) -> Route:
    """The model that the operator named; with `auto` a rule for sorting, or chat's route without the demo, which knows
    nothing."""
    named = current_settings().sort_model
    if named != "auto":
        return route.plan(
            replace(ask, operation=OPERATION, category=None, plan=None, needs=frozenset(), pictures=0, named=named)
        )
    path = route.plan(ask)
    return Route(path.by, tuple(target for target in path.targets if not target.provider.demo), path.passed)
