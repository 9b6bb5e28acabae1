"""What the Anthropic provider sends, what it reads in its settings, and what it knows of models, against a strict fake."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from plugins.providers.anthropic import PAGE_SIZE, PAGES_MAX, Anthropic, register_providers
from tests.fakes.anthropic import FakeAnthropic, error_body, listed
from tests.fakes.server import Fault
from tests.fakes.vendor import KEY, Trouble, tiny_png
from webapp.plugin import (
    BadCredentials,
    Capability,
    ContextTooLong,
    JsonOutput,
    MalformedAnswer,
    Picture,
    ProviderError,
    Rejected,
    Role,
    TextCall,
    Turn,
    Unavailable,
)
from webapp.routing.http import build_client, call_limits

PNG = Picture("image/png", tiny_png())
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
USER = (Turn(Role.USER, "hi"),)
SEES = frozenset({Capability.VISION, Capability.TOOLS})
BOTH = SEES | {Capability.JSON}


def call(model: str = "claude-haiku-5-5", **changes: object) -> TextCall:
    values = {"request_id": "r", "model": model, "turns": USER, "max_output_tokens": 9, "timeout_s": 9.0}
    return TextCall(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with build_client() as client:
        yield client


@pytest.fixture
def vendor(http: httpx.Client) -> Iterator[FakeAnthropic]:
    with FakeAnthropic() as fake:
        yield fake


def provider(vendor: FakeAnthropic, **more: str) -> Anthropic:
    [found] = register_providers({**vendor.settings, **more})
    assert isinstance(found, Anthropic)
    return found


@pytest.fixture
def anthropic(vendor: FakeAnthropic) -> Anthropic:
    return provider(vendor)


def answer(found: Anthropic, http: httpx.Client, asked: TextCall) -> None:
    """Make a call that succeeds."""
    with call_limits(20, 10):
        assert list(found.stream(asked, http))


def failure(found: Anthropic, http: httpx.Client, asked: TextCall) -> ProviderError:
    """The typed error that a call ends in."""
    with call_limits(8, 5), pytest.raises(ProviderError) as raised:
        list(found.stream(asked, http))
    return raised.value


# -- what is sent ----------------------------------------------------------------------------------------------------
def test_a_call_is_sent_in_the_vendors_format(anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client) -> None:
    turns = (
        Turn(Role.SYSTEM, "Be brief."),
        Turn(Role.USER, "one"),
        Turn(Role.USER, "two"),
        Turn(Role.ASSISTANT, "three"),
        Turn(Role.SYSTEM, "Be kind."),
        Turn(Role.USER, "four"),
    )
    answer(anthropic, http, call(turns=turns, stop=("END", "\n"), person_ref="0f3a", temperature=0.5))
    [body] = vendor.calls
    assert body == {
        "model": "claude-haiku-5-5",
        "max_tokens": 9,
        "stream": True,
        "system": "Be brief.\n\nBe kind.",
        "messages": [
            {"role": "user", "content": "one"},
            {"role": "user", "content": "two"},
            {"role": "assistant", "content": "three"},
            {"role": "user", "content": "four"},
        ],
        "stop_sequences": ["END"],
        "metadata": {"user_id": "0f3a"},
    }
    [request] = vendor.requests
    assert (request.target, request.header("x-api-key")) == ("/v1/messages", KEY)
    assert request.header("anthropic-version") == "2023-06-01"
    assert request.header("Authorization") == ""


def test_what_is_not_set_is_not_sent_and_blank_turns_are_left_out(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client
) -> None:
    turns = (Turn(Role.SYSTEM, " "), Turn(Role.USER, "a"), Turn(Role.ASSISTANT, "\n"), Turn(Role.USER, ""), *USER)
    answer(anthropic, http, call(turns=turns))
    assert vendor.calls[0].keys() == {"model", "max_tokens", "stream", "messages"}
    assert [message["content"] for message in vendor.calls[0]["messages"]] == ["a", "hi"]


def test_pictures_go_before_the_text_of_their_turn(anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client) -> None:
    answer(anthropic, http, call(turns=(Turn(Role.USER, "What is it?", (PNG, PNG)), Turn(Role.USER, "", (PNG,)))))
    first, second = (message["content"] for message in vendor.calls[0]["messages"])
    assert [block["type"] for block in first] == ["image", "image", "text"]
    assert [block["type"] for block in second] == ["image"]
    assert first[0]["source"] == {"type": "base64", "media_type": "image/png", "data": base64.b64encode(PNG.data).decode()}


def test_a_picture_of_the_models_own_turn_goes_before_the_next_text_of_the_user(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client
) -> None:
    answer(anthropic, http, call(turns=(*USER, Turn(Role.ASSISTANT, "Here.", (PNG,)), Turn(Role.USER, "Bigger!"))))
    said, last = vendor.calls[0]["messages"][1:]
    assert said["content"] == "Here."
    assert [block["type"] for block in last["content"]] == ["image", "text"]


def test_a_model_that_cannot_see_is_sent_no_picture(anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client) -> None:
    error = failure(anthropic, http, call("claude-instant-1.2", turns=(Turn(Role.USER, "?", (PNG,)),)))
    assert type(error) is Rejected
    assert "claude-instant-1.2" in error.message
    assert vendor.requests == []


@pytest.mark.parametrize(
    ("model", "version", "given", "sent"),
    [
        ("claude-haiku-4-5-20251001", "", 0.5, 0.5),
        ("claude-sonnet-4-6", "2023-06-01", 1.7, 1.0),
        ("claude-sonnet-4-6", "2026-10-21", 0.5, None),
        ("claude-sonnet-4-6", "2026-10-21", None, None),
        ("claude-haiku-5-5", "", 0.5, None),
        ("claude-opus-4-7", "", 0.5, None),
        ("claude-fable-5-1", "", 0.5, None),
        ("some-other-model", "", 0.5, None),
    ],
)
def test_temperature_is_sent_only_to_models_and_versions_that_take_it(
    vendor: FakeAnthropic, http: httpx.Client, model: str, version: str, given: float | None, sent: float | None
) -> None:
    answer(provider(vendor, ANTHROPIC_VERSION=version), http, call(model, temperature=given))
    [body] = vendor.calls
    assert body.get("temperature") == sent


def test_a_cap_beyond_what_the_model_writes_is_lowered(anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client) -> None:
    for model in ("claude-haiku-4-5", "unknown-model"):
        answer(anthropic, http, call(model, max_output_tokens=500_000))
    assert [body["max_tokens"] for body in vendor.calls] == [64_000, 500_000]


def test_a_schema_is_enforced_by_the_vendor(anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client) -> None:
    answer(anthropic, http, call(output=JsonOutput(schema=SCHEMA)))
    [body] = vendor.calls
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}
    assert "system" not in body


def test_an_open_schema_is_closed_as_the_vendor_demands(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client
) -> None:
    inner = {"type": "array", "items": {"type": "object", "properties": {"type": {"const": {"type": "object"}}}}}
    opened = {"type": "object", "additionalProperties": True, "properties": {"a": inner}}
    answer(anthropic, http, call(output=JsonOutput(schema=opened)))
    [body] = vendor.calls
    sent = body["output_config"]["format"]["schema"]
    assert sent["additionalProperties"] is False
    assert sent["properties"]["a"]["items"] == inner["items"] | {"additionalProperties": False}  # type: ignore[operator]
    assert opened["additionalProperties"] is True


def test_a_schema_that_is_nested_without_end_is_refused_before_it_is_sent(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client
) -> None:
    deep: dict[str, Any] = {"type": "object"}
    for _ in range(900):
        deep = {"type": "object", "properties": {"a": deep}}
    assert type(failure(anthropic, http, call(output=JsonOutput(schema=deep)))) is Rejected
    assert vendor.requests == []


def test_json_without_a_schema_is_asked_for_in_words(anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client) -> None:
    turns = (Turn(Role.SYSTEM, "Be brief."), *USER)
    answer(anthropic, http, call(output=JsonOutput(), turns=turns))
    [body] = vendor.calls
    assert "output_config" not in body
    assert body["system"].startswith("Be brief.\n\nAnswer with one JSON object")


def test_a_schema_for_a_model_that_enforces_none_is_put_in_words(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client
) -> None:
    answer(anthropic, http, call("claude-3-haiku-20240307", output=JsonOutput(schema=SCHEMA)))
    [body] = vendor.calls
    assert "output_config" not in body
    assert json.dumps(SCHEMA) in body["system"]


def test_a_model_that_refuses_schemas_is_asked_in_words_from_then_on(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client
) -> None:
    vendor.no_schemas = {"odd-model"}
    for _ in range(2):
        answer(anthropic, http, call("odd-model", output=JsonOutput(schema=SCHEMA)))
    assert ["output_config" in body for body in vendor.calls] == [True, False, False]
    assert json.dumps(SCHEMA) in vendor.calls[1]["system"]
    answer(anthropic, http, call("other-model", output=JsonOutput(schema=SCHEMA)))
    assert "output_config" in vendor.calls[-1]


@pytest.mark.parametrize(
    "words",
    [
        "output_config.format.schema: For 'object' type, 'additionalProperties' must be set to false",
        "output_config.format.schema: property 'minimum' is not supported",
    ],
)
def test_one_schema_that_is_refused_does_not_keep_the_next_from_being_enforced(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client, words: str
) -> None:
    vendor.faults.append(Fault(status=400, body=json.dumps(error_body("invalid_request_error", words)).encode()))
    for _ in range(2):
        answer(anthropic, http, call(output=JsonOutput(schema=SCHEMA)))
    sent = [json.loads(request.body) for request in vendor.requests]
    assert ["output_config" in body for body in sent] == [True, False, True]
    assert ["system" in body for body in sent] == [False, True, False]


def test_a_field_that_a_model_refuses_against_our_table_is_left_out_and_remembered(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client
) -> None:
    body = json.dumps(error_body("invalid_request_error", "`temperature` is deprecated for this model.")).encode()
    vendor.faults.append(Fault(status=400, body=body))
    for _ in range(2):
        answer(anthropic, http, call("claude-haiku-4-5", temperature=0.5))
    assert len(vendor.requests) == 3
    assert ["temperature" in json.loads(request.body) for request in vendor.requests] == [True, False, False]


def test_a_refusal_of_something_that_was_not_sent_is_final(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client
) -> None:
    body = json.dumps(error_body("invalid_request_error", "`temperature` is deprecated for this model.")).encode()
    vendor.faults.append(Fault(status=400, body=body))
    assert type(failure(anthropic, http, call())) is Rejected
    assert len(vendor.requests) == 1


def test_an_error_of_another_kind_that_names_a_field_is_final(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client
) -> None:
    words = "prompt is too long: 9 tokens > 8 maximum; temperature 0.5"
    vendor.faults.append(Fault(status=400, body=json.dumps(error_body("invalid_request_error", words)).encode()))
    assert type(failure(anthropic, http, call("claude-haiku-4-5", temperature=0.5))) is ContextTooLong
    assert len(vendor.requests) == 1


def test_text_that_no_encoding_can_carry_is_sent_with_a_mark_in_its_place(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client
) -> None:
    answer(anthropic, http, call(turns=(Turn(Role.USER, "a\ud800b 世界"),)))
    assert vendor.calls[0]["messages"][0]["content"] == "a?b 世界"


# -- settings --------------------------------------------------------------------------------------------------------
def test_it_says_which_setting_is_missing_or_wrong_and_does_not_show_the_key(http: httpx.Client) -> None:
    for values, named in (
        ({}, "ANTHROPIC_API_KEY"),
        ({"ANTHROPIC_API_KEY": "sk-ключ"}, "ANTHROPIC_API_KEY"),
        ({"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": "api.anthropic.com"}, "ANTHROPIC_BASE_URL"),
        ({"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": "http://[::1"}, "ANTHROPIC_BASE_URL"),
        ({"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_VERSION": "a\nb"}, "ANTHROPIC_VERSION"),
    ):
        [found] = register_providers(values)
        assert found.missing().split(" ")[0] == named
        assert "ключ" not in found.missing()
        health = found.check(http)
        assert (health.ok, bool(health.cure)) == (False, True)
        for calls in (lambda p=found: list(p.stream(call(), http)), lambda p=found: p.models(http)):
            with pytest.raises(BadCredentials, match=named):
                calls()


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
def test_an_address_is_taken_with_or_without_its_version(vendor: FakeAnthropic, http: httpx.Client, ending: str) -> None:
    found = provider(vendor, ANTHROPIC_BASE_URL=f" {vendor.url}{ending}\n")
    assert found.base_url == vendor.url
    answer(found, http, call(model=""))
    assert vendor.calls[0]["model"] == vendor.model


def test_without_settings_the_vendors_own_address_and_a_cheap_model_are_used() -> None:
    [found] = register_providers({"ANTHROPIC_API_KEY": KEY})
    assert (found.base_url, found.default_model) == ("https://api.anthropic.com", "claude-haiku-5-5")
    assert (found.name, found.label, found.preference, found.price_as) == ("anthropic", "Anthropic", 11, "anthropic")
    assert found.missing() == ""


# -- models and the cheap look ---------------------------------------------------------------------------------------
def test_all_pages_of_the_list_are_read(anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client) -> None:
    vendor.models = [listed(f"claude-{number}") for number in range(2 * PAGE_SIZE + 1)]
    assert [info.id for info in anthropic.models(http)] == [model["id"] for model in vendor.models]
    last = f"claude-{PAGE_SIZE - 1}"
    assert [r.query.get("after_id") for r in vendor.requests] == [None, [last], [f"claude-{2 * PAGE_SIZE - 1}"]]


def test_a_list_says_what_is_known_of_a_model(anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client) -> None:
    odd = {"capabilities": {"image_input": {"supported": False}, "structured_outputs": 4}, "max_input_tokens": -5}
    vendor.models = [
        listed("claude-haiku-5-5", display_name="Claude Haiku 5.5"),
        listed("claude-sonnet-4-5", lifecycle="deprecated", retires_at="2026-11-30T00:00:00Z", capabilities=None),
        listed("new-thing", lifecycle="retired", max_tokens=None, display_name=None, **odd),
    ]
    first, second, third = anthropic.models(http)
    assert (first.label, first.context_tokens, first.output_tokens) == ("Claude Haiku 5.5", 200_000, 64_000)
    assert first.capabilities == BOTH
    assert (first.note, second.note, third.note) == ("", "deprecated, switched off on 2026-11-30", "retired")
    assert second.capabilities == BOTH
    assert (third.label, third.context_tokens, third.output_tokens, third.capabilities) == ("", None, None, {Capability.TOOLS})


def test_a_list_without_end_is_left_after_some_pages(anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client) -> None:
    for number in range(PAGES_MAX + 5):
        page = {"data": [{"id": f"m{number}"}], "has_more": True, "last_id": f"m{number}"}
        vendor.faults.append(Fault(status=200, body=json.dumps(page).encode()))
    assert len(anthropic.models(http)) == len(vendor.requests) == PAGES_MAX


def test_a_page_that_repeats_itself_ends_the_list(anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client) -> None:
    page = json.dumps({"data": [{"id": "a"}, {"id": 5}, None, {}], "has_more": True, "last_id": "a"}).encode()
    vendor.faults += [Fault(status=200, body=page)] * 3
    assert [info.id for info in anthropic.models(http)] == ["a"]
    assert len(vendor.requests) == 2


@pytest.mark.parametrize(
    ("model", "context", "output", "capabilities"),
    [
        ("claude-haiku-5-5", 1_000_000, 128_000, BOTH),
        ("claude-fable-5-1", 1_000_000, 128_000, BOTH),
        ("claude-opus-5", 1_000_000, 128_000, BOTH),
        ("anthropic/claude-sonnet-4-6", 1_000_000, 128_000, BOTH),
        ("claude-haiku-4-5-20251001", 200_000, 64_000, BOTH),
        ("claude-opus-4-1-20250805", 200_000, 32_000, SEES),
        ("claude-opus-4-20250514", 200_000, 32_000, SEES),
        ("claude-sonnet-4@20250514", 200_000, 64_000, SEES),
        ("claude-3-5-haiku-latest", 200_000, None, SEES),
        ("claude-2.1", 100_000, None, frozenset()),
        ("claude-opus-4-9", None, None, None),
        ("llama3", None, None, None),
        ("", None, None, None),
    ],
)
def test_models_are_known_by_their_names(
    anthropic: Anthropic, model: str, context: int | None, output: int | None, capabilities: frozenset[Capability] | None
) -> None:
    info = anthropic.model_info(model)
    assert (info.id, info.context_tokens, info.output_tokens, info.capabilities) == (model, context, output, capabilities)


def test_a_cheap_look_asks_for_one_model_and_costs_no_call(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client
) -> None:
    health = anthropic.check(http)
    assert health.ok
    assert vendor.model in health.detail
    assert [request.target for request in vendor.requests] == ["/v1/models?limit=1"]
    assert vendor.calls == []


@pytest.mark.parametrize("kind", [kind for kind in Trouble if kind not in (Trouble.TOO_LONG, Trouble.POLICY)])
def test_a_check_at_a_vendor_in_trouble_is_not_ok_and_says_what_to_do(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client, kind: Trouble
) -> None:
    fault = vendor.trouble(kind)
    assert fault is not None
    vendor.faults.append(fault)
    health = anthropic.check(http)
    assert (health.ok, bool(health.detail), bool(health.cure)) == (False, True, True)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"data": 5}', b"", b"[" * 99_999, b'{"data": ["' + b"x" * 5_000_000])
def test_what_is_no_list_of_models_is_not_taken_for_one(
    anthropic: Anthropic, vendor: FakeAnthropic, http: httpx.Client, body: bytes
) -> None:
    vendor.faults += [Fault(status=200, body=body)] * 2
    assert not anthropic.check(http).ok
    with pytest.raises((Unavailable, MalformedAnswer)):
        anthropic.models(http)


# -- the fake --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "spoiled",
    [
        {"max_tokens": None},
        {"messages": []},
        {"messages": [{"role": "system", "content": "x"}]},
        {"messages": [{"role": "user", "content": " "}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": "!"}}]}]},
        {"temperature": 0.5},
        {"stop_sequences": ["\n"]},
        {"metadata": {"name": "Ann"}},
        {"system": ""},
        {"stop": ["x"]},
    ],
)
def test_the_fake_refuses_what_the_vendor_refuses(
    vendor: FakeAnthropic, http: httpx.Client, spoiled: dict[str, object]
) -> None:
    good = {"model": "claude-haiku-5-5", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
    ok = http.post(f"{vendor.url}/v1/messages", json=good, headers=headers)
    assert (ok.status_code, ok.json()["content"][0]["text"]) == (200, vendor.text)
    refused = http.post(f"{vendor.url}/v1/messages", json=good | spoiled, headers=headers)
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")


def test_the_fake_wants_the_vendors_headers(vendor: FakeAnthropic, http: httpx.Client) -> None:
    for headers, status in (
        ({}, 401),
        ({"x-api-key": "wrong", "anthropic-version": "2023-06-01"}, 401),
        ({"Authorization": f"Bearer {KEY}", "anthropic-version": "2023-06-01"}, 401),
        ({"x-api-key": KEY}, 400),
        ({"x-api-key": KEY, "anthropic-version": "2020-01-01"}, 400),
        ({"x-api-key": KEY, "anthropic-version": "2026-10-21"}, 200),
    ):
        assert http.get(f"{vendor.url}/v1/models", headers=headers).status_code == status
