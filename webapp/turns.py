"""In which order the queues are served, and under which names Redis keeps what the workers tell of it.

Below everything that asks: the workers take by this order, and what people are told of their wait follows from it.
"""

from __future__ import annotations

from collections.abc import Sequence

_LOWEST, _BETWEEN, _HIGHEST = 1, 3, 4
_CYCLE = 16

SIGNS = "switchhook:workers"
"""A hash of worker name -> JSON: what each worker tells of itself with its heartbeat."""

LOADS = "switchhook:loads"
"""A hash of worker name -> jobs in flight, written whenever the worker takes a job or notices that one has ended."""

MINUTES, HOURS = "switchhook:pace:minute:", "switchhook:pace:hour:"
"""And the number of a minute or hour since 1970: a hash of what happened in it, over all workers. Its fields: `s:QUEUE:TASK`
jobs started; `d:QUEUE` jobs that waited when a worker first looked in it; `ended` jobs that ended; `busy_ms` milliseconds in
which a slot carried a job, of all slots together."""

MINUTES_KEPT_S, HOURS_KEPT_S = 2 * 3600, 50 * 3600

EXECUTE, DELIVER, OTHER = "execute", "deliver", "other"
TASKS = (EXECUTE, DELIVER, OTHER)
"""Kinds of jobs that are counted apart. Only the first are requests."""


def turn_key(queues: Sequence[str]) -> str:
    """Where the workers of these queues, highest first, keep which turn of the cycle is next. It is one cycle for all of them,
    so that the share holds however many there are and however short they live."""
    return f"switchhook:turn:{','.join(queues)}"


def cycle(queues: int) -> list[int]:
    """First choices of consecutive turns, as indexes into the queues, highest first; the same for ever.

    While all queues are full, of three queues the highest gets 12 of 16 turns, the middle one 3 and the lowest 1 (6
    %). With up to seven queues each gets at least 5 %. The turns of a queue are spread evenly (smooth weighted round
    robin).
    """
    if queues < 1:
        raise ValueError("a worker needs at least one queue")
    lower = [_BETWEEN] * (queues - 2) + [_LOWEST] if queues > 1 else []
    weights = [max(_HIGHEST, _CYCLE - sum(lower)), *lower]
    credit, order = [0] * queues, []
    for _ in range(sum(weights)):
        credit = [have + weight for have, weight in zip(credit, weights, strict=True)]
        chosen = credit.index(max(credit))
        credit[chosen] -= sum(weights)
        order.append(chosen)
    return order


def preferences(first: int, queues: int) -> list[int]:
    """Whose job is taken in a turn of the queue `first`: its own, else that of the next higher queue that has one, else that of
    the next lower one."""
    return [*range(first, -1, -1), *range(first + 1, queues)]
