"""Prices that we noted ourselves: each with its source and day, before the table only where the table is behind."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from tests.unit.test_prices import FALLBACK, dollars
from webapp.routing import price_notes
from webapp.routing.price_table import table_rates
from webapp.routing.prices import Counted, Price, price, table_version

MONDAY, SUNDAY = datetime(2026, 11, 16, tzinfo=UTC), datetime(2026, 11, 15, tzinfo=UTC)


def test_every_note_says_where_and_when_its_price_was_read() -> None:
    for note in price_notes.NOTES:
        assert note.source
        assert len(note.source) < 200
        assert date(2026, 1, 1) < date.fromisoformat(note.date) < date(2100, 1, 1)
        assert note.rates is not None or note.price_of_picture() is not None
        assert all(price_notes.find(note.vendor, name) is note for name in note.names)


def test_a_note_goes_before_the_table_only_while_the_table_says_something_else() -> None:
    week = [MONDAY + timedelta(hours=hour) for hour in range(7 * 24)]
    for note in price_notes.NOTES:
        if note.rates is not None:
            said = [table_rates(note.vendor, note.names[0], at) for at in week]
            assert said != [note.rates_at(at) for at in week], f"the table has caught up: drop the note on {note.names[0]}"


def test_deepseek_is_off_peak_on_weekends_and_the_table_counts_before_the_note() -> None:
    counted = Counted(1_000_000, 1_000_000)
    assert dollars("deepseek", "deepseek-flash", counted, MONDAY.replace(hour=3)) == Decimal("1.5")
    assert dollars("deepseek", "deepseek-flash", counted, MONDAY.replace(hour=4)) == Decimal("0.75")
    assert dollars("deepseek", "deepseek-flash", counted, SUNDAY.replace(hour=3)) == Decimal("0.75")
    earlier = price("deepseek", "deepseek-v4-flash", counted, fallback=FALLBACK, at=datetime(2026, 8, 20, 12, tzinfo=UTC))
    assert (earlier.cost_microusd, earlier.source) == (880_000, table_version())


def test_a_name_that_moved_on_to_a_newer_model_has_that_models_price() -> None:
    found = price("mistral", "mistral-large-latest", Counted(1_000_000, 1_000_000), fallback=FALLBACK)
    assert found == Price(2_000_000, "Mistral's prices: the name means Mistral Large 3", "2026-11-12", True)
    assert dollars("mistral", "mistral-large-2411", Counted(1_000_000, 1_000_000)) == 8


def test_a_picture_of_stability_costs_its_credits_and_what_was_filtered_nothing() -> None:
    assert dollars("stability", "ultra", Counted(pictures=2)) == Decimal("0.16")
    assert dollars("stability", "sd3.5-medium", Counted(pictures=1)) == Decimal("0.035")
    assert dollars("stability", "core", Counted(pictures=1, credits=Decimal("4.5"))) == Decimal("0.045")
    nothing = price("stability", "core", Counted(), fallback=FALLBACK)
    assert (nothing.cost_microusd, nothing.known) == (0, True)
    assert not price("", "core", Counted(pictures=1), fallback=FALLBACK).known, "a word that any model may be called"


def test_a_picture_costs_its_tokens_where_they_are_told_and_the_noted_price_where_not() -> None:
    told = Counted(100, 1290, picture_output_tokens=1290, pictures=1)
    assert dollars("google", "gemini-2.5-flash-image", told) == Decimal("0.03873")
    assert dollars("google", "gemini-2.5-flash-image", Counted(100, pictures=1)) == Decimal("0.03903")
    noted = price("google", "gemini-2.5-flash-image", Counted(pictures=1), fallback=FALLBACK)
    assert (noted.date, noted.known) == ("2026-11-12", True)
    assert noted.source != table_version()
    assert dollars("openai", "gpt-image-2-2026-04-21", Counted(pictures=1)) == Decimal("0.20")


def test_output_that_is_not_said_to_be_pictures_is_read_as_pictures_where_pictures_were_made() -> None:
    whole = Counted(0, 5000, pictures=1)
    assert dollars("google", "gemini-3-pro-image", whole) == Decimal("0.6")
    a_few_words = Counted(0, 5, pictures=1)
    assert dollars("google", "gemini-3-pro-image", a_few_words) == Decimal("0.134")


def test_midjourney_has_no_price_but_the_operators() -> None:
    assert price("midjourney", "midjourney", Counted(pictures=1), fallback=FALLBACK) == Price(500_000, "ceiling", "", False)
