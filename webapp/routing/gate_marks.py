"""What Redis said a moment ago: targets against which there was nothing. Calls to them begin without asking it again.

A mark is good for `CLEAN_S` from when the question was sent, or for as long as an open circuit stays open, if that is shorter:
so none is left from before the opening when a circuit may be probed.
"""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from webapp.routing.gate_values import Grant

CLEAN_S = 0.25
_MARKS_MAX = 1000


class _Mark(NamedTuple):
    until: float
    grant: Grant


class CleanMarks:
    """The marks of this process. Safe for threads."""

    def __init__(self) -> None:
        self._marks: dict[str, _Mark] = {}
        self._guard = threading.Lock()
        self.times_forgotten = 0
        """To be read before Redis is asked, and given to `note` with its answer: that may lack what was told meanwhile."""

    def grant(self, target: str) -> Grant | None:
        """What Redis granted a moment ago, for every call that begins now; None if it has to be asked."""
        mark = self._marks.get(target)
        return mark.grant if mark is not None and time.monotonic() < mark.until else None

    def note(self, grant: Grant, until: float, times_forgotten: int) -> None:
        """Redis has granted a call without limits and has nothing against its target. Not noted if anything was forgotten since
        it was asked."""
        with self._guard:
            if times_forgotten != self.times_forgotten:
                return
            if len(self._marks) >= _MARKS_MAX:
                self._marks.clear()
            self._marks[grant.target] = _Mark(until, grant)

    def forget(self, name: str = "") -> None:
        """Ask Redis again: about a target (`provider/model`), about all targets of a provider, without a name about all."""
        with self._guard:
            self.times_forgotten += 1
            if "/" in name:
                self._marks.pop(name, None)
            else:
                for target in [target for target in self._marks if not name or target.partition("/")[0] == name]:
                    del self._marks[target]
