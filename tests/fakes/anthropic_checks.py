"""What Anthropic's Messages API takes and what it refuses, for the fake of it."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

from .server import FakeReply

VERSIONS = ("2023-06-01", "2026-10-21")
TAKE_TEMPERATURE = ("claude-haiku-4-5", "claude-sonnet-4-6")
PICTURE_TOKENS = 20
_NEEDED = frozenset({"model", "max_tokens", "messages"})
_SAMPLING = frozenset({"temperature", "top_p", "top_k"})
_OTHER = frozenset({"system", "stop_sequences", "thinking", "output_config", "tools", "tool_choice", "metadata", "stream"})
_FIELDS = _NEEDED | _SAMPLING | _OTHER | {"cache_control", "service_tier", "speed"}
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
_TOOL_ID = re.compile(r"[A-Za-z0-9_-]+\Z")
_MAGIC = {"image/png": b"\x89PNG", "image/jpeg": b"\xff\xd8\xff", "image/gif": b"GIF8", "image/webp": b"RIFF"}


def error_body(kind: str, message: str, code: str = "", request_id: str = "req_fake") -> dict[str, Any]:
    """An error as the vendor words it; `code` is the thing to branch on, where there is one."""
    error: dict[str, Any] = {"type": kind, "message": message}
    if code:
        error["details"] = {"error_code": code}
    return {"type": "error", "error": error, "request_id": request_id}


class Refused(Exception):
    """The call breaks the format: 400 with these words, unless the status says otherwise."""

    def __init__(self, message: str, status: int = 400, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.reply = FakeReply.json(error_body(kind, message), status, {"request-id": "req_fake"})


def words_in(body: Mapping[str, Any]) -> int:
    """The input in words, and a fixed number for each picture."""
    contents = [body.get("system", " "), *(message["content"] for message in body["messages"])]
    blocks = [block for content in contents for block in _blocks(content)]
    return sum(_words_of(block) for block in blocks)


def _words_of(block: Mapping[str, Any]) -> int:
    if block["type"] == "text":
        return len(block["text"].split())
    if block["type"] == "tool_use":
        return 1 + len(json.dumps(block["input"]).split())
    if block["type"] == "tool_result":
        return sum(_words_of(inner) for inner in _blocks(block.get("content") or " "))
    return PICTURE_TOKENS


def check_body(body: Any, version: str) -> None:
    """Raises `Refused` where the vendor would answer 400."""
    if not isinstance(body, dict):
        raise Refused("The request body is not an object")
    for name in sorted(_NEEDED - body.keys()):
        raise Refused(f"{name}: Field required")
    for name in sorted(body.keys() - _FIELDS):
        raise Refused(f"{name}: Extra inputs are not permitted")
    if not isinstance(body["model"], str) or not body["model"]:
        raise Refused("model: String should have at least 1 character")
    cap = body["max_tokens"]
    if isinstance(cap, bool) or not isinstance(cap, int) or cap < 0:
        raise Refused("max_tokens: Input should be a valid integer")
    if not isinstance(body.get("stream", False), bool):
        raise Refused("stream: Input should be a valid boolean")
    if "system" in body:
        for block in _blocks(body["system"]):
            _check_block(block, "system", "system")
    _check_messages(body["messages"], body["model"])
    _check_tools(body)
    _check_options(body, version)


def _check_options(body: dict[str, Any], version: str) -> None:
    takes = body["model"].startswith(TAKE_TEMPERATURE) and version < "2026-10-21"
    for name in sorted(_SAMPLING & body.keys()):
        if not takes:
            raise Refused(f"`{name}` is not supported by this model.")
    if "temperature" in body and "top_p" in body:
        raise Refused("`temperature` and `top_p` cannot both be specified for this model.")
    warmth = body.get("temperature", 1)
    if isinstance(warmth, bool) or not isinstance(warmth, int | float) or not 0 <= warmth <= 1:
        raise Refused("temperature: range: 0..1")
    stops = body.get("stop_sequences", [])
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop.strip() for stop in stops):
        raise Refused("stop_sequences: each stop sequence must contain non-whitespace")
    metadata = body.get("metadata", {})
    if not isinstance(metadata, dict) or metadata.keys() - {"user_id"}:
        raise Refused("metadata: Extra inputs are not permitted")
    if "output_config" in body:
        wanted = body["output_config"].get("format")
        if not isinstance(wanted, dict) or wanted.get("type") != "json_schema" or not isinstance(wanted.get("schema"), dict):
            raise Refused("output_config.format: Input should be a json_schema")
        _check_schema(wanted["schema"])


def _check_tools(body: Mapping[str, Any]) -> None:
    tools, choice = body.get("tools", []), body.get("tool_choice", {"type": "auto"})
    blocks = [block for message in body["messages"] for block in _blocks(message["content"])]
    if not tools and any(block["type"] in ("tool_use", "tool_result") for block in blocks):
        raise Refused("Requests which include `tool_use` or `tool_result` blocks must define tools")
    if not tools and "tool_choice" in body:
        raise Refused("tool_choice: may only be specified while providing tools")
    for position, tool in enumerate(tools):
        if tool.keys() - {"name", "description", "input_schema", "strict", "type", "cache_control"}:
            raise Refused(f"tools.{position}: Extra inputs are not permitted")
        if not _TOOL_NAME.match(str(tool.get("name"))):
            raise Refused(f"tools.{position}.name: String should match pattern")
        schema = tool.get("input_schema")
        if not isinstance(schema, dict) or schema.get("type") != "object":
            raise Refused(f"tools.{position}.input_schema.type: Field required")
        if tool.get("strict"):
            _check_schema(schema, f"tools.{position}.input_schema")
    if not isinstance(choice, dict) or choice.get("type") not in ("auto", "any", "tool", "none"):
        raise Refused("tool_choice: Input tag does not match any of the expected tags")
    if choice["type"] == "tool" and choice.get("name") not in [tool["name"] for tool in tools]:
        raise Refused(f"Tool '{choice.get('name')}' not found in provided tools")
    if choice["type"] == "none" and "disable_parallel_tool_use" in choice:
        raise Refused("tool_choice.none.disable_parallel_tool_use: Extra inputs are not permitted")


def _check_schema(schema: Any, place: str = "output_config.format.schema") -> None:
    if isinstance(schema, dict):
        if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
            raise Refused(f"{place}: For 'object' type, 'additionalProperties' must be set to false")
        for inner in [*schema.get("properties", {}).values(), schema.get("items")]:
            _check_schema(inner, place)


def _check_messages(messages: Any, model: str) -> None:
    if not isinstance(messages, list) or not messages:
        raise Refused("messages: at least one message is required")
    for position, message in enumerate(messages):
        place = f"messages.{position}"
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            raise Refused(f"{place}: Input should have role and content")
        if message["role"] not in ("user", "assistant"):
            raise Refused(f'messages: Unexpected role "{message["role"]}".')
        for block in _blocks(message["content"]):
            _check_block(block, place, message["role"])
    _check_results(messages)
    if messages[-1]["role"] == "assistant" and not model.startswith("claude-haiku-4-5"):
        raise Refused("This model does not support assistant message prefill.")


def _check_results(messages: list[dict[str, Any]]) -> None:
    """What tools gave stands at the beginning of the message behind the one that asked for them, and nothing is missing."""
    waiting: list[str] = []
    merged: list[tuple[str, list[Any]]] = []
    for message in messages:  # consecutive messages of one role are one turn
        if merged and merged[-1][0] == message["role"]:
            merged[-1][1].extend(_blocks(message["content"]))
        else:
            merged.append((message["role"], list(_blocks(message["content"]))))
    for position, (_, blocks) in enumerate([*merged, ("", [])]):
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        first = [block["tool_use_id"] for block in blocks[: len(waiting)] if block["type"] == "tool_result"]
        if sorted(first) != sorted(waiting):
            words = "`tool_use` ids were found without `tool_result` blocks immediately after"
            raise Refused(f"messages.{position}: {words}: {', '.join(waiting)}")
        if len(results) != len(waiting):
            raise Refused(f"messages.{position}: unexpected `tool_use_id` found in `tool_result` blocks")
        waiting = [block["id"] for block in blocks if block["type"] == "tool_use"]


def _blocks(content: Any) -> list[Any]:
    """The blocks of a content field, which may be a string in place of one block of text."""
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(blocks, list) or not blocks:
        raise Refused("content: Input should be a valid list")
    return blocks


def _check_block(block: Any, place: str, role: str) -> None:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind == "text":
        if not isinstance(block.get("text"), str) or not block["text"].strip():
            raise Refused(f"{place}: text content blocks must be non-empty")
        return
    if kind == "tool_use" and role == "assistant":
        if not isinstance(block.get("input"), dict) or not _TOOL_ID.match(str(block.get("id"))):
            raise Refused(f"{place}.tool_use: input should be an object and id match the pattern")
        return
    if kind == "tool_result" and role == "user":
        if not _TOOL_ID.match(str(block.get("tool_use_id"))):
            raise Refused(f"{place}.tool_result.tool_use_id: Field required")
        for inner in _blocks(block["content"]) if block.get("content") else ():
            _check_block(inner, place, "user")
        return
    if kind != "image" or role != "user":
        raise Refused(f"{place}: Input tag '{kind}' does not match any of the expected tags")
    source = block.get("source")
    if not isinstance(source, dict) or source.keys() != {"type", "media_type", "data"} or source["type"] != "base64":
        raise Refused(f"{place}.image.source: Input should be a base64 source")
    try:
        data = base64.b64decode(source["data"], validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise Refused(f"{place}.image.source.base64: invalid base64 data") from None
    magic = _MAGIC.get(source["media_type"])
    if magic is None or not data.startswith(magic):
        raise Refused(f"{place}.image.source.base64: the data is not of the type {source['media_type']}")
