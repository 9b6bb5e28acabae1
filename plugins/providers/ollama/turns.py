"""Turns and tools in Ollama's chat format: pure functions.

Ollama knows a tool call by the tool's name, and no choice of tools: what its server cannot enforce is asked for in words.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable

from webapp.plugin import Role, TextCall, Tool, Turn, arguments_object

_NO_PARAMETERS: dict[str, object] = {"type": "object", "properties": {}}


def messages(turns: Iterable[Turn]) -> list[dict[str, object]]:
    """The messages; a tool's answer names the tool, where its call is among the turns."""
    asked: dict[str, str] = {}
    made: list[dict[str, object]] = []
    for turn in turns:
        message: dict[str, object] = {"role": turn.role.value, "content": turn.text}
        if turn.pictures:
            message["images"] = [base64.b64encode(picture.data).decode("ascii") for picture in turn.pictures]
        if turn.tool_calls:
            asked |= {wish.id: wish.name for wish in turn.tool_calls}
            message["tool_calls"] = [
                {"function": {"name": wish.name, "arguments": arguments_object(wish.arguments)}} for wish in turn.tool_calls
            ]
        if turn.role is Role.TOOL and turn.tool_call_id in asked:
            message["tool_name"] = asked[turn.tool_call_id]
        made.append(message)
    return made


def offered(call: TextCall) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """The field `tools`, and messages that ask for what the call chooses. A model that may call none is offered none."""
    choice = call.tool_choice
    if not call.tools or choice == "none":
        return [], []
    if choice in ("", "auto"):
        return [_tool(tool) for tool in call.tools], []
    if choice == "required":
        wanted = "Do not answer in words: call at least one of the tools."
    else:
        wanted = f"Do not answer in words: call the tool {choice}."
    chosen = [tool for tool in call.tools if tool.name == choice] or call.tools
    return [_tool(tool) for tool in chosen], [{"role": "system", "content": wanted}]


def _tool(tool: Tool) -> dict[str, object]:
    parameters = _NO_PARAMETERS if tool.parameters is None else {"type": "object", **tool.parameters}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}
