"""What Ollama's failures mean. It says them as `{"error": "text"}`: in the body of a status, or as a line of a stream.

The status counts first, then the wording. Messages never hold a key or a prompt; the server's own words go to `detail`.
"""

from __future__ import annotations

import json
import re

from webapp.plugin import (
    BadCredentials,
    ContextTooLong,
    MalformedAnswer,
    ProviderError,
    RateLimited,
    RefusedByPolicy,
    Rejected,
    TimedOut,
    Unavailable,
    about_key,
    about_length,
    about_policy,
    error_for_status,
    vendor_id,
)

LABEL = "Ollama"
_CANCELLED = 499
_NO_MODEL = re.compile(r"\bmodels?\b.*not found|not found.*\b(model|pull)|try pulling", re.I | re.S)
_TOO_FAST = re.compile(r"rate limit|too many requests|usage limit|slow down", re.I)
# Under a server error only these words are believed: loading a model fails in words about the context's size too.
_SURELY_TOO_LONG = re.compile(r"(exceed|longer than|too (long|large|many))[^.]{0,80}context|context[^.]{0,40}exceeded", re.I)
_DEADLINE = re.compile(r"deadline exceeded|timed? ?out", re.I)
# A field of the call and how a refusal of it is worded, in the order in which they are looked for.
_REFUSALS = (
    ("think", re.compile(r"\bthink(ing)?\b", re.I)),
    ("format", re.compile(r"\bformat\b|\bschema\b|\bgrammar\b|structured output", re.I)),
)


def words_of(body: bytes) -> str:
    """What an error's body says: the text of `error`, else the body as it is."""
    text = body.decode("utf-8", "replace")
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        return text
    if not isinstance(payload, dict):
        return payload if isinstance(payload, str) else text
    return plain_words(payload.get("error") or payload.get("message") or payload.get("detail"))


def plain_words(error: object) -> str:
    """The text of an `error` of any type: a string as it is, an object's message, else as JSON."""
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        error = error["message"]
    if isinstance(error, str):
        return error
    return json.dumps(error) if error else ""


def refused_field(words: str, sent: object) -> str:
    """Which optional field of the body `sent` a 400 complains about, '' for none."""
    if not isinstance(sent, dict):
        return ""
    return next((name for name, wording in _REFUSALS if name in sent and wording.search(words)), "")


def from_status(status: int, words: str, detail: str, *, model: str, retry_after_s: float | None) -> ProviderError:
    """The error for an HTTP status that is not a success; `model` is the model that was asked for."""
    if status == 404 and _NO_MODEL.search(words):
        return no_model(model, status, detail)
    if status == _CANCELLED:
        return Unavailable(f"{LABEL} gave the call up.", status=status, detail=detail)
    if status >= 500 and _SURELY_TOO_LONG.search(words) and not _DEADLINE.search(words):
        return _too_long(status, detail)
    return error_for_status(LABEL, status, words, detail, retry_after_s=retry_after_s)


def from_line(words: str, detail: str, *, model: str) -> ProviderError:
    """The error for an `error` line in a stream that began as a success."""
    if _DEADLINE.search(words):
        return TimedOut(f"{LABEL} did not answer in time.", detail=detail)
    if about_length(words) or _SURELY_TOO_LONG.search(words):
        return _too_long(None, detail)
    if _TOO_FAST.search(words):
        return RateLimited(f"{LABEL} asks for fewer calls at a time.", detail=detail)
    if _NO_MODEL.search(words):
        return no_model(model, None, detail)
    if about_policy(words):
        return RefusedByPolicy(f"{LABEL}'s content policy refuses this.", detail=detail)
    if about_key(words):
        return BadCredentials(f"{LABEL} does not accept the API key for this.", detail=detail)
    return Unavailable(f"{LABEL} broke off its answer.", detail=detail)


def no_model(model: str, status: int | None, detail: str) -> Rejected:
    """The server does not have the model: says how to get it."""
    name = vendor_id(model)
    message = f"{LABEL} does not have the model {name}. Install it there: ollama pull {name}"
    return Rejected(message, status=status, detail=detail)


def malformed(detail: str) -> MalformedAnswer:
    """What came is no answer of Ollama's."""
    return MalformedAnswer(f"What {LABEL} sent is not a valid answer.", detail=detail)


def _too_long(status: int | None, detail: str) -> ContextTooLong:
    return ContextTooLong(f"This is more text than the model at {LABEL} reads.", status=status, detail=detail)
