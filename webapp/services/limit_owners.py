"""Whose limits they are, and who may change them.

Administrators of the installation change all. Those of an organization change its own and its members', managers those of its
members; nobody below the installation changes what is marked as the installation's. A token's limits are its owner's business:
they only make it narrower. To those who may not even see them, there are no such limits.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp.contracts.errors import BadInput, Conflict, NotAllowed, NotFound
from webapp.contracts.limits import StoredLimit
from webapp.extensions import reading
from webapp.models import ApiToken, Membership, Organization, Person, PersonRole, Plan
from webapp.quota import stored
from webapp.services import memberships, organizations, people
from webapp.services.organizations import RANK, Actor


class Kind(StrEnum):
    """What limits may be stored with."""

    PLAN = "plan"
    ORGANIZATION = "organization"
    MEMBER = "member"
    TOKEN = "token"  # noqa: S105  (a kind, not a secret)


@dataclass(frozen=True, slots=True)
class Owner:
    """What limits are stored with: a plan by its `code`, else by `id`; a member is the person `id` in the organization
    `organization_id`."""

    kind: Kind
    code: str = ""
    id: uuid.UUID | None = None
    organization_id: uuid.UUID | None = None

    @classmethod
    def plan(cls, code: str) -> Owner:
        """Limits for each person on a plan."""
        return cls(Kind.PLAN, code=code)

    @classmethod
    def organization(cls, organization_id: uuid.UUID) -> Owner:
        """Limits for all people of an organization together, or for each."""
        return cls(Kind.ORGANIZATION, id=organization_id, organization_id=organization_id)

    @classmethod
    def member(cls, organization_id: uuid.UUID, person_id: uuid.UUID) -> Owner:
        """Limits of one person in one organization."""
        return cls(Kind.MEMBER, id=person_id, organization_id=organization_id)

    @classmethod
    def token(cls, token_id: uuid.UUID) -> Owner:
        """Limits of one API token."""
        return cls(Kind.TOKEN, id=token_id)

    @property
    def subject(self) -> str:
        """How the audit trail calls it."""
        return f"{'person' if self.kind is Kind.MEMBER else self.kind}:{self.code or self.id}"


@dataclass(frozen=True, slots=True)
class Held:
    """The row that has the limits, as somebody stands to it: `may` says that they change limits there, `house` that they change
    those of the installation too."""

    row: Plan | Organization | Membership | ApiToken
    title: str
    may: bool
    house: bool
    organization_id: uuid.UUID | None
    """Whose managers may read of changes; None for a plan."""

    @property
    def limits(self) -> tuple[StoredLimit, ...]:
        """What is stored."""
        return stored.read(self._stored)

    @property
    def seen(self) -> str:
        """What tells one state from another: a version, or the digest of the list itself."""
        if isinstance(self.row, Plan | Organization):
            return str(self.row.version)
        return hashlib.sha256(json.dumps(self._stored, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def _stored(self) -> list[Any]:
        name = "more_limits" if isinstance(self.row, Plan) else "limits"
        found: list[Any] = getattr(self.row, name)
        return found

    def put(self, limits: list[dict[str, Any]]) -> None:
        """Store other limits; whoever saw the earlier ones is told so."""
        if isinstance(self.row, Plan):
            self.row.more_limits = limits
        else:
            self.row.limits = limits
        if isinstance(self.row, Plan | Organization):
            self.row.version += 1


def look(session: Session, owner: Owner, actor: Actor, *, to_change: bool = False) -> Held:
    """The row that has the limits, locked if it is to be changed. `NotFound` for those who may not see it, `NotAllowed` for
    those who may see it only and want to change it."""
    found = _LOOK[owner.kind](session, owner, actor, to_change)
    if to_change and not found.may:
        raise NotAllowed(LACKS[owner.kind])
    return found


LACKS = {
    Kind.PLAN: "The limits of a plan are changed by administrators of the installation.",
    Kind.ORGANIZATION: "The limits of an organization are changed by its administrators.",
    Kind.MEMBER: "The limits of members are changed by managers of the organization, those of managers by its administrators.",
    Kind.TOKEN: "The limits of a token are changed by whoever it belongs to.",
}


def _plan(session: Session, owner: Owner, actor: Actor, to_change: bool) -> Held:
    organizations.for_house(session, actor)
    query = select(Plan).where(Plan.code == owner.code)
    plan = session.scalar(query.with_for_update(key_share=True) if to_change else query)
    if plan is None:
        raise NotFound("There is no such plan.")
    return Held(plan, plan.name, True, True, None)


def _organization(session: Session, owner: Owner, actor: Actor, to_change: bool) -> Held:
    assert owner.organization_id is not None
    place = organizations.acting(session, actor, owner.organization_id, PersonRole.MEMBER)
    row = (
        organizations.lock(session, owner.organization_id)
        if to_change
        else session.get_one(Organization, owner.organization_id)
    )
    return Held(row, row.name, place.at_least(PersonRole.ADMIN), place.house, row.id)


def _member(session: Session, owner: Owner, actor: Actor, to_change: bool) -> Held:
    assert owner.organization_id is not None
    assert owner.id is not None
    place = organizations.acting(session, actor, owner.organization_id, PersonRole.MEMBER)
    mine = actor.person_id == owner.id
    query = select(Person).where(Person.id == owner.id)
    person = session.scalar(query.with_for_update(key_share=True) if to_change else query)
    if person is None or not memberships.is_in(session, owner.id, owner.organization_id):
        raise NotFound("There is no such member.")
    if not mine and not place.at_least(PersonRole.MANAGER):
        raise NotFound("There is no such member.")
    row = session.get(Membership, (owner.id, owner.organization_id), populate_existing=True)
    if row is None:
        # Somebody whom an older release has registered has no membership yet.
        row = Membership(person_id=owner.id, organization_id=owner.organization_id, role=PersonRole.MEMBER, limits=[])
        if to_change:
            session.add(row)
            session.flush()
    below = RANK[PersonRole(row.role)] < RANK[PersonRole.MANAGER]
    may = place.at_least(PersonRole.ADMIN) or (place.at_least(PersonRole.MANAGER) and below)
    return Held(row, person.full_name or person.email or "somebody", may, place.house, owner.organization_id)


def _token(session: Session, owner: Owner, actor: Actor, to_change: bool) -> Held:
    house = actor.person_id is None
    if actor.person_id is not None:
        person = session.get(Person, actor.person_id)
        house = person is not None and person.active and person.is_admin
    query = select(ApiToken).where(ApiToken.id == owner.id)
    row = session.scalar(query.with_for_update(key_share=True) if to_change else query)
    if row is None or not (house or row.person_id == actor.person_id):
        raise NotFound("There is no such token.")
    works_in = row.organization_id or session.get_one(Person, row.person_id).organization_id
    return Held(row, row.name, True, house, works_in)


_LOOK = {Kind.PLAN: _plan, Kind.ORGANIZATION: _organization, Kind.MEMBER: _member, Kind.TOKEN: _token}


def named(*, plan: str = "", organization: str = "", person: str = "", token: str = "") -> Owner:
    """The owner as the operator names it: a plan's code; an organization's name or id; a person, in the organization that they
    work in or the one that is named too; a token's id or beginning. `BadInput`, `NotFound`, `Conflict`."""
    if len([each for each in (plan, organization or person, token) if each]) != 1:
        raise BadInput("owner", "Name one of --plan, --organization, --person or --token: whose limits they are.")
    if plan:
        return Owner.plan(plan)
    if token:
        return _token_named(token)
    place = organizations.find(organization).id if organization else None
    if not person:
        assert place is not None, "one of the two is named"
        return Owner.organization(place)
    with reading() as connection, Session(bind=connection) as session:
        found = people.find(session, person)
        return Owner.member(place or found.organization_id, found.id)


def _token_named(token: str) -> Owner:
    with contextlib.suppress(ValueError):
        return Owner.token(uuid.UUID(token))
    shown = len(people.TOKEN_PREFIX) + 6
    if not token.startswith(people.TOKEN_PREFIX) or len(token) < shown:
        raise BadInput("token", f"A token is named by its id or by its first {shown} characters.")
    with reading() as connection:
        ids = connection.scalars(select(ApiToken.id).where(ApiToken.prefix == token[:shown]).limit(2)).all()
    if not ids:
        raise NotFound("There is no such token: `switchhook token list` shows a person's.")
    if len(ids) > 1:
        raise Conflict("Several tokens begin like this: give the id.")
    return Owner.token(ids[0])
