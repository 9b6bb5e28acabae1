"""PRSM in each of its contracts: what is sent, what is understood, and what every failure becomes."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing
from decimal import Decimal
from itertools import pairwise

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.providers.prsm import PRSM, register_providers
from plugins.providers.prsm.answers import Reader, quality
from plugins.providers.prsm.config import amount
from tests.fakes.prsm import FakePRSM, event, result, token, whole_stream
from tests.fakes.server import Fault
from tests.fakes.vendor import KEY, Reported, Trouble, tiny_png
from webapp.plugin import (
    BadCredentials,
    ContextTooLong,
    Finish,
    JsonOutput,
    MalformedAnswer,
    OutOfCredit,
    Picture,
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
DIALECTS = ["node", "platform", "hosted-js", "hosted-go"]
HELLO = token("hello")
END = event("result", result("hello"))
URL = {"PRSM_API_URL": "http://localhost:8000"}


def prsm(values: Mapping[str, str]) -> PRSM:
    [found] = register_providers(values)
    assert isinstance(found, PRSM)
    return found


def call(text: str = "Say hello to me", **changes: object) -> TextCall:
    turns = (Turn(Role.SYSTEM, "Be brief."), Turn(Role.USER, text))
    values = {"request_id": "r1", "model": "nwtn", "turns": turns, "max_output_tokens": 200, "timeout_s": 20.0}
    return TextCall(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with build_client() as client:
        yield client


@pytest.fixture
def vendor(http: httpx.Client) -> Iterator[FakePRSM]:
    with FakePRSM() as fake:
        yield fake


@pytest.fixture
def provider(vendor: FakePRSM) -> PRSM:
    return prsm(vendor.settings)


def answer(provider: PRSM, http: httpx.Client, **changes: object) -> tuple[str, Usage]:
    with call_limits(20, 10), closing(provider.stream(call(**changes), http)) as stream:  # type: ignore[arg-type, type-var]
        *pieces, usage = stream
    assert pieces
    assert all(isinstance(piece, Text) and piece.text for piece in pieces)
    assert isinstance(usage, Usage)
    return "".join(piece.text for piece in pieces if isinstance(piece, Text)), usage


def failure(provider: PRSM, http: httpx.Client, silence_s: float = 5.0, **changes: object) -> ProviderError:
    with call_limits(8, silence_s), pytest.raises(ProviderError) as raised:
        list(provider.stream(call(**changes), http))  # type: ignore[arg-type]
    error = raised.value
    assert error.message
    assert KEY not in f"{error.message} {error.detail} {error!r} {error.__cause__!r}"
    assert len(error.detail) <= 500
    return error


def read(*pieces: bytes, dollars: Decimal | None = None) -> tuple[str, Usage]:
    *texts, usage = Reader("nwtn", KEY, dollars).stream(pieces)
    assert isinstance(usage, Usage)
    return "".join(piece.text for piece in texts if isinstance(piece, Text)), usage


def misread(*pieces: bytes) -> ProviderError:
    with pytest.raises(ProviderError) as raised:
        list(Reader("nwtn", KEY).stream(pieces))
    assert KEY not in f"{raised.value} {raised.value.detail}"
    return raised.value


# -- what is sent ----------------------------------------------------------------------------------------------------
def test_a_node_is_asked_for_a_stream_with_the_conversation_in_the_prompt(
    provider: PRSM, vendor: FakePRSM, http: httpx.Client
) -> None:
    turns = (
        Turn(Role.SYSTEM, "Be brief."),
        Turn(Role.USER, "Hi"),
        Turn(Role.ASSISTANT, "Hello!"),
        Turn(Role.USER, "And now?"),
    )
    text, usage = answer(provider, http, turns=turns, temperature=0.25, person_ref="hash", stop=("x",))
    assert text == vendor.text
    assert vendor.calls == [
        {
            "prompt": "Be brief.\n\nUser: Hi\n\nAssistant: Hello!\n\nUser: And now?\n\nAssistant:",
            "model_id": "nwtn",
            "budget_ftns": 1.0,
            "max_tokens": 200,
            "temperature": 0.25,
        }
    ]
    assert [r.path for r in vendor.requests] == ["/compute/inference/stream"]
    assert vendor.requests[0].header("X-API-Key") == KEY
    assert vendor.requests[0].header("Authorization") == ""
    assert (usage.credits, usage.cost_usd, usage.quality, usage.finish) == (Decimal("0.0425"), None, None, Finish.STOP)
    assert (usage.input_tokens, usage.output_tokens) == (None, None)
    assert (usage.model, usage.vendor_request_id) == ("nwtn", "infer-fake")


def test_a_single_question_goes_as_it_is(provider: PRSM, vendor: FakePRSM, http: httpx.Client) -> None:
    answer(provider, http)
    answer(provider, http, turns=(Turn(Role.USER, "Hi"),))
    assert [body["prompt"] for body in vendor.calls] == ["Be brief.\n\nSay hello to me", "Hi"]


def test_the_platform_is_told_who_asks_and_what_may_be_spent(vendor: FakePRSM, http: httpx.Client) -> None:
    vendor.dialect = "platform"
    request_id = str(uuid.uuid4())
    text, usage = answer(
        prsm({**vendor.settings, "PRSM_BUDGET_FTNS": "2.5", "PRSM_FTNS_USD": "0.10"}),
        http,
        person_ref="0f3a",
        request_id=request_id,
        temperature=0.5,
    )
    assert text == vendor.text
    assert vendor.calls == [
        {
            "user_id": "0f3a",
            "session_id": request_id,
            "prompt": "Be brief.\n\nSay hello to me",
            "context_allocation": 3,
            "preferences": {"model": "nwtn", "max_tokens": 200, "temperature": 0.5},
        }
    ]
    assert [r.path for r in vendor.requests] == ["/query"]
    assert vendor.requests[0].header("Authorization") == f"Bearer {KEY}"
    assert (usage.credits, usage.cost_usd) == (Decimal("0.0425"), Decimal("0.00425"))
    assert usage.quality == 0.87
    assert usage.vendor_request_id == request_id


def test_without_a_person_the_platform_is_told_the_name_of_the_product(vendor: FakePRSM, http: httpx.Client) -> None:
    vendor.dialect = "platform"
    answer(prsm(vendor.settings), http)
    assert vendor.calls[0]["user_id"] == "switchhook"
    uuid.UUID(vendor.calls[0]["session_id"])


def test_the_hosted_service_of_the_javascript_sdk_is_asked_until_the_session_has_ended(
    vendor: FakePRSM, http: httpx.Client
) -> None:
    vendor.dialect = "hosted-js"
    text, usage = answer(prsm(vendor.settings), http, person_ref="0f3a", temperature=0.5)
    assert text == vendor.text
    [body] = vendor.calls
    assert body["context"].pop("session_id")
    assert body == {
        "query": "Say hello to me",
        "stream": False,
        "model_id": "nwtn",
        "max_tokens": 200,
        "context": {"user_id": "0f3a"},
        "system_prompt": "Be brief.",
        "temperature": 0.5,
    }
    looked = ["/api/v1/nwtn/sessions/session-0"] * 2
    assert [r.path for r in vendor.requests] == ["/api/v1/nwtn/query", *looked]
    assert (usage.credits, usage.quality, usage.vendor_request_id) == (Decimal("0.0425"), 0.6, "session-0")
    assert vendor.cancelled == []


def test_the_hosted_service_of_the_go_sdk_answers_at_once_and_counts_tokens(vendor: FakePRSM, http: httpx.Client) -> None:
    vendor.dialect = "hosted-go"
    text, usage = answer(prsm(vendor.settings), http)
    assert text == vendor.text
    [body] = vendor.calls
    assert (body["prompt"], body["system_prompt"]) == ("Say hello to me", "Be brief.")
    assert vendor.requests[0].path == "/nwtn/query"
    assert vendor.requests[0].header("Authorization") == f"Bearer {KEY}"
    assert vendor.reported == [Reported("nwtn", 6, 8)]
    assert (usage.input_tokens, usage.output_tokens, usage.credits) == (6, 8, Decimal("0.0425"))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_without_a_key_none_is_sent(vendor: FakePRSM, http: httpx.Client, dialect: str) -> None:
    vendor.dialect, vendor.key, vendor.lookups = dialect, "", 1
    answer(prsm(vendor.settings), http)
    assert all(not (r.header("X-API-Key") or r.header("Authorization")) for r in vendor.requests)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_json_is_asked_for_in_words(vendor: FakePRSM, http: httpx.Client, dialect: str) -> None:
    vendor.dialect, vendor.lookups = dialect, 1
    answer(prsm(vendor.settings), http, output=JsonOutput(schema={"properties": {"größe": {}}}))
    asked = vendor.calls[0].get("prompt", vendor.calls[0].get("query"))
    assert "JSON" in asked
    assert "größe" in asked


def test_pictures_are_refused_by_name_and_nothing_is_sent(provider: PRSM, vendor: FakePRSM, http: httpx.Client) -> None:
    picture = Picture("image/png", tiny_png())
    error = failure(provider, http, turns=(Turn(Role.USER, "What is this?", (picture,)),))
    assert type(error) is Rejected
    assert "pictures" in error.message
    assert vendor.requests == []


@pytest.mark.parametrize("dialect", ["node", "hosted-js", "hosted-go"])
def test_a_model_that_takes_no_temperature_is_sent_none_from_then_on(
    vendor: FakePRSM, http: httpx.Client, dialect: str
) -> None:
    vendor.dialect, vendor.takes_temperature, vendor.lookups = dialect, False, 1
    provider = prsm(vendor.settings)
    for _ in range(2):
        answer(provider, http, temperature=0.5)
    assert sum(r.method == "POST" for r in vendor.requests) == 3
    assert all("temperature" not in body for body in vendor.calls)


# -- a node that does not stream -------------------------------------------------------------------------------------
def test_a_node_without_the_route_of_the_stream_answers_whole_and_is_not_asked_again(
    provider: PRSM, vendor: FakePRSM, http: httpx.Client
) -> None:
    vendor.streams = False
    for _ in range(2):
        text, usage = answer(provider, http)
        assert (text, usage.credits) == (vendor.text, Decimal("0.0425"))
    paths = [r.path for r in vendor.requests]
    assert paths == ["/compute/inference/stream", "/compute/inference", "/compute/inference"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("/stream", status=404),
        Fault("/stream", status=405),
        Fault("/stream", status=501, body=b'{"detail": "Not Implemented"}'),
        Fault("/stream", status=503, body=b'{"detail": "Inference executor does not support streaming."}'),
    ],
)
def test_a_node_that_says_that_it_cannot_stream_is_asked_for_the_whole(
    provider: PRSM, vendor: FakePRSM, http: httpx.Client, fault: Fault
) -> None:
    vendor.faults.append(fault)
    assert answer(provider, http)[0] == vendor.text


def test_a_node_that_has_trouble_is_not_asked_twice(provider: PRSM, vendor: FakePRSM, http: httpx.Client) -> None:
    vendor.faults.append(Fault("/stream", status=503, body=b'{"detail": "Inference executor not initialized."}'))
    assert type(failure(provider, http)) is Unavailable
    assert len(vendor.requests) == 1


def test_after_a_model_that_is_unknown_the_stream_is_tried_again(provider: PRSM, vendor: FakePRSM, http: httpx.Client) -> None:
    vendor.faults += [Fault(status=404, body=b'{"detail": "Model nwtn not found"}')] * 2
    assert "PRSM_MODEL" in failure(provider, http).message
    answer(provider, http)
    assert vendor.requests[-1].path == "/compute/inference/stream"


# -- failures --------------------------------------------------------------------------------------------------------
def detail(words: object) -> bytes:
    return json.dumps({"detail": words}).encode()


STATUSES: list[tuple[Fault, type[ProviderError]]] = [
    (Fault(status=301, headers={"Location": "/elsewhere"}), Rejected),
    (Fault(status=400, body=detail("Missing 'prompt' field")), Rejected),
    (Fault(status=400, body=b""), Rejected),
    (Fault(status=400, body=b"\xff\xfe<html>" * 9000), Rejected),
    (Fault(status=400, body=b"[" * 50_000), Rejected),
    (Fault(status=401, body=detail(f"wrong key {KEY}")), BadCredentials),
    (Fault(status=402, body=detail("Insufficient FTNS balance to lock escrow for inference")), OutOfCredit),
    (Fault(status=402), OutOfCredit),
    (Fault(status=402, body=detail("Insufficient budget: 1 FTNS < required 5 FTNS")), Rejected),
    (Fault(status=403), BadCredentials),
    (Fault(status=412, body=detail("tee_policy not satisfied")), Rejected),
    (Fault(status=413, body=detail("prompt size 102401 bytes exceeds the cap")), ContextTooLong),
    (Fault(status=422, body=detail([{"loc": ["body", "prompt"], "msg": "Field required"}, 3, None])), Rejected),
    (Fault(status=429, body=detail("Privacy budget exhausted: 8 would exceed remaining budget")), RateLimited),
    (Fault(status=451, body=detail("dispatch refused by operator's content filter")), RefusedByPolicy),
    (Fault(status=500, body=json.dumps({"error": {"code": "X", "message": f"no {KEY}"}}).encode()), Unavailable),
    (Fault(status=502, body=b"<html>Bad Gateway</html>"), Unavailable),
    (Fault(status=504), TimedOut),
    (Fault(status=500, body=b"x" * 1000, cut_after_bytes=10), Unavailable),
]


@pytest.mark.parametrize(("fault", "kind"), STATUSES)
def test_a_failing_status_is_the_right_typed_error(
    provider: PRSM, vendor: FakePRSM, http: httpx.Client, fault: Fault, kind: type[ProviderError]
) -> None:
    vendor.faults.append(fault)
    error = failure(provider, http)
    assert type(error) is kind
    assert error.status == fault.status


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (Trouble.RATE_LIMITED, RateLimited),
        (Trouble.OVERLOADED, Unavailable),
        (Trouble.DOWN, Unavailable),
        (Trouble.BAD_KEY, BadCredentials),
        (Trouble.NO_CREDIT, OutOfCredit),
        (Trouble.NO_MODEL, Rejected),
        (Trouble.TOO_LONG, ContextTooLong),
        (Trouble.POLICY, RefusedByPolicy),
        (Trouble.BAD_REQUEST, Rejected),
    ],
)
def test_each_trouble_of_the_vendor_is_the_right_typed_error(
    vendor: FakePRSM, http: httpx.Client, dialect: str, trouble: Trouble, kind: type[ProviderError]
) -> None:
    vendor.dialect = dialect
    fault = vendor.trouble(trouble)
    assert fault is not None
    vendor.faults.append(fault)
    error = failure(prsm(vendor.settings), http)
    assert type(error) is kind
    assert error.retry_after_s == (7.0 if fault.headers else None)


@pytest.mark.parametrize(("spoken", "served"), [("platform", "node"), ("hosted-go", "node"), ("node", "platform")])
def test_a_server_of_another_dialect_is_told_by_the_variable_that_mends_it(
    vendor: FakePRSM, http: httpx.Client, spoken: str, served: str
) -> None:
    vendor.dialect, vendor.key = served, ""
    error = failure(prsm({**vendor.settings, "PRSM_DIALECT": spoken}), http)
    assert type(error) is Rejected
    assert "PRSM_DIALECT" in error.message


def test_a_platform_that_is_switched_off_is_not_tried_again(vendor: FakePRSM, http: httpx.Client) -> None:
    vendor.dialect = "platform"
    vendor.faults.append(Fault(status=501, body=detail("Not Implemented")))
    error = failure(prsm(vendor.settings), http)
    assert not error.retryable
    assert error.status == 501


def test_an_answer_that_would_cost_too_much_names_the_setting(provider: PRSM, vendor: FakePRSM, http: httpx.Client) -> None:
    vendor.more = {"success": False, "error": "Insufficient budget: 1.0 FTNS < required 5.0 FTNS", "output": None}
    error = failure(provider, http)
    assert type(error) is Rejected
    assert "PRSM_BUDGET_FTNS" in error.message


WORDS: list[tuple[object, type[ProviderError]]] = [
    ("Insufficient budget: 1 FTNS < required 2 FTNS", Rejected),
    ("Not enough FTNS to lock escrow", OutOfCredit),
    ("Model gpt-9 not registered", Rejected),
    ("unknown model: x", Rejected),
    ("prompt is too long for the context window", ContextTooLong),
    ("refused by the operator's content filter", RefusedByPolicy),
    ("rate limit exceeded", RateLimited),
    ("Privacy budget exhausted", RateLimited),
    ("invalid api key", BadCredentials),
    ("the chain timed out", TimedOut),
    (f"inference failed with {KEY}", Unavailable),
    ({"code": "rate_limit", "message": "slow"}, RateLimited),
    ({}, Unavailable),
    (None, Unavailable),
    ([7], Unavailable),
]


@pytest.mark.parametrize(("words", "kind"), WORDS)
@pytest.mark.parametrize("before", [b"", HELLO])
def test_a_failure_inside_a_stream_is_the_right_typed_error(words: object, kind: type[ProviderError], before: bytes) -> None:
    told = event("error", {"error": words, "code": "EXECUTION_FAILURE", "job_id": "j"})
    bad = event("result", {"success": False, "error": words})
    for last in (told, bad):
        if before and kind is RefusedByPolicy:
            text, usage = read(before, last)
            assert (text, usage.finish) == ("hello", Finish.FILTERED)
        else:
            assert type(misread(before, last, END)) is kind


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("words", "kind"), WORDS)
def test_a_success_of_the_status_that_is_none_inside_is_the_right_typed_error(
    vendor: FakePRSM, http: httpx.Client, dialect: str, words: object, kind: type[ProviderError]
) -> None:
    vendor.dialect = dialect
    vendor.faults.append(Fault(status=200, body=json.dumps({"success": False, "error": words}).encode()))
    error = failure(prsm(vendor.settings), http)
    assert type(error) is kind
    assert error.usage is None


def test_what_was_charged_for_a_failure_is_kept() -> None:
    error = misread(HELLO, event("error", {"error": "boom", "ftns_charged": 0.5}))
    assert error.usage is not None
    assert error.usage.credits == Decimal("0.5")


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(drop=True), Unavailable),
        (Fault(garbage=b"\x00\x01 this is not HTTP\r\n\r\n"), MalformedAnswer),
        (Fault(hang=True), TimedOut),
        (Fault(status=200, body=b"<html><body>It works!</body></html>"), MalformedAnswer),
        (Fault(status=200, body=b""), MalformedAnswer),
        (Fault(status=200, body=b"null"), MalformedAnswer),
        (Fault(status=200, body=b"[1, 2]"), MalformedAnswer),
        (Fault(status=200, body=b'{"output": '), MalformedAnswer),
        (Fault(status=200, body=b'{"hello": 1}'), MalformedAnswer),
        (Fault(status=200, body=b'{"success": true, "output": ""}'), MalformedAnswer),
        (Fault(status=200, body=b'{"output": " \\n "}'), MalformedAnswer),
        (Fault(status=200, body=b'{"output": ["x"], "content": 5}'), MalformedAnswer),
        (Fault(status=200, body=b"{" + b'"a":{' * 50_000), MalformedAnswer),
        (Fault(status=200, body=b"\xff\xfe\x00" * 99), MalformedAnswer),
        (Fault(status=200, body=b"data: " + b"x" * 5_000_000), MalformedAnswer),
        (Fault(status=200, body=json.dumps({"output": "x" * 5_000_000}).encode()), MalformedAnswer),
        (Fault(status=200, body=b'{"output": "x"}', cut_after_bytes=9), MalformedAnswer),
    ],
)
def test_a_broken_answer_is_the_right_typed_error(
    vendor: FakePRSM, http: httpx.Client, dialect: str, fault: Fault, kind: type[ProviderError]
) -> None:
    vendor.dialect = dialect
    vendor.faults.append(fault)
    assert type(failure(prsm(vendor.settings), http, silence_s=0.15 if fault.hang else 5)) is kind


# -- streams ---------------------------------------------------------------------------------------------------------
WHOLE = whole_stream(UNICODE + "\nbye")


def test_a_stream_cut_at_any_byte_is_incomplete_and_never_anything_else() -> None:
    for at in range(len(WHOLE) - 2):
        assert type(misread(WHOLE[:at])) is MalformedAnswer, f"cut at byte {at}"


def test_a_stream_without_its_last_empty_line_is_whole() -> None:
    assert read(WHOLE[:-1])[0] == read(WHOLE[:-2])[0] == UNICODE + "\nbye"


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(0, len(WHOLE)), max_size=12))
def test_a_stream_reads_the_same_however_it_is_cut_into_packets(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(WHOLE)]
    text, usage = read(*(WHOLE[a:b] for a, b in pairwise(edges)))
    assert text == UNICODE + "\nbye"
    assert (usage.credits, usage.finish) == (Decimal("0.0425"), Finish.STOP)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_characters_cut_between_packets_arrive_whole(provider: PRSM, vendor: FakePRSM, http: httpx.Client, size: int) -> None:
    vendor.script = lambda: (WHOLE[at : at + size] for at in range(0, len(WHOLE), size))
    assert answer(provider, http)[0] == UNICODE + "\nbye"


GOOD = {
    "carriage returns": (HELLO + END).replace(b"\n", b"\r\n"),
    "comments": b": ping\n\n" + HELLO + b": ping\n\n" + END,
    "a byte order mark": b"\xef\xbb\xbf" + HELLO + END,
    "unknown events": event("receipt", {"x": 1}) + b"event: ping\ndata: pong\n\n" + HELLO + END,
    "no names": (HELLO + END).replace(b"event: token\n", b"").replace(b"event: result\n", b""),
    "no tokens": END,
    "tokens that miss the end of the text": token("hel") + END,
    "a result without a text": HELLO + event("result", {"success": True, "output": None}),
    "a result with another text": HELLO + event("result", {"output": "something else"}),
    "a whole document": json.dumps(result("hello")).encode(),
    "garbage in places that do not matter": token(None) + event("token", [1]) + token({"x": 1}) + HELLO + END,
    "control characters": token("he\x00l\x1blo") + event("result", {"success": True}),
    "after the end": HELLO + END + token("ignored") + event("error", {"error": "late"}),
}


@pytest.mark.parametrize("name", GOOD)
def test_an_odd_but_readable_stream_is_read(name: str) -> None:
    text, usage = read(GOOD[name])
    assert text == "hello"
    assert usage.model == "nwtn"


@pytest.mark.parametrize(
    "pieces",
    [
        b"event: token\ndata: {\n\n" + END,
        b"event: result\ndata: oops\n\n",
        HELLO,
        token("hello", finish="stop"),
        event("result", {"success": True, "output": ""}),
        token("\n" * 9000) + token("\n" * 9000) + END,
    ],
)
def test_a_stream_that_breaks_the_format_is_malformed(pieces: bytes) -> None:
    assert type(misread(pieces)) is MalformedAnswer


def test_an_error_event_that_is_not_json_is_malformed_and_one_that_is_a_text_is_read() -> None:
    assert type(misread(b"event: error\ndata: boom\n\n")) is MalformedAnswer
    assert type(misread(b'event: error\ndata: "rate limit exceeded"\n\n')) is RateLimited


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=400))
def test_garbage_gives_an_answer_or_a_typed_error(garbage: bytes) -> None:
    for pieces in ((garbage,), (HELLO, garbage, b"\n\n", END)):
        try:
            read(*pieces)
        except ProviderError:
            continue


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = [
    "output",
    "success",
    "error",
    "receipt",
    "ftns_charged",
    "quality_score",
    "token_usage",
    "results",
    "response",
    "status",
]


@settings(deadline=None, max_examples=400)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_json_type_in_any_field_gives_an_answer_or_a_typed_error(fields: dict[str, object]) -> None:
    try:
        _, usage = read(HELLO, event("result", result("hello") | fields))
    except ProviderError:
        return
    assert usage.credits is None or usage.credits >= 0
    assert usage.quality is None or 0 <= usage.quality <= 1


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("stop", Finish.STOP), ("max_tokens", Finish.LENGTH), ("length", Finish.LENGTH), ("odd", Finish.UNKNOWN)],
)
def test_the_reason_for_the_end_is_told_in_our_words(
    provider: PRSM, vendor: FakePRSM, http: httpx.Client, reason: str, finish: Finish
) -> None:
    vendor.finish = reason
    assert answer(provider, http)[1].finish is finish


def test_an_empty_answer_that_used_up_the_cap_says_so_and_keeps_the_charge() -> None:
    error = misread(token("", finish="max_tokens"), event("result", result("")))
    assert type(error) is MalformedAnswer
    assert "cap" in error.message
    assert error.usage is not None
    assert error.usage.credits == Decimal("0.0425")


def test_hanging_up_in_the_middle_ends_the_call_at_the_node(provider: PRSM, vendor: FakePRSM, http: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        while not vendor.stopping.wait(0.005):
            yield token("word ")

    vendor.script = endless
    with closing(provider.stream(call(), http)) as stream:  # type: ignore[type-var]
        assert next(stream) == Text("word ")
    vendor.wait_until(lambda: len(vendor.abandoned) == 1)


# -- what is charged -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("document", "charged"),
    [
        ({"ftns_charged": 3, "receipt": {"cost_ftns": "9"}}, "3"),
        ({"cost_ftns": 0.1}, "0.1"),
        ({"receipt": {"cost_ftns": "0.000000000000000001"}}, "0.000000000000000001"),
        ({"ftns_cost": 1.5}, "1.5"),
        ({"ftnsCost": 2}, "2"),
        ({"results": {"ftns_charged": 4}}, "4"),
        ({"ftns_charged": 0}, "0"),
        ({"ftns_charged": -1}, None),
        ({"ftns_charged": -1, "cost_ftns": "2"}, "2"),
        ({"ftns_charged": True}, None),
        ({"ftns_charged": "many"}, None),
        ({"ftns_charged": "1e999999"}, None),
        ({"ftns_charged": "1e-999999"}, None),
        ({"ftns_charged": "٣"}, None),
        ({"ftns_charged": "1_000"}, None),
        ({"ftns_charged": float("nan")}, None),
        ({"ftns_charged": float("inf")}, None),
        ({"ftns_charged": 10**15}, None),
        ({"ftns_charged": [1]}, None),
        ({"costEstimate": {"ftnsTokens": 9}}, None),
        ({}, None),
    ],
)
def test_the_charge_is_taken_from_the_first_place_that_holds_one(document: dict[str, object], charged: str | None) -> None:
    usage = read(json.dumps({"output": "hello"} | document).encode(), dollars=Decimal("0.5"))[1]
    expected = None if charged is None else Decimal(charged)
    assert usage.credits == expected
    assert usage.cost_usd == (None if expected is None else expected * Decimal("0.5"))


@pytest.mark.parametrize(
    ("document", "score"),
    [
        ({"quality_score": 0.5, "confidence_score": 0.9}, 0.5),
        ({"confidence_score": 0.9}, 0.9),
        ({"quality_score": 92}, 0.92),
        ({"quality_score": 1}, 1.0),
        ({"quality_score": 0}, 0.0),
        ({"quality_score": 100}, 1.0),
        ({"quality_score": 101}, None),
        ({"quality_score": -0.1}, None),
        ({"quality_score": "0.5", "confidence_score": 0.25}, 0.25),
        ({"quality_score": True}, None),
        ({"quality_score": float("nan")}, None),
        ({"quality_score": 10**400}, None),
        ({"processing_time": 0.5, "reasoning_trace": [1]}, None),
    ],
)
def test_a_score_is_between_0_and_1_or_unknown(document: dict[str, object], score: float | None) -> None:
    assert read(json.dumps({"output": "hello"} | document).encode())[1].quality == score


@given(st.floats() | st.integers() | st.booleans() | st.none() | st.text(max_size=4))
def test_no_score_is_ever_invented(value: object) -> None:
    found = quality(value)
    assert found is None or 0 <= found <= 1


@given(st.text(max_size=12) | st.floats() | st.integers())
def test_any_value_as_an_amount_is_read_without_an_error(value: object) -> None:
    found = amount(value)
    assert found is None or 0 <= found <= 10**9


# -- sessions --------------------------------------------------------------------------------------------------------
@pytest.fixture
def hosted(vendor: FakePRSM) -> PRSM:
    vendor.dialect = "hosted-js"
    return prsm(vendor.settings)


SESSIONS = "/api/v1/nwtn/sessions"


def test_a_look_up_that_fails_once_does_not_lose_the_session(hosted: PRSM, vendor: FakePRSM, http: httpx.Client) -> None:
    vendor.lookups = 1
    vendor.faults += [Fault(SESSIONS, status=503), Fault(SESSIONS, drop=True)]
    assert answer(hosted, http)[0] == vendor.text
    assert len(vendor.calls) == 1


def test_look_ups_that_fail_on_and_on_end_the_call_and_cancel_the_session(
    hosted: PRSM, vendor: FakePRSM, http: httpx.Client
) -> None:
    vendor.faults += [Fault(SESSIONS, status=503)] * 3
    assert type(failure(hosted, http)) is Unavailable
    assert vendor.cancelled == ["session-0"]


def test_a_look_up_that_is_refused_ends_the_call(hosted: PRSM, vendor: FakePRSM, http: httpx.Client) -> None:
    vendor.faults.append(Fault(SESSIONS, status=401))
    assert type(failure(hosted, http)) is BadCredentials


def test_a_session_that_takes_too_long_is_given_up_in_time_and_cancelled(
    hosted: PRSM, vendor: FakePRSM, http: httpx.Client
) -> None:
    vendor.lookups = 10**9
    started = time.monotonic()
    assert type(failure(hosted, http, timeout_s=1.5)) is TimedOut
    assert time.monotonic() - started < 1.5
    assert vendor.cancelled == ["session-0"]


def test_a_wait_that_the_service_asks_for_is_kept(hosted: PRSM, vendor: FakePRSM, http: httpx.Client) -> None:
    vendor.faults.append(Fault(SESSIONS, status=429, headers={"Retry-After": "600"}))
    error = failure(hosted, http, timeout_s=3.0)
    assert type(error) is TimedOut
    assert sum(r.method == "GET" for r in vendor.requests) == 1


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ({"status": "failed", "error": "Not enough FTNS"}, OutOfCredit),
        ({"status": "failed"}, Unavailable),
        ({"status": "FAILED", "results": {"error": "blocked by the content filter"}}, RefusedByPolicy),
        ({"status": "cancelled"}, Unavailable),
        ({"status": "completed", "results": {}}, MalformedAnswer),
        ({"status": "completed", "results": None}, MalformedAnswer),
    ],
)
def test_a_session_that_ends_badly_is_the_right_typed_error(
    hosted: PRSM, vendor: FakePRSM, http: httpx.Client, told: dict[str, object], kind: type[ProviderError]
) -> None:
    vendor.lookups = 1
    vendor.more = told
    assert type(failure(hosted, http)) is kind
    assert vendor.cancelled == []


@pytest.mark.parametrize("name", ["..", "../admin", "a/b", "", "x" * 200, "a b", None, 7, "?x", "%2e%2e"])
def test_an_id_that_could_lead_elsewhere_is_not_looked_up(
    hosted: PRSM, vendor: FakePRSM, http: httpx.Client, name: object
) -> None:
    vendor.faults.append(Fault(status=200, body=json.dumps({"sessionId": name, "status": "queued"}).encode()))
    assert type(failure(hosted, http)) is MalformedAnswer
    assert len(vendor.requests) == 1


def test_a_service_that_answers_at_once_is_not_looked_up(hosted: PRSM, vendor: FakePRSM, http: httpx.Client) -> None:
    vendor.faults.append(Fault(status=200, body=b'{"content": "hello", "requestId": "r", "tokenUsage": {"promptTokens": 3}}'))
    text, usage = answer(hosted, http)
    assert (text, usage.input_tokens, usage.output_tokens, usage.vendor_request_id) == ("hello", 3, None, "r")
    assert len(vendor.requests) == 1


# -- check, models, settings -----------------------------------------------------------------------------------------
def test_a_check_of_a_node_tells_the_balance_and_makes_no_call(provider: PRSM, vendor: FakePRSM, http: httpx.Client) -> None:
    health = provider.check(http)
    assert health.ok, health
    assert health.balance == "1,234.5 FTNS"
    assert vendor.calls == []
    assert [r.path for r in vendor.requests] == ["/health", "/compute/models", "/balance"]


@pytest.mark.parametrize(
    "fault", [Fault("/balance", status=403), Fault("/balance", status=200, body=b"[]"), Fault("/balance", drop=True)]
)
def test_a_balance_that_is_not_told_is_no_failure(provider: PRSM, vendor: FakePRSM, http: httpx.Client, fault: Fault) -> None:
    vendor.faults.append(fault)
    health = provider.check(http)
    assert (health.ok, health.balance) == (True, "")


@pytest.mark.parametrize("balance", [-1, "x", None, True, [1], 1e300])
def test_a_balance_that_cannot_be_is_not_shown(provider: PRSM, vendor: FakePRSM, http: httpx.Client, balance: object) -> None:
    vendor.balance = balance
    assert provider.check(http).balance == ""


@pytest.mark.parametrize("dialect", ["platform", "hosted-js", "hosted-go"])
def test_a_check_of_another_dialect_asks_for_its_health_alone(vendor: FakePRSM, http: httpx.Client, dialect: str) -> None:
    vendor.dialect = dialect
    health = prsm(vendor.settings).check(http)
    assert (health.ok, health.balance) == (True, "")
    assert [r.path for r in vendor.requests] == ["/health"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500),
        Fault(status=301),
        Fault(drop=True),
        Fault(status=200, body=b"<html>"),
        Fault(status=200, body=b"[]"),
        Fault(status=200, body=b"[" * 99_999),
        Fault(status=200, body=b'{"status": "unhealthy"}'),
        Fault(status=200, body=b" " * 3_000_000),
    ],
)
def test_a_check_of_what_is_no_healthy_prsm_is_not_ok(
    provider: PRSM, vendor: FakePRSM, http: httpx.Client, fault: Fault
) -> None:
    vendor.faults.append(fault)
    health = provider.check(http)
    assert not health.ok
    assert health.cure


def test_a_check_says_when_the_node_does_not_serve_the_chosen_model(vendor: FakePRSM, http: httpx.Client) -> None:
    health = prsm({**vendor.settings, "PRSM_MODEL": "other"}).check(http)
    assert not health.ok
    assert "nwtn" in health.cure


def test_a_node_lists_its_models_and_the_others_the_configured_one(
    provider: PRSM, vendor: FakePRSM, http: httpx.Client
) -> None:
    assert [m.id for m in provider.models(http)] == ["nwtn", "fake-large"]
    vendor.faults.append(Fault("/compute/models", status=503))
    assert [m.id for m in provider.models(http)] == ["nwtn"]
    vendor.faults.append(Fault("/compute/models", status=200, body=b'{"models": [1, "", null, "a\\u0000b"]}'))
    assert [m.id for m in provider.models(http)] == ["nwtn"]
    vendor.dialect = "platform"
    sent = len(vendor.requests)
    assert [m.id for m in prsm({**vendor.settings, "PRSM_MODEL": "big"}).models(http)] == ["big"]
    assert len(vendor.requests) == sent


def test_nobody_listening_is_unavailable(http: httpx.Client) -> None:
    with FakePRSM() as gone:
        found = prsm(gone.settings)
    assert type(failure(found, http)) is Unavailable
    assert not found.check(http).ok
    with pytest.raises(Unavailable):
        found.models(http)


def test_it_serves_once_its_address_is_set(http: httpx.Client) -> None:
    bare = prsm({})
    assert bare.missing() == "PRSM_API_URL is not set"
    health = bare.check(http)
    assert not health.ok
    assert health.cure
    with pytest.raises(Rejected):
        bare.models(http)
    found = prsm(URL)
    assert found.missing() == ""
    assert (found.name, found.label, found.preference, found.default_model) == ("prsm", "PRSM", 60, "nwtn")
    assert (found.by_name_only, found.probe_needed, found.base_url) == (False, False, "http://localhost:8000")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PRSM_API_URL", "localhost:8000"),
        ("PRSM_API_URL", "ftp://x"),
        ("PRSM_API_URL", "http://x/?a=1"),
        ("PRSM_API_URL", "http://u:p@x"),
        ("PRSM_API_URL", "http://[::1"),
        ("PRSM_API_KEY", "ключ"),
        ("PRSM_API_KEY", "a\nb"),
        ("PRSM_DIALECT", "B"),
        ("PRSM_BUDGET_FTNS", "0"),
        ("PRSM_BUDGET_FTNS", "-1"),
        ("PRSM_BUDGET_FTNS", "much"),
        ("PRSM_BUDGET_FTNS", "nan"),
        ("PRSM_FTNS_USD", "cheap"),
        ("PRSM_FTNS_USD", "-0.1"),
    ],
)
def test_a_setting_that_cannot_be_is_named_and_not_shown(name: str, value: str) -> None:
    missing = prsm({**URL, name: value}).missing()
    assert missing.startswith(f"{name} ")
    assert "ключ" not in missing


@pytest.mark.parametrize("dialect", [*DIALECTS, " Node ", ""])
def test_every_dialect_is_known(dialect: str) -> None:
    assert prsm({**URL, "PRSM_DIALECT": dialect}).missing() == ""


def test_the_variables_are_described() -> None:
    found = {variable.name: variable for variable in prsm({}).environment}
    assert set(found["PRSM_DIALECT"].choices) == set(DIALECTS)
    assert [name for name, variable in found.items() if variable.secret] == ["PRSM_API_KEY"]
    assert all(variable.meaning.endswith(".") for variable in found.values())
    assert (found["PRSM_API_URL"].default, found["PRSM_MODEL"].default) == ("", "nwtn")
    assert (found["PRSM_BUDGET_FTNS"].default, found["PRSM_FTNS_USD"].default) == ("1.0", "")


@pytest.mark.parametrize("before", range(185, 201))
def test_a_key_that_is_echoed_in_no_format_is_not_told_in_part_either(before: int) -> None:
    with pytest.raises(MalformedAnswer) as raised:
        list(Reader("nwtn", KEY).stream([b"x" * before + KEY.encode() + b"\n"]))
    assert KEY[:4] not in f"{raised.value.detail} {raised.value.__cause__!r}"
