"""Time limits for jobs that run in threads: one thread watches them all and raises in the thread that is overdue.

RQ's own limits do not fit threads: SIGALRM reaches the main thread only, and its timer class starts one more thread
per job and may fire after the job has ended.

What must not be interrupted stands in `webapp.interrupts.shielded`, above all every transaction.

Known sharp edges: Python raises an exception in another thread between two bytecodes. A call that blocks in C (a
`recv`, a `sleep`, a lock) is not interrupted; it ends by its own time-out first. So whoever waits for the network
inside a job gives what remains of the job's time to the HTTP client, and this limit is for the rest. And a transaction
that waits for its database outlasts the limit by that wait.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

from rq.timeouts import JobTimeoutException

from webapp.interrupts import Interruptible, shielded, this_thread

_NEVER = float("inf")


class JobStopped(BaseException):
    """Raised in a job's thread when somebody stops the job. Not an `Exception`: a job's own error handling must let it
    by."""


class Watch:
    """The limit of one piece of work, used once, as a context manager in the thread that does the work.

    At most one exception is ever raised in that thread, and none after the block was left.
    """

    __slots__ = ("_deadlines", "_thread", "due", "exception", "fired", "over", "timeout_s")

    def __init__(self, deadlines: Deadlines, timeout_s: float, exception: type[BaseException]) -> None:
        self._deadlines = deadlines
        self._thread: Interruptible | None = None
        self.timeout_s = timeout_s
        self.exception = exception
        self.due = _NEVER
        self.fired = False
        self.over = False

    def __enter__(self) -> Watch:
        try:
            with shielded():
                self._thread = this_thread()
                if self.timeout_s > 0:
                    self.due = time.monotonic() + self.timeout_s
                self._deadlines._add(self)
        except BaseException:
            self._end()  # The limit of somebody further out was passed here.
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        with shielded():
            # An exception that was under way when the work ended: the work counts as done, and there will be no second one.
            self._deadlines._discard(self)
            if self._thread is not None:
                self._thread.forget(self.exception)

    def _fire(self) -> None:
        self.fired = True
        if self._thread is not None:
            self._thread.interrupt(self.exception)


class Deadlines:
    """Watches any number of limits with one thread, which is started when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._watches: set[Watch] = set()
        self._next = _NEVER
        self._thread: threading.Thread | None = None
        self._closed = False

    def limit(self, timeout_s: float | None, exception: type[BaseException] = JobTimeoutException, **_: Any) -> Watch:
        """A limit of `timeout_s` seconds from the moment the block is entered; None, 0 or less: none.

        The signature is that of RQ's death penalties, so that RQ uses it for its callbacks too.
        """
        return Watch(self, timeout_s or 0, exception)

    def interrupt(self, watch: Watch, exception: type[BaseException]) -> bool:
        """Raise `exception` in the watched thread now, or when it enters its block. False if it is too late."""
        with self._lock:
            if watch.over or watch.fired:
                return False
            watch.exception = exception
            self._fire(watch)
            return True

    def close(self) -> None:
        """End the watching thread. Limits that are still running are not enforced any more."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
            self._changed.notify()
        if thread is not None:
            thread.join()

    def _add(self, watch: Watch) -> None:
        with self._lock:
            if watch.fired:
                raise watch.exception()
            self._watches.add(watch)
            if self._thread is None:
                self._closed = False
                self._thread = threading.Thread(target=self._run, name="job-deadlines", daemon=True)
                self._thread.start()
            if watch.due < self._next:
                self._next = watch.due
                self._changed.notify()

    def _discard(self, watch: Watch) -> None:
        with self._lock:
            watch.over = True
            self._watches.discard(watch)

    def _fire(self, watch: Watch) -> None:
        self._watches.discard(watch)
        watch._fire()

    def _run(self) -> None:
        with self._lock:
            while not self._closed:
                now = time.monotonic()
                for watch in [watch for watch in self._watches if watch.due <= now]:
                    watch.exception = _with_message(
                        watch.exception, f"Task exceeded maximum timeout value ({watch.timeout_s} seconds)"
                    )
                    self._fire(watch)
                self._next = min((watch.due for watch in self._watches), default=_NEVER)
                self._changed.wait(None if self._next == _NEVER else max(0.0, self._next - now))


def _with_message(kind: type[BaseException], message: str) -> type[BaseException]:
    """A subclass of `kind` that needs no arguments: an exception for another thread can only be given as a class."""

    def __init__(self: BaseException) -> None:  # noqa: N807
        kind.__init__(self, message)

    names = {"__init__": __init__, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), names)
