"""Errors for programs: problem details (RFC 9457), with our own stable `code` beside the standard members."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, current_app
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from werkzeug.exceptions import HTTPException

from webapp.contracts.errors import BadInput, Conflict, LimitReached, LimitsUnknown, NotAllowed, NotFound, Refusal
from webapp.contracts.texts import hide_tokens
from webapp.extensions import now
from webapp.services.kept_answers import KeyInUse

FORMS = "switchhook.error_forms"
"""The application's extension in which the forms of errors are found by the path of an API."""

_STATUS: dict[type[Refusal], int] = {
    BadInput: 422,
    NotFound: 404,
    NotAllowed: 403,
    Conflict: 409,
    LimitReached: 429,
    LimitsUnknown: 503,
}
COMMON = {
    400: "The call cannot be understood.",
    401: "Nobody is signed in, and no valid token came along.",
    403: "The token or the person may not do this.",
    404: "There is no such thing for this person.",
    409: "The state of the thing, or a running call with the same key, does not allow it.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "A field is wrong; `field` and `errors` say which.",
    429: "Too many calls, or a limit is used up; `Retry-After` says when to come back.",
    503: "Something that is needed is away for a moment.",
}


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    field: str
    message: str


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field("about:blank", description="A URI reference of the kind of problem.")
    title: str
    status: int
    code: str = Field(description="Stable, for programs.")
    detail: str = Field(description="For people: what is wrong, and the cure.")
    field: str | None = Field(None, description="The field that is wrong.")
    errors: list[FieldProblem] | None = Field(None, description="Every field that is wrong.")
    request_id: str | None = Field(None, description="The request that was stored as refused.")
    limit: str | None = Field(None, description="The limit that is used up.")
    resets_at: str | None = Field(None, description="When that limit starts afresh.")


class BadJson(BadInput):
    """The body cannot be read at all."""

    code = "bad_json"


class Unauthorized(NotAllowed):
    """Nobody is signed in, and no token that opens this came along."""

    code = "unauthorized"


def problem(status: int, code: str, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    """The answer. `more` are further members."""
    members: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
    }
    members |= {name: value for name, value in more.items() if value not in (None, "", [])}
    text = hide_tokens(json.dumps(members, ensure_ascii=False))
    response = Response(text.encode("utf-8", "replace"), status, mimetype="application/problem+json")
    response.headers["Cache-Control"] = "no-store"
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    response.headers.update(headers or {})
    return response


def in_form(path: str, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error in the form of the API to which a path belongs."""
    forms = current_app.extensions[FORMS]
    mine = (form for prefix, form in forms.items() if path == prefix or path.startswith(f"{prefix}/"))
    found: Response = next(mine, forms["/api"])(status, code, detail, "")
    found.headers.update(headers or {})
    return found


def response(words: str) -> dict[str, Any]:
    """How the document describes an answer that is a problem."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": words, "content": {"application/problem+json": {"schema": schema}}}


def status_of(exc: Refusal) -> int:
    """The HTTP status of a refusal."""
    if isinstance(exc, Unauthorized):
        return 401
    if isinstance(exc, BadJson):
        return 400
    return next((status for kind, status in _STATUS.items() if isinstance(exc, kind)), 422)


def of_refusal(exc: Refusal) -> Response:
    """A refusal as a problem."""
    status = status_of(exc)
    if isinstance(exc, BadInput):
        errors = [{"field": exc.field, "message": exc.message}]
        return problem(status, exc.code, exc.message, field=exc.field, errors=errors)
    if isinstance(exc, LimitReached):
        # A request that is too large by itself does not fit later either.
        headers = {} if exc.alone else {"Retry-After": str(seconds_until(exc))}
        return problem(
            status,
            exc.code,
            exc.message,
            headers,
            limit=exc.limit,
            resets_at=None if exc.alone else exc.resets_at.isoformat(),
            request_id=exc.request_id,
        )
    if isinstance(exc, LimitsUnknown):
        return problem(status, exc.code, exc.message, {"Retry-After": "60"}, request_id=exc.request_id)
    if isinstance(exc, KeyInUse):
        return problem(status, exc.code, exc.message, {"Retry-After": str(exc.retry_after_s)})
    return problem(status, exc.code, exc.message)


def seconds_until(exc: LimitReached) -> int:
    """For how many seconds a limit has no room."""
    return max(1, math.ceil((exc.resets_at - now()).total_seconds()))


def of_validation(exc: ValidationError) -> Response:
    """What pydantic found, as a problem."""
    errors = [
        {"field": ".".join(map(str, each["loc"])) or "body", "message": str(each["msg"])}
        for each in exc.errors(include_url=False, include_context=False, include_input=False)[:20]
    ]
    first = errors[0]
    return problem(422, BadInput.code, f"{first['field']}: {first['message']}.", field=first["field"], errors=errors)


def of_status(status: int, detail: str = "", headers: Mapping[str, str] | None = None) -> Response:
    """A problem that HTTP alone describes."""
    known = HTTPStatus(status)
    return problem(status, known.phrase.lower().replace(" ", "_"), detail or known.description or known.phrase, headers)


def of_http(exc: HTTPException) -> Response:
    """What werkzeug raises, or `abort`, as a problem."""
    if exc.response is not None and isinstance(exc.response, Response):
        return exc.response
    headers = {name: value for name, value in exc.get_headers() if name.lower() in ("allow", "retry-after")}
    return of_status(exc.code or 500, exc.description or "", headers)


def prepare(blueprint: Blueprint) -> None:
    """Answer what the routes of a blueprint raise in this form."""
    blueprint.register_error_handler(Refusal, of_refusal)
    blueprint.register_error_handler(HTTPException, of_http)
