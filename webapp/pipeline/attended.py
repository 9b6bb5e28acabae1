"""Attended requests: whoever asked waits for the answer, and has it executed by the process that admitted it."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Generator
from typing import Any

import redis

from webapp.contracts.calls import ToolPiece
from webapp.contracts.pictures import Progress
from webapp.extensions import queue_redis
from webapp.pipeline import execute, lease, stream
from webapp.pipeline.brought import Brought
from webapp.pipeline.claims import Claimed
from webapp.pipeline.endings import Ending
from webapp.pipeline.image_work import ImageWork
from webapp.pipeline.text_work import TextWork
from webapp.pipeline.work import Work
from webapp.routing import http
from webapp.routing.route import IMAGES
from webapp.routing.wire import GivenUp

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0


class Attended:
    """One attended request from its admission to its end. Read `pieces` to the end, or close it: both settle it."""

    def __init__(self, claimed: Claimed, brought: Brought | None) -> None:
        self.claimed = claimed
        self.work: Work = ImageWork(claimed) if claimed.operation == IMAGES else TextWork(claimed, brought)
        self.ending: Ending | None = None
        """How it ended, as it is on the books; None before, and where that could not be written down."""

    def pieces(self) -> Generator[str | ToolPiece | Progress, None, None]:
        """What there is to show, as it comes. A vendor's failure is no exception here: `ending` tells of it."""
        # Also while the vendor is silent somebody may ask to stop: then it ends, and `ending` tells how.
        try:
            with http.given_up_when(self._unwanted):
                yield from execute.run(self.claimed, work=self.work, audience=_Unseen(self.claimed.id), note=self._note)
        except GivenUp:
            return

    def _unwanted(self) -> bool:
        return lease.asked_to_stop(self.claimed.claim)

    def _note(self, ending: Ending) -> None:
        self.ending = ending


class _Unseen:
    """Stands where others read along. Nobody does, but somebody may ask to stop: looked at once a second, in Redis."""

    def __init__(self, request_id: uuid.UUID) -> None:
        self._request_id = request_id
        self._next_look = time.monotonic() + _LOOK_EVERY_S

    def piece(self, text: str) -> bool:  # noqa: ARG002
        """True if somebody has asked meanwhile to stop."""
        if time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + _LOOK_EVERY_S
        try:
            return stream.stop_asked(queue_redis(), self._request_id)
        except redis.RedisError:
            return False

    def end(self, status: str) -> None:
        """Nobody has to be told."""


def tool_calls(attended: Attended) -> list[dict[str, Any]]:
    """The tools that the model asked for: {id, name, arguments}."""
    work = attended.work
    if not isinstance(work, TextWork) or not work.asks_for_tools:
        return []
    return [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in work.tool_calls]
