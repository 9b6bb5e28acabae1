"""What a batch will cost, before anybody pays for it: likely, and at most."""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import dataclass

from sqlalchemy import select

from webapp.extensions import current_settings, reading
from webapp.models import Request, RequestStatus
from webapp.models.senders import Sender
from webapp.quota import asking
from webapp.routing import costs, prices, route, vendors
from webapp.routing.prices import Counted
from webapp.routing.route import Ask, Target

MEDIUM = "batch"
"""The medium of a batch's requests."""
_STEP_TOKENS = 64
"""Prompts are grouped by their length in steps of so many tokens, rounded up: one look at the prices for each."""
_LIKELY_TOKENS = 400
"""How long an answer is for somebody who has had none yet."""
_LATEST = 100


class Weight:
    """How long the prompts of a file are."""

    def __init__(self) -> None:
        around = prices.estimate_tokens(current_settings().system_prompt) + 3 * prices.TURN_TOKENS
        self._around = around
        self.rows_by_tokens: Counter[int] = Counter()

    def add(self, prompt: str) -> None:
        """Count a prompt, with what stands around it in a call."""
        tokens = self._around + prices.estimate_tokens(prompt)
        self.rows_by_tokens[-(-tokens // _STEP_TOKENS) * _STEP_TOKENS] += 1


@dataclass(frozen=True, slots=True)
class Estimate:
    """In micro-dollars. `most` is what the dearest model of the route would charge for the longest answers, and no more than
    the limits on a single request allow."""

    likely_microusd: int
    most_microusd: int


def estimate(sender: Sender, operation: str, model: str, weight: Weight) -> Estimate:
    """The price of all rows by the route of this person."""
    targets = _targets(sender, operation, model)
    cap = asking.cap_microusd(asking.limits_for(asking.question_of(sender, operation, MEDIUM)))
    answer = _likely_answer(sender.person_id, operation, sender.max_output_tokens)
    likely = most = 0
    for tokens, rows in weight.rows_by_tokens.items():
        each = max(costs.most(target, tokens, sender.max_output_tokens).cost_microusd for target in targets or (None,))
        each = each if cap is None else min(each, cap)
        # Tokens are estimated high, by about a third.
        expected = costs.charge(targets[0], Counted(tokens * 3 // 4, answer)).cost_microusd if targets else each
        likely += min(expected, each) * rows
        most += each * rows
    return Estimate(likely, most)


def _targets(sender: Sender, operation: str, model: str) -> list[Target]:
    """The models that may serve such requests, the likeliest first: what a prompt is about is only known when it runs."""
    found: dict[str, Target] = {}
    categories = {rule.category for rule in vendors.current().rules if rule.category is not None}
    for category in (None, *sorted(categories)):
        ask = Ask(operation, category, sender.plan, sender.organization_id, named=model)
        for target in route.plan(ask).targets:
            found.setdefault(target.name, target)
    return list(found.values())


def _likely_answer(person_id: uuid.UUID, operation: str, longest: int) -> int:
    """How many tokens this person's latest answers had on average."""
    query = (
        select(Request.output_tokens, Request.status, Request.operation, Request.cached)
        .where(Request.person_id == person_id)
        .order_by(Request.id.desc())
        .limit(_LATEST)
    )
    with reading() as connection:
        rows = connection.execute(query).all()
    lengths = [
        row.output_tokens
        for row in rows
        if row.status == RequestStatus.COMPLETED and row.operation == operation and not row.cached and row.output_tokens
    ]
    return min(sum(lengths) // len(lengths) if lengths else _LIKELY_TOKENS, longest)
