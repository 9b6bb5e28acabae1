"""Time limits for jobs that run in threads: one thread watches them all and raises in the thread that is overdue.

RQ's own limits do not fit threads: SIGALRM reaches the main thread only, and its timer class starts one more thread
per job and may fire after the job has ended.

Known sharp edge: Python raises an exception in another thread between two bytecodes. A call that blocks in C (a
`recv`, a `sleep`, a lock) is not interrupted; it ends by its own time-out first. So whoever waits for the network
inside a job gives what remains of the job's time to the HTTP client, and this limit is for the rest.
"""

from __future__ import annotations

import ctypes
import threading
import time
from types import TracebackType
from typing import Any

from rq.timeouts import JobTimeoutException

# A prototype of our own: `ctypes.pythonapi.PyThreadState_SetAsyncExc` is one object for the whole process, and giving
# it argument types would change it under everybody else who uses it.
_raise_in = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.py_object)(("PyThreadState_SetAsyncExc", ctypes.pythonapi))
_NOTHING = ctypes.py_object()

_NEVER = float("inf")


class JobStopped(BaseException):
    """Raised in a job's thread when somebody stops the job. Not an `Exception`: a job's own error handling must let it
    by."""


class Watch:
    """The limit of one piece of work, used once, as a context manager in the thread that does the work.

    At most one exception is ever raised in that thread, and none after the block was left. There is no lock on the
    side of the watched thread: an exception that arrives just after a lock was taken would leave it taken for good.
    Instead each side says what it is about to do before it looks at the other: the watcher sets `raising` and then
    reads `over`, the watched thread sets `over` and then reads `raising`.
    """

    __slots__ = ("_deadlines", "due", "exception", "over", "raised", "raising", "thread_id", "timeout_s")

    def __init__(self, deadlines: Deadlines, timeout_s: float, exception: type[BaseException]) -> None:
        self._deadlines = deadlines
        self.timeout_s = timeout_s
        self.exception = exception
        self.due = _NEVER
        self.thread_id = 0
        self.over = False
        self.raising = False
        self.raised = False

    def __enter__(self) -> Watch:
        self.thread_id = threading.get_ident()
        if self.timeout_s > 0:
            self.due = time.monotonic() + self.timeout_s
        self._deadlines._add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        while True:
            try:
                self.over = True
                if self.raising:
                    while not self.raised:
                        time.sleep(0)
                    _raise_in(self.thread_id, _NOTHING)
                break
            except BaseException as late:
                # It was under way when the work ended: the work counts as done, and there will be no second one.
                if type(late) is not self.exception:
                    raise
        self._deadlines._discard(self)


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
            if watch.over or watch.raising:
                return False
            watch.exception = exception
            if watch in self._watches:
                self._fire(watch)
            else:
                watch.raising = watch.raised = True
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
            if watch.raising:
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
            self._watches.discard(watch)

    def _fire(self, watch: Watch) -> None:
        self._watches.discard(watch)
        watch.raising = True
        if not watch.over:
            _raise_in(watch.thread_id, ctypes.py_object(watch.exception))
        watch.raised = True

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
