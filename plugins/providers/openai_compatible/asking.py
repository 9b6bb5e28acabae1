"""From a call to the body that OpenAI's chat format wants. Pure functions."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from webapp.plugin import JsonOutput, Role, TextCall, Turn

CAP_FIELDS = ("max_tokens", "max_completion_tokens")
SCHEMA_REFUSED = "response_format:json_schema"
"""Learned where a model takes `response_format`, but no schema in it."""

_DEEPEST_SCHEMA = 40
_NOT_ENFORCED = frozenset({"allOf", "oneOf", "not", "if", "patternProperties", "dependentRequired", "dependentSchemas"})


@dataclass(frozen=True, slots=True)
class Manner:
    """How one model at one vendor wants to be asked."""

    cap_field: str = "max_tokens"
    person_field: str = ""
    extra: Mapping[str, object] = field(default_factory=dict)
    sampling: bool = True
    """Whether `temperature` and `stop` are sent."""
    json_object: bool = True
    """Whether it can be held to JSON at all; where it cannot, words ask for it."""
    json_schema: bool = True
    """Whether it can be held to a schema."""
    without: frozenset[str] = frozenset()
    """Fields that it refused before; a refused cap takes its other name."""


def to_wire(call: TextCall, model: str, manner: Manner) -> dict[str, object]:
    """The body of a call, always for a streamed answer."""
    cap_field = manner.cap_field
    if cap_field in manner.without:
        cap_field = next(name for name in CAP_FIELDS if name != cap_field)
    form = _response_format(call.output, manner)
    turns = call.turns if call.output is None or form.get("type") == "json_schema" else _with_words(call.turns, call.output)
    body: dict[str, object] = {
        "model": model,
        "messages": [{"role": turn.role.value, "content": _content(turn)} for turn in turns],
        "stream": True,
        "stream_options": {"include_usage": True},
        cap_field: call.max_output_tokens,
        **manner.extra,
    }
    if form:
        body["response_format"] = form
    if manner.sampling and call.temperature is not None:
        body["temperature"] = call.temperature
    if manner.sampling and call.stop:
        body["stop"] = list(call.stop[:4])  # more are refused everywhere
    if manner.person_field and call.person_ref:
        body[manner.person_field] = call.person_ref
    return {name: value for name, value in body.items() if name not in manner.without}


def encode(body: Mapping[str, object]) -> bytes:
    """JSON as UTF-8; what cannot be encoded becomes a question mark."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _content(turn: Turn) -> object:
    """A string, or a list of parts where pictures belong to the turn: they come first, then what is asked about them."""
    if not turn.pictures:
        return turn.text
    parts: list[dict[str, object]] = [
        {
            "type": "image_url",
            "image_url": {"url": f"data:{picture.media_type};base64,{base64.b64encode(picture.data).decode()}"},
        }
        for picture in turn.pictures
    ]
    return [*parts, {"type": "text", "text": turn.text}] if turn.text else parts


# -- JSON ------------------------------------------------------------------------------------------------------------
def _response_format(output: JsonOutput | None, manner: Manner) -> dict[str, object]:
    """The field of that name; empty where the answer may be any text, or cannot be held to JSON."""
    if output is None or not manner.json_object or "response_format" in manner.without:
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
