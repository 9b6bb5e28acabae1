"""The error log for administrators: what went wrong, found, read, resolved and reopened.

A page follows an index from its cursor and looks at no more than `LOOKED_MAX` errors: where a filter fits few of them a page
may have fewer lines than asked for, or none, and still a cursor. The list is at its end where there is none.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, insert, select, update

from webapp.contracts.errors import BadInput, Conflict, NotFound
from webapp.contracts.texts import clean
from webapp.extensions import now, reading, table_of, writing
from webapp.models import AuditEntry, ErrorLog
from webapp.models.columns import new_id
from webapp.services.organizations import Actor

LOOKED_MAX = 5_000
AT_ONCE = 1_000
"""How many one bulk act resolves at most."""
COUNTED_MAX = 20_000
NOTES_CHARS = 4_000
SEARCH_CHARS = 200
_LATE_MS = 3_600_000
"""An error gets its id at most this long after its moment."""
_LAST_MS = 2**48 - 1
_NONE = "There is no such error."
_errors = table_of(ErrorLog)


@dataclass(frozen=True, slots=True)
class Filters:
    """Which errors; None and '' mean anything. The range includes its beginning, not its end; `q` is a part of the message."""

    kind: str = ""
    resolved: bool | None = None
    person_id: uuid.UUID | None = None
    request_id: uuid.UUID | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    q: str = ""


@dataclass(frozen=True, slots=True)
class ErrorEntry:
    """An error. `detail` may be a vendor's or a plugin's own words, which may quote what people wrote; None in lists."""

    id: uuid.UUID
    kind: str
    message: str
    detail: str | None
    person_id: uuid.UUID | None
    request_id: uuid.UUID | None
    created_at: datetime
    resolved_at: datetime | None
    resolution: str | None
    resolved_by: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """A page of errors, the newest first. `next_id` is where the list goes on, None at its end; `total` is None where it was
    not asked for, or where more than `COUNTED_MAX` would have to be looked at."""

    entries: tuple[ErrorEntry, ...]
    next_id: uuid.UUID | None
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """What came of resolving many. `more`: there are others of the kind, which another call resolves."""

    resolved: int
    more: bool = False


@dataclass(slots=True)
class _Wanted:
    """`track` is what an index follows; `sieve` is asked of each error on it."""

    track: list[ColumnElement[bool]] = field(default_factory=list)
    sieve: list[ColumnElement[bool]] = field(default_factory=list)


# -- reading -------------------------------------------------------------------------------------------------------------
def page(filters: Filters | None = None, *, after: uuid.UUID | None = None, size: int = 20, total: bool = False) -> Page:
    """The errors that are wanted, the newest first; `after` is `next_id` of the page before."""
    wanted = _wanted(filters or Filters())
    track = wanted.track if after is None else [*wanted.track, _errors.c.id < after]
    columns = [column for column in _errors.c if column.name != "detail"]
    with reading() as connection:
        last = _last_looked_at(connection, track) if wanted.sieve else None
        query = select(*columns).where(*track, *wanted.sieve).order_by(_errors.c.id.desc()).limit(size + 1)
        rows = connection.execute(query if last is None else query.where(_errors.c.id >= last)).all()
        count = _total(connection, wanted) if total else None
    entries = tuple(_entry(row) for row in rows[:size])
    return Page(entries, entries[-1].id if len(rows) > size else last, count)


def show(error_id: uuid.UUID) -> ErrorEntry:
    """One error with its detail. `NotFound`."""
    with reading() as connection:
        row = connection.execute(select(_errors).where(_errors.c.id == error_id)).first()
    if row is None:
        raise NotFound(_NONE)
    return _entry(row)


def _wanted(filters: Filters) -> _Wanted:
    wanted = _Wanted()
    if filters.request_id is not None:
        wanted.track.append(_errors.c.request_id == filters.request_id)
    elif filters.resolved is False:
        wanted.track.append(_errors.c.resolved_at.is_(None))
    if filters.resolved is not None:
        test = _errors.c.resolved_at
        wanted.sieve.append(test.is_not(None) if filters.resolved else test.is_(None))
    if filters.created_from is not None:
        wanted.track.append(_errors.c.id >= _id_at(filters.created_from, -_LATE_MS))
        wanted.sieve.append(_errors.c.created_at >= filters.created_from)
    if filters.created_to is not None:
        wanted.track.append(_errors.c.id < _id_at(filters.created_to, _LATE_MS))
        wanted.sieve.append(_errors.c.created_at < filters.created_to)
    if filters.kind:
        wanted.sieve.append(_errors.c.kind == filters.kind)
    if filters.person_id is not None:
        wanted.sieve.append(_errors.c.person_id == filters.person_id)
    if text := clean(filters.q).strip()[:SEARCH_CHARS]:
        wanted.sieve.append(_errors.c.message.icontains(text, autoescape=True))
    return wanted


def _id_at(moment: datetime, shift_ms: int) -> uuid.UUID:
    """About where a moment lies among the ids: they are UUIDv7, which begin with milliseconds."""
    return uuid.UUID(int=min(max(0, int(moment.timestamp() * 1000) + shift_ms), _LAST_MS) << 80)


def _last_looked_at(connection: Connection, track: Sequence[ColumnElement[bool]]) -> uuid.UUID | None:
    """The last of the errors that are looked at, None if these are all that there are."""
    query = select(_errors.c.id).where(*track).order_by(_errors.c.id.desc())
    # An OFFSET, but one with a bound: a second line shows that there are more.
    found = connection.execute(query.offset(LOOKED_MAX - 1).limit(2)).scalars().all()
    return found[0] if len(found) == 2 else None


def _total(connection: Connection, wanted: _Wanted) -> int | None:
    some = select(_errors.c.id).where(*wanted.track).limit(COUNTED_MAX + 1).subquery()
    if connection.execute(select(func.count()).select_from(some)).scalar_one() > COUNTED_MAX:
        return None
    return connection.execute(select(func.count()).select_from(_errors).where(*wanted.track, *wanted.sieve)).scalar_one()


def _entry(row: Any) -> ErrorEntry:
    found = row._mapping
    return ErrorEntry(**{name: found.get(name) for name in ErrorEntry.__dataclass_fields__})


# -- acting --------------------------------------------------------------------------------------------------------------
def resolve(error_id: uuid.UUID, notes: str, actor: Actor) -> ErrorEntry:
    """Mark an error as seen to, with what was done about it. `NotFound`; `Conflict` if it is resolved."""
    notes = _notes(notes)
    with writing() as connection:
        done = _mark([error_id], notes, actor, connection)
        if not done:
            _there(connection, error_id)
            raise Conflict("This error is resolved already: reopen it first.")
        _audit(connection, actor, "error.resolve", f"error:{error_id}", {"notes": notes} if notes else {})
    return show(error_id)


def reopen(error_id: uuid.UUID, actor: Actor) -> ErrorEntry:
    """Take the mark away. `NotFound`; `Conflict` if it is not resolved."""
    with writing() as connection:
        empty = {"resolved_at": None, "resolution": None, "resolved_by": None}
        query = update(_errors).where(_errors.c.id == error_id, _errors.c.resolved_at.is_not(None)).values(empty)
        if not connection.execute(query).rowcount:
            _there(connection, error_id)
            raise Conflict("This error is not resolved.")
        _audit(connection, actor, "error.reopen", f"error:{error_id}", {})
    return show(error_id)


def resolve_these(error_ids: Sequence[uuid.UUID], notes: str, actor: Actor) -> Resolved:
    """Resolve those of these errors that are there and open, at most `AT_ONCE`."""
    notes, wanted = _notes(notes), list(dict.fromkeys(error_ids))
    if len(wanted) > AT_ONCE:
        raise BadInput("ids", f"At most {AT_ONCE:,} errors are resolved at once.")
    with writing() as connection:
        done = _mark(wanted, notes, actor, connection)
        if done:
            _audit(connection, actor, "error.resolve", "errors", {"errors": done} | ({"notes": notes} if notes else {}))
    return Resolved(done)


def resolve_kind(kind: str, notes: str, actor: Actor) -> Resolved:
    """Resolve the oldest open errors of a kind, at most `AT_ONCE`."""
    notes = _notes(notes)
    query = select(_errors.c.id).where(_errors.c.resolved_at.is_(None), _errors.c.kind == kind).order_by(_errors.c.id)
    with writing() as connection:
        found = list(connection.execute(query.limit(AT_ONCE + 1)).scalars())
        done = _mark(found[:AT_ONCE], notes, actor, connection)
        if done:
            detail = {"kind": kind, "errors": done} | ({"notes": notes} if notes else {})
            _audit(connection, actor, "error.resolve", "errors", detail)
    return Resolved(done, len(found) > AT_ONCE)


def _mark(error_ids: Sequence[uuid.UUID], notes: str, actor: Actor, connection: Connection) -> int:
    """How many were open, and are resolved."""
    values = {"resolved_at": now(), "resolution": notes or None, "resolved_by": actor.name[:255]}
    query = update(_errors).where(_errors.c.id.in_(error_ids), _errors.c.resolved_at.is_(None)).values(values)
    return int(connection.execute(query).rowcount)


def _there(connection: Connection, error_id: uuid.UUID) -> None:
    if connection.execute(select(_errors.c.id).where(_errors.c.id == error_id)).first() is None:
        raise NotFound(_NONE)


def _notes(text: str) -> str:
    notes = clean(text).strip()
    if len(notes) > NOTES_CHARS:
        raise BadInput("notes", f"Notes have at most {NOTES_CHARS:,} characters.")
    return notes


def _audit(connection: Connection, actor: Actor, action: str, subject: str, detail: dict[str, Any]) -> None:
    entry = {
        "id": new_id(),
        "actor": actor.name[:255],
        "actor_id": actor.person_id,
        "action": action,
        "subject": subject,
        "detail": detail,
        "created_at": now(),
    }
    connection.execute(insert(AuditEntry), entry)
