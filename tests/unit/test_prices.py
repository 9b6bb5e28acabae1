"""Costs: as the price table says, never free by accident, rounded up, quick."""

from __future__ import annotations

import random
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from itertools import product

import pytest

from webapp.contracts.calls import Role, Turn
from webapp.contracts.money import to_microusd
from webapp.routing.prices import Rates, ceiling, estimate_input, estimate_tokens, price, table_version

FALLBACK = Rates.of(15.0, 75.0)
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def test_a_known_model_costs_what_the_table_says() -> None:
    found = price("openai", "gpt-4.1-mini", input_tokens=1000, output_tokens=500, fallback=FALLBACK, at=NOON)
    assert (found.cost_microusd, found.known) == (1000 * 4 // 10 + 500 * 16 // 10, True)
    assert found.source == table_version()
    assert found.source.startswith("genai-prices 0.")


def test_cached_input_is_charged_at_its_own_price() -> None:
    found = price("openai", "gpt-4.1-mini", input_tokens=1000, cached_tokens=1000, output_tokens=0, fallback=FALLBACK, at=NOON)
    assert found.cost_microusd == 100


def test_a_part_of_a_micro_dollar_is_charged_as_a_whole_one() -> None:
    found = price("openai", "gpt-4.1-mini", input_tokens=1, output_tokens=0, fallback=FALLBACK, at=NOON)
    assert found.cost_microusd == 1


def test_a_dated_model_name_has_the_price_of_its_family() -> None:
    dated, plain = (
        price("openai", name, input_tokens=777, output_tokens=99, fallback=FALLBACK, at=NOON)
        for name in ("gpt-4.1-mini-2025-04-14", "gpt-4.1-mini")
    )
    assert dated == plain


@pytest.mark.parametrize(("vendor", "model"), [("openai", "no-such-model"), ("no-such-vendor", "gpt-4o"), ("", "x")])
def test_an_unknown_model_costs_the_ceiling_and_is_never_free(vendor: str, model: str) -> None:
    found = price(vendor, model, input_tokens=100, output_tokens=10, fallback=FALLBACK)
    assert (found.cost_microusd, found.source, found.known) == (1500 + 750, "ceiling", False)


def test_a_model_on_the_operators_own_machine_is_free() -> None:
    found = price("", "llama3.2", input_tokens=100, output_tokens=10, fallback=FALLBACK, free_of_charge=True)
    assert (found.cost_microusd, found.source, found.known) == (0, "local", True)


def test_impossible_counts_are_not_charged_below_zero() -> None:
    odd = price("openai", "gpt-4.1-mini", input_tokens=-5, cached_tokens=9, output_tokens=-1, fallback=FALLBACK)
    assert odd.cost_microusd == 0
    more_cached_than_read = price(
        "openai", "gpt-4.1-mini", input_tokens=10, cached_tokens=99, output_tokens=0, fallback=FALLBACK, at=NOON
    )
    assert more_cached_than_read.cost_microusd == 1


def test_every_model_of_the_table_costs_here_what_the_library_says_tiers_and_off_peak_hours_included() -> None:
    from genai_prices import Usage
    from genai_prices.data_snapshot import get_snapshot

    draw = random.Random(7)
    sizes = (0, 1, 900, 130_000, 199_999, 250_000, 1_100_000)
    compared = ceilings = 0
    for vendor in get_snapshot().providers:
        for model in vendor.models:
            if vendor.find_model(model.id, all_providers=None) is not model:
                continue  # another entry answers to this name
            read, written = draw.choice(sizes), draw.choice(sizes)
            cached = draw.choice((0, read // 3, read))
            at = NOON.replace(hour=draw.randrange(24))
            got = price(
                vendor.id,
                model.id,
                input_tokens=read,
                output_tokens=written,
                cached_tokens=cached,
                fallback=FALLBACK,
                at=at,
            )
            if not got.known:
                ceilings += 1
                assert got.cost_microusd == 15 * read + 75 * written
                continue
            usage = Usage(input_tokens=read, output_tokens=written, cache_read_tokens=cached)
            want = model.calc_price(usage, vendor, genai_request_timestamp=at).total_price
            assert got.cost_microusd == to_microusd(want), (vendor.id, model.id)
            compared += 1
    assert compared > 1000
    assert ceilings < compared / 3


def test_the_ceiling_of_a_hold_is_not_below_any_cost_of_that_size_at_any_hour() -> None:
    for vendor, model in (("openai", "gpt-4.1-mini"), ("deepseek", "deepseek-chat"), ("", "unheard-of")):
        most = ceiling(vendor, model, input_tokens=2000, max_output_tokens=1000, fallback=FALLBACK)
        for hour, read, cached, written in product(range(24), (0, 2000), (0, 500), (0, 1000)):
            at = datetime.now(UTC).replace(hour=hour)
            real = price(
                vendor, model, input_tokens=read, cached_tokens=cached, output_tokens=written, fallback=FALLBACK, at=at
            )
            assert real.cost_microusd <= most.cost_microusd


def test_the_ceiling_of_a_free_model_is_nothing() -> None:
    free = ceiling("", "m", input_tokens=9, max_output_tokens=9, fallback=FALLBACK, free_of_charge=True)
    assert (free.cost_microusd, free.source) == (0, "local")


def test_rates_keep_their_decimal_value() -> None:
    assert Rates.of(0.1, 0.3) == Rates(Decimal("0.1"), Decimal("0.3"))


def test_the_table_is_not_loaded_before_a_price_is_asked_for() -> None:
    program = "import sys, webapp.routing.prices; print(any(name.startswith('genai_prices') for name in sys.modules))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("abc", 1),
        ("abcd", 2),
        ("a b c d e f", 4),
        ("{}[]", 4),
        ("é", 1),
        ("中文", 4),
        ("😀", 3),
        ("ab, é", 1 + 1 + 1 + 0),
        ("\ud800", 1),
    ],
)
def test_tokens_are_estimated_by_the_rule(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens


def test_the_estimate_is_never_above_the_bytes_and_not_below_what_prose_needs() -> None:
    prose = "The quick brown fox jumps over the lazy dog, and nobody in the whole village minds it at all. " * 20
    assert len(prose) / 4 < estimate_tokens(prose) < len(prose) / 2
    for text in (prose, "Größe über alles", "日本語のテキスト", '{"a": [1, 2, 3]}', "🙂🙃" * 9):
        assert 0 < estimate_tokens(text) <= len(text.encode())


def test_turns_cost_a_little_beside_their_text() -> None:
    turns = (Turn(Role.SYSTEM, "abc"), Turn(Role.USER, "abcdef"))
    assert estimate_input(turns) == 1 + 2 + 3 * 4
