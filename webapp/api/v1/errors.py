"""Errors as the two formats have them: OpenAI's {"error": {message, type, param, code}}, and Anthropic's {"type": "error",
"error": {type, message}, "request_id"} for its own routes."""

from __future__ import annotations

import json
from http import HTTPStatus

from flask import Response, g, has_request_context, request

from webapp.api.v1.calls import Failure
from webapp.contracts.texts import hide_tokens

_LONG_WAIT_S = 60
"""A client that tries again by itself is told not to where it would be in vain for longer than this."""
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_OVERLOADED = 529
"""Anthropic's own status for a model that is too busy."""
_SERVED = "POST /v1/chat/completions, /v1/messages, /v1/messages/count_tokens, /v1/images/generations, and GET /v1/models"
_WORDS = {
    "too_large": "The body is larger than this installation takes: send less at once, such as smaller or fewer pictures.",
    "method_not_allowed": "This address does not take that method.",
    "unsupported_media_type": "Send the body as JSON, with the header Content-Type: application/json.",
    "request_timeout": "The body did not arrive in time. Send the call again.",
    "length_required": "The call does not say how long its body is: send the header Content-Length.",
}


def speaks_anthropic() -> bool:
    """Whether the call that runs is one of Anthropic's format."""
    if not has_request_context():
        return False
    path = request.path
    return path.startswith("/v1/messages") or (path.startswith("/v1/models") and "anthropic-version" in request.headers)


def answer(failure: Failure) -> Response:
    """The failure as an answer, in the format of the call."""
    anthropic = speaks_anthropic()
    text = anthropic_body(failure) if anthropic else body(failure)
    status = anthropic_status(failure) if anthropic else failure.status
    response = Response(text, status, mimetype="application/json")
    headers = response.headers
    headers["Cache-Control"] = "no-store"
    if anthropic:
        headers["request-id"] = g.get("api_call_id", "")
    if failure.retry_after_s is not None:
        headers["Retry-After"] = str(failure.retry_after_s)
    known = failure.status == 409 or failure.retry_after_s is not None or failure.type == "insufficient_quota"
    if (known and failure.status in (409, 429)) or failure.status >= 500:
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
    message = hide_tokens(failure.message)
    error = {"message": message, "type": failure.type, "param": failure.param, "code": failure.code}
    return json.dumps({"error": error}, ensure_ascii=False)


def anthropic_body(failure: Failure) -> str:
    """The same in Anthropic's format."""
    status = anthropic_status(failure)
    kind = _ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    error = {"type": kind, "message": hide_tokens(failure.message)}
    found = {"type": "error", "error": error, "request_id": g.get("api_call_id") if has_request_context() else None}
    return json.dumps(found, ensure_ascii=False)


def anthropic_status(failure: Failure) -> int:
    """The status of a failure in Anthropic's format."""
    return _OVERLOADED if failure.code in ("provider_rate_limited", "server_overloaded") else failure.status


def form(status: int, code: str, message: str, error_id: str) -> Response:
    """Whatever else goes wrong under `/v1`, for `webapp.web.errors`."""
    kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
    words = _WORDS.get(code, message)
    if status == 404 and has_request_context():
        code, words = "unknown_url", f"There is no {request.method} {request.path[:100]} here; there are {_SERVED}."
    words = f"{words} (error {error_id})" if error_id else words
    return answer(Failure(status, kind, code, words, retry_after_s=60 if status == 503 else None))
