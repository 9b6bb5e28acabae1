"""Errors for programs: problem details (RFC 9457), with our own `code` beside the standard members."""

from __future__ import annotations

from http import HTTPStatus

from flask import Blueprint, Response, jsonify
from werkzeug.exceptions import HTTPException

from webapp.contracts.errors import Conflict, NotAllowed, NotFound, Refusal

_STATUS: dict[type[Refusal], int] = {NotFound: 404, NotAllowed: 403, Conflict: 409}


class Unauthorized(NotAllowed):
    """Nobody is signed in, and no token that opens this came along."""

    code = "unauthorized"


def problem(status: int, code: str, detail: str) -> Response:
    """The answer."""
    response = jsonify(type="about:blank", title=HTTPStatus(status).phrase, status=status, code=code, detail=detail)
    response.status_code = status
    response.mimetype = "application/problem+json"
    response.headers["Cache-Control"] = "no-store"
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def prepare(blueprint: Blueprint) -> None:
    """Answer what the routes of a blueprint raise in this form."""

    @blueprint.errorhandler(Refusal)
    def _refused(exc: Refusal) -> Response:
        status = 401 if isinstance(exc, Unauthorized) else _STATUS.get(type(exc), 422)
        return problem(status, exc.code, exc.message)

    @blueprint.errorhandler(HTTPException)
    def _http(exc: HTTPException) -> Response:
        if exc.response is not None and exc.code is None:
            raise exc
        status = exc.code or 500
        return problem(status, HTTPStatus(status).phrase.lower().replace(" ", "_"), exc.description or "")
