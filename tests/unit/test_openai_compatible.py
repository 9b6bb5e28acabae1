"""What the rows of the OpenAI-compatible provider do beyond the common contract."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import httpx
import pytest

from plugins.providers.openai_compatible import OpenAICompatible, register_providers
from plugins.providers.openai_compatible.addresses import is_local
from plugins.providers.openai_compatible.rows import ROWS
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from webapp.plugin import Rejected, Role, TextCall, Turn, is_usable_url
from webapp.routing.http import build_client


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
    return row("openai", {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": vendor.url + "/v1/"})


# -- fields that a model does not take -------------------------------------------------------------------------------
def test_a_field_that_a_model_refuses_is_left_out_and_remembered(
    openai: OpenAICompatible, vendor: FakeOpenAI, http: httpx.Client
) -> None:
    vendor.refuse = {"temperature", "stop"}
    assert list(openai.stream(call(temperature=0.5, stop=("x",)), http))
    sent = [{"temperature", "stop"} & body.keys() for body in vendor.calls]
    assert sent == [{"temperature", "stop"}, {"temperature"}, set()]
    assert list(openai.stream(call(temperature=0.5, stop=("x",)), http))
    assert len(vendor.calls) == 4


def test_what_one_model_refuses_is_still_sent_to_another(
    openai: OpenAICompatible, vendor: FakeOpenAI, http: httpx.Client
) -> None:
    vendor.refuse = {"temperature"}
    assert list(openai.stream(call("strict", temperature=0.5), http))
    vendor.refuse = set()
    assert list(openai.stream(call("lenient", temperature=0.5), http))
    assert vendor.calls[-1]["temperature"] == 0.5


def test_a_cap_that_is_refused_is_sent_under_its_other_name_and_never_left_out(
    openai: OpenAICompatible, vendor: FakeOpenAI, http: httpx.Client
) -> None:
    vendor.refuse = {"max_completion_tokens"}
    assert list(openai.stream(call(), http))
    assert vendor.calls[-1]["max_tokens"] == 9
    vendor.refuse = {"max_completion_tokens", "max_tokens"}
    with pytest.raises(Rejected):
        list(openai.stream(call("other"), http))
    assert all("max_tokens" in body or "max_completion_tokens" in body for body in vendor.calls)


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "Unrecognized request argument supplied: store", "type": "invalid_request_error"}}',
        b'{"detail": [{"type": "extra_forbidden", "loc": ["body", "store"], "msg": "Extra inputs are not permitted"}]}',
        b'{"error": {"message": "no", "code": "unsupported_value", "param": "store.deep"}}',
    ],
)
def test_refusals_in_other_servers_words_are_understood(
    openai: OpenAICompatible, vendor: FakeOpenAI, http: httpx.Client, body: bytes
) -> None:
    vendor.faults.append(Fault(status=422, body=body))
    assert list(openai.stream(call(), http))
    assert "store" not in vendor.calls[-1]


def test_a_refusal_of_something_that_was_not_sent_is_final(
    openai: OpenAICompatible, vendor: FakeOpenAI, http: httpx.Client
) -> None:
    body = b'{"error": {"message": "Unsupported parameter", "code": "unsupported_parameter", "param": "messages"}}'
    vendor.faults.append(Fault(status=400, body=body))
    with pytest.raises(Rejected):
        list(openai.stream(call(), http))
    assert len(vendor.requests) == 1


# -- rows ------------------------------------------------------------------------------------------------------------
def ready(url: str) -> list[OpenAICompatible]:
    """Every row, with all its variables set."""
    made = {"DEEPSEEK_MODEL": "fake-model"}
    for found in ROWS:
        made |= {found.key_variable: "k", found.base_url_variable: f"{url}/v1", found.model_variable: "fake-model"}
    return [row(found.name, made) for found in ROWS]


def test_a_row_that_lacks_its_settings_names_the_variable_and_checks_as_not_ok(http: httpx.Client) -> None:
    for bare in (row(found.name, {}) for found in ROWS):
        variables = {variable.name for variable in bare.environment}
        assert bare.missing().split(" ")[0] in variables
        health = bare.check(http)
        assert not health.ok
        assert health.cure


def test_the_order_in_which_they_are_chosen() -> None:
    ranked = sorted(ready("http://127.0.0.1:1"), key=lambda p: p.preference)
    assert [p.name for p in ranked][:3] == ["openai", "compatible", "deepseek"]
    assert len({p.preference for p in ranked}) == len(ranked)


def test_the_body_says_what_the_call_says_for_every_row(vendor: FakeOpenAI, http: httpx.Client) -> None:
    turns = (Turn(Role.SYSTEM, "Be brief."), Turn(Role.USER, "Say hello to me"))
    for found in ready(vendor.url):
        made = call("fake-model", turns=turns, temperature=0.25, stop=("a", "b", "c", "d", "e"), max_output_tokens=200)
        list(found.stream(made, http))
        body = vendor.calls[-1]
        assert body["model"] == "fake-model"
        assert body["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Say hello to me"},
        ]
        assert body.get("max_tokens", body.get("max_completion_tokens")) == 200
        assert (body["temperature"], body["stop"], body["stream"]) == (0.25, ["a", "b", "c", "d"], True)
        assert vendor.requests[-1].header("Authorization") == "Bearer k"


def test_openai_keeps_nothing_and_is_told_a_hash_of_whom_it_is_for(
    openai: OpenAICompatible, vendor: FakeOpenAI, http: httpx.Client
) -> None:
    list(openai.stream(call(person_ref="0f3a"), http))
    [body] = vendor.calls
    assert (body["store"], body["safety_identifier"], body["max_completion_tokens"]) == (False, "0f3a", 9)
    assert body["stream_options"] == {"include_usage": True}
    list(openai.stream(call(), http))
    assert "safety_identifier" not in vendor.calls[-1]


def test_openai_is_told_organization_and_project(vendor: FakeOpenAI, http: httpx.Client) -> None:
    names = {"OPENAI_API_KEY": " k\n", "OPENAI_BASE_URL": vendor.url, "OPENAI_ORG_ID": "org", "OPENAI_PROJECT_ID": "proj"}
    list(row("openai", names).stream(call(), http))
    sent = vendor.requests[-1]
    assert (sent.header("OpenAI-Organization"), sent.header("OpenAI-Project")) == ("org", "proj")
    assert sent.header("Authorization") == "Bearer k"


def test_deepseek_does_not_think_and_uses_its_own_field_names(vendor: FakeOpenAI, http: httpx.Client) -> None:
    deepseek = row("deepseek", {"DEEPSEEK_API_KEY": "k", "DEEPSEEK_BASE_URL": vendor.url})
    list(deepseek.stream(call(person_ref="0f3a"), http))
    [body] = vendor.calls
    assert (body["thinking"], body["user_id"], body["max_tokens"]) == ({"type": "disabled"}, "0f3a", 9)
    assert "store" not in body


def test_a_server_without_a_key_is_sent_none(vendor: FakeOpenAI, http: httpx.Client) -> None:
    vllm = row("vllm", {"VLLM_BASE_URL": vendor.url})
    assert list(vllm.stream(call(), http))
    assert vendor.requests[-1].header("Authorization") == ""


@pytest.mark.parametrize("name", ["vllm", "llamacpp", "lmstudio"])
def test_servers_that_share_ports_with_others_are_not_looked_for_unasked(name: str) -> None:
    assert "BASE_URL is not set" in row(name, {}).missing()


@pytest.mark.parametrize("url", ["gpu:8000", "ftp://gpu", "http://", "http://[::1", "http://gpu/v1?x=1", "http://gpu:x"])
def test_an_address_that_cannot_be_called_is_reported_by_its_variable(url: str) -> None:
    assert (
        row("vllm", {"VLLM_BASE_URL": url}).missing()
        == "VLLM_BASE_URL is not an http or https address without user and password"
    )


def test_a_key_that_no_header_can_carry_is_reported_and_not_shown() -> None:
    missing = row("openai", {"OPENAI_API_KEY": "sk-ключ"}).missing()
    assert "OPENAI_API_KEY" in missing
    assert "ключ" not in missing


# -- where no model is named -----------------------------------------------------------------------------------------
def test_without_a_model_the_first_listed_one_that_can_chat_is_used_and_remembered(
    vendor: FakeOpenAI, http: httpx.Client
) -> None:
    server = row("compatible", {"SWITCHHOOK_COMPATIBLE_BASE_URL": vendor.url})
    assert (server.default_model, server.probe_needed) == ("", True)
    for _ in range(2):
        list(server.stream(call(model=""), http))
    assert [body["model"] for body in vendor.calls] == ["fake-model"] * 2
    assert [r.method for r in vendor.requests] == ["GET", "POST", "POST"]


def test_a_check_finds_the_model_and_says_what_to_do_when_there_is_none(vendor: FakeOpenAI, http: httpx.Client) -> None:
    server = row("lmstudio", {"LMSTUDIO_BASE_URL": vendor.url})
    vendor.models = ["nomic-embed-text"]
    health = server.check(http)
    assert not health.ok
    assert "Load a model" in health.cure
    with pytest.raises(Rejected, match="Load a model"):
        list(server.stream(call(model=""), http))
    vendor.models.append("llama3.2:latest")
    assert server.check(http).ok
    assert server.default_model == "llama3.2:latest"


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"data": 5}', b'{"data": [1, {}, {"id": 5}]}', b"", b"[" * 99_999])
def test_a_check_of_a_server_that_lists_no_models_is_not_ok(vendor: FakeOpenAI, http: httpx.Client, body: bytes) -> None:
    vendor.faults.append(Fault(status=200, body=body))
    assert not row("vllm", {"VLLM_BASE_URL": vendor.url}).check(http).ok


def test_only_a_server_whose_model_nobody_named_has_to_be_looked_at_first() -> None:
    assert row("vllm", {"VLLM_BASE_URL": "http://gpu:1"}).probe_needed
    assert not row("vllm", {"VLLM_BASE_URL": "http://gpu:1", "VLLM_MODEL": "m"}).probe_needed
    assert not row("openai", {"OPENAI_API_KEY": "k"}).probe_needed


# -- addresses -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("url", "free"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://192.168.1.7:8000", True),
        ("http://gpu:8000", True),
        ("http://gpu.lan", True),
        ("http://host.docker.internal:8000", True),
        ("http://[::1]:5", True),
        ("https://gpu.example.com", False),
        ("http://8.8.8.8:8000", False),
    ],
)
def test_only_a_server_of_the_operators_own_is_free(url: str, free: bool) -> None:
    assert is_usable_url(url)
    assert row("vllm", {"VLLM_BASE_URL": url}).free_of_charge is free
    assert is_local(url) is free


def test_an_address_that_is_none_is_not_local() -> None:
    assert not is_local("http://[::1")
    assert not is_local("")


def test_a_compatible_server_is_never_taken_for_free() -> None:
    assert not row("compatible", {"SWITCHHOOK_COMPATIBLE_BASE_URL": "http://127.0.0.1:4000"}).free_of_charge
