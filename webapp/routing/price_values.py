"""What a price is reckoned from: what a call used, the operator's own prices, the ceiling; and the price itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date
from decimal import Decimal, InvalidOperation
from functools import lru_cache

COUNT_MAX = 10**12
"""More tokens, pictures or credits than any call has: what is above was not counted by anybody."""

OVERRIDE_USD_MAX = 1_000_000
OVERRIDE_USD_LEAST = Decimal("0.000000001")


@dataclass(frozen=True, slots=True)
class Rates:
    """What counts where no price is known, the operator's ceiling: dollars per million tokens, and per picture."""

    input_usd: Decimal
    output_usd: Decimal
    picture_usd: Decimal = Decimal("0.50")

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, input_usd: float, output_usd: float, picture: float = 0.5) -> Rates:
        """From settings. Through text, so that 0.1 stays 0.1."""
        return cls(Decimal(str(input_usd)), Decimal(str(output_usd)), Decimal(str(picture)))


@dataclass(frozen=True, slots=True)
class Counted:
    """What a call used. Parts are inside their wholes: cached, cache-write and picture input inside the input tokens,
    picture output inside the output tokens. `credits` are the vendor's own unit, None where it has none."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    picture_input_tokens: int = 0
    picture_output_tokens: int = 0
    pictures: int = 0
    credits: Decimal | None = None

    def plausible(self) -> Counted:
        """The same with every count between nothing and what there can be, and parts that fit into their wholes."""
        parts = self.cached_tokens + self.cache_write_tokens
        if (
            self.credits is None
            and not self.pictures
            and 0 <= self.cached_tokens <= parts <= self.input_tokens <= COUNT_MAX
            and 0 <= self.picture_input_tokens <= self.input_tokens
            and 0 <= self.picture_output_tokens <= self.output_tokens <= COUNT_MAX
        ):
            return self
        read, written = _count(self.input_tokens), _count(self.output_tokens)
        cached = min(_count(self.cached_tokens), read)
        return Counted(
            input_tokens=read,
            output_tokens=written,
            cached_tokens=cached,
            cache_write_tokens=min(_count(self.cache_write_tokens), read - cached),
            picture_input_tokens=min(_count(self.picture_input_tokens), read),
            picture_output_tokens=min(_count(self.picture_output_tokens), written),
            pictures=_count(self.pictures),
            credits=amount_or_none(self.credits, COUNT_MAX),
        )


@dataclass(frozen=True, slots=True)
class Override:
    """An operator's own price: dollars per million tokens, per picture, per vendor credit. None means not set.

    What is not set is as it would be without. A price per picture covers the picture's tokens, a price per credit the call.
    """

    input_usd: Decimal | None = None
    output_usd: Decimal | None = None
    cached_usd: Decimal | None = None
    cache_write_usd: Decimal | None = None
    picture_usd: Decimal | None = None
    credit_usd: Decimal | None = None
    as_of: str = ""
    """The ISO day on which it was entered."""

    @classmethod
    def read(cls, value: object) -> Override:
        """From stored JSON, where amounts are numbers or strings. `ValueError` names the field that is wrong."""
        if not isinstance(value, Mapping):
            raise ValueError("price: must be an object")
        known = [field.name for field in fields(cls)]
        for name in value:
            if name not in known:
                raise ValueError(f"{str(name)[:40]}: there is no such price; there are {', '.join(known)}")
        amounts = {name: _dollars(name, value.get(name)) for name in known if name != "as_of"}
        return cls(**amounts, as_of=_day(value.get("as_of")))

    def as_json(self) -> dict[str, str]:
        """What `read` takes: the fields that are set, amounts as strings."""
        amounts = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "as_of"}
        written = {name: format(amount, "f") for name, amount in amounts.items() if amount is not None}
        return written | ({"as_of": self.as_of} if self.as_of else {})


@dataclass(frozen=True, slots=True)
class Price:
    """What a call costs. `source` is 'local', 'override', 'vendor', the table and its version, a note's own words, or
    'ceiling'; `date` the ISO day from which that price is, '' if it is not known; `known` is False where a ceiling counted."""

    cost_microusd: int
    source: str
    date: str
    known: bool


def _count(value: int) -> int:
    return min(value, COUNT_MAX) if value > 0 else 0


def amount_or_none(value: Decimal | None, most: int) -> Decimal | None:
    """`value` if it is an amount that there can be, else None: not told."""
    return value if value is not None and value.is_finite() and 0 <= value <= most else None


def _dollars(name: str, value: object) -> Decimal | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise ValueError(f"{name}: must be an amount of dollars")
    text = str(value).strip() if not isinstance(value, int) or abs(value) <= OVERRIDE_USD_MAX else "Infinity"
    try:
        amount = Decimal(text if len(text) <= 40 and text.isascii() and "_" not in text else "NaN")
    except InvalidOperation:
        raise ValueError(f"{name}: must be an amount of dollars, such as 0.15") from None
    if not amount.is_finite() or not 0 <= amount <= OVERRIDE_USD_MAX or 0 < amount < OVERRIDE_USD_LEAST:
        raise ValueError(f"{name}: must be 0, or between {OVERRIDE_USD_LEAST:f} and {OVERRIDE_USD_MAX} dollars")
    return abs(amount)


def _day(value: object) -> str:
    if value is None or value == "":
        return ""
    try:
        return date.fromisoformat(str(value).strip()).isoformat()
    except ValueError:
        raise ValueError("as_of: must be a day such as 2026-11-30") from None
