"""A request that turns out to use more than was known when it was admitted: it holds more, or is told that there is no room.

A fallback to a dearer model, a call that was billed although it failed, a provider with limits of its own. All counters are
raised by one statement in the one order in which counters are locked, as in admission.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from webapp.contracts.limits import Dimension, Limit, Window
from webapp.extensions import table_of
from webapp.models.quotas import Hold, LimitCounter
from webapp.quota import holds
from webapp.quota.holds import Need, Use

_hold, _counter = table_of(Hold), table_of(LimitCounter)
_open = (
    select(
        _hold.c.id,
        _hold.c.subject,
        _hold.c.name,
        _hold.c.period,
        _hold.c.starts_at,
        _hold.c.dimension,
        _hold.c.amount,
        _hold.c.used,
        _hold.c.provider,
        _counter.c.maximum,
    )
    .join(
        _counter,
        (_counter.c.subject == _hold.c.subject)
        & (_counter.c.name == _hold.c.name)
        & (_counter.c.period == _hold.c.period)
        & (_counter.c.starts_at == _hold.c.starts_at),
    )
    .where(_hold.c.request_id == bindparam("request"), _hold.c.settled_at.is_(None))
    .order_by(_hold.c.id)
    .with_for_update(of=_hold)
)
_more = update(_hold).where(_hold.c.id == bindparam("b_id")).values(amount=_hold.c.amount + bindparam("b_more"))


def extend(
    connection: Connection,
    request_id: uuid.UUID,
    *,
    used: Use,
    used_there: Use,
    following: Use,
    provider: str,
    further: Sequence[Need] = (),
) -> None:
    """Hold for a request what its next call may use. Raises `NoRoom`, and the caller rolls back.

    `used` is what the running execution has used so far, `used_there` how much of it at the provider of the next call, and
    `following` the most that this call may use; what earlier executions have used stands on the holds. `further` are needs by
    limits of that provider: those that the request holds already are left out. A request that has been settled holds nothing,
    and nothing is changed.

    The caller has locked the request's row, as whoever settles it has: two that lock its holds in another order cannot meet.
    """
    rows = connection.execute(_open, {"request": request_id}).all()
    held = {(row.subject, row.name, row.period) for row in rows}
    missing: list[tuple[int, Need]] = []
    for row in rows:
        if row.provider not in (None, provider):
            continue
        dimension = Dimension(row.dimension)
        if dimension is Dimension.REQUESTS:
            continue  # one request is one, however often a vendor is called for it
        so_far = used_there if row.provider else used
        more = row.used + so_far.get(dimension, 0) + following.get(dimension, 0) - row.amount
        if more > 0:
            missing.append((row.id, _need(row, dimension, more)))
    new = [need for need in further if (need.limit.subject, need.limit.name, need.limit.window.value) not in held]
    wanted = sorted([need for _, need in missing] + new, key=lambda n: (n.limit.subject, n.limit.name, n.limit.window))
    holds.raise_counters(connection, wanted)
    for hold_id, need in missing:
        connection.execute(_more, {"b_id": hold_id, "b_more": need.amount})
    holds.enter(connection, request_id, [need for need in new if need.limit.window is not Window.REQUEST])


def _need(row: Any, dimension: Dimension, more: int) -> Need:
    limit = Limit(row.subject, row.name, dimension, Window(row.period), row.maximum, row.name, row.provider or "")
    starts_at: datetime = row.starts_at
    return Need(limit, more, starts_at, starts_at, "UTC")
