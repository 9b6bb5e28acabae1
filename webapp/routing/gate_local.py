"""The gate's state in this process's memory, for as long as Redis is away: the algorithm of `gate_script`, step by step.

What belongs to one provider is under one lock. Time is the monotonic clock, in whole milliseconds.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from webapp.routing.gate_values import (
    ASK_AGAIN_MS,
    CIRCUITS_KEPT,
    FORGET_MS,
    MINUTE_MS,
    CircuitView,
    Denial,
    Ended,
    Entered,
    Refused,
    RestView,
    Verdict,
    View,
    Wish,
)


@dataclass(slots=True)
class _Circuit:
    generation: int = 0
    failures: int = 0
    opened: int = 0
    # When it may be probed; 0: it is closed.
    shut: int = 0
    probe: str = ""
    probe_till: int = 0
    touched: int = 0


@dataclass(slots=True)
class _Windows:
    """Requests and tokens of the newest minute and of the one before."""

    minute: int = -9
    new: list[int] = field(default_factory=lambda: [0, 0])
    old: list[int] = field(default_factory=lambda: [0, 0])

    def at(self, now: int) -> tuple[int, int, list[int], list[int]]:
        """The minute, how much of it is gone, and the counts of it and of the one before; changes nothing."""
        minute, gone = divmod(now, MINUTE_MS)
        if self.minute == minute + 1:
            minute, gone = self.minute, 0
        if self.minute == minute:
            return minute, gone, list(self.new), list(self.old)
        return minute, gone, [0, 0], list(self.new) if self.minute == minute - 1 else [0, 0]


@dataclass(slots=True)
class _Provider:
    lock: threading.Lock = field(default_factory=threading.Lock)
    held: dict[str, int] = field(default_factory=dict)
    windows: _Windows = field(default_factory=_Windows)
    circuits: dict[str, _Circuit] = field(default_factory=dict)
    paused_till: int = 0
    pause_reason: str = ""
    # Of targets that are paused by themselves: until when, and why.
    rests: dict[str, tuple[int, str]] = field(default_factory=dict)

    def circuit(self, target: str, now: int) -> _Circuit:
        """The target's circuit, or a new one that is not kept yet."""
        known = self.circuits.get(target)
        return known if known and max(known.shut, known.touched) + FORGET_MS >= now else _Circuit()

    def save(self, target: str, circuit: _Circuit, now: int) -> None:
        """Keep a circuit that has changed."""
        if len(self.circuits) >= CIRCUITS_KEPT and target not in self.circuits:
            self.circuits = {t: c for t, c in self.circuits.items() if max(c.shut, c.touched) + FORGET_MS >= now}
        circuit.touched = now
        self.circuits[target] = circuit


def _wait_ms(old: int, new: int, gone: int, amount: int, most: int) -> int:
    """How long until `amount` more fits under `most`, if nobody else takes any; 0: it fits now.

    It fits when the window holds no more than `room`. What is above the limit alone needs an empty window.
    """
    room = max(most - amount, 0)
    if old * (MINUTE_MS - gone) + new * MINUTE_MS <= room * MINUTE_MS:
        return 0
    if new <= room:
        return MINUTE_MS - gone - (room - new) * MINUTE_MS // old
    return MINUTE_MS - gone + MINUTE_MS - room * MINUTE_MS // new


class LocalGate:
    """The state in memory; see `Keeper`. Safe for threads."""

    def __init__(self) -> None:
        self._providers: dict[str, _Provider] = {}

    def _of(self, provider: str) -> _Provider:
        known = self._providers.get(provider)
        return known if known is not None else self._providers.setdefault(provider, _Provider())

    def _seen(self, provider: str) -> _Provider:
        """For looking only: names that are merely asked about are not kept."""
        return self._providers.get(provider) or _Provider()

    def enter(self, provider: str, wish: Wish, at_ms: int = 0) -> Entered | Refused:
        """Check everything, then take everything or nothing."""
        now, state, pace = at_ms or _clock(), self._of(provider), wish.pace
        with state.lock:
            if state.paused_till > now:
                return Refused(Denial.PAUSED, state.paused_till - now, state.pause_reason)
            till, why = state.rests.get(wish.target, (0, ""))
            if till > now:
                return Refused("resting", till - now, why)
            circuit = state.circuit(wish.target, now)
            if circuit.shut > 0 and now < circuit.shut:
                return Refused(Denial.OPEN, circuit.shut - now, str(circuit.failures))
            if circuit.shut > 0 and now < circuit.probe_till:
                return Refused("probing", min(circuit.probe_till - now, ASK_AGAIN_MS), str(circuit.failures))
            if refused := _beyond_pace(state, wish, now):
                return refused
            minute = _count(state, wish, now)
            if pace.concurrent is not None:
                state.held[wish.lease] = now + wish.hold_ms
            if circuit.shut > 0:
                circuit.probe, circuit.probe_till = wish.lease, now + wish.hold_ms
                state.save(wish.target, circuit, now)
            return Entered(
                circuit.generation,
                -1 if pace.tokens_per_minute is None else minute,
                pace.concurrent is not None,
                circuit.shut > 0,
                circuit.failures > 0,
            )

    def leave(self, provider: str, ended: Ended, at_ms: int = 0) -> str:
        """Give back the place, correct the tokens, count the verdict."""
        now, state = at_ms or _clock(), self._of(provider)
        with state.lock:
            state.held.pop(ended.lease, None)
            if ended.entered.minute >= 0:
                _correct(state.windows, ended.entered.minute, ended.change)
            return _judge(state, ended, now)

    def pause(self, provider: str, pause_ms: int, reason: str, at_ms: int = 0, *, target: str = "") -> None:
        """Let no call begin for so long, of the provider or only of a target; the later end wins over a pause that is there."""
        now, state = at_ms or _clock(), self._of(provider)
        with state.lock:
            if target:
                state.rests = {name: rest for name, rest in state.rests.items() if rest[0] > now}
                if now + pause_ms > state.rests.get(target, (0, ""))[0]:
                    state.rests[target] = now + pause_ms, reason
            elif now + pause_ms > state.paused_till:
                state.paused_till, state.pause_reason = now + pause_ms, reason

    def reset(self, provider: str, at_ms: int = 0) -> None:
        """Close all circuits, end all pauses."""
        now, state = at_ms or _clock(), self._of(provider)
        with state.lock:
            state.paused_till, state.pause_reason = 0, ""
            state.rests.clear()
            for target in list(state.circuits):
                # A new generation: what calls from before still have to say is late.
                state.save(target, _Circuit(state.circuit(target, now).generation + 1), now)

    def look(self, provider: str, at_ms: int = 0) -> View:
        """The provider as it is now."""
        now, state = at_ms or _clock(), self._seen(provider)
        with state.lock:
            _, gone, new, old = state.windows.at(now)
            requests, tokens = (
                -(-(o * (MINUTE_MS - gone) + n * MINUTE_MS) // MINUTE_MS) for n, o in zip(new, old, strict=True)
            )
            paused = state.paused_till > now
            circuits = []
            for target in state.circuits:
                c = state.circuit(target, now)
                if 0 < c.shut <= now < c.probe_till:
                    circuits.append(CircuitView(target, "probing", c.failures, c.opened, c.probe_till))
                elif c.shut > 0 or c.failures > 0:
                    word = "open" if c.shut > 0 else "closed"
                    circuits.append(CircuitView(target, word, c.failures, c.opened, c.shut))
            return View(
                now,
                sum(till > now for till in state.held.values()),
                requests,
                tokens,
                state.paused_till if paused else 0,
                state.pause_reason if paused else "",
                tuple(sorted(circuits)),
                tuple(sorted(RestView(target, till, why) for target, (till, why) in state.rests.items() if till > now)),
            )

    def is_open(self, provider: str, target: str, at_ms: int = 0) -> bool:
        """Whether the circuit would keep a call from beginning now."""
        now, state = at_ms or _clock(), self._seen(provider)
        with state.lock:
            circuit = state.circuit(target, now)
            return circuit.shut > 0 and (now < circuit.shut or now < circuit.probe_till)


def _clock() -> int:
    return int(time.monotonic() * 1000)


def _beyond_pace(state: _Provider, wish: Wish, now: int) -> Refused | None:
    """The limit that keeps the call waiting longest, None if it is within all of them."""
    pace, reason, wait = wish.pace, "", 0
    if pace.concurrent is not None:
        state.held = {lease: till for lease, till in state.held.items() if till > now}
        if len(state.held) >= pace.concurrent:
            reason, wait = Denial.CONCURRENT, min(min(state.held.values()) - now, ASK_AGAIN_MS)
    _, gone, new, old = state.windows.at(now)
    for i, amount, most, name in (
        (0, 1, pace.requests_per_minute, Denial.REQUESTS),
        (1, wish.tokens, pace.tokens_per_minute, Denial.TOKENS),
    ):
        if most is not None and amount > 0:
            needed = _wait_ms(old[i], new[i], gone, amount, most)
            if needed > wait:
                reason, wait = name, needed
    return Refused(reason, wait, "") if reason else None


def _count(state: _Provider, wish: Wish, now: int) -> int:
    """Count what is limited; gives the minute it is counted in, -1 if nothing is."""
    pace = wish.pace
    if pace.requests_per_minute is None and pace.tokens_per_minute is None:
        return -1
    minute, _, new, old = state.windows.at(now)
    if pace.requests_per_minute is not None:
        new[0] += 1
    if pace.tokens_per_minute is not None:
        new[1] += wish.tokens
    state.windows.minute, state.windows.new, state.windows.old = minute, new, old
    return minute


def _correct(windows: _Windows, minute: int, change: int) -> None:
    """Change the tokens of a minute that still matters."""
    if minute == windows.minute:
        windows.new[1] = max(0, windows.new[1] + change)
    elif minute == windows.minute - 1:
        windows.old[1] = max(0, windows.old[1] + change)


def _judge(state: _Provider, ended: Ended, now: int) -> str:
    """Count the verdict, unless it is late or says nothing; what that did to the circuit."""
    circuit, probe, verdict = state.circuit(ended.target, now), ended.entered.probe, ended.verdict
    if circuit.generation != ended.entered.generation:
        return ""
    if circuit.probe != ended.lease if probe else (circuit.shut > 0 or verdict is Verdict.NEUTRAL):
        return ""
    change = ""
    if verdict is Verdict.BAD:
        circuit.failures += 1
        if probe or circuit.failures >= ended.failures:
            circuit.generation += 1
            circuit.shut = now + ended.open_ms
            circuit.opened = circuit.opened if probe else now
            change = "reopened" if probe else "opened"
    elif verdict is Verdict.GOOD:
        if not probe and circuit.failures == 0:
            return ""
        circuit.failures = circuit.opened = circuit.shut = 0
        change = "closed" if probe else ""
    circuit.probe, circuit.probe_till = "", 0
    state.save(ended.target, circuit, now)
    return change
