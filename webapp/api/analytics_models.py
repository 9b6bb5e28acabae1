"""What goes into and comes out of `/api/analytics`."""

from __future__ import annotations

import uuid
from datetime import datetime

from pydantic import Field

from webapp.api.base import ApiModel
from webapp.services.analytics import DAYS, DAYS_MAX

_SHARE = "0 to 1; null without any."


class AnalyticsUsed(ApiModel):
    """What was used under one name. It counts what people pay for, not what the house does for itself."""

    name: str
    requests: int = Field(description="That a model answered: kept answers, which cost nothing, are not among them.")
    input_tokens: int
    output_tokens: int
    cost_microusd: int


class AnalyticsTotal(ApiModel):
    """What was answered and used in a time, from the sums by the hour."""

    requests: int = Field(description="That a model answered: kept answers, which cost nothing, are not among them.")
    input_tokens: int
    output_tokens: int
    cost_microusd: int


class AnalyticsCount(ApiModel):
    """How many there are under one name."""

    name: str
    count: int


class AnalyticsRecent(ApiModel):
    """How the newest requests went: at most 5,000, of the last 30 days. No sum by the hour says these things, and they are
    not reckoned anew over all requests."""

    counted: int = Field(description="How many requests these figures are of.")
    since: datetime | None = Field(description="When the oldest of them was made.")
    complete: bool = Field(description="Whether they are all of the last 30 days; false where there were more than 5,000.")
    statuses: list[AnalyticsCount]
    success_rate: float | None = Field(description=f"Completed among those completed or failed, {_SHARE}")
    mean_s: float | None = Field(description="Seconds from the beginning of an answer to its end, of those completed.")
    p95_s: float | None = Field(description="The seconds that 95 of 100 did not pass.")
    mean_wait_s: float | None = Field(description="Seconds from being asked to being begun.")
    cached: int = Field(description="How many were answered by a kept answer.")
    categories: list[AnalyticsCount] = Field(description="The most frequent first; unsorted stands for those without one.")
    operations: list[AnalyticsCount]
    failures: list[AnalyticsCount] = Field(description="By error code: those that failed or were rejected.")
    ratings: list[AnalyticsCount] = Field(description="How many gave 1 to 5.")
    rating: float | None = Field(description="The mean of these ratings.")
    quality: float | None = Field(description="The mean of the estimates of quality, 0 to 1.")


class AnalyticsPeople(ApiModel):
    """The people, counted up to 100,000."""

    total: int
    active_24h: int = Field(description="Those who did something in the last 24 hours.")
    active_7d: int
    plans: list[AnalyticsCount] = Field(description="How many have each plan of their own.")
    complete: bool = Field(description="False where there are more people than are counted.")


class AnalyticsOverview(ApiModel):
    """How it stands."""

    organization_id: uuid.UUID | None = Field(description="Whose figures these are; null for the whole installation.")
    people: AnalyticsPeople
    total: AnalyticsTotal = Field(description="Since the beginning.")
    last_24h: AnalyticsTotal = Field(description="Since the beginning of the hour 24 hours ago.")
    recent: AnalyticsRecent


class AnalyticsTasks(ApiModel):
    """What requests used, and how they went. Breakdowns have the 20 dearest names, and (others)."""

    organization_id: uuid.UUID | None
    days: list[AnalyticsUsed] = Field(description="Each day of UTC, the present one last; `name` is the day.")
    providers: list[AnalyticsUsed]
    models: list[AnalyticsUsed] = Field(description="By provider/model.")
    operations: list[AnalyticsUsed]
    channels: list[AnalyticsUsed]
    house_microusd: int | None = Field(description="What the house paid for itself; null for figures of one organization.")
    recent: AnalyticsRecent


class AnalyticsPerson(ApiModel):
    """A person, and how their newest requests went."""

    person_id: uuid.UUID
    name: str
    recent: AnalyticsRecent = Field(description="Of those among the newest 5,000 that are theirs.")


class AnalyticsUsers(ApiModel):
    """Who came, and the 20 people with the most of the newest requests."""

    organization_id: uuid.UUID | None
    joined: list[AnalyticsCount] = Field(description="People who came, by day of UTC; empty for figures of one person.")
    people: list[AnalyticsPerson]


class AnalyticsErrorKind(ApiModel):
    """How often something went wrong."""

    kind: str
    count: int
    unresolved: int
    days: list[AnalyticsCount] = Field(description="The days on which it did.")


class AnalyticsErrors(ApiModel):
    """The newest errors of the last 30 days, at most 10,000."""

    kinds: list[AnalyticsErrorKind]
    days: list[AnalyticsCount]
    unresolved: int = Field(description="All that are open, counted up to 10,000.")
    complete: bool = Field(description="False where there were more than are counted.")


class AnalyticsDashboard(ApiModel):
    """Everything at once, for a page."""

    overview: AnalyticsOverview
    tasks: AnalyticsTasks
    users: AnalyticsUsers
    errors: AnalyticsErrors | None = Field(description="null for figures of one organization: the log is the installation's.")


class AnalyticsQuery(ApiModel):
    """Whose figures."""

    organization_id: uuid.UUID | None = Field(
        None,
        description="Of this organization. Managers see the one that they work in, with or without this; administrators see "
        "the whole installation without it.",
    )


class AnalyticsDaysQuery(AnalyticsQuery):
    """Whose figures, and of how many days."""

    days: int = Field(DAYS, ge=1, le=DAYS_MAX, description="Days of UTC, the present one included.")


class AnalyticsUsersQuery(AnalyticsQuery):
    """Whose figures."""

    person_id: uuid.UUID | None = Field(None, description="Of this person alone. Members see themselves, with or without this.")
