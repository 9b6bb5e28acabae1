"""Two days of the queues in virtual time: people come and go by the hour, slots carry their jobs, and some of those who have to
wait are told how long, by the very functions that tell it in the product."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from webapp.queues import HIGH, LOW, NORMAL, QUEUES
from webapp.services import pace
from webapp.services.pace import Spell
from webapp.services.wait_forecast import line_of, wait_s
from webapp.turns import cycle, preferences

DAY_S = 24 * 3600.0
SLOTS = 16
CHAT_S, SEND_S = 12.0, 0.5
SPREAD = 0.8
"""Of the logarithm: one job in forty takes more than three times as long as the mean."""
REPLIED = 0.4
"""How many of the answers are sent as a message, by a job of its own."""
ASKED = 16
"""Every so many of those who have to wait are asked, to save time."""

PREFERENCES = [[QUEUES[queue] for queue in preferences(first, len(QUEUES))] for first in range(len(QUEUES))]


@dataclass
class Job:
    queue: str
    task: str
    came: float
    told: float | None = None


@dataclass
class Told:
    """What somebody was told, and what became of it."""

    queue: str
    came: float
    said_s: float
    was_s: float


@dataclass
class Counted:
    """A minute or an hour that is being written, as the worker's script writes it."""

    waited: dict[str, int]
    started: dict[tuple[str, str], int] = field(default_factory=dict)
    ended: int = 0
    busy_s: float = 0.0


class Days:
    """A first day, which is yesterday for the second one; on the second people are asked. All of it follows from the seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.queues: dict[str, deque[Job]] = {name: deque() for name in QUEUES}
        self.running: list[tuple[float, int, Job]] = []
        self.minutes: dict[int, Counted] = {}
        self.hours: dict[int, Counted] = {}
        self.told: list[Told] = []
        self.order = cycle(len(QUEUES))
        self.turn = self.jobs = self.waited = self.longest = 0
        self.looked = 0.0
        self.rush = [(self.random.uniform(8.5, 10), self.random.uniform(0.5, 0.9)), (self.random.uniform(14, 16), 0.6)]

    # -- who comes -------------------------------------------------------------------------------------------------
    def _shape(self) -> Callable[[str, float], float]:
        """Requests per second of a queue at a time of the day: quiet nights, two rush hours of more than can be served, at
        about the same time each day, and bursts at moments that nobody knows before."""
        chosen = self.random
        rush = [(hour + chosen.gauss(0, 0.3), much * chosen.uniform(0.8, 1.2)) for hour, much in self.rush]
        bursts = [
            (3600 * chosen.uniform(1, 23), chosen.uniform(120, 600), chosen.choice(QUEUES), chosen.uniform(0.5, 1.5))
            for _ in range(8)
        ]
        share = {HIGH: 0.25, NORMAL: 0.5, LOW: 0.25}

        def rate(queue: str, at: float) -> float:
            hour = at / 3600
            load = 0.4 - 0.3 * math.cos(2 * math.pi * (hour - 2) / 24)
            load = share[queue] * (load + sum(much * math.exp(-(((hour - middle) / 0.7) ** 2)) for middle, much in rush))
            load += sum(much for begins, lasts_s, name, much in bursts if name == queue and begins <= at < begins + lasts_s)
            return load * SLOTS / CHAT_S

        return rate

    def _arrivals(self) -> deque[tuple[float, str]]:
        found = []
        for day in range(2):
            rate = self._shape()
            for queue in QUEUES:
                for begins in range(0, int(DAY_S), 60):
                    for _ in range(self._poisson(60 * rate(queue, begins))):
                        found.append((day * DAY_S + begins + self.random.uniform(0, 60), queue))
        return deque(sorted(found))

    def _poisson(self, mean: float) -> int:
        count, at = 0, self.random.expovariate(1.0)
        while at < mean:
            count, at = count + 1, at + self.random.expovariate(1.0)
        return count

    # -- what happens ----------------------------------------------------------------------------------------------
    def run(self) -> None:
        arrivals = self._arrivals()
        while arrivals or self.running:
            if self.running and (not arrivals or self.running[0][0] <= arrivals[0][0]):
                at, _, job = heapq.heappop(self.running)
                self._enter(at, len(self.running) + 1, ended=1)
                if job.task == "execute" and self.random.random() < REPLIED:
                    self.queues[NORMAL].append(Job(NORMAL, "deliver", at))
            else:
                at, queue = arrivals.popleft()
                self._enter(at, len(self.running))
                self._arrive(Job(queue, "execute", at))
            self._take(at)

    def _arrive(self, job: Job) -> None:
        if len(self.running) == SLOTS and job.came > DAY_S:
            self.waited += 1
            if self.waited % ASKED == 0:
                job.told = self._estimate(job)
        self.queues[job.queue].append(job)
        self.longest = max(self.longest, len(self.queues[job.queue]))

    def _take(self, at: float) -> None:
        while len(self.running) < SLOTS and any(self.queues.values()):
            name = next(name for name in PREFERENCES[self.order[self.turn]] if self.queues[name])
            self.turn = (self.turn + 1) % len(self.order)
            # The first look of a minute comes before the first move of it.
            self._enter(at, len(self.running), started=(name, self.queues[name][0].task))
            job = self.queues[name].popleft()
            if job.told is not None:
                self.told.append(Told(name, job.came, job.told, at - job.came))
            mean = CHAT_S if job.task == "execute" else SEND_S
            self.jobs += 1
            ends = at + self.random.lognormvariate(math.log(mean) - SPREAD**2 / 2, SPREAD)
            heapq.heappush(self.running, (ends, self.jobs, job))

    def _enter(self, at: float, in_flight: int, *, ended: int = 0, started: tuple[str, str] | None = None) -> None:
        for spells, length_s in ((self.minutes, pace.MINUTE_S), (self.hours, pace.HOUR_S)):
            number = int(at // length_s)
            if (counted := spells.get(number)) is None:
                counted = spells[number] = Counted({name: len(jobs) for name, jobs in self.queues.items()})
            counted.ended += ended
            counted.busy_s += in_flight * (at - self.looked)
            if started:
                counted.started[started] = counted.started.get(started, 0) + 1
        self.looked = at

    # -- what is told ----------------------------------------------------------------------------------------------
    def _estimate(self, job: Job) -> float:
        minutes = [read(number, self.minutes[number]) for number, _ in pace.minute_keys(job.came) if number in self.minutes]
        hours = [read(number, self.hours[number]) for number, _ in pace.hour_keys(job.came) if number in self.hours]
        waiting = tuple(len(self.queues[name]) for name in QUEUES)
        found = pace.measure(minutes, hours, waiting, job.came)
        assert found.ends_per_slot_s is not None
        line = line_of(found, found.ends_per_slot_s, waiting, SLOTS, job.came)
        own = QUEUES.index(job.queue)
        return wait_s(line, own, waiting[own])


def read(number: int, counted: Counted) -> Spell:
    """A spell as it would be read from Redis."""
    return Spell(number, counted.started, counted.waited, counted.ended, counted.busy_s)
