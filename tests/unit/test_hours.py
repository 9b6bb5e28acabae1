"""Hours of the week, as operators write them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.contracts.hours import DAYS, Hours

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)
DEEPSEEK = "Mon-Fri 01:00-04:00, Mon-Fri 06:00-10:00"


def at(day: int, hour: int, minute: int = 0, second: int = 0) -> datetime:
    """A moment of the week that begins on Monday, 23 November 2026."""
    return MONDAY + timedelta(days=day, hours=hour, minutes=minute, seconds=second)


@pytest.mark.parametrize(
    ("text", "moment", "inside"),
    [
        (DEEPSEEK, at(0, 1), True),
        (DEEPSEEK, at(0, 0, 59, 59), False),
        (DEEPSEEK, at(4, 3, 59, 59), True),
        (DEEPSEEK, at(4, 4), False),
        (DEEPSEEK, at(5, 2), False),
        ("Sat-Mon 12:00-13:00", at(6, 12, 30), True),
        ("Sat-Mon 12:00-13:00", at(1, 12, 30), False),
        ("22:00-00:00", at(3, 23, 59, 59), True),
        ("22:00-00:00", at(4, 0), False),
        ("00:00-00:00", at(2, 0), True),
        ("sun 00:00-01:00", at(6, 0, 30), True),
    ],
)
def test_a_moment_is_inside_from_the_start_up_to_the_end(text: str, moment: datetime, inside: bool) -> None:
    assert Hours.parse(text).hold(moment) is inside


def test_a_moment_of_another_time_zone_is_taken_at_its_utc_hour() -> None:
    tokyo = timezone(timedelta(hours=9))
    assert Hours.parse("Mon 00:00-01:00").hold(datetime(2026, 11, 23, 9, 30, tzinfo=tokyo))
    assert not Hours.parse("Mon 09:00-10:00").hold(datetime(2026, 11, 23, 9, 30, tzinfo=tokyo))


def test_days_that_are_excepted_are_outside_all_day() -> None:
    hours = Hours.parse("00:00-00:00", frozenset({date(2026, 11, 24)}))
    assert hours.hold(at(0, 23, 59))
    assert not hours.hold(at(1, 0))
    assert not hours.hold(at(1, 23, 59, 59))
    assert hours.hold(at(2, 0))


@pytest.mark.parametrize(
    ("text", "moment", "over"),
    [
        (DEEPSEEK, at(0, 2, 17), at(0, 4)),
        (DEEPSEEK, at(0, 5), at(0, 5)),
        ("22:00-00:00, 00:00-06:00", at(0, 23), at(1, 6)),
        ("Mon 10:00-12:00, Mon 11:00-13:00, Mon 13:00-14:00", at(0, 10, 30), at(0, 14)),
        ("Mon-Wed 00:00-00:00", at(0, 1), at(3, 0)),
        ("", at(0, 1), at(0, 1)),
    ],
)
def test_they_are_over_at_the_first_moment_outside(text: str, moment: datetime, over: datetime) -> None:
    assert Hours.parse(text).over_at(moment) == over


def test_they_are_over_when_an_excepted_day_begins() -> None:
    assert Hours.parse("00:00-00:00", frozenset({date(2026, 11, 25)})).over_at(at(0, 9)) == at(2, 0)


def test_hours_that_never_end_are_no_reason_to_wait() -> None:
    assert Hours.parse("00:00-00:00").over_at(at(0, 9)) == at(0, 9)
    assert Hours.parse("Mon-Sun 00:00-12:00, 12:00-00:00").over_at(at(0, 9)) == at(0, 9)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("always", "is not a span of hours"),
        ("Mon 1:00-2:00", "is not a span of hours"),
        ("Mon 01:00-02:00 Tue 01:00-02:00", "is not a span of hours"),
        ("Mo 01:00-02:00", "is not a span of hours"),
        ("Mon-Xyz 01:00-02:00", "is no day"),
        ("25:00-26:00", "hour must be in"),
        ("10:00-09:00", "pass midnight"),
        ("10:00-10:00", "pass midnight"),
        ("٠١:00-02:00", "01|٠١"),
    ],
)
def test_what_is_wrong_is_said(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Hours.parse(text)


_TIMES = st.integers(0, 1439).map(lambda minute: f"{minute // 60:02}:{minute % 60:02}")
_SPANS = st.tuples(st.sampled_from(DAYS), st.sampled_from(DAYS), _TIMES, _TIMES).filter(
    lambda span: span[3] == "00:00" or span[2] < span[3]
)


@given(st.lists(_SPANS, max_size=4), st.integers(0, 7 * 1440))
def test_what_is_written_out_means_the_same(spans: list[tuple[str, str, str, str]], minute: int) -> None:
    hours = Hours.parse(", ".join(f"{first}-{last} {start}-{end}" for first, last, start, end in spans))
    moment = MONDAY + timedelta(minutes=minute)
    assert Hours.parse(str(hours)).hold(moment) is hours.hold(moment)
    over = hours.over_at(moment)
    assert over >= moment
    assert not hours.hold(over) or over == moment
