"""How a request ended and what it used, as values: execution makes them, settling writes them down.

Nothing of them changes. Those of every request are not frozen all the same: being made would take seven times as long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from webapp.models import RequestStatus
from webapp.models.jobs import REASON_OF
from webapp.pipeline.pictures import Stored

PERSON = "person"
HOUSE = "house"


@dataclass(slots=True)
class Used:
    """What one call used, as the vendor reported it or, `estimated`, as far as it can be told without that."""

    provider: str = ""
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    pictures: int = 0
    cost_microusd: int = 0
    estimated: bool = False
    price_source: str = ""
    price_date: str = ""
    vendor_request_id: str = ""

    @property
    def nothing(self) -> bool:
        return not (self.input_tokens or self.output_tokens or self.pictures or self.cost_microusd)


@dataclass(slots=True)
class Call:
    """One call to a vendor. `payer` is whose limits it counts on; `detail` is for administrators."""

    used: Used
    outcome: str = "completed"
    started_at: datetime | None = None
    ended_at: datetime | None = None
    operation: str = ""
    """'' for the request's own."""
    payer: str = PERSON
    error_code: str = ""
    detail: str = ""
    first_piece_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """A picture that was made and stored, and what can be done with it."""

    stored: Stored
    seed: int | None = None
    actions: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Ending:
    """How a request ended. `detail` is for the operator's error log, never shown to the person.

    `reply_text` is the answer as a message, for a request that came as one; made before the transaction, which is kept short.
    `route` says why this model; `troubles` are (error code, message, detail) that the operator must see although the request
    ended well.
    """

    status: RequestStatus
    calls: tuple[Call, ...] = ()
    answer: str | None = None
    result: Mapping[str, Any] | None = None
    pictures: tuple[Made, ...] = ()
    reply_text: str = ""
    finish: str = ""
    category: str | None = None
    complexity: float | None = None
    quality: float | None = None
    route: Mapping[str, Any] | None = None
    cached: bool = False
    error_code: str = ""
    error_message: str = ""
    detail: str = ""
    troubles: tuple[tuple[str, str, str], ...] = field(default=())
    may_pass: bool = False
    """Whether the failure may pass by itself and nobody has read anything yet, so that it is worth trying again."""
    not_within_s: float = 0.0
    """For how many seconds the vendor wants to be left alone."""

    _used: Used | None = field(default=None, init=False, repr=False, compare=False)
    """The sum of its calls, once it was asked for."""

    def recorded(
        self,
        calls: tuple[Call, ...],
        route: Mapping[str, Any] | None,
        troubles: tuple[tuple[str, str, str], ...],
        *,
        category: str | None,
        complexity: float | None,
    ) -> Ending:
        """The same with what belongs on the record."""
        # Each field by its name: `replace` takes five times as long, and this is done for each request.
        return Ending(
            status=self.status,
            calls=calls,
            answer=self.answer,
            result=self.result,
            pictures=self.pictures,
            reply_text=self.reply_text,
            finish=self.finish,
            category=category,
            complexity=complexity,
            quality=self.quality,
            route=route,
            cached=self.cached,
            error_code=self.error_code,
            error_message=self.error_message,
            detail=self.detail,
            troubles=troubles,
            may_pass=self.may_pass,
            not_within_s=self.not_within_s,
        )

    def cancelled(self) -> Ending:
        """The end of a request that failed and that nobody wanted any more. What the operator has to mend stays on record."""
        code = self.error_code or "internal"
        to_mend = REASON_OF.get(code) in ("account", "internal")
        troubles = (
            (*self.troubles, (code, self.error_message or "A request failed.", self.detail)) if to_mend else self.troubles
        )
        return replace(
            self,
            status=RequestStatus.CANCELLED,
            error_code="cancelled",
            error_message="",
            detail="",
            troubles=troubles,
            may_pass=False,
        )

    @property
    def used(self) -> Used:
        """The sum of the person's calls, under the name of the last one."""
        if self._used is None:
            self._used = _sum([call.used for call in self.calls if call.payer == PERSON])
        return self._used

    @property
    def counts(self) -> int:
        """1 for a request that was answered; a kept answer is free and counts on no limit."""
        return 1 if (self.answer or self.pictures or self.result) and not self.cached else 0


def _sum(calls: list[Used]) -> Used:
    if not calls:
        return Used()
    read = written = cost = 0
    for used in calls:
        read += used.input_tokens
        written += used.output_tokens
        cost += used.cost_microusd
    return Used(calls[-1].provider, calls[-1].model, input_tokens=read, output_tokens=written, cost_microusd=cost)
