"""Calls to text models: what the core asks of a provider, and what a provider yields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """Who speaks in a turn."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"
    """What a tool gave; only in conversations that callers of the API bring along."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in memory, checked by the core: `media_type` is image/png, image/jpeg, image/gif or image/webp."""

    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's wish to have a tool called. `arguments` is JSON as the model wrote it, which may be malformed."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One thing somebody said in a conversation, with the pictures that belong to it.

    An assistant's turn may ask for tools (`tool_calls`, then `text` may be ''). A tool's turn says which call it answers
    (`tool_call_id`); `text` is what the tool gave.
    """

    role: Role
    text: str
    pictures: tuple[Picture, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may ask for. `parameters` is a JSON Schema of an object, None for a function without any.

    `name` has at most 64 of `A-Za-z0-9_-`. `strict` asks the vendor to hold the model to the schema, where it can.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None
    strict: bool = False


@dataclass(frozen=True, slots=True)
class JsonOutput:
    """The answer has to be one JSON document: of this JSON Schema (an object's), or any object where `schema` is None.

    `name` has at most 64 of `A-Za-z0-9_-`. A provider that cannot enforce the schema asks for it in words; the core checks
    the answer all the same.
    """

    name: str = "answer"
    schema: Mapping[str, Any] | None = None


class Finish(StrEnum):
    """Why an answer ended, in words that are the same for every vendor."""

    STOP = "stop"
    LENGTH = "length"
    FILTERED = "filtered"
    TOOL = "tool"
    PAUSED = "paused"
    """The vendor broke off on purpose and would go on if it were asked to."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class TextCall:
    """A chat completion to be made.

    `turns` are oldest first and end with the person's own. `max_output_tokens` caps visible and reasoning tokens together.
    `timeout_s` is what remains of the request's time; the HTTP client enforces it as a deadline over the whole call.
    `person_ref` is a one-way hash that vendors may be given for abuse reports; never a name, address or id.

    `tools` are what the model may ask for; a provider whose models have none is never given any (`Capability.TOOLS`).
    `tool_choice` is '' (the vendor's default), `auto`, `none`, `required`, or the name of the one tool it must ask for.
    `whole` is True where nobody reads the answer before its end: a provider may then ask for it in one piece, which is cheaper.
    """

    request_id: str
    model: str
    turns: tuple[Turn, ...]
    max_output_tokens: int
    timeout_s: float
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    output: JsonOutput | None = None
    person_ref: str = ""
    top_p: float | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: str = ""
    parallel_tools: bool | None = None
    """Whether the model may ask for several tools at once; None: the vendor's default."""
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer, to be shown as it comes."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolPiece:
    """A piece of a wish to have a tool called. The first of each `index` (0, 1, …) has its `id` and `name`; the `arguments` of
    all pieces of an index, put together, are its JSON. Yielded in order: an index is complete when the next one begins."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """The end of an answer: what the vendor counted.

    `input_tokens` includes cached ones and `output_tokens` includes reasoning ones, whatever the vendor's own convention.
    None means that the vendor did not say; the core then counts a labelled estimate. `cached_tokens`, `cache_write_tokens`
    and `picture_input_tokens` are parts of `input_tokens`, `reasoning_tokens` and `picture_output_tokens` of `output_tokens`.

    `pictures` is how many pictures were made and will be billed. `cost_usd` is what the vendor itself says it charged, where
    it says so in dollars; `credits` is the same in a unit of the vendor's own. `quality` is the vendor's score of its answer
    in 0-1; never invent one.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    picture_input_tokens: int = 0
    picture_output_tokens: int = 0
    pictures: int = 0
    cost_usd: Decimal | None = None
    credits: Decimal | None = None
    quality: float | None = None
    finish: Finish = Finish.UNKNOWN
    model: str = ""
    vendor_request_id: str = ""
