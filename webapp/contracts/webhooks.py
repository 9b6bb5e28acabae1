"""Events that outgoing webhooks tell of, by their names, and the form of a message about one (Standard Webhooks)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

REQUEST_COMPLETED: Final = "request.completed"
REQUEST_FAILED: Final = "request.failed"
REVIEW_WAITING: Final = "review.waiting"
QUOTA_WARNING: Final = "quota.warning"
MESSAGE_RECEIVED: Final = "message.received"
MESSAGE_UPDATED: Final = "message.updated"
PING: Final = "ping"
"""The test message: sent on demand alone, whatever an endpoint wants."""

EVENTS: Mapping[str, str] = {
    REQUEST_COMPLETED: "A request was answered.",
    REQUEST_FAILED: "A request failed or was cancelled; `status` and `error_code` say how.",
    REVIEW_WAITING: "Something waits for a review (not sent yet).",
    QUOTA_WARNING: "A limit is nearly used, or used up.",
    MESSAGE_RECEIVED: "A message arrived, such as an SMS.",
    MESSAGE_UPDATED: "A message to somebody was sent, arrived or failed.",
}
"""What an endpoint may ask for, and what each means."""


def message(event: str, at: datetime, data: Mapping[str, Any]) -> dict[str, Any]:
    """What is sent about an event that happened `at`."""
    return {"type": event, "timestamp": at.isoformat(), "data": dict(data)}
