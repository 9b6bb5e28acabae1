"""Prompt templates: texts with named variables, and their versions."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, Text, UniqueConstraint, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from webapp.extensions import Base, UTCDateTime
from webapp.models.columns import count, created, json_object, line, one_of, organization_ref, person_ref, uuid_key, word


class TemplateScope(StrEnum):
    """Who may use a template: its maker, the people of its organization, or everybody."""

    PERSONAL = "personal"
    ORGANIZATION = "organization"
    PUBLIC = "public"


class Template(Base):
    """A prompt with named variables. What it says is in its versions; `version` is the current one's number."""

    __tablename__ = "template"
    __table_args__ = (
        CheckConstraint(one_of("scope", TemplateScope), name="scope"),
        Index(None, "person_id", "id"),
        Index(None, "organization_id", "scope", "id"),
        Index(None, "scope", "id"),
    )

    id: Mapped[uuid_key]
    person_id: Mapped[person_ref]
    """Who made it."""
    organization_id: Mapped[organization_ref]
    scope: Mapped[word]
    name: Mapped[line]
    description: Mapped[str] = mapped_column(Text, default="")
    category: Mapped[word] = mapped_column(default="general")
    operation: Mapped[word] = mapped_column(default="chat")
    version: Mapped[int] = mapped_column(default=1)
    used: Mapped[count] = mapped_column(default=0)
    created_at: Mapped[created]
    updated_at: Mapped[created]
    archived_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """Since when it is in no list and cannot be used."""


class TemplateVersion(Base):
    """What a template said from one change to the next. Never changed; requests made with it name it."""

    __tablename__ = "template_version"
    __table_args__ = (UniqueConstraint("template_id", "number", name="template_version_number"),)

    id: Mapped[uuid_key]
    template_id: Mapped[uuid.UUID] = mapped_column(Uuid, ForeignKey("template.id"))
    number: Mapped[int]
    """From 1."""
    text: Mapped[str] = mapped_column(Text)
    """The prompt with `{{names}}` in it."""
    variables: Mapped[list[Any]] = mapped_column(JSON, default=list)
    """Each {"name", "description", "default": text or null}; null makes it required."""
    parameters: Mapped[json_object] = mapped_column(default=dict)
    """Of the requests made with it, such as `model`."""
    person_id: Mapped[person_ref]
    """Who wrote it."""
    created_at: Mapped[created]
