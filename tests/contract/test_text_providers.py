"""What every text provider promises, held against every built-in one; vendors are fakes that fail in every way listed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import httpx
import pytest

from plugins.providers import demo, openai_compatible
from plugins.providers.openai_compatible.rows import ROWS
from tests.fakes.openai import FakeOpenAI, event, text_chunk
from tests.fakes.server import Fault
from webapp.plugin import (
    BadCredentials,
    ContextTooLong,
    Finish,
    Health,
    MalformedAnswer,
    OutOfCredit,
    ProviderError,
    RateLimited,
    RefusedByPolicy,
    Rejected,
    Role,
    Text,
    TextCall,
    TextProvider,
    TimedOut,
    Turn,
    Unavailable,
    Usage,
)
from webapp.routing.http import build_client, call_limits

KEY = "sk-test-0123456789abcdef"
COMPATIBLE = [row.name for row in ROWS]
EVERYONE = ["demo", *COMPATIBLE]
UNICODE = "Grüße, 世界! 👩‍🚀 naïve — ok"


def settings_for(vendor: FakeOpenAI) -> dict[str, str]:
    """Every row's variables, pointed at the fake."""
    found = {"SWITCHHOOK_DEMO_DELAY_MS": "0"}
    for row in ROWS:
        found[row.key_variable] = KEY
        found[row.base_url_variable] = vendor.url if row.name == "ollama" else f"{vendor.url}/v1"
        found[row.model_variable] = "fake-model"
    return found


def providers(settings: dict[str, str]) -> dict[str, TextProvider]:
    given = [*demo.register_providers(settings), *openai_compatible.register_providers(settings)]
    return {provider.name: provider for provider in given}


def call(text: str = "Say hello to me", **changes: object) -> TextCall:
    turns = (Turn(Role.SYSTEM, "Be brief."), Turn(Role.USER, text))
    values = {"request_id": "r1", "model": "fake-model", "turns": turns, "max_output_tokens": 200, "timeout_s": 20.0}
    return TextCall(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with build_client() as client:
        yield client


@pytest.fixture
def vendor(http: httpx.Client) -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as fake:
        fake.key = KEY
        yield fake


@pytest.fixture(params=EVERYONE)
def provider(request: pytest.FixtureRequest, vendor: FakeOpenAI) -> TextProvider:
    return providers(settings_for(vendor))[request.param]


@pytest.fixture(params=COMPATIBLE)
def remote(request: pytest.FixtureRequest, vendor: FakeOpenAI) -> TextProvider:
    return providers(settings_for(vendor))[request.param]


@pytest.fixture
def openai(vendor: FakeOpenAI) -> TextProvider:
    return providers(settings_for(vendor))["openai"]


def answer(provider: TextProvider, http: httpx.Client, **changes: object) -> tuple[str, Usage]:
    """A whole answer; asserts the shape that every provider promises."""
    with call_limits(20, 10), closing(provider.stream(call(**changes), http)) as stream:  # type: ignore[arg-type, type-var]
        *pieces, usage = stream
    assert pieces
    assert all(isinstance(piece, Text) and piece.text for piece in pieces)
    assert isinstance(usage, Usage)
    return "".join(piece.text for piece in pieces if isinstance(piece, Text)), usage


def failure(provider: TextProvider, http: httpx.Client, silence_s: float = 5.0) -> ProviderError:
    """The typed error a call ends in: any other exception fails the test, and so does a call that hangs."""
    started = time.monotonic()
    with call_limits(8, silence_s), pytest.raises(ProviderError) as raised:
        list(provider.stream(call(), http))
    assert time.monotonic() - started < 8
    error = raised.value
    assert error.message
    assert KEY not in f"{error.message} {error.detail} {error!r} {error.__cause__!r}"
    assert len(error.detail) <= 500
    return error


# -- every provider --------------------------------------------------------------------------------------------------
def test_it_says_who_it_is_and_which_variables_it_reads(provider: TextProvider) -> None:
    assert provider.name == provider.name.lower()
    assert "/" not in provider.name
    assert provider.label
    assert isinstance(provider.preference, int)
    for variable in provider.environment:
        assert variable.name.isupper()
        assert variable.meaning.endswith(".")
        assert variable.secret == variable.name.endswith("_KEY")


def test_it_is_ready_when_its_variables_are_set_and_says_so_without_a_call(provider: TextProvider, vendor: FakeOpenAI) -> None:
    assert provider.missing() == ""
    assert vendor.requests == []


def test_text_pieces_come_first_and_then_exactly_one_usage(provider: TextProvider, http: httpx.Client) -> None:
    text, usage = answer(provider, http)
    assert text.strip()
    assert usage.finish is Finish.STOP
    assert usage.output_tokens == len(text.split())
    assert usage.input_tokens == 2 + 4
    assert usage.model
    assert usage.vendor_request_id


def test_the_same_call_twice_gives_the_same_pieces_here(provider: TextProvider, http: httpx.Client) -> None:
    assert answer(provider, http)[0] == answer(provider, http)[0]


def test_a_cheap_look_is_healthy_and_costs_no_call(provider: TextProvider, vendor: FakeOpenAI, http: httpx.Client) -> None:
    health = provider.check(http)
    assert health.ok, health
    assert health.detail
    assert vendor.calls == []


def test_a_provider_that_lacks_its_settings_names_the_variable_and_checks_as_not_ok(http: httpx.Client) -> None:
    bare = providers({})
    lacking = {name for name, found in bare.items() if found.missing()}
    assert lacking == set(COMPATIBLE) - {"ollama"}
    for name in lacking:
        variables = {variable.name for variable in bare[name].environment}
        assert bare[name].missing().split(" ")[0] in variables
        health = bare[name].check(http)
        assert not health.ok
        assert health.cure


def test_the_order_in_which_they_are_chosen(vendor: FakeOpenAI) -> None:
    ranked = sorted(providers(settings_for(vendor)).values(), key=lambda p: p.preference)
    assert [p.name for p in ranked][:2] == ["openai", "compatible"]
    assert [p.name for p in ranked][-2:] == ["ollama", "demo"]
    assert [p.name for p in ranked if p.demo] == ["demo"]


# -- those that call a vendor ----------------------------------------------------------------------------------------
def test_the_body_says_what_the_call_says(remote: TextProvider, vendor: FakeOpenAI, http: httpx.Client) -> None:
    answer(remote, http, temperature=0.25, stop=("a", "b", "c", "d", "e"), person_ref="hash")
    [body] = vendor.calls
    assert body["model"] == "fake-model"
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Say hello to me"},
    ]
    assert body.get("max_tokens", body.get("max_completion_tokens")) == 200
    assert (body["temperature"], body["stop"], body["stream"]) == (0.25, ["a", "b", "c", "d"], True)
    assert vendor.requests[-1].header("Authorization") == f"Bearer {KEY}"


def test_a_server_that_does_not_stream_is_understood(remote: TextProvider, vendor: FakeOpenAI, http: httpx.Client) -> None:
    message = {"role": "assistant", "content": UNICODE}
    document = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"prompt_tokens": 7}}
    vendor.faults.append(Fault(status=200, body=b"\n \n" + json.dumps(document).encode()))
    text, usage = answer(remote, http)
    assert text == UNICODE
    assert (usage.input_tokens, usage.output_tokens) == (7, None)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64])
def test_characters_cut_between_packets_arrive_whole(
    openai: TextProvider, vendor: FakeOpenAI, http: httpx.Client, size: int
) -> None:
    whole = event(text_chunk(UNICODE)) + event(text_chunk(None, delta={}, finish_reason="stop")) + event("[DONE]")
    vendor.script = lambda: (whole[at : at + size] for at in range(0, len(whole), size))
    assert answer(openai, http)[0] == UNICODE


def test_hanging_up_in_the_middle_ends_the_call_at_the_vendor(
    remote: TextProvider, vendor: FakeOpenAI, http: httpx.Client
) -> None:
    def endless() -> Iterator[bytes]:
        while not vendor.stopping.wait(0.005):
            yield event(text_chunk("word "))

    vendor.script = endless
    with closing(remote.stream(call(), http)) as stream:  # type: ignore[type-var]
        assert next(stream) == Text("word ")
    vendor.wait_until(lambda: len(vendor.abandoned) == 1)


def test_pieces_arrive_while_the_vendor_still_speaks(openai: TextProvider, vendor: FakeOpenAI, http: httpx.Client) -> None:
    got: list[str] = []

    def one_at_a_time() -> Iterator[bytes]:
        for number in range(3):
            yield event(text_chunk(f"{number}"))
            vendor.wait_until(lambda: len(got) > number, 5)  # noqa: B023 - waited for at once
        yield event(text_chunk(None, finish_reason="stop")) + event("[DONE]")

    vendor.script = one_at_a_time
    for piece in openai.stream(call(), http):
        if isinstance(piece, Text):
            got.append(piece.text)
            vendor.notify()
    assert got == ["0", "1", "2"]


def error_body(message: str = "", **more: object) -> bytes:
    return json.dumps({"error": {"message": message, "type": "t", "code": None, "param": None} | more}).encode()


STATUSES: list[tuple[Fault, type[ProviderError]]] = [
    (Fault(status=301, headers={"Location": "/elsewhere"}), Rejected),
    (Fault(status=400, body=error_body("what is this?")), Rejected),
    (Fault(status=400, body=b""), Rejected),
    (Fault(status=400, body=b"\xff\xfe<html>" * 9000), Rejected),
    (Fault(status=400, body=b"[" * 50_000), Rejected),
    (Fault(status=400, body=error_body("too long", code="context_length_exceeded")), ContextTooLong),
    (Fault(status=400, body=b'{"error": "the prompt exceeds the available context size"}'), ContextTooLong),
    (Fault(status=400, body=error_body("no", code="content_policy_violation")), RefusedByPolicy),
    (Fault(status=400, body=error_body("no", code="invalid_prompt")), RefusedByPolicy),
    (Fault(status=401, body=error_body(f"Incorrect API key provided: {KEY}")), BadCredentials),
    (Fault(status=402, body=error_body("Insufficient Balance")), OutOfCredit),
    (Fault(status=403, body=b'{"detail": "Your country is not served"}'), BadCredentials),
    (Fault(status=403, body=error_body("Your input was flagged", code=403)), RefusedByPolicy),
    (Fault(status=404, body=error_body("no such model", code="model_not_found")), Rejected),
    (Fault(status=408), TimedOut),
    (Fault(status=409), Unavailable),
    (Fault(status=413), ContextTooLong),
    (Fault(status=422, body=b'{"detail": [{"loc": ["body", "model"], "msg": "bad", "type": "value_error"}]}'), Rejected),
    (Fault(status=429), RateLimited),
    (Fault(status=429, body=error_body("wait", code="rate_limit_exceeded")), RateLimited),
    (Fault(status=429, body=error_body("pay", code="insufficient_quota")), OutOfCredit),
    (Fault(status=429, body=error_body("pay", code="credit_balance_exhausted", type="insufficient_quota")), OutOfCredit),
    (Fault(status=429, body=error_body("slow", code="slow_down", type="insufficient_quota")), RateLimited),
    (Fault(status=500), Unavailable),
    (Fault(status=502, body=b"<html>Bad Gateway</html>"), Unavailable),
    (Fault(status=503, body=error_body("Loading model", code=503)), Unavailable),
    (Fault(status=504), TimedOut),
    (Fault(status=529), Unavailable),
    (Fault(status=500, body=b"x" * 1000, cut_after_bytes=10), Unavailable),
]


@pytest.mark.parametrize(("fault", "kind"), STATUSES, ids=lambda v: f"{v.status}" if isinstance(v, Fault) else v.__name__)
def test_a_failing_status_is_the_right_typed_error(
    openai: TextProvider, vendor: FakeOpenAI, http: httpx.Client, fault: Fault, kind: type[ProviderError]
) -> None:
    vendor.faults.append(fault)
    error = failure(openai, http)
    assert type(error) is kind
    assert error.status == fault.status


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "Retry-After": "7"}, 1.5),
        ({"retry-after-ms": "soon", "Retry-After": "7"}, 7.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "99999999"}, 86_400.0),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "after lunch"}, None),
        ({}, None),
    ],
)
def test_the_wait_that_a_vendor_asks_for_is_passed_on(
    openai: TextProvider, vendor: FakeOpenAI, http: httpx.Client, headers: dict[str, str], seconds: float | None
) -> None:
    vendor.faults.append(Fault(status=429, headers=headers))
    assert failure(openai, http).retry_after_s == seconds


NETWORK: list[tuple[Fault, type[ProviderError]]] = [
    (Fault(drop=True), Unavailable),
    (Fault(garbage=b"\x00\x01 this is not HTTP\r\n\r\n"), MalformedAnswer),
    (Fault(garbage=b""), Unavailable),
    (Fault(hang=True), TimedOut),
    (Fault(status=200, body=b"<html><body>It works!</body></html>"), MalformedAnswer),
    (Fault(status=200, body=b""), MalformedAnswer),
    (Fault(status=200, body=b"null"), MalformedAnswer),
    (Fault(status=200, body=b"[1, 2]"), MalformedAnswer),
    (Fault(status=200, body=b'{"choices": '), MalformedAnswer),
    (Fault(status=200, body=b'{"choices": "none"}'), MalformedAnswer),
    (Fault(status=200, body=b'{"hello": 1}'), MalformedAnswer),
    (Fault(status=200, body=b"{" + b'"a":{' * 50_000), MalformedAnswer),
    (Fault(status=200, body=b"\xff\xfe\x00" * 99), MalformedAnswer),
    (Fault(status=200, body=b"data: " + b"x" * 5_000_000), MalformedAnswer),
    (Fault(status=200, body=error_body("overloaded", code="server_is_overloaded")), Unavailable),
    (Fault(status=200, body=error_body("slow down", code=429)), RateLimited),
    (Fault(status=200, body=b'{"error": "rate limit reached"}'), RateLimited),
]


@pytest.mark.parametrize(("fault", "kind"), NETWORK)
def test_a_broken_answer_is_the_right_typed_error_for_every_row(
    remote: TextProvider, vendor: FakeOpenAI, http: httpx.Client, fault: Fault, kind: type[ProviderError]
) -> None:
    vendor.faults.append(fault)
    assert type(failure(remote, http, silence_s=0.15 if fault.hang else 5)) is kind


def test_nobody_listening_is_unavailable(http: httpx.Client) -> None:
    with FakeOpenAI() as gone:
        settings = settings_for(gone)
    for name, provider in providers(settings).items():
        if name != "demo":
            assert type(failure(provider, http)) is Unavailable
            health = provider.check(http)
            assert isinstance(health, Health)
            assert not health.ok
            assert health.cure


def test_silence_in_the_middle_of_a_stream_is_a_time_out(remote: TextProvider, vendor: FakeOpenAI, http: httpx.Client) -> None:
    def pausing() -> Iterator[bytes]:
        yield event(text_chunk("So, "))
        vendor.stopping.wait(10)

    vendor.script = pausing
    assert type(failure(remote, http, silence_s=0.15)) is TimedOut


def test_a_drip_of_comments_does_not_keep_a_call_beyond_its_deadline(
    openai: TextProvider, vendor: FakeOpenAI, http: httpx.Client
) -> None:
    def dripping() -> Iterator[bytes]:
        while not vendor.stopping.wait(0.02):
            yield b": keep-alive\n\n"

    vendor.script = dripping
    started = time.monotonic()
    with call_limits(0.4, 5), pytest.raises(TimedOut):
        list(openai.stream(call(), http))
    assert time.monotonic() - started < 3


def test_a_stream_cut_anywhere_is_malformed_or_whole_but_never_a_short_answer(
    openai: TextProvider, vendor: FakeOpenAI, http: httpx.Client
) -> None:
    vendor.text = UNICODE
    [whole] = [b"".join(vendor._stream({"messages": [], "stream_options": {"include_usage": True}}, UNICODE))]
    complete = 0
    for position in range(1, len(whole), 13):
        vendor.faults.append(Fault(cut_after_bytes=position))
        pieces: list[Text | Usage] = []
        try:
            pieces += openai.stream(call(), http)
        except MalformedAnswer:
            assert not any(isinstance(piece, Usage) for piece in pieces)
            continue
        assert "".join(piece.text for piece in pieces if isinstance(piece, Text)) == UNICODE
        complete += 1
    finish_at = whole.index(b'"finish_reason": "stop"')
    assert 0 < complete <= (len(whole) - finish_at) / 13 + 1


def test_a_stream_cut_in_the_middle_is_malformed_for_every_row(
    remote: TextProvider, vendor: FakeOpenAI, http: httpx.Client
) -> None:
    for position in (1, 200, 333):
        vendor.faults.append(Fault(cut_after_bytes=position))
        assert type(failure(remote, http)) is MalformedAnswer


END = event(text_chunk(None, delta={}, finish_reason="stop")) + event("[DONE]")
HELLO = event(text_chunk("hello"))


def finish(reason: str) -> bytes:
    return event(text_chunk(None, delta={}, finish_reason=reason)) + event("[DONE]")


BAD_STREAMS: list[tuple[bytes, type[ProviderError]]] = [
    (HELLO + b"data: {not json}\n\n" + END, MalformedAnswer),
    (HELLO, MalformedAnswer),
    (HELLO + b"data: {", MalformedAnswer),
    (event("[DONE]"), MalformedAnswer),
    (END, MalformedAnswer),
    (event(text_chunk("  \n ")) + END, MalformedAnswer),
    (event(text_chunk(None, delta={"reasoning_content": "hm"})) + finish("length"), MalformedAnswer),
    (finish("tool_calls"), MalformedAnswer),
    (finish("content_filter"), RefusedByPolicy),
    (event(text_chunk(None, delta={"refusal": "I cannot."})) + END, RefusedByPolicy),
    (HELLO + finish("insufficient_system_resource"), Unavailable),
    (HELLO + event({"error": {"message": "boom", "type": "server_error"}}) + END, Unavailable),
    (HELLO + event({"error": {"message": f"bad key {KEY}", "type": "authentication_error"}}), BadCredentials),
    (HELLO + event({"error": {"message": "pay", "code": "insufficient_quota"}}), OutOfCredit),
    (HELLO + event({"error": {"message": "unknown", "type": "not_found_error"}}), Rejected),
    (HELLO + event({"error": {"message": "bad", "type": "invalid_request_error"}}), Rejected),
    (HELLO + event({"error": {"message": "late", "code": 408}, "choices": []}), TimedOut),
    (HELLO + event({"error": "maximum context length reached"}), ContextTooLong),
    (HELLO + b"event: error\n" + event({"message": "Flagged by moderation", "code": 403}), RefusedByPolicy),
    (b"event: error\ndata: dead\n\n", MalformedAnswer),
]


@pytest.mark.parametrize(("stream", "kind"), BAD_STREAMS)
def test_a_stream_that_goes_wrong_is_the_right_typed_error(
    openai: TextProvider, vendor: FakeOpenAI, http: httpx.Client, stream: bytes, kind: type[ProviderError]
) -> None:
    vendor.script = lambda: iter([stream])
    assert type(failure(openai, http)) is kind


def without(chunk: dict[str, object], *names: str) -> dict[str, object]:
    return {name: value for name, value in chunk.items() if name not in names}


GOOD_STREAMS: dict[str, Callable[[], bytes]] = {
    "comments": lambda: b": hi\n\n" + HELLO + b": OPENROUTER PROCESSING\n\n" + END,
    "crlf": lambda: (HELLO + END).replace(b"\n", b"\r\n"),
    "no blank after colon": lambda: (HELLO + END).replace(b"data: ", b"data:"),
    "byte order mark": lambda: b"\xef\xbb\xbf" + HELLO + END,
    "several data lines": lambda: HELLO.replace(b"data: {", b"data: {\ndata: ") + END,
    "unknown fields and events": lambda: b"id: 1\nretry: 5\nfoo: x\n" + HELLO + b"event: ping\ndata: pong\n\n" + END,
    "unknown event with JSON": lambda: b'event: usage\ndata: {"x": 1}\n\n' + HELLO + END,
    "named as message": lambda: b"event: message\n" + HELLO + END,
    "missing id, usage and model": lambda: event(without(text_chunk("hello"), "id", "usage", "model")) + END,
    "closes after the finish reason": lambda: HELLO + event(text_chunk(None, delta={}, finish_reason="stop")),
    "no last empty line": lambda: (HELLO + END).rstrip(b"\n"),
    "no finish reason but [DONE]": lambda: HELLO + event("[DONE]"),
    "list of parts": lambda: event(text_chunk([{"type": "text", "text": "hel"}, "lo", {"type": "image"}, 7])) + END,
    "thoughts beside the text": lambda: (
        event(text_chunk(None, delta={"reasoning_content": "hmm"}))
        + event(text_chunk(None, delta={"reasoning": "ah"}))
        + HELLO
        + END
    ),
    "null delta": lambda: event(text_chunk(None, delta=None)) + HELLO + END,
    "null error": lambda: event(text_chunk("hello") | {"error": None}) + END,
    "another choice": lambda: event(text_chunk("no", index=1)) + HELLO + END,
    "garbage in places that do not matter": lambda: (
        event({"choices": [None, 3, {"index": 0, "delta": 5}], "usage": "none", "model": 4, "id": []})
        + event([1])
        + event("null")
        + HELLO
        + END
    ),
    "control characters": lambda: event(text_chunk("he\x00l\x1blo")) + END,
    "a pair of surrogates in two events": lambda: (
        b'data: {"choices":[{"index":0,"delta":{"content":"hello\\ud83d"}}]}\n\n'
        b'data: {"choices":[{"index":0,"delta":{"content":"\\ude00"}}]}\n\n' + END
    ),
    "after the end": lambda: HELLO + END + event(text_chunk("ignored")),
}


@pytest.mark.parametrize("name", GOOD_STREAMS)
def test_an_odd_but_readable_stream_is_read(openai: TextProvider, vendor: FakeOpenAI, http: httpx.Client, name: str) -> None:
    vendor.script = lambda: iter([GOOD_STREAMS[name]()])
    text, usage = answer(openai, http)
    assert text == ("hello😀" if "surrogates" in name else "hello")
    assert (usage.input_tokens, usage.output_tokens) == (None, None)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("length", Finish.LENGTH), ("content_filter", Finish.FILTERED), ("tool_calls", Finish.TOOL), ("eos", Finish.UNKNOWN)],
)
def test_the_reason_for_the_end_is_told_in_our_words(
    openai: TextProvider, vendor: FakeOpenAI, http: httpx.Client, reason: str, expected: Finish
) -> None:
    vendor.finish = reason
    assert answer(openai, http)[1].finish is expected


def test_a_vendor_that_tells_no_usage_leaves_it_unknown(remote: TextProvider, vendor: FakeOpenAI, http: httpx.Client) -> None:
    vendor.with_usage = False
    usage = answer(remote, http)[1]
    assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens) == (None, None, 0)


@pytest.mark.parametrize(
    ("told", "understood"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 5}, (10, 5, 0, 0)),
        ({"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 8}}, (10, None, 8, 0)),
        ({"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 11}}, (10, None, 0, 0)),
        ({"prompt_tokens": 10, "prompt_cache_hit_tokens": 4, "completion_tokens": 1}, (10, 1, 4, 0)),
        ({"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 6}}, (None, 9, 0, 6)),
        ({"prompt_tokens": -1, "completion_tokens": 10**15}, (None, None, 0, 0)),
        ({"prompt_tokens": True, "completion_tokens": "7"}, (None, None, 0, 0)),
        ({"prompt_tokens": 3.0, "completion_tokens": 2.5}, (3, None, 0, 0)),
        ({"prompt_tokens": None, "completion_tokens": None, "prompt_tokens_details": []}, (None, None, 0, 0)),
    ],
)
def test_token_counts_that_cannot_be_are_unknown(
    openai: TextProvider,
    vendor: FakeOpenAI,
    http: httpx.Client,
    told: dict[str, object],
    understood: tuple[int | None, int | None, int, int],
) -> None:
    vendor.script = lambda: iter([HELLO, event(text_chunk(None, delta={}, finish_reason="stop") | {"usage": told})])
    usage = answer(openai, http)[1]
    assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens) == understood
