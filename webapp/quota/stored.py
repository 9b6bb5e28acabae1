"""Limits as they are stored with plans, organizations, persons and tokens: read, checked, and written."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from webapp.contracts.errors import BadInput
from webapp.contracts.limits import MAXIMUM, Dimension, StoredLimit, Window
from webapp.contracts.texts import clean

log = logging.getLogger(__name__)

LIMITS_MAX = 50
"""How many limits one plan, organization, person or token may have."""
_LABEL_CHARS = 60


def read(values: object) -> tuple[StoredLimit, ...]:
    """Limits from a column. Raises `ValueError` for what is none: an unknown limit is not an absent one."""
    if not isinstance(values, list):
        raise ValueError("stored limits are no list")
    return tuple(_one(value) for value in values)


def _one(value: object) -> StoredLimit:
    if not isinstance(value, Mapping):
        raise ValueError("a stored limit is no object")
    maximum = value.get("maximum")
    if type(maximum) is not int or not 0 <= maximum <= MAXIMUM:
        raise ValueError("a stored limit has no maximum")
    return StoredLimit(
        id=str(value["id"]) if value.get("id") else _missing("id"),
        dimension=Dimension(str(value.get("dimension"))),
        window=Window(str(value.get("window"))),
        maximum=maximum,
        provider=str(value.get("provider") or ""),
        operation=str(value.get("operation") or ""),
        each=bool(value.get("each")),
        by_house=bool(value.get("by_house")),
        label=str(value.get("label") or ""),
    )


def _missing(name: str) -> str:
    raise ValueError(f"a stored limit has no {name}")


def write(limits: Iterable[StoredLimit]) -> list[dict[str, Any]]:
    """Limits for a column."""
    return [
        {
            "id": limit.id,
            "dimension": limit.dimension.value,
            "window": limit.window.value,
            "maximum": limit.maximum,
            "provider": limit.provider,
            "operation": limit.operation,
            "each": limit.each,
            "by_house": limit.by_house,
            "label": limit.label,
        }
        for limit in limits
    ]


def new_id() -> str:
    """A short id for a new limit."""
    return secrets.token_hex(5)


def checked(limit: StoredLimit, providers: Iterable[str] | None = None) -> StoredLimit:
    """The limit as it may be stored. `BadInput` names the field that is wrong and the cure. `providers` are those there are."""
    if type(limit.maximum) is not int or not 0 <= limit.maximum <= MAXIMUM:
        raise BadInput("maximum", f"A limit is a whole number from 0 to {MAXIMUM:,}.")
    if limit.provider and providers is not None and limit.provider not in set(providers):
        raise BadInput("provider", f"There is no provider {clean(limit.provider)[:40]!r}: {', '.join(sorted(providers))}.")
    if len(limit.operation) > 40 or clean(limit.operation) != limit.operation:
        raise BadInput("operation", "An operation's name has at most 40 characters.")
    if len(limit.label) > _LABEL_CHARS or clean(limit.label) != limit.label:
        raise BadInput("label", f"A limit's name has at most {_LABEL_CHARS} characters, none of them a control character.")
    return limit
