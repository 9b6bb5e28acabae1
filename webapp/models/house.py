"""What the operator keeps an eye on: errors, the audit trail, provider settings."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import Boolean, ForeignKey, Index, String, Text, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from webapp.extensions import Base, UTCDateTime
from webapp.models.columns import created, json_object, line, long_text, uuid_key, word


class ErrorLog(Base):
    """Something went wrong: the truth, for the operator. For administrators only: its detail may be a
    vendor's or a plugin's own words, which may quote what a person wrote."""

    __tablename__ = "error_log"
    __table_args__ = (Index(None, "resolved_at", "id"), Index(None, "request_id"))

    id: Mapped[uuid_key]
    kind: Mapped[word]
    message: Mapped[long_text]
    detail: Mapped[str | None] = mapped_column(Text)
    """The vendor's own words, or a stack trace."""
    person_id: Mapped[uuid.UUID | None] = mapped_column(Uuid, ForeignKey("person.id"))
    request_id: Mapped[uuid.UUID | None] = mapped_column(Uuid, ForeignKey("request.id"))
    created_at: Mapped[created]
    resolved_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    resolution: Mapped[str | None] = mapped_column(Text)


class AuditEntry(Base):
    """An administrative act: who did what to whom. Appended, never changed."""

    __tablename__ = "audit_entry"
    __table_args__ = (Index(None, "subject", "id"),)

    id: Mapped[uuid_key]
    actor_id: Mapped[uuid.UUID | None] = mapped_column(Uuid, ForeignKey("person.id"))
    """None for the command line and the product itself; `actor` then says which."""
    actor: Mapped[line]
    action: Mapped[word]
    subject: Mapped[line]
    detail: Mapped[json_object] = mapped_column(default=dict)
    created_at: Mapped[created]


class ProviderSetting(Base):
    """What an administrator set for a provider, over what the environment says."""

    __tablename__ = "provider_setting"

    provider: Mapped[str] = mapped_column(String(40), primary_key=True)
    enabled: Mapped[bool] = mapped_column(Boolean, default=True)
    default_model: Mapped[str | None] = mapped_column(String(120))
    values: Mapped[json_object] = mapped_column(default=dict)
    updated_at: Mapped[created]
