"""The ledger summed up by the hour, so that charts over months cost as little as charts over a day.

Only hours that are over are in `hourly_stat`; of the hour that runs the ledger itself is asked. For those hours both say the
same: nothing is added to the ledger with a moment that is long past, and the last hours are summed up anew each time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, DateTime, Select, cast, delete, func, literal_column, select, text
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from webapp.extensions import now, reading, table_of, writing
from webapp.models import HourlyStat, LedgerEntry

HOUR = timedelta(hours=1)
LATE = 2 * HOUR
"""What is stored later than this after its moment is only found by `rebuild`."""
BUDGET_S = 2.0
"""Seconds after which one run of the scheduler stops: the sweep waits meanwhile."""
_STEP = timedelta(days=1)
_KEYS = ("organization_id", "channel", "operation", "provider", "model", "payer")
_SUMS = ("requests", "input_tokens", "output_tokens", "pictures", "cost_microusd", "credits_millicredits")

_stats, _ledger = table_of(HourlyStat), table_of(LedgerEntry)


@dataclass(slots=True)
class Rolled:
    """How many sums were written. `more`: the time was over before everything was done."""

    sums: int = 0
    more: bool = False


def run(begin_for_s: float | None = BUDGET_S) -> Rolled:
    """Sum up what is new since the last run, in days; it ends with the day that is under way after `begin_for_s` seconds, None
    for no such bound."""
    end = whole_hour(now())
    start = _first_hour(end)
    return _days(start, end, begin_for_s, anew=False) if start is not None else Rolled()


def rebuild(from_hour: datetime | None = None) -> Rolled:
    """Throw away the sums from an hour on (aware; None for all) and take them anew from the ledger."""
    end = whole_hour(now())
    with reading() as connection:
        oldest = _oldest_entry(connection, datetime(1970, 1, 1, tzinfo=UTC))
        first: datetime | None = connection.execute(select(func.min(HourlyStat.hour))).scalar()
    known = [whole_hour(moment) for moment in (oldest, first) if moment is not None]
    if from_hour is not None:
        known = [max(min(known), whole_hour(from_hour))] if known else []
    return _days(min(known), end, None, anew=True) if known else Rolled()


def whole_hour(moment: datetime) -> datetime:
    """The beginning of the UTC hour that a moment (aware) is in."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _first_hour(end: datetime) -> datetime | None:
    """From where to sum up: the last hour that is there, in any case the last two; the ledger's first if there is none."""
    with reading() as connection:
        last: datetime | None = connection.execute(select(func.max(HourlyStat.hour))).scalar()
        if last is not None:
            return min(last, end - LATE)
    return _next_hour(datetime(1970, 1, 1, tzinfo=UTC))


def _next_hour(moment: datetime) -> datetime | None:
    """The first hour from a moment on in which there is anything; None if there is none."""
    with reading() as connection:
        oldest = _oldest_entry(connection, moment)
    return None if oldest is None else whole_hour(oldest)


def _days(start: datetime, end: datetime, begin_for_s: float | None, *, anew: bool) -> Rolled:
    """Each day a transaction of its own, the oldest first: one that was interrupted goes on where it stopped."""
    rolled, days = Rolled(), 0
    until = None if begin_for_s is None else time.monotonic() + begin_for_s
    while start < end and not rolled.more:
        stop = min(start + _STEP, end)
        with writing() as connection:
            rolled.sums += _sum_up(connection, start, stop, anew=anew)
        # A time in which nothing was used is one step. What is thrown away may be anywhere.
        start = stop if anew else _next_hour(stop) or end
        days += 1
        # The first day may be one that was summed up before: with the second one every run gets on.
        rolled.more = start < end and days > 1 and until is not None and time.monotonic() > until
    return rolled


def _sum_up(connection: Connection, start: datetime, stop: datetime, *, anew: bool) -> int:
    if connection.dialect.name == "postgresql":
        # Of two runs at once the one that looked earlier must not have the last word. Readers do not wait.
        connection.execute(text("LOCK TABLE hourly_stat IN SHARE ROW EXCLUSIVE MODE"))
    if anew:
        connection.execute(delete(_stats).where(_stats.c.hour >= start, _stats.c.hour < stop))
    sums = _sums(connection, providers_in(connection), start, stop)
    insert: Any = sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert
    into = insert(_stats).from_select(("hour", *_KEYS, "calls", *_SUMS), sums)
    changed = {name: into.excluded[name] for name in ("calls", *_SUMS)}
    upsert = into.on_conflict_do_update(index_elements=["hour", *_KEYS], set_=changed)
    done = connection.execute(upsert.execution_options(preserve_rowcount=True))
    return int(done.rowcount)


def _sums(connection: Connection, providers: Sequence[str], start: datetime, stop: datetime) -> Select[*tuple[Any, ...]]:
    """The sums of the hours from `start` up to `stop`. The providers are named for the index on provider and moment."""
    hour: Any
    if connection.dialect.name == "sqlite":
        # As SQLAlchemy writes times there: text, in UTC.
        hour = func.substr(_ledger.c.created_at, 1, 13).op("||")(literal_column("':00:00.000000'"))
    else:
        hour = cast(func.date_trunc("hour", _ledger.c.created_at, "UTC"), DateTime(timezone=True))
    keys = [hour, *(_ledger.c[name] for name in _KEYS)]
    return (
        select(*keys, func.count(), *(func.sum(_ledger.c[name]) for name in _SUMS))
        .where(_ledger.c.provider.in_(providers), _ledger.c.created_at >= start, _ledger.c.created_at < stop)
        .group_by(*(literal_column(str(number)) for number in range(1, len(keys) + 1)))
    )


def providers_in(connection: Connection) -> list[str]:
    """The providers in the ledger, each by one step in the index: `DISTINCT` would read the whole of it."""
    found: list[str] = []
    least = select(func.min(_ledger.c.provider))
    name = connection.execute(least).scalar()
    while name is not None:
        found.append(name)
        name = connection.execute(least.where(_ledger.c.provider > name)).scalar()
    return found


def _oldest_entry(connection: Connection, since: datetime) -> datetime | None:
    oldest = select(func.min(LedgerEntry.created_at)).where(LedgerEntry.created_at >= since)
    moments = [connection.execute(oldest.where(LedgerEntry.provider == name)).scalar() for name in providers_in(connection)]
    return min((moment for moment in moments if moment is not None), default=None)
