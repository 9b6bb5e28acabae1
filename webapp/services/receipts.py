"""The receipt of a request: when, by whom it was tried, what each call cost, what was held for it on which limit, and what of
it was used. Each part is read by the request's own index."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, select
from sqlalchemy.orm import Session

from webapp.contracts.errors import NotFound
from webapp.contracts.limits import Dimension, Window
from webapp.extensions import reading, table_of
from webapp.models import Attempt, DeadLetter, Hold, LedgerEntry, LimitCounter, Organization, Person, PersonRole, Request
from webapp.services import organizations

_request, _attempt, _ledger = table_of(Request), table_of(Attempt), table_of(LedgerEntry)
_hold, _letter, _counter = table_of(Hold), table_of(DeadLetter), table_of(LimitCounter)
ROWS_MAX = 500
"""How many calls, entries or holds a receipt shows; a request has a few."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the ledger says of one call, or of one message that was sent. `payer` is person or house."""

    id: uuid.UUID
    attempt_id: uuid.UUID | None
    payer: str
    operation: str
    provider: str
    model: str
    requests: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    pictures: int
    cost_microusd: int
    credits_millicredits: int
    estimated: bool
    price_source: str
    price_date: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class CallMade:
    """One call to a vendor. `detail` is the vendor's own words: for administrators."""

    id: uuid.UUID
    execution: int
    number: int
    provider: str | None
    model: str | None
    outcome: str
    error_code: str | None
    detail: str | None
    vendor_request_id: str | None
    input_tokens: int
    output_tokens: int
    cost_microusd: int
    first_piece_ms: int | None
    started_at: datetime
    ended_at: datetime

    @property
    def took_s(self) -> float:
        """Seconds from its beginning to its end."""
        return max(0.0, (self.ended_at - self.started_at).total_seconds())


@dataclass(frozen=True, slots=True)
class Held:
    """What was held of one limit, and used. `maximum` is the limit as it stood when it was last held, None if it is not counted
    any more."""

    id: int
    subject: str
    name: str
    dimension: Dimension
    window: Window
    starts_at: datetime
    provider: str | None
    held: int
    used: int
    maximum: int | None
    settled_at: datetime | None
    settled_by: str | None
    why: str | None


@dataclass(frozen=True, slots=True)
class Letter:
    """That it was set aside, and what became of that."""

    reason: str
    error_code: str
    last_error: str
    state: str
    replays: int
    created_at: datetime
    acted_at: datetime | None
    acted_by: str | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """Everything on record about what a request cost. Texts are not part of it but for `prompt` and `answer`, which the door
    shows to those whom they are for."""

    request_id: uuid.UUID
    person_id: uuid.UUID
    organization_id: uuid.UUID
    person: str
    organization: str
    channel: str
    operation: str
    status: str
    error_code: str | None
    provider: str | None
    model: str | None
    cached: bool
    input_tokens: int
    output_tokens: int
    cost_microusd: int
    credits_millicredits: int
    executions: int
    retries: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    prompt: str
    answer: str | None
    calls: tuple[CallMade, ...]
    entries: tuple[Entry, ...]
    holds: tuple[Held, ...]
    letter: Letter | None

    @property
    def house_microusd(self) -> int:
        """What the house paid for it: sorting, messages that were sent, calls of executions that had lost it."""
        return sum(entry.cost_microusd for entry in self.entries if entry.payer == "house")


def receipt(request_id: uuid.UUID) -> Receipt:
    """The receipt of a request. `NotFound`."""
    with reading() as connection:
        return _receipt(connection, request_id)


def receipt_for(person_id: uuid.UUID, request_id: uuid.UUID) -> Receipt:
    """The same for whoever may see it: the person themself, the managers of the organization in which it was made, and the
    installation's administrators. `NotFound` for everybody else."""
    with reading() as connection, Session(bind=connection) as session:
        person = session.get(Person, person_id)
        owner = connection.execute(
            select(_request.c.person_id, _request.c.organization_id).where(_request.c.id == request_id)
        ).first()
        if person is None or owner is None or not _may_see(connection, person, owner):
            raise NotFound("There is no such request.")
        return _receipt(connection, request_id)


def _may_see(connection: Connection, person: Person, owner: Any) -> bool:
    if person.is_admin:
        return True
    role = organizations.role_in(connection, person, owner.organization_id)
    return owner.person_id == person.id or role in (PersonRole.MANAGER, PersonRole.ADMIN)


def _receipt(connection: Connection, request_id: uuid.UUID) -> Receipt:
    row: Any = connection.execute(
        select(_request, Person.full_name, Person.email, Organization.name.label("organization"))
        .join(Person, Person.id == _request.c.person_id)
        .join(Organization, Organization.id == _request.c.organization_id)
        .where(_request.c.id == request_id)
    ).first()
    if row is None:
        raise NotFound("There is no such request.")
    letter = connection.execute(select(_letter).where(_letter.c.request_id == request_id)).first()
    copied = (
        "person_id",
        "organization_id",
        "organization",
        "channel",
        "operation",
        "status",
        "error_code",
        "provider",
        "model",
    )
    figures = ("cached", "input_tokens", "output_tokens", "cost_microusd", "credits_millicredits", "retries")
    moments = ("created_at", "started_at", "ended_at", "prompt", "answer")
    return Receipt(
        request_id=request_id,
        person=row.full_name or row.email or "",
        executions=row.attempts,
        calls=_calls(connection, request_id),
        entries=_entries(connection, request_id),
        holds=_holds(connection, request_id),
        letter=None if letter is None else Letter(*(getattr(letter, name) for name in Letter.__slots__)),
        **{name: getattr(row, name) for name in (*copied, *figures, *moments)},
    )


def _calls(connection: Connection, request_id: uuid.UUID) -> tuple[CallMade, ...]:
    query = select(*(_attempt.c[name] for name in CallMade.__slots__)).where(_attempt.c.request_id == request_id)
    ordered = query.order_by(_attempt.c.execution, _attempt.c.number).limit(ROWS_MAX)
    return tuple(CallMade(*row) for row in connection.execute(ordered))


def _entries(connection: Connection, request_id: uuid.UUID) -> tuple[Entry, ...]:
    query = select(*(_ledger.c[name] for name in Entry.__slots__)).where(_ledger.c.request_id == request_id)
    ordered = query.order_by(_ledger.c.created_at, _ledger.c.id).limit(ROWS_MAX)
    return tuple(Entry(*row) for row in connection.execute(ordered))


def _holds(connection: Connection, request_id: uuid.UUID) -> tuple[Held, ...]:
    same = [_counter.c[name] == _hold.c[name] for name in ("subject", "name", "period", "starts_at")]
    query = (
        select(_hold, _counter.c.maximum)
        .select_from(_hold.outerjoin(_counter, and_(*same)))
        .where(_hold.c.request_id == request_id)
        .order_by(_hold.c.id)
        .limit(ROWS_MAX)
    )
    return tuple(
        Held(
            row.id,
            row.subject,
            row.name,
            Dimension(row.dimension),
            Window(row.period),
            row.starts_at,
            row.provider,
            row.amount,
            row.used,
            row.maximum,
            row.settled_at,
            row.settled_by,
            row.why,
        )
        for row in connection.execute(query)
    )
