"""Costs: as the price table says, never free by accident, never negative, rounded up, quick."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import product

import pytest

from webapp.contracts.calls import Role, Turn
from webapp.contracts.money import to_microusd
from webapp.routing.price_table import TABLE_DATES
from webapp.routing.prices import (
    Counted,
    Override,
    Price,
    Rates,
    ceiling,
    estimate_input,
    estimate_tokens,
    price,
    table_date,
    table_version,
)

FALLBACK = Rates.of(15.0, 75.0, picture=0.5)
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def dollars(price_as: str, model: str, counted: Counted, at: datetime = NOON, **given: object) -> Decimal:
    """What a call costs, in dollars."""
    return Decimal(price(price_as, model, counted, fallback=FALLBACK, at=at, **given).cost_microusd) / 1_000_000  # type: ignore[arg-type]


# -- the table ---------------------------------------------------------------------------------------------------------
def test_a_known_model_costs_what_the_table_says() -> None:
    found = price("openai", "gpt-4.1-mini", Counted(1000, 500), fallback=FALLBACK, at=NOON)
    assert found == Price(1000 * 4 // 10 + 500 * 16 // 10, table_version(), table_date(), True)
    assert found.source.startswith("genai-prices 0.")


def test_the_day_of_the_table_is_known_and_does_not_move_with_the_clock() -> None:
    assert table_version().rpartition(" ")[2] in TABLE_DATES, "a new release of the table: add its day"
    assert date.fromisoformat(table_date()) < date(2027, 12, 31)


def test_cached_input_is_charged_at_its_own_price() -> None:
    assert dollars("openai", "gpt-4.1-mini", Counted(1000, cached_tokens=1000)) == Decimal("0.0001")


def test_what_is_written_to_the_cache_costs_more_than_what_is_read_plainly() -> None:
    counted = Counted(1_000_000, cached_tokens=200_000, cache_write_tokens=300_000)
    assert dollars("anthropic", "claude-haiku-4-5", counted) == Decimal("0.5") + Decimal("0.02") + Decimal("0.375")


def test_tokens_of_pictures_are_charged_at_their_own_prices() -> None:
    counted = Counted(1_000_000, 1_000_000, picture_input_tokens=400_000, picture_output_tokens=900_000)
    assert dollars("openai", "gpt-image-1.5", counted) == Decimal("3.0") + Decimal("3.2") + Decimal("1.0") + Decimal("28.8")


def test_a_tier_holds_for_the_whole_call() -> None:
    assert dollars("anthropic", "claude-haiku-5-5", Counted(100_000, 1000)) == Decimal("0.0105")
    assert dollars("anthropic", "claude-haiku-5-5", Counted(100_001, 1000)) == Decimal("0.0525005").quantize(
        Decimal("0.000001"), rounding="ROUND_CEILING"
    )


def test_a_part_of_a_micro_dollar_is_charged_as_a_whole_one() -> None:
    assert price("openai", "gpt-4.1-mini", Counted(1), fallback=FALLBACK, at=NOON).cost_microusd == 1


def test_a_dated_model_name_has_the_price_of_its_family() -> None:
    dated, plain = (
        price("openai", name, Counted(777, 99), fallback=FALLBACK, at=NOON)
        for name in ("gpt-4.1-mini-2025-04-14", "gpt-4.1-mini")
    )
    assert dated == plain


@pytest.mark.parametrize(("vendor", "model"), [("openai", "no-such-model"), ("no-such-vendor", "gpt-4o"), ("", "x")])
def test_an_unknown_model_costs_the_ceiling_and_is_never_free(vendor: str, model: str) -> None:
    found = price(vendor, model, Counted(100, 10), fallback=FALLBACK)
    assert found == Price(1500 + 750, "ceiling", "", False)
    drawn = price(vendor, model, Counted(100, pictures=2), fallback=FALLBACK)
    assert drawn == Price(1500 + 1_000_000, "ceiling", "", False)
    in_shells = price(vendor, model, Counted(credits=Decimal(3)), fallback=FALLBACK)
    assert in_shells == Price(500_000, "ceiling", "", False)


def test_a_model_on_the_operators_own_machine_is_free_whatever_else_is_said() -> None:
    found = price(
        "",
        "llama3.2",
        Counted(100, 10, pictures=1),
        fallback=FALLBACK,
        free_of_charge=True,
        override=Override(input_usd=Decimal(5)),
        vendor_usd=Decimal(1),
    )
    assert found == Price(0, "local", "", True)


def test_impossible_counts_are_not_charged_below_zero() -> None:
    odd = Counted(-5, -1, cached_tokens=9, cache_write_tokens=-3, pictures=-2, credits=Decimal("-1"))
    assert dollars("openai", "gpt-4.1-mini", odd) == 0
    assert dollars("openai", "gpt-4.1-mini", Counted(10, cached_tokens=99, cache_write_tokens=99)) == Decimal("0.000001")


def test_no_count_however_absurd_makes_a_price_that_is_negative_or_cannot_be_stored() -> None:
    draw = random.Random(3)
    counts = (-(10**30), -1, 0, 1, 5000, 10**9, 10**30)
    credits = (None, Decimal("NaN"), Decimal("sNaN"), Decimal("-Infinity"), Decimal("Infinity"), Decimal(2), Decimal("1e40"))
    override = Override(input_usd=Decimal(10**6), picture_usd=Decimal(10**6), credit_usd=Decimal(10**6))
    models = (("openai", "gpt-image-1.5"), ("stability", "ultra"), ("google", "gemini-3-pro-image"), ("", "unheard-of"))
    for _ in range(3000):
        counted = Counted(*(draw.choice(counts) for _ in range(7)), credits=draw.choice(credits))
        own = draw.choice((None, override))
        found = price(*draw.choice(models), counted, fallback=FALLBACK, override=own, vendor_usd=draw.choice(credits))
        assert 0 <= found.cost_microusd < 2**63


def test_every_model_of_the_table_costs_here_what_the_library_says_tiers_and_off_peak_hours_included() -> None:
    from genai_prices import Usage
    from genai_prices.data_snapshot import get_snapshot

    draw = random.Random(7)
    sizes = (0, 1, 900, 130_000, 199_999, 250_000, 1_100_000)
    compared = ceilings = notes = 0
    for vendor in get_snapshot().providers:
        for model in vendor.models:
            if vendor.find_model(model.id, all_providers=None) is not model:
                continue  # another entry answers to this name
            read, written = draw.choice(sizes), draw.choice(sizes)
            cached = draw.choice((0, read // 3, read))
            stored = draw.choice((0, (read - cached) // 2))
            seen = draw.choice((0, read // 4))
            drawn = draw.choice((0, written // 2))
            at = NOON.replace(hour=draw.randrange(24))
            counted = Counted(read, written, cached, stored, seen, drawn)
            got = price(vendor.id, model.id, counted, fallback=FALLBACK, at=at)
            if not got.known:
                ceilings += 1
                assert got.cost_microusd == 15 * read + 75 * written
                continue
            if got.source != table_version():
                notes += 1
                continue
            cached_pictures = max(0, cached - (read - seen))
            usage = Usage(
                input_tokens=read,
                output_tokens=written,
                cache_read_tokens=cached,
                cache_write_tokens=stored,
                input_image_tokens=seen,
                output_image_tokens=drawn,
                cache_image_read_tokens=cached_pictures,
                cache_image_write_tokens=max(0, stored - (read - seen - (cached - cached_pictures))),
            )
            want = model.calc_price(usage, vendor, genai_request_timestamp=at).total_price
            assert got.cost_microusd == to_microusd(want), (vendor.id, model.id, counted)
            compared += 1
    assert compared > 1000
    assert ceilings < compared / 3
    assert notes < 10


def test_a_price_is_reckoned_in_a_part_of_the_librarys_time() -> None:
    from genai_prices import Usage, calc_price

    counted, usage = Counted(1200, 300, cached_tokens=100), Usage(input_tokens=1200, output_tokens=300, cache_read_tokens=100)

    def spent(call: Callable[[], object]) -> float:
        started = time.process_time()
        for _ in range(300):
            call()
        return time.process_time() - started

    ours = min(spent(lambda: price("openai", "gpt-4.1-mini", counted, fallback=FALLBACK, at=NOON)) for _ in range(5))
    library = min(spent(lambda: calc_price(usage, "gpt-4.1-mini", provider_id="openai")) for _ in range(5))
    assert ours < library / 2


# -- what the vendor says, and the operator ----------------------------------------------------------------------------
def test_what_the_vendor_says_that_it_charged_goes_before_the_table() -> None:
    found = price("openrouter", "x", Counted(5, 5), fallback=FALLBACK, at=NOON, vendor_usd=Decimal("0.0123"))
    assert found == Price(12_300, "vendor", "2026-11-20", True)


@pytest.mark.parametrize("told", ["-0.01", "NaN", "-Infinity", "Infinity", "10001", "1e99"])
def test_a_charge_that_nobody_can_have_made_is_not_believed(told: str) -> None:
    found = price("openai", "gpt-4.1-mini", Counted(1000), fallback=FALLBACK, at=NOON, vendor_usd=Decimal(told))
    assert (found.cost_microusd, found.source) == (400, table_version())


def test_the_operators_price_goes_before_the_vendors() -> None:
    own = Override(input_usd=Decimal(1), output_usd=Decimal(2), as_of="2026-11-01")
    found = price("openai", "gpt-4.1-mini", Counted(1000, 100), fallback=FALLBACK, override=own, vendor_usd=Decimal(9))
    assert found == Price(1200, "override", "2026-11-01", True)


def test_what_the_operator_does_not_set_is_as_in_the_table() -> None:
    own = Override(output_usd=Decimal(100))
    counted = Counted(1_000_000, 1_000_000, cached_tokens=500_000)
    assert dollars("openai", "gpt-4.1-mini", counted, override=own) == Decimal("0.2") + Decimal("0.05") + 100
    read = Override(cached_usd=Decimal(0), cache_write_usd=Decimal(7))
    counted = Counted(1_000_000, cached_tokens=500_000, cache_write_tokens=100_000)
    assert dollars("anthropic", "claude-haiku-4-5", counted, override=read) == Decimal("0.4") + Decimal("0.7")


def test_the_operators_price_of_an_unknown_model_makes_it_known() -> None:
    own = Override(input_usd=Decimal(1), output_usd=Decimal(2))
    counted = Counted(1_000_000, 1_000_000, cached_tokens=900_000)
    found = price("", "house-model", counted, fallback=FALLBACK, override=own)
    assert (found.cost_microusd, found.known) == (3_000_000, True)
    half = price("", "house-model", counted, fallback=FALLBACK, override=Override(input_usd=Decimal(1)))
    assert (half.cost_microusd, half.source, half.known) == (76_000_000, "override", False)


def test_an_override_that_says_nothing_about_the_call_changes_nothing() -> None:
    for own in (Override(), Override(picture_usd=Decimal(1)), Override(credit_usd=Decimal(1))):
        found = price("openai", "gpt-4.1-mini", Counted(1000), fallback=FALLBACK, at=NOON, override=own)
        assert (found.cost_microusd, found.source) == (400, table_version())


def test_a_picture_at_the_operators_price_covers_its_tokens() -> None:
    own = Override(picture_usd=Decimal("0.04"))
    found = price("", "midjourney", Counted(pictures=4), fallback=FALLBACK, override=own)
    assert (found.cost_microusd, found.source, found.known) == (160_000, "override", True)
    counted = Counted(1_000_000, 5000, picture_output_tokens=4000, pictures=2)
    flash = dollars("google", "gemini-2.5-flash-image", counted, override=own)
    assert flash == Decimal("0.3") + Decimal("0.08") + Decimal("0.0025")


def test_credits_cost_what_the_operator_pays_for_them() -> None:
    own = Override(credit_usd=Decimal("0.25"), as_of="2026-11-01")
    found = price("", "prsm", Counted(100, 100, credits=Decimal("1.5")), fallback=FALLBACK, override=own)
    assert found == Price(375_000, "override", "2026-11-01", True)
    assert dollars("stability", "ultra", Counted(pictures=1), override=Override(credit_usd=Decimal("0.008"))) == Decimal(
        "0.064"
    )


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (None, "price"),
        ([], "price"),
        ({"input_usd": -1}, "input_usd"),
        ({"output_usd": "free"}, "output_usd"),
        ({"cached_usd": True}, "cached_usd"),
        ({"cache_write_usd": "NaN"}, "cache_write_usd"),
        ({"picture_usd": float("inf")}, "picture_usd"),
        ({"credit_usd": {"usd": 1}}, "credit_usd"),
        ({"credit_usd": 10**400}, "credit_usd"),
        ({"input_usd": "1e-400"}, "input_usd"),
        ({"input_usd": "1" * 5000}, "input_usd"),
        ({"as_of": "yesterday"}, "as_of"),
        ({"as_of": 20261101}, None),
        ({"inputs_usd": 1}, "inputs_usd"),
    ],
)
def test_an_operators_price_that_is_none_is_named(value: object, field: str | None) -> None:
    if field is None:
        assert Override.read(value).as_of == "2026-11-01"
        return
    with pytest.raises(ValueError, match=rf"\A{field}: "):
        Override.read(value)


def test_an_operators_price_is_stored_and_read_as_it_was_meant() -> None:
    own = Override.read({"input_usd": 0.1, "output_usd": " 2.50 ", "picture_usd": 0, "cached_usd": None, "as_of": "2026-11-01"})
    assert own == Override(Decimal("0.1"), Decimal("2.5"), picture_usd=Decimal(0), as_of="2026-11-01")
    assert own.as_json() == {"input_usd": "0.1", "output_usd": "2.50", "picture_usd": "0", "as_of": "2026-11-01"}
    assert Override.read(own.as_json()) == own
    assert Override.read({}).as_json() == {}


# -- what is held ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("own", [None, Override(cached_usd=Decimal(99)), Override(input_usd=Decimal("0.01"))])
@pytest.mark.parametrize(
    ("vendor", "model"),
    [
        ("openai", "gpt-4.1-mini"),
        ("deepseek", "deepseek-flash"),
        ("deepseek", "deepseek-chat"),
        ("anthropic", "claude-haiku-5-5"),
        ("openai", "gpt-image-1.5"),
        ("perplexity", "sonar-pro"),
        ("", "unheard-of"),
    ],
)
def test_the_ceiling_of_a_hold_is_not_below_any_cost_of_that_size_at_any_hour(
    vendor: str, model: str, own: Override | None
) -> None:
    read = 120_000
    most = ceiling(vendor, model, input_tokens=read, max_output_tokens=1000, fallback=FALLBACK, override=own)
    today = datetime.now(UTC)
    parts = product((0, read // 2), (0, read // 2), (0, 900), (0, 1000), (0, 1000))
    for (cached, written, seen, out, drawn), hour in product(parts, range(24)):
        counted = Counted(read, out, cached, written, seen, drawn)
        real = price(vendor, model, counted, fallback=FALLBACK, override=own, at=today.replace(hour=hour))
        assert real.cost_microusd <= most.cost_microusd


def test_the_ceiling_counts_what_the_vendor_may_write_to_its_cache() -> None:
    most = ceiling("anthropic", "claude-haiku-4-5", input_tokens=1_000_000, max_output_tokens=0, fallback=FALLBACK)
    assert most.cost_microusd == 1_250_000


def test_the_ceiling_is_that_of_the_peak_on_every_day_of_the_week() -> None:
    most = ceiling("deepseek", "deepseek-flash", input_tokens=1_000_000, max_output_tokens=1_000_000, fallback=FALLBACK)
    assert (most.cost_microusd, most.date) == (1_500_000, "2026-10-31")


def test_the_ceiling_of_pictures_is_that_of_the_largest() -> None:
    def most(vendor: str, model: str, own: Override | None = None) -> int:
        return ceiling(
            vendor, model, input_tokens=0, max_output_tokens=0, fallback=FALLBACK, override=own, pictures=2
        ).cost_microusd

    assert most("google", "gemini-3-pro-image") == 480_000
    assert most("stability", "core") == 60_000
    assert most("midjourney", "midjourney") == 1_000_000
    assert most("midjourney", "midjourney", Override(picture_usd=Decimal("0.04"))) == 80_000
    assert most("stability", "core", Override(credit_usd=Decimal("0.02"))) == 120_000


def test_the_ceiling_of_a_free_model_is_nothing() -> None:
    free = ceiling("", "m", input_tokens=9, max_output_tokens=9, fallback=FALLBACK, free_of_charge=True, pictures=3)
    assert (free.cost_microusd, free.source) == (0, "local")


def test_rates_keep_their_decimal_value() -> None:
    assert Rates.of(0.1, 0.3, picture=0.7) == Rates(Decimal("0.1"), Decimal("0.3"), Decimal("0.7"))
    assert Rates.of(0.1, 0.3).picture_usd == Decimal("0.50")


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
