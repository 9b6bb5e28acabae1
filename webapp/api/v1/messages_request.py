"""The body of `POST /v1/messages`, checked, as what the road takes.

Format: Anthropic's API reference, "Create a Message". What has no meaning here is ignored where the answer is still what was
asked for, and refused where it would not be.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from webapp.api.v1 import naming
from webapp.api.v1.calls import BadCall, ignored
from webapp.api.v1.chat_request import MESSAGES_MAX, NAME, PICTURES_MAX, TOOLS_MAX, ChatCall, bad_field, last_words, picture_of
from webapp.contracts.calls import Picture, Role, Tool, ToolCall, Turn
from webapp.contracts.texts import clean
from webapp.pipeline.brought import Brought

_STOPS_MAX, _STOP_CHARS = 4, 500
_THOUGHTS = ("thinking", "redacted_thinking")


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Source(_Model):
    type: str
    data: str | None = None


class _Block(_Model):
    type: str
    text: str | None = None
    source: _Source | None = None
    id: str | None = Field(default=None, max_length=200)
    name: str | None = Field(default=None, max_length=200)
    input: dict[str, Any] | None = None
    tool_use_id: str | None = Field(default=None, max_length=200)
    content: str | list[_Block] | None = None
    is_error: bool | None = None


class _Message(_Model):
    role: Literal["user", "assistant", "system"]
    content: str | list[_Block]


class _Tool(_Model):
    type: str | None = None
    name: str = Field(pattern=NAME)
    description: str | None = Field(None, max_length=10_000)
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class _Choice(_Model):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _Metadata(_Model):
    user_id: str | None = Field(None, max_length=256)


class _Format(_Model):
    model_config = ConfigDict(strict=True, extra="ignore", populate_by_name=True)

    type: Literal["json_schema"]
    wanted: dict[str, Any] = Field(alias="schema")


class _OutputConfig(_Model):
    format: _Format | None = None


class _Prompt(_Model):
    """What is read, and what it costs to read it."""

    model: str = Field(min_length=1, max_length=160)
    messages: list[_Message] = Field(min_length=1, max_length=MESSAGES_MAX)
    system: str | list[_Block] | None = None
    tools: list[_Tool] | None = Field(None, max_length=TOOLS_MAX)
    tool_choice: _Choice | None = None


class _Body(_Prompt):
    max_tokens: int = Field(ge=1, le=10_000_000)
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = Field(None, ge=0, le=1)
    metadata: _Metadata | None = None
    output_config: _OutputConfig | None = None


_prompt, _body = TypeAdapter(_Prompt), TypeAdapter(_Body)
_USED = frozenset(_Body.model_fields)


def read(body: object, *, may_keep: bool = False) -> ChatCall:
    """The call in a body. `BadCall` names the field that is wrong and what it may be."""
    given = _validated(_body, body)
    assert isinstance(body, dict)
    if body.get("mcp_servers"):
        raise BadCall("mcp_servers: they are not served here.", "mcp_servers", "unsupported_parameter")
    streamed = bool(given.stream)
    brought = _brought(given, whole=not streamed)
    return ChatCall(
        given.model,
        last_words(brought.turns),
        brought,
        naming.parameters_of(given.model) | _parameters(given) | {"fresh": not may_keep},
        streamed,
        usage_wanted=True,
        ignored=ignored(body, _USED),
    )


def count(body: object) -> int:
    """About how many tokens the prompt in a body has. `BadCall` as for `read`."""
    given = _validated(_prompt, body)
    naming.parameters_of(given.model)
    return _brought(given, whole=True).tokens()


def _validated(kind: TypeAdapter[Any], body: object) -> Any:
    try:
        return kind.validate_python(body)
    except ValidationError as exc:
        raise bad_field(exc) from None


def _parameters(given: _Body) -> dict[str, Any]:
    stops = given.stop_sequences or None
    if stops is not None and (len(stops) > _STOPS_MAX or not all(0 < len(stop) <= _STOP_CHARS for stop in stops)):
        raise BadCall(
            f"stop_sequences: at most {_STOPS_MAX} texts of 1 to {_STOP_CHARS} characters are taken.", "stop_sequences"
        )
    wanted = given.output_config.format if given.output_config else None
    found: dict[str, Any] = {
        "temperature": given.temperature,
        "top_p": given.top_p,
        "stop": stops,
        "max_output_tokens": given.max_tokens,
        "user": clean((given.metadata and given.metadata.user_id) or "") or None,
        "output": {"name": "answer", "schema": wanted.wanted} if wanted else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _brought(given: _Prompt, *, whole: bool) -> Brought:
    system = _texts(given.system, "system")
    turns = [Turn(Role.SYSTEM, system)] if system else []
    turns += _Reader().turns(given.messages)
    choice = given.tool_choice
    parallel = None if choice is None or choice.disable_parallel_tool_use is None else not choice.disable_parallel_tool_use
    tools = tuple(_tool(tool, f"tools.{number}") for number, tool in enumerate(given.tools or ()))
    return Brought(tuple(turns), tools, _choice(choice, tools), parallel, whole=whole)


def _tool(tool: _Tool, where: str) -> Tool:
    if tool.type not in (None, "custom"):
        raise BadCall(f"{where}.type: only tools of your own (custom) are served here.", f"{where}.type")
    if tool.input_schema is None:
        raise BadCall(f"{where}.input_schema: it is missing.", f"{where}.input_schema", "missing_required_parameter")
    return Tool(tool.name, tool.description or "", tool.input_schema, bool(tool.strict))


def _choice(choice: _Choice | None, tools: Sequence[Tool]) -> str:
    if choice is None:
        return ""
    if not tools:
        raise BadCall("tool_choice: there are no tools to choose from.", "tool_choice")
    if choice.type != "tool":
        return "required" if choice.type == "any" else choice.type
    if all(tool.name != choice.name for tool in tools):
        raise BadCall(f"tool_choice.name: there is no tool {(choice.name or '')[:80]!r} among the tools.", "tool_choice.name")
    return choice.name or ""


class _Reader:
    """Makes turns of messages: what tools gave comes first, each in a turn of its own, then what the person says."""

    def __init__(self) -> None:
        self._asked: set[str] = set()
        self._seen = 0

    def turns(self, messages: Sequence[_Message]) -> list[Turn]:
        """The turns, oldest first."""
        found: list[Turn] = []
        for number, message in enumerate(messages):
            where = f"messages.{number}"
            blocks = [_Block(type="text", text=message.content)] if isinstance(message.content, str) else message.content
            if message.role == "system":
                made = [Turn(Role.SYSTEM, _texts(message.content, f"{where}.content"))]
            elif message.role == "assistant":
                made = self._assistant(blocks, f"{where}.content")
            else:
                made = self._user(blocks, f"{where}.content")
            if not made or not any(turn.text or turn.pictures or turn.tool_calls or turn.tool_call_id for turn in made):
                raise BadCall(f"{where}.content: it is empty.", f"{where}.content")
            found += made
        return found

    def _assistant(self, blocks: Sequence[_Block], where: str) -> list[Turn]:
        texts: list[str] = []
        calls: list[ToolCall] = []
        for number, block in enumerate(blocks):
            if block.type == "text" and block.text is not None:
                texts.append(clean(block.text))
            elif block.type == "tool_use" and block.id and block.name and block.input is not None:
                calls.append(ToolCall(clean(block.id), clean(block.name), json.dumps(block.input, ensure_ascii=False)))
            elif block.type not in _THOUGHTS:
                place = f"{where}.{number}"
                raise BadCall(f"{place}: a block of the assistant is a text, or tool_use with id, name and input.", place)
        self._asked |= {call.id for call in calls}
        return [Turn(Role.ASSISTANT, "\n".join(texts), (), tuple(calls))]

    def _user(self, blocks: Sequence[_Block], where: str) -> list[Turn]:
        texts: list[str] = []
        shown: list[Picture] = []
        given: list[Turn] = []
        for number, block in enumerate(blocks):
            place = f"{where}.{number}"
            if block.type == "text" and block.text is not None:
                texts.append(clean(block.text))
            elif block.type == "image":
                shown.append(self._picture(block, place))
            elif block.type == "tool_result":
                given.append(self._result(block, shown, place))
            else:
                raise BadCall(f"{place}: a block of the user is a text, an image or a tool_result.", place)
        said = "\n".join(texts)
        return [*given, Turn(Role.USER, said, tuple(shown))] if said or shown else given

    def _result(self, block: _Block, shown: list[Picture], where: str) -> Turn:
        """What a tool gave. Its pictures are shown with what the person says next: only people's turns have pictures."""
        if (block.tool_use_id or "") not in self._asked:
            place = f"{where}.tool_use_id"
            raise BadCall(f"{place}: no earlier message of the assistant asks for this tool.", place)
        texts: list[str] = ["The tool failed."] if block.is_error else []
        if isinstance(block.content, str):
            texts.append(clean(block.content))
        for number, part in enumerate(block.content if isinstance(block.content, list) else ()):
            place = f"{where}.content.{number}"
            if part.type == "text" and part.text is not None:
                texts.append(clean(part.text))
            elif part.type == "image":
                shown.append(self._picture(part, place))
            else:
                raise BadCall(f"{place}: a tool gives texts and images.", place)
        return Turn(Role.TOOL, "\n".join(texts), tool_call_id=clean(block.tool_use_id or ""))

    def _picture(self, block: _Block, where: str) -> Picture:
        self._seen += 1
        if self._seen > PICTURES_MAX:
            raise BadCall(f"{where}: at most {PICTURES_MAX} pictures are taken in a call.", where)
        place = f"{where}.source"
        if block.source is None or block.source.type != "base64" or block.source.data is None:
            raise BadCall(f"{place}: give the picture itself in Base64 (type base64, data); addresses are not fetched.", place)
        return picture_of(block.source.data, place)


def _texts(content: str | list[_Block] | None, where: str) -> str:
    if content is None or isinstance(content, str):
        return clean(content or "")
    for number, block in enumerate(content):
        if block.type != "text" or block.text is None:
            raise BadCall(f"{where}.{number}: only texts are taken here.", f"{where}.{number}")
    return "\n".join(clean(block.text or "") for block in content)
