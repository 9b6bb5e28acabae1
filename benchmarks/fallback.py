"""Requests whose first vendor fails half of its calls, beside the same requests with a healthy one."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import redis
from rq import Worker as RQWorker
from rq import suspension
from sqlalchemy import select

from benchmarks.place import MODEL, Place, Started
from benchmarks.report import Report, median, median_ratio, quantile
from webapp import queues
from webapp.extensions import reading
from webapp.models import Attempt, Identity, Request, RequestStatus
from webapp.pipeline.admit import admit
from webapp.pipeline.intake import Intake
from webapp.routing import resilience

VENDOR_S = 0.2
REQUESTS = 300
SLOTS = 16
"""Few enough that a request's time is the vendor's and not that of waiting for a processor."""
PERSONS = 20
FAILING = 0.5
SECOND = "groq/openai/gpt-oss-20b"
_SEED = 20261121
_SLOW_BAR = 1.5
_WAIT_S = 60.0


@dataclass(slots=True)
class Side:
    """A worker process with its own first vendor, and what its runs gave."""

    name: str
    number: int
    worker: Started
    client: redis.Redis
    p50_ms: list[float] = field(default_factory=list)
    p95_ms: list[float] = field(default_factory=list)
    failed_calls: list[int] = field(default_factory=list)
    openings: list[int] = field(default_factory=list)

    def row(self) -> list[str]:
        return [self.name, *(f"{median(found):.0f}" for found in (self.p50_ms, self.p95_ms, self.failed_calls, self.openings))]


def run(place: Place, report: Report, *, quick: bool) -> None:
    """Healthy and failing in turns; the second vendor is the same for both."""
    rounds = 1 if quick else 3
    report.heading(f"fallback: {REQUESTS} requests, both vendors take {1000 * VENDOR_S:.0f} ms, {SLOTS} slots, SQLite")
    url = place.database("sqlite", persons=PERSONS)
    second = place.start_other_vendor(VENDOR_S)
    healthy = _side(place, "healthy", 11, url, place.start_other_vendor(VENDOR_S), second)
    failing, patient = (
        _side(place, name, number, url, _half_broken(place, rounds * REQUESTS), second, breaker)
        # Failures come at once and answers after 200 ms, so five failures in a row are soon together.
        for name, number, breaker in (("50 % fail", 12, 5), ("50 % fail, no circuit opens", 14, 1000))
    )
    sides = (healthy, failing, patient)
    for _ in range(rounds):
        for side in sides:
            _measure(place, url, side)
    report.table([f"median of {rounds}", "p50 ms", "p95 ms", "failed calls", "openings"], [side.row() for side in sides])
    # A run in which a request was not answered has raised.
    report.exactly("fallback: answered although half of the first vendor's calls fail", 1.0, 1.0, "%")
    report.exactly("fallback: times that its circuit opens", median(failing.openings), 1)
    report.below("fallback: p95 beside a healthy run's", median_ratio(failing.p95_ms, healthy.p95_ms), _SLOW_BAR, "x")
    every_time = median_ratio(patient.p95_ms, healthy.p95_ms)
    report.below("fallback: the same with each failure met anew", every_time, _SLOW_BAR, "x")
    for side in sides:
        place.stop(side.worker)


def _half_broken(place: Place, calls: int) -> str:
    """The address of a vendor that fails half of so many calls."""
    vendor = place.start_other_vendor(VENDOR_S)
    _fail_at_random(vendor, calls)
    return vendor


def _fail_at_random(vendor: str, calls: int) -> None:
    """Half of so many calls are answered 503 at once; an empty fault is none."""
    dice = random.Random(_SEED)
    faults = [{"status": 503, "body": ""} if dice.random() < FAILING else {} for _ in range(calls)]
    httpx.post(f"{vendor}/_faults", json=faults, trust_env=False).raise_for_status()


def _side(place: Place, name: str, number: int, url: str, first: str, second: str, breaker: int = 5) -> Side:
    environment = place.environment(
        url,
        number,
        SWITCHHOOK_CHAT_MODEL=f"{MODEL},{SECOND}",
        SWITCHHOOK_WORKER_JOBS=str(SLOTS),
        SWITCHHOOK_BREAKER_FAILURES=str(breaker),
        SWITCHHOOK_LOG_LEVEL="WARNING",
        OPENAI_BASE_URL=f"{first}/v1",
        GROQ_BASE_URL=f"{second}/v1",
        GROQ_API_KEY="gsk-for-benchmarks-only",
    )
    worker = place.python(f"fallback-{number}", "-m", "webapp.cli", "worker", env=environment)
    client = place.redis(number)
    _wait(lambda: bool(RQWorker.all(connection=client)), name)
    return Side(name, number, worker, client)


def _measure(place: Place, url: str, side: Side) -> None:
    """One run of one side, from closed circuits on."""
    opened = _openings(side)
    suspension.suspend(side.client)
    with place.app(url, side.number):
        resilience.reset("openai")
        with reading() as connection:
            persons = connection.execute(select(Identity.person_id)).scalars().all()
        wanted = [_admitted(persons[number % len(persons)], number) for number in range(REQUESTS)]
        suspension.resume(side.client)
        side.client.publish(queues.WAKE_CHANNEL, queues.NORMAL)
        _wait(lambda: not _unfinished(wanted), f"{REQUESTS} requests, {side.name}")
        with reading() as connection:
            request, attempt = Request, Attempt
            rows = connection.execute(
                select(request.started_at, request.ended_at, request.status).where(request.id.in_(wanted))
            ).all()
            outcomes = connection.execute(select(attempt.outcome).where(attempt.request_id.in_(wanted))).scalars().all()
    answered = [row for row in rows if row.status == RequestStatus.COMPLETED]
    if len(answered) != REQUESTS:
        raise RuntimeError(f"{REQUESTS - len(answered)} requests were not answered: {side.worker.log.read_text()[-2000:]}")
    times = [1000 * (row.ended_at - row.started_at).total_seconds() for row in answered]
    side.p50_ms.append(quantile(times, 0.5))
    side.p95_ms.append(quantile(times, 0.95))
    side.failed_calls.append(sum(outcome != "completed" for outcome in outcomes))
    side.openings.append(_openings(side) - opened)


def _openings(side: Side) -> int:
    """How often the worker has said that a circuit opened."""
    return side.worker.log.read_text().count("the circuit of openai/")


def _admitted(person: uuid.UUID, number: int) -> uuid.UUID:
    # A conversation each and other words each time: no answer that was kept.
    text = f"Question {number} at {time.monotonic_ns()}: how do I reverse a list?"
    admission = admit(Intake(medium="web", text=text, person_id=person, new_conversation=True))
    assert admission.request_id is not None
    return admission.request_id


def _unfinished(wanted: list[uuid.UUID]) -> bool:
    with reading() as connection:
        found = connection.execute(select(Request.id).where(Request.id.in_(wanted), Request.ended_at.is_(None)).limit(1))
        return found.first() is not None


def _wait(ready: Callable[[], object], what: str) -> None:
    ends = time.monotonic() + _WAIT_S
    while not ready():
        if time.monotonic() > ends:
            raise RuntimeError(f"not within {_WAIT_S:.0f} s: {what}")
        time.sleep(0.1)
