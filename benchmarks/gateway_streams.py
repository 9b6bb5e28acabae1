"""Many streams at once, watched by one thread: when each piece was sent, when it came, and what went wrong.

The vendor writes the moment of its sending into every piece, by a clock that all processes share, so lateness is measured and
not worked out from a rhythm. A piece costs this thread about ten microseconds.
"""

from __future__ import annotations

import gc
import selectors
import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.load import TIMEOUT_S
from benchmarks.vendor_at_once import STAMP

_END = b"0\r\n\r\n"


@dataclass(slots=True)
class Streamed:
    """What came of a spell of streams."""

    elapsed_s: float = 0.0
    whole: int = 0
    pieces: int = 0
    first_s: list[float] = field(default_factory=list)
    """From sending a request to the first piece of its answer."""
    late_s: list[float] = field(default_factory=list)
    """From the vendor's sending of a piece to its arrival."""
    failures: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    """Streams that were whole, those included that ended after the spell."""


class _Stream:
    __slots__ = ("buffer", "done", "pieces", "sent_at", "socket", "started")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: bytes) -> None:
        self.buffer = b""
        self.pieces = 0
        self.started = self.done = False
        self.sent_at = time.monotonic()
        self.socket.sendall(request)

    def received(self, found: Streamed) -> bool:
        """Take what has arrived; True if the answer has ended. ValueError with what is wrong about it."""
        data = self.socket.recv(65_536)
        now = time.monotonic()
        if not data:
            raise ValueError("the server hung up")
        self.buffer += data
        if not self.started:
            head, separator, body = self.buffer.partition(b"\r\n\r\n")
            if not separator:
                return False
            if not head.startswith(b"HTTP/1.1 200"):
                raise ValueError(self.buffer[:300].decode(errors="replace"))
            self.started, self.buffer = True, body
        last = 0
        for match in STAMP.finditer(self.buffer):
            last = match.end()
            if not self.pieces:
                found.first_s.append(now - self.sent_at)
            self.pieces += 1
            found.late_s.append(now - float(match[1]))
        self.buffer = self.buffer[last:]
        self.done = self.done or b"[DONE]" in self.buffer
        return self.done and self.buffer.endswith(_END)


def drive(port: int, requests: Iterator[bytes], streams: int, seconds: float, pieces: int) -> Streamed:
    """Open so many streams at once and another for each that ends, for `seconds`; then see the open ones through.

    A stream that does not bring exactly `pieces` pieces and its end is a failure, and so is one that falls silent.
    """
    found = Streamed()
    with selectors.DefaultSelector() as selector:
        opened = [_Stream(port) for _ in range(streams)]
        for stream in opened:
            selector.register(stream.socket, selectors.EVENT_READ, stream)
        gc.disable()
        try:
            began = time.monotonic()
            for stream in opened:
                stream.send(next(requests))
            while selector.get_map():
                ready = selector.select(TIMEOUT_S)
                if not ready:
                    found.failures[f"silent for {TIMEOUT_S:.0f} s"] += len(selector.get_map())
                    break
                for key, _ in ready:
                    _step(found, selector, key.data, pieces, requests, port, began + seconds)
            found.elapsed_s = seconds
        finally:
            gc.enable()
            for key in list(selector.get_map().values()):
                key.data.socket.close()
    return found


def _step(
    found: Streamed,
    selector: selectors.BaseSelector,
    stream: _Stream,
    pieces: int,
    requests: Iterator[bytes],
    port: int,
    ends: float,
) -> None:
    """Read what came on one stream; if that was its end, begin the next one while there is time."""
    failed = ""
    try:
        if not stream.received(found):
            return
        if stream.pieces != pieces:
            failed = f"{stream.pieces} pieces of {pieces}"
    except (OSError, ValueError) as exc:
        failed = str(exc)
    in_time = time.monotonic() < ends
    found.pieces += stream.pieces
    if failed:
        found.failures[failed] += 1
    else:
        found.answered += 1
        found.whole += in_time
    if failed or not in_time:
        selector.unregister(stream.socket)
        stream.socket.close()
        if not in_time:
            return
        stream = _Stream(port)
        selector.register(stream.socket, selectors.EVENT_READ, stream)
    stream.send(next(requests))
