"""A month that starts afresh: what was used of a plan's limits counts no more, and the counters' receipts say so."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import Connection, Row, and_, bindparam, insert, or_, select, union, update
from sqlalchemy.orm import Session

from webapp.contracts.errors import NotFound
from webapp.contracts.limits import Window
from webapp.extensions import table_of
from webapp.models import CounterChange, LimitCounter, Membership, Organization, Person, Plan
from webapp.models.columns import new_id
from webapp.quota import stored
from webapp.quota.windows import bounds

PLAN_KEYS = ("messages", "content", "sentiment", "optimisation", "tokens", "cost_microusd")
"""Names of the counters of a plan's numbers a month."""
_counter = table_of(LimitCounter)
_KEY = ("subject", "name", "period", "starts_at")
_clear = (
    update(_counter)
    .where(*(_counter.c[name] == bindparam(f"b_{name}") for name in _KEY))
    .values(used=0, noticed_at=None, warned_percent=0)
)


def locked(session: Session, person_id: uuid.UUID) -> Person:
    """The person's row, which nobody else changes before the end of the transaction: no request of theirs is settled meanwhile.
    `NotFound`."""
    # Without the key: new requests, which refer to the person, do not wait for this.
    query = select(Person).where(Person.id == person_id).with_for_update(key_share=True)
    found = session.scalar(query.execution_options(populate_existing=True))
    if found is None:
        raise NotFound("There is no such person.")
    return found


def restart(
    connection: Connection, persons: Sequence[uuid.UUID], plans: Iterable[Plan], reason: str, actor: str, at: datetime
) -> int:
    """Set back what these people have used of the plans' limits in the running windows; what is held stays held. Their rows are
    locked by the caller. Returns how many counts were set back. Every organization's time zone that they are in counts: one
    zone's month may have begun where another's has not."""
    windows: dict[str, set[str]] = {Window.MONTH.value: {*PLAN_KEYS}}
    for plan in plans:
        windows[Window.MONTH.value] |= {*plan.limits}
        for limit in stored.read(plan.more_limits):
            windows.setdefault(limit.window.value, set()).add(f"limit:{limit.id}")
    windows.pop(Window.REQUEST.value, None)
    if not persons:
        return 0
    zones = _zones(connection, persons)
    running = [
        and_(
            _counter.c.period == window,
            _counter.c.name.in_(sorted(names)),
            _counter.c.starts_at.in_({bounds(Window(window), at, zone)[0] for zone in zones}),
        )
        for window, names in windows.items()
    ]
    query = (
        select(_counter)
        .where(_counter.c.subject.in_([f"person:{person_id}" for person_id in persons]), or_(*running))
        .order_by(*(_counter.c[name] for name in _KEY))
        .with_for_update()
    )
    used = [row for row in connection.execute(query) if row.used or row.warned_percent or row.noticed_at]
    if used:
        connection.execute(_clear, [{f"b_{name}": getattr(row, name) for name in _KEY} for row in used])
        _note(connection, [row for row in used if row.used], reason, actor, at)
    return len(used)


def _zones(connection: Connection, persons: Sequence[uuid.UUID]) -> set[str]:
    working = select(Person.organization_id).where(Person.id.in_(persons))
    member = select(Membership.organization_id).where(Membership.person_id.in_(persons))
    places = union(working, member).subquery()
    query = select(Organization.time_zone).where(Organization.id.in_(select(places.c[0]))).distinct()
    return set(connection.execute(query).scalars())


def _note(connection: Connection, rows: Sequence[Row[tuple[object, ...]]], reason: str, actor: str, at: datetime) -> None:
    changes = [
        {name: getattr(row, name) for name in _KEY}
        | {"id": new_id(), "amount": -row.used, "reason": reason[:255], "actor": actor[:255], "created_at": at}
        for row in rows
    ]
    if changes:
        connection.execute(insert(CounterChange), changes)
