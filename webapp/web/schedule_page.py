"""What runs by the clock, for administrators: its pace, its last runs, and which process runs it."""

from __future__ import annotations

from datetime import UTC, datetime

from flask import Blueprint
from flask.typing import ResponseReturnValue

from webapp.services import schedule
from webapp.web import dashboard

blueprint = Blueprint("schedule", __name__, url_prefix="/dashboard/schedule")
blueprint.before_request(dashboard.for_administrators)


@blueprint.get("")
def index() -> ResponseReturnValue:
    """The page; for its own script the list alone."""
    return dashboard.part_or_page(
        "dashboard/_schedule.html",
        "dashboard/schedule.html",
        schedule=schedule.view(),
        pace=schedule.pace,
        at=datetime.now(UTC),
    )
