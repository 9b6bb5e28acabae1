"""Ollama by its own API: what is sent, what is understood, and what every failure becomes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import pairwise

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.providers.ollama import SHOW_CALLS, Ollama, register_providers
from plugins.providers.ollama.addresses import base_url, is_local
from plugins.providers.ollama.installed import read_show, read_tags, same_name
from plugins.providers.ollama.wire import Answer, context_needed
from tests.fakes.ollama import FakeOllama, last_line, line, text_line, whole_stream
from tests.fakes.server import Fault
from tests.fakes.vendor import KEY, Reported, Trouble, tiny_png
from webapp.plugin import (
    BadCredentials,
    Capability,
    ContextTooLong,
    Finish,
    JsonOutput,
    MalformedAnswer,
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
    is_usable_url,
)
from webapp.routing.http import build_client, call_limits

UNICODE = "Grüße, 世界! 👩‍🚀 naïve — ok"
HELLO = line(text_line("hello"))
END = line(last_line())
PNG = Picture("image/png", tiny_png())


def ollama(values: Mapping[str, str]) -> Ollama:
    [found] = register_providers(values)
    assert isinstance(found, Ollama)
    return found


def call(text: str = "Say hello to me", **changes: object) -> TextCall:
    turns = (Turn(Role.SYSTEM, "Be brief."), Turn(Role.USER, text))
    values = {"request_id": "r1", "model": "fake-model", "turns": turns, "max_output_tokens": 200, "timeout_s": 20.0}
    return TextCall(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with build_client() as client:
        yield client


@pytest.fixture
def vendor(http: httpx.Client) -> Iterator[FakeOllama]:
    with FakeOllama() as fake:
        yield fake


@pytest.fixture
def provider(vendor: FakeOllama) -> Ollama:
    return ollama(vendor.settings)


def answer(provider: Ollama, http: httpx.Client, **changes: object) -> tuple[str, Usage]:
    with call_limits(20, 10), closing(provider.stream(call(**changes), http)) as stream:  # type: ignore[arg-type, type-var]
        *pieces, usage = stream
    assert pieces
    assert all(isinstance(piece, Text) and piece.text for piece in pieces)
    assert isinstance(usage, Usage)
    return "".join(piece.text for piece in pieces if isinstance(piece, Text)), usage


def failure(provider: Ollama, http: httpx.Client, silence_s: float = 5.0, **changes: object) -> ProviderError:
    with call_limits(8, silence_s), pytest.raises(ProviderError) as raised:
        list(provider.stream(call(**changes), http))  # type: ignore[arg-type]
    error = raised.value
    assert error.message
    assert KEY not in f"{error.message} {error.detail} {error!r} {error.__cause__!r}"
    assert len(error.detail) <= 500
    return error


def read(*pieces: bytes) -> tuple[str, Usage]:
    *texts, usage = Answer("m", KEY).read(pieces)
    assert isinstance(usage, Usage)
    return "".join(piece.text for piece in texts if isinstance(piece, Text)), usage


def misread(*pieces: bytes) -> ProviderError:
    with pytest.raises(ProviderError) as raised:
        list(Answer("m", KEY).read(pieces))
    assert KEY not in f"{raised.value} {raised.value.detail}"
    return raised.value


# -- what is sent ----------------------------------------------------------------------------------------------------
def test_the_body_says_what_the_call_says(provider: Ollama, vendor: FakeOllama, http: httpx.Client) -> None:
    text, usage = answer(provider, http, temperature=0.25, stop=("a", "b"), person_ref="hash")
    assert text == vendor.text
    assert vendor.calls == [
        {
            "model": "fake-model",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Say hello to me"},
            ],
            "stream": True,
            "truncate": False,
            "think": False,
            "options": {"num_predict": 200, "num_ctx": 4096, "temperature": 0.25, "stop": ["a", "b"]},
        }
    ]
    assert vendor.requests[-1].header("Authorization") == f"Bearer {KEY}"
    assert vendor.reported == [Reported("fake-model", 6, 8)]
    assert (usage.input_tokens, usage.output_tokens, usage.finish) == (6, 8, Finish.STOP)
    assert usage.model == "fake-model"


def test_without_a_key_no_authorization_is_sent(vendor: FakeOllama, http: httpx.Client) -> None:
    vendor.key = ""
    answer(ollama({"OLLAMA_HOST": vendor.url, "OLLAMA_MODEL": "fake-model"}), http)
    assert vendor.requests[-1].header("Authorization") == ""


def test_pictures_go_as_bare_base64_with_their_turn(provider: Ollama, vendor: FakeOllama, http: httpx.Client) -> None:
    turns = (Turn(Role.USER, "What is this?", (PNG, PNG)),)
    answer(provider, http, model="fake-vision:7b", turns=turns)
    [message] = vendor.calls[0]["messages"]
    assert [base64.b64decode(image) for image in message["images"]] == [PNG.data] * 2


def test_a_model_that_is_known_to_be_blind_is_not_sent_a_picture(
    provider: Ollama, vendor: FakeOllama, http: httpx.Client
) -> None:
    turns = (Turn(Role.USER, "What is this?", (PNG,)),)
    assert type(failure(provider, http, turns=turns)) is Rejected  # the server says so
    sent = len(vendor.requests)
    provider.models(http)
    error = failure(provider, http, turns=turns)
    assert type(error) is Rejected
    assert "pictures" in error.message
    assert [r.path for r in vendor.requests[sent:]] == ["/api/tags"]


def test_json_is_asked_for_by_format_and_in_words(provider: Ollama, vendor: FakeOllama, http: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"größe": {"type": "integer"}}}
    answer(provider, http, output=JsonOutput())
    answer(provider, http, output=JsonOutput(schema=schema))
    plain, strict = vendor.calls
    assert (plain["format"], strict["format"]) == ("json", schema)
    assert plain["messages"][1]["content"].startswith("Say hello to me\n\n")
    assert "JSON" in plain["messages"][1]["content"]
    assert "größe" in strict["messages"][1]["content"]
    assert plain["messages"][0]["content"] == "Be brief."


@pytest.mark.parametrize(
    ("text", "cap", "known", "size"),
    [
        ("", 1, None, 4096),
        ("x" * 3 * 3896, 200, None, 4096),
        ("x" * 3 * 3897, 200, None, 8192),
        ("x" * 30_000, 4096, None, 16_384),
        ("世" * 4000, 200, None, 8192),
        ("x" * 30_000, 200, 8192, 8192),
        ("x", 200, 2048, 2048),
        ("x", 200, 131_072, 4096),
        ("x", 10**12, None, 1_048_576),
        ("x", -5, None, 4096),
    ],
)
def test_the_context_that_is_asked_for_fits_what_is_sent(text: str, cap: int, known: int | None, size: int) -> None:
    made = call(turns=(Turn(Role.USER, text),), max_output_tokens=cap)
    assert context_needed(made, known) == size


def test_a_picture_needs_room_in_the_context_too() -> None:
    assert context_needed(call(turns=(Turn(Role.USER, "", (PNG, PNG, PNG)),)), None) == 8192


def test_the_context_grows_only_to_what_the_model_is_known_to_read(
    provider: Ollama, vendor: FakeOllama, http: httpx.Client
) -> None:
    long = "x" * 90_000
    answer(provider, http, text=long)
    provider.models(http)
    answer(provider, http, text=long)
    assert [body["options"]["num_ctx"] for body in vendor.calls] == [32_768, 8192]


def test_lone_surrogates_in_a_turn_do_not_break_the_call(provider: Ollama, vendor: FakeOllama, http: httpx.Client) -> None:
    answer(provider, http, text="a\ud83db")
    assert vendor.calls[0]["messages"][1]["content"] == "a?b"


# -- fields that a model refuses -------------------------------------------------------------------------------------
def test_a_model_that_refuses_to_be_told_not_to_think_is_not_told_again(
    provider: Ollama, vendor: FakeOllama, http: httpx.Client
) -> None:
    vendor.refuse = {"think"}
    answer(provider, http)
    answer(provider, http)
    assert len(vendor.requests) == 3
    assert all("think" not in body for body in vendor.calls)


def test_a_schema_that_the_server_refuses_is_asked_for_in_words_alone_and_the_next_one_is_tried_again(
    provider: Ollama, vendor: FakeOllama, http: httpx.Client
) -> None:
    vendor.refuse = {"format", "think"}
    answer(provider, http, output=JsonOutput(schema={"type": "weird"}))
    assert "weird" in vendor.calls[0]["messages"][1]["content"]
    vendor.refuse = set()
    answer(provider, http, output=JsonOutput())
    assert ["format" in body for body in vendor.calls] == [False, True]


def test_a_refusal_of_something_that_was_not_sent_is_final(provider: Ollama, vendor: FakeOllama, http: httpx.Client) -> None:
    vendor.faults += [Fault(status=400, body=b'{"error": "the format is odd"}')] * 2
    assert type(failure(provider, http)) is Rejected
    assert len(vendor.requests) == 1


# -- failures --------------------------------------------------------------------------------------------------------
def said(words: object) -> bytes:
    return json.dumps({"error": words}).encode()


STATUSES: list[tuple[Fault, type[ProviderError]]] = [
    (Fault(status=301, headers={"Location": "/elsewhere"}), Rejected),
    (Fault(status=400, body=said("what is this?")), Rejected),
    (Fault(status=400, body=b""), Rejected),
    (Fault(status=400, body=b"\xff\xfe<html>" * 9000), Rejected),
    (Fault(status=400, body=b"[" * 50_000), Rejected),
    (Fault(status=400, body=said({"message": "the prompt exceeds the available context size"})), ContextTooLong),
    (Fault(status=400, body=said("the input length exceeds the context length")), ContextTooLong),
    (Fault(status=400, body=said("the prompt is longer than the context length currently available")), ContextTooLong),
    (Fault(status=500, body=said("input length (9 tokens) exceeds the model's maximum context length (4)")), ContextTooLong),
    (Fault(status=500, body=said("context deadline exceeded")), Unavailable),
    (Fault(status=500, body=said("cannot allocate memory for a context size of 32768")), Unavailable),
    (Fault(status=401, body=json.dumps({"error": "unauthorized", "signin_url": f"https://x/{KEY}"}).encode()), BadCredentials),
    (Fault(status=401, body=said(f"the key {KEY} is wrong")), BadCredentials),
    (Fault(status=402, body=said("pay")), ProviderError),
    (Fault(status=403), BadCredentials),
    (Fault(status=404, body=said("model 'fake-model' not found")), Rejected),
    (Fault(status=404, body=b"404 page not found"), Rejected),
    (Fault(status=413), ContextTooLong),
    (Fault(status=429, body=said("too many requests")), RateLimited),
    (Fault(status=499, body=said("request canceled")), Unavailable),
    (Fault(status=500, body=json.dumps({"StatusCode": 500, "Status": "500", "error": "boom"}).encode()), Unavailable),
    (Fault(status=502, body=b"<html>Bad Gateway</html>"), Unavailable),
    (Fault(status=503, body=said("server busy, please try again. maximum pending requests exceeded")), Unavailable),
    (Fault(status=504), TimedOut),
    (Fault(status=500, body=b"x" * 1000, cut_after_bytes=10), Unavailable),
]


@pytest.mark.parametrize(("fault", "kind"), STATUSES)
def test_a_failing_status_is_the_right_typed_error(
    provider: Ollama, vendor: FakeOllama, http: httpx.Client, fault: Fault, kind: type[ProviderError]
) -> None:
    vendor.faults.append(fault)
    error = failure(provider, http)
    assert isinstance(error, kind)
    assert kind is ProviderError or type(error) is kind
    assert error.status == fault.status


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (Trouble.RATE_LIMITED, RateLimited),
        (Trouble.OVERLOADED, Unavailable),
        (Trouble.DOWN, Unavailable),
        (Trouble.BAD_KEY, BadCredentials),
        (Trouble.NO_MODEL, Rejected),
        (Trouble.TOO_LONG, ContextTooLong),
        (Trouble.BAD_REQUEST, Rejected),
    ],
)
def test_each_trouble_of_the_vendor_is_the_right_typed_error(
    provider: Ollama, vendor: FakeOllama, http: httpx.Client, trouble: Trouble, kind: type[ProviderError]
) -> None:
    fault = vendor.trouble(trouble)
    assert fault is not None
    vendor.faults.append(fault)
    error = failure(provider, http)
    assert type(error) is kind
    assert error.retry_after_s == (7.0 if fault.headers else None)


def test_a_model_that_is_not_there_is_named_with_the_command_that_gets_it(
    provider: Ollama, vendor: FakeOllama, http: httpx.Client
) -> None:
    error = failure(provider, http, model="llama9\x1b[31m")
    assert type(error) is Rejected
    assert "ollama pull llama9[31m" in error.message


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(drop=True), Unavailable),
        (Fault(garbage=b"\x00\x01 this is not HTTP\r\n\r\n"), MalformedAnswer),
        (Fault(hang=True), TimedOut),
        (Fault(status=200, body=b"<html><body>It works!</body></html>"), MalformedAnswer),
        (Fault(status=200, body=b"Ollama is running"), MalformedAnswer),
        (Fault(status=200, body=b""), MalformedAnswer),
        (Fault(status=200, body=b"null"), MalformedAnswer),
        (Fault(status=200, body=b"[1, 2]"), MalformedAnswer),
        (Fault(status=200, body=b'{"message": '), MalformedAnswer),
        (Fault(status=200, body=b'{"hello": 1}'), MalformedAnswer),
        (Fault(status=200, body=b'{"done": "true", "message": {"content": "x"}}'), MalformedAnswer),
        (Fault(status=200, body=b"{" + b'"a":{' * 50_000), MalformedAnswer),
        (Fault(status=200, body=b"\xff\xfe\x00" * 99), MalformedAnswer),
        (Fault(status=200, body=b'{"a": "' + b"x" * 5_000_000), MalformedAnswer),
        (Fault(status=200, body=b'{"a": ' + b"9" * 9000 + b"}"), MalformedAnswer),
    ],
)
def test_a_broken_answer_is_the_right_typed_error(
    provider: Ollama, vendor: FakeOllama, http: httpx.Client, fault: Fault, kind: type[ProviderError]
) -> None:
    vendor.faults.append(fault)
    assert type(failure(provider, http, silence_s=0.15 if fault.hang else 5)) is kind


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("an error was encountered while running the model: unexpected EOF", Unavailable),
        ("the input length exceeds the context length", ContextTooLong),
        ("you have reached your usage limit", RateLimited),
        ("model 'x' not found, try pulling it first", Rejected),
        ("unauthorized", BadCredentials),
        ("context deadline exceeded", TimedOut),
        ("flagged by the content policy", RefusedByPolicy),
        ({"message": "the prompt is too long", "code": 400}, ContextTooLong),
        ({"code": 7}, Unavailable),
        (["x"], Unavailable),
        (f"no such key: {KEY}", Unavailable),
        (True, Unavailable),
    ],
)
@pytest.mark.parametrize("before", [b"", HELLO])
def test_an_error_line_in_a_stream_under_status_200_is_an_error(
    words: object, kind: type[ProviderError], before: bytes
) -> None:
    assert type(misread(before, line({"error": words}), END)) is kind


def test_a_null_error_is_none() -> None:
    assert read(line(text_line("hello") | {"error": None}), END)[0] == "hello"


def test_a_stream_that_stops_in_the_middle_is_an_error_after_its_pieces(
    provider: Ollama, vendor: FakeOllama, http: httpx.Client
) -> None:
    vendor.script = lambda: iter([HELLO, HELLO])
    stream = provider.stream(call(), http)
    assert [next(stream), next(stream)] == [Text("hello"), Text("hello")]
    with pytest.raises(MalformedAnswer, match="not a valid answer"):
        next(stream)


# -- answers ---------------------------------------------------------------------------------------------------------
WHOLE = whole_stream(UNICODE + "\nbye")


def test_an_answer_cut_at_any_byte_is_incomplete_and_never_anything_else() -> None:
    for at in range(len(WHOLE) - 1):
        assert type(misread(WHOLE[:at])) is MalformedAnswer, f"cut at byte {at}"
    assert read(WHOLE[:-1])[0] == UNICODE + "\nbye"  # only the last line feed is missing


def test_a_connection_cut_in_the_middle_is_an_error(provider: Ollama, vendor: FakeOllama, http: httpx.Client) -> None:
    vendor.faults.append(Fault(cut_after_bytes=150))
    assert type(failure(provider, http)) is MalformedAnswer


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(0, len(WHOLE)), max_size=12))
def test_an_answer_reads_the_same_however_it_is_cut_into_packets(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(WHOLE)]
    text, usage = read(*(WHOLE[a:b] for a, b in pairwise(edges)))
    assert text == UNICODE + "\nbye"
    assert (usage.input_tokens, usage.finish) == (26, Finish.STOP)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_characters_cut_between_packets_arrive_whole(
    provider: Ollama, vendor: FakeOllama, http: httpx.Client, size: int
) -> None:
    vendor.script = lambda: (WHOLE[at : at + size] for at in range(0, len(WHOLE), size))
    assert answer(provider, http)[0] == UNICODE + "\nbye"


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=400))
def test_garbage_gives_an_answer_or_a_typed_error(garbage: bytes) -> None:
    for pieces in ((garbage,), (HELLO, garbage, b"\n", END)):
        try:
            read(*pieces)
        except ProviderError:
            continue


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(st.sampled_from(["message", "error", "done", "done_reason", "model", "eval_count"]), JSON), JSON, JSON)
def test_any_json_type_in_any_field_gives_an_answer_or_a_typed_error(
    fields: dict[str, object], content: object, reason: object
) -> None:
    try:
        _, usage = read(line(text_line(content, thinking=reason) | fields), line(last_line() | {"done_reason": reason}))
    except ProviderError:
        return
    assert usage.input_tokens is None


def test_a_server_that_does_not_stream_is_understood(provider: Ollama, vendor: FakeOllama, http: httpx.Client) -> None:
    vendor.streams = False
    text, usage = answer(provider, http)
    assert text == vendor.text
    assert (usage.input_tokens, usage.output_tokens) == (6, 8)


def test_a_document_that_is_laid_out_over_lines_is_understood() -> None:
    document = last_line(eval_count=3) | {"message": {"role": "assistant", "content": UNICODE}}
    text, usage = read(json.dumps(document, indent=2).encode())
    assert (text, usage.output_tokens) == (UNICODE, 3)


GOOD = {
    "carriage returns": (HELLO + END).replace(b"\n", b"\r\n"),
    "empty lines": b"\n \n" + HELLO + b"\n\n" + END,
    "a byte order mark": b"\xef\xbb\xbf" + HELLO + END,
    "no last line feed": (HELLO + END).rstrip(b"\n"),
    "thoughts before the text": line(text_line("", thinking="hmm")) + HELLO + END,
    "unknown lines": line({"status": "loading"}) + HELLO + END,
    "garbage in places that do not matter": line({"message": [3], "model": 5, "done": None}) + HELLO + END,
    "control characters": line(text_line("he\x00l\x1blo")) + END,
    "a blank beginning": line(text_line(" \n")) + line(text_line("\n")) + HELLO + END,
    "text in the last line": line(last_line() | {"message": {"content": "hello"}}),
    "after the end": HELLO + END + HELLO + line({"error": "late"}),
}


@pytest.mark.parametrize("name", GOOD)
def test_an_odd_but_readable_answer_is_read(name: str) -> None:
    text, usage = read(GOOD[name])
    assert text.strip() == "hello"
    assert (usage.input_tokens, usage.output_tokens) == (None, None)


def test_a_surrogate_pair_in_two_lines_is_one_character() -> None:
    first = b'{"message":{"content":"hello\\ud83d"}}\n'
    assert read(first, b'{"message":{"content":"\\ude00"}}\n', END)[0] == "hello😀"


@pytest.mark.parametrize(
    ("told", "understood"),
    [
        ({"prompt_eval_count": 10, "eval_count": 5}, (10, 5)),
        ({"eval_count": 5}, (None, 5)),
        ({"prompt_eval_count": -1, "eval_count": 10**15}, (None, None)),
        ({"prompt_eval_count": True, "eval_count": "7"}, (None, None)),
        ({"prompt_eval_count": 3.0, "eval_count": 2.5}, (3, None)),
        ({"prompt_eval_count": None, "eval_count": []}, (None, None)),
        ({"prompt_eval_count": float("nan"), "eval_count": float("inf")}, (None, None)),
    ],
)
def test_counts_that_cannot_be_are_unknown(told: dict[str, object], understood: tuple[int | None, int | None]) -> None:
    usage = read(HELLO, line(last_line(**told)))[1]
    assert (usage.input_tokens, usage.output_tokens) == understood


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("stop", Finish.STOP), ("length", Finish.LENGTH), ("load", Finish.UNKNOWN), (None, Finish.UNKNOWN), (7, Finish.UNKNOWN)],
)
def test_the_reason_for_the_end_is_told_in_our_words(reason: object, finish: Finish) -> None:
    assert read(HELLO, line(last_line() | {"done_reason": reason}))[1].finish is finish


def test_a_tool_that_the_model_asks_for_is_told() -> None:
    tool = text_line("hello", tool_calls=[{"function": {"name": "x"}}])
    assert read(line(tool), END)[1].finish is Finish.TOOL
    assert "tool" in misread(line(text_line("", tool_calls=[{}])), END).message


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([END], "empty"),
        ([line(text_line(" \n ")), END], "empty"),
        ([line(last_line(reason="load"))], "empty"),
        ([line(text_line("", thinking="hm")), line(last_line(reason="length"))], "cap"),
    ],
)
def test_an_empty_answer_is_an_error_that_says_why(pieces: list[bytes], words: str) -> None:
    error = misread(*pieces)
    assert type(error) is MalformedAnswer
    assert words in error.message


def test_what_was_counted_for_an_empty_answer_is_kept() -> None:
    error = misread(line(last_line(reason="length", prompt_eval_count=9, eval_count=200)))
    assert error.usage is not None
    assert (error.usage.input_tokens, error.usage.output_tokens) == (9, 200)


def test_blanks_without_end_are_given_up() -> None:
    assert type(misread(*[line(text_line("\n" * 1000))] * 20)) is MalformedAnswer


def test_what_an_answer_said_is_not_in_the_error_of_its_broken_line() -> None:
    assert "secret words" not in misread(HELLO, b'{"message": {"content": "secret words\n').detail


def test_hanging_up_in_the_middle_ends_the_call_at_the_server(provider: Ollama, vendor: FakeOllama, http: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        while not vendor.stopping.wait(0.005):
            yield line(text_line("word "))

    vendor.script = endless
    with closing(provider.stream(call(), http)) as stream:  # type: ignore[type-var]
        assert next(stream) == Text("word ")
    vendor.wait_until(lambda: len(vendor.abandoned) == 1)


def test_thoughts_count_as_output_where_the_server_counts_them(
    provider: Ollama, vendor: FakeOllama, http: httpx.Client
) -> None:
    vendor.reasoning_tokens = 5
    text, usage = answer(provider, http)
    assert text == vendor.text
    assert usage.output_tokens == 8 + 5


# -- what the server has ---------------------------------------------------------------------------------------------
def test_the_models_that_can_chat_are_listed_with_what_they_can_do(
    provider: Ollama, vendor: FakeOllama, http: httpx.Client
) -> None:
    plain, seeing = provider.models(http)
    assert (plain.id, plain.label) == ("fake-model:latest", "fake-model:latest (3.2B, Q4_K_M)")
    assert plain.context_tokens == 8192
    assert plain.capabilities == {Capability.JSON, Capability.TOOLS}
    assert seeing.capabilities == {Capability.JSON, Capability.VISION}
    assert [r.path for r in vendor.requests] == ["/api/tags"]
    assert provider.model_info("fake-model").capabilities == {Capability.JSON, Capability.TOOLS}
    assert provider.model_info("fake-model").id == "fake-model"
    assert provider.model_info("other").capabilities is None
    assert len(vendor.requests) == 1


def test_a_server_that_lists_no_capabilities_is_asked_once_for_each_model(
    provider: Ollama, vendor: FakeOllama, http: httpx.Client
) -> None:
    vendor.lists_capabilities = False
    for _ in range(2):
        assert [m.id for m in provider.models(http)] == ["fake-model:latest", "fake-vision:7b"]
    assert [r.path for r in vendor.requests] == ["/api/tags", *["/api/show"] * 3, "/api/tags"]
    assert provider.check(http).ok
    assert provider.model_info("fake-vision:7b").capabilities == {Capability.JSON, Capability.VISION}
    assert provider.model_info("fake-vision:7b").context_tokens == 8192


def test_the_number_of_models_that_are_asked_for_is_bounded(provider: Ollama, vendor: FakeOllama, http: httpx.Client) -> None:
    vendor.lists_capabilities = False
    vendor.models = {f"m{number}:latest": ["completion"] for number in range(SHOW_CALLS + 9)}
    found = provider.models(http)
    assert len(found) == SHOW_CALLS + 9
    assert sum(r.path == "/api/show" for r in vendor.requests) == SHOW_CALLS
    assert found[-1].capabilities is None


@pytest.mark.parametrize("fault", [Fault("/api/show", status=500), Fault("/api/show", status=200, body=b"[]")])
def test_a_model_that_cannot_be_described_is_listed_all_the_same(
    provider: Ollama, vendor: FakeOllama, http: httpx.Client, fault: Fault
) -> None:
    vendor.lists_capabilities = False
    del vendor.models["fake-embed-1:latest"]
    vendor.faults.append(fault)
    first, second = provider.models(http)
    assert (first.capabilities, first.context_tokens) == (None, None)
    assert second.capabilities


def test_a_model_of_the_cloud_says_where_it_runs() -> None:
    listed = read_tags({"models": [{"name": "big:cloud", "remote_host": "https://ollama.com:443"}]})
    assert listed is not None
    assert "ollama.com" in listed[0].info.note


@settings(deadline=None, max_examples=200)
@given(JSON, JSON)
def test_any_json_as_a_list_or_a_description_is_read_without_an_error(one: object, two: object) -> None:
    read_tags({"models": one})
    for entry in read_tags({"models": [{"name": "n", "details": one, "capabilities": two, "digest": two}, one]}) or ():
        assert entry.info.id
    read_show({"model_info": one, "capabilities": two})
    read_show({"model_info": {"general.architecture": "f", "f.context_length": two}})


def test_names_are_compared_as_the_server_does() -> None:
    assert same_name("Llama3.2:latest") == same_name(" llama3.2")
    assert same_name("llama3.2:1b") != same_name("llama3.2")


# -- check and defaults ----------------------------------------------------------------------------------------------
def test_a_check_tells_version_and_models_and_makes_no_call(provider: Ollama, vendor: FakeOllama, http: httpx.Client) -> None:
    health = provider.check(http)
    assert health.ok, health
    assert health.detail == "Ollama answers (version 0.23.1); 2 models; fake-model is used by default."
    assert [r.path for r in vendor.requests] == ["/api/version", "/api/tags"]


def test_a_check_finds_the_model_and_says_what_to_do_when_there_is_none(vendor: FakeOllama, http: httpx.Client) -> None:
    vendor.key = ""
    found = ollama({"OLLAMA_HOST": vendor.url})
    assert (found.default_model, found.probe_needed) == ("", True)
    vendor.models = {"nomic-embed-text:latest": ["embedding"]}
    health = found.check(http)
    assert not health.ok
    assert "ollama pull" in health.cure
    with pytest.raises(Rejected, match="ollama pull"):
        list(found.stream(call(model=""), http))
    vendor.lists_capabilities = False
    vendor.models["llama3.2:latest"] = ["completion"]
    assert found.check(http).ok
    assert found.default_model == "llama3.2:latest"
    vendor.models = {"newer:latest": ["completion"], "llama3.2:latest": ["completion"]}
    assert found.check(http).ok
    assert found.default_model == "llama3.2:latest"
    del vendor.models["llama3.2:latest"]
    assert found.check(http).ok
    assert found.default_model == "newer:latest"


def test_without_a_model_the_first_one_that_can_chat_is_used_and_remembered(vendor: FakeOllama, http: httpx.Client) -> None:
    found = ollama({"OLLAMA_HOST": vendor.url, "OLLAMA_API_KEY": KEY})
    for _ in range(2):
        list(found.stream(call(model=""), http))
    assert [body["model"] for body in vendor.calls] == ["fake-model:latest"] * 2
    assert [r.method for r in vendor.requests] == ["GET", "POST", "POST"]


def test_a_check_says_when_the_chosen_model_is_not_there(vendor: FakeOllama, http: httpx.Client) -> None:
    health = ollama({**vendor.settings, "OLLAMA_MODEL": "llama9"}).check(http)
    assert not health.ok
    assert "ollama pull llama9" in health.cure
    assert ollama({**vendor.settings, "OLLAMA_MODEL": "fake-model:latest"}).check(http).ok
    assert ollama({**vendor.settings, "OLLAMA_MODEL": "gpt-oss:120b-cloud"}).check(http).ok


@pytest.mark.parametrize("path", ["/api/version", "/api/tags"])
@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"models": 5}', b'{"models": [1, {}, {"name": 5}], "version": 5}', b"", b"[" * 99_999]
)
def test_a_check_of_a_server_that_is_no_ollama_is_not_ok(
    vendor: FakeOllama, http: httpx.Client, body: bytes, path: str
) -> None:
    vendor.faults.append(Fault(path, status=200, body=body))
    health = ollama(vendor.settings).check(http)
    assert not health.ok
    assert health.cure


def test_a_check_with_a_wrong_key_names_its_variable_and_not_the_key(vendor: FakeOllama, http: httpx.Client) -> None:
    health = ollama({**vendor.settings, "OLLAMA_API_KEY": "wrong-key-1234567890"}).check(http)
    assert not health.ok
    assert "OLLAMA_API_KEY" in health.cure
    assert "wrong-key" not in f"{health}"


def test_a_giant_list_is_not_read_whole(vendor: FakeOllama, http: httpx.Client) -> None:
    vendor.faults.append(Fault("/api/tags", status=200, body=b" " * 9_000_000))
    with pytest.raises(ProviderError):
        ollama(vendor.settings).models(http)


def test_nobody_listening_is_unavailable(http: httpx.Client) -> None:
    with FakeOllama() as gone:
        found = ollama(gone.settings)
    assert type(failure(found, http)) is Unavailable
    health = found.check(http)
    assert not health.ok
    assert "OLLAMA_HOST" in health.cure


def test_only_a_named_server_with_a_named_model_need_not_be_looked_for() -> None:
    assert ollama({}).probe_needed
    assert ollama({"OLLAMA_MODEL": "m"}).probe_needed
    assert ollama({"OLLAMA_HOST": "gpu"}).probe_needed
    assert not ollama({"OLLAMA_HOST": "gpu", "OLLAMA_MODEL": "m"}).probe_needed


def test_it_needs_no_setting_and_says_who_it_is() -> None:
    found = ollama({})
    assert found.missing() == ""
    assert (found.name, found.label, found.preference, found.base_url) == ("ollama", "Ollama", 50, "http://127.0.0.1:11434")
    assert [(v.name, v.secret, v.kind) for v in found.environment] == [
        ("OLLAMA_HOST", False, "url"),
        ("OLLAMA_API_KEY", True, "text"),
        ("OLLAMA_MODEL", False, "model"),
    ]


def test_a_key_that_no_header_can_carry_is_reported_and_not_shown() -> None:
    missing = ollama({"OLLAMA_API_KEY": "sk-ключ"}).missing()
    assert "OLLAMA_API_KEY" in missing
    assert "ключ" not in missing


# -- addresses -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:9999", "http://127.0.0.1:9999"),
        (":9999", "http://127.0.0.1:9999"),
        ("gpu", "http://gpu:11434"),
        ("gpu:1234", "http://gpu:1234"),
        ("gpu:0", "http://gpu:11434"),
        ("gpu:99999999999", "http://gpu:11434"),
        ("http://gpu", "http://gpu:80"),
        ("HTTP://gpu", "http://gpu:80"),
        ("https://gpu.example.com", "https://gpu.example.com:443"),
        ("https://gpu.example.com:8443/ollama/", "https://gpu.example.com:8443/ollama"),
        ("http://gpu:1/v1", "http://gpu:1"),
        ("http://gpu:1/api/", "http://gpu:1"),
        ("http://gpu:1/my-v1", "http://gpu:1/my-v1"),
        ("ollama.com", "https://ollama.com:443"),
        ("ollama.com/api", "https://ollama.com:443"),
        ("::1", "http://[::1]:11434"),
        ("[::]:5", "http://[::1]:5"),
        (" gpu ", "http://gpu:11434"),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(host: str, url: str) -> None:
    assert base_url(host) == url
    assert is_usable_url(url)


@pytest.mark.parametrize("host", ["ftp://gpu", "gpu?x=1", "http://gpu/#x", "http://u:p@gpu:1", "a b", "http://[::z", "x:y:z"])
def test_an_address_that_cannot_be_called_is_reported_by_its_variable(host: str, http: httpx.Client) -> None:
    found = ollama({"OLLAMA_HOST": host})
    assert found.missing() == "OLLAMA_HOST is not an http or https address without user and password"
    assert not found.check(http).ok


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=30))
def test_any_text_as_an_address_is_read_without_an_error(host: str) -> None:
    found = ollama({"OLLAMA_HOST": host})
    assert found.missing() in ("", "OLLAMA_HOST is not an http or https address without user and password")


@pytest.mark.parametrize(
    ("host", "free"),
    [
        ("", True),
        ("192.168.1.7", True),
        ("gpu", True),
        ("gpu.lan", True),
        ("host.docker.internal", True),
        ("[::1]:5", True),
        ("ollama.com", False),
        ("8.8.8.8", False),
        ("https://gpu.example.com", False),
    ],
)
def test_only_a_server_of_the_operators_own_is_free(host: str, free: bool) -> None:
    assert ollama({"OLLAMA_HOST": host}).free_of_charge is free
    assert is_local(base_url(host)) is free


@pytest.mark.parametrize("before", range(185, 201))
def test_a_key_that_is_echoed_in_no_format_is_not_told_in_part_either(before: int) -> None:
    with pytest.raises(MalformedAnswer) as raised:
        list(Answer("m", KEY).read([b"x" * before + KEY.encode() + b"\n"]))
    assert KEY[:4] not in f"{raised.value.detail} {raised.value.__cause__!r}"
