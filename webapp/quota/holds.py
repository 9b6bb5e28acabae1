"""Take, settle and give back: all limits of a request in one step.

A hold is taken by one statement over all limits, which adds to a counter only where room is left and says which rows it
changed: all of them, or the request is refused. There is nothing to read first, so there is nothing to race. Rows are always
named in the same order, so two requests cannot wait for each other.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, update

from webapp.contracts.limits import Dimension, Limit
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


# Written by hand, and given to the driver as they are: compiling a many-row INSERT anew each time, and typing each value and
# row, costs more than running it (one limit on SQLite: 43 % of two bare updates through SQLAlchemy's layers, 68 % without).
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
UPDATE hold SET settled_at = {mark} WHERE request_id = {mark} AND settled_at IS NULL
RETURNING subject, name, period, starts_at, dimension, amount
"""
_ROWS = {
    _TAKE: "({m}, {m}, {m}, {m}, {m}, {m}, 0, {m})",
    _HOLD: "({m}, {m}, {m}, {m}, {m}, {m}, {m})",
    _SETTLE: "({m}, {m}, {m}, {m}, {m}, 0, {m}, {m})",
}


@dataclass(frozen=True, slots=True)
class _Driver:
    """How a database's driver wants its values; the same forms as the types of the columns use."""

    mark: str
    moment: Callable[[datetime], Any]
    identity: Callable[[uuid.UUID], Any]


@lru_cache(maxsize=512)
def _sqlite_moment(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


_DRIVERS = {
    "sqlite": _Driver("?", _sqlite_moment, lambda identity: identity.hex),
    "postgresql": _Driver("%s", lambda moment: moment, lambda identity: identity),
}


@lru_cache(maxsize=64)
def _statement(template: str, mark: str, rows: int) -> str:
    return template.format(rows=", ".join([_ROWS[template].format(m=mark)] * rows))


@lru_cache(maxsize=4)
def _closing(mark: str) -> str:
    return _CLOSE.format(mark=mark)


def take(connection: Connection, request_id: uuid.UUID, wanted: Sequence[Need]) -> None:
    """Hold all of `wanted` for a request, or raise `NoRoom` naming the first that is full.

    After a refusal the caller rolls back: some of the counters may have been raised. The request's row may come after its
    holds in the transaction, but the database checks the reference at once: insert the row first.
    """
    if not wanted:
        return
    raise_counters(connection, wanted)
    driver = _DRIVERS[connection.dialect.name]
    held: list[Any] = []
    request = driver.identity(request_id)
    for need in wanted:
        held += (request, *_key(driver, need), need.amount)
    connection.exec_driver_sql(_statement(_HOLD, driver.mark, len(wanted)), tuple(held))


def raise_counters(connection: Connection, wanted: Sequence[Need]) -> None:
    """Add to the counters what `wanted` needs, all or (by the caller's rollback) none. Raises `NoRoom`. It belongs to no
    request: whoever calls this has to lower them again."""
    for need in wanted:
        if need.amount > need.limit.maximum:
            raise NoRoom(need)
    driver = _DRIVERS[connection.dialect.name]
    taken: list[Any] = []
    for need in wanted:
        taken += (*_key(driver, need), need.limit.maximum, need.amount)
    rows = len(wanted)
    raised = connection.exec_driver_sql(_statement(_TAKE, driver.mark, rows), tuple(taken)).all()
    if len(raised) != rows:
        keys = {tuple(row) for row in raised}
        raise NoRoom(next(n for n in wanted if (n.limit.subject, n.limit.name, n.limit.window.value) not in keys))


def lower_counter(connection: Connection, need: Need, used: int) -> None:
    """Turn what `raise_counters` held for one need into what was used."""
    driver = _DRIVERS[connection.dialect.name]
    connection.exec_driver_sql(_statement(_SETTLE, driver.mark, 1), (*_key(driver, need), used, need.amount))


def _key(driver: _Driver, need: Need) -> tuple[Any, ...]:
    limit = need.limit
    return (limit.subject, limit.name, limit.window.value, driver.moment(need.starts_at), limit.dimension.value)


def top_up(connection: Connection, request_id: uuid.UUID, dimension: Dimension, more: int) -> bool:
    """Hold `more` of a dimension for a request that holds some already; False if there is no room or the request has been
    settled meanwhile, and the caller rolls back. A request without a limit of the dimension has room.

    For the rare request that turns out to use more than was known when it was admitted. The holds come before the counters,
    as in `settle`: the two cannot wait for each other, and what the one has ended the other does not raise.
    """
    driver = _DRIVERS[connection.dialect.name]
    mark = driver.mark
    request = driver.identity(request_id)
    raised = connection.exec_driver_sql(
        f"UPDATE hold SET amount = amount + {mark} WHERE request_id = {mark} AND dimension = {mark} "  # noqa: S608
        "AND settled_at IS NULL RETURNING subject, name, period, starts_at",
        (more, request, dimension.value),
    ).all()
    if not raised:
        settled = connection.exec_driver_sql(
            f"SELECT 1 FROM hold WHERE request_id = {mark} AND settled_at IS NOT NULL LIMIT 1",  # noqa: S608
            (request,),
        ).first()
        return settled is None
    for key in sorted(raised, key=lambda hold: tuple(hold)[:3]):
        counted = connection.exec_driver_sql(
            f"UPDATE limit_counter SET held = held + {mark} WHERE subject = {mark} AND name = {mark} "  # noqa: S608
            f"AND period = {mark} AND starts_at = {mark} AND used + held + {mark} <= maximum",
            (more, *key, more),
        )
        if counted.rowcount != 1:
            return False
    return True


def held(connection: Connection, request_id: uuid.UUID, dimension: Dimension) -> int:
    """How much of a dimension a request holds now, 0 without a limit of it."""
    driver = _DRIVERS[connection.dialect.name]
    return int(
        connection.exec_driver_sql(
            f"SELECT COALESCE(MAX(amount), 0) FROM hold WHERE request_id = {driver.mark} "  # noqa: S608
            f"AND dimension = {driver.mark} AND settled_at IS NULL",
            (driver.identity(request_id), dimension.value),
        ).scalar_one()
    )


def settle(connection: Connection, request_id: uuid.UUID, used: Mapping[Dimension, int], at: datetime) -> None:
    """Turn a request's holds into what was `used`; what was held beyond that is free again. Repeating it changes nothing.

    More may have been used than was held (a vendor counted more tokens than were estimated): it is counted all the same, so
    the books stay true, and the limit refuses the next request.
    """
    driver = _DRIVERS[connection.dialect.name]
    closing = (driver.moment(at), driver.identity(request_id))
    held = connection.exec_driver_sql(_closing(driver.mark), closing).all()
    if not held:
        return
    values: list[Any] = []
    for subject, name, period, starts_at, dimension, amount in sorted(held, key=lambda hold: tuple(hold)[:3]):
        values += (subject, name, period, starts_at, dimension, used.get(Dimension(dimension), 0), amount)
    connection.exec_driver_sql(_statement(_SETTLE, driver.mark, len(held)), tuple(values))


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
    driver = _DRIVERS[connection.dialect.name]
    moment = driver.moment(refused.starts_at)
    values = (limit.subject, limit.name, limit.window.value, moment, limit.dimension.value, 0, 0)
    connection.exec_driver_sql(_statement(_SETTLE, driver.mark, 1), values)
    where = [counter.c[column] == value for column, value in key.items()]
    done = connection.execute(update(LimitCounter).where(*where, counter.c.noticed_at.is_(None)).values(noticed_at=at))
    return done.rowcount == 1
