"""What Stability AI's provider does beyond the common contract."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from decimal import Decimal

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.providers.stability import Stability, register_providers, wire
from tests.fakes.server import Fault
from tests.fakes.stability import FakeStability
from tests.fakes.vendor import KEY, tiny_png
from webapp.plugin import (
    ContextTooLong,
    Drawn,
    Finish,
    ImageCall,
    MalformedAnswer,
    Picture,
    ProviderError,
    RateLimited,
    RefusedByPolicy,
    Rejected,
    Usage,
)
from webapp.routing.http import build_client

SOURCE = Picture("image/png", tiny_png() + b"\r\n--\r\n\x00")


def call(**changes: object) -> ImageCall:
    values = {"request_id": "r1", "model": "", "prompt": "A lighthouse", "timeout_s": 9.0}
    return ImageCall(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with build_client() as client:
        yield client


@pytest.fixture
def vendor(http: httpx.Client) -> Iterator[FakeStability]:
    with FakeStability() as fake:
        yield fake


def provider_for(vendor: FakeStability, **more: str) -> Stability:
    [found] = register_providers({**vendor.settings, **more})
    assert isinstance(found, Stability)
    return found


def drawing(vendor: FakeStability, http: httpx.Client, **changes: object) -> tuple[Drawn, Usage]:
    drawn, usage = provider_for(vendor).draw(call(**changes), http)
    assert isinstance(drawn, Drawn)
    assert isinstance(usage, Usage)
    return drawn, usage


# -- what is sent ----------------------------------------------------------------------------------------------------
def test_every_model_is_called_at_its_endpoint_and_costs_its_credits(vendor: FakeStability, http: httpx.Client) -> None:
    expected = {
        "core": ("core", "3"),
        "ultra": ("ultra", "8"),
        "sd3.5-large": ("sd3", "6.5"),
        "sd3.5-large-turbo": ("sd3", "4"),
        "sd3.5-medium": ("sd3", "3.5"),
    }
    assert wire.MODELS.keys() == expected.keys()
    for model, (endpoint, credits) in expected.items():
        _, usage = drawing(vendor, http, model=model, negative_prompt="fog", style="anime")
        assert vendor.calls[-1]["endpoint"] == endpoint
        assert vendor.calls[-1].get("model") == (model if endpoint == "sd3" else None)
        assert (usage.credits, usage.pictures, usage.model) == (Decimal(credits), 1, model)
        assert (usage.input_tokens, usage.cost_usd) == (None, None)


def test_the_form_says_what_the_call_says_and_json_is_asked_for(vendor: FakeStability, http: httpx.Client) -> None:
    drawing(vendor, http, width=1920, height=1080, seed=7, style="Pixel Art", negative_prompt="fög", person_ref="0f3a")
    assert vendor.calls == [
        {
            "endpoint": "core",
            "prompt": "A lighthouse",
            "negative_prompt": "fög",
            "aspect_ratio": "16:9",
            "seed": "7",
            "style_preset": "pixel-art",
            "output_format": "png",
        }
    ]
    assert vendor.requests[-1].header("Accept") == "application/json"
    assert vendor.requests[-1].header("Content-Type").startswith("multipart/form-data; boundary=")


def test_a_style_that_is_no_preset_goes_into_the_prompt(vendor: FakeStability, http: httpx.Client) -> None:
    drawing(vendor, http, style="ukiyo-e")
    assert vendor.calls[0]["prompt"] == "A lighthouse\n\nStyle: ukiyo-e."
    assert "style_preset" not in vendor.calls[0]


def test_turbo_is_told_in_the_prompt_what_is_not_wanted(vendor: FakeStability, http: httpx.Client) -> None:
    drawing(vendor, http, model="sd3.5-large-turbo", negative_prompt="fog")
    assert vendor.calls[0]["prompt"] == "A lighthouse\n\nLeave out: fog."
    assert "negative_prompt" not in vendor.calls[0]


@pytest.mark.parametrize("model", ["sd3.5-large", "sd3.5-large-turbo", "sd3.5-medium", "ultra"])
def test_a_picture_to_start_from_is_sent_with_a_strength(vendor: FakeStability, http: httpx.Client, model: str) -> None:
    drawing(vendor, http, model=model, source=SOURCE)
    [sent] = vendor.calls
    assert 0 < Decimal(sent["strength"]) < 1
    assert sent.get("mode") == ("image-to-image" if model != "ultra" else None)
    assert ("aspect_ratio" in sent) == (model == "ultra")
    [part] = vendor.sources
    assert (part.name, part.media_type, part.data) == ("image", "image/png", SOURCE.data)


def test_core_starts_from_no_picture_and_the_error_names_models_that_do(vendor: FakeStability, http: httpx.Client) -> None:
    with pytest.raises(Rejected, match=r"sd3\.5-medium"):
        drawing(vendor, http, source=SOURCE)
    with pytest.raises(Rejected, match="PNG, JPEG or WebP"):
        drawing(vendor, http, model="ultra", source=Picture("image/gif", b"GIF89a"))
    assert vendor.requests == []


def test_a_model_that_there_is_not_is_rejected_without_a_call(vendor: FakeStability, http: httpx.Client) -> None:
    with pytest.raises(Rejected, match="ultra"):
        drawing(vendor, http, model="sd9")
    assert "STABILITY_MODEL" in provider_for(vendor, STABILITY_MODEL="sd9").missing()
    assert vendor.requests == []


def test_a_prompt_that_is_too_long_is_not_sent(vendor: FakeStability, http: httpx.Client) -> None:
    with pytest.raises(ContextTooLong):
        drawing(vendor, http, prompt="x" * 10_001)
    assert vendor.requests == []
    assert drawing(vendor, http, prompt="x" * 10_000, negative_prompt="y" * 20_000)


@pytest.mark.parametrize(
    ("width", "height", "ratio"),
    [
        (1024, 1024, "1:1"),
        (1920, 1080, "16:9"),
        (1080, 1920, "9:16"),
        (1500, 1000, "3:2"),
        (1000, 1250, "4:5"),
        (5000, 100, "21:9"),
        (100, 5000, "9:21"),
        (1050, 1000, "1:1"),
        (0, -3, "1:1"),
    ],
)
def test_the_nearest_shape_is_asked_for(width: int, height: int, ratio: str) -> None:
    assert wire.nearest_ratio(width, height) == ratio


@pytest.mark.parametrize(
    ("seed", "sent"), [(0, 0), (7, 7), (4_294_967_294, 4_294_967_294), (4_294_967_295, 0), (-1, 4_294_967_294)]
)
def test_any_seed_becomes_one_that_the_vendor_takes(vendor: FakeStability, http: httpx.Client, seed: int, sent: int) -> None:
    drawn, _ = drawing(vendor, http, seed=seed)
    assert vendor.calls[0]["seed"] == str(sent)
    assert drawn.seed == (sent or vendor.seed)


# -- what comes back -------------------------------------------------------------------------------------------------
def test_the_seed_that_was_used_is_told(vendor: FakeStability, http: httpx.Client) -> None:
    drawn, usage = drawing(vendor, http)
    assert drawn.seed == vendor.seed
    assert "seed" not in vendor.calls[0]
    assert usage.vendor_request_id == "stab-1"


@pytest.mark.parametrize("seed", [None, -1, 2**40, "7", True, 1.5, [7]])
def test_a_seed_that_cannot_be_is_unknown(seed: object) -> None:
    image = base64.b64encode(tiny_png()).decode()
    assert wire.drawn(json.dumps({"image": image, "finish_reason": "SUCCESS", "seed": seed}).encode()).seed is None


def test_a_filtered_picture_costs_nothing(vendor: FakeStability, http: httpx.Client) -> None:
    vendor.filtered = True
    with pytest.raises(RefusedByPolicy) as raised:
        drawing(vendor, http)
    usage = raised.value.usage
    assert usage is not None
    assert (usage.pictures, usage.credits, usage.finish, usage.model) == (0, None, Finish.FILTERED, "core")


@pytest.mark.parametrize(
    "answer",
    [
        {"finish_reason": "ERROR", "image": "AAAA"},
        {"finish_reason": 5, "image": base64.b64encode(tiny_png()).decode()},
        {"finish_reason": [[]], "image": ""},
        {"finish_reason": "SUCCESS"},
        {"finish_reason": "SUCCESS", "image": "not base64!"},
        {"finish_reason": "SUCCESS", "image": [1]},
        {"finish_reason": "SUCCESS", "image": "!" + base64.b64encode(tiny_png()).decode()},
        {"name": KEY},
    ],
)
def test_an_answer_without_a_picture_is_malformed(vendor: FakeStability, http: httpx.Client, answer: dict[str, object]) -> None:
    vendor.faults.append(Fault(status=200, body=json.dumps(answer).encode()))
    with pytest.raises(MalformedAnswer) as raised:
        drawing(vendor, http)
    assert KEY not in raised.value.detail


def test_an_error_keeps_the_number_that_support_asks_for(vendor: FakeStability, http: httpx.Client) -> None:
    with pytest.raises(Rejected) as raised:
        list(provider_for(vendor).draw(call(prompt=""), http))
    assert "ed14db44362126aab3cbd25cca51ffe3" in raised.value.detail
    assert "prompt: must be between" in raised.value.detail


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(status=400, body=b'{"errors": ["prompt: too long"]}'), ContextTooLong),
        (Fault(status=413, body=b'{"name": "payload_too_large", "errors": ["over 10 MiB"]}'), ContextTooLong),
        (Fault(status=422, body=b'{"name": "unprocessable", "errors": ["no"]}'), Rejected),
        (Fault(status=403, body=b'{"name": "content_moderation", "errors": []}'), RefusedByPolicy),
        (Fault(status=429, headers={"Retry-After": "10"}, body=b'{"errors": "slow down"}'), RateLimited),
    ],
)
def test_a_failing_status_is_the_right_typed_error(
    vendor: FakeStability, http: httpx.Client, fault: Fault, kind: type[ProviderError]
) -> None:
    vendor.faults.append(fault)
    with pytest.raises(ProviderError) as raised:
        drawing(vendor, http)
    assert type(raised.value) is kind
    assert raised.value.retry_after_s == (10.0 if kind is RateLimited else None)


# -- the balance -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("credits", "told"),
    [
        (123.45, "123.45 credits"),
        (1234.5, "1,234.5 credits"),
        (100, "100 credits"),
        (3, "3 credits"),
        (6.308999999999999, "6.31 credits"),
    ],
)
def test_the_balance_is_told_in_credits(vendor: FakeStability, http: httpx.Client, credits: float, told: str) -> None:
    vendor.credits = credits
    health = provider_for(vendor).check(http)
    assert health.ok
    assert health.balance == told


@pytest.mark.parametrize(("model", "ok"), [("core", True), ("sd3.5-medium", False)])
def test_too_few_credits_for_one_picture_is_not_healthy(
    vendor: FakeStability, http: httpx.Client, model: str, ok: bool
) -> None:
    vendor.credits = 3.2
    health = provider_for(vendor, STABILITY_MODEL=model).check(http)
    assert (health.ok, health.balance) == (ok, "3.2 credits")
    assert ok or "credits" in health.cure


@pytest.mark.parametrize(
    "body",
    [
        b'{"credits": NaN}',
        b'{"credits": 1e999999999}',
        b'{"credits": "12"}',
        b'{"credits": true}',
        b'{"credits": null}',
        b"{}",
        b"[]",
        b"<html>",
        b"",
    ],
)
def test_a_balance_that_cannot_be_is_not_healthy(vendor: FakeStability, http: httpx.Client, body: bytes) -> None:
    vendor.faults.append(Fault(status=200, body=body))
    health = provider_for(vendor).check(http)
    assert not health.ok
    assert health.balance == ""


@pytest.mark.parametrize("body", [b'{"credits": 1e-999999999}', b'{"credits": -0.0}', b'{"credits": -5}'])
def test_an_odd_balance_is_still_told_in_few_characters(vendor: FakeStability, http: httpx.Client, body: bytes) -> None:
    vendor.faults.append(Fault(status=200, body=body))
    health = provider_for(vendor).check(http)
    assert not health.ok
    assert len(health.balance) < 12


def test_every_model_is_listed_with_its_price(vendor: FakeStability, http: httpx.Client) -> None:
    listed = provider_for(vendor).models(http)
    assert [info.id for info in listed] == list(wire.MODELS)
    assert all("credits" in info.note and wire.PRICES_AS_OF in info.note for info in listed)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["image", "finish_reason", "seed", "id", "name", "errors", "message", "credits"]), inner, max_size=5
        )
    ),
    max_leaves=20,
)


@settings(deadline=None, max_examples=200)
@given(json_values)
def test_any_json_is_read_or_a_known_error(value: object) -> None:
    body = json.dumps(value).encode()
    assert isinstance(wire.complaint(body), str)
    with pytest.raises(ValueError):
        wire.drawn(body)
    try:
        assert isinstance(wire.balance(body, "Fake"), Decimal)
    except MalformedAnswer:
        return
    assert isinstance(value, dict)
