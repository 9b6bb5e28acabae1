"""The jobs, by the names that `webapp.queues` knows. Each takes an id, may run twice, and makes one call down."""

from __future__ import annotations

import uuid

from webapp.pipeline import deliver as delivering
from webapp.pipeline import execute as executing
from webapp.pipeline import webhook_send


def execute(request_id: str) -> None:
    """Answer a request."""
    executing.execute(uuid.UUID(request_id))


def deliver(delivery_id: str) -> None:
    """Send a message."""
    delivering.deliver(uuid.UUID(delivery_id))


def webhook(delivery_id: str) -> None:
    """Send an outgoing webhook, and what else is due to the same endpoint."""
    webhook_send.send(uuid.UUID(delivery_id))
