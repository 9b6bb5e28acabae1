"""What is kept of prices: it is what would be reckoned anew, for every model, at every moment."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache

import time_machine
from genai_prices.data_snapshot import get_snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.contracts.money import MICROUSD
from webapp.routing import price_notes, prices
from webapp.routing.price_table import Steps, hours_that_matter
from webapp.routing.prices import Counted, Override, Price, Rates, ceiling, price

Model = tuple[str, str]


@lru_cache
def models() -> tuple[tuple[Model, ...], tuple[Model, ...]]:
    """Those with one price, and those whose price changes with date or hour."""
    named = [(vendor.id, model.id, model.prices) for vendor in get_snapshot().providers for model in vendor.models]
    noted = [(note.vendor, name) for note in price_notes.NOTES for name in note.names]
    others = [("openai", "no-such-model"), ("", "gpt-4.1-mini"), ("", "deepseek-chat"), ("nobody", ""), ("", "ultra")]
    moving = [(vendor, name) for vendor, name, given in named if isinstance(given, list)]
    by_the_hour = [each for each in moving if len(hours_that_matter(*each)) > 2]
    still = [(vendor, name) for vendor, name, given in named if not isinstance(given, list)]
    return (*still, *noted, *others), (*moving, *by_the_hour * 20, *noted * 4)


MODELS = st.deferred(lambda: st.sampled_from(models()[0]) | st.sampled_from(models()[1]))
MOMENTS = st.datetimes(datetime(2024, 1, 1), datetime(2027, 12, 31)).map(lambda at: at.replace(tzinfo=UTC)) | st.builds(
    # The edges: whole hours and half ones, and a moment beside.
    lambda day, minute, beside: datetime.combine(day, time(), UTC) + timedelta(minutes=minute, microseconds=beside),
    st.dates(date(2025, 1, 1), date(2027, 1, 1)),
    st.integers(0, 48).map(lambda half: half * 30),
    st.sampled_from((-1, 0, 1, 59_999_999)),
)
AMOUNTS = st.none() | st.sampled_from(("0", "0.15", "3", "999.99")).map(Decimal)
OVERRIDES = st.none() | st.builds(
    Override, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, as_of=st.sampled_from(("", "2026-11-01"))
)
TOKENS = st.sampled_from((0, 1, 300, 128_000, 200_000, 200_001, 1_000_000, 10**12, -5, 10**13)) | st.integers(0, 10**6)
FALLBACKS = st.sampled_from((Rates.of(15.0, 75.0, 0.5), Rates.of(1, 2, 3)))


def tariff(model: Model, at: datetime, fallback: Rates, override: Override | None, *, dearest: bool) -> prices._Tariff:
    found = prices._listed(*model, at, fallback, dearest=dearest)
    return found if override is None else prices._overridden(found, override, *model)


def highest(steps: Steps, input_tokens: int) -> Decimal:
    return max(value for start, value in steps if start < input_tokens or start < 0)


def most(model: Model, counted: Counted, fallback: Rates, override: Override | None, now: datetime) -> Price:
    """The most of a call, reckoned from each kind of token at each hour of the coming day."""
    if override is not None and not prices._applies(override, *model, counted):
        override = None
    found: list[Price] = []
    for hour in hours_that_matter(*model):
        at = tariff(model, now + timedelta(hours=hour), fallback, override, dearest=True)
        rates, read = at.rates, counted.input_tokens
        inputs = (rates.input, rates.cached, rates.cache_write, rates.picture_input, rates.picture_cached)
        usd = max(highest(steps, read) for steps in inputs) * read
        usd += max(highest(steps, read) for steps in (rates.output, rates.picture_output)) * counted.output_tokens
        usd = usd / MICROUSD + rates.call_usd + (at.picture_most_usd * counted.pictures if counted.pictures else 0)
        known = at.rates_known and (at.picture_known or not counted.pictures)
        found.append(Price(prices._microusd(usd), at.source, at.date, known))
    return max(found, key=lambda price: price.cost_microusd)


@settings(deadline=None, max_examples=800)
@given(MODELS, TOKENS, TOKENS, st.sampled_from((0, 0, 1, 3)), FALLBACKS, OVERRIDES, st.lists(MOMENTS, min_size=1, max_size=4))
def test_the_most_of_a_call_is_what_it_would_be_reckoned_anew(
    model: Model, read: int, written: int, pictures: int, fallback: Rates, override: Override | None, moments: list[datetime]
) -> None:
    counted = Counted(read, written, pictures=pictures).plausible()
    for moment in moments:
        with time_machine.travel(moment, tick=False):
            wanted = most(model, counted, fallback, override, datetime.now(UTC))
            for _ in range(2):
                found = ceiling(
                    *model,
                    input_tokens=read,
                    max_output_tokens=written,
                    fallback=fallback,
                    override=override,
                    pictures=pictures,
                )
                assert found == wanted


@settings(deadline=None, max_examples=800)
@given(MODELS, TOKENS, TOKENS, st.sampled_from((0, 0, 2)), FALLBACKS, OVERRIDES, st.lists(MOMENTS, min_size=1, max_size=4))
def test_a_price_is_what_it_would_be_looked_up_anew(
    model: Model, read: int, written: int, pictures: int, fallback: Rates, override: Override | None, moments: list[datetime]
) -> None:
    counted = Counted(read, written, cached_tokens=read // 3, pictures=pictures).plausible()
    own = override if override is not None and prices._applies(override, *model, counted) else None
    for at in moments:
        wanted = prices._charge(tariff(model, at, fallback, own, dearest=False), counted)
        assert price(*model, counted, fallback=fallback, override=override, at=at) == wanted


def test_every_price_of_the_table_changes_on_a_whole_minute_or_not_at_all() -> None:
    for vendor in get_snapshot().providers:
        for model in vendor.models:
            for part in model.prices if isinstance(model.prices, list) else ():
                for name in ("start_time", "end_time"):
                    moment: time | None = getattr(part.constraint, name, None)
                    assert moment is None or (moment.second, moment.microsecond) == (0, 0), (vendor.id, model.id)
                    offset = moment.utcoffset() if moment is not None else None
                    assert offset is None or offset % timedelta(minutes=1) == timedelta(0)


def test_every_noted_price_changes_on_a_whole_minute_or_not_at_all() -> None:
    for note in price_notes.NOTES:
        assert all(
            (moment.second, moment.microsecond) == (0, 0) for span in note.peak_hours.spans for moment in (span.start, span.end)
        )
        assert note.moves or note.rates_at(datetime(2000, 1, 1, tzinfo=UTC)) is note.rates
