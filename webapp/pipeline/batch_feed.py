"""The feeder: puts the rows of running batches on the road, a few at a time, in their order.

It may die at any point and be run by several processes at once. A row is admitted under a key of its own, so that it becomes
one request however often it is tried; only its mark in the row follows later.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, exists, func, or_, select, update
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from webapp.contracts.errors import BadInput, Conflict, LimitReached, LimitsUnknown, NotAllowed, NotFound
from webapp.extensions import current_settings, now, reading, table_of, writing
from webapp.models import Batch, BatchRow, BatchStatus, Request, RequestStatus, RowState, senders, unfinished
from webapp.pipeline import cancel as cancelling
from webapp.pipeline.admit import admit
from webapp.pipeline.intake import Intake, Outcome

log = logging.getLogger(__name__)

MEDIUM = "batch"
FEATURE = "batch"
_FOR_S = 0.8
"""How long one call goes on where requests end quickly."""
_LOOK_AGAIN_S = 0.1
_TRY_AGAIN_S = 60
_STOP_AT_ONCE = 500
_UNDER_WAY = (RequestStatus.QUEUED, RequestStatus.PROCESSING)
_INACTIVE = "Your account, or your organization's, is not active, or you have left the organization that the batch belongs to."
_NO_FEATURE = "Your plan does not include batches any more."
_BROKEN = "Something went wrong inside Switchhook. It is tried again in a minute; the operator finds the reason in the log."
_KEY_TAKEN = "The key of this row belongs to a request that did not come from the batch."


class _HeldUp(Exception):
    """A limit is full for now, and may have room as soon as something ends."""


def feed(for_s: float = _FOR_S) -> int:
    """Top up every running batch; returns how many rows became requests. As long as that were any it looks again for a while:
    a fast model has answered within a tenth of a second."""
    _resume_due()
    _stop_cancelled()
    until, set_aside, fed = time.monotonic() + for_s, set[uuid.UUID](), 0
    while True:
        fed += sum(_tended(batch, set_aside) for batch in _running() if batch.id not in set_aside)
        if not fed or time.monotonic() + _LOOK_AGAIN_S > until:
            return fed
        time.sleep(_LOOK_AGAIN_S)


def stop(batch_id: uuid.UUID) -> int:
    """Stop what is under way of a batch that was cancelled; returns how many requests were told."""
    with reading() as connection:
        query = select(Request.id, Request.person_id).where(Request.batch_id == batch_id, Request.status.in_(_UNDER_WAY))
        found = connection.execute(query.where(Request.cancel_asked_at.is_(None))).all()
    return _stop(found)


def _running() -> Sequence[Any]:
    query = select(Batch.id, Batch.person_id, Batch.organization_id, Batch.operation, Batch.parameters)
    with reading() as connection:
        return connection.execute(query.where(Batch.status == BatchStatus.RUNNING).order_by(Batch.id)).all()


def _tended(batch: Any, set_aside: set[uuid.UUID]) -> int:
    """Top up one batch; what is wrong with it must not keep the others."""
    try:
        return _top_up(batch, set_aside)
    except (OperationalError, InterfaceError, PoolTimeout):
        raise
    except Exception:
        log.exception("batch %s could not be fed", batch.id)
        set_aside.add(batch.id)
        _pause(batch.id, _BROKEN, now() + timedelta(seconds=_TRY_AGAIN_S))
        return 0


def _top_up(batch: Any, set_aside: set[uuid.UUID]) -> int:
    """Admit rows until as many are under way as may be; returns how many."""
    most = current_settings().batch_in_flight
    with reading() as connection:
        if _under_way(connection, batch.id) >= most:
            return 0
        sender = senders.within(connection, batch.person_id, batch.organization_id)
        rows = connection.execute(
            select(BatchRow.number, BatchRow.prompt)
            .where(BatchRow.batch_id == batch.id, BatchRow.state == RowState.WAITING)
            .order_by(BatchRow.number)
            .limit(most)
        ).all()
        # Counted after the rows were read: what another feeder has admitted of these rows meanwhile is among them.
        room = most - _under_way(connection, batch.id)
    if not rows:
        set_aside.add(batch.id)
        _complete(batch.id)
        return 0
    if sender is None or not sender.active or FEATURE not in sender.features:
        _pause(batch.id, _NO_FEATURE if sender is not None and sender.active else _INACTIVE)
        return 0
    return _admit(batch, rows[: max(0, room)], set_aside)


def _under_way(connection: Connection, batch_id: uuid.UUID) -> int:
    query = select(func.count()).where(Request.batch_id == batch_id, Request.status.in_(_UNDER_WAY))
    return connection.execute(query).scalar_one()


def _admit(batch: Any, rows: Sequence[Any], set_aside: set[uuid.UUID]) -> int:
    """Admit rows in their order, up to the first for which there is no room in a limit."""
    admitted: list[tuple[int, uuid.UUID]] = []
    refused: list[tuple[int, str]] = []
    try:
        for row in rows:
            try:
                request_id = _one_with_room(batch, row)
            except (BadInput, Conflict, NotFound) as exc:
                refused.append((row.number, exc.message))
            except LimitReached as exc:
                if exc.alone:
                    refused.append((row.number, exc.message))
                    continue
                _pause(batch.id, exc.message, exc.resets_at)
                break
            except _HeldUp:
                set_aside.add(batch.id)
                break
            except LimitsUnknown as exc:
                _pause(batch.id, exc.message, now() + timedelta(seconds=_TRY_AGAIN_S))
                break
            except NotAllowed as exc:
                _pause(batch.id, exc.message)
                break
            else:
                admitted.append((row.number, request_id))
    finally:
        _mark(batch.id, admitted, refused)
    return len(admitted)


def _one_with_room(batch: Any, row: Any) -> uuid.UUID:
    """The request of a row. `LimitReached` only where waiting for what is under way would not help: that holds more than it
    will use, and so may fill a limit for a while. Else `_HeldUp`."""
    try:
        return _one(batch, row)
    except LimitReached as exc:
        if exc.alone:
            raise
        if _somebody_holds(batch):
            raise _HeldUp from exc
    # What held it may have ended since: once more, with nothing under way.
    return _one(batch, row)


def _one(batch: Any, row: Any) -> uuid.UUID:
    """The request of a row, made now or found where a feeder died after it was made."""
    parameters = {"model": batch.parameters["model"]} if batch.parameters.get("model") else {}
    admission = admit(
        Intake(
            medium=MEDIUM,
            text=row.prompt,
            operation=batch.operation,
            person_id=batch.person_id,
            organization_id=batch.organization_id,
            idempotency_key=f"batch:{batch.id}:{row.number}",
            parameters=parameters,
            token_id=uuid.UUID(batch.parameters["token"]) if batch.parameters.get("token") else None,
            batch_id=batch.id,
        )
    )
    assert admission.request_id is not None, "a known person's row becomes a request"
    if admission.outcome is Outcome.REPEATED:
        with reading() as connection:
            query = select(Request.id).where(Request.id == admission.request_id, Request.batch_id == batch.id)
            if connection.execute(query).first() is None:
                raise Conflict(_KEY_TAKEN)
    return admission.request_id


def _somebody_holds(batch: Any) -> bool:
    """Whether requests are under way that hold something of this batch's limits. Of the organization's other people only
    batches count: they alone can have filled a limit with what they hold."""
    concerned = or_(
        Request.person_id == batch.person_id,
        (Request.organization_id == batch.organization_id) & Request.batch_id.is_not(None),
    )
    query = select(Request.id).where(unfinished(), Request.status.in_(_UNDER_WAY), concerned).limit(1)
    with reading() as connection:
        return connection.execute(query).first() is not None


_rows = table_of(BatchRow)
_mark_row = update(_rows).where(
    _rows.c.batch_id == bindparam("b_batch"), _rows.c.number == bindparam("b_number"), _rows.c.state == RowState.WAITING
)
_mark_admitted = _mark_row.values(state=RowState.ADMITTED, request_id=bindparam("b_request"))
_mark_refused = _mark_row.values(state=RowState.REFUSED, error=bindparam("b_error"))


def _mark(batch_id: uuid.UUID, admitted: Sequence[tuple[int, uuid.UUID]], refused: Sequence[tuple[int, str]]) -> None:
    """Note what became of rows. Rows are named in their order, so two feeders cannot wait for each other."""
    if not admitted and not refused:
        return
    with writing() as connection:
        if admitted:
            connection.execute(
                _mark_admitted,
                [{"b_batch": batch_id, "b_number": number, "b_request": request} for number, request in admitted],
            )
        if refused:
            connection.execute(
                _mark_refused, [{"b_batch": batch_id, "b_number": number, "b_error": words} for number, words in refused]
            )


def _pause(batch_id: uuid.UUID, reason: str, resume_at: datetime | None = None) -> None:
    with writing() as connection:
        connection.execute(
            update(Batch)
            .where(Batch.id == batch_id, Batch.status == BatchStatus.RUNNING)
            .values(status=BatchStatus.PAUSED, pause_reason=reason, resume_at=resume_at)
        )


def _resume_due() -> None:
    """Let batches go on whose limit has started again."""
    due = select(Batch.id).where(Batch.status == BatchStatus.PAUSED, Batch.resume_at <= now())
    with reading() as connection:
        found = connection.execute(due).scalars().all()
    if not found:
        return
    with writing() as connection:
        connection.execute(
            update(Batch)
            .where(Batch.id.in_(found), Batch.status == BatchStatus.PAUSED, Batch.resume_at <= now())
            .values(status=BatchStatus.RUNNING, pause_reason=None, resume_at=None)
        )


def _complete(batch_id: uuid.UUID) -> None:
    """End a batch of which no row waits, if no request of it is unfinished either."""
    waits = exists().where(BatchRow.batch_id == batch_id, BatchRow.state == RowState.WAITING)
    open_ = exists().where(Request.batch_id == batch_id, Request.status.in_((*_UNDER_WAY, RequestStatus.AWAITING_REVIEW)))
    # Asked without the writers' lock first: it is asked every second, and mostly in vain.
    with reading() as connection:
        if connection.execute(select(open_)).scalar():
            return
    with writing() as connection:
        connection.execute(
            update(Batch)
            .where(Batch.id == batch_id, Batch.status == BatchStatus.RUNNING, ~waits, ~open_)
            .values(status=BatchStatus.COMPLETED, ended_at=now())
        )


def _stop_cancelled() -> None:
    """Stop what is under way of batches that were cancelled: of those that were being admitted at that moment, too."""
    cancelled = exists().where(Batch.id == Request.batch_id, Batch.status == BatchStatus.CANCELLED)
    query = (
        select(Request.id, Request.person_id)
        .where(unfinished(), Request.status.in_(_UNDER_WAY), Request.cancel_asked_at.is_(None), cancelled)
        .limit(_STOP_AT_ONCE)
    )
    with reading() as connection:
        found = connection.execute(query).all()
    _stop(found)


def _stop(found: Sequence[Any]) -> int:
    for request in found:
        # It may have ended since it was found.
        with contextlib.suppress(Conflict, NotFound):
            cancelling.cancel(request.id, request.person_id)
    return len(found)
