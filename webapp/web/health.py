"""Health for people, load balancers and orchestrators."""

from __future__ import annotations

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from webapp.services import health

blueprint = Blueprint("health", __name__)


@blueprint.get("/health")
def overall() -> ResponseReturnValue:
    """`healthy`, or `degraded` when something is wrong; 503 only when nothing can be accepted."""
    found = health.checks()
    ready = all(check.ok for check in found if check.needed)
    body = {
        "status": "healthy" if all(check.ok for check in found) else "degraded",
        "checks": [
            {"name": check.name, "ok": check.ok, "detail": check.detail} | ({"cure": check.cure} if not check.ok else {})
            for check in found
        ],
    }
    return jsonify(body), 200 if ready else 503


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
