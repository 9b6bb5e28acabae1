"""How long somebody in a queue will wait, from what waits, what is still coming, and how fast the slots are. Pure.

The queues are served as the workers serve them (`webapp.turns`): each has a share of the turns, and a turn that an empty queue
leaves goes to the next one. Here all of this flows evenly instead of job by job.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from webapp.services.pace import Pace
from webapp.turns import cycle, preferences

_FADES_S = 300.0
"""After so many seconds the last minutes count for a third of what is expected to come, and the last hour for a third of the
rest; then it is what came a day before at that hour. A rush that goes on was there a day before, a burst was not."""
_HOUR_S = 3600.0
_FIRST_STEP_S = 20.0
_STEP_GROWS = 1.25
_LITTLE = 1e-9


@dataclass(frozen=True, slots=True)
class Line:
    """What stands before the slots; highest queue first."""

    waiting: tuple[int, ...]
    """Jobs in each queue."""
    recent: tuple[float, ...]
    """Jobs that come per second, by the last minutes."""
    usual: tuple[float, ...]
    """The same by the last hour."""
    yesterday: tuple[tuple[float, ...], ...]
    """The same for each of the coming hours, the one that is running first, as it was a day before; empty: not known."""
    into_hour_s: float
    """Seconds since the running hour began."""
    starts_per_s: float
    """Jobs that all slots together begin in a second while there are enough of them."""


def line_of(pace: Pace, ends_per_slot_s: float, waiting: Sequence[int], slots: int, at_s: float) -> Line:
    """The line at the moment `at_s` (seconds since 1970) before so many slots."""
    return Line(tuple(waiting), pace.recent, pace.usual, pace.yesterday, at_s % _HOUR_S, slots * ends_per_slot_s)


def wait_s(line: Line, own: int, ahead: int) -> float:
    """Seconds until the job with `ahead` jobs before it in queue number `own` is started, all slots being taken now."""
    shares = _shares(len(line.waiting), line.starts_per_s)
    backlog = [float(count) for count in line.waiting]
    backlog[own] = math.inf  # Whatever is behind it: there is something to take there until it is gone.
    left, at_s, step_s = ahead + 1.0, 0.0, _FIRST_STEP_S
    while True:
        comes = _coming(line, at_s + step_s / 2)
        rest_s = step_s
        while rest_s > _LITTLE:
            served = _served(shares, backlog, comes)
            spell_s = min([rest_s, left / served[own], *_until_empty(backlog, served, comes)])
            left -= spell_s * served[own]
            at_s += spell_s
            rest_s -= spell_s
            if left <= _LITTLE:
                return at_s
            backlog = [_after(had, spell_s * (come - gone)) for had, come, gone in zip(backlog, comes, served, strict=True)]
        step_s *= _STEP_GROWS


def _coming(line: Line, in_s: float) -> list[float]:
    """Jobs per second that will come into each queue in so many seconds."""
    hour = int((line.into_hour_s + in_s) // _HOUR_S)
    later = line.yesterday[hour % len(line.yesterday)] if line.yesterday else line.usual
    fresh = math.exp(-in_s / _FADES_S)
    mixed = zip(line.recent, line.usual, later, strict=True)
    return [fresh * recent + (1 - fresh) * (fresh * usual + (1 - fresh) * then) for recent, usual, then in mixed]


def _after(had: float, change: float) -> float:
    found = had + change
    return found if found > _LITTLE else 0.0


def _until_empty(backlog: Sequence[float], served: Sequence[float], comes: Sequence[float]) -> list[float]:
    pairs = zip(backlog, served, comes, strict=True)
    return [had / (gone - come) for had, gone, come in pairs if 0 < had < math.inf and gone > come]


def _shares(queues: int, starts_per_s: float) -> list[float]:
    turns = Counter(cycle(queues))
    return [starts_per_s * turns[queue] / turns.total() for queue in range(queues)]


def _served(shares: Sequence[float], backlog: Sequence[float], comes: Sequence[float]) -> list[float]:
    """Jobs per second that are taken from each queue: of an empty one no more than come, and its turns go to others."""
    wanted = [math.inf if had else come for had, come in zip(backlog, comes, strict=True)]
    served = [min(share, want) for share, want in zip(shares, wanted, strict=True)]
    for queue, share in enumerate(shares):
        spare = share - min(share, wanted[queue])
        for other in preferences(queue, len(shares))[1:]:
            more = min(spare, wanted[other] - served[other])
            served[other] += more
            spare -= more
    return served


def taken_before(waiting: Sequence[int], own: int, ahead: int, turn: int) -> list[int]:
    """How many jobs of each queue are taken before the one with `ahead` jobs before it in queue number `own`, if nothing else
    comes. `turn` is the turn of the cycle that is next."""
    order = cycle(len(waiting))
    order = order[turn % len(order) :] + order[: turn % len(order)]
    left = list(waiting)
    left[own] = ahead + 1
    taken = [0] * len(left)
    while True:
        _skip(order, left, taken)
        for first in order:
            chosen = _chosen(first, left)
            left[chosen] -= 1
            if not left[own]:
                return taken
            taken[chosen] += 1


def _chosen(first: int, left: Sequence[int]) -> int:
    return next(queue for queue in preferences(first, len(left)) if left[queue])


def _skip(order: Sequence[int], left: list[int], taken: list[int]) -> None:
    """Whole cycles at once, as many as go by before a queue is empty."""
    each = Counter(_chosen(first, left) for first in order)
    cycles = min((left[queue] - 1) // turns for queue, turns in each.items())
    for queue, turns in each.items():
        left[queue] -= cycles * turns
        taken[queue] += cycles * turns
