"""Outgoing webhooks: where events go, and each one's way there."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Boolean, CheckConstraint, ForeignKey, Index, String, Text, Uuid, text, true
from sqlalchemy.orm import Mapped, mapped_column

from webapp.extensions import Base, UTCDateTime
from webapp.models.columns import created, line, one_of, organization_ref, uuid_key, word


class WebhookEndpoint(Base):
    """An organization's address for events."""

    __tablename__ = "webhook_endpoint"
    __table_args__ = (Index(None, "organization_id", "id"),)

    id: Mapped[uuid_key]
    organization_id: Mapped[organization_ref]
    url: Mapped[str] = mapped_column(String(2000))
    description: Mapped[line] = mapped_column(default="")
    events: Mapped[list[str]] = mapped_column(JSON)
    """Names of the events it wants; empty: all."""
    secret: Mapped[str] = mapped_column(Text)
    """The signing secret, sealed (`webapp.vault`)."""
    secret_before: Mapped[str | None] = mapped_column(Text)
    """The secret before the last change, sealed: messages carry both signatures until `secret_before_until`."""
    secret_before_until: Mapped[datetime | None] = mapped_column(UTCDateTime)
    active: Mapped[bool] = mapped_column(Boolean, default=True, server_default=true())
    disabled_reason: Mapped[str | None] = mapped_column(Text)
    """Why it was switched off, where that was not done by hand."""
    failing_since: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """Since when every message to it has failed; None after one that arrived."""
    version: Mapped[int] = mapped_column(default=0, server_default="0")
    created_at: Mapped[created]
    updated_at: Mapped[created]


class WebhookState(StrEnum):
    """Where a message to an endpoint is. The last three are ends."""

    PENDING = "pending"
    SENDING = "sending"
    DELIVERED = "delivered"
    FAILED = "failed"
    CANCELLED = "cancelled"


_OPEN = "state IN ('pending', 'sending')"


class WebhookDelivery(Base):
    """An event on its way to an endpoint. Its id is the message's, the same at each try."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        CheckConstraint(one_of("state", WebhookState), name="state"),
        Index(None, "endpoint_id", "id"),
        Index(None, "created_at"),
        Index("ix_webhook_delivery_open", "next_try_at", sqlite_where=text(_OPEN), postgresql_where=text(_OPEN)),
    )

    id: Mapped[uuid_key]
    endpoint_id: Mapped[uuid.UUID] = mapped_column(Uuid, ForeignKey("webhook_endpoint.id"))
    event: Mapped[word]
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)
    """What is sent: `type`, `timestamp`, `data`."""
    state: Mapped[word] = mapped_column(default=WebhookState.PENDING)
    attempts: Mapped[int] = mapped_column(default=0)
    next_try_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    claimed_until: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """While it is being sent: when whoever sends it is taken for dead."""
    log: Mapped[list[Any]] = mapped_column(JSON, default=list)
    """Each try: {"at": ISO 8601, "status": HTTP status or null, "ms": duration, "words": what went wrong}."""
    created_at: Mapped[created]
    ended_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


def open_deliveries() -> str:
    """The condition of `ix_webhook_delivery_open`, to be added as text to a query that is to use it."""
    return _OPEN
