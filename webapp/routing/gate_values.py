"""The values of the resilience layer: what a caller gives and gets, and what both keepers of its state answer.

There are two keepers with one algorithm: Redis (`gate_script`), which all processes share, and this process's memory
(`gate_local`), while Redis is away. Both count in whole milliseconds, and take a moment in place of their clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol

MINUTE_MS = 60_000
# A circuit that nobody has touched for so long is forgotten.
FORGET_MS = 86_400_000
# When somebody else's call will end is not known: whoever waits for it is told to ask again after this time.
ASK_AGAIN_MS = 1_000
# Beyond this number of circuits per provider the forgotten ones are swept out when another is added.
CIRCUITS_KEPT = 64
TOKENS_MAX = 10**9


@dataclass(frozen=True, slots=True)
class Pace:
    """Limits of one provider over all its targets; None: no limit. `ValueError` for a limit below 1."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None

    def __post_init__(self) -> None:
        for limit in (self.requests_per_minute, self.tokens_per_minute, self.concurrent):
            if limit is not None and not 1 <= limit <= TOKENS_MAX:
                raise ValueError("a limit is a number from 1 to a billion, or None")

    def share(self, processes: int) -> Pace:
        """What one of so many processes may use when they cannot count together: rounded down, at least 1."""

        def part(limit: int | None) -> int | None:
            return None if limit is None else max(1, limit // processes)

        return Pace(part(self.requests_per_minute), part(self.tokens_per_minute), part(self.concurrent))


class Denial(StrEnum):
    """Why a call may not begin now."""

    OPEN = "open"
    PAUSED = "paused"
    REQUESTS = "requests"
    TOKENS = "tokens"
    CONCURRENT = "concurrent"


class Entered(NamedTuple):
    """The call may begin. `minute`: where its tokens are counted, -1: nowhere. `held`: it takes a place of `concurrent`.
    `flawed`: calls to the target have gone bad in a row, so that one that goes well has something to say."""

    generation: int
    minute: int
    held: bool
    probe: bool
    flawed: bool = True


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave to make one call, to be ended once by `leave`. Calls that nothing limits may be given one and the same.

    `tokens` are those reserved, `local` says that this process granted it by itself while Redis was away. `lease` and `entered`
    are for `leave` and mean nothing to others.
    """

    provider: str
    target: str
    lease: str
    entered: Entered
    tokens: int
    local: bool

    @property
    def probe(self) -> bool:
        """Whether this call alone tries a target that was failing."""
        return self.entered.probe


@dataclass(frozen=True, slots=True)
class Denied:
    """No call now. `wait_s`: seconds until it is worth asking again; `detail`: why, for operators."""

    reason: Denial
    wait_s: float
    detail: str


class Verdict(StrEnum):
    """What a call said about its target: it works, it fails, or nothing (the caller's fault, or cancelled)."""

    GOOD = "good"
    BAD = "bad"
    NEUTRAL = "neutral"


@dataclass(frozen=True, slots=True)
class Circuit:
    """The breaker of a target that has failed lately.

    `state` is closed, open or probing; `failures` in a row. `opened_at`: since when it has not been closed. `until`: when
    the next probe may go (open; in the past if none has asked), or when the present one is given up (probing).
    """

    target: str
    state: str
    failures: int
    opened_at: datetime | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Rest:
    """A target that is left alone by itself: until when (aware UTC), and why."""

    target: str
    until: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class ProviderState:
    """A provider as the gate sees it. What its pace does not limit is not counted, so it is 0 here.

    The two counts per minute are those of the sliding window, rounded up. `shared` False: Redis is away, and this is the
    view of one process. Circuits without failures are left out. `paused_until` is the pause of the whole provider, `rests`
    are those of single targets.
    """

    provider: str
    in_flight: int
    requests_last_minute: int
    tokens_last_minute: int
    paused_until: datetime | None
    pause_reason: str
    circuits: tuple[Circuit, ...]
    shared: bool
    rests: tuple[Rest, ...] = ()

    def pause_of(self, target: str) -> tuple[datetime | None, str]:
        """Until when no call to the target begins, and why: its provider's pause or its own; (None, '') for neither."""
        own = next(((rest.until, rest.reason) for rest in self.rests if rest.target == target), None)
        if own is not None and (self.paused_until is None or own[0] > self.paused_until):
            return own
        return self.paused_until, self.pause_reason


class Wish(NamedTuple):
    """A call that would like to begin."""

    target: str
    lease: str
    hold_ms: int
    tokens: int
    pace: Pace


class Refused(NamedTuple):
    """The call may not begin. `reason` is a `Denial`, "probing", or "resting" for a target that is paused by itself; `info` the
    reason of a pause or a number of failures."""

    reason: str
    wait_ms: int
    info: str


class Ended(NamedTuple):
    """A call that has ended. `change`: tokens used less tokens reserved."""

    target: str
    lease: str
    entered: Entered
    change: int
    verdict: Verdict
    failures: int
    open_ms: int


class CircuitView(NamedTuple):
    """A circuit in the keeper's milliseconds; 0: none."""

    target: str
    state: str
    failures: int
    opened_ms: int
    until_ms: int


class RestView(NamedTuple):
    """The pause of a target in the keeper's milliseconds."""

    target: str
    until_ms: int
    reason: str


class View(NamedTuple):
    """A provider in the keeper's milliseconds."""

    now_ms: int
    in_flight: int
    requests: int
    tokens: int
    paused_until_ms: int
    pause_reason: str
    circuits: tuple[CircuitView, ...]
    rests: tuple[RestView, ...] = ()


class Keeper(Protocol):
    """Keeps the state of all providers. `at_ms` stands for its clock when it is not 0."""

    def enter(self, provider: str, wish: Wish, at_ms: int = 0) -> Entered | Refused:
        """Check everything, then take everything or nothing."""

    def leave(self, provider: str, ended: Ended, at_ms: int = 0) -> str:
        """Give back the place, correct the tokens, count the verdict. What that did to the circuit: "opened", "reopened",
        "closed" or ""."""

    def pause(self, provider: str, pause_ms: int, reason: str, at_ms: int = 0, *, target: str = "") -> None:
        """Let no call begin for so long, of the provider or only of a target; the later end wins over a pause that is there."""

    def reset(self, provider: str, at_ms: int = 0) -> None:
        """Close all circuits, end all pauses."""

    def look(self, provider: str, at_ms: int = 0) -> View:
        """The provider as it is now."""

    def is_open(self, provider: str, target: str, at_ms: int = 0) -> bool:
        """Whether the circuit would keep a call from beginning now."""
