"""How the Anthropic provider reads answers and errors: against a fake, and against bytes of every kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.providers.anthropic import Anthropic
from plugins.providers.anthropic.answer import Answer
from tests.fakes.anthropic import FakeAnthropic, error_body, event, text_delta
from tests.fakes.server import Fault
from tests.fakes.vendor import KEY, Trouble
from webapp.plugin import (
    BadCredentials,
    ContextTooLong,
    Finish,
    MalformedAnswer,
    OutOfCredit,
    ProviderError,
    RateLimited,
    RefusedByPolicy,
    Rejected,
    Role,
    Text,
    TextCall,
    TimedOut,
    Turn,
    Unavailable,
    Usage,
)
from webapp.routing.http import build_client, call_limits

UNICODE = "Grüße, 世界! 👩‍🚀 naïve — ok"
ASKED = TextCall("r", "claude-haiku-5-5", (Turn(Role.USER, "hi"),), max_output_tokens=9, timeout_s=9.0)


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with build_client() as client:
        yield client


@pytest.fixture
def vendor(http: httpx.Client) -> Iterator[FakeAnthropic]:
    with FakeAnthropic() as fake:
        yield fake


@pytest.fixture
def anthropic(vendor: FakeAnthropic) -> Anthropic:
    return Anthropic(vendor.settings)


def answer(found: Anthropic, http: httpx.Client, asked: TextCall = ASKED) -> tuple[str, Usage]:
    with call_limits(20, 10):
        *pieces, usage = found.stream(asked, http)
    assert isinstance(usage, Usage)
    assert all(isinstance(piece, Text) and piece.text for piece in pieces)
    return "".join(piece.text for piece in pieces if isinstance(piece, Text)), usage


def failure(found: Anthropic, http: httpx.Client, silence_s: float = 5.0) -> ProviderError:
    """The typed error a call ends in; it never holds the key."""
    with call_limits(8, silence_s), pytest.raises(ProviderError) as raised:
        list(found.stream(ASKED, http))
    error = raised.value
    assert error.message
    assert KEY not in f"{error.message} {error.detail} {error!r} {error.__cause__!r}"
    assert len(error.detail) <= 500
    return error


# -- what comes back -------------------------------------------------------------------------------------------------
def test_cached_tokens_are_counted_inside_the_input(anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client) -> None:
    vendor.cached_tokens, vendor.cache_write_tokens, vendor.reasoning_tokens = 100, 30, 7
    text, usage = answer(anthropic, http)
    [told] = vendor.reported
    assert text == vendor.text
    assert "Hidden" not in text
    assert (usage.input_tokens, usage.output_tokens) == (told.input_tokens, told.output_tokens) == (131, 8 + 7)
    assert (usage.cached_tokens, usage.cache_write_tokens, usage.reasoning_tokens) == (100, 30, 7)
    assert (usage.model, usage.vendor_request_id, usage.finish) == ("claude-haiku-5-5", "req_0001", Finish.STOP)


def whole(content: object, **more: object) -> bytes:
    return json.dumps({"type": "message", "id": "msg_1", "model": "m", "role": "assistant", "content": content} | more).encode()


@pytest.mark.parametrize("first", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_a_gateway_that_does_not_stream_is_understood(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client, first: bytes
) -> None:
    blocks = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Grüße, "}, {"type": "text", "text": "世界!"}]
    told = {"input_tokens": 3, "cache_read_input_tokens": 4, "output_tokens": 5}
    body = first + whole(blocks, stop_reason="max_tokens", usage=told)
    vendor.faults.append(Fault(status=200, body=body))
    text, usage = answer(anthropic, http)
    assert text == "Grüße, 世界!"
    assert usage == Usage(7, 5, cached_tokens=4, finish=Finish.LENGTH, model="m", vendor_request_id="msg_1")


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end_turn", Finish.STOP),
        ("stop_sequence", Finish.STOP),
        ("max_tokens", Finish.LENGTH),
        ("model_context_window_exceeded", Finish.LENGTH),
        ("tool_use", Finish.TOOL),
        ("pause_turn", Finish.PAUSED),
        ("refusal", Finish.FILTERED),
        ("something_new", Finish.UNKNOWN),
    ],
)
def test_the_reason_for_the_end_is_told_in_our_words(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client, reason: str, expected: Finish
) -> None:
    vendor.finish = reason
    text, usage = answer(anthropic, http)
    assert (text, usage.finish) == (vendor.text, expected)


@pytest.mark.parametrize(
    ("reason", "kind", "hint"),
    [
        ("refusal", RefusedByPolicy, "general_harms: This could do harm."),
        ("model_context_window_exceeded", ContextTooLong, ""),
        ("max_tokens", MalformedAnswer, "thinking"),
        ("tool_use", MalformedAnswer, ""),
        ("pause_turn", MalformedAnswer, "pause_turn"),
        ("end_turn", MalformedAnswer, "end_turn"),
    ],
)
def test_an_answer_without_text_is_a_typed_error_with_what_it_cost(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client, reason: str, kind: type[ProviderError], hint: str
) -> None:
    vendor.text, vendor.finish, vendor.reasoning_tokens, vendor.cached_tokens = "", reason, 6, 2
    error = failure(anthropic, http)
    assert type(error) is kind
    assert hint in error.detail
    assert error.usage is not None
    assert (error.usage.input_tokens, error.usage.output_tokens, error.usage.reasoning_tokens) == (3, 6, 6)
    assert error.usage.vendor_request_id == "req_0001"


def start(**usage: Any) -> bytes:
    return event({"type": "message_start", "message": {"id": "msg_1", "model": "m", "usage": usage}})


def ending(reason: str | None = "end_turn", **usage: Any) -> bytes:
    return event({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage})


STOP = event({"type": "message_stop"})
HELLO = text_delta("hello")
END = ending() + STOP


@pytest.mark.parametrize(
    ("first", "last", "understood"),
    [
        ({"input_tokens": 10, "output_tokens": 1}, {"output_tokens": 5}, (10, 5, 0, 0, 0)),
        ({"input_tokens": 10, "output_tokens": 1}, {}, (10, None, 0, 0, 0)),
        ({"input_tokens": 10}, {"input_tokens": 12, "output_tokens": 5}, (12, 5, 0, 0, 0)),
        ({"input_tokens": 10}, {"input_tokens": None, "output_tokens": 0}, (10, 0, 0, 0, 0)),
        ({"input_tokens": 10, "cache_read_input_tokens": 4}, {"cache_creation_input_tokens": 2}, (16, None, 4, 2, 0)),
        ({"input_tokens": 10, "cache_read_input_tokens": None}, {}, (10, None, 0, 0, 0)),
        ({"input_tokens": 10, "cache_read_input_tokens": -4}, {}, (None, None, 0, 0, 0)),
        ({"input_tokens": 10, "cache_creation_input_tokens": "2"}, {}, (None, None, 0, 0, 0)),
        ({"cache_read_input_tokens": 4}, {}, (None, None, 0, 0, 0)),
        ({"input_tokens": -1}, {"output_tokens": 10**15}, (None, None, 0, 0, 0)),
        ({"input_tokens": 10**9, "cache_read_input_tokens": 1}, {}, (None, None, 0, 0, 0)),
        ({"input_tokens": True}, {"output_tokens": [7]}, (None, None, 0, 0, 0)),
        ({}, {"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 6}}, (None, 9, 0, 0, 6)),
        ({}, {"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 60}}, (None, 9, 0, 0, 0)),
        ({}, {"output_tokens": 9, "output_tokens_details": 3}, (None, 9, 0, 0, 0)),
    ],
)
def test_token_counts_that_cannot_be_are_unknown(
    first: dict[str, Any], last: dict[str, Any], understood: tuple[int | None, ...]
) -> None:
    *_, usage = Answer("Fake").read([start(**first) + HELLO + ending(**last) + STOP])
    assert isinstance(usage, Usage)
    found = (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.cache_write_tokens, usage.reasoning_tokens)
    assert found == understood


GOOD_STREAMS: dict[str, Callable[[], bytes]] = {
    "as documented": lambda: start() + HELLO + END,
    "text in the start of a block": lambda: (
        event({"type": "content_block_start", "content_block": {"type": "text", "text": "hel"}}) + text_delta("lo") + END
    ),
    "every kind of delta": lambda: b"".join(
        [event({"type": "content_block_delta", "index": 0, "delta": {"type": kind, kind[:-6]: "x", "partial_json": "{"}})
         for kind in ("thinking_delta", "signature_delta", "input_json_delta", "citations_delta", "future_delta")]
    ) + HELLO + END,
    "thinking and tool blocks": lambda: b"".join(
        event({"type": "content_block_start", "content_block": {"type": kind, "text": "x", "thinking": "x"}})
        for kind in ("thinking", "redacted_thinking", "tool_use", "server_tool_use")
    ) + HELLO + END,
    "pings": lambda: event({"type": "ping"}) + HELLO + b"event: ping\ndata: pong\n\n" + event({"type": "ping"}) + END,
    "unknown events": lambda: event({"type": "brand_new", "text": "x"}) + b"event: x\ndata: {oops\n\n" + HELLO + END,
    "unknown fields": lambda: HELLO.replace(b'"index"', b'"new": [1, {}], "index"') + END,
    "comments, ids and CRLF": lambda: (b": hi\n\nid: 1\nretry: 5\n" + HELLO + END).replace(b"\n", b"\r\n"),
    "no event names": lambda: b"\n".join(ln for ln in (HELLO + END).split(b"\n") if not ln.startswith(b"event:")),
    "no types": lambda: b'event: content_block_delta\ndata: {"delta": {"type": "text_delta", "text": "hello"}}\n\n' + END,
    "byte order mark": lambda: b"\xef\xbb\xbf" + HELLO + END,
    "no last empty line": lambda: (HELLO + END).rstrip(b"\n"),
    "closes after the stop reason": lambda: HELLO + ending(),
    "no stop reason": lambda: HELLO + ending(None) + STOP,
    "OpenAI's end marker": lambda: HELLO + END + b"data: [DONE]\n\n",
    "another end marker in the middle": lambda: HELLO + b"data: [DONE]\n\n" + END,
    "after the end": lambda: HELLO + END + text_delta("ignored") + b"event: error\ndata: {}\n\n",
    "control characters": lambda: text_delta("he\x00l\x1blo") + END,
    "empty pieces": lambda: text_delta("") + HELLO + text_delta("") + END,
    "garbage in places that do not matter": lambda: (
        event({"type": "message_start", "message": 3}) + event({"type": "content_block_start", "content_block": [1]})
        + event({"type": "content_block_delta", "delta": None}) + text_delta("hello").replace(b'"index": 0', b'"index": {}')
        + event({"type": "content_block_delta", "delta": {"type": "text_delta", "text": 5}}) + b"data: null\n\n"
        + b"data: [1]\n\n" + event({"type": "message_delta", "delta": 7, "usage": [1]}) + END
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD_STREAMS)
def test_an_odd_but_readable_stream_is_read(anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client, name: str) -> None:
    vendor.script = lambda: iter([GOOD_STREAMS[name]()])
    text, usage = answer(anthropic, http)
    assert text == "hello"
    assert (usage.input_tokens, usage.output_tokens) == (None, None)


def failed(kind: str, message: str = "Overloaded", code: str = "") -> bytes:
    return event(error_body(kind, message, code))


BAD_STREAMS: list[tuple[bytes, type[ProviderError]]] = [
    (HELLO + b"event: content_block_delta\ndata: {not json}\n\n" + END, MalformedAnswer),
    (HELLO + b"data: {not json}\n\n" + END, MalformedAnswer),
    (HELLO + b"data: " + b"[" * 99_999 + b"\n\n" + END, MalformedAnswer),
    (HELLO, MalformedAnswer),
    (HELLO + b"data: [DONE]\n\n", MalformedAnswer),
    (END, MalformedAnswer),
    (text_delta(" \n ") + END, MalformedAnswer),
    (b"\n" * 200_000, MalformedAnswer),
    (HELLO + b"event: error\ndata: dead\n\n", MalformedAnswer),
    (HELLO + failed("overloaded_error") + END, Unavailable),
    (failed("overloaded_error"), Unavailable),
    (HELLO + failed("api_error"), Unavailable),
    (HELLO + failed("conflict_error"), Unavailable),
    (HELLO + failed("brand_new_error", "What?"), Unavailable),
    (HELLO + failed("timeout_error"), TimedOut),
    (HELLO + failed("rate_limit_error"), RateLimited),
    (HELLO + failed("rate_limit_error", "pay", "enforced_spend_limit_reached"), OutOfCredit),
    (HELLO + failed("billing_error", "pay"), OutOfCredit),
    (HELLO + failed("authentication_error", f"bad key {KEY}"), BadCredentials),
    (HELLO + failed("permission_error", "no"), BadCredentials),
    (HELLO + failed("not_found_error", "model: x"), Rejected),
    (HELLO + failed("invalid_request_error", "what?"), Rejected),
    (HELLO + failed("invalid_request_error", "Output blocked by content filtering policy"), RefusedByPolicy),
    (HELLO + failed("request_too_large", "big"), ContextTooLong),
    (HELLO + failed("new_error", "prompt is too long: 5 tokens > 4 maximum"), ContextTooLong),
    (HELLO + b'event: error\ndata: {"message": "boom", "type": "overloaded_error"}\n\n', Unavailable),
    (HELLO + b'data: {"error": "boom"}\n\n', Unavailable),
]  # fmt: skip


@pytest.mark.parametrize(("stream", "kind"), BAD_STREAMS)
def test_a_stream_that_goes_wrong_is_the_right_typed_error_with_what_it_cost(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client, stream: bytes, kind: type[ProviderError]
) -> None:
    vendor.script = lambda: iter([start(input_tokens=3, cache_read_input_tokens=4, output_tokens=1) + stream])
    error = failure(anthropic, http)
    assert type(error) is kind
    assert error.status is None
    assert error.usage is not None
    assert (error.usage.input_tokens, error.usage.output_tokens, error.usage.cached_tokens) == (7, None, 4)


WHOLE_BODIES: list[tuple[bytes, type[ProviderError]]] = [
    (json.dumps(error_body("overloaded_error", "Overloaded")).encode(), Unavailable),
    (json.dumps(error_body("rate_limit_error", "slow")).encode(), RateLimited),
    (b'{"error": "unauthorized"}', BadCredentials),
    (b'{"type": "error"}', Unavailable),
    (whole([]), MalformedAnswer),
    (whole([], stop_reason="refusal"), RefusedByPolicy),
    (whole([{"type": "thinking"}], stop_reason="max_tokens"), MalformedAnswer),
    (whole([None, 3, {"type": "text", "text": 4}]), MalformedAnswer),
    (whole("hello"), MalformedAnswer),
    (b"", MalformedAnswer),
    (b"null", MalformedAnswer),
    (b"[1, 2]", MalformedAnswer),
    (b'{"content": ', MalformedAnswer),
    (b'{"hello": 1}', MalformedAnswer),
    (b"{" + b'"a":{' * 50_000, MalformedAnswer),
    (b"\xff\xfe\x00" * 99, MalformedAnswer),
    (b"data: " + b"x" * 5_000_000, MalformedAnswer),
    (b"<html><body>It works!</body></html>", MalformedAnswer),
]


@pytest.mark.parametrize(("body", "kind"), WHOLE_BODIES)
def test_a_success_that_is_none_is_the_right_typed_error(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client, body: bytes, kind: type[ProviderError]
) -> None:
    vendor.faults.append(Fault(status=200, body=body))
    assert type(failure(anthropic, http)) is kind


def error_fault(status: int, kind: str, message: str = "no", code: str = "") -> Fault:
    return Fault(status=status, body=json.dumps(error_body(kind, message, code)).encode())


STATUSES: list[tuple[Fault, type[ProviderError]]] = [
    (Fault(status=302, headers={"Location": "/elsewhere"}), Rejected),
    (error_fault(400, "invalid_request_error", "what is this?"), Rejected),
    (error_fault(400, "invalid_request_error", "prompt is too long: 200001 tokens > 200000 maximum"), ContextTooLong),
    (error_fault(400, "invalid_request_error", "Output blocked by content filtering policy"), RefusedByPolicy),
    (error_fault(400, "invalid_request_error", "Your credit balance is too low to access the API."), OutOfCredit),
    (error_fault(400, "invalid_request_error", "You have reached your specified API usage limits."), OutOfCredit),
    (error_fault(401, "authentication_error", f"invalid x-api-key {KEY}"), BadCredentials),
    (error_fault(402, "billing_error"), OutOfCredit),
    (error_fault(403, "permission_error"), BadCredentials),
    (error_fault(404, "not_found_error", "model: claude-none"), Rejected),
    (error_fault(409, "conflict_error"), Unavailable),
    (error_fault(413, "request_too_large"), ContextTooLong),
    (error_fault(429, "rate_limit_error"), RateLimited),
    (error_fault(429, "rate_limit_error", code="ramp_limit_exceeded"), RateLimited),
    (error_fault(429, "rate_limit_error", code="enforced_spend_limit_reached"), OutOfCredit),
    (error_fault(429, "rate_limit_error", code="contract_spend_limit_reached"), OutOfCredit),
    (error_fault(500, "api_error"), Unavailable),
    (error_fault(504, "timeout_error"), TimedOut),
    (error_fault(529, "overloaded_error"), Unavailable),
    (Fault(status=400, body=b""), Rejected),
    (Fault(status=400, body=b"[" * 50_000), Rejected),
    (Fault(status=400, body=b"\xff\xfe<html>" * 20_000), Rejected),
    (Fault(status=400, body=b'{"error": {"message": {}, "type": 3, "details": [1]}, "request_id": {}}'), Rejected),
    (Fault(status=502, body=b"<html>Bad Gateway</html>"), Unavailable),
    (Fault(status=500, body=b"x" * 1000, cut_after_bytes=10), Unavailable),
]


@pytest.mark.parametrize(("fault", "kind"), STATUSES)
def test_a_failing_status_is_the_right_typed_error(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client, fault: Fault, kind: type[ProviderError]
) -> None:
    vendor.faults.append(fault)
    error = failure(anthropic, http)
    assert type(error) is kind
    assert error.status == fault.status
    assert len(vendor.requests) == 1


def test_an_error_tells_operators_the_vendors_words_and_the_wait_it_asks_for(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client
) -> None:
    fault = vendor.trouble(Trouble.RATE_LIMITED)
    assert fault is not None
    vendor.faults.append(fault)
    error = failure(anthropic, http)
    assert error.retry_after_s == 7
    assert error.detail == "[req_trouble] rate_limit_error Number of request tokens has exceeded your rate limit."


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(drop=True), Unavailable),
        (Fault(garbage=b"\x00\x01 this is not HTTP\r\n\r\n"), MalformedAnswer),
        (Fault(hang=True), TimedOut),
    ],
)
def test_a_broken_connection_is_the_right_typed_error(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client, fault: Fault, kind: type[ProviderError]
) -> None:
    vendor.faults.append(fault)
    assert type(failure(anthropic, http, silence_s=0.15 if fault.hang else 5)) is kind


def test_a_connection_that_breaks_after_the_stop_reason_has_brought_the_whole_answer(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client
) -> None:
    whole_stream = vendor.good_stream(vendor.text)
    for behind in (0, 20):
        vendor.faults.append(Fault(cut_after_bytes=whole_stream.index(b"event: message_stop") + behind))
        text, usage = answer(anthropic, http, replace(ASKED, model=vendor.model))
        assert (text, usage.output_tokens) == (vendor.text, len(vendor.text.split()))


def test_an_answer_of_blanks_without_end_is_given_up(anthropic: Anthropic) -> None:
    taken = 0

    def blanks() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(10_000):
            taken += 1
            yield b" " * 1000

    with pytest.raises(MalformedAnswer):
        list(Answer(anthropic.label).read(blanks()))
    assert taken < 100


def test_a_connection_that_breaks_in_the_middle_still_tells_what_was_counted(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client
) -> None:
    vendor.faults.append(Fault(cut_after_bytes=len(vendor.good_stream(vendor.text)) // 2))
    error = failure(anthropic, http)
    assert type(error) is MalformedAnswer
    assert error.usage is not None
    assert (error.usage.input_tokens, error.usage.output_tokens) == (1, None)


def test_hanging_up_in_the_middle_ends_the_call_at_the_vendor(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client
) -> None:
    def endless() -> Iterator[bytes]:
        while not vendor.stopping.wait(0.005):
            yield text_delta("word ")

    vendor.script = endless
    stream = anthropic.stream(ASKED, http)
    assert next(stream) == Text("word ")
    stream.close()  # type: ignore[attr-defined]
    vendor.wait_until(lambda: len(vendor.abandoned) == 1)


# -- bytes -----------------------------------------------------------------------------------------------------------
def good_stream() -> bytes:
    fake = FakeAnthropic()
    fake.cached_tokens, fake.reasoning_tokens = 5, 2
    stream = fake.good_stream(UNICODE)
    fake.stop()
    return stream


GOOD = good_stream()


def read(packets: list[bytes], pieces: list[str]) -> Usage:
    """Reads into `pieces`, so that what came before an error can be looked at."""
    for piece in Answer("Fake").read(packets):
        if isinstance(piece, Usage):
            return piece
        pieces.append(piece.text)
    raise AssertionError("no usage")


def test_a_stream_cut_at_any_byte_is_malformed_or_whole_but_never_a_short_answer() -> None:
    final = GOOD.index(b"\n\nevent: message_stop")
    counted = GOOD.index(b"\n\nevent: content_block_start")
    for position in range(len(GOOD) + 1):
        pieces: list[str] = []
        if position < final:
            with pytest.raises(MalformedAnswer) as raised:
                read([GOOD[:position]], pieces)
            assert UNICODE.startswith("".join(pieces))
            usage = raised.value.usage
            assert (usage.input_tokens if usage else None) == (9 if position >= counted else None)
        else:
            usage = read([GOOD[:position]], pieces)
            assert "".join(pieces) == UNICODE
            assert (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens) == (4 + 5, len(UNICODE.split()) + 2, 2)


def test_a_connection_cut_at_any_byte_is_malformed_or_whole(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client
) -> None:
    vendor.text = UNICODE
    for position in range(1, len(vendor.good_stream(UNICODE)), 17):
        vendor.faults.append(Fault(cut_after_bytes=position))
        pieces: list[str] = []
        try:
            for piece in anthropic.stream(ASKED, http):
                pieces += [piece.text] if isinstance(piece, Text) else []
        except MalformedAnswer:
            assert UNICODE.startswith("".join(pieces))
            continue
        assert "".join(pieces) == UNICODE


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(0, len(GOOD)), max_size=12))
def test_a_stream_reads_the_same_however_it_is_cut_into_packets(cuts: list[int]) -> None:
    pieces: list[str] = []
    usage = read([GOOD[a:b] for a, b in pairwise([0, *sorted(cuts), len(GOOD)])], pieces)
    assert "".join(pieces) == UNICODE
    assert usage.cached_tokens == 5


def test_characters_cut_between_packets_of_one_byte_arrive_whole() -> None:
    pieces: list[str] = []
    read([bytes([byte]) for byte in GOOD], pieces)
    assert "".join(pieces) == UNICODE


@settings(deadline=None, max_examples=200)
@given(st.lists(st.binary(max_size=60) | st.sampled_from([GOOD[:300], HELLO, END, b"data: ", b"\n\n", b"{", STOP])))
def test_any_bytes_are_an_answer_or_a_typed_error(packets: list[bytes]) -> None:
    pieces: list[str] = []
    try:
        read(packets, pieces)
    except ProviderError:
        return
    assert "".join(pieces).strip()


NAMES = ["type", "message", "content", "content_block", "delta", "text", "usage", "input_tokens", "output_tokens"]
NAMES += ["stop_reason", "stop_details", "category", "error", "details", "error_code", "cache_read_input_tokens"]
KINDS = ["message_start", "content_block_start", "content_block_delta", "message_delta", "message_stop", "error", "text"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([*KINDS, "text_delta"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=20,
)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(KINDS), json_values), max_size=4), st.booleans())
def test_any_json_is_an_answer_or_a_typed_error(values: list[tuple[str, object]], streamed: bool) -> None:
    packets = [f"event: {name}\ndata: {json.dumps(value)}\n\n".encode() for name, value in values]
    if not streamed:
        packets = [json.dumps(value).encode() for _, value in values[:1]]
    try:
        usage = read([*packets, END] if streamed else packets, [])
    except ProviderError:
        return
    assert usage.input_tokens is None or usage.input_tokens >= 0
