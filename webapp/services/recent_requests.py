"""How the newest requests went: what no sum by the hour says, such as how many succeeded, how long they took and what they were
about. At most `COUNTED_MAX` of the last `SPAN` are read, by one statement on an index, however many there are."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select

from webapp.extensions import table_of
from webapp.models import Request, RequestStatus

SPAN = timedelta(days=30)
COUNTED_MAX = 5_000
UNSORTED = "unsorted"
"""Stands for the category of requests that were not sorted."""
_request = table_of(Request)
_COLUMNS = (
    "person_id",
    "status",
    "operation",
    "category",
    "error_code",
    "cached",
    "quality",
    "rating",
    "created_at",
    "started_at",
    "ended_at",
)


@dataclass(frozen=True, slots=True)
class Recent:
    """Figures of some requests. Rates are shares from 0 to 1, times are seconds from the beginning of an answer to its end;
    None where there is nothing to reckon with."""

    counted: int = 0
    since: datetime | None = None
    """When the oldest of them was made."""
    complete: bool = True
    """Whether they are all of the time; False where there were more than are counted."""
    statuses: dict[str, int] = field(default_factory=dict)
    success_rate: float | None = None
    """Completed among those completed or failed."""
    mean_s: float | None = None
    p95_s: float | None = None
    mean_wait_s: float | None = None
    """From being asked to being begun."""
    cached: int = 0
    categories: dict[str, int] = field(default_factory=dict)
    operations: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    """Error code -> requests that failed or were rejected with it."""
    ratings: dict[int, int] = field(default_factory=dict)
    rating: float | None = None
    quality: float | None = None


@dataclass(frozen=True, slots=True)
class OfPerson:
    """How the newest requests of one person went."""

    person_id: uuid.UUID
    recent: Recent


def newest(
    connection: Connection, at: datetime, *, organization_id: uuid.UUID | None = None, person_id: uuid.UUID | None = None
) -> Sequence[Any]:
    """The newest requests of a person, of an organization, of a person there, or of all."""
    when = [_request.c.id >= uuid.UUID(int=int((at - SPAN).timestamp() * 1000) << 80)]
    if organization_id is not None:
        when.append(_request.c.organization_id == organization_id)
    if person_id is not None:
        when.append(_request.c.person_id == person_id)
    columns = [_request.c[name] for name in _COLUMNS]
    return connection.execute(select(*columns).where(*when).order_by(_request.c.id.desc()).limit(COUNTED_MAX)).all()


def figures(rows: Sequence[Any], *, complete: bool | None = None) -> Recent:
    """The figures of these requests, which are in the order of `newest`."""
    statuses = Counter(row.status for row in rows)
    completed, failed = statuses[RequestStatus.COMPLETED], statuses[RequestStatus.FAILED]
    took = sorted(_seconds(row.started_at, row.ended_at) for row in rows if _answered(row))
    waited = [_seconds(row.created_at, row.started_at) for row in rows if row.started_at is not None]
    ratings = [row.rating for row in rows if row.rating is not None]
    return Recent(
        counted=len(rows),
        since=rows[-1].created_at if rows else None,
        complete=len(rows) < COUNTED_MAX if complete is None else complete,
        statuses=dict(statuses.most_common()),
        success_rate=round(completed / (completed + failed), 4) if completed + failed else None,
        mean_s=_mean(took, 3),
        # The nearest rank: the shortest time that 95 percent of them did not pass.
        p95_s=round(took[-(-len(took) * 95 // 100) - 1], 3) if took else None,
        mean_wait_s=_mean(waited, 3),
        cached=sum(1 for row in rows if row.cached),
        categories=dict(Counter(row.category or UNSORTED for row in rows).most_common()),
        operations=dict(Counter(row.operation for row in rows).most_common()),
        failures=dict(Counter(row.error_code for row in rows if row.error_code).most_common()),
        ratings={stars: ratings.count(stars) for stars in range(1, 6)},
        rating=_mean(ratings, 2),
        quality=_mean([row.quality for row in rows if row.quality is not None], 4),
    )


def by_person(rows: Sequence[Any], most: int) -> list[OfPerson]:
    """The people with the most of these requests, each with their own figures."""
    complete, mine = len(rows) < COUNTED_MAX, dict[uuid.UUID, list[Any]]()
    for row in rows:
        mine.setdefault(row.person_id, []).append(row)
    busiest = sorted(mine, key=lambda person_id: (-len(mine[person_id]), person_id))[:most]
    return [OfPerson(person_id, figures(mine[person_id], complete=complete)) for person_id in busiest]


def _answered(row: Any) -> bool:
    return row.status == RequestStatus.COMPLETED and row.started_at is not None and row.ended_at is not None


def _seconds(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds())


def _mean(values: Iterable[float], digits: int) -> float | None:
    found = list(values)
    return round(sum(found) / len(found), digits) if found else None
