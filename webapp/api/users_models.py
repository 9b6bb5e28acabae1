"""What people are in the REST API: what is asked for, sent and answered."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field

from webapp.api.base import ApiModel, Flag, Moment, PageQuery, Text, page_of
from webapp.models import RequestStatus
from webapp.services.person_views import PersonView, Statistics
from webapp.services.request_lists import SEARCH_CHARS

ROLES = Literal["member", "manager", "admin"]


class UserPath(ApiModel):
    """Whom a route is about."""

    who: Text = Field(max_length=100, description="An id, a phone number with its country code (`%2B15005550006`), or `me`.")


class UserQuery(PageQuery):
    """Which people are listed. With a filter 10,000 people are looked at for a page: it may so have fewer items than asked for,
    or none, and still a `next_cursor`."""

    active: bool | None = Field(None, description="Only those who are let in, or who are not.")
    plan: Text | None = Field(None, max_length=40, description="The code of their own plan.")
    role: ROLES | None = Field(None, description="Their role in the organization in which they are seen.")
    q: Text = Field("", max_length=100, description="A part of a name, an e-mail address or a phone number.")
    created_from: Moment | None = Field(None, description="Registered at this moment or later.")
    created_to: Moment | None = Field(None, description="Registered before this moment.")
    order: Literal["-created", "created"] = Field("-created", description="The latest first, or the first.")


class UserTaskQuery(PageQuery):
    """Which of a person's tasks are listed."""

    status: list[RequestStatus] | None = Field(None, max_length=7, description="One of these; repeat it for several.")
    operation: Text | None = Field(None, max_length=40)
    category: Text | None = Field(None, max_length=40)
    created_from: Moment | None = Field(None, description="Made at this moment or later.")
    created_to: Moment | None = Field(None, description="Made before this moment.")
    q: Text | None = Field(None, max_length=SEARCH_CHARS, description="Words in the prompt or the answer; see `/api/tasks`.")
    order: Literal["-created", "created"] = Field("-created", description="Newest or oldest first.")


class User(ApiModel):
    """A person in an organization."""

    id: uuid.UUID
    organization_id: uuid.UUID = Field(description="The organization in which they are seen.")
    organization: str
    full_name: str
    email: str | None
    phones: list[str]
    plan: str = Field(description="The code of their own plan.")
    role: ROLES = Field(description="Their role in this organization; admin for administrators of the installation.")
    active: bool
    here: bool = Field(description="Whether they are working in this organization now.")
    time_zone: str | None = Field(description="Null: that of the organization.")
    preferences: dict[str, Any] | None = Field(description="Null for managers, whose business they are not.")
    requests_total: int | None = Field(description="Null for managers where the person is in other organizations too.")
    last_active_at: datetime | None = Field(description="Null likewise, and for somebody who never asked anything.")
    created_at: datetime

    @classmethod
    def of(cls, view: PersonView) -> User:
        """A person as they are told."""
        plain = {name: getattr(view, name) for name in cls.model_fields}
        return cls(**(plain | {"phones": list(view.phones), "role": view.role.value}))


UserPage = page_of(User)


class UserCategory(ApiModel):
    """How often somebody asked about something."""

    category: str
    requests: int


class UserStatistics(ApiModel):
    """How somebody uses an organization's requests."""

    requests_total: int | None = Field(description="Answered requests, in all organizations; null as in the person.")
    requests_this_month: int = Field(description="Answered requests since the month began, in this organization.")
    cost_this_month_microusd: int
    month_starts_at: datetime
    recent: int = Field(description="From how many of the latest requests the following three are told, at most 1,000.")
    success_rate: float | None = Field(description="Completed ones among those completed or failed, 0 to 1.", ge=0, le=1)
    mean_seconds: float | None = Field(description="From the beginning of an answer to its end.", ge=0)
    favourite_categories: list[UserCategory] = Field(description="At most five, the most frequent first.")
    last_active_at: datetime | None

    @classmethod
    def of(cls, view: PersonView, found: Statistics) -> UserStatistics:
        """The figures as they are told."""
        return cls(
            requests_total=view.requests_total,
            requests_this_month=found.requests_this_month,
            cost_this_month_microusd=found.cost_this_month_microusd,
            month_starts_at=found.month_starts_at,
            recent=found.recent,
            success_rate=found.success_rate,
            mean_seconds=found.mean_seconds,
            favourite_categories=[UserCategory(category=name, requests=count) for name, count in found.categories],
            last_active_at=view.last_active_at,
        )


class UserProfile(ApiModel):
    """A person with their figures."""

    user: User
    statistics: UserStatistics


class UserRegistration(ApiModel):
    """Somebody to be registered: a phone number or an e-mail address; both, and a password, for administrators."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"phone": "+15005550006", "full_name": "Alice Example", "time_zone": "Europe/Berlin"}],
        },
    )

    phone: Text | None = Field(None, max_length=40, description="With its country code.")
    email: Text | None = Field(None, max_length=254)
    full_name: Text = Field("", max_length=255)
    plan: Text | None = Field(None, max_length=40, description="Null: the one with which everybody begins.")
    time_zone: Text | None = Field(None, max_length=64, description="As in Europe/Berlin. Null: that of the organization.")
    password: Text | None = Field(None, max_length=200, description="To sign in with; needs an e-mail. For administrators.")
    organization_id: uuid.UUID | None = Field(None, description="Null: the caller's. Others for administrators.")


class UserChange(ApiModel):
    """What is to be different; what is left out stays. People change their full_name, time_zone and preferences themselves,
    administrators of the installation everything."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"full_name": "Alice B. Example"}]})

    # Factories, so that the document names no default for what is left out.
    full_name: Text = Field(default_factory=str, max_length=255)
    time_zone: Text | None = Field(default_factory=lambda: None, max_length=64, description="Null: the organization's.")
    preferences: dict[str, Any] = Field(default_factory=dict, description="Takes the place of all earlier ones.")
    email: Text | None = Field(default_factory=lambda: None, max_length=254, description="Null: none.")
    active: Flag = Field(default_factory=bool)


class UserMessage(ApiModel):
    """A text message for a person."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"body": "Your report is ready."}]})

    body: Text = Field(min_length=1, max_length=20_000)
    channel: Text | None = Field(None, max_length=40, description="Null: the first SMS channel that is ready.")


class UserTier(ApiModel):
    """A plan for a person."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"plan": "premium", "reason": "Upgraded by invoice 1042."}]}
    )

    plan: Text = Field(min_length=1, max_length=40)
    reason: Text = Field(min_length=1, max_length=500, description="Why; it is kept.")


class UserTierChange(ApiModel):
    """What became of it."""

    user_id: uuid.UUID
    before: str
    plan: str
    month_restarted: bool = Field(description="Whether the month's counts started afresh, as they do with a higher plan.")
