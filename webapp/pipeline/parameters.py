"""What doors may ask for beside the text: checked once, here, whoever asks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from webapp.contracts.errors import BadInput
from webapp.contracts.texts import clean

SCHEMA_CHARS = 32_000
SIDE_MIN, SIDE_MAX = 64, 4096
STOPS_MAX, STOP_CHARS = 4, 500
CAP_MAX = 10_000_000
SEED_MAX = 2**32 - 2
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_CATEGORY = re.compile(r"[a-z][a-z0-9_-]{0,39}\Z")
# Without blanks, and without what `clean` would take out.
_MODEL = re.compile(r"[a-z][a-z0-9_-]{0,38}(/[^\s\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,120})?\Z")


def check(given: Mapping[str, Any]) -> None:
    """Raise `BadInput` for a parameter that does not exist or cannot be."""
    for name, value in given.items():
        if name not in _CHECKS:
            raise BadInput(name[:40], f"There is no parameter {clean(name)[:40]!r}; there are {', '.join(sorted(_CHECKS))}.")
        if value is not None and (fault := _CHECKS[name](value)):
            raise BadInput(name, f"{name} {fault}.")


def _model(value: object) -> str:
    fine = isinstance(value, str) and _MODEL.match(value)
    return "" if fine else "must be provider/model, such as openai/gpt-4.1-mini"


def _output(value: object) -> str:
    if not isinstance(value, Mapping) or not set(value) <= {"name", "schema"}:
        return "must have `schema` (a JSON Schema, or null) and perhaps `name`"
    if not _NAME.match(str(value.get("name") or "answer")):
        return "has a name with other characters than letters, digits, - and _, or more than 64 of them"
    schema = value.get("schema")
    if schema is None:
        return ""
    if not isinstance(schema, Mapping):
        return "has a schema that is no JSON object"
    try:
        size = len(json.dumps(schema, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return "has a schema that is no JSON"
    return "" if size <= SCHEMA_CHARS else f"has a schema of {size:,} characters; at most {SCHEMA_CHARS:,} are taken"


def _flag(value: object) -> str:
    return "" if isinstance(value, bool) else "must be true or false"


def _side(value: object) -> str:
    fine = type(value) is int and SIDE_MIN <= value <= SIDE_MAX
    return "" if fine else f"must be a whole number of pixels from {SIDE_MIN} to {SIDE_MAX}"


def _seed(value: object) -> str:
    fine = type(value) is int and 0 <= value <= SEED_MAX
    return "" if fine else f"must be a whole number from 0 to {SEED_MAX}"


def _words(most: int) -> Callable[[object], str]:
    def check(value: object) -> str:
        fine = isinstance(value, str) and len(value) <= most and clean(value) == value
        return "" if fine else f"must be a text of at most {most:,} characters"

    return check


def _category(value: object) -> str:
    fine = isinstance(value, str) and _CATEGORY.match(value)
    return "" if fine else "must be a category, such as coding"


def _action(value: object) -> str:
    fine = isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) and len(part) <= 2000 for part in value)
    return "" if fine else "must be a label and a token, as they came with the picture"


def _number(least: float, most: float) -> Callable[[object], str]:
    def check(value: object) -> str:
        fine = type(value) in (int, float) and least <= value <= most  # type: ignore[operator]
        return "" if fine else f"must be a number from {least:g} to {most:g}"

    return check


def _stop(value: object) -> str:
    fine = isinstance(value, list) and len(value) <= STOPS_MAX
    if fine and all(isinstance(text, str) and 0 < len(text) <= STOP_CHARS and clean(text) == text for text in value):  # type: ignore[attr-defined]
        return ""
    return f"must be at most {STOPS_MAX} texts of 1 to {STOP_CHARS} characters"


def _cap(value: object) -> str:
    fine = type(value) is int and 1 <= value <= CAP_MAX
    return "" if fine else f"must be a whole number of tokens from 1 to {CAP_MAX:,}"


_CHECKS: dict[str, Callable[[object], str]] = {
    "model": _model,
    "output": _output,
    "fresh": _flag,
    "width": _side,
    "height": _side,
    "seed": _seed,
    "style": _words(80),
    "negative_prompt": _words(2000),
    "action": _action,
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "stop": _stop,
    "max_output_tokens": _cap,
    "user": _words(256),
    "category": _category,
}
