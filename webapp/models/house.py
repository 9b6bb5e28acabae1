"""What the operator keeps an eye on: errors, the audit trail, provider settings."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import JSON, BigInteger, Boolean, CheckConstraint, ForeignKey, Index, String, Text, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from webapp.extensions import Base, UTCDateTime
from webapp.models.columns import WithoutTokens, created, json_object, line, long_text, uuid_key, word


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
    """What was done about it, in the words of whoever resolved it."""
    resolved_by: Mapped[str | None] = mapped_column(String(255))


class AuditEntry(Base):
    """An administrative act: who did what to whom. Appended, never changed."""

    __tablename__ = "audit_entry"
    __table_args__ = (Index(None, "subject", "id"), Index(None, "organization_id", "id"))

    id: Mapped[uuid_key]
    actor_id: Mapped[uuid.UUID | None] = mapped_column(Uuid, ForeignKey("person.id"))
    """None for the command line and the product itself; `actor` then says which."""
    actor: Mapped[line]
    action: Mapped[word]
    subject: Mapped[line]
    organization_id: Mapped[uuid.UUID | None] = mapped_column(Uuid, ForeignKey("organization.id"))
    """Whose managers may read it; None for what is the installation's business."""
    detail: Mapped[json_object] = mapped_column(WithoutTokens, default=dict)
    created_at: Mapped[created]


class ProviderSetting(Base):
    """What an administrator set for a provider, over what the environment says."""

    __tablename__ = "provider_setting"

    provider: Mapped[str] = mapped_column(String(40), primary_key=True)
    enabled: Mapped[bool] = mapped_column(Boolean, default=True)
    default_model: Mapped[str | None] = mapped_column(String(120))
    values: Mapped[json_object] = mapped_column(default=dict)
    """Environment variable -> {"plain": value} or {"sealed": token, "hint": its last characters}."""
    limits: Mapped[json_object] = mapped_column(default=dict)
    """`requests_per_minute`, `tokens_per_minute`, `concurrent` -> a number, 0 for no limit; absent: the installation's own."""
    prices: Mapped[json_object] = mapped_column(default=dict)
    """Model, or `*` for all -> the operator's own prices (`webapp.routing.prices.Override`)."""
    peak_hours: Mapped[str | None] = mapped_column(String(255))
    """Hours in UTC in which calls cost more, '' for none; None: what the provider itself says."""
    updated_at: Mapped[created]


class OrganizationProvider(Base):
    """What an organization set for a provider: whether its people may use it, with which model, and on whose key."""

    __tablename__ = "organization_provider"

    organization_id: Mapped[uuid.UUID] = mapped_column(Uuid, ForeignKey("organization.id"), primary_key=True)
    provider: Mapped[str] = mapped_column(String(40), primary_key=True)
    enabled: Mapped[bool] = mapped_column(Boolean, default=True)
    default_model: Mapped[str | None] = mapped_column(String(120))
    values: Mapped[json_object] = mapped_column(default=dict)
    """The organization's own key and such, as in `ProviderSetting.values`."""
    updated_at: Mapped[created]


class RouteRule(Base):
    """Which models serve which requests. The first rule in order that fits a request decides; None fits everything."""

    __tablename__ = "route_rule"
    __table_args__ = (
        CheckConstraint("max_cost_microusd IS NULL OR max_cost_microusd > 0", name="max_cost_positive"),
        Index(None, "position", "id"),
    )

    id: Mapped[uuid_key]
    position: Mapped[int]
    name: Mapped[line]
    enabled: Mapped[bool] = mapped_column(Boolean, default=True)
    operation: Mapped[str | None] = mapped_column(String(40))
    category: Mapped[str | None] = mapped_column(String(40))
    plan_code: Mapped[str | None] = mapped_column(String(40), ForeignKey("plan.code"))
    organization_id: Mapped[uuid.UUID | None] = mapped_column(Uuid, ForeignKey("organization.id"))
    targets: Mapped[list[str]] = mapped_column(JSON)
    """`provider/model`, or a provider's name alone for its default model, in the order in which they are tried."""
    max_cost_microusd: Mapped[int | None] = mapped_column(BigInteger)
    """A model that may cost more than this for the request is passed over."""
    updated_at: Mapped[created]


class Revision(Base):
    """A number that goes up whenever something changes that processes keep in memory."""

    __tablename__ = "revision"

    subject: Mapped[str] = mapped_column(String(40), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, default=0)
