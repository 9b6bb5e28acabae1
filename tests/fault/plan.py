"""What is killed, and when: made up from the seed before anything starts, so that the same seed does the same."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

WORKERS = ("worker-1", "worker-2", "worker-3")
KILL, REDIS, DATABASE = "kill", "redis", "database"
_LAST = 0.92


@dataclass(frozen=True, slots=True, order=True)
class Event:
    """Something that breaks `at_s` seconds after the start; a server comes back after `away_s`."""

    at_s: float
    what: str
    process: str = ""
    away_s: float = 0.0


def make(seed: int, seconds: float) -> list[Event]:
    """Workers die every few seconds, the web server and the clock now and then, Redis twice, the database once."""
    chance = random.Random(seed)
    events = []
    at_s = chance.uniform(2, 5)
    while at_s < seconds * _LAST:
        events.append(Event(at_s, KILL, chance.choice(WORKERS)))
        # Now and then two at once.
        at_s += 0.1 if chance.random() < 0.15 else 1 + chance.expovariate(1 / 2.5)
    events += [Event(chance.uniform(0.1, _LAST) * seconds, KILL, "web") for _ in range(3)]
    events += [Event(chance.uniform(0.1, _LAST) * seconds, KILL, "cron") for _ in range(2)]
    events += [
        Event(chance.uniform(*part) * seconds, REDIS, away_s=chance.uniform(0.5, 4)) for part in ((0.1, 0.4), (0.6, 0.8))
    ]
    events.append(Event(chance.uniform(0.45, 0.55) * seconds, DATABASE, away_s=chance.uniform(0.2, 2)))
    return sorted(events)


def tell(events: list[Event]) -> dict[str, int]:
    """How often each thing breaks."""
    kinds = Counter(event.process.partition("-")[0] if event.what == KILL else event.what for event in events)
    return dict(kinds)
