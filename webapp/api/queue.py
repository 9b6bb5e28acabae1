"""The queues for programs: all of them for administrators, one's own wait for everybody."""

from __future__ import annotations

import uuid
from datetime import datetime

from flask import Response
from pydantic import Field

from webapp.api import access
from webapp.api.base import ApiModel, answer, area
from webapp.models import PersonRole
from webapp.services import queue_status, waiting
from webapp.services.queue_status import MinuteLine, QueueLine, RequestLine
from webapp.services.workers import WorkerSign

blueprint = area("queue", "Queue", "What waits, what runs, and who works.")


class RequestPath(ApiModel):
    """The address of a request."""

    request_id: uuid.UUID


class Wait(ApiModel):
    """How long a request will probably wait."""

    position: int | None = Field(description="How many are before it; null where that is not known.")
    seconds: float | None = Field(description="About how long it will wait; null where that is not known.")
    reason: str | None = Field(description="Why one of them is not known.")
    words: str = Field(description="The same for people.")


class QueueState(ApiModel):
    """The queues as they are at a moment."""

    at: datetime
    redis: bool = Field(description="False: Redis is away, and what it alone knows is missing.")
    suspended: bool = Field(description="The workers were told to take nothing.")
    queues: list[QueueLine]
    running: list[RequestLine]
    running_total: int
    waiting: list[RequestLine] = Field(description="Those that are next.")
    workers: list[WorkerSign]
    minutes: list[MinuteLine]
    scheduled: int = Field(description="Requests that wait for a later time.")
    scheduled_next_at: datetime | None = Field(description="When the first of them begins.")
    dead_letters: int = Field(description="Requests that were set aside after failures.")
    slots: int = Field(description="Requests that the workers can do at once.")
    in_flight: int = Field(description="Requests that they do.")


@blueprint.get("/queue", summary="The queues, the workers and the pace", responses={200: QueueState})
@access.opens("read", role=PersonRole.ADMIN)
def read_queue() -> Response:
    """What waits, what runs, who works, and the pace of the last minutes. For administrators of the installation."""
    return answer(queue_status.status().as_dict())


@blueprint.get("/requests/<request_id>/wait", summary="How long a request will wait", responses={200: Wait})
@access.opens("read", "chat")
def read_wait(path: RequestPath) -> Response:
    """How many requests are before one's own, and for about how many seconds."""
    found = waiting.estimate(path.request_id, access.caller().id)
    seconds = None if found.seconds is None else round(found.seconds, 1)
    return answer({"position": found.position, "seconds": seconds, "reason": found.reason.value or None, "words": found.words})
