"""The pooled client against real sockets: what it reuses, what it never repeats, and that nothing makes it hang."""

from __future__ import annotations

import contextlib
import gzip
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.fakes.server import FakeReply, FakeRequest, FakeServer, Fault
from webapp.routing.http import build_client, call_limits

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class RawServer:
    """A socket that does whatever `script(connection, number)` does with each connection, counted from 1."""

    def __init__(self, script: Callable[[socket.socket, int], None], context: ssl.SSLContext | None = None) -> None:
        self.connections = 0
        self.ended = threading.Event()
        self._script = script
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        scheme = "https" if context else "http"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection, self.connections))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            connection.settimeout(10)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context:
                connection = self._context.wrap_socket(connection, server_side=True)
            self._script(connection, number)
        connection.close()

    def __enter__(self) -> RawServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)


def read_request(connection: socket.socket) -> bytes:
    """One whole request; b'' if the client has gone."""
    data = bytearray()
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65_536)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    while len(body) < length:
        piece = connection.recv(65_536)
        if not piece:
            return b""
        body += piece
    return bytes(head + b"\r\n\r\n" + body)


class Echo(FakeServer):
    """Says what it was sent."""

    def handle(self, request: FakeRequest) -> FakeReply:
        if request.path == "/redirect":
            return FakeReply(302, {"Location": "/elsewhere"})
        if request.path == "/cookie":
            return FakeReply(200, {"Set-Cookie": "who=alice; Path=/"}, b"baked")
        if request.path == "/nothing":
            return FakeReply(204)
        if request.path == "/gzip":
            return FakeReply(200, {"Content-Encoding": "gzip"}, gzip.compress(b"unasked"))
        if request.path == "/bomb":
            return FakeReply(200, {"Content-Encoding": "gzip"}, gzip.compress(bytes(50_000_000)))
        if request.path.startswith("/size/"):
            return FakeReply(200, body=b"x" * int(request.path[6:]))
        if request.path.startswith("/chunks/"):
            return FakeReply(200, body=(b"x" * 1000 for _ in range(int(request.path[8:]))))
        if request.path == "/endless":
            return FakeReply(200, body=self._endless())
        return FakeReply(200, body=request.body)

    def _endless(self) -> Iterator[bytes]:
        while not self.stopping.wait(0.01):
            yield b"tick\n"


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with build_client() as made:
        yield made


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as server:
        yield server


# -- keeping connections ---------------------------------------------------------------------------------------------
def serve_forever(connection: socket.socket, _number: int) -> None:
    while read_request(connection):
        connection.sendall(OK)


def test_one_connection_serves_many_calls(client: httpx.Client) -> None:
    with RawServer(serve_forever) as server:
        for _ in range(5):
            assert client.post(server.url, json={"n": 1}).text == "ok"
        client.close()
        assert server.connections == 1


def test_a_stream_that_was_read_up_to_its_last_event_leaves_its_connection_usable(client: httpx.Client) -> None:
    def script(connection: socket.socket, _number: int) -> None:
        while read_request(connection):
            connection.sendall(CHUNKED + b"6\r\n[DONE]\r\n")
            time.sleep(0.001)  # the end of the body is a packet of its own
            connection.sendall(b"0\r\n\r\n")

    with RawServer(script) as server:
        for _ in range(6):
            with client.stream("GET", server.url) as response:
                assert next(response.iter_bytes()) == b"[DONE]"
        client.close()
        assert server.connections < 6, "unless the machine was very busy each time, connections were used again"


def test_a_connection_that_the_server_closed_while_idle_is_not_used_again(client: httpx.Client) -> None:
    closed = threading.Event()

    def script(connection: socket.socket, _number: int) -> None:
        read_request(connection)
        connection.sendall(OK)
        connection.shutdown(socket.SHUT_WR)
        closed.set()
        read_request(connection)

    with RawServer(script) as server:
        for _ in range(2):
            assert client.get(server.url).text == "ok"
            assert closed.wait(5)
            closed.clear()
        client.close()
        assert server.connections == 2


def test_a_connection_is_not_kept_longer_than_told() -> None:
    with RawServer(serve_forever) as server, build_client(keep_alive_s=0.0) as client:
        client.get(server.url)
        client.get(server.url)
        assert server.connections == 2


def test_garbage_after_an_answer_never_becomes_the_next_answer(client: httpx.Client) -> None:
    def script(connection: socket.socket, _number: int) -> None:
        while read_request(connection):
            connection.sendall(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    with RawServer(script) as server:
        assert [client.get(server.url).text for _ in range(3)] == ["ok"] * 3
        client.close()


def test_a_hundred_slow_calls_are_in_flight_at_once(client: httpx.Client) -> None:
    everybody = threading.Barrier(100)

    class Slow(FakeServer):
        def handle(self, request: FakeRequest) -> FakeReply:
            everybody.wait(20)
            return FakeReply(200, body=request.body)

    with Slow() as server, ThreadPoolExecutor(100) as threads:
        said = list(threads.map(lambda n: client.post(server.url, content=str(n)).text, range(100)))
        client.close()
    assert said == [str(n) for n in range(100)]


def test_threads_that_share_the_pool_never_get_each_others_answers(client: httpx.Client, echo: Echo) -> None:
    def ask(thread: int) -> bool:
        return all(client.post(echo.url, content=f"{thread}:{n}").text == f"{thread}:{n}" for n in range(25))

    with ThreadPoolExecutor(12) as threads:
        assert all(threads.map(ask, range(12)))
    client.close()


def test_a_closed_client_makes_no_more_calls(echo: Echo) -> None:
    client = build_client()
    client.close()
    with pytest.raises(RuntimeError):
        client.get(echo.url)


# -- bodies ----------------------------------------------------------------------------------------------------------
def test_pieces_are_handed_on_as_they_arrive(client: httpx.Client) -> None:
    seen = threading.Event()

    class Stepwise(FakeServer):
        def handle(self, request: FakeRequest) -> FakeReply:
            return FakeReply(200, body=self._pieces())

        def _pieces(self) -> Iterator[bytes]:
            for piece in (b"one", b"two", b"three"):
                yield piece
                assert seen.wait(5), "the next piece is only sent when the one before was read"
                seen.clear()

    got = []
    with Stepwise() as server:
        with client.stream("GET", server.url) as response:
            for piece in response.iter_bytes():
                got.append(piece)
                seen.set()
        client.close()
    assert got == [b"one", b"two", b"three"]


def test_bodies_of_all_kinds_arrive_whole(client: httpx.Client, echo: Echo) -> None:
    large = b"0123456789" * 300_000
    assert client.post(echo.url, content=large).content == large
    assert client.post(echo.url, content=iter([b"a", b"", b"bc"])).content == b"abc"
    assert client.post(echo.url, files={"f": ("name", b"inside")}).content.count(b"inside") == 1
    assert len(client.get(echo.url + "/chunks/700").content) == 700_000
    assert client.get(echo.url + "/nothing").status_code == 204
    assert client.head(echo.url + "/size/10").headers["content-length"] == "10"
    client.close()


def test_uncompressed_answers_are_asked_for_and_compressed_ones_decoded(client: httpx.Client, echo: Echo) -> None:
    assert client.get(echo.url + "/gzip").text == "unasked"
    assert echo.requests[0].header("Accept-Encoding") == "identity"


def test_redirects_cookies_and_proxies_of_the_environment_are_left_alone(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with build_client() as client:
        assert client.get(echo.url + "/redirect").status_code == 302
        assert client.get(echo.url + "/cookie").text == "baked"
        client.get(echo.url)
    assert [r.path for r in echo.requests] == ["/redirect", "/cookie", "/"]
    assert echo.requests[-1].header("Cookie") == ""


def test_a_body_larger_than_the_cap_is_an_error_and_one_of_its_size_is_not(client: httpx.Client, echo: Echo) -> None:
    cap = {"max_bytes": 10_000}
    assert len(client.get(echo.url + "/size/10000", extensions=cap).content) == 10_000
    assert len(client.get(echo.url + "/chunks/10", extensions=cap).content) == 10_000
    for path in ("/size/10001", "/chunks/11"):
        with pytest.raises(httpx.RemoteProtocolError, match="larger"):
            client.get(echo.url + path, extensions=cap)
    assert client.get(echo.url + "/size/3").text == "xxx"


def test_compressed_data_that_nobody_asked_for_may_not_unfold_without_bounds(client: httpx.Client, echo: Echo) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="larger"):
        client.get(echo.url + "/bomb", extensions={"max_bytes": 1_000_000})


@pytest.mark.parametrize("endless", [b"X-Filler: a\r\n", b"0" * 4096], ids=["trailers", "chunk-head"])
def test_what_is_not_body_is_bounded_too(client: httpx.Client, endless: bytes) -> None:
    def script(connection: socket.socket, _number: int) -> None:
        read_request(connection)
        connection.sendall(CHUNKED + (b"0\r\n" if endless.startswith(b"X") else b""))
        while True:
            connection.sendall(endless * 100)

    with RawServer(script) as server:
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(server.url, extensions={"max_bytes": 100_000})
        client.close()


def test_hanging_up_closes_the_socket_instead_of_reading_on(client: httpx.Client, echo: Echo) -> None:
    with client.stream("GET", echo.url + "/endless") as response:
        assert next(response.iter_bytes()) == b"tick\n"
    echo.wait_until(lambda: len(echo.abandoned) == 1)
    assert client.post(echo.url, content=b"next").text == "next"


# -- time ------------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def lasting(least_s: float, most_s: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert least_s <= time.monotonic() - started < most_s


def drip(prefix: bytes) -> Callable[[socket.socket, int], None]:
    def script(connection: socket.socket, _number: int) -> None:
        read_request(connection)
        connection.sendall(prefix)
        for _ in range(500):
            connection.sendall(b"x")
            time.sleep(0.02)

    return script


@pytest.mark.parametrize(
    "prefix", [b"", b"HTTP/1.1 200 OK\r\nX-Long: ", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", CHUNKED + b"1f4\r\n"]
)
def test_a_slow_drip_ends_at_the_deadline(client: httpx.Client, prefix: bytes) -> None:
    with RawServer(drip(prefix)) as server:
        with lasting(0.25, 2), pytest.raises(httpx.ReadTimeout), call_limits(0.3, 5):
            client.get(server.url)
        client.close()


def test_a_deadline_can_be_given_with_the_call(client: httpx.Client) -> None:
    with RawServer(drip(CHUNKED)) as server:
        with lasting(0.15, 2), pytest.raises(httpx.ReadTimeout):
            client.get(server.url, extensions={"deadline": time.monotonic() + 0.2})
        client.close()


def test_silence_is_given_up_before_the_deadline(client: httpx.Client, echo: Echo) -> None:
    echo.faults.append(Fault(hang=True))
    with lasting(0.15, 2), pytest.raises(httpx.ReadTimeout), call_limits(30, 0.2):
        client.get(echo.url)


def test_a_time_limit_of_the_plugin_itself_holds_too(client: httpx.Client, echo: Echo) -> None:
    echo.faults.append(Fault(hang=True))
    with lasting(0.15, 2), pytest.raises(httpx.ReadTimeout), call_limits(30, 30):
        client.get(echo.url, timeout=0.2)


def test_a_server_that_takes_no_request_body_is_given_up(client: httpx.Client) -> None:
    over = threading.Event()
    with RawServer(lambda connection, _: over.wait(10) and None) as server:
        with lasting(0.15, 3), pytest.raises(httpx.WriteTimeout), call_limits(0.3, 30):
            client.post(server.url, content=bytes(50_000_000))
        over.set()


def test_the_tighter_of_nested_limits_holds_and_ends_with_its_block(client: httpx.Client, echo: Echo) -> None:
    with call_limits(30, 30) as outer:
        with call_limits(60, 0.1) as inner:
            assert inner.deadline == outer.deadline
            echo.faults.append(Fault(hang=True))
            with pytest.raises(httpx.ReadTimeout):
                client.get(echo.url)
        echo.faults.append(Fault(delay_s=0.3))
        assert client.post(echo.url, content=b"late").text == "late"


def test_limits_hold_for_a_generator_that_is_consumed_inside_the_block(client: httpx.Client) -> None:
    def lines(url: str) -> Iterator[bytes]:
        with client.stream("GET", url) as response:
            yield from response.iter_bytes()

    with RawServer(drip(CHUNKED + b"1f4\r\n")) as server:
        with lasting(0.25, 2), pytest.raises(httpx.ReadTimeout), call_limits(0.3, 5):
            assert list(lines(server.url)) == []
        client.close()


def test_no_call_starts_after_the_deadline(client: httpx.Client, echo: Echo) -> None:
    with pytest.raises(httpx.TimeoutException), call_limits(0, 5):
        client.get(echo.url)
    assert echo.requests == []


# -- what goes wrong -------------------------------------------------------------------------------------------------
def test_nobody_listening_is_a_connect_error(client: httpx.Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(httpx.ConnectError):
        client.get(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("url", ["http://no-such-host.invalid/", f"http://{'a' * 70}.invalid/"])
def test_a_name_without_an_address_is_a_connect_error(client: httpx.Client, url: str) -> None:
    with pytest.raises(httpx.ConnectError):
        client.get(url)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "/relative", "http:///nohost"])
def test_addresses_that_cannot_be_called_are_refused(client: httpx.Client, url: str) -> None:
    with pytest.raises(httpx.UnsupportedProtocol):
        client.get(url)


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello\r\n\r\n",
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(500)) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
        CHUNKED + b"zz\r\nnot hex",
        CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"5\r\nhel",
        CHUNKED + b"5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
    ],
)
def test_an_answer_that_is_not_http_or_breaks_off_is_a_protocol_error(client: httpx.Client, answer: bytes) -> None:
    def script(connection: socket.socket, _number: int) -> None:
        read_request(connection)
        connection.sendall(answer)

    with RawServer(script) as server:
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            client.post(server.url, content=b"x")
        assert server.connections == 1
        client.close()


def test_a_request_that_the_server_took_is_never_repeated(client: httpx.Client, echo: Echo) -> None:
    assert client.post(echo.url, content=b"first").text == "first"
    echo.faults.append(Fault(drop=True))
    with pytest.raises(httpx.ReadError):
        client.post(echo.url, content=b"charge me once")
    assert [r.body for r in echo.requests] == [b"first", b"charge me once"]


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_a_request_that_did_not_reach_a_kept_connection_whole_is_sent_once_more() -> None:
    taken = []

    def script(connection: socket.socket, number: int) -> None:
        taken.append(len(read_request(connection)))
        connection.sendall(OK)
        if number == 1:
            connection.recv(100)  # the second request begins …
            reset(connection)  # … and meets a connection that is gone
        else:
            read_request(connection)

    with RawServer(script) as server, build_client() as client:
        client.post(server.url, content=b"small")
        assert client.post(server.url, content=bytes(20_000_000)).text == "ok"
        client.close()
        assert server.connections == 2
    assert len(taken) == 2
    assert taken[1] > 20_000_000


def test_on_a_new_connection_nothing_is_sent_twice(client: httpx.Client) -> None:
    def script(connection: socket.socket, _number: int) -> None:
        connection.recv(100)
        reset(connection)

    with RawServer(script) as server:
        with pytest.raises((httpx.WriteError, httpx.ReadError)):
            client.post(server.url, content=bytes(20_000_000))
        assert server.connections == 1


def test_an_answer_that_comes_before_the_whole_request_was_read_is_taken(client: httpx.Client) -> None:
    def script(connection: socket.socket, _number: int) -> None:
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nlarge")
        connection.shutdown(socket.SHUT_RD)
        with contextlib.suppress(OSError):
            while connection.recv(65_536):
                pass

    with RawServer(script) as server:
        with contextlib.suppress(httpx.NetworkError):  # the kernel may throw the answer away with the connection
            assert client.post(server.url, content=bytes(3_000_000)).status_code == 413
        client.close()


def test_a_line_break_in_a_header_is_refused_without_naming_its_value(client: httpx.Client, echo: Echo) -> None:
    with pytest.raises(httpx.LocalProtocolError) as refusal:
        client.get(echo.url, headers={"Authorization": "Bearer sk-secret\r\nX-Evil: 1"})
    assert "sk-secret" not in str(refusal.value)
    assert echo.requests == []


# -- the process -----------------------------------------------------------------------------------------------------
def test_a_process_has_one_client_and_a_forked_child_another_one() -> None:
    program = """
import os, sys
from tests.unit.test_http_pool import Echo
from webapp.routing import guard
from webapp.routing.http import client, close_client
guard.install("127.0.0.1", [])
with Echo() as echo:
    mine = client()
    assert mine is client()
    assert mine.post(echo.url, content=b"parent").text == "parent"
    child = os.fork()
    if not child:
        os._exit(0 if client() is not mine and client().post(echo.url, content=b"child").text == "child" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert mine.post(echo.url, content=b"again").text == "again"
    close_client()
    assert client() is not mine
    close_client()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl command is not installed")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1 "
        f"-addext subjectAltName=IP:127.0.0.1 -keyout {path} -out {path}.crt".split(),
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_https_calls_work_and_keep_their_connection(certificate: Path, tls: ssl.SSLContext) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    with RawServer(serve_forever, tls) as server, build_client(ssl_context=trusting) as client:
        for _ in range(3):
            assert client.post(server.url, content=bytes(200_000)).text == "ok"
        client.close()
        assert server.connections == 1


def test_the_deadline_holds_over_https(certificate: Path, tls: ssl.SSLContext) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    with RawServer(drip(CHUNKED + b"1f4\r\n"), tls) as server, build_client(ssl_context=trusting) as client:
        started = time.monotonic()
        with pytest.raises(httpx.ReadTimeout), call_limits(0.3, 5):
            client.get(server.url)
        assert time.monotonic() - started < 2


def test_a_certificate_that_nobody_vouches_for_is_a_connect_error(client: httpx.Client, tls: ssl.SSLContext) -> None:
    with RawServer(serve_forever, tls) as server, pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        client.get(server.url)


def test_a_server_that_never_finishes_the_handshake_is_given_up(client: httpx.Client) -> None:
    over = threading.Event()
    with RawServer(lambda connection, _: over.wait(10) and None) as server:
        with lasting(0.15, 2), pytest.raises(httpx.ConnectTimeout), call_limits(0.3, 5):
            client.get(server.url.replace("http:", "https:"))
        over.set()
