"""What the simulator shows: a phone's messages, and what happened to each. Six statements, however many messages there are."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, select

from webapp.contracts.channels import Consent, DeliveryStatus
from webapp.contracts.consent import consent_of
from webapp.contracts.limits import Dimension
from webapp.contracts.segments import encoding, segments
from webapp.extensions import reading
from webapp.models import (
    ENDED,
    Attempt,
    Delivery,
    Direction,
    Hold,
    Identity,
    LedgerEntry,
    Person,
    Plan,
    Receipt,
    Request,
)

NEWEST = 50
MEDIUM = "sms"
_MOVING = (DeliveryStatus.PENDING, DeliveryStatus.SENDING)


@dataclass(frozen=True, slots=True)
class ReceiptLine:
    """What a vendor said about a message."""

    status: str
    error_code: str | None
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the phone, seen from here: `direction` in is what the phone sent. `parts` are SMS segments."""

    id: uuid.UUID
    direction: str
    kind: str
    channel: str
    body: str
    status: str
    error_code: str | None
    error_message: str | None
    segments: int | None
    cost_microusd: int | None
    request_id: uuid.UUID | None
    created_at: datetime
    updated_at: datetime
    receipts: tuple[ReceiptLine, ...] = ()

    @property
    def incoming(self) -> bool:
        return self.direction == Direction.IN

    @property
    def moving(self) -> bool:
        return not self.incoming and self.status in _MOVING

    @property
    def parts(self) -> int:
        return self.segments or (segments(self.body) if self.body else 0)

    @property
    def encoding(self) -> str:
        return "GSM-7" if encoding(self.body) == "gsm7" else "UCS-2"


@dataclass(frozen=True, slots=True)
class HoldLine:
    """What a request held of a limit. `settled_at` is None while it still does."""

    name: str
    window: str
    dimension: Dimension
    amount: int
    settled_at: datetime | None

    @property
    def what(self) -> str:
        """What it is an amount of. A limit on requests is named after what it counts: messages, images…"""
        if self.dimension is Dimension.COST:
            return "of spending"
        word = self.name if self.dimension is Dimension.REQUESTS else self.dimension.value
        return word.removesuffix("s") if self.amount == 1 else word


@dataclass(frozen=True, slots=True)
class AttemptLine:
    """One call to a provider."""

    number: int
    provider: str | None
    model: str | None
    outcome: str
    error_code: str | None
    started_at: datetime
    ended_at: datetime


@dataclass(slots=True)
class Work:
    """The request that a message became. `estimated` is None where nothing was charged."""

    id: uuid.UUID
    status: str
    queue: str
    priority: int
    category: str | None
    complexity: float | None
    error_code: str | None
    error_message: str | None
    provider: str | None
    model: str | None
    input_tokens: int
    output_tokens: int
    cost_microusd: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    estimated: bool | None
    price_source: str | None
    holds: list[HoldLine] = field(default_factory=list)
    attempts: list[AttemptLine] = field(default_factory=list)

    @property
    def running(self) -> bool:
        return self.status not in ENDED

    @property
    def waited_s(self) -> float | None:
        return (self.started_at - self.created_at).total_seconds() if self.started_at else None


@dataclass(frozen=True, slots=True)
class Story:
    """A message that came in, what it became, and what was sent for it. `consent` is how its words are understood.

    `opted_out` says that the number certainly had opted out when it came. What else held for its owner at that time is not
    kept, so for other messages without a request there is no reason to name.
    """

    message: Message
    work: Work | None
    answers: tuple[Message, ...]
    consent: Consent | None = None
    opted_out: bool = False


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose phone it is."""

    person_id: uuid.UUID
    name: str
    plan: str
    active: bool
    opted_out_at: datetime | None
    consent_word: str | None


@dataclass(frozen=True, slots=True)
class Phone:
    """A phone and its stories. `running` says that something is still going to happen by itself."""

    address: str
    owner: Owner | None
    messages: tuple[Message, ...]
    stories: tuple[Story, ...]

    @property
    def running(self) -> bool:
        return any(m.moving for m in self.messages) or any(s.work is not None and s.work.running for s in self.stories)


_WORK = (
    Request.id,
    Request.status,
    Request.queue,
    Request.priority,
    Request.category,
    Request.complexity,
    Request.error_code,
    Request.error_message,
    Request.provider,
    Request.model,
    Request.input_tokens,
    Request.output_tokens,
    Request.cost_microusd,
    Request.created_at,
    Request.started_at,
    Request.ended_at,
    LedgerEntry.estimated,
    LedgerEntry.price_source,
)


def look(address: str) -> Phone:
    """The phone with this address: its newest messages, oldest first, and what happened to each, newest first."""
    with reading() as connection:
        owner = _owner(connection, address)
        messages = _messages(connection, address)
        work = _work(connection, {m.request_id for m in messages if m.request_id is not None})
    since = owner.opted_out_at if owner else None
    stories = tuple(_story(m, messages, work, since) for m in reversed(messages) if m.incoming)
    return Phone(address, owner, messages, stories)


def _story(
    message: Message, messages: Sequence[Message], work: Mapping[uuid.UUID, Work], opted_out_at: datetime | None
) -> Story:
    if message.request_id is not None:
        answers = [m for m in messages if not m.incoming and m.request_id == message.request_id]
        return Story(message, work.get(message.request_id), tuple(answers))
    # A notice without a request is written together with the message that it answers, at the same moment.
    notices = [m for m in messages if not m.incoming and m.request_id is None and m.created_at == message.created_at]
    out = _had_opted_out(message, messages, opted_out_at)
    return Story(message, None, tuple(notices), consent_of(message.body, opted_out=out), out)


def _had_opted_out(message: Message, messages: Sequence[Message], opted_out_at: datetime | None) -> bool:
    """Whether the number had opted out when `message` came: since the moment that is kept, or by the last word before it."""
    if opted_out_at is not None and opted_out_at < message.created_at:
        return True
    out = False
    for earlier in messages:
        if earlier.id == message.id:
            break
        if earlier.incoming and (word := consent_of(earlier.body, opted_out=out)) in (Consent.STOP, Consent.START):
            out = word is Consent.STOP
    return out


def known_numbers(size: int = 20) -> list[str]:
    """Numbers to choose from: those of the persons who are here longest."""
    with reading() as connection:
        query = select(Identity.address).where(Identity.medium == MEDIUM).order_by(Identity.id).limit(size)
        return list(connection.execute(query).scalars())


def _owner(connection: Connection, address: str) -> Owner | None:
    query = (
        select(Person.id, Person.full_name, Plan.name, Person.active, Identity.opted_out_at, Identity.consent_word)
        .select_from(Identity)
        .join(Person, Person.id == Identity.person_id)
        .join(Plan, Plan.code == Person.plan_code)
        .where(Identity.medium == MEDIUM, Identity.address == address)
    )
    row = connection.execute(query).first()
    return Owner(*row) if row else None


def _messages(connection: Connection, address: str) -> tuple[Message, ...]:
    query = (
        select(
            Delivery.id,
            Delivery.direction,
            Delivery.kind,
            Delivery.channel,
            Delivery.body,
            Delivery.status,
            Delivery.error_code,
            Delivery.error_message,
            Delivery.segments,
            Delivery.cost_microusd,
            Delivery.request_id,
            Delivery.created_at,
            Delivery.updated_at,
        )
        .where(Delivery.address == address, Delivery.medium == MEDIUM)
        .order_by(Delivery.id.desc())
        .limit(NEWEST)
    )
    rows: Sequence[Any] = connection.execute(query).all()
    receipts: dict[uuid.UUID, list[ReceiptLine]] = defaultdict(list)
    sent = [row.id for row in rows if row.direction == Direction.OUT]
    if sent:
        query_receipts = (
            select(Receipt.delivery_id, Receipt.status, Receipt.error_code, Receipt.received_at)
            .where(Receipt.delivery_id.in_(sent))
            .order_by(Receipt.id)
        )
        told: Sequence[Any] = connection.execute(query_receipts).all()
        for delivery_id, *line in told:
            receipts[delivery_id].append(ReceiptLine(*line))
    whole: Sequence[Any] = [(*row, tuple(receipts[row.id])) for row in reversed(rows)]
    return tuple(Message(*fields) for fields in whole)


def _work(connection: Connection, request_ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, Work]:
    ids = list(request_ids)
    if not ids:
        return {}
    query = (
        select(*_WORK)
        .select_from(Request)
        # The house may have paid for calls of its own, such as sorting.
        .outerjoin(LedgerEntry, and_(LedgerEntry.request_id == Request.id, LedgerEntry.payer == "person"))
        .where(Request.id.in_(ids))
    )
    rows: Sequence[Any] = connection.execute(query).all()
    found = {row.id: Work(*row) for row in rows}
    held = select(Hold.request_id, Hold.name, Hold.period, Hold.dimension, Hold.amount, Hold.settled_at)
    for request_id, name, window, dimension, amount, settled_at in connection.execute(
        held.where(Hold.request_id.in_(ids)).order_by(Hold.id)
    ):
        found[request_id].holds.append(HoldLine(name, window, Dimension(dimension), amount, settled_at))
    tried = select(
        Attempt.request_id,
        Attempt.number,
        Attempt.provider,
        Attempt.model,
        Attempt.outcome,
        Attempt.error_code,
        Attempt.started_at,
        Attempt.ended_at,
    )
    calls: Sequence[Any] = connection.execute(
        tried.where(Attempt.request_id.in_(ids)).order_by(Attempt.execution, Attempt.number)
    ).all()
    for request_id, *line in calls:
        found[request_id].attempts.append(AttemptLine(*line))
    return found
