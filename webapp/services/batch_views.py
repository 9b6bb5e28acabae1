"""How batches are doing: the list, and one batch with its counts.

What became of rows is in their requests. Rows that are not requests yet are counted as what is left of the total, so that the
counts add up at every moment, also between a request's admission and the mark in its row.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, func, select

from webapp.extensions import now, reading
from webapp.models import Batch, BatchRow, BatchStatus, Person, Request, RequestStatus, RowState
from webapp.services.batches import Viewer, find, manages

PAGE_BATCHES = 30
_RATE_S = 120.0
"""The pace is that of the last two minutes."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows by what became of them; together they are `total`. Cost in micro-dollars; `lately` ended in the last two minutes."""

    total: int
    waiting: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    refused: int = 0
    cancelled: int = 0
    in_review: int = 0
    cost_microusd: int = 0
    lately: int = 0

    @property
    def ended(self) -> int:
        return self.completed + self.failed + self.refused + self.cancelled

    @property
    def left(self) -> int:
        return self.total - self.ended

    @property
    def percent(self) -> int:
        """How much has ended, rounded down: 100 is only said when nothing is left."""
        return 100 * self.ended // self.total if self.total else 100


@dataclass(frozen=True, slots=True)
class BatchLine:
    """A line of the list. `counts` is None for a batch that does not run, or not any more."""

    id: uuid.UUID
    name: str
    owner: str
    mine: bool
    status: str
    total: int
    created_at: datetime
    counts: Counts | None


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch as it is at a moment. `mine` is whether the viewer may read what is in it; `own` whether it is their very own."""

    id: uuid.UUID
    name: str
    owner: str
    mine: bool
    own: bool
    template: str | None
    model: str
    columns: tuple[str, ...]
    status: str
    likely_microusd: int
    most_microusd: int
    pause_reason: str | None
    resume_at: datetime | None
    created_at: datetime
    confirmed_at: datetime | None
    ended_at: datetime | None
    counts: Counts
    at: datetime

    @property
    def moving(self) -> bool:
        """Whether it changes by itself: it runs, goes on by itself, or its last requests are coming to their ends."""
        return self.status == BatchStatus.RUNNING or bool(self.counts.running) or self.resume_at is not None

    @property
    def stopping(self) -> bool:
        """Cancelled or paused, and requests are still under way."""
        return self.status in (BatchStatus.CANCELLED, BatchStatus.PAUSED) and bool(self.counts.running)

    @property
    def per_minute(self) -> float | None:
        """Rows that end in a minute at the present pace; None while that cannot be said."""
        if self.status != BatchStatus.RUNNING or self.confirmed_at is None or not self.counts.lately:
            return None
        span_s = min(_RATE_S, max(1.0, (self.at - self.confirmed_at).total_seconds()))
        return self.counts.lately * 60 / span_s

    @property
    def ends_at(self) -> datetime | None:
        """When it will have ended at this pace."""
        pace = self.per_minute
        if not pace or not self.counts.left:
            return None
        return self.at + timedelta(minutes=min(self.counts.left / pace, 60 * 24 * 365))


def view(viewer: Viewer, batch_id: uuid.UUID) -> BatchView:
    """The batch as it is now; `NotFound` if the viewer may not see it."""
    at = now()
    with reading() as connection:
        found = find(connection, viewer, batch_id)
        row = found.row
        counts = _counts(connection, {row.id: row.total}, at, cost=True)[row.id]
        owner = connection.execute(select(Person.full_name, Person.email).where(Person.id == row.person_id)).one()
    return BatchView(
        id=row.id,
        name=row.name,
        owner=owner.full_name or owner.email or str(row.person_id),
        mine=found.mine,
        own=viewer.owns(row),
        template=row.template if found.mine else None,
        model=row.parameters.get("model", ""),
        columns=tuple(row.parameters.get("columns", ())) if found.mine else (),
        status=row.status,
        likely_microusd=row.likely_microusd,
        most_microusd=row.most_microusd,
        pause_reason=row.pause_reason,
        resume_at=row.resume_at,
        created_at=row.created_at,
        confirmed_at=row.confirmed_at,
        ended_at=row.ended_at,
        counts=counts,
        at=at,
    )


def sees_others(viewer: Viewer) -> bool:
    """Whether there are other people's batches for them to see."""
    if viewer.admin:
        return True
    with reading() as connection:
        return manages(connection, viewer)


def lines(
    viewer: Viewer,
    *,
    everybody: bool = False,
    person_id: uuid.UUID | None = None,
    before: uuid.UUID | None = None,
    size: int = PAGE_BATCHES,
) -> list[BatchLine]:
    """Batches, the newest first; `before` is the last id of the page before. One's own, or with `everybody` all that one may
    see, and of these with `person_id` one person's."""
    at = now()
    query = (
        select(
            Batch.id,
            Batch.name,
            Batch.person_id,
            Batch.organization_id,
            Batch.status,
            Batch.total,
            Batch.created_at,
            Person.full_name,
            Person.email,
        )
        .join(Person, Person.id == Batch.person_id)
        .order_by(Batch.id.desc())
        .limit(size)
    )
    if before is not None:
        query = query.where(Batch.id < before)
    with reading() as connection:
        query = query.where(*_seen(connection, viewer, everybody=everybody, person_id=person_id))
        rows: Sequence[Any] = connection.execute(query).all()
        under_way = {row.id: row.total for row in rows if row.status in (BatchStatus.RUNNING, BatchStatus.PAUSED)}
        counts = _counts(connection, under_way, at, cost=False)
    return [
        BatchLine(
            row.id,
            row.name,
            row.full_name or row.email or str(row.person_id),
            viewer.admin or viewer.owns(row),
            row.status,
            row.total,
            row.created_at,
            counts.get(row.id),
        )
        for row in rows
    ]


def count(viewer: Viewer, *, everybody: bool = False) -> int:
    """How many batches `lines` has in all."""
    with reading() as connection:
        query = select(func.count()).select_from(Batch).where(*_seen(connection, viewer, everybody=everybody))
        return connection.execute(query).scalar_one()


def _seen(
    connection: Connection, viewer: Viewer, *, everybody: bool, person_id: uuid.UUID | None = None
) -> list[ColumnElement[bool]]:
    found = []
    if person_id is not None:
        found.append(Batch.person_id == person_id)
    if viewer.person_id is not None and not (everybody and (viewer.admin or manages(connection, viewer))):
        found.append(Batch.person_id == viewer.person_id)
    if viewer.organization_id is not None and not (everybody and viewer.admin):
        found.append(Batch.organization_id == viewer.organization_id)
    return found


_KINDS = {
    RequestStatus.QUEUED: "waiting",
    RequestStatus.PROCESSING: "running",
    RequestStatus.AWAITING_REVIEW: "in_review",
    RequestStatus.COMPLETED: "completed",
    RequestStatus.FAILED: "failed",
    RequestStatus.REJECTED: "refused",
    RequestStatus.CANCELLED: "cancelled",
}


def _counts(connection: Connection, totals: dict[uuid.UUID, int], at: datetime, *, cost: bool) -> dict[uuid.UUID, Counts]:
    """The counts of batches, whose totals are given. Without `cost` the indexes alone answer."""
    if not totals:
        return {}
    sums: list[Any] = [func.count()]
    if cost:
        lately = case((Request.ended_at >= at - timedelta(seconds=_RATE_S), 1), else_=0)
        sums += [func.coalesce(func.sum(Request.cost_microusd), 0), func.coalesce(func.sum(lately), 0)]
    requests = (
        select(Request.batch_id, Request.status, *sums)
        .where(Request.batch_id.in_(totals), Request.batch_id.is_not(None))
        .group_by(Request.batch_id, Request.status)
    )
    refused = (
        select(BatchRow.batch_id, func.count())
        .where(BatchRow.batch_id.in_(totals), BatchRow.state == RowState.REFUSED)
        .group_by(BatchRow.batch_id)
    )
    found: dict[uuid.UUID, dict[str, int]] = {batch_id: {} for batch_id in totals}
    for batch_id, status, *numbers in connection.execute(requests):
        of = found[batch_id]
        kind = _KINDS[RequestStatus(status)]
        for name, number in zip((kind, "cost_microusd", "lately"), numbers, strict=False):
            of[name] = of.get(name, 0) + int(number)
    for batch_id, number in connection.execute(refused):
        found[batch_id]["refused"] = found[batch_id].get("refused", 0) + number
    return {batch_id: _whole(totals[batch_id], of) for batch_id, of in found.items()}


def _whole(total: int, of: dict[str, int]) -> Counts:
    begun = sum(number for name, number in of.items() if name not in ("cost_microusd", "lately"))
    return Counts(total, **(of | {"waiting": of.get("waiting", 0) + max(0, total - begun)}))
