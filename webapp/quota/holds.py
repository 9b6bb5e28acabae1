"""Take, settle and give back: all limits of a request in one step.

A hold is taken by one statement over all limits, which adds to a counter only where room is left and says which rows it
changed: all of them, or the request is refused. There is nothing to read first, so there is nothing to race. Rows are always
named in the same order, so two requests cannot wait for each other.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection

from webapp.contracts.limits import KEY_CHARS, Dimension, Limit, Window
from webapp.models.straight import sqlite_moment
from webapp.quota.windows import bounds


@dataclass(frozen=True, slots=True)
class Need:
    """What a request may use of one limit, in the window that is running now."""

    limit: Limit
    amount: int
    starts_at: datetime
    resets_at: datetime
    time_zone: str

    @property
    def alone(self) -> bool:
        """Whether the request is too large by itself, whatever was used: a smaller one may fit."""
        return 0 < self.limit.maximum < self.amount


@dataclass(frozen=True, slots=True)
class Counter:
    """A counter as it stands after something was settled on it, or refused by it."""

    subject: str
    name: str
    window: Window
    starts_at: datetime
    dimension: Dimension
    used: int
    held: int
    maximum: int
    warned_percent: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How a limit stands once a request holds its part of it: `taken` is what was used and what is held of `maximum`."""

    dimension: Dimension
    maximum: int
    taken: int
    resets_at: datetime

    @property
    def remaining(self) -> int:
        return max(0, self.maximum - self.taken)


class NoRoom(Exception):
    """A limit has no room for what is needed; whoever opened the transaction rolls it back."""

    def __init__(self, need: Need) -> None:
        super().__init__(need.limit.name)
        self.need = need


def needs(limits: Iterable[Limit], amounts: Mapping[Dimension, int], at: datetime, time_zone: str) -> list[Need]:
    """The needs of a request that may use `amounts`, in the one order in which counters are locked."""
    found = [Need(limit, amounts.get(limit.dimension, 0), *_bounds(limit.window, at, time_zone), time_zone) for limit in limits]
    return sorted(found, key=lambda need: (need.limit.subject, need.limit.name, need.limit.window))


def _bounds(window: Window, at: datetime, time_zone: str) -> tuple[datetime, datetime]:
    return (at, at) if window is Window.REQUEST else bounds(window, at, time_zone)


# Written by hand, and given to the driver as they are: compiling a many-row INSERT anew each time, and typing each value and
# row, costs more than running it (one limit on SQLite: 43 % of two bare updates through SQLAlchemy's layers, 68 % without).
# Of a number that was raised, people are told again when they come near it.
_APPLY = """maximum = excluded.maximum,
noticed_at = CASE WHEN excluded.maximum > limit_counter.maximum THEN NULL ELSE limit_counter.noticed_at END,
warned_percent = CASE WHEN excluded.maximum > limit_counter.maximum THEN 0 ELSE limit_counter.warned_percent END"""
_TAKE = f"""
INSERT INTO limit_counter (subject, name, period, starts_at, dimension, maximum, used, held) VALUES {{rows}}
ON CONFLICT (subject, name, period, starts_at) DO UPDATE
SET held = limit_counter.held + excluded.held, {_APPLY}
WHERE limit_counter.used + limit_counter.held + excluded.held <= excluded.maximum
RETURNING subject, name, period, used, held
"""  # noqa: S608 - no value is put in
_REFUSE = f"""
INSERT INTO limit_counter (subject, name, period, starts_at, dimension, maximum, used, held) VALUES {{rows}}
ON CONFLICT (subject, name, period, starts_at) DO UPDATE SET {_APPLY}
RETURNING subject, name, period, starts_at, dimension, used, held, maximum, warned_percent
"""  # noqa: S608 - no value is put in
_NOTICE = """
INSERT INTO limit_counter (subject, name, period, starts_at, dimension, maximum, used, held, noticed_at) VALUES {rows}
ON CONFLICT (subject, name, period, starts_at) DO UPDATE SET maximum = excluded.maximum, noticed_at = excluded.noticed_at
WHERE limit_counter.noticed_at IS NULL OR excluded.maximum <> limit_counter.maximum
RETURNING name
"""
_HOLD = """
INSERT INTO hold (request_id, subject, name, period, starts_at, dimension, amount, provider) VALUES {rows}
"""
_SETTLE = """
INSERT INTO limit_counter (subject, name, period, starts_at, dimension, maximum, used, held) VALUES {rows}
ON CONFLICT (subject, name, period, starts_at) DO UPDATE
SET held = limit_counter.held - excluded.held, used = limit_counter.used + excluded.used
RETURNING subject, name, period, starts_at, dimension, used, held, maximum, warned_percent
"""
# What was used of each dimension, for the limits that count it at every provider.
_ADD = """
UPDATE hold SET {closing}used = used + CASE WHEN provider IS NOT NULL THEN 0 ELSE CASE dimension
WHEN 'requests' THEN {mark} WHEN 'tokens' THEN {mark} WHEN 'cost' THEN {mark} ELSE {mark} END END
WHERE request_id = {mark} AND settled_at IS NULL
RETURNING subject, name, period, starts_at, dimension, amount, used, provider, id
"""
_CLOSING = "settled_at = {mark}, settled_by = {mark}, why = {mark}, "
_ADD_AT_PROVIDER = "UPDATE hold SET used = used + {mark} WHERE id = {mark}"
_RESERVE = """
INSERT INTO hold (expires_at, subject, name, period, starts_at, dimension, amount) VALUES ({rows}) RETURNING id
"""
_RELEASE = """
UPDATE hold SET settled_at = {mark}, settled_by = {mark}, used = {mark} WHERE id = {mark} AND settled_at IS NULL RETURNING id
"""
_EXPIRE = """
UPDATE hold SET settled_at = {mark}, settled_by = 'sweep', why = 'expired'
WHERE settled_at IS NULL AND expires_at IS NOT NULL AND expires_at < {mark}
RETURNING subject, name, period, starts_at, dimension, amount
"""
_ROWS = {
    _TAKE: "({m}, {m}, {m}, {m}, {m}, {m}, 0, {m})",
    _REFUSE: "({m}, {m}, {m}, {m}, {m}, {m}, 0, 0)",
    _NOTICE: "({m}, {m}, {m}, {m}, {m}, {m}, 0, 0, {m})",
    _HOLD: "({m}, {m}, {m}, {m}, {m}, {m}, {m}, {m})",
    _SETTLE: "({m}, {m}, {m}, {m}, {m}, 0, {m}, {m})",
}


@dataclass(frozen=True, slots=True)
class _Driver:
    """How a database's driver wants its values; the same forms as the types of the columns use."""

    mark: str
    moment: Callable[[datetime], Any]
    read_moment: Callable[[Any], datetime]
    identity: Callable[[uuid.UUID], Any]


@lru_cache(maxsize=512)
def _read_sqlite_moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


_DRIVERS = {
    "sqlite": _Driver("?", sqlite_moment, _read_sqlite_moment, lambda identity: identity.hex),
    "postgresql": _Driver("%s", lambda moment: moment, lambda moment: moment.astimezone(UTC), lambda identity: identity),
}


@lru_cache(maxsize=64)
def _statement(template: str, mark: str, rows: int) -> str:
    return template.format(rows=", ".join([_ROWS[template].format(m=mark)] * rows))


@lru_cache(maxsize=16)
def _marked(template: str, mark: str, *, closing: bool = False) -> str:
    return template.format(mark=mark, closing=_CLOSING.format(mark=mark) if closing else "", rows=", ".join([mark] * 7))


def take(connection: Connection, request_id: uuid.UUID, wanted: Sequence[Need]) -> tuple[Standing, ...]:
    """Hold all of `wanted` for a request, or raise `NoRoom` naming the first that is full. Returns how the limits stand then.

    After a refusal the caller rolls back: some of the counters may have been raised. The request's row may come after its
    holds in the transaction, but the database checks the reference at once: insert the row first.
    """
    counted, raised = _raise(connection, wanted)
    enter(connection, request_id, counted)
    return standings(counted, raised)


def enter(connection: Connection, request_id: uuid.UUID, wanted: Sequence[Need]) -> None:
    """Write down as a request's holds what its counters were raised by."""
    if not wanted:
        return
    driver = _DRIVERS[connection.dialect.name]
    held: list[Any] = []
    request = driver.identity(request_id)
    for need in wanted:
        held += (request, *_key(driver, need), need.amount, need.limit.provider or None)
    connection.exec_driver_sql(_statement(_HOLD, driver.mark, len(wanted)), tuple(held))


def taking(dialect: str, request_id: uuid.UUID, wanted: Sequence[Need]) -> tuple[tuple[str, list[Any]], tuple[str, list[Any]]]:
    """The two statements of `take`, for a driver, with their values: one that raises the counters, and returns a row (subject,
    name, period, used, held) for each that had room, and one that writes down the holds. None of `wanted` may be larger than
    its limit by itself."""
    driver = _DRIVERS[dialect]
    request, taken, held = driver.identity(request_id), list[Any](), list[Any]()
    for need in wanted:
        key = _key(driver, need)
        taken += (*key, need.limit.maximum, need.amount)
        held += (request, *key, need.amount, need.limit.provider or None)
    rows = len(wanted)
    return (_statement(_TAKE, driver.mark, rows), taken), (_statement(_HOLD, driver.mark, rows), held)


def closing(dialect: str, request_id: uuid.UUID, used: Use, at: datetime, by: str, why: str) -> tuple[str, list[Any]]:
    """The statement, for a driver, that ends the holds of a request with what was used, and returns (subject, name, period,
    starts_at, dimension, amount, used, provider, id) of each; those of a provider's own limits do not count it yet."""
    driver = _DRIVERS[dialect]
    amounts = [used.get(dimension, 0) for dimension in _IN_ORDER]
    return _marked(_ADD, driver.mark, closing=True), [driver.moment(at), by, why, *amounts, driver.identity(request_id)]


def lower(dialect: str, connection: Any, ended: Sequence[Sequence[Any]]) -> list[tuple[str, int, int, int]]:
    """Turn ended holds, as `closing` returns them, into use of their counters, by a driver's connection. Returns (subject,
    used, maximum, warned_percent) of each counter."""
    text, values = _lowering(_DRIVERS[dialect], [hold[:7] for hold in ended])
    return [(row[0], row[5], row[7], row[8]) for row in connection.execute(text, values).fetchall()]


def raise_counters(connection: Connection, wanted: Sequence[Need]) -> Sequence[Need]:
    """Add to the counters what `wanted` needs, all or (by the caller's rollback) none; returns those that are counted from one
    request to the next. Raises `NoRoom`. It belongs to no request: whoever calls this has to lower them again."""
    return _raise(connection, wanted)[0]


def standings(counted: Sequence[Need], raised: Iterable[Sequence[Any]]) -> tuple[Standing, ...]:
    """How limits stand by the rows of their counters: (subject, name, period, used, held)."""
    taken = {(row[0], row[1], row[2]): int(row[3]) + int(row[4]) for row in raised}
    return tuple(
        Standing(need.limit.dimension, need.limit.maximum, taken[key], need.resets_at)
        for need in counted
        if (key := (need.limit.subject, need.limit.name, need.limit.window.value)) in taken
    )


def _raise(connection: Connection, wanted: Sequence[Need]) -> tuple[Sequence[Need], Sequence[Any]]:
    """What `raise_counters` does; returned with the rows of the counters."""
    for need in wanted:
        if need.amount > need.limit.maximum:
            raise NoRoom(need)
    wanted = [need for need in wanted if need.limit.window is not Window.REQUEST]
    if not wanted:
        return wanted, ()
    driver = _DRIVERS[connection.dialect.name]
    taken: list[Any] = []
    for need in wanted:
        taken += (*_key(driver, need), need.limit.maximum, need.amount)
    rows = len(wanted)
    raised = connection.exec_driver_sql(_statement(_TAKE, driver.mark, rows), tuple(taken)).all()
    if len(raised) != rows:
        keys = {tuple(row)[:3] for row in raised}
        raise NoRoom(next(n for n in wanted if (n.limit.subject, n.limit.name, n.limit.window.value) not in keys))
    return wanted, raised


def reserve(connection: Connection, need: Need, expires_at: datetime) -> int:
    """Hold a need that belongs to no request, until it is released or expires; returns its id. Raises `NoRoom`."""
    raise_counters(connection, [need])
    driver = _DRIVERS[connection.dialect.name]
    values = (driver.moment(expires_at), *_key(driver, need), need.amount)
    return int(connection.exec_driver_sql(_marked(_RESERVE, driver.mark), values).scalar_one())


def release(connection: Connection, hold_id: int, need: Need, used: int, at: datetime, by: str) -> None:
    """End a reservation with what was used. One that has expired meanwhile is counted all the same: it was used."""
    driver = _DRIVERS[connection.dialect.name]
    open_still = connection.exec_driver_sql(_marked(_RELEASE, driver.mark), (driver.moment(at), by, used, hold_id)).first()
    if open_still is None:
        connection.exec_driver_sql(_marked(_ADD_AT_PROVIDER, driver.mark), (used, hold_id))
    amount = 0 if open_still is None else need.amount
    connection.exec_driver_sql(_statement(_SETTLE, driver.mark, 1), (*_key(driver, need), used, amount))


def expire(connection: Connection, at: datetime) -> int:
    """Give back what reservations hold whose time is over: whoever made them has died. Returns how many there were."""
    driver = _DRIVERS[connection.dialect.name]
    moment = driver.moment(at)
    lost = connection.exec_driver_sql(_marked(_EXPIRE, driver.mark), (moment, moment)).all()
    for *key, amount in sorted(lost, key=lambda hold: tuple(hold)[:3]):
        connection.exec_driver_sql(_statement(_SETTLE, driver.mark, 1), (*key, 0, amount))
    return len(lost)


def _key(driver: _Driver, need: Need) -> tuple[Any, ...]:
    limit = need.limit
    return (limit.subject, limit.name, limit.window.value, driver.moment(need.starts_at), limit.dimension.value)


Use = Mapping[Dimension, int]


def settle(
    connection: Connection,
    request_id: uuid.UUID,
    used: Use,
    at: datetime,
    *,
    by: str,
    why: str,
    at_providers: Mapping[str, Use] = MappingProxyType({}),
) -> list[Counter]:
    """Turn a request's holds into what was `used`; what was held beyond that is free again. Repeating it changes nothing.

    `at_providers` says how much of it was used at each provider. `by` and `why` stand on the receipts. More may have been used
    than was held (a vendor counted more tokens than were estimated): it is counted all the same, so the books stay true, and
    the limit refuses the next request. Returns the counters as they stand now.
    """
    driver = _DRIVERS[connection.dialect.name]
    closing = (driver.moment(at), by, why)
    ended = _add(connection, driver, request_id, used, at_providers, closing)
    if not ended:
        return []
    text, values = _lowering(driver, ended)
    return [_counter(driver, row) for row in connection.exec_driver_sql(text, tuple(values)).all()]


def _lowering(driver: _Driver, ended: Iterable[Sequence[Any]]) -> tuple[str, list[Any]]:
    """The statement that counts what ended holds have used, and lets go of the rest, with its values."""
    # One row a counter, whatever a request holds of it: a statement cannot touch a row twice.
    sums: dict[tuple[Any, ...], list[int]] = {}
    for *key, amount, spent in sorted(ended, key=lambda hold: tuple(hold[:3])):
        there = sums.setdefault(tuple(key), [0, 0])
        there[0] += spent
        there[1] += amount
    values: list[Any] = []
    for counter, (spent, amount) in sums.items():
        values += (*counter, spent, amount)
    return _statement(_SETTLE, driver.mark, len(sums)), values


def _counter(driver: _Driver, row: Any) -> Counter:
    return Counter(row[0], row[1], Window(row[2]), driver.read_moment(row[3]), Dimension(row[4]), *tuple(row)[5:])


def note(connection: Connection, request_id: uuid.UUID, used: Use, at_providers: Mapping[str, Use]) -> None:
    """Write down what an execution has used of a request that goes on: it is counted with the rest when the request ends."""
    _add(connection, _DRIVERS[connection.dialect.name], request_id, used, at_providers, ())


def _add(
    connection: Connection,
    driver: _Driver,
    request_id: uuid.UUID,
    used: Use,
    at_providers: Mapping[str, Use],
    closing: tuple[Any, ...],
) -> list[tuple[Any, ...]]:
    """Add to the receipts of a request what was used, and end them if there is something to end them with. Returns
    (subject, name, period, starts_at, dimension, amount, used) of each."""
    amounts = tuple(used.get(dimension, 0) for dimension in _IN_ORDER)
    statement = _marked(_ADD, driver.mark, closing=bool(closing))
    rows = connection.exec_driver_sql(statement, (*closing, *amounts, driver.identity(request_id))).all()
    found = []
    for *key, dimension, amount, spent, provider, hold_id in rows:
        there = at_providers.get(provider, {}).get(Dimension(dimension), 0) if provider else 0
        if there:
            connection.exec_driver_sql(_marked(_ADD_AT_PROVIDER, driver.mark), (there, hold_id))
        found.append((*key, dimension, amount, spent + there))
    return found


_IN_ORDER = (Dimension.REQUESTS, Dimension.TOKENS, Dimension.COST, Dimension.CREDITS)


def give_back(connection: Connection, request_id: uuid.UUID, at: datetime, *, by: str, why: str) -> None:
    """End a request's holds with nothing used beyond what was noted."""
    settle(connection, request_id, {}, at, by=by, why=why)


def refused(connection: Connection, need: Need) -> Counter:
    """The counter of a limit that had no room for a need, which from here on goes by the number that refused it."""
    driver = _DRIVERS[connection.dialect.name]
    values = (*_key(driver, need), need.limit.maximum)
    return _counter(driver, connection.exec_driver_sql(_statement(_REFUSE, driver.mark, 1), values).one())


def notice_once(connection: Connection, need: Need, person_id: uuid.UUID, at: datetime) -> bool:
    """True for the first refusal of a person by a limit in its window, and the first by another number: that one is told to
    them, the others are not. A person's own limit keeps that with its counter; of others each person has a row of their own,
    in which nothing is counted."""
    limit = need.limit
    subject, name = limit.subject, limit.name
    if subject != f"person:{person_id}":
        subject, name = notices_of(person_id), f"{subject} {name}"
        if len(name) > KEY_CHARS:
            name = hashlib.sha256(name.encode()).hexdigest()
    driver = _DRIVERS[connection.dialect.name]
    key = (subject, name, *_key(driver, need)[2:])
    values = (*key, limit.maximum, driver.moment(at))
    return connection.exec_driver_sql(_statement(_NOTICE, driver.mark, 1), values).first() is not None


def notices_of(person_id: uuid.UUID) -> str:
    """The subject under which is kept of which limits that are not their own a person was told."""
    return f"told:{person_id}"
