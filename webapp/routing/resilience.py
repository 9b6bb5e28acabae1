"""May a call to a vendor begin now? Pace limits per provider and a circuit breaker per target, shared by all processes.

`enter` before a call, `leave` after it: one round trip to Redis each at most, where the state is (`gate_script`).

A healthy target costs none. Where the provider has no pace limits and Redis said not longer than a quarter of a second ago
that it has nothing against the target (no failures in a row, circuit closed, no pause of target or provider), a call begins
without asking it (`gate_marks`). The rules:

- Such a call carries the generation of the answer that it goes by, and its bad end is counted in Redis like any other's.
- A bad end, pause, reset or refusal that this process sees ends this at once for the target, or for all of the provider:
  the next call asks Redis.
- When Redis goes away, nothing that it said is gone by any more.

A target's circuit opens after some calls in a row went bad. When its time is over exactly one call of all processes and
threads tries the target: if it goes well the circuit closes, if not it stays open for another period. What the caller
did wrong says nothing either way. A call that began before the circuit opened is not heard any more when it ends.

pybreaker was read for this (1.4.1) and not taken. Its half-open state is a word in Redis that nobody owns: every process
that reads it goes through, and with `calling()`, the form for streams, every thread of each, so a vendor that is just
coming back is met by all of them at once. (`call()` lets one thread of a process through by holding a lock for the whole
call, in the closed state too.) An error that is excluded from counting is handled as a success, so one 429 closes a
half-open circuit. And each call reads and writes its state in several round trips, with room for others in between.

While Redis is away or slow to answer, the same rules hold in this process alone (`gate_local`), with each limit divided
by the number of processes. Redis is asked again every few seconds, by one call.

Known sharp edges: a circuit that another process has opened, or a pause that it was told, is noticed after a quarter of a
second at most. What Redis has counted is not known to the processes on their own, so for a minute, or for as long as the
calls under way last, a provider may see up to twice its limits. While Redis is away each process probes by itself,
and a limit smaller than the number of processes is passed, as each of them may make one call. Limits are divided by the
processes of this machine: those of other machines are not known here. What a Redis that keeps nothing forgets when it is
restarted (places, counts, circuits, pauses) is forgotten.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import ParamSpec, TypeVar

import redis
from flask import current_app

from webapp.extensions import current_settings, of_application, queue_redis
from webapp.routing.gate_local import LocalGate
from webapp.routing.gate_marks import CLEAN_S, CleanMarks
from webapp.routing.gate_script import SharedGate
from webapp.routing.gate_values import (
    TOKENS_MAX,
    Circuit,
    Denial,
    Denied,
    Ended,
    Entered,
    Grant,
    Pace,
    ProviderState,
    Refused,
    Rest,
    Verdict,
    View,
    Wish,
)

__all__ = [
    "Circuit",
    "Denial",
    "Denied",
    "Grant",
    "Pace",
    "ProviderState",
    "Rest",
    "Verdict",
    "enter",
    "is_open",
    "leave",
    "pause",
    "reset",
    "state",
]

log = logging.getLogger(__name__)

REDIS_RETRY_S = 5.0
# What a vendor says about waiting is believed for ten minutes at most: then a call finds out whether it is still so.
PAUSE_MAX_S = 600.0
_SHOWN_MAX = 200
_FAILING_MAX = 1000
_EXTENSION = "switchhook.gate"

P = ParamSpec("P")
T = TypeVar("T")


class _Away(Exception):
    """Redis is not there, or is not asked for now."""


class _Gate:
    """Both keepers of one application, and whether Redis is asked."""

    def __init__(self, connection: redis.Redis) -> None:
        self.shared = SharedGate(connection)
        self.local = LocalGate()
        self.marks = CleanMarks()
        self.failing: set[str] = set()
        """Targets of which this process has told a bad end, and no good one since."""
        self._guard = threading.Lock()
        self._away = False
        self._ask_at = self._back_at = -math.inf

    def ask(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A step at Redis. Raises `_Away` when that fails, and at once while Redis is known to be away."""
        began = time.monotonic()
        trying = self._away
        if trying and not self._my_turn(began):
            raise _Away
        try:
            answer = step(*args, **kwargs)
        except redis.RedisError as exc:
            self._failed(exc, began)
            raise _Away from exc
        if trying:
            self._is_back()
        return answer

    def _my_turn(self, at: float) -> bool:
        """Whether this call is the one that looks if Redis is back; the others do not wait for it."""
        with self._guard:
            if at < self._ask_at:
                return False
            self._ask_at = at + REDIS_RETRY_S
            return True

    def _failed(self, exc: redis.RedisError, began: float) -> None:
        with self._guard:
            if began < self._back_at:
                # This call was sent while Redis was away; since then another has found it back.
                return
            self._ask_at = time.monotonic() + REDIS_RETRY_S
            if self._away:
                return
            self._away = True
        self.marks.forget()
        log.warning(
            "Redis cannot be asked (%s): until it is back each process keeps its own circuits and its share of the limits",
            type(exc).__name__,
        )

    def _is_back(self) -> None:
        with self._guard:
            if not self._away:
                return
            self._away = False
            self._back_at = time.monotonic()
        log.info("Redis is back: limits and circuits are shared again")


def _gate() -> _Gate:
    try:
        gate: _Gate = of_application(_EXTENSION)
    except KeyError:
        gate = current_app.extensions.setdefault(_EXTENSION, _Gate(queue_redis()))
    return gate


def enter(provider: str, target: str, pace: Pace, *, tokens: int, hold_s: float) -> Grant | Denied:
    """Leave for one call to `target`, which is the provider's name or `provider/model`; or why not, and for how long.

    `tokens` are reserved until `leave` says how many were used. After `hold_s` seconds without `leave` the caller is
    taken for dead: its place is given to others, and so is its right to probe. Nothing is taken by a call that is
    denied. `ValueError` for a target of another provider.
    """
    gate = _gate()
    unlimited = pace.requests_per_minute is None and pace.tokens_per_minute is None and pace.concurrent is None
    if unlimited and (known := gate.marks.grant(target)) is not None and known.provider == provider:
        return known
    if target.partition("/")[0] != provider:
        raise ValueError("the target is not one of this provider")
    wish = Wish(target, os.urandom(8).hex(), max(1, math.ceil(hold_s * 1000)), _tokens(tokens), pace)
    times_forgotten, began, local = gate.marks.times_forgotten, time.monotonic(), False
    answer: Entered | Refused
    try:
        answer = gate.ask(gate.shared.enter, provider, wish)
    except _Away:
        local = True
        settings = current_settings()
        wish = wish._replace(pace=pace.share(settings.web_processes + settings.worker_processes))
        answer = gate.local.enter(provider, wish)
    if isinstance(answer, Refused):
        gate.marks.forget(provider if answer.reason == Denial.PAUSED else target)
        return _denied(provider, wish, answer, local)
    grant = Grant(provider, target, wish.lease, answer, wish.tokens, local)
    if unlimited and not (local or answer.probe or answer.flawed):
        gate.marks.note(grant, began + min(CLEAN_S, current_settings().breaker_open_s), times_forgotten)
    return grant


def leave(grant: Grant, verdict: Verdict, *, tokens: int | None = None) -> None:
    """The call has ended; to be said once. `tokens`: how many it really used, None: as many as were reserved.

    Never raises because of Redis: a lease that cannot be given back there expires.
    """
    entered, gate = grant.entered, _gate()
    change = 0 if tokens is None or entered.minute < 0 else _tokens(tokens) - grant.tokens
    # A good end only says something after bad ones: those before the call, and those that this process has told meanwhile. Of
    # another process's, each call that asks Redis from then on knows; but were all that are under way silent, a few bad ends
    # among many good ones would be some in a row.
    heard = entered.flawed or grant.target in gate.failing
    silent = verdict is Verdict.NEUTRAL or (verdict is Verdict.GOOD and not heard)
    if silent and not (entered.probe or entered.held or change):
        return
    if verdict is Verdict.GOOD:
        gate.failing.discard(grant.target)
    elif verdict is Verdict.BAD and len(gate.failing) < _FAILING_MAX:
        gate.failing.add(grant.target)
    try:
        _end(gate, grant, change, verdict)
    finally:
        if verdict is Verdict.BAD:
            # Once Redis knows it: what it says from now on has this end in it.
            gate.marks.forget(grant.target)


def _end(gate: _Gate, grant: Grant, change: int, verdict: Verdict) -> None:
    """Tell the keeper that granted the call."""
    settings = current_settings()
    ended = Ended(
        target=grant.target,
        lease=grant.lease,
        entered=grant.entered,
        change=change,
        verdict=verdict,
        failures=settings.breaker_failures,
        open_ms=math.ceil(settings.breaker_open_s * 1000),
    )
    if grant.local:
        _tell(ended, gate.local.leave(grant.provider, ended))
        return
    try:
        _tell(ended, gate.ask(gate.shared.leave, grant.provider, ended))
    except _Away:
        log.info("a call of %s ended while Redis is away: what it held there expires", _shown(grant.target))


def pause(provider: str, seconds: float, reason: str, *, target: str = "") -> None:
    """The vendor told us to wait, or has no credit: no call of the provider begins for so many seconds, ten minutes at most.
    With `target` (`provider/model`) only the calls to it: what a vendor says of one model it does not say of the others.

    A pause that ends later stays. `reason` is shown to operators: no secrets. `ValueError` for a target of another provider.
    """
    if target and target.partition("/")[0] != provider:
        raise ValueError("the target is not one of this provider")
    if not seconds > 0:
        return
    gate, length = _gate(), math.ceil(min(seconds, PAUSE_MAX_S) * 1000)
    shown = _shown(reason)
    # Here as well, so that it is known if Redis goes before the pause ends.
    gate.local.pause(provider, length, shown, target=target)
    try:
        gate.ask(gate.shared.pause, provider, length, shown, target=target)
    except _Away:
        log.info("the pause of %s is this process's own: Redis is away", _shown(target or provider))
    finally:
        gate.marks.forget(target or provider)


def reset(provider: str) -> None:
    """Close the provider's circuits and end its pauses: an administrator knows better. What it has used stays counted."""
    gate = _gate()
    gate.local.reset(provider)
    try:
        gate.ask(gate.shared.reset, provider)
    except _Away:
        log.warning("%s was reset in this process alone: Redis is away", provider)
    finally:
        gate.marks.forget(provider)


def state(provider: str) -> ProviderState:
    """The provider's counts, pause and circuits as they are now; see `ProviderState`."""
    gate, shared = _gate(), True
    try:
        view = gate.ask(gate.shared.look, provider)
    except _Away:
        view, shared = gate.local.look(provider), False
    return _state(provider, view, shared, datetime.now(UTC))


def is_open(target: str) -> bool:
    """Whether the target's circuit would keep a call from beginning now; takes nothing, and says nothing of pauses."""
    gate, provider = _gate(), target.partition("/")[0]
    try:
        return gate.ask(gate.shared.is_open, provider, target)
    except _Away:
        return gate.local.is_open(provider, target)


def _shown(text: str) -> str:
    """A vendor's words, or the name of a model, fit for a log and a page."""
    return "".join(c if c.isprintable() else " " for c in text[:_SHOWN_MAX]).strip()


def _tokens(number: int) -> int:
    # Vendors report what they like.
    return max(0, min(number, TOKENS_MAX))


def _denied(provider: str, wish: Wish, refused: Refused, local: bool) -> Denied:
    reason = {"probing": Denial.OPEN, "resting": Denial.PAUSED}.get(refused.reason) or Denial(refused.reason)
    pace, target, alone = wish.pace, _shown(wish.target), " (this process's share while Redis is away)" if local else ""
    match refused.reason:
        case Denial.PAUSED:
            detail = f"{provider} is paused" + (f": {refused.info}" if refused.info else "")
        case "resting":
            detail = f"{target} is paused" + (f": {refused.info}" if refused.info else "")
        case Denial.OPEN:
            detail = f"the circuit of {target} is open: {refused.info} bad calls in a row"
        case Denial.REQUESTS:
            detail = f"{provider} is at its limit of {pace.requests_per_minute} requests per minute{alone}"
        case Denial.TOKENS:
            detail = f"{provider} is at its limit of {pace.tokens_per_minute} tokens per minute{alone}"
        case Denial.CONCURRENT:
            detail = f"{provider} is at its limit of {pace.concurrent} calls at once{alone}"
        case _:
            detail = f"the circuit of {target} is open, and a call that tries it is under way"
    return Denied(reason, refused.wait_ms / 1000, detail)


def _tell(ended: Ended, change: str) -> None:
    """Log what happened to the circuit."""
    target = _shown(ended.target)
    if change == "opened":
        log.warning("the circuit of %s is open for %g s: too many bad calls in a row", target, ended.open_ms / 1000)
    elif change == "reopened":
        log.info("the circuit of %s stays open for %g s: the probe went bad", target, ended.open_ms / 1000)
    elif change == "closed":
        log.info("the circuit of %s is closed: the probe went well", target)


def _state(provider: str, view: View, shared: bool, now: datetime) -> ProviderState:
    def moment(ms: int) -> datetime | None:
        # The keeper's clock may be another machine's, or none that tells the date: what counts is the distance to its now.
        return now + timedelta(milliseconds=ms - view.now_ms) if ms else None

    return ProviderState(
        provider=provider,
        in_flight=view.in_flight,
        requests_last_minute=view.requests,
        tokens_last_minute=view.tokens,
        paused_until=moment(view.paused_until_ms),
        pause_reason=view.pause_reason,
        circuits=tuple(Circuit(c.target, c.state, c.failures, moment(c.opened_ms), moment(c.until_ms)) for c in view.circuits),
        shared=shared,
        rests=tuple(
            Rest(rest.target, now + timedelta(milliseconds=rest.until_ms - view.now_ms), rest.reason) for rest in view.rests
        ),
    )
