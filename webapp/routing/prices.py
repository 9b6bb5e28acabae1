"""What calls cost: never free by accident, never below zero, rounded up.

Who says it, in this order: a provider that bills nobody; the operator's own price; the vendor, where it told what it charged;
our notes and the maintained table; the operator's ceiling, for what nobody knows.
"""

from __future__ import annotations

import string
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

from webapp.contracts.calls import Turn
from webapp.contracts.money import MICROUSD, to_microusd
from webapp.routing import price_notes
from webapp.routing.price_table import (
    NOTHING,
    Steps,
    TokenRates,
    flat,
    hours_that_matter,
    rate,
    table_date,
    table_moves,
    table_rates,
    table_version,
)
from webapp.routing.price_values import Counted, Override, Price, Rates, amount_or_none

__all__ = [
    "Counted",
    "Override",
    "Price",
    "Rates",
    "ceiling",
    "estimate_input",
    "estimate_tokens",
    "price",
    "table_date",
    "table_version",
]

TURN_TOKENS = 4
"""What a turn costs beside its text: role and separators."""

VENDOR_USD_MAX = 10_000
"""A vendor that says that one call cost more is not believed."""

COST_MAX_MICROUSD = 10**15
"""No call is charged more: a thousand million dollars."""

_PUNCTUATION = string.punctuation.encode()
_FREE = Price(0, "local", "", True)
_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)
"""Stands for every time where a price does not change with it."""
_KEPT = 4096
"""How many prepared answers of each kind are kept: by value, and by the minute where a price changes with time."""


@dataclass(frozen=True, slots=True)
class _Tariff:
    """Everything that a call to one model may be charged by, complete: what nobody knows is the ceiling."""

    rates: TokenRates
    rates_known: bool
    picture_usd: Decimal
    picture_most_usd: Decimal
    picture_known: bool
    source: str
    date: str
    picture_source: str
    picture_date: str
    credit_usd: Decimal | None = None
    picture_is_all: bool = False
    """True where the price per picture takes the place of the picture's tokens."""


class _Bound(NamedTuple):
    """The most that a call to one model can be charged: by its tokens, whatever kind they turn out to be, and its pictures."""

    tariff: _Tariff
    input: Steps
    output: Steps


def estimate_tokens(text: str) -> int:
    """About how many tokens `text` is, rather too many than too few; no tokenizer needed.

    The rule: three ASCII letters, digits or blanks a token, an ASCII punctuation mark one token, and any other character
    as many tokens as its UTF-8 bytes less one (é 1, 中 2, 😀 3). English prose has about four characters a token with
    current tokenizers, so this is about a third too many there.
    """
    data = text.encode("utf-8", "replace")
    others = len(data) - len(text)
    if others:
        data = text.encode("ascii", "ignore")
    size, plain = len(data), len(data.translate(None, _PUNCTUATION))
    return -(-plain // 3) + (size - plain) + others


def estimate_input(turns: Iterable[Turn]) -> int:
    """About how many input tokens a call with these turns has, rather too many than too few."""
    found = TURN_TOKENS
    for turn in turns:
        found += estimate_tokens(turn.text) + TURN_TOKENS
    return found


def price(
    price_as: str,
    model: str,
    counted: Counted,
    *,
    fallback: Rates,
    override: Override | None = None,
    free_of_charge: bool = False,
    at: datetime | None = None,
    vendor_usd: Decimal | None = None,
) -> Price:
    """What a call costs, in whole micro-dollars, rounded up.

    `price_as` is the vendor's id in the table ('' looks the model up by its name alone); `vendor_usd` is what the vendor
    itself says it charged; `at` (aware, default now) decides between prices that change with date and time of day.
    """
    if free_of_charge:
        return _FREE
    counted, moment = counted.plausible(), _moment(price_as, model, at)
    if override is not None and _applies(override, price_as, model, counted):
        return _charge(_tariff(price_as, model, moment, fallback, override), counted)
    if vendor_usd is not None:
        vendor_usd = amount_or_none(vendor_usd, VENDOR_USD_MAX)
    if vendor_usd is not None:
        day = (at or datetime.now(UTC)).astimezone(UTC).date().isoformat()
        return Price(to_microusd(vendor_usd), "vendor", day, True)
    if not counted.pictures and counted.credits is None:
        found = _rates(price_as, model, moment)
        if found is not None:
            rates, source, day = found
            return Price(_microusd(_tokens_usd(rates, counted)), source, day, True)
    return _charge(_tariff(price_as, model, moment, fallback), counted)


def ceiling(
    price_as: str,
    model: str,
    *,
    input_tokens: int,
    max_output_tokens: int,
    fallback: Rates,
    override: Override | None = None,
    free_of_charge: bool = False,
    pictures: int = 0,
) -> Price:
    """The most that a call can cost, to be held before it is made: the dearest kind of input (vendors write caches unasked),
    all of the output's cap, the largest pictures, the dearest hour of the coming day.

    `input_tokens` is the estimate for the turns (`estimate_input`).
    """
    if free_of_charge:
        return _FREE
    moment = _moment(price_as, model, None)
    return _most(price_as, model, input_tokens, max_output_tokens, pictures, fallback, override, moment)


@lru_cache(maxsize=_KEPT)
def _most(
    price_as: str,
    model: str,
    input_tokens: int,
    output_tokens: int,
    pictures: int,
    fallback: Rates,
    override: Override | None,
    moment: datetime,
) -> Price:
    # Kept because a request asks for the same several times: when it is sized, when it is stored, before it is called.
    counted = Counted(input_tokens, output_tokens, pictures=pictures).plausible()
    if override is not None and not _applies(override, price_as, model, counted):
        override = None
    found: list[Price] = []
    for tariff, of_input, of_output in _bounds(price_as, model, moment, fallback, override):
        usd = rate(of_input, counted.input_tokens) * counted.input_tokens
        usd += rate(of_output, counted.input_tokens) * counted.output_tokens
        usd = usd / MICROUSD + tariff.rates.call_usd
        if counted.pictures:
            usd += tariff.picture_most_usd * counted.pictures
        known = tariff.rates_known and (tariff.picture_known or not counted.pictures)
        found.append(Price(_microusd(usd), tariff.source, tariff.date, known))
    return max(found, key=lambda price: price.cost_microusd)


@lru_cache(maxsize=_KEPT)
def _bounds(price_as: str, model: str, moment: datetime, fallback: Rates, override: Override | None) -> tuple[_Bound, ...]:
    """One for each hour of the coming day at which the price may be another one."""
    tariffs = [
        _tariff(price_as, model, moment + timedelta(hours=hour), fallback, override, dearest=True)
        for hour in hours_that_matter(price_as, model)
    ]
    return tuple(_Bound(tariff, *tariff.rates.dearest()) for tariff in tariffs)


def _moment(price_as: str, model: str, at: datetime | None) -> datetime:
    """The moment by which a price is looked up: the minute of `at` (aware, default now), since prices change on whole ones,
    or `_ANY_TIME`. What is kept of it is then right for all of that time."""
    if not _moves(price_as, model):
        return _ANY_TIME
    return (at or datetime.now(UTC)).astimezone(UTC).replace(second=0, microsecond=0)


@lru_cache(maxsize=_KEPT)
def _moves(price_as: str, model: str) -> bool:
    """Whether a model's price changes with date or time of day."""
    note = price_notes.find(price_as, model)
    return (note is not None and note.moves) or table_moves(price_as, model)


@lru_cache(maxsize=_KEPT)
def _rates(price_as: str, model: str, at: datetime, *, dearest: bool = False) -> tuple[TokenRates, str, str] | None:
    """A model's token prices with source and day, from a note that goes before the table, or the table."""
    note = price_notes.find(price_as, model)
    rates = None if note is None else note.rates_at(at)
    if note is not None and rates is not None:
        return (note.peak_rates or rates) if dearest else rates, note.source, note.date
    rates = table_rates(price_as, model, at)
    return None if rates is None else (rates, table_version(), table_date())


@lru_cache(maxsize=_KEPT)
def _tariff(
    price_as: str,
    model: str,
    at: datetime,
    fallback: Rates,
    override: Override | None = None,
    *,
    dearest: bool = False,
) -> _Tariff:
    """What a model may be charged by at a time, with the operator's own prices over it where they are to count."""
    found = _listed(price_as, model, at, fallback, dearest=dearest)
    return found if override is None else _overridden(found, override, price_as, model)


def _listed(price_as: str, model: str, at: datetime, fallback: Rates, *, dearest: bool) -> _Tariff:
    note = price_notes.find(price_as, model)
    found = _rates(price_as, model, at, dearest=dearest)
    rates, source, day = found or (TokenRates.plain(fallback.input_usd, fallback.output_usd), "ceiling", "")
    picture = None if note is None else note.price_of_picture()
    if note is None or picture is None:
        usd = fallback.picture_usd
        return _Tariff(rates, found is not None, usd, usd, False, source, day, "ceiling", "")
    if found is None and note.picture_credits is not None:
        # A vendor of pictures alone charges for nothing else.
        found = rates, source, day = TokenRates.plain(NOTHING, NOTHING), note.source, note.date
    return _Tariff(
        rates,
        found is not None,
        picture,
        note.picture_most_usd or picture,
        True,
        source,
        day,
        note.source,
        note.date,
        credit_usd=note.credit_usd,
        picture_is_all=note.picture_credits is not None,
    )


def _applies(override: Override, price_as: str, model: str, counted: Counted) -> bool:
    """Whether anything that the operator set has to do with this call."""
    tokens = (override.input_usd, override.output_usd, override.cached_usd, override.cache_write_usd)
    if any(amount is not None for amount in tokens):
        return True
    if counted.pictures and override.picture_usd is not None:
        return True
    if override.credit_usd is None:
        return False
    return counted.credits is not None or (counted.pictures > 0 and _sells_credits(price_as, model) is not None)


def _sells_credits(price_as: str, model: str) -> price_notes.Note | None:
    note = price_notes.find(price_as, model)
    return note if note is not None and note.picture_credits is not None else None


def _overridden(tariff: _Tariff, override: Override, price_as: str, model: str) -> _Tariff:
    """The tariff with the operator's prices in the place of those that they set."""
    rates = tariff.rates
    steps: dict[str, Any] = {}
    if not tariff.rates_known:
        # Nobody knows what this model charges for a cached token: as much as for another.
        own = {"input", "cached", "cache_write", "picture_input", "picture_cached"}, {"output", "picture_output"}
    else:
        own = _same_price(rates, "input", "picture_input"), _same_price(rates, "output", "picture_output")
    for names, amount in zip(own, (override.input_usd, override.output_usd), strict=True):
        if amount is not None:
            steps |= dict.fromkeys(names, flat(amount))
    if override.cached_usd is not None:
        steps |= {"cached": flat(override.cached_usd), "picture_cached": flat(override.cached_usd)}
    if override.cache_write_usd is not None:
        steps["cache_write"] = flat(override.cache_write_usd)
    known = tariff.rates_known or (override.input_usd is not None and override.output_usd is not None)
    tariff = replace(tariff, rates=replace(rates, **steps), rates_known=known, source="override", date=override.as_of)
    picture, note = override.picture_usd, _sells_credits(price_as, model)
    if picture is None and note is not None and override.credit_usd is not None:
        picture = note.price_of_picture(override.credit_usd)
    if override.credit_usd is not None:
        tariff = replace(tariff, credit_usd=override.credit_usd)
    if picture is None:
        return tariff
    return replace(
        tariff,
        picture_usd=picture,
        picture_most_usd=picture,
        picture_known=True,
        picture_source="override",
        picture_date=override.as_of,
        picture_is_all=True,
    )


def _same_price(rates: TokenRates, name: str, *others: str) -> set[str]:
    """`name`, and those of the others that cost the same: the operator's price is meant for them too."""
    return {name} | {other for other in others if getattr(rates, other) == getattr(rates, name)}


def _charge(tariff: _Tariff, counted: Counted) -> Price:
    if counted.credits is not None and tariff.credit_usd is not None:
        return Price(_microusd(counted.credits * tariff.credit_usd), tariff.source, tariff.date, True)
    if not counted.pictures:
        usd = _tokens_usd(tariff.rates, counted)
        if counted.credits and not usd:
            # Something was charged in a unit whose price nobody knows, and nothing else is there to go by.
            return Price(_microusd(tariff.picture_usd), tariff.picture_source, tariff.picture_date, tariff.picture_known)
        return Price(_microusd(usd), tariff.source, tariff.date, tariff.rates_known)
    told = counted.picture_output_tokens
    if told and tariff.rates_known and not tariff.picture_is_all:
        return Price(_microusd(_tokens_usd(tariff.rates, counted)), tariff.source, tariff.date, True)
    text_output = counted.output_tokens - told if told else 0
    beside = replace(counted, output_tokens=text_output, picture_output_tokens=0)
    by_picture = tariff.picture_usd * counted.pictures + _tokens_usd(tariff.rates, beside)
    if not tariff.picture_is_all:
        # All of the output may be pictures: of the two readings the dearer one.
        by_token = _tokens_usd(tariff.rates, replace(counted, picture_output_tokens=told or counted.output_tokens))
        if by_token >= by_picture:
            return Price(_microusd(by_token), tariff.source, tariff.date, tariff.rates_known)
    known = tariff.picture_known and (tariff.rates_known or not (beside.input_tokens or beside.output_tokens))
    return Price(_microusd(by_picture), tariff.picture_source, tariff.picture_date, known)


def _tokens_usd(rates: TokenRates, counted: Counted) -> Decimal:
    return rates.usd(
        counted.input_tokens,
        counted.output_tokens,
        counted.cached_tokens,
        counted.cache_write_tokens,
        counted.picture_input_tokens,
        counted.picture_output_tokens,
    )


def _microusd(usd: Decimal) -> int:
    cost = to_microusd(usd)
    return cost if cost < COST_MAX_MICROUSD else COST_MAX_MICROUSD
