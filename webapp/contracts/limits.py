"""Quota limits as values. A policy says which apply; the core holds and settles them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Dimension(StrEnum):
    """What a limit counts. Cost is in micro-dollars, credits in milli-credits."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    COST = "cost"
    CREDITS = "credits"


class Window(StrEnum):
    """How long a limit counts before it starts again, in the organization's time zone."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Limit:
    """One number that may not be passed.

    `subject` is whose use is counted, `kind:id` (`person:0192…`). `name` tells limits of one subject apart and is stable:
    use is counted under (subject, name, window). `label` is how people are told about it: 'messages', 'tokens'.
    """

    subject: str
    name: str
    dimension: Dimension
    window: Window
    maximum: int
    label: str

    def __post_init__(self) -> None:
        if not isinstance(self.maximum, int) or self.maximum < 0:
            raise ValueError(f"limit {self.name}: maximum must be a whole number of at least 0, not {self.maximum!r}")


@dataclass(frozen=True, slots=True)
class QuotaQuestion:
    """What a policy is told about a request. `plan_limits` are the plan's own numbers, as an administrator stores them."""

    person_id: str
    organization_id: str
    plan: str
    plan_limits: Mapping[str, int | None]
    operation: str
    channel: str


class QuotaPolicy:
    """Says which limits apply to a request. It never counts or locks: the core holds all limits in one atomic step."""

    name: str

    def limits(self, question: QuotaQuestion) -> Iterable[Limit]:
        """The limits that apply. Called for every request, so it must be quick and do no I/O."""
        raise NotImplementedError
