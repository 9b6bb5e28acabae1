"""What was used in a time, by day, provider, model, operation and channel: hours that are over from their sums, the others from
the ledger. What the house paid for itself is told apart."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, String, cast, func, literal_column, select

from webapp.extensions import table_of
from webapp.models import HourlyStat, LedgerEntry
from webapp.services import rollups

KEYS = ("day", "provider", "model", "operation", "channel", "payer")
SUMS = ("requests", "input_tokens", "output_tokens", "cost_microusd")
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_hour, _ledger = table_of(HourlyStat), table_of(LedgerEntry)


@dataclass(frozen=True, slots=True)
class Line:
    """What was used on a day (UTC, in ISO form) of one model, for one operation, by one channel. `payer`: person or house."""

    day: str
    provider: str
    model: str
    operation: str
    channel: str
    payer: str
    requests: int
    input_tokens: int
    output_tokens: int
    cost_microusd: int


@dataclass(frozen=True, slots=True)
class Total:
    """What people used in a time, without what the house did for itself."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_microusd: int = 0


def lines(connection: Connection, since: datetime, at: datetime, organization_id: uuid.UUID | None = None) -> Iterator[Line]:
    """Everything from `since`, the beginning of an hour, until `at`; of one organization, or of all. The same keys may come
    twice: from the hours and from the ledger."""
    end = summed_until(connection, since, at)
    for table, moment, when in _parts(connection, since, end, organization_id):
        keys = [day_of(connection, moment), *(table.c[name] for name in KEYS[1:])]
        query = select(*keys, *(func.sum(table.c[name]) for name in SUMS)).where(*when).group_by(*keys)
        for row in connection.execute(query):
            yield Line(*row[: len(KEYS)], *(int(value) for value in row[len(KEYS) :]))


def total(connection: Connection, since: datetime, at: datetime, organization_id: uuid.UUID | None = None) -> Total:
    """What people used from `since`, the beginning of an hour, until `at`; of one organization, or of all."""
    found = [0] * len(SUMS)
    for table, _, when in _parts(connection, since, summed_until(connection, since, at), organization_id):
        query = select(*(func.coalesce(func.sum(table.c[name]), 0) for name in SUMS)).where(*when, table.c.payer == "person")
        found = [known + int(value) for known, value in zip(found, connection.execute(query).one(), strict=True)]
    return Total(*found)


def summed_until(connection: Connection, since: datetime, at: datetime) -> datetime:
    """Up to which moment the sums of hours can be relied on; not before `since`."""
    last: datetime | None = connection.execute(select(func.max(_hour.c.hour))).scalar()
    if last is None:
        return since
    # Of the last ones more may have come in since they were summed up.
    return max(since, min(last + rollups.HOUR, rollups.whole_hour(at) - rollups.LATE))


def day_of(connection: Connection, moment: ColumnElement[Any]) -> ColumnElement[Any]:
    """The UTC day of a moment as text: each database has its own way. There are no parameters in it: PostgreSQL would not take
    it for the same in what is selected and in what is grouped by."""
    if connection.dialect.name == "sqlite":
        # As SQLAlchemy writes times there: text, in UTC.
        return func.substr(cast(moment, String), literal_column("1"), literal_column("10"))
    return func.to_char(func.timezone(literal_column("'UTC'"), moment), literal_column("'YYYY-MM-DD'"))


def _parts(
    connection: Connection, since: datetime, end: datetime, organization_id: uuid.UUID | None
) -> Iterator[tuple[Any, ColumnElement[Any], list[ColumnElement[bool]]]]:
    """Each table with its column of time and the condition under which it tells."""
    for table, moment, first, last in ((_hour, _hour.c.hour, since, end), (_ledger, _ledger.c.created_at, end, None)):
        when: list[ColumnElement[bool]] = [moment >= first]
        if last is not None:
            when.append(moment < last)
        if organization_id is not None:
            when.append(table.c.organization_id == organization_id)
        elif table is _ledger:
            # Named for the index on provider and moment.
            when.append(table.c.provider.in_(rollups.providers_in(connection)))
        yield table, moment, when
