"""What was set aside, as lists for pages and commands. The acts are `webapp.pipeline.replay`'s."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select

from webapp.contracts.errors import BadInput, NotFound
from webapp.extensions import reading
from webapp.models import DeadLetter, LetterState, Person, Request
from webapp.models.jobs import REASONS

PAGE = 50
COUNTED_MAX = 100_000
_SHOWN_CHARS = 400


@dataclass(frozen=True, slots=True)
class Reason:
    """How many requests were set aside for one reason and are still open."""

    name: str
    meaning: str
    open: int


@dataclass(frozen=True, slots=True)
class Letter:
    """A request that was set aside. `last_error` may be a vendor's or a plugin's own words."""

    request_id: uuid.UUID
    person: str
    channel: str
    operation: str
    reason: str
    error_code: str
    last_error: str
    attempts: int
    state: str
    replays: int
    asked_at: datetime
    created_at: datetime
    acted_at: datetime | None
    acted_by: str


def reasons() -> list[Reason]:
    """Every reason, with the number of requests that are open for it."""
    counted = select(DeadLetter.reason, func.count()).where(DeadLetter.state == LetterState.OPEN).group_by(DeadLetter.reason)
    with reading() as connection:
        found = {row[0]: int(row[1]) for row in connection.execute(counted)}
    return [Reason(name, meaning, found.get(name, 0)) for name, meaning in REASONS.items()]


def letters(reason: str = "", state: str = LetterState.OPEN, after: uuid.UUID | None = None, size: int = PAGE) -> list[Letter]:
    """Those in a state, for one reason or all, newest first: `after` is the last id of the page before. `BadInput` for a reason
    or a state that there is not."""
    if reason and reason not in REASONS:
        raise BadInput("reason", f"There is no reason {reason[:40]!r}: {', '.join(REASONS)}.")
    if state not in set(LetterState):
        raise BadInput("state", f"There is no state {state[:40]!r}: {', '.join(LetterState)}.")
    query = _query().where(DeadLetter.state == state)
    if reason:
        query = query.where(DeadLetter.reason == reason)
    if after is not None:
        query = query.where(DeadLetter.request_id < after)
    with reading() as connection:
        return [_letter(row) for row in connection.execute(query.order_by(DeadLetter.request_id.desc()).limit(size))]


def count(reason: str = "", state: str = LetterState.OPEN) -> int:
    """How many are in a state, for one reason or all; counted up to `COUNTED_MAX`."""
    query = select(DeadLetter.request_id).where(DeadLetter.state == state).limit(COUNTED_MAX)
    some = (query.where(DeadLetter.reason == reason) if reason else query).subquery()
    with reading() as connection:
        return connection.execute(select(func.count()).select_from(some)).scalar_one()


def letter(request_id: uuid.UUID) -> Letter:
    """One of them, whole. `NotFound` if the request was never set aside."""
    with reading() as connection:
        row = connection.execute(_query().where(DeadLetter.request_id == request_id)).first()
    if row is None:
        raise NotFound("This request was not set aside.")
    return _letter(row, whole=True)


def _query() -> Select[Any]:
    return (
        select(
            *DeadLetter.__table__.c,
            Request.channel,
            Request.operation,
            Request.created_at.label("asked_at"),
            Person.full_name,
            Person.email,
            Request.person_id,
        )
        .join(Request, Request.id == DeadLetter.request_id)
        .join(Person, Person.id == Request.person_id)
    )


def _letter(row: Any, *, whole: bool = False) -> Letter:
    return Letter(
        request_id=row.request_id,
        person=row.full_name or row.email or f"person {row.person_id}",
        channel=row.channel,
        operation=row.operation,
        reason=row.reason,
        error_code=row.error_code,
        last_error=row.last_error if whole else row.last_error[:_SHOWN_CHARS],
        attempts=row.attempts,
        state=row.state,
        replays=row.replays,
        asked_at=row.asked_at,
        created_at=row.created_at,
        acted_at=row.acted_at,
        acted_by=row.acted_by or "",
    )
