"""Where a limit's window begins and ends, in the organization's time zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from webapp.contracts.limits import Window


def bounds(window: Window, at: datetime, time_zone: str) -> tuple[datetime, datetime]:
    """Start and end, as aware UTC datetimes, of the window that `at` lies in. The end is the start of the next one.

    Hours are counted in UTC offset by the zone's minutes, so that the hour in which clocks go back has two windows; days and
    months begin at local midnight, and where that midnight is skipped by daylight saving, at the first moment after it.
    """
    at = at.astimezone(UTC)
    return _bounds(window, at.replace(minute=at.minute // 15 * 15, second=0, microsecond=0), time_zone)


# Every zone's offset is a whole number of quarter hours, so all moments of one quarter hour have the same windows.
@lru_cache(maxsize=256)
def _bounds(window: Window, at: datetime, time_zone: str) -> tuple[datetime, datetime]:
    zone = ZoneInfo(time_zone)
    local = at.astimezone(zone)
    if window is Window.HOUR:
        start = at - timedelta(minutes=local.minute)
        return start, start + timedelta(hours=1)
    first = local.replace(hour=0, minute=0)
    if window is Window.DAY:
        following = first.date() + timedelta(days=1)
        return _midnight(first.year, first.month, first.day, zone), _midnight(
            following.year, following.month, following.day, zone
        )
    year, month = (first.year + 1, 1) if first.month == 12 else (first.year, first.month + 1)
    return _midnight(first.year, first.month, 1, zone), _midnight(year, month, 1, zone)


def _midnight(year: int, month: int, day: int, zone: ZoneInfo) -> datetime:
    """The first moment of a local day in UTC. Of a midnight that happens twice, the first is meant (fold=0)."""
    moment = datetime(year, month, day, tzinfo=zone).astimezone(UTC)
    back = moment.astimezone(zone)
    if back.day != day or back.hour != 0:
        # Local midnight does not exist: the clock jumped over it. The day begins where the jump ended.
        while moment.astimezone(zone).date() == datetime(year, month, day).date():  # noqa: DTZ001
            moment -= timedelta(minutes=15)
        moment += timedelta(minutes=15)
    return moment
