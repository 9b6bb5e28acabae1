"""From turns and tools to the messages and tools of OpenAI's chat format. Pure functions."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable

from webapp.plugin import Picture, Role, Tool, ToolCall, Turn

_TOOL_ID_CHARS = 40
_NO_PARAMETERS: dict[str, object] = {"type": "object", "properties": {}}


def messages(turns: Iterable[Turn], tool_id_chars: int = 0) -> list[dict[str, object]]:
    """The messages. A tool's message may hold text alone: pictures that tools gave follow in one of the user's.

    `tool_id_chars`: how long the vendor wants ids of tool calls to be, 0 for any number up to 40.
    """
    made: list[dict[str, object]] = []
    waiting: list[dict[str, object]] = []
    for turn in turns:
        if turn.role is Role.TOOL:
            answered = tool_id(turn.tool_call_id, tool_id_chars)
            made.append({"role": "tool", "tool_call_id": answered, "content": turn.text})
            waiting += [_picture(picture) for picture in turn.pictures]
            continue
        if waiting:
            made.append({"role": "user", "content": waiting})
            waiting = []
        message: dict[str, object] = {"role": turn.role._value_, "content": _content(turn) if turn.pictures else turn.text}
        if turn.tool_calls:
            message["content"] = message["content"] or None
            message["tool_calls"] = [_asked(wish, tool_id_chars) for wish in turn.tool_calls]
        made.append(message)
    if waiting:
        made.append({"role": "user", "content": waiting})
    return made


def _content(turn: Turn) -> list[dict[str, object]]:
    """A list of parts: the pictures come first, then what is asked about them."""
    parts = [_picture(picture) for picture in turn.pictures]
    return [*parts, {"type": "text", "text": turn.text}] if turn.text else parts


def _picture(picture: Picture) -> dict[str, object]:
    url = f"data:{picture.media_type};base64,{base64.b64encode(picture.data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _asked(wish: ToolCall, tool_id_chars: int) -> dict[str, object]:
    function = {"name": wish.name, "arguments": wish.arguments or "{}"}
    return {"id": tool_id(wish.id, tool_id_chars), "type": "function", "function": function}


def tool_id(given: str, chars: int) -> str:
    """An id that the vendor takes: the given one, or the same other one for it each time."""
    fits = len(given) == chars and given.isascii() and given.isalnum() if chars else len(given) <= _TOOL_ID_CHARS
    if fits:
        return given
    return hashlib.sha256(given.encode("utf-8", "replace")).hexdigest()[: chars or _TOOL_ID_CHARS]


def tools(offered: Iterable[Tool], strict: Iterable[bool]) -> list[dict[str, object]]:
    """The field `tools`; `strict` tells for each whether the vendor is to hold the model to its schema."""
    made: list[dict[str, object]] = []
    for tool, held in zip(offered, strict, strict=True):
        parameters = _NO_PARAMETERS if tool.parameters is None else dict(tool.parameters)
        function: dict[str, object] = {"name": tool.name, "parameters": parameters}
        if tool.description:
            function["description"] = tool.description
        if held:
            function["strict"] = True
        made.append({"type": "function", "function": function})
    return made


def tool_choice(choice: str) -> object:
    """The field of that name for a choice of the core's."""
    if choice in ("auto", "none", "required"):
        return choice
    return {"type": "function", "function": {"name": choice}}
