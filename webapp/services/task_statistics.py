"""What became of the requests of a time: how many, how they ended, how long they took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, extract, func, select

from webapp.contracts.errors import BadInput
from webapp.extensions import now, reading
from webapp.models import ENDED, Request, RequestStatus
from webapp.services import request_lists
from webapp.services.request_lists import Filters, Scope

RANGE_MAX = timedelta(days=366)
_USUAL = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class TaskSums:
    """The requests of a time. Where there are more than `request_lists.LOOKED_MAX`, it is about the newest of them, and
    `complete` is False. `success_rate` (0 to 1) is of those that ended otherwise than cancelled; times are in seconds, from
    beginning to end. What there is nothing to say about is None."""

    created_from: datetime
    created_to: datetime
    complete: bool
    total: int
    by_status: Mapping[str, int]
    by_category: Mapping[str, int]
    by_operation: Mapping[str, int]
    success_rate: float | None
    mean_s: float | None
    input_tokens: int
    output_tokens: int
    cost_microusd: int


def sums(scope: Scope, created_from: datetime | None = None, created_to: datetime | None = None) -> TaskSums:
    """The sums of a range of time, without one of the last 30 days. `BadInput` for a range that is none, or is too long."""
    end = created_to or now()
    try:
        start = created_from or end - _USUAL
    except OverflowError:
        raise BadInput("created_to", "This is no time in which there could be requests.") from None
    if start >= end:
        raise BadInput("created_from", "The range has to begin before it ends.")
    if end - start > RANGE_MAX:
        raise BadInput("created_from", f"A range has at most {RANGE_MAX.days} days.")
    with reading() as connection:
        conditions, complete = request_lists.newest(connection, scope, Filters(created_from=start, created_to=end))
        rows: Sequence[Any] = connection.execute(_sums(connection).where(*conditions)).all()
    by_status = {status.value: 0 for status in RequestStatus} | _counted(rows, "status")
    ended = sum(by_status[status] for status in ENDED if status is not RequestStatus.CANCELLED)
    timed = sum(row.timed for row in rows)
    return TaskSums(
        created_from=start,
        created_to=end,
        complete=complete,
        total=sum(row.requests for row in rows),
        by_status=by_status,
        by_category=_counted(rows, "category"),
        by_operation=_counted(rows, "operation"),
        success_rate=round(by_status[RequestStatus.COMPLETED] / ended, 4) if ended else None,
        mean_s=round(sum(float(row.took_s or 0) for row in rows) / timed, 3) if timed else None,
        input_tokens=sum(int(row.input_tokens) for row in rows),
        output_tokens=sum(int(row.output_tokens) for row in rows),
        cost_microusd=sum(int(row.cost_microusd) for row in rows),
    )


def _sums(connection: Connection) -> Select[Any]:
    """Sums by status, category and operation."""
    groups: tuple[Any, ...] = (Request.status, Request.category, Request.operation)
    if connection.dialect.name == "sqlite":
        took_s: ColumnElement[Any] = (func.julianday(Request.ended_at) - func.julianday(Request.started_at)) * 86_400
    else:
        took_s = extract("epoch", Request.ended_at - Request.started_at)
    figures = [func.sum(column).label(column.key) for column in (Request.input_tokens, Request.output_tokens)]
    return select(
        *groups,
        func.count().label("requests"),
        func.count(took_s).label("timed"),
        func.sum(took_s).label("took_s"),
        *figures,
        func.sum(Request.cost_microusd).label("cost_microusd"),
    ).group_by(*groups)


def _counted(rows: Sequence[Any], name: str) -> dict[str, int]:
    found: Counter[str] = Counter()
    for row in rows:
        if (value := getattr(row, name)) is not None:
            found[value] += row.requests
    return dict(found)
