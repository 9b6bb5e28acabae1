"""What a published piece of an answer costs, and how long the way from the queue into a job is. For information."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from functools import partial

from benchmarks import usage
from benchmarks.place import Place
from benchmarks.report import Report, median, quantile
from benchmarks.worker import Side, start_bare
from webapp import queues
from webapp.extensions import queue_redis
from webapp.pipeline.stream import Publisher
from webapp.queues import Task

PIECE = " twelve letters"
_NOTE = Task("note", "benchmarks.tasks.note_delay", 60)
_PAUSE_S = 0.03


def run(place: Place, report: Report, *, quick: bool) -> None:
    """Both parts have a floor: the bare Redis commands, and RQ's own worker."""
    report.heading("stream: publishing a piece of an answer, one thread")
    with place.app(f"sqlite:///{place.folder / 'unused.db'}", 8):
        _pieces(place, report, rounds=3 if quick else 7, pieces=500 if quick else 2000)
    report.heading("stream: from the queue into a job, the worker idle")
    sides = [start_bare(place, "ThreadWorker", 9, 0, "thread"), start_bare(place, "rq.Worker (forks)", 10, 0, "fork")]
    rows = [[side.name, *_delays(side, 20 if quick else 100)] for side in sides]
    report.table(["ms", "p50", "p95"], rows)
    for side in sides:
        place.stop(side.process)


def _pieces(place: Place, report: Report, rounds: int, pieces: int) -> None:
    client = queue_redis()
    ours: list[tuple[float, float]] = []
    floors: list[tuple[float, float]] = []
    server = usage.cpu_s(place.queue.pid)
    for _ in range(rounds):
        ours.append(_microseconds(pieces, partial(Publisher(uuid.uuid4(), 1).piece, PIECE)))
        floors.append(_microseconds(pieces, partial(client.xadd, f"floor:{uuid.uuid4()}", {"t": PIECE})))
    server_after = usage.cpu_s(place.queue.pid)
    rows = [
        [name, *(f"{median([found[i] for found in side]):.0f}" for i in (0, 1))]
        for name, side in (("Publisher.piece", ours), ("floor: bare XADD", floors))
    ]
    report.table([f"us a piece, median of {rounds}", "CPU", "elapsed"], rows)
    if server is not None and server_after is not None:
        each = 1e6 * (server_after - server) / (2 * rounds * pieces)
        report.note(f"  the queue server's own CPU: {each:.0f} us a piece")


def _microseconds(pieces: int, step: Callable[[], object]) -> tuple[float, float]:
    """(processor time of this process, elapsed time) of one step."""
    cpu, began = time.process_time(), time.perf_counter()
    for _ in range(pieces):
        step()
    elapsed, used = time.perf_counter() - began, time.process_time() - cpu
    return 1e6 * used / pieces, 1e6 * elapsed / pieces


def _delays(side: Side, count: int) -> list[str]:
    """Median and 95th percentile in milliseconds; the first two jobs warm up."""
    delays: list[float] = []
    for number in range(-2, count):
        queues.put(side.client, _NOTE, [str(time.time_ns())], queues.NORMAL)
        # A pop that blocks, so that nothing looks and looks while the worker is to be idle.
        popped = side.client.blpop(["delays"], 10)
        if popped is None:
            raise RuntimeError(f"{side.name} did not start a job within 10 s")
        if number >= 0:
            delays.append(1000 * float(popped[1]))
        time.sleep(_PAUSE_S)  # It is idle again when the next one comes.
    return [f"{quantile(delays, 0.5):.1f}", f"{quantile(delays, 0.95):.1f}"]
