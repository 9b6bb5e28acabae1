"""What the Gemini text provider sends, and what it makes of everything that Google may answer."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.providers.gemini import GeminiImages, GeminiText, register_providers
from plugins.providers.gemini.answer import Answer
from tests.fakes.gemini import QUOTA_WORDS, FakeGemini, blocked, chunk, error_body, event, quota, reason
from tests.fakes.server import Fault
from tests.fakes.vendor import KEY, Trouble, tiny_png
from webapp.plugin import (
    BadCredentials,
    Capability,
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
    VariableKind,
)
from webapp.routing.http import build_client, call_limits

UNICODE = "Grüße, 世界! 👩‍🚀 naïve — ok"
HELLO = event(chunk({"text": "hello"}))
USED = {"promptTokenCount": 6, "candidatesTokenCount": 2, "totalTokenCount": 8}


def text_provider(changes: Mapping[str, str]) -> GeminiText:
    found = next(p for p in register_providers(changes) if isinstance(p, GeminiText))
    assert isinstance(found, GeminiText)
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
def vendor(http: httpx.Client) -> Iterator[FakeGemini]:
    with FakeGemini() as fake:
        yield fake


@pytest.fixture
def gemini(vendor: FakeGemini) -> GeminiText:
    return text_provider(vendor.settings)


def answer(gemini: GeminiText, http: httpx.Client, **changes: object) -> tuple[str, Usage]:
    with call_limits(20, 10):
        *pieces, usage = gemini.stream(call(**changes), http)  # type: ignore[arg-type]
    assert isinstance(usage, Usage)
    assert all(isinstance(piece, Text) and piece.text for piece in pieces)
    return "".join(piece.text for piece in pieces if isinstance(piece, Text)), usage


def failure(gemini: GeminiText, http: httpx.Client, silence_s: float = 5.0, **changes: object) -> ProviderError:
    with call_limits(8, silence_s), pytest.raises(ProviderError) as raised:
        list(gemini.stream(call(**changes), http))  # type: ignore[arg-type]
    error = raised.value
    assert error.message
    assert KEY not in f"{error.message} {error.detail} {error!r} {error.__cause__!r}"
    assert len(error.detail) <= 500
    return error


def sent(vendor: FakeGemini) -> dict[str, Any]:
    """The body of the last call, which Google would have accepted."""
    return vendor.calls[-1]


# -- settings --------------------------------------------------------------------------------------------------------
def test_both_providers_have_one_name_and_share_the_key() -> None:
    text, images = register_providers({"GEMINI_API_KEY": "k"})
    assert isinstance(text, GeminiText)
    assert isinstance(images, GeminiImages)
    assert (text.name, text.label, text.preference, text.price_as) == ("gemini", "Google Gemini", 12, "google")
    assert (images.name, images.preference, images.price_as) == ("gemini", 12, "google")
    assert (text.default_model, images.default_model) == ("gemini-3.5-flash-lite", "gemini-3.1-flash-image")
    assert text.base_url == "https://generativelanguage.googleapis.com/v1beta"
    assert text.missing() == images.missing() == ""


def test_the_variables_say_what_they_hold() -> None:
    [text, images] = register_providers({})
    kinds = {variable.name: (variable.kind, variable.secret) for variable in (*text.environment, *images.environment)}
    assert kinds == {
        "GEMINI_API_KEY": (VariableKind.TEXT, True),
        "GOOGLE_API_KEY": (VariableKind.TEXT, True),
        "GEMINI_BASE_URL": (VariableKind.URL, False),
        "GEMINI_MODEL": (VariableKind.MODEL, False),
        "GEMINI_IMAGE_MODEL": (VariableKind.MODEL, False),
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"GEMINI_API_KEY": ""}, "GEMINI_API_KEY is not set"),
        ({"GEMINI_API_KEY": "  "}, "GEMINI_API_KEY is not set"),
        ({"GEMINI_API_KEY": "ключ"}, "GEMINI_API_KEY holds characters that cannot be sent in a header"),
        ({"GOOGLE_API_KEY": "a\nb"}, "GOOGLE_API_KEY holds characters that cannot be sent in a header"),
        ({"GEMINI_BASE_URL": "ftp://x"}, "GEMINI_BASE_URL is not an http or https address without user and password"),
        ({"GEMINI_BASE_URL": "http://x/?key=1"}, "GEMINI_BASE_URL is not an http or https address without user and password"),
        ({"GEMINI_BASE_URL": "http://[::1"}, "GEMINI_BASE_URL is not an http or https address without user and password"),
    ],
)
def test_what_is_not_right_is_named_by_its_variable_and_a_key_is_not_shown(changes: dict[str, str], words: str) -> None:
    assert text_provider({"GEMINI_API_KEY": "k"} | changes).missing() == words


def test_googles_own_variable_wins_where_both_keys_are_set(vendor: FakeGemini, http: httpx.Client) -> None:
    given = dict(vendor.settings) | {"GEMINI_API_KEY": "another", "GOOGLE_API_KEY": f" {KEY}\n"}
    assert answer(text_provider(given), http)[0]
    assert vendor.requests[-1].header("x-goog-api-key") == KEY


def test_the_key_is_sent_in_a_header_and_never_in_an_address(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client
) -> None:
    answer(gemini, http)
    gemini.models(http)
    assert gemini.check(http).ok
    assert len(vendor.requests) >= 3
    assert all(r.header("x-goog-api-key") == KEY and KEY not in r.target for r in vendor.requests)


# -- what is sent ----------------------------------------------------------------------------------------------------
def test_a_call_has_googles_form(gemini: GeminiText, vendor: FakeGemini, http: httpx.Client) -> None:
    answer(gemini, http)
    assert vendor.requests[-1].target == "/v1beta/models/fake-model:streamGenerateContent?alt=sse"
    assert sent(vendor) == {
        "contents": [{"role": "user", "parts": [{"text": "Say hello to me"}]}],
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "generationConfig": {"maxOutputTokens": 200},
    }


def test_turns_of_one_speaker_in_a_row_become_one_and_empty_ones_are_left_out(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client
) -> None:
    said = [
        ("user", "a"),
        ("user", "b"),
        ("assistant", "c"),
        ("assistant", " "),
        ("system", "S"),
        ("assistant", "d"),
        ("user", "e"),
    ]
    turns = tuple(Turn(Role(role), text) for role, text in said)
    answer(gemini, http, turns=turns)
    assert [(c["role"], [p["text"] for p in c["parts"]]) for c in sent(vendor)["contents"]] == [
        ("user", ["a", "b"]),
        ("model", ["c", "d"]),
        ("user", ["e"]),
    ]
    assert sent(vendor)["systemInstruction"] == {"parts": [{"text": "S"}]}


def test_a_call_with_nothing_to_answer_is_rejected_unasked(gemini: GeminiText, vendor: FakeGemini, http: httpx.Client) -> None:
    assert type(failure(gemini, http, turns=(Turn(Role.SYSTEM, "x"), Turn(Role.USER, " ")))) is Rejected
    assert vendor.requests == []


def test_pictures_are_sent_inside_the_call(gemini: GeminiText, vendor: FakeGemini, http: httpx.Client) -> None:
    turn = Turn(Role.USER, "What is it?", (Picture("image/png", tiny_png()),))
    answer(gemini, http, turns=(turn,))
    picture, question = sent(vendor)["contents"][0]["parts"]
    assert question == {"text": "What is it?"}
    assert picture["inlineData"]["mimeType"] == "image/png"
    assert base64.b64decode(picture["inlineData"]["data"]) == tiny_png()


def test_a_kind_of_picture_that_the_model_does_not_read_is_named(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client
) -> None:
    turn = Turn(Role.USER, "What is it?", (Picture("image/gif", b"GIF89a"),))
    error = failure(gemini, http, turns=(turn,))
    assert type(error) is Rejected
    assert "kind of picture" in error.message


def test_a_schema_is_enforced_by_the_vendor(gemini: GeminiText, vendor: FakeGemini, http: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    answer(gemini, http, output=JsonOutput("x", schema))
    config = sent(vendor)["generationConfig"]
    assert (config["responseMimeType"], config["responseJsonSchema"]) == ("application/json", schema)
    assert len(sent(vendor)["systemInstruction"]["parts"]) == 1


def test_any_json_object_is_asked_for_in_words_too(gemini: GeminiText, vendor: FakeGemini, http: httpx.Client) -> None:
    answer(gemini, http, output=JsonOutput(), turns=(Turn(Role.USER, "x"),))
    assert sent(vendor)["generationConfig"]["responseMimeType"] == "application/json"
    assert "one JSON object" in sent(vendor)["systemInstruction"]["parts"][0]["text"]


def test_at_most_five_stop_sequences_are_sent_and_no_empty_one(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client
) -> None:
    answer(gemini, http, stop=("", *"abcdefg"))
    assert sent(vendor)["generationConfig"]["stopSequences"] == list("abcde")


@pytest.mark.parametrize(
    ("model", "temperature", "thinking"),
    [
        ("fake-model", 0.5, None),
        ("gemma-4-31b-it", 0.5, None),
        ("gemini-2.0-flash", 0.5, None),
        ("gemini-2.5-flash-lite", 0.5, {"thinkingBudget": 0}),
        ("gemini-2.5-pro", 0.5, {"thinkingBudget": 128}),
        ("gemini-3.1-pro-preview", None, {"thinkingLevel": "LOW"}),
        ("gemini-3.5-flash-lite", None, {"thinkingLevel": "MINIMAL"}),
        ("gemini-3.8-flash", None, {"thinkingLevel": "LOW"}),
        ("gemini-4-argon", None, {"thinkingLevel": "LOW"}),
        ("gemini-flash-latest", None, {"thinkingLevel": "LOW"}),
    ],
)
def test_sampling_and_thinking_are_what_the_model_takes(
    gemini: GeminiText,
    vendor: FakeGemini,
    http: httpx.Client,
    model: str,
    temperature: float | None,
    thinking: dict[str, object] | None,
) -> None:
    vendor.models.append(model)
    answer(gemini, http, model=model, temperature=0.5)
    config = sent(vendor)["generationConfig"]
    assert (config.get("temperature"), config.get("thinkingConfig")) == (temperature, thinking)


@pytest.mark.parametrize(
    ("model", "path"),
    [("models/fake-model", "fake-model"), ("", "fake-model"), ("a?b#c:d e", "a%3Fb%23c%3Ad%20e")],
)
def test_a_models_name_goes_safely_into_the_path(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client, model: str, path: str
) -> None:
    vendor.models.append("a?b#c:d e")
    answer(gemini, http, model=model)
    assert vendor.requests[-1].path == f"/v1beta/models/{path}:streamGenerateContent"


@pytest.mark.parametrize("model", ["../files", "a/b", "models/models/x", "a\\b", "..", "a\nb", "a\x00b", "x" * 201])
def test_a_name_that_leads_elsewhere_is_rejected_unasked(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client, model: str
) -> None:
    assert type(failure(gemini, http, model=model)) is Rejected
    assert vendor.requests == []


# -- fields that a model does not take -------------------------------------------------------------------------------
def test_a_field_that_a_model_refuses_is_left_out_and_remembered_for_that_model(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client
) -> None:
    vendor.refuse = {"temperature": "Temperature is not supported for this model."}
    answer(gemini, http, temperature=0.5)
    answer(gemini, http, temperature=0.5)
    assert ["temperature" in body["generationConfig"] for body in vendor.calls] == [True, False, False]
    vendor.refuse = {}
    vendor.models.append("other")
    answer(gemini, http, temperature=0.5, model="other")
    assert sent(vendor)["generationConfig"]["temperature"] == 0.5


def test_a_model_without_json_mode_and_system_instruction_is_told_in_words(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client
) -> None:
    vendor.refuse = {
        "responseMimeType": "JSON mode is not enabled for this model",
        "systemInstruction": "Developer instruction is not enabled for models/fake-model",
    }
    answer(gemini, http, output=JsonOutput("x", {"type": "object"}))
    body = sent(vendor)
    assert "systemInstruction" not in body
    assert "responseJsonSchema" not in body["generationConfig"]
    first, asked, question = (part["text"] for part in body["contents"][0]["parts"])
    assert (first, question) == ("Be brief.", "Say hello to me")
    assert '{"type": "object"}' in asked


def test_a_schema_that_is_too_complex_is_asked_for_in_words_and_the_next_one_is_enforced(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client
) -> None:
    complaint = error_body(400, "INVALID_ARGUMENT", "The specified schema produces too many states for serving.")
    vendor.faults.append(Fault(status=400, body=json.dumps(complaint).encode()))
    for _ in range(2):
        answer(gemini, http, output=JsonOutput("x", {"type": "object"}))
    assert ["responseJsonSchema" in body["generationConfig"] for body in vendor.calls] == [False, True]
    assert "JSON Schema" in vendor.calls[0]["systemInstruction"]["parts"][-1]["text"]


def test_a_way_of_thinking_that_a_model_refuses_is_left_to_the_model(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client
) -> None:
    vendor.refuse = {"thinkingConfig": "Budget 0 is invalid. This model only works in thinking mode."}
    answer(gemini, http, model="gemini-3.5-flash-lite")
    assert "thinkingConfig" not in sent(vendor)["generationConfig"]


def test_a_complaint_about_something_that_was_not_sent_is_final(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client
) -> None:
    complaint = error_body(400, "INVALID_ARGUMENT", "Temperature is not supported for this model.")
    vendor.faults.append(Fault(status=400, body=json.dumps(complaint).encode()))
    assert type(failure(gemini, http)) is Rejected
    assert len(vendor.requests) == 1


# -- answers ---------------------------------------------------------------------------------------------------------
def test_an_answer_has_its_text_its_counts_and_the_vendors_id(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client
) -> None:
    vendor.text = UNICODE
    vendor.reasoning_tokens, vendor.cached_tokens, vendor.thoughts = 7, 4, "Hmm, let me think."
    text, usage = answer(gemini, http)
    assert text == UNICODE
    [told] = vendor.reported
    assert (usage.input_tokens, usage.output_tokens) == (told.input_tokens, told.output_tokens) == (6, 6 + 7)
    assert (usage.cached_tokens, usage.reasoning_tokens) == (4, 7)
    assert (usage.finish, usage.model, usage.vendor_request_id) == (Finish.STOP, "fake-model-001", "fAkE-response-1")


def test_pieces_arrive_one_by_one(gemini: GeminiText, vendor: FakeGemini, http: httpx.Client) -> None:
    got: list[str] = []

    def one_at_a_time() -> Iterator[bytes]:
        for number in range(3):
            yield event(chunk({"text": f"{number}"}))
            vendor.wait_until(lambda: len(got) > number, 5)  # noqa: B023 - waited for at once
        yield event(chunk(finish="STOP"))

    vendor.script = one_at_a_time
    for piece in gemini.stream(call(), http):
        if isinstance(piece, Text):
            got.append(piece.text)
            vendor.notify()
    assert got == ["0", "1", "2"]


END = event(chunk(finish="STOP"))
ANOTHER = {"candidates": [{"index": 1, "content": {"parts": [{"text": "no"}]}}]}
ARRAY = [chunk({"text": "hel"}), chunk({"text": "lo"}, finish="STOP")]
UNSET = chunk({"text": "hello"}, finish="FINISH_REASON_UNSPECIFIED")
GOOD: dict[str, bytes] = {
    "thoughts": event(chunk({"text": "hm", "thought": True})) + HELLO + END,
    "comments": b": hi\n\n" + HELLO + END,
    "line feeds only": (HELLO + END).replace(b"\r\n", b"\n"),
    "no last empty line": HELLO + END.rstrip(),
    "byte order mark": b"\xef\xbb\xbf" + HELLO + END,
    "a gateway's marker": HELLO + END + event("[DONE]"),
    "an array": json.dumps(ARRAY, indent=1).encode(),
    "one document": json.dumps(chunk({"text": "hello"}, finish="STOP")).encode(),
    "an array in an event": event([chunk({"text": "hello"}, finish="STOP")]),
    "another candidate": event(ANOTHER) + HELLO + END,
    "garbage where it does not matter": event({"candidates": [None, 3, {"content": 5}, {"content": {"parts": "x"}}]})
    + event({"candidates": "x", "usageMetadata": [], "modelVersion": 4, "responseId": {}, "promptFeedback": []})
    + event({"candidates": [{"content": {"parts": [None, {"text": 5}, {"thought": True}]}, "finishReason": 5}]})
    + event("null")
    + HELLO
    + END,
    "an unset reason before the real one": event(UNSET) + END,
    "broken after the end": HELLO + END + b'data: {"cand',
    "control characters": event(chunk({"text": "he\x00l\x1blo"}, finish="STOP")),
}


@pytest.mark.parametrize("name", GOOD)
def test_an_odd_but_readable_answer_is_read(gemini: GeminiText, vendor: FakeGemini, http: httpx.Client, name: str) -> None:
    vendor.script = lambda: iter([GOOD[name]])
    text, usage = answer(gemini, http)
    assert text == "hello"
    assert usage.finish is Finish.STOP


def test_half_a_surrogate_pair_waits_for_the_other(gemini: GeminiText, vendor: FakeGemini, http: httpx.Client) -> None:
    first, second = (
        b'data: {"candidates":[{"content":{"parts":[{"text":"%s"}]}}]}\n\n' % half for half in (b"\\ud83d", b"\\ude00")
    )
    vendor.script = lambda: iter([HELLO, first, second, event(chunk(finish="STOP"))])
    assert answer(gemini, http)[0] == "hello😀"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("STOP", Finish.STOP),
        ("MAX_TOKENS", Finish.LENGTH),
        ("SAFETY", Finish.FILTERED),
        ("RECITATION", Finish.FILTERED),
        ("LANGUAGE", Finish.FILTERED),
        ("BLOCKLIST", Finish.FILTERED),
        ("PROHIBITED_CONTENT", Finish.FILTERED),
        ("SPII", Finish.FILTERED),
        ("IMAGE_SAFETY", Finish.FILTERED),
        ("CONTINUATION", Finish.PAUSED),
        ("OTHER", Finish.UNKNOWN),
        ("MALFORMED_RESPONSE", Finish.UNKNOWN),
        ("A_NEW_ONE", Finish.UNKNOWN),
    ],
)
def test_after_visible_text_the_reason_for_the_end_is_told_in_our_words(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client, word: str, expected: Finish
) -> None:
    vendor.finish = word
    text, usage = answer(gemini, http)
    assert (text, usage.finish) == (vendor.text, expected)


def test_a_prompt_that_is_blocked_after_visible_text_ends_the_answer_as_filtered(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client
) -> None:
    vendor.script = lambda: iter([HELLO, event(blocked())])
    assert answer(gemini, http)[1].finish is Finish.FILTERED


def test_a_call_of_a_tool_after_text_is_told(gemini: GeminiText, vendor: FakeGemini, http: httpx.Client) -> None:
    vendor.script = lambda: iter([HELLO, event(chunk({"functionCall": {"name": "f", "args": {}}}, finish="STOP"))])
    assert answer(gemini, http)[1].finish is Finish.TOOL


NOTHING: list[tuple[bytes, type[ProviderError], str]] = [
    (event(blocked("SAFETY")), RefusedByPolicy, "policy"),
    (event(blocked("OTHER")), RefusedByPolicy, "policy"),
    (event(blocked("BLOCKLIST")), RefusedByPolicy, "policy"),
    (event(blocked("IMAGE_SAFETY")), RefusedByPolicy, "policy"),
    (event(blocked("BLOCK_REASON_UNSPECIFIED")), MalformedAnswer, "not a valid answer"),
    (event(chunk(finish="SAFETY")), RefusedByPolicy, "refuses"),
    (event(chunk(finish="RECITATION")), RefusedByPolicy, "refuses"),
    (event(chunk(finish="SPII")), RefusedByPolicy, "refuses"),
    (event(chunk(finish="STOP")), MalformedAnswer, "empty"),
    (event(chunk({"text": " \n "}, finish="STOP")), MalformedAnswer, "empty"),
    (event(chunk({"text": "hm", "thought": True}, finish="STOP")), MalformedAnswer, "empty"),
    (event(chunk(finish="CONTINUATION")), MalformedAnswer, "empty"),
    (event(chunk(finish="MAX_TOKENS")), MalformedAnswer, "allow more tokens"),
    (event(chunk({"functionCall": {"name": "f"}}, finish="STOP")), MalformedAnswer, "tool"),
    (event(chunk(finish="OTHER")), Unavailable, "trouble"),
    (event(chunk(finish="MALFORMED_FUNCTION_CALL")), Unavailable, "trouble"),
    (event(chunk(finish="UNEXPECTED_TOOL_CALL")), Unavailable, "trouble"),
    (event(chunk(finish="A_NEW_ONE")), Unavailable, "trouble"),
]


@pytest.mark.parametrize(("stream", "kind", "words"), NOTHING)
def test_an_answer_without_text_is_the_right_typed_error(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client, stream: bytes, kind: type[ProviderError], words: str
) -> None:
    vendor.script = lambda: iter([stream])
    error = failure(gemini, http)
    assert type(error) is kind
    assert words in error.message


def test_what_was_counted_for_an_answer_that_failed_is_told(gemini: GeminiText, vendor: FakeGemini, http: httpx.Client) -> None:
    counts = {"promptTokenCount": 6, "thoughtsTokenCount": 200, "totalTokenCount": 206}
    vendor.script = lambda: iter([event(chunk(finish="MAX_TOKENS", usage=counts))])
    usage = failure(gemini, http).usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens) == (6, 200, 200)
    vendor.script = lambda: iter([event(blocked())])
    usage = failure(gemini, http).usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (6, 0)
    vendor.script = lambda: iter([event(chunk({"text": "hello"}, usage=USED))])
    usage = failure(gemini, http).usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.vendor_request_id) == (6, 2, "fAkE-response-1")


@pytest.mark.parametrize(
    ("told", "understood"),
    [
        ({"promptTokenCount": 10, "candidatesTokenCount": 5}, (10, 5, 0, 0)),
        ({"promptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 7}, (10, 12, 0, 7)),
        ({"promptTokenCount": 10, "toolUsePromptTokenCount": 3, "candidatesTokenCount": 5}, (13, 5, 0, 0)),
        ({"promptTokenCount": 10, "cachedContentTokenCount": 8, "candidatesTokenCount": 5}, (10, 5, 8, 0)),
        ({"promptTokenCount": 10, "cachedContentTokenCount": 11, "candidatesTokenCount": 5}, (10, 5, 0, 0)),
        ({"promptTokenCount": 10, "totalTokenCount": 15}, (10, 5, 0, 0)),
        ({"promptTokenCount": 10, "thoughtsTokenCount": 4, "totalTokenCount": 15}, (10, 5, 0, 4)),
        ({"promptTokenCount": 10, "thoughtsTokenCount": 4, "totalTokenCount": 14}, (10, None, 0, 0)),
        ({"promptTokenCount": 10, "totalTokenCount": 3}, (10, None, 0, 0)),
        ({"promptTokenCount": 10}, (10, None, 0, 0)),
        ({"promptTokenCount": 10, "thoughtsTokenCount": -4, "candidatesTokenCount": 5}, (10, None, 0, 0)),
        ({"promptTokenCount": -1, "candidatesTokenCount": 10**15}, (None, None, 0, 0)),
        ({"promptTokenCount": 10, "candidatesTokenCount": -1, "totalTokenCount": 15}, (10, None, 0, 0)),
        ({"promptTokenCount": True, "candidatesTokenCount": "7"}, (None, None, 0, 0)),
        ({"promptTokenCount": 3.0, "candidatesTokenCount": 2.5}, (3, None, 0, 0)),
        ({"promptTokenCount": None, "toolUsePromptTokenCount": [], "promptTokensDetails": 5}, (None, None, 0, 0)),
        ({}, (None, None, 0, 0)),
    ],
)
def test_counts_are_told_in_our_convention_and_impossible_ones_are_unknown(
    gemini: GeminiText,
    vendor: FakeGemini,
    http: httpx.Client,
    told: dict[str, object],
    understood: tuple[int | None, int | None, int, int],
) -> None:
    vendor.script = lambda: iter([HELLO, event(chunk(finish="STOP", usage=told))])
    usage = answer(gemini, http)[1]
    assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens) == understood


def test_the_last_counts_are_the_ones_that_count(gemini: GeminiText, vendor: FakeGemini, http: httpx.Client) -> None:
    first = {"promptTokenCount": 6, "candidatesTokenCount": 1}
    vendor.script = lambda: iter(
        [event(chunk({"text": "hel"}, usage=first)), event(chunk({"text": "lo"}, finish="STOP", usage=USED))]
    )
    assert answer(gemini, http)[1].output_tokens == 2


def test_tokens_of_pictures_that_were_read_are_told(gemini: GeminiText, vendor: FakeGemini, http: httpx.Client) -> None:
    told = USED | {
        "promptTokenCount": 300,
        "promptTokensDetails": [{"modality": "IMAGE", "tokenCount": 258}, {"modality": "TEXT"}],
    }
    vendor.script = lambda: iter([event(chunk({"text": "hello"}, finish="STOP", usage=told))])
    assert answer(gemini, http)[1].picture_input_tokens == 258


# -- failures --------------------------------------------------------------------------------------------------------
def failing(status: int, word: str, message: str = "no", *details: Mapping[str, object], listed: bool = False) -> Fault:
    body: object = error_body(status, word, message, *details)
    return Fault(status=status, body=json.dumps([body] if listed else body).encode())


DAILY = quota(
    "GenerateRequestsPerMinutePerProjectPerModel-FreeTier", "GenerateRequestsPerDayPerProjectPerModel-FreeTier", delay="37s"
)
EXHAUSTED, INVALID, FAILED = "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "FAILED_PRECONDITION"
TOO_LONG = "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576)."
STATUSES: list[tuple[Fault, type[ProviderError]]] = [
    (Fault(status=302, headers={"Location": "/elsewhere"}), Rejected),
    (failing(400, INVALID), Rejected),
    (failing(400, INVALID, listed=True), Rejected),
    (failing(400, INVALID, f"API key not valid: {KEY}", reason("API_KEY_INVALID")), BadCredentials),
    (failing(400, INVALID, "Renew it.", reason("API_KEY_INVALID"), listed=True), BadCredentials),
    (failing(400, INVALID, TOO_LONG), ContextTooLong),
    (failing(400, INVALID, "Request payload size exceeds the limit: 20971520 bytes."), ContextTooLong),
    (failing(400, FAILED, "User location is not supported for the API use."), Rejected),
    (failing(400, FAILED, "Please enable billing on project 7."), OutOfCredit),
    (failing(401, "UNAUTHENTICATED", "no", reason("ACCESS_TOKEN_TYPE_UNSUPPORTED")), BadCredentials),
    (failing(402, FAILED), OutOfCredit),
    (failing(403, "PERMISSION_DENIED", f"The key {KEY} was reported as leaked."), BadCredentials),
    (failing(403, "PERMISSION_DENIED", "Enable it.", reason("BILLING_DISABLED")), OutOfCredit),
    (failing(404, "NOT_FOUND"), Rejected),
    (failing(429, EXHAUSTED, QUOTA_WORDS), RateLimited),
    (failing(429, EXHAUSTED, "Your prepayment credits are depleted."), OutOfCredit),
    (failing(500, "INTERNAL"), Unavailable),
    (failing(503, "UNAVAILABLE"), Unavailable),
    (failing(504, "DEADLINE_EXCEEDED"), TimedOut),
    (Fault(status=400, body=b""), Rejected),
    (Fault(status=400, body=b"\xff\xfe<html>" * 9000), Rejected),
    (Fault(status=400, body=b"[" * 50_000), Rejected),
    (Fault(status=400, body=b'{"error": [1, {"message": 5}]}'), Rejected),
    (Fault(status=400, body=b'{"error": {"details": [1, {"reason": 5, "violations": {}}], "message": []}}'), Rejected),
    (Fault(status=400, body=b'{"error": "API key not valid"}'), BadCredentials),
    (Fault(status=413), ContextTooLong),
    (Fault(status=500, body=b"x" * 1000, cut_after_bytes=10), Unavailable),
    (Fault(status=502, body=f"<html>{KEY}</html>".encode()), Unavailable),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "kind"), STATUSES, ids=lambda v: f"{v.status}" if isinstance(v, Fault) else v.__name__)
def test_a_failing_status_is_the_right_typed_error(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client, fault: Fault, kind: type[ProviderError]
) -> None:
    vendor.faults.append(fault)
    error = failure(gemini, http)
    assert type(error) is kind
    assert error.status == fault.status


def test_a_region_that_is_not_served_is_told(gemini: GeminiText, vendor: FakeGemini, http: httpx.Client) -> None:
    vendor.faults.append(failing(400, FAILED, "User location is not supported for the API use."))
    assert "account or region" in failure(gemini, http).message


@pytest.mark.parametrize(
    ("delay", "headers", "seconds"),
    [
        ("37s", {}, 37.0),
        ("0.25s", {}, 0.25),
        ("37s", {"Retry-After": "5"}, 5.0),
        ("999999999s", {}, 86_400.0),
        ("-3s", {}, None),
        ("soon", {}, None),
        ("1e9s", {}, None),
        ("", {}, None),
    ],
)
def test_the_wait_that_google_asks_for_is_passed_on(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client, delay: str, headers: dict[str, str], seconds: float | None
) -> None:
    details = quota("GenerateRequestsPerMinutePerProjectPerModel", delay=delay)
    body = json.dumps(error_body(429, EXHAUSTED, QUOTA_WORDS, *details)).encode()
    vendor.faults.append(Fault(status=429, headers=headers, body=body))
    error = failure(gemini, http)
    assert (error.retry_after_s, error.retryable) == (seconds, True)


def test_a_quota_for_the_whole_day_is_not_asked_for_again_soon(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client
) -> None:
    vendor.faults.append(failing(429, EXHAUSTED, QUOTA_WORDS, *DAILY))
    error = failure(gemini, http)
    assert isinstance(error, RateLimited)
    assert (error.retry_after_s, error.retryable, error.code) == (None, False, "provider_rate_limited")
    assert "PerDay" in error.detail


@pytest.mark.parametrize("kind", list(Trouble))
def test_every_trouble_of_the_fake_is_a_typed_error(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client, kind: Trouble
) -> None:
    expected: dict[Trouble, type[ProviderError]] = {
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
    fault = vendor.trouble(kind)
    assert fault is not None
    vendor.faults.append(fault)
    assert type(failure(gemini, http)) is expected[kind]


def test_a_wrong_key_and_an_unknown_model_are_told_apart(vendor: FakeGemini, http: httpx.Client) -> None:
    wrong = text_provider(dict(vendor.settings) | {"GEMINI_API_KEY": "wrong"})
    assert type(failure(wrong, http)) is BadCredentials
    assert type(failure(text_provider(vendor.settings), http, model="gone")) is Rejected


def plain(value: object) -> bytes:
    """An error as Google writes it into a stream: JSON over several lines, without `data:`."""
    return json.dumps(value, indent=2).encode() + b"\n"


INSIDE: list[tuple[bytes, type[ProviderError]]] = [
    (event(error_body(503, "UNAVAILABLE", "overloaded")), Unavailable),
    (event(error_body(429, EXHAUSTED, QUOTA_WORDS)), RateLimited),
    (event(error_body(400, INVALID, f"bad key {KEY}", reason("API_KEY_INVALID"))), BadCredentials),
    (event({"error": {"status": "DEADLINE_EXCEEDED", "message": "late"}}), TimedOut),
    (event({"error": {"message": TOO_LONG}}), ContextTooLong),
    (event({"error": {"message": f"API key not valid {KEY}"}}), BadCredentials),
    (event({"error": "boom"}), Unavailable),
    (event([error_body(500, "INTERNAL", "boom")]), Unavailable),
    (plain(error_body(503, "UNAVAILABLE", "overloaded")), Unavailable),
    (plain([error_body(429, EXHAUSTED, QUOTA_WORDS)]), RateLimited),
]


@pytest.mark.parametrize(("error", "kind"), INSIDE)
@pytest.mark.parametrize("said", [b"", HELLO], ids=["at once", "after text"])
def test_an_error_inside_an_answer_is_the_right_typed_error(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client, error: bytes, kind: type[ProviderError], said: bytes
) -> None:
    vendor.script = lambda: iter([said + error])
    assert type(failure(gemini, http)) is kind


BROKEN: list[tuple[Fault, type[ProviderError]]] = [
    (Fault(drop=True), Unavailable),
    (Fault(garbage=b"\x00\x01 this is not HTTP\r\n\r\n"), MalformedAnswer),
    (Fault(hang=True), TimedOut),
    (Fault(status=200, body=b""), MalformedAnswer),
    (Fault(status=200, body=b"<html>It works!</html>"), MalformedAnswer),
    (Fault(status=200, body=f"<html>{KEY}</html>".encode()), MalformedAnswer),
    (Fault(status=200, body=b"null"), MalformedAnswer),
    (Fault(status=200, body=b"[]"), MalformedAnswer),
    (Fault(status=200, body=b"[1, null]"), MalformedAnswer),
    (Fault(status=200, body=b"{}"), MalformedAnswer),
    (Fault(status=200, body=b'{"candidates": '), MalformedAnswer),
    (Fault(status=200, body=b"{" + b'"a":{' * 50_000), MalformedAnswer),
    (Fault(status=200, body=b"data: {not json}\n\n"), MalformedAnswer),
    (Fault(status=200, body=b"data: " + b"[" * 50_000 + b"\n\n"), MalformedAnswer),
    (Fault(status=200, body=b"data: " + b"x" * 5_000_000), MalformedAnswer),
    (Fault(status=200, body=b" " * 5_000_000), MalformedAnswer),
    (Fault(status=200, body=b"x\n" * 2_000_000), MalformedAnswer),
    (Fault(status=200, body=b'["' + b"x" * 20_000_000), MalformedAnswer),
    (Fault(status=200, body=b"\xff\xfe\x00" * 99), MalformedAnswer),
]


@pytest.mark.parametrize(("fault", "kind"), BROKEN, ids=lambda v: repr(v)[-60:] if isinstance(v, Fault) else v.__name__)
def test_a_broken_answer_is_the_right_typed_error(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client, fault: Fault, kind: type[ProviderError]
) -> None:
    vendor.faults.append(fault)
    assert type(failure(gemini, http, silence_s=0.15 if fault.hang else 5)) is kind


def test_silence_in_the_middle_is_a_time_out_with_what_was_counted(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client
) -> None:
    def pausing() -> Iterator[bytes]:
        yield event(chunk({"text": "So, "}, usage=USED))
        vendor.stopping.wait(10)

    vendor.script = pausing
    error = failure(gemini, http, silence_s=0.15)
    assert type(error) is TimedOut
    assert error.usage is not None
    assert error.usage.output_tokens == 2


# -- bytes -----------------------------------------------------------------------------------------------------------
with FakeGemini() as _fake:
    WHOLE = _fake.good_stream(UNICODE)


def test_a_stream_cut_at_any_byte_is_malformed_or_whole_but_never_a_short_answer() -> None:
    ends_at = WHOLE.index(b'"finishReason"')
    whole = 0
    for position in range(len(WHOLE) + 1):
        pieces: list[Text | Usage] = []
        try:
            pieces += Answer("Fake").read([WHOLE[:position]])
        except MalformedAnswer:
            assert not any(isinstance(piece, Usage) for piece in pieces)
            continue
        assert "".join(piece.text for piece in pieces if isinstance(piece, Text)) == UNICODE
        assert position > ends_at
        whole += 1
    assert whole


def test_a_connection_that_breaks_is_an_error_before_the_finish_reason_and_none_after_it(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client
) -> None:
    vendor.script = lambda: iter([WHOLE])
    for position in (1, 200, len(WHOLE) // 2, len(WHOLE) - 300):
        vendor.faults.append(Fault(cut_after_bytes=position))
        assert type(failure(gemini, http)) is MalformedAnswer
    vendor.script = lambda: iter([WHOLE, b": something that never comes whole\n\n"])
    vendor.faults.append(Fault(cut_after_bytes=len(WHOLE) + 5))
    assert answer(gemini, http)[0] == UNICODE


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, len(WHOLE)), max_size=12))
def test_a_stream_reads_the_same_however_it_is_cut_into_packets(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(WHOLE)]
    *pieces, usage = Answer("Fake").read([WHOLE[a:b] for a, b in pairwise(edges)])
    assert "".join(p.text for p in pieces if isinstance(p, Text)) == UNICODE
    assert isinstance(usage, Usage)
    assert (usage.input_tokens, usage.output_tokens) == (6, 6)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.binary(max_size=60) | st.sampled_from([WHOLE[:150], b"data: ", b"\n\n", b"{", b"[", b"]"])))
def test_any_bytes_are_an_answer_or_a_typed_error(packets: list[bytes]) -> None:
    try:
        *pieces, usage = Answer("Fake").read(packets)
    except ProviderError:
        return
    assert isinstance(usage, Usage)
    assert any(isinstance(piece, Text) and piece.text.strip() for piece in pieces)


_ANSWER = "candidates content parts text thought finishReason usageMetadata promptTokenCount candidatesTokenCount index"
_ERROR = "error code status details message violations quotaId retryDelay promptFeedback blockReason"
_NAMES = [*_ANSWER.split(), *_ERROR.split()]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["STOP", "SAFETY"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=5),
    max_leaves=25,
)


@settings(deadline=None, max_examples=200)
@given(st.lists(json_values, max_size=4), st.booleans())
def test_any_json_is_an_answer_or_a_typed_error(values: list[object], streamed: bool) -> None:
    packets = [event(json.dumps(value)) for value in values] if streamed else [json.dumps(values).encode()]
    try:
        *_, usage = Answer("Fake").read(packets)
    except ProviderError:
        return
    assert isinstance(usage, Usage)


# -- what the vendor offers ------------------------------------------------------------------------------------------
def test_the_models_of_all_pages_that_write_texts_are_listed(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client
) -> None:
    vendor.models = ["gemini-3.8-flash", "gemini-embed-2", "gemini-3.1-flash-image", "gemini-3.8-flash-tts", "gemma-4-31b-it"]
    listed = gemini.models(http)
    assert [info.id for info in listed] == ["gemini-3.8-flash", "gemma-4-31b-it"]
    first = listed[0]
    assert (first.label, first.context_tokens, first.output_tokens) == ("Gemini 3.8 Flash", 1_048_576, 65_536)
    assert first.capabilities == {Capability.VISION, Capability.JSON, Capability.TOOLS}
    assert listed[1].capabilities is None
    assert len(vendor.requests) == 3


def test_a_list_that_never_ends_is_left(gemini: GeminiText, vendor: FakeGemini, http: httpx.Client) -> None:
    page = json.dumps({"models": [], "nextPageToken": "again"}).encode()
    vendor.faults += [Fault(status=200, body=page)] * 50
    assert gemini.models(http) == []
    assert len(vendor.requests) == 2
    vendor.faults[:] = [Fault(status=200, body=page.replace(b"again", b"page%d" % n)) for n in range(50)]
    assert gemini.models(http) == []
    assert len(vendor.requests) == 12


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {"name": 5, "supportedGenerationMethods": ["generateContent"]},
        {"name": "", "supportedGenerationMethods": ["generateContent"]},
        {"name": "models/a"},
        {"name": "models/a", "supportedGenerationMethods": "generateContent"},
        {"name": "models/a", "supportedGenerationMethods": [["generateContent"]]},
    ],
)
def test_an_entry_that_is_not_a_usable_model_is_left_out(
    gemini: GeminiText, vendor: FakeGemini, http: httpx.Client, entry: object
) -> None:
    good = {"name": "models/b", "supportedGenerationMethods": ["generateContent"], "inputTokenLimit": -5, "displayName": 7}
    vendor.faults.append(Fault(status=200, body=json.dumps({"models": [entry, good], "nextPageToken": 5}).encode()))
    [info] = gemini.models(http)
    assert (info.id, info.label, info.context_tokens) == ("b", "", None)


def test_a_check_looks_at_one_page_and_makes_no_paid_call(gemini: GeminiText, vendor: FakeGemini, http: httpx.Client) -> None:
    health = gemini.check(http)
    assert health.ok
    assert "fake-model is used" in health.detail
    assert [r.method for r in vendor.requests] == ["GET"]


def test_a_check_says_when_the_model_is_not_listed(vendor: FakeGemini, http: httpx.Client) -> None:
    vendor.page_models = 100
    health = text_provider(dict(vendor.settings) | {"GEMINI_MODEL": "gone"}).check(http)
    assert health.ok
    assert "not among them" in health.detail


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=200, body=b"<html>"),
        Fault(status=200, body=b"[]"),
        Fault(status=200, body=b'{"models": 5}'),
        Fault(status=200, body=b"[" * 99_999),
        Fault(status=200, body=b""),
        Fault(status=500),
        Fault(status=302, headers={"Location": "/x"}),
        Fault(drop=True),
        failing(403, "PERMISSION_DENIED", f"Not with {KEY}."),
    ],
)
def test_a_check_that_fails_says_what_to_do(gemini: GeminiText, vendor: FakeGemini, http: httpx.Client, fault: Fault) -> None:
    vendor.faults.append(fault)
    health = gemini.check(http)
    assert not health.ok
    assert "GEMINI_API_KEY" in health.cure
    assert KEY not in f"{health}"
    assert "not set" in text_provider({}).check(http).detail


def test_what_is_known_of_a_model_needs_no_call() -> None:
    gemini = text_provider({})
    info = gemini.model_info("models/gemini-3.5-flash-lite")
    assert (info.id, info.context_tokens, info.output_tokens) == ("gemini-3.5-flash-lite", 1_048_576, 65_536)
    assert gemini.model_info("gemini-4-argon").output_tokens is None
    assert gemini.model_info("mine").context_tokens is None
    assert "2027" in gemini.model_info("gemini-2.5-flash-image").note
