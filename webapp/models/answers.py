"""Answers kept for repeated API calls."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import JSON, ForeignKey, Index, LargeBinary, String, UniqueConstraint, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from webapp.extensions import Base, UTCDateTime
from webapp.models.columns import created, moment, uuid_key


class ApiAnswer(Base):
    """What a call with an `Idempotency-Key` came to, so that the same call gets the same answer instead of a second effect."""

    __tablename__ = "api_answer"
    __table_args__ = (UniqueConstraint("person_id", "key", name="api_answer_key"), Index(None, "expires_at"))

    id: Mapped[uuid_key]
    person_id: Mapped[uuid.UUID] = mapped_column(Uuid, ForeignKey("person.id"))
    key: Mapped[str] = mapped_column(String(255))
    digest: Mapped[str] = mapped_column(String(64))
    """SHA-256 of method, path and body."""
    status: Mapped[int | None]
    """HTTP status; None while the first call runs."""
    headers: Mapped[list[list[str]]] = mapped_column(JSON, default=list)
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    running_until: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """When a call that runs is taken for lost, prolonged while it lives."""
    created_at: Mapped[created]
    expires_at: Mapped[moment]
