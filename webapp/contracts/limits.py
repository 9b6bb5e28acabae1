"""Quota limits as values. A policy says which apply; the core holds and settles them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from webapp.contracts.texts import clean

MAXIMUM = 2**62
"""The highest number that a limit may have."""

KEY_CHARS = 80
"""The longest subject and the longest name of a limit."""
LABEL_CHARS = 120
PROVIDER_CHARS = 40


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
    REQUEST = "request"
    """One request by itself: nothing is counted from one to the next. For dimensions of cost, it bounds what all calls of the
    request together may cost."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One number that may not be passed.

    `subject` is whose use is counted, `kind:id` (`person:0192…`). `name` tells limits of one subject apart and is stable:
    use is counted under (subject, name, window). `label` is how people are told about it: 'messages', 'tokens'.
    `provider` limits to what is used at that provider: it is held before that provider is called, and not else.
    """

    subject: str
    name: str
    dimension: Dimension
    window: Window
    maximum: int
    label: str
    provider: str = ""

    def __post_init__(self) -> None:
        for what, least, most in _TEXTS:
            text = getattr(self, what)
            if not isinstance(text, str) or not least <= len(text) <= most or clean(text) != text:
                length = f"{least} to {most}" if least else f"at most {most}"
                raise ValueError(f"a limit's {what} must be {length} characters, none of them a control character")
        if not isinstance(self.dimension, Dimension) or not isinstance(self.window, Window):
            raise ValueError(f"limit {self.name}: dimension and window must be a Dimension and a Window")
        if type(self.maximum) is not int or not 0 <= self.maximum <= MAXIMUM:
            raise ValueError(f"limit {self.name}: maximum must be a whole number from 0 to {MAXIMUM}, not {self.maximum!r}")


_TEXTS = (("subject", 1, KEY_CHARS), ("name", 1, KEY_CHARS), ("label", 0, LABEL_CHARS), ("provider", 0, PROVIDER_CHARS))
"""A limit's texts, with how many characters each has at least and at most."""


@dataclass(frozen=True, slots=True)
class StoredLimit:
    """A limit as an administrator or a manager stores it with a plan, an organization, a person or a token.

    `id` is short, and stable while the number changes. '' for `provider` or `operation` means any. With `each`, an
    organization's limit counts for each of its people by themselves, else for all of them together. `by_house` marks what only
    the installation's administrators may change.
    """

    id: str
    dimension: Dimension
    window: Window
    maximum: int
    provider: str = ""
    operation: str = ""
    each: bool = False
    by_house: bool = False
    label: str = ""


@dataclass(frozen=True, slots=True)
class QuotaQuestion:
    """What a policy is told about a request. `plan_limits` are the plan's own numbers a month, as an administrator stores them;
    the other limits are those stored with the plan, the organization, the person, and the token that was used.
    `allocation_millicredits` is what the request may cost by itself."""

    person_id: str
    organization_id: str
    plan: str
    plan_limits: Mapping[str, int | None]
    operation: str
    channel: str
    more_plan_limits: tuple[StoredLimit, ...] = ()
    organization_limits: tuple[StoredLimit, ...] = ()
    person_limits: tuple[StoredLimit, ...] = ()
    token_limits: tuple[StoredLimit, ...] = ()
    token_id: str = ""
    allocation_millicredits: int | None = None


class QuotaPolicy:
    """Says which limits apply to a request. It never counts or locks: the core holds all limits in one atomic step."""

    name: str

    steady: bool = False
    """Whether the same question always has the same answer, so that it need not be asked again: a policy that looks at nothing
    but the question says so and saves each request its time."""

    def limits(self, question: QuotaQuestion) -> Iterable[Limit]:
        """The limits that apply. Called for every request unless all policies are steady, so it must be quick and do no I/O."""
        raise NotImplementedError
