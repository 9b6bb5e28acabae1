"""API tokens of others, for those who have to end one that has leaked: administrators of the installation any, managers those
that work in their organization. They are listed without what they prove themselves by, and changed in no other way.

A token that is revoked opens nothing from that moment on. An answer that is being streamed then goes on to its end: it was
admitted, and is paid for.
"""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from webapp.contracts.errors import NotAllowed, NotFound
from webapp.extensions import now, reading, writing_session
from webapp.models import ApiToken, Person, PersonRole
from webapp.services import memberships, organizations, personal_tokens
from webapp.services.organizations import RANK, Actor, Place
from webapp.services.personal_tokens import PAGE_MAX, TokenView

_NOBODY = "There is no such member."


def rows(
    actor: Actor,
    person_id: uuid.UUID,
    organization_id: uuid.UUID | None = None,
    after: uuid.UUID | None = None,
    size: int = 20,
    *,
    active: bool = False,
) -> tuple[list[TokenView], uuid.UUID | None]:
    """Tokens of a person, the latest first, a page at a time, and where the list goes on, None at its end: those that work in
    an organization, for its managers, or with None all, for administrators of the installation. `active`: only those that are
    not revoked. `NotFound`, `NotAllowed`."""
    size = min(max(1, size), PAGE_MAX)
    with reading() as connection, Session(bind=connection) as session:
        person, _ = _seen(session, actor, person_id, organization_id)
        query = select(ApiToken).where(*_within(person, organization_id)).order_by(ApiToken.id.desc()).limit(size + 1)
        if active:
            query = query.where(ApiToken.revoked_at.is_(None))
        if after is not None:
            query = query.where(ApiToken.id < after)
        found = session.scalars(query).all()
        shown = [personal_tokens.view_of(token) for token in found[:size]]
        return shown, found[size - 1].id if len(found) > size else None


def total(actor: Actor, person_id: uuid.UUID, organization_id: uuid.UUID | None = None) -> int:
    """How many tokens `rows` has in all. `NotFound`, `NotAllowed`."""
    with reading() as connection, Session(bind=connection) as session:
        person, _ = _seen(session, actor, person_id, organization_id)
        return session.execute(select(func.count()).select_from(ApiToken).where(*_within(person, organization_id))).scalar_one()


def revoke(actor: Actor, person_id: uuid.UUID, token_id: uuid.UUID, organization_id: uuid.UUID | None = None) -> TokenView:
    """End one of the tokens that `rows` has, at once, and tell what it was. Doing it again changes nothing. Managers end those
    of members, administrators of the organization also those of managers, those of the installation all. `NotFound`,
    `NotAllowed`."""
    with writing_session() as session:
        person, place = _seen(session, actor, person_id, organization_id)
        token = session.scalar(select(ApiToken).where(ApiToken.id == token_id, *_within(person, organization_id)))
        if token is None:
            raise NotFound("There is no such token.")
        if place is not None and actor.person_id != person_id:
            _check_rank(session, place, person)
        if token.revoked_at is None:
            token.revoked_at = now()
            where = organization_id or token.organization_id or person.organization_id
            told = {"name": token.name, "prefix": token.prefix}
            organizations.audit(session, actor, "token.revoke", f"person:{person_id}", where, told)
        return personal_tokens.view_of(token)


# -- parts ---------------------------------------------------------------------------------------------------------------
def _seen(
    session: Session, actor: Actor, person_id: uuid.UUID, organization_id: uuid.UUID | None
) -> tuple[Person, Place | None]:
    """The person, and the organization as the actor stands in it, None for administrators of the installation."""
    place = None
    if organization_id is None:
        organizations.for_house(session, actor)
    else:
        place = organizations.acting(session, actor, organization_id, PersonRole.MANAGER)
    person = session.get(Person, person_id)
    if person is None or (organization_id is not None and not memberships.is_in(session, person_id, organization_id)):
        raise NotFound(_NOBODY)
    return person, place


def _within(person: Person, organization_id: uuid.UUID | None) -> list[ColumnElement[bool]]:
    whole: list[Any] = [ApiToken.person_id == person.id]
    if organization_id is not None:
        bound = ApiToken.organization_id == organization_id
        # A token without a place works where its owner does.
        here = person.organization_id == organization_id
        whole.append(or_(bound, ApiToken.organization_id.is_(None)) if here else bound)
    return whole


def _check_rank(session: Session, place: Place, person: Person) -> None:
    if place.house:
        return
    if person.is_admin:
        raise NotAllowed("Tokens of administrators of the installation are revoked by such an administrator.")
    role = organizations.role_in(session, person, place.organization.id) or PersonRole.MEMBER
    if RANK[role] >= RANK[PersonRole.MANAGER] and not place.at_least(PersonRole.ADMIN):
        raise NotAllowed("Managers revoke tokens of members only: ask an administrator of the organization.")
