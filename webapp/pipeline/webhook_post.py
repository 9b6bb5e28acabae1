"""One call to a receiver of outgoing webhooks: signed (Standard Webhooks), bounded in time and size, never redirected."""

from __future__ import annotations

import contextlib
import json
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
from standardwebhooks import Webhook

from webapp.contracts.errors import SetupError
from webapp.contracts.texts import bare, mask_address
from webapp.extensions import current_settings
from webapp.routing import http, vendor_keys, webhook_calls
from webapp.vault import current_vault

BODY_BYTES = 4096
"""How much of a receiver's answer is read."""
EXCERPT_CHARS = 200
GONE = 410
# A streamed answer is read up to BODY_BYTES; this only keeps the client from refusing a larger one before.
_MAX_BYTES = 1 << 40
_NUMBER = re.compile(r"\+?\d{7,15}\b")
_SECRET = re.compile(r"whsec_[A-Za-z0-9+/=_-]+")
_SHORTEST_BLOTTED = 4


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one try. `status` is None where there was no answer; `words` says what went wrong, '' if nothing did.

    `ours` marks a failure that is not the receiver's. `excerpt` is the beginning of its answer, without secrets and numbers.
    """

    at: datetime
    status: int | None
    ms: int
    words: str = ""
    excerpt: str = ""
    ours: bool = False

    @property
    def delivered(self) -> bool:
        """Whether the receiver took the message."""
        return self.status is not None and 200 <= self.status < 300

    def as_logged(self) -> dict[str, Any]:
        """The form in which a try is kept (`WebhookDelivery.log`)."""
        said = f" It said: {self.excerpt}" if self.excerpt and not self.delivered else ""
        return {"at": self.at.isoformat(), "status": self.status, "ms": self.ms, "words": f"{self.words}{said}"}


def post(endpoint: Any, message_id: uuid.UUID, payload: Mapping[str, Any], at: datetime) -> Answer:
    """Send a message to an endpoint (its row), once. Whatever goes wrong is an `Answer`, too."""
    try:
        keys = _secrets(endpoint, at)
    except SetupError:
        words = "The signing secret cannot be opened with the installation's encryption keys: renew the secret."
        return Answer(at, None, 0, words, ours=True)
    body = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    headers = {
        "Content-Type": "application/json",
        "webhook-id": str(message_id),
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Webhook(key).sign(str(message_id), at, body) for key in keys),
    }
    blots = (*keys, *_secrets_in(endpoint.url))
    limit_s = current_settings().webhook_timeout_s
    began, status, excerpt = time.monotonic(), None, ""
    try:
        with (
            http.call_limits(timeout_s=limit_s, silence_s=limit_s),
            webhook_calls.client().stream(
                "POST", endpoint.url, content=body.encode(), headers=headers, extensions={"max_bytes": _MAX_BYTES}
            ) as response,
        ):
            status = response.status_code
            excerpt = _excerpt(response, blots)
        words = _words(status)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as exc:
        # Whoever has said 200 and then dawdles over the rest has taken the message.
        words = _words(status) if status is not None else _trouble(exc, limit_s, blots)
    return Answer(at, status, round((time.monotonic() - began) * 1000), words, excerpt)


def _secrets(endpoint: Any, at: datetime) -> tuple[str, ...]:
    """The secrets with which a message is signed: for a while after a change also by the one before. `SetupError`."""
    found = [current_vault().unseal(endpoint.secret)]
    if endpoint.secret_before and endpoint.secret_before_until is not None and endpoint.secret_before_until > at:
        # Without the one before, the message is still good for whoever has changed over.
        with contextlib.suppress(SetupError):
            found.append(current_vault().unseal(endpoint.secret_before))
    return tuple(found)


def _excerpt(response: httpx.Response, blots: tuple[str, ...]) -> str:
    read = b""
    for piece in response.iter_raw():
        read += piece
        if len(read) >= BODY_BYTES:
            break
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        return ""
    return _redacted(read[:BODY_BYTES].decode("utf-8", "replace"), blots, EXCERPT_CHARS)


def _redacted(text: str, blots: tuple[str, ...], most: int) -> str:
    """`text` in one line, cut, without the secrets of the endpoint, what looks like one, and phone numbers."""
    text = _SECRET.sub(vendor_keys.BLOT, vendor_keys.blot(bare(text), blots))
    text = " ".join(_NUMBER.sub(lambda found: mask_address(found.group()), text).split())
    return text if len(text) <= most else text[: most - 1] + "…"


def _secrets_in(url: str) -> tuple[str, ...]:
    """What of an address may be a secret: its query and the longer parts of its path."""
    parts = urlsplit(url)
    given = [parts.query, *(pair.partition("=")[2] for pair in parts.query.split("&")), *parts.path.split("/")]
    longest_last = {form for value in given for form in (value, unquote(value)) if len(form) >= _SHORTEST_BLOTTED}
    return tuple(sorted((each for each in longest_last if any(c.isdigit() for c in each)), key=len, reverse=True))


def _words(status: int) -> str:
    if 200 <= status < 300:
        return ""
    if status == GONE:
        return "It answered 410 (gone): it wants no more messages."
    if 300 <= status < 400:
        return f"It answered {status}, a redirect, which is not followed: set the address where it leads."
    return f"It answered {status}."


def _trouble(exc: Exception, limit_s: float, blots: tuple[str, ...]) -> str:
    if isinstance(exc, httpx.TimeoutException):
        return f"There was no answer within {limit_s:g} seconds."
    return _redacted(f"There was no answer: {exc}.", blots, 2 * EXCERPT_CHARS)
