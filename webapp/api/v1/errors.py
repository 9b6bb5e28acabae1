"""Errors as OpenAI's format has them: {"error": {message, type, param, code}}."""

from __future__ import annotations

import json
from http import HTTPStatus

from flask import Response

from webapp.api.v1.calls import Failure

_LONG_WAIT_S = 60
"""A client that tries again by itself is told not to where it would be in vain for longer than this."""


def answer(failure: Failure) -> Response:
    """The failure as an answer."""
    response = Response(body(failure), failure.status, mimetype="application/json")
    headers = response.headers
    headers["Cache-Control"] = "no-store"
    if failure.retry_after_s is not None:
        headers["Retry-After"] = str(failure.retry_after_s)
    if failure.status in (409, 429) or failure.status >= 500:
        # OpenAI's and Anthropic's own libraries go by this header before the status.
        again = failure.retry_after_s is not None and failure.retry_after_s <= _LONG_WAIT_S
        headers["x-should-retry"] = "true" if again else "false"
    if failure.request_id:
        headers["x-switchhook-request"] = failure.request_id
    if failure.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return response


def body(failure: Failure) -> str:
    """The failure as JSON; also the last event of a stream that broke off."""
    error = {"message": failure.message, "type": failure.type, "param": failure.param, "code": failure.code}
    return json.dumps({"error": error}, ensure_ascii=False)


def form(status: int, code: str, message: str, error_id: str) -> Response:
    """Whatever else goes wrong under `/v1`, for `webapp.web.errors`."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    words = f"{message} (error {error_id})" if error_id else message
    return answer(Failure(status, kind, code, words, retry_after_s=60 if status == 503 else None))
