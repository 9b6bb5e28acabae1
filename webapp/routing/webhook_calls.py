"""The calls of outgoing webhooks: a client and a guard of their own.

Their addresses come from managers of organizations. So an internal one is reached only where SWITCHHOOK_ALLOW_OUTBOUND allows
it: that the operator named it as a vendor's address in the environment, which opens it to the vendors' client, is not enough,
and no connection is shared with that client.
"""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask import current_app

from webapp.extensions import current_settings
from webapp.routing.guard import Forbidden, Guard

if TYPE_CHECKING:
    import httpx

_KEY = "switchhook.webhook_calls"
_lock = threading.Lock()


@dataclass(slots=True)
class _Kept:
    """What one process has of them: a forked child makes its own."""

    process: int
    guard: Guard
    client: httpx.Client | None = None


def guard() -> Guard:
    """What outgoing webhooks may be connected to."""
    return _kept().guard


def client() -> httpx.Client:
    """The client, made at the first call."""
    from webapp.routing import http

    kept = _kept()
    with _lock:
        if kept.client is None:
            kept.client = http.build_client(guard=kept.guard)
        return kept.client


def check(host: str, port: int) -> None:
    """Raise `Forbidden` for a host that leads inside. One that nobody knows may be known later: each call is checked again."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return
    for *_, address in found:
        guard().check(host, port, str(address[0]))


def _kept() -> _Kept:
    found = current_app.extensions.get(_KEY)
    if isinstance(found, _Kept) and found.process == os.getpid():
        return found
    with _lock:
        found = current_app.extensions.get(_KEY)
        if not isinstance(found, _Kept) or found.process != os.getpid():
            made = Guard()
            made.allow(current_settings().allow_outbound)
            found = current_app.extensions[_KEY] = _Kept(os.getpid(), made)
    return found


__all__ = ["Forbidden", "check", "client", "guard"]
