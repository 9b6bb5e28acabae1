"""Stop a request that somebody no longer wants."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import Connection, insert, select, update

from webapp.contracts.errors import Conflict, NotFound
from webapp.extensions import now, retried, writing
from webapp.models import ENDED, AuditEntry, Request, RequestStatus
from webapp.models.columns import new_id
from webapp.pipeline import stream, webhooks
from webapp.pipeline.endings import Ending
from webapp.pipeline.settle import Settled, after_commit, settle_within


def cancel(request_id: uuid.UUID, person_id: uuid.UUID) -> str:
    """Cancel a person's request; returns its status now.

    One that waits ends at once, uncharged. One that runs is asked to stop, and ends at its next piece, charged for what was
    produced. `NotFound` if it is not theirs, `Conflict` if it has ended already.
    """

    webhooks.look()

    def work() -> Settled | None:
        with writing() as connection:
            query = select(Request.status).where(Request.id == request_id, Request.person_id == person_id)
            status = connection.execute(query.with_for_update(key_share=True)).scalar()
            return _end(connection, request_id, status, now())

    return _tell(request_id, retried(work))


def cancel_any(request_id: uuid.UUID, actor: str, actor_id: uuid.UUID | None = None) -> str:
    """Cancel anybody's request, for an administrator; returns its status now. It is entered in the audit log, for the
    organization's managers too. `NotFound` if there is none, `Conflict` if it has ended already. Nothing else is asked: who
    may do this is the caller's business."""

    webhooks.look()

    def work() -> Settled | None:
        at = now()
        with writing() as connection:
            query = select(Request.status, Request.organization_id, Request.person_id).where(Request.id == request_id)
            row = connection.execute(query.with_for_update(key_share=True)).first()
            settled = _end(connection, request_id, row.status if row else None, at)
            assert row is not None, "_end raises for one that is not there"
            entry = {
                "id": new_id(),
                "actor": actor,
                "actor_id": actor_id,
                "action": "request.cancel",
                "subject": f"request:{request_id}",
                "organization_id": row.organization_id,
                "detail": {"person": str(row.person_id), "was": row.status},
                "created_at": at,
            }
            connection.execute(insert(AuditEntry), entry)
        return settled

    return _tell(request_id, retried(work))


_ENDING = Ending(RequestStatus.CANCELLED, error_code="cancelled")


def _end(connection: Connection, request_id: uuid.UUID, status: str | None, at: datetime) -> Settled | None:
    """End it if it waits; None if it runs, and has been marked to be stopped.

    `status` is that of the locked row: otherwise the request could be put back to the queue, taken or ended in between.
    """
    if status is None:
        raise NotFound("There is no such request.")
    if status in ENDED:
        raise Conflict("This request has ended already.")
    this = update(Request).where(Request.id == request_id)
    if status != RequestStatus.QUEUED:
        connection.execute(this.values(cancel_asked_at=at))
        return None
    claim = new_id()
    connection.execute(this.values(status=RequestStatus.PROCESSING, claim=claim, started_at=at))
    return settle_within(connection, request_id, claim, _ENDING, at, by="cancel")


def _tell(request_id: uuid.UUID, settled: Settled | None) -> str:
    """After the commit: tell the execution, or those who wait for the answer."""
    if settled is None:
        stream.ask_to_stop(request_id)
        return RequestStatus.PROCESSING
    after_commit(request_id, settled, _ENDING)
    stream.publish_end(request_id, RequestStatus.CANCELLED)
    return RequestStatus.CANCELLED
