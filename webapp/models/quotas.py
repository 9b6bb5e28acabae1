"""What is used and held of each limit."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Index, Integer, PrimaryKeyConstraint, String, Uuid, text
from sqlalchemy.orm import Mapped, mapped_column

from webapp.contracts.limits import Dimension, Window
from webapp.extensions import Base, UTCDateTime
from webapp.models.columns import count, created, line, one_of, uuid_key


class LimitCounter(Base):
    """What a subject has used, and what running requests may still use, of one limit in one window."""

    __tablename__ = "limit_counter"
    __table_args__ = (
        PrimaryKeyConstraint("subject", "name", "period", "starts_at"),
        CheckConstraint(one_of("dimension", Dimension), name="dimension"),
        CheckConstraint(one_of("period", Window), name="period"),
        CheckConstraint("used >= 0", name="used_not_negative"),
        CheckConstraint("held >= 0", name="held_not_negative"),
    )

    subject: Mapped[str] = mapped_column(String(80))
    name: Mapped[str] = mapped_column(String(80))
    period: Mapped[str] = mapped_column(String(10))
    starts_at: Mapped[datetime] = mapped_column(UTCDateTime)
    dimension: Mapped[str] = mapped_column(String(10))
    maximum: Mapped[count]
    """The limit as it stood when it was last held; kept so that lists can show it without asking a policy."""
    used: Mapped[count]
    held: Mapped[count]
    noticed_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """When the person was told that it is full: once per window."""
    warned_percent: Mapped[int] = mapped_column(default=0, server_default="0")
    """The highest percentage at which people were told in this window."""


class CounterChange(Base):
    """What was done to a counter's `used` by other than a request: a month that starts afresh, a new limit that begins with
    what was used before it. With these, a counter is the sum of its receipts."""

    __tablename__ = "counter_change"
    __table_args__ = (Index(None, "subject", "name", "period", "starts_at"),)

    id: Mapped[uuid_key]
    subject: Mapped[str] = mapped_column(String(80))
    name: Mapped[str] = mapped_column(String(80))
    period: Mapped[str] = mapped_column(String(10))
    starts_at: Mapped[datetime] = mapped_column(UTCDateTime)
    amount: Mapped[count]
    reason: Mapped[line]
    actor: Mapped[line]
    created_at: Mapped[created]


class Hold(Base):
    """What one running request may still use of one limit. Every hold ends settled or given back, and stays as the receipt of
    it: what was held, what was used, who ended it and why."""

    __tablename__ = "hold"
    __table_args__ = (
        CheckConstraint("amount >= 0", name="amount_not_negative"),
        CheckConstraint("request_id IS NOT NULL OR expires_at IS NOT NULL", name="owner"),
        Index("ix_hold_request", "request_id"),
        # The sweeper asks for the few that have no request to end them.
        Index(
            "ix_hold_expiry",
            "expires_at",
            sqlite_where=text("settled_at IS NULL AND expires_at IS NOT NULL"),
            postgresql_where=text("settled_at IS NULL AND expires_at IS NOT NULL"),
        ),
    )

    # A hold is written with every request and is never named outside, so a small number is enough of a key.
    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    # No foreign key, which the database would check for each of a request's holds: they are written in the transaction that
    # writes the request, or while its row is claimed, and requests are never deleted.
    request_id: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    """Its owner, whose end ends it. What the house holds for itself has none, and expires."""
    expires_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    subject: Mapped[str] = mapped_column(String(80))
    name: Mapped[str] = mapped_column(String(80))
    period: Mapped[str] = mapped_column(String(10))
    starts_at: Mapped[datetime] = mapped_column(UTCDateTime)
    dimension: Mapped[str] = mapped_column(String(10))
    amount: Mapped[count]
    provider: Mapped[str | None] = mapped_column(String(40))
    """Where set, only what was used at this provider counts."""
    used: Mapped[count] = mapped_column(default=0, server_default="0")
    settled_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    settled_by: Mapped[str | None] = mapped_column(String(40))
    """Which part of the product ended it: `execution`, `sweep`, `cancel`…"""
    why: Mapped[str | None] = mapped_column(String(40))
    """The request's status or error code at its end."""
