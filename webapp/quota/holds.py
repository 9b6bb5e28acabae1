"""Take, settle and give back: all limits of a request in one step.

A hold is taken by one statement over all limits, which adds to a counter only where room is left and says which rows it
changed: all of them, or the request is refused. There is nothing to read first, so there is nothing to race. Rows are always
named in the same order, so two requests cannot wait for each other.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, TextClause, Uuid, bindparam, text, update

from webapp.contracts.limits import Dimension, Limit
from webapp.extensions import UTCDateTime
from webapp.models.quotas import LimitCounter
from webapp.quota.windows import bounds


@dataclass(frozen=True, slots=True)
class Need:
    """What a request may use of one limit, in the window that is running now."""

    limit: Limit
    amount: int
    starts_at: datetime
    resets_at: datetime
    time_zone: str


class NoRoom(Exception):
    """A limit has no room for what is needed; whoever opened the transaction rolls it back."""

    def __init__(self, need: Need) -> None:
        super().__init__(need.limit.name)
        self.need = need


def needs(limits: Iterable[Limit], amounts: Mapping[Dimension, int], at: datetime, time_zone: str) -> list[Need]:
    """The needs of a request that may use `amounts`, in the one order in which counters are locked."""
    found = [Need(limit, amounts.get(limit.dimension, 0), *bounds(limit.window, at, time_zone), time_zone) for limit in limits]
    return sorted(found, key=lambda need: (need.limit.subject, need.limit.name, need.limit.window))


# Written by hand because SQLAlchemy compiles a many-row INSERT anew each time, which costs more than running it.
_TAKE = """
INSERT INTO limit_counter (subject, name, period, starts_at, dimension, maximum, used, held) VALUES {rows}
ON CONFLICT (subject, name, period, starts_at) DO UPDATE
SET held = limit_counter.held + excluded.held, maximum = excluded.maximum
WHERE limit_counter.used + limit_counter.held + excluded.held <= excluded.maximum
RETURNING subject, name, period
"""
_HOLD = """
INSERT INTO hold (request_id, subject, name, period, starts_at, dimension, amount) VALUES {rows}
"""
_SETTLE = """
INSERT INTO limit_counter (subject, name, period, starts_at, dimension, maximum, used, held) VALUES {rows}
ON CONFLICT (subject, name, period, starts_at) DO UPDATE
SET held = limit_counter.held - excluded.held, used = limit_counter.used + excluded.used
"""
_CLOSE = """
UPDATE hold SET settled_at = :at WHERE request_id = :request AND settled_at IS NULL
RETURNING subject, name, period, starts_at, dimension, amount
"""
_ROWS = {
    _TAKE: "(:s{0}, :n{0}, :w{0}, :t{0}, :d{0}, :m{0}, 0, :a{0})",
    _HOLD: "(:request, :s{0}, :n{0}, :w{0}, :t{0}, :d{0}, :a{0})",
    _SETTLE: "(:s{0}, :n{0}, :w{0}, :t{0}, :d{0}, 0, :u{0}, :a{0})",
}


@lru_cache(maxsize=64)
def _statement(template: str, rows: int) -> TextClause:
    sql = text(template.format(rows=", ".join(_ROWS[template].format(i) for i in range(rows))))
    typed = [bindparam(f"t{i}", type_=UTCDateTime) for i in range(rows)]
    if template is _HOLD:
        typed.append(bindparam("request", type_=Uuid))
    return sql.bindparams(*typed)


_close = (
    text(_CLOSE).bindparams(bindparam("at", type_=UTCDateTime), bindparam("request", type_=Uuid)).columns(starts_at=UTCDateTime)
)


def take(connection: Connection, request_id: uuid.UUID, wanted: Sequence[Need]) -> None:
    """Hold all of `wanted` for a request, or raise `NoRoom` naming the first that is full.

    After a refusal the caller rolls back: some of the counters may have been raised. The request's row may come after its
    holds in the transaction, but the database checks the reference at once: insert the row first.
    """
    if not wanted:
        return
    for need in wanted:
        if need.amount > need.limit.maximum:
            raise NoRoom(need)
    values: dict[str, Any] = {"request": request_id}
    for i, need in enumerate(wanted):
        limit = need.limit
        values |= {
            f"s{i}": limit.subject,
            f"n{i}": limit.name,
            f"w{i}": limit.window.value,
            f"t{i}": need.starts_at,
            f"d{i}": limit.dimension.value,
            f"m{i}": limit.maximum,
            f"a{i}": need.amount,
        }
    raised = {tuple(row) for row in connection.execute(_statement(_TAKE, len(wanted)), values)}
    if len(raised) != len(wanted):
        raise NoRoom(next(n for n in wanted if (n.limit.subject, n.limit.name, n.limit.window.value) not in raised))
    connection.execute(_statement(_HOLD, len(wanted)), values)


def settle(connection: Connection, request_id: uuid.UUID, used: Mapping[Dimension, int], at: datetime) -> None:
    """Turn a request's holds into what was `used`; what was held beyond that is free again. Repeating it changes nothing.

    More may have been used than was held (a vendor counted more tokens than were estimated): it is counted all the same, so
    the books stay true, and the limit refuses the next request.
    """
    held = connection.execute(_close, {"request": request_id, "at": at}).all()
    if not held:
        return
    values: dict[str, Any] = {}
    for i, hold in enumerate(sorted(held, key=lambda hold: (hold.subject, hold.name, hold.period))):
        values |= {
            f"s{i}": hold.subject,
            f"n{i}": hold.name,
            f"w{i}": hold.period,
            f"t{i}": hold.starts_at,
            f"d{i}": hold.dimension,
            f"u{i}": used.get(Dimension(hold.dimension), 0),
            f"a{i}": hold.amount,
        }
    connection.execute(_statement(_SETTLE, len(held)), values)


def give_back(connection: Connection, request_id: uuid.UUID, at: datetime) -> None:
    """End a request's holds with nothing used."""
    settle(connection, request_id, {}, at)


def notice_once(connection: Connection, refused: Need, at: datetime) -> bool:
    """True for the first refusal by a limit in its window: that one is told to the person, the others are not."""
    counter = LimitCounter.__table__
    limit = refused.limit
    key = {
        "subject": limit.subject,
        "name": limit.name,
        "period": limit.window.value,
        "starts_at": refused.starts_at,
    }
    # A limit smaller than a single request has no counter yet.
    values = {
        "s0": limit.subject,
        "n0": limit.name,
        "w0": limit.window.value,
        "t0": refused.starts_at,
        "d0": limit.dimension.value,
        "u0": 0,
        "a0": 0,
    }
    connection.execute(_statement(_SETTLE, 1), values)
    where = [counter.c[column] == value for column, value in key.items()]
    done = connection.execute(update(LimitCounter).where(*where, counter.c.noticed_at.is_(None)).values(noticed_at=at))
    return done.rowcount == 1
