"""What calls cost: a maintained price table, and the operator's ceiling where it knows nothing. Never free by accident.

The table is the snapshot in `genai-prices`: nothing is fetched. It is loaded when the first price is asked for. A model
that has prices for input, cached input and output, tiered or not, is reckoned here from those in a few microseconds (the
library takes fifty); the few that are also charged by the call are left to it. A test compares both over the whole table.
"""

from __future__ import annotations

import string
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from webapp.contracts.calls import Turn
from webapp.contracts.money import MICROUSD, to_microusd

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

TURN_TOKENS = 4
"""What a turn costs beside its text: role and separators."""

_PUNCTUATION = string.punctuation.encode()


@dataclass(frozen=True, slots=True)
class Rates:
    """Dollars per million tokens that count for a model whose price is not known: the operator's ceiling."""

    input_usd: Decimal
    output_usd: Decimal

    @classmethod
    def of(cls, input_usd: float, output_usd: float) -> Rates:
        """From settings. Through text, so that 0.1 stays 0.1."""
        return cls(Decimal(str(input_usd)), Decimal(str(output_usd)))


@dataclass(frozen=True, slots=True)
class Price:
    """What a call costs. `source` is the table and its version, 'local', or 'ceiling'; `known` is False for the last."""

    cost_microusd: int
    source: str
    known: bool


@dataclass(frozen=True, slots=True)
class _ByToken:
    """A model's dollars per million tokens: (above how many input tokens, price) in rising order, the base first."""

    input: tuple[tuple[int, Decimal], ...]
    output: tuple[tuple[int, Decimal], ...]
    cached: tuple[tuple[int, Decimal], ...]


def estimate_tokens(text: str) -> int:
    """About how many tokens `text` is, rather too many than too few; no tokenizer needed.

    The rule: three ASCII letters, digits or blanks a token, an ASCII punctuation mark one token, and any other character
    as many tokens as its UTF-8 bytes less one (é 1, 中 2, 😀 3). English prose has about four characters a token with
    current tokenizers, so this is about a third too many there.
    """
    data = text.encode("utf-8", "replace")
    if len(data) == len(text):
        others, marked = 0, data
    else:
        others, marked = len(data) - len(text), text.encode("ascii", "ignore")
    plain = len(marked.translate(None, _PUNCTUATION))
    return -(-plain // 3) + (len(marked) - plain) + others


def estimate_input(turns: Iterable[Turn]) -> int:
    """About how many input tokens a call with these turns has, rather too many than too few."""
    return sum(estimate_tokens(turn.text) + TURN_TOKENS for turn in turns) + TURN_TOKENS


def price(
    price_as: str,
    model: str,
    *,
    input_tokens: int,
    output_tokens: int,
    cached_tokens: int = 0,
    fallback: Rates,
    free_of_charge: bool = False,
    at: datetime | None = None,
) -> Price:
    """What a call costs, in whole micro-dollars, rounded up.

    `price_as` is the vendor's id in the table ('' looks the model up by its name alone); `input_tokens` includes the
    cached ones and `output_tokens` the reasoning ones; `at` (aware, default now) decides between prices that change
    with date and time of day. A model that the table does not know, or knows only in part, costs `fallback`.
    """
    if free_of_charge:
        return Price(0, "local", True)
    input_tokens, output_tokens = max(0, input_tokens), max(0, output_tokens)
    cached_tokens = min(max(0, cached_tokens), input_tokens)
    found = _find(price_as, model)
    if found is not None:
        usd = _cost(*found, input_tokens, output_tokens, cached_tokens, at or datetime.now(UTC))
        if usd is not None:
            return Price(to_microusd(usd), table_version(), True)
    usd = (fallback.input_usd * input_tokens + fallback.output_usd * output_tokens) / MICROUSD
    return Price(to_microusd(usd), "ceiling", False)


def ceiling(
    price_as: str,
    model: str,
    *,
    input_tokens: int,
    max_output_tokens: int,
    fallback: Rates,
    free_of_charge: bool = False,
) -> Price:
    """The most that a call can cost, to be held before it is made: nothing cached, all of the cap, the dearest hour.

    `input_tokens` is the estimate for the turns (`estimate_input`).
    """
    now = datetime.now(UTC)
    found = None if free_of_charge else _find(price_as, model)
    hours = range(24) if found is not None and _changes_by_the_hour(found[1]) else range(1)
    return max(
        (
            price(
                price_as,
                model,
                input_tokens=input_tokens,
                output_tokens=max_output_tokens,
                fallback=fallback,
                free_of_charge=free_of_charge,
                at=now + timedelta(hours=hour),
            )
            for hour in hours
        ),
        key=lambda found: found.cost_microusd,
    )


@lru_cache(maxsize=1)
def table_version() -> str:
    """Name and version of the price table, as stored with every cost."""
    from importlib.metadata import version

    return f"genai-prices {version('genai-prices')}"


@lru_cache(maxsize=4096)
def _find(price_as: str, model: str) -> tuple[Provider, ModelInfo] | None:
    """The table's entry for a model, None if it has none."""
    from genai_prices.data_snapshot import get_snapshot

    try:
        return get_snapshot().find_provider_model(model, None, price_as or None, None)
    except LookupError:
        return None


def _changes_by_the_hour(model: ModelInfo) -> bool:
    from genai_prices.types import TimeOfDateConstraint

    prices: Any = model.prices
    return isinstance(prices, list) and any(isinstance(entry.constraint, TimeOfDateConstraint) for entry in prices)


def _cost(
    provider: Provider, model: ModelInfo, input_tokens: int, output_tokens: int, cached_tokens: int, at: datetime
) -> Decimal | None:
    """Dollars, or None where the table lacks a price for input or output."""
    prices = model.get_prices(at)
    if prices.input_mtok is None or prices.output_mtok is None:
        return None
    rates = _by_token(_ByIdentity(prices))
    if rates is not None:
        return (
            _rate(rates.input, input_tokens) * (input_tokens - cached_tokens)
            + _rate(rates.cached, input_tokens) * cached_tokens
            + _rate(rates.output, input_tokens) * output_tokens
        ) / MICROUSD
    return _by_the_library(provider, model, input_tokens, output_tokens, cached_tokens, at)


def _by_the_library(
    provider: Provider, model: ModelInfo, input_tokens: int, output_tokens: int, cached_tokens: int, at: datetime
) -> Decimal | None:
    from genai_prices.types import Usage

    usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens, cache_read_tokens=cached_tokens)
    try:
        return Decimal(model.calc_price(usage, provider, genai_request_timestamp=at).total_price)
    except ValueError:  # the entry has units that such a usage does not determine
        return None


@dataclass(frozen=True, slots=True, eq=False)
class _ByIdentity:
    """A key for entries of the table, which live as long as the process and cannot be hashed."""

    prices: ModelPrice

    def __hash__(self) -> int:
        return id(self.prices)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and other.prices is self.prices


@lru_cache(maxsize=4096)
def _by_token(key: _ByIdentity) -> _ByToken | None:
    """The prices of a model that is charged by the token alone, None for any other."""
    prices = key.prices
    if prices.requests_kcount is not None:
        return None
    cached = prices.input_mtok if prices.cache_read_mtok is None else prices.cache_read_mtok
    return _ByToken(_steps(prices.input_mtok), _steps(prices.output_mtok), _steps(cached))


def _steps(value: Decimal | TieredPrices | None) -> tuple[tuple[int, Decimal], ...]:
    if isinstance(value, Decimal):
        return ((-1, value),)
    assert value is not None, "the caller has looked"
    return ((-1, value.base), *((tier.start, tier.price) for tier in value.tiers))


def _rate(steps: tuple[tuple[int, Decimal], ...], input_tokens: int) -> Decimal:
    """The price in force: a tier holds for the whole call once its input is above the tier's start."""
    found = steps[0][1]
    for start, value in steps[1:]:
        if input_tokens > start:
            found = value
    return found
