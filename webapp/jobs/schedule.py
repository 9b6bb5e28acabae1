"""What runs by the clock. RQ's own cron cannot be told how soon after a crash to look for lost work without a worker to run
it, so the sweep runs in the cron process itself; so does everything that takes milliseconds.

Any number of cron processes may run: a lock in Redis lets one of them act, and while Redis is away they all do, which is
harmless because every task here may run twice.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import redis
from flask import Flask

from webapp.extensions import current_settings, queue_redis
from webapp.pipeline import sweep, warm
from webapp.services import health

log = logging.getLogger(__name__)

_LOCK = "switchhook:cron"


@dataclass(slots=True)
class Periodic:
    """Something to be done every so many seconds."""

    name: str
    every_s: float
    do: Callable[[], object]
    due_at: float = 0.0


def periodics() -> list[Periodic]:
    """Everything that runs by the clock, with its pace from the settings."""
    return [
        Periodic("sweep", current_settings().sweep_s, sweep.sweep),
        Periodic("provider health", 60, health.check_vendors),
        Periodic("idle conversations", 3600, sweep.close_idle_conversations),
        Periodic("kept answers", warm.LOOK_S, warm.look),
    ]


def run(app: Flask, stop: threading.Event | None = None) -> None:
    """Run what is due until `stop` is set. A task that fails is logged and runs again at its next time."""
    stop = stop or threading.Event()
    me = uuid.uuid4().hex
    with app.app_context():
        tasks = periodics()
        lock_s = max(10, int(current_settings().sweep_s * 3))
        while not stop.is_set():
            if _leads(me, lock_s):
                for task in tasks:
                    if time.monotonic() >= task.due_at and not stop.is_set():
                        _do(task)
            next_at = min(task.due_at for task in tasks)
            stop.wait(min(max(next_at - time.monotonic(), 0.2), lock_s / 3))


def _do(task: Periodic) -> None:
    task.due_at = time.monotonic() + task.every_s
    began = time.monotonic()
    try:
        task.do()
    except Exception:
        log.exception("the periodic task %r failed", task.name)
    try:
        queue_redis().hset("switchhook:cron:last", task.name, f"{time.time():.0f} {time.monotonic() - began:.3f}")
    except redis.RedisError:
        log.debug("the time of a periodic task was not kept: Redis is away")


def _leads(me: str, lock_s: int) -> bool:
    """Whether this process is the one to act now."""
    client = queue_redis()
    try:
        if client.set(_LOCK, me, nx=True, ex=lock_s):
            return True
        if client.get(_LOCK) == me.encode():
            client.expire(_LOCK, lock_s)
            return True
    except redis.RedisError:
        return True
    return False
