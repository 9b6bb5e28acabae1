"""Health for people, load balancers and orchestrators."""

from __future__ import annotations

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue
from flask_login import current_user
from sqlalchemy.exc import SQLAlchemyError

from webapp.services import health
from webapp.services.health import Check

blueprint = Blueprint("health", __name__)


@blueprint.get("/health")
def overall() -> ResponseReturnValue:
    """`healthy`, or `degraded` when something is wrong; 503 only when nothing can be accepted.

    What is wrong with a vendor is told to administrators alone: its own words may hold addresses and names of accounts.
    """
    found = health.checks()
    ready = all(check.ok for check in found if check.needed)
    everything = ready and _asked_by_administrator()
    body = {
        "status": "healthy" if all(check.ok for check in found) else "degraded",
        "checks": [_told(check, everything=everything) for check in found],
    }
    return jsonify(body), 200 if ready else 503, {"Cache-Control": "no-store"}


def _told(check: Check, *, everything: bool) -> dict[str, object]:
    told: dict[str, object] = {"name": check.name, "ok": check.ok}
    if check.vendor and not everything:
        return told | {"detail": "well" if check.ok else "trouble"}
    return told | {"detail": check.detail} | ({} if check.ok else {"cure": check.cure})


def _asked_by_administrator() -> bool:
    try:
        return bool(current_user.is_authenticated and current_user.is_admin)
    except SQLAlchemyError:
        # Who asks cannot be looked up just now: then it is anybody.
        return False


@blueprint.get("/health/live")
def live() -> ResponseReturnValue:
    """Whether this process serves at all."""
    return jsonify({"status": "alive"})


@blueprint.get("/health/ready")
def ready() -> ResponseReturnValue:
    """Whether messages can be accepted: the database is there. Redis and vendors may be away, what arrives then is kept."""
    check = health.database()
    if check.ok:
        return jsonify({"status": "ready"})
    return jsonify({"status": "not ready", "detail": check.detail}), 503
