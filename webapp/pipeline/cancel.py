"""Stop a request that somebody no longer wants."""

from __future__ import annotations

import uuid

from sqlalchemy import select, update

from webapp.contracts.errors import Conflict, NotFound
from webapp.extensions import now, writing
from webapp.models import ENDED, Request, RequestStatus
from webapp.models.columns import new_id
from webapp.pipeline import stream
from webapp.pipeline.endings import Ending
from webapp.pipeline.settle import Settled, after_commit, settle_within


def cancel(request_id: uuid.UUID, person_id: uuid.UUID) -> str:
    """Cancel a person's request; returns its status now.

    One that waits ends at once, uncharged. One that runs is asked to stop, and ends at its next piece, charged for what was
    produced. `NotFound` if it is not theirs, `Conflict` if it has ended already.
    """
    at = now()
    ending = Ending(RequestStatus.CANCELLED, error_code="cancelled")
    settled: Settled | None = None
    with writing() as connection:
        status = connection.execute(
            select(Request.status).where(Request.id == request_id, Request.person_id == person_id)
        ).scalar()
        if status is None:
            raise NotFound("There is no such request.")
        if status in ENDED:
            raise Conflict("This request has ended already.")
        claim = new_id()
        taken = connection.execute(
            update(Request)
            .where(Request.id == request_id, Request.status == RequestStatus.QUEUED)
            .values(status=RequestStatus.PROCESSING, claim=claim, started_at=at)
        )
        if taken.rowcount == 1:
            settled = settle_within(connection, request_id, claim, ending, at)
        else:
            connection.execute(update(Request).where(Request.id == request_id).values(cancel_asked_at=at))
    if settled is None:
        stream.ask_to_stop(request_id)
        return RequestStatus.PROCESSING
    after_commit(request_id, settled, ending)
    stream.publish_end(request_id, RequestStatus.CANCELLED)
    return RequestStatus.CANCELLED
