"""The guard of outbound calls, on real sockets: internal addresses are reached only where the operator allowed it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.fakes.server import FakeReply, FakeRequest, FakeServer
from webapp.contracts.errors import SetupError
from webapp.contracts.failures import error_for_network
from webapp.routing import guard as guards
from webapp.routing.guard import Forbidden, Guard
from webapp.routing.http import build_client, client, close_client

CURE = "is an internal address: add it to SWITCHHOOK_ALLOW_OUTBOUND if it is meant"


class Vendor(FakeServer):
    """Answers, or sends its visitors elsewhere."""

    elsewhere = ""

    def handle(self, request: FakeRequest) -> FakeReply:
        if request.path == "/redirect":
            return FakeReply(307, {"Location": self.elsewhere})
        return FakeReply(200, body=b"answered")

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


class Silent:
    """A port on which nobody may knock."""

    def __init__(self, host: str = "127.0.0.1", family: int = socket.AF_INET) -> None:
        self.socket = socket.create_server((host, 0), family=family)
        self.socket.setblocking(False)
        self.port: int = self.socket.getsockname()[1]

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    @property
    def was_visited(self) -> bool:
        try:
            self.socket.accept()[0].close()
        except BlockingIOError:
            return False
        return True


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    with Vendor() as server:
        yield server


@pytest.fixture
def guard() -> Guard:
    return Guard()


@pytest.fixture
def guarded(guard: Guard) -> Iterator[httpx.Client]:
    with build_client(guard=guard) as made:
        yield made


@pytest.fixture
def process_guard(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process's own guard and client as in a process that has just started."""
    close_client()
    monkeypatch.setattr(guards, "_current", Guard())
    yield
    close_client()


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Makes names resolve to given addresses: one list of them for each time that somebody asks. Gives who was asked for."""
    real = socket.getaddrinfo

    def answer(**names: list[list[str]]) -> list[str]:
        asked: list[str] = []

        def look_up(host: str, port: int, *more: Any, **options: Any) -> list[Any]:
            name = host.removesuffix(".").replace(".", "_")
            if name not in names:
                return real(host, port, *more, **options)
            asked.append(host)
            answers = names[name].pop(0) if len(names[name]) > 1 else names[name][0]
            return [found for address in answers for found in real(address, port, *more, **options)]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        return asked

    return answer


# -- which addresses are internal --------------------------------------------------------------------------------------
INTERNAL = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.1.2.3",
    "169.254.169.254", "169.254.0.1", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.9", "192.0.0.170",
    "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "224.0.1.1",
    "239.255.255.250", "240.0.0.1", "255.255.255.255", "::", "::1", "::7f00:1", "::10.0.0.1", "::8.8.8.8",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1", "64:ff9b::a00:1", "64:ff9b::169.254.169.254", "64:ff9b:1::8.8.8.8", "100::1", "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::",
    "2002:a00:1::1", "2002:c0a8:1::", "2002:a9fe:a9fe::", "3fff::1", "4000::1", "5f00::1", "fc00::1", "fd00::1",
    "fd12:3456:789a::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fe80::1%1", "fec0::1", "feff::1", "ff02::1",
    "ff0e::1", "e000::1",
]  # fmt: skip
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.255.255",
    "172.32.0.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255",
    "2606:4700:4700::1111", "2001:4860:4860::8888", "2a00:1450:4001::1", "64:ff9b::8.8.8.8", "2002:808:808::1",
]  # fmt: skip


@pytest.mark.parametrize("address", INTERNAL)
def test_an_internal_address_is_forbidden_in_whatever_form(guard: Guard, address: str) -> None:
    with pytest.raises(Forbidden) as caught:
        guard.check("vendor.example", 443, address)
    assert str(caught.value) == f"vendor.example:443 {CURE}"


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_let_through(guard: Guard, address: str) -> None:
    guard.check("vendor.example", 443, address)


def test_what_is_no_address_is_forbidden(guard: Guard) -> None:
    for nonsense in ("", "localhost", "1.2.3", "8.8.8.8.8", "%eth0", "8.8.8.8\x00"):
        with pytest.raises(Forbidden):
            guard.check("vendor.example", 443, nonsense)


# -- what the operator allows ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("entry", "host", "port", "address"),
    [
        ("10.0.0.0/8", "any.example", 80, "10.1.2.3"),
        ("10.0.0.0/8", "any.example", 80, "::ffff:10.1.2.3"),
        ("10.0.0.0/8", "any.example", 80, "64:ff9b::10.1.2.3"),
        ("10.0.0.0/8", "any.example", 80, "2002:a01:203::1"),
        ("10.1.2.3", "any.example", 80, "10.1.2.3"),
        ("10.1.2.3:8080", "any.example", 8080, "10.1.2.3"),
        ("fd00::/8", "any.example", 80, "fd12::1"),
        ("::1", "any.example", 80, "::1"),
        ("[::1]", "any.example", 80, "::1"),
        ("[::1]:8080", "any.example", 8080, "::1"),
        ("fe80::/10", "any.example", 80, "fe80::1%eth0"),
        ("0.0.0.0/0, ::/0", "any.example", 80, "127.0.0.1"),
        ("0.0.0.0/0, ::/0", "any.example", 80, "::1"),
        ("ollama", "ollama", 11434, "172.17.0.2"),
        ("Ollama.Internal", "ollama.internal.", 80, "10.1.2.3"),
        ("ollama.internal.", "OLLAMA.internal", 80, "10.1.2.3"),
        ("ollama.internal:8080", "ollama.internal", 8080, "10.1.2.3"),
        ("my_service.default.svc", "my_service.default.svc", 80, "10.96.0.1"),
        ("bücher.internal", "xn--bcher-kva.internal", 80, "10.1.2.3"),
        (" 192.168.1.1 ,, ollama ,", "ollama", 80, "10.1.2.3"),
    ],
)
def test_an_entry_allows_what_it_names(guard: Guard, entry: str, host: str, port: int, address: str) -> None:
    with pytest.raises(Forbidden):
        guard.check(host, port, address)
    guard.allow(entry)
    guard.check(host, port, address)


@pytest.mark.parametrize(
    ("entry", "host", "port", "address"),
    [
        ("10.0.0.0/8", "any.example", 80, "172.16.0.1"),
        ("10.0.0.0/8", "any.example", 80, "::ffff:172.16.0.1"),
        ("10.1.2.3", "any.example", 80, "10.1.2.4"),
        ("10.1.2.3:8080", "any.example", 80, "10.1.2.3"),
        ("[::1]:8080", "any.example", 80, "::1"),
        ("0.0.0.0/0", "any.example", 80, "::1"),
        ("ollama", "ollama.evil.example", 80, "10.1.2.3"),
        ("ollama", "notollama", 80, "10.1.2.3"),
        ("internal", "ollama.internal", 80, "10.1.2.3"),
        ("ollama:8080", "ollama", 80, "10.1.2.3"),
        ("ollama:8080", "evil.example", 8080, "10.1.2.3"),
        ("", "any.example", 80, "10.1.2.3"),
    ],
)
def test_an_entry_allows_nothing_beyond(guard: Guard, entry: str, host: str, port: int, address: str) -> None:
    guard.allow(entry)
    with pytest.raises(Forbidden):
        guard.check(host, port, address)


@pytest.mark.parametrize(
    "bad",
    [
        "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "256.1.1.1", "10.0.0.0/8/8", "http://ollama:11434", "ollama:", ":80", "ollama:0",
        "ollama:65536", "ollama:１", "ollama:80:80", "[::1", "[::1]:x", "[ollama]:80", "two words", "*.internal", "*", "-bad",
        "a..b", "0x7f.1", "0x", "2130706433", "\x00", "é" * 300, "user@host", "host:８０", "fe80::1%eth0",
    ],
)  # fmt: skip
def test_an_entry_that_is_none_is_a_setup_error_and_nothing_of_the_list_counts(guard: Guard, bad: str) -> None:
    with pytest.raises(SetupError, match="SWITCHHOOK_ALLOW_OUTBOUND") as caught:
        guard.allow(f"10.0.0.0/8, {bad}")
    assert repr(bad[:100]) in caught.value.message
    with pytest.raises(Forbidden):
        guard.check("any.example", 80, "10.0.0.1")


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://ollama:11434/v1", "ollama", 11434),
        ("https://Gateway.Internal/openai/", "gateway.internal", 443),
        ("http://gateway.internal.", "gateway.internal", 80),
        ("  http://user:secret@gateway:8080/?q#f ", "gateway", 8080),
        ("http://[::1]:8080/", "::1", 8080),
        ("http://[0:0:0::1]:8080/", "::1", 8080),
        ("HTTP://10.0.0.5", "10.0.0.5", 80),
        ("http://bücher.internal", "xn--bcher-kva.internal", 80),
    ],
)
def test_an_origin_that_the_operator_named_may_be_anywhere_and_no_other(guard: Guard, url: str, host: str, port: int) -> None:
    guard.trust(url)
    guard.check(host, port, "10.1.2.3")
    guard.check(host, port, "::1")
    for other_host, other_port in ((host, port + 1), ("evil.example", port), (f"{host}.evil.example", port)):
        with pytest.raises(Forbidden):
            guard.check(other_host, other_port, "10.1.2.3")


def test_values_of_the_environment_that_are_no_urls_are_passed_over(guard: Guard) -> None:
    for value in (
        "",
        "ollama:11434",
        "tcp://ollama:80",
        "http://",
        "http://[",
        "http://a:b",
        "http://a:99999",
        "/usr/bin",
        "\x00",
    ):
        guard.trust(value)
    for host in ("ollama", "a", ""):
        with pytest.raises(Forbidden):
            guard.check(host, 80, "10.1.2.3")


# -- calls -------------------------------------------------------------------------------------------------------------
def test_a_call_to_an_internal_address_never_arrives_and_says_what_to_do(guarded: httpx.Client) -> None:
    with Silent() as port:
        with pytest.raises(httpx.ConnectError) as caught:
            guarded.post(f"http://127.0.0.1:{port.port}/", content=b"x")
        assert str(caught.value) == f"127.0.0.1:{port.port} {CURE}"
        assert not port.was_visited


def test_the_operator_reads_the_reason_in_the_detail_of_the_error(guarded: httpx.Client) -> None:
    with pytest.raises(httpx.ConnectError) as caught:
        guarded.get("http://10.0.0.1/v1/models")
    error = error_for_network("Ollama", caught.value)
    assert error.code == "provider_unavailable"
    assert error.message == "Ollama cannot be reached."
    assert f"10.0.0.1:80 {CURE}" in error.detail


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.1", "017700000001", "localhost", "LOCALHOST", "0",
     "0.0.0.0", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "127。0。0。1"],
)  # fmt: skip
def test_no_spelling_of_this_machine_gets_through(guarded: httpx.Client, host: str) -> None:
    with Silent() as port:
        with pytest.raises(httpx.ConnectError, match="is an internal address"):
            guarded.get(f"http://{host}:{port.port}/")
        assert not port.was_visited


def test_this_machine_is_not_reached_by_ipv6_either(guarded: httpx.Client) -> None:
    try:
        silent = Silent("::1", socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with silent as port:
        for host in ("[::1]", "[0:0:0:0:0:0:0:1]", "[::0.0.0.1]"):
            with pytest.raises(httpx.ConnectError, match=r"^\[[:.01]+\]:\d+ is an internal address"):
                guarded.get(f"http://{host}:{port.port}/")
        assert not port.was_visited


def test_a_dot_at_the_end_of_a_name_changes_nothing(
    guard: Guard, guarded: httpx.Client, vendor: Vendor, resolver: Callable[..., list[str]]
) -> None:
    resolver(gateway_internal=[["127.0.0.1"]])
    with pytest.raises(httpx.ConnectError, match=r"gateway\.internal\.:"):
        guarded.get(f"http://gateway.internal.:{vendor.port}/")
    guard.allow("gateway.internal")
    assert guarded.get(f"http://gateway.internal.:{vendor.port}/").text == "answered"


@pytest.mark.parametrize("target", ["http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/", "http://metadata/"])
def test_a_redirect_to_the_clouds_metadata_is_not_followed(
    guard: Guard, guarded: httpx.Client, vendor: Vendor, resolver: Callable[..., list[str]], target: str
) -> None:
    resolver(metadata=[["169.254.169.254"]])
    guard.trust(vendor.url)
    vendor.elsewhere = target
    started = time.monotonic()
    with pytest.raises(httpx.ConnectError, match="is an internal address"):
        guarded.get(f"{vendor.url}/redirect", follow_redirects=True)
    assert time.monotonic() - started < 5
    assert [request.path for request in vendor.requests] == ["/redirect"]


def test_a_redirect_to_another_port_of_this_machine_is_not_followed(
    guard: Guard, guarded: httpx.Client, vendor: Vendor
) -> None:
    guard.trust(vendor.url)
    with Silent() as port:
        vendor.elsewhere = f"http://127.0.0.1:{port.port}/"
        with pytest.raises(httpx.ConnectError, match=f"127.0.0.1:{port.port} is an internal address"):
            guarded.get(f"{vendor.url}/redirect", follow_redirects=True)
        assert not port.was_visited
    vendor.elsewhere = "/answer"
    assert guarded.get(f"{vendor.url}/redirect", follow_redirects=True).text == "answered"


def test_a_name_that_resolves_to_something_else_later_is_checked_each_time_it_is_connected(
    guard: Guard, vendor: Vendor, resolver: Callable[..., list[str]]
) -> None:
    asked = resolver(rebound_example=[["127.0.0.1"], ["127.0.0.2"]])
    guard.allow("127.0.0.1")
    for times in (1, 2):
        with build_client(guard=guard) as made:
            if times == 1:
                assert made.get(f"http://rebound.example:{vendor.port}/").text == "answered"
            else:
                with pytest.raises(httpx.ConnectError, match=r"rebound\.example:\d+ is an internal address"):
                    made.get(f"http://rebound.example:{vendor.port}/")
        assert len(asked) == times  # the address that was checked is the one that is called: nobody asks again


def test_of_several_addresses_those_that_are_allowed_are_tried(
    guard: Guard, guarded: httpx.Client, vendor: Vendor, resolver: Callable[..., list[str]]
) -> None:
    resolver(mixed_example=[["169.254.169.254", "10.0.0.1", "127.0.0.1"]])
    guard.allow("127.0.0.1")
    assert guarded.get(f"http://mixed.example:{vendor.port}/").text == "answered"


def test_a_call_that_fails_at_the_allowed_address_says_so(
    guard: Guard, guarded: httpx.Client, resolver: Callable[..., list[str]]
) -> None:
    resolver(mixed_example=[["127.0.0.1", "169.254.169.254"]])
    guard.allow("127.0.0.1")
    with Silent() as port:
        unused = port.port
    with pytest.raises(httpx.ConnectError, match="refused"):
        guarded.get(f"http://mixed.example:{unused}/")


def test_a_kept_connection_is_used_without_asking_again(
    guard: Guard, vendor: Vendor, resolver: Callable[..., list[str]]
) -> None:
    asked = resolver(vendor_example=[["127.0.0.1"], ["127.0.0.2"]])
    guard.allow("127.0.0.1")
    with build_client(guard=guard) as made:
        for _ in range(3):
            assert made.get(f"http://vendor.example:{vendor.port}/").text == "answered"
    assert len(asked) == 1


def test_https_is_guarded_before_the_handshake(guarded: httpx.Client) -> None:
    with Silent() as port:
        with pytest.raises(httpx.ConnectError, match="is an internal address"):
            guarded.get(f"https://localhost:{port.port}/")
        assert not port.was_visited


def test_a_client_without_a_guard_reaches_everything(vendor: Vendor) -> None:
    with build_client() as made:
        assert made.get(vendor.url).text == "answered"


# -- the process -------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("process_guard")
def test_the_shared_client_is_guarded_from_the_start_and_learns_what_is_installed_later(vendor: Vendor) -> None:
    shared = client()
    with pytest.raises(httpx.ConnectError, match="is an internal address"):
        shared.get(vendor.url)
    guards.install("", ["not a url", vendor.url])
    assert shared is client()
    assert shared.get(vendor.url).text == "answered"


@pytest.mark.usefixtures("process_guard")
def test_what_one_application_allows_stays_when_another_is_made(vendor: Vendor) -> None:
    guards.install("127.0.0.1", [])
    guards.install("10.0.0.0/8", ["http://ollama:11434"])
    assert client().get(vendor.url).text == "answered"


@pytest.mark.usefixtures("process_guard")
def test_a_wrong_setting_keeps_the_application_from_starting(vendor: Vendor) -> None:
    with pytest.raises(SetupError, match=r"'10\.0\.0\.0/99'"):
        guards.install("127.0.0.1,10.0.0.0/99", [vendor.url])
    with pytest.raises(httpx.ConnectError, match="is an internal address"):
        client().get(vendor.url)
