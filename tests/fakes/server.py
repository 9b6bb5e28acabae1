"""What every fake vendor is built on: an HTTP/1.1 server on 127.0.0.1 that records what it is asked and fails at will.

    class FakeEcho(FakeServer):
        def handle(self, request):
            return FakeReply.json({"you_said": request.json()})

    with FakeEcho() as echo:
        echo.faults.append(Fault(status=503, headers={"Retry-After": "2"}))
        httpx.post(echo.url + "/any", json=1)          # 503
        httpx.post(echo.url + "/any", json=1)          # 200

Faults are consumed one per request, oldest first. Paths that begin with `/_` are for tests that run a fake as a process
of its own: they are neither recorded nor made to fail. `GET /_requests` lists what came, `POST /_faults` adds faults.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import selectors
import signal
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, parse_qsl, urlsplit

JSON = "application/json"
_SILENT_STATUSES = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class FakeRequest:
    """What a client sent. `target` is the raw path with its query; header names are looked up in any case."""

    method: str
    target: str
    headers: Message
    body: bytes

    @property
    def path(self) -> str:
        """The path without its query, as it was sent."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, list[str]]:
        """The parameters of the query, decoded, blank ones kept."""
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)

    def form(self) -> list[tuple[str, str]]:
        """The pairs of a form body, decoded, blank ones kept, in their order."""
        return parse_qsl(self.body.decode(), keep_blank_values=True)

    def json(self) -> Any:
        """The JSON body; `ValueError` if it is none."""
        return json.loads(self.body)

    def header(self, name: str) -> str:
        """A header's value, or ''."""
        return self.headers.get(name, "")


@dataclass(slots=True)
class FakeReply:
    """What a fake answers. An iterable body is streamed piece by piece, each flushed at once (chunked encoding)."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Iterable[bytes] = b""

    @classmethod
    def json(cls, value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> FakeReply:
        """An answer with a JSON body."""
        return cls(status, {"Content-Type": JSON} | dict(headers or {}), json.dumps(value).encode())


@dataclass(frozen=True, slots=True)
class Fault:
    """How one request goes wrong.

    With `status`, `drop`, `hang` or `garbage` the request has no effect: `handle` is not called. Otherwise, or with
    `handled=True`, the fake does what it was asked and only its answer suffers (a message is taken, nobody learns it).
    """

    path: str = ""
    """Only a request whose path holds this consumes the fault."""
    status: int | None = None
    """Answer with this status, `headers` and `body`."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Set on the answer, over what it has: also to lie about the content type."""
    body: bytes | None = None
    delay_s: float = 0.0
    """Wait before the answer begins."""
    cut_after_bytes: int | None = None
    """Close the connection after so many bytes of the body; the head has announced more."""
    drop: bool = False
    """Close the connection without a byte."""
    hang: bool = False
    """Say nothing until the fake is stopped or the client goes away."""
    garbage: bytes | None = None
    """Write these bytes in place of an HTTP answer, and close."""
    handled: bool | None = None
    """Whether `handle` is called all the same; None: the rule above."""

    @property
    def calls_handle(self) -> bool:
        """Whether the request takes effect."""
        if self.handled is not None:
            return self.handled
        return self.status is None and not self.drop and not self.hang and self.garbage is None


class FakeServer:
    """A fake vendor. Subclass it and write `handle`; it runs in many threads: guard shared state with `self.lock`."""

    host = "127.0.0.1"
    """The address that it listens on."""

    def __init__(self, port: int = 0) -> None:
        self.lock = threading.RLock()
        self.requests: list[FakeRequest] = []
        """Every request, in the order in which they arrived; failed ones too."""
        self.faults: list[Fault] = []
        self.abandoned: list[FakeRequest] = []
        """Requests whose client was seen to leave before the whole answer was written."""
        self.errors: list[BaseException] = []
        """What `handle` or its stream raised: a mistake in the fake or the test. Leaving the `with` block raises it."""
        self.stopping = threading.Event()
        self._changed = threading.Condition(self.lock)
        self._http = _Listener((self.host, port), self)
        self._thread = threading.Thread(target=self._http.serve, daemon=True)

    def handle(self, request: FakeRequest) -> FakeReply:
        """The answer to a request. Raising is a mistake: it gives 500 and fails the test."""
        raise NotImplementedError

    def control(self, request: FakeRequest) -> FakeReply:
        """The answer on a path that begins with `/_`. Extend it to tell a test in another process more."""
        if request.path == "/_requests":
            with self.lock:
                return FakeReply.json([{"method": r.method, "target": r.target} for r in self.requests])
        if request.path == "/_faults" and request.method == "POST":
            with self.lock:
                for values in request.json():
                    body = values.pop("body", None)
                    self.faults.append(Fault(**values, body=None if body is None else body.encode()))
            return FakeReply(204)
        return FakeReply(404)

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end."""
        return f"http://{self.host}:{self._http.server_address[1]}"

    def start(self) -> Self:
        """Begin to answer. The port is open since the object was made."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close the port and every connection; hanging requests end. A second call does nothing."""
        if self.stopping.is_set():
            return
        self.stopping.set()
        self._http.wake()
        if self._thread.is_alive():
            self._thread.join()
        self._http.server_close()
        self._http.close_connections()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
        if exc is None and self.errors:
            raise AssertionError(f"{type(self).__name__} broke while it answered") from self.errors[0]

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Wait until `condition` holds; it is looked at after every request. `TimeoutError` if it never does."""
        with self._changed:
            if not self._changed.wait_for(condition, timeout_s):
                raise TimeoutError(f"{type(self).__name__}: not within {timeout_s} s; {len(self.requests)} requests came")

    def notify(self) -> None:
        """Tell those who wait that something has changed. The base does so for every request and every answer."""
        with self._changed:
            self._changed.notify_all()

    def _accept(self, request: FakeRequest) -> Fault | None:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
            for position, fault in enumerate(self.faults):
                if fault.path in request.path:
                    return self.faults.pop(position)
        return None

    def _reply(self, request: FakeRequest, fault: Fault | None) -> FakeReply:
        reply = FakeReply()
        if fault is None or fault.calls_handle:
            try:
                reply = self.handle(request)
            except Exception as exc:
                self.errors.append(exc)
                return FakeReply(500, {"Content-Type": "text/plain"}, f"the fake broke: {exc!r}".encode())
        if fault is None:
            return reply
        if fault.status is not None:
            reply = FakeReply(fault.status)
        reply.headers = reply.headers | dict(fault.headers)
        if fault.body is not None:
            reply.body = fault.body
        return reply


class _Listener(ThreadingHTTPServer):
    """The socket side. Keeps its connections, so that stopping leaves no thread and no socket behind."""

    request_queue_size = 1024
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], fake: FakeServer) -> None:
        self.fake = fake
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._guard = threading.Lock()
        self._waker, self._waking = socket.socketpair()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer.server_bind asks DNS for the host's name, which may take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def serve(self) -> None:
        """Take connections until the fake stops. `serve_forever` would look for that every so often; this is told."""
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            selector.register(self._waking, selectors.EVENT_READ)
            while not self.fake.stopping.is_set():
                if any(key.fileobj is self for key, _ in selector.select()):
                    self._handle_request_noblock()  # type: ignore[attr-defined]

    def wake(self) -> None:
        self._waker.send(b"!")

    def server_close(self) -> None:
        super().server_close()
        self._waker.close()
        self._waking.close()

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        with self._guard:
            self._connections[request] = thread
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        with self._guard:
            left = dict(self._connections)
        for connection in left:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in left.values():
            thread.join(5)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests; `handle`'s own errors are kept where they happen."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Listener

    def _serve(self) -> None:
        fake = self.server.fake
        request = FakeRequest(self.command, self.path, self.headers, self._body())
        if request.path.startswith("/_"):
            self._write(fake.control(request), None)
            return
        fault = fake._accept(request)
        try:
            reply = fake._reply(request, fault)
            if fault is not None and self._spoiled(fault):
                return
            self._write(reply, fault.cut_after_bytes if fault else None)
        except OSError:
            with fake.lock:
                fake.abandoned.append(request)
            self.close_connection = True
        except Exception as exc:
            fake.errors.append(exc)
            self.close_connection = True
        finally:
            fake.notify()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = _serve

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(pieces)

    def _spoiled(self, fault: Fault) -> bool:
        """Whether the fault leaves no HTTP answer to write."""
        stopping = self.server.fake.stopping
        if fault.delay_s:
            stopping.wait(fault.delay_s)
        if fault.hang:
            self._wait_for_hang_up()
        if fault.garbage is not None:
            self.wfile.write(fault.garbage)
            self.wfile.flush()
        if fault.hang or fault.drop or fault.garbage is not None:
            self.close_connection = True
            return True
        return False

    def _wait_for_hang_up(self) -> None:
        """Until we stop; `ConnectionError` when the client closes its end before."""
        self.connection.settimeout(0.05)
        while not self.server.fake.stopping.is_set():
            try:
                if not self.connection.recv(1, socket.MSG_PEEK):
                    raise ConnectionResetError
                self.server.fake.stopping.wait(0.05)
            except TimeoutError:
                continue

    def _write(self, reply: FakeReply, cut_after_bytes: int | None) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if isinstance(reply.body, bytes):
            self._write_whole(reply, reply.body, cut_after_bytes)
        else:
            self._write_pieces(reply.body, cut_after_bytes)

    def _write_whole(self, reply: FakeReply, body: bytes, cut_after_bytes: int | None) -> None:
        if reply.status not in _SILENT_STATUSES and not any(name.lower() == "content-length" for name in reply.headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if cut_after_bytes is not None:
            body, self.close_connection = body[:cut_after_bytes], True
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def _write_pieces(self, pieces: Iterable[bytes], cut_after_bytes: int | None) -> None:
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        left = cut_after_bytes
        try:
            for piece in pieces:
                part = piece if left is None else piece[:left]
                if part:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
                    self.wfile.flush()
                if left is not None:
                    left -= len(part)
                    if not left:
                        self.close_connection = True
                        return
            self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()
        finally:
            close = getattr(pieces, "close", None)
            if close is not None:
                close()

    def log_message(self, format: str, *args: object) -> None:
        """Tests print nothing."""


def run_as_process(make: Callable[[int], FakeServer], what: str) -> None:
    """Run a fake until SIGTERM or SIGINT; prints its URL on one line when it answers."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one")
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with make(parser.parse_args().port) as fake:
        sys.stdout.write(fake.url + "\n")
        sys.stdout.flush()
        while not ended.is_set():
            time.sleep(0.1)
