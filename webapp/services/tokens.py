"""Tokens as the APIs read them: whose they are, where they work, and what they open."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import or_, select, update

from webapp.extensions import db, now, writing
from webapp.models import ApiToken, Membership, Organization, Person, PersonRole
from webapp.services.people import TOKEN_PREFIX, token_digest

USED_EVERY = timedelta(minutes=1)
"""How old the time of a token's last use may be before it is written anew."""


@dataclass(frozen=True, slots=True)
class Known:
    """A valid token of an active person, who is a member of the active organization that it works in."""

    token_id: uuid.UUID
    person: Person
    organization_id: uuid.UUID
    role: PersonRole
    scopes: frozenset[str]


def find(token: str) -> Known | None:
    """Who is behind a token, None if it is not valid (any more)."""
    if not token.startswith(TOKEN_PREFIX):
        return None
    moment = now()
    found = db.session.scalar(
        select(ApiToken).where(
            ApiToken.digest == token_digest(token),
            ApiToken.revoked_at.is_(None),
            or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > moment),
        )
    )
    if found is None or not found.person.active:
        return None
    person = found.person
    organization_id = found.organization_id or person.organization_id
    organization = db.session.get(Organization, organization_id)
    if organization is None or not organization.active or not _belongs(person, organization_id):
        return None
    if found.last_used_at is None or moment - found.last_used_at > USED_EVERY:
        note_use(found.id)
    return Known(found.id, person, organization_id, role_in(person, organization_id), frozenset(found.scopes))


def note_use(token_id: uuid.UUID) -> None:
    """Write down that a token was used at this moment."""
    with writing() as connection:
        connection.execute(update(ApiToken).where(ApiToken.id == token_id).values(last_used_at=now()))


def role_in(person: Person, organization_id: uuid.UUID) -> PersonRole:
    """What a person may do in an organization of theirs; ADMIN for administrators of the installation."""
    if person.is_admin:
        return PersonRole.ADMIN
    found = db.session.get(Membership, (person.id, organization_id))
    return PersonRole(found.role) if found else PersonRole.MEMBER


def _belongs(person: Person, organization_id: uuid.UUID) -> bool:
    """Whether they are in it. Somebody whom an older release has registered is a member where they are."""
    if person.organization_id == organization_id or person.is_admin:
        return True
    return db.session.get(Membership, (person.id, organization_id)) is not None
