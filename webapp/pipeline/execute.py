"""Execute: claim, sort, route, call, publish each piece; settled whatever happens.

No transaction is open while a vendor thinks.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
import traceback
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, select, update

from webapp.contracts.calls import Finish, Role, Text, TextCall, Turn, Usage
from webapp.contracts.errors import LimitReached, MalformedAnswer, ProviderError, TimedOut
from webapp.contracts.limits import Dimension
from webapp.contracts.segments import economical, fit
from webapp.contracts.sorting import Sorting
from webapp.contracts.texts import clean, frames
from webapp.extensions import current_settings, now, reading, table_of, writing
from webapp.models import Request, RequestStatus
from webapp.models.columns import new_id
from webapp.pipeline import lease, words
from webapp.pipeline.plain import plain_text
from webapp.pipeline.settle import Ending, Used, settle
from webapp.pipeline.stream import Publisher
from webapp.quota import holds
from webapp.registry import current_registry
from webapp.routing import costs, http, prices, route
from webapp.routing.route import Target

log = logging.getLogger(__name__)

_MAX_TURNS = 60
_TOKENS_MAX = 100_000_000
_ANSWER_MAX_CHARS = 400_000
"""Far above what any output cap allows: a vendor that ignores the cap is cut off here."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A request in the hands of this execution."""

    id: uuid.UUID
    claim: uuid.UUID
    started_at: datetime
    person_id: uuid.UUID
    conversation_id: uuid.UUID | None
    operation: str
    prompt: str
    max_input_tokens: int
    max_output_tokens: int
    attempt: int
    reply_channel: str | None
    held_microusd: int
    cancel_asked_at: datetime | None


_table = table_of(Request)
_claim = (
    update(_table)
    .where(_table.c.id == bindparam("b_id"), _table.c.status == RequestStatus.QUEUED)
    .values(
        status=RequestStatus.PROCESSING,
        claim=bindparam("b_claim"),
        lease_until=bindparam("b_lease"),
        started_at=bindparam("b_at"),
        attempts=_table.c.attempts + 1,
    )
    .returning(
        _table.c.person_id,
        _table.c.conversation_id,
        _table.c.operation,
        _table.c.prompt,
        _table.c.max_input_tokens,
        _table.c.max_output_tokens,
        _table.c.attempts,
        _table.c.reply_channel,
        _table.c.held_microusd,
        _table.c.cancel_asked_at,
    )
)


def execute(request_id: uuid.UUID) -> bool:
    """Execute a queued request to its end. False if it was not there to be taken."""
    taken = claim(request_id)
    if taken is None:
        return False
    for _ in run(taken):
        pass
    return True


def claim(request_id: uuid.UUID) -> Claimed | None:
    """Take a queued request, so that nobody else does; None if it is not queued any more."""
    mine, at = new_id(), now()
    values = {
        "b_id": request_id,
        "b_claim": mine,
        "b_lease": at + timedelta(seconds=current_settings().lease_s),
        "b_at": at,
    }
    with writing() as connection:
        row = connection.execute(_claim, values).first()
    if row is None:
        return None
    lease.begin(mine)
    return Claimed(request_id, mine, at, *tuple(row))


def run(taken: Claimed) -> Iterator[str]:
    """Yield the answer's pieces as they come. Ends settled: also when the vendor fails, time runs out, or the reader goes."""
    publisher = Publisher(taken.id, taken.attempt)
    ending = Ending(RequestStatus.FAILED, Used(), error_code="internal", error_message=words.failed("internal"))
    sorting, call, target = None, None, None
    usage: Usage | None = None
    stopped = False
    try:
        stopped = taken.cancel_asked_at is not None
        if not stopped:
            sorting = _sort(taken.prompt)
            target = route.choose()
            _afford(taken, target)
            call = _call(taken, target)
            for piece in _pieces(target, call):
                if isinstance(piece, Usage):
                    usage = _plausible(piece)
                    break
                # Redis says it at once, the lease's thread within seconds, should Redis be away.
                stopped = publisher.piece(piece.text) or lease.asked_to_stop(taken.claim)
                yield piece.text
                if stopped:
                    break
        ending = _ended(publisher.text, usage, stopped=stopped)
    except ProviderError as exc:
        ending = replace(
            ending,
            error_code=exc.code,
            error_message=words.failed(exc.code),
            detail=f"{exc.message} {exc.detail}".strip(),
        )
        log.warning("request %s failed: %s", taken.id, exc.code)
    except LimitReached as exc:
        ending = replace(ending, error_code=exc.code, error_message=exc.message, detail=exc.message)
    except GeneratorExit:
        ending = _ended(publisher.text, usage, stopped=True)
        raise
    except BaseException as exc:
        # Also what ends the job rather than the request: RQ's time limit, a stop by command, a plugin that calls exit().
        code = TimedOut.code if type(exc).__name__ == "JobTimeoutException" else "internal"
        ending = replace(ending, error_code=code, error_message=words.failed(code), detail=traceback.format_exc()[-8000:])
        log.error("request %s failed: %s\n%s", taken.id, type(exc).__name__, frames(exc))
        if code == TimedOut.code or not isinstance(exc, Exception):
            raise
    finally:
        used = _used(target, call, usage, publisher.text)
        ending = replace(
            ending,
            used=used,
            reply_text=_as_message(taken, ending.answer),
            category=sorting.category if sorting else None,
            complexity=sorting.complexity if sorting else None,
            started_at=taken.started_at,
        )
        try:
            if settle(taken.id, taken.claim, ending):
                publisher.end(ending.status)
        finally:
            lease.end(taken.claim)


def _afford(taken: Claimed, target: Target) -> None:
    """Hold what the target may cost beyond what was held at admission, when another one was to serve, or none was known."""
    most = costs.most(target, taken.max_input_tokens, taken.max_output_tokens).cost_microusd
    if most <= taken.held_microusd:
        return
    with writing() as connection:
        if not holds.top_up(connection, taken.id, Dimension.COST, most - taken.held_microusd):
            raise LimitReached(words.TOO_DEAR, limit="spending", resets_at=now())


def _as_message(taken: Claimed, answer: str | None) -> str:
    """The answer as its channel sends it: without Markdown, in as few segments as it can, not longer than one send takes."""
    channel = current_registry().channels.get(taken.reply_channel or "")
    if channel is None or not answer:
        return ""
    return fit(economical(plain_text(answer)), channel.max_chars)


def _ended(text: str, usage: Usage | None, *, stopped: bool) -> Ending:
    if stopped:
        return Ending(RequestStatus.CANCELLED, Used(), answer=text or None, error_code="cancelled")
    if not text.strip():
        raise MalformedAnswer("The vendor sent an empty answer.")
    finish = usage.finish.value if usage else ""
    return Ending(RequestStatus.COMPLETED, Used(), answer=text, finish=finish)


def _pieces(target: Target, call: TextCall) -> Iterator[Text | Usage]:
    """The provider's pieces under our own time limits and checks: a plugin and its vendor are not taken at their word."""
    settings = current_settings()
    total = 0
    stream = target.provider.stream(call, http.client())
    with http.call_limits(timeout_s=call.timeout_s, silence_s=settings.silence_timeout_s), closing(stream) as pieces:  # type: ignore[type-var]
        until = time.monotonic() + call.timeout_s
        for piece in pieces:
            if isinstance(piece, Usage):
                yield piece
                return
            if not isinstance(piece, Text) or not isinstance(piece.text, str):
                raise MalformedAnswer(f"The provider plugin {target.provider.name} yielded a {type(piece).__name__}.")
            if time.monotonic() > until:
                raise TimedOut(f"No complete answer within {call.timeout_s:.0f} seconds.")
            text = clean(piece.text)
            total += len(text)
            if total > _ANSWER_MAX_CHARS:
                raise MalformedAnswer("The vendor ignored the output cap and went on for too long.")
            if text:
                yield Text(text)
    raise MalformedAnswer(f"The provider plugin {target.provider.name} ended without telling what was used.")


def _sort(text: str) -> Sorting | None:
    """The surest opinion of all categorizers; one that fails has none."""
    opinions: list[Sorting] = []
    for categorizer in current_registry().categorizers.values():
        try:
            opinion = categorizer.sort(text)
            if opinion is not None and _sound(opinion):
                opinions.append(opinion)
        except Exception as exc:
            log.error("categorizer %s failed: %s\n%s", categorizer.name, type(exc).__name__, frames(exc))
    return max(opinions, key=lambda o: o.confidence, default=None)


def _sound(opinion: Sorting) -> bool:
    """Whether an opinion can be compared and stored."""
    numbers = (opinion.confidence, opinion.complexity)
    return (
        isinstance(opinion, Sorting)
        and isinstance(opinion.category, str)
        and 0 < len(opinion.category) <= 40
        and all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
    )


def _call(taken: Claimed, target: Target) -> TextCall:
    settings = current_settings()
    system = settings.system_prompt
    fixed = prices.estimate_input((Turn(Role.SYSTEM, system), Turn(Role.USER, taken.prompt)))
    earlier = _earlier(taken, taken.max_input_tokens - fixed)
    return TextCall(
        request_id=str(taken.id),
        model=target.model,
        turns=(Turn(Role.SYSTEM, system), *earlier, Turn(Role.USER, taken.prompt)),
        max_output_tokens=taken.max_output_tokens,
        timeout_s=settings.request_timeout_s,
        person_ref=hashlib.sha256(f"{settings.load_secret_key()}:{taken.person_id}".encode()).hexdigest()[:32],
    )


_history = (
    select(_table.c.prompt, _table.c.answer)
    .where(
        _table.c.conversation_id == bindparam("conversation"),
        _table.c.id < bindparam("before"),
        _table.c.status == RequestStatus.COMPLETED,
    )
    .order_by(_table.c.id.desc())
    .limit(_MAX_TURNS // 2)
)


def _earlier(taken: Claimed, budget_tokens: int) -> tuple[Turn, ...]:
    """Earlier turns of the conversation, newest kept first, whole exchanges only, within the tokens that were held for them."""
    if taken.conversation_id is None or budget_tokens <= 0:
        return ()
    with reading() as connection:
        rows: Any = connection.execute(_history, {"conversation": taken.conversation_id, "before": taken.id}).all()
    turns: list[Turn] = []
    for prompt, answer in rows:
        exchange = (Turn(Role.ASSISTANT, answer or ""), Turn(Role.USER, prompt))
        budget_tokens -= sum(prices.estimate_tokens(turn.text) + prices.TURN_TOKENS for turn in exchange)
        if budget_tokens < 0:
            break
        turns += exchange
    return tuple(reversed(turns))


def _used(target: Target | None, call: TextCall | None, usage: Usage | None, text: str) -> Used:
    """What to charge: the vendor's count, or a labelled estimate of what was produced before it could count."""
    if target is None or call is None:
        return Used()
    name = target.provider.name
    reported = usage is not None and usage.input_tokens is not None and usage.output_tokens is not None
    if not reported and not text:
        return Used(provider=name, model=target.model)
    sent = prices.estimate_input(call.turns)
    input_tokens = usage.input_tokens if usage and usage.input_tokens is not None else sent
    output_tokens = usage.output_tokens if usage and usage.output_tokens is not None else prices.estimate_tokens(text)
    cached = min(usage.cached_tokens, input_tokens) if usage else 0
    price = costs.charge(target, input_tokens, output_tokens, cached)
    return Used(
        provider=name,
        model=(usage.model if usage and usage.model else target.model),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_tokens=cached,
        reasoning_tokens=usage.reasoning_tokens if usage else 0,
        cost_microusd=price.cost_microusd,
        estimated=not reported,
        price_source=price.source,
        vendor_request_id=usage.vendor_request_id if usage else "",
    )


def _plausible(usage: Usage) -> Usage:
    """The vendor's count with impossible numbers taken out: they would spoil the books, so they count as not reported."""
    tokens = {
        name: value if type(value) is int and 0 <= value <= _TOKENS_MAX else None
        for name in ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
        for value in (getattr(usage, name),)
    }
    return replace(
        usage,
        input_tokens=tokens["input_tokens"],
        output_tokens=tokens["output_tokens"],
        cached_tokens=tokens["cached_tokens"] or 0,
        reasoning_tokens=tokens["reasoning_tokens"] or 0,
        finish=usage.finish if isinstance(usage.finish, Finish) else Finish.UNKNOWN,
        model=clean(str(usage.model)),
        vendor_request_id=clean(str(usage.vendor_request_id)),
    )
