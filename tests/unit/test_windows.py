"""Where windows begin and end, in time zones that make it hard."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.contracts.limits import Window
from webapp.quota.windows import bounds

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",
    "Asia/Kathmandu",
    "America/Sao_Paulo",
    "Africa/Cairo",
    "Australia/Lord_Howe",
    "Pacific/Apia",
)


def test_a_month_begins_at_local_midnight_of_its_first_day() -> None:
    start, end = bounds(Window.MONTH, datetime(2026, 11, 30, 20, 0, tzinfo=UTC), "Asia/Kathmandu")
    assert start == datetime(2026, 11, 30, 18, 15, tzinfo=UTC)
    assert end == datetime(2026, 12, 31, 18, 15, tzinfo=UTC)


def test_a_month_of_daylight_saving_ends_at_the_new_offset() -> None:
    start, end = bounds(Window.MONTH, datetime(2026, 10, 15, tzinfo=UTC), "America/St_Johns")
    assert start == datetime(2026, 10, 1, 2, 30, tzinfo=UTC)
    assert end == datetime(2026, 11, 1, 2, 30, tzinfo=UTC)
    assert bounds(Window.MONTH, end, "America/St_Johns")[1] == datetime(2026, 12, 1, 3, 30, tzinfo=UTC)


def test_the_day_on_which_clocks_go_back_has_25_hours() -> None:
    start, end = bounds(Window.DAY, datetime(2026, 10, 25, 12, tzinfo=UTC), "Europe/Berlin")
    assert end - start == timedelta(hours=25)


def test_a_day_whose_midnight_is_skipped_begins_where_the_jump_ended() -> None:
    # Cairo's clocks jump from 24 April 2026, 00:00 to 01:00.
    start, end = bounds(Window.DAY, datetime(2026, 4, 24, 12, tzinfo=UTC), "Africa/Cairo")
    assert start.astimezone(ZoneInfo("Africa/Cairo")).hour == 1
    assert end - start == timedelta(hours=23)


def test_december_is_followed_by_january() -> None:
    _, end = bounds(Window.MONTH, datetime(2026, 12, 31, 23, 59, tzinfo=UTC), "UTC")
    assert end == datetime(2027, 1, 1, tzinfo=UTC)


def test_at_a_months_end_in_kathmandu_hour_day_and_month_end_together() -> None:
    # Nepal is at UTC+5:45: its midnight is 18:15 in UTC, and its hours begin at a quarter past.
    last = datetime(2026, 2, 28, 18, 14, 59, tzinfo=UTC)
    ends = {window: bounds(window, last, "Asia/Kathmandu")[1] for window in (Window.HOUR, Window.DAY, Window.MONTH)}
    assert set(ends.values()) == {datetime(2026, 2, 28, 18, 15, tzinfo=UTC)}
    starts = {window: bounds(window, last, "Asia/Kathmandu")[0] for window in ends}
    assert starts == {
        Window.HOUR: datetime(2026, 2, 28, 17, 15, tzinfo=UTC),
        Window.DAY: datetime(2026, 2, 27, 18, 15, tzinfo=UTC),
        Window.MONTH: datetime(2026, 1, 31, 18, 15, tzinfo=UTC),
    }


def test_at_a_months_end_in_newfoundland_the_clock_change_falls_into_the_next_months_first_day() -> None:
    # St John's: UTC-2:30 until Sunday, 1 November 2026, 02:00, then UTC-3:30.
    zone, last = "America/St_Johns", datetime(2026, 11, 1, 2, 29, 59, tzinfo=UTC)
    for window in (Window.HOUR, Window.DAY, Window.MONTH):
        assert bounds(window, last, zone)[1] == datetime(2026, 11, 1, 2, 30, tzinfo=UTC)
    start, end = bounds(Window.DAY, datetime(2026, 11, 1, 12, tzinfo=UTC), zone)
    assert (start, end) == (datetime(2026, 11, 1, 2, 30, tzinfo=UTC), datetime(2026, 11, 2, 3, 30, tzinfo=UTC))


def test_the_hour_that_happens_twice_has_two_windows() -> None:
    zone = "America/St_Johns"
    # 01:45 local, before and after the clock went back from 02:00 to 01:00 (04:30 in UTC).
    first = bounds(Window.HOUR, datetime(2026, 11, 1, 4, 15, tzinfo=UTC), zone)
    second = bounds(Window.HOUR, datetime(2026, 11, 1, 5, 15, tzinfo=UTC), zone)
    assert first == (datetime(2026, 11, 1, 3, 30, tzinfo=UTC), datetime(2026, 11, 1, 4, 30, tzinfo=UTC))
    assert second == (datetime(2026, 11, 1, 4, 30, tzinfo=UTC), datetime(2026, 11, 1, 5, 30, tzinfo=UTC))


def test_the_day_on_which_clocks_go_forward_has_23_hours() -> None:
    start, end = bounds(Window.DAY, datetime(2026, 3, 8, 12, tzinfo=UTC), "America/St_Johns")
    assert end - start == timedelta(hours=23)
    assert start == datetime(2026, 3, 8, 3, 30, tzinfo=UTC)


@pytest.mark.parametrize("window", list(Window))
@given(
    at=st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)),
    zone=st.sampled_from(ZONES),
)
@settings(deadline=None, max_examples=150)
def test_windows_hold_their_moment_and_follow_each_other_without_a_gap(window: Window, at: datetime, zone: str) -> None:
    start, end = bounds(window, at, zone)
    assert start <= at < end
    assert bounds(window, end, zone)[0] == end
    assert bounds(window, start, zone) == (start, end)
    assert bounds(window, end - timedelta(seconds=1), zone) == (start, end)


@pytest.mark.parametrize("window", list(Window))
@pytest.mark.parametrize("minutes", [45, 30, -15])
def test_a_moment_in_another_offset_has_the_windows_of_the_same_moment_in_utc(window: Window, minutes: int) -> None:
    for minute in range(0, 60, 5):
        at = datetime(2026, 11, 21, 18, minute, 30, tzinfo=UTC)
        there = at.astimezone(timezone(timedelta(hours=5, minutes=minutes)))
        for zone in ZONES:
            assert bounds(window, there, zone) == bounds(window, at, zone)
