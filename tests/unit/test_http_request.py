"""Requests that the pooled client makes from what earlier ones had in common: equal to httpx's own, and to nothing older."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.unit.test_http_pool import Echo
from webapp.routing.http import build_client
from webapp.routing.http_client import PooledClient
from webapp.routing.http_request import PreparedRequest, head_of

URL = "http://127.0.0.1:8/v1/chat"


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with build_client() as made:
        yield made


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as server:
        yield server


def usual(client: httpx.Client, *parts: Any, **more: Any) -> httpx.Request:
    """The request as httpx makes it."""
    return httpx.Client.build_request(client, *parts, **more)


def told(request: httpx.Request) -> tuple[object, ...]:
    return (
        request.method,
        request.url,
        request.url.raw_path,
        request.headers.raw,
        request.read(),
        dict(request.extensions),
    )


def sent(request: httpx.Request) -> tuple[bytes, bytes]:
    """What goes over the wire, before anybody has looked at the request."""
    if isinstance(request, PreparedRequest) and (ready := request.ready()):
        return ready[1], ready[2]
    return head_of(request), request.read()


BODIES: list[dict[str, Any]] = [
    {"content": b"x"},
    {"content": b'{"a": 1}'},
    {"content": bytes(100_000)},
    {"content": b""},
    {"content": "text \xfc"},
    {"content": [b"in ", b"pieces"]},
    {},
    {"json": {"a": [1, None, "\xfc\U0001f600", 1.5]}},
    {"json": []},
    {"json": "text"},
    {"json": 0},
    {"json": None},
    {"content": b"wins", "json": {"a": 1}},
    {"data": {"a": "b"}},
    {"data": {}, "json": {"a": 1}},
    {"files": {"f": ("name", b"inside")}, "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
]
HEADERS: list[Any] = [
    None,
    {},
    {"Authorization": "Bearer sk-1"},
    {"Content-Type": "application/json", "Accept": "text/event-stream"},
    {"content-type": "text/plain", "user-agent": "other", "ACCEPT-ENCODING": "gzip"},
    {"X-Percent": "%d %b %%", "X-Empty": ""},
    {b"X-Bytes": b"M\xfcller"},
    {"Host": "elsewhere"},
    {"Content-Length": "42"},
    {"Transfer-Encoding": "chunked"},
    [("X-A", "1"), ("X-A", "2")],
    httpx.Headers({"X-A": "1"}),
]
URLS: list[Any] = [
    URL,
    "https://example.com",
    "https://example.com:443/a?b=c d#e",
    "HTTP://EXAMPLE.com:8080/\xfc/%2f?q=\xfc",
    "http://[::1]:9/x",
    "http://user:secret@example.com/",
    "https://m\xfcnchen.example/a%20b/100%",
    "/relative",
    "//host/path",
    "",
    httpx.URL(URL),
]


@pytest.mark.parametrize("method", ["POST", "put", "GET"])
@pytest.mark.parametrize("headers", HEADERS, ids=range(len(HEADERS)))
@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_a_request_is_what_httpx_makes_of_it(client: httpx.Client, body: dict[str, Any], headers: Any, method: str) -> None:
    asked = {"headers": headers} | body
    for _ in range(2):  # the first time and from what was kept
        assert sent(client.build_request(method, URL, **asked)) == sent(usual(client, method, URL, **asked))
        assert told(client.build_request(method, URL, **asked)) == told(usual(client, method, URL, **asked))


@pytest.mark.parametrize("url", URLS, ids=range(len(URLS)))
def test_an_address_is_what_httpx_makes_of_it(client: httpx.Client, url: Any) -> None:
    bodies: list[dict[str, Any]] = [{"content": b"x"}, {"json": {}}]
    for more in (*bodies, {"content": b"x", "params": {"a": "b"}}, {"content": b"x", "params": {}}):
        for _ in range(2):
            assert told(client.build_request("POST", url, **more)) == told(usual(client, "POST", url, **more))
            assert sent(client.build_request("POST", url, **more)) == sent(usual(client, "POST", url, **more))


@pytest.mark.parametrize(
    "more",
    [
        {"timeout": 5},
        {"timeout": None},
        {"timeout": (1, 2, 3, 4)},
        {"timeout": httpx.Timeout(7, connect=1)},
        {"extensions": {"timeout": {"read": 1.0}, "max_bytes": 10}},
        {"extensions": {"deadline": 1.0}, "timeout": 3},
    ],
)
def test_time_limits_are_what_httpx_makes_of_them(client: httpx.Client, more: dict[str, Any]) -> None:
    more["content"] = b"x"
    assert told(client.build_request("POST", URL, **more)) == told(usual(client, "POST", URL, **more))


def test_one_who_changes_the_extensions_of_a_request_changes_no_other(client: httpx.Client) -> None:
    given: dict[str, Any] = {"max_bytes": 10}
    client.build_request("POST", URL, content=b"x", extensions=given).extensions["max_bytes"] = 1
    assert given == {"max_bytes": 10}


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"headers": {"X": 1}, "content": b"x"}, TypeError),
        ({"headers": {"X": "M\xfcller"}, "content": b"x"}, UnicodeEncodeError),
        ({"headers": {"X": ["a"]}, "content": b"x"}, TypeError),
        ({"json": float("nan")}, ValueError),
        ({"json": object()}, TypeError),
        ({"content": 5}, TypeError),
    ],
)
def test_what_httpx_does_not_take_is_refused_as_httpx_does(
    client: httpx.Client, more: dict[str, Any], error: type[Exception]
) -> None:
    for _ in range(2):
        with pytest.raises(error) as refusal:
            client.build_request("POST", URL, **more)
        with pytest.raises(error) as expected:
            usual(client, "POST", URL, **more)
        assert str(refusal.value) == str(expected.value)


def test_what_is_changed_at_the_client_counts_at_once(client: httpx.Client) -> None:
    def same() -> None:
        assert told(client.build_request("POST", URL, content=b"x")) == told(usual(client, "POST", URL, content=b"x"))

    same()
    client.headers["X-New"] = "1"
    same()
    client.headers = httpx.Headers({"X-Other": "2"})
    same()
    client.timeout = httpx.Timeout(3)
    same()
    client.params = httpx.QueryParams({"a": "b"})
    same()
    client.params = httpx.QueryParams()
    same()
    client.cookies.set("name", "value", domain="127.0.0.1")
    assert "cookie" in client.build_request("POST", URL, content=b"x").headers
    same()
    client.cookies = httpx.Cookies({"other": "value"})
    same()


def test_what_is_changed_at_a_request_is_sent(client: httpx.Client, echo: Echo) -> None:
    for _ in range(2):
        request = client.build_request("POST", echo.url, content=b"said")
        request.headers["X-Late"] = "yes"
        request.headers["Authorization"] = "Bearer sk-2"
        request.method = "PUT"
        assert client.send(request).text == "said"
        request = client.build_request("POST", echo.url, content=b"said")
        request.url = httpx.URL(echo.url + "/other")
        assert client.send(request).text == "said"
        request = client.build_request("POST", echo.url, content=b"said")
        request.headers = httpx.Headers({"Host": "127.0.0.1", "Content-Length": "4"})
        assert client.send(request).text == "said"
    changed, moved, bare = echo.requests[:3]
    assert (changed.method, changed.header("X-Late"), changed.header("Authorization")) == ("PUT", "yes", "Bearer sk-2")
    assert moved.path == "/other"
    assert bare.header("User-Agent") == ""
    client.close()


def test_a_request_can_be_sent_again_signed_in_and_looked_at(client: httpx.Client, echo: Echo) -> None:
    request = client.build_request("POST", echo.url, content=b"said")
    assert client.send(request).text == "said"
    assert client.send(request, auth=("user", "secret")).text == "said"
    assert echo.requests[-1].header("Authorization").startswith("Basic ")
    response = client.post(echo.url, content=b"said", follow_redirects=True)
    assert response.request.headers["content-length"] == "4"
    assert b"".join(response.request.stream) == b"said"  # type: ignore[arg-type]
    copy = pickle.loads(pickle.dumps(response))
    assert (copy.text, copy.request.headers["content-length"]) == ("said", "4")
    client.close()


def test_a_key_is_shown_nowhere(client: httpx.Client) -> None:
    request = client.build_request("POST", URL, content=b"x", headers={"Authorization": "Bearer sk-secret"})
    assert isinstance(request, PreparedRequest)
    assert "sk-secret" not in f"{request!r} {client!r} {vars(request)!r}"


def test_what_is_kept_is_bounded(client: httpx.Client) -> None:
    assert isinstance(client, PooledClient)
    for number in range(1000):
        client.build_request("POST", URL, content=b"x", headers={"Idempotency-Key": str(number)})
    assert len(client._templates) <= 256
