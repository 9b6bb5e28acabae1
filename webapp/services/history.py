"""What a person asked and was answered, and what they have used of their plan: the reading side of the chat and settings pages.

Every function takes the person's id and the organization that they are working in, and sees nothing of anybody else, nor of
what the person does in another organization. Each is one statement, but for `again_key` and for
exchanges in which something went wrong: those take a second one for what was tried.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Select, and_, case, exists, func, null, or_, select

from webapp.contracts.errors import NotFound
from webapp.extensions import now, reading
from webapp.models import ENDED, Conversation, LedgerEntry, Request, RequestStatus
from webapp.routing.route import IMAGES
from webapp.services import erasing, why
from webapp.services.why import Why

PAGE_CONVERSATIONS = 30
PAGE_EXCHANGES = 50
_TRIES_FOLLOWED = 20
"""Whoever was refused more often than this is led to the last of the refused ones, from which it goes on."""


@dataclass(frozen=True, slots=True)
class ConversationLine:
    """A line of the list of conversations. `by_sms` says that some of it came by text message."""

    id: uuid.UUID
    title: str
    last_activity_at: datetime
    by_sms: bool

    @property
    def cursor(self) -> str:
        """Where the list goes on after this line."""
        return f"{self.last_activity_at.isoformat()}_{self.id}"


@dataclass(frozen=True, slots=True)
class Exchange:
    """A prompt and what became of it. Times are aware UTC; `estimated` means that tokens were not counted by the vendor.

    `given` and `made` are the SHA-256 of pictures that came with it and were made for it. `cached` means that the answer was
    kept from an identical request. `why` is None where nothing is on record about the model. `erased_days` says after
    how many days its content was erased, None if it was not.
    """

    id: uuid.UUID
    conversation_id: uuid.UUID | None
    channel: str
    prompt: str
    status: str
    answer: str | None
    finish: str | None
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
    cancel_asked_at: datetime | None
    not_before: datetime | None
    operation: str
    parameters: Mapping[str, Any]
    cached: bool
    estimated: bool
    made: tuple[str, ...]
    why: Why | None
    erased_days: int | None = None

    @property
    def given(self) -> tuple[str, ...]:
        return tuple(self.parameters.get("pictures") or ())

    @property
    def waits_until(self) -> datetime | None:
        """When it will be begun, for a request that waits for its vendor's cheaper hours, or, if it was `tried`, to be tried
        again; None for any other."""
        waits = self.status == RequestStatus.QUEUED and self.not_before is not None and self.not_before > now()
        return self.not_before if waits else None

    @property
    def tried(self) -> bool:
        """Whether it was begun before."""
        return self.started_at is not None

    @property
    def running(self) -> bool:
        return self.status not in ENDED

    @property
    def waiting(self) -> bool:
        return self.status == RequestStatus.QUEUED

    @property
    def age_s(self) -> int:
        """Whole seconds since it was sent."""
        return max(0, int((now() - self.created_at).total_seconds()))

    @property
    def took_s(self) -> float | None:
        """Seconds from the start of the answer to its end, without the time in the queue."""
        if self.started_at is None or self.ended_at is None:
            return None
        return max(0.0, (self.ended_at - self.started_at).total_seconds())


_FIELDS = (
    Request.id,
    Request.conversation_id,
    Request.channel,
    Request.prompt,
    Request.status,
    Request.answer,
    Request.finish,
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
    Request.cancel_asked_at,
    Request.not_before,
    Request.operation,
    Request.parameters,
    Request.cached,
    # A request has an entry for each call that used something, and the house may have paid for some.
    select(func.max(case((LedgerEntry.estimated, 1), else_=0)))
    .where(LedgerEntry.request_id == Request.id, LedgerEntry.payer == "person")
    .correlate(Request)
    .scalar_subquery()
    .label("estimated"),
)
_BESIDE = (
    # What else a request may have as its result can be long, and is in its answer.
    case((Request.operation == IMAGES, Request.result), else_=null()).label("result"),
    Request.route,
    Request.attempts,
    Request.extra[erasing.MARK].as_integer().label("erased_days"),
)


def _exchanges(person_id: uuid.UUID, organization_id: uuid.UUID) -> Select[*tuple[Any, ...]]:
    return select(*_FIELDS, *_BESIDE).where(Request.person_id == person_id, Request.organization_id == organization_id)


def _read(rows: Sequence[Any]) -> list[Exchange]:
    calls = why.codes(row.id for row in rows if row.status in ENDED and why.needs_codes(row.route, row.attempts))
    return [
        Exchange(
            *(
                *row[: len(_FIELDS) - 1],
                bool(row.estimated),
                tuple(picture["sha256"] for picture in (row.result or {}).get("pictures", ())),
                why.tell(row.route, calls.get(row.id, [])),
                row.erased_days,
            )
        )
        for row in rows
    ]


def conversations(
    person_id: uuid.UUID, organization_id: uuid.UUID, after: str = "", size: int = PAGE_CONVERSATIONS
) -> list[ConversationLine]:
    """A person's conversations, the latest activity first; `after` is the cursor of the last line of the page before."""
    by_sms = exists().where(Request.conversation_id == Conversation.id, Request.channel == "sms")
    query = (
        select(Conversation.id, Conversation.title, Conversation.last_activity_at, by_sms)
        .where(Conversation.person_id == person_id, Conversation.organization_id == organization_id)
        .order_by(Conversation.last_activity_at.desc(), Conversation.id.desc())
        .limit(size)
    )
    if position := _position(after):
        at, last = position
        query = query.where(
            or_(
                Conversation.last_activity_at < at,
                and_(Conversation.last_activity_at == at, Conversation.id < last),
            )
        )
    with reading() as connection:
        return [ConversationLine(*row) for row in connection.execute(query)]


def _position(cursor: str) -> tuple[datetime, uuid.UUID] | None:
    """The moment and id in a cursor; None, which is the beginning, for anything that is not one."""
    at, _, last = cursor.partition("_")
    try:
        moment = datetime.fromisoformat(at)
        # At the ends of the calendar there is no such time in UTC.
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC), uuid.UUID(last)
    except (ValueError, OverflowError):
        return None


def latest_conversation(person_id: uuid.UUID, organization_id: uuid.UUID) -> uuid.UUID | None:
    """The conversation that was active last."""
    query = (
        select(Conversation.id)
        .where(Conversation.person_id == person_id, Conversation.organization_id == organization_id)
        .order_by(Conversation.last_activity_at.desc(), Conversation.id.desc())
        .limit(1)
    )
    with reading() as connection:
        return connection.execute(query).scalar()


def title(person_id: uuid.UUID, organization_id: uuid.UUID, conversation_id: uuid.UUID) -> str:
    """The conversation's title; `NotFound` if it is not theirs."""
    query = select(Conversation.title).where(
        Conversation.id == conversation_id,
        Conversation.person_id == person_id,
        Conversation.organization_id == organization_id,
    )
    with reading() as connection:
        found = connection.execute(query).scalar()
    if found is None:
        raise NotFound("There is no such conversation.")
    return found


def exchanges(
    person_id: uuid.UUID,
    organization_id: uuid.UUID,
    conversation_id: uuid.UUID,
    before: uuid.UUID | None = None,
    size: int = PAGE_EXCHANGES,
) -> tuple[list[Exchange], bool]:
    """(the newest exchanges of a conversation, or those before a request; oldest first; whether there are earlier ones)."""
    query = _exchanges(person_id, organization_id).where(Request.conversation_id == conversation_id)
    if before is not None:
        query = query.where(Request.id < before)
    with reading() as connection:
        rows: Sequence[Any] = connection.execute(query.order_by(Request.id.desc()).limit(size + 1)).all()
    return _read(list(reversed(rows[:size]))), len(rows) > size


def exchange(person_id: uuid.UUID, organization_id: uuid.UUID, request_id: uuid.UUID) -> Exchange:
    """One exchange; `NotFound` if it is not theirs."""
    with reading() as connection:
        row = connection.execute(_exchanges(person_id, organization_id).where(Request.id == request_id)).first()
    if row is None:
        raise NotFound("There is no such request.")
    return _read([row])[0]


def again_key(person_id: uuid.UUID, request_id: uuid.UUID) -> str:
    """The key under which a request is asked once more. Pressed twice it is the same one, unless a limit refused the other try:
    that one is then what is asked once more, or nobody could ever try again."""
    key = f"again-{request_id}"
    with reading() as connection:
        for _ in range(_TRIES_FOLLOWED):
            query = select(Request.id).where(
                Request.person_id == person_id,
                Request.idempotency_key == key,
                Request.status == RequestStatus.REJECTED,
            )
            refused = connection.execute(query).scalar()
            if refused is None:
                break
            key = f"again-{refused}"
    return key


def owns(person_id: uuid.UUID, organization_id: uuid.UUID, request_id: uuid.UUID) -> bool:
    """Whether the request is theirs."""
    with reading() as connection:
        query = select(Request.id).where(
            Request.id == request_id, Request.person_id == person_id, Request.organization_id == organization_id
        )
        return connection.execute(query).first() is not None
