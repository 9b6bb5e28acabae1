"""What every call to `/api` and `/v1` passes, coming in and going out, whatever its route: an id, the throttles, CORS."""

from __future__ import annotations

import re
import uuid

from flask import Flask, Response, g, request

from webapp.api import cors, throttle
from webapp.api.base import is_api
from webapp.contracts.texts import hide_tokens
from webapp.extensions import current_settings
from webapp.logs import call_id

HEADER = "X-Request-Id"
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MB = 1024 * 1024


def prepare(app: Flask) -> None:
    """Hang the doors in."""
    with app.app_context():
        throttle.prepare(app, current_settings())
    app.before_request(_come_in)
    app.after_request(_go_out)
    app.teardown_request(_forget)


def _come_in() -> Response | None:
    if not is_api(request.path):
        return None
    given = request.headers.get(HEADER, "")
    # A token in the wrong header must not come to be in the logs.
    usable = _ID.fullmatch(given) and hide_tokens(given) == given
    g.api_call_id = given if usable else uuid.uuid4().hex
    call_id.set(g.api_call_id)
    request.max_content_length = current_settings().api_body_max_mb * _MB
    return cors.preflight() or throttle.check()


def _go_out(response: Response) -> Response:
    if "api_call_id" in g:
        response = throttle.recheck(response)
        response.headers[HEADER] = g.api_call_id
        response.headers.update(throttle.headers())
        cors.finish(response)
    return response


def _forget(_exc: BaseException | None) -> None:
    call_id.set("")
