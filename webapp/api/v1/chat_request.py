"""The body of `POST /v1/chat/completions`, checked, as what the road takes.

Format: OpenAI's API reference, "Create chat completion". What has no meaning here is ignored where the answer is still what was
asked for, and refused where it would not be.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from webapp.api.v1 import naming
from webapp.api.v1.calls import BadCall, ignored
from webapp.contracts.calls import Picture, Role, Tool, ToolCall, Turn
from webapp.contracts.errors import BadInput
from webapp.contracts.texts import clean
from webapp.pipeline import pictures
from webapp.pipeline.brought import Brought

MESSAGES_MAX = 2000
TOOLS_MAX = 128
PICTURES_MAX = 20
TOOL_CHARS = 100_000
"""Of the JSON Schema of one tool."""
NAME = r"^[a-zA-Z0-9_-]{1,64}$"


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Url(_Model):
    url: str


class _Part(_Model):
    type: str
    text: str | None = None
    image_url: _Url | None = None
    refusal: str | None = None


class _Function(_Model):
    name: str = Field(min_length=1, max_length=200)
    arguments: str = ""


class _ToolCall(_Model):
    id: str = Field(min_length=1, max_length=200)
    type: Literal["function"] = "function"
    function: _Function


class _Message(_Model):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_Part] | None = None
    tool_calls: list[_ToolCall] | None = Field(None, max_length=TOOLS_MAX)
    tool_call_id: str | None = Field(None, max_length=200)


class _Definition(_Model):
    name: str = Field(pattern=NAME)
    description: str | None = Field(None, max_length=10_000)
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(_Model):
    type: Literal["function"]
    function: _Definition


class _Chosen(_Model):
    name: str = Field(pattern=NAME)


class _Choice(_Model):
    type: Literal["function"]
    function: _Chosen


class _Schema(_Model):
    model_config = ConfigDict(strict=True, extra="ignore", populate_by_name=True)

    name: str = Field("answer", pattern=NAME)
    wanted: dict[str, Any] | None = Field(None, alias="schema")


class _Format(_Model):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Schema | None = None


class _StreamOptions(_Model):
    include_usage: bool | None = None


class _Body(_Model):
    model: str = Field(min_length=1, max_length=160)
    messages: list[_Message] = Field(min_length=1, max_length=MESSAGES_MAX)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=10_000_000)
    max_completion_tokens: int | None = Field(None, ge=1, le=10_000_000)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    stop: str | list[str] | None = None
    n: int | None = None
    response_format: _Format | None = None
    tools: list[_Tool] | None = Field(None, max_length=TOOLS_MAX)
    tool_choice: Literal["none", "auto", "required"] | _Choice | None = None
    parallel_tool_calls: bool | None = None
    user: str | None = Field(None, max_length=256)
    safety_identifier: str | None = Field(None, max_length=256)
    logprobs: bool | None = None
    modalities: list[str] | None = None


_validated = TypeAdapter(_Body).validator.validate_python
_USED = frozenset(_Body.model_fields)
_ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.TOOL,
}
_NO_PICTURES: tuple[Picture, ...] = ()


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A call as it was understood. `text` is the last thing that the person said; `ignored` names what has no effect."""

    model: str
    text: str
    brought: Brought
    parameters: Mapping[str, Any]
    streamed: bool
    usage_wanted: bool
    ignored: str


def read(body: object, *, may_keep: bool = False) -> ChatCall:
    """The call in a body. `BadCall` names the field that is wrong and what it may be. With `may_keep` the answer may be one
    that was given before."""
    try:
        given: _Body = _validated(body)
    except ValidationError as exc:
        raise bad_field(exc) from None
    assert isinstance(body, dict)
    _refuse_unserved(given)
    streamed = bool(given.stream)
    turns = tuple(_turns(given.messages))
    brought = Brought(
        turns,
        tuple(map(_tool, given.tools or ())),
        _choice(given),
        given.parallel_tool_calls,
        whole=not streamed,
    )
    return ChatCall(
        given.model,
        last_words(turns),
        brought,
        naming.parameters_of(given.model) | _parameters(given) | {"fresh": not may_keep},
        streamed,
        bool(given.stream_options and given.stream_options.include_usage),
        ignored(body, _USED),
    )


def bad_field(exc: ValidationError, *needed: str) -> BadCall:
    """What pydantic found, by the name of the field. `needed` are the members that a body has to have."""
    errors = exc.errors(include_url=False, include_context=False, include_input=False)
    # Of a value that may be of several types, the one that fits best says most.
    found = max(errors, key=lambda error: len(error["loc"]))
    field = ".".join(str(part) for part in found["loc"] if not _is_type(part))
    if not field:
        members = " and ".join(f"`{name}`" for name in needed or ("model", "messages"))
        return BadCall(f"The body is not a JSON object: send one with {members}.", "body")
    code = "missing_required_parameter" if found["type"] == "missing" else "invalid_value"
    return BadCall(f"{field}: {found['msg']}.", field, code)


def _is_type(part: int | str) -> bool:
    """Whether a part of a place is the name of a type, which pydantic adds where there are several."""
    return isinstance(part, str) and (part == "str" or part.startswith("_") or "[" in part)


def last_words(turns: Sequence[Turn]) -> str:
    """The last thing that the person said; where they said nothing, whatever was said last."""
    for turn in reversed(turns):
        if turn.role is Role.USER and turn.text.strip():
            return turn.text
    return next((turn.text for turn in reversed(turns) if turn.text.strip()), "(no text)")


def _refuse_unserved(given: _Body) -> None:
    if given.stream_options is not None and not given.stream:
        raise BadCall("stream_options: it goes with stream only.", "stream_options", "invalid_value")
    if given.n not in (None, 1):
        raise BadCall("n: only one answer is given for a call; make several calls.", "n", "unsupported_value")
    if given.logprobs:
        raise BadCall("logprobs: they are not available here.", "logprobs", "unsupported_parameter")
    if given.modalities not in (None, ["text"]):
        raise BadCall("modalities: only text is answered here.", "modalities", "unsupported_value")
    if given.response_format and given.response_format.type == "json_schema" and given.response_format.json_schema is None:
        raise BadCall("response_format.json_schema: it is missing.", "response_format", "missing_required_parameter")


def _parameters(given: _Body) -> dict[str, Any]:
    found: dict[str, Any] = {
        "temperature": given.temperature,
        "top_p": given.top_p,
        "stop": [given.stop] if isinstance(given.stop, str) else given.stop or None,
        "max_output_tokens": given.max_completion_tokens or given.max_tokens,
        "user": clean(user) or None if (user := given.safety_identifier or given.user) else None,
    }
    form = given.response_format
    if form is not None and form.type == "json_object":
        found["output"] = {"name": "answer", "schema": None}
    elif form is not None and form.json_schema is not None:
        found["output"] = {"name": form.json_schema.name, "schema": form.json_schema.wanted}
    return {name: value for name, value in found.items() if value is not None}


def _tool(tool: _Tool) -> Tool:
    given = tool.function
    if given.parameters is not None and len(json.dumps(given.parameters)) > TOOL_CHARS:
        raise BadCall(
            f"tools: the parameters of {given.name} have more than {TOOL_CHARS:,} characters.", "tools", "invalid_value"
        )
    return Tool(given.name, given.description or "", given.parameters, bool(given.strict))


def _choice(given: _Body) -> str:
    choice = given.tool_choice
    if choice is None:
        return ""
    if not given.tools:
        raise BadCall("tool_choice: there are no tools to choose from.", "tool_choice", "invalid_value")
    name = choice if isinstance(choice, str) else choice.function.name
    if not isinstance(choice, str) and all(tool.function.name != name for tool in given.tools):
        raise BadCall(f"tool_choice: there is no tool {name!r} among the tools.", "tool_choice", "invalid_value")
    return name


def _turns(messages: Sequence[_Message]) -> list[Turn]:
    found, seen, asked = [], 0, set[str]()
    for number, message in enumerate(messages):
        where = f"messages.{number}"
        content = message.content
        if isinstance(content, str):
            text, shown = clean(content), _NO_PICTURES
        else:
            text, shown = _content(content or (), message.role, where)
            seen += len(shown)
            if seen > PICTURES_MAX:
                raise BadCall(f"{where}: at most {PICTURES_MAX} pictures are taken in a call.", where, "invalid_value")
        calls = tuple(map(_wish, message.tool_calls)) if message.tool_calls else ()
        if calls:
            if message.role != "assistant":
                raise BadCall(f"{where}.tool_calls: only the assistant asks for tools.", f"{where}.tool_calls", "invalid_value")
            asked |= {call.id for call in calls}
        if message.role == "tool" and (message.tool_call_id or "") not in asked:
            raise BadCall(
                f"{where}.tool_call_id: no earlier message of the assistant asks for this tool.",
                f"{where}.tool_call_id",
                "invalid_value",
            )
        if not (text or shown or calls) and message.role != "tool":
            raise BadCall(f"{where}.content: it is empty.", f"{where}.content", "invalid_value")
        answers = clean(message.tool_call_id) if message.tool_call_id else ""
        found.append(Turn(_ROLES[message.role], text, shown, calls, answers))
    if found[-1].role is Role.SYSTEM and len(found) == 1:
        # Some programs send their whole prompt as the system's: somebody has to have said something.
        found[0] = Turn(Role.USER, found[0].text)
    return found


def _wish(call: _ToolCall) -> ToolCall:
    return ToolCall(clean(call.id), clean(call.function.name), call.function.arguments)


def _content(parts: Sequence[_Part], role: str, where: str) -> tuple[str, tuple[Picture, ...]]:
    texts: list[str] = []
    shown: list[Picture] = []
    for number, part in enumerate(parts):
        place = f"{where}.content.{number}"
        if part.type == "text" and part.text is not None:
            texts.append(clean(part.text))
        elif part.type == "refusal" and part.refusal is not None:
            texts.append(clean(part.refusal))
        elif part.type == "image_url" and part.image_url is not None and role == "user":
            shown.append(picture_at(part.image_url.url, f"{place}.image_url"))
        else:
            raise BadCall(
                f"{place}: a part is a text, or in a message of the user a picture (image_url).", place, "invalid_value"
            )
    return "\n".join(texts), tuple(shown)


def picture_at(url: str, where: str) -> Picture:
    """The picture in a data URL (RFC 2397)."""
    head, comma, data = url.partition(",")
    if not head.startswith("data:") or not head.endswith(";base64") or not comma:
        raise BadCall(
            f"{where}: give the picture itself as a data URL (data:image/png;base64,…); addresses are not fetched.",
            where,
            "invalid_image_url",
        )
    return picture_of(data, where)


def picture_of(data: str, where: str) -> Picture:
    """The picture in Base64, checked, without what it tells beside its pixels."""
    try:
        seen = pictures.received(base64.b64decode(data, validate=True))
        return Picture(pictures.look(seen)[0], seen)
    except (binascii.Error, ValueError) as exc:
        raise BadCall(f"{where}: this is not Base64.", where, "invalid_base64") from exc
    except BadInput as exc:
        raise BadCall(f"{where}: {exc.message}", where, "invalid_image") from exc
