"""How long a request may take."""

from __future__ import annotations

from webapp.extensions import current_settings
from webapp.routing.route import IMAGES


def timeout_s(operation: str = "chat") -> float:
    """Seconds that all calls of a request together may take."""
    settings = current_settings()
    if settings.operation_timeouts_s and (own := settings.timeout_of(operation)) is not None:
        return own
    return settings.image_timeout_s if operation == IMAGES else settings.request_timeout_s


def job_timeout_s(operation: str = "chat") -> int:
    """The job's time limit. The pipeline ends a call by its own deadline; this is the backstop behind it."""
    return int(timeout_s(operation)) + 30
