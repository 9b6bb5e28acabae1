"""The short way to `/v1/chat/completions`: the same functions as behind Flask's routing, without what pages need around them
(sessions, forms, throttles of addresses, rules about scripts), which costs more than the call itself.

Only the plain case goes this way: a token, a JSON body of a known length, no page of another site, no key for repetitions. All
else, and every token that turns out to be none, goes through the application.
"""

from __future__ import annotations

import io
import logging
import os
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask, Response
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException

from webapp.api.base import parse_json
from webapp.api.v1 import calls, chat, errors, ground
from webapp.api.v1.whole import Whole
from webapp.contracts.errors import BadInput, SwitchhookError, UnknownToken
from webapp.extensions import within
from webapp.logs import call_id
from webapp.services import tokens

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)

PATH = "/v1/chat/completions"
_AWAY = "Switchhook cannot reach its database. Nothing was lost; try again in a minute."
_OURS = "This is our fault, not yours. It has been noted."
_SMALL = ground.LARGE
"""Bytes of a body that is read before it is known whose token came with it; larger ones go through the application, which
looks at the token first."""
_ELSEWHERE = frozenset(("HTTP_ORIGIN", "HTTP_IDEMPOTENCY_KEY", "HTTP_X_REQUEST_ID", "HTTP_X_API_KEY"))


class Direct:
    """WSGI: the application, with the short way before it."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._inner: WSGIApplication = app.wsgi_app
        settings = app.extensions["switchhook.settings"]
        self._usable = not settings.throttle_v1_per_min
        self._headers = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}
        if settings.secure:
            self._headers["Strict-Transport-Security"] = "max-age=31556926"

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != PATH or not self._serves(environ):
            return self._inner(environ, start_response)
        raw = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        try:
            answer = within(self._app, self._answer, environ, raw)
        except (UnknownToken, HTTPException):
            environ["wsgi.input"] = io.BytesIO(raw)
            return self._inner(environ, start_response)
        finally:
            call_id.set("")
        return answer(environ, start_response)

    def _serves(self, environ: WSGIEnvironment) -> bool:
        length = environ.get("CONTENT_LENGTH") or ""
        return (
            self._usable
            and environ["REQUEST_METHOD"] == "POST"
            and environ.get("HTTP_AUTHORIZATION", "").startswith("Bearer sh_")
            and length.isdecimal()
            and 0 < int(length) <= _SMALL
            and _is_json(environ.get("CONTENT_TYPE", ""))
            and _ELSEWHERE.isdisjoint(environ)
        )

    def _answer(self, environ: WSGIEnvironment, raw: bytes) -> Whole | Response:
        own_id = os.urandom(16).hex()
        call_id.set(own_id)
        token = environ["HTTP_AUTHORIZATION"].removeprefix("Bearer ").strip()
        try:
            may_keep = environ.get("HTTP_X_SWITCHHOOK_CACHE", "") == "allow"
            answer: Whole | Response = chat.serve(token, parse_json(raw), may_keep=may_keep)
        except UnknownToken:
            raise
        except SwitchhookError as exc:
            if isinstance(exc, BadInput | calls.BadCall) and tokens.find(token) is None:
                raise UnknownToken("This token is none.") from exc
            answer = errors.answer(calls.failure_of(exc))
        except (OperationalError, InterfaceError, PoolTimeout) as exc:
            log.error("the database cannot be reached, in %s: %s", PATH, type(exc.orig if isinstance(exc, DBAPIError) else exc))
            answer = errors.form(503, "unavailable", _AWAY, "")
        except HTTPException:
            raise
        except Exception:
            error_id = secrets.token_hex(4)
            log.exception("error %s in %s", error_id, PATH)
            answer = errors.form(500, "internal", _OURS, error_id)
        answer.headers.update(self._headers)
        answer.headers["X-Request-Id"] = own_id
        return answer


def _is_json(content_type: str) -> bool:
    return content_type == "application/json" or content_type.partition(";")[0].strip().lower() == "application/json"
