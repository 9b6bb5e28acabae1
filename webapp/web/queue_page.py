"""The queues for administrators: what waits and runs, who works, at what pace, and a way to stop a request."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from webapp.contracts.errors import Conflict, NotFound
from webapp.models import RequestStatus
from webapp.pipeline.cancel import cancel_any
from webapp.queues import QUEUES
from webapp.services import queue_status
from webapp.services.queue_status import MinuteLine
from webapp.web import auth, dashboard

blueprint = Blueprint("queue", __name__, url_prefix="/dashboard/queue")
blueprint.before_request(dashboard.for_administrators)

_SAID = {
    "stopped": "The request was stopped before it began.",
    "asked": "The request was told to stop: it ends at the next piece of its answer.",
    "ended": "The request had ended already.",
}

_WIDTH, _HEIGHT, _GAP = 600, 120, 2


@dataclass(frozen=True, slots=True)
class Bar:
    """A piece of a minute's bar, in the chart's own units."""

    queue: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Requests started by the minute, the queues on top of each other, the lowest queue at the bottom."""

    width: int
    height: int
    bars: tuple[Bar, ...]
    most: int
    total: int
    deliveries: int


@blueprint.get("")
def index() -> ResponseReturnValue:
    """The page; for its own script the figures only."""
    status = queue_status.status()
    return dashboard.part_or_page(
        "dashboard/_queue.html",
        "dashboard/queue.html",
        status=status,
        chart=chart(status.minutes),
        names=QUEUES,
        letters_max=queue_status.LETTERS_MAX,
        said=_SAID.get(request.args.get("done", ""), ""),
    )


@blueprint.get("/<uuid:request_id>/stop")
def ask_to_stop(request_id: uuid.UUID) -> ResponseReturnValue:
    """Whether it is really to be stopped."""
    line = queue_status.line(request_id)
    if line is None:
        raise NotFound("There is no such request, or it has ended.")
    return render_template("dashboard/queue_stop.html", line=line)


@blueprint.post("/<uuid:request_id>/stop")
def stop(request_id: uuid.UUID) -> ResponseReturnValue:
    """Stop it. That it ended meanwhile is no fault: that was what was wanted."""
    try:
        done = "stopped" if cancel_any(request_id, dashboard.actor(), auth.me().id) == RequestStatus.CANCELLED else "asked"
    except Conflict:
        done = "ended"
    return redirect(url_for("queue.index", done=done), 303)


def chart(minutes: Sequence[MinuteLine]) -> Chart:
    """The figures of some minutes, oldest first, as bars from the left to the right."""
    totals = [sum(minute.requests.values()) for minute in minutes]
    most = max(totals, default=0)
    step = _WIDTH / max(1, len(minutes))
    bars = []
    for place, minute in enumerate(minutes):
        y = float(_HEIGHT)
        for name in reversed(QUEUES):
            if count := minute.requests.get(name, 0):
                height = _HEIGHT * count / most
                y -= height
                bars.append(Bar(name, round(place * step + _GAP / 2, 2), round(y, 2), round(step - _GAP, 2), round(height, 2)))
    return Chart(_WIDTH, _HEIGHT, tuple(bars), most, sum(totals), sum(minute.deliveries for minute in minutes))
