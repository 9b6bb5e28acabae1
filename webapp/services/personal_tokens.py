"""A person's own API tokens: listed, made, revoked by themselves. The token itself is told once; its digest never.

What a token makes is no stronger than it: its scopes are among those of its maker, it works in the same organization, and it
ends no later. A token with limits of its own makes none, for the new one would be counted by itself.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from webapp.contracts.errors import BadInput, NotAllowed, NotFound
from webapp.contracts.limits import StoredLimit
from webapp.extensions import now, reading, writing_session
from webapp.models import ApiToken, AuditEntry, Organization, Person, PersonRole
from webapp.quota import stored
from webapp.services import limits, memberships, organizations, people
from webapp.services.limit_owners import Kind
from webapp.services.limits import Typed
from webapp.services.organizations import RANK, Actor

PAGE_MAX = 100
DAYS_MAX = 3650
ADMIN, SMS = "admin", "sms"
_NONE = "There is no such token."


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token as its owner sees it. `prefix` is how it begins; `state` is active, expired or revoked."""

    id: uuid.UUID
    name: str
    prefix: str
    scopes: tuple[str, ...]
    organization_id: uuid.UUID | None
    limits: tuple[StoredLimit, ...]
    state: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Maker:
    """Whoever makes a token for themselves: with which scopes, and by which token, None for a session."""

    person_id: uuid.UUID
    organization_id: uuid.UUID
    scopes: frozenset[str]
    token_id: uuid.UUID | None = None


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token to be made. `organization_id` None: it works wherever its owner does."""

    name: str
    scopes: Sequence[str]
    days: int | None = None
    organization_id: uuid.UUID | None = None
    limits: Sequence[Typed] = ()


def rows(person_id: uuid.UUID, after: uuid.UUID | None = None, size: int = 20) -> tuple[list[TokenView], uuid.UUID | None]:
    """All tokens that a person ever had, the latest first, a page at a time, and where the list goes on, None at its end."""
    size = min(max(1, size), PAGE_MAX)
    query = select(ApiToken).where(ApiToken.person_id == person_id).order_by(ApiToken.id.desc()).limit(size + 1)
    if after is not None:
        query = query.where(ApiToken.id < after)
    with reading() as connection, Session(bind=connection) as session:
        found = session.scalars(query).all()
        return [view_of(token) for token in found[:size]], found[size - 1].id if len(found) > size else None


def total(person_id: uuid.UUID) -> int:
    """How many tokens a person ever had."""
    with reading() as connection:
        return connection.execute(select(func.count()).where(ApiToken.person_id == person_id)).scalar_one()


def show(person_id: uuid.UUID, token_id: uuid.UUID) -> TokenView:
    """One of a person's tokens. `NotFound`."""
    with reading() as connection, Session(bind=connection) as session:
        return view_of(_own(session, person_id, token_id))


def create(maker: Maker, new: NewToken) -> tuple[str, TokenView]:
    """Make a token; it in clear, which cannot be read again, and its view. `BadInput` names the field; `NotAllowed` for one
    that would be stronger than what makes it."""
    if unknown := [scope for scope in new.scopes if scope not in people.SCOPES]:
        raise BadInput("scopes", f"There is no scope {unknown[0][:40]!r}: {', '.join(people.SCOPES)}.")
    scopes = [scope for scope in people.SCOPES if scope in new.scopes]
    if not scopes:
        raise BadInput("scopes", f"Name at least one scope: {', '.join(people.SCOPES)}.")
    if new.days is not None and not 1 <= new.days <= DAYS_MAX:
        raise BadInput("days", f"A token lives for 1 to {DAYS_MAX:,} days, or without an end.")
    own = _limits(new.limits)
    actor = Actor.person(maker.person_id)
    with writing_session() as session:
        person = session.get_one(Person, maker.person_id)
        place, latest = _bounds(session, maker, new)
        _check_scopes(session, person, maker, place or person.organization_id, scopes)
        clear = people.make_token(
            session,
            person,
            new.name,
            scopes,
            new.days,
            actor.name,
            organization_id=place,
            limits=stored.write(own),
            no_later_than=latest,
        )
        session.flush()
        made = session.execute(select(ApiToken).where(ApiToken.digest == people.token_digest(clear))).scalar_one()
        return clear, view_of(made)


def revoke(person_id: uuid.UUID, token_id: uuid.UUID) -> None:
    """End a token of one's own at once. Doing it again changes nothing; an answer that is being streamed goes on to its end.
    `NotFound`."""
    actor = Actor.person(person_id)
    with writing_session() as session:
        token = _own(session, person_id, token_id)
        if token.revoked_at is None:
            token.revoked_at = now()
            detail = {"name": token.name, "prefix": token.prefix}
            entry = AuditEntry(
                actor=actor.name, actor_id=person_id, action="token.revoke", subject=f"person:{person_id}", detail=detail
            )
            session.add(entry)


# -- parts ---------------------------------------------------------------------------------------------------------------
def _own(session: Session, person_id: uuid.UUID, token_id: uuid.UUID) -> ApiToken:
    found = session.scalar(select(ApiToken).where(ApiToken.id == token_id, ApiToken.person_id == person_id))
    if found is None:
        raise NotFound(_NONE)
    return found


def _limits(typed: Sequence[Typed]) -> list[StoredLimit]:
    if len(typed) > stored.LIMITS_MAX:
        raise BadInput("limits", f"A token has at most {stored.LIMITS_MAX} limits.")
    found: list[StoredLimit] = []
    for number, each in enumerate(typed):
        try:
            limit = limits.checked(Kind.TOKEN, each)
        except BadInput as exc:
            raise BadInput(f"limits.{number}.{exc.field}", exc.message) from exc
        if any(limits.same(limit, other) for other in found):
            raise BadInput(f"limits.{number}", "There is a limit of this kind already: give one number for each kind.")
        found.append(limit)
    return found


def _bounds(session: Session, maker: Maker, new: NewToken) -> tuple[uuid.UUID | None, datetime | None]:
    """In which organization the new token works, None for wherever its owner does, and when it ends at the latest."""
    place, latest = new.organization_id, None
    if maker.token_id is not None:
        by = session.get_one(ApiToken, maker.token_id)
        latest = by.expires_at
        if by.limits:
            raise NotAllowed("A token that has limits of its own makes no tokens: use one without, or sign in.")
        if by.organization_id is not None:
            if place not in (None, by.organization_id):
                raise NotAllowed("A token that works in one organization makes tokens for that one alone.")
            place = by.organization_id
    if place is not None:
        _check_member(session, maker.person_id, place)
    return place, latest


def _check_member(session: Session, person_id: uuid.UUID, organization_id: uuid.UUID) -> None:
    organization = session.get(Organization, organization_id)
    if organization is None or not memberships.is_in(session, person_id, organization_id):
        raise BadInput("organization_id", "There is no such organization among yours.")
    if not organization.active:
        raise BadInput("organization_id", f"{organization.name} is closed: nobody works in it now.")


def _check_scopes(session: Session, person: Person, maker: Maker, organization_id: uuid.UUID, scopes: Sequence[str]) -> None:
    # A token with the scope admin opens everything but the sending of messages to anybody.
    may = set(maker.scopes) | ({scope for scope in people.SCOPES if scope != SMS} if ADMIN in maker.scopes else set())
    if maker.token_id is None or ADMIN in maker.scopes:
        role = organizations.role_in(session, person, organization_id) or PersonRole.MEMBER
        if RANK[role] < RANK[PersonRole.MANAGER]:
            may.discard(ADMIN)
        if person.is_admin:
            may.add(SMS)
        elif maker.token_id is None:
            may.discard(SMS)
    if beyond := [scope for scope in scopes if scope not in may]:
        raise NotAllowed(_LACKS.get(beyond[0], f"A token makes no token with a scope that it has not: {beyond[0]}."))


_LACKS = {
    ADMIN: "The scope admin is for tokens of managers and administrators, made by them signed in or with such a token.",
    SMS: "The scope sms sends messages to any number: administrators of the installation give it.",
}


def view_of(token: ApiToken) -> TokenView:
    """A token's row as it is shown."""
    state = "revoked" if token.revoked_at else "expired" if token.expires_at and token.expires_at <= now() else "active"
    return TokenView(
        token.id,
        token.name,
        token.prefix,
        tuple(str(scope) for scope in token.scopes),
        token.organization_id,
        stored.read(token.limits or []),
        state,
        token.created_at,
        token.expires_at,
        token.last_used_at,
        token.revoked_at,
    )
