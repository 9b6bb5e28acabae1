"""What PRSM's failures mean: a status, or `success: false` and an `error` in an answer that began as a success.

The status counts first, then the wording. Messages never hold a key or a prompt; PRSM's own words go to `detail`.
"""

from __future__ import annotations

import json
import re

from plugins.providers.prsm.config import LABEL
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
    Usage,
    about_key,
    about_length,
    about_policy,
    error_for_status,
)

# The quote is above what the call may cost, which is not the same as an empty account.
_OVER_BUDGET = re.compile(r"insufficient budget|budget[^.]{0,40}too (low|small)", re.I)
_NO_MONEY = re.compile(r"insufficient (ftns|balance|funds|credits?)|not enough (ftns|credits?)|escrow", re.I)
_NO_MODEL = re.compile(
    r"(unknown|unsupported|unregistered|no such) model|\bmodel\b[^.]{0,120}"
    r"(not (found|registered|supported|available|recogni[sz]ed|in registry)|does not exist|unknown)",
    re.I,
)
_TOO_FAST = re.compile(r"rate[ _-]?limit|too many requests|privacy budget", re.I)
_TOO_LATE = re.compile(r"timed?[ _-]?out|deadline", re.I)
_POLICY = re.compile(r"content[ _]filter|blocked|unsafe|safety", re.I)
_TOO_LONG = re.compile(r"prompt (size|is too long|exceeds)|max_inference_prompt_bytes", re.I)
_NO_STREAM = re.compile(r"support streaming", re.I)
_NO_ROUTE = (404, 405, 501)
_WORDS_CHARS = 20_000


def words_of(body: bytes) -> str:
    """What an error's body says, in whichever of PRSM's shapes."""
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace")
    return plain_words(payload)


def plain_words(payload: object) -> str:
    """The words of `detail` (a text, FastAPI's list, an object), of `error` (a text or an object) or of `message`."""
    if isinstance(payload, str):
        return payload[:_WORDS_CHARS]
    if not isinstance(payload, dict):
        return ""
    found = []
    for name in ("error", "detail", "message", "code", "failure_reason"):
        value = payload.get(name)
        if isinstance(value, list):
            parts = [part.get("msg", "") if isinstance(part, dict) else part for part in value[:20]]
            places = [str(part.get("loc", "")) for part in value[:20] if isinstance(part, dict)]
            found += [part for part in [*places, *parts] if isinstance(part, str)]
        elif isinstance(value, dict):
            found += [part for key in ("code", "message") if isinstance(part := value.get(key), str)]
        elif isinstance(value, str):
            found.append(value)
    return " ".join(found)[:_WORDS_CHARS]


def cannot_stream(error: ProviderError, words: str) -> bool:
    """Whether a node has no route, or no executor, that streams: it may answer whole."""
    return error.status in _NO_ROUTE or (error.status == 503 and _NO_STREAM.search(words) is not None)


def refuses_temperature(error: ProviderError, words: str) -> bool:
    """Whether the call may succeed without its temperature."""
    return error.status in (400, 422) and type(error) is Rejected and "temperature" in words.lower()


def from_status(status: int, words: str, detail: str, *, dialect: str, retry_after_s: float | None) -> ProviderError:
    """The error for an HTTP status that is not a success."""
    if status in (404, 400, 422) and _NO_MODEL.search(words):
        return Rejected(f"{LABEL} does not know the model: check PRSM_MODEL.", status=status, detail=detail)
    if status in _NO_ROUTE:
        return Rejected(
            f"{LABEL} does not answer in the dialect `{dialect}` at this address: check PRSM_API_URL and PRSM_DIALECT.",
            status=status,
            detail=detail,
        )
    if status in (400, 402, 422) and _OVER_BUDGET.search(words):
        return _over_budget(status, detail)
    if status == 412:
        return Rejected(f"{LABEL} does not accept the call (status 412).", status=status, detail=detail)
    if status == 451:
        return RefusedByPolicy(f"{LABEL}'s content policy refuses this.", status=status, detail=detail)
    if status == 429 and "privacy budget" in words.lower():
        message = f"The privacy budget of the {LABEL} node is used up for now."
        return RateLimited(message, status=status, detail=detail, retry_after_s=retry_after_s)
    return error_for_status(LABEL, status, words, detail, retry_after_s=retry_after_s)


def from_words(words: str, detail: str, usage: Usage | None = None) -> ProviderError:
    """The error that an answer with `success: false`, an `error` event or a failed session means."""
    if _OVER_BUDGET.search(words):
        error: ProviderError = _over_budget(None, detail)
    elif _TOO_FAST.search(words):
        error = RateLimited(f"{LABEL} asks for fewer calls at a time.", detail=detail)
    elif _NO_MONEY.search(words):
        error = OutOfCredit(f"The account at {LABEL} has no credit left.", detail=detail)
    elif _NO_MODEL.search(words):
        error = Rejected(f"{LABEL} does not know the model: check PRSM_MODEL.", detail=detail)
    elif about_length(words) or _TOO_LONG.search(words):
        error = ContextTooLong(f"This is more text than the model at {LABEL} reads.", detail=detail)
    elif about_policy(words) or _POLICY.search(words):
        error = RefusedByPolicy(f"{LABEL}'s content policy refuses this.", detail=detail)
    elif about_key(words):
        error = BadCredentials(f"{LABEL} does not accept the API key for this.", detail=detail)
    elif _TOO_LATE.search(words):
        error = TimedOut(f"{LABEL} did not answer in time.", detail=detail)
    else:
        error = Unavailable(f"{LABEL} could not answer.", detail=detail)
    error.usage = usage
    return error


def malformed(detail: str, usage: Usage | None = None) -> MalformedAnswer:
    """What came is no answer of PRSM's."""
    return MalformedAnswer(f"What {LABEL} sent is not a valid answer.", detail=detail, usage=usage)


def _over_budget(status: int | None, detail: str) -> Rejected:
    return Rejected(f"{LABEL} asks for more than PRSM_BUDGET_FTNS allows for one answer.", status=status, detail=detail)
