"""What an organization has used: its own limits, its month by model, and its people."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, func, null, select, union_all

from webapp.contracts.errors import NotFound
from webapp.contracts.limits import Window
from webapp.extensions import now, reading, table_of
from webapp.models import HourlyStat, LedgerEntry, Membership, Organization, Person
from webapp.models.senders import Sender
from webapp.quota import usage as counted
from webapp.quota.usage import Usage, Whose
from webapp.quota.windows import bounds
from webapp.services import rollups
from webapp.services.usage import Month, by_cost

PAGE = 25
"""How many people a page lists."""
SPENDERS_MAX = 5
CALLS_MAX = 100_000
"""With more calls than this in a month, people are not put in order of what they spend: it would take too long for a page."""
_ledger, _hour = table_of(LedgerEntry), table_of(HourlyStat)
_NOBODY = uuid.UUID(int=0)


@dataclass(frozen=True, slots=True)
class MemberUsage:
    """What one person has used in the organization since the month began."""

    person_id: uuid.UUID
    title: str
    requests: int
    tokens: int
    cost_microusd: int


@dataclass(frozen=True, slots=True)
class OrganizationUsage:
    """`usage` has the organization's own limits. `spenders` are the dearest people of the month, None where there were too many
    calls to tell; `members` is a page of all, and `more` whether there are others after them."""

    organization_id: uuid.UUID
    name: str
    time_zone: str
    usage: Usage
    month: Month
    spenders: tuple[MemberUsage, ...] | None
    members: tuple[MemberUsage, ...]
    more: bool


def usage_of_organization(organization_id: uuid.UUID, after: uuid.UUID | None = None, size: int = PAGE) -> OrganizationUsage:
    """What an organization has used of its limits and in this month, with a page of `size` of its people. `after` is the last
    person of the page before it. `NotFound`."""
    at = now()
    with reading() as connection:
        row = connection.execute(
            select(Organization.id, Organization.name, Organization.time_zone, Organization.limits).where(
                Organization.id == organization_id
            )
        ).first()
        if row is None:
            raise NotFound("There is no such organization.")
        starts_at = bounds(Window.MONTH, at, row.time_zone)[0]
        members, more = _members(connection, organization_id, starts_at, after, size)
        return OrganizationUsage(
            organization_id,
            row.name,
            row.time_zone,
            _own(connection, row, at),
            _month(connection, organization_id, starts_at, at),
            _spenders(connection, organization_id, starts_at),
            members,
            more,
        )


def limits_of(organization_id: uuid.UUID) -> Usage:
    """What is used of an organization's own limits. `NotFound`."""
    with reading() as connection:
        row = connection.execute(
            select(Organization.id, Organization.time_zone, Organization.limits).where(Organization.id == organization_id)
        ).first()
        if row is None:
            raise NotFound("There is no such organization.")
        return _own(connection, row, now())


def _own(connection: Connection, row: Any, at: datetime) -> Usage:
    """The limits of the organization itself: those of its people by themselves are left out."""
    nobody = Sender(
        person_id=_NOBODY,
        organization_id=row.id,
        time_zone=row.time_zone,
        active=True,
        organization_limits=row.limits,
        person_limits=[],
        token_id=None,
        token_limits=[],
        conversation_id=None,
        opted_out_at=None,
        plan="",
        plan_limits={},
        more_plan_limits=[],
        priority=0,
        max_output_tokens=0,
        context_tokens=0,
        features=[],
    )
    found = counted.usage(connection, nobody, "web", at)
    return replace(found, lines=tuple(line for line in found.lines if line.whose is Whose.ORGANIZATION))


# -- the month -----------------------------------------------------------------------------------------------------------
def _month(connection: Connection, organization_id: uuid.UUID, starts_at: datetime, at: datetime) -> Month:
    """By model. Hours that are summed up are taken from their sums, the others from the ledger."""
    last: datetime | None = connection.execute(select(func.max(_hour.c.hour))).scalar()
    first_hour = rollups.whole_hour(starts_at + rollups.HOUR - timedelta(microseconds=1))
    end = first_hour
    if last is not None:
        # Of the last ones more may have come in since they were summed up.
        end = max(first_hour, min(last + rollups.HOUR, rollups.whole_hour(at) - rollups.LATE))
    own = (_ledger.c.organization_id == organization_id, _ledger.c.payer == "person")
    columns = ("requests", "input_tokens", "output_tokens", "cost_microusd")

    def of_ledger(*when: Any) -> Select[Any]:
        return select(_ledger.c.provider, _ledger.c.model, *(_ledger.c[name] for name in columns)).where(*own, *when)

    parts = [of_ledger(_ledger.c.created_at >= end)]
    if starts_at < first_hour:
        parts.append(of_ledger(_ledger.c.created_at >= starts_at, _ledger.c.created_at < first_hour))
    if end > first_hour:
        parts.append(
            select(_hour.c.provider, _hour.c.model, *(_hour.c[name] for name in columns)).where(
                _hour.c.organization_id == organization_id,
                _hour.c.payer == "person",
                _hour.c.hour >= first_hour,
                _hour.c.hour < end,
            )
        )
    lines = union_all(*parts).subquery()
    query = select(
        lines.c.provider,
        lines.c.model,
        func.sum(lines.c.requests).label("requests"),
        func.sum(lines.c.input_tokens + lines.c.output_tokens).label("tokens"),
        func.sum(lines.c.cost_microusd).label("cost"),
    ).group_by(lines.c.provider, lines.c.model)
    return by_cost(starts_at, list(connection.execute(query)))


def _spenders(connection: Connection, organization_id: uuid.UUID, starts_at: datetime) -> tuple[MemberUsage, ...] | None:
    since = (_ledger.c.organization_id == organization_id, _ledger.c.created_at >= starts_at)
    calls = select(null()).select_from(_ledger).where(*since).limit(CALLS_MAX + 1).subquery()
    if connection.execute(select(func.count()).select_from(calls)).scalar_one() > CALLS_MAX:
        return None
    cost = func.sum(_ledger.c.cost_microusd)
    query = (
        select(_ledger.c.person_id, *_sums())
        .where(*since, _ledger.c.payer == "person")
        .group_by(_ledger.c.person_id)
        .order_by(cost.desc(), _ledger.c.person_id)
        .limit(SPENDERS_MAX)
    )
    rows = connection.execute(query).all()
    titles = _titles(connection, [row.person_id for row in rows])
    return tuple(_member(row.person_id, titles, row) for row in rows)


def _members(
    connection: Connection, organization_id: uuid.UUID, starts_at: datetime, after: uuid.UUID | None, size: int
) -> tuple[tuple[MemberUsage, ...], bool]:
    """A page of the people in order of their ids, each with what the ledger has of their month."""
    query = select(Membership.person_id).where(Membership.organization_id == organization_id)
    if after is not None:
        query = query.where(Membership.person_id > after)
    ids = list(connection.execute(query.order_by(Membership.person_id).limit(size + 1)).scalars())
    shown = ids[:size]
    if not shown:
        return (), False
    sums = (
        select(_ledger.c.person_id, *_sums())
        .where(
            _ledger.c.person_id.in_(shown),
            _ledger.c.created_at >= starts_at,
            _ledger.c.organization_id == organization_id,
            _ledger.c.payer == "person",
        )
        .group_by(_ledger.c.person_id)
    )
    rows = {row.person_id: row for row in connection.execute(sums)}
    titles = _titles(connection, shown)
    return tuple(_member(person_id, titles, rows.get(person_id)) for person_id in shown), len(ids) > size


def _sums() -> tuple[Any, ...]:
    return (
        func.sum(_ledger.c.requests).label("requests"),
        func.sum(_ledger.c.input_tokens + _ledger.c.output_tokens).label("tokens"),
        func.sum(_ledger.c.cost_microusd).label("cost"),
    )


def _titles(connection: Connection, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, str]:
    """What people are called where they are listed: by name or e-mail, else by the end of their id."""
    query = select(Person.id, Person.full_name, Person.email).where(Person.id.in_(ids))
    return {
        row.id: row.full_name or row.email or f"somebody by text message (…{str(row.id)[-6:]})"
        for row in (connection.execute(query) if ids else ())
    }


def _member(person_id: uuid.UUID, titles: dict[uuid.UUID, str], row: Any) -> MemberUsage:
    figures = (0, 0, 0) if row is None else (int(row.requests), int(row.tokens), int(row.cost))
    return MemberUsage(person_id, titles.get(person_id, ""), *figures)
