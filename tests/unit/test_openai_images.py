"""What OpenAI's image provider does beyond the common contract."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.providers.openai_images import OpenAIImages, register_providers, wire
from plugins.providers.openai_images.failures import Complaint
from tests.fakes.openai_images import FakeOpenAIImages
from tests.fakes.server import Fault
from tests.fakes.vendor import KEY, tiny_png
from webapp.plugin import (
    BadCredentials,
    ContextTooLong,
    Drawn,
    ImageCall,
    MalformedAnswer,
    OutOfCredit,
    Picture,
    ProviderError,
    RateLimited,
    RefusedByPolicy,
    Rejected,
    Unavailable,
    Usage,
)
from webapp.routing.http import build_client


def call(**changes: object) -> ImageCall:
    values = {"request_id": "r1", "model": "", "prompt": "A lighthouse", "timeout_s": 9.0}
    return ImageCall(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with build_client() as client:
        yield client


@pytest.fixture
def vendor(http: httpx.Client) -> Iterator[FakeOpenAIImages]:
    with FakeOpenAIImages() as fake:
        yield fake


def provider_for(vendor: FakeOpenAIImages, **more: str) -> OpenAIImages:
    [found] = register_providers({**vendor.settings, **more})
    assert isinstance(found, OpenAIImages)
    return found


def drawing(vendor: FakeOpenAIImages, http: httpx.Client, **changes: object) -> tuple[list[Drawn], Usage]:
    *pictures, usage = provider_for(vendor).draw(call(**changes), http)
    assert isinstance(usage, Usage)
    return [one for one in pictures if isinstance(one, Drawn)], usage


# -- what is sent ----------------------------------------------------------------------------------------------------
def test_the_body_says_what_the_call_says_and_names_no_response_format(vendor: FakeOpenAIImages, http: httpx.Client) -> None:
    drawing(vendor, http, width=1536, height=1024, person_ref="0f3a", seed=7)
    assert vendor.calls == [
        {
            "model": "gpt-image-2",
            "prompt": "A lighthouse",
            "n": 1,
            "size": "1536x1024",
            "quality": "auto",
            "moderation": "auto",
            "safety_identifier": "0f3a",
        }
    ]
    drawing(vendor, http)
    assert "safety_identifier" not in vendor.calls[-1]


def test_organization_and_project_are_told(vendor: FakeOpenAIImages, http: httpx.Client) -> None:
    provider = provider_for(vendor, OPENAI_ORG_ID="org", OPENAI_PROJECT_ID=" proj\n")
    assert list(provider.draw(call(), http))
    sent = vendor.requests[-1]
    assert (sent.header("OpenAI-Organization"), sent.header("OpenAI-Project")) == ("org", "proj")


def test_a_style_and_what_is_not_wanted_become_words_of_the_prompt(vendor: FakeOpenAIImages, http: httpx.Client) -> None:
    drawing(vendor, http, style="photographic", negative_prompt="people, text")
    assert vendor.calls[0]["prompt"] == "A lighthouse\n\nStyle: photographic.\n\nLeave out: people, text."


@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg", "image/webp"])
def test_a_picture_to_start_from_is_edited(vendor: FakeOpenAIImages, http: httpx.Client, media_type: str) -> None:
    data = tiny_png() + b"\r\n--\r\n\x00"
    [drawn], usage = drawing(vendor, http, source=Picture(media_type, data), prompt="A lighthouse, ü")
    assert vendor.requests[-1].path == "/v1/images/edits"
    [part] = vendor.sources
    assert (part.name, part.media_type, part.data) == ("image", media_type, data)
    assert vendor.calls[0]["prompt"] == "A lighthouse, ü"
    assert vendor.calls[0]["size"] == "1024x1024"
    assert drawn.picture.media_type == "image/png"
    assert (usage.input_tokens, usage.picture_input_tokens) == (103, 100)


def test_a_gif_cannot_be_started_from(vendor: FakeOpenAIImages, http: httpx.Client) -> None:
    with pytest.raises(Rejected, match="PNG, JPEG or WebP"):
        drawing(vendor, http, source=Picture("image/gif", b"GIF89a"))
    assert vendor.requests == []


@pytest.mark.parametrize(
    ("model", "width", "height", "size"),
    [
        ("gpt-image-2", 1024, 1024, (1024, 1024)),
        ("gpt-image-2", 1920, 1080, (1920, 1088)),
        ("gpt-image-2", 3840, 2160, (3840, 2160)),
        ("gpt-image-2", 2160, 3840, (2160, 3840)),
        ("gpt-image-2", 512, 512, (816, 816)),
        ("gpt-image-2", 3000, 500, (2112, 704)),
        ("gpt-image-2.5-flare", 9000, 9000, (2880, 2880)),
        ("gpt-image-1.5", 1024, 1024, (1024, 1024)),
        ("gpt-image-1-mini", 1920, 1080, (1536, 1024)),
        ("chatgpt-image-latest", 600, 1200, (1024, 1536)),
        ("gpt-image-1.5", 1100, 1000, (1024, 1024)),
    ],
)
def test_the_nearest_size_that_the_model_draws_is_asked_for(model: str, width: int, height: int, size: tuple[int, int]) -> None:
    assert wire.nearest_size(model, width, height) == size


@settings(deadline=None, max_examples=300)
@given(st.integers(-5, 10**7), st.integers(-5, 10**7))
def test_any_wish_gives_a_size_that_is_allowed(width: int, height: int) -> None:
    assert wire.is_allowed(*wire.nearest_size("gpt-image-2", width, height))


@settings(deadline=None)
@given(st.integers(1, 240), st.integers(1, 135))
def test_a_size_that_is_allowed_is_asked_for_as_it_is(across: int, down: int) -> None:
    width, height = 16 * across, 16 * down
    if wire.is_allowed(width, height):
        assert wire.nearest_size("gpt-image-2", width, height) == (width, height)


# -- fields that a model does not take -------------------------------------------------------------------------------
def test_a_field_that_a_model_refuses_is_left_out_and_remembered(vendor: FakeOpenAIImages, http: httpx.Client) -> None:
    vendor.refuse = {"moderation", "safety_identifier"}
    provider = provider_for(vendor)
    assert list(provider.draw(call(person_ref="x"), http))
    assert len(vendor.requests) == 3
    assert list(provider.draw(call(person_ref="x"), http))
    assert len(vendor.requests) == 4
    assert vendor.calls[-1].keys() == {"model", "prompt", "n", "size", "quality"}


def test_a_size_that_a_model_refuses_is_left_to_it(vendor: FakeOpenAIImages, http: httpx.Client) -> None:
    message = {"message": "Invalid value: '1024x1024'.", "code": "invalid_value", "param": "size"}
    vendor.faults.append(Fault(status=400, body=json.dumps({"error": message}).encode()))
    assert drawing(vendor, http)
    assert "size" not in vendor.calls[0]


def test_a_field_that_is_needed_is_never_left_out(vendor: FakeOpenAIImages, http: httpx.Client) -> None:
    vendor.refuse = {"prompt"}
    with pytest.raises(Rejected):
        drawing(vendor, http)
    assert len(vendor.requests) == 1


def test_a_refused_field_named_moderation_is_no_word_about_the_content(vendor: FakeOpenAIImages, http: httpx.Client) -> None:
    message = {"message": "Unknown parameter: 'moderation'.", "code": "unknown_parameter", "param": "moderation"}
    vendor.faults += [Fault(status=400, body=json.dumps({"error": message}).encode())] * 2
    with pytest.raises(ProviderError) as raised:
        drawing(vendor, http)
    assert type(raised.value) is Rejected
    assert len(vendor.requests) == 2


# -- what comes back -------------------------------------------------------------------------------------------------
def test_the_usage_is_what_the_vendor_counted(vendor: FakeOpenAIImages, http: httpx.Client) -> None:
    _, usage = drawing(vendor, http)
    assert usage.input_tokens == 2
    assert usage.output_tokens == usage.picture_output_tokens == 272
    assert (usage.pictures, usage.model, usage.vendor_request_id) == (1, "gpt-image-2", "req_1")
    vendor.with_usage = False
    _, unknown = drawing(vendor, http)
    assert (unknown.input_tokens, unknown.output_tokens, unknown.pictures) == (None, None, 1)


@pytest.mark.parametrize(
    ("told", "understood"),
    [
        ({"input_tokens": 10, "output_tokens": 5}, (10, 0, 0, 5, 5)),
        ({"input_tokens": 10, "input_tokens_details": {"image_tokens": 8, "cached_tokens": 3}}, (10, 3, 8, None, 0)),
        ({"input_tokens": 10, "input_tokens_details": {"image_tokens": 11}}, (10, 0, 0, None, 0)),
        ({"output_tokens": 9, "output_tokens_details": {"image_tokens": 6, "text_tokens": 3}}, (None, 0, 0, 9, 6)),
        ({"input_tokens": -1, "output_tokens": 10**15}, (None, 0, 0, None, 0)),
        ({"input_tokens": True, "output_tokens": "7", "input_tokens_details": []}, (None, 0, 0, None, 0)),
        (["none"], (None, 0, 0, None, 0)),
    ],
)
def test_token_counts_that_cannot_be_are_unknown(
    vendor: FakeOpenAIImages, http: httpx.Client, told: object, understood: tuple[int | None, int, int, int | None, int]
) -> None:
    vendor.usage = told
    usage = drawing(vendor, http)[1]
    assert understood == (
        usage.input_tokens,
        usage.cached_tokens,
        usage.picture_input_tokens,
        usage.output_tokens,
        usage.picture_output_tokens,
    )


def test_every_picture_that_was_drawn_is_handed_on_and_counted(vendor: FakeOpenAIImages, http: httpx.Client) -> None:
    vendor.pictures = [tiny_png(), tiny_png(color="red")]
    pictures, usage = drawing(vendor, http)
    assert [drawn.picture.data for drawn in pictures] == vendor.pictures
    assert usage.pictures == 2


def test_what_was_counted_for_an_unreadable_picture_is_told_with_the_error(
    vendor: FakeOpenAIImages, http: httpx.Client
) -> None:
    vendor.pictures = [b"<svg/>"]
    with pytest.raises(MalformedAnswer) as raised:
        drawing(vendor, http)
    assert raised.value.usage is not None
    assert (raised.value.usage.output_tokens, raised.value.usage.pictures) == (272, 0)


def test_an_address_instead_of_a_picture_is_not_followed(vendor: FakeOpenAIImages, http: httpx.Client) -> None:
    body = {"data": [{"url": f"{vendor.url}/picture.png"}]}
    vendor.faults.append(Fault(status=200, body=json.dumps(body).encode()))
    with pytest.raises(MalformedAnswer):
        drawing(vendor, http)
    assert len(vendor.requests) == 1


ERRORS: list[tuple[int, dict[str, object], type[ProviderError]]] = [
    (400, {"code": "content_policy_violation", "message": "no"}, RefusedByPolicy),
    (400, {"code": "moderation_blocked", "message": "no"}, RefusedByPolicy),
    (400, {"message": "Your request was rejected by the safety system."}, RefusedByPolicy),
    (400, {"code": "string_above_max_length", "message": "Invalid 'prompt'"}, ContextTooLong),
    (400, {"code": "billing_hard_limit_reached"}, OutOfCredit),
    (403, {"code": "insufficient_quota"}, OutOfCredit),
    (403, {"message": "Your organization must be verified to use this model."}, BadCredentials),
    (429, {"code": "insufficient_quota"}, OutOfCredit),
    (429, {"code": "credit_balance_exhausted", "type": "insufficient_quota"}, OutOfCredit),
    (429, {"code": "slow_down", "type": "insufficient_quota"}, RateLimited),
    (429, {"type": "insufficient_quota"}, OutOfCredit),
]


@pytest.mark.parametrize(("status", "error", "kind"), ERRORS)
def test_an_errors_code_decides_what_it_means(
    vendor: FakeOpenAIImages, http: httpx.Client, status: int, error: dict[str, object], kind: type[ProviderError]
) -> None:
    vendor.faults.append(Fault(status=status, headers={"Retry-After": "7"}, body=json.dumps({"error": error}).encode()))
    with pytest.raises(ProviderError) as raised:
        drawing(vendor, http)
    assert type(raised.value) is kind
    assert raised.value.status == status
    assert raised.value.retry_after_s == (7.0 if kind is RateLimited else None)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": "moderation_blocked"}, RefusedByPolicy),
        ({"message": "boom", "type": "server_error"}, Unavailable),
        ({"message": f"bad key {KEY}", "type": "invalid_request_error"}, Rejected),
        ("boom", Unavailable),
        ({"message": [[[]]]}, Unavailable),
    ],
)
def test_an_error_inside_a_success_is_an_error(
    vendor: FakeOpenAIImages, http: httpx.Client, error: object, kind: type[ProviderError]
) -> None:
    vendor.faults.append(Fault(status=200, body=json.dumps({"error": error}).encode()))
    with pytest.raises(ProviderError) as raised:
        drawing(vendor, http)
    assert type(raised.value) is kind
    assert raised.value.status is None
    assert KEY not in raised.value.detail


# -- what the vendor offers ------------------------------------------------------------------------------------------
def test_only_models_that_draw_are_listed_with_the_day_they_end(vendor: FakeOpenAIImages, http: httpx.Client) -> None:
    listed = provider_for(vendor).models(http)
    assert [info.id for info in listed] == ["gpt-image-1.5", "gpt-image-2", "gpt-image-2.5-flare"]
    assert [info.note for info in listed] == ["Ends on 2026-12-01.", "", ""]


def test_a_look_says_when_the_model_is_not_there_and_which_are(vendor: FakeOpenAIImages, http: httpx.Client) -> None:
    health = provider_for(vendor, OPENAI_IMAGE_MODEL="dall-e-3").check(http)
    assert health.ok  # an account for texts alone is well
    assert "dall-e-3" in health.detail
    assert "gpt-image-2" in health.cure
    vendor.models = ["gpt-4.1-mini"]
    assert "access" in provider_for(vendor).check(http).cure


def test_without_settings_it_is_the_current_model_at_the_vendors_own_address() -> None:
    [bare] = register_providers({})
    assert (bare.default_model, bare.base_url) == ("gpt-image-2", "https://api.openai.com/v1")
    assert bare.missing() == "OPENAI_API_KEY is not set"


# -- hostile answers -------------------------------------------------------------------------------------------------
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "b64_json", "usage", "error", "message", "code", "type", "input_tokens", "output_tokens"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(deadline=None, max_examples=200)
@given(json_values)
def test_any_json_is_read_or_a_value_error(value: object) -> None:
    body = json.dumps(value).encode()
    assert Complaint.parse(body).error("Fake", 400, "", None)
    try:
        answer = wire.document(body)
        assert isinstance(wire.usage(answer, "m", 1, "r"), Usage)
        wire.drawn(answer)
    except ValueError:
        return
    pytest.fail("there is no picture in it")


ENCODED = base64.b64encode(tiny_png()).decode()


@pytest.mark.parametrize(
    "text",
    [
        ENCODED[:20] + "\n" + ENCODED[20:],
        ENCODED[:20] + "!" + ENCODED[20:],
        f" {ENCODED}",
        ENCODED + "AAAA",
        ENCODED[:-1],
        f"data:image/png;base64,{ENCODED}",
        "",
        "ключ",
        None,
        5,
        ["x"],
    ],
)
def test_base64_is_read_strictly(text: object) -> None:
    with pytest.raises(ValueError):
        wire.drawn({"data": [{"b64_json": text}]})
    assert wire.drawn({"data": [{"b64_json": ENCODED}]})
