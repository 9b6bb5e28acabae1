"""The work of one execution: which models it may use, what they gave, and how it ends. One kind for texts, one for pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, bindparam, update

from webapp.contracts.errors import BadCredentials, LimitReached, OutOfCredit
from webapp.contracts.limits import Dimension
from webapp.contracts.pictures import Progress
from webapp.contracts.sorting import Sorting
from webapp.extensions import current_settings, now, table_of, writing
from webapp.models import Request, RequestStatus
from webapp.pipeline import charges, further, lease, timing, words
from webapp.pipeline.claims import Claimed
from webapp.pipeline.endings import Call, Ending
from webapp.quota import credits, holds
from webapp.routing import costs, route
from webapp.routing.calls import Calls, Tried
from webapp.routing.route import Ask, Route, Target

_SHOWN_MAX = 20
_SHOWN_CHARS = 300
"""Of the models that the record of a route names, and of each one's name and reason: they are vendors' words."""

_LIMITED = ((Dimension.COST, "spending"), (Dimension.CREDITS, "credits"), (Dimension.TOKENS, "tokens"))
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
        self._held = {
            Dimension.COST: taken.held_microusd,
            Dimension.CREDITS: credits.of_cost(taken.held_microusd),
            Dimension.TOKENS: taken.max_input_tokens + taken.max_output_tokens,
        }
        self._held_at = {taken.held_provider}
        # An earlier execution, which lost the request, may have held more tokens than it was admitted with.
        self._tokens_known = taken.attempt <= 1

    @property
    def timeout_s(self) -> float:
        """How long all calls together may take."""
        return timing.timeout_s(self.taken.operation)

    def pieces(self) -> Generator[str | Progress, None, None]:
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
        ask, taken = self.ask(), self.taken
        used = [call.used for call in self._charged()]
        cost = taken.cost_before_microusd + sum(each.cost_microusd for each in used)
        cost += costs.most(target, ask.input_tokens, ask.output_tokens, ask.pictures).cost_microusd
        tokens = taken.tokens_before + sum(each.input_tokens + each.output_tokens for each in used)
        most = {
            Dimension.COST: cost,
            Dimension.CREDITS: credits.of_cost(cost),
            Dimension.TOKENS: tokens + ask.input_tokens + ask.output_tokens,
        }
        if taken.cap_microusd is not None and cost > taken.cap_microusd:
            raise LimitReached(words.OVER_ALLOCATION, limit="credits", resets_at=now())
        name = target.provider.name
        elsewhere = name not in self._held_at
        if elsewhere or any(amount > self._held[dimension] for dimension, amount in most.items()):
            with writing() as connection:
                self._hold(connection, most, name)
                if elsewhere:
                    further.hold_at(connection, taken, name, most)
            self._held_at.add(name)

    def _hold(self, connection: Connection, most: Mapping[Dimension, int], provider: str) -> None:
        held = {dimension: max(amount, self._held[dimension]) for dimension, amount in most.items()}
        # The request's row first, as in settling. Who takes the request over finds there what is held already.
        row = {"b_id": self.taken.id, "b_claim": self.taken.claim, "b_held": held[Dimension.COST]}
        room = connection.execute(_holds_more, row).rowcount == 1
        if not self._tokens_known:
            known = holds.held(connection, self.taken.id, Dimension.TOKENS)
            self._held[Dimension.TOKENS] = max(known, self._held[Dimension.TOKENS])
            held[Dimension.TOKENS] = max(known, held[Dimension.TOKENS])
        for dimension, limit in _LIMITED:
            more = held[dimension] - self._held[dimension]
            if not room or (more and not holds.top_up(connection, self.taken.id, dimension, more, provider)):
                raise LimitReached(words.TOO_DEAR, limit=limit, resets_at=now())
        self._held = held
        self._tokens_known = True

    def person_ref(self) -> str:
        """A one-way hash of the person, for vendors' abuse reports."""
        secret = current_settings().load_secret_key()
        return hashlib.sha256(f"{secret}:{self.taken.person_id}".encode()).hexdigest()[:32]

    def recorded(self, ending: Ending) -> Ending:
        """The ending with everything that belongs on the record: calls, charges, the reasons for the model, troubles."""
        return replace(
            ending,
            calls=self.house_calls + tuple(self._charged()),
            route=self._why() or ending.route,
            category=self.sorting.category if self.sorting else None,
            complexity=self.sorting.complexity if self.sorting else None,
            troubles=() if ending.status is RequestStatus.FAILED else tuple(self._troubles()),
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


def _reason(tried: Tried) -> str:
    return tried.error.message if tried.error else tried.target.why


def _shown(model: str, what: str, why: str) -> dict[str, str]:
    return {"model": model[:_SHOWN_CHARS], "what": what, "why": why[:_SHOWN_CHARS]}
