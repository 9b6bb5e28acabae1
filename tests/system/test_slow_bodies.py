"""Bodies that do not come, against the real web server."""

from __future__ import annotations

import contextlib
import http.client
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from tests.system.conftest import Launcher
from tests.system.test_up import up, wait_until_up

pytestmark = pytest.mark.system

COUNT = 200
HEAD = "POST {path} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {address}\r\n{more}\r\n"
LENGTH = "Content-Length: 900\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"
JSON, FORM = "Content-Type: application/json\r\n", "Content-Type: application/x-www-form-urlencoded\r\n"
KEY = f"Authorization: Bearer sh_{'x' * 43}\r\n"


@contextlib.contextmanager
def slow_bodies(port: int, address: Callable[[int], str]) -> Iterator[list[socket.socket]]:
    """As many calls that never get further than one byte of their body."""
    ways = [("/v1/chat/completions", KEY + JSON + LENGTH), ("/login", FORM + LENGTH), ("/login", FORM + CHUNKED)]
    with contextlib.ExitStack() as stack:
        found = []
        for number in range(COUNT):
            path, more = ways[number % len(ways)]
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            head = HEAD.format(path=path, address=address(number), more=more).encode()
            connection.sendall(head + (b"1\r\n{" if CHUNKED in more else b"{"))
            found.append(connection)
        yield found


def answered(connections: list[socket.socket], at_least: int) -> list[bytes]:
    """The answers of those that were answered, once there are so many."""
    deadline = time.monotonic() + 20
    while True:
        ready = select.select(connections, [], [], 0.1)[0]
        if len(ready) >= at_least:
            return [connection.recv(4096) for connection in ready]
        assert time.monotonic() < deadline, len(ready)


def call(port: int, method: str, path: str, body: bytes | None = None, address: str = "203.0.113.99") -> tuple[int, float]:
    """Status, and seconds until it was there."""
    begun = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"X-Forwarded-For": address, "Content-Type": "application/json"}
    connection.request(method, path, body, headers)
    status = connection.getresponse().status
    connection.close()
    return status, time.monotonic() - begun


def test_bodies_that_do_not_come_leave_threads_to_everybody_else(launch: Launcher) -> None:
    process = up(launch, SWITCHHOOK_TRUSTED_PROXIES="1")
    wait_until_up(launch, process)
    port = launch.port
    with slow_bodies(port, lambda _: "203.0.113.7") as connections:
        answers = answered(connections, COUNT - 16)
        assert {answer.split(b" ")[1] for answer in answers} == {b"503"}
        assert all(b"retry-after" in answer.lower() for answer in answers)
        # Who sends from elsewhere notices nothing, and no page takes long.
        assert call(port, "POST", "/v1/messages", b"{}")[0] == 401
        for path in ("/health/live", "/health", "/login"):
            status, seconds = call(port, "GET", path, address="203.0.113.7")
            assert (status, seconds < 2) == (200, True), (path, seconds)
    with slow_bodies(port, lambda number: f"198.51.100.{number}") as connections:
        answered(connections, COUNT - 112)
        for path in ("/health/live", "/health", "/login"):
            status, seconds = call(port, "GET", path)
            assert (status, seconds < 2) == (200, True), (path, seconds)
        assert call(port, "POST", "/v1/messages", b"{}")[0] == 503
    deadline = time.monotonic() + 10
    while call(port, "POST", "/v1/messages", b"{}")[0] != 401:
        assert time.monotonic() < deadline, "the seats of bodies that are gone did not come back"
    process.signal(signal.SIGTERM)
    assert process.exit_code() == 0
