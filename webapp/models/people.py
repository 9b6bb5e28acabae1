"""Organizations, plans, persons, and how persons are recognised."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Boolean, CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint, Uuid, true
from sqlalchemy.orm import Mapped, mapped_column, relationship

from webapp.extensions import Base, UTCDateTime
from webapp.models.columns import (
    count,
    created,
    json_object,
    line,
    moment,
    one_of,
    organization_ref,
    person_ref,
    plan_ref,
    stored_limits,
    uuid_key,
    word,
)


class PersonRole(StrEnum):
    """What a person may see: their own things, their organization's, or everything."""

    MEMBER = "member"
    MANAGER = "manager"
    ADMIN = "admin"


class Organization(Base):
    """Who pays. Every installation has one, made by the first migration."""

    __tablename__ = "organization"
    __table_args__ = (Index(None, "plan_code"),)

    id: Mapped[uuid_key]
    name: Mapped[line]
    time_zone: Mapped[line]
    plan_code: Mapped[str | None] = mapped_column(String(40), ForeignKey("plan.code"))
    """A plan for all its people: each has this or their own, whichever is higher."""
    limits: Mapped[stored_limits]
    """Its own limits, for all its people together or for each (`webapp.contracts.limits.StoredLimit`)."""
    preferences: Mapped[json_object] = mapped_column(default=dict, server_default="{}")
    """`alert_percents`: at how many percent of its limits its managers are told."""
    active: Mapped[bool] = mapped_column(Boolean, default=True, server_default=true())
    version: Mapped[int] = mapped_column(default=0, server_default="0")
    """Goes up with every change, so that of two people who change it at once the second is told."""
    created_at: Mapped[created]


class Membership(Base):
    """A person's place in an organization. `Person.organization_id` says in which of theirs they are working."""

    __tablename__ = "membership"
    __table_args__ = (
        CheckConstraint(one_of("role", PersonRole), name="role"),
        Index(None, "organization_id", "person_id"),
    )

    person_id: Mapped[uuid.UUID] = mapped_column(Uuid, ForeignKey("person.id"), primary_key=True)
    organization_id: Mapped[uuid.UUID] = mapped_column(Uuid, ForeignKey("organization.id"), primary_key=True)
    role: Mapped[word] = mapped_column(default=PersonRole.MEMBER)
    """What they may do there. `Person.role` is about the whole installation: admin, or not."""
    limits: Mapped[stored_limits]
    """Limits of this person in this organization."""
    created_at: Mapped[created]


class Invitation(Base):
    """A place in an organization that waits for somebody. Only the digest of its link is kept."""

    __tablename__ = "invitation"
    __table_args__ = (
        UniqueConstraint("digest"),
        CheckConstraint(one_of("role", PersonRole), name="role"),
        Index(None, "organization_id", "id"),
    )

    id: Mapped[uuid_key]
    organization_id: Mapped[organization_ref]
    medium: Mapped[word]
    """email or sms."""
    address: Mapped[line]
    role: Mapped[word] = mapped_column(default=PersonRole.MEMBER)
    digest: Mapped[str] = mapped_column(String(64))
    invited_by: Mapped[uuid.UUID | None] = mapped_column(Uuid, ForeignKey("person.id"))
    created_at: Mapped[created]
    expires_at: Mapped[moment]
    accepted_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    accepted_by: Mapped[uuid.UUID | None] = mapped_column(Uuid, ForeignKey("person.id"))
    revoked_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


class Plan(Base):
    """What a person is entitled to. `limits` maps limit names (`messages`, `tokens`, `cost_microusd`…) to numbers per month;
    None means unlimited, an absent name means that the plan says nothing about it."""

    __tablename__ = "plan"
    __table_args__ = (
        CheckConstraint("max_output_tokens > 0", name="output_positive"),
        CheckConstraint("context_tokens >= 0", name="context_not_negative"),
    )

    code: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[line]
    rank: Mapped[int]
    priority: Mapped[int]
    limits: Mapped[json_object]
    max_output_tokens: Mapped[int]
    """The longest answer, in tokens: part of what every request holds."""
    context_tokens: Mapped[int]
    """How much of the earlier conversation goes along, in tokens."""
    more_limits: Mapped[stored_limits]
    """Limits beyond those a month, for each person on the plan."""
    features: Mapped[list[str]] = mapped_column(JSON, default=list, server_default="[]")
    """What the plan includes: `PLAN_FEATURES`."""
    version: Mapped[int] = mapped_column(default=0, server_default="0")


PLAN_FEATURES = {
    "urgent": "may mark requests as urgent",
    "batch": "may upload batches",
}
"""What plans may include, and how people are told about it."""


class PlanChange(Base):
    """A change of a person's or an organization's plan, with its reason."""

    __tablename__ = "plan_change"
    __table_args__ = (Index(None, "person_id", "id"), Index(None, "organization_id", "id"))

    id: Mapped[uuid_key]
    person_id: Mapped[uuid.UUID | None] = mapped_column(Uuid, ForeignKey("person.id"))
    """None for the plan of the whole organization."""
    organization_id: Mapped[organization_ref]
    before: Mapped[str] = mapped_column(String(40))
    """'' for an organization that had none; `after` likewise."""
    after: Mapped[str] = mapped_column(String(40))
    reason: Mapped[str] = mapped_column(Text)
    actor: Mapped[line]
    restarted: Mapped[bool] = mapped_column(Boolean)
    """Whether the month's counts were started afresh."""
    created_at: Mapped[created]


class Person(Base):
    """Somebody, by whichever channel they come."""

    __tablename__ = "person"
    __table_args__ = (
        UniqueConstraint("email"),
        CheckConstraint(one_of("role", PersonRole), name="role"),
        Index(None, "organization_id", "id"),
        Index(None, "plan_code", "id"),
    )

    id: Mapped[uuid_key]
    organization_id: Mapped[organization_ref]
    plan_code: Mapped[plan_ref]
    email: Mapped[str | None] = mapped_column(String(254))
    password_hash: Mapped[str | None] = mapped_column(String(255))
    session_key: Mapped[str] = mapped_column(String(32), default=lambda: uuid.uuid4().hex)
    """Part of every sign-in cookie: a new one ends all sessions."""
    full_name: Mapped[line] = mapped_column(default="")
    time_zone: Mapped[str | None] = mapped_column(String(64))
    role: Mapped[word] = mapped_column(default=PersonRole.MEMBER)
    active: Mapped[bool] = mapped_column(Boolean, default=True)
    preferences: Mapped[json_object] = mapped_column(default=dict)
    requests_total: Mapped[count] = mapped_column(default=0)
    last_active_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    created_at: Mapped[created]

    organization: Mapped[Organization] = relationship()
    plan: Mapped[Plan] = relationship()
    identities: Mapped[list[Identity]] = relationship(back_populates="person")

    # What Flask-Login asks of a user.
    is_authenticated = True
    is_anonymous = False

    @property
    def is_active(self) -> bool:
        return self.active

    def get_id(self) -> str:
        return f"{self.id}:{self.session_key}"

    @property
    def is_admin(self) -> bool:
        return self.role == PersonRole.ADMIN


class Identity(Base):
    """An address by which a person is recognised, and whether it may be written to. The address is unique in its medium."""

    __tablename__ = "identity"
    __table_args__ = (
        UniqueConstraint("medium", "address", name="identity_address"),
        Index(None, "person_id"),
    )

    id: Mapped[uuid_key]
    person_id: Mapped[person_ref]
    medium: Mapped[word]
    address: Mapped[line]
    opted_out_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    consent_word: Mapped[str | None] = mapped_column(String(40))
    """The word by which the address last opted out or in."""
    consent_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    created_at: Mapped[created]

    person: Mapped[Person] = relationship(back_populates="identities")


class ApiToken(Base):
    """A personal token for programs. Only its SHA-256 is kept: it has 256 bits of its own, so a slow hash adds nothing."""

    __tablename__ = "api_token"
    __table_args__ = (UniqueConstraint("digest"), Index(None, "person_id"))

    id: Mapped[uuid_key]
    person_id: Mapped[person_ref]
    name: Mapped[line]
    prefix: Mapped[str] = mapped_column(String(12))
    digest: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[Any]] = mapped_column(JSON)
    organization_id: Mapped[uuid.UUID | None] = mapped_column(Uuid, ForeignKey("organization.id"))
    """In which organization it works; None for the one the person is working in."""
    limits: Mapped[stored_limits]
    """Limits of this token alone."""
    created_at: Mapped[created]
    expires_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UTCDateTime)

    person: Mapped[Person] = relationship()
