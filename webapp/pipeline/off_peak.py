"""Work that waits for a vendor's cheaper hours: begun when they come, and put off or begun earlier when the hours change.

The sweep would find what is due, too. Here it is put into the queues in order, the most urgent first, and counted; and here
the hours are looked at again, because whoever admitted a request only knew those of that moment.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from flask import current_app
from sqlalchemy import ColumnElement, and_, select, update

from webapp import queues
from webapp.extensions import current_settings, now, queue_redis, reading, writing
from webapp.models import Request, RequestStatus, unfinished
from webapp.pipeline.timing import job_timeout_s
from webapp.registry import current_registry
from webapp.routing import vendors

log = logging.getLogger(__name__)

_BATCH = 5000
_KEY = "switchhook.off_peak"


@dataclass(frozen=True, slots=True)
class Released:
    """How many requests were begun because their hours have come, and how many got another moment to wait for."""

    released: int = 0
    moved: int = 0


@dataclass(slots=True)
class _Seen:
    """What this process looked at last: the revision of the settings, and up to which moment it has released."""

    revision: int = -1
    until: datetime | None = None


def release() -> Released:
    """Put what has waited long enough into the queues. Runs every few seconds; two at once do no harm."""
    seen: _Seen = current_app.extensions.setdefault(_KEY, _Seen())
    revision = vendors.current().revision
    at = now()
    moved = 0
    if revision != seen.revision:
        moved = _look_again(at)
        seen.revision = revision
    # What came due while nobody ran is found by the sweep.
    after = seen.until or at - timedelta(seconds=2 * current_settings().sweep_s)
    seen.until = at
    found = Released(_release(after, at), moved)
    if found.released or found.moved:
        log.info("off-peak: %s", found)
    return found


def _waiting() -> ColumnElement[bool]:
    """Requests that wait for cheaper hours. One that was tried before waits for its next try, which is another matter."""
    return and_(
        Request.status == RequestStatus.QUEUED,
        unfinished(),
        Request.not_before.is_not(None),
        Request.attempts == 0,
    )


def _release(after: datetime, until: datetime) -> int:
    with reading() as connection:
        rows: Any = connection.execute(
            select(Request.id, Request.queue, Request.operation)
            .where(_waiting(), Request.not_before > after, Request.not_before <= until)
            .order_by(Request.priority.desc(), Request.id)
            .limit(_BATCH)
        ).all()
    released = 0
    for (queue, operation), some in groupby(rows, key=lambda row: (row.queue, row.operation)):
        ids = [str(row.id) for row in some]
        if not queues.put(queue_redis(), queues.EXECUTE, ids, queue, job_timeout_s(operation)):
            break  # Redis is away: the sweep finds them
        released += len(ids)
    return released


def _look_again(at: datetime) -> int:
    """Give those that wait the moment that the hours of today's settings say."""
    with reading() as connection:
        rows: Any = connection.execute(
            select(Request.held_provider, Request.not_before)
            .where(_waiting(), Request.not_before > at, Request.held_provider.is_not(None))
            .distinct()
        ).all()
    moved = 0
    for name, not_before in rows:
        over_at = _over_at(name, at)
        if over_at != not_before:
            moved += _move(name, not_before, over_at)
    return moved


def _over_at(name: str, at: datetime) -> datetime:
    """When a provider's dear hours are over: `at` itself outside of them, and for one that serves nobody any more."""
    providers = current_registry().any_provider(name)
    if not providers or not vendors.known().vendor(name).enabled:
        return at
    return vendors.peak_hours(providers[0]).over_at(at)


def _move(name: str, before: datetime, after: datetime) -> int:
    put_off = after + timedelta(hours=current_settings().queue_max_h)
    with writing() as connection:
        these = (_waiting(), Request.held_provider == name, Request.not_before == before)
        connection.execute(update(Request).where(*these, Request.expires_at.is_not(None)).values(expires_at=put_off))
        return connection.execute(update(Request).where(*these).values(not_before=after)).rowcount
