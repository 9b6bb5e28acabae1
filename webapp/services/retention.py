"""Retention: after SWITCHHOOK_RETENTION_DAYS the content of what has ended is erased. Who asked when, by which model, with
how many tokens and at what cost stays, and so does the ledger.

Ids are in order of time, so each kind of row is gone through in the order of its ids, a few hundred rows in a transaction. How
far that got is kept in the table `revision`, as the milliseconds in an id. What could not be erased when its turn came, because
it had not ended or was set aside, is found by the next round: once a day it begins at the beginning. An erased request says so
in its `extra`; going over one again changes nothing.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, select, text

from webapp.extensions import current_settings, now, reading, writing
from webapp.models import Attachment, Batch, BatchRow, Delivery, ErrorLog, Request, Revision
from webapp.services import erasing

log = logging.getLogger(__name__)

BUDGET_S = 2.0
"""Seconds after which one run of the scheduler stops: the sweep waits meanwhile."""
BATCH = 300
_LAG = timedelta(hours=24)
"""How far behind the present limit the next run begins: what ended late is erased within the hour, not the day."""
_ROUND_S = 24 * 3600
_SUBJECT = "retention:"
_ROUND = f"{_SUBJECT}round"
_ALONE = 0x53_57_52_45
"""PostgreSQL's lock by which one retention at a time goes over the rows. Two would each take the other's picture for needed."""
_SET = text(
    "INSERT INTO revision (subject, number) VALUES (:subject, :number) "
    "ON CONFLICT (subject) DO UPDATE SET number = excluded.number"
)

Remove = Callable[[str], bool]
"""Removes the file of a picture by its SHA-256; whether it is gone."""


@dataclass(slots=True)
class Erased:
    """How much was erased, or would be. `more`: the time was over before everything was done."""

    requests: int = 0
    pictures: int = 0
    batch_rows: int = 0
    messages: int = 0
    error_details: int = 0
    more: bool = False


@dataclass(slots=True)
class _Run:
    """One run: what it counts, and what it may erase."""

    days: int
    before: datetime
    remove: Remove
    done: Erased = field(default_factory=Erased)


_Step = Callable[[Connection, _Run, uuid.UUID], uuid.UUID | None]
"""Erases one batch behind an id; the id up to which everything is done, or None if nothing is left."""


def run(remove: Remove, begin_for_s: float | None = BUDGET_S, *, from_the_beginning: bool = False) -> Erased:
    """Erase what is old enough; the run ends with the batch that is under way after `begin_for_s` seconds, None for no such
    bound. Nothing is done where SWITCHHOOK_RETENTION_DAYS is 0."""
    days = current_settings().retention_days
    if not days:
        return Erased()
    this = _Run(days, now() - timedelta(days=days), remove)
    until = None if begin_for_s is None else time.monotonic() + begin_for_s
    _begin_round(from_the_beginning)
    for name, step in _STEPS.items():
        if not _go(this, name, step, until):
            this.done.more = True
            break
    return this.done


def dry_run() -> Erased:
    """How much `run` would erase from the beginning. Nothing is changed; 0 of everything where it is switched off."""
    days = current_settings().retention_days
    if not days:
        return Erased()
    before = now() - timedelta(days=days)
    below = _id_at(_ms(before))
    with reading() as connection:

        def count(column: Any, *which: Any) -> int:
            return int(connection.execute(select(func.count(column)).where(*which)).scalar_one())

        return Erased(
            requests=count(Request.id, Request.id < below, *erasing.ripe_requests(before)),
            pictures=int(
                connection.execute(
                    select(func.count(Attachment.id))
                    .join(Request, Request.id == Attachment.request_id)
                    .where(Attachment.id < below, erasing.old_or_erased(before))
                ).scalar_one()
            ),
            batch_rows=int(
                connection.execute(
                    select(func.count(BatchRow.number))
                    .join(Batch, Batch.id == BatchRow.batch_id)
                    .where(*erasing.ripe_batches(before), erasing.full_row())
                ).scalar_one()
            ),
            messages=count(Delivery.id, Delivery.id < below, *erasing.ripe_messages()),
            error_details=count(ErrorLog.id, ErrorLog.id < below, ErrorLog.detail.is_not(None)),
        )


def _go(this: _Run, name: str, step: _Step, until: float | None) -> bool:
    """Take a step until nothing is left; False if the time was over first."""
    subject = _SUBJECT + name
    with reading() as connection:
        after: uuid.UUID | None = _id_at(_number(connection, subject))
    while after is not None:
        with _transaction() as connection:
            after = step(connection, this, after)
            # The next run begins here. What it finds done already costs it little.
            reached = _ms(this.before - _LAG) if after is None else _ms_of(after)
            connection.execute(_SET, {"subject": subject, "number": max(reached, 0)})
        # After a batch, so that every run gets on, however little time it has.
        if after is not None and until is not None and time.monotonic() > until:
            return False
    return True


@contextmanager
def _transaction() -> Iterator[Connection]:
    with writing() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ALONE})
            yield connection
            return
        # Or the old texts would stay readable in the free pages of the file.
        connection.exec_driver_sql("PRAGMA secure_delete=ON").close()
        try:
            yield connection
        finally:
            connection.exec_driver_sql("PRAGMA secure_delete=OFF").close()


def _begin_round(at_once: bool) -> None:
    """Once a day everything is gone over from the beginning."""
    at = int(now().timestamp())
    with reading() as connection:
        if not at_once and _number(connection, _ROUND) > at - _ROUND_S:
            return
    with writing() as connection:
        for name in _STEPS:
            connection.execute(_SET, {"subject": _SUBJECT + name, "number": 0})
        connection.execute(_SET, {"subject": _ROUND, "number": at})


def _number(connection: Connection, subject: str) -> int:
    found: int | None = connection.execute(select(Revision.number).where(Revision.subject == subject)).scalar()
    return found or 0


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _ms_of(an_id: uuid.UUID) -> int:
    """The milliseconds since 1970 in a UUIDv7."""
    return an_id.int >> 80


def _id_at(ms: int) -> uuid.UUID:
    """What is before every UUIDv7 of this millisecond, and behind those of earlier ones."""
    return uuid.UUID(int=ms << 80)


# -- the steps -----------------------------------------------------------------------------------------------------------
def _requests(connection: Connection, this: _Run, after: uuid.UUID) -> uuid.UUID | None:
    rows: Any = connection.execute(
        select(Request.id, Request.conversation_id, Request.batch_id, Request.parameters, Request.route)
        .where(Request.id > after, Request.id < _id_at(_ms(this.before)), *erasing.ripe_requests(this.before))
        .order_by(Request.id)
        .limit(BATCH)
        # Whoever is at one of them right now, such as an administrator who puts it back to the queue, goes first.
        .with_for_update(skip_locked=True, of=Request)
    ).all()
    if not rows:
        return None
    erasing.requests(connection, rows, this.days)
    this.done.requests += len(rows)
    return rows[-1].id if len(rows) == BATCH else None


def _pictures(connection: Connection, this: _Run, after: uuid.UUID) -> uuid.UUID | None:
    """Rows of pictures, and the files that no other row needs. A file goes first: whatever happens then, its row is found
    again. One that was stored a moment ago stays with its row until a later round."""
    rows: Any = connection.execute(
        select(Attachment.id, Attachment.sha256)
        .join(Request, Request.id == Attachment.request_id)
        .where(Attachment.id > after, Attachment.id < _id_at(_ms(this.before)), erasing.erased())
        .order_by(Attachment.id)
        .limit(BATCH)
    ).all()
    if not rows:
        return None
    this.done.pictures += erasing.pictures(connection, {row.id: row.sha256 for row in rows}, this.remove)
    return rows[-1].id if len(rows) == BATCH else None


def _batches(connection: Connection, this: _Run, after: uuid.UUID) -> uuid.UUID | None:
    batch_id: uuid.UUID | None = connection.execute(
        select(Batch.id).where(Batch.id > after, *erasing.ripe_batches(this.before)).order_by(Batch.id).limit(1)
    ).scalar()
    if batch_id is None:
        return None
    numbers = connection.execute(
        select(BatchRow.number).where(BatchRow.batch_id == batch_id, erasing.full_row()).order_by(BatchRow.number).limit(BATCH)
    ).scalars()
    erased = erasing.batch_rows(connection, batch_id, numbers.all())
    this.done.batch_rows += erased
    # Its next rows come in a transaction of their own.
    return after if erased == BATCH else batch_id


def _messages(connection: Connection, this: _Run, after: uuid.UUID) -> uuid.UUID | None:
    ids = connection.execute(
        select(Delivery.id)
        .where(Delivery.id > after, Delivery.id < _id_at(_ms(this.before)), *erasing.ripe_messages())
        .order_by(Delivery.id)
        .limit(BATCH)
    ).scalars()
    found = ids.all()
    this.done.messages += erasing.messages(connection, found)
    return found[-1] if len(found) == BATCH else None


def _errors(connection: Connection, this: _Run, after: uuid.UUID) -> uuid.UUID | None:
    ids = connection.execute(
        select(ErrorLog.id)
        .where(ErrorLog.id > after, ErrorLog.id < _id_at(_ms(this.before)), ErrorLog.detail.is_not(None))
        .order_by(ErrorLog.id)
        .limit(BATCH)
    ).scalars()
    found = ids.all()
    this.done.error_details += erasing.errors(connection, found)
    return found[-1] if len(found) == BATCH else None


_STEPS: dict[str, _Step] = {
    "requests": _requests,
    "pictures": _pictures,
    "batches": _batches,
    "messages": _messages,
    "errors": _errors,
}
