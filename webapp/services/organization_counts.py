"""What becomes of counts when their windows do: an organization's time zone changes, or somebody goes on working in an
organization with another one. They go on, in the windows of the other zone."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, bindparam, collate, insert, or_, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from webapp.contracts.limits import Window
from webapp.extensions import table_of
from webapp.models import ApiToken, CounterChange, Hold, LimitCounter, Person, Request, unfinished
from webapp.models.columns import new_id
from webapp.quota.holds import notices_of
from webapp.quota.windows import bounds

ZONE_CHANGED = "The organization's time zone changed."
MOVED = "They went on in an organization with another time zone."
_COUNTED = (Window.HOUR, Window.DAY, Window.MONTH)
_CHUNK = 400
_Moves = Mapping[str, tuple[datetime, datetime]]
"""Window -> when the one begins that is left, and the one that is entered."""
_Held = dict[tuple[str, str, str], int]
"""(subject, name, window) -> the amount."""
_counter = table_of(LimitCounter)
_hold = table_of(Hold)
_KEY = ("subject", "name", "period", "starts_at")
_start = {
    dialect: insert_into(_counter).on_conflict_do_nothing(index_elements=list(_KEY))
    for dialect, insert_into in (("sqlite", sqlite_insert), ("postgresql", postgresql_insert))
}
_raise = (
    update(_counter)
    .where(*(_counter.c[name] == bindparam(f"b_{name}") for name in _KEY))
    .values(
        used=_counter.c.used + bindparam("b_used"),
        held=_counter.c.held + bindparam("b_held"),
        maximum=bindparam("b_maximum"),
        warned_percent=bindparam("b_warned_percent"),
        noticed_at=bindparam("b_noticed_at"),
    )
)
_move = update(_hold).where(_hold.c.id == bindparam("b_id")).values(starts_at=bindparam("b_starts_at"))
_lower = (
    update(_counter)
    .where(*(_counter.c[name] == bindparam(f"b_{name}") for name in _KEY))
    .values(held=_counter.c.held - bindparam("b_held"))
)


def carry_organization(
    connection: Connection, organization_id: uuid.UUID, before: str, after: str, at: datetime, *, actor: str
) -> None:
    """Carry what was used in the running windows of the zone `before` over to those of the zone `after`, for the organization,
    the people who work in it and their tokens. In the transaction of the change, after the organization's row is locked.

    What requests under way hold goes along. A window that began at the same moment in both zones goes on as it is; one that
    was counted in before, when the zone was that one already, is brought up to what was used since.
    """
    here = select(Person.id).where(Person.organization_id == organization_id)
    tokens = select(ApiToken.id).where(
        ((ApiToken.organization_id.is_(None)) & ApiToken.person_id.in_(here)) | (ApiToken.organization_id == organization_id)
    )
    persons = connection.execute(here).scalars().all()
    subjects = [
        f"organization:{organization_id}",
        *(f"person:{person_id}" for person_id in persons),
        *(notices_of(person_id) for person_id in persons),
        *(f"token:{token_id}" for token_id in connection.execute(tokens).scalars()),
    ]
    running = select(Request.id).where(unfinished(), Request.organization_id == organization_id)
    _carry(connection, subjects, running, (before, after), at, ZONE_CHANGED, actor)


def carry_person(connection: Connection, person_id: uuid.UUID, before: str, after: str, at: datetime, *, actor: str) -> None:
    """The same for one person, and the tokens that work where they do: whoever goes from one organization to another must not
    begin a new month by it."""
    tokens = select(ApiToken.id).where(ApiToken.person_id == person_id, ApiToken.organization_id.is_(None))
    subjects = [f"person:{person_id}", notices_of(person_id)]
    subjects += (f"token:{token_id}" for token_id in connection.execute(tokens).scalars())
    running = select(Request.id).where(unfinished(), Request.person_id == person_id)
    _carry(connection, subjects, running, (before, after), at, MOVED, actor)


def _carry(
    connection: Connection,
    subjects: list[str],
    running: Select[uuid.UUID],
    zones: tuple[str, str],
    at: datetime,
    reason: str,
    actor: str,
) -> None:
    before, after = zones
    found = {window: (bounds(window, at, before)[0], bounds(window, at, after)[0]) for window in _COUNTED}
    moves = {window.value: (old, new) for window, (old, new) in found.items() if old != new}
    if not moves:
        return
    subjects.sort()  # the order in which counters are locked
    held = _move_holds(connection, frozenset(subjects), running, moves)
    note = {"reason": reason, "actor": actor[:255], "created_at": at}
    for chunk in _chunks(subjects):
        _carry_counters(connection, chunk, moves, held, note)


def _chunks(subjects: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(subjects)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


def _move_holds(connection: Connection, subjects: frozenset[str], running: Select[uuid.UUID], moves: _Moves) -> _Held:
    """Let what is held by requests under way be settled in the other windows. All holds are locked in one order, before any
    counter is: as by those who settle them."""
    query = (
        select(_hold.c.id, _hold.c.subject, _hold.c.name, _hold.c.period, _hold.c.amount)
        .where(
            _hold.c.request_id.in_(running),
            _hold.c.settled_at.is_(None),
            or_(*((_hold.c.period == period) & (_hold.c.starts_at == old) for period, (old, _) in moves.items())),
        )
        .order_by(_hold.c.id)
        .with_for_update()
    )
    found: _Held = {}
    mine = [row for row in connection.execute(query) if row.subject in subjects]
    for row in mine:
        key = (row.subject, row.name, row.period)
        found[key] = found.get(key, 0) + row.amount
    if mine:
        connection.execute(_move, [{"b_id": row.id, "b_starts_at": moves[row.period][1]} for row in mine])
    return found


def _carry_counters(connection: Connection, subjects: Sequence[str], moves: _Moves, held: _Held, note: dict[str, Any]) -> None:
    """The counters of some subjects, both those that go and those that were begun in the other zone before, in one order."""
    counters, there = _both(connection, subjects, moves)
    if not counters:
        return
    fresh = [
        {name: getattr(row, name) for name in ("subject", "name", "period", "dimension", "maximum")}
        | {"starts_at": moves[row.period][1], "used": 0, "held": 0}
        for row in counters
        if (row.subject, row.name, row.period) not in there
    ]
    if fresh:
        connection.execute(_start[connection.dialect.name], fresh)
        # What somebody else has begun in the meantime counts.
        there = _both(connection, subjects, moves)[1]
    raised: list[dict[str, Any]] = []
    lowered: list[dict[str, Any]] = []
    changes: list[dict[str, Any]] = []
    for row in counters:
        old, new = moves[row.period]
        whose = (row.subject, row.name, row.period)
        amount = max(0, row.used - there[whose])
        moved = held.get(whose, 0)
        key = {"b_subject": row.subject, "b_name": row.name, "b_period": row.period}
        carried = {"b_used": amount, "b_held": moved, "b_maximum": row.maximum}
        told = {"b_warned_percent": row.warned_percent, "b_noticed_at": row.noticed_at}
        raised.append(key | {"b_starts_at": new} | carried | told)
        if moved:
            lowered.append(key | {"b_starts_at": old, "b_held": moved})
        if amount:
            kept = {"subject": row.subject, "name": row.name, "period": row.period, "starts_at": new, "amount": amount}
            changes.append(kept | note | {"id": new_id()})
    connection.execute(_raise, raised)
    if lowered:
        connection.execute(_lower, lowered)
    if changes:
        connection.execute(insert(CounterChange), changes)


def _both(
    connection: Connection, subjects: Sequence[str], moves: _Moves
) -> tuple[list[Row[Any]], dict[tuple[str, str, str], int]]:
    """The counters of the windows that are left, and what was used by those of the windows that are entered; locked by subject,
    name and period, as every request locks its own."""
    either = ((_counter.c.period == period) & _counter.c.starts_at.in_(starts) for period, starts in moves.items())
    query = (
        select(_counter)
        .where(_counter.c.subject.in_(subjects), or_(*either))
        .order_by(*(_in_order(connection, name) for name in _KEY[:3]), _counter.c.starts_at)
        .with_for_update()
    )
    rows = connection.execute(query).all()
    left = [row for row in rows if row.starts_at == moves[row.period][0]]
    entered = {(row.subject, row.name, row.period): row.used for row in rows if row.starts_at == moves[row.period][1]}
    return left, entered


def _in_order(connection: Connection, name: str) -> ColumnElement[str]:
    """A column in the order in which Python sorts: PostgreSQL has the language's, in which punctuation counts for nothing."""
    column = _counter.c[name]
    return column if connection.dialect.name == "sqlite" else collate(column, "C")
