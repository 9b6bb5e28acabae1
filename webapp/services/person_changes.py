"""What programs change about people: register, correct, let in and shut out. Each is one transaction with its entry in the
audit trail; listeners hear of it after the commit.

Everybody corrects what is their own affair; the rest is for administrators of the installation, as on the pages. Managers
register people into their organization, on a plan that is no higher than the one with which everybody begins, by a phone number
or by an e-mail address. Nobody has proved that two addresses are the same person's, or that a password is theirs: with both a
manager could sign in as whoever writes from a number. People get in by invitation.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from webapp.contracts.errors import BadInput, Conflict, NotAllowed, NotFound
from webapp.contracts.events import PersonEvent
from webapp.contracts.texts import bare, clean
from webapp.extensions import current_settings, writing_session
from webapp.models import Identity, Person, PersonRole, Plan
from webapp.registry import current_registry
from webapp.services import fresh_months, organizations, passwords, people
from webapp.services.organizations import Actor

CHANNEL = "api"
NAME_CHARS = 255
PREFERENCES_CHARS = 16_000
PREFERENCES_DEEPEST = 8
OWN = frozenset({"full_name", "time_zone", "preferences"})
"""What people change about themselves."""
_TAKEN = "Somebody is known by this e-mail or phone number already."


@dataclass(frozen=True, slots=True)
class NewPerson:
    """Somebody to be registered. None: the usual; `plan` then is the one with which everybody begins."""

    email: str | None = None
    phone: str | None = None
    full_name: str = ""
    plan: str | None = None
    time_zone: str | None = None
    password: str | None = None


def register(actor: Actor, organization_id: uuid.UUID, new: NewPerson) -> uuid.UUID:
    """Register somebody into an organization, for its managers and the installation's administrators; their id. `BadInput`
    names the field; `Conflict` where the e-mail or the phone number is somebody's already."""
    zone = None if new.time_zone is None else organizations.checked_time_zone(new.time_zone)
    digest = None if new.password is None else _hashed(new.password)
    try:
        with writing_session() as session:
            place = _registering(session, actor, organization_id)
            if not place.organization.active:
                raise Conflict(f"{place.organization.name} is closed: nobody can join it now.")
            if not place.house:
                _check_unproved(new)
            if new.password is not None and not new.email:
                raise BadInput("password", "A password needs an e-mail address to sign in with: give one.")
            person = _added(session, new, organization_id)
            if not place.house:
                _check_plan(session, person.plan_code)
            person.time_zone, person.password_hash = zone, digest
            told = {"plan": person.plan_code}
            organizations.audit(session, actor, "person.create", f"person:{person.id}", organization_id, told)
    except IntegrityError as exc:
        raise Conflict(_TAKEN) from exc
    event = PersonEvent(str(person.id), str(organization_id), CHANNEL, person.plan_code)
    current_registry().emit("person_created", event)
    return person.id


def change(actor: Actor, person_id: uuid.UUID, values: Mapping[str, Any], *, house: bool) -> None:
    """Set what `values` names: full_name, time_zone (None: the organization's), preferences, email (None: none), active.
    `house` says that the actor acts as an administrator of the installation. Whether they see the person is for the caller."""
    if not house:
        if actor.person_id != person_id:
            raise NotAllowed("People are changed by themselves and by administrators of the installation.")
        if others := sorted(set(values) - OWN):
            raise NotAllowed(f"Administrators of the installation change this, not you yourself: {', '.join(others)}.")
    wanted = _checked(values)
    try:
        with writing_session() as session:
            if house:
                organizations.for_house(session, actor)
            person = fresh_months.locked(session, person_id)
            told = _put(session, actor, person, wanted)
            if told:
                subject = f"person:{person_id}"
                organizations.audit(session, actor, "person.change", subject, person.organization_id, {"changed": told})
    except IntegrityError as exc:
        raise Conflict(_TAKEN) from exc


def set_active(actor: Actor, person_id: uuid.UUID, active: bool) -> None:
    """Let a person in, or shut them out, for administrators of the installation: an inactive one is neither answered nor signed
    in, and their sessions end. Nothing is done where it is so already."""
    change(actor, person_id, {"active": active}, house=True)


# -- parts ---------------------------------------------------------------------------------------------------------------
def _registering(session: Session, actor: Actor, organization_id: uuid.UUID) -> organizations.Place:
    try:
        return organizations.acting(session, actor, organization_id, PersonRole.MANAGER)
    except NotFound as exc:
        raise BadInput("organization_id", exc.message) from exc


def _added(session: Session, new: NewPerson, organization_id: uuid.UUID) -> Person:
    try:
        return people.add(
            session,
            email=new.email,
            phone=new.phone,
            full_name=new.full_name,
            plan=new.plan,
            organization_id=organization_id,
        )
    except Conflict as exc:
        # Whether they are active, and where, is nobody's business here.
        raise Conflict(_TAKEN) from exc


def _check_unproved(new: NewPerson) -> None:
    """That a manager ties nothing to somebody's address that lets others read what is written from there. `BadInput`."""
    if new.password is not None:
        raise BadInput(
            "password",
            "Administrators of the installation alone set a password for somebody else: leave it out, and send an invitation "
            "instead, with which they choose their own.",
        )
    if new.email and new.phone:
        raise BadInput(
            "email",
            "Managers register somebody by a phone number or by an e-mail address, not by both, for nobody has proved that "
            "both are theirs: leave one out, or ask an administrator of the installation.",
        )


def _check_plan(session: Session, code: str) -> None:
    usual = current_settings().default_plan
    ranks = {row.code: row.rank for row in session.execute(select(Plan.code, Plan.rank).where(Plan.code.in_([code, usual])))}
    if ranks[code] > ranks.get(usual, 0):
        raise NotAllowed(f"Administrators of the installation put people on a plan above {usual}: leave it out.")


def _hashed(password: str) -> str:
    if not passwords.MIN_CHARS <= len(password) <= passwords.MAX_CHARS:
        raise BadInput("password", f"A password needs {passwords.MIN_CHARS} to {passwords.MAX_CHARS} characters.")
    return passwords.hash_password(password)


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(values)
    if "full_name" in found:
        found["full_name"] = " ".join(bare(found["full_name"]).split())[:NAME_CHARS]
    if found.get("time_zone") is not None:
        found["time_zone"] = organizations.checked_time_zone(found["time_zone"])
    if found.get("email") is not None:
        found["email"] = people.normal_email(found["email"])
    if "preferences" in found:
        _check_preferences(found["preferences"])
    return found


def _check_preferences(value: object, depth: int = 1) -> None:
    """That they can be stored and given again as they are. `BadInput`."""
    if depth > PREFERENCES_DEEPEST:
        raise BadInput("preferences", f"Preferences are nested at most {PREFERENCES_DEEPEST} deep.")
    if isinstance(value, str) and clean(value) != value:
        raise BadInput("preferences", "A text in the preferences has control characters: leave them out.")
    if isinstance(value, Mapping):
        for name, each in value.items():
            _check_preferences(name, depth)
            _check_preferences(each, depth + 1)
    elif isinstance(value, list):
        for each in value:
            _check_preferences(each, depth + 1)
    if depth == 1 and len(repr(value)) > PREFERENCES_CHARS:
        raise BadInput("preferences", f"Preferences have at most {PREFERENCES_CHARS:,} characters.")


def _put(session: Session, actor: Actor, person: Person, wanted: Mapping[str, Any]) -> list[str]:
    """Set what differs; the names of what did, but for what has an entry of its own in the audit trail. Names and addresses
    stay out of that: it is kept when they are erased."""
    told: list[str] = []
    for name in ("full_name", "time_zone", "email", "preferences"):
        if name not in wanted or wanted[name] == getattr(person, name):
            continue
        if name == "email":
            _check_email(session, person, wanted["email"])
        told.append(name)
        setattr(person, name, wanted[name])
    active = wanted.get("active")
    if active is not None and active != person.active:
        if not active and person.id == actor.person_id:
            raise BadInput("active", "You cannot deactivate yourself: ask another administrator.")
        person.active = active
        person.session_key = uuid.uuid4().hex
        action = "person.activate" if active else "person.deactivate"
        organizations.audit(session, actor, action, f"person:{person.id}", person.organization_id)
    return told


def _check_email(session: Session, person: Person, email: str | None) -> None:
    if email is None:
        known = session.scalars(select(Identity.medium).where(Identity.person_id == person.id)).all()
        if "sms" not in known:
            raise BadInput("email", "A person needs a phone number or an e-mail address.")
        return
    if session.scalar(select(Person.id).where(Person.email == email, Person.id != person.id)):
        raise Conflict(_TAKEN)
