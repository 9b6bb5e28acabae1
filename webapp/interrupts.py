"""Exceptions that one thread raises in another, and shields against them.

A job's time limit and a stop command have to end work that runs in a thread, and Python can raise an exception there between
any two bytecodes. Most code bears that. A transaction does not: the exception can land just after a lock was taken, or in the
middle of what a driver says to its database, and then the lock is never given back. So such code stands in `with shielded():`,
and what comes meanwhile is raised where the shield ends.

How both sides keep out of each other's way, without a lock on the side of the thread that may be interrupted: each says what
it is about to do before it looks at the other. The interrupter sets `_sending` and then reads `_shields`; the thread sets
`_shields` and then reads `_sending`. So either the interrupter sees the shield and leaves the exception in `_waiting`, or the
thread sees that one is being sent, waits until it has arrived, and puts it there itself.
"""

from __future__ import annotations

import ctypes
import threading
import time
from types import TracebackType

# A prototype of our own: `ctypes.pythonapi.PyThreadState_SetAsyncExc` is one object for the whole process, and giving
# it argument types would change it under everybody else who uses it.
_raise_in = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.py_object)(("PyThreadState_SetAsyncExc", ctypes.pythonapi))


class Interruptible:
    """A thread as those see it who may interrupt it. Got by the thread itself, from `this_thread`."""

    __slots__ = ("_ident", "_lock", "_sending", "_sent", "_shields", "_waiting")

    def __init__(self) -> None:
        self._ident = threading.get_ident()
        self._lock = threading.Lock()
        """For the interrupters among themselves: the thread itself never takes it."""
        self._shields = 0
        self._sending = False
        self._sent: type[BaseException] | None = None
        """What was raised in the thread and, for all that is known, may still be on its way."""
        self._waiting: list[type[BaseException]] = []

    def interrupt(self, exception: type[BaseException]) -> None:
        """Raise `exception` in the thread: now, or where its shield ends. Does not wait for it."""
        with shielded(), self._lock:  # The interrupter may be somebody's job as well, or this very thread.
            self._waiting.append(exception)
            self._sending = True
            if not self._shields and self._sent is None and self._take(exception):
                self._sent = exception
                _raise_in(self._ident, ctypes.py_object(exception))
            self._sending = False

    def forget(self, exception: type[BaseException]) -> None:
        """Do not raise `exception` any more. For the thread itself, inside a shield: nothing is on its way then."""
        self._take(exception)

    def _take(self, exception: type[BaseException]) -> bool:
        """Whether this caller is the one that raises it. Removing from a list is one step, so there is only one."""
        try:
            self._waiting.remove(exception)
        except ValueError:
            return False
        return True

    def _raise_waiting(self) -> None:
        for exception in tuple(self._waiting):
            if self._take(exception):
                raise exception


class shielded:  # noqa: N801 - reads as the `with` statement that it is made for
    """Nothing that another thread raises arrives inside the block; it is raised where the outermost block ends, which then has
    done its work. Keep it short. A signal's exception, such as `KeyboardInterrupt`, is not held back.

    Costs less than a microsecond. Never yield inside to a caller that may go away.
    """

    __slots__ = ("_thread",)

    def __enter__(self) -> None:
        thread = self._thread = this_thread()
        if thread._shields:
            thread._shields += 1
            return
        while True:
            # Everything in here may be done twice, because an exception may arrive anywhere in here.
            try:
                thread._shields = 1
                while thread._sending:
                    time.sleep(0)
                if thread._sent is not None:
                    # It may have arrived long ago. If not, it does now: Python looks for it after each call and each turn of a
                    # loop. (Taking it back instead has CPython 3.11 look for one without end, in all threads.)
                    for _ in range(2):
                        time.sleep(0)
                    thread._sent = None
                return
            except BaseException as late:
                if type(late) is not thread._sent:
                    thread._shields = 0
                    raise
                thread._waiting.append(type(late))
                thread._sent = None

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        thread = self._thread
        thread._shields -= 1
        if not thread._shields and thread._waiting:
            thread._raise_waiting()


class _Local(threading.local):
    thread: Interruptible | None = None


_local = _Local()


def this_thread() -> Interruptible:
    """The running thread, for those who are to interrupt it."""
    thread = _local.thread
    if thread is None:
        thread = _local.thread = Interruptible()
    return thread
