"""What people do with the answers that they got: rate them."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import update

from webapp.contracts.errors import BadInput, Conflict
from webapp.contracts.texts import clean
from webapp.extensions import writing
from webapp.models import Request, RequestStatus
from webapp.services import request_lists
from webapp.services.request_lists import Scope

COMMENT_CHARS = 2_000


def rate(scope: Scope, request_id: uuid.UUID, rating: int, comment: str | None = None) -> None:
    """Rate a completed request, or rate it otherwise; `rating` is 1 to 5. Without a comment that of before stays; an empty one
    removes it. `scope` is that of somebody's own requests. `NotFound`, `Conflict` for a request that is not completed."""
    values: dict[str, Any] = {"rating": rating}
    if comment is not None:
        words = clean(comment).strip()
        if len(words) > COMMENT_CHARS:
            raise BadInput("comment", f"A comment has at most {COMMENT_CHARS:,} characters.")
        values["rating_comment"] = words or None
    found = request_lists.line(request_id, scope)
    with writing() as connection:
        rated = update(Request).where(Request.id == found.id, Request.status == RequestStatus.COMPLETED).values(**values)
        if not connection.execute(rated).rowcount:
            raise Conflict("Only a completed request can be rated.")
