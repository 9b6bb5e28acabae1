"""What an operator does to persons and their tokens from outside the pages. Each function is one act: one transaction with
its entry in the audit trail; listeners hear of it after the commit. `actor` says who did it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from webapp.contracts.errors import BadInput, Conflict, NotFound
from webapp.contracts.events import PersonEvent
from webapp.extensions import db, now, reading, writing_session
from webapp.models import ApiToken, AuditEntry, Person, PersonRole
from webapp.registry import current_registry
from webapp.services import passwords, people, plan_changes
from webapp.services.organizations import Actor

CHANNEL = "operator"
"""What listeners are told as the channel by which a person came."""


@dataclass(frozen=True, slots=True)
class Account:
    """A person after something was done to them. `before` says what they were, where that matters; '' for a new one."""

    id: uuid.UUID
    email: str | None
    plan: str
    role: str
    before: str = ""


def create_person(
    *,
    actor: str,
    email: str | None = None,
    phone: str | None = None,
    password: str | None = None,
    full_name: str = "",
    plan: str | None = None,
) -> Account:
    """Make a person. `BadInput` or `Conflict` say what is wrong."""
    if password is not None and not email:
        raise BadInput("password", "A password needs an e-mail address to sign in with: give one.")
    try:
        with writing_session() as session:
            person = people.add(session, email=email, phone=phone, password=password, full_name=full_name, plan=plan)
            _audit(session, actor, "person.create", person.id, {"plan": person.plan_code})
            made = _account(person)
    except IntegrityError as exc:
        raise Conflict("Somebody made a person with this address at the same moment.") from exc
    _tell_created(person)
    return made


def make_admin(email: str, password: str, actor: str) -> Account:
    """Make an administrator, or make the person with this e-mail one and give them this password.

    All their sessions end; somebody who was switched off is switched on.
    """
    _check_password(password)
    email = people.normal_email(email)
    created = False
    with writing_session() as session:
        person = session.scalar(select(Person).where(Person.email == email))
        before = ""
        if person is None:
            person = people.add(session, email=email, password=password, role=PersonRole.ADMIN, plan=people.ADMIN_PLAN)
            _audit(session, actor, "person.create", person.id, {"role": PersonRole.ADMIN.value})
            created = True
        else:
            before = person.role if person.active else f"{person.role}, inactive"
            person.role, person.active = PersonRole.ADMIN, True
            person.password_hash = passwords.hash_password(password)
            person.session_key = uuid.uuid4().hex
            _audit(session, actor, "person.password", person.id, {})
            if before != PersonRole.ADMIN:
                _audit(session, actor, "person.role", person.id, {"from": before, "to": PersonRole.ADMIN.value})
        made = _account(person, before)
    if created:
        _tell_created(person)
    return made


def change_plan(who: str, plan: str, reason: str, actor: str) -> Account:
    """Put a person on another plan, as `plan_changes` does. The reason is kept; `BadInput` without one."""
    with reading() as connection, Session(bind=connection) as session:
        person = people.find(session, who)
    changed = plan_changes.change_person(person.id, plan, reason, Actor.operator(actor))
    return Account(person.id, person.email, changed.plan, person.role, changed.before)


def set_active(who: str, active: bool, actor: str) -> Account:
    """Let a person in, or shut them out: an inactive one is neither answered nor signed in, and their sessions end."""
    with writing_session() as session:
        person = people.find(session, who)
        if person.active == active:
            raise Conflict(f"This person is {'active' if active else 'inactive'} already.")
        person.active = active
        person.session_key = uuid.uuid4().hex
        _audit(session, actor, "person.activate" if active else "person.deactivate", person.id, {})
        return _account(person)


def create_token(who: str, name: str, scopes: Sequence[str], days: int | None, actor: str) -> str:
    """A new token for a person, in clear: it cannot be read again."""
    with writing_session() as session:
        return people.make_token(session, people.find(session, who), name, scopes, days, actor)


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A line of the list of tokens. `state` is active, expired or revoked."""

    prefix: str
    name: str
    scopes: tuple[str, ...]
    state: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


def tokens_of(who: str) -> list[TokenRow]:
    """All tokens that a person ever had, the latest last."""
    person = people.find(db.session, who)  # type: ignore[arg-type]
    found = db.session.scalars(select(ApiToken).where(ApiToken.person_id == person.id).order_by(ApiToken.id))
    return [TokenRow(t.prefix, t.name, tuple(t.scopes), _state(t), t.created_at, t.expires_at, t.last_used_at) for t in found]


def revoke_token(prefix: str, actor: str) -> str:
    """End the token that begins like this, or is this; returns its name. Revoking it again changes nothing.

    `NotFound` if there is none, `Conflict` if several begin so.
    """
    prefix = prefix.strip()
    shown = prefix[: len(people.TOKEN_PREFIX) + 6]
    if not prefix.startswith(people.TOKEN_PREFIX) or len(shown) < len(people.TOKEN_PREFIX) + 6:
        raise BadInput("prefix", f"Give at least the first {len(people.TOKEN_PREFIX) + 6} characters of the token.")
    query = select(ApiToken).where(ApiToken.prefix == shown)
    if len(prefix) > len(shown):
        query = query.where(ApiToken.digest == people.token_digest(prefix))
    with writing_session() as session:
        found = session.scalars(query).all()
        if not found:
            raise NotFound("There is no such token: `switchhook token list` shows a person's.")
        if len(found) > 1:
            raise Conflict("Several tokens begin like this: give the whole token.")
        token = found[0]
        if token.revoked_at is None:
            token.revoked_at = now()
            _audit(session, actor, "token.revoke", token.person_id, {"name": token.name, "prefix": token.prefix})
        return token.name


def _state(token: ApiToken) -> str:
    if token.revoked_at:
        return "revoked"
    return "expired" if token.expires_at and token.expires_at <= now() else "active"


def _check_password(password: str) -> None:
    if not passwords.MIN_CHARS <= len(password) <= passwords.MAX_CHARS:
        raise BadInput("password", f"A password needs {passwords.MIN_CHARS} to {passwords.MAX_CHARS} characters.")


def _audit(session: Session, actor: str, action: str, person_id: uuid.UUID, detail: dict[str, str]) -> None:
    session.add(AuditEntry(actor=actor, action=action, subject=f"person:{person_id}", detail=detail))


def _account(person: Person, before: str = "") -> Account:
    return Account(person.id, person.email, person.plan_code, str(person.role), before)


def _tell_created(person: Person) -> None:
    event = PersonEvent(str(person.id), str(person.organization_id), CHANNEL, person.plan_code)
    current_registry().emit("person_created", event)
