"""People as programs see them: themselves, those of an organization, or everybody, by the reader's scope.

Whoever is not in the scope does not exist. A manager sees of people who are in other organizations too what concerns their own
alone. A list is read by the ids, which are in order of time; with filters at most `LOOKED_MAX` people are looked at for a page,
which so may have fewer lines than asked for, or none, and still a cursor.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, case, exists, func, literal, or_, select, union
from sqlalchemy.orm import Session

from webapp.contracts.errors import BadInput, NotFound
from webapp.contracts.texts import clean
from webapp.extensions import reading
from webapp.models import Identity, Membership, Organization, Person, PersonRole, Request, RequestStatus
from webapp.services import id_ranges, people, people_lists, usage
from webapp.services.request_lists import Scope, Whose

PAGE_MAX = 100
LOOKED_MAX = 10_000
COUNTED_MAX = 100_000
RECENT_MAX = 1_000
"""From how many of a person's latest requests their rates and means are told."""
ME, SMS = "me", "sms"
_NOBODY = "There is no such person."
_FAVOURITES_MAX = 5


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which people of the scope are wanted; None and '' mean anyone. The range of time has its beginning and not its end."""

    active: bool | None = None
    plan: str | None = None
    role: PersonRole | None = None
    q: str = ""
    created_from: datetime | None = None
    created_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class PersonView:
    """A person in the organization `organization_id`, in which they have `role`. `here` says that they work there now.

    `preferences` is None where they are not the reader's business; so are `requests_total` and `last_active_at` of people who
    are in other organizations too, for a manager. `time_zone` None is the organization's.
    """

    id: uuid.UUID
    organization_id: uuid.UUID
    organization: str
    full_name: str
    email: str | None
    phones: tuple[str, ...]
    plan: str
    role: PersonRole
    active: bool
    here: bool
    time_zone: str | None
    organization_time_zone: str
    preferences: Mapping[str, Any] | None
    requests_total: int | None
    last_active_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class PersonPage:
    """A page of a list. `next_id` is where it goes on, None at its end; `total` is None where it was not asked for, or where
    there are more than `COUNTED_MAX` to be looked at."""

    lines: tuple[PersonView, ...]
    next_id: uuid.UUID | None
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Statistics:
    """How a person uses an organization's requests. `recent` is how many of the latest ones the rate, the mean and the
    categories are told from; `success_rate` is 0 to 1, of those that were completed or failed; None where there were none."""

    requests_this_month: int
    cost_this_month_microusd: int
    month_starts_at: datetime
    recent: int
    success_rate: float | None
    mean_seconds: float | None
    categories: tuple[tuple[str, int], ...]


# -- reading -------------------------------------------------------------------------------------------------------------
def page(
    scope: Scope,
    wanted: Wanted | None = None,
    *,
    after: uuid.UUID | None = None,
    size: int = 20,
    oldest_first: bool = False,
    total: bool = False,
) -> PersonPage:
    """A page of the people that somebody may see, the latest first, or the oldest. `after` is `next_id` of the page before."""
    size = min(max(1, size), PAGE_MAX)
    wanted = wanted or Wanted()
    sieve = _sieve(wanted)
    looked = LOOKED_MAX if sieve else size + 1
    order = Person.id.asc() if oldest_first else Person.id.desc()
    near = _ids(scope, wanted, after, looked, oldest_first).subquery()
    query = _query(scope).where(Person.id.in_(select(near.c.id)), *sieve).order_by(order).limit(size + 1)
    with reading() as connection, Session(bind=connection) as session:
        rows = session.execute(query).all()
        lines = _views(session, scope, rows[:size])
        next_id = lines[-1].id if len(rows) > size else _last_looked_at(connection, near, looked, oldest_first)
        count = _total(connection, scope, wanted, sieve) if total else None
    return PersonPage(tuple(lines), next_id, count)


def find(scope: Scope, who: str) -> PersonView:
    """The person with this id or phone number, or `me`. `NotFound` for one who is not in the scope."""
    with reading() as connection, Session(bind=connection) as session:
        person_id = _id_of(session, scope, who.strip())
        query = _query(scope).where(Person.id == person_id, *_within(scope))
        rows = session.execute(query).all() if person_id is not None else []
        if not rows:
            raise NotFound(_NOBODY)
        return _views(session, scope, rows)[0]


def statistics(view: PersonView) -> Statistics:
    """How a person uses the organization in which they are seen."""
    month = usage.month_of(view.id, view.organization_id, view.organization_time_zone)
    # The person's index is followed, so that what they do elsewhere bounds the work as well.
    latest = select(Request.id).where(Request.person_id == view.id).order_by(Request.id.desc()).limit(RECENT_MAX).subquery()
    query = select(Request.status, Request.category, Request.started_at, Request.ended_at).where(
        Request.id.in_(select(latest.c.id)), Request.organization_id == view.organization_id
    )
    with reading() as connection:
        rows = connection.execute(query).all()
    completed = [row for row in rows if row.status == RequestStatus.COMPLETED]
    failed = sum(row.status == RequestStatus.FAILED for row in rows)
    took = [(row.ended_at - row.started_at).total_seconds() for row in completed if row.started_at and row.ended_at]
    known = Counter(row.category for row in rows if row.category)
    ended = len(completed) + failed
    return Statistics(
        requests_this_month=month.requests,
        cost_this_month_microusd=month.cost_microusd,
        month_starts_at=month.starts_at,
        recent=len(rows),
        success_rate=round(len(completed) / ended, 4) if ended else None,
        mean_seconds=round(max(0.0, sum(took) / len(took)), 3) if took else None,
        categories=tuple(sorted(known.items(), key=lambda each: (-each[1], each[0]))[:_FAVOURITES_MAX]),
    )


def phone_of(view: PersonView) -> str | None:
    """The number by which a person is written to: the first that has not opted out, else the first; None without one."""
    query = select(Identity.medium, Identity.address, Identity.opted_out_at).where(Identity.person_id == view.id)
    with reading() as connection:
        rows = [row for row in connection.execute(query.order_by(Identity.id)) if row.medium == SMS]
    open_ones = [row.address for row in rows if row.opted_out_at is None]
    return next(iter([*open_ones, *(row.address for row in rows)]), None)


# -- parts ---------------------------------------------------------------------------------------------------------------
def _id_of(session: Session, scope: Scope, who: str) -> uuid.UUID | None:
    if who == ME:
        return scope.reader_id
    if who.startswith("+"):
        try:
            phone = people.normal_phone(who)
        except BadInput:
            return None
        return session.scalar(select(Identity.person_id).where(Identity.medium == SMS, Identity.address == phone))
    try:
        return uuid.UUID(who)
    except ValueError:
        return None


def _place(scope: Scope) -> ColumnElement[uuid.UUID]:
    """The organization in which a person is seen."""
    if scope.organization_id is None:
        return Person.organization_id  # type: ignore[return-value]
    return literal(scope.organization_id, Organization.id.type)


_role = case((Person.role == PersonRole.ADMIN, PersonRole.ADMIN.value), else_=func.coalesce(Membership.role, "member"))


def _query(scope: Scope) -> Select[Any]:
    place = _place(scope)
    other = exists().where(Membership.person_id == Person.id, Membership.organization_id != place).correlate(Person)
    working = Person.organization_id != place
    return (
        select(
            Person,
            _role.label("seen_role"),
            Organization.id.label("place"),
            Organization.name.label("place_name"),
            Organization.time_zone.label("place_zone"),
            or_(working, other).label("elsewhere"),
        )
        .join(Organization, Organization.id == place)
        .outerjoin(Membership, (Membership.person_id == Person.id) & (Membership.organization_id == place))
    )


def _within(scope: Scope) -> list[ColumnElement[bool]]:
    if scope.whose is Whose.OWN:
        return [Person.id == scope.reader_id]
    if scope.whose is Whose.ORGANIZATION:
        return [or_(Membership.person_id.is_not(None), Person.organization_id == scope.organization_id)]
    return []


def _sieve(wanted: Wanted) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.active is not None:
        found.append(Person.active.is_(wanted.active))
    if wanted.plan is not None:
        found.append(Person.plan_code == wanted.plan)
    if wanted.role is not None:
        found.append(_role == wanted.role.value)
    if wanted.created_from is not None:
        found.append(Person.created_at >= wanted.created_from)
    if wanted.created_to is not None:
        found.append(Person.created_at < wanted.created_to)
    if text := clean(wanted.q).strip()[: people_lists.SEARCH_CHARS]:
        found.append(people_lists.matches(text))
    return found


def _ids(scope: Scope, wanted: Wanted, after: uuid.UUID | None, most: int, oldest_first: bool) -> Select[Any]:
    """The ids of the first people of the scope after a place in the list, `most` of them, in order."""
    whole: list[tuple[Any, list[ColumnElement[bool]]]] = [(Person.id, _of_person(scope))]
    if scope.whose is Whose.ORGANIZATION:
        # Somebody whom an older release has registered has no membership, and is a member where they work.
        whole.append((Membership.person_id, [Membership.organization_id == scope.organization_id]))
    parts = []
    for column, conditions in whole:
        query = select(column.label("id")).where(*conditions, *id_ranges.within(column, wanted.created_from, wanted.created_to))
        if after is not None:
            query = query.where(column > after if oldest_first else column < after)
        parts.append(query.order_by(column.asc() if oldest_first else column.desc()).limit(most))
    if len(parts) == 1:
        return parts[0]
    both = union(*(select(part.subquery().c.id) for part in parts)).subquery()
    return select(both.c.id).order_by(both.c.id.asc() if oldest_first else both.c.id.desc()).limit(most)


def _of_person(scope: Scope) -> list[ColumnElement[bool]]:
    if scope.whose is Whose.OWN:
        return [Person.id == scope.reader_id]
    return [Person.organization_id == scope.organization_id] if scope.whose is Whose.ORGANIZATION else []


def _last_looked_at(connection: Connection, near: Any, looked: int, oldest_first: bool) -> uuid.UUID | None:
    """The last of those that were looked at, None if there are no more after them."""
    if connection.execute(select(func.count()).select_from(near)).scalar_one() < looked:
        return None
    return connection.scalar(select(near.c.id).order_by(near.c.id.desc() if oldest_first else near.c.id.asc()).limit(1))


def _total(connection: Connection, scope: Scope, wanted: Wanted, sieve: Sequence[ColumnElement[bool]]) -> int | None:
    every = _ids(scope, wanted, None, COUNTED_MAX + 1, False).subquery()
    looked = connection.execute(select(func.count()).select_from(every)).scalar_one()
    if looked > COUNTED_MAX or not sieve:
        return looked if looked <= COUNTED_MAX else None
    found = _query(scope).with_only_columns(func.count()).where(Person.id.in_(select(every.c.id)), *sieve)
    return connection.execute(found).scalar_one()


def _views(session: Session, scope: Scope, rows: Sequence[Any]) -> list[PersonView]:
    phones: dict[uuid.UUID, list[str]] = {}
    # By the person alone: with the medium as well, SQLite would go through all numbers that there are.
    addresses = select(Identity.person_id, Identity.medium, Identity.address).where(
        Identity.person_id.in_([row.Person.id for row in rows])
    )
    for person_id, medium, address in session.execute(addresses.order_by(Identity.id)) if rows else ():
        if medium == SMS:
            phones.setdefault(person_id, []).append(address)
    return [_view(scope, row, tuple(phones.get(row.Person.id, ()))) for row in rows]


def _view(scope: Scope, row: Any, phones: tuple[str, ...]) -> PersonView:
    person: Person = row.Person
    all_of_it = scope.truth or person.id == scope.reader_id
    known = all_of_it or not row.elsewhere
    return PersonView(
        id=person.id,
        organization_id=row.place,
        organization=row.place_name,
        full_name=person.full_name,
        email=person.email,
        phones=phones,
        plan=person.plan_code,
        role=PersonRole(row.seen_role),
        active=person.active,
        here=person.organization_id == row.place,
        time_zone=person.time_zone,
        organization_time_zone=row.place_zone,
        preferences=dict(person.preferences or {}) if all_of_it else None,
        requests_total=person.requests_total if known else None,
        last_active_at=person.last_active_at if known else None,
        created_at=person.created_at,
    )
