"""An attended request that is read by a thread of its own, so that whoever streams it hears of it at least once a second.

A web server notices that its client has gone when it writes, and a vendor may be silent for a minute. So the thread that serves
the client must come back meanwhile; the one that waits for the vendor is told when nobody wants the answer any more.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import cast

from flask import Flask, current_app

from webapp.contracts.calls import ToolPiece
from webapp.contracts.pictures import Progress
from webapp.contracts.texts import frames
from webapp.pipeline import lease
from webapp.pipeline.attended import Attended
from webapp.routing import http

log = logging.getLogger(__name__)

Piece = str | ToolPiece | Progress

EVERY_S = 0.9
"""Seconds of silence after which whoever reads is told that there is nothing yet."""
_ENDS_WITHIN_S = 2.0

# Their number is bounded by that of the web server's threads, of which each stream has one. Threads stay for the next stream.
_readers = ThreadPoolExecutor(2048, "relay")


class Relay:
    """Reads `running` from its making on. Close it, unless it was read to its end: then the vendor's call is ended, and what
    was produced is charged."""

    def __init__(self, running: Attended) -> None:
        self._running = running
        self._came: SimpleQueue[Piece | None] = SimpleQueue()
        self._first: list[Piece | None] = []
        self._unwanted = threading.Event()
        self._ended = threading.Event()
        app = cast(Flask, current_app._get_current_object())  # type: ignore[attr-defined]
        _readers.submit(copy_context().run, self._read, app)

    def begins(self, within_s: float) -> bool:
        """Wait for the first piece. False if there is none: it has ended without one."""
        try:
            self._first = [self._came.get(timeout=within_s)]
        except Empty:
            return True
        return self._first != [None]

    def pieces(self) -> Iterator[list[Piece]]:
        """What came, as much as there is at a time; nothing for each second in which nothing came."""
        while True:
            try:
                piece = self._first.pop() if self._first else self._came.get(timeout=EVERY_S)
            except Empty:
                yield []
                continue
            found: list[Piece] = []
            try:
                while piece is not None:
                    found.append(piece)
                    piece = self._came.get_nowait()
            except Empty:
                yield found
                continue
            if found:
                yield found
            return

    def close(self) -> None:
        """Let it end now, if it has not ended, and wait until that is on the books."""
        if self._ended.is_set():
            return
        self._unwanted.set()
        lease.ask_to_stop(self._running.claimed.claim)
        self._ended.wait(_ENDS_WITHIN_S)

    def _read(self, app: Flask) -> None:
        try:
            with (
                app.app_context(),
                http.given_up_when(self._unwanted.is_set),
                closing(self._running.pieces()) as pieces,
            ):
                for piece in pieces:
                    self._came.put(piece)
                    if self._unwanted.is_set():
                        break
        except GeneratorExit:
            log.debug("nobody wanted the answer to request %s any more", self._running.claimed.id)
        except BaseException as exc:
            # The reader finds that there is no ending.
            log.error("request %s broke off: %s\n%s", self._running.claimed.id, type(exc).__name__, frames(exc))
        finally:
            self._ended.set()
            self._came.put(None)
