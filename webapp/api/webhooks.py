"""Outgoing webhooks for programs: the endpoints of the organization that one works in, and what was sent to them."""

from __future__ import annotations

import uuid
from typing import Any

from flask import Response

from webapp.api import access, once
from webapp.api.base import PageQuery, answer, area, make_cursor, nothing, page_answer, read_cursor
from webapp.api.webhooks_models import (
    Webhook,
    WebhookChange,
    WebhookCreate,
    WebhookDelivery,
    WebhookDeliveryPage,
    WebhookDeliveryPath,
    WebhookMade,
    WebhookPage,
    WebhookPath,
    WebhookSeen,
    WebhookTested,
    WebhookTry,
)
from webapp.contracts.errors import NotFound
from webapp.extensions import limiter
from webapp.models import PersonRole
from webapp.pipeline import webhook_send
from webapp.services import webhook_log, webhooks
from webapp.services.webhook_log import DeliveryView
from webapp.services.webhooks import Change, EndpointView

blueprint = area(
    "webhooks",
    "Webhooks",
    "Where the events of your organization are sent, signed as Standard Webhooks say: the headers `webhook-id`, "
    "`webhook-timestamp` and `webhook-signature`. A message is sent at least once, always with the same id. For managers.",
)
_for_managers = access.opens("admin", role=PersonRole.MANAGER)


@blueprint.get("/webhooks", summary="List webhooks", responses={200: WebhookPage})
@_for_managers
def list_webhooks(query: PageQuery) -> Response:
    """Those of the organization that you work in, in the order in which they were made."""
    caller = access.caller()
    after = read_cursor(query.cursor, uuid.UUID)
    views = webhooks.rows(caller.actor, caller.organization_id, after[0] if after else None, query.limit + 1)
    shown = views[: query.limit]
    total = webhooks.count(caller.actor, caller.organization_id) if query.total else None
    cursor = make_cursor(shown[-1].id) if len(views) > query.limit else None
    return page_answer([Webhook(**_values(view)) for view in shown], cursor, total)


@blueprint.post("/webhooks", summary="Add a webhook", responses={201: WebhookMade})
@once.repeatable
@_for_managers
def create_webhook(body: WebhookCreate) -> Response:
    """It gets events from within two seconds on. Keep its secret: it is shown this once."""
    caller = access.caller()
    made = webhooks.create(caller.actor, caller.organization_id, body.url, body.description, body.events)
    place = {"Location": f"/api/webhooks/{made.endpoint.id}"}
    return answer(WebhookMade(**_values(made.endpoint), secret=made.secret), 201, place)


@blueprint.get("/webhooks/<webhook_id>", summary="Read a webhook", responses={200: Webhook})
@_for_managers
def read_webhook(path: WebhookPath) -> Response:
    """One of them, without its secret."""
    caller = access.caller()
    return answer(Webhook(**_values(webhooks.show(caller.actor, caller.organization_id, path.webhook_id))))


@blueprint.patch("/webhooks/<webhook_id>", summary="Change a webhook", responses={200: Webhook})
@_for_managers
def change_webhook(path: WebhookPath, body: WebhookChange) -> Response:
    """Set what is given. Switching one on forgets that it failed."""
    caller = access.caller()
    wanted = Change(body.url, body.description, body.events, body.active)
    return answer(
        Webhook(**_values(webhooks.change(caller.actor, caller.organization_id, path.webhook_id, wanted, body.version)))
    )


@blueprint.delete("/webhooks/<webhook_id>", summary="Remove a webhook", responses={204: None})
@_for_managers
def remove_webhook(path: WebhookPath, query: WebhookSeen) -> Response:
    """For good, with what waits for it and the log of what was sent to it."""
    caller = access.caller()
    webhooks.remove(caller.actor, caller.organization_id, path.webhook_id, query.version)
    return nothing()


@blueprint.post("/webhooks/<webhook_id>/rotate", summary="Renew a webhook's secret", responses={200: WebhookMade})
@once.repeatable
@_for_managers
def rotate_webhook(path: WebhookPath, query: WebhookSeen) -> Response:
    """For 24 hours messages carry the signatures of both secrets, so that the receiver can change over."""
    caller = access.caller()
    made = webhooks.rotate(caller.actor, caller.organization_id, path.webhook_id, query.version)
    return answer(WebhookMade(**_values(made.endpoint), secret=made.secret))


@blueprint.post("/webhooks/<webhook_id>/test", summary="Send a test message", responses={200: WebhookTested})
@_for_managers
@limiter.limit("30/minute;300/hour", key_func=lambda: str(access.caller().id))
def test_webhook(path: WebhookPath) -> Response:
    """A message of the type `ping` is sent at once, also to one that is switched off; what the receiver answered."""
    caller = access.caller()
    webhooks.show(caller.actor, caller.organization_id, path.webhook_id)
    found = webhook_send.ping(path.webhook_id)
    if found is None:
        raise NotFound("There is no such webhook.")
    return answer(
        WebhookTested(
            delivered=found.delivered,
            status=found.status,
            duration_ms=found.ms,
            trouble=found.words,
            answer=found.excerpt,
        )
    )


@blueprint.get("/webhooks/<webhook_id>/deliveries", summary="List messages", responses={200: WebhookDeliveryPage})
@_for_managers
def list_webhook_deliveries(path: WebhookPath, query: PageQuery) -> Response:
    """What was sent to it in the last 30 days, or is to be; the latest first."""
    caller = access.caller()
    place = (caller.actor, caller.organization_id, path.webhook_id)
    before = read_cursor(query.cursor, uuid.UUID)
    views = webhook_log.rows(*place, before[0] if before else None, query.limit + 1)
    shown = views[: query.limit]
    total = webhook_log.count(*place) if query.total else None
    return page_answer(map(_delivery, shown), make_cursor(shown[-1].id) if len(views) > query.limit else None, total)


@blueprint.post(
    "/webhooks/<webhook_id>/deliveries/<delivery_id>/resend",
    summary="Send a message again",
    responses={202: WebhookDelivery},
)
@once.repeatable
@_for_managers
def resend_webhook_delivery(path: WebhookDeliveryPath) -> Response:
    """A message that has ended, with the same id. 409 if it is still on its way, or if the webhook is switched off."""
    caller = access.caller()
    view = webhook_log.resend(caller.actor, caller.organization_id, path.webhook_id, path.delivery_id)
    return answer(_delivery(view), 202)


def _values(view: EndpointView) -> dict[str, Any]:
    return {
        "id": view.id,
        "url": view.url,
        "description": view.description,
        "events": list(view.events),
        "active": view.active,
        "disabled_reason": view.disabled_reason,
        "failing_since": view.failing_since,
        "former_secret_until": view.both_until,
        "version": view.version,
        "created_at": view.created_at,
        "updated_at": view.updated_at,
    }


def _delivery(view: DeliveryView) -> WebhookDelivery:
    return WebhookDelivery(
        id=view.id,
        event=view.event,
        state=view.state,
        attempts=view.attempts,
        next_try_at=view.next_try_at,
        created_at=view.created_at,
        ended_at=view.ended_at,
        tries=[WebhookTry(at=each.at, status=each.status, duration_ms=each.ms, trouble=each.words) for each in view.tries],
        payload=dict(view.payload),
    )
