"""How many threads of the web server may be lent to what waits: to answers that are watched, to calls that wait for a vendor,
and to bodies that have not come yet. Each takes a thread for as long as it lasts, so without an end one person's tabs, one
token's calls or one stranger's slow bodies would leave no thread to anybody."""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from flask import Flask, current_app

from webapp.settings import Settings

PER_PERSON = 8
"""A browser opens six connections to one host; this is room for a second one."""
FOR_PAGES = 32
"""Threads of each process, but at most a quarter of them, that are never lent to streams and attended calls."""
NEVER_LENT = 16
"""Threads of each process, but at most an eighth of them, that are not even lent to bodies: pages and health have these."""
BODIES_PER_ADDRESS = 16
"""A connection whose body does not come cannot be closed from here, so these may be lost for as long as it stays open."""
RETRY_AFTER_S = 5

_STUCK_S = 1.0
"""If the last body that was begun is older than this, the others before it are slow, and nobody waits for them."""
_NAME = "switchhook.seats"

Key = TypeVar("Key", uuid.UUID, str)
P = ParamSpec("P")


class _Sender:
    """The bodies of one address: how many are being read, when the last one was begun, and who waits for a turn."""

    __slots__ = ("begun_at", "reading", "turns")

    def __init__(self) -> None:
        self.reading = 0
        self.begun_at = 0.0
        self.turns: deque[threading.Lock] = deque()


class Seats:
    """What is lent of the threads of this process. Safe to use from all of them."""

    def __init__(self, threads: int) -> None:
        self._total = max(1, threads * 3 // 4, threads - FOR_PAGES)
        self._most = max(1, threads - max(1, min(NEVER_LENT, threads // 8)))
        self._half = max(4, threads // 2)
        self._share = max(1, self._total // 2)
        self._lock = threading.Lock()
        self._taken: dict[uuid.UUID, int] = {}
        self._attended: dict[str, int] = {}
        self._lent = 0
        self._senders: dict[str, _Sender] = {}
        self._bodies = 0
        self._begun_at = 0.0

    # -- streams of the pages and of /api ------------------------------------------------------------------------------
    def take(self, person_id: uuid.UUID) -> Callable[[], None] | None:
        """What gives the seat back, however often it is called; None if there is no seat, for this person or at all."""
        with self._lock:
            taken = self._taken.get(person_id, 0)
            if taken >= PER_PERSON or self._full():
                return None
            self._lent += 1
            self._taken[person_id] = taken + 1
        return _once(self._leave, self._taken, person_id)

    # -- attended calls ------------------------------------------------------------------------------------------------
    def attend(self, key: str) -> Callable[[], None] | None:
        """The same for a call of `/v1`, streamed or not: `key` is its token, which is known here for as long as calls of it
        run, and may have half of all seats."""
        with self._lock:
            taken = self._attended.get(key, 0)
            if taken >= self._share or self._full():
                return None
            self._lent += 1
            self._attended[key] = taken + 1
        return _once(self._leave, self._attended, key)

    def has_its_share(self, key: str) -> bool:
        """Whether the calls of this token have all the seats that they may have."""
        return self._attended.get(key, 0) >= self._share

    def _full(self) -> bool:
        return self._lent >= self._total or self._lent + self._bodies >= self._most

    def _leave(self, taken: dict[Key, int], key: Key) -> None:
        with self._lock:
            self._lent -= 1
            left = taken[key] - 1
            if left > 0:
                taken[key] = left
            else:
                # Or there would be one for everybody who was ever here.
                del taken[key]

    # -- bodies --------------------------------------------------------------------------------------------------------
    def receive(self, address: str) -> Callable[[], None] | None:
        """The same for a body that is about to be read, which may be there already or never come. An address that has as
        many as it may have waits a second for its turn, if they are not stuck: a crowd behind one address gets through."""
        moment = time.monotonic()
        with self._lock:
            sender = self._senders.get(address)
            crowded = sender is not None and sender.reading >= BODIES_PER_ADDRESS
            if (
                self._lent + self._bodies >= self._most
                or (self._bodies >= self._half and moment - self._begun_at > _STUCK_S)
                or (crowded and sender is not None and moment - sender.begun_at > _STUCK_S)
            ):
                return None
            if sender is None:
                sender = self._senders[address] = _Sender()
            self._bodies += 1
            turn = threading.Lock() if crowded else None
            if turn is not None:
                turn.acquire()
                sender.turns.append(turn)
            else:
                sender.reading += 1
                self._begun_at = sender.begun_at = moment
        if turn is not None and not turn.acquire(timeout=_STUCK_S):
            with self._lock:
                # Somebody may have given it the turn just now.
                if turn in sender.turns:
                    sender.turns.remove(turn)
                    self._bodies -= 1
                    return None
        return _once(self._received, address, sender)

    def _received(self, address: str, sender: _Sender) -> None:
        with self._lock:
            self._bodies -= 1
            if sender.turns:
                self._begun_at = sender.begun_at = time.monotonic()
                sender.turns.popleft().release()
                return
            sender.reading -= 1
            if not sender.reading:
                del self._senders[address]


def _once(leave: Callable[P, None], *args: P.args, **values: P.kwargs) -> Callable[[], None]:
    taken = threading.Lock()

    def left() -> None:
        # Both the end of the stream and the end of the response call this, and not always in the same thread.
        if taken.acquire(blocking=False):
            leave(*args, **values)

    return left


def prepare(app: Flask, settings: Settings) -> None:
    """Give the application its seats."""
    app.extensions[_NAME] = Seats(settings.web_threads)


def take(person_id: uuid.UUID) -> Callable[[], None] | None:
    """A seat in the running application: see `Seats.take`."""
    return cast(Seats, current_app.extensions[_NAME]).take(person_id)
