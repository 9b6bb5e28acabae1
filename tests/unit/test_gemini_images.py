"""What the Gemini image provider sends, and what it makes of pictures, of none, and of what is no picture."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.providers.gemini import GeminiImages, register_providers
from plugins.providers.gemini.images import ImageAnswer, aspect_ratio, image_size
from tests.fakes.gemini import FakeGeminiImages, blocked, chunk, error_body, picture_part, quota, reason
from tests.fakes.server import Fault
from tests.fakes.vendor import KEY, Trouble, tiny_png
from webapp.plugin import (
    BadCredentials,
    ContextTooLong,
    Drawn,
    Finish,
    ImageAction,
    ImageCall,
    MalformedAnswer,
    OutOfCredit,
    Picture,
    ProviderError,
    RateLimited,
    RefusedByPolicy,
    Rejected,
    TimedOut,
    Unavailable,
    Usage,
)
from webapp.routing.http import build_client, call_limits

JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF" + b"\x00" * 20
WEBP = b"RIFF\x1a\x00\x00\x00WEBPVP8 " + b"\x00" * 20
GIF = b"GIF89a\x01\x00\x01\x00" + b"\x00" * 20


def image_provider(changes: Mapping[str, str]) -> GeminiImages:
    found = next(p for p in register_providers(changes) if isinstance(p, GeminiImages))
    assert isinstance(found, GeminiImages)
    return found


def call(**changes: object) -> ImageCall:
    values = {"request_id": "r1", "model": "fake-image-model", "prompt": "A red fox", "timeout_s": 20.0}
    return ImageCall(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with build_client() as client:
        yield client


@pytest.fixture
def vendor(http: httpx.Client) -> Iterator[FakeGeminiImages]:
    with FakeGeminiImages() as fake:
        yield fake


@pytest.fixture
def gemini(vendor: FakeGeminiImages) -> GeminiImages:
    return image_provider(vendor.settings)


def drawn(gemini: GeminiImages, http: httpx.Client, **changes: object) -> tuple[list[Drawn], Usage]:
    with call_limits(20, 10):
        *pictures, usage = gemini.draw(call(**changes), http)
    assert isinstance(usage, Usage)
    assert all(isinstance(picture, Drawn) for picture in pictures)
    return [picture for picture in pictures if isinstance(picture, Drawn)], usage


def failure(gemini: GeminiImages, http: httpx.Client, silence_s: float = 5.0, **changes: object) -> ProviderError:
    with call_limits(8, silence_s), pytest.raises(ProviderError) as raised:
        list(gemini.draw(call(**changes), http))
    error = raised.value
    assert error.message
    assert KEY not in f"{error.message} {error.detail} {error!r} {error.__cause__!r}"
    assert len(error.detail) <= 500
    return error


def sent(vendor: FakeGeminiImages) -> dict[str, Any]:
    """The body of the last call, which Google would have accepted."""
    return vendor.calls[-1]


# -- what is sent ----------------------------------------------------------------------------------------------------
def test_a_call_has_googles_form(gemini: GeminiImages, vendor: FakeGeminiImages, http: httpx.Client) -> None:
    drawn(gemini, http, seed=7, person_ref="0f3a")
    request = vendor.requests[-1]
    assert request.target == "/v1beta/models/fake-image-model:generateContent"
    assert request.header("x-goog-api-key") == KEY
    assert sent(vendor) == {
        "contents": [{"role": "user", "parts": [{"text": "A red fox"}]}],
        "generationConfig": {
            "responseModalities": ["IMAGE"],
            "imageConfig": {"aspectRatio": "1:1", "imageSize": "1K"},
        },
    }


def test_style_and_what_to_avoid_go_into_the_words(gemini: GeminiImages, vendor: FakeGeminiImages, http: httpx.Client) -> None:
    drawn(gemini, http, style="photographic ", negative_prompt=" people, text")
    assert sent(vendor)["contents"][0]["parts"] == [{"text": "A red fox\nStyle: photographic\nAvoid: people, text"}]


def test_a_picture_to_start_from_is_sent_inside_the_call(
    gemini: GeminiImages, vendor: FakeGeminiImages, http: httpx.Client
) -> None:
    drawn(gemini, http, source=Picture("image/png", tiny_png(color="red")))
    source, words = sent(vendor)["contents"][0]["parts"]
    assert source["inlineData"]["mimeType"] == "image/png"
    assert base64.b64decode(source["inlineData"]["data"]) == tiny_png(color="red")
    assert words == {"text": "A red fox"}


def test_an_action_on_an_earlier_picture_is_rejected_unasked(
    gemini: GeminiImages, vendor: FakeGeminiImages, http: httpx.Client
) -> None:
    assert type(failure(gemini, http, action=ImageAction("Enlarge", "x"))) is Rejected
    assert vendor.requests == []


@pytest.mark.parametrize(
    ("width", "height", "ratio", "size"),
    [
        (1024, 1024, "1:1", "1K"),
        (1000, 1100, "1:1", "1K"),
        (1024, 1536, "2:3", "1K"),
        (1536, 1024, "3:2", "1K"),
        (768, 1024, "3:4", "1K"),
        (1024, 768, "4:3", "1K"),
        (1080, 1920, "9:16", "2K"),
        (1920, 1080, "16:9", "2K"),
        (2560, 1080, "21:9", "2K"),
        (4096, 1, "21:9", "4K"),
        (1, 4096, "9:16", "4K"),
        (64, 64, "1:1", "1K"),
        (1537, 1537, "1:1", "2K"),
        (3072, 3072, "1:1", "2K"),
        (3073, 3073, "1:1", "4K"),
        (100_000, 100_000, "1:1", "4K"),
        (0, -5, "1:1", "1K"),
    ],
)
def test_the_nearest_shape_and_size_are_asked_for(width: int, height: int, ratio: str, size: str) -> None:
    assert (aspect_ratio(width, height), image_size(width, height)) == (ratio, size)


def test_a_model_of_one_size_is_asked_for_none(gemini: GeminiImages, vendor: FakeGeminiImages, http: httpx.Client) -> None:
    vendor.models.append("gemini-2.5-flash-image")
    drawn(gemini, http, model="models/gemini-2.5-flash-image", width=2048, height=2048)
    assert sent(vendor)["generationConfig"]["imageConfig"] == {"aspectRatio": "1:1"}


def test_a_size_that_a_model_refuses_is_left_out_and_remembered(
    gemini: GeminiImages, vendor: FakeGeminiImages, http: httpx.Client
) -> None:
    vendor.refuse = {
        "imageSize": "image_size is not supported for this model.",
        "aspectRatio": "Aspect ratio is not supported for this model.",
    }
    for _ in range(2):
        assert len(drawn(gemini, http)[0]) == 1
    assert ["imageConfig" in body["generationConfig"] for body in vendor.calls] == [True, True, False, False]


@pytest.mark.parametrize("model", ["../files", "a/b", "x:y/z"])
def test_a_name_that_leads_elsewhere_is_rejected_unasked(
    gemini: GeminiImages, vendor: FakeGeminiImages, http: httpx.Client, model: str
) -> None:
    assert type(failure(gemini, http, model=model)) is Rejected
    assert vendor.requests == []


# -- pictures --------------------------------------------------------------------------------------------------------
def test_a_picture_comes_as_bytes_with_what_it_cost(gemini: GeminiImages, vendor: FakeGeminiImages, http: httpx.Client) -> None:
    [picture], usage = drawn(gemini, http)
    assert (picture.picture, picture.seed, picture.actions) == (Picture("image/png", tiny_png()), None, ())
    [told] = vendor.reported
    assert (usage.input_tokens, usage.output_tokens) == (told.input_tokens, told.output_tokens) == (3, 1290)
    assert (usage.picture_output_tokens, usage.pictures, usage.finish) == (1290, 1, Finish.STOP)
    assert (usage.model, usage.vendor_request_id) == ("fake-model-001", "fAkE-response-1")


def test_several_pictures_are_all_handed_on_and_counted(
    gemini: GeminiImages, vendor: FakeGeminiImages, http: httpx.Client
) -> None:
    vendor.count = 3
    pictures, usage = drawn(gemini, http)
    assert (len(pictures), usage.pictures, usage.picture_output_tokens) == (3, 3, 3 * 1290)


def test_without_details_the_whole_answer_counts_as_pictures(
    gemini: GeminiImages, vendor: FakeGeminiImages, http: httpx.Client
) -> None:
    vendor.with_details = False
    usage = drawn(gemini, http)[1]
    assert (usage.output_tokens, usage.picture_output_tokens) == (1290, 1290)


def test_text_beside_a_picture_is_counted_apart_and_thoughts_are_no_pictures(
    gemini: GeminiImages, vendor: FakeGeminiImages, http: httpx.Client
) -> None:
    sketch = picture_part(tiny_png(color="grey")) | {"thought": True}
    told = {
        "promptTokenCount": 10,
        "candidatesTokenCount": 1300,
        "thoughtsTokenCount": 90,
        "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 10}, {"modality": "IMAGE", "tokenCount": 1290}],
    }
    answer = chunk(sketch, {"text": "Here:"}, picture_part(tiny_png()), finish="STOP", usage=told)
    vendor.faults.append(Fault(status=200, body=json.dumps(answer).encode()))
    [picture], usage = drawn(gemini, http)
    assert picture.picture.data == tiny_png()
    assert (usage.output_tokens, usage.picture_output_tokens, usage.reasoning_tokens, usage.pictures) == (1390, 1290, 90, 1)


@pytest.mark.parametrize(
    "told",
    [None, {}, {"candidatesTokenCount": -1}, {"candidatesTokenCount": "1290"}, {"candidatesTokensDetails": [7, {}]}, "x"],
)
def test_without_counts_that_can_be_believed_they_are_unknown_but_the_picture_is_counted(
    gemini: GeminiImages, vendor: FakeGeminiImages, http: httpx.Client, told: object
) -> None:
    answer = chunk(picture_part(tiny_png()), finish="STOP") | {"usageMetadata": told}
    vendor.faults.append(Fault(status=200, body=json.dumps(answer).encode()))
    usage = drawn(gemini, http)[1]
    assert (usage.input_tokens, usage.output_tokens, usage.picture_output_tokens, usage.pictures) == (None, None, 0, 1)


@pytest.mark.parametrize(
    ("content", "media_type"), [(tiny_png(), "image/png"), (JPEG, "image/jpeg"), (WEBP, "image/webp"), (GIF, "image/gif")]
)
@pytest.mark.parametrize("called", ["image/png", "text/html", "image/jpeg"])
def test_the_bytes_say_what_a_picture_is_whatever_the_vendor_calls_it(
    gemini: GeminiImages, vendor: FakeGeminiImages, http: httpx.Client, content: bytes, media_type: str, called: str
) -> None:
    vendor.parts = [picture_part(content, called)]
    [picture], _ = drawn(gemini, http)
    assert picture.picture == Picture(media_type, content)


def test_an_array_of_pieces_is_read_too(gemini: GeminiImages, vendor: FakeGeminiImages, http: httpx.Client) -> None:
    pieces = [chunk(picture_part(tiny_png())), chunk(finish="STOP", usage={"promptTokenCount": 3, "candidatesTokenCount": 9})]
    vendor.faults.append(Fault(status=200, body=json.dumps(pieces).encode()))
    [_], usage = drawn(gemini, http)
    assert (usage.output_tokens, usage.finish) == (9, Finish.STOP)


def test_a_picture_that_came_although_another_was_filtered_is_handed_on(
    gemini: GeminiImages, vendor: FakeGeminiImages, http: httpx.Client
) -> None:
    vendor.finish = "IMAGE_SAFETY"
    [_], usage = drawn(gemini, http)
    assert usage.finish is Finish.FILTERED


def test_a_large_picture_comes_whole(gemini: GeminiImages, vendor: FakeGeminiImages, http: httpx.Client) -> None:
    content = tiny_png() + bytes(20 * 1024 * 1024 - len(tiny_png()))
    vendor.parts = [picture_part(content)]
    [picture], _ = drawn(gemini, http)
    assert picture.picture.data == content


# -- no picture ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("finish", "kind"),
    [
        ("IMAGE_SAFETY", RefusedByPolicy),
        ("IMAGE_PROHIBITED_CONTENT", RefusedByPolicy),
        ("IMAGE_RECITATION", RefusedByPolicy),
        ("SAFETY", RefusedByPolicy),
        ("PROHIBITED_CONTENT", RefusedByPolicy),
        ("NO_IMAGE", MalformedAnswer),
        ("STOP", MalformedAnswer),
        ("MAX_TOKENS", MalformedAnswer),
        ("OTHER", Unavailable),
        ("A_NEW_ONE", Unavailable),
    ],
)
def test_an_answer_without_a_picture_is_the_right_typed_error_with_what_was_counted(
    gemini: GeminiImages, vendor: FakeGeminiImages, http: httpx.Client, finish: str, kind: type[ProviderError]
) -> None:
    vendor.finish, vendor.parts = finish, []
    error = failure(gemini, http)
    assert type(error) is kind
    assert finish in error.detail
    assert error.usage is not None
    assert (error.usage.input_tokens, error.usage.output_tokens, error.usage.pictures) == (3, 0, 0)


def test_words_in_place_of_a_picture_are_kept_for_the_operator(
    gemini: GeminiImages, vendor: FakeGeminiImages, http: httpx.Client
) -> None:
    vendor.parts = [{"text": f"I can only write. {KEY}"}]
    error = failure(gemini, http)
    assert type(error) is MalformedAnswer
    assert "I can only write." in error.detail


@pytest.mark.parametrize("word", ["SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "IMAGE_SAFETY"])
def test_a_prompt_that_is_blocked_is_refused_by_policy(
    gemini: GeminiImages, vendor: FakeGeminiImages, http: httpx.Client, word: str
) -> None:
    vendor.faults.append(Fault(status=200, body=json.dumps(blocked(word)).encode()))
    error = failure(gemini, http)
    assert type(error) is RefusedByPolicy
    assert error.detail == word
    assert error.usage is not None
    assert error.usage.input_tokens == 6


TOO_LARGE = tiny_png() + bytes(20 * 1024 * 1024 + 1 - len(tiny_png()))
GARBAGE: list[dict[str, object]] = [
    {"mimeType": "image/png", "data": "%%% not base64 %%%"},
    {"mimeType": "image/png", "data": "iVBORw0KGg"},
    {"mimeType": "image/png", "data": "%" + base64.b64encode(tiny_png()).decode()},
    {"mimeType": "image/png", "data": "é"},
    {"mimeType": "image/png", "data": ""},
    {"mimeType": "image/png", "data": None},
    {"mimeType": "image/png", "data": ["iVBORw0KGgo="]},
    {"mimeType": "image/png"},
    {"mimeType": "image/png", "data": base64.b64encode(b"<html><script>alert(1)</script>").decode()},
    {"mimeType": "image/svg+xml", "data": base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg'/>").decode()},
    {"mimeType": "audio/wav", "data": base64.b64encode(b"RIFF\x00\x00\x00\x00WAVEfmt ").decode()},
    {"mimeType": KEY, "data": base64.b64encode(b"nothing").decode()},
    {"mimeType": "image/png", "data": base64.b64encode(TOO_LARGE).decode()},
    {"mimeType": "image/png", "data": "A" * (29 * 1024 * 1024)},
]


@pytest.mark.parametrize("data", GARBAGE, ids=lambda data: f"{str(data)[:50]}")
def test_what_is_no_picture_is_malformed(
    gemini: GeminiImages, vendor: FakeGeminiImages, http: httpx.Client, data: dict[str, object]
) -> None:
    vendor.parts = [{"inlineData": data}]
    assert type(failure(gemini, http)) is MalformedAnswer


# -- failures --------------------------------------------------------------------------------------------------------
def failing(status: int, word: str, message: str = "no", *details: Mapping[str, object]) -> Fault:
    return Fault(status=status, body=json.dumps(error_body(status, word, message, *details)).encode())


FAULTS: list[tuple[Fault, type[ProviderError]]] = [
    (failing(400, "INVALID_ARGUMENT"), Rejected),
    (failing(400, "INVALID_ARGUMENT", f"bad {KEY}", reason("API_KEY_INVALID")), BadCredentials),
    (failing(400, "INVALID_ARGUMENT", "Request payload size exceeds the limit: 20971520 bytes."), ContextTooLong),
    (failing(402, "FAILED_PRECONDITION"), OutOfCredit),
    (failing(404, "NOT_FOUND"), Rejected),
    (failing(429, "RESOURCE_EXHAUSTED", "slow", *quota("PerMinute", delay="9s")), RateLimited),
    (failing(503, "UNAVAILABLE"), Unavailable),
    (failing(504, "DEADLINE_EXCEEDED"), TimedOut),
    (Fault(status=302, headers={"Location": "/x"}), Rejected),
    (Fault(status=200, body=json.dumps(error_body(503, "UNAVAILABLE", "overloaded")).encode()), Unavailable),
    (Fault(status=200, body=json.dumps([error_body(429, "RESOURCE_EXHAUSTED", "slow")]).encode()), RateLimited),
    (Fault(status=200, body=b""), MalformedAnswer),
    (Fault(status=200, body=b"<html>"), MalformedAnswer),
    (Fault(status=200, body=b"null"), MalformedAnswer),
    (Fault(status=200, body=b"[]"), MalformedAnswer),
    (Fault(status=200, body=b"{}"), MalformedAnswer),
    (Fault(status=200, body=b'{"a":' * 50_000), MalformedAnswer),
    (Fault(status=200, body=b'{"candidates": [1, {"content": {"parts": [3, {"inlineData": 5}]}}]}'), MalformedAnswer),
    (Fault(status=200, body=b'"' + b"x" * (49 * 1024 * 1024)), MalformedAnswer),
    (Fault(cut_after_bytes=100), MalformedAnswer),
    (Fault(drop=True), Unavailable),
    (Fault(hang=True), TimedOut),
]


@pytest.mark.parametrize(("fault", "kind"), FAULTS, ids=lambda v: repr(v)[-60:] if isinstance(v, Fault) else v.__name__)
def test_a_call_that_goes_wrong_is_the_right_typed_error(
    gemini: GeminiImages, vendor: FakeGeminiImages, http: httpx.Client, fault: Fault, kind: type[ProviderError]
) -> None:
    vendor.faults.append(fault)
    error = failure(gemini, http, silence_s=0.15 if fault.hang else 5)
    assert type(error) is kind
    assert error.retry_after_s == (9.0 if fault.status == 429 else None)


@pytest.mark.parametrize("kind", list(Trouble))
def test_every_trouble_of_the_fake_is_a_provider_error(
    gemini: GeminiImages, vendor: FakeGeminiImages, http: httpx.Client, kind: Trouble
) -> None:
    fault = vendor.trouble(kind)
    assert fault is not None
    vendor.faults.append(fault)
    error = failure(gemini, http)
    assert (type(error) is RefusedByPolicy) is (kind is Trouble.POLICY)


def test_an_answer_cut_at_any_byte_is_malformed() -> None:
    whole = json.dumps(chunk(picture_part(tiny_png()), finish="STOP")).encode()
    for position in range(len(whole)):
        with pytest.raises(MalformedAnswer):
            list(ImageAnswer("Fake").read([whole[:position]]))
    assert len(list(ImageAnswer("Fake").read([whole[:50], whole[50:]]))) == 2


_NAMES = "candidates content parts text thought inlineData data mimeType finishReason usageMetadata error promptFeedback"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("iVBORw0KGgo="),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES.split()), inner, max_size=5),
    max_leaves=25,
)


@settings(deadline=None, max_examples=200)
@given(json_values)
def test_any_json_is_a_picture_or_a_typed_error(value: object) -> None:
    try:
        *pictures, usage = ImageAnswer("Fake").read([json.dumps(value).encode()])
    except ProviderError:
        return
    assert isinstance(usage, Usage)
    assert usage.pictures == len(pictures) > 0


# -- what the vendor offers ------------------------------------------------------------------------------------------
def test_only_models_that_draw_are_listed(gemini: GeminiImages, vendor: FakeGeminiImages, http: httpx.Client) -> None:
    vendor.models = [
        "gemini-3.8-flash",
        "gemini-2.5-flash-image",
        "gemini-nano-banana-2.1",
        "embed-image",
        "gemini-3-pro-image",
    ]
    listed = gemini.models(http)
    assert [info.id for info in listed] == ["gemini-2.5-flash-image", "gemini-nano-banana-2.1", "gemini-3-pro-image"]
    assert "2027" in listed[0].note


def test_a_check_is_free(gemini: GeminiImages, vendor: FakeGeminiImages, http: httpx.Client) -> None:
    health = gemini.check(http)
    assert health.ok
    assert "fake-image-model is used" in health.detail
    assert [(r.method, r.path) for r in vendor.requests] == [("GET", "/v1beta/models")]
    vendor.faults.append(failing(403, "PERMISSION_DENIED", f"Not with {KEY}."))
    health = gemini.check(http)
    assert not health.ok
    assert KEY not in f"{health}"
