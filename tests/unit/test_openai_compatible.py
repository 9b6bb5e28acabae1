"""What the rows of the OpenAI-compatible provider do beyond the common contract."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.providers.openai_compatible import OpenAICompatible, register_providers
from plugins.providers.openai_compatible.addresses import is_local, is_usable, ollama_base_url
from plugins.providers.openai_compatible.wire import Answer, lines
from tests.fakes.openai import FakeOpenAI, event, text_chunk
from tests.fakes.server import Fault
from webapp.plugin import ProviderError, Rejected, Role, Text, TextCall, Turn, Usage
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
    assert row("vllm", {"VLLM_BASE_URL": url}).missing() == "VLLM_BASE_URL is not an http or https address"


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
    ollama = row("ollama", {"OLLAMA_HOST": vendor.url})
    vendor.models = ["nomic-embed-text"]
    health = ollama.check(http)
    assert not health.ok
    assert "ollama pull" in health.cure
    with pytest.raises(Rejected, match="ollama pull"):
        list(ollama.stream(call(model=""), http))
    vendor.models.append("llama3.2:latest")
    assert ollama.check(http).ok
    assert ollama.default_model == "llama3.2:latest"


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"data": 5}', b'{"data": [1, {}, {"id": 5}]}', b"", b"[" * 99_999])
def test_a_check_of_a_server_that_lists_no_models_is_not_ok(vendor: FakeOpenAI, http: httpx.Client, body: bytes) -> None:
    vendor.faults.append(Fault(status=200, body=body))
    assert not row("ollama", {"OLLAMA_HOST": vendor.url}).check(http).ok


def test_only_ollama_on_its_own_port_has_to_be_looked_for() -> None:
    assert row("ollama", {}).probe_needed
    assert row("ollama", {"OLLAMA_MODEL": "m"}).probe_needed
    assert not row("ollama", {"OLLAMA_HOST": "gpu", "OLLAMA_MODEL": "m"}).probe_needed
    assert not row("openai", {"OPENAI_API_KEY": "k"}).probe_needed


# -- addresses -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434/v1"),
        ("0.0.0.0", "http://127.0.0.1:11434/v1"),
        ("0.0.0.0:9999", "http://127.0.0.1:9999/v1"),
        (":9999", "http://127.0.0.1:9999/v1"),
        ("gpu", "http://gpu:11434/v1"),
        ("gpu:1234", "http://gpu:1234/v1"),
        ("http://gpu", "http://gpu:80/v1"),
        ("https://gpu.example.com", "https://gpu.example.com:443/v1"),
        ("https://gpu.example.com:8443/ollama/", "https://gpu.example.com:8443/ollama/v1"),
        ("http://gpu:1/v1", "http://gpu:1/v1"),
        ("ollama.com", "https://ollama.com:443/v1"),
        ("::1", "http://[::1]:11434/v1"),
        ("[::]:5", "http://[::1]:5/v1"),
        (" gpu ", "http://gpu:11434/v1"),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(host: str, url: str) -> None:
    assert ollama_base_url(host) == url
    assert is_usable(url)


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
    assert row("ollama", {"OLLAMA_HOST": host}).free_of_charge is free
    assert is_local(ollama_base_url(host)) is free


def test_a_compatible_server_is_never_taken_for_free() -> None:
    assert not row("compatible", {"SWITCHHOOK_COMPATIBLE_BASE_URL": "http://127.0.0.1:4000"}).free_of_charge


# -- bytes -----------------------------------------------------------------------------------------------------------
WHOLE = (
    event(text_chunk("Grüße, "))
    + b": comment\r\n\r\n"
    + event(text_chunk("世界! 👩‍🚀\r\nbye")).replace(b"\n", b"\r\n")
    + event(text_chunk(None, delta={}, finish_reason="stop"))
    + event(text_chunk(None) | {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})
    + event("[DONE]")
)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(0, len(WHOLE)), max_size=12))
def test_a_stream_reads_the_same_however_it_is_cut_into_packets(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(WHOLE)]
    packets = [WHOLE[a:b] for a, b in pairwise(edges)]
    *pieces, usage = Answer("Fake").read(packets)
    assert "".join(p.text for p in pieces if isinstance(p, Text)) == "Grüße, 世界! 👩‍🚀\r\nbye"
    assert isinstance(usage, Usage)
    assert (usage.input_tokens, usage.output_tokens) == (3, 4)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.binary(max_size=60) | st.sampled_from([WHOLE[:150], b"data: ", b"\n\n", b"{", b"data: [DONE]\n\n"])))
def test_any_bytes_are_an_answer_or_a_typed_error(packets: list[bytes]) -> None:
    try:
        *pieces, usage = Answer("Fake").read(packets)
    except ProviderError:
        return
    assert isinstance(usage, Usage)
    assert any(isinstance(piece, Text) and piece.text.strip() for piece in pieces)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "message", "content", "finish_reason", "usage", "error", "index", "code", "type"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(deadline=None, max_examples=200)
@given(st.lists(json_values, max_size=4), st.booleans())
def test_any_json_is_an_answer_or_a_typed_error(values: list[object], streamed: bool) -> None:
    packets = [event(json.dumps(value)) for value in values] if streamed else [json.dumps(values[:1]).encode()[1:-1]]
    try:
        *_, usage = Answer("Fake").read([*packets, event("[DONE]")] if streamed else packets)
    except ProviderError:
        return
    assert isinstance(usage, Usage)


def test_lines_of_any_ending_are_told_apart() -> None:
    assert list(lines([b"a\r", b"\nb\n\nc", b"", b"d\n", b"last"])) == [b"a", b"b", b"", b"cd", b"last"]
