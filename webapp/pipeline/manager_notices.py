"""What the managers of an organization are told by e-mail, of whatever concerns it."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import Connection, insert, select

from webapp.contracts.channels import DeliveryStatus
from webapp.models import Delivery, DeliveryKind, Direction, Membership, Person, PersonRole
from webapp.models.columns import new_id
from webapp.registry import current_registry

_MANAGERS_MAX = 50


def write(connection: Connection, organization_id: uuid.UUID, title: str, body: str, at: datetime) -> list[uuid.UUID]:
    """A message to each manager of the organization who has an e-mail address, if there is a channel that carries it; the ids
    of the deliveries, to be enqueued after the commit."""
    channel = current_registry().channel_for("email")
    if channel is None:
        return []
    managers = connection.execute(
        select(Person.id, Person.email)
        .join(Membership, Membership.person_id == Person.id)
        .where(
            Membership.organization_id == organization_id,
            Membership.role.in_((PersonRole.MANAGER, PersonRole.ADMIN)),
            Person.active,
            Person.email.is_not(None),
        )
        .order_by(Person.id)
        .limit(_MANAGERS_MAX)
    ).all()
    messages = [
        {
            "id": new_id(),
            "channel": channel.name,
            "medium": channel.medium,
            "direction": Direction.OUT,
            "kind": DeliveryKind.NOTICE,
            "person_id": manager.id,
            "address": manager.email,
            "our_address": "",
            "subject": title,
            "body": body,
            "status": DeliveryStatus.PENDING,
            "created_at": at,
            "updated_at": at,
        }
        for manager in managers
    ]
    if messages:
        connection.execute(insert(Delivery), messages)
    return [message["id"] for message in messages]
