"""The calls of outgoing webhooks: a client and a guard of their own.

Their addresses come from managers of organizations. So an internal one is reached only where SWITCHHOOK_ALLOW_OUTBOUND allows
it: that the operator named it as a vendor's address in the environment, which opens it to the vendors' client, is not enough,
and no connection is shared with that client.
"""

from __future__ import annotations

import atexit
import os
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from webapp.extensions import current_settings
from webapp.routing.guard import SETTING, Forbidden, Guard

if TYPE_CHECKING:
    import httpx


_CURE = f"if it is meant, ask the operator to allow it ({SETTING})"


@dataclass(slots=True)
class _Kept:
    """What this process has for one value of the setting."""

    guard: Guard
    client: httpx.Client | None = None


_lock = threading.Lock()
_kept_by: dict[str, _Kept] = {}


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
    allowed = current_settings().allow_outbound
    found = _kept_by.get(allowed)
    if found is None:
        made = Guard(_CURE)
        made.allow(allowed)
        found = _kept_by.setdefault(allowed, _Kept(made))
    return found


def close() -> None:
    """Close the idle connections. The next call of `client()` makes others."""
    old = [kept.client for kept in _kept_by.values() if kept.client is not None]
    _kept_by.clear()
    for client_before in old:
        client_before.close()


def _after_fork() -> None:
    # Two processes on one connection would read each other's answers. Closing the child's copies sends nothing.
    global _lock
    _lock = threading.Lock()
    close()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(close)

__all__ = ["Forbidden", "check", "client", "close", "guard"]
