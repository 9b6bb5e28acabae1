"""What is known of Anthropic's models without asking, as data, and the reading of the list that the API gives.

Source: Anthropic's documentation of models and its Python SDK, November 2026. A model that no row names is unknown: nothing
is sent to it that some models refuse.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from webapp.plugin import Capability, ModelInfo, token_count, vendor_id

_WITHOUT_SAMPLING_FROM = "2026-10-21"
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Traits:
    """How the models whose name holds `pattern` differ. None means unknown."""

    pattern: str
    context_tokens: int | None = None
    output_tokens: int | None = None
    sampling: bool = False
    """Takes `temperature` or `top_p`, under the versions of the API that have it."""
    vision: bool | None = None
    schemas: bool | None = None
    """Holds an answer to a JSON Schema by itself; the others are asked in words."""
    tools: bool = True
    """Whether a model that is known may ask for tools."""


UNKNOWN = Traits("")
_NO_MINOR = r"(?![-.]?\d{1,2}(?!\d))"  # a date such as -20250514 may follow where a minor version could stand
# The first row that fits counts.
TABLE = (
    Traits(r"claude-fable", MILLION, 128_000, vision=True, schemas=True),
    Traits(r"claude-mythos", vision=True, schemas=True),
    Traits(r"claude-(opus|sonnet|haiku)-([5-9]|\d\d)(?!\d)", MILLION, 128_000, vision=True, schemas=True),
    Traits(r"claude-opus-4[-.][78](?!\d)", MILLION, 128_000, vision=True, schemas=True),
    Traits(r"claude-sonnet-4[-.]6(?!\d)", MILLION, 128_000, sampling=True, vision=True, schemas=True),
    Traits(r"claude-opus-4[-.]6(?!\d)", 200_000, 128_000, sampling=True, vision=True, schemas=True),
    Traits(r"claude-(opus|sonnet|haiku)-4[-.]5(?!\d)", 200_000, 64_000, sampling=True, vision=True, schemas=True),
    Traits(r"claude-opus-4([-.][01])?" + _NO_MINOR, 200_000, 32_000, sampling=True, vision=True, schemas=False),
    Traits(r"claude-sonnet-4([-.]0)?" + _NO_MINOR, 200_000, 64_000, sampling=True, vision=True, schemas=False),
    Traits(r"claude-3(?!\d)", 200_000, sampling=True, vision=True, schemas=False),
    Traits(r"claude-(2|instant)", 100_000, sampling=True, vision=False, schemas=False, tools=False),
)
_ROWS = tuple((re.compile(row.pattern, re.I), row) for row in TABLE)


def traits(model: str) -> Traits:
    """The row for a model, also where a proxy puts something before its name (`anthropic/claude-haiku-4-5`)."""
    return next((row for pattern, row in _ROWS if pattern.search(model)), UNKNOWN)


def takes_sampling(model: str, version: str) -> bool:
    """Whether `temperature` or `top_p` may be sent. From 2026-10-21 on the API has it no more, whatever the model."""
    dated = _DATE.fullmatch(version) is not None and version < _WITHOUT_SAMPLING_FROM
    return dated and traits(model).sampling


def known(model: str) -> ModelInfo:
    """What the table says of a model."""
    row = traits(model)
    return ModelInfo(
        model,
        context_tokens=row.context_tokens,
        output_tokens=row.output_tokens,
        capabilities=_capabilities(row.vision, row.schemas, row.tools),
    )


def _capabilities(vision: bool | None, schemas: bool | None, tools: bool) -> frozenset[Capability] | None:
    if vision is None:
        return None
    return frozenset([Capability.VISION] * vision + [Capability.JSON] * bool(schemas) + [Capability.TOOLS] * tools)


def read_page(document: object) -> tuple[list[ModelInfo], str]:
    """One page of the vendor's list and the id after which the next one begins, '' if it is the last.

    `ValueError` when it is no such list. An entry that cannot be read is left out.
    """
    entries = document.get("data") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(entries, list):
        raise ValueError("the list has no `data`")
    found = [_listed(entry) for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
    last = document.get("last_id")
    more = document.get("has_more") is True and isinstance(last, str)
    return [info for info in found if info.id], str(last)[:200] if more else ""


def _listed(entry: dict[str, object]) -> ModelInfo:
    """What the vendor itself says of a model; what it does not say comes from the table."""
    model, label = vendor_id(str(entry["id"])), entry.get("display_name")
    table = traits(model)
    abilities = entry.get("capabilities")
    vision, schemas = table.vision, table.schemas
    if isinstance(abilities, dict):
        vision = _supported(abilities, "image_input", vision)
        schemas = _supported(abilities, "structured_outputs", schemas)
    return ModelInfo(
        model,
        label=vendor_id(label) if isinstance(label, str) else "",
        context_tokens=token_count(entry.get("max_input_tokens")) or table.context_tokens,
        output_tokens=token_count(entry.get("max_tokens")) or table.output_tokens,
        capabilities=_capabilities(vision, schemas, table.tools),
        note=_note(entry),
    )


def _supported(abilities: dict[str, object], name: str, otherwise: bool | None) -> bool | None:
    ability = abilities.get(name)
    told = ability.get("supported") if isinstance(ability, dict) else None
    return told if isinstance(told, bool) else otherwise


def _note(entry: dict[str, object]) -> str:
    """Where a model is in its life, '' for one that is to stay."""
    stage, end = entry.get("lifecycle"), entry.get("retires_at")
    words = [vendor_id(stage)] if isinstance(stage, str) and stage != "active" else []
    if isinstance(end, str) and (day := _DATE.match(end)):
        words.append(f"switched off on {day[0]}")
    return ", ".join(words)
