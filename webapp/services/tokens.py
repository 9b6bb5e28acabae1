"""Tokens as the APIs read them: whose they are, where they work, and what they open."""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import bindparam, func, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from webapp.extensions import db, now, reading, writing
from webapp.models import ApiToken, Membership, Organization, Person, PersonRole
from webapp.services.people import TOKEN_PREFIX, token_digest

log = logging.getLogger(__name__)

USED_EVERY = timedelta(minutes=1)
"""How old the time of a token's last use may be before it is written anew."""
_LONGEST = 200

_place = func.coalesce(ApiToken.organization_id, Person.organization_id)
_find = (
    select(
        ApiToken.id,
        ApiToken.scopes,
        ApiToken.last_used_at,
        Person.id.label("person_id"),
        Person.role.label("installation_role"),
        Organization.id.label("organization_id"),
        Membership.role,
    )
    .join(Person, Person.id == ApiToken.person_id)
    .join(Organization, Organization.id == _place)
    .outerjoin(Membership, (Membership.person_id == Person.id) & (Membership.organization_id == Organization.id))
    .where(
        ApiToken.digest == bindparam("digest"),
        ApiToken.revoked_at.is_(None),
        or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > bindparam("moment", type_=ApiToken.expires_at.type)),
        Person.active,
        Organization.active,
        # Somebody whom an older release has registered has no membership, and is a member where they are.
        or_(
            Membership.person_id.is_not(None),
            Person.organization_id == Organization.id,
            Person.role == PersonRole.ADMIN,
        ),
    )
)


@dataclass(frozen=True, slots=True)
class Known:
    """A valid token of an active person, who is a member of the active organization that it works in. `role` is theirs there,
    ADMIN also for administrators of the installation; `house` alone says that they are one. `use_due`: `note_use` is to be
    called for it."""

    token_id: uuid.UUID
    person_id: uuid.UUID
    organization_id: uuid.UUID
    role: PersonRole
    house: bool
    scopes: frozenset[str]
    use_due: bool = False

    @property
    def person(self) -> Person:
        """The person's row, looked up when it is asked for."""
        return db.session.get_one(Person, self.person_id)


def find(token: str) -> Known | None:
    """Who is behind a token, None if it is not valid (any more). One statement."""
    if not token.startswith(TOKEN_PREFIX) or len(token) > _LONGEST:
        return None
    moment = now()
    with reading() as connection:
        row = connection.execute(_find, {"digest": token_digest(token), "moment": moment}).first()
    if row is None:
        return None
    house = row.installation_role == PersonRole.ADMIN
    role = PersonRole.ADMIN if house else PersonRole(row.role or PersonRole.MEMBER)
    use_due = row.last_used_at is None or moment - row.last_used_at > USED_EVERY
    return Known(row.id, row.person_id, row.organization_id, role, house, frozenset(row.scopes), use_due)


def note_use(token_id: uuid.UUID) -> None:
    """Write down that a token was used at this moment, unless that was done a moment ago. Raises nothing: it is a courtesy."""
    moment = now()
    older = or_(ApiToken.last_used_at.is_(None), ApiToken.last_used_at < moment - USED_EVERY)
    try:
        with writing() as connection:
            connection.execute(update(ApiToken).where(ApiToken.id == token_id, older).values(last_used_at=moment))
    except SQLAlchemyError as exc:
        log.warning("the use of a token was not written down: %s", type(exc).__name__)


def role_in(person: Person, organization_id: uuid.UUID) -> PersonRole:
    """What a person may do in an organization of theirs; ADMIN also for administrators of the installation, which it does not
    make anybody."""
    if person.is_admin:
        return PersonRole.ADMIN
    found = db.session.get(Membership, (person.id, organization_id))
    return PersonRole(found.role) if found else PersonRole.MEMBER
