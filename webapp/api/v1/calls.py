"""What every route of `/v1` does with a call: who calls, what their token opens, and what is wrong with it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flask import request

from webapp.api.problems import seconds_until
from webapp.contracts.errors import (
    BadInput,
    Conflict,
    LimitReached,
    LimitsUnknown,
    NotAllowed,
    NotFound,
    SwitchhookError,
    UnknownToken,
)
from webapp.models import senders
from webapp.services import tokens
from webapp.services.kept_answers import KeyInUse
from webapp.services.tokens import Known


class BadCall(SwitchhookError):
    """A call that cannot be understood or served as it is. `param` names the field, `code` is one of the format's own."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param = param
        self.kind = code
        self.status = status


class NoSeat(SwitchhookError):
    """No thread is left for a call: 429 if those of this token have all that they may have, 503 if nobody gets one."""

    def __init__(self, message: str, status: int, retry_after_s: int) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong, in the words of OpenAI's errors; other formats translate it."""

    status: int
    type: str
    code: str | None
    message: str
    param: str | None = None
    retry_after_s: int | None = None
    request_id: str = ""


_NO_KEY = "No API key was given: send `Authorization: Bearer sh_…` with a token from your settings."
_WRONG_KEY = "This API key is not valid: it is unknown, expired or revoked. Make another one in your settings."


def known(*scopes: str) -> Known:
    """Whose token came along, if it has one of `scopes`, or `admin`, which opens everything; `BadCall` otherwise."""
    token = bearer()
    found = tokens.find(token)
    if found is None:
        raise BadCall(_WRONG_KEY, code="invalid_api_key", status=401)
    if not any(senders.opens(found.scopes, scope) for scope in scopes):
        needed = " or ".join(scopes)
        raise BadCall(f"This API key may not do that: it needs the scope {needed}.", code="insufficient_scope", status=403)
    return found


def bearer() -> str:
    """The token of the call, by either format's header; `BadCall` if there is none."""
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer" and token.strip():
        return token.strip()
    if token := request.headers.get("x-api-key", "").strip():
        return token
    raise BadCall(_NO_KEY, code="invalid_api_key", status=401)


_NAMES = {
    "text": "messages",
    "max_output_tokens": "max_tokens",
    "output": "response_format",
    "category": "model",
    "picture": "messages",
}
"""What the road calls a field, and what OpenAI's format calls it."""
_STATUS: dict[type[SwitchhookError], tuple[int, str]] = {
    BadInput: (400, "invalid_request_error"),
    NotAllowed: (403, "permission_error"),
    NotFound: (404, "invalid_request_error"),
    Conflict: (409, "invalid_request_error"),
    LimitsUnknown: (503, "server_error"),
}
_OF_ENDING: Mapping[str, tuple[int, str, str]] = {
    "limit_reached": (429, "insufficient_quota", "insufficient_quota"),
    "provider_rate_limited": (503, "server_error", "provider_rate_limited"),
    "provider_timeout": (504, "server_error", "provider_timeout"),
    "provider_unavailable": (503, "server_error", "provider_unavailable"),
    "no_vision": (400, "invalid_request_error", "no_vision"),
    "provider_rejected": (400, "invalid_request_error", "provider_rejected"),
    "content_refused": (400, "invalid_request_error", "content_policy_violation"),
    "context_too_long": (400, "invalid_request_error", "context_length_exceeded"),
    "cancelled": (499, "invalid_request_error", "cancelled"),
}


def failure_of(exc: SwitchhookError) -> Failure:
    """A refusal as the format's error."""
    if isinstance(exc, BadCall):
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        return Failure(exc.status, kinds.get(exc.status, "invalid_request_error"), exc.kind, exc.message, exc.param)
    if isinstance(exc, NoSeat):
        own = exc.status == 429
        kind, name = ("rate_limit_error", "rate_limit_exceeded") if own else ("server_error", "server_overloaded")
        return Failure(exc.status, kind, name, exc.message, retry_after_s=exc.retry_after_s)
    if isinstance(exc, UnknownToken):
        return Failure(401, "authentication_error", "invalid_api_key", exc.message)
    if isinstance(exc, LimitReached):
        if exc.alone and not exc.closed:
            return Failure(400, "invalid_request_error", "request_too_large", exc.message, request_id=exc.request_id)
        wait_s = seconds_until(exc)
        # OpenAI's own libraries try again on any 429; a month's limit is not worth it, and `insufficient_quota` says so.
        return Failure(429, "insufficient_quota", "insufficient_quota", exc.message, None, wait_s, exc.request_id)
    status, kind = next((known for of, known in _STATUS.items() if isinstance(exc, of)), (400, "invalid_request_error"))
    param = _NAMES.get(exc.field, exc.field) if isinstance(exc, BadInput) else None
    again_s = exc.retry_after_s if isinstance(exc, KeyInUse) else 60 if status == 503 else None
    return Failure(status, kind, exc.code, exc.message, param, again_s, getattr(exc, "request_id", ""))


def failure_of_ending(code: str, message: str, request_id: uuid.UUID) -> Failure:
    """How a request ended that was not answered, as the format's error."""
    status, kind, name = _OF_ENDING.get(code, (502 if code.startswith("provider_") else 500, "server_error", code))
    return Failure(status, kind, name, message, retry_after_s=5 if status in (502, 503) else None, request_id=str(request_id))


def ignored(body: Mapping[str, Any], used: frozenset[str]) -> str:
    """The parameters of a call that have no effect here, for a header."""
    if used.issuperset(body):
        return ""
    names = sorted(name for name, value in body.items() if name not in used and value not in (None, [], {}, ""))
    return ", ".join(name for name in names[:20] if name.isascii() and name.isprintable())[:500]
