"""One connection and the limits of the call that uses it: the part of the HTTP client that touches sockets."""

from __future__ import annotations

import contextlib
import io
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from http.client import HTTPException
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

from webapp.routing.guard import Forbidden

if TYPE_CHECKING:
    import httpx
    from _typeshed import WriteableBuffer

    from webapp.routing.guard import Guard

DEFAULT_DEADLINE_S = 600.0
"""Seconds that a call may take where nobody set a limit: nothing hangs for ever."""

DEFAULT_SILENCE_S = 60.0
"""Seconds without a byte after which a call is given up where nobody set a limit."""

DEFAULT_MAX_BYTES = 64 * 1024 * 1024
"""The largest body of an answer, unless `extensions={"max_bytes": …}` says otherwise."""

CONNECT_S = 10.0
WRITE_S = 30.0
_LOOK_EVERY_S = 0.2
"""How often a call that waits for its server is asked whether anybody still wants the answer."""


class GivenUp(GeneratorExit):
    """Nobody wants the answer any more: it ends a call that waits for its server as closing its generator would."""


class Origin(NamedTuple):
    """Where a connection leads."""

    secure: bool
    host: str
    port: int


class CallLimits(NamedTuple):
    """What `call_limits` sets: a time on the monotonic clock, and seconds without a byte."""

    deadline: float
    silence_s: float


_current: ContextVar[CallLimits | None] = ContextVar("switchhook_call_limits", default=None)


@contextlib.contextmanager
def call_limits(timeout_s: float, silence_s: float = DEFAULT_SILENCE_S) -> Iterator[CallLimits]:
    """Limit every call that this thread starts inside the block: `timeout_s` in all, `silence_s` without a byte.

    The deadline counts from the beginning of the block, for all its calls together. Of two nested blocks the tighter
    limits apply. Generators run in their consumer's thread, so the block must stay around the loop that consumes one.
    A call beyond a limit ends in one of `httpx.TimeoutException`'s kinds.
    """
    outer = _current.get()
    limits = CallLimits(time.monotonic() + timeout_s, silence_s)
    if outer is not None:
        limits = CallLimits(min(limits.deadline, outer.deadline), min(silence_s, outer.silence_s))
    token = _current.set(limits)
    try:
        yield limits
    finally:
        _current.reset(token)


_unwanted: ContextVar[Callable[[], bool] | None] = ContextVar("switchhook_unwanted", default=None)


@contextlib.contextmanager
def given_up_when(unwanted: Callable[[], bool]) -> Iterator[None]:
    """Let every call that this thread starts inside the block, and that waits for its server, ask a few times a second whether
    it is unwanted; if so it ends in `GivenUp`."""
    token = _unwanted.set(unwanted)
    try:
        yield
    finally:
        _unwanted.reset(token)


class Clock:
    """The limits of one call, resolved when it starts. Every wait on the socket asks it how long it may take."""

    __slots__ = ("connect_s", "deadline", "max_bytes", "read_s", "unwanted", "write_s")

    def __init__(self, request: httpx.Request) -> None:
        extensions = request.extensions
        timeouts = extensions.get("timeout") or {}
        limits = _current.get()
        now = time.monotonic()
        if limits is None:
            limits = CallLimits(now + DEFAULT_DEADLINE_S, DEFAULT_SILENCE_S)
        self.deadline: float = min(extensions.get("deadline", limits.deadline), limits.deadline)
        self.max_bytes: int = extensions.get("max_bytes", DEFAULT_MAX_BYTES)
        self.read_s = _smaller(timeouts.get("read"), limits.silence_s)
        self.write_s = _smaller(timeouts.get("write"), WRITE_S)
        self.connect_s = _smaller(timeouts.get("connect"), CONNECT_S)
        self.unwanted = _unwanted.get()

    def left(self, seconds: float) -> float:
        """How long the next wait may take: `seconds`, less near the deadline; `TimeoutError` beyond it."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline of the call has passed")
        return min(seconds, left)


def _smaller(wish: float | None, limit: float) -> float:
    return limit if wish is None else min(wish, limit)


class _Raw(io.RawIOBase):
    """The reading end of a connection, for the buffer that `http.client` parses from."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        return self._connection.receive_into(buffer)


class Connection:
    """One socket to one origin, and the limits of the call that uses it now.

    With a guard it is made to an address that the guard lets through, or not at all: `Forbidden`.
    """

    __slots__ = ("clock", "idle_since", "origin", "received", "sock")

    def __init__(self, origin: Origin, clock: Clock, context: ssl.SSLContext | None, guard: Guard | None = None) -> None:
        self.origin = origin
        self.received = 0
        self.idle_since = 0.0
        self.clock = clock
        self.sock = self._open(clock, guard)
        if context is not None:
            try:
                self.sock.settimeout(clock.left(clock.connect_s))
                self.sock = context.wrap_socket(self.sock, server_hostname=origin.host)
            except BaseException:
                self.sock.close()
                raise

    def _open(self, clock: Clock, guard: Guard | None) -> socket.socket:
        host, port = self.origin.host, self.origin.port
        forbidden = failure = None
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                if guard is not None:
                    guard.check(host, port, str(address[0]))
                # Each address gets what is left and not the whole time again.
                return _connect(family, kind, protocol, address, clock.left(clock.connect_s))
            except Forbidden as exc:
                forbidden = exc
            except OSError as exc:
                failure = exc
        raise failure or forbidden or OSError("the host has no address")

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self.sock.settimeout(self.clock.left(self.clock.write_s))
            view = view[self.sock.send(view) :]

    def receive_into(self, buffer: WriteableBuffer) -> int:
        clock = self.clock
        wait_s = clock.left(clock.read_s)
        if clock.unwanted is None:
            self.sock.settimeout(wait_s)
            count = self.sock.recv_into(buffer)
        else:
            count = self._receive_while_wanted(buffer, wait_s, clock.unwanted)
        self.received += count
        # Chunk heads and trailers are not body, and a server may send them without end.
        if self.received > 2 * clock.max_bytes + 1_048_576:
            raise HTTPException(f"the answer is larger than {clock.max_bytes} bytes")
        return count

    def _receive_while_wanted(self, buffer: WriteableBuffer, wait_s: float, unwanted: Callable[[], bool]) -> int:
        ends = time.monotonic() + wait_s
        # Asked before each wait, too: a server may send signs of life for ever.
        while not unwanted():
            self.sock.settimeout(min(wait_s, _LOOK_EVERY_S))
            try:
                return self.sock.recv_into(buffer)
            except TimeoutError:
                wait_s = ends - time.monotonic()
                if wait_s <= 0:
                    raise
        # Said once: whoever closes the answer now may want to read its end.
        self.clock.unwanted = None
        raise GivenUp

    def makefile(self, _mode: str) -> BinaryIO:
        """What `HTTPResponse` asks of a socket."""
        return cast("BinaryIO", io.BufferedReader(_Raw(self)))

    def usable(self, now: float, keep_alive_s: float) -> bool:
        """Whether an idle connection may carry another call: young, and nothing (not even its end) arrived on it."""
        if now - self.idle_since > keep_alive_s:
            return False
        if isinstance(self.sock, ssl.SSLSocket) and self.sock.pending():
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()


def _connect(family: int, kind: int, protocol: int, address: tuple[object, ...], timeout_s: float) -> socket.socket:
    """A socket connected to exactly this address: nothing is looked up again, so what was checked is what is called."""
    sock = socket.socket(family, kind, protocol)
    try:
        sock.settimeout(timeout_s)
        sock.connect(address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    except BaseException:
        sock.close()
        raise
    return sock
