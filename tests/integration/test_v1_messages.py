"""Messages in Anthropic's format: answered, streamed, charged; whichever vendor answers."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from flask import Flask
from sqlalchemy import update

from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.openai import FakeOpenAI
from tests.fakes.vendor import Trouble
from tests.integration.v1_support import HELLO, MESSAGES, PNG, V1, WEATHER, events
from webapp.extensions import writing
from webapp.models import Plan

TOOL = {"name": "weather", "description": "How it is.", "input_schema": WEATHER}
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}


@pytest.fixture
def v1(openai: FakeOpenAI, make_app: Callable[..., Flask]) -> V1:
    return V1(make_app(chat_model="openai/gpt-4.1-mini", retries=0))


def test_a_message_is_answered_and_charged(v1: V1, openai: FakeOpenAI) -> None:
    openai.cached_tokens = 1
    system = [
        {"type": "text", "text": "Be brief."},
        {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}},
    ]
    answer = v1.message(
        system=system,
        temperature=0.5,
        top_p=0.9,
        stop_sequences=["END"],
        metadata={"user_id": "u1"},
        thinking={"type": "enabled", "budget_tokens": 1024},
        top_k=5,
    )
    given, row = answer.get_json(), v1.newest()
    assert answer.status_code == 200, answer.text
    assert (given["id"], given["type"], given["role"]) == (f"msg_{row.id.hex}", "message", "assistant")
    assert given["content"] == [{"type": "text", "text": openai.text}]
    assert (given["stop_reason"], given["stop_sequence"]) == ("end_turn", None)
    usage = given["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == row.input_tokens
    assert (usage["cache_read_input_tokens"], usage["output_tokens"]) == (1, row.output_tokens)
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    assert answer.headers["x-switchhook-ignored"] == "thinking, top_k"
    asked = openai.calls[0]
    assert [message["content"] for message in asked["messages"]] == ["Be brief.\nBe kind.", "Hello?"]
    assert (asked["stop"], asked["temperature"], asked["top_p"]) == (["END"], 0.5, 0.9)
    assert v1.counts() == (1, 1, 0)


def test_a_stream_has_its_events_in_order(v1: V1, openai: FakeOpenAI) -> None:
    openai.wishes, openai.wish_text = [("weather", {"town": "Graz"}), ("weather", {})], "I shall look."
    found = events(v1.message(tools=[TOOL], stream=True))
    kinds = [event["type"] for event in found if event["type"] != "ping"]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert found[0]["message"]["content"] == []
    assert found[0]["message"]["usage"]["input_tokens"] > 0
    blocks: list[tuple[dict[str, str], list[str]]] = []
    is_open = False
    for event in found:
        if event["type"] == "content_block_start":
            assert (is_open, event["index"]) == (False, len(blocks))
            blocks.append((event["content_block"], []))
            is_open = True
        elif event["type"] == "content_block_delta":
            assert (is_open, event["index"]) == (True, len(blocks) - 1)
            blocks[-1][1].append(event["delta"].get("text") or event["delta"].get("partial_json") or "")
        elif event["type"] == "content_block_stop":
            assert (is_open, event["index"]) == (True, len(blocks) - 1)
            is_open = False
    assert [block["type"] for block, _ in blocks] == ["text", "tool_use", "tool_use"]
    assert "".join(blocks[0][1]) == "I shall look."
    assert [json.loads("".join(said)) for _, said in blocks[1:]] == [{"town": "Graz"}, {}]
    delta = next(event for event in found if event["type"] == "message_delta")
    assert delta["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert delta["usage"]["output_tokens"] == v1.newest().output_tokens > 0
    assert v1.counts() == (1, 1, 0)


def test_tools_and_pictures_go_round(v1: V1, openai: FakeOpenAI) -> None:
    openai.wishes = [("weather", {"town": "Graz"})]
    first = v1.message(tools=[TOOL], tool_choice={"type": "any", "disable_parallel_tool_use": True}).get_json()
    (wish,) = first["content"]
    assert (wish["type"], wish["name"], wish["input"], first["stop_reason"]) == (
        "tool_use",
        "weather",
        {"town": "Graz"},
        "tool_use",
    )
    assert (openai.calls[-1]["tool_choice"], openai.calls[-1]["parallel_tool_calls"]) == ("required", False)
    openai.wishes = []
    result = {
        "type": "tool_result",
        "tool_use_id": wish["id"],
        "is_error": True,
        "content": [{"type": "text", "text": "No such town."}, PICTURE],
    }
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "x"}
    talk = [*HELLO, {"role": "assistant", "content": [thought, wish]}]
    said = v1.message([*talk, {"role": "user", "content": [result, {"type": "text", "text": "Well?"}]}], tools=[TOOL])
    assert said.status_code == 200, said.text
    assert said.get_json()["content"][0]["text"] == openai.text
    sent = openai.calls[-1]["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "user"]
    assert sent[2]["content"] == "The tool failed.\nNo such town."
    assert {part["type"] for part in sent[3]["content"]} == {"text", "image_url"}
    assert v1.message([{"role": "user", "content": [PICTURE]}]).status_code == 200
    named = v1.message(tools=[TOOL], tool_choice={"type": "tool", "name": "weather"})
    assert named.get_json()["stop_reason"] == "tool_use"


def test_why_an_answer_ended_is_told_in_this_formats_words(v1: V1, openai: FakeOpenAI) -> None:
    for finish, reason in (("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal")):
        openai.finish = finish
        assert v1.message().get_json()["stop_reason"] == reason


def test_an_answer_may_have_to_be_json(v1: V1, openai: FakeOpenAI) -> None:
    openai.text = '{"town": "Graz"}'
    schema = WEATHER | {"additionalProperties": False}
    said = v1.message(
        [{"role": "user", "content": "JSON"}], output_config={"format": {"type": "json_schema", "schema": schema}}
    )
    assert json.loads(said.get_json()["content"][0]["text"]) == {"town": "Graz"}
    assert openai.calls[-1]["response_format"]["type"] == "json_schema"


def test_claude_answers_under_its_bare_name(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeAnthropic() as fake:
        for name, value in fake.settings.items():
            monkeypatch.setenv(name, value)
        v1 = V1(make_app(chat_model=f"anthropic/{fake.model}"))
        for name in ("claude-opus-4-5", fake.settings["ANTHROPIC_MODEL"], "auto"):
            answer = v1.message(model=name)
            assert answer.status_code == 200, answer.text
            assert answer.get_json()["model"].startswith("anthropic/")
        assert fake.calls[0]["model"] == "claude-opus-4-5"
        refused = v1.message(model="gpt-4.1")
        assert (refused.status_code, refused.get_json()["error"]["type"]) == (404, "not_found_error")


def test_tokens_are_counted_as_they_are_held(v1: V1) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": "word " * 100}]}
    few = v1.post(f"{MESSAGES}/count_tokens", body)
    assert few.status_code == 200, few.text
    assert 100 <= few.get_json()["input_tokens"] < 400
    more = v1.post(f"{MESSAGES}/count_tokens", body | {"system": "word " * 100, "tools": [TOOL]})
    assert more.get_json()["input_tokens"] > few.get_json()["input_tokens"] + 100
    assert v1.counts() == (0, 0, 0)
    wrong = v1.post(f"{MESSAGES}/count_tokens", body, Authorization="", x_api_key="sh_wrong")
    assert (wrong.status_code, wrong.get_json()["error"]["type"]) == (401, "authentication_error")


def test_refusals_and_failures_have_this_formats_shape(v1: V1, openai: FakeOpenAI) -> None:
    table = {
        Trouble.RATE_LIMITED: (529, "overloaded_error"),
        Trouble.DOWN: (503, "api_error"),
        Trouble.POLICY: (400, "invalid_request_error"),
    }
    for kind, expected in table.items():
        for stream in (False, True):
            v1.app.extensions["switchhook.redis"].flushall()
            openai.faults.extend(fault for fault in [openai.trouble(kind)] * 9 if fault)
            answer = v1.message(stream=stream)
            openai.faults.clear()
            assert (answer.status_code, answer.get_json()["error"]["type"]) == expected, answer.text
    v1.app.extensions["switchhook.redis"].flushall()
    whole = openai.good_stream("one two three four five six")
    openai.script = lambda: iter([whole[: len(whole) * 2 // 3]])
    assert events(v1.message(stream=True))[-1]["error"]["type"] == "api_error"
    openai.script = None
    with v1.app.app_context(), writing() as connection:
        connection.execute(update(Plan).values(limits={"messages": 1}))
    assert v1.message().status_code == 200
    body = {"model": "auto", "max_tokens": 5, "messages": HELLO}
    for headers, status, kind in (
        ({}, 429, "rate_limit_error"),
        ({"Authorization": ""}, 401, "authentication_error"),
        ({"Authorization": "", "x-api-key": "sh_wrong"}, 401, "authentication_error"),
        ({"Authorization": "", "x-api-key": v1.make_token("read")}, 403, "permission_error"),
    ):
        answer = v1.post(MESSAGES, body, **headers)
        given = answer.get_json()
        assert (answer.status_code, given["error"]["type"], given["type"]) == (status, kind, "error"), headers
        assert given["request_id"] == answer.headers["request-id"]
    assert v1.client.get(MESSAGES).get_json()["type"] == "error"
