"""Jobs that wait 200 ms for a vendor: our worker, which carries them in threads, beside RQ's own, one job at a time."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

import redis
from rq import Queue, suspension
from rq import Worker as RQWorker
from sqlalchemy import select

from benchmarks import usage
from benchmarks.place import Place, Started
from benchmarks.report import Report, median
from webapp import queues
from webapp.extensions import reading
from webapp.models import Identity, Request, RequestStatus
from webapp.pipeline.admit import admit
from webapp.pipeline.intake import Intake

VENDOR_S = 0.2
SLOTS = 128
PERSONS = 100
_DONE_S = 60.0
_SAMPLE_S = 0.2
_POLL_S = 0.02


@dataclass(slots=True)
class Side:
    """A worker process with a queue of its own."""

    name: str
    number: int
    jobs: int
    process: Started
    client: redis.Redis
    per_s: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    in_flight: int = 0
    idle_mb: float | None = None
    peak_mb: float | None = None

    def row(self) -> list[str]:
        cpu = f"{median(self.cpu_ms):.1f}" if self.cpu_ms else "?"
        return [self.name, f"{median(self.per_s):,.1f}", str(self.in_flight or "1"), cpu]


class MemoryWatch:
    """Samples the memory of a process, or of its children alone, while the block runs."""

    def __init__(self, pid: int, *, children_only: bool) -> None:
        self.peak_mb: float | None = None
        self._pid, self._children_only = pid, children_only
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            found = usage.pss_mb(self._pid, children_only=self._children_only)
            if found is not None:
                self.peak_mb = max(self.peak_mb or 0.0, found)


def run(place: Place, report: Report, *, quick: bool) -> None:
    """Whole requests first, bare jobs after."""
    port = place.start_vendor(VENDOR_S)
    _whole_requests(place, report, quick=quick)
    _bare_jobs(place, report, port, quick=quick)


# -- whole requests ------------------------------------------------------------------------------------------------
def _whole_requests(place: Place, report: Report, *, quick: bool) -> None:
    report.heading(f"worker: whole requests, the vendor takes {1000 * VENDOR_S:.0f} ms, SQLite")
    url = place.database("sqlite", persons=PERSONS)
    ours = _side(place, "Switchhook, 128 slots", 3, 300 if quick else 640, url, "-m", "webapp.cli", "worker")
    rq = _side(place, "rq.Worker (forks)", 4, 6 if quick else 12, url, "-m", "benchmarks.run_worker", "fork", "--app")
    for side, warm_up in ((ours, 8), (rq, 2)):
        _execute(place, url, side, warm_up)
        side.idle_mb = usage.pss_mb(side.process.pid)
        side.per_s.clear()
        side.cpu_ms.clear()
    for _ in range(1 if quick else 3):
        for side in (ours, rq):
            with MemoryWatch(side.process.pid, children_only=side is rq) as watch:
                _execute(place, url, side, side.jobs)
            side.peak_mb = max(side.peak_mb or 0.0, watch.peak_mb or 0.0) or None
    report.table(["median", "jobs/s", "in flight", "CPU ms/job"], [ours.row(), rq.row()])
    report.at_least("worker: requests in flight in one process", ours.in_flight, SLOTS)
    report.at_least("worker: requests/s of one process", median(ours.per_s), 100)
    if ours.peak_mb is not None and ours.idle_mb is not None:
        each = (ours.peak_mb - ours.idle_mb) / ours.in_flight
        report.below("worker: memory of a request in flight", each, 1.0, "MB")
        report.note(f"  memory: idle {ours.idle_mb:.0f} MB, with {ours.in_flight} in flight {ours.peak_mb:.0f} MB")
    if rq.peak_mb is not None:
        report.note(f"  memory of rq.Worker: {rq.peak_mb:.0f} MB in its child, which carries one request")
    report.note(f"  requests/s of rq.Worker's: {median(ours.per_s) / median(rq.per_s):.0f} x")
    for side in (ours, rq):
        place.stop(side.process)


def _side(place: Place, name: str, number: int, jobs: int, url: str, *command: str) -> Side:
    process = place.python(f"worker-{number}", *command, env=place.environment(url, number))
    client = place.redis(number)
    wait_until(lambda: bool(RQWorker.all(connection=client)), name)
    return Side(name, number, jobs, process, client)


def _execute(place: Place, url: str, side: Side, jobs: int) -> None:
    """Admit so many requests, let the worker execute them, and read from the database when each began and ended."""
    suspension.suspend(side.client)
    with place.app(url, side.number):
        with reading() as connection:
            persons = connection.execute(select(Identity.person_id)).scalars().all()
        wanted = [_admitted(persons[i % len(persons)], i) for i in range(jobs)]
        cpu = usage.cpu_s(side.process.pid)
        suspension.resume(side.client)
        side.client.publish(queues.WAKE_CHANNEL, queues.NORMAL)
        wait_until(_all_ended, f"{jobs} requests of {side.name}", _DONE_S)
        cpu_after = usage.cpu_s(side.process.pid)
        with reading() as connection:
            rows = connection.execute(
                select(Request.started_at, Request.ended_at, Request.status).where(Request.id.in_(wanted))
            ).all()
    if failed := [row for row in rows if row.status != RequestStatus.COMPLETED]:
        raise RuntimeError(f"{len(failed)} of {jobs} requests were not completed: {side.process.log.read_text()[-2000:]}")
    seconds = (max(row.ended_at for row in rows) - min(row.started_at for row in rows)).total_seconds()
    side.per_s.append(jobs / seconds)
    side.in_flight = max(side.in_flight, _most_at_once([(row.started_at, row.ended_at) for row in rows]))
    if cpu is not None and cpu_after is not None:
        side.cpu_ms.append(1000 * (cpu_after - cpu) / jobs)


def _admitted(person: uuid.UUID, number: int) -> uuid.UUID:
    admission = admit(Intake(medium="web", text=f"Question {number}: how do I reverse a list?", person_id=person))
    assert admission.request_id is not None
    return admission.request_id


def _all_ended() -> bool:
    with reading() as connection:
        return connection.execute(select(Request.id).where(Request.ended_at.is_(None)).limit(1)).first() is None


def _most_at_once(spells: list[tuple[datetime, datetime]]) -> int:
    steps = sorted([(began, 1) for began, _ in spells] + [(ended, -1) for _, ended in spells])
    most = now = 0
    for _, step in steps:
        now += step
        most = max(most, now)
    return most


# -- bare jobs -----------------------------------------------------------------------------------------------------
def _bare_jobs(place: Place, report: Report, port: int, *, quick: bool) -> None:
    report.heading(f"worker: bare jobs, one HTTP call of {1000 * VENDOR_S:.0f} ms each")
    sides = [
        start_bare(place, "ThreadWorker, 128 slots", 5, 400 if quick else 1000, "thread"),
        start_bare(place, "rq.Worker (forks)", 6, 6 if quick else 12, "fork"),
        start_bare(place, "rq.SimpleWorker", 7, 6 if quick else 12, "simple"),
    ]
    for side in sides:
        _carry(side, port, 2)
        side.per_s.clear()
        side.cpu_ms.clear()
    for _ in range(1 if quick else 3):
        for side in sides:
            _carry(side, port, side.jobs)
    sides[0].in_flight = SLOTS
    report.table(["median", "jobs/s", "at most at once", "CPU ms/job"], [side.row() for side in sides])
    thread, fork, simple = (median(side.per_s) for side in sides)
    report.note(f"  jobs/s of rq.Worker's: {thread / fork:.0f} x; of rq.SimpleWorker's: {thread / simple:.0f} x")
    for side in sides:
        place.stop(side.process)


def start_bare(place: Place, name: str, number: int, jobs: int, kind: str) -> Side:
    """A worker for plain jobs, started with `benchmarks.run_worker`."""
    url = f"sqlite:///{place.folder / 'unused.db'}"
    return _side(place, name, number, jobs, url, "-m", "benchmarks.run_worker", kind)


def _carry(side: Side, port: int, jobs: int) -> None:
    """Enqueue so many jobs at once and wait until the last has ended."""
    target = queues.queue(queues.NORMAL, side.client)
    before = usage.cpu_s(side.process.pid)
    made = [Queue.prepare_data("benchmarks.tasks.call_vendor", args=(port,), timeout=60, result_ttl=0) for _ in range(jobs)]
    target.enqueue_many(made)
    began = time.perf_counter()
    side.client.publish(queues.WAKE_CHANNEL, queues.NORMAL)
    started = target.started_job_registry
    intermediate = target.intermediate_queue_key
    wait_until(
        lambda: not (target.count + side.client.zcard(started.key) + side.client.llen(intermediate)),
        f"{jobs} jobs of {side.name}",
        _DONE_S,
    )
    side.per_s.append(jobs / (time.perf_counter() - began))
    if target.failed_job_registry.get_job_ids(cleanup=False):
        raise RuntimeError(f"jobs of {side.name} failed: {side.process.log.read_text()[-2000:]}")
    after = usage.cpu_s(side.process.pid)
    if before is not None and after is not None:
        side.cpu_ms.append(1000 * (after - before) / jobs)


def wait_until(done: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Until `done`; RuntimeError naming `what` if that takes too long."""
    ends = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > ends:
            raise RuntimeError(f"{what}: not done within {timeout_s:.0f} s")
        time.sleep(_POLL_S)
