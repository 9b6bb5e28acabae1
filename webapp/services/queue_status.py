"""How the queues are: what waits in Redis and in the database, what runs, who works, and at what pace. For administrators.

Four statements and at most two round trips to Redis, whatever waits; lists have an end.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import redis
from rq.job import Job
from rq.suspension import WORKERS_SUSPENDED
from sqlalchemy import Connection, and_, case, func, select

from webapp import queues
from webapp.extensions import now, queue_redis, reading
from webapp.models import DeadLetter, LetterState, Person, Request, RequestStatus, unfinished
from webapp.queues import QUEUES
from webapp.services import pace, workers
from webapp.services.pace import Spell
from webapp.services.workers import WorkerSign
from webapp.turns import DELIVER, EXECUTE, LOADS, SIGNS

MINUTES = 30
"""How many minutes back the pace is told."""
RUNNING_MAX = 50
NEXT_MAX = 10
"""Waiting requests of each queue that are told one by one."""
LETTERS_MAX = 1000
"""Dead letters are counted up to here."""


@dataclass(frozen=True, slots=True)
class QueueLine:
    """One queue. `in_redis` counts jobs, sends among them, and is None while Redis is away; `in_database` counts requests that
    wait and may begin now. They differ by the sends, by what was cancelled while it waited, and for a moment by what is on its
    way from one into the other."""

    name: str
    in_redis: int | None
    in_database: int
    oldest_s: float | None
    """How long the oldest of these requests has waited; None if there is none."""


@dataclass(frozen=True, slots=True)
class RequestLine:
    """One request that waits or runs."""

    id: uuid.UUID
    person_id: uuid.UUID
    person: str
    operation: str
    channel: str
    queue: str
    priority: int
    created_at: datetime
    started_at: datetime | None
    provider: str | None
    """None until one was chosen and told."""
    cancel_asked: bool
    worker: str = ""


@dataclass(frozen=True, slots=True)
class MinuteLine:
    """What was started in one minute: requests by queue, and sends of all queues together."""

    at: datetime
    requests: Mapping[str, int]
    deliveries: int


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """All of it, as it was at `at`."""

    at: datetime
    redis: bool
    suspended: bool
    queues: tuple[QueueLine, ...]
    running: tuple[RequestLine, ...]
    running_total: int
    waiting: tuple[RequestLine, ...]
    """The next ones of each queue, highest queue first, in the order in which each queue gives them away."""
    workers: tuple[WorkerSign, ...]
    minutes: tuple[MinuteLine, ...]
    """Oldest first; the last one is still running."""
    scheduled: int
    """Requests that may not begin yet: they wait for cheaper hours, or to be tried again."""
    scheduled_next_at: datetime | None
    dead_letters: int
    """Requests that were set aside and wait for a decision; `LETTERS_MAX` stands for that many or more."""

    @property
    def slots(self) -> int:
        return sum(worker.slots for worker in self.workers if worker.alive)

    @property
    def in_flight(self) -> int:
        return sum(worker.in_flight for worker in self.workers if worker.alive)

    def as_dict(self) -> dict[str, Any]:
        """For programs: plain names and values, moments and ids as they are."""
        return asdict(self) | {"slots": self.slots, "in_flight": self.in_flight}


@dataclass(frozen=True, slots=True)
class _Seen:
    """What Redis says."""

    depths: tuple[int, ...]
    next_ids: tuple[uuid.UUID, ...]
    suspended: bool
    workers: tuple[WorkerSign, ...]
    minutes: Mapping[int, Spell]


def status() -> QueueStatus:
    """How the queues are now. While Redis is away, what only the database knows."""
    at, at_s = now(), time.time()
    try:
        seen = _see(at, at_s)
    except redis.RedisError:
        seen = None
    with reading() as connection:
        counts = _counts(connection, at)
        running = _lines(connection, _running())
        waiting = _lines(connection, _waiting(seen.next_ids if seen else None, at))
        letters = connection.execute(_open_letters).scalar_one()
    if seen:
        order = {request_id: place for place, request_id in enumerate(seen.next_ids)}
        waiting.sort(key=lambda line: order[line.id])
    later = [row for row in counts if row.status == RequestStatus.QUEUED and row.later]
    return QueueStatus(
        at=at,
        redis=seen is not None,
        suspended=seen is not None and seen.suspended,
        queues=tuple(_queue_lines(counts, seen, at)),
        running=tuple(_with_workers(running) if seen else running),
        running_total=sum(row.requests for row in counts if row.status == RequestStatus.PROCESSING),
        waiting=tuple(waiting),
        workers=seen.workers if seen else (),
        minutes=tuple(_minute_lines(seen.minutes, at_s) if seen else ()),
        scheduled=sum(row.requests for row in later),
        scheduled_next_at=min((row.begins for row in later), default=None),
        dead_letters=letters,
    )


def line(request_id: uuid.UUID) -> RequestLine | None:
    """One request that waits or runs; None if there is none, or it has ended."""
    query = select(*_fields).join(Person, Person.id == Request.person_id)
    with reading() as connection:
        found = _lines(connection, query.where(Request.id == request_id, unfinished()))
    return found[0] if found else None


# -- the database ----------------------------------------------------------------------------------------------------
def _counts(connection: Connection, at: datetime) -> Sequence[Any]:
    """Unfinished requests by status, queue, and whether they are for later."""
    later = case((Request.not_before > at, 1), else_=0)
    return connection.execute(
        select(
            Request.status,
            Request.queue,
            later.label("later"),
            func.count().label("requests"),
            func.min(Request.created_at).label("oldest"),
            func.min(Request.not_before).label("begins"),
        )
        .where(unfinished())
        .group_by(Request.status, Request.queue, later)
    ).all()


_fields = (
    Request.id,
    Request.person_id,
    Person.full_name,
    Person.email,
    Request.operation,
    Request.channel,
    Request.queue,
    Request.priority,
    Request.created_at,
    Request.started_at,
    Request.provider,
    Request.cancel_asked_at,
)

_open_letters = select(func.count()).select_from(
    select(DeadLetter.request_id).where(DeadLetter.state == LetterState.OPEN).limit(LETTERS_MAX).subquery()
)


def _running() -> Any:
    query = select(*_fields).join(Person, Person.id == Request.person_id)
    return query.where(Request.status == RequestStatus.PROCESSING, unfinished()).order_by(Request.started_at).limit(RUNNING_MAX)


def _waiting(ids: Sequence[uuid.UUID] | None, at: datetime) -> Any:
    """Those that Redis will give away next, as far as they still wait; without Redis, in the order of the sweep."""
    due = and_(Request.status == RequestStatus.QUEUED, func.coalesce(Request.not_before, at) <= at)
    query = select(*_fields).join(Person, Person.id == Request.person_id).where(due)
    if ids is not None:
        return query.where(Request.id.in_(ids))
    return query.where(unfinished()).order_by(Request.priority.desc(), Request.id).limit(NEXT_MAX)


def _lines(connection: Connection, query: Any) -> list[RequestLine]:
    return [
        RequestLine(
            id=row.id,
            person_id=row.person_id,
            person=row.full_name or row.email or f"person {str(row.person_id)[-6:]}",
            operation=row.operation,
            channel=row.channel,
            queue=row.queue,
            priority=row.priority,
            created_at=row.created_at,
            started_at=row.started_at,
            provider=row.provider,
            cancel_asked=row.cancel_asked_at is not None,
        )
        for row in connection.execute(query)
    ]


def _queue_lines(counts: Sequence[Any], seen: _Seen | None, at: datetime) -> list[QueueLine]:
    found = []
    for place, name in enumerate(QUEUES):
        mine = [row for row in counts if row.queue == name and row.status == RequestStatus.QUEUED and not row.later]
        oldest = min((row.oldest for row in mine), default=None)
        found.append(
            QueueLine(
                name,
                seen.depths[place] if seen else None,
                sum(row.requests for row in mine),
                max(0.0, (at - oldest).total_seconds()) if oldest else None,
            )
        )
    return found


# -- Redis -----------------------------------------------------------------------------------------------------------
def _see(at: datetime, at_s: float) -> _Seen:
    client = queue_redis()
    minutes = pace.minute_keys(at_s, MINUTES - 1)
    with client.pipeline(transaction=False) as pipe:
        for name in QUEUES:
            key = queues.queue(name, client).key
            pipe.llen(key)
            pipe.lrange(key, 0, 4 * NEXT_MAX)
        pipe.exists(WORKERS_SUSPENDED)
        pipe.hgetall(SIGNS)
        pipe.hgetall(LOADS)
        for _, key in minutes:
            pipe.hgetall(key)
        answers: list[Any] = pipe.execute()
    each = 2 * len(QUEUES)
    suspended, signs, loads = answers[each : each + 3]
    return _Seen(
        tuple(int(count) for count in answers[0:each:2]),
        tuple(request_id for jobs in answers[1:each:2] for request_id in _requests_among(jobs)[:NEXT_MAX]),
        bool(suspended),
        tuple(workers.read_signs(signs, loads, at)),
        {spell.number: spell for spell in pace.read_all(minutes, answers[each + 3 :])},
    )


def _requests_among(jobs: Sequence[bytes]) -> list[uuid.UUID]:
    found = []
    for job in jobs:
        task, _, subject = job.decode(errors="replace").partition("-")
        if task == EXECUTE:
            try:
                found.append(uuid.UUID(subject))
            except ValueError:
                continue
    return found


def _with_workers(lines: Sequence[RequestLine]) -> list[RequestLine]:
    """The same with the names of the workers that carry them, '' for what the web server carries itself."""
    if not lines:
        return []
    client = queue_redis()
    try:
        with client.pipeline(transaction=False) as pipe:
            for line in lines:
                pipe.hget(Job.key_for(queues.job_id(queues.EXECUTE, str(line.id))), "worker_name")
            names: list[Any] = pipe.execute()
    except redis.RedisError:
        return list(lines)
    named = zip(lines, names, strict=True)
    return [RequestLine(**(asdict(line) | {"worker": name.decode() if name else ""})) for line, name in named]


def _minute_lines(minutes: Mapping[int, Spell], at_s: float) -> list[MinuteLine]:
    found = []
    for number, _ in reversed(pace.minute_keys(at_s, MINUTES - 1)):
        spell = minutes.get(number) or Spell(number, {}, {}, 0, 0.0)
        found.append(
            MinuteLine(
                datetime.fromtimestamp(number * pace.MINUTE_S, UTC),
                {name: spell.started_in(name, EXECUTE) for name in QUEUES},
                sum(spell.started_in(name, DELIVER) for name in QUEUES),
            )
        )
    return found
