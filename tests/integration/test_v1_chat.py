"""Chat completions in OpenAI's format: answered, streamed, charged; by the way in, not by its parts."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import update

from tests.fakes.openai import FakeOpenAI, event, text_chunk
from tests.fakes.vendor import Trouble
from tests.integration.v1_support import CHAT, HELLO, MESSAGES, PNG, V1, WEATHER, chunks
from webapp.extensions import writing
from webapp.models import Plan

TOOL = {"type": "function", "function": {"name": "weather", "description": "How it is.", "parameters": WEATHER}}


@pytest.fixture
def v1(openai: FakeOpenAI, make_app: Callable[..., Flask]) -> V1:
    return V1(make_app(chat_model="openai/gpt-4.1-mini", retries=0))


def test_a_question_is_answered_and_charged(v1: V1, openai: FakeOpenAI) -> None:
    openai.cached_tokens, openai.reasoning_tokens = 1, 2
    answer = v1.chat([{"role": "system", "content": "Be brief."}, *HELLO], temperature=0.5, stop="END", max_tokens=50)
    given = answer.get_json()
    assert answer.status_code == 200, answer.text
    assert given["object"] == "chat.completion"
    assert given["id"] == f"chatcmpl-{v1.newest().id.hex}"
    assert answer.headers["x-switchhook-request"] == str(v1.newest().id)
    assert answer.headers["x-request-id"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert given["model"].startswith("openai/")
    (choice,) = given["choices"]
    assert choice["message"] == {"role": "assistant", "content": openai.text, "refusal": None}
    assert choice["finish_reason"] == "stop"
    row, usage = v1.newest(), given["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (row.input_tokens, row.output_tokens)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 1}
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 2}
    assert (row.status, row.conversation_id, row.channel) == ("completed", None, "api")
    assert v1.counts() == (1, 1, 0)
    asked = openai.calls[0]
    assert (asked["temperature"], asked["stop"]) == (0.5, ["END"])
    assert [message["content"] for message in asked["messages"]] == ["Be brief.", "Hello?"]


def test_a_stream_says_the_same_piece_by_piece(v1: V1, openai: FakeOpenAI) -> None:
    answer = v1.chat(stream=True, stream_options={"include_usage": True})
    found = chunks(answer)
    assert {chunk["object"] for chunk in found} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["model"], chunk["created"]) for chunk in found}) == 1
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    said = "".join(choice["delta"].get("content") or "" for chunk in found for choice in chunk["choices"])
    assert said == openai.text
    assert found[-2]["choices"][0]["finish_reason"] == "stop"
    assert found[-1]["choices"] == []
    assert found[-1]["usage"]["completion_tokens"] == v1.newest().output_tokens > 0
    assert all(chunk["usage"] is None for chunk in found[:-1])
    assert (answer.headers["X-Accel-Buffering"], answer.headers["x-switchhook-request"]) == ("no", str(v1.newest().id))
    assert v1.counts() == (1, 1, 0)
    assert all("usage" not in chunk for chunk in chunks(v1.chat(stream=True)))


def test_tools_are_asked_for_and_their_answers_go_on(v1: V1, openai: FakeOpenAI) -> None:
    openai.wishes = [("weather", {"town": "Graz"}), ("weather", {"town": "Wien"})]
    (choice,) = v1.chat(tools=[TOOL], tool_choice="auto", parallel_tool_calls=True).get_json()["choices"]
    calls = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert [json.loads(call["function"]["arguments"])["town"] for call in calls] == ["Graz", "Wien"]
    streamed: dict[int, dict[str, str]] = {}
    for chunk in chunks(v1.chat(tools=[TOOL], stream=True)):
        for wish in chunk["choices"][0]["delta"].get("tool_calls", ()):
            there = streamed.setdefault(wish["index"], {"id": "", "name": "", "arguments": ""})
            there["id"] += wish.get("id", "")
            there["name"] += wish["function"].get("name", "")
            there["arguments"] += wish["function"]["arguments"]
    assert [json.loads(each["arguments"]) for each in streamed.values()] == [{"town": "Graz"}, {"town": "Wien"}]
    assert {each["name"] for each in streamed.values()} == {"weather"}
    given = [{"role": "tool", "tool_call_id": call["id"], "content": "Rain."} for call in calls]
    told = v1.chat([*HELLO, choice["message"], *given], tools=[TOOL]).get_json()["choices"][0]
    assert (told["message"]["content"], told["finish_reason"]) == (openai.text, "stop")
    assert [message["role"] for message in openai.calls[-1]["messages"]] == ["user", "assistant", "tool", "tool"]
    assert v1.counts() == (3, 3, 0)


def test_pictures_json_and_what_has_no_effect(v1: V1, openai: FakeOpenAI) -> None:
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    shown = [{"type": "text", "text": "What is this?"}, picture]
    assert v1.chat([{"role": "user", "content": shown}]).status_code == 200
    assert {part["type"] for part in openai.calls[-1]["messages"][0]["content"]} == {"text", "image_url"}
    openai.text = '{"town": "Graz"}'
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": WEATHER | {"additionalProperties": False}}}
    said = v1.chat([{"role": "user", "content": "As JSON"}], response_format=form, seed=7, logit_bias={"1": 2}, top_k=None)
    assert json.loads(said.get_json()["choices"][0]["message"]["content"]) == {"town": "Graz"}
    assert openai.calls[-1]["response_format"]["json_schema"]["schema"]
    assert said.headers["x-switchhook-ignored"] == "logit_bias, seed"


def test_an_answer_is_kept_only_for_who_allows_it(v1: V1, openai: FakeOpenAI) -> None:
    body = {"model": "auto", "messages": HELLO}
    assert [v1.post(CHAT, body).status_code for _ in range(2)] == [200, 200]
    first = [v1.post(CHAT, body, x_switchhook_cache="allow").get_json() for _ in range(2)]
    assert len(openai.calls) == 3
    assert first[0]["choices"] == first[1]["choices"]


def test_names_of_models_mean_what_their_words_say(v1: V1, openai: FakeOpenAI) -> None:
    for name, asked in (
        ("auto", "gpt-4.1-mini"),
        ("auto:coding", "gpt-4.1-mini"),
        ("openai/gpt-4.1", "gpt-4.1"),
        ("gpt-4.1", "gpt-4.1"),
    ):
        assert v1.chat(model=name).status_code == 200, name
        assert openai.calls[-1]["model"] == asked
        assert v1.newest().category == ("coding" if name == "auto:coding" else "general")
    for name in ("nothing", "nobody/gpt-4.1", "auto:../x", "auto:", "openai/a b", "x" * 160):
        refused = v1.chat(model=name)
        assert refused.status_code == 404, name
        assert refused.get_json()["error"]["code"] == "model_not_found"
        assert refused.get_json()["error"]["param"] == "model"


@pytest.mark.parametrize("stream", [False, True])
def test_a_vendors_failure_has_a_status_of_its_own(v1: V1, openai: FakeOpenAI, stream: bool) -> None:
    table = {
        Trouble.RATE_LIMITED: (503, "provider_rate_limited"),
        Trouble.DOWN: (503, "provider_unavailable"),
        Trouble.TOO_LONG: (400, "context_length_exceeded"),
        Trouble.POLICY: (400, "content_policy_violation"),
        Trouble.BAD_REQUEST: (400, "provider_rejected"),
    }
    for kind, (status, code) in table.items():
        v1.app.extensions["switchhook.redis"].flushall()
        openai.faults.extend(fault for fault in [openai.trouble(kind)] * 9 if fault)
        answer = v1.chat(stream=stream)
        openai.faults.clear()
        assert (answer.status_code, answer.get_json()["error"]["code"]) == (status, code), answer.text
        assert answer.headers["x-switchhook-request"] == str(v1.newest().id)
        assert v1.newest().status == "failed"
    assert v1.counts()[2] == 0


def test_a_stream_that_breaks_off_says_so_and_is_charged(v1: V1, openai: FakeOpenAI) -> None:
    whole = openai.good_stream("one two three four five six")
    openai.script = lambda: iter([whole[: len(whole) * 2 // 3]])
    answer = v1.chat(stream=True)
    assert answer.status_code == 200
    *_, last, end = answer.text.split("\n\n")
    assert end == ""
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["type"] == "server_error"
    assert "[DONE]" not in answer.text
    assert (v1.newest().status, v1.counts()) == ("failed", (1, 1, 0))


def test_limits_and_tokens_refuse_as_clients_expect(v1: V1) -> None:
    with v1.app.app_context(), writing() as connection:
        connection.execute(update(Plan).values(limits={"messages": 1}))
    assert v1.chat().status_code == 200
    answer = v1.chat()
    assert answer.status_code == 429
    assert answer.get_json()["error"]["code"] == "insufficient_quota"
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers["x-should-retry"] == "false"
    table: list[tuple[dict[str, str], int, str]] = [
        ({"Authorization": ""}, 401, "invalid_api_key"),
        ({"Authorization": "Basic abc"}, 401, "invalid_api_key"),
        ({"Authorization": "Bearer sh_nothing"}, 401, "invalid_api_key"),
        ({"Authorization": "Bearer nothing"}, 401, "invalid_api_key"),
        ({"Authorization": f"Bearer {v1.make_token('read')}"}, 403, "not_allowed"),
    ]
    for headers, status, code in table:
        for path in (CHAT, "/v1/models"):
            if status == 403 and path != CHAT:
                continue
            body: Any = {"model": "auto", "messages": HELLO}
            refused = v1.post(path, body, **headers) if path == CHAT else v1.get(path, **headers)
            assert (refused.status_code, refused.get_json()["error"]["code"]) == (status, code), (headers, path)
            assert refused.headers["x-request-id"]


def test_a_long_file_in_a_message_goes_to_the_model_whole_and_its_beginning_is_kept(v1: V1, openai: FakeOpenAI) -> None:
    long = "line of a file\n" * 3000
    assert v1.chat([{"role": "user", "content": long}]).status_code == 200
    assert openai.calls[-1]["messages"][-1]["content"] == long
    assert v1.newest().prompt == long[:16_000]


def test_answers_tell_what_is_left_of_the_tightest_limits_by_either_way(v1: V1) -> None:
    with v1.app.app_context(), writing() as connection:
        connection.execute(update(Plan).values(limits={"messages": 10, "tokens": 10**6}))
    # The first call of a token is admitted the general way, because its use is noted; the others the short one.
    for used in (1, 2, 3):
        headers = v1.chat(max_tokens=100).headers
        assert headers["x-ratelimit-limit-requests"] == "10"
        assert headers["x-ratelimit-remaining-requests"] == str(10 - used)
        assert headers["x-ratelimit-limit-tokens"] == str(10**6)
        assert 10**6 - 1000 < int(headers["x-ratelimit-remaining-tokens"]) < 10**6
        assert headers["x-ratelimit-reset-requests"].endswith("s")


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_silent_vendor_is_waited_for_with_signs_of_life_and_left_when_nobody_reads(
    v1: V1, openai: FakeOpenAI, path: str
) -> None:
    left = threading.Event()

    def words() -> Iterator[bytes]:
        yield event(text_chunk("Once upon a time"))
        while not left.wait(0.1):
            yield b": nothing yet\n\n"

    openai.script = words
    body = {"model": "auto", "max_tokens": 50, "messages": HELLO, "stream": True}
    answer = v1.post(path, body)
    read: list[str] = []
    for piece in answer.iter_encoded():
        read.append(piece.decode())
        if "Once upon" in "".join(read[:-1]):
            break
    assert read[-1] in (": working\n\n", 'event: ping\ndata: {"type":"ping"}\n\n')
    answer.close()
    row = v1.newest()
    assert (row.status, row.answer, row.error_code) == ("cancelled", "Once upon a time", "cancelled")
    assert row.output_tokens > 0
    assert v1.counts() == (1, 1, 0)
    left.set()
    openai.script = None
    assert v1.chat().status_code == 200, "nobody is blamed for it"
