"""What became of the requests that were made with a template: how many succeeded, and how people rated them."""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import dataclass

from sqlalchemy import select, union_all

from webapp.extensions import reading, table_of
from webapp.models import Request, RequestStatus, TemplateVersion

VERSIONS_MAX = 10
EACH_MAX = 200
_request, _version = table_of(Request), table_of(TemplateVersion)


@dataclass(frozen=True, slots=True)
class TemplateFigures:
    """Of the newest `EACH_MAX` requests of each of the last `VERSIONS_MAX` versions. `success_rate` is the share of those
    completed among those completed or failed, 0 to 1; None where there are none. `rating` is the mean of 1 to 5."""

    counted: int
    completed: int
    failed: int
    success_rate: float | None
    ratings: int
    rating: float | None


def figures(template_id: uuid.UUID) -> TemplateFigures:
    """The figures of a template that the caller may see. Two statements on indexes, whatever the number of requests."""
    newest = select(_version.c.id).where(_version.c.template_id == template_id).order_by(_version.c.number.desc())
    with reading() as connection:
        ids = connection.execute(newest.limit(VERSIONS_MAX)).scalars().all()
        parts = [
            select(
                select(_request.c.status, _request.c.rating)
                .where(_request.c.template_version_id == version_id)
                .order_by(_request.c.id.desc())
                .limit(EACH_MAX)
                .subquery()
            )
            for version_id in ids
        ]
        rows = connection.execute(union_all(*parts)).all() if parts else []
    states = Counter(row.status for row in rows)
    completed, failed = states[RequestStatus.COMPLETED], states[RequestStatus.FAILED]
    ratings = [row.rating for row in rows if row.rating is not None]
    return TemplateFigures(
        counted=len(rows),
        completed=completed,
        failed=failed,
        success_rate=round(completed / (completed + failed), 4) if completed + failed else None,
        ratings=len(ratings),
        rating=round(sum(ratings) / len(ratings), 2) if ratings else None,
    )
