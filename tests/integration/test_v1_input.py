"""Bodies that are wrong in every way: each is refused in the format's shape, the field is named, and nothing is made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from tests.integration.v1_support import CHAT, HELLO, MESSAGES, PNG, V1

MEGABYTE = "x" * 1_000_000
USER = {"role": "user", "content": "Hello?"}


@pytest.fixture
def database_url(tmp_path: Path, migrated_sqlite: Path) -> str:
    """SQLite alone: nothing of this reaches a database."""
    shutil.copy(migrated_sqlite, tmp_path / "switchhook.db")
    return f"sqlite:///{tmp_path / 'switchhook.db'}"


@pytest.fixture
def v1(make_app: Callable[..., Flask]) -> V1:
    made = V1(make_app(api_body_max_mb=4))
    made.app.testing = False  # a fault is to be a 500 here, and no exception
    return made


def url(address: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image_url", "image_url": {"url": address}}]}


def nested(depth: int) -> Any:
    found: Any = {}
    for _ in range(depth):
        found = {"a": found}
    return found


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
FUNCTION = {"type": "function", "function": {"name": "f"}}

RAW: list[tuple[str | bytes, int, str]] = [
    ("", 400, "body"),
    ("nothing", 400, "body"),
    ("[]", 400, "body"),
    ('"text"', 400, "body"),
    ("5", 400, "body"),
    ("null", 400, "body"),
    (b'{"model": "\xff"}', 400, "body"),
    ('{"model": "auto", "model": "auto"}', 400, "body"),
    ('{"temperature": NaN}', 400, "body"),
    ('{"temperature": 1e999}', 400, "body"),
    (json.dumps({"model": "auto", "messages": nested(100)}), 400, "body"),
    ("[" * 100_000, 400, "body"),
    ('{"model": "auto", "messages": [{"role": "user", "content": "a\\u0000b"}]}', 400, "messages.0.content"),
    ('{"model": "auto", "messages": [{"role": "user", "content": "\\ud800"}]}', 400, "messages.0.content"),
]

# The fields of a chat completion that are wrong, and what `param` names (the beginning of it).
CHAT_FIELDS: list[tuple[dict[str, Any], str]] = [
    *(({name: wrong}, name) for name in ("model", "messages") for wrong in (None, 5, True, "", [], {}, [5])),
    *(({"temperature": wrong}, "temperature") for wrong in ("1", True, [], {}, -0.1, 2.1)),
    *(({"top_p": wrong}, "top_p") for wrong in ("1", [], -1, 1.5)),
    *(({"max_tokens": wrong}, "max_tokens") for wrong in ("5", 1.5, True, 0, -1, 10**12)),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    *(({"stop": wrong}, "stop") for wrong in (5, [5], ["a"] * 5, [""], ["x" * 501], {})),
    *(({"n": wrong}, "n") for wrong in (2, 0, -1, "1", 1.5)),
    *(({"stream": wrong}, "stream") for wrong in ("yes", 1, [])),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ({"stream": True, "stream_options": 5}, "stream_options"),
    *(({"user": wrong}, "user") for wrong in (5, "x" * 257, [])),
    ({"logprobs": True}, "logprobs"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    *(({"response_format": wrong}, "response_format") for wrong in (5, {}, {"type": "xml"}, {"type": "json_schema"})),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}}, "response_format.json_schema.name"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"x": "y" * 40_000}}}},
        "response_format",
    ),
    *(({"tools": wrong}, "tools") for wrong in (5, [5], [{}], [{"type": "web_search"}], [FUNCTION] * 129)),
    ({"tools": [{"type": "function", "function": {"name": "no good"}}]}, "tools.0.function.name"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools.0.function.parameters"),
    ({"tools": [{"type": "function", "function": {"name": "f", "description": "x" * 10_001}}]}, "tools.0.function.description"),
    ({"tool_choice": "auto"}, "tool_choice"),
    ({"tools": [FUNCTION], "tool_choice": "maybe"}, "tool_choice"),
    ({"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ({"messages": [USER] * 2_001}, "messages"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"content": "x"}]}, "messages.0.role"),
    *(({"messages": [{"role": "user", "content": wrong}]}, "messages.0.content") for wrong in (5, {}, [5], [], "", None, [{}])),
    ({"messages": [USER, {"role": "tool", "content": "x"}]}, "messages.1.tool_call_id"),
    ({"messages": [USER, {"role": "tool", "tool_call_id": "c9", "content": "x"}]}, "messages.1.tool_call_id"),
    ({"messages": [USER | {"tool_calls": [CALL]}]}, "messages.0.tool_calls"),
    ({"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "c1"}]}]}, "messages.1.tool_calls.0.function"),
    ({"messages": [USER, {"role": "assistant", "tool_calls": [CALL] * 129}]}, "messages.1.tool_calls"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "messages.0.content.0"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0"),
    ({"messages": [url("https://example.com/a.png")]}, "messages.0.content.0.image_url"),
    ({"messages": [url("data:image/png,abc")]}, "messages.0.content.0.image_url"),
    ({"messages": [url("data:image/png;base64,####")]}, "messages.0.content.0.image_url"),
    ({"messages": [url("data:image/png;base64,aGVsbG8=")]}, "messages.0.content.0.image_url"),
    ({"messages": [url(f"data:image/png;base64,{PNG}")] * 21}, "messages.20"),
]

PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
WISH = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}
OWN = {"name": "f", "input_schema": {"type": "object"}}

# The same of a message; what is named is told at the beginning of the words.
MESSAGE_FIELDS: list[tuple[dict[str, Any], str]] = [
    *(({name: wrong}, name) for name in ("model", "messages", "max_tokens") for wrong in (None, True, "", [], {}, [5])),
    *(({"max_tokens": wrong}, "max_tokens") for wrong in (0, -5, 1.5, "5", 10**12)),
    *(({"system": wrong}, "system") for wrong in (5, [5], [{}], [PICTURE])),
    *(({"temperature": wrong}, "temperature") for wrong in ("1", -0.1, 1.1)),
    ({"top_p": 2}, "top_p"),
    *(({"stop_sequences": wrong}, "stop_sequences") for wrong in ("x", [5], ["a"] * 5, [""])),
    ({"stream": "yes"}, "stream"),
    *(({"metadata": wrong}, "metadata") for wrong in (5, {"user_id": 5}, {"user_id": "x" * 257})),
    ({"mcp_servers": [{"url": "https://example.com"}]}, "mcp_servers"),
    ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
    *(({"tools": wrong}, "tools") for wrong in (5, [5], [{}], [{"name": "f"}], [{"type": "bash_20250124", "name": "bash"}])),
    ({"tools": [OWN] * 129}, "tools"),
    ({"tools": [OWN | {"name": "no good"}]}, "tools.0.name"),
    *(({"tools": [OWN], "tool_choice": wrong}, "tool_choice") for wrong in ("auto", {}, {"type": "tool", "name": "g"})),
    ({"tool_choice": {"type": "auto"}}, "tool_choice"),
    ({"messages": [USER] * 2_001}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
    *(({"messages": [{"role": "user", "content": wrong}]}, "messages.0.content") for wrong in (5, {}, [5], [], "", None, [{}])),
    ({"messages": [USER, {"role": "assistant", "content": [PICTURE]}]}, "messages.1.content.0"),
    ({"messages": [USER, {"role": "assistant", "content": [WISH | {"input": "x"}]}]}, "messages.1.content.0.input"),
    ({"messages": [USER, {"role": "assistant", "content": [{"type": "tool_use", "id": "t1"}]}]}, "messages.1.content.0"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t9"}]}]}, "messages.0.content.0"),
    ({"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]}, "messages.0.content.0"),
    ({"messages": [{"role": "user", "content": [PICTURE] * 21}]}, "messages.0.content.20"),
    *(
        ({"messages": [{"role": "user", "content": [PICTURE | {"source": source}]}]}, "messages.0.content.0.source")
        for source in (
            {"type": "url", "url": "https://example.com/a.png"},
            {"type": "base64"},
            {"type": "base64", "data": "####"},
            {"type": "base64", "data": "aGVsbG8="},
        )
    ),
]

IMAGE_FIELDS: list[tuple[dict[str, Any], str]] = [
    *(({"prompt": wrong}, "prompt") for wrong in (None, 5, "", [])),
    *(({"n": wrong}, "n") for wrong in (2, 0, "1")),
    *(({"size": wrong}, "size") for wrong in (5, "big", "0x0", "10x10", "99999x99999", "1024x1024x1024")),
    ({"response_format": "png"}, "response_format"),
    ({"stream": True}, "stream"),
    ({"model": "nobody/nothing"}, "model"),
    ({"model": "auto:coding"}, "model"),
    ({"prompt": MEGABYTE}, "prompt"),
]


def check(answer: Any, status: int, *, anthropic: bool, label: object) -> Any:
    assert answer.status_code == status, (label, answer.status_code, answer.text[:500])
    assert answer.mimetype == "application/json", label
    given = answer.get_json()
    if anthropic:
        assert (given["type"], set(given["error"])) == ("error", {"type", "message"}), label
        assert given["request_id"] == answer.headers["request-id"]
    else:
        assert set(given["error"]) == {"message", "type", "param", "code"}, label
    assert given["error"]["message"], label
    assert len(given["error"]["message"]) < 600, label
    return given["error"]


def test_bodies_that_are_none_are_refused_in_the_shape_of_the_format(v1: V1) -> None:
    for path in (CHAT, MESSAGES, "/v1/images/generations"):
        anthropic = path == MESSAGES
        for raw, status, param in RAW:
            error = check(v1.post(path, raw), status, anthropic=anthropic, label=(path, raw[:60]))
            assert anthropic or error["param"] == param, (path, raw[:60], error)
        large = check(v1.post(path, "x" * (4 * 1024 * 1024 + 1)), 413, anthropic=anthropic, label=path)
        assert "larger" in large["message"]
        if path != CHAT:  # whoever sends JSON there is understood, whatever they call it
            error = check(v1.post(path, {"model": "auto"}, Content_Type="text/plain"), 415, anthropic=anthropic, label=path)
            assert "Content-Type: application/json" in error["message"]
            assert anthropic or error["code"] == "unsupported_media_type"
        check(v1.client.put(path), 405, anthropic=anthropic, label=path)
    assert v1.counts() == (0, 0, 0)


@pytest.mark.parametrize(
    ("path", "good", "table"),
    [
        (CHAT, {"model": "auto", "messages": HELLO}, CHAT_FIELDS),
        (MESSAGES, {"model": "auto", "max_tokens": 100, "messages": HELLO}, MESSAGE_FIELDS),
        ("/v1/images/generations", {"prompt": "a cat"}, IMAGE_FIELDS),
    ],
    ids=["chat", "messages", "images"],
)
def test_a_wrong_field_is_named(v1: V1, path: str, good: dict[str, Any], table: list[tuple[dict[str, Any], str]]) -> None:
    for wrong, named in table:
        label = (json.dumps(wrong)[:120], named)
        answer = v1.post(path, good | wrong)
        status = 404 if answer.status_code == 404 and named == "model" else 400
        error = check(answer, status, anthropic=path == MESSAGES, label=label)
        if path == MESSAGES:
            assert error["message"].startswith(named) or status == 404, (label, error)
        else:
            assert str(error["param"]).startswith(named), (label, error)
    for name in ("model", "messages") if path == CHAT else ("messages", "max_tokens") if path == MESSAGES else ("prompt",):
        without = {key: value for key, value in good.items() if key != name}
        error = check(v1.post(path, without), 400, anthropic=path == MESSAGES, label=name)
        assert name in error["message"]
    assert v1.counts() == (0, 0, 0)


def test_what_is_too_much_is_refused_and_not_tried(v1: V1) -> None:
    many = [{"role": "user", "content": "x"}] * 100_000
    for path in (CHAT, MESSAGES):
        check(
            v1.post(path, {"model": "auto", "max_tokens": 5, "messages": many}), 400, anthropic=path == MESSAGES, label="many"
        )
    big = {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(10_000)}}
    huge = v1.chat(tools=[{"type": "function", "function": {"name": "f", "parameters": big}}])
    assert 400 <= huge.status_code < 500 or huge.status_code == 503, huge.text
    assert v1.counts()[2] == 0
