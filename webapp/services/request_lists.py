"""Requests as their people, the managers of an organization, and administrators find them: lists, a page at a time, and one
request with everything about it.

A page costs two statements on an index, and a third where there are pictures, however many requests there are: the index of
the conversation, the person or the organization is followed from the cursor, and at most `LOOKED_MAX` of its requests are
looked at (`SEARCHED_MAX` where texts are searched). A page may so have fewer lines than asked for, or none, and still a
cursor; the list is at its end where there is none.

A search finds the words as they stand, in the prompt or the answer, capital or small (on SQLite only the letters A to Z are the
same so). Managers read no texts of others: a search of theirs finds what they asked themselves.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, or_, select

from webapp.contracts.errors import NotFound
from webapp.contracts.texts import clean
from webapp.extensions import reading, table_of
from webapp.models import ENDED, Attempt, Request
from webapp.services import erasing, why
from webapp.services.receipts import ROWS_MAX, CallMade
from webapp.services.request_pictures import RequestPicture, media_type, of_requests
from webapp.services.why import Why

PAGE_MAX = 100
LOOKED_MAX = 10_000
SEARCHED_MAX = 5_000
COUNTED_MAX = 50_000
SEARCH_CHARS = 200
_LATE_MS = 3_600_000
"""A request gets its id at most this long after its moment, once the transaction has got its turn."""
_EARLY_MS = 1_000
_LAST_MS = 2**48 - 1

_request, _attempt = table_of(Request), table_of(Attempt)


class Whose(StrEnum):
    """Whose requests are seen."""

    OWN = "own"
    ORGANIZATION = "organization"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Scope:
    """What somebody may see. `reader_id` is them: the texts of their own requests they read everywhere, and those of others as
    administrators alone."""

    whose: Whose
    reader_id: uuid.UUID | None
    organization_id: uuid.UUID | None
    token_id: uuid.UUID | None = None
    """Only what came with this token."""

    @classmethod
    def own(cls, person_id: uuid.UUID, organization_id: uuid.UUID, token_id: uuid.UUID | None = None) -> Scope:
        """A person's own requests in the organization that they work in; with `token_id` those alone that came with it."""
        return cls(Whose.OWN, person_id, organization_id, token_id)

    @classmethod
    def organization(cls, person_id: uuid.UUID, organization_id: uuid.UUID) -> Scope:
        """All requests of an organization, for a manager of it. Whether they are one is the caller's business."""
        return cls(Whose.ORGANIZATION, person_id, organization_id)

    @classmethod
    def all(cls, person_id: uuid.UUID | None = None) -> Scope:
        """Every request of the installation, with its texts, for its administrators, or the operator, who has no id."""
        return cls(Whose.ALL, person_id, None)

    @property
    def truth(self) -> bool:
        """Whether texts of others, and the vendors' own words, are for them."""
        return self.whose is Whose.ALL

    def reads(self, person_id: uuid.UUID) -> bool:
        """Whether the texts of a person's requests are for them."""
        return self.truth or person_id == self.reader_id


@dataclass(frozen=True, slots=True)
class Filters:
    """What is wanted; None and empty mean anything. Ranges include their beginning and not their end; costs include both."""

    status: Sequence[str] = ()
    operation: str | None = None
    operations: Sequence[str] = ()
    category: str | None = None
    channel: str | None = None
    provider: str | None = None
    model: str | None = None
    """As the vendor calls it, or provider/model."""
    person_id: uuid.UUID | None = None
    conversation_id: uuid.UUID | None = None
    batch_id: uuid.UUID | None = None
    rating: int | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    cost_from_microusd: int | None = None
    cost_to_microusd: int | None = None
    q: str = ""


@dataclass(frozen=True, slots=True)
class RequestLine:
    """A request as it is stored. Where `texts` is False its texts are not for the reader: `prompt` is '' then, `parameters` is
    empty, `answer`, `result` and `rating_comment` are None. `erased_days` says after how many days they were erased."""

    id: uuid.UUID
    person_id: uuid.UUID
    organization_id: uuid.UUID
    conversation_id: uuid.UUID | None
    batch_id: uuid.UUID | None
    channel: str
    operation: str
    category: str | None
    complexity: float | None
    status: str
    prompt: str
    parameters: Mapping[str, Any]
    answer: str | None
    result: Mapping[str, Any] | None
    finish: str | None
    error_code: str | None
    error_message: str | None
    provider: str | None
    model: str | None
    cached: bool
    input_tokens: int
    output_tokens: int
    cost_microusd: int
    credits_millicredits: int
    allocation_millicredits: int | None
    queue: str
    priority: int
    attempts: int
    retries: int
    quality: float | None
    rating: int | None
    rating_comment: str | None
    again_of_id: uuid.UUID | None
    template_version_id: uuid.UUID | None
    token_id: uuid.UUID | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    not_before: datetime | None
    cancel_asked_at: datetime | None
    erased_days: int | None = None
    texts: bool = True
    pictures: tuple[RequestPicture, ...] = ()

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def queue_s(self) -> float | None:
        """Seconds from its creation to its beginning."""
        return None if self.started_at is None else max(0.0, (self.started_at - self.created_at).total_seconds())

    @property
    def took_s(self) -> float | None:
        """Seconds from its beginning to its end."""
        if self.started_at is None or self.ended_at is None:
            return None
        return max(0.0, (self.ended_at - self.started_at).total_seconds())


@dataclass(frozen=True, slots=True)
class RequestPage:
    """A page of a list. `next_id` is where the list goes on, None at its end; `total` is None where it was not asked for, or
    where more than `COUNTED_MAX` requests would have to be looked at."""

    lines: tuple[RequestLine, ...]
    next_id: uuid.UUID | None
    total: int | None = None


@dataclass(frozen=True, slots=True)
class RequestDetail:
    """One request with its calls and the reasons for its model. `detail` of a call is '' for everybody but administrators."""

    line: RequestLine
    calls: tuple[CallMade, ...]
    why: Why | None


_COPIED = tuple(name for name in RequestLine.__dataclass_fields__ if name not in ("erased_days", "texts", "pictures"))
_columns = (*(_request.c[name] for name in _COPIED), Request.extra[erasing.MARK].as_integer().label("erased_days"))


def page(
    scope: Scope,
    filters: Filters | None = None,
    *,
    after: uuid.UUID | None = None,
    size: int = 20,
    oldest_first: bool = False,
    total: bool = False,
) -> RequestPage:
    """The requests that somebody may see: the newest first, or the oldest. `after` is `next_id` of the page before."""
    wanted = _wanted(scope, filters or Filters())
    ids, size = _request.c.id, min(max(1, size), PAGE_MAX)
    order = ids.asc() if oldest_first else ids.desc()
    track = wanted.track if after is None else [*wanted.track, ids > after if oldest_first else ids < after]
    with reading() as connection:
        last = _last_looked_at(connection, track, wanted.looked_max, oldest_first) if wanted.sieve else None
        query = select(*_columns).where(*track, *wanted.sieve).order_by(order).limit(size + 1)
        if last is not None:
            query = query.where(ids <= last if oldest_first else ids >= last)
        rows: Sequence[Any] = connection.execute(query).all()
        pictures = of_requests(connection, _pictured(rows[:size]))
        count = _total(connection, wanted) if total else None
    lines = tuple(_line(scope, row, pictures.get(row.id, ())) for row in rows[:size])
    return RequestPage(lines, lines[-1].id if len(rows) > size else last, count)


def one(request_id: uuid.UUID, scope: Scope) -> RequestDetail:
    """A request with its calls, its pictures and the reasons for its model. `NotFound` if it is not theirs to see."""
    with reading() as connection:
        row: Any = connection.execute(
            select(*_columns, _request.c.route).where(_request.c.id == request_id, *_visible(scope))
        ).first()
        if row is None:
            raise NotFound("There is no such request.")
        line = _line(scope, row, of_requests(connection, [request_id]).get(row.id, ()))
        calls = _calls(connection, request_id, truth=scope.truth)
    codes = [(call.execution, call.outcome, call.error_code or "") for call in calls]
    return RequestDetail(line, calls, why.tell(row.route, codes))


def line(request_id: uuid.UUID, scope: Scope) -> RequestLine:
    """A request without its calls: one statement, and another where it has pictures. `NotFound` if it is not theirs to see."""
    with reading() as connection:
        row: Any = connection.execute(select(*_columns).where(_request.c.id == request_id, *_visible(scope))).first()
        if row is None:
            raise NotFound("There is no such request.")
        return _line(scope, row, of_requests(connection, _pictured([row])).get(row.id, ()))


def sees(request_id: uuid.UUID, scope: Scope) -> bool:
    """Whether a request is theirs to see."""
    with reading() as connection:
        query = select(_request.c.id).where(_request.c.id == request_id, *_visible(scope))
        return connection.execute(query).first() is not None


def picture_type(sha256: str, scope: Scope) -> str:
    """The media type of a picture of a request whose texts are theirs to read; `NotFound` for every other."""
    conditions = _visible(scope)
    if not scope.truth:
        conditions.append(_request.c.person_id == scope.reader_id)
    return media_type(sha256, *conditions)


def newest(connection: Connection, scope: Scope, filters: Filters) -> tuple[list[ColumnElement[bool]], bool]:
    """(the conditions of the newest requests that are looked at, whether these are all): for sums over them."""
    wanted = _wanted(scope, filters)
    last = _last_looked_at(connection, wanted.track, wanted.looked_max, False)
    conditions = [*wanted.track, *wanted.sieve]
    return (conditions, True) if last is None else ([*conditions, _request.c.id >= last], False)


# -- what is wanted ------------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class _Wanted:
    """`track` is what an index follows; `sieve` is asked of each request on it."""

    track: list[ColumnElement[bool]]
    looked_max: int
    sieve: list[ColumnElement[bool]] = field(default_factory=list)


def _visible(scope: Scope) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if scope.whose is Whose.OWN:
        found.append(_request.c.person_id == scope.reader_id)
    if scope.whose is not Whose.ALL:
        found.append(_request.c.organization_id == scope.organization_id)
    if scope.token_id is not None:
        found.append(_request.c.token_id == scope.token_id)
    return found


def _wanted(scope: Scope, filters: Filters) -> _Wanted:
    text = clean(filters.q).strip()[:SEARCH_CHARS]
    # Found or not found would tell what is in a text that they may not read.
    searcher = scope.reader_id if text and not scope.truth else None
    owner = scope.reader_id if scope.whose is Whose.OWN else searcher
    keys = [
        ("conversation_id", filters.conversation_id),
        ("person_id", owner),
        ("person_id", filters.person_id),
        ("organization_id", None if scope.whose is Whose.ALL else scope.organization_id),
    ]
    conditions = [_request.c[name] == value for name, value in keys if value is not None]
    wanted = _Wanted([*_within(filters)], SEARCHED_MAX if text else LOOKED_MAX)
    if filters.batch_id is not None:
        # A batch has a bound of its own.
        wanted.track.append(_request.c.batch_id == filters.batch_id)
    elif conditions:
        wanted.track.append(conditions.pop(0))
    wanted.sieve = [*conditions, *_chosen(filters)]
    if scope.token_id is not None:
        wanted.sieve.append(_request.c.token_id == scope.token_id)
    if text:
        wanted.sieve.append(or_(*(_request.c[name].icontains(text, autoescape=True) for name in ("prompt", "answer"))))
    return wanted


def _chosen(filters: Filters) -> Iterable[ColumnElement[bool]]:
    """The conditions of filters that no index serves."""
    same: dict[str, Any] = {
        "operation": filters.operation,
        "category": filters.category,
        "channel": filters.channel,
        "provider": filters.provider,
        "rating": filters.rating,
    }
    for name, value in same.items():
        if value is not None:
            yield _request.c[name] == value
    if filters.status:
        yield _request.c.status.in_(filters.status)
    if filters.operations:
        yield _request.c.operation.in_(filters.operations)
    if filters.model is not None:
        provider, slash, model = filters.model.partition("/")
        named = _request.c.model == filters.model
        # Some vendors' own names of models have a slash in them.
        yield or_(named, (_request.c.provider == provider) & (_request.c.model == model)) if slash else named
    if filters.created_from is not None:
        yield _request.c.created_at >= filters.created_from
    if filters.created_to is not None:
        yield _request.c.created_at < filters.created_to
    if filters.cost_from_microusd is not None:
        yield _request.c.cost_microusd >= filters.cost_from_microusd
    if filters.cost_to_microusd is not None:
        yield _request.c.cost_microusd <= filters.cost_to_microusd


def _within(filters: Filters) -> Iterable[ColumnElement[bool]]:
    """Where a range of time lies among the ids, about: they are UUIDv7, which begin with milliseconds."""
    if filters.created_from is not None:
        yield _request.c.id >= _id_at(int(filters.created_from.timestamp() * 1000) - _EARLY_MS)
    if filters.created_to is not None:
        yield _request.c.id < _id_at(int(filters.created_to.timestamp() * 1000) + _LATE_MS)


def _id_at(milliseconds: int) -> uuid.UUID:
    return uuid.UUID(int=min(max(0, milliseconds), _LAST_MS) << 80)


def _last_looked_at(
    connection: Connection, track: Sequence[ColumnElement[bool]], most: int, oldest_first: bool
) -> uuid.UUID | None:
    """The last of the requests that are looked at, None if these are all that there are. Its index alone answers this."""
    ids = _request.c.id
    query = select(ids).where(*track).order_by(ids.asc() if oldest_first else ids.desc())
    # An OFFSET, but one with a bound: a second line shows that there are more.
    found = connection.execute(query.offset(most - 1).limit(2)).scalars().all()
    return found[0] if len(found) == 2 else None


def _total(connection: Connection, wanted: _Wanted) -> int | None:
    """How many there are in all, None if that cannot be said within bounds."""
    most = COUNTED_MAX if wanted.looked_max == LOOKED_MAX else 4 * SEARCHED_MAX
    some = select(_request.c.id).where(*wanted.track).limit(most + 1).subquery()
    if connection.execute(select(func.count()).select_from(some)).scalar_one() > most:
        return None
    return connection.execute(select(func.count()).select_from(_request).where(*wanted.track, *wanted.sieve)).scalar_one()


# -- lines ---------------------------------------------------------------------------------------------------------------
def _line(scope: Scope, row: Any, pictures: tuple[RequestPicture, ...]) -> RequestLine:
    values = {name: getattr(row, name) for name in _COPIED}
    values["parameters"] = {name: value for name, value in (row.parameters or {}).items() if name != "pictures"}
    texts = scope.reads(row.person_id)
    if not texts:
        values |= {"prompt": "", "parameters": {}, "answer": None, "result": None, "rating_comment": None}
        pictures = ()
    return RequestLine(**values, erased_days=row.erased_days, texts=texts, pictures=pictures)


def _pictured(rows: Sequence[Any]) -> list[uuid.UUID]:
    """Those of these requests that can have pictures."""
    return [row.id for row in rows if (row.parameters or {}).get("pictures") or (row.result or {}).get("pictures")]


def _calls(connection: Connection, request_id: uuid.UUID, *, truth: bool) -> tuple[CallMade, ...]:
    """Its calls in their order. What the vendor itself said is left out for those whom it is not for."""
    columns = [_attempt.c[name] for name in CallMade.__slots__]
    query = select(*columns).where(_attempt.c.request_id == request_id)
    rows = connection.execute(query.order_by(_attempt.c.execution, _attempt.c.number).limit(ROWS_MAX)).all()
    if truth:
        return tuple(CallMade(*row) for row in rows)
    return tuple(CallMade(**{**row._asdict(), "detail": "", "vendor_request_id": None}) for row in rows)
