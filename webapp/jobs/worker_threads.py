"""Small parts of the worker that know nothing of RQ: a wake-up call, a pool of daemon threads, a note of an outage."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

log = logging.getLogger(__name__)


class Wake:
    """An event that is clear again once it was waited for, and that a signal handler may set.

    `threading.Event` guards itself with a lock that is not re-entrant: setting one in a signal handler stops the
    process for good if the main thread was just inside it. A bare lock has no such inside.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Let the one who waits go on, or the next one who comes to wait."""
        with suppress(RuntimeError):  # It is set already.
            self._lock.release()

    def clear(self) -> None:
        """Forget earlier calls. Look for work after this, never before."""
        self._lock.acquire(blocking=False)

    def wait(self, timeout_s: float) -> None:
        """Wait until somebody calls, at most `timeout_s` seconds."""
        self._lock.acquire(timeout=max(0.0, timeout_s))


class Threads:
    """Runs tasks in daemon threads, made when no idle one is left. The caller bounds their number by bounding its
    tasks.

    Not `concurrent.futures`: its threads are joined when the interpreter ends, so a job that does not end would keep a
    stopped worker alive.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._made = 0
        self._closed = False

    def run(self, task: Callable[[], None]) -> None:
        """Run `task` at once. What it raises is logged by its type alone."""
        with self._lock:
            make = not self._idle
            if make:
                self._made += 1
            else:
                self._idle -= 1
        self._tasks.put(task)
        if make:
            threading.Thread(target=self._serve, name=f"{self._name}-{self._made}", daemon=True).start()

    def close(self) -> None:
        """End the idle threads now and the others after their task."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, 0
        for _ in range(idle):
            self._tasks.put(None)

    def _serve(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except BaseException as exc:
                log.error("a task of the pool %s raised %s", self._name, type(exc).__name__)
            del task  # An idle thread must not keep its last job in memory.
            with self._lock:
                if self._closed:
                    return
                self._idle += 1


class Outage:
    """Whether Redis is away, as far as anybody noticed, so that an outage is one line in the log, not one per call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.active = False

    def begins(self, exc: Exception) -> None:
        """Somebody could not reach Redis."""
        with self._lock:
            first, self.active = not self.active, True
        if first:
            log.error("Redis is away (%s: %s): the worker waits for it", type(exc).__name__, exc)

    def ends(self) -> None:
        """Redis answered again."""
        with self._lock:
            was, self.active = self.active, False
        if was:
            log.info("Redis is back")
