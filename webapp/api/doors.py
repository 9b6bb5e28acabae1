"""What every call to `/api` and `/v1` passes, coming in and going out, whatever its route: an id, the throttles, CORS."""

from __future__ import annotations

import re
import uuid
from typing import cast

from flask import Flask, Response, current_app, g, request
from werkzeug.exceptions import MethodNotAllowed

from webapp.api import cors, throttle
from webapp.api.base import SMALL_BODY, is_api, takes_large
from webapp.contracts.texts import hide_tokens
from webapp.extensions import current_settings
from webapp.logs import call_id

HEADER = "X-Request-Id"
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MB = 1024 * 1024
_FIXED = "switchhook.api_fixed_paths"


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
    most = current_settings().api_body_max_mb * _MB
    request.max_content_length = most if takes_large(request.path) else min(most, SMALL_BODY)
    answered = cors.preflight() or throttle.check()
    if answered is None and (own := _own_methods()) and request.method not in own:
        raise MethodNotAllowed(valid_methods=own)
    return answered


def _own_methods() -> list[str] | None:
    """The methods of a path such as `/api/batches/file` that stands beside routes with an id in that place: for these, `file`
    would be a wrong id. None for all others."""
    return _fixed_paths().get(request.path) if request.view_args or request.method == "OPTIONS" else None


def _fixed_paths() -> dict[str, list[str]]:
    found = current_app.extensions.get(_FIXED)
    if found is None:
        rules = current_app.url_map.iter_rules()
        # `me` is an id, too.
        fixed = [rule for rule in rules if is_api(rule.rule) and not rule.arguments and not rule.rule.endswith("/me")]
        found = current_app.extensions[_FIXED] = {
            path: sorted({method for rule in fixed if rule.rule == path for method in rule.methods or ()})
            for path in {rule.rule for rule in fixed}
        }
    return cast("dict[str, list[str]]", found)


def _go_out(response: Response) -> Response:
    if "api_call_id" in g:
        response = throttle.recheck(response)
        if request.method == "OPTIONS" and "Allow" in response.headers and (own := _own_methods()):
            response.headers["Allow"] = ", ".join(own)
        response.headers[HEADER] = g.api_call_id
        response.headers.update(throttle.headers())
        cors.finish(response)
    return response


def _forget(_exc: BaseException | None) -> None:
    call_id.set("")
