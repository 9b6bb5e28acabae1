"""Tools, sampling and whole answers as each text provider words them; the fakes refuse what their vendors would."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from plugins.providers import anthropic as anthropic_plugin
from plugins.providers import gemini as gemini_plugin
from plugins.providers import ollama as ollama_plugin
from plugins.providers import openai_compatible, prsm
from plugins.providers.openai_compatible.wire import Answer
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.gemini import FakeGemini
from tests.fakes.ollama import FakeOllama
from tests.fakes.openai import FakeOpenAI, event, text_chunk
from tests.fakes.server import Fault
from webapp.plugin import (
    Finish,
    MalformedAnswer,
    Picture,
    Rejected,
    Role,
    TextProvider,
    Tool,
    ToolCall,
    ToolFlow,
    Turn,
    Usage,
    arguments_object,
)
from webapp.testkit.asking import PIXEL, call, client, failure, run
from webapp.testkit.tools import CLOCK, TOOLS, WEATHER, WISHES

OPEN = Tool("open_tool", parameters={"type": "object", "properties": {"a": {"type": "string"}}}, strict=True)
ASKED = Turn(
    Role.ASSISTANT,
    "",
    tool_calls=(ToolCall("call_a", "get_weather", '{"city": "Bern", "days": 1}'), ToolCall("b:1", "what_time_is_it", "")),
)
GAVE = (Turn(Role.TOOL, "rain", tool_call_id="call_a"), Turn(Role.TOOL, "noon", tool_call_id="b:1"))
TURNS = (Turn(Role.USER, "What now?"), ASKED, *GAVE)


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with client() as made:
        yield made


def the(plugin: Any, settings: Mapping[str, str], name: str) -> Any:
    [found] = [p for p in plugin.register_providers(settings) if p.name == name and isinstance(p, TextProvider)]
    return found


@pytest.fixture
def openai_fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture
def openai(openai_fake: FakeOpenAI) -> Any:
    return the(openai_compatible, openai_fake.settings, "openai")


def row(fake: FakeOpenAI, name: str) -> Any:
    found = next(each for each in openai_compatible.rows.ROWS if each.name == name)
    return the(openai_compatible, {found.key_variable: "k", found.base_url_variable: fake.url}, name)


# -- the same for all ------------------------------------------------------------------------------------------------
def test_a_whole_answer_is_asked_for_as_one(http: httpx.Client) -> None:
    with ExitStack() as stack:
        fakes: dict[str, Any] = {
            "openai": stack.enter_context(FakeOpenAI()),
            "anthropic": stack.enter_context(FakeAnthropic()),
            "ollama": stack.enter_context(FakeOllama()),
            "gemini": stack.enter_context(FakeGemini()),
        }
        plugins = {"anthropic": anthropic_plugin, "gemini": gemini_plugin, "ollama": ollama_plugin, "openai": openai_compatible}
        for name, fake in fakes.items():
            provider = the(plugins[name], fake.settings, name)
            for whole in (True, False):
                assert run(provider, http, call(whole=whole)).text == fake.text
            whole_one, streamed = fake.calls
            assert not whole_one.get("stream"), name
            assert "stream_options" not in whole_one
            assert streamed.get("stream", name == "gemini") is True
        assert [r.path.rpartition(":")[2] for r in fakes["gemini"].requests] == ["generateContent", "streamGenerateContent"]


def test_prsm_and_a_model_that_takes_no_tools_refuse_them(http: httpx.Client) -> None:
    made = call(tools=TOOLS)
    assert type(failure(the(prsm, {"PRSM_API_KEY": "k"}, "prsm"), http, made)) is Rejected
    with FakeOpenAI() as fake:
        server = the(
            openai_compatible,
            {"SWITCHHOOK_COMPATIBLE_BASE_URL": fake.url, "SWITCHHOOK_COMPATIBLE_CAPABILITIES": "json"},
            "compatible",
        )
        assert "tools" in failure(server, http, made).message
        assert fake.requests == []
    with FakeAnthropic() as other:
        found = the(anthropic_plugin, other.settings, "anthropic")
        assert "tools" in failure(found, http, call(tools=TOOLS, model="claude-2.1")).message
        assert other.requests == []
    with FakeOllama() as third:
        found = the(ollama_plugin, third.settings, "ollama")
        assert type(failure(found, http, call(tools=TOOLS, model="fake-vision:7b"))) is Rejected, "the server says so"
        found.models(http)
        before = len(third.requests)
        assert "tools" in failure(found, http, call(tools=TOOLS, model="fake-vision:7b")).message
        assert len(third.requests) == before, "it is known by then"


# -- OpenAI's format -------------------------------------------------------------------------------------------------
def test_openais_format_of_tools_and_their_answers(openai: Any, openai_fake: FakeOpenAI, http: httpx.Client) -> None:
    made = call(turns=TURNS, tools=(WEATHER, CLOCK, OPEN), tool_choice="get_weather", parallel_tools=False, top_p=0.5)
    assert run(openai, http, made).error is None
    [body] = openai_fake.calls
    functions = [tool["function"] for tool in body["tools"]]
    assert [function.get("strict") for function in functions] == [True, None, None], "an open schema cannot be held to"
    assert functions[1] == {"name": "what_time_is_it", "parameters": {"type": "object", "properties": {}}}
    assert body["tool_choice"] == {"type": "function", "function": {"name": "get_weather"}}
    assert (body["parallel_tool_calls"], body["top_p"]) == (False, 0.5)
    said, *gave = body["messages"][1:]
    assert said["content"] is None
    assert [wish["id"] for wish in said["tool_calls"]] == ["call_a", "b:1"]
    assert [wish["function"]["arguments"] for wish in said["tool_calls"]] == [ASKED.tool_calls[0].arguments, "{}"]
    assert gave[0] == {"role": "tool", "tool_call_id": "call_a", "content": "rain"}


def test_pictures_that_a_tool_gave_follow_in_a_message_of_the_users(
    openai: Any, openai_fake: FakeOpenAI, http: httpx.Client
) -> None:
    seen = Turn(Role.TOOL, "a map", (Picture("image/png", PIXEL),), tool_call_id="call_a")
    for rest in ((), (Turn(Role.USER, "Well?"),)):
        assert run(openai, http, call(turns=(*TURNS[:2], seen, GAVE[1], *rest), tools=TOOLS)).error is None
        roles = [message["role"] for message in openai_fake.calls[-1]["messages"]]
        assert roles == ["user", "assistant", "tool", "tool", "user", *(["user"] if rest else [])]


def test_without_tools_nothing_is_said_of_their_choice(openai: Any, openai_fake: FakeOpenAI, http: httpx.Client) -> None:
    assert run(openai, http, call(tool_choice="required", parallel_tools=True)).error is None
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & openai_fake.calls[0].keys()


def test_rows_differ_in_ids_and_parallel_tools(openai_fake: FakeOpenAI, http: httpx.Client) -> None:
    sent: dict[str, dict[str, Any]] = {}
    for name in ("mistral", "deepseek"):
        made = call(model="m" if name == "mistral" else "deepseek-flash", turns=TURNS, tools=TOOLS, parallel_tools=True)
        assert run(row(openai_fake, name), http, made).error is None
        sent[name] = openai_fake.calls[-1]
    ids = [wish["id"] for wish in sent["mistral"]["messages"][1]["tool_calls"]]
    assert all(len(one) == 9 and one.isalnum() for one in ids)
    assert ids == [message["tool_call_id"] for message in sent["mistral"]["messages"][2:]]
    assert sent["mistral"]["parallel_tool_calls"] is True
    assert "parallel_tool_calls" not in sent["deepseek"]
    assert "strict" not in sent["deepseek"]["tools"][0]["function"]


def test_sampling_is_left_to_reasoning_models(openai: Any, openai_fake: FakeOpenAI, http: httpx.Client) -> None:
    assert run(openai, http, call(model="gpt-6-luna", top_p=0.5, temperature=0.5)).error is None
    assert not {"top_p", "temperature"} & openai_fake.calls[0].keys()


def test_a_refused_wish_is_left_out_but_tools_never_are(openai: Any, openai_fake: FakeOpenAI, http: httpx.Client) -> None:
    openai_fake.refuse = {"top_p", "parallel_tool_calls"}
    made = call(tools=TOOLS, top_p=0.5, parallel_tools=True)
    for calls in (3, 4):
        assert run(openai, http, made).error is None
        assert len(openai_fake.calls) == calls, "it was learned"
    assert "tools" in openai_fake.calls[-1]
    openai_fake.refuse = {"tool_choice"}
    assert run(openai, http, call(tools=TOOLS, tool_choice="auto")).error is None
    for choice in ("required", "none", "get_weather"):
        assert type(failure(row(openai_fake, "groq"), http, call(tools=TOOLS, tool_choice=choice))) is Rejected
    openai_fake.refuse = {"tools"}
    assert type(failure(openai, http, call(tools=TOOLS))) is Rejected
    assert "tools" in openai_fake.calls[-1]


@pytest.mark.parametrize(
    ("said", "lasting"),
    [
        ({"message": "Invalid schema for function 'get_weather'", "param": "tools[0].function.parameters"}, False),
        ({"message": "strict mode cannot hold this schema", "code": "invalid_function_parameters"}, False),
        ({"message": "Unrecognized request argument: strict", "param": "tools[0].function.strict"}, True),
    ],
)
def test_a_tool_that_the_model_cannot_be_held_to_is_offered_all_the_same(
    openai: Any, openai_fake: FakeOpenAI, http: httpx.Client, said: dict[str, str], lasting: bool
) -> None:
    openai_fake.faults.append(Fault(status=400, body=json.dumps({"error": said}).encode()))
    for _ in range(2):
        assert run(openai, http, call(tools=TOOLS)).error is None
    first, second = openai_fake.calls
    assert "strict" not in first["tools"][0]["function"]
    assert ("strict" in second["tools"][0]["function"]) is not lasting


def fragment(**wish: Any) -> bytes:
    return event(text_chunk(None, delta={"tool_calls": [wish]}))


def function(name: str = "", arguments: object = "") -> dict[str, object]:
    return {"name": name, "arguments": arguments} if name else {"arguments": arguments}


END = event(text_chunk(None, delta={}, finish_reason="stop")) + event("[DONE]")
ODD_FRAGMENTS: dict[str, tuple[bytes, list[tuple[str, str]]]] = {
    "no index": (
        fragment(id="1", function=function("a", "{")) + fragment(function=function("", "}")) + fragment(function=function("b")),
        [("a", "{}"), ("b", "{}")],
    ),
    "one index for all": (
        fragment(index=0, id="1", function=function("a", "{}")) + fragment(index=0, id="2", function=function("b", "[]")),
        [("a", "{}"), ("b", "[]")],
    ),
    "id and name repeated": (
        fragment(index=0, id="1", function=function("a", "{")) + fragment(index=0, id="1", function=function("a", "}")),
        [("a", "{}")],
    ),
    "indexes from 1": (fragment(index=1, id="1", function=function("a", "{}")), [("a", "{}")]),
    "an object": (fragment(index=0, id="1", function=function("a", {"x": "ü"})), [("a", '{"x": "ü"}')]),
    "no arguments": (fragment(index=0, id="1", function={"name": "a", "arguments": None}), [("a", "{}")]),
    "half a character": (
        b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"1","function":{"name":"a",'
        b'"arguments":"\\"\\ud83d"}}]}}]}\n\n'
        b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\\ude80\\""}}]}}]}\n\n',
        [("a", '"\U0001f680"')],
    ),
    "two of one id": (
        fragment(index=0, id="1", function=function("a", "{}")) + fragment(index=1, id="1", function=function("b", "{}")),
        [("a", "{}"), ("b", "{}")],
    ),
}


def read(body: bytes) -> tuple[list[tuple[str, str]], list[str], Usage]:
    """Names with arguments, ids and the usage of an answer's body."""
    found: list[list[str]] = []
    ids = []
    *pieces, usage = list(Answer("It", tools=True).read([body]))
    assert isinstance(usage, Usage)
    for piece in pieces:
        assert not hasattr(piece, "text")
        if piece.name:  # type: ignore[union-attr]
            found.append([piece.name, ""])  # type: ignore[union-attr]
            ids.append(piece.id)  # type: ignore[union-attr]
        assert piece.index == len(found) - 1  # type: ignore[union-attr]
        found[-1][1] += piece.arguments  # type: ignore[union-attr]
    return [(name, arguments) for name, arguments in found], ids, usage


@pytest.mark.parametrize("name", ODD_FRAGMENTS)
def test_tool_calls_of_odd_servers_are_read(name: str) -> None:
    body, expected = ODD_FRAGMENTS[name]
    found, ids, usage = read(body + END)
    assert found == expected
    assert len({*ids}) == len(ids)
    assert all(ids)
    assert usage.finish is Finish.TOOL, "also where the server says `stop`"


@pytest.mark.parametrize(
    "body",
    [
        fragment(index=0, id="1", function=function("a", "{")) + fragment(index=1, id="2", function=function("b", "{"))
        + fragment(index=0, function=function("", "}")),
        fragment(index=0, id="1", function=function("", "{}")),
        fragment(index=0, id="1", function={"name": 5, "arguments": "{}"}),
        fragment(index=0, id="1", function={"name": "a\n", "arguments": "{}"}),
        fragment(index=0, id="1", function={"name": "a", "arguments": 7}),
        fragment(index=0, id="1", function="a"),
        event(text_chunk(None, delta={"tool_calls": {"a": 1}})),
        event(text_chunk(None, delta={"tool_calls": ["a"]})),
        b"".join(fragment(index=index, function=function("a", "{}")) for index in range(2000)),
        fragment(index=0, function=function("a")) + fragment(index=0, function=function("", "x" * 99_999)) * 11,
        b"",
    ],
)  # fmt: skip
def test_tool_calls_that_cannot_be_are_malformed(body: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        read(body + event(text_chunk(None, delta={}, finish_reason="tool_calls")) + event("[DONE]"))


def test_a_call_for_tools_that_was_cut_by_its_length_says_so() -> None:
    body = fragment(index=0, id="1", function=function("a", '{"x')) + event(text_chunk(None, delta={}, finish_reason="length"))
    found, _, usage = read(body)
    assert (found, usage.finish) == ([("a", '{"x')], Finish.LENGTH)
    found, _, usage = read(body.replace(b'{\\"x', b""))
    assert (found, usage.finish) == ([("a", "")], Finish.LENGTH), "arguments that did not come are not made up"


# -- Anthropic -------------------------------------------------------------------------------------------------------
def test_anthropics_format_of_tools_and_their_answers(http: httpx.Client) -> None:
    with FakeAnthropic() as fake:
        found = the(anthropic_plugin, fake.settings, "anthropic")
        made = call(
            model="claude-haiku-5-5",
            turns=(*TURNS, Turn(Role.USER, "And?")),
            tools=(WEATHER, CLOCK, OPEN),
            tool_choice="required",
            parallel_tools=False,
            top_p=0.5,
        )
        assert run(found, http, made).error is None
        [body] = fake.calls
        assert [tool.get("strict") for tool in body["tools"]] == [True, None, True]
        assert body["tools"][2]["input_schema"]["additionalProperties"] is False, "the vendor holds to closed schemas only"
        assert body["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}
        assert "top_p" not in body
        question, said, gave, last = body["messages"]
        assert [block["type"] for block in said["content"]] == ["tool_use", "tool_use"]
        assert said["content"][0]["input"] == {"city": "Bern", "days": 1}
        assert [block["type"] for block in gave["content"]] == ["tool_result", "tool_result"]
        assert [b["tool_use_id"] for b in gave["content"]] == [b["id"] for b in said["content"]]
        assert last["content"] == "And?"
        assert question["role"] == "user"
        seen = (*TURNS[:2], Turn(Role.TOOL, "", (Picture("image/png", PIXEL),), tool_call_id="call_a"), GAVE[1])
        assert run(found, http, call(turns=seen, tools=TOOLS, tool_choice="what_time_is_it")).error is None
        assert fake.calls[-1]["tool_choice"] == {"type": "tool", "name": "what_time_is_it"}
        assert run(found, http, call(turns=TURNS)).error is None
        assert fake.calls[-1]["tool_choice"] == {"type": "none"}, "a conversation with tools needs them described"


def test_anthropic_takes_one_way_of_sampling_where_it_takes_any(http: httpx.Client) -> None:
    with FakeAnthropic() as fake:
        found = the(anthropic_plugin, fake.settings, "anthropic")
        assert run(found, http, call(model="claude-haiku-4-5", top_p=0.5)).error is None
        assert run(found, http, call(model="claude-haiku-4-5", top_p=0.5, temperature=0.25)).error is None
        sent = [(body.get("top_p"), body.get("temperature")) for body in fake.calls]
        assert sent == [(0.5, None), (None, 0.25)]


def test_a_tool_that_anthropic_cannot_be_held_to_is_offered_all_the_same(http: httpx.Client) -> None:
    with FakeAnthropic() as fake:
        found = the(anthropic_plugin, fake.settings, "anthropic")
        for words, strict in (
            ("tools.0: strict schema is too complex", True),
            ("strict: this model does not support it", False),
        ):
            error = {"type": "error", "error": {"type": "invalid_request_error", "message": words}}
            fake.faults.append(Fault(status=400, body=json.dumps(error).encode()))
            for _ in range(2):
                assert run(found, http, call(model="claude-haiku-5-5", tools=TOOLS)).error is None
            first, second = fake.calls[-2:]
            assert "strict" not in first["tools"][0]
            assert ("strict" in second["tools"][0]) is strict
        error = {"type": "error", "error": {"type": "invalid_request_error", "message": "this model does not support tools"}}
        fake.faults.append(Fault(status=400, body=json.dumps(error).encode()))
        assert type(failure(found, http, call(model="claude-haiku-5-5", tools=TOOLS))) is Rejected


# -- Gemini ----------------------------------------------------------------------------------------------------------
def test_geminis_format_of_tools_and_their_answers(http: httpx.Client) -> None:
    with FakeGemini() as fake:
        found = the(gemini_plugin, fake.settings, "gemini")
        made = call(model="gemini-3.5-flash-lite", turns=TURNS, tools=TOOLS, tool_choice="get_weather", top_p=0.5)
        assert run(found, http, made).error is None
        [body] = fake.calls
        assert body["toolConfig"]["functionCallingConfig"] == {"mode": "ANY", "allowedFunctionNames": ["get_weather"]}
        [declared] = body["tools"]
        assert [f.get("parametersJsonSchema") for f in declared["functionDeclarations"]] == [WEATHER.parameters, None]
        _, said, gave = body["contents"]
        assert "thoughtSignature" in said["parts"][0]
        assert "thoughtSignature" not in said["parts"][1]
        assert [p["functionResponse"]["name"] for p in gave["parts"]] == ["get_weather", "what_time_is_it"]
        assert "topP" not in body["generationConfig"], "version 3 wants its own"
        assert run(found, http, call(turns=TURNS, tools=TOOLS, top_p=0.5)).error is None
        assert fake.calls[-1]["generationConfig"]["topP"] == 0.5
        stray = call(turns=(Turn(Role.USER, "hi"), GAVE[0]), tools=TOOLS)
        assert type(failure(found, http, stray)) is Rejected
        assert len(fake.calls) == 2
        fake.refuse = {"tools": "Function calling is not enabled for models/fake-model"}
        assert type(failure(found, http, call(tools=TOOLS))) is Rejected


# -- Ollama ----------------------------------------------------------------------------------------------------------
def test_ollamas_format_of_tools_and_their_answers(http: httpx.Client) -> None:
    with FakeOllama() as fake:
        found = the(ollama_plugin, fake.settings, "ollama")
        assert run(found, http, call(turns=TURNS, tools=TOOLS, top_p=0.5)).error is None
        [body] = fake.calls
        assert body["options"]["top_p"] == 0.5
        assert [m.get("tool_name") for m in body["messages"]] == [None, None, "get_weather", "what_time_is_it"]
        assert body["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"city": "Bern", "days": 1}
        fake.wishes = WISHES
        for choice, names in (("what_time_is_it", ["what_time_is_it"]), ("required", [tool.name for tool in TOOLS])):
            assert run(found, http, call(tools=TOOLS, tool_choice=choice)).wishes
            assert [tool["function"]["name"] for tool in fake.calls[-1]["tools"]] == names
            assert "call" in fake.calls[-1]["messages"][-1]["content"], "its format knows no choice: it is asked for in words"
        assert run(found, http, call(tools=TOOLS, tool_choice="none")).text == fake.text
        assert "tools" not in fake.calls[-1]


# -- the contract's own part -----------------------------------------------------------------------------------------
def test_arguments_as_an_object_lose_nothing() -> None:
    assert arguments_object(" ") == {}
    assert arguments_object('{"a": [1]}') == {"a": [1]}
    for broken in ("{", "[1]", '"a"', '{"a": NaN}', "[" * 9999):
        assert arguments_object(broken) == {"arguments": broken}


def test_arguments_before_a_tool_are_none() -> None:
    with pytest.raises(ValueError, match="before"):
        list(ToolFlow().feed("{}"))
