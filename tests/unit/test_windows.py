"""Where windows begin and end, in time zones that make it hard."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
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
