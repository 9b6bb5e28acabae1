"""Organizations, plans, persons, and how persons are recognised."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Boolean, CheckConstraint, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from webapp.extensions import Base, UTCDateTime
from webapp.models.columns import (
    count,
    created,
    json_object,
    line,
    one_of,
    organization_ref,
    person_ref,
    plan_ref,
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

    id: Mapped[uuid_key]
    name: Mapped[line]
    time_zone: Mapped[line]
    created_at: Mapped[created]


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


class Person(Base):
    """Somebody, by whichever channel they come."""

    __tablename__ = "person"
    __table_args__ = (
        UniqueConstraint("email"),
        CheckConstraint(one_of("role", PersonRole), name="role"),
        Index(None, "organization_id", "id"),
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
    created_at: Mapped[created]
    expires_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UTCDateTime)

    person: Mapped[Person] = relationship()
