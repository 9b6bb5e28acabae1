"""Bodies that come slowly, or not at all: a thread of the web server waits for each, so only a part of them may.

granian (2.8) hands a call over as soon as its head is there, and `wsgi.input.read` waits until as much has come as was asked
for, or the connection has ended: it has no limit in time, and a read that waits cannot be ended. So the number of those who
wait is what is bounded, and the time is looked at between two reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from flask import Flask
from werkzeug.exceptions import RequestTimeout

from webapp.api import problems, throttle

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PATIENCE_S = 30.0
SLOWEST_PER_S = 100_000
"""Bytes a second that a body must come with, after the first `PATIENCE_S`."""
RETRY_AFTER_S = 5
_PIECE = 64 * 1024
_FULL = "Too many bodies are on their way here at once: come back in a few seconds, and send the whole body at once."
_SLOW = "The body came too slowly: send it again over a better connection, or in smaller parts."


class _Seats(Protocol):
    """See `webapp.web.streams`."""

    def receive(self, address: str) -> Callable[[], None] | None: ...


class Bodies:
    """WSGI: the application, with a bound on the bodies that are waited for."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._inner: WSGIApplication = app.wsgi_app
        self._seats: _Seats = app.extensions["switchhook.seats"]
        self._proxies: int = app.extensions["switchhook.settings"].trusted_proxies

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        length = environ.get("CONTENT_LENGTH") or "0"
        if length == "0" and "HTTP_TRANSFER_ENCODING" not in environ:
            return self._inner(environ, start_response)
        leave = self._seats.receive(self._address(environ))
        if leave is None:
            return self._refused(503, "server_overloaded", _FULL, environ, start_response)
        environ["wsgi.input"] = Body(environ["wsgi.input"], int(length) if length.isdecimal() else 0, leave)
        try:
            return self._inner(environ, start_response)
        except RequestTimeout:
            return self._refused(408, "request_timeout", _SLOW, environ, start_response)
        finally:
            # What is not read by then is not read at all.
            leave()

    def _address(self, environ: WSGIEnvironment) -> str:
        """Whose body it is: this stands before what believes the proxies."""
        address = ""
        if self._proxies:
            hops = environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
            address = hops[-self._proxies].strip() if len(hops) >= self._proxies > 0 else ""
        address = address or str(environ.get("REMOTE_ADDR", ""))
        return throttle.network(address) if ":" in address else address

    def _refused(
        self, status: int, code: str, detail: str, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        with self._app.app_context():
            headers = {"Retry-After": str(RETRY_AFTER_S), "Connection": "close", "x-should-retry": "true"}
            return problems.in_form(environ["PATH_INFO"], status, code, detail, headers)(environ, start_response)


class Body:
    """The `wsgi.input` of one call. Read to its end, it gives back its seat; `RequestTimeout` when it comes too slowly."""

    def __init__(self, source: Any, length: int, leave: Callable[[], None]) -> None:
        self._source = source
        self._length = length
        self._came = 0
        self._leave = leave
        self._since = time.monotonic()

    def read(self, size: int | None = None) -> bytes:
        """At most `size` bytes; all that are left without it."""
        if size is not None and 0 < size <= _PIECE:
            return self._piece(size)  # as most are
        wanted = size if size is not None and size >= 0 else None
        pieces: list[bytes] = []
        while wanted is None or wanted > 0:
            asked = _PIECE if wanted is None else min(wanted, _PIECE)
            piece = self._piece(asked)
            pieces.append(piece)
            if len(piece) < asked:
                break
            wanted = None if wanted is None else wanted - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _piece(self, asked: int) -> bytes:
        if self._came and time.monotonic() - self._since > PATIENCE_S + self._came / SLOWEST_PER_S:
            raise RequestTimeout(_SLOW)
        piece: bytes = self._source.read(asked)
        came = len(piece)
        self._came += came
        if came < asked or 0 < self._length <= self._came:
            self._leave()
        return piece

    def readline(self, size: int = -1) -> bytes:
        """One line."""
        line: bytes = self._source.readline(size) if size >= 0 else self._source.readline()
        return line

    def readlines(self, hint: int = -1) -> list[bytes]:  # noqa: ARG002
        """All lines."""
        return list(self)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")
