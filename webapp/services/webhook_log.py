"""The log of outgoing webhooks: what was sent to an endpoint, each try, sending again, and what is too old."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from webapp import queues
from webapp.contracts.errors import Conflict, NotFound
from webapp.contracts.webhooks import PING
from webapp.extensions import now, queue_redis, reading, retries, writing, writing_session
from webapp.models import WebhookDelivery, WebhookState
from webapp.models import WebhookEndpoint as Endpoint
from webapp.services import webhooks
from webapp.services.organizations import Actor, audit

KEPT = timedelta(days=30)
PAGE = 20
BUDGET_S = 2.0
_AT_ONCE = 1000
_ENDED = (WebhookState.DELIVERED, WebhookState.FAILED, WebhookState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Try:
    """One try. `status` is None where there was no answer; `words` is '' where nothing went wrong."""

    at: datetime
    status: int | None
    ms: int
    words: str


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """A message to an endpoint. Its id is the `webhook-id` that the receiver sees."""

    id: uuid.UUID
    event: str
    state: WebhookState
    attempts: int
    next_try_at: datetime | None
    created_at: datetime
    ended_at: datetime | None
    tries: tuple[Try, ...]
    payload: Mapping[str, Any]

    @property
    def may_resend(self) -> bool:
        """Whether it has ended, so that it can be sent again."""
        return self.state in _ENDED and self.event != PING


@dataclass(frozen=True, slots=True)
class Removed:
    """How much was removed. `more`: the time was over before everything was."""

    deliveries: int = 0
    more: bool = False


def rows(
    actor: Actor, organization_id: uuid.UUID, endpoint_id: uuid.UUID, before: uuid.UUID | None = None, size: int = PAGE
) -> list[DeliveryView]:
    """Messages to an endpoint, the latest first, a page at a time; `before` is the last id of the page before."""
    webhooks.show(actor, organization_id, endpoint_id)
    query = select(WebhookDelivery).where(WebhookDelivery.endpoint_id == endpoint_id)
    if before is not None:
        query = query.where(WebhookDelivery.id < before)
    with reading() as connection, Session(bind=connection) as session:
        return [_view(found) for found in session.scalars(query.order_by(WebhookDelivery.id.desc()).limit(size))]


def count(actor: Actor, organization_id: uuid.UUID, endpoint_id: uuid.UUID) -> int:
    """How many messages there are on record."""
    webhooks.show(actor, organization_id, endpoint_id)
    with reading() as connection:
        return connection.execute(select(func.count()).where(WebhookDelivery.endpoint_id == endpoint_id)).scalar_one()


def resend(actor: Actor, organization_id: uuid.UUID, endpoint_id: uuid.UUID, delivery_id: uuid.UUID) -> DeliveryView:
    """Send a message that has ended again, with the same id and all its tries anew. `Conflict` if it is still on its way, or if
    the endpoint is switched off."""
    webhooks.show(actor, organization_id, endpoint_id)
    view = _resend(actor, organization_id, endpoint_id, delivery_id)
    queues.put(queue_redis(), queues.WEBHOOK, [str(delivery_id)], queues.NORMAL)
    return view


@retries
def _resend(actor: Actor, organization_id: uuid.UUID, endpoint_id: uuid.UUID, delivery_id: uuid.UUID) -> DeliveryView:
    this = (WebhookDelivery.id == delivery_id, WebhookDelivery.endpoint_id == endpoint_id)
    at = now()
    with writing_session() as session:
        active = session.scalar(select(Endpoint.active).where(Endpoint.id == endpoint_id))
        found = session.scalar(select(WebhookDelivery).where(*this))
        if active is None or found is None or found.event == PING:
            raise NotFound("There is no such delivery.")
        if not active:
            raise Conflict("This webhook is switched off: switch it on, and then send the message again.")
        fresh = {"state": WebhookState.PENDING, "attempts": 0, "next_try_at": at, "claimed_until": None, "ended_at": None}
        done = session.connection().execute(
            update(WebhookDelivery).where(*this, WebhookDelivery.state.in_(_ENDED)).values(fresh)
        )
        if not done.rowcount:
            raise Conflict("This message is still on its way.")
        detail = {"delivery": str(delivery_id), "event": found.event}
        audit(session, actor, "webhook.resend", f"webhook:{endpoint_id}", organization_id, detail)
        session.refresh(found)
        return _view(found)


def remove_old(begin_for_s: float = BUDGET_S) -> Removed:
    """Remove messages that are older than `KEPT`, whatever became of them."""
    before, until, removed = now() - KEPT, time.monotonic() + begin_for_s, 0
    old = select(WebhookDelivery.id).where(WebhookDelivery.created_at < before).order_by(WebhookDelivery.created_at)
    while True:
        with writing() as connection:
            gone = connection.execute(delete(WebhookDelivery).where(WebhookDelivery.id.in_(old.limit(_AT_ONCE)))).rowcount
        removed += gone
        if gone < _AT_ONCE:
            return Removed(removed)
        if time.monotonic() > until:
            return Removed(removed, more=True)


def _view(found: WebhookDelivery) -> DeliveryView:
    return DeliveryView(
        id=found.id,
        event=found.event,
        state=WebhookState(found.state),
        attempts=found.attempts,
        next_try_at=found.next_try_at if found.state == WebhookState.PENDING else None,
        created_at=found.created_at,
        ended_at=found.ended_at,
        tries=tuple(
            Try(datetime.fromisoformat(each["at"]), each["status"], int(each["ms"]), str(each["words"])) for each in found.log
        ),
        payload=found.payload,
    )
