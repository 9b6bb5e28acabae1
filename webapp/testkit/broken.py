"""What a text provider promises when its vendor fails, lies, hangs, or never ends."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import httpx
import pytest

from webapp.plugin import (
    BadCredentials,
    ContextTooLong,
    Health,
    MalformedAnswer,
    OutOfCredit,
    ProviderError,
    RateLimited,
    RefusedByPolicy,
    Rejected,
    TextProvider,
    TimedOut,
    Unavailable,
)
from webapp.routing.http import call_limits
from webapp.testkit.asking import UNICODE, call, failure, run
from webapp.testkit.fakes.vendor import Trouble
from webapp.testkit.replay import mutations, record, replaying

KINDS: dict[Trouble, type[ProviderError]] = {
    Trouble.RATE_LIMITED: RateLimited,
    Trouble.OVERLOADED: Unavailable,
    Trouble.DOWN: Unavailable,
    Trouble.BAD_KEY: BadCredentials,
    Trouble.NO_CREDIT: OutOfCredit,
    Trouble.NO_MODEL: Rejected,
    Trouble.TOO_LONG: ContextTooLong,
    Trouble.POLICY: RefusedByPolicy,
    Trouble.BAD_REQUEST: Rejected,
}

STATUSES: list[tuple[int, type[ProviderError]]] = [
    (300, Rejected),
    (400, Rejected),
    (401, BadCredentials),
    (402, OutOfCredit),
    (403, BadCredentials),
    (404, Rejected),
    (408, TimedOut),
    (409, Unavailable),
    (413, ContextTooLong),
    (418, Rejected),
    (422, Rejected),
    (429, RateLimited),
    (451, RefusedByPolicy),
    (500, Unavailable),
    (502, Unavailable),
    (503, Unavailable),
    (504, TimedOut),
    (529, Unavailable),
]

WAITS: dict[str, float | None] = {
    "7": 7.0,
    "0.5": 0.5,
    "Wed, 21 Oct 2015 07:28:00 GMT": 0.0,
    "99999999": 86_400.0,
    "-5": None,
    "nan": None,
    "after lunch": None,
}

GARBAGE: dict[str, tuple[str, bytes]] = {
    "a page": ("text/html", b"<html><body>It works!</body></html>"),
    "nothing": ("application/json", b""),
    "null": ("application/json", b"null"),
    "a list": ("application/json", b"[1, 2]"),
    "half a document": ("application/json", b'{"choices": '),
    "another document": ("application/json", b'{"hello": 1}'),
    "a deep document": ("application/json", b"{" + b'"a":{' * 50_000),
    "deep lists": ("application/json", b"[" * 50_000),
    "no text at all": ("application/octet-stream", b"\xff\xfe\x00" * 99),
    "an endless line": ("text/event-stream", b"data: " + b"x" * 5_000_000),
    "an event that is no JSON": ("text/event-stream", b"data: {not json}\n\n"),
    "a named event that is no JSON": ("text/event-stream", b"event: error\ndata: dead\n\n"),
    "a stream's end alone": ("text/event-stream", b"data: [DONE]\n\n"),
    "a picture": ("image/png", b"\x89PNG\r\n\x1a\n" + b"\0" * 500),
    "a huge number": ("application/json", b'{"a": ' + b"9" * 5000 + b"}"),
}

ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "a line": (b"data: ", b"x" * 65_536),
    "a document": (b'{"a": "', b"x" * 65_536),
    "blanks": (b"", b" " * 65_536),
}
ELSEWHERE = ("http://169.254.169.254/latest/meta-data/", "//127.0.0.1:9/x", "file:///etc/passwd")
_ENDLESS_BYTES = 200 * 1024 * 1024
_READ_AT_MOST = 80 * 1024 * 1024

ECHOES = (
    b"bad key %b",
    b'{"error": {"message": "bad key %b", "type": "%b", "code": "%b", "status": "%b"}}',
    b'{"error": "bad key %b"}',
    b'{"detail": "bad key %b"}',
    b'{"type": "error", "error": {"type": "invalid_request_error", "message": "%b"}}',
)


class Failures:
    """How a vendor's failures are told. Needs the fixtures `fake`, `provider`, `http` and `fault`."""

    @pytest.mark.parametrize("trouble", list(Trouble), ids=lambda trouble: trouble.name.lower())
    def test_trouble_in_the_vendors_own_words_is_the_right_typed_error(
        self, provider: Any, fake: Any, http: httpx.Client, trouble: Trouble
    ) -> None:
        said = fake.trouble(trouble)
        if said is None:
            pytest.skip("its vendor has no such trouble")
        fake.faults.append(said)
        error = failure(provider, http, secrets=(fake.key,) if fake.key else ())
        assert type(error) is KINDS[trouble]
        asked = {name.lower(): value for name, value in said.headers.items()}
        if trouble is Trouble.RATE_LIMITED and asked.get("retry-after", "").isdigit():
            assert error.retry_after_s == float(asked["retry-after"])
        fake.faults.clear()
        assert run(provider, http).error is None, "the next call is harmed"

    @pytest.mark.parametrize("body", [b"", b"<html>Oops</html>", b"[" * 50_000, b"\xff" * 100_000, b'{"error": null}'])
    def test_a_status_without_words_is_the_right_typed_error(
        self, provider: Any, fake: Any, http: httpx.Client, fault: Any, body: bytes
    ) -> None:
        for status, expected in STATUSES:
            fake.faults += [fault(status=status, body=body)] * 3  # some try another address before they give up
            error = failure(provider, http)
            assert (type(error), error.status) == (expected, status)
            fake.faults.clear()

    @pytest.mark.parametrize("status", [400, 401, 429, 500, 200])
    def test_a_key_that_the_vendor_echoes_reaches_no_error(
        self, provider: Any, fake: Any, http: httpx.Client, fault: Any, status: int
    ) -> None:
        for echo in ECHOES:
            said = echo.replace(b"%b", fake.key.encode())
            fake.faults.append(fault(status=status, body=said))
            failure(provider, http, secrets=(fake.key,))
            if status == 200:
                fake.faults.append(
                    fault(status=200, headers={"Content-Type": "text/event-stream"}, body=b"data: %b\n\n" % said)
                )
                failure(provider, http, secrets=(fake.key,))

    def test_the_wait_that_a_vendor_asks_for_is_passed_on(
        self, provider: Any, fake: Any, http: httpx.Client, fault: Any
    ) -> None:
        for value, seconds in WAITS.items():
            fake.faults.append(fault(status=429, headers={"Retry-After": value}))
            assert failure(provider, http).retry_after_s == seconds, value

    def test_another_address_is_not_followed(
        self, provider: Any, fake: Any, http: httpx.Client, fault: Any, elsewhere: Any
    ) -> None:
        for status in (301, 302, 303, 307, 308):
            for place in (elsewhere.url + "/steal", *ELSEWHERE):
                fake.faults.append(fault(status=status, headers={"Location": place}))
                assert type(failure(provider, http)) is Rejected
        assert elsewhere.requests == []

    @pytest.mark.parametrize("what", ["drop", "garbage", "hang"])
    def test_a_connection_that_breaks_or_says_nothing_is_a_typed_error(
        self, provider: Any, fake: Any, http: httpx.Client, fault: Any, what: str
    ) -> None:
        made, kind = {
            "drop": (fault(drop=True), Unavailable),
            "garbage": (fault(garbage=b"\x00\x01 this is not HTTP\r\n\r\n"), MalformedAnswer),
            "hang": (fault(hang=True), TimedOut),
        }[what]
        fake.faults.append(made)
        assert type(failure(provider, http, silence_s=0.15 if what == "hang" else 5)) is kind

    def test_nobody_listening_is_unavailable_and_a_look_says_so(self, provider: Any, fake: Any, http: httpx.Client) -> None:
        fake.stop()
        assert type(failure(provider, http)) is Unavailable
        health = provider.check(http)
        assert not health.ok
        assert health.detail
        assert health.cure
        with contextlib.suppress(ProviderError):
            assert isinstance(provider.models(http), list)  # some vendors' models are known without asking

    @pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"data": 5, "models": 5}', b"[" * 99_999, b"\xff\xfe"])
    def test_a_look_at_a_broken_vendor_raises_nothing(
        self, provider: Any, fake: Any, http: httpx.Client, fault: Any, body: bytes
    ) -> None:
        for status in (200, 401, 500):
            fake.faults += [fault(status=status, body=body) for _ in range(9)]
            health = provider.check(http)
            assert isinstance(health, Health)
            assert health.ok is False or status == 200
            assert health.ok or health.cure
            with contextlib.suppress(ProviderError):
                assert isinstance(provider.models(http), list)
            fake.faults.clear()


class BrokenAnswers:
    """Answers that are spoilt in every way. Needs the fixtures `fake`, `provider`, `http` and `fault`."""

    def test_garbage_is_malformed(self, provider: TextProvider, fake: Any, http: httpx.Client, fault: Any) -> None:
        for name, (kind, body) in GARBAGE.items():
            fake.faults.append(fault(status=200, headers={"Content-Type": kind}, body=body))
            error = failure(provider, http)
            assert type(error) is MalformedAnswer, f"{name}: {error!r}"

    def test_a_wrong_content_type_is_read_or_is_a_typed_error(
        self, provider: TextProvider, fake: Any, http: httpx.Client, fault: Any
    ) -> None:
        for kind in ("text/plain", "application/json", "text/event-stream; charset=iso-8859-1", "", "nonsense/;;"):
            fake.faults.append(fault(headers={"Content-Type": kind}))
            outcome = run(provider, http, call())
            assert outcome.text == fake.text or type(outcome.error) in (MalformedAnswer, Rejected)

    def test_an_answer_cut_at_any_byte_is_whole_or_malformed_and_never_a_short_answer(
        self, provider: TextProvider, fake: Any, http: httpx.Client
    ) -> None:
        fake.text = "Grüße, 世界! 👩‍🚀"
        kept = record(provider, http, call())
        whole = kept[-1].body
        for position in range(len(whole)):
            for broken in (True, False):
                with replaying(kept, [whole[:position]], broken=broken) as cut:
                    outcome = run(provider, cut, call())
                if outcome.error is None:
                    assert outcome.text == fake.text, f"a short answer without an error, cut at byte {position}"
                else:
                    assert isinstance(outcome.error, MalformedAnswer | Unavailable), (position, outcome.error)
                    assert fake.text.startswith(outcome.text)

    def test_a_connection_cut_in_the_middle_of_an_answer_is_malformed(
        self, provider: TextProvider, fake: Any, http: httpx.Client, fault: Any
    ) -> None:
        fake.text = UNICODE
        half = len(fake.good_stream(UNICODE)) // 2
        for position in (1, half // 3, half):
            fake.faults.append(fault(cut_after_bytes=position))
            assert isinstance(failure(provider, http), MalformedAnswer | Unavailable)

    def test_characters_cut_between_packets_arrive_whole(self, provider: TextProvider, fake: Any, http: httpx.Client) -> None:
        fake.text = UNICODE
        kept = record(provider, http, call())
        whole = kept[-1].body
        for position in range(len(whole)):
            with replaying(kept, [whole[:position], whole[position:]]) as split:
                assert run(provider, split, call()).text == UNICODE, f"split at byte {position}"
        for size in (1, 2, 3, 7):
            edges = [*range(0, len(whole), size), len(whole)]
            with replaying(kept, [whole[a:b] for a, b in pairwise(edges)]) as split:
                assert run(provider, split, call()).text == UNICODE

    def test_lines_may_end_in_either_way(self, provider: TextProvider, fake: Any, http: httpx.Client) -> None:
        kept = record(provider, http, call())
        with replaying(kept, [kept[-1].body.replace(b"\n", b"\r\n")]) as split:
            assert run(provider, split, call()).text == fake.text

    def test_any_json_in_any_place_is_an_answer_or_a_typed_error(
        self, provider: TextProvider, fake: Any, http: httpx.Client
    ) -> None:
        fake.text = "one two"
        kept = record(provider, http, call())
        tried = 0
        for body in mutations(kept[-1].body):
            tried += 1
            with replaying(kept, [body]) as odd:
                run(provider, odd, call())
        assert tried > 50

    @pytest.mark.parametrize("name", ENDLESS)
    def test_an_endless_answer_is_given_up_before_it_fills_the_memory(
        self, provider: TextProvider, fake: Any, http: httpx.Client, name: str
    ) -> None:
        start, piece = ENDLESS[name]
        given = 0

        def endless() -> Iterator[bytes]:
            nonlocal given
            yield start
            while given < _ENDLESS_BYTES:
                given += len(piece)
                yield piece

        fake.script = endless
        assert type(failure(provider, http)) is MalformedAnswer
        fake.wait_until(lambda: fake.abandoned, 5)
        assert given < _READ_AT_MOST

    def test_silence_in_the_middle_of_an_answer_is_a_time_out(
        self, provider: TextProvider, fake: Any, http: httpx.Client
    ) -> None:
        whole = fake.good_stream("one two three four")

        def pausing() -> Iterator[bytes]:
            yield whole[: whole.index(b"three")]
            fake.stopping.wait(10)

        fake.script = pausing
        assert type(failure(provider, http, silence_s=0.15)) is TimedOut

    def test_a_slow_drip_does_not_keep_a_call_beyond_its_deadline(
        self, provider: TextProvider, fake: Any, http: httpx.Client
    ) -> None:
        def dripping() -> Iterator[bytes]:
            while not fake.stopping.wait(0.02):
                yield b"\n"

        fake.script = dripping
        started = time.monotonic()
        with call_limits(0.3, 5), pytest.raises(TimedOut):
            list(provider.stream(call(), http))
        assert time.monotonic() - started < 3
