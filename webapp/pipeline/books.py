"""The books of a request: its attempts, the ledger entries of what was used, and the pictures that were made."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, exists, insert, select

from webapp.contracts.texts import clean
from webapp.extensions import table_of
from webapp.models import Attachment, AttachmentKind, Attempt, LedgerEntry, Request
from webapp.models.columns import new_id
from webapp.models.inserting import Inserter
from webapp.pipeline.endings import HOUSE, PERSON, Call, Ending
from webapp.quota import credits

ATTEMPT = (
    "id",
    "request_id",
    "execution",
    "number",
    "provider",
    "model",
    "outcome",
    "error_code",
    "detail",
    "vendor_request_id",
    "input_tokens",
    "output_tokens",
    "cost_microusd",
    "first_piece_ms",
    "started_at",
    "ended_at",
)
ENTRY = (
    "id",
    "request_id",
    "attempt_id",
    "payer",
    "person_id",
    "organization_id",
    "channel",
    "operation",
    "provider",
    "model",
    "requests",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "pictures",
    "cost_microusd",
    "credits_millicredits",
    "estimated",
    "price_source",
    "price_date",
    "created_at",
)
_attempts = Inserter(table_of(Attempt), ATTEMPT)
_entries = Inserter(table_of(LedgerEntry), ENTRY)


def cut(text: str | None, size: int) -> str | None:
    """What fits into a column of `size` characters, None for nothing: plugins and vendors write what they like."""
    return clean(str(text))[:size] or None if text else None


def write(connection: Connection, request_id: uuid.UUID, row: Any, ending: Ending, counted: int, at: datetime) -> None:
    """An attempt for each call, and a ledger entry for each that used something or answered the request."""
    _write(connection, request_id, row, ending.calls, row.attempts, counted, at)


def write_unowned(connection: Connection, request_id: uuid.UUID, execution: int, calls: Sequence[Call], at: datetime) -> bool:
    """The calls of an execution that does not hold its request any more: the vendor bills them all the same, and the house
    pays, because the person is charged by whoever took over. The request itself, its person and all limits stay as they are.

    False if there is nothing to write: that execution did settle the request, or the request is gone.
    """
    query = select(Request.person_id, Request.organization_id, Request.channel, Request.operation, Request.started_at)
    row = connection.execute(query.where(Request.id == request_id)).first()
    mine = (Attempt.request_id == request_id, Attempt.execution == execution)
    there = connection.execute(select(Attempt.number, Attempt.provider).where(*mine)).all()
    # What the sweep writes of an execution that it took for dead names no provider.
    if row is None or any(each.provider for each in there):
        return False
    at_the_house = [replace(call, payer=HOUSE) for call in calls]
    before = max((each.number for each in there), default=0)
    _write(connection, request_id, row, at_the_house, execution, 0, at, before)
    return True


def ended_by(connection: Connection, request_id: uuid.UUID, execution: int, status: str) -> bool:
    """Whether it was this execution that has ended the request, with this status."""
    mine = (Attempt.request_id == Request.id, Attempt.execution == execution, Attempt.provider.is_not(None))
    this = (Request.id == request_id, Request.status == status, Request.attempts == execution)
    return connection.execute(select(Request.id).where(*this, exists().where(*mine))).first() is not None


def _write(
    connection: Connection,
    request_id: uuid.UUID,
    row: Any,
    calls: Sequence[Call],
    execution: int,
    counted: int,
    at: datetime,
    before: int = 0,
) -> None:
    if not calls:
        return
    attempts, entries = rows_of(request_id, row, calls, execution, counted, at, before)
    _attempts(connection, attempts)
    _entries(connection, entries)


def rows_of(
    request_id: uuid.UUID,
    row: Any,
    calls: Sequence[Call],
    execution: int,
    counted: int,
    at: datetime,
    before: int = 0,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of attempts (`ATTEMPT`) and of the ledger (`ENTRY`). `counted` is for the last call that the person pays;
    `before` is how many attempts that execution has already."""
    ids = [new_id() for _ in calls]
    attempts = [
        {
            "id": ids[position],
            "request_id": request_id,
            "execution": execution,
            "number": before + position + 1,
            "provider": cut(call.used.provider, 40),
            "model": cut(call.used.model, 120),
            "outcome": cut(call.outcome, 40),
            "error_code": cut(call.error_code, 40),
            "detail": cut(call.detail, 4000),
            "vendor_request_id": cut(call.used.vendor_request_id, 120),
            "input_tokens": call.used.input_tokens,
            "output_tokens": call.used.output_tokens,
            "cost_microusd": call.used.cost_microusd,
            "first_piece_ms": call.first_piece_ms,
            "started_at": call.started_at or row.started_at or at,
            "ended_at": call.ended_at or at,
        }
        for position, call in enumerate(calls)
    ]
    last = max((n for n, call in enumerate(calls) if call.payer == PERSON), default=-1)
    entries = [
        _entry(request_id, row, call, ids[position], counted if position == last else 0, at)
        for position, call in enumerate(calls)
        if not call.used.nothing or (position == last and counted)
    ]
    return attempts, entries


def _entry(request_id: uuid.UUID, row: Any, call: Call, attempt_id: uuid.UUID, counted: int, at: datetime) -> dict[str, Any]:
    used = call.used
    return {
        "id": new_id(),
        "request_id": request_id,
        "attempt_id": attempt_id,
        "payer": call.payer,
        "person_id": row.person_id,
        "organization_id": row.organization_id,
        "channel": row.channel,
        "operation": call.operation or row.operation,
        "provider": cut(used.provider, 40) or "",
        "model": cut(used.model, 120) or "",
        "requests": counted,
        "input_tokens": used.input_tokens,
        "output_tokens": used.output_tokens,
        "cached_tokens": used.cached_tokens,
        "cache_write_tokens": used.cache_write_tokens,
        "reasoning_tokens": used.reasoning_tokens,
        "pictures": used.pictures,
        "cost_microusd": used.cost_microusd,
        "credits_millicredits": credits.of_cost(used.cost_microusd),
        "estimated": used.estimated,
        "price_source": cut(used.price_source, 255) or "",
        "price_date": cut(used.price_date, 10),
        "created_at": at,
    }


def keep_pictures(connection: Connection, request_id: uuid.UUID, row: Any, ending: Ending, at: datetime) -> None:
    """A row for each picture that was made."""
    if not ending.pictures:
        return
    made = [
        {
            "id": new_id(),
            "request_id": request_id,
            "person_id": row.person_id,
            "organization_id": row.organization_id,
            "kind": AttachmentKind.MADE,
            "sha256": picture.stored.sha256,
            "media_type": picture.stored.media_type,
            "size_bytes": picture.stored.size_bytes,
            "width": picture.stored.width,
            "height": picture.stored.height,
            "seed": picture.seed,
            "actions": [list(action) for action in picture.actions],
            "created_at": at,
        }
        for picture in ending.pictures
    ]
    connection.execute(insert(Attachment), made)
