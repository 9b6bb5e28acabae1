"""Credits: what requests cost, in the operator's own unit."""

from __future__ import annotations

import math

from webapp.extensions import current_settings

MILLI = 1_000


def of_cost(cost_microusd: int) -> int:
    """Milli-credits for a cost in micro-dollars, rounded up."""
    return math.ceil(cost_microusd * MILLI / current_settings().credit_microusd)


def worth(millicredits: int) -> int:
    """Micro-dollars that milli-credits stand for, rounded down: what costs no more than this is within them."""
    return math.floor(millicredits * current_settings().credit_microusd / MILLI)
