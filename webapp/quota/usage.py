"""How much of each limit is used: what every policy says of every operation, beside what is counted. Reads only."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, func, or_, select

from webapp.contracts.limits import Dimension, Limit, Window
from webapp.extensions import current_settings, table_of
from webapp.models import LedgerEntry, LimitCounter
from webapp.models.senders import Sender
from webapp.quota import asking
from webapp.quota.asking import PolicyFailed
from webapp.quota.credits import MILLI
from webapp.quota.windows import bounds
from webapp.registry import current_registry

OPERATIONS = (
    "chat",
    "content.generate",
    "content.optimize",
    "content.suggest",
    "sentiment.analyze",
    "image.generate",
    "image.palette",
    "prompt.enhance",
)
"""Every kind of work that limits may be about."""
_FULL = 100
_COUNTED = (Window.HOUR, Window.DAY, Window.MONTH)
_counter, _ledger = table_of(LimitCounter), table_of(LedgerEntry)


class Whose(StrEnum):
    """Whose use a limit counts."""

    PERSON = "person"
    ORGANIZATION = "organization"
    TOKEN = "token"  # noqa: S105 - a word, no secret
    OTHER = "other"
    """Somebody whom only the policy knows."""


@dataclass(frozen=True, slots=True)
class Line:
    """What is used of one limit in the window that runs now. Amounts are in the dimension's unit.

    `limit` is None where the plan says that there is none; then `used` is what the ledger has of this month. '' for `provider`
    means any, no `operations` means all. `resets_at` is None for a limit on single requests. `warned` are the percentages at
    which people are told.
    """

    what: str
    whose: Whose
    subject: str
    name: str
    dimension: Dimension
    window: Window
    used: int
    held: int
    limit: int | None
    starts_at: datetime | None
    resets_at: datetime | None
    provider: str = ""
    operations: tuple[str, ...] = ()
    nearly_percent: int = _FULL

    @property
    def used_percent(self) -> int:
        """How much of it is used, in whole percent rounded down."""
        return self._percent(self.used)

    @property
    def percent(self) -> int:
        """How much of it is used or held."""
        return self._percent(self.used + self.held)

    @property
    def remaining(self) -> int | None:
        """What is neither used nor held, None without a limit."""
        return None if self.limit is None else max(0, self.limit - self.used - self.held)

    @property
    def full(self) -> bool:
        """Whether all of it is used."""
        return self.limit is not None and self.window is not Window.REQUEST and self.used >= self.limit

    @property
    def nearly(self) -> bool:
        """Whether as much is used as people are told of."""
        return self.limit is not None and self.window is not Window.REQUEST and self.used_percent >= self.nearly_percent

    def _percent(self, amount: int) -> int:
        if self.limit is None or self.window is Window.REQUEST:
            return 0
        return amount * _FULL // self.limit if self.limit else _FULL


@dataclass(frozen=True, slots=True)
class Usage:
    """Every limit of somebody. `troubles` say in words what could not be told; `time_zone` is the organization's."""

    lines: tuple[Line, ...] = ()
    troubles: tuple[str, ...] = ()
    time_zone: str = "UTC"
    at: datetime | None = None

    @property
    def urgent(self) -> tuple[Line, ...]:
        """Those that are used up or nearly so, the fullest first."""
        return tuple(sorted((line for line in self.lines if line.nearly), key=lambda line: -line.used_percent))


@dataclass(slots=True)
class _Asked:
    limits: dict[tuple[str, str, Window], Limit] = field(default_factory=dict)
    operations: dict[tuple[str, str, Window], list[str]] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)


def usage(connection: Connection, sender: Sender, channel: str, at: datetime) -> Usage:
    """What is used of every limit that may refuse a request of this sender; at most two statements."""
    asked = _ask(sender, channel)
    counted = _counted(connection, asked.limits.values(), at, sender.time_zone)
    nearly = min(current_settings().warned_percents, default=_FULL)
    lines = [_line(asked, key, limit, counted, at, sender, nearly) for key, limit in asked.limits.items()]
    lines += _unlimited(connection, sender, asked, at)
    return Usage(tuple(sorted(lines, key=_order)), tuple(asked.troubles), sender.time_zone, at)


def may_be_near(connection: Connection, sender_ids: tuple[uuid.UUID, uuid.UUID], time_zone: str, at: datetime) -> bool:
    """Whether a counter of this person or organization has come to the first mark: one statement, no policy is asked. It goes
    by the maximum of the last request, so `usage` has the last word."""
    person_id, organization_id = sender_ids
    mark = min(current_settings().warned_percents, default=_FULL)
    subjects = (f"person:{person_id}", f"organization:{organization_id}")
    running = [(window.value, bounds(window, at, time_zone)[0]) for window in _COUNTED]
    query = (
        select(_counter.c.name)
        .where(
            _counter.c.subject.in_(subjects),
            or_(*((_counter.c.period == period) & (_counter.c.starts_at == starts_at) for period, starts_at in running)),
            _counter.c.used * _FULL >= _counter.c.maximum * mark,
        )
        .limit(1)
    )
    return connection.execute(query).first() is not None


def _ask(sender: Sender, channel: str) -> _Asked:
    """What each policy says of each operation. One that fails is named, and asked no more."""
    asked = _Asked()
    failed: set[str] = set()
    allocation = current_settings().allocation_credits * MILLI
    for operation in OPERATIONS:
        try:
            question = asking.question_of(sender, operation, channel, allocation)
        except PolicyFailed:
            asked.troubles.append(
                "The limits that are stored cannot be read. Nothing is accepted until the operator mends them."
            )
            return asked
        for policy in current_registry().policies.values():
            if policy.name in failed:
                continue
            try:
                limits = asking.limits_for(question, [policy])
            except PolicyFailed:
                failed.add(policy.name)
                asked.troubles.append(f"What the quota policy {policy.name} limits cannot be told now: it failed.")
                continue
            for limit in limits:
                _add(asked, limit, operation)
    return asked


def _add(asked: _Asked, limit: Limit, operation: str) -> None:
    key = (limit.subject, limit.name, limit.window)
    known = asked.limits.setdefault(key, limit)
    if limit.maximum < known.maximum:
        asked.limits[key] = limit
    where = asked.operations.setdefault(key, [])
    if operation not in where:
        where.append(operation)


def _counted(
    connection: Connection, limits: Iterable[Limit], at: datetime, time_zone: str
) -> Mapping[tuple[str, str, str], tuple[int, int]]:
    """(subject, name, window) -> what is used and held of it now, by the counters' key."""
    keys = {
        (limit.subject, limit.name, limit.window.value, bounds(limit.window, at, time_zone)[0])
        for limit in limits
        if limit.window is not Window.REQUEST
    }
    if not keys:
        return {}
    columns = (_counter.c.subject, _counter.c.name, _counter.c.period, _counter.c.starts_at)
    # Each column by itself: a list of whole keys makes SQLite read the table. What does not belong together is left out here.
    wanted = [column.in_(sorted(set(values))) for column, values in zip(columns, zip(*keys, strict=True), strict=True)]
    rows = connection.execute(select(*columns, _counter.c.used, _counter.c.held).where(*wanted)).all()
    return {
        (row.subject, row.name, row.period): (row.used, row.held)
        for row in rows
        if (row.subject, row.name, row.period, row.starts_at) in keys
    }


def _line(
    asked: _Asked,
    key: tuple[str, str, Window],
    limit: Limit,
    counted: Mapping[tuple[str, str, str], tuple[int, int]],
    at: datetime,
    sender: Sender,
    nearly: int,
) -> Line:
    single = limit.window is Window.REQUEST
    used, held = (0, 0) if single else counted.get((limit.subject, limit.name, limit.window.value), (0, 0))
    starts_at, resets_at = (None, None) if single else bounds(limit.window, at, sender.time_zone)
    operations = asked.operations[key]
    return Line(
        what=limit.label,
        whose=_whose(limit.subject, sender),
        subject=limit.subject,
        name=limit.name,
        dimension=limit.dimension,
        window=limit.window,
        used=used,
        held=held,
        limit=limit.maximum,
        starts_at=starts_at,
        resets_at=resets_at,
        provider=limit.provider,
        operations=() if len(operations) == len(OPERATIONS) else tuple(operations),
        nearly_percent=nearly,
    )


def _whose(subject: str, sender: Sender) -> Whose:
    known = {
        f"person:{sender.person_id}": Whose.PERSON,
        f"organization:{sender.organization_id}": Whose.ORGANIZATION,
        f"token:{sender.token_id}": Whose.TOKEN,
    }
    return known.get(subject, Whose.OTHER)


def _order(line: Line) -> tuple[int, int, int, str, str]:
    """The person's own first, then by window and dimension."""
    windows, dimensions = (Window.MONTH, Window.DAY, Window.HOUR, Window.REQUEST), tuple(Dimension)
    return (
        list(Whose).index(line.whose),
        windows.index(line.window),
        dimensions.index(line.dimension),
        line.name,
        line.provider,
    )


# -- what has no limit ---------------------------------------------------------------------------------------------------
_OF_PLANS: Mapping[str, tuple[str, Dimension, Sequence[str]]] = {
    "messages": ("messages", Dimension.REQUESTS, ("chat", "image.generate", "image.palette", "prompt.enhance")),
    "content": ("content generations", Dimension.REQUESTS, ("content.generate", "content.suggest")),
    "optimisation": ("optimisations", Dimension.REQUESTS, ("content.optimize",)),
    "sentiment": ("sentiment analyses", Dimension.REQUESTS, ("sentiment.analyze",)),
    "tokens": ("tokens", Dimension.TOKENS, ()),
    "cost_microusd": ("spending", Dimension.COST, ()),
}
"""What plans have numbers for: how people are told about it, and which operations it is about."""


def _unlimited(connection: Connection, sender: Sender, asked: _Asked, at: datetime) -> list[Line]:
    """A line for each of the plan's numbers that is there and says 'no limit': nothing counts them, so the ledger is asked."""
    subject = f"person:{sender.person_id}"
    names = [
        name
        for name, limit in sender.plan_limits.items()
        if limit is None and name in _OF_PLANS and (subject, name, Window.MONTH) not in asked.limits
    ]
    if not names:
        return []
    starts_at, resets_at = bounds(Window.MONTH, at, sender.time_zone)
    by_operation = _month(connection, sender, starts_at)
    lines = []
    for name in names:
        what, dimension, operations = _OF_PLANS[name]
        rows = [row for row in by_operation if not operations or row.operation in operations]
        used = sum(int(getattr(row, dimension.value) or 0) for row in rows)
        window = Window.MONTH
        whole = tuple(operations)
        lines.append(Line(what, Whose.PERSON, subject, name, dimension, window, used, 0, None, starts_at, resets_at, "", whole))
    return lines


def _month(connection: Connection, sender: Sender, starts_at: datetime) -> Sequence[Any]:
    """What a person has used since a moment, by operation, in the organization."""
    query = (
        select(
            _ledger.c.operation,
            func.sum(_ledger.c.requests).label(Dimension.REQUESTS.value),
            func.sum(_ledger.c.input_tokens + _ledger.c.output_tokens).label(Dimension.TOKENS.value),
            func.sum(_ledger.c.cost_microusd).label(Dimension.COST.value),
        )
        .where(
            _ledger.c.person_id == sender.person_id,
            _ledger.c.created_at >= starts_at,
            _ledger.c.organization_id == sender.organization_id,
            _ledger.c.payer == "person",
        )
        .group_by(_ledger.c.operation)
    )
    return connection.execute(query).all()
