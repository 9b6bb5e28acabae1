"""Batches of requests, requests that were set aside, and what happened by the hour."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Index, PrimaryKeyConstraint, String, Text, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from webapp.extensions import Base, UTCDateTime
from webapp.models.columns import (
    count,
    created,
    json_object,
    line,
    long_text,
    microusd,
    one_of,
    organization_ref,
    person_ref,
    uuid_key,
    word,
)


class LetterState(StrEnum):
    """What became of a request that was set aside."""

    OPEN = "open"
    REPLAYED = "replayed"
    DISMISSED = "dismissed"


REASON_OF = {
    "provider_timeout": "vendor",
    "provider_rate_limited": "vendor",
    "provider_unavailable": "vendor",
    "provider_malformed": "vendor",
    "provider_error": "vendor",
    "provider_credentials": "account",
    "provider_out_of_credit": "account",
    "worker_lost": "worker",
    "expired": "queue",
    "internal": "internal",
    "picture_not_stored": "internal",
}
"""Error code of a request -> the class of what went wrong. A code that is not here is about the request itself: the same
request would fail again."""

REASONS = {
    "vendor": "The models that may answer did not.",
    "account": "A vendor's key or account was at fault.",
    "worker": "It killed the process that worked on it.",
    "queue": "It waited in the queue for too long.",
    "internal": "Something of ours failed.",
}
"""Each class of what went wrong, and what it means."""


class DeadLetter(Base):
    """A request that failed for no fault of whoever asked, after everything was tried. It can be put back on the road."""

    __tablename__ = "dead_letter"
    __table_args__ = (
        CheckConstraint(one_of("state", LetterState), name="state"),
        Index(None, "state", "reason", "request_id"),
    )

    request_id: Mapped[uuid.UUID] = mapped_column(Uuid, ForeignKey("request.id"), primary_key=True)
    reason: Mapped[word]
    """The class of what went wrong, one of `REASONS`."""
    error_code: Mapped[word]
    last_error: Mapped[long_text]
    """For administrators: may be a vendor's or a plugin's own words."""
    attempts: Mapped[int]
    state: Mapped[word] = mapped_column(default=LetterState.OPEN)
    replays: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[created]
    acted_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    acted_by: Mapped[str | None] = mapped_column(String(255))


class BatchStatus(StrEnum):
    """Where a batch is. The last two are ends."""

    READY = "ready"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    COMPLETED = "completed"


class Batch(Base):
    """Many prompts from one file, each a request of the low queue."""

    __tablename__ = "batch"
    __table_args__ = (
        CheckConstraint(one_of("status", BatchStatus), name="status"),
        Index(None, "person_id", "id"),
        Index(None, "organization_id", "id"),
        Index(None, "status", "id"),
    )

    id: Mapped[uuid_key]
    person_id: Mapped[person_ref]
    organization_id: Mapped[organization_ref]
    name: Mapped[line]
    operation: Mapped[word]
    template: Mapped[str | None] = mapped_column(Text)
    """The prompt with {{names}} in it; None where every row brings its own."""
    parameters: Mapped[json_object] = mapped_column(default=dict)
    status: Mapped[word] = mapped_column(default=BatchStatus.READY)
    total: Mapped[int]
    likely_microusd: Mapped[microusd]
    """What it will probably cost, as it was shown before it was confirmed."""
    most_microusd: Mapped[microusd]
    pause_reason: Mapped[str | None] = mapped_column(Text)
    """Why it is paused, where it was not by hand."""
    resume_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """When it goes on by itself."""
    created_at: Mapped[created]
    confirmed_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


class RowState(StrEnum):
    """Where a row of a batch is."""

    WAITING = "waiting"
    ADMITTED = "admitted"
    REFUSED = "refused"


class BatchRow(Base):
    """A row of a batch's file. Its request, once it is admitted, says everything else."""

    __tablename__ = "batch_row"
    __table_args__ = (
        PrimaryKeyConstraint("batch_id", "number"),
        CheckConstraint(one_of("state", RowState), name="state"),
        Index(None, "batch_id", "state", "number"),
    )

    batch_id: Mapped[uuid.UUID] = mapped_column(Uuid, ForeignKey("batch.id"))
    number: Mapped[int]
    """Counted from 1, as in the file, without its header."""
    prompt: Mapped[long_text]
    """What is asked, the template filled in."""
    given: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    """The row's own columns, for the result file."""
    state: Mapped[word] = mapped_column(default=RowState.WAITING)
    request_id: Mapped[uuid.UUID | None] = mapped_column(Uuid, ForeignKey("request.id"))
    error: Mapped[str | None] = mapped_column(Text)


class HourlyStat(Base):
    """What the ledger holds of one hour, summed up."""

    __tablename__ = "hourly_stat"
    __table_args__ = (
        PrimaryKeyConstraint("hour", "organization_id", "channel", "operation", "provider", "model", "payer"),
        Index(None, "organization_id", "hour"),
    )

    hour: Mapped[datetime] = mapped_column(UTCDateTime)
    """Its beginning, in UTC."""
    organization_id: Mapped[organization_ref]
    channel: Mapped[word]
    operation: Mapped[word]
    provider: Mapped[word]
    model: Mapped[str] = mapped_column(String(120))
    payer: Mapped[word]
    calls: Mapped[count]
    requests: Mapped[count]
    input_tokens: Mapped[count]
    output_tokens: Mapped[count]
    pictures: Mapped[count]
    cost_microusd: Mapped[int] = mapped_column(BigInteger)
    credits_millicredits: Mapped[count]
