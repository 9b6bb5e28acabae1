"""Figures for programs: of an organization for its managers, of everything for administrators, and everybody's own."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from flask import Response

from webapp.api import access
from webapp.api.analytics_models import (
    AnalyticsCount,
    AnalyticsDashboard,
    AnalyticsDaysQuery,
    AnalyticsErrorKind,
    AnalyticsErrors,
    AnalyticsOverview,
    AnalyticsPeople,
    AnalyticsPerson,
    AnalyticsQuery,
    AnalyticsRecent,
    AnalyticsTasks,
    AnalyticsTotal,
    AnalyticsUsers,
    AnalyticsUsersQuery,
)
from webapp.api.base import answer, area
from webapp.contracts.errors import NotFound
from webapp.models import PersonRole
from webapp.services import analytics
from webapp.services.analytics import ErrorFigures, Overview, TaskFigures, UserFigures
from webapp.services.recent_requests import Recent

blueprint = area("analytics", "Analytics", "How the installation, or an organization, is doing. Days are those of UTC.")


@blueprint.get("/analytics/overview", summary="People, requests, plans, categories", responses={200: AnalyticsOverview})
@access.opens("admin", role=PersonRole.MANAGER)
def analytics_overview(query: AnalyticsQuery) -> Response:
    """How it stands. The cost of this call does not grow with the number of requests."""
    organization_id = _organization(query.organization_id)
    return answer(_overview(organization_id, analytics.overview(organization_id)))


@blueprint.get("/analytics/task-stats", summary="Requests by day and by what", responses={200: AnalyticsTasks})
@access.opens("admin", role=PersonRole.MANAGER)
def analytics_tasks(query: AnalyticsDaysQuery) -> Response:
    """Requests, tokens and cost by day, provider, model, operation and channel; categories, outcomes and ratings."""
    organization_id = _organization(query.organization_id)
    return answer(_tasks(organization_id, analytics.task_figures(organization_id, query.days)))


@blueprint.get("/analytics/user-stats", summary="People: growth and results", responses={200: AnalyticsUsers})
@access.opens("read")
def analytics_users(query: AnalyticsUsersQuery) -> Response:
    """Who came in the last 30 days, and how the newest requests of the busiest went; members see how their own went."""
    caller = access.caller()
    if caller.is_manager:
        organization_id, person_id = _organization(query.organization_id), query.person_id
    else:
        # What somebody does in another organization is seen from there.
        organization_id, person_id = caller.organization_id, caller.id
        if query.person_id not in (None, caller.id) or query.organization_id not in (None, organization_id):
            return answer(AnalyticsUsers(organization_id=organization_id, joined=[], people=[]))
    return answer(_users(organization_id, analytics.user_figures(organization_id, person_id)))


@blueprint.get("/analytics/dashboard", summary="Everything at once", responses={200: AnalyticsDashboard})
@access.opens("admin", role=PersonRole.MANAGER)
def analytics_dashboard(query: AnalyticsQuery) -> Response:
    """The overview, the requests and the people of 30 days, and for administrators the errors."""
    organization_id = _organization(query.organization_id)
    found = analytics.dashboard(organization_id)
    dashboard = AnalyticsDashboard(
        overview=_overview(organization_id, found.overview),
        tasks=_tasks(organization_id, found.tasks),
        users=_users(organization_id, found.users),
        errors=None if found.errors is None else _errors(found.errors),
    )
    return answer(dashboard)


def _organization(wanted: uuid.UUID | None) -> uuid.UUID | None:
    """Whose figures the caller sees, None for those of everything. `NotFound` for another organization than a manager's own."""
    caller = access.caller()
    if caller.is_admin:
        if wanted is not None:
            analytics.check(wanted)
        return wanted
    if wanted not in (None, caller.organization_id):
        raise NotFound("There is no such organization.")
    return caller.organization_id


def _overview(organization_id: uuid.UUID | None, found: Overview) -> AnalyticsOverview:
    people = asdict(found.people) | {"plans": _counts(found.people.plans.items())}
    return AnalyticsOverview(
        organization_id=organization_id,
        people=AnalyticsPeople(**people),
        total=AnalyticsTotal(**asdict(found.total)),
        last_24h=AnalyticsTotal(**asdict(found.last_24h)),
        recent=_recent(found.recent),
    )


def _tasks(organization_id: uuid.UUID | None, found: TaskFigures) -> AnalyticsTasks:
    return AnalyticsTasks(**asdict(found) | {"organization_id": organization_id, "recent": _recent(found.recent)})


def _users(organization_id: uuid.UUID | None, found: UserFigures) -> AnalyticsUsers:
    return AnalyticsUsers(
        organization_id=organization_id,
        joined=_counts(found.joined),
        people=[
            AnalyticsPerson(person_id=each.person_id, name=each.name, recent=_recent(each.recent)) for each in found.people
        ],
    )


def _errors(found: ErrorFigures) -> AnalyticsErrors:
    kinds = [AnalyticsErrorKind(**asdict(each) | {"days": _counts(each.days)}) for each in found.kinds]
    return AnalyticsErrors(**asdict(found) | {"days": _counts(found.days), "kinds": kinds})


def _recent(found: Recent) -> AnalyticsRecent:
    plain: dict[str, Any] = asdict(found)
    values: dict[str, Any] = {
        name: _counts(value.items()) if isinstance(value, Mapping) else value for name, value in plain.items()
    }
    return AnalyticsRecent(**values)


def _counts(named: Iterable[tuple[object, int]]) -> list[AnalyticsCount]:
    return [AnalyticsCount(name=str(name), count=count) for name, count in named]
