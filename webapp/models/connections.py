"""A driver's connections, kept open for the shortest way (`webapp.models.straight`): taking one and giving it back costs next
to nothing, where SQLAlchemy's pool costs as much as the statement."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from typing import Any

from sqlalchemy import Engine

_WAIT_S = 30.0


class Unusual(Exception):
    """The straight way does not serve here: go the general one. Nothing was changed."""


class Connections:
    """At most `size` connections of an engine; who finds none waits. Last used first. Safe for threads."""

    def __init__(self, engine: Engine, size: int) -> None:
        self._engine = engine
        self._size = size
        self._idle: deque[Any] = deque()
        self._free = threading.Condition()
        self.open = self._waiting = 0

    def take(self) -> Any:
        """A connection, to be given back or dropped. `Unusual` if none was free for half a minute."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._take_slowly()

    def give(self, driver: Any) -> None:
        """Give a connection back that is in no transaction."""
        self._idle.append(driver)
        if self._waiting:
            with self._free:
                self._free.notify()

    def drop(self, driver: Any) -> None:
        """Give up a connection of which it is not known what it is in the middle of."""
        with contextlib.suppress(Exception):
            driver.close()
        with self._free:
            self.open -= 1
            self._free.notify()

    def close(self) -> None:
        """Close those that nobody uses now."""
        with contextlib.suppress(IndexError):
            while True:
                self.drop(self._idle.pop())

    def _take_slowly(self) -> Any:
        ends = time.monotonic() + _WAIT_S
        with self._free:
            # Said before looking: who gives one back after this look has seen it.
            self._waiting += 1
            try:
                while True:
                    if self._idle:
                        with contextlib.suppress(IndexError):
                            return self._idle.pop()
                    if self.open < self._size:
                        self.open += 1
                        break
                    if not self._free.wait(ends - time.monotonic()):
                        raise Unusual("no connection is free")
            finally:
                self._waiting -= 1
        try:
            kept = self._engine.raw_connection()
            driver = kept.driver_connection
            kept.detach()
            return driver
        except BaseException:
            with self._free:
                self.open -= 1
                self._free.notify()
            raise
