"""A load generator in one thread: prepared requests over kept-alive sockets, one in flight on each.

It shares the processors with what it measures, so it does next to nothing for a request: a send, a receive, two clock
readings (about 20 microseconds of Python).
"""

from __future__ import annotations

import gc
import selectors
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass

TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a spell of load."""

    answers: int
    elapsed_s: float
    latencies_s: list[float]

    @property
    def per_s(self) -> float:
        return self.answers / self.elapsed_s


class _Connection:
    __slots__ = ("buffer", "sent_at", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.sent_at = 0.0

    def send(self, request: bytes) -> None:
        self.sent_at = time.perf_counter()
        self.socket.sendall(request)

    def received(self, wanted: bytes) -> bool:
        """Take what has arrived; True if the answer is whole. RuntimeError unless it is a 200 with `wanted` in its body."""
        data = self.socket.recv(65_536)
        if not data:
            raise RuntimeError("the server hung up")
        self.buffer += data
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return False
        if not head.startswith(b"HTTP/1.1 200"):
            said = body[:500].decode(errors="replace")
            raise RuntimeError(f"the server answered {head.splitlines()[0].decode()}: {said}")
        length = next((int(line[15:]) for line in head.lower().splitlines() if line.startswith(b"content-length:")), None)
        if not body.endswith(b"0\r\n\r\n") if length is None else len(body) < length:
            return False
        if wanted not in body:
            raise RuntimeError(f"the server answered {body[:500].decode(errors='replace')}")
        self.buffer = b""
        return True


def drive(port: int, requests: Iterable[bytes], connections: int, seconds: float, wanted: bytes = b"") -> Load:
    """Send `requests` for `seconds`, or until they are used up, over so many connections at once.

    Only answers 200 with `wanted` in their body count as answers; any other ends the run with RuntimeError.
    """
    latencies: list[float] = []
    waiting = iter(requests)
    with selectors.DefaultSelector() as selector:
        for _ in range(connections):
            connection = _Connection(port)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        gc.disable()
        try:
            began = time.perf_counter()
            ends = began + seconds
            in_flight = 0
            for key in selector.get_map().values():
                key.data.send(next(waiting))
                in_flight += 1
            answers, last = 0, began
            while in_flight:
                ready = selector.select(TIMEOUT_S)
                if not ready:
                    raise RuntimeError(f"no answer within {TIMEOUT_S:.0f} s")
                for key, _ in ready:
                    connection = key.data
                    if not connection.received(wanted):
                        continue
                    now = time.perf_counter()
                    latencies.append(now - connection.sent_at)
                    in_flight -= 1
                    if now < ends:
                        answers, last = answers + 1, now
                        if (request := next(waiting, None)) is not None:
                            connection.send(request)
                            in_flight += 1
        finally:
            gc.enable()
            for key in list(selector.get_map().values()):
                key.data.socket.close()
    return Load(answers, last - began, latencies)
