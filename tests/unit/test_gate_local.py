"""The gate in memory against a model that remembers everything and computes slowly."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.routing.gate_local import LocalGate
from webapp.routing.gate_values import (
    ASK_AGAIN_MS,
    CIRCUITS_KEPT,
    FORGET_MS,
    MINUTE_MS,
    Denial,
    Ended,
    Entered,
    Keeper,
    Pace,
    Refused,
    Verdict,
    Wish,
)

START = 1_000_000 * MINUTE_MS
FAILURES, OPEN_MS = 2, 20_000
UNLIMITED = Pace()


class Enter(NamedTuple):
    target: str
    tokens: int
    hold_ms: int


class Leave(NamedTuple):
    which: int
    verdict: Verdict
    used: int | None


class Wait(NamedTuple):
    ms: int


class Pause(NamedTuple):
    ms: int
    # '': the whole provider.
    target: str = ""


class Reset(NamedTuple):
    pass


PACES = st.builds(
    Pace,
    requests_per_minute=st.none() | st.integers(1, 6),
    tokens_per_minute=st.none() | st.integers(1, 100),
    concurrent=st.none() | st.integers(1, 4),
)
STEPS = st.lists(
    st.one_of(
        st.builds(Enter, st.sampled_from(["p/a", "p/b"]), st.integers(0, 120), st.integers(1, 90_000)),
        st.builds(Enter, st.just("p/a"), st.integers(0, 20), st.integers(5_000, 90_000)),
        st.builds(Leave, st.integers(0, 5), st.sampled_from(Verdict), st.none() | st.integers(0, 150)),
        st.builds(Leave, st.just(0), st.just(Verdict.BAD), st.none()),
        st.builds(Wait, st.integers(1, 100_000)),
        st.builds(Wait, st.integers(1, 3_000)),
        st.builds(Pause, st.integers(1, 40_000)),
        st.builds(Pause, st.integers(1, 40_000), st.just("p/a")),
        st.just(Reset()),
    ),
    min_size=10,
    max_size=60,
)


def wish(target: str = "p/a", lease: str = "1", *, hold_ms: int = 1_000, tokens: int = 0, pace: Pace = UNLIMITED) -> Wish:
    return Wish(target, lease, hold_ms, tokens, pace)


def ended(entered: Any, verdict: Verdict, target: str = "p/a", lease: str = "1", change: int = 0) -> Ended:
    assert isinstance(entered, Entered)
    return Ended(target, lease, entered, change, verdict, FAILURES, OPEN_MS)


def play(keeper: Keeper, pace: Pace, steps: list[Any], offset: int) -> list[Any]:
    """What a keeper answers to the steps, and how it looks after each."""
    now, calls, answers = START + offset, [], []
    for number, step in enumerate(steps):
        answer: Any = None
        match step:
            case Enter(target, tokens, hold_ms):
                answer = keeper.enter("p", wish(target, f"l{number}", hold_ms=hold_ms, tokens=tokens, pace=pace), now)
                if isinstance(answer, Entered):
                    calls.append((target, f"l{number}", tokens, answer))
            case Leave(which, verdict, used) if calls:
                target, lease, tokens, entered = calls.pop(which % len(calls))
                change = 0 if used is None or entered.minute < 0 else used - tokens
                answer = keeper.leave("p", ended(entered, verdict, target, lease, change), now)
            case Wait(ms):
                now += ms
            case Pause(ms, target):
                keeper.pause("p", ms, f"reason {number}", now, target=target)
            case Reset():
                keeper.reset("p", now)
        view = keeper.look("p", now)
        answers.append((answer, view, keeper.is_open("p", "p/a", now), keeper.is_open("p", "p/b", now)))
    return answers


@dataclass
class Call:
    """A call of the model: when it began, in milliseconds and in the order of events."""

    at: int
    order: int
    target: str
    tokens: int
    held_till: int
    probe: bool


@dataclass
class Model:
    """The rules in their plainest form: every call is remembered, every count is a sum over all of them."""

    pace: Pace
    calls: list[Call] = field(default_factory=list)
    under_way: list[Call] = field(default_factory=list)
    # Of every target that has ever failed; of the others nothing is known, also at a reset.
    failures: dict[str, int] = field(default_factory=dict)
    open_until: dict[str, int] = field(default_factory=dict)
    probing: dict[str, Call] = field(default_factory=dict)
    # The order of the last change between open and closed; what began before it is late.
    changed: dict[str, int] = field(default_factory=dict)
    paused_till: int = 0
    resting_till: dict[str, int] = field(default_factory=dict)
    events: int = 0

    def used(self, now: int, tokens: bool) -> Fraction:
        minute, gone = divmod(now, MINUTE_MS)
        return sum(
            (
                Fraction(call.tokens if tokens else 1)
                * (1 if call.at // MINUTE_MS == minute else 1 - Fraction(gone, MINUTE_MS))
                for call in self.calls
                if call.at // MINUTE_MS in (minute, minute - 1)
            ),
            Fraction(0),
        )

    def fits(self, now: int, amount: int, most: int, tokens: bool) -> bool:
        used = self.used(now, tokens)
        return used + amount <= most or used == 0

    def wait(self, now: int, amount: int, most: int | None, tokens: bool) -> int:
        """The shortest wait after which it fits, by halving."""
        if most is None or amount == 0 or self.fits(now, amount, most, tokens):
            return 0
        low, high = 0, 2 * MINUTE_MS
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.fits(now + middle, amount, most, tokens) else (middle, high)
        return high

    def held(self, now: int) -> list[Call]:
        return [call for call in self.under_way if call.held_till > now]

    def enter(self, now: int, step: Enter) -> tuple[set[str], int]:
        """The reasons that may be given for a refusal, and the wait; no reason: granted."""
        if now < self.paused_till:
            return {"paused"}, self.paused_till - now
        if now < (resting_till := self.resting_till.get(step.target, 0)):
            return {"resting"}, resting_till - now
        until = self.open_until.get(step.target, 0)
        if now < until:
            return {"open"}, until - now
        probe = self.probing.get(step.target)
        if until and probe and now < probe.held_till:
            return {"probing"}, min(probe.held_till - now, ASK_AGAIN_MS)
        waits = {
            "requests": self.wait(now, 1, self.pace.requests_per_minute, False),
            "tokens": self.wait(now, step.tokens, self.pace.tokens_per_minute, True),
        }
        if self.pace.concurrent is not None and len(held := self.held(now)) >= self.pace.concurrent:
            waits["concurrent"] = min(min(c.held_till for c in held) - now, ASK_AGAIN_MS)
        longest = max(waits.values())
        if longest:
            return {name for name, wait in waits.items() if wait == longest}, longest
        self.events += 1
        call = Call(now, self.events, step.target, step.tokens, now + step.hold_ms, until > 0)
        self.calls.append(call)
        self.under_way.append(call)
        if call.probe:
            self.probing[step.target] = call
        return set(), 0

    def leave(self, now: int, step: Leave) -> None:
        self.events += 1
        call = self.under_way.pop(step.which % len(self.under_way))
        if step.used is not None:
            call.tokens = step.used
        target = call.target
        if call.order < self.changed.get(target, 0) or (call.probe and self.probing.get(target) is not call):
            return
        if call.probe:
            del self.probing[target]
        if step.verdict is Verdict.BAD:
            self.failures[target] = self.failures.get(target, 0) + 1
            if call.probe or self.failures[target] >= FAILURES:
                self.open_until[target] = now + OPEN_MS
                self.changed[target] = self.events
        elif step.verdict is Verdict.GOOD and target in self.failures:
            self.failures[target] = 0
            if call.probe:
                self.open_until[target] = 0

    def reset(self) -> None:
        self.events += 1
        self.paused_till = 0
        self.resting_till.clear()
        for target in self.failures:
            self.failures[target] = self.open_until[target] = 0
            self.changed[target] = self.events
        self.probing.clear()


@settings(deadline=None, max_examples=300)
@given(pace=PACES, steps=STEPS, offset=st.integers(0, MINUTE_MS - 1))
def test_it_answers_as_a_model_that_remembers_everything(pace: Pace, steps: list[Any], offset: int) -> None:
    model, now = Model(pace), START + offset
    for step, (answer, view, *opened) in zip(steps, play(LocalGate(), pace, steps, offset), strict=True):
        match step:
            case Enter():
                reasons, wait = model.enter(now, step)
                if reasons:
                    assert isinstance(answer, Refused)
                    assert answer.reason in reasons
                    assert answer.wait_ms == wait
                else:
                    assert isinstance(answer, Entered)
                    assert answer.probe == model.calls[-1].probe
            case Leave() if model.under_way:
                model.leave(now, step)
            case Wait(ms):
                now += ms
            case Pause(ms, ""):
                model.paused_till = max(model.paused_till, now + ms)
            case Pause(ms, target):
                model.resting_till[target] = max(model.resting_till.get(target, 0), now + ms)
            case Reset():
                model.reset()
        assert view.in_flight == (0 if pace.concurrent is None else len(model.held(now)))
        assert view.requests == (0 if pace.requests_per_minute is None else -(-model.used(now, False) // 1))
        assert view.tokens == (0 if pace.tokens_per_minute is None else -(-model.used(now, True) // 1))
        assert view.paused_until_ms == (model.paused_till if model.paused_till > now else 0)
        resting = {target: till for target, till in model.resting_till.items() if till > now}
        assert {rest.target: rest.until_ms for rest in view.rests} == resting
        for target, is_open in zip(("p/a", "p/b"), opened, strict=True):
            probe = model.probing.get(target)
            until = model.open_until.get(target, 0)
            assert is_open == (now < until or bool(until and probe and now < probe.held_till))


def test_a_probe_that_was_given_up_is_not_heard_while_another_is_under_way() -> None:
    gate = LocalGate()
    for _ in range(FAILURES):
        gate.leave("p", ended(gate.enter("p", wish(), START), Verdict.BAD), START)
    ripe = START + OPEN_MS
    slow = gate.enter("p", wish(lease="slow", hold_ms=100), ripe)
    assert gate.enter("p", wish(lease="early"), ripe + 99) == Refused("probing", 1, str(FAILURES))
    second = gate.enter("p", wish(lease="second"), ripe + 100)
    assert gate.leave("p", ended(slow, Verdict.GOOD, lease="slow"), ripe + 101) == ""
    assert gate.is_open("p", "p/a", ripe + 101)
    assert gate.leave("p", ended(second, Verdict.GOOD, lease="second"), ripe + 102) == "closed"


def test_a_request_above_its_limit_alone_passes_when_the_window_is_empty_and_not_before() -> None:
    gate, pace = LocalGate(), Pace(tokens_per_minute=100)
    assert isinstance(gate.enter("p", wish(tokens=1, pace=pace), START + 30_000), Entered)
    refused = gate.enter("p", wish(tokens=500, pace=pace), START + 30_000)
    assert refused == Refused(Denial.TOKENS, 90_000, "")
    assert isinstance(gate.enter("p", wish(tokens=500, pace=pace), START + 120_000), Entered)
    assert isinstance(gate.enter("p", wish(tokens=1, pace=pace), START + 120_001), Refused)


def test_a_minute_that_has_begun_goes_on_when_the_clock_is_set_back_over_its_border() -> None:
    gate, pace = LocalGate(), Pace(requests_per_minute=2)
    for _ in range(2):
        assert isinstance(gate.enter("p", wish(pace=pace), START), Entered)
    assert isinstance(gate.enter("p", wish(pace=pace), START - 10), Refused)


def test_a_circuit_that_nobody_touched_for_a_day_is_forgotten() -> None:
    gate = LocalGate()
    entered = gate.enter("p", wish(), START)
    gate.leave("p", ended(entered, Verdict.BAD), START)
    assert [c.failures for c in gate.look("p", START + FORGET_MS).circuits] == [1]
    assert gate.look("p", START + FORGET_MS + 1).circuits == ()


def test_forgotten_circuits_are_swept_out_when_there_are_many() -> None:
    gate = LocalGate()
    for number in range(CIRCUITS_KEPT):
        gate.leave("p", ended(gate.enter("p", wish(f"p/{number}"), START), Verdict.BAD, f"p/{number}"), START)
    later = START + FORGET_MS + 1
    gate.leave("p", ended(gate.enter("p", wish("p/new"), later), Verdict.BAD, "p/new"), later)
    # Asked about the time before, it would still show what it has kept.
    assert [c.target for c in gate.look("p", START).circuits] == ["p/new"]


def test_names_that_are_only_asked_about_are_not_kept() -> None:
    gate = LocalGate()
    assert not gate.is_open("x", "x/a")
    assert gate.look("x").circuits == ()
    assert gate._providers == {}


def test_a_limit_shared_by_processes_is_rounded_down_but_never_to_nothing_and_never_to_everything() -> None:
    assert Pace(10, None, 2).share(3) == Pace(3, None, 1)
    assert Pace(None, 7, 1).share(7) == Pace(None, 1, 1)


@pytest.mark.parametrize("limit", [0, -1, 10**12])
def test_a_limit_that_is_none_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match="a limit is"):
        Pace(requests_per_minute=limit)


def test_sixteen_threads_never_pass_the_limit_of_calls_at_once() -> None:
    gate, pace, guard = LocalGate(), Pace(concurrent=3), threading.Lock()
    inside, most, granted = 0, 0, 0

    def work(thread: int) -> None:
        nonlocal inside, most, granted
        for turn in range(300):
            lease = f"{thread}.{turn}"
            entered = gate.enter("p", wish(lease=lease, hold_ms=60_000, pace=pace))
            if isinstance(entered, Refused):
                continue
            with guard:
                inside, granted = inside + 1, granted + 1
                most = max(most, inside)
            with guard:
                inside -= 1
            gate.leave("p", ended(entered, Verdict.GOOD, lease=lease))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert most <= 3
    assert granted >= 300
    assert gate.look("p").in_flight == 0
