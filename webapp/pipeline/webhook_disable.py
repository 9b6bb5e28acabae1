"""How an endpoint of outgoing webhooks is switched off by the product itself, and who is told."""

from __future__ import annotations

import logging
import uuid
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Connection, insert, select, update

from webapp.extensions import current_settings
from webapp.models import AuditEntry, ErrorLog, Organization, WebhookEndpoint
from webapp.models.columns import new_id
from webapp.pipeline import manager_notices
from webapp.routing import listeners

log = logging.getLogger(__name__)

ACTOR = "switchhook"


def disable(connection: Connection, endpoint: Any, reason: str, at: datetime) -> list[uuid.UUID]:
    """Switch an endpoint off (its row: id, organization_id, url), in the caller's transaction, with an entry in the audit trail
    and one in the log of errors. Returns the letters to its managers, to be enqueued after the commit."""
    connection.execute(
        update(WebhookEndpoint)
        .where(WebhookEndpoint.id == endpoint.id)
        .values(active=False, disabled_reason=reason, version=WebhookEndpoint.version + 1, updated_at=at)
    )
    # Without path and query: receivers keep secrets there.
    host = urlsplit(endpoint.url).hostname or "?"
    audited = {
        "id": new_id(),
        "actor": ACTOR,
        "action": "webhook.disable",
        "subject": f"webhook:{endpoint.id}",
        "organization_id": endpoint.organization_id,
        "detail": {"reason": reason, "host": host},
        "created_at": at,
    }
    connection.execute(insert(AuditEntry), audited)
    error = {
        "id": new_id(),
        "kind": "webhook_disabled",
        "message": f"An endpoint of outgoing webhooks at {host} was switched off. {reason}",
        "detail": f"endpoint {endpoint.id} of organization {endpoint.organization_id}",
        "created_at": at,
    }
    connection.execute(insert(ErrorLog), error)
    name = connection.execute(select(Organization.name).where(Organization.id == endpoint.organization_id)).scalar_one()
    letters = manager_notices.write(connection, endpoint.organization_id, *_letter(name, host, endpoint, reason), at)
    listeners.changed(connection)
    log.warning("webhook endpoint %s is switched off: %s", endpoint.id, reason)
    return letters


def _letter(organization: str, host: str, endpoint: Any, reason: str) -> tuple[str, str]:
    """Subject and body of the message to a manager."""
    public = current_settings().public_url.rstrip("/")
    link = f"\n\n{public}/organization/{endpoint.organization_id}/webhooks/{endpoint.id}" if public else ""
    title = f"{organization}: a webhook was switched off"
    body = (
        f"The webhook of {organization} at {host} was switched off.\n\n{reason}\n\nWhat waited for it is not sent. Mend the "
        f"receiver, send a test message, and switch it on again.{link}\n"
    )
    return title[:250], body
