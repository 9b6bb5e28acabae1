"""Settle: how every request ends. One transaction: the row, the holds, the ledger, what goes out. Twice changes nothing."""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, insert, update
from sqlalchemy.exc import OperationalError, StatementError

from webapp import queues
from webapp.contracts.channels import DeliveryStatus
from webapp.contracts.events import RequestEvent
from webapp.contracts.limits import Dimension
from webapp.contracts.texts import clean
from webapp.extensions import now, queue_redis, table_of, writing
from webapp.models import (
    Attempt,
    Conversation,
    Delivery,
    DeliveryKind,
    Direction,
    ErrorLog,
    LedgerEntry,
    Person,
    Request,
    RequestStatus,
)
from webapp.models.columns import new_id
from webapp.pipeline import words
from webapp.quota import holds
from webapp.registry import current_registry

log = logging.getLogger(__name__)

_DATABASE_WAITS_S = (0.2, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class Used:
    """What an execution used, as the vendor reported it or, `estimated`, as far as it can be told without that."""

    provider: str = ""
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_microusd: int = 0
    estimated: bool = False
    price_source: str = ""
    vendor_request_id: str = ""

    @property
    def nothing(self) -> bool:
        return not (self.input_tokens or self.output_tokens or self.cost_microusd)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a request ended. `detail` is for the operator's error log, never shown to the person.

    `reply_text` is the answer as a message, for a request that came as one; made before the transaction, which is kept short.
    """

    status: RequestStatus
    used: Used
    answer: str | None = None
    reply_text: str = ""
    finish: str = ""
    category: str | None = None
    complexity: float | None = None
    error_code: str = ""
    error_message: str = ""
    detail: str = ""
    started_at: datetime | None = None


_table = table_of(Request)
_VALUES = (
    "status",
    "answer",
    "finish",
    "category",
    "complexity",
    "error_code",
    "error_message",
    "provider",
    "model",
    "input_tokens",
    "output_tokens",
    "cost_microusd",
    "ended_at",
)
_end = (
    update(_table)
    .where(_table.c.id == bindparam("b_id"), _table.c.status == RequestStatus.PROCESSING)
    .where(_table.c.claim == bindparam("b_claim"))
    .values(claim=None, lease_until=None, **{name: bindparam(name) for name in _VALUES})
    .returning(
        _table.c.person_id,
        _table.c.organization_id,
        _table.c.conversation_id,
        _table.c.channel,
        _table.c.operation,
        _table.c.reply_channel,
        _table.c.reply_to,
        _table.c.reply_from,
        _table.c.attempts,
        _table.c.started_at,
    )
)


def settle(request_id: uuid.UUID, claim: uuid.UUID, ending: Ending) -> bool:
    """End a request that this execution holds. False if it does not hold it any more: it was cancelled, or taken over after
    this process was taken for dead; then nothing is changed."""
    try:
        done = _settle_patiently(request_id, claim, ending)
    except OperationalError:
        raise
    except (StatementError, UnicodeError):
        # What cannot be stored came from a vendor or a plugin. It must not cost the operator the same call again.
        log.exception("request %s could not be settled as it ended; it is settled without its texts", request_id)
        ending = Ending(
            RequestStatus.FAILED,
            replace(ending.used, model="", vendor_request_id=""),
            error_code="internal",
            error_message=words.failed("internal"),
            started_at=ending.started_at,
        )
        done = _settle_patiently(request_id, claim, ending)
    if done is None:
        log.info("request %s was settled by somebody else", request_id)
        return False
    after_commit(request_id, done, ending)
    return True


def _settle_patiently(request_id: uuid.UUID, claim: uuid.UUID, ending: Ending) -> Settled | None:
    for wait_s in (*_DATABASE_WAITS_S, None):
        try:
            with writing() as connection:
                return settle_within(connection, request_id, claim, ending, now())
        except OperationalError:
            # The database may be restarting. An answer that was paid for is worth a short wait.
            if wait_s is None:
                raise
            time.sleep(wait_s)
    raise AssertionError("unreachable")


def _cut(text: str | None, size: int) -> str | None:
    """What fits into a column of `size` characters, None for nothing: plugins and vendors write what they like."""
    return clean(str(text))[:size] or None if text else None


@dataclass(frozen=True, slots=True)
class Settled:
    """What there is to tell after the commit."""

    row: Any
    delivery_id: uuid.UUID | None


def settle_within(
    connection: Connection, request_id: uuid.UUID, claim: uuid.UUID, ending: Ending, at: datetime
) -> Settled | None:
    """The statements of `settle`, in the caller's transaction."""
    used = ending.used
    values = {
        "b_id": request_id,
        "b_claim": claim,
        "status": ending.status,
        "answer": clean(ending.answer) if ending.answer else None,
        "finish": _cut(ending.finish, 40),
        "category": _cut(ending.category, 40),
        "complexity": ending.complexity,
        "error_code": _cut(ending.error_code, 40),
        "error_message": _cut(ending.error_message, 2000),
        "provider": _cut(used.provider, 40),
        "model": _cut(used.model, 120),
        "input_tokens": used.input_tokens,
        "output_tokens": used.output_tokens,
        "cost_microusd": used.cost_microusd,
        "ended_at": at,
    }
    row = connection.execute(_end, values).first()
    if row is None:
        return None
    counted = 1 if ending.answer else 0
    # The person comes before the counters, as in admission: the other way round two transactions could wait for each other.
    _marks(connection, row, counted, at)
    holds.settle(
        connection,
        request_id,
        {
            Dimension.REQUESTS: counted,
            Dimension.TOKENS: used.input_tokens + used.output_tokens,
            Dimension.COST: used.cost_microusd,
        },
        at,
    )
    _books(connection, request_id, row, ending, counted, at)
    delivery_id = _answer(connection, request_id, row, ending, at)
    if ending.status is RequestStatus.FAILED:
        connection.execute(
            insert(ErrorLog),
            {
                "id": new_id(),
                "kind": _cut(ending.error_code, 40) or "internal",
                "message": _cut(ending.error_message, 2000) or "A request failed.",
                "detail": _cut(ending.detail, 20_000),
                "person_id": row.person_id,
                "request_id": request_id,
                "created_at": at,
            },
        )
    return Settled(row, delivery_id)


def after_commit(request_id: uuid.UUID, settled: Settled, ending: Ending) -> None:
    """Send what is to be sent, and tell the listeners."""
    if settled.delivery_id is not None:
        queues.put(queue_redis(), queues.DELIVER, [str(settled.delivery_id)], queues.HIGH)
    row = settled.row
    event = RequestEvent(
        request_id=str(request_id),
        person_id=str(row.person_id),
        organization_id=str(row.organization_id),
        channel=row.channel,
        operation=row.operation,
        status=ending.status,
        category=ending.category or "",
        provider=ending.used.provider,
        model=ending.used.model,
        cost_microusd=ending.used.cost_microusd,
        error_code=ending.error_code,
    )
    hook = "request_completed" if ending.status is RequestStatus.COMPLETED else "request_failed"
    current_registry().emit(hook, event)


def _books(connection: Connection, request_id: uuid.UUID, row: Any, ending: Ending, counted: int, at: datetime) -> None:
    """The attempt, and the ledger entry of whatever was used."""
    used = ending.used
    # A request that is cancelled before it runs (again) had no attempt; the one before, if any, is written already.
    if ending.started_at is not None:
        connection.execute(
            insert(Attempt),
            {
                "id": new_id(),
                "request_id": request_id,
                "number": row.attempts,
                "provider": _cut(used.provider, 40),
                "model": _cut(used.model, 120),
                "outcome": ending.status,
                "error_code": _cut(ending.error_code, 40),
                "vendor_request_id": _cut(used.vendor_request_id, 120),
                "started_at": ending.started_at,
                "ended_at": at,
            },
        )
    if not counted and used.nothing:
        return
    connection.execute(
        insert(LedgerEntry),
        {
            "id": new_id(),
            "request_id": request_id,
            "person_id": row.person_id,
            "organization_id": row.organization_id,
            "channel": row.channel,
            "operation": row.operation,
            "provider": _cut(used.provider, 40) or "",
            "model": _cut(used.model, 120) or "",
            "requests": counted,
            "input_tokens": used.input_tokens,
            "output_tokens": used.output_tokens,
            "cached_tokens": used.cached_tokens,
            "reasoning_tokens": used.reasoning_tokens,
            "cost_microusd": used.cost_microusd,
            "estimated": used.estimated,
            "price_source": used.price_source,
            "created_at": at,
        },
    )


_person = table_of(Person)
_conversation = table_of(Conversation)
_seen_person = (
    update(_person)
    .where(_person.c.id == bindparam("b_id"))
    .values(last_active_at=bindparam("at"), requests_total=_person.c.requests_total + bindparam("counted"))
)
_seen_conversation = (
    update(_conversation).where(_conversation.c.id == bindparam("b_id")).values(last_activity_at=bindparam("at"), active=True)
)


def _marks(connection: Connection, row: Any, counted: int, at: datetime) -> None:
    """Last activity of the person and of the conversation, always in this order."""
    connection.execute(_seen_person, {"b_id": row.person_id, "at": at, "counted": counted})
    if row.conversation_id is not None:
        connection.execute(_seen_conversation, {"b_id": row.conversation_id, "at": at})


def _answer(connection: Connection, request_id: uuid.UUID, row: Any, ending: Ending, at: datetime) -> uuid.UUID | None:
    """Write the message that takes the answer, or the apology, to somebody who is not looking at a page."""
    if row.reply_channel is None or ending.status not in (RequestStatus.COMPLETED, RequestStatus.FAILED):
        return None
    channel = current_registry().channels.get(row.reply_channel)
    answer = ending.answer if ending.status is RequestStatus.COMPLETED else None
    body = (ending.reply_text or answer) if answer else words.failed(ending.error_code)
    delivery_id = new_id()
    connection.execute(
        insert(Delivery),
        {
            "id": delivery_id,
            "channel": row.reply_channel,
            "medium": channel.medium if channel else row.channel,
            "direction": Direction.OUT,
            "kind": DeliveryKind.ANSWER if answer else DeliveryKind.NOTICE,
            "request_id": request_id,
            "person_id": row.person_id,
            "address": row.reply_to,
            "our_address": row.reply_from or "",
            "body": body,
            "status": DeliveryStatus.PENDING,
            "created_at": at,
            "updated_at": at,
        },
    )
    return delivery_id
