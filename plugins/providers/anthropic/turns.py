"""Turns and tools in Anthropic's Messages format: pure functions, no I/O."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from webapp.plugin import Picture, Role, TextCall, Turn, arguments_object

_TOOL_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ANY_OBJECT: dict[str, object] = {"type": "object", "properties": {}}
_CHOICES = {"auto": "auto", "required": "any", "none": "none"}


def messages(call: TextCall) -> list[dict[str, object]]:
    """The turns that are not the system's. Blank ones are left out, because the vendor refuses a blank text.

    Only a user's message may hold pictures: those of other turns go before the next one of the user's. What several tools
    gave goes into one message, because the answers to all that were asked for have to follow at once.
    """
    made: list[dict[str, object]] = []
    waiting: list[Picture] = []
    results: list[dict[str, object]] | None = None
    for turn in call.turns:
        if turn.role is Role.TOOL:
            if results is None:
                results = []
                made.append({"role": "user", "content": results})
            results.append(_result(turn))
            continue
        waiting += turn.pictures
        if turn.role is Role.ASSISTANT and (turn.text.strip() or turn.tool_calls):
            made.append({"role": "assistant", "content": _said(turn)})
            results = None
        elif turn.role is Role.USER and (turn.text.strip() or waiting):
            made.append({"role": "user", "content": _content(turn.text, waiting)})
            waiting = []
            results = None
    return made


def _said(turn: Turn) -> object:
    if not turn.tool_calls:
        return turn.text
    blocks: list[dict[str, object]] = [{"type": "text", "text": turn.text}] if turn.text.strip() else []
    for wish in turn.tool_calls:
        given = arguments_object(wish.arguments)
        blocks.append({"type": "tool_use", "id": _tool_id(wish.id), "name": wish.name, "input": given})
    return blocks


def _result(turn: Turn) -> dict[str, object]:
    block: dict[str, object] = {"type": "tool_result", "tool_use_id": _tool_id(turn.tool_call_id)}
    if turn.pictures or turn.text.strip():
        block["content"] = _content(turn.text, list(turn.pictures))
    return block


def _tool_id(given: str) -> str:
    """An id that the vendor takes: the given one, or the same other one for it each time."""
    if _TOOL_ID.fullmatch(given):
        return given
    return f"call_{hashlib.sha256(given.encode('utf-8', 'replace')).hexdigest()[:32]}"


def _content(text: str, pictures: list[Picture]) -> object:
    """Pictures first: the models read a text about a picture better after it."""
    if not pictures:
        return text
    blocks: list[dict[str, object]] = [
        {
            "type": "image",
            "source": {
                "type": "base64",
                "media_type": picture.media_type,
                "data": base64.b64encode(picture.data).decode("ascii"),
            },
        }
        for picture in pictures
    ]
    if text.strip():
        blocks.append({"type": "text", "text": text})
    return blocks


def tool_fields(call: TextCall, held: Callable[[Mapping[str, Any]], object]) -> dict[str, object]:
    """The fields `tools` and `tool_choice`; empty where the call has nothing to do with tools.

    `held` gives the schema that the vendor is to hold the model to, None where it cannot. A conversation in which tools were
    called is refused where none is described: those of an earlier turn are then named, and not to be called.
    """
    if call.tools:
        made: list[dict[str, object]] = []
        for tool in call.tools:
            entry: dict[str, object] = {"name": tool.name}
            if tool.description:
                entry["description"] = tool.description
            schema = held(tool.parameters) if tool.strict and tool.parameters is not None else None
            if schema is not None:
                entry["strict"] = True
            else:
                schema = _ANY_OBJECT if tool.parameters is None else _typed(tool.parameters)
            made.append(entry | {"input_schema": schema})
        fields: dict[str, object] = {"tools": made}
        if choice := _choice(call):
            fields["tool_choice"] = choice
        return fields
    names = dict.fromkeys(wish.name for turn in call.turns for wish in turn.tool_calls)
    if not names:
        return {}
    return {"tools": [{"name": name, "input_schema": _ANY_OBJECT} for name in names], "tool_choice": {"type": "none"}}


def _typed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The vendor wants to be told that it is an object's."""
    return {"type": "object", **schema}


def _choice(call: TextCall) -> dict[str, object]:
    choice: dict[str, object] = {}
    if call.tool_choice:
        kind = _CHOICES.get(call.tool_choice)
        choice = {"type": kind} if kind else {"type": "tool", "name": call.tool_choice}
    if call.parallel_tools is not None and choice.get("type") != "none":
        choice = (choice or {"type": "auto"}) | {"disable_parallel_tool_use": not call.parallel_tools}
    return choice
