"""The body of a call in Anthropic's Messages format: pure functions, no I/O.

Source: Anthropic's API reference, `POST /v1/messages`, version 2023-06-01.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from plugins.providers.anthropic.models import takes_sampling, traits
from webapp.plugin import JsonOutput, Picture, Rejected, Role, TextCall

_JSON_IN_WORDS = "Answer with one JSON object and nothing else: no code fence, no words before or after it."
_SCHEMA_IN_WORDS = "The object must fit this JSON Schema: "
_DEEPEST_SCHEMA = 60
_DATA_IN_SCHEMA = frozenset({"const", "default", "enum", "examples"})


def to_wire(call: TextCall, model: str, *, label: str, version: str, without: frozenset[str]) -> dict[str, object]:
    """The body of a call. `without` are fields that the model refused before; a schema that it refuses is put in words.

    Raises `Rejected` for pictures to a model that cannot see, and for a schema that is nested too deeply.
    """
    row = traits(model)
    if row.vision is False and any(turn.pictures for turn in call.turns):
        raise Rejected(f"{model} at {label} cannot see pictures.")
    cap = call.max_output_tokens if row.output_tokens is None else min(call.max_output_tokens, row.output_tokens)
    body: dict[str, object] = {"model": model, "max_tokens": cap, "messages": _messages(call), "stream": True}
    schema = None if call.output is None or call.output.schema is None else _closed(call.output.schema, label)
    enforced = schema is not None and row.schemas is not False and "output_config" not in without
    if enforced:
        body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    if system := _system(call, None if enforced else call.output):
        body["system"] = system
    if call.temperature is not None and takes_sampling(model, version):
        body["temperature"] = min(call.temperature, 1.0)
    if stops := [stop for stop in call.stop if stop.strip()]:  # blank ones are refused
        body["stop_sequences"] = stops
    if call.person_ref:
        body["metadata"] = {"user_id": call.person_ref}
    return {name: value for name, value in body.items() if name not in without}


def encode(body: Mapping[str, object]) -> bytes:
    """JSON as UTF-8; what cannot be encoded becomes a question mark."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _closed(part: Any, label: str, room: int = _DEEPEST_SCHEMA) -> Any:
    """The schema with every object closed, as the vendor demands. What fits it fits the open one too; an object that is a
    map of its own stays as it is, for the vendor to refuse."""
    if not room:
        raise Rejected(f"The JSON Schema is nested too deeply to be sent to {label}.")
    if isinstance(part, list | tuple):
        return [_closed(item, label, room - 1) for item in part]
    if not isinstance(part, Mapping):
        return part
    closed = {name: value if name in _DATA_IN_SCHEMA else _closed(value, label, room - 1) for name, value in part.items()}
    if part.get("type") == "object" and not isinstance(part.get("additionalProperties"), Mapping):
        closed["additionalProperties"] = False
    return closed


def _system(call: TextCall, in_words: JsonOutput | None) -> str:
    """The system turns, joined: in this format they are not messages. `in_words` is JSON output that has to be asked for."""
    parts = [turn.text for turn in call.turns if turn.role is Role.SYSTEM and turn.text.strip()]
    if in_words is not None:
        parts.append(_JSON_IN_WORDS)
        if in_words.schema is not None:
            parts.append(_SCHEMA_IN_WORDS + json.dumps(dict(in_words.schema), ensure_ascii=False, default=str))
    return "\n\n".join(parts)


def _messages(call: TextCall) -> list[dict[str, object]]:
    """The other turns. Blank ones are left out, because the vendor refuses a blank text.

    Only a user's message may hold pictures: those of other turns go before the next one of the user's.
    """
    messages: list[dict[str, object]] = []
    waiting: list[Picture] = []
    for turn in call.turns:
        waiting += turn.pictures
        if turn.role is Role.ASSISTANT and turn.text.strip():
            messages.append({"role": "assistant", "content": turn.text})
        elif turn.role is Role.USER and (turn.text.strip() or waiting):
            messages.append({"role": "user", "content": _content(turn.text, waiting)})
            waiting = []
    return messages


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
