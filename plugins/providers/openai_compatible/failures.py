"""What a vendor's failure means: from a status, an error body or a network error to the typed errors of the core.

The status counts first, then the vendor's code, then its wording. Messages name the vendor and never hold a key or a
prompt; the vendor's own words go to `detail`, which only operators see.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx

from webapp.plugin import (
    BadCredentials,
    ContextTooLong,
    MalformedAnswer,
    OutOfCredit,
    ProviderError,
    RateLimited,
    RefusedByPolicy,
    Rejected,
    TimedOut,
    Unavailable,
    clean,
)

DETAIL_CHARS = 500
_DAY_S = 86_400.0

_NO_CREDIT = {"insufficient_quota", "credit_balance_exhausted", "insufficient_balance", "billing_hard_limit_reached"}
_TOO_LONG = re.compile(
    r"context[ _](length|window|size)|maximum context|too many (input )?tokens|prompt is too long|reduce the length",
    re.I,
)
_POLICY = re.compile(r"content[ _](policy|filter|management)|usage polic|safety system|moderation|flagged|invalid_prompt", re.I)
_BAD_KEY = re.compile(r"invalid[ _]api[ _]key|incorrect api key|authentication|unauthori[sz]ed|permission", re.I)
_UNSUPPORTED = re.compile(
    r"unsupported|not supported|does not support|unrecogni[sz]ed|unknown (parameter|argument|field|name)"
    r"|extra[ _](inputs|fields|forbidden)|not permitted",
    re.I,
)


@dataclass(frozen=True, slots=True)
class Complaint:
    """An error body, whichever of the customary shapes it had. Empty strings where it said nothing."""

    message: str = ""
    code: str = ""
    kind: str = ""
    param: str = ""

    @classmethod
    def read(cls, payload: object) -> Complaint:
        """From a parsed body: `error` as an object or a string, FastAPI's `detail`, or the fields at the top."""
        if not isinstance(payload, dict):
            return cls(message=payload if isinstance(payload, str) else "")
        error = payload.get("error")
        if isinstance(error, str) and error:
            return cls(message=error, code=_word(payload.get("code")), kind=_word(payload.get("type")))
        if not isinstance(error, dict):
            if isinstance(detail := payload.get("detail"), list):
                return cls._fastapi(detail)
            error = {"message": detail} if isinstance(detail, str) else detail if isinstance(detail, dict) else payload
        message = error.get("message")
        return cls(
            message=message if isinstance(message, str) else json.dumps(message) if message else "",
            code=_word(error.get("code")),
            kind=_word(error.get("type")),
            param=_word(error.get("param")),
        )

    @classmethod
    def _fastapi(cls, detail: list[object]) -> Complaint:
        faults = [fault for fault in detail if isinstance(fault, dict)]
        if not faults:
            return cls(message="; ".join(str(fault) for fault in detail))
        place = [str(step) for step in faults[0].get("loc") or () if step != "body"]
        words = "; ".join(str(fault.get("msg", "")) for fault in faults)
        return cls(message=words, kind=_word(faults[0].get("type")), param=".".join(place))

    @property
    def words(self) -> str:
        """Everything it said, to be searched."""
        return f"{self.code} {self.kind} {self.message}"

    def unsupported_field(self, fields: Iterable[str]) -> str:
        """Which of `fields` the vendor does not take, '' if that is not the complaint."""
        if not _UNSUPPORTED.search(self.words):
            return ""
        named = self.param.partition(".")[0].partition("[")[0]
        if named:
            return named if named in fields else ""
        return next((name for name in fields if re.search(rf"\b{re.escape(name)}\b", self.message)), "")


def _word(value: object) -> str:
    """A code as text: some servers send numbers."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return str(value)[:100]


def vendor_words(text: str, secrets: Iterable[str] = ()) -> str:
    """What a vendor said, fit for an error log: harmless, short, and without our own key, should it have echoed it."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[key]")
    text = clean(text).strip()
    return text if len(text) <= DETAIL_CHARS else text[: DETAIL_CHARS - 1] + "…"


def from_status(label: str, status: int, said: Complaint, detail: str, retry_after_s: float | None) -> ProviderError:
    """The error for an HTTP status that is not a success."""
    code, words = said.code, said.words
    if status == 402 or (status in (403, 429) and (code in _NO_CREDIT or (not code and said.kind in _NO_CREDIT))):
        return OutOfCredit(f"The account at {label} has no credit left.", status=status, detail=detail)
    if status == 429:
        return RateLimited(
            f"{label} asks for fewer calls at a time.", status=status, detail=detail, retry_after_s=retry_after_s
        )
    if status in (401, 403):
        if status == 403 and _POLICY.search(words):
            return RefusedByPolicy(f"{label}'s content policy refuses this.", status=status, detail=detail)
        return BadCredentials(f"{label} does not accept the API key for this.", status=status, detail=detail)
    if status in (408, 504):
        return TimedOut(f"{label} did not answer in time.", status=status, detail=detail, retry_after_s=retry_after_s)
    if status == 409 or status >= 500:
        return Unavailable(f"{label} has trouble (status {status}).", status=status, detail=detail, retry_after_s=retry_after_s)
    return _refused_call(label, status, words, detail)


def _refused_call(label: str, status: int, words: str, detail: str) -> ProviderError:
    if status == 404:
        return Rejected(f"{label} does not know the model or the address.", status=status, detail=detail)
    if _TOO_LONG.search(words) or status == 413:
        return ContextTooLong(f"This is more text than the model at {label} reads.", status=status, detail=detail)
    if _POLICY.search(words):
        return RefusedByPolicy(f"{label}'s content policy refuses this.", status=status, detail=detail)
    if _BAD_KEY.search(words):
        return BadCredentials(f"{label} does not accept the API key for this.", status=status, detail=detail)
    if 300 <= status < 400:
        return Rejected(f"{label} answers from another address: check its base URL.", status=status, detail=detail)
    return Rejected(f"{label} does not accept the call (status {status}).", status=status, detail=detail)


def from_error_in_answer(label: str, said: Complaint, detail: str) -> ProviderError:
    """The error for an `error` object inside an answer that began as a success."""
    if said.code.isdigit() and 400 <= int(said.code) < 600:
        return from_status(label, int(said.code), said, detail, None)
    words = said.words.lower()
    if said.code in _NO_CREDIT or said.kind in _NO_CREDIT:
        status = 402
    elif "rate_limit" in words or "rate limit" in words or "slow_down" in words:
        status = 429
    elif "invalid_request" in words or _TOO_LONG.search(words) or _POLICY.search(words):
        status = 400
    elif _BAD_KEY.search(words):
        status = 401
    elif "not_found" in words:
        status = 404
    else:
        status = 500
    error = from_status(label, status, said, detail, None)
    error.status = None
    return error


def from_network(label: str, exc: Exception) -> ProviderError:
    """The error for what httpx raises."""
    detail = vendor_words(f"{type(exc).__name__}: {exc}")
    if isinstance(exc, httpx.ConnectTimeout | httpx.ConnectError):
        return Unavailable(f"{label} cannot be reached.", detail=detail)
    if isinstance(exc, httpx.TimeoutException):
        return TimedOut(f"{label} did not answer in time.", detail=detail)
    if isinstance(exc, httpx.NetworkError | httpx.ProxyError):
        return Unavailable(f"The connection to {label} broke.", detail=detail)
    if isinstance(exc, httpx.RemoteProtocolError | httpx.DecodingError):
        return MalformedAnswer(f"What {label} sent is not a valid answer.", detail=detail)
    return Rejected(f"The call to {label} cannot be made: check its address and key.", detail=detail)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds the vendor asks to wait: `retry-after-ms`, else `retry-after` in seconds or as a date; else None."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if not value:
            continue
        try:
            seconds = float(value) * unit_s
        except ValueError:
            seconds = _until(value) if unit_s == 1.0 else math.nan
        if math.isfinite(seconds) and seconds >= 0:
            return min(seconds, _DAY_S)
    return None


def _until(date: str) -> float:
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return math.nan
