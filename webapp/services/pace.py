"""How fast the queues are served and filled, worked out from what the workers enter minute by minute (`webapp.turns.MINUTES`).

Pure: whoever has read the spells from Redis gets the figures from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from webapp.queues import QUEUES
from webapp.turns import HOURS, MINUTES, TASKS

MINUTE_S, HOUR_S = 60, 3600
RECENT_MIN = 5
"""Minutes that are the present, beside the one that is running."""
USUAL_MIN = 60
"""Minutes that say what is usual."""
DAY_H = 24
_WINDOWS_MIN = (RECENT_MIN, 15, USUAL_MIN)
_ENOUGH_ENDED = 20


@dataclass(frozen=True, slots=True)
class Spell:
    """What happened in one minute or hour, over all workers. `number` counts them since 1970."""

    number: int
    started: Mapping[tuple[str, str], int]
    """Jobs started, by (queue, task)."""
    waited: Mapping[str, int]
    """Jobs that waited in each queue when a worker first looked in it."""
    ended: int
    busy_s: float
    """Seconds in which a slot carried a job, of all slots together."""

    def started_in(self, queue: str, task: str = "") -> int:
        """Jobs of a queue that were started, of one task or of all."""
        return sum(count for (name, kind), count in self.started.items() if name == queue and task in ("", kind))


@dataclass(frozen=True, slots=True)
class Pace:
    """What is known of the pace. Arrivals are jobs that come into each queue per second, highest queue first."""

    ends_per_slot_s: float | None
    """How many jobs one slot ends in a second of work; None where that is not known yet."""
    recent: tuple[float, ...]
    """Arrivals, by the last minutes."""
    usual: tuple[float, ...]
    """Arrivals, by the last hour."""
    yesterday: tuple[tuple[float, ...], ...]
    """Arrivals in each of the coming hours as they were a day before, the running hour first; empty where it is not known."""


def minute_keys(at_s: float, minutes: int = USUAL_MIN) -> list[tuple[int, str]]:
    """(number, name in Redis) of the running minute and of those before it, latest first. `at_s` is seconds since 1970."""
    current = int(at_s // MINUTE_S)
    return [(number, f"{MINUTES}{number}") for number in range(current, current - minutes - 1, -1)]


def hour_keys(at_s: float) -> list[tuple[int, str]]:
    """(number, name in Redis) of the running hour and of the day before it, latest first."""
    current = int(at_s // HOUR_S)
    return [(number, f"{HOURS}{number}") for number in range(current, current - DAY_H - 1, -1)]


def read(number: int, fields: Mapping[bytes, bytes]) -> Spell | None:
    """A spell from its hash; None for one in which nothing happened. What is no field of ours is passed over."""
    started: dict[tuple[str, str], int] = {}
    waited: dict[str, int] = {}
    ended = busy_ms = 0
    for raw, value in fields.items():
        match raw.decode(errors="replace").split(":"):
            case ["s", queue, task] if queue in QUEUES and task in TASKS:
                started[queue, task] = int(value)
            case ["d", queue] if queue in QUEUES:
                waited[queue] = int(value)
            case ["ended"]:
                ended = int(value)
            case ["busy_ms"]:
                busy_ms = int(value)
    return Spell(number, started, waited, ended, busy_ms / 1000) if fields else None


def read_all(keys: Iterable[tuple[int, str]], answers: Iterable[Mapping[bytes, bytes]]) -> list[Spell]:
    """The spells in which something happened."""
    read_ones = (read(number, fields) for (number, _), fields in zip(keys, answers, strict=True))
    return [spell for spell in read_ones if spell is not None]


def measure(minutes: Iterable[Spell], hours: Iterable[Spell], waiting: Sequence[int], at_s: float) -> Pace:
    """The pace at the moment `at_s`. `waiting` is how many jobs wait now in each queue, highest first; spells in any order."""
    known = sorted(minutes, key=lambda minute: minute.number)
    return Pace(
        _ends_per_slot_s(known, int(at_s // MINUTE_S)),
        _arrivals(known, waiting, at_s, RECENT_MIN),
        _arrivals(known, waiting, at_s, USUAL_MIN),
        _yesterday({hour.number: hour for hour in hours}, int(at_s // HOUR_S)),
    )


def _yesterday(hours: Mapping[int, Spell], current: int) -> tuple[tuple[float, ...], ...]:
    """What came into each queue in the hours of a day ago: what was started, and what then waited beyond what had waited.

    An hour in which nothing happened on a day that is on record is one in which nothing came. Each is mixed with its
    neighbours: people are not punctual.
    """
    first = current - DAY_H
    if min(hours, default=current) > first:
        return ()
    found = []
    for number in range(first, current):
        hour, following = hours.get(number), hours.get(number + 1)
        started = _started([hour] if hour else [])
        waited, left = (each.waited if each else {} for each in (hour, following))
        found.append(tuple(max(0, started[q] + left.get(q, 0) - waited.get(q, 0)) / HOUR_S for q in QUEUES))
    around = zip([found[0], *found[:-1]], found, [*found[1:], found[-1]], strict=True)
    return tuple(tuple((a + 2 * b + c) / 4 for a, b, c in zip(*three, strict=True)) for three in around)


def _ends_per_slot_s(known: Sequence[Spell], current: int) -> float | None:
    """Ends per second of work, of the shortest window that has enough of them: jobs grow longer and shorter over the day."""
    found: float | None = None
    for window in _WINDOWS_MIN:
        inside = [minute for minute in known if minute.number >= current - window]
        ended, busy_s = sum(minute.ended for minute in inside), sum(minute.busy_s for minute in inside)
        if ended and busy_s > 0:
            found = ended / busy_s
        if ended >= _ENOUGH_ENDED:
            break
    return found


def _arrivals(known: Sequence[Spell], waiting: Sequence[int], at_s: float, window: int) -> tuple[float, ...]:
    """Jobs per second that came into each queue: what was started, and what waits now beyond what waited then.

    Where nothing happened in the first minutes of the window nothing came in them either, unless these are the first minutes
    that are on record at all.
    """
    first = int(at_s // MINUTE_S) - window
    inside = [minute for minute in known if minute.number >= first]
    if not inside:
        return (0.0,) * len(waiting)
    span_s = max(1.0, at_s - MINUTE_S * max(first, known[0].number))
    started, came = _started(inside), []
    for queue, now_waiting in zip(QUEUES, waiting, strict=True):
        # A minute whose workers serve other queues does not say what waited in this one.
        waited = next((minute.waited[queue] for minute in inside if queue in minute.waited), now_waiting)
        came.append(max(0, started[queue] + now_waiting - waited) / span_s)
    return tuple(came)


def _started(spells: Iterable[Spell]) -> dict[str, int]:
    """Jobs started in all of them, by queue."""
    found = dict.fromkeys(QUEUES, 0)
    for spell in spells:
        for (queue, _), count in spell.started.items():
            found[queue] += count
    return found
