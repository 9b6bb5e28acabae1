"""What every group of routes of `/v1` stands on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, g, request

from webapp.api.v1 import calls, errors, ratelimits
from webapp.contracts.errors import BadInput, SwitchhookError
from webapp.extensions import csrf

_FOR_ALL = ("invalid_api_key", "insufficient_scope", "unsupported_endpoint")
"""Refusals that say nothing of the house and cost nothing."""
LARGE = 256 * 1024
"""Bytes of a body from which on the token is looked at first."""


def group(name: str) -> Blueprint:
    """A group of routes whose errors are those of their format."""
    blueprint = Blueprint(f"v1_{name}", __name__, url_prefix="/v1")
    csrf.exempt(blueprint)  # sessions open nothing here
    blueprint.register_error_handler(SwitchhookError, _failed)
    blueprint.before_request(_look_at_token)
    blueprint.after_request(_finished)
    return blueprint


def _look_at_token() -> None:
    """Of a large body read nothing before it is known whose token came with it: what strangers send must cost little."""
    length = request.content_length
    if request.method == "POST" and (length is None or length > LARGE):
        calls.known("chat", "read")


def answer(body: Mapping[str, Any]) -> Response:
    """A JSON answer that no cache keeps."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return Response(text, mimetype="application/json", headers={"Cache-Control": "no-store"})


def _failed(exc: SwitchhookError) -> Response:
    if isinstance(exc, BadInput) or (isinstance(exc, calls.BadCall) and exc.kind not in _FOR_ALL):
        # Strangers are told that their token is none, and count as strangers, whatever else is wrong.
        try:
            calls.known("chat", "read")
        except calls.BadCall as stranger:
            exc = stranger
    return errors.answer(calls.failure_of(exc))


def _finished(response: Response) -> Response:
    count = g.get("api_count")
    if count is not None:
        response.headers.update(ratelimits.of_calls(count.limit, count.used, count.left_s))
    if errors.speaks_anthropic():
        response.headers["request-id"] = g.get("api_call_id", "")
    return response
