"""Invitations: a place in an organization, and a link that leads there.

The link is the proof: 256 random bits, of which only the SHA-256 is kept with the invitation, so that it is shown once, to
whoever invites, and goes out by a channel that carries it. Whoever opens it joins as the person they are signed in as, or as
somebody new with the address of the invitation. Where that address is somebody's already, only signing in will do: otherwise
whoever sends invitations could take over the accounts of those they send them to. For the same reason a phone number is invited
only where a text message carries the link: who texts is known by the number, and whoever joined with somebody else's would read
what they text. An invitation opens nothing any more once whoever made it may not make it any more.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from webapp import queues
from webapp.contracts.channels import Channel, DeliveryStatus
from webapp.contracts.errors import BadInput, Conflict, NotAllowed, NotFound
from webapp.contracts.events import PersonEvent
from webapp.contracts.texts import bare, clean
from webapp.extensions import current_settings, now, queue_redis, reading, retries, writing_session
from webapp.models import Delivery, DeliveryKind, Direction, Identity, Invitation, Organization, Person, PersonRole
from webapp.models.columns import new_id
from webapp.registry import current_registry
from webapp.services import memberships, messages, people
from webapp.services.organizations import RANK, Actor, Place, acting, audit

PAGE = 30
EMAIL, SMS = "email", "sms"
_NONE = "There is no such invitation."
_TOKEN_CHARS = 43
"""32 bytes in the letters of URLs."""


class Gone(Conflict):
    """The invitation was there and is open no longer."""

    code = "invitation_gone"


@dataclass(frozen=True, slots=True)
class InvitationView:
    """A line of the list. `state` is open, accepted, revoked, expired, or void: whoever made it may not make it any more."""

    id: uuid.UUID
    medium: str
    address: str
    role: PersonRole
    state: str
    invited_by: str
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Made:
    """An invitation with its link, which cannot be read again. `sent_by` is the channel that carries it, '' for none. A link
    that is carried is for whom it is sent to: it is shown to administrators of the installation only (`house`)."""

    invitation: InvitationView
    link: str
    sent_by: str
    house: bool


@dataclass(frozen=True, slots=True)
class Offer:
    """An open invitation, for whoever has its link. `known` means that the address belongs to somebody already."""

    organization_id: uuid.UUID
    organization: str
    role: PersonRole
    medium: str
    address: str
    invited_by: str
    expires_at: datetime
    known: bool


# -- inviting ------------------------------------------------------------------------------------------------------------
def create(actor: Actor, organization_id: uuid.UUID, address: str, role: PersonRole, link_of: Callable[[str], str]) -> Made:
    """Invite an address. Managers invite members, administrators of the organization anybody. `link_of` makes the link of a
    token. `Conflict` for somebody who is a member, or invited already."""
    medium, address = checked_address(address)
    token = secrets.token_urlsafe(32)
    with writing_session() as session:
        place = acting(session, actor, organization_id, PersonRole.MANAGER)
        _may_invite(place, role)
        if not place.organization.active:
            raise Conflict(f"{place.organization.name} is closed: nobody can join it now.")
        _not_there_yet(session, organization_id, medium, address)
        at = now()
        invitation = Invitation(
            id=new_id(),
            organization_id=organization_id,
            medium=medium,
            address=address,
            role=role,
            digest=digest(token),
            invited_by=actor.person_id,
            created_at=at,
            expires_at=at + timedelta(days=current_settings().invitation_days),
        )
        session.add(invitation)
        audit(session, actor, "invitation.create", f"invitation:{invitation.id}", organization_id, _told(invitation))
        made, delivery_id = _sent(session, invitation, place, link_of(token), _name(session, actor))
    _enqueue(delivery_id)
    return made


def resend(actor: Actor, organization_id: uuid.UUID, invitation_id: uuid.UUID, link_of: Callable[[str], str]) -> Made:
    """Give an invitation a new link and a new life; the link before is void. `Conflict` if it was accepted or revoked."""
    token = secrets.token_urlsafe(32)
    with writing_session() as session:
        place = acting(session, actor, organization_id, PersonRole.MANAGER)
        invitation = _locked(session, organization_id, invitation_id)
        _may_invite(place, PersonRole(invitation.role))
        _unspent(invitation)
        if not place.organization.active:
            raise Conflict(f"{place.organization.name} is closed: nobody can join it now.")
        invitation.invited_by = actor.person_id
        invitation.digest = digest(token)
        invitation.expires_at = now() + timedelta(days=current_settings().invitation_days)
        audit(session, actor, "invitation.resend", f"invitation:{invitation.id}", organization_id, _told(invitation))
        made, delivery_id = _sent(session, invitation, place, link_of(token), _name(session, actor))
    _enqueue(delivery_id)
    return made


def revoke(actor: Actor, organization_id: uuid.UUID, invitation_id: uuid.UUID) -> None:
    """Take an invitation back: its link leads nowhere any more. `Conflict` if it was accepted or revoked."""
    with writing_session() as session:
        place = acting(session, actor, organization_id, PersonRole.MANAGER)
        invitation = _locked(session, organization_id, invitation_id)
        _may_invite(place, PersonRole(invitation.role))
        _unspent(invitation)
        invitation.revoked_at = now()
        audit(session, actor, "invitation.revoke", f"invitation:{invitation.id}", organization_id, _told(invitation))


def rows(actor: Actor, organization_id: uuid.UUID, before: uuid.UUID | None = None, size: int = PAGE) -> list[InvitationView]:
    """An organization's invitations, the latest first, a page at a time, for its managers; `before` is the last id of the page
    before."""
    inviter = aliased(Person)
    query = (
        select(Invitation, inviter)
        .outerjoin(inviter, inviter.id == Invitation.invited_by)
        .where(Invitation.organization_id == organization_id)
        .order_by(Invitation.id.desc())
        .limit(size)
    )
    if before is not None:
        query = query.where(Invitation.id < before)
    with reading() as connection, Session(bind=connection) as session:
        acting(session, actor, organization_id, PersonRole.MANAGER)
        views = [(invitation, _view(invitation, _called(person))) for invitation, person in session.execute(query)]
        asked = {(each.invited_by, each.role): each for each, view in views if view.state == "open"}
        void = {key for key, each in asked.items() if key[0] is not None and not _still_may(session, key[0], each)}
        return [
            replace(view, state="void") if view.state == "open" and (each.invited_by, each.role) in void else view
            for each, view in views
        ]


def latest(actor: Actor, organization_id: uuid.UUID, address: str) -> uuid.UUID | None:
    """The id of the latest invitation to an address that was neither accepted nor revoked, for the organization's managers."""
    query = select(Invitation.id).where(
        Invitation.organization_id == organization_id,
        Invitation.address == address,
        Invitation.accepted_at.is_(None),
        Invitation.revoked_at.is_(None),
    )
    with reading() as connection, Session(bind=connection) as session:
        acting(session, actor, organization_id, PersonRole.MANAGER)
        return session.execute(query.order_by(Invitation.id.desc()).limit(1)).scalar()


# -- accepting -----------------------------------------------------------------------------------------------------------
def look(token: str) -> Offer:
    """What a link leads to. `NotFound` for one that never led anywhere, `Gone` for one that does so no more."""
    with reading() as connection, Session(bind=connection) as session:
        invitation, organization = _open(session, token)
        inviter = session.get(Person, invitation.invited_by) if invitation.invited_by else None
        return Offer(
            organization.id,
            organization.name,
            PersonRole(invitation.role),
            invitation.medium,
            invitation.address,
            _called(inviter),
            invitation.expires_at,
            _owner(session, invitation.medium, invitation.address) is not None,
        )


@retries
def accept(token: str, person_id: uuid.UUID) -> uuid.UUID:
    """Join as somebody who is signed in, and go on there; the organization's id. A member who has a lower role gets the one of
    the invitation. `NotFound`, `Gone`."""
    actor = Actor.person(person_id)
    with writing_session() as session:
        # The person before the invitation: the order in which rows are locked.
        person = session.scalar(select(Person).where(Person.id == person_id, Person.active).with_for_update(key_share=True))
        invitation, organization = _open(session, token)
        if person is None:
            raise NotFound(_NONE)
        _take(session, invitation, person_id)
        role = PersonRole(invitation.role)
        if not memberships.raise_role(session, actor, person_id, organization.id, role):
            memberships.join(session, actor, person_id, organization.id, role)
        memberships.work_in(session, actor, person, organization)
        audit(session, actor, "invitation.accept", f"invitation:{invitation.id}", organization.id, {"role": str(role)})
        return organization.id


def accept_as_new(token: str, full_name: str, password: str) -> uuid.UUID:
    """Join as somebody new, whose address is that of the invitation; their id. `BadInput` names the field; `Conflict` where the
    address is somebody's already. `NotFound`, `Gone`."""
    if not bare(full_name).strip():
        raise BadInput("name", "Say what you are called.")
    if not password:
        raise BadInput("password", "Choose a password.")
    try:
        with writing_session() as session:
            invitation, organization = _open(session, token)
            email, phone = (invitation.address, None) if invitation.medium == EMAIL else (None, invitation.address)
            if _owner(session, invitation.medium, invitation.address) is not None:
                raise Conflict("This address belongs to somebody here already: sign in to accept the invitation.")
            person = people.add(
                session, email=email, phone=phone, password=password, full_name=full_name, organization_id=organization.id
            )
            actor = Actor.person(person.id)
            _take(session, invitation, person.id)
            audit(session, actor, "person.create", f"person:{person.id}", organization.id, {"plan": person.plan_code})
            memberships.raise_role(session, actor, person.id, organization.id, PersonRole(invitation.role))
            told = {"role": str(invitation.role)}
            audit(session, actor, "invitation.accept", f"invitation:{invitation.id}", organization.id, told)
            event = PersonEvent(str(person.id), str(organization.id), "invitation", person.plan_code)
    except IntegrityError as exc:
        raise Conflict("Somebody took this address at the same moment: sign in to accept the invitation.") from exc
    current_registry().emit("person_created", event)
    return person.id


# -- parts ---------------------------------------------------------------------------------------------------------------
def digest(token: str) -> str:
    """What is stored and looked up of a link."""
    return hashlib.sha256(token.encode()).hexdigest()


def checked_address(text: str) -> tuple[str, str]:
    """(medium, address in its one form) of an e-mail address or a phone number. `BadInput`."""
    text = clean(text).strip()
    if not text:
        raise BadInput("address", "Write the e-mail address or the phone number of whom you invite.")
    try:
        return (EMAIL, people.normal_email(text)) if "@" in text else (SMS, people.normal_phone(text))
    except BadInput as exc:
        raise BadInput("address", exc.message) from exc


def _may_invite(place: Place, role: PersonRole) -> None:
    if RANK[role] >= RANK[PersonRole.MANAGER] and not place.at_least(PersonRole.ADMIN):
        raise NotAllowed("Managers invite members only: ask an administrator of the organization.")


def _not_there_yet(session: Session, organization_id: uuid.UUID, medium: str, address: str) -> None:
    owner = _owner(session, medium, address)
    if owner is not None and memberships.is_in(session, owner, organization_id):
        raise Conflict("They are in this organization already.")
    waiting = select(Invitation.id).where(
        Invitation.organization_id == organization_id,
        Invitation.medium == medium,
        Invitation.address == address,
        Invitation.accepted_at.is_(None),
        Invitation.revoked_at.is_(None),
        Invitation.expires_at > now(),
    )
    if session.execute(waiting.limit(1)).first() is not None:
        raise Conflict("There is an open invitation to this address: send it again, or revoke it first.")


def _owner(session: Session, medium: str, address: str) -> uuid.UUID | None:
    """Whose address it is."""
    if medium == EMAIL:
        return session.execute(select(Person.id).where(Person.email == address)).scalar()
    return session.execute(select(Identity.person_id).where(Identity.medium == medium, Identity.address == address)).scalar()


def _locked(session: Session, organization_id: uuid.UUID, invitation_id: uuid.UUID) -> Invitation:
    query = select(Invitation).where(Invitation.id == invitation_id, Invitation.organization_id == organization_id)
    found = session.scalar(query.with_for_update())
    if found is None:
        raise NotFound(_NONE)
    return found


def _unspent(invitation: Invitation) -> None:
    if invitation.accepted_at is not None:
        raise Conflict("This invitation was accepted already.")
    if invitation.revoked_at is not None:
        raise Conflict("This invitation was revoked already.")


def _open(session: Session, token: str) -> tuple[Invitation, Organization]:
    """The invitation of a link, and its organization. `NotFound`, `Gone`."""
    found = None
    if len(token) == _TOKEN_CHARS and token.isascii():
        query = select(Invitation, Organization).join(Organization, Organization.id == Invitation.organization_id)
        found = session.execute(query.where(Invitation.digest == digest(token))).first()
    if found is None:
        raise NotFound("This link leads to no invitation. Look whether the whole of it was copied.")
    invitation, organization = found
    again = "Ask whoever invited you for a new one."
    if invitation.accepted_at is not None:
        raise Gone("This invitation was used already.")
    if invitation.revoked_at is not None:
        raise Gone(f"This invitation was taken back. {again}")
    if invitation.expires_at <= now():
        raise Gone(f"This invitation has expired. {again}")
    if not organization.active:
        raise Gone("This organization is closed: nobody can join it now.")
    if invitation.invited_by is not None and not _still_may(session, invitation.invited_by, invitation):
        raise Gone("Whoever invited you may not do so any more. Ask somebody who administers the organization for a new one.")
    return invitation, organization


def _still_may(session: Session, inviter: uuid.UUID, invitation: Invitation) -> bool:
    """Whether somebody could make an invitation as they made it: else who was removed would come back by one of their own."""
    try:
        place = acting(session, Actor.person(inviter), invitation.organization_id, PersonRole.MANAGER)
        _may_invite(place, PersonRole(invitation.role))
    except (NotFound, NotAllowed):
        return False
    return True


def _take(session: Session, invitation: Invitation, person_id: uuid.UUID) -> None:
    """Use the invitation up; `Gone` for all but one of those who do so at the same moment."""
    at = now()
    done = session.execute(
        update(Invitation)
        .where(
            Invitation.id == invitation.id,
            Invitation.digest == invitation.digest,
            Invitation.accepted_at.is_(None),
            Invitation.revoked_at.is_(None),
            Invitation.expires_at > at,
        )
        .values(accepted_at=at, accepted_by=person_id)
        .returning(Invitation.id)
        .execution_options(synchronize_session=False)
    )
    if done.first() is None:
        raise Gone("This invitation was used or taken back a moment ago.")


# -- sending -------------------------------------------------------------------------------------------------------------
def _sent(session: Session, invitation: Invitation, place: Place, link: str, inviter: str) -> tuple[Made, uuid.UUID | None]:
    """The invitation with its link, and the message that carries it, if a channel can."""
    view = _view(invitation, inviter)
    channel = _channel(invitation.medium)
    name = place.organization.name
    body = f"{inviter or 'Switchhook'} invites you to {name}. Join here: {link}"
    if channel is None or len(body) > channel.max_chars:
        if invitation.medium == SMS and not place.house:
            raise BadInput("address", "No text message can be sent from here to carry the link: invite an e-mail address.")
        return Made(view, link, "", place.house), None
    at = now()
    delivery = Delivery(
        id=new_id(),
        channel=channel.name,
        medium=channel.medium,
        direction=Direction.OUT,
        kind=DeliveryKind.NOTICE,
        address=invitation.address,
        subject=f"Your invitation to {name}"[:255] if invitation.medium == EMAIL else None,
        body=body if invitation.medium == SMS else f"{body}\n\nThe link works once, until {invitation.expires_at:%-d %B %Y}.",
        status=DeliveryStatus.PENDING,
        created_at=at,
        updated_at=at,
    )
    session.add(delivery)
    return Made(view, link, channel.name, place.house), delivery.id


def _channel(medium: str) -> Channel | None:
    """What carries a message to such an address, None if nothing is ready."""
    try:
        return messages.outgoing() if medium == SMS else messages.outgoing_mail()
    except BadInput:
        return None


def _enqueue(delivery_id: uuid.UUID | None) -> None:
    if delivery_id is not None:
        queues.put(queue_redis(), queues.DELIVER, [str(delivery_id)], queues.NORMAL)


def _view(invitation: Invitation, invited_by: str) -> InvitationView:
    state = "open" if invitation.expires_at > now() else "expired"
    if invitation.revoked_at is not None:
        state = "revoked"
    if invitation.accepted_at is not None:
        state = "accepted"
    return InvitationView(
        invitation.id,
        invitation.medium,
        invitation.address,
        PersonRole(invitation.role),
        state,
        invited_by,
        invitation.created_at,
        invitation.expires_at,
    )


def _told(invitation: Invitation) -> dict[str, str]:
    return {"medium": invitation.medium, "address": invitation.address, "role": str(invitation.role)}


def _name(session: Session, actor: Actor) -> str:
    return _called(session.get(Person, actor.person_id)) if actor.person_id else ""


def _called(person: Person | None) -> str:
    return (person.full_name or person.email or "") if person is not None else ""
