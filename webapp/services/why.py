"""Why this model answered: who decided, what was tried before, and why the others were passed over.

Everybody reads it in plain words, without variables' names and vendors' wording. Administrators also get what is on record.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from webapp.contracts.errors import (
    BadCredentials,
    ContextTooLong,
    MalformedAnswer,
    OutOfCredit,
    RateLimited,
    RefusedByPolicy,
    Rejected,
    TimedOut,
    Unavailable,
)
from webapp.extensions import reading
from webapp.models import Attempt

_PASSED = "passed over"
_DONE = ("completed", "cancelled")
"""What becomes of the model that answers, to the end or until nobody wanted more."""
_LOST = ("lost", "handed back")
_WORDS = {
    RateLimited.code: "was too busy",
    TimedOut.code: "took too long",
    Unavailable.code: "could not be reached",
    RefusedByPolicy.code: "declined to answer this",
    ContextTooLong.code: "cannot read that much text",
    Rejected.code: "did not take the request",
    BadCredentials.code: "is not set up correctly",
    OutOfCredit.code: "is not set up correctly",
    MalformedAnswer.code: "sent something that could not be read",
}
_OTHERWISE = "could not answer"


@dataclass(frozen=True, slots=True)
class Step:
    """A model of the route. `words` are for everybody; `truth` is for administrators, '' where there is nothing to add."""

    model: str
    words: str
    truth: str = ""


@dataclass(frozen=True, slots=True)
class Why:
    """What became of a request's route. `decided_truth` and `passed` are for administrators."""

    decided: str
    decided_truth: str
    answered: str
    tried: tuple[Step, ...]
    passed: tuple[Step, ...]
    interrupted: int


def codes(ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, list[tuple[int, str, str]]]:
    """(execution, outcome, error code) of each call of these requests, in their order: one statement, none for no ids."""
    wanted = list(ids)
    found: dict[uuid.UUID, list[tuple[int, str, str]]] = {each: [] for each in wanted}
    if not wanted:
        return found
    query = (
        select(Attempt.request_id, Attempt.execution, Attempt.outcome, Attempt.error_code)
        .where(Attempt.request_id.in_(wanted))
        .order_by(Attempt.request_id, Attempt.execution, Attempt.number)
    )
    with reading() as connection:
        for request_id, execution, outcome, code in connection.execute(query):
            found[request_id].append((execution, outcome, code or ""))
    return found


def needs_codes(route: Mapping[str, Any] | None, executions: int) -> bool:
    """Whether telling it takes more than the route: something failed, or was begun anew."""
    return executions > 1 or any(what not in _DONE for _, what, _ in _models(route) if what != _PASSED)


def tell(route: Mapping[str, Any] | None, calls: list[tuple[int, str, str]]) -> Why | None:
    """The reasons on record for a request's model; None where there are none, such as before it was begun."""
    interrupted = sum(outcome in _LOST for _, outcome, _ in calls)
    models = _models(route)
    by = str(route.get("by", "")) if route else ""
    if not by and not interrupted:
        return None
    tried = [(model, what, why) for model, what, why in models if what != _PASSED]
    last = max((execution for execution, outcome, _ in calls if outcome not in _LOST), default=0)
    # The house's own calls, such as sorting, come before those of the route.
    known = [code for execution, outcome, code in calls if execution == last and outcome not in _LOST]
    known = known[-len(tried) :] if tried and len(known) >= len(tried) else [""] * len(tried)
    steps = tuple(
        Step(model, _WORDS.get(code, _OTHERWISE), why)
        for (model, what, why), code in zip(tried, known, strict=True)
        if what not in _DONE
    )
    return Why(
        decided=_decided(by),
        decided_truth=by,
        answered=next((model for model, what, _ in tried if what in _DONE), ""),
        tried=steps,
        passed=tuple(Step(model, "", why) for model, what, why in models if what == _PASSED),
        interrupted=interrupted,
    )


def _models(route: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    listed = route.get("models") if route else None
    return [(str(each["model"]), str(each["what"]), str(each.get("why") or "")) for each in listed or ()]


def _decided(by: str) -> str:
    """Who decided, in words that name no variable and no rule."""
    if not by:
        return ""
    if by == "a kept answer":
        return "The same question was answered before."
    if by == "the request itself":
        return "It was asked for by name."
    if by.startswith("the rule "):
        return "A rule of this installation chose it for such requests."
    if by.startswith("SWITCHHOOK_"):
        return "It is the model that this installation is set to."
    return "No model was named: the first that is ready answers."
