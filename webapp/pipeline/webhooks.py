"""Outgoing webhooks: what is written down about an event, in the transaction of what happened, and handed over after it.

Nothing is sent here (`webapp.pipeline.webhook_send` does). Where an organization has no endpoint for an event, nothing is done
but a look-up in memory. A receiver gets ids and figures; what people wrote it reads by the API, and addresses are masked.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select
from sqlalchemy.exc import SQLAlchemyError

from webapp import queues
from webapp.contracts import webhooks as events
from webapp.contracts.channels import InboundMessage
from webapp.contracts.texts import mask_address
from webapp.extensions import queue_redis, table_of
from webapp.models import (
    DeliveryKind,
    Direction,
    Person,
    Request,
    RequestStatus,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookState,
)
from webapp.models.columns import new_id
from webapp.pipeline.endings import Ending
from webapp.routing import listeners, vendors

Data = Mapping[str, Any]

_endpoint = table_of(WebhookEndpoint)


def look() -> None:
    """Learn of endpoints that were changed: before a transaction that may note something. It reads every two seconds at most;
    while the database is away, what is known goes on being true."""
    with contextlib.suppress(SQLAlchemyError):
        vendors.current()


def note(
    connection: Connection, event: str, organization_id: uuid.UUID | None, data: Callable[[], Data], at: datetime
) -> tuple[uuid.UUID, ...]:
    """Write down what the organization's endpoints are told of an event; what to `hand_over` after the commit. `data` is asked
    only where somebody wants to know."""
    if not listeners.wanted(organization_id, event):
        return ()
    # With a lock that keeps them from being deleted before the end of the transaction, and nothing else.
    found = connection.execute(
        select(_endpoint.c.id, _endpoint.c.events)
        .where(_endpoint.c.organization_id == organization_id, _endpoint.c.active)
        .order_by(_endpoint.c.id)
        .with_for_update(read=True, key_share=True)
    ).all()
    payload = events.message(event, at, data())
    rows = [
        {
            "id": new_id(),
            "endpoint_id": row.id,
            "event": event,
            "payload": payload,
            "state": WebhookState.PENDING,
            "attempts": 0,
            "next_try_at": at,
            "log": [],
            "created_at": at,
        }
        for row in found
        if listeners.wants(row.events, event)
    ]
    if rows:
        connection.execute(insert(WebhookDelivery), rows)
    return tuple(row["id"] for row in rows)


def hand_over(delivery_ids: Iterable[uuid.UUID]) -> None:
    """Let the workers send what was noted. Call it after the commit only; the sweep finds what is lost here."""
    ids = [str(delivery_id) for delivery_id in delivery_ids]
    if ids:
        queues.put(queue_redis(), queues.WEBHOOK, ids, queues.NORMAL)


# -- the events ----------------------------------------------------------------------------------------------------------
def request_ended(
    connection: Connection, request_id: uuid.UUID, row: Any, ending: Ending, at: datetime
) -> tuple[uuid.UUID, ...]:
    """A request has ended as `ending` says; `row` is what is stored of it."""
    event = events.REQUEST_COMPLETED if ending.status is RequestStatus.COMPLETED else events.REQUEST_FAILED

    def data() -> Data:
        return {
            "request_id": str(request_id),
            "person_id": str(row.person_id),
            "conversation_id": _text(row.conversation_id),
            "channel": row.channel,
            "operation": row.operation,
            "status": str(ending.status),
            "category": ending.category or None,
            "provider": ending.used.provider or None,
            "model": ending.used.model or None,
            "cached": bool(ending.cached),
            "input_tokens": row.input_tokens,
            "output_tokens": row.output_tokens,
            "cost_microusd": row.cost_microusd,
            "error_code": ending.error_code or None,
        }

    return note(connection, event, row.organization_id, data, at)


def limit_reached(
    connection: Connection, organization_id: uuid.UUID, told: Callable[[], Data], at: datetime
) -> tuple[uuid.UUID, ...]:
    """A limit is nearly used, or used up; `told` says which."""
    return note(connection, events.QUOTA_WARNING, organization_id, told, at)


def message_received(
    connection: Connection,
    message_id: uuid.UUID,
    message: InboundMessage,
    medium: str,
    organization_id: uuid.UUID | None,
    person_id: uuid.UUID | None,
    request_id: uuid.UUID | None,
    at: datetime,
) -> tuple[uuid.UUID, ...]:
    """A message has arrived from somebody who is known."""

    def data() -> Data:
        return {
            "message_id": str(message_id),
            "request_id": _text(request_id),
            "person_id": _text(person_id),
            "channel": message.channel,
            "medium": medium,
            "direction": Direction.IN.value,
            "address": mask_address(message.sender),
            "status": "received",
        }

    return note(connection, events.MESSAGE_RECEIVED, organization_id, data, at)


def message_updated(connection: Connection, row: Any, status: str, code: str, at: datetime) -> tuple[uuid.UUID, ...]:
    """A delivery (its row) has another status. What the house tells its people of its own accord is no event of theirs."""
    if not listeners.wanted_by_anybody(events.MESSAGE_UPDATED):
        return ()
    if row.person_id is None or (row.kind == DeliveryKind.NOTICE and row.request_id is None):
        return ()

    def data() -> Data:
        return {
            "message_id": str(row.id),
            "request_id": _text(row.request_id),
            "person_id": str(row.person_id),
            "channel": row.channel,
            "medium": row.medium,
            "direction": row.direction,
            "address": mask_address(row.address),
            "status": str(status),
            "error_code": code or None,
        }

    return note(connection, events.MESSAGE_UPDATED, _organization_of(connection, row), data, at)


def _organization_of(connection: Connection, row: Any) -> uuid.UUID | None:
    """In which organization a delivery's person was working when they asked, else is working."""
    at_work = select(Request.organization_id).where(Request.id == row.request_id).scalar_subquery()
    own = Person.organization_id
    found = own if row.request_id is None else func.coalesce(at_work, own, type_=own.type)
    organization_id: uuid.UUID | None = connection.execute(select(found).where(Person.id == row.person_id)).scalar()
    return organization_id


def _text(an_id: uuid.UUID | None) -> str | None:
    return None if an_id is None else str(an_id)
