"""What of a row is content, when it may be erased, and how. `webapp.services.retention` decides the pace."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Text,
    and_,
    bindparam,
    cast,
    delete,
    exists,
    func,
    null,
    or_,
    select,
    update,
)

from webapp.contracts.channels import DeliveryStatus
from webapp.extensions import table_of
from webapp.models import (
    ENDED,
    Attachment,
    Attempt,
    Batch,
    BatchRow,
    BatchStatus,
    Conversation,
    DeadLetter,
    Delivery,
    ErrorLog,
    LetterState,
    Request,
)

MARK = "erased_days"
"""In an erased request's `extra`: after how many days it was erased."""
_WORDS_KEPT = frozenset({"model"})
"""Parameters that are words and say nothing of what was asked. Numbers and switches are kept, too."""
_UNDER_WAY = (DeliveryStatus.PENDING, DeliveryStatus.SENDING)

_table = table_of(Request)
_erase = (
    update(_table)
    .where(_table.c.id == bindparam("b_id"))
    .values(
        prompt="",
        answer=None,
        result=null(),
        error_message=None,
        rating_comment=None,
        parameters=bindparam("b_parameters"),
        route=bindparam("b_route", type_=JSON(none_as_null=True)),
        extra=bindparam("b_extra"),
    )
)


# -- what may be erased --------------------------------------------------------------------------------------------------
def erased() -> ColumnElement[bool]:
    """Requests that were erased."""
    mark: ColumnElement[int] = Request.extra[MARK].as_integer()
    return mark.is_not(None)


def _old(before: datetime) -> ColumnElement[bool]:
    """Requests that ended before that moment, and that nobody can put back to the queue any more."""
    set_aside = exists().where(DeadLetter.request_id == Request.id, DeadLetter.state == LetterState.OPEN)
    return and_(
        Request.status.in_(ENDED),
        func.coalesce(Request.ended_at, Request.created_at) < before,
        ~set_aside,
    )


def ripe_requests(before: datetime) -> tuple[ColumnElement[bool], ...]:
    """Requests with content that is to be erased: also what was written to an erased one afterwards."""
    full = or_(
        Request.prompt != "",
        Request.answer.is_not(None),
        Request.error_message.is_not(None),
        Request.rating_comment.is_not(None),
        ~erased(),
    )
    return _old(before), full


def old_or_erased(before: datetime) -> ColumnElement[bool]:
    """Requests whose pictures are to go."""
    return or_(erased(), _old(before))


def ripe_batches(before: datetime) -> tuple[ColumnElement[bool], ...]:
    """Batches that ended before that moment."""
    return Batch.status.in_((BatchStatus.CANCELLED, BatchStatus.COMPLETED)), Batch.ended_at < before


def full_row() -> ColumnElement[bool]:
    """Rows of batches that have content."""
    return or_(BatchRow.prompt != "", cast(BatchRow.given, Text) != "{}")


def ripe_messages() -> tuple[ColumnElement[bool], ...]:
    """Messages with content that are not under way, nor part of a request that is."""
    running = exists().where(Request.id == Delivery.request_id, Request.status.not_in(ENDED))
    return or_(Delivery.body != "", Delivery.subject.is_not(None)), Delivery.status.not_in(_UNDER_WAY), ~running


# -- erasing -------------------------------------------------------------------------------------------------------------
def requests(connection: Connection, rows: Sequence[Any], days: int) -> None:
    """Erase requests, and what quotes them: their calls' details, their rows of a batch, their conversations' titles. `rows`
    have id, conversation_id, batch_id, parameters and route."""
    ids = [row.id for row in rows]
    connection.execute(
        _erase,
        [
            {
                "b_id": row.id,
                "b_parameters": figures_of(row.parameters),
                "b_route": without_reasons(row.route),
                "b_extra": {MARK: days},
            }
            for row in rows
        ],
    )
    connection.execute(update(Attempt).where(Attempt.request_id.in_(ids), Attempt.detail.is_not(None)).values(detail=None))
    connection.execute(update(DeadLetter).where(DeadLetter.request_id.in_(ids)).values(last_error=""))
    for batch_id in {row.batch_id for row in rows if row.batch_id is not None}:
        mine = [row.id for row in rows if row.batch_id == batch_id]
        connection.execute(
            update(BatchRow).where(BatchRow.batch_id == batch_id, BatchRow.request_id.in_(mine)).values(prompt="", given={})
        )
    conversations = {row.conversation_id for row in rows if row.conversation_id is not None}
    left = exists().where(Request.conversation_id == Conversation.id, ~erased())
    connection.execute(
        update(Conversation)
        .where(Conversation.id.in_(conversations), ~left)
        .values(title=f"Erased after {days} {'day' if days == 1 else 'days'}")
    )


def figures_of(parameters: object) -> dict[str, Any]:
    """Parameters without texts and pictures."""
    given = parameters if isinstance(parameters, dict) else {}
    return {
        name: value for name, value in given.items() if isinstance(value, int | float) or value is None or name in _WORDS_KEPT
    }


def without_reasons(route: object) -> dict[str, Any] | None:
    """A route's record without the reasons, which may be vendors' words and quote what was asked."""
    if not isinstance(route, dict):
        return None
    models = route.get("models")
    known = [each for each in models if isinstance(each, dict)] if isinstance(models, list) else []
    shown = [{name: each.get(name, "") for name in ("model", "what")} for each in known]
    return {"by": str(route.get("by", "")), "models": shown}


def pictures(connection: Connection, rows: Mapping[uuid.UUID, str], remove: Callable[[str], bool]) -> int:
    """Erase rows of pictures (id -> SHA-256), with the files that no other row has; returns how many rows went."""
    hashes = set(rows.values())
    others = select(Attachment.sha256).where(Attachment.sha256.in_(hashes), Attachment.id.not_in(rows)).distinct()
    shared = set(connection.execute(others).scalars())
    gone = shared | {each for each in hashes - shared if remove(each)}
    ids = [each for each, digest in rows.items() if digest in gone]
    return connection.execute(delete(Attachment).where(Attachment.id.in_(ids))).rowcount if ids else 0


def batch_rows(connection: Connection, batch_id: uuid.UUID, numbers: Sequence[int]) -> int:
    """Erase rows of a batch, and what they were made of; returns how many rows."""
    connection.execute(
        update(Batch)
        .where(Batch.id == batch_id, or_(Batch.template.is_not(None), cast(Batch.parameters, Text) != "{}"))
        .values(template=None, parameters={})
    )
    if numbers:
        these = (BatchRow.batch_id == batch_id, BatchRow.number.in_(numbers))
        connection.execute(update(BatchRow).where(*these).values(prompt="", given={}))
    return len(numbers)


def messages(connection: Connection, ids: Sequence[uuid.UUID]) -> int:
    """Erase the texts of messages; returns how many."""
    if ids:
        connection.execute(update(Delivery).where(Delivery.id.in_(ids)).values(body="", subject=None))
    return len(ids)


def errors(connection: Connection, ids: Sequence[uuid.UUID]) -> int:
    """Erase the details of errors; returns how many."""
    if ids:
        connection.execute(update(ErrorLog).where(ErrorLog.id.in_(ids)).values(detail=None))
    return len(ids)
