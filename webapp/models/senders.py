"""The one look-up of admission: who is this, what is their plan, which conversation goes on."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, select

from webapp.models.people import Identity, Organization, Person, Plan
from webapp.models.requests import Conversation


@dataclass(frozen=True, slots=True)
class Sender:
    """A person as admission needs them. `conversation_id` is the one to continue, None to start one."""

    person_id: uuid.UUID
    organization_id: uuid.UUID
    time_zone: str
    active: bool
    plan: str
    plan_limits: dict[str, int | None]
    priority: int
    max_output_tokens: int
    context_tokens: int
    conversation_id: uuid.UUID | None
    opted_out_at: datetime | None = None


_latest = (
    select(Conversation.id)
    .where(Conversation.person_id == Person.id, Conversation.active)
    .order_by(Conversation.last_activity_at.desc())
    .limit(1)
    .correlate(Person)
    .scalar_subquery()
)
_named = (
    select(Conversation.id)
    .where(Conversation.id == bindparam("conversation"), Conversation.person_id == Person.id)
    .correlate(Person)
    .scalar_subquery()
)


def _query(conversation: Any, *more: Any) -> Select[Any]:
    return (
        select(
            Person.id,
            Person.organization_id,
            Organization.time_zone,
            Person.active,
            Plan.code,
            Plan.limits,
            Plan.priority,
            Plan.max_output_tokens,
            Plan.context_tokens,
            conversation.label("conversation_id"),
            *more,
        )
        .select_from(Person)
        .join(Organization, Organization.id == Person.organization_id)
        .join(Plan, Plan.code == Person.plan_code)
    )


_by_id = _query(_latest).where(Person.id == bindparam("person"))
_by_id_named = _query(_named).where(Person.id == bindparam("person"))
_by_address = (
    _query(_latest, Identity.opted_out_at)
    .join(Identity, Identity.person_id == Person.id)
    .where(Identity.medium == bindparam("medium"), Identity.address == bindparam("address"))
)


def by_id(connection: Connection, person_id: uuid.UUID, conversation_id: uuid.UUID | None) -> Sender | None:
    """The sender with this id; `conversation_id` of the result is None if the named one is not theirs."""
    if conversation_id is None:
        row = connection.execute(_by_id, {"person": person_id}).first()
    else:
        row = connection.execute(_by_id_named, {"person": person_id, "conversation": conversation_id}).first()
    return _sender(row)


def by_address(connection: Connection, medium: str, address: str) -> Sender | None:
    """The sender with this address."""
    return _sender(connection.execute(_by_address, {"medium": medium, "address": address}).first())


def _sender(row: Row[Any] | None) -> Sender | None:
    return None if row is None else Sender(*tuple(row))
