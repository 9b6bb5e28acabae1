"""Numbers as people type them, and as they read them: whole, and exact. `BadInput` names the field and the cure."""

from __future__ import annotations

import re

from webapp.contracts.errors import BadInput
from webapp.contracts.limits import MAXIMUM, Dimension, StoredLimit, Window
from webapp.contracts.money import format_microusd

_WHOLE = re.compile(r"[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+")
_DECIMAL = re.compile(r"([0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.([0-9]*))?")
_CHARS = 40
MILLI = 1_000
_PLACES = {Dimension.COST: 6, Dimension.CREDITS: 3}
"""Dollars are stored as micro-dollars, credits as milli-credits."""
_UNITS = {
    Dimension.REQUESTS: ("request", "requests"),
    Dimension.TOKENS: ("token", "tokens"),
    Dimension.CREDITS: ("credit", "credits"),
}


def whole(field: str, text: str, lowest: int = 0, highest: int = MAXIMUM) -> int:
    """A whole number between two bounds; commas may stand between thousands."""
    text = text.strip()
    number = int(text.replace(",", "")) if len(text) <= _CHARS and _WHOLE.fullmatch(text) else None
    if number is None or not lowest <= number <= highest:
        raise BadInput(field, f"Write a whole number from {lowest:,} to {highest:,}.")
    return number


def limit(field: str, text: str, dimension: Dimension) -> int:
    """A limit's number in the unit that is stored: dollars become micro-dollars, credits milli-credits, exactly."""
    places = _PLACES.get(dimension)
    if places is None:
        return whole(field, text)
    unit: int = 10**places
    text = text.strip().removeprefix("$" if dimension is Dimension.COST else "")
    found = _DECIMAL.fullmatch(text) if len(text) <= _CHARS else None
    what = "an amount of dollars" if dimension is Dimension.COST else "a number of credits"
    if found is None:
        example = "25 or 0.50" if dimension is Dimension.COST else "25 or 0.5"
        raise BadInput(field, f"Write {what} that is not negative, such as {example}.")
    part = (found[2] or "").rstrip("0")
    if len(part) > places:
        raise BadInput(field, f"Write {what} with at most {places} digits after the point.")
    number = int(found[1].replace(",", "")) * unit + int(part.ljust(places, "0") or 0)
    if number > MAXIMUM:
        raise BadInput(field, f"Write {what} of at most {MAXIMUM // unit:,}.")
    return number


def typed(number: int, dimension: Dimension) -> str:
    """A stored number as it stands in a field: what `limit` reads as the same number."""
    places = _PLACES.get(dimension)
    if places is None:
        return str(number)
    head, part = divmod(number, 10**places)
    digits = f"{part:0{places}d}".rstrip("0")
    if dimension is Dimension.COST and digits:
        digits = digits.ljust(2, "0")
    return f"{head}.{digits}" if digits else str(head)


def shown(number: int, dimension: Dimension) -> str:
    """A stored number with its unit: '$25.00', '1,000 requests', '2.5 credits'."""
    if dimension is Dimension.COST:
        return format_microusd(number)
    head, part = divmod(number, MILLI) if dimension is Dimension.CREDITS else (number, 0)
    digits = f".{part:03d}".rstrip("0") if part else ""
    one, many = _UNITS[dimension]
    return f"{head:,}{digits} {one if (head, part) == (1, 0) else many}"


def describe(stored: StoredLimit) -> str:
    """A stored limit in words: '1,000 requests per day at openai', '$50.00 per month for each person'."""
    window = "single request" if stored.window is Window.REQUEST else stored.window.value
    text = f"{shown(stored.maximum, stored.dimension)} per {window}"
    if stored.provider:
        text += f" at {stored.provider}"
    if stored.operation:
        text += f" for {stored.operation}"
    return f"{text}, for each person" if stored.each else text
