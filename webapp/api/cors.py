"""Calls by pages of other web sites, where the operator allows them: with a token, never with the session of a browser."""

from __future__ import annotations

import re

from flask import Response, request

from webapp.extensions import current_settings

EXPOSED = (
    "Location",
    "Retry-After",
    "X-Request-Id",
    "Idempotent-Replayed",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "X-RateLimit-Limit-Requests",
    "X-RateLimit-Remaining-Requests",
    "X-RateLimit-Reset-Requests",
    "X-RateLimit-Limit-Tokens",
    "X-RateLimit-Remaining-Tokens",
    "X-RateLimit-Reset-Tokens",
    "X-Should-Retry",
    "X-Switchhook-Request",
    "X-Switchhook-Ignored",
)
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_USUAL = "Authorization, Content-Type, Idempotency-Key, X-Request-Id"
_ASKED = re.compile(r"[A-Za-z0-9_, -]{1,1000}")
_REMEMBER_S = 600


def preflight() -> Response | None:
    """The answer to a browser that asks whether a page may make a call; None if it is something else, or may not."""
    if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers or _allowed() is None:
        return None
    response = Response(status=204)
    asked = request.headers.get("Access-Control-Request-Headers", "")
    response.headers["Access-Control-Allow-Methods"] = _METHODS
    response.headers["Access-Control-Allow-Headers"] = asked if _ASKED.fullmatch(asked) else _USUAL
    response.headers["Access-Control-Max-Age"] = str(_REMEMBER_S)
    return response


def finish(response: Response) -> None:
    """Say in an answer whose pages may read it."""
    if not current_settings().cors_origins:
        return
    # Also where there is no origin: a cache must not give that answer to a page.
    response.vary.add("Origin")
    if request.method == "OPTIONS":
        response.vary.update(("Access-Control-Request-Method", "Access-Control-Request-Headers"))
    origin = _allowed()
    if origin is not None:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = ", ".join(EXPOSED)


def _allowed() -> str | None:
    origin = request.headers.get("Origin", "")
    origins = current_settings().allowed_origins
    return origin if origin and origins and (origin in origins or "*" in origins) else None
