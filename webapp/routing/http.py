"""The pooled HTTP client: httpx's API over a pool that stays flat, with time limits that hold whatever the server does.

httpx's own pool looks at every connection for every call, under one lock: at 400 calls in flight a call costs 11 ms of
processor time. Here each origin has a stack of idle connections and nothing else, so a call costs the same whether 1 or
400 others wait. The format is `http.client`'s work: per streamed piece it takes half the time of httpx's parser.

What this transport promises beyond httpx's:

- An absolute deadline over the whole call, connecting and a slowly dripping answer included (`call_limits`).
- At most `max_bytes` of answer.
- A body is handed on as it arrives; closing a response early closes its socket instead of reading the rest.
- With a guard, no connection to an internal address that the operator did not allow (`webapp.routing.guard`). The shared
  client has one. It is asked when a connection is made, and costs a call on a kept connection nothing.
- A call is never repeated, with one exception: a kept-alive connection that turns out to be closed while the request is
  still being written. The server cannot have processed a request whose last byte was never handed to the network.

There is no upper bound on connections: a call needs a thread, and threads are bounded. Looking up a host's name cannot
be interrupted by Python and may pass a deadline by as long as the resolver takes.
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator
from http.client import BadStatusLine, HTTPException, HTTPResponse, RemoteDisconnected
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, cast

import httpx

from webapp.routing import guard as guards
from webapp.routing.wire import CONNECT_S, Clock, Connection, Origin, call_limits, given_up_when

if TYPE_CHECKING:
    import socket

    from httpx._client import UseClientDefault
    from httpx._types import AuthTypes

__all__ = ["PooledTransport", "build_client", "call_limits", "client", "close_client", "given_up_when"]

KEEP_ALIVE_S = 60.0
_PIECE = 65_536
# How long closing a response waits for the end of a body that may just be arriving. Readers of event streams stop at
# `[DONE]`, a few microseconds before the empty chunk that ends the body; without it the connection could not be kept.
# A server with Nagle's algorithm on holds that chunk back until our kernel has acknowledged the piece before, for 40 ms.
_END_GRACE_S = 0.05
_FORBIDDEN = re.compile(rb"[\r\n\x00]")


class NotSent(Exception):
    """The request did not reach the server whole, so it cannot have been processed."""


class _Body(httpx.SyncByteStream):
    """The body of an answer: read once, as it arrives."""

    def __init__(self, transport: PooledTransport, connection: Connection, answer: HTTPResponse) -> None:
        self._transport = transport
        self._connection = connection
        self._answer = answer
        self._left = answer.length
        self._finished = self._left == 0
        self._closed = self._broken = False
        encoded = answer.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity")
        # Compressed data may grow a thousandfold, and was not asked for.
        self._room = connection.clock.max_bytes // 100 if encoded else connection.clock.max_bytes

    def __iter__(self) -> Iterator[bytes]:
        try:
            while piece := self._next():
                yield piece
        except httpx.HTTPError:
            self._broken = True
            raise

    def _next(self) -> bytes:
        """The next bytes, b'' at the end. Truncation is an error, never an end."""
        if self._finished:
            return b""
        try:
            piece = self._answer.read1(_PIECE if self._left is None else min(_PIECE, self._left))
        except TimeoutError as exc:
            raise httpx.ReadTimeout(f"no further byte in time: {exc}") from exc
        except OSError as exc:
            raise httpx.ReadError(f"the connection broke: {exc}") from exc
        except (HTTPException, ValueError) as exc:
            raise httpx.RemoteProtocolError(f"the answer broke off or is malformed: {exc!r}") from exc
        self._room -= len(piece)
        if self._room < 0:
            raise httpx.RemoteProtocolError("the answer is larger than the limit of the call (max_bytes)")
        if self._left is not None:
            self._left -= len(piece)
            if self._left and not piece:
                raise httpx.RemoteProtocolError(f"the answer ended {self._left} bytes before its announced length")
        self._finished = self._left == 0 or not piece
        return piece

    def close(self) -> None:
        """Give the connection back if the whole answer was read, else hang up."""
        if self._closed:
            return
        self._closed = True
        if self._answer.chunked and not (self._finished or self._broken):
            clock = self._connection.clock
            clock.deadline = min(clock.deadline, time.monotonic() + _END_GRACE_S)
            with contextlib.suppress(httpx.HTTPError):
                self._next()
        reusable = self._finished and not (self._broken or self._answer.will_close)
        with contextlib.suppress(OSError, ValueError):
            self._answer.close()
        if reusable:
            self._transport.give_back(self._connection)
        else:
            self._connection.close()


class PooledTransport(httpx.BaseTransport):
    """HTTP/1.1 over kept-alive connections: a stack per origin, last used first, no lock and no search."""

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        keep_alive_s: float = KEEP_ALIVE_S,
        guard: guards.Guard | None = None,
    ) -> None:
        self._context = ssl_context
        self._guard = guard
        self._context_lock = threading.Lock()
        self._keep_alive_s = keep_alive_s
        self._idle: dict[Origin, deque[Connection]] = {}
        self._next_sweep = 0.0
        self._closed = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Make one call. Raises httpx's own exceptions, and no others."""
        origin = _origin(request.url)
        clock = Clock(request)
        head = _head(request)
        try:
            body: bytes | None = request.content
        except httpx.RequestNotRead:
            body = None
        kept = self._take(origin)
        while True:
            connection = kept or self._connect(origin, clock)
            try:
                return self._exchange(connection, clock, request, head, body)
            except NotSent as exc:
                connection.close()
                if kept is None or body is None:
                    raise httpx.WriteError("the server closed the connection while it was written to") from exc
                kept = None
            except BaseException:
                connection.close()
                raise

    def _exchange(
        self, connection: Connection, clock: Clock, request: httpx.Request, head: bytes, body: bytes | None
    ) -> httpx.Response:
        connection.clock = clock
        connection.received = 0
        failure = self._write(connection, request, head, body)
        # A server may answer (413) and close before it has read everything, so a failed write is not the end yet.
        # HTTPResponse only asks its socket for a file, so that a connection serves as one.
        answer = HTTPResponse(cast("socket.socket", connection), method=request.method)
        try:
            answer.begin()
        except Exception as exc:
            answer.close()
            if failure is not None:
                raise NotSent from failure
            raise _head_error(exc) from exc
        if answer.status < 200:
            answer.close()
            raise httpx.RemoteProtocolError(f"an interim answer ({answer.status}) came where the final one was due")
        if failure is not None:
            answer.will_close = True
        return httpx.Response(
            answer.status,
            headers=[(k.encode("latin-1"), str(v).encode("latin-1")) for k, v in answer.headers.items()],
            stream=_Body(self, connection, answer),
        )

    def _write(self, connection: Connection, request: httpx.Request, head: bytes, body: bytes | None) -> OSError | None:
        """Write the whole request. Returns what kept the server from taking it all, None if it took it."""
        try:
            if body is not None:
                connection.send(head + body if len(body) < _PIECE else head)
                if len(body) >= _PIECE:
                    connection.send(body)
                return None
            connection.send(head)
            chunked = "transfer-encoding" in request.headers
            for piece in cast("httpx.SyncByteStream", request.stream):
                if piece:
                    connection.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if chunked:
                connection.send(b"0\r\n\r\n")
        except TimeoutError as exc:
            raise httpx.WriteTimeout("the server did not take the request in time") from exc
        except OSError as exc:
            return exc
        return None

    def _connect(self, origin: Origin, clock: Clock) -> Connection:
        if self._closed:
            raise httpx.ConnectError("this client is closed")
        try:
            return Connection(origin, clock, self._tls() if origin.secure else None, self._guard)
        except guards.Forbidden as exc:
            raise httpx.ConnectError(str(exc)) from exc
        except TimeoutError as exc:
            raise httpx.ConnectTimeout(f"no connection to {origin.host}:{origin.port} in time") from exc
        except (OSError, UnicodeError) as exc:
            # ssl.SSLError and socket.gaierror are OSErrors; a name that is too long or empty is a UnicodeError.
            raise httpx.ConnectError(f"no connection to {origin.host}:{origin.port}: {exc}") from exc

    def _tls(self) -> ssl.SSLContext:
        """One context for all connections, made at the first https call: it reads certificates for 20 ms."""
        with self._context_lock:
            if self._context is None:
                self._context = httpx.create_ssl_context()
                self._context.set_alpn_protocols(["http/1.1"])
            return self._context

    def _take(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        now = time.monotonic()
        while idle:
            try:
                connection = idle.pop()
            except IndexError:  # another thread was faster
                return None
            if connection.usable(now, self._keep_alive_s):
                return connection
            connection.close()
        return None

    def give_back(self, connection: Connection) -> None:
        """Keep a connection whose answer was read to its end."""
        now = connection.idle_since = time.monotonic()
        if self._closed:
            connection.close()
            return
        self._idle.setdefault(connection.origin, deque()).append(connection)
        if now > self._next_sweep:
            self._next_sweep = now + self._keep_alive_s / 2
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        """Close what has been idle for too long: the oldest lie at the bottom of the stacks and are never taken."""
        for idle in list(self._idle.values()):
            with contextlib.suppress(IndexError):  # another thread took the last one between the look and the grip
                while now - idle[0].idle_since > self._keep_alive_s:
                    idle.popleft().close()

    def close(self) -> None:
        """Close the idle connections; those in use close when their answers are read."""
        self._closed = True
        for idle in list(self._idle.values()):
            with contextlib.suppress(IndexError):
                while True:
                    idle.pop().close()


def _origin(url: httpx.URL) -> Origin:
    if url.scheme not in ("http", "https") or not url.host:
        raise httpx.UnsupportedProtocol("only http and https addresses with a host can be called")
    secure = url.scheme == "https"
    return Origin(secure, url.raw_host.decode("ascii"), url.port or (443 if secure else 80))


def _head(request: httpx.Request) -> bytes:
    """The request line and the headers. Raises `LocalProtocolError`, without their values: they may be keys."""
    lines = [b"%b %b HTTP/1.1" % (request.method.encode("ascii", "replace"), request.url.raw_path)]
    lines += [b"%b: %b" % pair for pair in request.headers.raw]
    for line in lines:
        if _FORBIDDEN.search(line):
            name = line.partition(b":")[0][:40].decode("latin-1")
            raise httpx.LocalProtocolError(f"a line break in the request's header: {name!r}")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _head_error(exc: Exception) -> httpx.HTTPError:
    """What went wrong while the status line and headers were awaited."""
    if isinstance(exc, TimeoutError):
        return httpx.ReadTimeout(f"no answer in time: {exc}")
    if isinstance(exc, RemoteDisconnected):
        return httpx.ReadError("the server closed the connection without an answer")
    if isinstance(exc, OSError):
        return httpx.ReadError(f"the connection broke: {exc}")
    if isinstance(exc, BadStatusLine):
        return httpx.RemoteProtocolError("what came back is not HTTP")
    return httpx.RemoteProtocolError(f"the answer's header is malformed: {type(exc).__name__}")


class _Client(httpx.Client):
    """A client that does what most calls need and no more: what httpx does for cookies, redirects, sign-in and event hooks
    costs as much as the call. Where a call asks for any of it, httpx does it."""

    def send(
        self,
        request: httpx.Request,
        *,
        stream: bool = False,
        auth: AuthTypes | UseClientDefault | None = httpx.USE_CLIENT_DEFAULT,
        follow_redirects: bool | UseClientDefault = httpx.USE_CLIENT_DEFAULT,
    ) -> httpx.Response:
        asked = auth is not httpx.USE_CLIENT_DEFAULT or follow_redirects is not httpx.USE_CLIENT_DEFAULT
        if asked or request.url.userinfo:
            return super().send(request, stream=stream, auth=auth, follow_redirects=follow_redirects)
        if self.is_closed:
            raise RuntimeError("Cannot send a request, as the client has been closed.")
        response = self._transport.handle_request(request)
        response.request = request
        if not stream:
            try:
                response.read()
            except BaseException:
                response.close()
                raise
        return response


def build_client(
    *,
    ssl_context: ssl.SSLContext | None = None,
    keep_alive_s: float = KEEP_ALIVE_S,
    guard: guards.Guard | None = None,
) -> httpx.Client:
    """A client over a pool of its own, safe to share between threads. Close it when done; most want `client()`.

    It follows no redirects, reads no proxy settings, keeps no cookies (they would travel from one person's call to
    another's), and asks for uncompressed answers, which arrive piece by piece; what comes compressed is decoded. Without a
    guard it connects to any address.
    """
    return _Client(
        transport=PooledTransport(ssl_context=ssl_context, keep_alive_s=keep_alive_s, guard=guard),
        trust_env=False,
        follow_redirects=False,
        timeout=httpx.Timeout(None, connect=CONNECT_S),
        headers={"Accept-Encoding": "identity", "User-Agent": "Switchhook"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    )


_lock = threading.Lock()
_client: httpx.Client | None = None


def client() -> httpx.Client:
    """This process's client: made at the first call, shared by all threads, made anew in a forked child.

    It reaches internal addresses only where the operator allowed it.
    """
    global _client
    if _client is None:
        with _lock:
            if _client is None:
                _client = build_client(guard=guards.current())
    return _client


def close_client() -> None:
    """Close this process's client, if there is one. The next call of `client()` makes another."""
    global _client
    with _lock:
        old, _client = _client, None
    if old is not None:
        old.close()


def _after_fork() -> None:
    # Two processes on one connection would read each other's answers. Closing the child's copies sends nothing.
    global _lock
    _lock = threading.Lock()
    close_client()


os.register_at_fork(after_in_child=_after_fork)
