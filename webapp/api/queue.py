"""The queues for programs: all of them for administrators, one's own wait for everybody."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from webapp.api import access, problems
from webapp.services import queue_status, waiting

blueprint = Blueprint("api_queue", __name__, url_prefix="/api")
problems.prepare(blueprint)


@blueprint.get("/queue")
def status() -> ResponseReturnValue:
    """What waits, what runs, who works, and the pace of the last minutes."""
    access.administrator("admin", "read")
    return _answer(queue_status.status().as_dict())


@blueprint.get("/requests/<uuid:request_id>/wait")
def wait(request_id: uuid.UUID) -> ResponseReturnValue:
    """How many requests are before one's own, and for about how many seconds; `reason` says why one of them is not known."""
    person = access.caller("read", "chat", "admin")
    found = waiting.estimate(request_id, person.id)
    seconds = None if found.seconds is None else round(found.seconds, 1)
    return _answer({"position": found.position, "seconds": seconds, "reason": found.reason.value or None, "words": found.words})


def _answer(value: Mapping[str, Any]) -> ResponseReturnValue:
    response = jsonify(_plain(value))
    response.headers["Cache-Control"] = "no-store"
    return response


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    return value
