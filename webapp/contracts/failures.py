"""What a vendor's failure means: from a status, its wording or a network error to the typed errors of the core.

The status counts first, then the wording. Messages name the vendor and never hold a key or a prompt; the vendor's own words
go to `detail`, which only operators see.
"""

from __future__ import annotations

import re

import httpx

from webapp.contracts.errors import (
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
)
from webapp.contracts.wire import vendor_words

_TOO_LONG = re.compile(
    r"context[ _](length|window|size)|maximum context|too many (input )?tokens|prompt is too long|reduce the length"
    r"|exceeds the maximum number of tokens",
    re.I,
)
_POLICY = re.compile(
    r"content[ _](policy|filter|management|moderation)|usage polic|safety system|moderation|flagged|invalid_prompt", re.I
)
_BAD_KEY = re.compile(r"(invalid|incorrect)[ _]api[ _]key|api key not valid|authentication|unauthori[sz]ed|permission", re.I)


def about_length(words: str) -> bool:
    """Whether an error's words complain about more text than the model reads."""
    return _TOO_LONG.search(words) is not None


def about_policy(words: str) -> bool:
    """Whether an error's words complain about the content."""
    return _POLICY.search(words) is not None


def about_key(words: str) -> bool:
    """Whether an error's words complain about the key or its permissions."""
    return _BAD_KEY.search(words) is not None


def error_for_status(
    label: str, status: int, words: str, detail: str, *, retry_after_s: float | None = None, no_credit: bool = False
) -> ProviderError:
    """The error for an HTTP status that is not a success. `words` is everything the vendor said, `detail` what operators
    may read of it; `no_credit` is the vendor's own way of saying so under another status than 402."""
    if status == 402 or no_credit:
        return OutOfCredit(f"The account at {label} has no credit left.", status=status, detail=detail)
    if status == 429:
        return RateLimited(
            f"{label} asks for fewer calls at a time.", status=status, detail=detail, retry_after_s=retry_after_s
        )
    if status in (401, 403):
        if status == 403 and about_policy(words):
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
    if about_length(words) or status == 413:
        return ContextTooLong(f"This is more text than the model at {label} reads.", status=status, detail=detail)
    if about_policy(words) or status == 451:
        return RefusedByPolicy(f"{label}'s content policy refuses this.", status=status, detail=detail)
    if about_key(words):
        return BadCredentials(f"{label} does not accept the API key for this.", status=status, detail=detail)
    if 300 <= status < 400:
        return Rejected(f"{label} answers from another address: check its base URL.", status=status, detail=detail)
    return Rejected(f"{label} does not accept the call (status {status}).", status=status, detail=detail)


def at_most(response: httpx.Response, size: int, *, strict: bool = False) -> bytes:
    """The first `size` bytes of a body. An error's body may break off: what came of it still tells something. `strict`
    raises httpx's errors instead."""
    found = bytearray()
    try:
        for piece in response.iter_bytes():
            found += piece
            if len(found) > size:
                break
    except httpx.HTTPError:
        if strict:
            raise
    return bytes(found[:size])


def error_for_network(label: str, exc: Exception) -> ProviderError:
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
