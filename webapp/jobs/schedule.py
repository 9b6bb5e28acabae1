"""What runs by the clock. RQ's own cron cannot be told how soon after a crash to look for lost work without a worker to run
it, so the sweep runs in the scheduler's process itself; so does everything that takes milliseconds. The list of tasks is in
`webapp.services.schedule`.

Any number of schedulers may run: a lock in Redis lets one of them act, and while Redis is away they all do, which is
harmless because every task here may run twice.

When a task is due is counted by a clock that nobody sets (`time.monotonic`). What outlives a process is kept by the wall
clock: whoever takes over goes on with the tasks of a long pace where the last one left off.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import redis
from flask import Flask

from webapp.contracts.texts import frames
from webapp.extensions import current_settings, queue_redis
from webapp.pipeline import pictures
from webapp.services import retention, schedule
from webapp.services.schedule import Leader, Run, Task

log = logging.getLogger(__name__)

_LOCK = "switchhook:cron"
LOOK_S = 1.0
"""Seconds after which a process asks again whether it is the one to act."""
_GO_ON_S = 1.0
"""Seconds between two runs of a task that has more to do than one run takes on."""


@dataclass(slots=True)
class Periodic:
    """Something to be done every so many seconds. `due_at` is by the monotonic clock, 0 for at once."""

    name: str
    every_s: float
    do: Callable[[], object]
    counted: str = "done"
    due_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Done:
    """How one run went: what the task returned, or what it raised."""

    run: Run
    result: object = None
    error: Exception | None = None


def periodics() -> list[Periodic]:
    """Everything that runs by the clock under these settings, with its pace."""
    settings = current_settings()
    return [_periodic(task, task.every_s(settings)) for task in schedule.TASKS if task.on(settings)]


def _periodic(task: Task, every_s: float) -> Periodic:
    module, _, name = task.function.rpartition(".")
    return Periodic(task.name, every_s, getattr(importlib.import_module(module), name), task.counted)


def erase_old_content() -> retention.Erased:
    """The retention, with what removes pictures."""
    return retention.run(pictures.remove)


def run(app: Flask, stop: threading.Event | None = None) -> None:
    """Run what is due until `stop` is set. A task that fails is logged and runs again at its next time."""
    stop = stop or threading.Event()
    with app.app_context():
        tasks = periodics()
        lead = _Lead(max(10, int(current_settings().sweep_s * 3)))
        while not stop.is_set():
            if not lead.mine:
                # Also while waiting to take over: should Redis be away then, it is known when they ran.
                take_over(tasks)
            acts = lead.acts()
            for task in tasks:
                if time.monotonic() >= task.due_at and not stop.is_set() and lead.acts():
                    do(task)
            left_s = min(task.due_at for task in tasks) - time.monotonic()
            stop.wait(min(max(left_s, 0.2), lead.lock_s / 3) if acts else LOOK_S)


def take_over(tasks: Sequence[Periodic]) -> None:
    """Let tasks of a long pace be due when they would have been for the process that ran them last; one that never ran is due
    at once. A wall clock that was set back can put nothing off by more than the task's own pace."""
    try:
        runs = schedule.last_runs(queue_redis())
    except redis.RedisError:
        return
    for task in tasks:
        if task.every_s >= schedule.LONG_S and task.name in runs:
            left_s = runs[task.name].at + task.every_s - time.time()
            task.due_at = time.monotonic() + min(max(left_s, 0.0), task.every_s)


def do(task: Periodic) -> Done:
    """Run a task now, and keep how it went."""
    began_at, began = time.time(), time.monotonic()
    result, error = None, None
    try:
        result = task.do()
    except Exception as exc:
        log.error("the periodic task %r failed: %s\n%s", task.name, type(exc).__name__, frames(exc))
        error = exc
    took_s = time.monotonic() - began
    # From its beginning, so that its pace does not hang on how long it takes.
    task.due_at = max(began + (_GO_ON_S if getattr(result, "more", False) else task.every_s), time.monotonic() + 0.2)
    figures = schedule.figures(result, task.counted)
    kept = Run(
        at=began_at,
        took_s=round(took_s, 3),
        error=type(error).__name__ if error else "",
        next_at=time.time() + task.due_at - time.monotonic(),
        figures=figures,
        did_at=began_at if figures else None,
    )
    try:
        schedule.keep_run(queue_redis(), task.name, kept)
    except redis.RedisError:
        log.debug("the run of a periodic task was not kept: Redis is away")
    return Done(kept, result, error)


def do_now(task: Task) -> Done:
    """Run one task in this process, whoever leads, also one that is switched off."""
    return do(_periodic(task, task.every_s(current_settings())))


class _Lead:
    """This process's part in the question who acts."""

    def __init__(self, lock_s: int) -> None:
        self.lock_s = lock_s
        self.mine = False
        self._acts = False
        self._me = uuid.uuid4().hex
        self._since = 0.0
        self._look_at = 0.0

    def acts(self) -> bool:
        """Whether this process is the one to act now. Whoever acts asks again before each task: the lock must not run out
        between them."""
        if time.monotonic() >= self._look_at:
            try:
                self._acts = self.mine = self._take(queue_redis())
            except redis.RedisError:
                # Nobody can say who is to act: then everybody does.
                self._acts = True
            self._look_at = time.monotonic() + min(LOOK_S, self.lock_s / 10)
        return self._acts

    def _take(self, client: redis.Redis) -> bool:
        if not client.set(_LOCK, self._me, nx=True, ex=self.lock_s):
            if client.get(_LOCK) != self._me.encode():
                return False
            client.expire(_LOCK, self.lock_s)
        if not self.mine or not self._since:
            # A lock that only ran out during a long task is no change.
            before = schedule.leader(client)
            self._since = before.since if before is not None and before.id == self._me else time.time()
        schedule.keep_leader(client, Leader(self._me, socket.gethostname(), os.getpid(), self._since, time.time()))
        return True
