"""Persons: make them, find them, change their plan, let them sign in."""

from __future__ import annotations

import hashlib
import re
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import phonenumbers
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from webapp.contracts.errors import BadInput, Conflict, NotFound
from webapp.contracts.texts import bare, clean
from webapp.extensions import current_settings, db, now, writing_session
from webapp.models import ApiToken, AuditEntry, Identity, Membership, Organization, Person, PersonRole, Plan
from webapp.services import passwords

ADMIN_PLAN = "enterprise"
# Stricter than the library, which ignores what it does not understand at the end.
_PHONE = re.compile(r"\+[0-9][0-9 ()./-]{4,30}")
TOKEN_PREFIX = "sh_"  # noqa: S105  (a mark, not a secret)
SCOPES = ("chat", "read", "write", "admin", "sms")


def normal_phone(text: str) -> str:
    """A phone number in E.164. `BadInput` unless it is one, written with its country code."""
    if not _PHONE.fullmatch(text.strip()):
        raise BadInput("phone", "A phone number is written with its country code, such as +15005550006, and nothing else.")
    try:
        number = phonenumbers.parse(text.strip(), None)
    except phonenumbers.NumberParseException as exc:
        raise BadInput("phone", "A phone number needs its country code, such as +15005550006.") from exc
    if not phonenumbers.is_possible_number(number):
        raise BadInput("phone", "This is not a possible phone number: check the number of digits.")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def normal_email(text: str) -> str:
    """An e-mail address in lower case. `BadInput` unless it looks like one."""
    text = text.strip().lower()
    name, _, domain = text.rpartition("@")
    if not name or "." not in domain.strip(".") or len(text) > 254 or any(c.isspace() for c in text):
        raise BadInput("email", "This is not an e-mail address.")
    return text


def add(
    session: Session,
    *,
    email: str | None = None,
    phone: str | None = None,
    password: str | None = None,
    full_name: str = "",
    role: PersonRole = PersonRole.MEMBER,
    plan: str | None = None,
    organization_id: uuid.UUID | None = None,
) -> Person:
    """Add a person to an organization (None: the default one), in the caller's transaction. `role` admin makes an administrator
    of the installation, manager one of the organization. `BadInput` or `Conflict` say what is wrong."""
    if not email and not phone:
        raise BadInput("phone", "A person needs a phone number or an e-mail address.")
    email = normal_email(email) if email else None
    phone = normal_phone(phone) if phone else None
    if password is not None and not passwords.MIN_CHARS <= len(password) <= passwords.MAX_CHARS:
        raise BadInput("password", f"A password needs {passwords.MIN_CHARS} to {passwords.MAX_CHARS} characters.")
    if email and session.scalar(select(Person.id).where(Person.email == email)):
        raise Conflict(f"There is a person with the e-mail {email} already.")
    if phone:
        known = session.scalar(select(Person).join(Identity).where(Identity.medium == "sms", Identity.address == phone))
        if known is not None and not known.active:
            raise Conflict(f"This number belongs to an inactive person: `switchhook person activate {phone}` lets them in.")
        if known is not None:
            raise Conflict("There is a person with this phone number already.")
    code = plan or current_settings().default_plan
    if session.get(Plan, code) is None:
        raise BadInput("plan", f"There is no plan {code!r}: {', '.join(plan_codes(session))}.")
    person = Person(
        organization_id=organization_id or default_organization(session),
        plan_code=code,
        email=email,
        password_hash=passwords.hash_password(password) if password else None,
        full_name=" ".join(bare(full_name).split())[:255],
        role=PersonRole.ADMIN if role == PersonRole.ADMIN else PersonRole.MEMBER,
    )
    session.add(person)
    session.flush()
    session.add(Membership(person_id=person.id, organization_id=person.organization_id, role=role))
    if phone:
        session.add(Identity(person_id=person.id, medium="sms", address=phone))
    return person


def default_organization(session: Session) -> uuid.UUID:
    """The organization that everybody is in who is in no other: the first one."""
    return session.execute(select(Organization.id).order_by(Organization.id).limit(1)).scalar_one()


def plan_codes(session: Session) -> list[str]:
    """Codes of all plans, lowest first."""
    return list(session.scalars(select(Plan.code).order_by(Plan.rank)))


def find(session: Session, who: str) -> Person:
    """The person with this e-mail, phone number or id; `NotFound` if there is none."""
    who = who.strip()
    person: Person | None = None
    if "@" in who:
        person = session.scalar(select(Person).where(Person.email == who.lower()))
    elif who.startswith("+"):
        person = session.scalar(
            select(Person).join(Identity).where(Identity.medium == "sms", Identity.address == normal_phone(who))
        )
    else:
        try:
            person = session.get(Person, uuid.UUID(who))
        except ValueError:
            person = None
    if person is None:
        raise NotFound(f"There is no person {who!r}: give an e-mail, a phone number with country code, or an id.")
    return person


def sign_in(who: str, password: str) -> Person | None:
    """The active person with this e-mail (or phone number) and password, or None: it does not tell which of them was wrong."""
    who = clean(who).strip()
    query = select(Person).where(Person.email == who.lower())
    if who.startswith("+"):
        query = select(Person).join(Identity).where(Identity.medium == "sms", Identity.address == _digits(who))
    person = db.session.scalar(query)
    right = passwords.matches(person.password_hash if person else None, password)
    return person if right and person is not None and person.active else None


def _digits(phone: str) -> str:
    try:
        return normal_phone(phone)
    except BadInput:
        return ""


def set_password(person_id: uuid.UUID, password: str, actor: str) -> None:
    """Give a person a new password and end all their sessions."""
    if not passwords.MIN_CHARS <= len(password) <= passwords.MAX_CHARS:
        raise BadInput("password", f"A password needs {passwords.MIN_CHARS} to {passwords.MAX_CHARS} characters.")
    digest = passwords.hash_password(password)
    with writing_session() as session:
        session.execute(update(Person).where(Person.id == person_id).values(password_hash=digest, session_key=uuid.uuid4().hex))
        session.add(AuditEntry(actor=actor, action="person.password", subject=f"person:{person_id}"))


@dataclass(frozen=True, slots=True)
class PersonRow:
    """A line of the list of persons."""

    id: uuid.UUID
    name: str
    email: str
    phones: tuple[str, ...]
    plan: str
    role: str
    active: bool
    requests_total: int
    last_active_at: datetime | None


def rows(after: uuid.UUID | None = None, size: int = 50) -> list[PersonRow]:
    """Persons in order of creation, a page at a time: `after` is the last id of the page before."""
    query = select(Person).order_by(Person.id).limit(size)
    if after is not None:
        query = query.where(Person.id > after)
    persons: Sequence[Person] = db.session.scalars(query).all()
    phones: dict[uuid.UUID, list[str]] = {}
    for person_id, address in db.session.execute(
        select(Identity.person_id, Identity.address).where(Identity.person_id.in_([p.id for p in persons]))
    ):
        phones.setdefault(person_id, []).append(address)
    return [
        PersonRow(
            p.id,
            p.full_name,
            p.email or "",
            tuple(phones.get(p.id, ())),
            p.plan_code,
            p.role,
            p.active,
            p.requests_total,
            p.last_active_at,
        )
        for p in persons
    ]


def total() -> int:
    """How many persons there are."""
    return db.session.scalar(select(func.count()).select_from(Person)) or 0


def make_token(
    session: Session,
    person: Person,
    name: str,
    scopes: Sequence[str],
    days: int | None,
    actor: str,
    *,
    organization_id: uuid.UUID | None = None,
    limits: Sequence[Mapping[str, Any]] = (),
    no_later_than: datetime | None = None,
) -> str:
    """A new token in clear, to be shown once: only its hash is kept. `days` is its life, None for no end; it ends at
    `no_later_than` in any case. `limits` are its own, as they are stored; `organization_id` is where it works, None for where
    the person does."""
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise BadInput("scopes", f"There is no scope {unknown[0]!r}: {', '.join(SCOPES)}.")
    name = " ".join(bare(name).split())[:255]
    if not name:
        raise BadInput("name", "A token needs a name, so that you know later what it is for.")
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    ends = [end for end in (now() + timedelta(days=days) if days else None, no_later_than) if end is not None]
    session.add(
        ApiToken(
            person_id=person.id,
            name=name,
            prefix=token[:9],
            digest=token_digest(token),
            scopes=list(scopes),
            organization_id=organization_id,
            limits=[dict(limit) for limit in limits],
            expires_at=min(ends, default=None),
        )
    )
    session.add(
        AuditEntry(
            actor=actor,
            actor_id=person.id if actor == f"person:{person.id}" else None,
            action="token.create",
            subject=f"person:{person.id}",
            detail={"name": name, "scopes": list(scopes)} | ({"limits": [dict(limit) for limit in limits]} if limits else {}),
        )
    )
    return token


def token_digest(token: str) -> str:
    """What is stored and looked up of a token."""
    return hashlib.sha256(token.encode()).hexdigest()
