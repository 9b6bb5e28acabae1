"""Waiting for the end of a request, and watching its answer grow. Both take a thread of the web server for as long as they
last, so both take a seat: the same seats as the open streams of the pages, a few for each person."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Protocol, cast

from flask import Flask, Response, current_app, request

from webapp.api import problems
from webapp.extensions import db
from webapp.pipeline import stream

STREAM_S = 600.0
"""How long one connection is streamed to; the reader then comes back and goes on where it was."""
WAIT_MAX_S = 60
RETRY_AFTER_S = 5
_RETRY_MS = 1000
_SEATS = "switchhook.seats"
_FULL = "Too many answers are being watched or waited for at once: end one of these calls, or come back in a few seconds."


class _Seats(Protocol):
    """See `webapp.web.streams`."""

    def take(self, person_id: uuid.UUID) -> Callable[[], None] | None: ...


def until_end(request_id: uuid.UUID, person_id: uuid.UUID, seconds: int) -> None:
    """Wait until a request has ended, at most so long. Where there is no seat it is not waited for."""
    leave = _seat(person_id)
    if leave is None:
        return
    # A call that waits holds no connection to the database.
    db.session.close()
    try:
        for event in stream.read(request_id, "", float(seconds)):
            if event.kind is stream.Kind.END:
                return
    finally:
        leave()


def events(request_id: uuid.UUID, person_id: uuid.UUID) -> Response:
    """The answer as server-sent events: `piece` and `reset` with a JSON string, `end` with the status, and comments while there
    is nothing. It goes on after the event that `Last-Event-ID` names. 503 where there is no seat."""
    leave = _seat(person_id)
    if leave is None:
        return problems.problem(503, "too_many_streams", _FULL, {"Retry-After": str(RETRY_AFTER_S)})
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    after = request.headers.get("Last-Event-ID", "")
    response = Response(_events(app, request_id, after, leave), mimetype="text/event-stream")
    # A generator that was never begun has no `finally`: who goes before the first byte is only seen here.
    response.call_on_close(leave)
    # Without buffering in proxies, or an answer comes in one lump.
    response.headers.update({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
    return response


def _events(app: Flask, request_id: uuid.UUID, after: str, leave: Callable[[], None]) -> Iterator[bytes]:
    source = stream.read(request_id, after, STREAM_S)
    try:
        yield f"retry: {_RETRY_MS}\n\n".encode()
        while True:
            # The context is there for each step and never across a `yield`: between two of them the thread may be lent out.
            with app.app_context():
                event = next(source, None)
            if event is None:
                return
            yield _wire(event)
    finally:
        leave()


def _wire(event: stream.StreamEvent) -> bytes:
    if event.kind is stream.Kind.WAITING:
        return b": waiting\n\n"
    place = f"id: {event.id}\n" if event.id else ""
    return f"{place}event: {event.kind.value}\ndata: {json.dumps(event.text)}\n\n".encode()


def _seat(person_id: uuid.UUID) -> Callable[[], None] | None:
    return cast(_Seats, current_app.extensions[_SEATS]).take(person_id)
