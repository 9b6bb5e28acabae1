"""From a call to the body that OpenAI's chat format wants. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from plugins.providers.openai_compatible.messages import messages, tool_choice, tools
from webapp.plugin import JsonOutput, Role, TextCall, Turn

CAP_FIELDS = ("max_tokens", "max_completion_tokens")
SCHEMA_REFUSED = "response_format:json_schema"
"""Learned where a model takes `response_format`, but no schema in it."""

STRICT_REFUSED = "tools:strict"
"""Learned where a model takes tools, but is not held to their schemas."""

_DEEPEST_SCHEMA = 40
_NOT_ENFORCED = frozenset({"allOf", "oneOf", "not", "if", "patternProperties", "dependentRequired", "dependentSchemas"})


@dataclass(frozen=True, slots=True)
class Manner:
    """How one model at one vendor wants to be asked."""

    cap_field: str = "max_tokens"
    person_field: str = ""
    extra: Mapping[str, object] = field(default_factory=dict)
    sampling: bool = True
    """Whether `temperature`, `top_p` and `stop` are sent."""
    json_object: bool = True
    """Whether it can be held to JSON at all; where it cannot, words ask for it."""
    json_schema: bool = True
    """Whether it can be held to a schema."""
    parallel_tools: bool = True
    """Whether it can be told to ask for several tools at once, or not to."""
    tool_id_chars: int = 0
    """How long the ids of tool calls have to be, 0 for any length up to 40."""
    without: frozenset[str] = frozenset()
    """Fields that it refused before; a refused cap takes its other name."""


def to_wire(call: TextCall, model: str, manner: Manner) -> dict[str, object]:
    """The body of a call, for a streamed answer unless the call wants it whole."""
    cap_field = manner.cap_field
    if cap_field in manner.without:
        cap_field = next(name for name in CAP_FIELDS if name != cap_field)
    turns = call.turns
    body: dict[str, object] = {"model": model, "messages": None}
    if not call.whole:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    body[cap_field] = call.max_output_tokens
    body |= manner.extra
    if call.output is not None:
        form = _response_format(call.output, manner)
        if form:
            body["response_format"] = form
        if form.get("type") != "json_schema":
            turns = _with_words(turns, call.output)
    body["messages"] = messages(turns, manner.tool_id_chars)
    if call.tools:
        _offer(body, call, manner)
    if manner.sampling:
        _sample(body, call)
    if manner.person_field and call.person_ref:
        body[manner.person_field] = call.person_ref
    return {name: value for name, value in body.items() if name not in manner.without} if manner.without else body


def _sample(body: dict[str, object], call: TextCall) -> None:
    if call.temperature is not None:
        body["temperature"] = call.temperature
    if call.top_p is not None:
        body["top_p"] = call.top_p
    if call.stop:
        body["stop"] = list(call.stop[:4])  # more are refused everywhere


def _offer(body: dict[str, object], call: TextCall, manner: Manner) -> None:
    """Put the tools into a body, and how they are to be chosen: both are refused where there are no tools."""
    may = manner.json_schema and STRICT_REFUSED not in manner.without
    held = [may and tool.strict and tool.parameters is not None and is_strict(tool.parameters) for tool in call.tools]
    body["tools"] = tools(call.tools, held)
    if call.tool_choice:
        body["tool_choice"] = tool_choice(call.tool_choice)
    if call.parallel_tools is not None and manner.parallel_tools:
        body["parallel_tool_calls"] = call.parallel_tools


_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def encode(body: Mapping[str, object]) -> bytes:
    """JSON as UTF-8; what cannot be encoded becomes a question mark."""
    return _encoder.encode(body).encode("utf-8", "replace")


# -- JSON ------------------------------------------------------------------------------------------------------------
def _response_format(output: JsonOutput, manner: Manner) -> dict[str, object]:
    """The field of that name; empty where the answer cannot be held to JSON."""
    if not manner.json_object or "response_format" in manner.without:
        return {}
    if output.schema is not None and manner.json_schema and SCHEMA_REFUSED not in manner.without and is_strict(output.schema):
        schema = {"name": output.name, "schema": dict(output.schema), "strict": True}
        return {"type": "json_schema", "json_schema": schema}
    return {"type": "json_object"}


def is_strict(schema: Mapping[str, Any]) -> bool:
    """Whether vendors can enforce the schema: every object in it is closed, all its properties are required, and it uses no
    keyword that they do not know."""
    return schema.get("type") == "object" and _is_closed(schema, _DEEPEST_SCHEMA)


def _is_closed(part: object, depth: int) -> bool:
    if isinstance(part, list):
        return depth > 0 and all(_is_closed(item, depth - 1) for item in part)
    if not isinstance(part, Mapping):
        return True
    if depth <= 0 or not _NOT_ENFORCED.isdisjoint(part):
        return False
    kind, properties = part.get("type"), part.get("properties")
    if kind == "object" or (isinstance(kind, list) and "object" in kind) or isinstance(properties, Mapping):
        required = part.get("required", [])
        if part.get("additionalProperties") is not False or not isinstance(properties, Mapping):
            return False
        if not isinstance(required, list) or {name for name in required if isinstance(name, str)} != set(properties):
            return False
    named = [value for name in ("properties", "$defs", "definitions") for value in _values(part.get(name))]
    return all(_is_closed(value, depth - 1) for value in [*named, *(part.get(name) for name in ("items", "anyOf"))])


def _values(part: object) -> list[object]:
    return list(part.values()) if isinstance(part, Mapping) else []


def _with_words(turns: tuple[Turn, ...], output: JsonOutput) -> tuple[Turn, ...]:
    """The turns with a request for JSON in words. The vendors' own JSON mode demands that the prompt names JSON."""
    words = "Answer with one JSON object and nothing else: no words around it, no code fence."
    if output.schema is not None:
        schema = json.dumps(dict(output.schema), ensure_ascii=False, default=str)
        words += f" It must be valid JSON of this JSON Schema: {schema}"
    else:
        words += ' Example of the JSON form: {"name": "value"}'
    if turns and turns[0].role is Role.SYSTEM:
        first = turns[0]
        return (Turn(Role.SYSTEM, f"{first.text}\n\n{words}", first.pictures), *turns[1:])
    return (Turn(Role.SYSTEM, words), *turns)
