"""Jobs for the tests of the worker, and a worker process of its own.

python -m tests.integration.worker_jobs '{"url": "redis://…", "slots": 3}'
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import contextmanager
from contextvars import ContextVar

import redis
from rq import Queue, Retry, get_current_job
from rq.serializers import JSONSerializer

from webapp.jobs.worker import ThreadWorker
from webapp.queues import QUEUES

SECOND_S = 10.0
"""How long a job waits for its test before it gives up, so that a failed test ends."""


class Meeting:
    """What jobs and their test, in one process, tell each other. `reset` before each test."""

    def __init__(self) -> None:
        self.reset()

    def reset(self, together: int = 1) -> None:
        self.barrier = threading.Barrier(together)
        self.gate = threading.Event()
        self.exits = threading.Semaphore(0)
        self.started = threading.Semaphore(0)
        self.done = threading.Semaphore(0)
        self.notes: list[str] = []
        self.times: list[float] = []


meeting = Meeting()
context: ContextVar[str] = ContextVar("context", default="outside")


@contextmanager
def inside():
    token = context.set("inside")
    try:
        yield
    finally:
        context.reset(token)


def note(text: str = "") -> str:
    meeting.times.append(time.monotonic())
    meeting.notes.append(text)
    meeting.done.release()
    return text


def note_context() -> None:
    note(context.get())


def note_queue(_subject_id: str = "") -> None:
    note(get_current_job().origin)


def meet() -> None:
    """Ends only when as many jobs as the barrier wants are in here at the same time."""
    meeting.barrier.wait(SECOND_S)
    meeting.done.release()


def wait_at_gate(text: str = "") -> None:
    meeting.started.release()
    if not meeting.gate.wait(SECOND_S):
        raise TimeoutError("the test did not open the gate")
    note(text)


def leave_one_by_one(subject_id: str) -> None:
    """Each release of `exits` lets one run of it end."""
    meeting.started.release()
    if not meeting.exits.acquire(timeout=SECOND_S):
        raise TimeoutError("the test let nobody out")
    meeting.done.release()


def wait_at_gate_and_fail() -> None:
    wait_at_gate()
    raise ValueError("behind the gate")


def turn_for_ever() -> None:
    meeting.started.release()
    while True:
        time.sleep(0.005)


def swallow_and_turn() -> None:
    meeting.started.release()
    while True:
        try:
            time.sleep(0.005)
        except Exception:
            meeting.notes.append("swallowed")


def sleep(seconds: float) -> None:
    meeting.started.release()
    time.sleep(seconds)
    note("slept")


def fail(text: str) -> None:
    meeting.notes.append("failed")
    raise ValueError(text)


def ask_for_another_try() -> Retry | None:
    meeting.notes.append("tried")
    return Retry(max=3) if len(meeting.notes) < 3 else None


def wait_for_go(key: str) -> None:
    """For workers in other processes: tells its start and its end in Redis, and waits there for the key `go`."""
    connection = get_current_job().connection
    connection.rpush(f"{key}:started", os.getpid())
    ends = time.monotonic() + 30
    while connection.get("go") is None:
        if time.monotonic() > ends:
            raise TimeoutError("the test did not say go")
        time.sleep(0.02)
    connection.rpush(f"{key}:done", os.getpid())


def say_ready() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def main(options: dict) -> None:
    client = redis.Redis.from_url(options.pop("url"))
    queues = [Queue(name, connection=client, serializer=JSONSerializer) for name in QUEUES]
    worker = ThreadWorker(queues, client, on_ready=say_ready, **options)
    worker.work()
    worker.end_process()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
