"""Dead letters: requests that failed for no fault of whoever asked, after everything was tried, kept to be replayed."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import Connection, insert, update

from webapp.contracts.texts import clean
from webapp.models import DeadLetter, LetterState
from webapp.models.jobs import REASON_OF


def write(
    connection: Connection, request_id: uuid.UUID, error_code: str, last_error: str, attempts: int, at: datetime
) -> str | None:
    """Set a request aside that has failed; returns the class of what went wrong, None for a failure of its own making."""
    reason = REASON_OF.get(error_code)
    if reason is None:
        return None
    values = {
        "reason": reason,
        "error_code": error_code,
        "last_error": clean(last_error)[:8000],
        "attempts": attempts,
        "state": LetterState.OPEN,
        "created_at": at,
    }
    known = connection.execute(update(DeadLetter).where(DeadLetter.request_id == request_id).values(**values))
    if not known.rowcount:
        connection.execute(insert(DeadLetter), values | {"request_id": request_id, "replays": 0})
    return reason
