"""The queue: how soon an idle worker begins what is enqueued, what a second worker process adds, and what it costs to tell
somebody how long they will wait."""

from __future__ import annotations

import time
from functools import partial

import redis
from rq import Queue
from rq import Worker as RQWorker

from benchmarks.place import Place, Started
from benchmarks.report import Report, median, quantile
from benchmarks.worker import PERSONS, wait_until
from webapp import queues
from webapp.extensions import reading
from webapp.models import Identity
from webapp.pipeline.admit import admit
from webapp.pipeline.intake import Intake
from webapp.queues import Task
from webapp.services import waiting

JOB_S = 0.2
SLOTS = 16
_NOTE = Task("note", "benchmarks.tasks.note_delay", 60)
_PAUSE_S = 0.03
_DATABASE = 11


def run(place: Place, report: Report, *, quick: bool) -> None:
    """The parts follow each other, so that none disturbs another."""
    _latency(place, report, count=40 if quick else 200)
    _second_process(place, report, rounds=1 if quick else 3, jobs=160 if quick else 480)
    _estimate(place, report, waits=1000 if quick else 3000, count=50 if quick else 300)


def _workers(place: Place, client: redis.Redis, count: int, slots: int) -> list[Started]:
    url = f"sqlite:///{place.folder / 'unused.db'}"
    command = ("-m", "benchmarks.run_worker", "thread", "--slots", str(slots))
    started = [place.python("queue-worker", *command, env=place.environment(url, _DATABASE)) for _ in range(count)]
    wait_until(lambda: len(RQWorker.all(connection=client)) == count, f"{count} workers")
    return started


# -- how soon -----------------------------------------------------------------------------------------------------
def _latency(place: Place, report: Report, count: int) -> None:
    report.heading("queue: from the commit into a job, the workers idle")
    client = place.redis(_DATABASE)
    rows = []
    for processes in (1, 2):
        started = _workers(place, client, processes, 128)
        delays = _delays(client, count)
        rows.append([f"{processes} worker process{'es' if processes > 1 else ''}", *(f"{value:.1f}" for value in delays)])
        if processes == 1:
            report.table(["ms", "p50", "p95", "p99"], rows)
            report.below("queue: enqueue to start with an idle worker, p95", delays[1], 50, "ms")
        for each in started:
            place.stop(each)
    report.table(["ms", "p50", "p95", "p99"], rows[1:])


def _delays(client: redis.Redis, count: int) -> tuple[float, float, float]:
    delays: list[float] = []
    for number in range(-3, count):
        queues.put(client, _NOTE, [str(time.time_ns())], queues.QUEUES[number % 3])
        popped = client.blpop(["delays"], 10)
        if popped is None:
            raise RuntimeError("no worker started a job within 10 s")
        if number >= 0:
            delays.append(1000 * float(popped[1]))
        time.sleep(_PAUSE_S)  # The workers are idle again when the next one comes.
    return quantile(delays, 0.5), quantile(delays, 0.95), quantile(delays, 0.99)


# -- what a second process adds -----------------------------------------------------------------------------------
def _second_process(place: Place, report: Report, rounds: int, jobs: int) -> None:
    report.heading(f"queue: jobs that wait {1000 * JOB_S:.0f} ms, {SLOTS} slots a process")
    client = place.redis(_DATABASE)
    found: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for processes, rates in found.items():
            started = _workers(place, client, processes, SLOTS)
            _carry(client, 2 * SLOTS)
            rates.append(jobs / _carry(client, jobs))
            for each in started:
                place.stop(each)
    ideal = SLOTS / JOB_S
    rows = [
        [
            f"{processes} process{'es' if processes > 1 else ''}",
            f"{median(rates):.1f}",
            f"{100 * median(rates) / ideal / processes:.0f} %",
        ]
        for processes, rates in found.items()
    ]
    report.table([f"median of {rounds}", "jobs/s", "of ideal"], rows)
    report.at_least("queue: two worker processes against one", median(found[2]) / median(found[1]), 1.8, "x")


def _carry(client: redis.Redis, jobs: int) -> float:
    """Seconds from the enqueuing of so many jobs to the end of the last one."""
    target = queues.queue(queues.NORMAL, client)
    made = [Queue.prepare_data("benchmarks.tasks.pause", args=(JOB_S,), timeout=60, result_ttl=0) for _ in range(jobs)]
    target.enqueue_many(made)
    began = time.perf_counter()
    client.publish(queues.WAKE_CHANNEL, queues.NORMAL)
    left = target.started_job_registry.key, target.intermediate_queue_key
    wait_until(lambda: not (target.count + client.zcard(left[0]) + client.llen(left[1])), f"{jobs} jobs", 120)
    return time.perf_counter() - began


# -- what an estimate costs ---------------------------------------------------------------------------------------
def _estimate(place: Place, report: Report, waits: int, count: int) -> None:
    report.heading(f"queue: telling somebody how long they will wait, {waits:,} requests in the queue, SQLite")
    url = place.database("sqlite", persons=PERSONS)
    with place.app(url, _DATABASE + 1):
        with reading() as connection:
            persons = list(connection.execute(Identity.__table__.select().with_only_columns(Identity.person_id)).scalars())
        ids = [admit(Intake(medium="web", text="How long?", person_id=persons[i % PERSONS])).request_id for i in range(waits)]
        asked = [ids[i * waits // count] for i in range(count)]
        rows = []
        for words, fresh_s in (("the queues are read each time", 0.0), ("kept for a second", waiting.FRESH_S)):
            before, waiting.FRESH_S = waiting.FRESH_S, fresh_s
            took = [1000 * _seconds(partial(waiting.estimate, request_id)) for request_id in asked if request_id]
            waiting.FRESH_S = before
            rows.append([words, f"{quantile(took, 0.5):.2f}", f"{quantile(took, 0.95):.2f}"])
        report.table(["ms", "p50", "p95"], rows)
        report.below("queue: an estimate among thousands, p95", float(rows[1][2]), 20, "ms")


def _seconds(step: partial[object]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began
