"""What limits, usage and plans are in the REST API."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Literal

from pydantic import Field

from webapp.api.base import PAGE, PAGE_MAX, ApiModel, Text, page_of
from webapp.contracts.limits import Dimension, Window
from webapp.quota.usage import Line, Whose
from webapp.services.plans import PlanView
from webapp.services.usage import Month, Usage
from webapp.services.usage_organization import MemberUsage

UNITS = {
    Dimension.REQUESTS: "requests",
    Dimension.TOKENS: "tokens",
    Dimension.COST: "microusd",
    Dimension.CREDITS: "millicredits",
}


class Quota(ApiModel):
    """What is used of one limit in the window that runs now. Amounts are in `unit`."""

    name: str = Field(description="Tells limits of the same person or organization apart.")
    label: str = Field(description="For people.")
    whose: Whose = Field(description="Whose use it counts.")
    dimension: Dimension
    unit: Literal["requests", "tokens", "microusd", "millicredits"]
    window: Window
    provider: str | None = Field(description="Null: at all providers.")
    operations: list[str] = Field(description="Empty: for all kinds of work.")
    used: int
    held: int = Field(description="What running requests may still use of it.")
    limit: int | None = Field(description="Null: there is none.")
    remaining: int | None = Field(description="What is neither used nor held; null without a limit.")
    percent: int = Field(description="How much is used or held, in whole percent rounded down.")
    used_percent: int
    full: bool = Field(description="Whether all of it is used.")
    starts_at: datetime | None = Field(description="Null for a limit on single requests, which does not count.")
    resets_at: datetime | None

    @classmethod
    def of(cls, line: Line) -> Quota:
        """A limit as it is told."""
        same = {name: getattr(line, name) for name in cls.model_fields if hasattr(line, name)}
        mine = {
            "label": line.what,
            "unit": UNITS[line.dimension],
            "provider": line.provider or None,
            "operations": list(line.operations),
        }
        return cls(**(same | mine))


QuotaPage = page_of(Quota)


class UsageOfModel(ApiModel):
    """What one model was used for since the month began."""

    provider: str
    model: str
    requests: int
    tokens: int
    cost_microusd: int


class UsageMonth(ApiModel):
    """What was used since the month began."""

    starts_at: datetime
    requests: int
    cost_microusd: int
    models: list[UsageOfModel] = Field(description="The dearest first, eight at most.")
    other_models: int = Field(description="How many there are beyond these.")

    @classmethod
    def of(cls, month: Month) -> UsageMonth:
        """A month as it is told."""
        names = UsageOfModel.model_fields
        models = [UsageOfModel(**{name: getattr(each, name) for name in names}) for each in month.models]
        return cls(
            starts_at=month.starts_at,
            requests=month.requests,
            cost_microusd=month.cost_microusd,
            models=models,
            other_models=month.others,
        )


class UsageSummary(ApiModel):
    """What somebody has used of their limits, and in this month."""

    person_id: uuid.UUID
    organization_id: uuid.UUID
    time_zone: str = Field(description="In which windows begin: the organization's.")
    at: datetime
    quotas: list[Quota]
    troubles: list[str] = Field(description="What could not be told, in words.")
    month: UsageMonth

    @classmethod
    def told(cls, person_id: uuid.UUID, organization_id: uuid.UUID, usage: Usage, month: Month) -> UsageSummary:
        """Usage as it is told."""
        assert usage.at is not None, "it was just asked for"
        return cls(
            person_id=person_id,
            organization_id=organization_id,
            time_zone=usage.time_zone,
            at=usage.at,
            quotas=[Quota.of(line) for line in usage.lines],
            troubles=list(usage.troubles),
            month=UsageMonth.of(month),
        )


class UsageOfMember(ApiModel):
    """What one person has used in the organization since the month began."""

    person_id: uuid.UUID
    title: str = Field(description="What they are called, by whatever is known.")
    requests: int
    tokens: int
    cost_microusd: int

    @classmethod
    def of(cls, member: MemberUsage) -> UsageOfMember:
        """A person's use as it is told."""
        return cls(**{name: getattr(member, name) for name in cls.model_fields})


class UsageOrganizationQuery(ApiModel):
    """Which page of the organization's people."""

    cursor: Text | None = Field(None, max_length=500, description="`next_cursor` of the page before.")
    limit: int = Field(PAGE, ge=1, le=PAGE_MAX, description="How many people to return at most.")


class UsageOrganization(ApiModel):
    """What an organization has used of its own limits, and in this month, with a page of its people."""

    organization_id: uuid.UUID
    name: str
    time_zone: str
    quotas: list[Quota]
    troubles: list[str]
    month: UsageMonth
    spenders: list[UsageOfMember] | None = Field(description="The dearest five; null where there are too many calls to tell.")
    members: list[UsageOfMember]
    next_cursor: str | None = Field(None, description="Give it as `cursor` for the next people; null on the last page.")


class PlanLimit(ApiModel):
    """A limit for each person on a plan."""

    dimension: Dimension
    window: Window
    maximum: int = Field(description="Of cost in micro-dollars, of credits in milli-credits.")
    provider: str
    operation: str
    label: str


class PlanInfo(ApiModel):
    """A plan."""

    code: str
    name: str
    rank: int = Field(description="A higher one is a better plan.")
    priority: int
    limits: dict[str, int | None] = Field(description="Numbers a month; null: unlimited. Absent: nothing is said about it.")
    more_limits: list[PlanLimit]
    features: list[str]
    max_output_tokens: int
    context_tokens: int
    default: bool = Field(description="Whether people begin with it.")
    mine: bool = Field(description="Whether it is the caller's own.")

    @classmethod
    def of(cls, plan: PlanView, own: str) -> PlanInfo:
        """A plan as it is told."""
        same = {name: getattr(plan, name) for name in cls.model_fields if hasattr(plan, name)}
        more = [PlanLimit(**{name: getattr(each, name) for name in PlanLimit.model_fields}) for each in plan.more_limits]
        plain = {"limits": dict(plan.limits), "features": list(plan.features)}
        return cls(**(same | plain | {"more_limits": more, "mine": plan.code == own}))


PlanPage = page_of(PlanInfo)
