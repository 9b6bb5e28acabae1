"""How providers did in the last hour, by the calls that were made for requests: one statement for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Integer, and_, case, cast, extract, func, select

from webapp.extensions import now
from webapp.models import Attempt

SPAN = timedelta(hours=1)
_ERROR_CHARS = 300


@dataclass(frozen=True, slots=True)
class Live:
    """The calls of the last hour. Times are those of calls that were answered, in milliseconds; None where there were none."""

    calls: int = 0
    failures: int = 0
    p50_ms: int | None = None
    p95_ms: int | None = None
    first_piece_p50_ms: int | None = None
    last_error: str = ""
    last_error_at: datetime | None = None

    @property
    def error_rate(self) -> float:
        """The share of the calls that failed, 0 to 1; 0 where there were none."""
        return self.failures / self.calls if self.calls else 0.0


def live_of(connection: Connection, names: Iterable[str]) -> dict[str, Live]:
    """The last hour of these providers; those without a call are left out."""
    ranked = _ranked(connection, list(names)).subquery()
    good, bad = ranked.c.outcome == "completed", ranked.c.outcome == "failed"

    def at(percent: int, rank: ColumnElement[Any], of: ColumnElement[Any], value: ColumnElement[Any]) -> ColumnElement[Any]:
        # The nearest rank: the smallest time that so many percent of the calls did not pass.
        return func.max(case((and_(good, value.is_not(None), rank == (of * percent + 99) // 100), value)))

    latest = and_(bad, ranked.c.by_end == 1)
    query = select(
        ranked.c.provider,
        func.count().label("calls"),
        func.sum(case((bad, 1), else_=0)).label("failures"),
        at(50, ranked.c.by_ms, ranked.c.answers, ranked.c.ms).label("p50"),
        at(95, ranked.c.by_ms, ranked.c.answers, ranked.c.ms).label("p95"),
        at(50, ranked.c.by_first, ranked.c.begun, ranked.c.first_piece_ms).label("first"),
        func.max(case((latest, ranked.c.error_code))).label("code"),
        func.max(case((latest, ranked.c.detail))).label("detail"),
        func.max(case((latest, ranked.c.ended_at)), type_=Attempt.ended_at.type).label("ended_at"),
    ).group_by(ranked.c.provider)
    return {
        row.provider: Live(
            calls=row.calls,
            failures=int(row.failures),
            p50_ms=row.p50,
            p95_ms=row.p95,
            first_piece_p50_ms=row.first,
            last_error=((row.detail or row.code or "")[:_ERROR_CHARS]),
            last_error_at=row.ended_at,
        )
        for row in connection.execute(query)
    }


def _ranked(connection: Connection, names: list[str]) -> Any:
    """Each call with its place among those of its provider and outcome: by length, by first piece, by age."""
    ms = _milliseconds(connection)
    alike = (Attempt.provider, Attempt.outcome)
    began = Attempt.first_piece_ms.is_(None)
    return select(
        Attempt.provider,
        Attempt.outcome,
        Attempt.ended_at,
        Attempt.error_code,
        Attempt.detail,
        Attempt.first_piece_ms,
        ms.label("ms"),
        func.count().over(partition_by=alike).label("answers"),
        func.count(Attempt.first_piece_ms).over(partition_by=alike).label("begun"),
        func.row_number().over(partition_by=alike, order_by=(ms, Attempt.id)).label("by_ms"),
        func.row_number().over(partition_by=(*alike, began), order_by=(Attempt.first_piece_ms, Attempt.id)).label("by_first"),
        func.row_number().over(partition_by=alike, order_by=(Attempt.ended_at.desc(), Attempt.id.desc())).label("by_end"),
    ).where(Attempt.provider.in_(names), Attempt.ended_at >= now() - SPAN)


def _milliseconds(connection: Connection) -> ColumnElement[int]:
    """How long a call took: each database has its own way to subtract moments."""
    if connection.dialect.name == "sqlite":
        days = func.julianday(Attempt.ended_at) - func.julianday(Attempt.started_at)
        return cast(func.round(days * 86_400_000), Integer)
    return cast(func.round(extract("epoch", Attempt.ended_at - Attempt.started_at) * 1000), Integer)
