"""What the rows of the OpenAI-compatible provider know of models, and how they ask: pictures, JSON, sampling, accounts."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from plugins.providers.openai_compatible import OpenAICompatible, register_providers
from plugins.providers.openai_compatible.asking import is_strict
from plugins.providers.openai_compatible.listing import balance_in, models_in
from plugins.providers.openai_compatible.models import OPENAI
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from webapp.plugin import Capability, JsonOutput, MalformedAnswer, Picture, Rejected, Role, TextCall, Turn, VariableKind
from webapp.routing.http import build_client
from webapp.testkit.asking import PIXEL

CLOSED: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
OPEN: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}}
BOTH = frozenset({Capability.VISION, Capability.JSON})
ALL = BOTH | {Capability.TOOLS}


def row(name: str, settings: Mapping[str, str]) -> OpenAICompatible:
    found = next(p for p in register_providers(settings) if p.name == name)
    assert isinstance(found, OpenAICompatible)
    return found


def call(model: str = "m", **changes: object) -> TextCall:
    values = {"request_id": "r", "model": model, "turns": (Turn(Role.USER, "hi"),), "max_output_tokens": 9, "timeout_s": 9.0}
    return TextCall(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with build_client() as client:
        yield client


@pytest.fixture
def vendor(http: httpx.Client) -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture
def openai(vendor: FakeOpenAI) -> OpenAICompatible:
    return row("openai", vendor.settings)


def deepseek(vendor: FakeOpenAI) -> OpenAICompatible:
    return row("deepseek", {"DEEPSEEK_API_KEY": "k", "DEEPSEEK_BASE_URL": vendor.url})


def compatible(vendor: FakeOpenAI, able: str) -> OpenAICompatible:
    settings = {"SWITCHHOOK_COMPATIBLE_BASE_URL": vendor.url, "SWITCHHOOK_COMPATIBLE_CAPABILITIES": able}
    return row("compatible", settings)


# -- what is known of models -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("model", "context", "output", "sampling"),
    [
        ("gpt-6-astra", 922_000, 128_000, False),
        ("gpt-6.1-sol", 922_000, 128_000, False),
        ("gpt-5.6-luna", 922_000, 128_000, False),
        ("gpt-5.4-mini", 272_000, 128_000, True),
        ("gpt-5.1-2026-01-01", 272_000, 128_000, True),
        ("gpt-5-mini", 272_000, 128_000, False),
        ("gpt-4.1-mini-2025-04-14", 1_047_576, 32_768, True),
        ("gpt-4o-mini", 128_000, 16_384, True),
        ("o3-mini", None, None, False),
        ("gpt-7", None, None, False),
        ("gpt-4.1-mini-tuned:me", None, None, True),
        ("", None, None, True),
    ],
)
def test_what_a_model_of_openai_reads_writes_and_takes(
    openai: OpenAICompatible, vendor: FakeOpenAI, http: httpx.Client, model: str, context: int, output: int, sampling: bool
) -> None:
    info = openai.model_info(model)
    assert (info.id, info.context_tokens, info.output_tokens) == (model, context, output)
    list(openai.stream(call(model or "m", temperature=0.5, stop=("x",)), http))
    assert ({"temperature", "stop"} <= vendor.calls[-1].keys()) is sampling


def test_an_operator_is_told_of_a_model_that_ends(openai: OpenAICompatible, vendor: FakeOpenAI) -> None:
    assert openai.model_info("gpt-5-mini").note == "Switched off on 2026-12-11."
    assert "2026-07-24" in deepseek(vendor).model_info("deepseek-chat").note


def test_models_under_another_vendors_roof_are_known_too() -> None:
    info = row("openrouter", {}).model_info("openai/gpt-4.1-mini")
    assert (info.context_tokens, info.capabilities) == (1_047_576, ALL)
    assert row("groq", {}).model_info("openai/gpt-oss-20b").capabilities == {Capability.JSON, Capability.TOOLS}
    assert row("mistral", {}).model_info("mistral-small-latest").capabilities is None


def test_a_list_of_models_keeps_what_the_server_tells_of_them() -> None:
    listed = {
        "data": [
            {"id": "gpt-4.1-mini", "shutdown_date": "2027-01-31T00:00:00Z"},
            {
                "id": "a/b",
                "name": "B",
                "context_length": 4096,
                "architecture": {"input_modalities": ["text", "image"]},
                "supported_parameters": ["response_format", "tools"],
                "top_provider": {"max_completion_tokens": 512},
            },
            {"id": "mistral-x", "max_context_length": 32_000, "capabilities": {"vision": False}},
            {"id": "mistral-y", "capabilities": {"vision": True, "function_calling": True}},
            {"id": "served", "max_model_len": 8192},
            {"id": "odd", "context_length": -1, "capabilities": 7, "architecture": [], "name": 5, "shutdown_date": 3},
            {"id": "odd"},
            {"id": "text-embedding-3"},
            {"id": "new\nline"},
            {"id": ""},
            {"id": 7},
            "x",
        ]
    }
    found = {info.id: info for info in models_in(listed, OPENAI)}
    assert list(found) == ["gpt-4.1-mini", "a/b", "mistral-x", "mistral-y", "served", "odd"]
    assert found["gpt-4.1-mini"].note == "Switched off on 2027-01-31."
    assert found["gpt-4.1-mini"].context_tokens == 1_047_576
    assert (found["a/b"].label, found["a/b"].context_tokens, found["a/b"].output_tokens) == ("B", 4096, 512)
    assert found["a/b"].capabilities == found["mistral-y"].capabilities == ALL
    assert (found["mistral-x"].context_tokens, found["mistral-x"].capabilities) == (32_000, {Capability.JSON})
    assert found["served"].context_tokens == 8192
    assert (found["odd"].context_tokens, found["odd"].capabilities, found["odd"].label) == (None, None, "")


@pytest.mark.parametrize(
    ("given", "able"),
    [("", None), ("vision,json", BOTH), (" JSON ", {Capability.JSON}), ("vision,json,tools", ALL), ("none", set())],
)
def test_the_operator_says_what_a_compatible_server_can_do(
    vendor: FakeOpenAI, http: httpx.Client, given: str, able: set[Capability] | None
) -> None:
    server = compatible(vendor, given)
    assert server.missing() == ""
    assert server.model_info("any").capabilities == able
    assert all(info.capabilities == able for info in server.models(http))


def test_capabilities_that_there_are_not_are_reported(vendor: FakeOpenAI) -> None:
    assert "SWITCHHOOK_COMPATIBLE_CAPABILITIES" in compatible(vendor, "vision,sound").missing()
    assert "SWITCHHOOK_COMPATIBLE_CAPABILITIES" in compatible(vendor, "none,json").missing()


def test_every_row_has_a_key_an_address_and_a_model_of_the_right_kinds() -> None:
    for found in register_providers({}):
        kinds = [variable.kind for variable in found.environment]
        assert kinds.count(VariableKind.URL) == 1
        assert kinds.count(VariableKind.MODEL) == 1
        assert sum(variable.secret for variable in found.environment) == 1


# -- pictures --------------------------------------------------------------------------------------------------------
def test_pictures_come_before_the_text_of_their_turn(openai: OpenAICompatible, vendor: FakeOpenAI, http: httpx.Client) -> None:
    turns = (Turn(Role.USER, "Which?", (Picture("image/png", PIXEL), Picture("image/webp", b"RIFF"))), Turn(Role.USER, "So?"))
    list(openai.stream(call("gpt-4.1-mini", turns=turns), http))
    first, second = vendor.calls[-1]["messages"]
    assert [part["type"] for part in first["content"]] == ["image_url", "image_url", "text"]
    assert first["content"][0]["image_url"]["url"] == f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
    assert second["content"] == "So?"
    list(openai.stream(call("gpt-4.1-mini", turns=(Turn(Role.USER, "", (Picture("image/png", PIXEL),)),)), http))
    assert [part["type"] for part in vendor.calls[-1]["messages"][0]["content"]] == ["image_url"]


def test_a_model_that_sees_nothing_is_sent_no_picture(vendor: FakeOpenAI, http: httpx.Client) -> None:
    turns = (Turn(Role.USER, "What?", (Picture("image/png", PIXEL),)),)
    for server, model in ((deepseek(vendor), "deepseek-v4-pro"), (compatible(vendor, "json"), "m")):
        with pytest.raises(Rejected, match=f"{model} at .* does not take pictures"):
            list(server.stream(call(model, turns=turns), http))
    assert vendor.requests == []
    assert list(deepseek(vendor).stream(call("deepseek-flash", turns=turns), http))


# -- JSON ------------------------------------------------------------------------------------------------------------
def test_a_closed_schema_is_enforced_by_the_vendor(openai: OpenAICompatible, vendor: FakeOpenAI, http: httpx.Client) -> None:
    list(openai.stream(call("gpt-4.1-mini", output=JsonOutput("place", CLOSED)), http))
    [body] = vendor.calls
    schema = {"name": "place", "schema": CLOSED, "strict": True}
    assert body["response_format"] == {"type": "json_schema", "json_schema": schema}
    assert body["messages"] == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("schema", [OPEN, None])
def test_what_cannot_be_enforced_is_asked_for_in_words(
    openai: OpenAICompatible, vendor: FakeOpenAI, http: httpx.Client, schema: dict[str, Any] | None
) -> None:
    turns = (Turn(Role.SYSTEM, "Be brief."), Turn(Role.USER, "hi"))
    list(openai.stream(call("gpt-4.1-mini", turns=turns, output=JsonOutput("place", schema)), http))
    [body] = vendor.calls
    assert body["response_format"] == {"type": "json_object"}
    system = body["messages"][0]["content"]
    assert system.startswith("Be brief.\n\nAnswer with one JSON object")
    assert (json.dumps(schema) in system) is (schema is not None)
    assert len(body["messages"]) == 2


def test_deepseek_is_asked_for_json_by_name_and_its_blanks_are_no_answer(vendor: FakeOpenAI, http: httpx.Client) -> None:
    list(deepseek(vendor).stream(call("deepseek-flash", output=JsonOutput("place", CLOSED)), http))
    [body] = vendor.calls
    assert body["response_format"] == {"type": "json_object"}
    assert "json" in body["messages"][0]["content"].lower()
    vendor.text = "      "
    with pytest.raises(MalformedAnswer) as raised:
        list(deepseek(vendor).stream(call("deepseek-flash", output=JsonOutput("place", CLOSED)), http))
    assert raised.value.usage is not None


def test_a_model_that_refuses_a_schema_is_asked_for_json_and_then_in_words_alone(
    vendor: FakeOpenAI, http: httpx.Client
) -> None:
    server = compatible(vendor, "")
    refusal = json.dumps({"error": {"message": "'response_format' of type 'json_schema' is not supported with this model"}})
    vendor.faults += [Fault(status=400, body=refusal.encode()), Fault(status=400, body=refusal.encode())]
    wanted = call(output=JsonOutput("place", CLOSED))
    list(server.stream(wanted, http))
    sent = [json.loads(request.body) for request in vendor.requests]
    assert [body.get("response_format", {}).get("type") for body in sent] == ["json_schema", "json_object", None]
    assert [json.dumps(CLOSED) in body["messages"][0]["content"] for body in sent] == [False, True, True]
    list(server.stream(wanted, http))
    assert "response_format" not in vendor.calls[-1], "it was not remembered"


def test_a_schema_that_is_wrong_by_itself_is_rejected_and_nothing_is_learned_from_it(
    openai: OpenAICompatible, vendor: FakeOpenAI, http: httpx.Client
) -> None:
    said = {"message": "Invalid schema: 'x' is not permitted.", "code": "invalid_json_schema", "param": "response_format"}
    vendor.faults.append(Fault(status=400, body=json.dumps({"error": said}).encode()))
    wanted = call("gpt-4.1-mini", output=JsonOutput("place", CLOSED))
    with pytest.raises(Rejected):
        list(openai.stream(wanted, http))
    list(openai.stream(wanted, http))
    assert vendor.calls[-1]["response_format"]["type"] == "json_schema"


def test_a_server_that_cannot_be_held_to_json_is_asked_in_words(vendor: FakeOpenAI, http: httpx.Client) -> None:
    list(compatible(vendor, "none").stream(call(output=JsonOutput("place", CLOSED)), http))
    assert "response_format" not in vendor.calls[-1]
    assert "JSON" in vendor.calls[-1]["messages"][0]["content"]


LOOSE: dict[str, dict[str, Any]] = {
    "open": OPEN,
    "optional property": CLOSED | {"required": []},
    "open inside": CLOSED | {"properties": {"city": {"anyOf": [OPEN, {"type": "null"}]}}},
    "open in a list": CLOSED | {"properties": {"city": {"type": "array", "items": OPEN}}},
    "open definition": CLOSED | {"$defs": {"x": OPEN}},
    "a keyword that is not enforced": CLOSED | {"properties": {"city": {"oneOf": [{"type": "string"}]}}},
    "not an object": {"type": "string"},
    "no properties": {"type": "object", "additionalProperties": False},
    "required of another type": CLOSED | {"required": 5},
    "no type": {"properties": {}, "required": [], "additionalProperties": False},
}


@pytest.mark.parametrize("name", LOOSE)
def test_a_schema_with_anything_open_in_it_is_not_strict(name: str) -> None:
    assert not is_strict(LOOSE[name])


def test_a_schema_that_is_closed_all_through_is_strict() -> None:
    assert is_strict(CLOSED)
    assert is_strict(CLOSED | {"properties": {"city": {"type": ["object", "null"], **CLOSED}}})
    endless = dict(CLOSED)
    endless["properties"] = {"city": endless}
    assert not is_strict(endless)


# -- the account -----------------------------------------------------------------------------------------------------
def test_deepseek_tells_what_is_left_and_when_nothing_is(vendor: FakeOpenAI, http: httpx.Client) -> None:
    health = deepseek(vendor).check(http)
    assert (health.ok, health.balance) == (True, "$110.00")
    vendor.balance = {"is_available": False, "balance_infos": [{"currency": "CNY", "total_balance": "0.00"}]}
    health = deepseek(vendor).check(http)
    assert (health.ok, health.balance) == (False, "¥0.00")
    assert "Add money" in health.cure


def test_openrouter_tells_what_is_left_and_whether_the_key_is_good(vendor: FakeOpenAI, http: httpx.Client) -> None:
    openrouter = row("openrouter", {"OPENROUTER_API_KEY": "k", "OPENROUTER_BASE_URL": vendor.url + "/api/v1"})
    assert openrouter.check(http).balance == "$12.50"
    vendor.faults.append(Fault(path="/credits", status=403))
    health = openrouter.check(http)
    assert (health.ok, health.balance) == (True, "")
    vendor.faults.append(Fault(path="/key", status=401))
    health = openrouter.check(http)
    assert not health.ok
    assert "OPENROUTER_API_KEY" in health.cure


@pytest.mark.parametrize(
    ("document", "balance"),
    [
        ({"balance_infos": [{"currency": "USD", "total_balance": "1234.5"}, {"currency": "CNY"}]}, "$1,234.50"),
        ({"balance_infos": [{"currency": "SEK", "total_balance": 3}, 5]}, "SEK 3.00"),
        ({"balance_infos": [{"currency": "x" * 99, "total_balance": "9" * 99}]}, ""),
        ({"data": {"total_credits": 1, "total_usage": 1.25}}, "-$0.25"),
        ({"data": {"total_credits": True, "total_usage": "nan"}}, ""),
        ({"data": [], "balance_infos": {}}, ""),
        ([], ""),
        (None, ""),
    ],
)
def test_a_balance_of_any_shape_is_read_or_left_out(document: object, balance: str) -> None:
    assert balance_in(document) == (balance, True)


def test_deepseek_charges_more_in_chinese_working_hours(vendor: FakeOpenAI, openai: OpenAICompatible) -> None:
    hours = deepseek(vendor).peak_hours
    assert hours.hold(datetime(2026, 11, 23, 1, 0, tzinfo=UTC))
    assert not hours.hold(datetime(2026, 11, 23, 4, 30, tzinfo=UTC))
    assert hours.hold(datetime(2026, 11, 27, 9, 59, tzinfo=UTC))
    assert not hours.hold(datetime(2026, 11, 28, 2, 0, tzinfo=UTC))
    assert not openai.peak_hours
