"""A hosted service answers with a session: it is looked up, with growing pauses, until it has ended."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from plugins.providers.prsm.answers import answer_text, failed
from plugins.providers.prsm.config import LABEL
from plugins.providers.prsm.failures import malformed
from webapp.plugin import ProviderError, TimedOut

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
_GROWTH = 1.5
_FAILURES = 3
"""How many look-ups in a row may fail: the session runs on, and asking anew would pay for it twice."""
_DONE = frozenset({"completed", "complete", "done", "succeeded", "success"})
_BAD = frozenset({"failed", "error", "cancelled", "canceled"})
# It becomes a step of a path, so it must not be able to lead elsewhere.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\Z")


def session_id(document: Mapping[str, Any]) -> str:
    """The id of the session that a call began. Raises `MalformedAnswer` if there is none that can be looked up."""
    for name in ("session_id", "sessionId", "id"):
        value = document.get(name)
        if isinstance(value, str) and _ID.match(value):
            return value
    raise malformed("neither an answer nor a session that can be looked up")


def ended(document: Mapping[str, Any]) -> bool:
    """Whether a session is over, well or badly."""
    status = _status(document)
    if status in _DONE or status in _BAD:
        return True
    return not status and (failed(document) or bool(answer_text(document)))


def as_answer(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """An ended session in the form of an answer: one that came to nothing says so as an answer does."""
    status = _status(document)
    if status not in _BAD:
        return document
    return {"message": f"the session is {status}", **document, "success": False}


def _status(document: Mapping[str, Any]) -> str:
    told = document.get("status")
    return told.lower() if isinstance(told, str) else ""


def wait_for(
    first: Mapping[str, Any], look_up: Callable[[str, float], Mapping[str, Any]], timeout_s: float
) -> Mapping[str, Any]:
    """The session when it has ended. `look_up` gets the id and the seconds left. Raises what it raises, `TimedOut` after
    `timeout_s` seconds."""
    if ended(first):
        return first
    found = session_id(first)
    until = time.monotonic() + timeout_s
    failures = 0
    wish_s: float | None = None
    for pause_s in _pauses():
        left_s = until - time.monotonic()
        wait_s = max(pause_s, wish_s or 0.0)
        if left_s <= wait_s:
            raise TimedOut(f"{LABEL} did not answer in time.", detail=f"the session {found} has not ended")
        time.sleep(wait_s)
        try:
            document = look_up(found, left_s - wait_s)
        except ProviderError as exc:
            failures += 1
            if not exc.retryable or failures >= _FAILURES:
                raise
            wish_s = exc.retry_after_s
            continue
        failures, wish_s = 0, None
        if ended(document):
            return document
    raise AssertionError("the pauses have no end")


def _pauses() -> Iterator[float]:
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(pause_s * _GROWTH, LONGEST_PAUSE_S)
