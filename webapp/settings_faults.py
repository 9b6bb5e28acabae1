"""What is wrong with a setting, in words for whoever wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_IN_WORDS = {
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a number",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be {expected}",
}


def in_words(fault: Mapping[str, Any]) -> str:
    """One entry of pydantic's `ValidationError.errors()` as a phrase that goes on after the setting's name."""
    words = _IN_WORDS.get(str(fault["type"]))
    if words is None:
        return str(fault["msg"]).removeprefix("Value error, ")
    return words.format(**fault.get("ctx", {}))
