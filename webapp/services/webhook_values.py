"""What may be set for an endpoint of outgoing webhooks: checked before it is kept."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from webapp.contracts.errors import BadInput
from webapp.contracts.texts import bare
from webapp.contracts.webhooks import EVENTS
from webapp.routing import webhook_calls
from webapp.services.provider_values import can_be_host

URL_CHARS, DESCRIPTION_CHARS = 2000, 255
_PORTS = {"http": 80, "https": 443}
_UNSENDABLE = re.compile(r"[\s\\]")


def url(text: str) -> str:
    """An address that may be called. `BadInput`, in the words of the guard for an internal one. Looks its host up."""
    text = text.strip()
    bad = BadInput("url", "The address has to be a whole one, such as https://example.com/hooks/switchhook.")
    if len(text) > URL_CHARS:
        raise BadInput("url", f"The address is longer than {URL_CHARS} characters.")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise bad from None
    if parts.scheme not in _PORTS or not host or port == 0 or not text.isascii() or not text.isprintable():
        raise bad
    if _UNSENDABLE.search(text) or not can_be_host(host):
        raise bad
    if "@" in parts.netloc:
        raise BadInput("url", "The address must not hold a user or a password: messages are signed instead.")
    if "#" in text:
        raise BadInput("url", "The address must end before the `#`, which is never sent.")
    try:
        webhook_calls.check(host, port or _PORTS[parts.scheme])
    except webhook_calls.Forbidden as exc:
        raise BadInput("url", f"{exc}.") from exc
    return text


def description(text: str) -> str:
    """A description in one line. `BadInput`."""
    text = " ".join(bare(text).split())
    if len(text) > DESCRIPTION_CHARS:
        raise BadInput("description", f"The description is longer than {DESCRIPTION_CHARS} characters.")
    return text


def events(names: Iterable[str]) -> list[str]:
    """Names of events, each once, in our order; none of them means all. `BadInput`."""
    given = {name.strip() for name in names}
    for name in sorted(given):
        if name not in EVENTS:
            raise BadInput("events", f"There is no event {name[:60]!r}; there are: {', '.join(EVENTS)}.")
    return [name for name in EVENTS if name in given]
