"""The pooled HTTP client: httpx's API over a pool that stays flat, with time limits that hold whatever the server does.

httpx's own pool looks at every connection for every call, under one lock: at 400 calls in flight a call costs 11 ms of
processor time. Here each origin has a stack of idle connections and nothing else, so a call costs the same whether 1 or
400 others wait. Heads are read at once where they are plain (`http_head`), and chunks are `http.client`'s work: per streamed
piece it takes half the time of httpx's parser. What is the same in many requests is worked out once (`http_request`).

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
import ssl
import threading
import time
from collections import deque
from http.client import BadStatusLine, RemoteDisconnected
from io import BufferedReader
from typing import cast

import httpx

from webapp.routing import guard as guards
from webapp.routing.http_body import PIECE, Body, PooledResponse
from webapp.routing.http_client import PooledClient
from webapp.routing.http_head import plain_head, read_head
from webapp.routing.http_request import PreparedRequest, head_of, origin_of
from webapp.routing.wire import Clock, Connection, Origin, Raw, call_limits, given_up_when

__all__ = ["PooledTransport", "build_client", "call_limits", "client", "close_client", "given_up_when"]

KEEP_ALIVE_S = 60.0


class NotSent(Exception):
    """The request did not reach the server whole, so it cannot have been processed."""


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
        origin, head, body = (request.ready() if isinstance(request, PreparedRequest) else None) or _parts(request)
        clock = Clock(request)
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
        reader = None
        try:
            begun = connection.receive(PIECE)
            plain = plain_head(begun, request.method)
            if plain is None:
                reader = BufferedReader(Raw(connection, begun))
                answer = read_head(reader, request.method)
                begun = b""
            else:
                answer, end = plain
                begun = begun[end:]
                if answer.chunked:
                    reader, begun = BufferedReader(Raw(connection, begun)), b""
        except Exception as exc:
            if failure is not None:
                raise NotSent from failure
            raise _head_error(exc) from exc
        if answer.status < 200:
            raise httpx.RemoteProtocolError(f"an interim answer ({answer.status}) came where the final one was due")
        if failure is not None:
            answer.will_close = True
        return PooledResponse(answer, Body(connection, answer, begun, reader, self.give_back), request)

    def _write(self, connection: Connection, request: httpx.Request, head: bytes, body: bytes | None) -> OSError | None:
        """Write the whole request. Returns what kept the server from taking it all, None if it took it."""
        try:
            if body is not None:
                if len(body) < PIECE:
                    connection.send(head + body)
                else:
                    connection.send(head)
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
        idle = self._idle.get(connection.origin)
        if idle is None:
            idle = self._idle.setdefault(connection.origin, deque())
        idle.append(connection)
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


def _parts(request: httpx.Request) -> tuple[Origin, bytes, bytes | None]:
    """Where a request goes, its head and its body, None for one that is still to be read."""
    origin, head = origin_of(request.url), head_of(request)
    try:
        return origin, head, request.content
    except httpx.RequestNotRead:
        return origin, head, None


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
    return PooledClient(PooledTransport(ssl_context=ssl_context, keep_alive_s=keep_alive_s, guard=guard))


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
