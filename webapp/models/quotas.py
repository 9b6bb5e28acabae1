"""What is used and held of each limit."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Index, Integer, PrimaryKeyConstraint, String
from sqlalchemy.orm import Mapped, mapped_column

from webapp.contracts.limits import Dimension, Window
from webapp.extensions import Base, UTCDateTime
from webapp.models.columns import count, one_of, request_ref


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


class Hold(Base):
    """What one running request may still use of one limit. Every hold ends settled or given back."""

    __tablename__ = "hold"
    __table_args__ = (
        CheckConstraint("amount >= 0", name="amount_not_negative"),
        Index("ix_hold_request", "request_id"),
    )

    # A hold is written with every request and is never named outside, so a small number is enough of a key.
    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    request_id: Mapped[request_ref]
    subject: Mapped[str] = mapped_column(String(80))
    name: Mapped[str] = mapped_column(String(80))
    period: Mapped[str] = mapped_column(String(10))
    starts_at: Mapped[datetime] = mapped_column(UTCDateTime)
    dimension: Mapped[str] = mapped_column(String(10))
    amount: Mapped[count]
    settled_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
