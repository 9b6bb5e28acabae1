"""The jobs, by the names that `webapp.queues` knows. Each takes an id, may run twice, and makes one call down."""

from __future__ import annotations

import uuid

from webapp.pipeline import deliver as delivering
from webapp.pipeline import execute as executing


def execute(request_id: str) -> None:
    """Answer a request."""
    executing.execute(uuid.UUID(request_id))


def deliver(delivery_id: str) -> None:
    """Send a message."""
    delivering.deliver(uuid.UUID(delivery_id))
