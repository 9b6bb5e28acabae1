"""Settle: how every request ends. One transaction: the row, the holds, the ledger, what goes out. Twice changes nothing."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.exc import OperationalError, SQLAlchemyError, StatementError

from webapp import queues
from webapp.contracts.channels import DeliveryStatus
from webapp.contracts.events import RequestEvent
from webapp.extensions import current_settings, now, queue_redis, table_of, writing
from webapp.interrupts import shielded
from webapp.models import (
    Conversation,
    Delivery,
    DeliveryKind,
    Direction,
    ErrorLog,
    Person,
    Request,
    RequestStatus,
)
from webapp.models.columns import new_id
from webapp.pipeline import books, letters, warnings, webhooks, words
from webapp.pipeline.books import cut
from webapp.pipeline.end_values import SUMS, dimensions_of, sums_of, values_of
from webapp.pipeline.endings import Call, Ending
from webapp.pipeline.timing import job_timeout_s
from webapp.pipeline.warnings import NOTHING, Told
from webapp.quota import holds
from webapp.registry import current_registry

log = logging.getLogger(__name__)

T = TypeVar("T")

_DATABASE_WAITS_S = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0)
"""An answer that was paid for is worth waiting for a database that is restarted, or for a cable."""


_table = table_of(Request)
_VALUES = (
    "status",
    "answer",
    "result",
    "route",
    "cached",
    "quality",
    "finish",
    "category",
    "complexity",
    "error_code",
    "error_message",
    "provider",
    "model",
    "ended_at",
)
END = (
    update(_table)
    .where(_table.c.id == bindparam("b_id"), _table.c.status == RequestStatus.PROCESSING)
    .where(_table.c.claim == bindparam("b_claim"))
    .values(
        claim=None,
        lease_until=None,
        **{name: bindparam(name, type_=_table.c[name].type) for name in _VALUES},
        **{name: _table.c[name] + bindparam(name, type_=_table.c[name].type) for name in SUMS},
    )
)
"""Ends a request that is held by a claim: `values_of` and `sums_of` are what it wants."""
_end = END.returning(
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
    _table.c.cost_microusd,
    _table.c.queue,
    _table.c.input_tokens,
    _table.c.output_tokens,
)
_unwanted = (
    select(_table.c.cancel_asked_at.is_not(None))
    .where(_table.c.id == bindparam("b_id"), _table.c.status == RequestStatus.PROCESSING)
    .where(_table.c.claim == bindparam("b_claim"))
    .with_for_update(key_share=True)
)
_again = (
    update(_table)
    .where(_table.c.id == bindparam("b_id"), _table.c.status == RequestStatus.PROCESSING)
    .where(_table.c.claim == bindparam("b_claim"), _table.c.cancel_asked_at.is_(None))
    .values(
        status=RequestStatus.QUEUED,
        claim=None,
        lease_until=None,
        retries=_table.c.retries + 1,
        not_before=bindparam("not_before"),
        error_code=bindparam("error_code"),
        **{name: _table.c[name] + bindparam(name) for name in SUMS},
    )
    .returning(
        _table.c.person_id,
        _table.c.organization_id,
        _table.c.channel,
        _table.c.operation,
        _table.c.queue,
        _table.c.attempts,
        _table.c.started_at,
    )
)


def settle(request_id: uuid.UUID, claim: uuid.UUID, ending: Ending, *, again_after_s: float | None = None) -> Settled | None:
    """End a request that this execution holds; `after_commit` is for the caller. None if it does not hold it any more: it was
    cancelled, or taken over after this process was taken for dead; then nothing is changed. No job's limit interrupts it.

    With `again_after_s` the request goes back to the queue instead, to be tried again, unless somebody wants it stopped."""

    def work(connection: Connection) -> Settled | None:
        at = now()
        if again_after_s is not None:
            back = _put_back(connection, request_id, claim, ending, at, at + timedelta(seconds=again_after_s))
            if back is not None:
                return back
        return settle_within(connection, request_id, claim, ending, at)

    with shielded():
        webhooks.look()
        try:
            done = _patiently(work)
        except OperationalError:
            raise
        except (StatementError, UnicodeError, RecursionError):
            # What cannot be stored came from a vendor or a plugin. It must not cost the operator the same call again.
            log.exception("request %s could not be settled as it ended; it is settled without its texts", request_id)
            bare = Ending(
                RequestStatus.FAILED,
                tuple(_without_texts(call) for call in ending.calls),
                error_code="internal",
                error_message=words.failed("internal"),
            )
            done = _patiently(lambda connection: settle_within(connection, request_id, claim, bare, now()))
    if done is None:
        log.info("request %s was settled by somebody else", request_id)
    return done


def settle_unowned(request_id: uuid.UUID, execution: int, ending: Ending) -> None:
    """Write down the calls of an execution after `settle` found that it does not hold the request any more. Never raises for
    what cannot be stored."""
    if not ending.calls:
        return
    with shielded():
        try:
            try:
                written = _patiently(lambda to: books.write_unowned(to, request_id, execution, ending.calls, now()))
            except OperationalError:
                raise
            except (StatementError, UnicodeError):
                bare = tuple(_without_texts(call) for call in ending.calls)
                written = _patiently(lambda to: books.write_unowned(to, request_id, execution, bare, now()))
        except SQLAlchemyError:
            log.exception("what execution %d of request %s has used could not be written down", execution, request_id)
            return
    if written:
        log.warning("execution %d of request %s had lost it; its calls are on the house", execution, request_id)


def _patiently(work: Callable[[Connection], T]) -> T:
    """Do `work` in a transaction, again while the database is away for a moment."""
    for wait_s in (*_DATABASE_WAITS_S, None):
        try:
            with writing() as connection:
                return work(connection)
        except OperationalError:
            if wait_s is None:
                raise
            time.sleep(wait_s)
    raise AssertionError("unreachable")


def _without_texts(call: Call) -> Call:
    return replace(call, detail="", used=replace(call.used, model="", vendor_request_id=""))


@dataclass(frozen=True, slots=True)
class Settled:
    """What there is to tell after the commit."""

    row: Any
    delivery_id: uuid.UUID | None
    ending: Ending
    """As it was written."""
    told: Told = NOTHING
    """Who is told that a limit is nearly used."""
    again_at: datetime | None = None
    """Where the request has not ended but is to be tried again: when."""
    hooks: tuple[uuid.UUID, ...] = ()
    """Outgoing webhooks."""


def settle_within(
    connection: Connection, request_id: uuid.UUID, claim: uuid.UUID, ending: Ending, at: datetime, *, by: str = "execution"
) -> Settled | None:
    """The statements of `settle`, in the caller's transaction. `by` is who ends it, for its receipts.

    What fails after somebody wanted it stopped was cancelled: nobody waits for an apology, or wants it replayed."""
    this = {"b_id": request_id, "b_claim": claim}
    if ending.status is RequestStatus.FAILED and connection.execute(_unwanted, this).scalar():
        ending = ending.cancelled()
    values = values_of(request_id, claim, ending, at)
    sums, at_providers = sums_of(ending)
    row = connection.execute(_end, values | sums).first()
    if row is None:
        return None
    counted = ending.counts
    # The person comes before the counters, as in admission: the other way round two transactions could wait for each other.
    _marks(connection, row, counted, at)
    why = cut(ending.error_code, 40) or str(ending.status)
    counters = holds.settle(connection, request_id, dimensions_of(counted, sums), at, by=by, why=why, at_providers=at_providers)
    told = warnings.tell(connection, row, counters, at)
    books.write(connection, request_id, row, ending, counted, at)
    books.keep_pictures(connection, request_id, row, ending, at)
    delivery_id, untold = _answer(connection, request_id, row, ending, told.notes, at)
    told = warnings.by_themselves(connection, request_id, row, told, untold, at)
    troubles = list(ending.troubles)
    if ending.status is RequestStatus.FAILED:
        troubles.append((ending.error_code or "internal", ending.error_message or "A request failed.", ending.detail))
        if row.queue != queues.NONE:
            # Whoever waits for an attended request hears of its failure and asks again; what they brought along is not kept.
            last_error = ending.detail or ending.error_message
            letters.write(connection, request_id, ending.error_code or "internal", last_error, row.attempts, at)
    if troubles:
        errors = [
            {
                "id": new_id(),
                "kind": cut(code, 40),
                "message": cut(message, 2000),
                "detail": cut(detail, 20_000),
                "person_id": row.person_id,
                "request_id": request_id,
                "created_at": at,
            }
            for code, message, detail in troubles
        ]
        connection.execute(insert(ErrorLog), errors)
    hooks = webhooks.request_ended(connection, request_id, row, ending, at)
    return Settled(row, delivery_id, ending, told, hooks=hooks)


def _put_back(
    connection: Connection, request_id: uuid.UUID, claim: uuid.UUID, ending: Ending, at: datetime, again_at: datetime
) -> Settled | None:
    """Back to the queue, with what this execution has used on the books. Its holds stay."""
    sums, at_providers = sums_of(ending)
    values = {"b_id": request_id, "b_claim": claim, "not_before": again_at, "error_code": cut(ending.error_code, 40)}
    row = connection.execute(_again, values | sums).first()
    if row is None:
        return None
    holds.note(connection, request_id, dimensions_of(0, sums), at_providers)
    books.write(connection, request_id, row, ending, 0, at)
    return Settled(row, None, ending, again_at=again_at)


def after_commit(request_id: uuid.UUID, settled: Settled, ending: Ending) -> None:
    """Send what is to be sent, and tell the listeners."""
    row = settled.row
    if settled.again_at is not None:
        # Later ones the sweep enqueues when their time has come.
        if settled.again_at <= now():
            queues.put(queue_redis(), queues.EXECUTE, [str(request_id)], row.queue, job_timeout_s(row.operation))
        return
    if settled.delivery_id is not None:
        queues.put(queue_redis(), queues.DELIVER, [str(settled.delivery_id)], queues.HIGH)
    settled.told.after_commit()
    webhooks.hand_over(settled.hooks)
    registry = current_registry()
    hook = "request_completed" if ending.status is RequestStatus.COMPLETED else "request_failed"
    if not registry.hears(hook):
        return
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
        # With what its earlier executions have used.
        cost_microusd=row.cost_microusd,
        error_code=ending.error_code,
    )
    registry.emit(hook, event)


_person = table_of(Person)
_conversation = table_of(Conversation)
SEEN_PERSON = (
    update(_person)
    .where(_person.c.id == bindparam("b_id"))
    .values(last_active_at=bindparam("at"), requests_total=_person.c.requests_total + bindparam("counted"))
)
_seen_conversation = (
    update(_conversation).where(_conversation.c.id == bindparam("b_id")).values(last_activity_at=bindparam("at"), active=True)
)


def _marks(connection: Connection, row: Any, counted: int, at: datetime) -> None:
    """Last activity of the person and of the conversation, always in this order."""
    connection.execute(SEEN_PERSON, {"b_id": row.person_id, "at": at, "counted": counted})
    if row.conversation_id is not None:
        connection.execute(_seen_conversation, {"b_id": row.conversation_id, "at": at})


def _answer(
    connection: Connection, request_id: uuid.UUID, row: Any, ending: Ending, notes: tuple[str, ...], at: datetime
) -> tuple[uuid.UUID | None, tuple[str, ...]]:
    """Write the message that takes the answer, or the apology, to somebody who is not looking at a page. `notes` are what they
    are told of their limits with it; returned are those for which there was no room."""
    if row.reply_channel is None or ending.status not in (RequestStatus.COMPLETED, RequestStatus.FAILED):
        return None, notes
    channel = current_registry().channels.get(row.reply_channel)
    answer = ending.answer if ending.status is RequestStatus.COMPLETED else None
    if ending.status is RequestStatus.COMPLETED and not answer:
        answer = words.pictures_ready(len(ending.pictures), current_settings().public_url)
    body = (ending.reply_text or answer) if answer else words.failed(ending.error_code)
    body, untold = warnings.beside(body, notes, channel)
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
    return delivery_id, untold
