"""Messages in and out, and their receipts."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from webapp.contracts.channels import DeliveryStatus
from webapp.extensions import Base, UTCDateTime
from webapp.models.columns import created, line, microusd, one_of, uuid_key, word


class Direction(StrEnum):
    """Seen from here."""

    IN = "in"
    OUT = "out"


class DeliveryKind(StrEnum):
    """Why a message exists."""

    MESSAGE = "message"
    ANSWER = "answer"
    NOTICE = "notice"
    MANUAL = "manual"


class Delivery(Base):
    """One message to or from the outside world."""

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("channel", "external_id", name="delivery_once_per_vendor_message"),
        CheckConstraint(one_of("status", DeliveryStatus), name="status"),
        CheckConstraint(one_of("direction", Direction), name="direction"),
        CheckConstraint(one_of("kind", DeliveryKind), name="kind"),
        Index(None, "request_id"),
        Index(None, "address", "id"),
        Index("ix_delivery_person", "person_id", "id"),
        Index("ix_delivery_open", "status", "next_try_at"),
    )

    id: Mapped[uuid_key]
    channel: Mapped[word]
    medium: Mapped[word]
    direction: Mapped[word]
    kind: Mapped[word]
    external_id: Mapped[str | None] = mapped_column(String(120))
    """The vendor's id; None until it took the message."""
    request_id: Mapped[uuid.UUID | None] = mapped_column(Uuid, ForeignKey("request.id"))
    person_id: Mapped[uuid.UUID | None] = mapped_column(Uuid, ForeignKey("person.id"))
    address: Mapped[line]
    """The person's address."""
    our_address: Mapped[line] = mapped_column(default="")
    subject: Mapped[str | None] = mapped_column(String(255))
    """For media that have one, such as e-mail."""
    body: Mapped[str] = mapped_column(Text)
    status: Mapped[word]
    error_code: Mapped[str | None] = mapped_column(String(40))
    error_message: Mapped[str | None] = mapped_column(Text)
    segments: Mapped[int | None]
    cost_microusd: Mapped[microusd | None]
    """None until the vendor has told the price."""
    attempts: Mapped[int] = mapped_column(default=0)
    claimed_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    next_try_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    created_at: Mapped[created]
    updated_at: Mapped[created]


class Receipt(Base):
    """What a vendor said about a message, in the order in which it arrived here."""

    __tablename__ = "receipt"
    __table_args__ = (UniqueConstraint("delivery_id", "status", name="receipt_once_per_status"),)

    id: Mapped[uuid_key]
    delivery_id: Mapped[uuid.UUID] = mapped_column(Uuid, ForeignKey("delivery.id"))
    status: Mapped[word]
    error_code: Mapped[str | None] = mapped_column(String(40))
    received_at: Mapped[created]
