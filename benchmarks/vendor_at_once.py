"""A vendor that is never the bottleneck: OpenAI's chat format, plain and streamed, from one thread over bare sockets.

`python -m benchmarks.vendor_at_once [--delay S] [--pieces N] [--gap S]` prints its address and serves until it is ended. The
tests' fakes look into every call and cost some 300 us each; this one looks for the end of a request and costs about ten. It is
for callers that are known to speak properly: what it does not understand it answers by hanging up.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import json
import re
import selectors
import socket
import time
from typing import Any

STAMP = re.compile(rb"@(\d+\.\d{6});")
"""A streamed piece: when it was sent, by the clock that all processes of a machine share (`time.monotonic`)."""
WORDS = "Slicing with a negative step gives the same list in the opposite order"
"""What every plain answer begins with."""
INPUT_TOKENS, OUTPUT_TOKENS = 150, 80

_MODEL = "gpt-4.1-mini"
_USAGE = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS, "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS}
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STREAMED = re.compile(rb'"stream": ?true')
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


def _event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    value = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1_790_000_000, "model": _MODEL}
    return f"data: {json.dumps(value | {'choices': choices} | more)}\n\n".encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _plain() -> bytes:
    text = f"{WORDS}: numbers[::-1]. " + "It copies the list and leaves the first one as it was. " * 4
    choice = {"index": 0, "message": {"role": "assistant", "content": text, "refusal": None}, "finish_reason": "stop"}
    document = {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": _MODEL,
        "choices": [choice],
        "usage": _USAGE,
    }
    body = json.dumps(document).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


_PLAIN = _plain()
_BEFORE, _AFTER = _event([{"index": 0, "delta": {"content": "\0"}, "finish_reason": None}]).split(b"\\u0000")
_ROLE = _chunk(_event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]))
_FINISH = _chunk(_event([{"index": 0, "delta": {}, "finish_reason": "stop"}]))
_USED = _chunk(_event([], usage=_USAGE))
_DONE = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class _Caller:
    __slots__ = ("buffer", "sent", "socket", "streamed", "told_usage")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.buffer = b""
        self.streamed = self.told_usage = False
        self.sent = 0

    def asked(self) -> bool:
        """Take what has arrived; True if the request is whole. OSError when they hung up."""
        data = self.socket.recv(65_536)
        if not data:
            raise ConnectionResetError
        self.buffer += data
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return False
        length = _LENGTH.search(head)
        if length is None:
            raise ConnectionAbortedError("a body without its length")
        if len(body) < int(length[1]):
            return False
        self.buffer = b""
        self.sent = 0
        self.streamed = _STREAMED.search(body) is not None
        self.told_usage = b"include_usage" in body
        return True


class _Vendor:
    def __init__(self, delay_s: float, pieces: int, gap_s: float) -> None:
        self._delay_s, self._pieces, self._gap_s = delay_s, pieces, gap_s
        self._due: list[tuple[float, int, _Caller]] = []
        self._order = itertools.count()
        self._selector = selectors.DefaultSelector()

    def serve(self, listener: socket.socket) -> None:
        """Until the process is ended."""
        self._selector.register(listener, selectors.EVENT_READ)
        while True:
            wait_s = max(0.0, self._due[0][0] - time.monotonic()) if self._due else None
            for key, _ in self._selector.select(wait_s):
                if key.data is None:
                    self._accept(listener)
                else:
                    self._read(key.data)
            while self._due and self._due[0][0] <= time.monotonic():
                due, _, caller = heapq.heappop(self._due)
                self._answer(caller, due)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = listener.accept()
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._selector.register(connection, selectors.EVENT_READ, _Caller(connection))

    def _read(self, caller: _Caller) -> None:
        try:
            if not caller.asked():
                return
        except OSError:
            self._selector.unregister(caller.socket)
            caller.socket.close()
            return
        if self._delay_s:
            self._later(time.monotonic() + self._delay_s, caller)
        else:
            self._answer(caller, time.monotonic())

    def _later(self, due: float, caller: _Caller) -> None:
        heapq.heappush(self._due, (due, next(self._order), caller))

    def _answer(self, caller: _Caller, due: float) -> None:
        with contextlib.suppress(OSError):  # They hung up; reading will find that out.
            if not caller.streamed:
                caller.socket.sendall(_PLAIN)
                return
            data = b"" if caller.sent else _STREAM_HEAD + _ROLE
            while caller.sent < self._pieces:
                data += _chunk(b"%b@%.6f;%b" % (_BEFORE, time.monotonic(), _AFTER))
                caller.sent += 1
                if self._gap_s and caller.sent < self._pieces:
                    self._later(due + self._gap_s, caller)
                    break
            else:
                data += _FINISH + (_USED if caller.told_usage else b"") + _DONE
            caller.socket.sendall(data)


def main() -> None:
    """Listen on a free port of 127.0.0.1, say where, serve."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vendor_at_once")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before the answer, or its first piece, is sent")
    parser.add_argument("--pieces", type=int, default=20, help="pieces of a streamed answer")
    parser.add_argument("--gap", type=float, default=0.0, help="seconds between them; 0: all of them at once")
    given = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    listener.setblocking(False)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    _Vendor(given.delay, given.pieces, given.gap).serve(listener)


if __name__ == "__main__":
    main()
