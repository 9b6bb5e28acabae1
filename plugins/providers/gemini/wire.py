"""From a call to the body of `generateContent`: pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from plugins.providers.gemini import names
from plugins.providers.gemini.turns import contents_of, tool_fields
from webapp.plugin import JsonOutput, Rejected, Role, TextCall

STOP_MAX = 5
"""Stop sequences that Gemini takes; more are refused."""


def to_wire(label: str, call: TextCall, model: str, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The body of a text call. `without` are optional fields that the model refused before; what they said goes into words.

    Raises `Rejected` where nothing is left to be answered, and for a tool's answer to a call that is not there.
    """
    system = [turn.text for turn in call.turns if turn.role is Role.SYSTEM and turn.text.strip()]
    config: dict[str, object] = {"maxOutputTokens": call.max_output_tokens}
    if call.temperature is not None and names.takes_temperature(model):
        config["temperature"] = call.temperature
    if call.top_p is not None and names.takes_temperature(model):
        config["topP"] = call.top_p
    if (thinking := names.thinking(model)) is not None:
        config["thinkingConfig"] = thinking
    if stop := [text for text in call.stop if text]:
        config["stopSequences"] = stop[:STOP_MAX]
    if call.output is not None:
        config |= _json_fields(call.output, without)
        if "responseJsonSchema" not in config:
            system.append(_json_in_words(call.output))
    contents = contents_of(label, call.turns, signed=names.signs_tool_calls(model))
    if not contents:
        raise Rejected(f"There is nothing in this call that {label} could answer.")
    body: dict[str, Any] = {"contents": contents}
    parts = [{"text": text} for text in system]
    if parts and "systemInstruction" not in without:
        body["systemInstruction"] = {"parts": parts}
    elif parts:
        _say_first(contents, parts)
    if call.tools:
        body |= tool_fields(call)
    body["generationConfig"] = {name: value for name, value in config.items() if name not in without}
    return body


_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def encode(body: Mapping[str, object]) -> bytes:
    """JSON as UTF-8; what cannot be encoded becomes a question mark."""
    return _encoder.encode(body).encode("utf-8", "replace")


def _say_first(contents: list[dict[str, Any]], parts: list[dict[str, str]]) -> None:
    """For models that take no system instruction: the person says it."""
    if contents[0]["role"] == "user":
        contents[0]["parts"] = [*parts, *contents[0]["parts"]]
    else:
        contents.insert(0, {"role": "user", "parts": parts})


def _json_fields(output: JsonOutput, without: frozenset[str]) -> dict[str, object]:
    if "responseMimeType" in without:
        return {}
    fields: dict[str, object] = {"responseMimeType": "application/json"}
    if output.schema is not None and "responseJsonSchema" not in without:
        fields["responseJsonSchema"] = dict(output.schema)
    return fields


def _json_in_words(output: JsonOutput) -> str:
    words = "Answer with one JSON object and nothing else."
    if output.schema is None:
        return words
    return f"{words} It has to match this JSON Schema: {json.dumps(dict(output.schema), ensure_ascii=False)}"
