"""Conversations, requests, attempts, and the ledger."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    ForeignKey,
    Index,
    String,
    Text,
    TextClause,
    UniqueConstraint,
    Uuid,
    false,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from webapp.extensions import Base, UTCDateTime
from webapp.models.columns import (
    count,
    created,
    json_object,
    line,
    long_text,
    microusd,
    moment,
    one_of,
    organization_ref,
    person_ref,
    request_ref,
    uuid_key,
    word,
)


class RequestStatus(StrEnum):
    """Where a request is. The last four are ends."""

    QUEUED = "queued"
    PROCESSING = "processing"
    AWAITING_REVIEW = "awaiting_review"
    COMPLETED = "completed"
    FAILED = "failed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"


ENDED = frozenset({RequestStatus.COMPLETED, RequestStatus.FAILED, RequestStatus.REJECTED, RequestStatus.CANCELLED})


UNFINISHED = "status IN ('queued', 'processing', 'awaiting_review')"


def unfinished() -> TextClause:
    """The condition of `ix_request_unfinished`, to be added to a query that is to use it: SQLite takes a partial index only
    where its own words stand in the query."""
    return text(UNFINISHED)


class Conversation(Base):
    """Requests that belong together; earlier turns go to the model within the plan's budget."""

    __tablename__ = "conversation"
    __table_args__ = (
        Index("ix_conversation_current", "person_id", "active", "last_activity_at"),
        Index("ix_conversation_list", "person_id", "organization_id", "last_activity_at", "id"),
    )

    id: Mapped[uuid_key]
    person_id: Mapped[person_ref]
    organization_id: Mapped[organization_ref]
    title: Mapped[line]
    active: Mapped[bool] = mapped_column(Boolean, default=True)
    created_at: Mapped[created]
    last_activity_at: Mapped[created]


class Request(Base):
    """One thing that somebody asked for, from admission to its settled end. The row is also its queue entry."""

    __tablename__ = "request"
    __table_args__ = (
        CheckConstraint(one_of("status", RequestStatus), name="status"),
        CheckConstraint("rating IS NULL OR rating BETWEEN 1 AND 5", name="rating"),
        CheckConstraint("cost_microusd >= 0", name="cost_not_negative"),
        # Programs ask without a conversation: their requests are not written to this index.
        Index(
            "ix_request_conversation",
            "conversation_id",
            "id",
            sqlite_where=text("conversation_id IS NOT NULL"),
            postgresql_where=text("conversation_id IS NOT NULL"),
        ),
        Index("ix_request_person", "person_id", "id"),
        Index("ix_request_organization", "organization_id", "id"),
        Index(
            "ix_request_batch",
            "batch_id",
            "status",
            sqlite_where=text("batch_id IS NOT NULL"),
            postgresql_where=text("batch_id IS NOT NULL"),
        ),
        # The sweeper asks for unfinished ones only, and those are few whatever the table's size.
        Index(
            "ix_request_unfinished",
            "status",
            "lease_until",
            sqlite_where=text(UNFINISHED),
            postgresql_where=text(UNFINISHED),
        ),
        Index(
            "ix_request_template",
            "template_version_id",
            "id",
            sqlite_where=text("template_version_id IS NOT NULL"),
            postgresql_where=text("template_version_id IS NOT NULL"),
        ),
        UniqueConstraint("person_id", "idempotency_key", name="request_idempotency"),
    )

    id: Mapped[uuid_key]
    person_id: Mapped[person_ref]
    organization_id: Mapped[organization_ref]
    conversation_id: Mapped[uuid.UUID | None] = mapped_column(Uuid, ForeignKey("conversation.id"))
    channel: Mapped[word]
    """The medium it came by: sms, web, api."""
    operation: Mapped[word]
    category: Mapped[str | None] = mapped_column(String(40))
    complexity: Mapped[float | None]
    prompt: Mapped[long_text]
    parameters: Mapped[json_object] = mapped_column(default=dict)
    plan_code: Mapped[str | None] = mapped_column(String(40))
    """The person's plan when it was admitted: routing rules go by it."""
    status: Mapped[word]
    answer: Mapped[str | None] = mapped_column(Text)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    finish: Mapped[str | None] = mapped_column(String(40))
    error_code: Mapped[str | None] = mapped_column(String(40))
    error_message: Mapped[str | None] = mapped_column(Text)

    provider: Mapped[str | None] = mapped_column(String(40))
    model: Mapped[str | None] = mapped_column(String(120))
    route: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """Why this model: the rule, and what became of each model of the route."""
    cached: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    """True where the answer was kept from an identical request and cost nothing."""
    input_tokens: Mapped[count] = mapped_column(default=0)
    output_tokens: Mapped[count] = mapped_column(default=0)
    cost_microusd: Mapped[microusd] = mapped_column(default=0)
    max_input_tokens: Mapped[int]
    """How many input tokens were held for it; the context is cut to fit."""
    max_output_tokens: Mapped[int]
    held_microusd: Mapped[microusd] = mapped_column(default=0)
    """How much was held for its cost; a model that may cost more has to find room for the difference first."""
    held_provider: Mapped[str | None] = mapped_column(String(40))
    """The provider whose own limits were held when it was admitted; another one has to find room in its own first."""
    allocation_millicredits: Mapped[int | None] = mapped_column(BigInteger)
    """What whoever asked allowed it to cost."""
    cap_microusd: Mapped[int | None] = mapped_column(BigInteger)
    """What all its calls together may cost, by every limit on a single request."""
    credits_millicredits: Mapped[count] = mapped_column(default=0, server_default="0")
    token_id: Mapped[uuid.UUID | None] = mapped_column(Uuid, ForeignKey("api_token.id"))
    """The API token it came with."""
    batch_id: Mapped[uuid.UUID | None] = mapped_column(Uuid, ForeignKey("batch.id"))
    template_version_id: Mapped[uuid.UUID | None] = mapped_column(Uuid, ForeignKey("template_version.id"))
    """The version of a template that its prompt was made with."""
    again_of_id: Mapped[uuid.UUID | None] = mapped_column(Uuid, ForeignKey("request.id"))
    """The request of which this one is another try that somebody wanted."""

    queue: Mapped[word]
    priority: Mapped[int]
    attempts: Mapped[int] = mapped_column(default=0)
    """How many executions have begun."""
    retries: Mapped[int] = mapped_column(default=0, server_default="0")
    """How many of them ended with a failure that may pass, after which it was put back to the queue."""
    claim: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    """Who is executing it: one execution's own id. Only its holder may settle."""
    lease_until: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """Prolonged by the executing process while it lives; after it, others may take the request over."""
    cancel_asked_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    not_before: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """A request that waits for cheaper hours, or to be tried again, is not enqueued before this moment."""
    expires_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """Still waiting then, it is given up: nobody wants the answer any more, and what it holds is somebody else's."""

    reply_channel: Mapped[str | None] = mapped_column(String(40))
    """The channel plugin that takes the answer to the person; None where somebody is looking at a page."""
    reply_to: Mapped[str | None] = mapped_column(String(255))
    reply_from: Mapped[str | None] = mapped_column(String(255))

    quality: Mapped[float | None]
    rating: Mapped[int | None]
    rating_comment: Mapped[str | None] = mapped_column(Text)
    idempotency_key: Mapped[str | None] = mapped_column(String(128))
    extra: Mapped[json_object] = mapped_column(default=dict)
    created_at: Mapped[created]
    started_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UTCDateTime)

    conversation: Mapped[Conversation | None] = relationship()

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class Attempt(Base):
    """One call to one provider for one request."""

    __tablename__ = "attempt"
    __table_args__ = (
        UniqueConstraint("request_id", "execution", "number", name="attempt_number"),
        Index(None, "provider", "ended_at"),
    )

    id: Mapped[uuid_key]
    request_id: Mapped[request_ref]
    execution: Mapped[int] = mapped_column(default=1)
    """Which execution of the request it belongs to: there are several where a worker died."""
    number: Mapped[int]
    """1 for the first call of that execution."""
    provider: Mapped[str | None] = mapped_column(String(40))
    model: Mapped[str | None] = mapped_column(String(120))
    outcome: Mapped[word]
    error_code: Mapped[str | None] = mapped_column(String(40))
    detail: Mapped[str | None] = mapped_column(Text)
    """What went wrong, in the vendor's words; for administrators."""
    vendor_request_id: Mapped[str | None] = mapped_column(String(120))
    input_tokens: Mapped[count] = mapped_column(default=0)
    output_tokens: Mapped[count] = mapped_column(default=0)
    cost_microusd: Mapped[microusd] = mapped_column(default=0)
    first_piece_ms: Mapped[int | None]
    """Milliseconds from the call to its first piece."""
    started_at: Mapped[moment]
    ended_at: Mapped[moment]


class LedgerEntry(Base):
    """What a call used: appended once, never changed. The only source of truth about money."""

    __tablename__ = "ledger_entry"
    __table_args__ = (
        UniqueConstraint("attempt_id", name="ledger_once_per_attempt"),
        CheckConstraint("payer IN ('person', 'house')", name="payer"),
        Index(None, "request_id"),
        Index(None, "provider", "created_at"),
        CheckConstraint("cost_microusd >= 0", name="cost_not_negative"),
        CheckConstraint("input_tokens >= 0 AND output_tokens >= 0", name="tokens_not_negative"),
        Index(None, "organization_id", "created_at"),
        Index(None, "person_id", "created_at"),
    )

    id: Mapped[uuid_key]
    request_id: Mapped[uuid.UUID | None] = mapped_column(Uuid, ForeignKey("request.id"))
    """None for what the house did without a request, such as an administrator's test of a provider."""
    attempt_id: Mapped[uuid.UUID | None] = mapped_column(Uuid, ForeignKey("attempt.id"))
    payer: Mapped[word] = mapped_column(default="person")
    """Whose limits it counts on: the person's, or the house's own (sorting by a model)."""
    person_id: Mapped[person_ref]
    organization_id: Mapped[organization_ref]
    channel: Mapped[word]
    operation: Mapped[word]
    provider: Mapped[word]
    model: Mapped[str] = mapped_column(String(120))
    requests: Mapped[count]
    """1 for an answered request, 0 for one that cost something and gave none."""
    input_tokens: Mapped[count]
    output_tokens: Mapped[count]
    cached_tokens: Mapped[count] = mapped_column(default=0)
    cache_write_tokens: Mapped[count] = mapped_column(default=0)
    reasoning_tokens: Mapped[count] = mapped_column(default=0)
    pictures: Mapped[count] = mapped_column(default=0)
    cost_microusd: Mapped[microusd]
    credits_millicredits: Mapped[count] = mapped_column(default=0, server_default="0")
    estimated: Mapped[bool] = mapped_column(Boolean)
    """True where the vendor reported no tokens and they were estimated from the text."""
    price_source: Mapped[line]
    price_date: Mapped[str | None] = mapped_column(String(10))
    """The day from which the price is, in ISO form."""
    created_at: Mapped[created]


class AttachmentKind(StrEnum):
    """Whether a picture came with a request or was made for it."""

    GIVEN = "given"
    MADE = "made"


class Attachment(Base):
    """A picture of a request. Its bytes lie in the data directory under their SHA-256, once however often they occur."""

    __tablename__ = "attachment"
    __table_args__ = (
        CheckConstraint(one_of("kind", AttachmentKind), name="kind"),
        Index(None, "request_id", "id"),
        Index(None, "person_id", "id"),
        Index(None, "sha256"),
    )

    id: Mapped[uuid_key]
    request_id: Mapped[request_ref]
    person_id: Mapped[person_ref]
    organization_id: Mapped[organization_ref]
    kind: Mapped[word]
    sha256: Mapped[str] = mapped_column(String(64))
    media_type: Mapped[word]
    size_bytes: Mapped[count]
    width: Mapped[int]
    height: Mapped[int]
    seed: Mapped[int | None] = mapped_column(BigInteger)
    actions: Mapped[list[Any]] = mapped_column(JSON, default=list)
    """What can be done with it at its vendor: pairs of label and the provider's own token."""
    created_at: Mapped[created]
