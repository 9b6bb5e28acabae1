"""One connection and the limits of the call that uses it: the part of the HTTP client that touches sockets."""

from __future__ import annotations

import contextlib
import io
import select
import socket
import ssl
import time
from collections.abc import Callable
from contextvars import ContextVar
from http.client import HTTPException
from typing import TYPE_CHECKING, NamedTuple, cast

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
_LOOK_EVERY_S = 0.7
"""How often a call that waits for its server is asked whether anybody still wants the answer. Hundreds of calls wait at once,
and each look wakes a thread."""


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


_NO_TIMES: dict[str, float | None] = {}
_current: ContextVar[CallLimits | None] = ContextVar("switchhook_call_limits", default=None)


class call_limits:  # noqa: N801  a context manager, called as a function is
    """Limit every call that this thread starts inside the block: `timeout_s` in all, `silence_s` without a byte.

    The deadline counts from the beginning of the block, for all its calls together. Of two nested blocks the tighter
    limits apply. Generators run in their consumer's thread, so the block must stay around the loop that consumes one.
    A call beyond a limit ends in one of `httpx.TimeoutException`'s kinds.
    """

    __slots__ = ("_silence_s", "_timeout_s", "_token")

    def __init__(self, timeout_s: float, silence_s: float = DEFAULT_SILENCE_S) -> None:
        self._timeout_s = timeout_s
        self._silence_s = silence_s

    def __enter__(self) -> CallLimits:
        outer = _current.get()
        limits = CallLimits(time.monotonic() + self._timeout_s, self._silence_s)
        if outer is not None:
            limits = CallLimits(min(limits.deadline, outer.deadline), min(limits.silence_s, outer.silence_s))
        self._token = _current.set(limits)
        return limits

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


_unwanted: ContextVar[Callable[[], bool] | None] = ContextVar("switchhook_unwanted", default=None)


class given_up_when:  # noqa: N801  a context manager, called as a function is
    """Let every call that this thread starts inside the block, and that waits for its server, ask each `_LOOK_EVERY_S` whether
    it is unwanted; if so it ends in `GivenUp`."""

    __slots__ = ("_asked", "_token")

    def __init__(self, unwanted: Callable[[], bool]) -> None:
        self._asked = unwanted

    def __enter__(self) -> None:
        self._token = _unwanted.set(self._asked)

    def __exit__(self, *_: object) -> None:
        _unwanted.reset(self._token)


class Clock:
    """The limits of one call, resolved when it starts. Every wait on the socket asks it how long it may take."""

    __slots__ = ("connect_s", "deadline", "max_bytes", "read_s", "unwanted", "write_s")

    def __init__(self, request: httpx.Request) -> None:
        extensions = request.extensions
        timeouts = extensions.get("timeout") or _NO_TIMES
        limits = _current.get() or CallLimits(time.monotonic() + DEFAULT_DEADLINE_S, DEFAULT_SILENCE_S)
        deadline: float = limits.deadline
        if "deadline" in extensions:
            deadline = min(extensions["deadline"], deadline)
        self.deadline = deadline
        self.max_bytes: int = extensions.get("max_bytes", DEFAULT_MAX_BYTES)
        read_s, write_s, connect_s = timeouts.get("read"), timeouts.get("write"), timeouts.get("connect")
        self.read_s: float = limits.silence_s if read_s is None or limits.silence_s < read_s else read_s
        self.write_s: float = WRITE_S if write_s is None or write_s > WRITE_S else write_s
        self.connect_s: float = CONNECT_S if connect_s is None or connect_s > CONNECT_S else connect_s
        self.unwanted = _unwanted.get()

    def left(self, seconds: float) -> float:
        """How long the next wait may take: `seconds`, less near the deadline; `TimeoutError` beyond it."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline of the call has passed")
        return seconds if seconds < left else left


class Raw(io.RawIOBase):
    """The reading end of a connection, for a buffered reader. `begun` is what was received of the answer before."""

    def __init__(self, connection: Connection, begun: bytes) -> None:
        self._connection = connection
        self._begun = begun

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        room = memoryview(buffer)
        if self._begun:
            data, self._begun = self._begun[: len(room)], self._begun[len(room) :]
        else:
            data = self._connection.receive(len(room))
        room[: len(data)] = data
        return len(data)


class Connection:
    """One socket to one origin, and the limits of the call that uses it now.

    With a guard it is made to an address that the guard lets through, or not at all: `Forbidden`.
    """

    __slots__ = ("_poll", "clock", "idle_since", "origin", "received", "sock")

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
        self._poll = select.poll()
        self._poll.register(self.sock, select.POLLIN)

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
        self.sock.settimeout(self.clock.left(self.clock.write_s))
        sent = self.sock.send(data)
        if sent == len(data):
            return
        view = memoryview(data)[sent:]
        while view:
            self.sock.settimeout(self.clock.left(self.clock.write_s))
            view = view[self.sock.send(view) :]

    def receive(self, size: int) -> bytes:
        """The next bytes, at most `size`; b'' where the server closed the connection."""
        clock = self.clock
        wait_s = clock.left(clock.read_s)
        if clock.unwanted is None:
            self.sock.settimeout(wait_s)
            data = self.sock.recv(size)
        else:
            data = self._receive_while_wanted(size, wait_s, clock.unwanted)
        self.received += len(data)
        # Chunk heads and trailers are not body, and a server may send them without end.
        if self.received > 2 * clock.max_bytes + 1_048_576:
            raise HTTPException(f"the answer is larger than {clock.max_bytes} bytes")
        return data

    def _receive_while_wanted(self, size: int, wait_s: float, unwanted: Callable[[], bool]) -> bytes:
        ends = time.monotonic() + wait_s
        # Asked before each wait, too: a server may send signs of life for ever.
        while not unwanted():
            self.sock.settimeout(min(wait_s, _LOOK_EVERY_S))
            try:
                return self.sock.recv(size)
            except TimeoutError:
                wait_s = ends - time.monotonic()
                if wait_s <= 0:
                    raise
        # Said once: whoever closes the answer now may want to read its end.
        self.clock.unwanted = None
        raise GivenUp

    def usable(self, now: float, keep_alive_s: float) -> bool:
        """Whether an idle connection may carry another call: young, and nothing (not even its end) arrived on it."""
        if now - self.idle_since > keep_alive_s:
            return False
        if self.origin.secure and cast("ssl.SSLSocket", self.sock).pending():
            return False
        return not self._poll.poll(0)

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
