"""What somebody sees when something does not work: a page in a browser, a notice in a page, JSON for a program."""

from __future__ import annotations

import logging
import secrets
import time
from typing import Any

from flask import Flask, Response, jsonify, make_response, render_template, request
from flask.typing import ResponseReturnValue
from flask_limiter.errors import RateLimitExceeded
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException

from webapp.contracts.errors import BadInput, Conflict, LimitReached, NotAllowed, NotFound, Refusal
from webapp.extensions import limiter

log = logging.getLogger(__name__)

_STATUS: dict[type[Refusal], int] = {BadInput: 422, NotAllowed: 403, LimitReached: 429, NotFound: 404, Conflict: 409}

_WORDS: dict[int, tuple[str, str, str]] = {
    400: ("bad_request", "That did not work", "The browser sent something that could not be understood."),
    401: ("unauthorized", "Please sign in", "This page is for people who are signed in."),
    403: ("forbidden", "Not for this account", "Your account does not have access to this page."),
    404: ("not_found", "Nothing here", "There is no such page, or it is not yours."),
    405: ("method_not_allowed", "Not possible here", "This address does not take that kind of request."),
    409: ("conflict", "That was sent before", "Reload the page and try again."),
    413: ("too_large", "Too much at once", "What was sent is larger than this installation takes."),
    422: ("bad_input", "Please check your input", "Something in the form is not right."),
    429: ("too_many_requests", "Too many attempts", "Please wait a little before you try again."),
    500: ("internal", "Something went wrong", "This is our fault, not yours. It has been noted."),
}
_OTHERWISE = ("error", "That did not work", "Please try again.")

_MACHINES = ("/api/", "/v1/", "/sms/")


def prepare(app: Flask) -> None:
    """Register the handlers."""
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(CSRFError, _csrf)
    app.register_error_handler(RateLimitExceeded, _too_often)
    app.register_error_handler(Refusal, _refusal)
    app.register_error_handler(Exception, _unexpected)


def is_htmx() -> bool:
    """Whether the page's own script asks, and wants a part of the page."""
    return request.headers.get("HX-Request") == "true"


def wants_json() -> bool:
    """Whether a program asks."""
    if request.path.startswith(_MACHINES):
        return True
    best = request.accept_mimetypes.best_match(["text/html", "application/json"])
    return best == "application/json"


def answer(status: int, message: str = "", *, code: str = "", **more: Any) -> Response:
    """The error in the form that the asker understands. `more` goes to the page's template."""
    known_code, title, words = _WORDS.get(status, _OTHERWISE)
    message = message or words
    if wants_json():
        error = {"code": code or known_code, "message": message}
        response = jsonify({"error": error | ({"id": more["error_id"]} if "error_id" in more else {})})
    elif is_htmx():
        response = make_response(render_template("errors/_notice.html", message=message, **more))
        response.headers["HX-Retarget"] = "#notices"
        response.headers["HX-Reswap"] = "innerHTML"
    else:
        response = make_response(render_template("errors/page.html", status=status, title=title, message=message, **more))
    response.status_code = status
    return response


def _http(exc: HTTPException) -> ResponseReturnValue:
    if exc.response is not None:
        return exc.response
    status = exc.code or 500
    if status == 500:
        return _unexpected(exc)
    response = answer(status)
    for name, value in exc.get_headers():
        if name in ("Allow", "Retry-After", "WWW-Authenticate"):
            response.headers[name] = value
    return response


def _csrf(_exc: CSRFError) -> ResponseReturnValue:
    """Mostly a page that was open for too long. What was typed into it is given back."""
    message = "This page was open for too long, or cookies are off. Nothing was sent."
    typed = request.form.get("text", "")
    return answer(400, message, code="csrf", typed=typed, again=typed and request.path == "/chat")


def _too_often(_exc: RateLimitExceeded) -> ResponseReturnValue:
    reached = limiter.current_limit
    wait_s = max(1, int(reached.reset_at - time.time()) + 1) if reached else 60
    minutes = -(-wait_s // 60)
    when = "in a minute" if minutes == 1 else f"in {minutes} minutes"
    response = answer(429, f"There were too many attempts. Please try again {when}.", code="too_many_requests")
    response.headers["Retry-After"] = str(wait_s)
    return response


def _refusal(exc: Refusal) -> ResponseReturnValue:
    return answer(_STATUS.get(type(exc), 400), exc.message, code=exc.code)


def _unexpected(exc: Exception) -> ResponseReturnValue:
    """The truth goes into the log under an id; the page shows the id and nothing else."""
    error_id = secrets.token_hex(4)
    log.error("error %s in %s %s", error_id, request.method, request.endpoint, exc_info=exc)
    return answer(500, error_id=error_id)
