"""What the columns of vendors' usage exports are called. Names are compared in lower case, with `_` for whatever is no letter
or digit: `Usage start date` and `usage.start_date` are the same."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FIELDS = (
    "date",
    "model",
    "input",
    "uncached",
    "cached",
    "cache_write",
    "output",
    "requests",
    "cost",
    "currency",
    "kind",
    "amount",
)
"""What a column may hold. `input` is all input, `uncached` what is beside the cached and written; where each kind of token has
a row of its own, `kind` names it and `amount` counts it."""

GENERIC: dict[str, tuple[str, ...]] = {
    "date": (
        "date",
        "day",
        "utc_date",
        "usage_date_utc",
        "usage_date",
        "start_time_iso",
        "start_time",
        "usage_start_date",
        "usage_start_time",
        "starting_at",
        "bucket_start_time",
        "timestamp",
        "aggregation_timestamp",
        "created_at",
        "created",
        "time",
        "datetime",
    ),
    "model": ("model", "model_version", "model_id", "model_name", "snapshot_id", "line_item", "sku_description", "description"),
    "input": (
        "input_tokens",
        "prompt_tokens",
        "n_context_tokens_total",
        "input",
        "tokens_in",
        "total_input_tokens",
        "tokens_prompt",
    ),
    "uncached": (
        "uncached_input_tokens",
        "usage_input_tokens_no_cache",
        "input_tokens_no_cache",
        "input_uncached_tokens",
        "input_cache_miss_tokens",
        "prompt_cache_miss_tokens",
        "input_tokens_uncached",
    ),
    "cached": (
        "cached_tokens",
        "input_cached_tokens",
        "cached_input_tokens",
        "n_cached_context_tokens_total",
        "cache_read_input_tokens",
        "cache_read_tokens",
        "usage_input_tokens_cache_read",
        "input_cache_hit_tokens",
        "prompt_cache_hit_tokens",
        "tokens_cached",
        "cached",
    ),
    "cache_write": (
        "cache_write_tokens",
        "input_cache_write_tokens",
        "cache_creation_input_tokens",
        "usage_input_tokens_cache_write_5m",
        "usage_input_tokens_cache_write_1h",
        "cache_creation_ephemeral_5m_input_tokens",
        "cache_creation_ephemeral_1h_input_tokens",
    ),
    "output": (
        "output_tokens",
        "completion_tokens",
        "usage_output_tokens",
        "n_generated_tokens_total",
        "generated_tokens",
        "output",
        "tokens_out",
        "total_output_tokens",
        "tokens_completion",
    ),
    "requests": ("num_model_requests", "requests", "request_count", "n_requests", "num_requests", "api_requests", "calls"),
    "cost": (
        "cost_usd",
        "amount_value",
        "unrounded_cost",
        "cost",
        "total_cost",
        "cost_in_usd",
        "cost_total",
        "amount_usd",
        "usd",
        "spend",
        "price_usd",
    ),
    "currency": ("amount_currency", "currency", "cost_currency", "billing_currency"),
    "kind": (),
    "amount": (),
}

_SPECIAL: dict[str, dict[str, tuple[str, ...]]] = {
    # Anthropic counts cached tokens beside the input, in its exports too.
    "anthropic": {"uncached": ("input_tokens", "usage_input_tokens"), "input": ()},
    "google": {
        "model": ("sku_description", "sku"),
        "kind": ("sku_description", "sku"),
        "amount": ("usage_amount", "usage_amount_in_pricing_units", "usage"),
    },
    "deepseek": {"kind": ("type", "token_type"), "amount": ("amount", "quantity", "usage_amount")},
}
_SPECIAL["gemini"] = _SPECIAL["google"]

_NOT_WORD = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Columns:
    """Where in a row each thing is: positions by field, several for what is summed."""

    at: dict[str, tuple[int, ...]]
    headers: tuple[str, ...]

    @property
    def measures(self) -> frozenset[str]:
        """What the file tells of: input, output, cached, requests, cost."""
        found = {name for name in ("input", "output", "cached", "requests", "cost") if name in self.at}
        if "uncached" in self.at:
            found.add("input")
        if "amount" in self.at:
            found |= {"input", "output", "cached"}
        return frozenset(found)

    @property
    def useful(self) -> bool:
        """Whether such rows can be compared with anything."""
        return "date" in self.at and not self.measures.isdisjoint({"input", "output", "cost"})


def normal(header: str) -> str:
    """A header's words: `Cost ($)` is `cost`."""
    return _NOT_WORD.sub("_", header.strip().lower()).strip("_")


def find(headers: Sequence[str], provider: str = "", given: Mapping[str, str] | None = None) -> Columns:
    """Where everything is, by the customary names and by what the operator said (field -> header, '' to leave it out).

    `ValueError` names a header of theirs that is not there.
    """
    names = [normal(header) for header in headers]
    special = _SPECIAL.get(provider.lower(), {})
    at: dict[str, tuple[int, ...]] = {}
    for field in FIELDS:
        wanted = (*special.get(field, ()), *(() if field in special and not special[field] else GENERIC[field]))
        found = [names.index(name) for name in wanted if name in names]
        if found:
            at[field] = tuple(found) if field == "cache_write" else (found[0],)
    for field, header in (given or {}).items():
        at.pop(field, None)
        if header:
            at[field] = (_position(header, headers, names),)
    _settle(at, names, given or {})
    return Columns(at, tuple(headers))


def _settle(at: dict[str, tuple[int, ...]], names: list[str], given: Mapping[str, str]) -> None:
    """Where two columns may mean the same thing, take one."""
    if "amount" not in at or "kind" not in at:
        at.pop("amount", None)
        at.pop("kind", None)
        if "cost" not in at and "cost" not in given and "amount" in names:
            at["cost"] = (names.index("amount"),)
    if "input" in at and "uncached" in at:
        at.pop("input" if "uncached" in given and "input" not in given else "uncached")


def _position(header: str, headers: Sequence[str], names: list[str]) -> int:
    if header in headers:
        return list(headers).index(header)
    if normal(header) in names:
        return names.index(normal(header))
    raise ValueError(header)
