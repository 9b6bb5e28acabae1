"""A person's conversations where they work: the list, one of them, and what may be changed of it.

A page of the list follows the index of the person's conversations by their latest activity; where something is looked for, at
most `LOOKED_MAX` of them are looked at, and the list goes on from there.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, func, or_, select, update

from webapp.contracts.errors import BadInput, NotFound
from webapp.contracts.texts import bare, clean
from webapp.extensions import reading, table_of, writing
from webapp.models import Conversation

TITLE_CHARS = 120
SEARCH_CHARS = 100
LOOKED_MAX = 2_000
_NONE = "There is no such conversation."

_talk = table_of(Conversation)
_NAMES = ("id", "title", "active", "created_at", "last_activity_at")
_columns = [_talk.c[name] for name in _NAMES]


@dataclass(frozen=True, slots=True)
class ConversationView:
    """A conversation. One that is not active is not gone on with by itself."""

    id: uuid.UUID
    title: str
    active: bool
    created_at: datetime
    last_activity_at: datetime


@dataclass(frozen=True, slots=True)
class ConversationPage:
    """A page of the list; `next` is where it goes on, None at its end."""

    lines: tuple[ConversationView, ...]
    next: tuple[datetime, uuid.UUID] | None
    total: int | None = None


def page(
    person_id: uuid.UUID,
    organization_id: uuid.UUID,
    *,
    active: bool | None = None,
    q: str = "",
    after: tuple[datetime, uuid.UUID] | None = None,
    size: int = 20,
    total: bool = False,
) -> ConversationPage:
    """A person's conversations, the latest activity first. `q` is a part of the title."""
    mine = and_(_talk.c.person_id == person_id, _talk.c.organization_id == organization_id)
    text = clean(q).strip()[:SEARCH_CHARS]
    place, ids = _talk.c.last_activity_at, _talk.c.id
    some = select(*_columns).where(mine).order_by(place.desc(), ids.desc()).limit(LOOKED_MAX)
    if after is not None:
        some = some.where(or_(place < after[0], and_(place == after[0], ids < after[1])))
    looked = some.subquery()
    query = select(looked).order_by(looked.c.last_activity_at.desc(), looked.c.id.desc()).limit(size + 1)
    if active is not None:
        query = query.where(looked.c.active == active)
    if text:
        query = query.where(looked.c.title.icontains(text, autoescape=True))
    with reading() as connection:
        rows: list[Any] = list(connection.execute(query))
        last: Any = None
        if len(rows) <= size and (active is not None or text):
            # A bounded OFFSET: whether there are more than were looked at.
            last = connection.execute(some.offset(LOOKED_MAX - 1).limit(1)).first()
        count = None
        if total:
            counted = select(func.count()).select_from(_talk).where(mine)
            if active is not None:
                counted = counted.where(_talk.c.active == active)
            if text:
                counted = counted.where(_talk.c.title.icontains(text, autoescape=True))
            count = connection.execute(counted).scalar_one()
    end = rows[size - 1] if len(rows) > size else last
    lines = tuple(ConversationView(**{name: getattr(row, name) for name in _NAMES}) for row in rows[:size])
    return ConversationPage(lines, None if end is None else (end.last_activity_at, end.id), count)


def one(person_id: uuid.UUID, organization_id: uuid.UUID, conversation_id: uuid.UUID) -> ConversationView:
    """A conversation; `NotFound` if it is not theirs."""
    query = select(*_columns).where(*_mine(person_id, organization_id, conversation_id))
    with reading() as connection:
        row: Any = connection.execute(query).first()
    if row is None:
        raise NotFound(_NONE)
    return ConversationView(*row)


def change(
    person_id: uuid.UUID,
    organization_id: uuid.UUID,
    conversation_id: uuid.UUID,
    *,
    title: str | None = None,
    active: bool | None = None,
) -> ConversationView:
    """Name it anew, close it, or open it again; None stays as it is. `BadInput` for a title that is none, `NotFound`."""
    values: dict[str, Any] = {}
    if title is not None:
        values["title"] = " ".join(bare(title).split())
        if not 0 < len(values["title"]) <= TITLE_CHARS:
            raise BadInput("title", f"A title has 1 to {TITLE_CHARS} characters.")
    if active is not None:
        values["active"] = active
    mine = _mine(person_id, organization_id, conversation_id)
    if values:
        with writing() as connection:
            if not connection.execute(update(_talk).where(*mine).values(**values)).rowcount:
                raise NotFound(_NONE)
    return one(person_id, organization_id, conversation_id)


def _mine(person_id: uuid.UUID, organization_id: uuid.UUID, conversation_id: uuid.UUID) -> tuple[Any, ...]:
    return (
        _talk.c.id == conversation_id,
        _talk.c.person_id == person_id,
        _talk.c.organization_id == organization_id,
    )
