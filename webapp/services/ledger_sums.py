"""Sums over the ledger, taken by the database: by UTC day and model, or by whatever an operator asks."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, select

from webapp.contracts.channels import MESSAGE_SEND
from webapp.extensions import db, reading
from webapp.models import LedgerEntry

HOUSE = "house"
"""Who pays for what no person asked for."""


class By(StrEnum):
    """What a summary has a row for."""

    PROVIDER = "provider"
    MODEL = "model"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class Entries:
    """Sums of the entries of one day, model and source of prices."""

    day: date
    model: str
    price_source: str
    entries: int
    estimated: int
    """How many of them rest on an estimate of the tokens."""
    requests: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost_microusd: int


@dataclass(slots=True)
class Summary:
    """Sums of the entries of one provider, model or day. `sources` is what each source of prices contributed to the cost."""

    name: str
    entries: int = 0
    estimated: int = 0
    estimated_microusd: int = 0
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_microusd: int = 0
    sources: dict[str, int] = field(default_factory=dict)
    house_requests: int = 0
    """Those of them that the house paid itself: tests of providers, sorting."""
    house_microusd: int = 0
    """Without what messages cost."""
    messages_microusd: int = 0
    """What messages cost that were sent. The house pays for them, and they are no requests."""

    @property
    def estimated_percent(self) -> float:
        """How much of the cost rests on estimated tokens; of the entries, where nothing cost anything."""
        part, whole = self.estimated_microusd, self.cost_microusd
        if not whole:
            part, whole = self.estimated, self.entries
        return round(100 * part / whole, 1) if whole else 0.0


_SUMS: tuple[ColumnElement[Any], ...] = (
    func.count(),
    func.sum(case((LedgerEntry.estimated, 1), else_=0)),
    func.sum(LedgerEntry.requests),
    func.sum(LedgerEntry.input_tokens),
    func.sum(LedgerEntry.output_tokens),
    func.sum(LedgerEntry.cached_tokens),
    func.sum(LedgerEntry.cost_microusd),
)


def by_day_and_model(provider: str, start: datetime, end: datetime) -> list[Entries]:
    """A provider's entries from `start` up to `end` (aware), by UTC day, model and source of prices."""
    keys = (_utc_day(), LedgerEntry.model, LedgerEntry.price_source)
    wanted = (
        select(*keys, *_SUMS)
        .where(
            LedgerEntry.provider == provider,
            # A channel may be called like a provider; no model wrote what it sent.
            LedgerEntry.operation != MESSAGE_SEND,
            LedgerEntry.created_at >= start,
            LedgerEntry.created_at < end,
        )
        .group_by(*keys)
        .order_by(*keys)
    )
    with reading() as connection:
        return [
            Entries(date.fromisoformat(str(day)), model, source, *(int(amount or 0) for amount in sums))
            for day, model, source, *sums in connection.execute(wanted)
        ]


def providers() -> list[str]:
    """The names of the providers that are in the ledger."""
    with reading() as connection:
        asked = select(LedgerEntry.provider).where(LedgerEntry.operation != MESSAGE_SEND)
        return list(connection.scalars(asked.distinct().order_by(LedgerEntry.provider)))


def summary(by: By, start: datetime) -> list[Summary]:
    """The entries from `start` (aware) on, dearest first; days in order."""
    keys: dict[By, tuple[ColumnElement[Any], ...]] = {
        By.PROVIDER: (LedgerEntry.provider.expression,),
        By.MODEL: (LedgerEntry.provider.expression, LedgerEntry.model.expression),
        By.DAY: (_utc_day(),),
    }
    key = keys[by]
    estimated_cost = func.sum(case((LedgerEntry.estimated, LedgerEntry.cost_microusd), else_=0))
    is_message = LedgerEntry.operation == MESSAGE_SEND
    by_house = and_(LedgerEntry.payer == HOUSE, ~is_message)
    of_house = (
        func.sum(case((by_house, LedgerEntry.requests), else_=0)),
        func.sum(case((by_house, LedgerEntry.cost_microusd), else_=0)),
        func.sum(case((is_message, LedgerEntry.cost_microusd), else_=0)),
    )
    wanted = (
        select(*key, LedgerEntry.price_source, estimated_cost, *of_house, *_SUMS)
        .where(LedgerEntry.created_at >= start)
        .group_by(*key, LedgerEntry.price_source)
        .order_by(*key, LedgerEntry.price_source)
    )
    rows: dict[str, Summary] = {}
    with reading() as connection:
        for values in connection.execute(wanted):
            name = "/".join(str(part) for part in values[: len(key)])
            source, *amounts = values[len(key) :]
            _add(rows.setdefault(name, Summary(name)), source, [int(amount or 0) for amount in amounts])
    if by is By.DAY:
        return list(rows.values())
    return sorted(rows.values(), key=lambda row: (-row.cost_microusd, row.name))


def _add(row: Summary, source: str, amounts: list[int]) -> None:
    estimated_cost, house_requests, house_cost, messages, entries, estimated, requests, read, written, cached, cost = amounts
    row.house_requests += house_requests
    row.house_microusd += house_cost
    row.messages_microusd += messages
    row.estimated_microusd += estimated_cost
    row.entries += entries
    row.estimated += estimated
    row.requests += requests
    row.input_tokens += read
    row.output_tokens += written
    row.cached_tokens += cached
    row.cost_microusd += cost
    row.sources[source] = row.sources.get(source, 0) + cost


def _utc_day() -> ColumnElement[Any]:
    """The UTC day of an entry. SQLite has times in UTC without saying so; PostgreSQL would take the session's zone."""
    if db.engine.dialect.name == "sqlite":
        return func.date(LedgerEntry.created_at)
    return func.date(func.timezone("UTC", LedgerEntry.created_at))
