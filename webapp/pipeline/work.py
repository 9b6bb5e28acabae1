"""The work of one execution: which models it may use, what they gave, and how it ends. One kind for texts, one for pictures."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Generator, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from flask import Flask, current_app
from sqlalchemy import bindparam, update

from webapp.contracts.calls import ToolPiece
from webapp.contracts.errors import BadCredentials, LimitReached, OutOfCredit
from webapp.contracts.limits import Dimension
from webapp.contracts.pictures import Progress
from webapp.contracts.sorting import Sorting
from webapp.extensions import now, retried, table_of, writing
from webapp.models import Request, RequestStatus
from webapp.pipeline import charges, further, lease, timing, words
from webapp.pipeline.claims import Claimed
from webapp.pipeline.endings import Call, Ending
from webapp.quota import credits
from webapp.quota.holds import Use
from webapp.routing import costs, route
from webapp.routing.calls import Calls, Tried
from webapp.routing.route import Ask, Route, Target

_SHOWN_MAX = 20
_SHOWN_CHARS = 300
"""Of the models that the record of a route names, and of each one's name and reason: they are vendors' words."""

_table = table_of(Request)
_holds_more = (
    update(_table)
    .where(_table.c.id == bindparam("b_id"), _table.c.claim == bindparam("b_claim"))
    .values(held_microusd=bindparam("b_held"))
)


class Work:
    """What both kinds share."""

    def __init__(self, taken: Claimed) -> None:
        self.taken = taken
        self.sorting: Sorting | None = None
        self.house_calls: tuple[Call, ...] = ()
        self.route: Route | None = None
        self.calls: Calls[Any] | None = None
        self._covered: dict[str, Use] = {}
        """What may be used when a provider is called, by what this execution has held in addition."""

    @property
    def timeout_s(self) -> float:
        """How long all calls together may take."""
        return timing.timeout_s(self.taken.operation)

    def pieces(self) -> Generator[str | ToolPiece | Progress, None, None]:
        """What there is to show, as it comes."""
        raise NotImplementedError

    def ended(self, *, stopped: bool) -> Ending:
        """How the work ends once its pieces have: completed, or cancelled. Raises `MalformedAnswer` for no answer."""
        raise NotImplementedError

    def settled(self, ending: Ending) -> None:
        """What there is to do once the end is on the books, and not before: an answer that was kept although the execution then
        lost the request would be given away to its successor."""

    def ask(self) -> Ask:
        """What the route has to serve."""
        raise NotImplementedError

    def estimate(self, tried: Tried) -> charges.Guess:
        """What a call used that the vendor did not count."""
        raise NotImplementedError

    @property
    def produced(self) -> bool:
        """Whether the last call gave something."""
        raise NotImplementedError

    # -- what both do ----------------------------------------------------------------------------------------------
    def plan(self) -> Route:
        """Find the route, and keep it for the record."""
        self.route = route.plan(self.ask())
        return self.route

    def stop_asked(self) -> bool:
        """Whether nobody wants the answer any more."""
        return lease.asked_to_stop(self.taken.claim)

    def afford(self, target: Target) -> None:
        """Hold what a target may use beyond what is held, on top of what earlier calls have used. Raises `LimitReached`."""
        ask, taken, provider = self.ask(), self.taken, target.provider.name
        most = costs.most(target, ask.input_tokens, ask.output_tokens, ask.pictures).cost_microusd
        tokens = ask.input_tokens + ask.output_tokens
        if self._held_from_the_start(provider, most, tokens):
            return
        following = {Dimension.COST: most, Dimension.CREDITS: credits.of_cost(most), Dimension.TOKENS: tokens}
        calls = self._charged()
        used = _used(calls)
        if taken.cap_microusd is not None and taken.cost_before_microusd + used[Dimension.COST] + most > taken.cap_microusd:
            raise LimitReached(words.OVER_ALLOCATION, limit="credits", resets_at=now())
        wanted = {dimension: used[dimension] + amount for dimension, amount in following.items()}
        covered = self._covering(provider)
        if covered is not None and all(amount <= covered[dimension] for dimension, amount in wanted.items()):
            return
        there = _used([call for call in calls if call.used.provider == provider])

        def hold() -> None:
            with writing() as connection:
                # The request's row first, as in settling.
                row = {"b_id": taken.id, "b_claim": taken.claim, "b_held": wanted[Dimension.COST]}
                if connection.execute(_holds_more, row).rowcount != 1:
                    raise LimitReached(words.TOO_DEAR, limit="request", resets_at=now())
                further.hold(connection, taken, provider, used=used, used_there=there, following=following)

        retried(hold)
        self._covered[provider] = wanted

    def _held_from_the_start(self, provider: str, most: int, tokens: int) -> bool:
        """Whether a first call is within what admission held for it: so it usually is, and then there is nothing to count.
        Credits follow from the cost."""
        taken = self.taken
        return (
            provider == taken.held_provider
            and taken.attempt <= 1
            and not (self.calls and self.calls.tried)
            and most <= taken.held_microusd
            and tokens <= taken.max_input_tokens + taken.max_output_tokens
            and (taken.cap_microusd is None or taken.cost_before_microusd + most <= taken.cap_microusd)
        )

    def _covering(self, provider: str) -> Use | None:
        """What may be used when a provider is called, by what is held. Of what an earlier execution has used or has held in
        addition nothing is known here: then the database is asked."""
        found, taken = self._covered.get(provider), self.taken
        if found is not None or taken.attempt > 1 or provider != taken.held_provider:
            return found
        return {
            Dimension.COST: taken.held_microusd,
            Dimension.CREDITS: credits.of_cost(taken.held_microusd),
            Dimension.TOKENS: taken.max_input_tokens + taken.max_output_tokens,
        }

    def person_ref(self) -> str:
        """A one-way hash of the person, for vendors' abuse reports."""
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        return _ref(app.config["SECRET_KEY"], self.taken.person_id.int)

    def recorded(self, ending: Ending) -> Ending:
        """The ending with everything that belongs on the record: calls, charges, the reasons for the model, troubles."""
        sorting = self.sorting
        return ending.recorded(
            (*self.house_calls, *self._charged()),
            self._why() or ending.route,
            () if ending.status is RequestStatus.FAILED else tuple(self._troubles()),
            category=sorting.category if sorting else None,
            complexity=sorting.complexity if sorting else None,
        )

    def _charged(self) -> list[Call]:
        tried = self.calls.tried if self.calls else []
        return [charges.call_of(each, self.estimate, produced=each is tried[-1] and self.produced) for each in tried]

    def _why(self) -> Mapping[str, Any] | None:
        if self.route is None:
            return None
        tried = self.calls.tried if self.calls else []
        passed = [*self.route.passed, *(self.calls.passed if self.calls else ())]
        # Of many calls the last ones: the one that answered is among them.
        models = [_shown(each.target.name, each.outcome, _reason(each)) for each in tried[-_SHOWN_MAX:]]
        models += [_shown(each.target, "passed over", each.reason) for each in passed]
        return {"by": self.route.by[:_SHOWN_CHARS], "models": models[:_SHOWN_MAX]}

    def _troubles(self) -> Iterator[tuple[str, str, str]]:
        """What the operator has to mend although another model answered."""
        for each in self.calls.tried if self.calls else ():
            if isinstance(each.error, BadCredentials | OutOfCredit):
                yield each.error.code, each.error.message, f"{each.target.name}: {each.error.detail}"


@lru_cache(maxsize=4096)
def _ref(secret: str, person: int) -> str:
    # By the number of a person's id, which is found sooner than the id itself.
    return hashlib.sha256(f"{secret}:{uuid.UUID(int=person)}".encode()).hexdigest()[:32]


def _used(calls: Iterable[Call]) -> dict[Dimension, int]:
    sums = dict.fromkeys((Dimension.COST, Dimension.CREDITS, Dimension.TOKENS), 0)
    for call in calls:
        sums[Dimension.COST] += call.used.cost_microusd
        # Rounded up call by call, as it will be counted.
        sums[Dimension.CREDITS] += credits.of_cost(call.used.cost_microusd)
        sums[Dimension.TOKENS] += call.used.input_tokens + call.used.output_tokens
    return sums


def _reason(tried: Tried) -> str:
    return tried.error.message if tried.error else tried.target.why


def _shown(model: str, what: str, why: str) -> dict[str, str]:
    return {"model": model[:_SHOWN_CHARS], "what": what, "why": why[:_SHOWN_CHARS]}
