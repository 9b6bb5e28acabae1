"""From a call to the body that each of PRSM's contracts wants. Pure functions, no I/O."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping

from plugins.providers.prsm.config import Config
from webapp.plugin import JsonOutput, Role, TextCall

_SPEAKERS = {Role.USER: "User", Role.ASSISTANT: "Assistant", Role.TOOL: "Tool"}
_NOBODY = "switchhook"


def to_wire(call: TextCall, config: Config, model: str, *, without: frozenset[str] = frozenset()) -> dict[str, object]:
    """The body of a call in the dialect of `config`; `without` names optional fields that were refused before.

    No contract keeps a conversation that it did not have itself, so the turns go into the prompt as a transcript.
    """
    if config.dialect.name == "node":
        body = _node(call, config, model)
    elif config.dialect.name == "platform":
        body = _platform(call, config, model)
    elif config.dialect.name == "hosted-js":
        body = {"query": transcript(call, with_system=False), "stream": False} | _hosted(call, model)
    else:
        body = {"prompt": transcript(call, with_system=False)} | _hosted(call, model)
    return {name: value for name, value in body.items() if name not in without}


def encode(body: Mapping[str, object]) -> bytes:
    """JSON as UTF-8; what cannot be encoded becomes a question mark."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def transcript(call: TextCall, *, with_system: bool = True) -> str:
    """The conversation as one text. A single question stays as it is; of several turns each says who speaks."""
    said = [turn for turn in call.turns if turn.role is not Role.SYSTEM]
    text = said[0].text if len(said) == 1 else "\n\n".join(f"{_SPEAKERS[turn.role]}: {turn.text}" for turn in said)
    parts = [system_text(call) if with_system else "", text, _json_wish(call.output)]
    if len(said) > 1:
        parts.append("Assistant:")
    return "\n\n".join(part for part in parts if part)


def system_text(call: TextCall) -> str:
    """What the operator says to the model, '' for nothing."""
    return "\n\n".join(turn.text for turn in call.turns if turn.role is Role.SYSTEM)


def _json_wish(output: JsonOutput | None) -> str:
    if output is None:
        return ""
    wanted = "Answer with one JSON object and nothing else."
    if output.schema is None:
        return wanted
    return f"{wanted} It has to fit this JSON Schema: {json.dumps(output.schema, ensure_ascii=False, separators=(',', ':'))}"


def _node(call: TextCall, config: Config, model: str) -> dict[str, object]:
    # The privacy tier is left to the node: its operator's default is the careful one.
    body: dict[str, object] = {
        "prompt": transcript(call),
        "model_id": model,
        "budget_ftns": float(config.budget_ftns),
        "max_tokens": call.max_output_tokens,
    }
    return body | _temperature(call)


def _platform(call: TextCall, config: Config, model: str) -> dict[str, object]:
    preferences: dict[str, object] = {"model": model, "max_tokens": call.max_output_tokens}
    return {
        "user_id": call.person_ref or _NOBODY,
        "session_id": session_id(call),
        "prompt": transcript(call),
        # The model of the query says whole FTNS.
        "context_allocation": max(1, math.ceil(config.budget_ftns)),
        "preferences": preferences | _temperature(call),
    }


def _hosted(call: TextCall, model: str) -> dict[str, object]:
    body: dict[str, object] = {
        "model_id": model,
        "max_tokens": call.max_output_tokens,
        "context": {"user_id": call.person_ref or _NOBODY, "session_id": session_id(call)},
    }
    if system := system_text(call):
        body["system_prompt"] = system
    return body | _temperature(call)


def _temperature(call: TextCall) -> dict[str, object]:
    return {} if call.temperature is None else {"temperature": call.temperature}


def session_id(call: TextCall) -> str:
    """A UUID for the call, the same for every attempt at it."""
    try:
        return str(uuid.UUID(call.request_id))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, call.request_id))
