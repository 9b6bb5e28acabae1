"""How many are before a request in the queue, and how long it will probably wait.

Costs one statement on the primary key and one round trip to Redis, whatever waits: what is the same for everybody is kept for a
second in this process.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, cast

import redis
from flask import current_app
from redis.client import Pipeline
from rq.suspension import WORKERS_SUSPENDED
from sqlalchemy import select

from webapp import queues
from webapp.contracts.errors import NotFound
from webapp.extensions import now, queue_redis, reading
from webapp.models import Request, RequestStatus
from webapp.queues import QUEUES
from webapp.services import pace, workers
from webapp.services.pace import Pace
from webapp.services.wait_forecast import line_of, taken_before, wait_s
from webapp.services.workers import WorkerSign
from webapp.turns import EXECUTE, LOADS, SIGNS, turn_key

FRESH_S = 1.0
"""Seconds for which what was read of the queues is good enough."""
_COUNTED = 500
"""Jobs at the front of a queue that are looked at one by one for which of them are requests; behind them the share counts."""
_SAMPLE = 50

_EXTENSION = "switchhook.waiting"

_PLACE = """
-- KEYS: queue, its intermediate queue; ARGV: job, prefix of requests' jobs, how many are looked at
-- {jobs before it (-1: on its way into a worker, -2: not there), requests among them}
local place = redis.call('LPOS', KEYS[1], ARGV[1])
if not place then
  if redis.call('LPOS', KEYS[2], ARGV[1]) then return {-1, 0} end
  place = -2
end
local most, jobs = tonumber(ARGV[3]), place
if place == -2 then jobs = redis.call('LLEN', KEYS[1]) end
local looked, requests = math.min(jobs, most), 0
if looked > 0 then
  for _, id in ipairs(redis.call('LRANGE', KEYS[1], 0, looked - 1)) do
    if string.sub(id, 1, #ARGV[2]) == ARGV[2] then requests = requests + 1 end
  end
  requests = math.floor(requests * jobs / looked + 0.5)
end
return {place, requests}
"""


class Reason(StrEnum):
    """Why there is no number of seconds; empty where there is one."""

    NONE = ""
    STARTED = "started"
    """It does not wait any more."""
    SCHEDULED = "scheduled"
    """It is not to begin before a moment that is known."""
    NO_WORKER = "no_worker"
    SUSPENDED = "suspended"
    """The workers were told to take nothing."""
    NO_PACE = "no_pace"
    """All slots are taken and no job has ended yet: nobody knows how long one takes."""
    QUEUE_AWAY = "queue_away"


_WORDS = {
    Reason.NO_WORKER: "nobody is at work just now",
    Reason.SUSPENDED: "the work is paused",
    Reason.NO_PACE: "nobody knows yet for how long",
}


@dataclass(frozen=True, slots=True)
class Estimate:
    """What can be said of a wait. `position` is how many requests are taken before it, None where that is not known; `seconds`
    is None where `reason` says why."""

    position: int | None
    seconds: float | None
    reason: Reason = Reason.NONE

    @property
    def words(self) -> str:
        """For people, such as '3 ahead of you, about 20 seconds'; '' where there is nothing to tell."""
        parts = []
        if self.position is not None:
            parts.append(f"{self.position:,} ahead of you" if self.position else "You are next")
        if self.seconds is not None:
            parts.append(duration(self.seconds))
        elif self.reason in _WORDS:
            parts.append(_WORDS[self.reason])
        text = ", ".join(parts)
        return text[:1].upper() + text[1:]


def duration(seconds: float) -> str:
    """A forecast in words that promise no more than it can: 'a moment', 'about 20 seconds', 'about 2 minutes'."""
    if seconds < 3:
        return "a moment"
    if seconds < 10:
        return "a few seconds"
    if seconds < 50:
        return f"about {round(seconds / 10) * 10} seconds"
    for below_s, unit_s, unit in ((3300, 60, "minute"), (84_600, 3600, "hour")):
        if seconds < below_s:
            count = max(1, round(seconds / unit_s))
            one = "an hour" if unit == "hour" else "a minute"
            return f"about {one}" if count == 1 else f"about {count} {unit}s"
    return "more than a day"


@dataclass(frozen=True, slots=True)
class _Look:
    """The queues as they were a moment ago; lists are by queue, highest first."""

    read_at: float
    waiting: tuple[int, ...]
    requests_share: tuple[float, ...]
    turn: int
    suspended: bool
    workers: tuple[WorkerSign, ...]
    pace: Pace
    at: datetime


def position(request_id: uuid.UUID) -> int | None:
    """How many waiting requests will be taken before this one, if nothing else comes; None if that is not known, or it does not
    wait. `NotFound` if there is no such request."""
    return estimate(request_id).position


def estimate(request_id: uuid.UUID, person_id: uuid.UUID | None = None) -> Estimate:
    """The wait of one request. `NotFound` if there is none, or it is not that person's."""
    with reading() as connection:
        row = connection.execute(_rows([request_id])).first()
    if row is None or (person_id is not None and row.person_id != person_id):
        raise NotFound("There is no such request.")
    return _estimates([row])[request_id]


def estimates(request_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, Estimate]:
    """The waits of several requests, by id, for the same two questions to database and Redis; those that are not there are left
    out. Whose they are is the caller's business."""
    if not request_ids:
        return {}
    with reading() as connection:
        rows = connection.execute(_rows(request_ids)).all()
    return _estimates(rows)


def _rows(request_ids: Sequence[uuid.UUID]) -> Any:
    return select(Request.id, Request.person_id, Request.status, Request.queue, Request.not_before).where(
        Request.id.in_(request_ids)
    )


def _estimates(rows: Iterable[Any]) -> dict[uuid.UUID, Estimate]:
    found: dict[uuid.UUID, Estimate] = {}
    asked = []
    for row in rows:
        if row.status != RequestStatus.QUEUED:
            found[row.id] = Estimate(None, None, Reason.STARTED)
        elif row.not_before is not None and row.not_before > now():
            found[row.id] = Estimate(None, None, Reason.SCHEDULED)
        else:
            asked.append(row)
    if asked:
        try:
            look, places = _look(asked)
        except redis.RedisError:
            return found | {row.id: Estimate(None, None, Reason.QUEUE_AWAY) for row in asked}
        found |= {row.id: _wait(look, QUEUES.index(row.queue), *place) for row, place in zip(asked, places, strict=True)}
    return found


def _look(rows: Sequence[Any]) -> tuple[_Look, list[tuple[int, int]]]:
    """The queues, and for each row (jobs before it, requests among them), in one round trip."""
    client = queue_redis()
    kept = cast(_Look | None, current_app.extensions.get(_EXTENSION))
    fresh = kept is not None and time.monotonic() - kept.read_at < FRESH_S
    with client.pipeline(transaction=False) as pipe:
        for row in rows:
            queue, job = queues.queue(row.queue, client), queues.job_id(queues.EXECUTE, str(row.id))
            pipe.eval(_PLACE, 2, queue.key, queue.intermediate_queue_key, job, f"{EXECUTE}-", _COUNTED)
        if not fresh:
            at_s = time.time()
            _ask(pipe, client, at_s)
        answers = pipe.execute()
    places = [(int(jobs), int(requests)) for jobs, requests in answers[: len(rows)]]
    if fresh and kept is not None:
        return kept, places
    look = current_app.extensions[_EXTENSION] = _read(answers[len(rows) :], at_s)
    return look, places


def _ask(pipe: Pipeline, client: redis.Redis, at_s: float) -> None:
    for name in QUEUES:
        key = queues.queue(name, client).key
        pipe.llen(key)
        pipe.lrange(key, 0, _SAMPLE - 1)
    pipe.get(turn_key(QUEUES))
    pipe.exists(WORKERS_SUSPENDED)
    pipe.hgetall(SIGNS)
    pipe.hgetall(LOADS)
    for _, key in (*pace.minute_keys(at_s), *pace.hour_keys(at_s)):
        pipe.hgetall(key)


def _read(answers: Sequence[Any], at_s: float) -> _Look:
    each = 2 * len(QUEUES)
    waiting = tuple(int(count) for count in answers[0:each:2])
    shares = tuple(_share(sample) for sample in answers[1:each:2])
    turn, suspended, signs, loads = answers[each : each + 4]
    minutes, hours = pace.minute_keys(at_s), pace.hour_keys(at_s)
    first = each + 4
    by_minute = pace.read_all(minutes, answers[first : first + len(minutes)])
    by_hour = pace.read_all(hours, answers[first + len(minutes) :])
    at = now()
    return _Look(
        time.monotonic(),
        waiting,
        shares,
        int(turn or 0),
        bool(suspended),
        tuple(workers.read_signs(signs, loads, at)),
        pace.measure(by_minute, by_hour, waiting, at_s),
        at,
    )


def _share(sample: Sequence[bytes]) -> float:
    """How many of the jobs at the front of a queue are requests (0-1)."""
    return sum(job.startswith(f"{EXECUTE}-".encode()) for job in sample) / len(sample) if sample else 1.0


def _wait(look: _Look, own: int, jobs: int, requests: int) -> Estimate:
    """What is to be said of the job in queue number `own` with so many jobs before it, and so many requests among them."""
    if jobs == -1:
        return Estimate(0, 0.0)
    serving = workers.serving(look.workers, QUEUES[own])
    served = {name for sign in serving for name in sign.queues}
    # Queues that other workers serve are not in the way; with no worker at all they will be.
    waiting = [count if name in served or not served else 0 for name, count in zip(QUEUES, look.waiting, strict=True)]
    # One that Redis has lost, or does not have yet, is put behind the others by the sweep.
    ahead = waiting[own] if jobs == -2 else jobs
    before = taken_before(waiting, own, ahead, look.turn)
    others = sum(count * share for q, (count, share) in enumerate(zip(before, look.requests_share, strict=True)) if q != own)
    place = requests + round(others)
    if not serving:
        return Estimate(place, None, Reason.NO_WORKER)
    if look.suspended:
        return Estimate(place, None, Reason.SUSPENDED)
    slots, in_flight = sum(sign.slots for sign in serving), sum(sign.in_flight for sign in serving)
    if slots - in_flight > sum(before):
        return Estimate(place, 0.0)
    if look.pace.ends_per_slot_s is None:
        return Estimate(place, None, Reason.NO_PACE)
    line = line_of(look.pace, look.pace.ends_per_slot_s, waiting, slots, look.at.timestamp())
    comes = [rate if name in served else 0.0 for name, rate in zip(QUEUES, line.recent, strict=True)]
    return Estimate(place, wait_s(replace(line, recent=tuple(comes)), own, ahead))
