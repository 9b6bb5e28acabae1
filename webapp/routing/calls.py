"""The calls of one execution: each model of the route in turn, and again after a pause, until one answers.

A failure goes to the next model at once: somebody is waiting. Only when every model has failed, and for a reason that may
pass, is there a pause and another round: growing and jittered, or what the vendor asks for, never past the time that all
calls have together. After the first piece nothing is tried again: the person has read it, and the vendor has charged it.

stamina was read for this (26.1) and not taken: its pauses know nothing of the time that is left, and nothing ends one when
the person has given up.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

from rq.timeouts import BaseTimeoutException

from webapp.contracts.calls import Finish, Usage
from webapp.contracts.errors import (
    BadCredentials,
    ContextTooLong,
    LimitReached,
    MalformedAnswer,
    OutOfCredit,
    ProviderError,
    RateLimited,
    RefusedByPolicy,
    Rejected,
    TimedOut,
    Unavailable,
)
from webapp.contracts.pictures import Progress
from webapp.contracts.texts import frames
from webapp.extensions import current_settings, now
from webapp.interrupts import shielded
from webapp.routing import http, resilience, vendor_keys, vendors
from webapp.routing.resilience import Denial, Denied, Grant, Verdict
from webapp.routing.route import Passed, Route, Target
from webapp.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

_PAUSE_S = 2.0
"""For how long a provider is left alone that asks for fewer calls and does not say for how long."""
_ACCOUNT_PAUSE_S = 300.0
"""For how long it is left alone when its key or its account is at fault: somebody has to do something first."""
_LONGEST_ASKED_S = 86_400.0
_HOLD_MORE_S = 30.0
_LOOK_AGAIN_S = 1.0
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 8.0
"""The pauses between rounds where no vendor says how long: the first one, which doubles, and the longest."""
_MESSAGE_CHARS, _DETAIL_CHARS = 2_000, 20_000
_IN_VAIN = (Finish.LENGTH, Finish.FILTERED)
"""Ends of an empty answer that the same call would have again, to be paid again."""


class OurFailure(ProviderError):
    """The vendor did its part and we failed: nobody else is asked, and the model is not blamed."""

    code = "internal"


_NEUTRAL = (Rejected, RefusedByPolicy, ContextTooLong, RateLimited, BadCredentials, OutOfCredit, OurFailure)
"""Failures that say nothing about whether the model works."""


class NoTurn(RateLimited):
    """Our own limits for a provider have no room now, or it is being left alone. Nothing was called."""

    def __init__(self, target: Target, denied: Denied) -> None:
        reasons = {
            Denial.OPEN: "it failed several times and is left alone for a while",
            Denial.PAUSED: denied.detail.replace(target.account, target.provider.name) or "it is left alone for a while",
            Denial.REQUESTS: "its calls a minute are used up",
            Denial.TOKENS: "its tokens a minute are used up",
            Denial.CONCURRENT: "as many calls as allowed are under way",
        }
        self.reason = reasons[denied.reason]
        super().__init__(f"{target.provider.label} is not called now: {self.reason}.", retry_after_s=denied.wait_s)
        self.ours = denied.reason in (Denial.REQUESTS, Denial.TOKENS, Denial.CONCURRENT)
        """Whether it is our own pace, which is worth waiting for."""


@dataclass(slots=True)
class Tried:
    """One call that was made."""

    target: Target
    started_at: datetime
    ended_at: datetime
    outcome: str = "failed"
    error: ProviderError | None = None
    detail: str = ""
    """What went wrong in this call, for administrators."""
    usage: Usage | None = None
    first_piece_ms: int | None = None
    number: int = 0
    """Its place among the calls of its execution, from 0."""


def leave_alone(target: Target, exc: ProviderError) -> None:
    """Pause what a failure is about: the provider where its key or its account is at fault, else the one model. A vendor
    that forbids one model, or has enough of its calls, may well answer with another."""
    name = target.account
    if isinstance(exc, OutOfCredit) or (isinstance(exc, BadCredentials) and exc.status in (401, None)):
        resilience.pause(name, _ACCOUNT_PAUSE_S, exc.message)
    elif isinstance(exc, BadCredentials):
        resilience.pause(name, _ACCOUNT_PAUSE_S, exc.message, target=target.circuit)
    elif isinstance(exc, RateLimited):
        resilience.pause(name, _asks_for_s(exc), "it asks for fewer calls", target=target.circuit)


@dataclass(slots=True)
class Calls(Generic[T]):
    """`start` makes a target's stream of pieces; `tokens` says how many tokens the call may use; `afford` raises
    `LimitReached` where the person's limits have no room for the target; `stop` says whether nobody wants the answer any
    more. `timeout_s` is for everything together."""

    route: Route
    start: Callable[[Target, float], Iterator[T]]
    tokens: Callable[[Target], int]
    timeout_s: float
    afford: Callable[[Target], None] = lambda _: None
    stop: Callable[[], bool] = lambda: False
    silence_s: float | None = None
    """Seconds without a byte after which a call is given up; None: the installation's own."""
    patient: bool = True
    """Whether there may be a second round after a pause."""
    leave_alone: Callable[[Target, ProviderError], None] = leave_alone
    """Hears of each call that failed, and decides what is paused for it."""
    tried: list[Tried] = field(default_factory=list)
    passed: list[Passed] = field(default_factory=list)
    streamed: bool = False
    _left: list[Target] = field(default_factory=list)
    _failed: dict[str, str] = field(default_factory=dict)
    _until: float = 0.0
    _settings: Settings = field(init=False, repr=False)

    def pieces(self) -> Generator[T, None, None]:
        """The pieces of the first answer that begins. Raises the failure that explains most if there is none."""
        self._until = time.monotonic() + self.timeout_s
        self._left = list(self.route.targets)
        self._settings = current_settings()
        rounds = 1 + self._settings.retries if self.patient else 1
        number = 1
        while True:
            try:
                yield from self._round()
                return
            except ProviderError as exc:
                # A round in which no model was called for our own limits is not counted, but waited for.
                if isinstance(exc, NoTurn) and self._waited_for_room(exc):
                    continue
                wait_s = self._wait_before_next(exc, number) if number < rounds else None
                if wait_s is None or not self._waited(wait_s):
                    raise
                number += 1

    @property
    def answered_by(self) -> Target | None:
        """The target of the last call, which is the one that answered if any did."""
        return self.tried[-1].target if self.tried else None

    # -- rounds ----------------------------------------------------------------------------------------------------
    def _wait_before_next(self, exc: ProviderError, number: int) -> float | None:
        """The pause in seconds after round `number` has failed, None if there is to be no other."""
        if self.streamed or not self._left or not exc.retryable:
            return None
        longest_s = self._settings.retry_wait_s
        asked_s = _asks_for_s(exc)
        if asked_s > longest_s:
            return None
        own_s = min(_LONGEST_WAIT_S, longest_s, _FIRST_WAIT_S * 2 ** (number - 1) + random.uniform(0, 0.5))
        wait_s = max(asked_s + random.uniform(0, min(1.0, asked_s / 4)), own_s)
        return wait_s if time.monotonic() + wait_s < self._until else None

    def _waited(self, seconds: float) -> bool:
        """Wait; False, and sooner, if nobody wants the answer any more."""
        ends = time.monotonic() + seconds
        while not self.stop():
            left_s = ends - time.monotonic()
            if left_s <= 0:
                return True
            time.sleep(min(left_s, _LOOK_AGAIN_S))
        return False

    def _waited_for_room(self, exc: NoTurn) -> bool:
        """Wait for our own limits; False if it is not they, there is no time left, or nobody wants the answer any more."""
        if not exc.ours or time.monotonic() + (exc.retry_after_s or 0) > self._until:
            return False
        wait_s = min(exc.retry_after_s or _LOOK_AGAIN_S, _LOOK_AGAIN_S) * random.uniform(0.8, 1.2)
        return self._waited(max(wait_s, 0.02))

    def _round(self) -> Iterator[T]:
        failures: list[ProviderError] = []
        too_dear: LimitReached | None = None
        for target in tuple(self._left):
            if failures and self.stop():
                break
            try:
                self.afford(target)
            except LimitReached as exc:
                too_dear = exc
                self._pass_over(target, "it may cost more than is left")
                self._left.remove(target)
                continue
            try:
                yield from self._call(target)
                return
            except NoTurn as exc:
                self._pass_over(target, exc.reason)
                failures.append(exc)
                self._failed.setdefault(target.name, exc.message)
            except ProviderError as exc:
                if self.streamed or self._final(exc):
                    raise
                failures.append(exc)
                self._failed[target.name] = _words(exc)
                if not exc.retryable or self._in_vain(target):
                    self._left.remove(target)
                log.warning("%s failed: %s", target.name, exc.code)
        if failures:
            raise self._that_explains_all(failures)
        if too_dear is not None:
            raise too_dear
        raise Unavailable("No model can be used.", detail=self.route.why_none)

    def _pass_over(self, target: Target, reason: str) -> None:
        if all((passed.target, passed.reason) != (target.name, reason) for passed in self.passed):
            self.passed.append(Passed(target.name, reason))

    def _that_explains_all(self, failures: list[ProviderError]) -> ProviderError:
        """The failure that explains most; its detail names all models that have failed, those of earlier rounds included."""
        chosen = _that_explains_most(failures)
        if len(self._failed) > 1:
            chosen.detail = "; ".join(f"{name}: {words}" for name, words in self._failed.items())[:4000]
        return chosen

    def _final(self, exc: ProviderError) -> bool:
        if isinstance(exc, RefusedByPolicy):
            return not self._settings.fallback_on_refusal
        return isinstance(exc, OurFailure)

    def _in_vain(self, target: Target) -> bool:
        """Whether the target's call ended empty for a reason that will be the same the next time."""
        last = self.tried[-1] if self.tried else None
        return last is not None and last.target is target and last.usage is not None and last.usage.finish in _IN_VAIN

    # -- one call --------------------------------------------------------------------------------------------------
    def _call(self, target: Target) -> Iterator[T]:
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            raise TimedOut(f"No complete answer within {self.timeout_s:.0f} seconds.")
        granted: Grant | Denied | None = None
        tried = Tried(target, began_at := now(), began_at, number=len(self.tried))
        verdict = Verdict.NEUTRAL
        try:
            # A job's time limit must not fall between taking a place at the gate and knowing of it.
            with shielded():
                granted = resilience.enter(
                    target.account,
                    target.circuit,
                    vendors.pace(target.provider, self._settings),
                    tokens=self.tokens(target),
                    hold_s=left_s + _HOLD_MORE_S,
                )
            if isinstance(granted, Denied):
                raise NoTurn(target, granted)
            self.tried.append(tried)
            yield from self._answer(target, tried, left_s)
            verdict = Verdict.GOOD
            tried.outcome = "completed"
        except NoTurn:
            raise
        except ProviderError as exc:
            tried.error, tried.detail = exc, _words(exc)
            tried.usage = tried.usage or exc.usage
            # What earlier calls have left of the time may be too little for any model.
            hurried = isinstance(exc, TimedOut) and left_s < self.timeout_s / 2
            verdict = Verdict.NEUTRAL if hurried or isinstance(exc, _NEUTRAL) else Verdict.BAD
            self.leave_alone(target, exc)
            raise
        except GeneratorExit:
            tried.outcome = "cancelled"
            raise
        finally:
            tried.ended_at = now()
            if isinstance(granted, Grant):
                with shielded():
                    resilience.leave(granted, verdict, tokens=_tokens(tried))

    def _answer(self, target: Target, tried: Tried, left_s: float) -> Iterator[T]:
        """A target's pieces. What a plugin raises beside the typed errors becomes one, so that the next model gets its turn."""
        began = time.monotonic()
        with http.call_limits(timeout_s=left_s, silence_s=self.silence_s or self._settings.silence_timeout_s):
            pieces = self.start(target, left_s)
            try:
                try:
                    for piece in pieces:
                        if tried.first_piece_ms is None:
                            tried.first_piece_ms = int((time.monotonic() - began) * 1000)
                        if isinstance(piece, Usage):
                            tried.usage = piece
                            if not self.streamed:
                                raise MalformedAnswer(f"{target.provider.label} sent an empty answer.")
                            yield piece
                            return
                        # Progress is no part of an answer: another model may still begin afresh.
                        self.streamed = self.streamed or not isinstance(piece, Progress)
                        yield piece
                    raise MalformedAnswer(f"The provider plugin {target.provider.name} ended without telling what was used.")
                finally:
                    close(pieces)
            except ProviderError as exc:
                _tidy(exc, target)
                raise
            except (LimitReached, GeneratorExit, BaseTimeoutException):
                # The last one is the job's own time limit, wherever it strikes: it ends the job, not the call.
                raise
            except Exception as exc:
                log.error("the plugin of %s failed: %s\n%s", target.provider.name, type(exc).__name__, frames(exc))
                raise Unavailable(
                    f"The plugin of {target.provider.label} failed.", detail=f"its plugin raised {type(exc).__name__}"
                ) from exc


def close(pieces: object) -> None:
    """Close what a provider returned: that may be any iterator."""
    if callable(ending := getattr(pieces, "close", None)):
        ending()


def closable(pieces: Iterator[T]) -> Generator[T, None, None]:
    """The pieces as something that can be closed."""
    try:
        yield from pieces
    finally:
        close(pieces)


def _tidy(exc: ProviderError, target: Target) -> None:
    """Make an error what it says it is: a plugin may leave out its parts, or put anything into them, its key too."""
    given: dict[str, object] = {name: getattr(exc, name, None) for name in ("message", "detail", "status", "usage")}
    message, detail, status, usage = given.values()
    if not isinstance(message, str):
        message = "The call to the vendor failed."
    exc.message = _redacted(target, message)[:_MESSAGE_CHARS]
    exc.detail = _redacted(target, detail)[:_DETAIL_CHARS] if isinstance(detail, str) else ""
    exc.status = status if type(status) is int else None
    exc.usage = usage if isinstance(usage, Usage) else None
    wait_s: object = getattr(exc, "retry_after_s", None)
    if not isinstance(wait_s, int | float) or not wait_s >= 0:  # so that NaN is none
        exc.retry_after_s = None
    else:
        # The smaller one before it is converted: a whole number may be too large for a float.
        exc.retry_after_s = float(min(wait_s, _LONGEST_ASKED_S))


def _redacted(target: Target, text: str) -> str:
    text = vendors.redacted(target.provider.name, text)
    return vendor_keys.blot(text, target.own.forms) if target.own else text


def _tokens(tried: Tried) -> int | None:
    """What the call really used of the minute's tokens; None where only the estimate is known."""
    counts = (tried.usage.input_tokens, tried.usage.output_tokens) if isinstance(tried.usage, Usage) else (None, None)
    whole = [count for count in counts if type(count) is int and count >= 0]  # a plugin may say anything
    if len(whole) == 2:
        return sum(whole)
    return 0 if tried.error is not None and tried.first_piece_ms is None else None


def _that_explains_most(failures: list[ProviderError]) -> ProviderError:
    """The failure of a round: one that may pass before one that does not, a real one before our own limits."""
    retryable = [exc for exc in failures if exc.retryable]
    real = [exc for exc in retryable if not isinstance(exc, NoTurn)]
    if real:
        # The next round is worth its while as soon as the first vendor may be asked again.
        return min(real, key=_asks_for_s)
    if retryable:
        return min(retryable, key=lambda exc: (not getattr(exc, "ours", True), exc.retry_after_s or 0.0))
    return failures[0]


def _asks_for_s(exc: ProviderError) -> float:
    """For how many seconds a vendor is to be left alone after this failure."""
    unsaid_s = _PAUSE_S if isinstance(exc, RateLimited) else 0.0
    return unsaid_s if exc.retry_after_s is None else exc.retry_after_s


def _words(exc: ProviderError) -> str:
    return f"{exc.message} {exc.detail}".strip()
