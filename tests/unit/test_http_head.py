"""Heads of answers: read at once or line by line to the same effect, as `http.client` would, and refused where they are odd."""

from __future__ import annotations

import contextlib
import io
import socket
import time
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse, LineTooLong
from typing import Any, cast

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_http_pool import RawServer, read_request
from webapp.routing.http import build_client
from webapp.routing.http_head import Head, plain_head, read_head

OK = b"HTTP/1.1 200 OK\r\n"


class Given:
    """A socket on which an answer has arrived."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def by_lines(data: bytes, method: str = "GET") -> Head:
    return read_head(cast("Any", io.BufferedReader(cast("Any", io.BytesIO(data)))), method)


def meaning(head: Head) -> tuple[object, ...]:
    return head.status, head.fields, head.chunked, head.encoded, head.length, head.will_close


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
@pytest.mark.parametrize(
    "data",
    [
        OK + b"Content-Length: 2\r\n\r\n",
        OK + b"content-length:2\r\nContent-Type: application/json; charset=utf-8\r\n\r\n",
        OK + b"\r\n",
        OK + b"Content-Length: 0\r\n\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
        OK + b"Content-Length: five\r\n\r\n",
        OK + b"Content-Length: -5\r\n\r\n",
        OK + b"Content-Length: 5, 5\r\n\r\n",
        OK + b"Content-Length:\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n",
        OK + b"Transfer-Encoding: Chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK + b"Transfer-Encoding: identity\r\nContent-Length: 3\r\n\r\n",
        OK + b"Connection: close\r\nContent-Length: 3\r\n\r\n",
        OK + b"Connection: TE, Close\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK + b"Connection: keep-alive\r\nContent-Length: 3\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: Keep-Alive\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\nKeep-Alive: timeout=5\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\nProxy-Connection: keep-alive\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n",
        b"HTTP/1.1 200\r\nContent-Length: 3\r\n\r\n",
        b"HTTP/1.1 200 \r\nContent-Length: 3\r\n\r\n",
        b"HTTP/1.1 599 \xfcber\r\nX-Name: M\xc3\xbcller\r\nContent-Length: 3\r\n\r\n",
        b"HTTP/1.1  200  OK\nContent-Length: 3\n\n",
        b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\n",
        b"HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\n",
    ],
)
def test_what_a_head_means_is_what_http_client_says(data: bytes, method: str) -> None:
    usual = HTTPResponse(cast("socket.socket", Given(data + b"body")), method=method)
    usual.begin()
    found = [by_lines(data + b"body", method)]
    if (plain := plain_head(data + b"body", method)) is not None:
        head, end = plain
        assert end == len(data)
        found.append(head)
    for head in found:
        assert (head.status, head.chunked, head.length, head.will_close) == (
            usual.status,
            bool(usual.chunked),
            usual.length,
            usual.will_close,
        )
        told = [(name.decode("latin-1"), value.decode("latin-1")) for name, _, value in head.fields]
        assert told == usual.getheaders()


NAMES = st.sampled_from([b"Content-Length", b"Connection", b"X-Request-Id", b"Date", b"content-encoding", b"Keep-Alive"])
VALUES = st.sampled_from([b"", b"5", b"close", b"gzip", b"a: b, \xe9", b"  padded \t", b"keep-alive"])
STARTS = st.sampled_from([OK, b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 204\r\n", b"HTTP/1.1 429 Too Many Requests\r\n"])


@given(STARTS, st.lists(st.tuples(NAMES, VALUES), max_size=6), st.sampled_from(["GET", "HEAD"]))
def test_both_ways_of_reading_a_head_agree(start: bytes, fields: list[tuple[bytes, bytes]], method: str) -> None:
    data = start + b"".join(b"%b: %b\r\n" % pair for pair in fields) + b"\r\nrest"
    try:
        expected = meaning(by_lines(data, method))
    except HTTPException as exc:
        with pytest.raises(type(exc)):
            plain_head(data, method)
        return
    plain = plain_head(data, method)
    assert plain is not None
    assert meaning(plain[0]) == expected
    assert data[plain[1] :] == b"rest"


PARTS = st.sampled_from([b"HTTP/1.1 ", b"200", b"\r\n", b"\n", b" ", b"a:", b"\0"])


@given(st.binary(max_size=80) | st.lists(PARTS).map(b"".join))
def test_any_bytes_are_a_head_or_refused(data: bytes) -> None:
    plain = plain_head(data, "GET")
    try:
        head = by_lines(data)
    except (HTTPException, OSError):
        assert plain is None
    else:
        assert plain is None or meaning(plain[0]) == meaning(head)


def test_a_value_that_goes_on_in_the_next_line_is_one_value() -> None:
    head = by_lines(OK + b"X-Long: one\r\n  two\r\n\tthree \r\nContent-Length: 2\r\n\r\n")
    assert head.fields == [(b"X-Long", b"x-long", b"one two three"), (b"Content-Length", b"content-length", b"2")]


def test_a_body_with_two_ends_is_the_last_of_its_connection() -> None:
    head = by_lines(OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert head.chunked
    assert head.length is None
    assert head.will_close


def test_as_many_and_as_long_headers_as_ever_are_taken() -> None:
    many = OK + b"".join(b"X-%d: y\r\n" % n for n in range(99)) + b"\r\n"
    assert len(by_lines(many).fields) == 99
    plain = plain_head(many, "GET")
    assert plain is not None
    assert len(plain[0].fields) == 99
    assert len(by_lines(OK + b"X: " + b"y" * 65_531 + b"\r\n\r\n").fields[0][2]) == 65_531
    with pytest.raises(LineTooLong):
        by_lines(OK + b"X: " + b"y" * 65_532 + b"\r\n\r\n")


ODD = {
    "no colon": b"Content-Length: 2\r\nnonsense\r\n",
    "no name": b": value\r\n",
    "blank in a name": b"Content Length: 2\r\n",
    "blank before the colon": b"Content-Length : 2\r\n",
    "a name that is not ASCII": b"X-\xfc: 2\r\n",
    "a first line that goes on": b" folded: 2\r\n",
    "a return alone": b"X: a\rContent-Length: 2\r\n",
    "a return alone in a folded line": b"X: a\r\n b\rContent-Length: 2\r\n",
    "NUL": b"X: a\0b\r\n",
    "an envelope": b"From nobody Thu Jan 1 00:00:00 1970\r\nContent-Length: 2\r\n",
    "two lengths": b"Content-Length: 2\r\nContent-Length: 3\r\n",
    "an endless length": b"Content-Length: " + b"9" * 30 + b"\r\n",
    "an unknown transfer encoding": b"Transfer-Encoding: gzip, chunked\r\n",
    "a transfer encoding and its disguise": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: xchunked\r\n",
    "too many": b"".join(b"X-%d: y\r\n" % n for n in range(100)),
    "too many that go on": b"X: y\r\n" + b" z\r\n" * 100,
    "too long": b"X: " + b"y" * 70_000 + b"\r\n",
}


def serving(answer: bytes, cut: int | None = None) -> Callable[[socket.socket, int], None]:
    """A server that gives this answer, in two packets where it is cut, and hangs up."""

    def script(connection: socket.socket, _number: int) -> None:
        while read_request(connection):
            connection.sendall(answer[:cut])
            if cut is None:
                return
            time.sleep(0.0005)
            connection.sendall(answer[cut:])

    return script


@pytest.mark.parametrize("name", ODD)
def test_an_odd_head_is_refused_and_its_connection_given_up(name: str) -> None:
    answer = OK + ODD[name] + b"\r\nok"
    with pytest.raises(HTTPException):
        by_lines(answer)
    with contextlib.suppress(HTTPException):
        assert plain_head(answer, "GET") is None
    with RawServer(serving(answer, len(answer))) as server, build_client() as client:
        for _ in range(2):
            with pytest.raises(httpx.RemoteProtocolError):
                client.post(server.url, content=b"x")
        assert server.connections == 2


LENGTH = OK + b"X-Request-Id: r1\r\nContent-Length: 5\r\n\r\nhello"
CHUNKS = OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nTrailer: t\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH


@pytest.mark.parametrize("answer", [LENGTH, CHUNKS, INTERIM], ids=["length", "chunks", "interim"])
def test_an_answer_reads_the_same_in_whatever_packets_it_comes(answer: bytes) -> None:
    cuts = iter(range(1, len(answer)))

    def script(connection: socket.socket, _number: int) -> None:
        while read_request(connection):
            cut = next(cuts)
            connection.sendall(answer[:cut])
            time.sleep(0.0005)
            connection.sendall(answer[cut:])

    with RawServer(script) as server, build_client() as client:
        for _ in range(1, len(answer)):
            with client.stream("POST", server.url, content=b"x") as response:
                assert b"".join(response.iter_bytes()) == b"hello"
                assert response.num_bytes_downloaded == 5
        assert server.connections == 1, "each answer was read to its end, so the connection was kept"
        client.close()


@pytest.mark.parametrize("answer", [LENGTH, CHUNKS, INTERIM], ids=["length", "chunks", "interim"])
def test_an_answer_that_breaks_off_anywhere_is_an_error(answer: bytes) -> None:
    cuts = iter(range(len(answer)))
    # The empty chunk ends the body, also where the connection ends with it.
    whole = answer.find(b"\r\n0") + len(b"\r\n0") if answer is CHUNKS else len(answer)

    def script(connection: socket.socket, _number: int) -> None:
        read_request(connection)
        connection.sendall(answer[: next(cuts)])

    with RawServer(script) as server, build_client() as client:
        for _ in range(whole):
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                client.post(server.url, content=b"x")
        client.close()


def test_headers_are_those_that_came() -> None:
    fields = b"X-A: 1\r\nx-a: 2\r\nX-B: M\xc3\xbcller\r\n"
    with RawServer(serving(OK + fields + b"Content-Length: 2\r\n\r\nok", 10)) as server, build_client() as client:
        response = client.get(server.url)
        assert response.headers.raw[:3] == [(b"X-A", b"1"), (b"x-a", b"2"), (b"X-B", b"M\xc3\xbcller")]
        assert response.headers["x-a"] == "1, 2"
        assert response.headers["x-b"] == "Müller"
        assert response.headers.get_list("X-A") == ["1", "2"]
        client.close()


def test_more_than_was_announced_ends_the_connection() -> None:
    with RawServer(serving(LENGTH + b"more", len(LENGTH) + 4)) as server, build_client() as client:
        assert [client.get(server.url).text for _ in range(2)] == ["hello", "hello"]
        assert server.connections == 2
