"""Hours of the week, as operators write them: `Mon-Fri 01:00-04:00, Mon-Fri 06:00-10:00`, always in UTC."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_SPAN = re.compile(r"(?:(?P<from>[A-Za-z]{3})(?:-(?P<to>[A-Za-z]{3}))?\s+)?(?P<start>\d\d:\d\d)-(?P<end>\d\d:\d\d)\Z")


@dataclass(frozen=True, slots=True)
class Span:
    """From `start` up to `end` on these days (0 is Monday). An end of 00:00 is midnight, the end of the day."""

    days: frozenset[int]
    start: time
    end: time

    def __post_init__(self) -> None:
        if self.end != time(0) and self.end <= self.start:
            raise ValueError("the hours end before they begin: write two spans for hours that pass midnight")

    def holds(self, at: datetime) -> bool:
        """Whether `at` (UTC) is inside."""
        return at.weekday() in self.days and self.start <= at.time() and (self.end == time(0) or at.time() < self.end)

    def ends(self, at: datetime) -> datetime:
        """When the span that holds `at` is over."""
        day = at.date() + timedelta(days=1) if self.end == time(0) else at.date()
        return datetime.combine(day, self.end, UTC)


@dataclass(frozen=True, slots=True)
class Hours:
    """Spans of the week in UTC, but for some days of the calendar."""

    spans: tuple[Span, ...] = ()
    except_on: frozenset[date] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.spans)

    def hold(self, at: datetime) -> bool:
        """Whether `at` (aware) is inside one of the spans."""
        at = at.astimezone(UTC)
        return at.date() not in self.except_on and any(span.holds(at) for span in self.spans)

    def over_at(self, at: datetime) -> datetime:
        """The first moment from `at` on that is outside; `at` itself if it is, or if these hours never end."""
        moment = at.astimezone(UTC)
        for _ in range(20 * len(self.spans)):
            if not self.hold(moment):
                break
            moment = max(span.ends(moment) for span in self.spans if span.holds(moment))
        else:
            return at.astimezone(UTC)
        return moment

    @classmethod
    def parse(cls, text: str, except_on: frozenset[date] = frozenset()) -> Hours:
        """From `Mon-Fri 01:00-04:00, Sat 06:00-10:00, 22:00-00:00`; '' gives none. `ValueError` says what is wrong."""
        spans = tuple(_span(part.strip()) for part in text.split(",") if part.strip())
        return cls(spans, except_on)

    def __str__(self) -> str:
        return ", ".join(_words(span) for span in self.spans)


def _span(text: str) -> Span:
    found = _SPAN.match(text)
    if found is None:
        raise ValueError(f"{text!r} is not a span of hours such as `Mon-Fri 01:00-04:00`")
    first, last = (_day(found[name]) if found[name] else None for name in ("from", "to"))
    if first is None:
        days = frozenset(range(7))
    elif last is None:
        days = frozenset({first})
    else:
        days = frozenset((first + step) % 7 for step in range((last - first) % 7 + 1))
    try:
        return Span(days, time.fromisoformat(found["start"]), time.fromisoformat(found["end"]))
    except ValueError as exc:
        raise ValueError(f"{text!r}: {exc}") from exc


def _day(text: str) -> int:
    name = text.capitalize()
    if name not in DAYS:
        raise ValueError(f"{text!r} is no day: write {', '.join(DAYS)}")
    return DAYS.index(name)


def _words(span: Span) -> str:
    hours = f"{span.start:%H:%M}-{span.end:%H:%M}"
    if len(span.days) == 7:
        return hours
    days = sorted(span.days)
    if len(days) > 1 and days == list(range(days[0], days[-1] + 1)):
        return f"{DAYS[days[0]]}-{DAYS[days[-1]]} {hours}"
    return ", ".join(f"{DAYS[day]} {hours}" for day in days)
