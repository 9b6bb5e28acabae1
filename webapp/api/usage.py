"""Usage, quotas and plans: what may be used, and what is left of it."""

from __future__ import annotations

import uuid

from flask import Response

from webapp.api import access
from webapp.api.access import Caller
from webapp.api.base import answer, area, make_cursor, page_answer, read_cursor
from webapp.api.task_answers import visible
from webapp.api.usage_models import (
    PlanInfo,
    PlanPage,
    Quota,
    QuotaPage,
    UsageMonth,
    UsageOfMember,
    UsageOrganization,
    UsageOrganizationQuery,
    UsageSummary,
)
from webapp.api.users_models import UserPath
from webapp.models import PersonRole
from webapp.services import person_views, plans, usage, usage_organization
from webapp.services.usage import Usage

blueprint = area("usage", "Usage", "What is used of every limit, what the month cost, and what plans there are.")

CHANNEL = "api"


@blueprint.get("/usage", summary="What one has used", responses={200: UsageSummary})
@access.opens("read", "chat")
def read_usage() -> Response:
    """One's own use of every limit that may refuse a request, with the token's own limits where the call came by one, and this
    month by model."""
    caller = access.caller()
    found = _own(caller)
    month = usage.month_of(caller.id, caller.organization_id, found.time_zone)
    return answer(UsageSummary.told(caller.id, caller.organization_id, found, month))


@blueprint.get("/quotas", summary="The limits that apply", responses={200: QuotaPage})
@access.opens("read", "chat")
def list_quotas() -> Response:
    """Every limit that may refuse a request of this caller, one's own first. All of them are on one page."""
    return page_answer(map(Quota.of, _own(access.caller()).lines), None)


@blueprint.get("/users/<who>/usage", summary="What a person has used", responses={200: UsageSummary})
@access.opens("read")
def read_usage_of_user(path: UserPath) -> Response:
    """A person's use of their limits, and their month, in the organization in which they are seen: their own for everybody,
    those of its people for managers, of all for administrators."""
    view = person_views.find(visible(access.caller()), path.who)
    found = usage.usage_of(view.id, organization_id=view.organization_id, channel=CHANNEL)
    month = usage.month_of(view.id, view.organization_id, found.time_zone)
    return answer(UsageSummary.told(view.id, view.organization_id, found, month))


@blueprint.get("/organization/usage", summary="What the organization has used", responses={200: UsageOrganization})
@access.opens(role=PersonRole.MANAGER)
def read_usage_of_organization(query: UsageOrganizationQuery) -> Response:
    """The limits and the month of the organization that one works in, and a page of its people. For its managers."""
    after = read_cursor(query.cursor, uuid.UUID)
    place = access.caller().organization_id
    found = usage_organization.usage_of_organization(place, after[0] if after else None, query.limit)
    spenders = None if found.spenders is None else [UsageOfMember.of(each) for each in found.spenders]
    told = UsageOrganization(
        organization_id=place,
        name=found.name,
        time_zone=found.time_zone,
        quotas=[Quota.of(line) for line in found.usage.lines],
        troubles=list(found.usage.troubles),
        month=UsageMonth.of(found.month),
        spenders=spenders,
        members=[UsageOfMember.of(each) for each in found.members],
        next_cursor=make_cursor(found.members[-1].person_id) if found.more else None,
    )
    return answer(told)


@blueprint.get("/plans", summary="List plans", responses={200: PlanPage})
@access.opens("read", "chat")
def list_plans() -> Response:
    """What plans there are, the lowest first, all on one page."""
    own = access.caller().person.plan_code
    return page_answer([PlanInfo.of(plan, own) for plan in plans.known()], None)


def _own(caller: Caller) -> Usage:
    if caller.token_id is not None:
        return usage.usage_of(caller.id, token_id=caller.token_id, channel=CHANNEL)
    return usage.usage_of(caller.id, organization_id=caller.organization_id, channel=CHANNEL)
