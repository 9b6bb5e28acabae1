"""How urgent a request is: a score from its plan, its operation and a person's word. `queues.queue_for` makes a queue of it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

OPERATION_POINTS: Mapping[str, int] = MappingProxyType({"sentiment.analyze": 10, "content.optimize": 5})
"""What an operation adds: short answers that somebody is waiting for come a little earlier. Others add nothing."""

URGENT_POINTS = 50

BATCH_SCORE = 0
"""Every request of a batch, whatever its plan: nobody waits for a single one of them, and there may be thousands."""


def score(plan_priority: int, operation: str, urgent: bool, *, batch: bool = False) -> int:
    """The priority score of a request. `plan_priority` is the plan's own, 20 (free) to 100 (enterprise) as plans are made.

    A request of a batch has the lowest, urgent or not, and so goes to the low queue.
    """
    if batch:
        return BATCH_SCORE
    return plan_priority + OPERATION_POINTS.get(operation, 0) + (URGENT_POINTS if urgent else 0)
