"""Turns and tools in the form that `generateContent` wants: pure functions."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

from webapp.plugin import Picture, Rejected, Role, TextCall, Turn, arguments_object

_MODES = {"auto": "AUTO", "required": "ANY", "none": "NONE"}
# What Google documents for calls whose thoughts are not at hand: ours come from callers whose formats have no place for them.
_NO_SIGNATURE = "skip_thought_signature_validator"


def inline(picture: Picture) -> dict[str, object]:
    """A part that holds a picture."""
    return {"inlineData": {"mimeType": picture.media_type, "data": base64.b64encode(picture.data).decode("ascii")}}


def contents_of(label: str, turns: Iterable[Turn], *, signed: bool) -> list[dict[str, Any]]:
    """The conversation. Turns of one speaker in a row become one, because Gemini wants them to alternate; so do the answers of
    several tools. `signed`: whether the model wants signatures with tool calls.

    Raises `Rejected` for a tool's answer to a call that is not there: Gemini knows calls by their names alone.
    """
    contents: list[dict[str, Any]] = []
    asked: dict[str, str] = {}
    for turn in turns:
        if turn.role is Role.SYSTEM:
            continue
        parts = [_response(label, turn, asked)] if turn.role is Role.TOOL else []
        # Pictures go before the question about them, as Google advises; an empty text is refused.
        parts += [inline(picture) for picture in turn.pictures]
        if turn.text.strip() and turn.role is not Role.TOOL:
            parts.append({"text": turn.text})
        for position, wish in enumerate(turn.tool_calls):
            asked[wish.id] = wish.name
            part: dict[str, object] = {"functionCall": {"name": wish.name, "args": arguments_object(wish.arguments)}}
            if signed and not position:
                part["thoughtSignature"] = _NO_SIGNATURE
            parts.append(part)
        if not parts:
            continue
        role = "model" if turn.role is Role.ASSISTANT else "user"
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += parts
        else:
            contents.append({"role": role, "parts": parts})
    return contents


def _response(label: str, turn: Turn, asked: dict[str, str]) -> dict[str, object]:
    name = asked.get(turn.tool_call_id)
    if name is None:
        raise Rejected(
            f"A tool's answer in this call to {label} belongs to no tool call before it.",
            detail=f"no tool call has the id {turn.tool_call_id[:100]!r}",
        )
    return {"functionResponse": {"name": name, "response": {"result": turn.text}}}


def tool_fields(call: TextCall) -> dict[str, object]:
    """The fields `tools` and `toolConfig`. Gemini cannot be kept from asking for several tools at once."""
    declared: list[dict[str, object]] = []
    for tool in call.tools:
        entry: dict[str, object] = {"name": tool.name, "description": tool.description or tool.name}
        if tool.parameters is not None:
            entry["parametersJsonSchema"] = {"type": "object", **tool.parameters}
        declared.append(entry)
    fields: dict[str, object] = {"tools": [{"functionDeclarations": declared}]}
    if call.tool_choice:
        mode = _MODES.get(call.tool_choice)
        config: dict[str, object] = {"mode": mode or "ANY"}
        if mode is None:
            config["allowedFunctionNames"] = [call.tool_choice]
        fields["toolConfig"] = {"functionCallingConfig": config}
    return fields
