"""The maintained price table: the snapshot in `genai-prices`, loaded when the first price is asked for; nothing is fetched.

A model's prices for input, cached input, cache writes, pictures and output, tiered or not, and for the call itself are read
out of it once and reckoned here in a few microseconds (the library takes fifty). A test compares both over the whole table.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from webapp.contracts.money import MICROUSD

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

TABLE_DATES = {"0.2.3": "2026-11-10"}
"""Releases of the table -> the day on which they were made. The library itself keeps no date."""

Steps = tuple[tuple[int, Decimal], ...]
"""Dollars per million tokens: (above how many input tokens of the call, price) in rising order, the base first."""

NOTHING = Decimal(0)


def flat(usd: Decimal) -> Steps:
    """One price, however long the call is."""
    return ((-1, usd),)


@dataclass(frozen=True, slots=True)
class TokenRates:
    """What a model's tokens cost. The parts of the input lie beside each other here: plain, cached, written to the cache."""

    input: Steps
    output: Steps
    cached: Steps
    cache_write: Steps
    picture_input: Steps
    picture_cached: Steps
    picture_output: Steps
    call_usd: Decimal = NOTHING
    """Dollars for each call beside its tokens."""

    @classmethod
    def plain(
        cls, input_usd: Decimal, output_usd: Decimal, cached_usd: Decimal | None = None, write_usd: Decimal | None = None
    ) -> TokenRates:
        """From dollars per million tokens, for a model that charges pictures as text. What is not cheaper costs as input."""
        read = flat(input_usd if cached_usd is None else cached_usd)
        write = flat(input_usd if write_usd is None else write_usd)
        return cls(flat(input_usd), flat(output_usd), read, write, flat(input_usd), read, flat(output_usd))

    def usd(
        self,
        input_tokens: int,
        output_tokens: int,
        cached_tokens: int = 0,
        cache_write_tokens: int = 0,
        picture_input_tokens: int = 0,
        picture_output_tokens: int = 0,
    ) -> Decimal:
        """Dollars of a call. The parts must fit into their wholes.

        Nobody says which of the cached tokens were pictures: they count as text as far as there is text, which is never
        the cheaper reading.
        """
        text = input_tokens - picture_input_tokens
        cached_text = cached_tokens if cached_tokens < text else text
        written_text = text - cached_text
        if cache_write_tokens < written_text:
            written_text = cache_write_tokens
        total = rate(self.input, input_tokens) * (text - cached_text - written_text)
        if cached_text:
            total += rate(self.cached, input_tokens) * cached_text
        total += rate(self.output, input_tokens) * (output_tokens - picture_output_tokens)
        if written_text:
            total += rate(self.cache_write, input_tokens) * written_text
        if picture_input_tokens:
            picture, written = rate(self.picture_input, input_tokens), cache_write_tokens - written_text
            cached_pictures = cached_tokens - cached_text
            total += picture * (picture_input_tokens - cached_pictures - written)
            total += rate(self.picture_cached, input_tokens) * cached_pictures
            total += max(picture, rate(self.cache_write, input_tokens)) * written
        if picture_output_tokens:
            total += rate(self.picture_output, input_tokens) * picture_output_tokens
        return total / MICROUSD + self.call_usd

    def dearest(self) -> tuple[Steps, Steps]:
        """The most that a token of the input, and one of the output, can cost, whatever kind of token it turns out to be."""
        read = (self.input, self.cached, self.cache_write, self.picture_input, self.picture_cached)
        return _dearest(*read), _dearest(self.output, self.picture_output)


def rate(steps: Steps, input_tokens: int) -> Decimal:
    """The price in force: a tier holds for the whole call once its input is above the tier's start."""
    found = steps[0][1]
    for start, value in steps[1:]:
        if input_tokens > start:
            found = value
    return found


def _dearest(*kinds: Steps) -> Steps:
    """Of several prices the dearest that may hold, also where a longer call would be the cheaper one."""
    starts = sorted({start for steps in kinds for start, _ in steps})
    return tuple((start, max(usd for steps in kinds for above, usd in steps if above <= start)) for start in starts)


@lru_cache(maxsize=1)
def table_version() -> str:
    """Name and version of the price table, as stored with every cost."""
    from importlib.metadata import version

    return f"genai-prices {version('genai-prices')}"


@lru_cache(maxsize=1)
def table_date() -> str:
    """The ISO day on which this release of the table was made; '' for one that is not in `TABLE_DATES`."""
    return TABLE_DATES.get(table_version().rpartition(" ")[2], "")


def table_rates(price_as: str, model: str, at: datetime) -> TokenRates | None:
    """What the table says of a model at that time, None if it lacks the model or its price for input or output."""
    entry = _find(price_as, model)
    return None if entry is None else _by_token(_ByIdentity(entry.get_prices(at)))


def table_moves(price_as: str, model: str) -> bool:
    """Whether the table has several prices for a model, by date or time of day. Those change on whole minutes."""
    entry = _find(price_as, model)
    return entry is not None and isinstance(entry.prices, list)


def hours_that_matter(price_as: str, model: str) -> range:
    """The hours from now on at which the model's price has to be looked up to find the dearest of the coming day."""
    from genai_prices.types import TimeOfDateConstraint

    entry = _find(price_as, model)
    prices: Any = None if entry is None else entry.prices
    if not isinstance(prices, list):
        return range(1)
    by_the_hour = any(isinstance(price.constraint, TimeOfDateConstraint) for price in prices)
    return range(25) if by_the_hour else range(0, 25, 24)


@lru_cache(maxsize=4096)
def _find(price_as: str, model: str) -> ModelInfo | None:
    """The table's entry for a model, None if it has none."""
    from genai_prices.data_snapshot import get_snapshot

    try:
        return get_snapshot().find_provider_model(model, None, price_as or None, None)[1]
    except LookupError:
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
def _by_token(key: _ByIdentity) -> TokenRates | None:
    prices = key.prices
    if prices.input_mtok is None or prices.output_mtok is None:
        return None
    picture_input = _first(prices.input_image_mtok, prices.input_mtok)
    cached = _first(prices.cache_read_mtok, prices.input_mtok)
    own_cached = prices.cache_image_read_mtok is not None or prices.input_image_mtok is None
    per_thousand = prices.requests_kcount
    return TokenRates(
        input=_steps(prices.input_mtok),
        output=_steps(prices.output_mtok),
        cached=_steps(cached),
        cache_write=_steps(_first(prices.cache_write_mtok, prices.input_mtok)),
        picture_input=_steps(picture_input),
        picture_cached=_steps(_first(prices.cache_image_read_mtok, cached) if own_cached else picture_input),
        picture_output=_steps(_first(prices.output_image_mtok, prices.output_mtok)),
        call_usd=NOTHING if per_thousand is None else _steps(per_thousand)[0][1] / 1000,
    )


def _first(*values: Decimal | TieredPrices | None) -> Decimal | TieredPrices:
    return next(value for value in values if value is not None)


def _steps(value: Decimal | TieredPrices) -> Steps:
    if isinstance(value, Decimal):
        return flat(value)
    return ((-1, value.base), *((tier.start, tier.price) for tier in value.tiers))
