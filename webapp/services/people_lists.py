"""Everybody of the installation, for its administrators: looked for, listed a page at a time, and one person in detail."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.orm import Session

from webapp.contracts.errors import NotFound
from webapp.extensions import reading
from webapp.models import ApiToken, Identity, Membership, Organization, Person, Plan
from webapp.quota import stored
from webapp.services import organizations, plan_changes
from webapp.services.amounts import describe
from webapp.services.organizations import Actor
from webapp.services.plan_changes import PastChange

PAGE = 50
COUNTED_MAX = 10_000
"""Matching people are counted up to here: "all that match" need not be gone through to be shown."""
SEARCH_CHARS = 100
_TOKENS_MAX = 50


@dataclass(frozen=True, slots=True)
class Filter:
    """Which people are meant. '' and None do not narrow; `organization_id` is where they work, `search` a part of a name, an
    e-mail or a phone number."""

    search: str = ""
    plan: str = ""
    organization_id: uuid.UUID | None = None
    active: bool | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the list."""

    id: uuid.UUID
    name: str
    email: str
    phones: tuple[str, ...]
    plan: str
    organization: str
    role: str
    active: bool
    requests_total: int
    last_active_at: datetime | None

    @property
    def title(self) -> str:
        """What they are called, by whatever is known."""
        return self.name or self.email or next(iter(self.phones), "") or str(self.id)


@dataclass(frozen=True, slots=True)
class Place:
    """An organization that a person is in, and their limits there in words."""

    organization_id: uuid.UUID
    name: str
    role: str
    here: bool
    limits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """A token that works, and its limits in words."""

    id: uuid.UUID
    name: str
    prefix: str
    limits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Detail:
    """One person. `effective` is the code of the plan that holds for them, their own or the organization's."""

    line: Line
    organization_id: uuid.UUID
    plan_name: str
    effective: str
    effective_name: str
    time_zone: str
    created_at: datetime
    identities: tuple[tuple[str, str, bool], ...]
    """Medium, address, and whether it has opted out."""
    places: tuple[Place, ...]
    tokens: tuple[Token, ...]
    history: tuple[PastChange, ...]


def rows(
    wanted: Filter, actor: Actor, after: uuid.UUID | None = None, size: int | None = None, *, newest: bool = False
) -> list[Line]:
    """Those who are meant, in the order in which they came or the `newest` first, a page at a time; `after` is the last id of
    the page before."""
    query = select(Person).where(*_conditions(wanted)).limit(size or PAGE)
    query = query.order_by(Person.id.desc() if newest else Person.id)
    if after is not None:
        query = query.where(Person.id < after if newest else Person.id > after)
    with reading() as connection, Session(bind=connection) as session:
        organizations.for_house(session, actor)
        return _lines(session, session.scalars(query).all())


def ids(wanted: Filter, after: uuid.UUID | None = None, size: int = 500) -> list[uuid.UUID]:
    """The ids of those who are meant, in order, a page at a time."""
    query = select(Person.id).where(*_conditions(wanted)).order_by(Person.id).limit(size)
    with reading() as connection:
        return list(connection.scalars(query if after is None else query.where(Person.id > after)))


def count(wanted: Filter) -> int:
    """How many are meant, counted up to `COUNTED_MAX` + 1."""
    some = select(Person.id).where(*_conditions(wanted)).limit(COUNTED_MAX + 1).subquery()
    with reading() as connection:
        return connection.execute(select(func.count()).select_from(some)).scalar_one()


def show(person_id: uuid.UUID, actor: Actor, before: uuid.UUID | None = None) -> Detail:
    """One person; `before` is the last change of plan of the page before. `NotFound`."""
    with reading() as connection, Session(bind=connection) as session:
        organizations.for_house(session, actor)
        person = session.get(Person, person_id)
        if person is None:
            raise NotFound("There is no such person.")
        organization = session.get_one(Organization, person.organization_id)
        own = session.get_one(Plan, person.plan_code)
        shared = session.get(Plan, organization.plan_code) if organization.plan_code else None
        effective = plan_changes.higher(own, shared)
        addresses = session.scalars(select(Identity).where(Identity.person_id == person_id).order_by(Identity.id)).all()
        return Detail(
            _lines(session, [person])[0],
            organization.id,
            own.name,
            effective.code,
            effective.name,
            person.time_zone or organization.time_zone,
            person.created_at,
            tuple((each.medium, each.address, each.opted_out_at is not None) for each in addresses),
            _places(session, person),
            _tokens(session, person_id),
            tuple(plan_changes.history(session, person_id=person_id, before=before)),
        )


def _places(session: Session, person: Person) -> tuple[Place, ...]:
    query = (
        select(Membership, Organization.name)
        .join(Organization, Organization.id == Membership.organization_id)
        .where(Membership.person_id == person.id)
        .order_by(func.lower(Organization.name), Organization.id)
        .limit(organizations.PLACES_MAX)
    )
    found = [
        Place(row.organization_id, name, row.role, row.organization_id == person.organization_id, _words(row.limits))
        for row, name in session.execute(query)
    ]
    if not any(place.here for place in found):
        here = session.get_one(Organization, person.organization_id)
        found.insert(0, Place(here.id, here.name, "member", True, ()))
    return tuple(found)


def _tokens(session: Session, person_id: uuid.UUID) -> tuple[Token, ...]:
    query = select(ApiToken).where(ApiToken.person_id == person_id, ApiToken.revoked_at.is_(None))
    found = session.scalars(query.order_by(ApiToken.id.desc()).limit(_TOKENS_MAX))
    return tuple(Token(token.id, token.name, token.prefix, _words(token.limits)) for token in found)


def _words(limits: list[Any]) -> tuple[str, ...]:
    return tuple(describe(limit) for limit in stored.read(limits))


def _conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.plan:
        found.append(Person.plan_code == wanted.plan)
    if wanted.organization_id is not None:
        found.append(Person.organization_id == wanted.organization_id)
    if wanted.active is not None:
        found.append(Person.active.is_(wanted.active))
    if wanted.search:
        found.append(matches(wanted.search))
    return found


def matches(search: str) -> ColumnElement[bool]:
    """Whether a name, an e-mail or a phone number of a person has this as a part."""
    tests: list[ColumnElement[bool]] = [
        Person.full_name.icontains(search, autoescape=True),
        Person.email.icontains(search, autoescape=True),
    ]
    digits = "".join(char for char in search if char.isascii() and char.isdigit())
    if digits and not any(char.isalpha() or char == "@" for char in search):
        address = Identity.address.contains(digits, autoescape=True)
        tests.append(exists().where(Identity.person_id == Person.id, Identity.medium == "sms", address))
    return or_(*tests)


def _lines(session: Session, persons: Sequence[Person]) -> list[Line]:
    phones: dict[uuid.UUID, list[str]] = {}
    numbers = select(Identity.person_id, Identity.address).where(
        Identity.person_id.in_([person.id for person in persons]), Identity.medium == "sms"
    )
    for person_id, address in session.execute(numbers.order_by(Identity.id)):
        phones.setdefault(person_id, []).append(address)
    places = select(Organization.id, Organization.name).where(Organization.id.in_({p.organization_id for p in persons}))
    names = {row[0]: row[1] for row in session.execute(places)}
    return [
        Line(
            person.id,
            person.full_name,
            person.email or "",
            tuple(phones.get(person.id, ())),
            person.plan_code,
            names[person.organization_id],
            person.role,
            person.active,
            person.requests_total,
            person.last_active_at,
        )
        for person in persons
    ]
