"""The body of a call in Anthropic's Messages format: pure functions, no I/O.

Source: Anthropic's API reference, `POST /v1/messages`, version 2023-06-01.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from plugins.providers.anthropic.models import takes_sampling, traits
from plugins.providers.anthropic.turns import messages, tool_fields
from webapp.plugin import JsonOutput, Rejected, Role, TextCall

_JSON_IN_WORDS = "Answer with one JSON object and nothing else: no code fence, no words before or after it."
_SCHEMA_IN_WORDS = "The object must fit this JSON Schema: "
_DEEPEST_SCHEMA = 60
_DATA_IN_SCHEMA = frozenset({"const", "default", "enum", "examples"})


def to_wire(call: TextCall, model: str, *, label: str, version: str, without: frozenset[str]) -> dict[str, object]:
    """The body of a call. `without` are fields that the model refused before; a schema that it refuses is put in words.

    Raises `Rejected` for pictures to a model that cannot see, tools to one that takes none, and for a schema that is nested
    too deeply.
    """
    row = traits(model)
    if row.vision is False and any(turn.pictures for turn in call.turns):
        raise Rejected(f"{model} at {label} cannot see pictures.")
    if call.tools and not row.tools:
        raise Rejected(f"{model} at {label} does not take tools.")
    cap = call.max_output_tokens if row.output_tokens is None else min(call.max_output_tokens, row.output_tokens)
    body: dict[str, object] = {"model": model, "max_tokens": cap, "messages": messages(call)}
    if not call.whole:
        body["stream"] = True
    schema = None if call.output is None or call.output.schema is None else closed(call.output.schema, label)
    enforced = schema is not None and row.schemas is not False and "output_config" not in without
    if enforced:
        body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    if system := _system(call, None if enforced else call.output):
        body["system"] = system
    if takes_sampling(model, version):
        body |= _sampling(call)
    if stops := [stop for stop in call.stop if stop.strip()]:  # blank ones are refused
        body["stop_sequences"] = stops
    if call.person_ref:
        body["metadata"] = {"user_id": call.person_ref}
    strict = row.schemas is True and "strict" not in without
    body |= tool_fields(call, lambda schema: closed(schema, label) if strict else None)
    return {name: value for name, value in body.items() if name not in without} if without else body


def holds_strictly(body: Mapping[str, Any]) -> bool:
    """Whether the model is to be held to the schema of a tool."""
    return any("strict" in tool for tool in body.get("tools", ()))


def _sampling(call: TextCall) -> dict[str, object]:
    """One of the two: newer models refuse both together."""
    if call.temperature is not None:
        return {"temperature": min(call.temperature, 1.0)}
    return {} if call.top_p is None else {"top_p": call.top_p}


_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def encode(body: Mapping[str, object]) -> bytes:
    """JSON as UTF-8; what cannot be encoded becomes a question mark."""
    return _encoder.encode(body).encode("utf-8", "replace")


def closed(part: Any, label: str, room: int = _DEEPEST_SCHEMA) -> Any:
    """The schema with every object closed, as the vendor demands. What fits it fits the open one too; an object that is a
    map of its own stays as it is, for the vendor to refuse."""
    if not room:
        raise Rejected(f"The JSON Schema is nested too deeply to be sent to {label}.")
    if isinstance(part, list | tuple):
        return [closed(item, label, room - 1) for item in part]
    if not isinstance(part, Mapping):
        return part
    made = {name: value if name in _DATA_IN_SCHEMA else closed(value, label, room - 1) for name, value in part.items()}
    if part.get("type") == "object" and not isinstance(part.get("additionalProperties"), Mapping):
        made["additionalProperties"] = False
    return made


def _system(call: TextCall, in_words: JsonOutput | None) -> str:
    """The system turns, joined: in this format they are not messages. `in_words` is JSON output that has to be asked for."""
    parts = [turn.text for turn in call.turns if turn.role is Role.SYSTEM and turn.text.strip()]
    if in_words is not None:
        parts.append(_JSON_IN_WORDS)
        if in_words.schema is not None:
            parts.append(_SCHEMA_IN_WORDS + json.dumps(dict(in_words.schema), ensure_ascii=False, default=str))
    return "\n\n".join(parts)
