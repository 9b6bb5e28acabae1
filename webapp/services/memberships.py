"""Who is in an organization, and as what. The rules of `organizations` hold: one act is one transaction, checked inside.

An organization that has an administrator keeps one: the last cannot leave, be removed, or become less. Whoever loses the
organization that they were working in goes on in another of theirs, or in the default one.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, exists, or_, select, union, update
from sqlalchemy.orm import Session

from webapp.contracts.errors import BadInput, Conflict, NotAllowed, NotFound
from webapp.contracts.texts import clean
from webapp.extensions import now, reading, retries, writing_session
from webapp.models import ApiToken, Identity, Membership, Organization, Person, PersonRole
from webapp.services import organization_counts, people
from webapp.services.organizations import CHANGED, RANK, Actor, Place, acting, audit, lock

PAGE = 30
SEARCH_CHARS = 100
_NOBODY = "There is no such member."


@dataclass(frozen=True, slots=True)
class Member:
    """A line of an organization's people. `here` says that they are working in it now."""

    id: uuid.UUID
    name: str
    email: str
    phones: tuple[str, ...]
    role: PersonRole
    active: bool
    here: bool
    joined_at: datetime
    last_active_at: datetime | None

    @property
    def title(self) -> str:
        """What they are called, by whatever is known."""
        return self.name or self.email or next(iter(self.phones), "") or str(self.id)


def rows(
    actor: Actor, organization_id: uuid.UUID, after: uuid.UUID | None = None, search: str = "", size: int = PAGE
) -> list[Member]:
    """An organization's people in the order in which they came here first, a page at a time, for its managers. `after` is the
    last id of the page before; `search` is part of a name, an e-mail or a phone number."""
    with reading() as connection, Session(bind=connection) as session:
        acting(session, actor, organization_id, PersonRole.MANAGER)
        return _members(session, _ids(organization_id, after, clean(search).strip()[:SEARCH_CHARS], size), organization_id)


def show(actor: Actor, organization_id: uuid.UUID, person_id: uuid.UUID) -> Member:
    """One of an organization's people, for its managers. `NotFound`."""
    with reading() as connection, Session(bind=connection) as session:
        acting(session, actor, organization_id, PersonRole.MANAGER)
        found = _members(session, select(Person.id).where(Person.id == person_id), organization_id)
        if not found or _role(session, found[0].id, organization_id) is None:
            raise NotFound(_NOBODY)
        return found[0]


def add(actor: Actor, organization_id: uuid.UUID, who: str, role: PersonRole = PersonRole.MEMBER) -> Member:
    """Put somebody who is known here into an organization without asking them: for administrators of the installation. Others
    invite. `Conflict` if they are in it already."""
    with writing_session() as session:
        place = acting(session, actor, organization_id, PersonRole.ADMIN)
        if not place.house:
            raise NotAllowed("Only administrators of the installation add people without asking them: send an invitation.")
        person = people.find(session, who)
        _locked(session, person.id)
        lock(session, organization_id)
        join(session, actor, person.id, organization_id, role)
        return _members(session, select(Person.id).where(Person.id == person.id), organization_id)[0]


def join(session: Session, actor: Actor, person_id: uuid.UUID, organization_id: uuid.UUID, role: PersonRole) -> None:
    """Make somebody a member, in the caller's transaction. `Conflict` if they have a membership already."""
    if session.get(Membership, (person_id, organization_id)) is not None:
        raise Conflict("They are in this organization already.")
    session.add(Membership(person_id=person_id, organization_id=organization_id, role=role))
    audit(session, actor, "member.add", f"person:{person_id}", organization_id, {"role": str(role)})
    session.flush()


def raise_role(session: Session, actor: Actor, person_id: uuid.UUID, organization_id: uuid.UUID, role: PersonRole) -> bool:
    """Give a member a higher role, in the caller's transaction; False, and nothing is done, for somebody without a membership.
    A role that is higher already stays."""
    membership = session.get(Membership, (person_id, organization_id), populate_existing=True)
    if membership is None:
        return False
    if RANK[role] > RANK[PersonRole(membership.role)]:
        told = {"from": str(membership.role), "to": str(role)}
        membership.role = role
        audit(session, actor, "member.role", f"person:{person_id}", organization_id, told)
        session.flush()
    return True


def is_in(session: Session, person_id: uuid.UUID, organization_id: uuid.UUID) -> bool:
    """Whether a person is a member there."""
    return _role(session, person_id, organization_id) is not None


def change_role(actor: Actor, organization_id: uuid.UUID, person_id: uuid.UUID, role: PersonRole, seen: PersonRole) -> Member:
    """Make a member something else: for administrators of the organization. `seen` is the role that the actor saw."""
    with writing_session() as session:
        acting(session, actor, organization_id, PersonRole.ADMIN)
        _locked(session, person_id)
        lock(session, organization_id)
        before = _role(session, person_id, organization_id)
        if before is None:
            raise NotFound(_NOBODY)
        if before != seen:
            raise Conflict(CHANGED)
        if before != role:
            if before is PersonRole.ADMIN:
                _keep_an_admin(session, organization_id, person_id, "become less")
            _membership(session, person_id, organization_id).role = role
            told = {"from": str(before), "to": str(role)}
            audit(session, actor, "member.role", f"person:{person_id}", organization_id, told)
            session.flush()
        return _members(session, select(Person.id).where(Person.id == person_id), organization_id)[0]


@retries
def remove(actor: Actor, organization_id: uuid.UUID, person_id: uuid.UUID) -> None:
    """End somebody's membership, and the tokens that work in this organization alone. Managers remove members, administrators
    of it everybody; all may leave by themselves."""
    with writing_session() as session:
        leaving = actor.person_id == person_id
        place = acting(session, actor, organization_id, PersonRole.MEMBER if leaving else PersonRole.MANAGER)
        person = _locked(session, person_id)
        lock(session, organization_id)
        role = _role(session, person_id, organization_id)
        if role is None:
            raise NotFound(_NOBODY)
        if not leaving and RANK[role] >= RANK[PersonRole.MANAGER] and not place.at_least(PersonRole.ADMIN):
            raise NotAllowed("Managers remove members only: ask an administrator of the organization.")
        if role is PersonRole.ADMIN:
            _keep_an_admin(session, organization_id, person_id, "leave")
        membership = session.get(Membership, (person_id, organization_id))
        if membership is not None:
            session.delete(membership)
            session.flush()
        if person.organization_id == organization_id:
            _move_on(session, actor, person)
        ends = update(ApiToken).where(ApiToken.person_id == person_id, ApiToken.organization_id == organization_id)
        session.execute(ends.where(ApiToken.revoked_at.is_(None)).values(revoked_at=now()))
        audit(session, actor, "member.leave" if leaving else "member.remove", f"person:{person_id}", organization_id)


@retries
def switch(actor: Actor, person_id: uuid.UUID, organization_id: uuid.UUID) -> None:
    """Let a person go on in another of their organizations: themselves, or an administrator of the installation. Requests under
    way go on where they are. `NotFound` if they are not in it, `Conflict` if it is closed."""
    with writing_session() as session:
        if actor.person_id != person_id:
            _for_house(acting(session, actor, organization_id, PersonRole.MEMBER))
        person = _locked(session, person_id)
        organization = session.get(Organization, organization_id)
        if organization is None or _role(session, person_id, organization_id) is None:
            raise NotFound("There is no such organization.")
        if not organization.active:
            raise Conflict(f"{organization.name} is closed: nobody works in it now.")
        work_in(session, actor, person, organization)


def work_in(session: Session, actor: Actor, person: Person, organization: Organization) -> None:
    """Let somebody whose row is locked go on in an organization. What they have used goes along."""
    if person.organization_id == organization.id:
        return
    before = session.get(Organization, person.organization_id)
    assert before is not None, "a foreign key says so"
    if session.get(Membership, (person.id, before.id)) is None and _role(session, person.id, before.id) is not None:
        # They were a member by working there, and stay one.
        session.add(Membership(person_id=person.id, organization_id=before.id))
    _put(session, actor, person, before, organization)


def _put(session: Session, actor: Actor, person: Person, before: Organization, after: Organization) -> None:
    person.organization_id = after.id
    audit(session, actor, "member.switch", f"person:{person.id}", after.id, {"from": str(before.id)})
    session.flush()
    zones = (before.time_zone, after.time_zone)
    organization_counts.carry_person(session.connection(), person.id, *zones, now(), actor=actor.name)


def _move_on(session: Session, actor: Actor, person: Person) -> None:
    """Find another organization for somebody who was working in one that they are in no longer."""
    before = session.get(Organization, person.organization_id)
    assert before is not None, "a foreign key says so"
    other = session.scalar(
        select(Organization)
        .join(Membership, Membership.organization_id == Organization.id)
        .where(Membership.person_id == person.id, Organization.id != before.id, Organization.active)
        .order_by(Organization.id)
        .limit(1)
    )
    if other is None:
        default = people.default_organization(session)
        if default == before.id:
            raise Conflict("This is the default organization, and they are in no other: deactivate the person instead.")
        other = session.get(Organization, default)
        assert other is not None, "it was just read"
        session.add(Membership(person_id=person.id, organization_id=default))
    _put(session, actor, person, before, other)


# -- parts ---------------------------------------------------------------------------------------------------------------
def _for_house(place: Place) -> None:
    if not place.house:
        raise NotAllowed("This is for administrators of the installation.")


def _locked(session: Session, person_id: uuid.UUID) -> Person:
    query = select(Person).where(Person.id == person_id).with_for_update(key_share=True)
    found = session.scalar(query.execution_options(populate_existing=True))
    if found is None:
        raise NotFound(_NOBODY)
    return found


def _role(session: Session, person_id: uuid.UUID, organization_id: uuid.UUID) -> PersonRole | None:
    """A person's role by membership alone: what they are in the installation does not make them a member."""
    membership = session.get(Membership, (person_id, organization_id), populate_existing=True)
    if membership is not None:
        return PersonRole(membership.role)
    query = select(Person.id).where(Person.id == person_id, Person.organization_id == organization_id)
    return PersonRole.MEMBER if session.execute(query).first() else None


def _membership(session: Session, person_id: uuid.UUID, organization_id: uuid.UUID) -> Membership:
    """The row, made for somebody whom an older release has registered."""
    found = session.get(Membership, (person_id, organization_id))
    if found is None:
        found = Membership(person_id=person_id, organization_id=organization_id)
        session.add(found)
    return found


def _keep_an_admin(session: Session, organization_id: uuid.UUID, person_id: uuid.UUID, what: str) -> None:
    others = (
        select(Membership.person_id)
        .join(Person, Person.id == Membership.person_id)
        .where(
            Membership.organization_id == organization_id,
            Membership.role == PersonRole.ADMIN,
            Membership.person_id != person_id,
            Person.active,
        )
        .limit(1)
    )
    if session.execute(others).first() is None:
        raise Conflict(f"The last administrator of an organization cannot {what}: make somebody else one first.")


def _ids(organization_id: uuid.UUID, after: uuid.UUID | None, search: str, size: int) -> Any:
    """The ids of a page's people: those with a membership, and those who work there without one."""
    member = select(Membership.person_id.label("id")).where(Membership.organization_id == organization_id)
    working = select(Person.id.label("id")).where(Person.organization_id == organization_id)
    if search:
        member = member.join(Person, Person.id == Membership.person_id).where(_matches(search))
        working = working.where(_matches(search))
    if after is not None:
        member, working = member.where(Membership.person_id > after), working.where(Person.id > after)
    pages = [select(page.c.id) for page in (query.order_by("id").limit(size).subquery() for query in (member, working))]
    found = union(*pages).subquery()
    return select(found.c.id).order_by(found.c.id).limit(size)


def _matches(search: str) -> ColumnElement[bool]:
    tests = [Person.full_name.icontains(search, autoescape=True), Person.email.icontains(search, autoescape=True)]
    digits = "".join(char for char in search if char.isascii() and char.isdigit())
    if digits and not any(char.isalpha() or char == "@" for char in search):
        address = Identity.address.contains(digits, autoescape=True)
        tests.append(exists().where(Identity.person_id == Person.id, Identity.medium == "sms", address))
    return or_(*tests)


def _members(session: Session, ids: Any, organization_id: uuid.UUID) -> list[Member]:
    query = (
        select(Person, Membership.role, Membership.created_at)
        .outerjoin(Membership, (Membership.person_id == Person.id) & (Membership.organization_id == organization_id))
        .where(Person.id.in_(ids))
        .order_by(Person.id)
    )
    found: Sequence[Any] = session.execute(query).all()
    phones: dict[uuid.UUID, list[str]] = {}
    numbers = select(Identity.person_id, Identity.address).where(
        Identity.person_id.in_([person.id for person, *_ in found]), Identity.medium == "sms"
    )
    for person_id, address in session.execute(numbers.order_by(Identity.id)):
        phones.setdefault(person_id, []).append(address)
    return [
        Member(
            person.id,
            person.full_name,
            person.email or "",
            tuple(phones.get(person.id, ())),
            PersonRole(role or PersonRole.MEMBER),
            person.active,
            person.organization_id == organization_id,
            joined_at or person.created_at,
            person.last_active_at,
        )
        for person, role, joined_at in found
    ]


def role_named(text: str) -> PersonRole:
    """The role that is called so. `BadInput`."""
    try:
        return PersonRole(text.strip().lower())
    except ValueError:
        raise BadInput("role", f"A role is one of: {', '.join(PersonRole)}.") from None
