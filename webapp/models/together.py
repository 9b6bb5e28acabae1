"""Group commit for SQLite: it lets one writer in at a time, and most of a small transaction is its commit. So of the threads of
this process that wait to write, the one whose turn it is writes for all, in one transaction.

Each work has a savepoint of its own: one that fails takes back what it did and nothing else.

Between processes SQLite makes who finds it locked ask again after growing pauses, so that it is often free while all wait. So
these writers take turns by the lock of a file beside the database, for which they look far more often; whoever writes without
it is waited for as ever.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from webapp.extensions import one_writer
from webapp.models.connections import Connections, Unusual

_MOST = 32
"""Works in one transaction: those after it wait for all of them."""
_WAIT_S = 15.0
_LOOK_S = 0.0002
"""SQLite itself looks again after 1 ms, 2, 5, and at last each 100."""

Work = Callable[[Any], Any]


class _Turn:
    """One work, and what has become of it. `done` is set last."""

    __slots__ = ("done", "failure", "found", "work")

    def __init__(self, work: Work) -> None:
        self.work = work
        self.found: Any = None
        self.failure: BaseException | None = None
        self.done = False


class Together:
    """The writers of one database in this process."""

    def __init__(self, connections: Connections, queue: Path | None = None) -> None:
        """`queue` is the file that the processes which write the same database queue up at; it is made if it is not there."""
        self._connections = connections
        self._waiting: deque[_Turn] = deque()
        self._queue = queue
        self._handle: int | None = None

    def write(self, work: Work) -> Any:
        """What `work` returns, which is given a driver's connection inside a transaction; committed when this returns.

        It may be run by another thread, so it uses nothing that belongs to its own. What it raises is raised here, and then it
        has written nothing."""
        turn = _Turn(work)
        self._waiting.append(turn)
        with one_writer:
            while not turn.done:
                self._next()
        if turn.failure is not None:
            raise turn.failure
        return turn.found

    def _next(self) -> None:
        """Write for those who have waited longest."""
        turns = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MOST))]
        try:
            driver = self._connections.take()
            try:
                with self._first_of_all_processes():
                    _commit(driver, turns)
            except BaseException:
                self._connections.drop(driver)
                raise
            self._connections.give(driver)
        except BaseException as exc:
            # What was in the transaction is lost for all of them; each goes the general way.
            for turn in turns:
                turn.failure = exc if isinstance(exc, Unusual) else _lost(exc)
            if not isinstance(exc, Exception):
                raise
        finally:
            for turn in turns:
                turn.done = True

    @contextlib.contextmanager
    def _first_of_all_processes(self) -> Iterator[None]:
        if self._queue is None:
            yield
            return
        if self._handle is None:
            self._handle = os.open(self._queue, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        handle = self._handle
        _take(handle)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file, until somebody writes again."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


def _take(handle: int) -> None:
    """Wait for the file's lock. Not for ever: a process that was stopped in its turn holds it."""
    ends = time.monotonic() + _WAIT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > ends:
                raise Unusual("another process writes and does not end") from None
            time.sleep(_LOOK_S)


def _lost(exc: BaseException) -> Unusual:
    failure = Unusual(type(exc).__name__)
    failure.__cause__ = exc
    return failure


def _commit(driver: Any, turns: list[_Turn]) -> None:
    driver.execute("BEGIN IMMEDIATE")
    if len(turns) == 1:
        turn = turns[0]
        try:
            turn.found = turn.work(driver)
        except Exception as exc:
            turn.failure = exc
            driver.execute("ROLLBACK")
            return
    else:
        for turn in turns:
            _within(driver, turn)
    driver.execute("COMMIT")


def _within(driver: Any, turn: _Turn) -> None:
    driver.execute("SAVEPOINT work")
    try:
        turn.found = turn.work(driver)
    except Exception as exc:
        turn.failure = exc
        # Where SQLite itself has undone the whole transaction, there is none to go back to: that fails for all.
        driver.execute("ROLLBACK TO work")
    driver.execute("RELEASE work")
