"""How many answers may be watched at once. Every open stream takes a thread of the web server for as long as it is open, so
without an end one person's tabs would leave no thread to anybody."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable
from typing import cast

from flask import Flask, current_app

from webapp.settings import Settings

PER_PERSON = 8
"""A browser opens six connections to one host; this is room for a second one."""
FOR_PAGES = 32
"""Threads of each process that are never lent to streams."""
RETRY_AFTER_S = 5

_NAME = "switchhook.seats"


class Seats:
    """The streams that are open in this process. Safe to use from all its threads."""

    def __init__(self, threads: int) -> None:
        self._total = max(1, threads - FOR_PAGES)
        self._lock = threading.Lock()
        self._taken: Counter[uuid.UUID] = Counter()

    def take(self, person_id: uuid.UUID) -> Callable[[], None] | None:
        """What gives the seat back, however often it is called; None if there is no seat, for this person or at all."""
        with self._lock:
            if self._taken[person_id] >= PER_PERSON or self._taken.total() >= self._total:
                return None
            self._taken[person_id] += 1
        mine = threading.Semaphore(1)

        def leave() -> None:
            # Both the end of the stream and the end of the response call this, and not always in the same thread.
            if mine.acquire(blocking=False):
                self._leave(person_id)

        return leave

    def _leave(self, person_id: uuid.UUID) -> None:
        with self._lock:
            self._taken[person_id] -= 1
            if self._taken[person_id] <= 0:
                # A counter keeps its zeros: one for everybody who was ever here.
                del self._taken[person_id]


def prepare(app: Flask, settings: Settings) -> None:
    """Give the application its seats."""
    app.extensions[_NAME] = Seats(settings.web_threads)


def take(person_id: uuid.UUID) -> Callable[[], None] | None:
    """A seat in the running application: see `Seats.take`."""
    return cast(Seats, current_app.extensions[_NAME]).take(person_id)
