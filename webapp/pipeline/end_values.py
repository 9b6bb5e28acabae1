"""How a request ended, as the values that are written of it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from webapp.contracts.limits import Dimension
from webapp.contracts.texts import clean
from webapp.pipeline.books import cut
from webapp.pipeline.endings import PERSON, Ending
from webapp.quota import credits

SUMS = ("input_tokens", "output_tokens", "cost_microusd", "credits_millicredits")
"""What is added to what earlier executions have used."""


def values_of(request_id: uuid.UUID, claim: uuid.UUID, ending: Ending, at: datetime) -> dict[str, Any]:
    """What `END` writes of an ending, beside its sums."""
    used = ending.used
    return {
        "b_id": request_id,
        "b_claim": claim,
        "status": ending.status,
        "answer": clean(ending.answer) if ending.answer else None,
        "result": dict(ending.result) if ending.result is not None else None,
        "route": dict(ending.route) if ending.route is not None else None,
        "cached": ending.cached,
        "quality": ending.quality,
        "finish": cut(ending.finish, 40) if ending.finish else None,
        "category": cut(ending.category, 40) if ending.category else None,
        "complexity": ending.complexity,
        "error_code": cut(ending.error_code, 40) if ending.error_code else None,
        "error_message": cut(ending.error_message, 2000) if ending.error_message else None,
        "provider": cut(used.provider, 40),
        "model": cut(used.model, 120),
        "ended_at": at,
    }


def sums_of(ending: Ending) -> tuple[dict[str, int], dict[str, dict[Dimension, int]]]:
    """What the person's calls have used, in all and at each provider."""
    read = written = cost = credited = 0
    at_providers: dict[str, dict[Dimension, int]] = {}
    answered = ending.counts
    for call in reversed(ending.calls):
        if call.payer != PERSON:
            continue
        used, worth = call.used, credits.of_cost(call.used.cost_microusd)
        read += used.input_tokens
        written += used.output_tokens
        cost += used.cost_microusd
        credited += worth
        there = at_providers.get(used.provider)
        if there is None:
            there = at_providers[used.provider] = _nothing()
        there[Dimension.REQUESTS] += answered
        there[Dimension.TOKENS] += used.input_tokens + used.output_tokens
        there[Dimension.COST] += used.cost_microusd
        there[Dimension.CREDITS] += worth
        answered = 0  # the last call is the one that answered
    sums = {"input_tokens": read, "output_tokens": written, "cost_microusd": cost, "credits_millicredits": credited}
    return sums, at_providers


def _nothing() -> dict[Dimension, int]:
    return {Dimension.REQUESTS: 0, Dimension.TOKENS: 0, Dimension.COST: 0, Dimension.CREDITS: 0}


def dimensions_of(counted: int, sums: Mapping[str, int]) -> dict[Dimension, int]:
    """What `sums_of` found, by the dimensions of limits."""
    return {
        Dimension.REQUESTS: counted,
        Dimension.TOKENS: sums["input_tokens"] + sums["output_tokens"],
        Dimension.COST: sums["cost_microusd"],
        Dimension.CREDITS: sums["credits_millicredits"],
    }
