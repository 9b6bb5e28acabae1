"""Messages in and out, as their people, the managers of an organization, and administrators find them.

A message belongs to the organization of its request; one without a request to where its person works. A list follows the ids,
by the index of a person, a request or an address where one of them is named, and looks at most at `LOOKED_MAX` messages for a
page, which so may have fewer lines than asked for, or none, and still a cursor. Managers read no texts of others.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, or_, select

from webapp.contracts.errors import NotFound
from webapp.contracts.texts import clean
from webapp.extensions import reading, table_of
from webapp.models import Delivery, DeliveryKind, Person, Receipt, Request
from webapp.services import id_ranges
from webapp.services.request_lists import Scope, Whose

PAGE_MAX = 100
LOOKED_MAX = 5_000
COUNTED_MAX = 50_000
_delivery, _receipt = table_of(Delivery), table_of(Receipt)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which messages are wanted; None means any. The range of time has its beginning and not its end."""

    status: str | None = None
    direction: str | None = None
    channel: str | None = None
    kind: str | None = None
    address: str | None = None
    person_id: uuid.UUID | None = None
    request_id: uuid.UUID | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """A message. `body` and `subject` are None where they are not for the reader; so are `external_id` and `error_message`, the
    vendor's own words, for all but administrators. `cost_microusd` is None until the vendor has told the price."""

    id: uuid.UUID
    channel: str
    medium: str
    direction: str
    kind: str
    status: str
    person_id: uuid.UUID | None
    request_id: uuid.UUID | None
    address: str
    our_address: str
    subject: str | None
    body: str | None
    external_id: str | None
    error_code: str | None
    error_message: str | None
    segments: int | None
    cost_microusd: int | None
    attempts: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ReceiptView:
    """What a vendor said about a message."""

    status: str
    error_code: str | None
    received_at: datetime


_COLUMNS = tuple(_delivery.c[name] for name in DeliveryView.__slots__)


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """A page of a list. `next_id` is where it goes on, None at its end; `total` is None where it was not asked for, or where
    more than `COUNTED_MAX` messages would have to be looked at."""

    lines: tuple[DeliveryView, ...]
    next_id: uuid.UUID | None
    total: int | None = None


def page(
    scope: Scope, wanted: Wanted | None = None, *, after: uuid.UUID | None = None, size: int = 20, total: bool = False
) -> DeliveryPage:
    """A page of the messages that somebody may see, the latest first. `after` is `next_id` of the page before."""
    size, wanted = min(max(1, size), PAGE_MAX), wanted or Wanted()
    ids = _delivery.c.id
    track = [*_track(scope, wanted), *id_ranges.within(ids, wanted.created_from, wanted.created_to)]
    near = select(ids).where(*track).order_by(ids.desc()).limit(LOOKED_MAX)
    if after is not None:
        near = near.where(ids < after)
    looked = near.subquery()
    with reading() as connection:
        last = _last(connection, looked)
        query = _visible(scope, select(*_COLUMNS)).where(*track, *_sieve(wanted)).order_by(ids.desc()).limit(size + 1)
        if after is not None:
            query = query.where(ids < after)
        if last is not None:
            query = query.where(ids >= last)
        rows: Sequence[Any] = connection.execute(query).all()
        count = _total(connection, scope, wanted, track) if total else None
    lines = tuple(_view(scope, row) for row in rows[:size])
    return DeliveryPage(lines, lines[-1].id if len(rows) > size else last, count)


def one(scope: Scope, delivery_id: uuid.UUID) -> tuple[DeliveryView, tuple[ReceiptView, ...]]:
    """A message with its receipts in the order in which they came. `NotFound` if it is not theirs to see."""
    with reading() as connection:
        row: Any = connection.execute(_visible(scope, select(*_COLUMNS)).where(_delivery.c.id == delivery_id)).first()
        if row is None:
            raise NotFound("There is no such message.")
        columns = (_receipt.c.status, _receipt.c.error_code, _receipt.c.received_at)
        told = connection.execute(
            select(*columns).where(_receipt.c.delivery_id == delivery_id).order_by(_receipt.c.received_at, _receipt.c.id)
        ).all()
    return _view(scope, row), tuple(ReceiptView(*each) for each in told)


# -- parts ---------------------------------------------------------------------------------------------------------------
def _visible(scope: Scope, query: Select[Any]) -> Select[Any]:
    """The query within what somebody may see."""
    if scope.whose is Whose.ALL:
        return query.select_from(_delivery)
    joined = _delivery.outerjoin(Request, Request.id == _delivery.c.request_id)
    here = Request.organization_id == scope.organization_id
    bare = _delivery.c.request_id.is_(None)
    mine = (_delivery.c.person_id == scope.reader_id) & or_(bare, here)
    if scope.whose is Whose.OWN:
        return query.select_from(joined).where(mine)
    joined = joined.outerjoin(Person, Person.id == _delivery.c.person_id)
    return query.select_from(joined).where(or_(mine, here, bare & (Person.organization_id == scope.organization_id)))


def _track(scope: Scope, wanted: Wanted) -> list[ColumnElement[bool]]:
    """What one index follows in the order of the ids: the narrowest that is named."""
    if wanted.request_id is not None:
        return [_delivery.c.request_id == wanted.request_id]
    if scope.whose is Whose.OWN:
        return [_delivery.c.person_id == scope.reader_id]
    if wanted.person_id is not None:
        return [_delivery.c.person_id == wanted.person_id]
    return [] if wanted.address is None else [_delivery.c.address == clean(wanted.address)]


def _sieve(wanted: Wanted) -> list[ColumnElement[bool]]:
    # Not the bare columns: SQLite would follow an index of one of these instead, and read and sort all that it leads to.
    texts = ((name, getattr(wanted, name)) for name in ("status", "direction", "channel", "kind", "address"))
    found: list[ColumnElement[bool]] = [_delivery.c[name].concat("") == value for name, value in texts if value is not None]
    ids = ((name, getattr(wanted, name)) for name in ("person_id", "request_id"))
    found += [_delivery.c[name] == value for name, value in ids if value is not None]
    if wanted.created_from is not None:
        found.append(_delivery.c.created_at >= wanted.created_from)
    if wanted.created_to is not None:
        found.append(_delivery.c.created_at < wanted.created_to)
    return found


def _last(connection: Connection, looked: Any) -> uuid.UUID | None:
    """The last of those that are looked at, None if there are no more after them."""
    if connection.execute(select(func.count()).select_from(looked)).scalar_one() < LOOKED_MAX:
        return None
    return connection.scalar(select(looked.c.id).order_by(looked.c.id.asc()).limit(1))


def _total(connection: Connection, scope: Scope, wanted: Wanted, track: Sequence[ColumnElement[bool]]) -> int | None:
    some = select(_delivery.c.id).where(*track).limit(COUNTED_MAX + 1).subquery()
    if connection.execute(select(func.count()).select_from(some)).scalar_one() > COUNTED_MAX:
        return None
    found: int = connection.execute(_visible(scope, select(func.count())).where(*track, *_sieve(wanted))).scalar_one()
    return found


def _view(scope: Scope, row: Any) -> DeliveryView:
    values = row._asdict()
    # A notice to nobody known carries an invitation, and so its link: that is for whoever it is addressed to.
    sealed = row.kind == DeliveryKind.NOTICE and row.person_id is None
    if sealed or not (scope.truth or (row.person_id is not None and row.person_id == scope.reader_id)):
        values |= {"body": None, "subject": None}
    if not scope.truth:
        values |= {"external_id": None, "error_message": None}
    return DeliveryView(**values)
