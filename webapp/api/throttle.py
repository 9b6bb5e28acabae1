"""How many calls one caller may make: by address without a valid sign-in, by person to `/api`, by token to `/v1`.

To `/v1` nobody is looked up for it: a token counts by its digest, whether it is valid or not, and an address for each call that
was found to have none that is.

Fixed windows by the clock, counted in Redis with one round trip a call, so that all processes share them. While Redis is away
each process counts for itself.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus

import redis
from flask import Flask, Response, current_app, g, request
from flask_wtf.csrf import CSRFError
from limits.storage import MemoryStorage, RedisStorage

from webapp.api import access, problems
from webapp.api.problems import Unauthorized
from webapp.extensions import current_settings, limiter_storage
from webapp.services.people import token_digest
from webapp.settings import Settings

log = logging.getLogger(__name__)

CODE = "too_many_requests"
_EXTENSION = "switchhook.api_throttle"
_ADDRESS = "address:"
_HOUR_S, _MINUTE_S = 3600, 60
_AWAY_S = 5.0
"""For so long Redis is not asked again after it was away: each try may take half a second."""
_PAGES = ("/api/docs",)
"""For people: those who are signed in read them uncounted."""


@dataclass(frozen=True, slots=True)
class Count:
    """How a caller stands in a window, with this call."""

    limit: int
    used: int
    ends_at: int
    """Seconds since 1970."""
    left_s: int

    def headers(self) -> dict[str, str]:
        """`RateLimit-Reset` is in seconds from this moment on, `X-RateLimit-Reset` the moment in seconds since 1970."""
        remaining = str(max(0, self.limit - self.used))
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": remaining,
            "RateLimit-Reset": str(self.left_s),
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": remaining,
            "X-RateLimit-Reset": str(self.ends_at),
        }


class Throttle:
    """The counts of one installation."""

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        self._shared = RedisStorage(
            limiter_storage(settings), connection_pool=client.connection_pool, key_prefix="switchhook:calls"
        )
        self._own: MemoryStorage | None = None
        self._lock = threading.Lock()
        self._away_until = 0.0

    def count(self, who: str, limit: int, window_s: int) -> Count:
        """Count a call of somebody in the present window."""
        moment = time.time()
        ends_at = (int(moment) // window_s + 1) * window_s
        used = self._add(f"{who}:{ends_at}", window_s)
        return Count(limit, used, ends_at, max(1, math.ceil(ends_at - moment)))

    def _add(self, key: str, window_s: int) -> int:
        if time.monotonic() >= self._away_until:
            try:
                return int(self._shared.incr(key, window_s))
            except redis.RedisError as exc:
                self._away_until = time.monotonic() + _AWAY_S
                log.warning("calls are counted by each process for itself, Redis is away: %s", type(exc).__name__)
        with self._lock:
            # It has threads of its own, so it is made only when it is needed.
            self._own = self._own or MemoryStorage()
        return int(self._own.incr(key, window_s))


def prepare(app: Flask, settings: Settings) -> None:
    """Make the counts of an application."""
    app.extensions[_EXTENSION] = Throttle(settings, app.extensions["switchhook.redis"])


def check() -> Response | None:
    """Count the call that has come in; the answer, if it is one too many."""
    if request.path.startswith(_PAGES):
        who, limit, window_s = _window()
        return _counted(who, limit, window_s) if who.startswith(_ADDRESS) else None
    return _counted(*(_window_of_token() if _is_v1() else _window()))


def recheck(response: Response) -> Response:
    """The answer to the present call, or another one: a call to `/v1` whose token was found to be none counts by its address,
    and may be one too many. Whoever has a valid token there is not held up by others behind the same address."""
    if not _is_v1() or response.status_code != HTTPStatus.UNAUTHORIZED:
        return response
    return _counted(*_window_of_address()) or response


def headers() -> dict[str, str]:
    """What the answer to the present call says about it."""
    count: Count | None = g.get("api_count")
    return count.headers() if count is not None else {}


def _counted(who: str, limit: int, window_s: int) -> Response | None:
    if not limit:
        return None
    throttle: Throttle = current_app.extensions[_EXTENSION]
    count = g.api_count = throttle.count(who, limit, window_s)
    if count.used <= limit:
        return None
    wait = f"{count.left_s} seconds" if count.left_s < 2 * _MINUTE_S else f"{-(-count.left_s // _MINUTE_S)} minutes"
    span = "an hour" if window_s == _HOUR_S else "a minute"
    detail = f"More than {limit} calls in {span}: come back in {wait}."
    return problems.in_form(request.path, HTTPStatus.TOO_MANY_REQUESTS, CODE, detail, {"Retry-After": str(count.left_s)})


def _is_v1() -> bool:
    return request.path.startswith("/v1")


def _window() -> tuple[str, int, int]:
    """Under which name the call counts, how many there may be, and in how many seconds; 0 calls for no limit."""
    try:
        caller = access.identify()
    except (Unauthorized, CSRFError):
        # It is said when a route asks who calls.
        caller = None
    if caller is None:
        return _window_of_address()
    return f"person:{caller.id}", current_settings().throttle_signed_in_per_h, _HOUR_S


def _window_of_address() -> tuple[str, int, int]:
    return f"{_ADDRESS}{network(request.remote_addr or '')}", current_settings().throttle_anonymous_per_h, _HOUR_S


def _window_of_token() -> tuple[str, int, int]:
    limit, token = current_settings().throttle_v1_per_min, access.token_of_call()
    # Without one the call fails in any case, and is counted then.
    return (f"v1:{token_digest(token)}", limit, _MINUTE_S) if limit and token else ("", 0, _MINUTE_S)


def network(address: str) -> str:
    """The address; of IPv6 the network of 64 bits, of which one household has all addresses."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
