"""OpenAI's chat format as it is met in the wild: statuses, odd streams, counts; every byte of it hostile."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from decimal import Decimal

import httpx
import pytest

from plugins.providers.openai_compatible import OpenAICompatible, register_providers
from tests.fakes.openai import FakeOpenAI, event, text_chunk
from tests.fakes.server import Fault
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
    TextProvider,
    TimedOut,
    Unavailable,
)
from webapp.routing.http import build_client
from webapp.testkit import asking
from webapp.testkit.asking import answer

KEY = "sk-test-0123456789abcdef"


def failure(provider: TextProvider, http: httpx.Client) -> ProviderError:
    return asking.failure(provider, http, secrets=(KEY,))


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with build_client() as client:
        yield client


@pytest.fixture
def vendor(http: httpx.Client) -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as fake:
        fake.key = KEY
        yield fake


@pytest.fixture
def openai(vendor: FakeOpenAI) -> OpenAICompatible:
    found = next(p for p in register_providers(vendor.settings) if p.name == "openai")
    assert isinstance(found, OpenAICompatible)
    return found


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


def test_a_vendor_that_tells_no_usage_leaves_it_unknown(openai: TextProvider, vendor: FakeOpenAI, http: httpx.Client) -> None:
    vendor.with_usage = False
    usage = answer(openai, http)[1]
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


def test_an_error_inside_an_answer_that_began_well_is_told_by_its_code(
    openai: TextProvider, vendor: FakeOpenAI, http: httpx.Client
) -> None:
    for body, kind in (
        (error_body("overloaded", code="server_is_overloaded"), Unavailable),
        (error_body("slow down", code=429), RateLimited),
        (b'{"error": "rate limit reached"}', RateLimited),
        (b'{"choices": "none"}', MalformedAnswer),
    ):
        vendor.faults.append(Fault(status=200, body=body))
        assert type(failure(openai, http)) is kind


COUNTED = event(text_chunk(None) | {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}})


@pytest.mark.parametrize(
    ("stream", "kind"),
    [
        (event(text_chunk(None, delta={}, finish_reason="length")) + COUNTED, MalformedAnswer),
        (event(text_chunk(None, delta={"refusal": "I cannot."}, finish_reason="stop")) + COUNTED, RefusedByPolicy),
        (event(text_chunk(None, delta={}, finish_reason="content_filter")) + COUNTED, RefusedByPolicy),
        (event(text_chunk("Well", finish_reason="insufficient_system_resource")) + COUNTED, Unavailable),
        (event(text_chunk("Well")) + COUNTED, MalformedAnswer),
        (event(text_chunk("Well")) + COUNTED + event({"error": {"message": "boom"}}), Unavailable),
        (COUNTED + b"data: {not json}\n\n", MalformedAnswer),
    ],
)
def test_what_was_counted_for_a_failed_answer_goes_along_with_the_error(
    openai: TextProvider, vendor: FakeOpenAI, http: httpx.Client, stream: bytes, kind: type[ProviderError]
) -> None:
    vendor.script = lambda: iter([stream])
    error = failure(openai, http)
    assert type(error) is kind
    assert error.usage is not None
    assert (error.usage.input_tokens, error.usage.output_tokens) == (9, 4)


def test_an_error_of_an_answer_that_nobody_counted_carries_no_usage(
    openai: TextProvider, vendor: FakeOpenAI, http: httpx.Client
) -> None:
    vendor.script = lambda: iter([END])
    assert failure(openai, http).usage is None


def test_an_answer_that_used_up_its_cap_by_thinking_says_so(
    openai: TextProvider, vendor: FakeOpenAI, http: httpx.Client
) -> None:
    vendor.script = lambda: iter([finish("length")])
    assert "used up the cap" in failure(openai, http).message


@pytest.mark.parametrize(
    ("told", "written"),
    [({"cached_tokens": 2, "cache_write_tokens": 5}, 5), ({"cache_write_tokens": 99}, 0), ({"cache_write_tokens": "5"}, 0)],
)
def test_what_was_written_to_the_cache_is_part_of_the_input(
    openai: TextProvider, vendor: FakeOpenAI, http: httpx.Client, told: dict[str, object], written: int
) -> None:
    usage = {"prompt_tokens": 8, "completion_tokens": 1, "prompt_tokens_details": told}
    vendor.script = lambda: iter([HELLO, event(text_chunk(None, delta={}, finish_reason="stop") | {"usage": usage})])
    assert answer(openai, http)[1].cache_write_tokens == written


@pytest.mark.parametrize(
    ("told", "cost"),
    [
        (0.00014, Decimal("0.00014")),
        ("0.5", Decimal("0.5")),
        (0, None),
        (-1, None),
        (True, None),
        ("much", None),
        ("nan", None),
        ("9" * 400, None),
        (1e300, None),
        ([], None),
    ],
)
def test_what_openrouter_charged_is_taken_from_its_answer_and_from_nobody_elses(
    vendor: FakeOpenAI, http: httpx.Client, openai: TextProvider, told: object, cost: Decimal | None
) -> None:
    vendor.cost = told
    settings = {"OPENROUTER_API_KEY": KEY, "OPENROUTER_BASE_URL": vendor.url}
    openrouter = next(p for p in register_providers(settings) if p.name == "openrouter")
    assert answer(openrouter, http)[1].cost_usd == cost
    assert answer(openai, http)[1].cost_usd is None


def test_nought_is_believed_of_a_model_that_is_free_by_its_name(vendor: FakeOpenAI, http: httpx.Client) -> None:
    vendor.cost = 0
    free = event(text_chunk("hello") | {"model": "tiny/model:free"})
    end = event(text_chunk(None, delta={}, finish_reason="stop") | {"usage": {"prompt_tokens": 1, "cost": 0}})
    vendor.script = lambda: iter([free, end.replace(b"fake-model-2026", b"tiny/model:free"), event("[DONE]")])
    settings = {"OPENROUTER_API_KEY": KEY, "OPENROUTER_BASE_URL": vendor.url}
    openrouter = next(p for p in register_providers(settings) if p.name == "openrouter")
    assert answer(openrouter, http)[1].cost_usd == 0


@pytest.mark.parametrize(("status", "before"), [(429, RateLimited), (500, Unavailable), (408, TimedOut)])
def test_a_vendor_that_says_that_trying_again_is_no_use_is_believed(
    openai: TextProvider, vendor: FakeOpenAI, http: httpx.Client, status: int, before: type[ProviderError]
) -> None:
    vendor.faults.append(Fault(status=status, headers={"x-should-retry": "true"}))
    assert type(failure(openai, http)) is before
    vendor.faults.append(Fault(status=status, headers={"x-should-retry": "false"}, body=error_body("no use")))
    error = failure(openai, http)
    assert (type(error), error.retryable, error.status) == (Rejected, False, status)
    assert "no use" in error.detail


def test_an_error_that_is_final_anyway_keeps_its_type(openai: TextProvider, vendor: FakeOpenAI, http: httpx.Client) -> None:
    for retry in ("true", "false"):
        vendor.faults.append(Fault(status=401, headers={"x-should-retry": retry}))
        assert type(failure(openai, http)) is BadCredentials
