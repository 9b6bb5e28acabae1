"""Organizations: who may do what in them, and what is set for each.

Every change is one act: one transaction, in which the right to it is checked and the audit trail is written. A change names the
version that its author saw: if somebody else was quicker it is a `Conflict`, and nothing is changed. To those who are not in
an organization there is no such organization.
"""

from __future__ import annotations

import contextlib
import uuid
import zoneinfo
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Select, func, select, union_all
from sqlalchemy.orm import Session

from webapp.contracts.errors import BadInput, Conflict, NotAllowed, NotFound
from webapp.contracts.texts import clean
from webapp.extensions import current_settings, now, reading, retries, writing_session
from webapp.models import AuditEntry, Membership, Organization, Person, PersonRole
from webapp.services import organization_counts, people

NAME_CHARS = 120
PERCENTS_MAX = 10
PAGE = 30
PLACES_MAX = 200
"""The organizations of one person that are listed."""
RANK = {PersonRole.MEMBER: 0, PersonRole.MANAGER: 1, PersonRole.ADMIN: 2}
CHANGED = "Somebody else changed this meanwhile: look at it again, and then change it."
_NONE = "There is no such organization."
_LACKS = {
    PersonRole.MEMBER: "This is for members of the organization.",
    PersonRole.MANAGER: "This is for managers of the organization.",
    PersonRole.ADMIN: "This is for administrators of the organization.",
}


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts. `person_id` is None for the operator at the command line, who may do everything."""

    name: str
    person_id: uuid.UUID | None = None

    @classmethod
    def person(cls, person_id: uuid.UUID) -> Actor:
        """Somebody who is signed in."""
        return cls(f"person:{person_id}", person_id)

    @classmethod
    def operator(cls, name: str) -> Actor:
        """Somebody at the machine itself."""
        return cls(name)


@dataclass(frozen=True, slots=True)
class OrganizationView:
    """An organization as it is stored. `alert_percents` is None where the installation's setting counts."""

    id: uuid.UUID
    name: str
    time_zone: str
    plan: str | None
    active: bool
    version: int
    alert_percents: tuple[int, ...] | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Place:
    """An organization as somebody stands in it. `house` marks an administrator of the installation."""

    organization: OrganizationView
    role: PersonRole
    house: bool

    def at_least(self, role: PersonRole) -> bool:
        """Whether they may do what is for this role."""
        return RANK[self.role] >= RANK[role]


@dataclass(frozen=True, slots=True)
class Mine:
    """An organization that a person is in. `here` marks the one that they are working in."""

    id: uuid.UUID
    name: str
    role: PersonRole
    active: bool
    here: bool


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be different. None stays as it is; an empty text for `alert_percents` goes back to the installation's."""

    name: str | None = None
    time_zone: str | None = None
    alert_percents: str | None = None


# -- roles ---------------------------------------------------------------------------------------------------------------
def role_in(session: Session | Connection, person: Person, organization_id: uuid.UUID) -> PersonRole | None:
    """What a person is in an organization, None if they are not in it. An administrator of the installation is one everywhere.

    Somebody without a membership, whom an older release has registered, is a member where they work.
    """
    if person.is_admin:
        return PersonRole.ADMIN
    query = select(Membership.role).where(Membership.person_id == person.id, Membership.organization_id == organization_id)
    role = session.execute(query).scalar()
    if role is not None:
        return PersonRole(role)
    return PersonRole.MEMBER if person.organization_id == organization_id else None


def require(person: Person, organization_id: uuid.UUID, at_least: PersonRole = PersonRole.MEMBER) -> PersonRole:
    """The person's role there. `NotFound` for those who are not in it, `NotAllowed` for those whose role is not enough."""
    with reading() as connection:
        return _required(connection, person, organization_id, at_least)


def _required(
    session: Session | Connection, person: Person, organization_id: uuid.UUID, at_least: PersonRole = PersonRole.MEMBER
) -> PersonRole:
    role = role_in(session, person, organization_id)
    there = session.execute(select(Organization.id).where(Organization.id == organization_id)).first()
    if role is None or there is None:
        raise NotFound(_NONE)
    if RANK[role] < RANK[at_least]:
        raise NotAllowed(_LACKS[at_least])
    return role


def acting(session: Session, actor: Actor, organization_id: uuid.UUID, at_least: PersonRole) -> Place:
    """The organization as the actor stands in it, in the transaction of what they do. `NotFound`, `NotAllowed`."""
    house = True
    role = PersonRole.ADMIN
    if actor.person_id is not None:
        person = session.get(Person, actor.person_id)
        if person is None or not person.active:
            raise NotFound(_NONE)
        role, house = _required(session, person, organization_id, at_least), person.is_admin
    organization = session.get(Organization, organization_id)
    if organization is None:
        raise NotFound(_NONE)
    return Place(_view(organization), role, house)


def for_house(session: Session, actor: Actor) -> None:
    """`NotAllowed` unless the actor administers the whole installation."""
    if actor.person_id is not None:
        person = session.get(Person, actor.person_id)
        if person is None or not person.active or not person.is_admin:
            raise NotAllowed("This is for administrators of the installation.")


def lock(session: Session, organization_id: uuid.UUID) -> Organization:
    """The organization's row, which nobody else changes before the end of the transaction. `NotFound`. A person's row, where
    both are needed, is locked before it."""
    # Without the key: requests that refer to the organization do not wait for this.
    query = select(Organization).where(Organization.id == organization_id).with_for_update(key_share=True)
    found = session.scalar(query.execution_options(populate_existing=True))
    if found is None:
        raise NotFound(_NONE)
    return found


def audit(
    session: Session, actor: Actor, action: str, subject: str, organization_id: uuid.UUID, detail: dict[str, Any] | None = None
) -> None:
    """An entry in the audit trail that the organization's managers may read."""
    session.add(
        AuditEntry(
            actor=actor.name[:255],
            actor_id=actor.person_id,
            action=action,
            subject=subject[:255],
            organization_id=organization_id,
            detail=detail or {},
        )
    )


# -- reading -------------------------------------------------------------------------------------------------------------
def place(actor: Actor, organization_id: uuid.UUID, at_least: PersonRole = PersonRole.MEMBER) -> Place:
    """The organization as the actor stands in it. `NotFound`, `NotAllowed`."""
    with reading() as connection, Session(bind=connection) as session:
        return acting(session, actor, organization_id, at_least)


def of_person(person_id: uuid.UUID, size: int = PLACES_MAX) -> list[Mine]:
    """The organizations that a person is in, by name; the one that they are working in comes first."""
    member = select(Membership.organization_id, Membership.role).where(Membership.person_id == person_id)
    # A person without a membership is a member where they are.
    bare = select(Person.organization_id, func.coalesce(Membership.role, PersonRole.MEMBER.value)).outerjoin(
        Membership, (Membership.person_id == Person.id) & (Membership.organization_id == Person.organization_id)
    )
    places = union_all(member, bare.where(Person.id == person_id, Membership.person_id.is_(None))).subquery()
    here = select(Person.organization_id).where(Person.id == person_id).scalar_subquery()
    query = (
        select(Organization.id, Organization.name, places.c.role, Organization.active, Organization.id == here)
        .join(places, places.c.organization_id == Organization.id)
        .order_by((Organization.id == here).desc(), func.lower(Organization.name), Organization.id)
        .limit(size)
    )
    with reading() as connection:
        return [Mine(row[0], row[1], PersonRole(row[2]), row[3], bool(row[4])) for row in connection.execute(query)]


def rows(actor: Actor, after: uuid.UUID | None = None, search: str = "", size: int = PAGE) -> list[OrganizationView]:
    """All organizations in the order in which they were made, a page at a time; `after` is the last id of the page before."""
    query: Select[Any] = select(Organization).order_by(Organization.id).limit(size)
    if after is not None:
        query = query.where(Organization.id > after)
    if wanted := clean(search).strip():
        query = query.where(Organization.name.icontains(wanted, autoescape=True))
    with reading() as connection, Session(bind=connection) as session:
        for_house(session, actor)
        return [_view(organization) for organization in session.scalars(query)]


def find(which: str) -> OrganizationView:
    """The organization with this id or this name, for the operator. `NotFound`; `Conflict` where several are called so."""
    which = clean(which).strip()
    query = select(Organization).where(func.lower(Organization.name) == which.lower())
    with contextlib.suppress(ValueError):
        query = select(Organization).where(Organization.id == uuid.UUID(which))
    with reading() as connection, Session(bind=connection) as session:
        found = session.scalars(query.limit(2)).all()
        if not found:
            raise NotFound(
                f"There is no organization {which[:NAME_CHARS]!r}: `switchhook org list` shows those that there are."
            )
        if len(found) > 1:
            raise Conflict(f"Several organizations are called {which[:NAME_CHARS]!r}: give the id.")
        return _view(found[0])


@lru_cache(maxsize=1)
def time_zones() -> tuple[str, ...]:
    """The names of all time zones that may be set (IANA)."""
    return tuple(sorted(zoneinfo.available_timezones() - {"Factory", "localtime"}))


# -- writing -------------------------------------------------------------------------------------------------------------
def create(actor: Actor, name: str, time_zone: str = "UTC") -> OrganizationView:
    """Make an organization, without anybody in it. For administrators of the installation."""
    name, time_zone = checked_name(name), checked_time_zone(time_zone)
    with writing_session() as session:
        for_house(session, actor)
        if session.scalar(select(Organization.id).where(func.lower(Organization.name) == name.lower()).limit(1)):
            raise Conflict(f"There is an organization called {name} already.")
        organization = Organization(name=name, time_zone=time_zone)
        session.add(organization)
        session.flush()
        detail = {"name": name, "time_zone": time_zone}
        audit(session, actor, "organization.create", f"organization:{organization.id}", organization.id, detail)
        return _view(organization)


@retries
def change(actor: Actor, organization_id: uuid.UUID, seen: int, change: Change) -> OrganizationView:
    """Set what `change` names, for those who administer the organization. `seen` is the version that they saw.

    With another time zone what was used so far goes along into the windows of that zone. `BadInput` names the field,
    `Conflict` says that somebody else was quicker.
    """
    name = None if change.name is None else checked_name(change.name)
    zone = None if change.time_zone is None else checked_time_zone(change.time_zone)
    percents = None if change.alert_percents is None else checked_percents(change.alert_percents)
    with writing_session() as session:
        acting(session, actor, organization_id, PersonRole.ADMIN)
        organization = lock(session, organization_id)
        _check_seen(organization, seen)
        told: dict[str, Any] = {}
        if name is not None and name != organization.name:
            told["name"] = {"from": organization.name, "to": name}
            organization.name = name
        if zone is not None and zone != organization.time_zone:
            told["time_zone"] = {"from": organization.time_zone, "to": zone}
            organization_counts.carry_organization(
                session.connection(), organization_id, organization.time_zone, zone, now(), actor=actor.name
            )
            organization.time_zone = zone
        if percents is not None and percents != organization.preferences.get("alert_percents", []):
            told["alert_percents"] = percents
            kept = {key: value for key, value in organization.preferences.items() if key != "alert_percents"}
            organization.preferences = kept | ({"alert_percents": percents} if percents else {})
        if told:
            organization.version += 1
            audit(session, actor, "organization.change", f"organization:{organization_id}", organization_id, told)
        return _view(organization)


def set_active(actor: Actor, organization_id: uuid.UUID, active: bool, seen: int) -> OrganizationView:
    """Close an organization, in which nobody is served then, or open it again. For administrators of the installation."""
    with writing_session() as session:
        for_house(session, actor)
        organization = lock(session, organization_id)
        _check_seen(organization, seen)
        if organization.active == active:
            raise Conflict(f"This organization is {'active' if active else 'inactive'} already.")
        if organization_id == people.default_organization(session):
            raise Conflict("This is the default organization, in which everybody is who is in no other: it stays active.")
        organization.active = active
        organization.version += 1
        action = "organization.activate" if active else "organization.deactivate"
        audit(session, actor, action, f"organization:{organization_id}", organization_id)
        return _view(organization)


def _check_seen(organization: Organization, seen: int) -> None:
    if organization.version != seen:
        raise Conflict(CHANGED)


# -- what is typed -------------------------------------------------------------------------------------------------------
def checked_name(text: str) -> str:
    """An organization's name as it is kept. `BadInput`."""
    name = " ".join(clean(text).split())
    if not name or len(name) > NAME_CHARS or not name.isprintable():
        raise BadInput("name", f"An organization's name has 1 to {NAME_CHARS} visible characters.")
    return name


def checked_time_zone(text: str) -> str:
    """The name of a time zone. `BadInput`."""
    zone = text.strip()
    if zone not in time_zones():
        raise BadInput("time_zone", "There is no such time zone: write it as in Europe/Berlin, America/New_York or UTC.")
    return zone


def checked_percents(text: str) -> list[int]:
    """Percentages, lowest first; none for an empty text. `BadInput`."""
    parts = [part.strip().removesuffix("%").strip() for part in text.split(",") if part.strip()]
    if len(parts) > PERCENTS_MAX or not all(p.isascii() and p.isdigit() and len(p) <= 3 and 1 <= int(p) <= 100 for p in parts):
        raise BadInput(
            "alert_percents",
            f"Write at most {PERCENTS_MAX} whole numbers from 1 to 100, with commas between them: 50, 80, 100.",
        )
    return sorted({int(part) for part in parts})


def _view(organization: Organization) -> OrganizationView:
    return OrganizationView(
        organization.id,
        organization.name,
        organization.time_zone,
        organization.plan_code,
        organization.active,
        organization.version,
        _percents(organization.preferences.get("alert_percents")),
        organization.created_at,
    )


def _percents(stored: object) -> tuple[int, ...] | None:
    if not isinstance(stored, Sequence) or isinstance(stored, str):
        return None
    return tuple(percent for percent in stored if type(percent) is int and 1 <= percent <= 100) or None


def usual_percents() -> tuple[int, ...]:
    """At how many percent people are told where an organization says nothing."""
    return current_settings().warned_percents
