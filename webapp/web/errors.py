"""What somebody sees when something does not work: a page in a browser, a notice in a page, JSON for a program."""

from __future__ import annotations

import logging
import secrets
import time
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, current_app, jsonify, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_limiter.errors import RateLimitExceeded
from flask_login import current_user
from flask_wtf.csrf import CSRFError
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException

from webapp.contracts.errors import BadInput, Conflict, LimitReached, LimitsUnknown, NotAllowed, NotFound, Refusal
from webapp.contracts.texts import hide_tokens
from webapp.extensions import limiter

log = logging.getLogger(__name__)

_STATUS: dict[type[Refusal], int] = {
    BadInput: 422,
    NotAllowed: 403,
    LimitReached: 429,
    LimitsUnknown: 503,
    NotFound: 404,
    Conflict: 409,
}

_WORDS: dict[int, tuple[str, str, str]] = {
    400: ("bad_request", "That did not work", "The browser sent something that could not be understood."),
    401: ("unauthorized", "Please sign in", "This page is for people who are signed in."),
    403: ("forbidden", "Not for this account", "Your account does not have access to this page."),
    404: ("not_found", "Nothing here", "There is no such page, or it is not yours."),
    405: ("method_not_allowed", "Not possible here", "This address does not take that kind of request."),
    408: ("request_timeout", "That took too long", "What was sent did not arrive in time. Please send it again."),
    409: ("conflict", "That was sent before", "Reload the page and try again."),
    411: ("length_required", "That did not work", "What was sent does not say how long it is."),
    413: ("too_large", "Too much at once", "What was sent is larger than this installation takes."),
    415: ("unsupported_media_type", "That did not work", "What was sent is of a kind that is not taken here."),
    422: ("bad_input", "Please check your input", "Something in the form is not right."),
    429: ("too_many_requests", "Too many attempts", "Please wait a little before you try again."),
    500: ("internal", "Something went wrong", "This is our fault, not yours. It has been noted."),
}
_OTHERWISE = ("error", "That did not work", "Please try again.")

_MACHINES = ("/api/", "/v1/", "/sms/")

_AWAY = (OperationalError, InterfaceError, PoolTimeout)
"""What SQLAlchemy raises when the database is down, refuses connections, or has none to spare."""
_AWAY_WORDS = "Switchhook cannot reach its database. Nothing was lost; try again in a minute."
_AWAY_S = 60

_CSRF_OF_API = (
    "A call with the session of a browser that changes something needs the header X-CSRFToken: its value is the content of "
    '<meta name="csrf-token"> in every page of that session. Programs send a token instead: Authorization: Bearer TOKEN.'
)

_ELSEWHERE = "You were signed out or in again elsewhere. Nothing was sent."


def prepare(app: Flask) -> None:
    """Register the handlers."""
    # It tells of every form whose page is out of date; `_csrf` does, for those who look closely.
    logging.getLogger("flask_wtf.csrf").setLevel(logging.WARNING)
    for kind in _AWAY:
        app.register_error_handler(kind, _database_away)
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
    message = hide_tokens(message or words)
    try:
        response = _in_form(status, message, title, code or known_code, more)
    except _AWAY as exc:
        # The page names its reader, who is looked up in the database.
        return _database_away(exc)
    response.status_code = status
    return response


def _in_form(status: int, message: str, title: str, code: str, more: dict[str, Any]) -> Response:
    if (known := _form_of_api(status, code, message, more.get("error_id", ""))) is not None:
        return known
    if wants_json():
        error = {"code": code, "message": message}
        return jsonify({"error": error | ({"id": more["error_id"]} if "error_id" in more else {})})
    if is_htmx():
        return _notice(render_template("errors/_notice.html", message=message, **more))
    return make_response(render_template("errors/page.html", status=status, title=title, message=message, **more))


def _form_of_api(status: int, code: str, message: str, error_id: str = "") -> Response | None:
    """The error as the API knows it whose address this is; None for everything else."""
    for path, form in current_app.extensions.get("switchhook.error_forms", {}).items():
        if request.path == path or request.path.startswith(f"{path}/"):
            response: Response = form(status, code, message, error_id)
            return response
    return None


def _notice(html: str) -> Response:
    response = make_response(html)
    response.headers["HX-Retarget"] = "#notices"
    response.headers["HX-Reswap"] = "innerHTML"
    return response


def signed_out() -> Response:
    """Somebody wrote something and is not signed in any more: it stays in the box, or is given back."""
    return _kept(401, "unauthorized", signed_in=False)


def _kept(status: int, code: str, *, signed_in: bool) -> Response:
    """Nothing was sent, for the page is of an earlier session. What was typed stays in its box, or is given back."""
    if is_htmx():
        here = _page_of_part()
        href = here if signed_in else url_for("auth.sign_in", next=here)
        message = f"{_ELSEWHERE} {'Reload this page' if signed_in else 'Sign in'}, then send it again."
        return answer(status, message, code=code, href=href, link="Reload" if signed_in else "Sign in")
    typed = request.form.get("text", "")
    message = _ELSEWHERE if typed else "This page was open for too long, or cookies are off. Nothing was sent."
    if typed and not signed_in:
        message += " Sign in in another tab, then send it from here."
    return answer(status, message, code=code, typed=typed, again=typed and request.path == "/chat", sign_in=not signed_in)


def _page_of_part() -> str:
    """Path and query of the page whose script asks, the home page if it does not say or is not ours."""
    parts = urlsplit(request.headers.get("HX-Current-URL", ""))
    if parts.netloc != request.host or not parts.path.startswith("/") or parts.path.startswith("//"):
        return url_for("chat.home")
    return parts.path + (f"?{parts.query}" if parts.query else "")


def _http(exc: HTTPException) -> ResponseReturnValue:
    if exc.response is not None:
        return exc.response
    original = getattr(exc, "original_exception", None)
    if isinstance(original, _AWAY):
        return _database_away(original)
    status = exc.code or 500
    if status == 500:
        return _unexpected(exc)
    response = answer(status)
    for name, value in exc.get_headers():
        if name in ("Allow", "Retry-After", "WWW-Authenticate"):
            response.headers[name] = value
    return response


def _csrf(exc: CSRFError) -> ResponseReturnValue:
    """Mostly a page from before its reader signed out, or in again, in another tab."""
    log.debug("a form was refused: %s", exc.description)
    if (known := _form_of_api(400, "csrf", _CSRF_OF_API)) is not None:
        return known
    signed_in = bool(current_user.is_authenticated)
    if signed_in and request.endpoint == "auth.try_to_sign_in":
        # They are where the form would have led; what is to come next is checked there.
        return redirect(url_for("auth.sign_in", next=request.form.get("next") or None), 303)
    return _kept(400, "csrf", signed_in=signed_in)


def _database_away(exc: Exception) -> Response:
    """Said without asking the database for anything, not even for who reads it."""
    reason = str(getattr(exc, "orig", None) or exc).partition("\n")[0]
    log.error("the database cannot be reached, in %s %s: %s", request.method, request.endpoint, reason)
    if (known := _form_of_api(503, "unavailable", _AWAY_WORDS)) is not None:
        response = known
    elif wants_json():
        response = jsonify({"error": {"code": "unavailable", "message": _AWAY_WORDS}})
    else:
        # `render_template` would give the template its reader, and so look for them.
        name = "errors/_notice.html" if is_htmx() else "errors/database.html"
        html = current_app.jinja_env.get_template(name).render(message=_AWAY_WORDS)
        response = _notice(html) if is_htmx() else make_response(html)
    response.status_code = 503
    response.headers["Retry-After"] = str(_AWAY_S)
    return response


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
