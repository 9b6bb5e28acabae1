"""Gemini's `usageMetadata` in our convention: cached tokens inside the input, thoughts inside the output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from webapp.plugin import Finish, Usage, token_count, token_part, vendor_id


def usage(
    meta: Mapping[str, Any],
    *,
    finish: Finish = Finish.UNKNOWN,
    model: str = "",
    response_id: str = "",
    said_nothing: bool = False,
    pictures: int = 0,
) -> Usage:
    """The usage record. Counts that are missing or cannot be are unknown. `said_nothing` tells that the answer has no text."""
    input_tokens = _input(meta)
    output_tokens = _output(meta, input_tokens, said_nothing=said_nothing)
    candidates = meta.get("candidatesTokenCount")
    drawn = _of_pictures(meta.get("candidatesTokensDetails"))
    if drawn is None and pictures:
        # Without details the whole answer counts as pictures: nothing else was asked for, and they cost the most.
        drawn = token_count(candidates)
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_tokens=token_part(meta.get("cachedContentTokenCount"), input_tokens),
        reasoning_tokens=token_part(meta.get("thoughtsTokenCount"), output_tokens),
        picture_input_tokens=token_part(_of_pictures(meta.get("promptTokensDetails")), input_tokens),
        picture_output_tokens=token_part(drawn, output_tokens),
        pictures=pictures,
        finish=finish,
        model=vendor_id(model),
        vendor_request_id=vendor_id(response_id),
    )


def _input(meta: Mapping[str, Any]) -> int | None:
    prompt = token_count(meta.get("promptTokenCount"))
    tools = token_count(meta.get("toolUsePromptTokenCount", 0))
    return None if prompt is None or tools is None else token_count(prompt + tools)


def _output(meta: Mapping[str, Any], input_tokens: int | None, *, said_nothing: bool) -> int | None:
    """Candidates and thoughts. Google leaves out counts that are zero, so a missing one is worked out where it can be."""
    thoughts = token_count(meta.get("thoughtsTokenCount", 0))
    if thoughts is None:
        return None
    if meta.get("candidatesTokenCount") is not None:
        candidates = token_count(meta["candidatesTokenCount"])
        return None if candidates is None else token_count(candidates + thoughts)
    total = token_count(meta.get("totalTokenCount"))
    if total is not None and input_tokens is not None and total - input_tokens >= thoughts:
        # An answer with text has tokens beyond the thoughts.
        return total - input_tokens if said_nothing or total - input_tokens > thoughts else None
    return thoughts if said_nothing and thoughts else None


def _of_pictures(details: object) -> int | None:
    """The tokens of the modality IMAGE; None where the vendor does not tell them apart."""
    if not isinstance(details, list):
        return None
    found = [entry for entry in details[:20] if isinstance(entry, dict) and entry.get("modality") == "IMAGE"]
    counts = [token_count(entry.get("tokenCount")) for entry in found]
    return sum(count for count in counts if count is not None) if found and None not in counts else None
