"""Checks of the receipts of limits: against the ledger on one side, against the counters on the other."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, Subquery, and_, case, false, func, literal, or_, select, union_all

from webapp.contracts.limits import Dimension
from webapp.extensions import table_of
from webapp.models import ENDED, Attempt, CounterChange, DeadLetter, Hold, LimitCounter, RequestStatus
from webapp.services.ledger_books import FIGURES, PERSON, Books, Check, Disagreement, ledger, request

_LATE = timedelta(minutes=1)
"""The sweep gives back what has expired every few seconds."""
_hold, _counter, _change = table_of(Hold), table_of(LimitCounter), table_of(CounterChange)
_letter, _attempt = table_of(DeadLetter), table_of(Attempt)
_by_request = _hold.join(request, request.c.id == _hold.c.request_id)
_SETTLED_EARLIER = and_(_hold.c.settled_at.is_not(None), _hold.c.settled_by.is_(None))
"""By a release that kept no receipts; what they used is in the counters' changes."""


def _used_of(sums: Subquery) -> ColumnElement[Any]:
    """What the ledger says of a hold's dimension."""
    by_dimension = case(
        (_hold.c.dimension == Dimension.REQUESTS.value, sums.c.requests),
        (_hold.c.dimension == Dimension.TOKENS.value, sums.c.input_tokens + sums.c.output_tokens),
        (_hold.c.dimension == Dimension.COST.value, sums.c.cost_microusd),
        else_=sums.c.credits_millicredits,
    )
    return func.coalesce(by_dimension, 0)


# -- receipts ------------------------------------------------------------------------------------------------------------
def _count_holds(books: Books) -> int:
    return books.count(select(_hold.c.id).select_from(_by_request).where(books.of(request.c.organization_id)))


def _ends(books: Books) -> Iterator[Disagreement]:
    """What ended requests hold is settled; what is on the road, and was never put back, still holds it."""
    replayed = select(_letter.c.request_id).where(_letter.c.replays > 0)
    open_still = and_(request.c.status.in_(ENDED), _hold.c.settled_at.is_(None))
    on_the_road = request.c.status.in_((RequestStatus.QUEUED, RequestStatus.PROCESSING))
    closed_early = and_(on_the_road, _hold.c.settled_at.is_not(None), request.c.id.not_in(replayed))
    query = (
        select(_hold.c.id, _hold.c.request_id, _hold.c.name, _hold.c.settled_at, request.c.status)
        .select_from(_by_request)
        .where(books.of(request.c.organization_id), or_(open_still, closed_early))
    )
    for row in books.rows(query):
        wanted, found = ("settled", "still held") if row.settled_at is None else ("held", "settled")
        yield Disagreement(_receipt(row), f"of a request that is {row.status}", wanted, found)


def _receipts(books: Books) -> Iterator[Disagreement]:
    """Each receipt's `used` is what the ledger says of its request: in all, or at the provider that the limit is about."""
    everywhere = books.entered(ledger.c.request_id)
    there = books.entered(ledger.c.request_id, ledger.c.provider)
    yield from _differing(books, everywhere, everywhere.c.request_id == _hold.c.request_id, _hold.c.provider.is_(None))
    at_provider = and_(there.c.request_id == _hold.c.request_id, there.c.provider == _hold.c.provider)
    yield from _differing(books, there, at_provider, _hold.c.provider.is_not(None))


def _differing(books: Books, sums: Subquery, on: ColumnElement[bool], which: ColumnElement[bool]) -> Iterator[Disagreement]:
    replays = func.coalesce(_letter.c.replays, 0)
    entered = _used_of(sums)
    query = (
        select(
            *(_hold.c[name] for name in ("id", "request_id", "name", "dimension", "provider", "used", "settled_at")),
            entered.label("entered"),
            replays.label("replays"),
            _letter.c.acted_at,
        )
        .select_from(_by_request.outerjoin(sums, on).outerjoin(_letter, _letter.c.request_id == _hold.c.request_id))
        .where(books.of(request.c.organization_id), which, ~_SETTLED_EARLIER)
        .where(or_(_hold.c.used != entered, _hold.c.used < 0, replays > 0))
    )
    for row in books.rows(query):
        wanted = int(row.entered)
        if row.replays or row.provider:
            wanted = _of_its_time(books, row, wanted)
        if row.used != wanted:
            where = f" at {row.provider}" if row.provider else ""
            yield Disagreement(_receipt(row), f"{row.dimension} used{where}", f"{wanted:,}", f"{row.used:,}")


def _receipt(row: Any) -> str:
    return f"hold {row.id} ({row.name}) of request {row.request_id}"


@dataclass(frozen=True, slots=True)
class _Entered:
    at: datetime
    execution: int
    amount: int


def _of_its_time(books: Books, hold: Any, in_all: int) -> int:
    """What the ledger says for the time that a receipt is about: one life of a request that was put back on the road, and at a
    provider the executions since its limit was held there. What the receipt says, where it is one of those."""
    if hold.used == in_all and not hold.replays:
        return in_all
    marks = set(
        books.connection.execute(
            select(_hold.c.settled_at).where(_hold.c.request_id == hold.request_id, _hold.c.settled_at.is_not(None)).distinct()
        ).scalars()
    )
    if hold.replays and hold.acted_at is not None:
        marks.add(hold.acted_at)
    until: datetime | None = hold.settled_at
    since = max((mark for mark in marks if until is None or mark < until), default=None)
    mine = [
        entry
        for entry in _entries_of(books, hold.request_id, Dimension(hold.dimension), hold.provider)
        if (since is None or entry.at > since) and (until is None or entry.at <= until)
    ]
    if hold.provider:
        for first in {entry.execution for entry in mine}:
            if sum(entry.amount for entry in mine if entry.execution >= first) == hold.used:
                return int(hold.used)
        if hold.used == 0:
            # Held at a provider that was not asked afterwards.
            return 0 if not mine or _held_last(books, hold, mine) else sum(entry.amount for entry in mine)
    return sum(entry.amount for entry in mine)


def _held_last(books: Books, hold: Any, mine: list[_Entered]) -> bool:
    """Whether a provider's limit was held only after everything that was used there: it came into being meanwhile."""
    last = books.connection.execute(
        select(func.max(_attempt.c.execution)).where(_attempt.c.request_id == hold.request_id)
    ).scalar()
    return last is not None and max(entry.execution for entry in mine) < last


def _entries_of(books: Books, request_id: uuid.UUID, dimension: Dimension, provider: str | None) -> list[_Entered]:
    query = (
        select(ledger.c.created_at, _attempt.c.execution, *(ledger.c[name] for name in FIGURES))
        .select_from(ledger.outerjoin(_attempt, _attempt.c.id == ledger.c.attempt_id))
        .where(ledger.c.request_id == request_id, ledger.c.payer == PERSON)
    )
    if provider:
        query = query.where(ledger.c.provider == provider)
    figures = {
        Dimension.REQUESTS: lambda row: row.requests,
        Dimension.TOKENS: lambda row: row.input_tokens + row.output_tokens,
        Dimension.COST: lambda row: row.cost_microusd,
        Dimension.CREDITS: lambda row: row.credits_millicredits,
    }
    found = books.connection.execute(query).all()
    return [_Entered(row.created_at, row.execution or 0, figures[dimension](row)) for row in found]


# -- counters ------------------------------------------------------------------------------------------------------------
_KEY = ("subject", "name", "period", "starts_at")
_COUNTED = ("used", "held", "said_used", "said_held", "counters")


def _count_counters(books: Books) -> int:
    return books.count(select(_counter.c.subject).where(books.whose(_counter.c.subject)))


def _counters(books: Books) -> Iterator[Disagreement]:
    """Each counter is the sum of its receipts and of what else was done to it."""
    nothing = literal(0)
    settled = case((_hold.c.settled_at.is_not(None), _hold.c.used), else_=0)
    still_held = case((_hold.c.settled_at.is_(None), _hold.c.amount), else_=0)

    def lines(table: Any, *figures: Any) -> Select[Any]:
        named = [figure.label(name) for name, figure in zip(_COUNTED, figures, strict=True)]
        return select(*(table.c[name] for name in _KEY), *named).where(books.whose(table.c.subject))

    every = union_all(
        lines(_counter, _counter.c.used, _counter.c.held, nothing, nothing, literal(1)),
        lines(_hold, nothing, nothing, settled, still_held, nothing),
        lines(_change, nothing, nothing, _change.c.amount, nothing, nothing),
    ).subquery()
    keys = [every.c[name] for name in _KEY]
    used, held, said_used, said_held, counters = (func.sum(every.c[name]) for name in _COUNTED)
    sums = zip(_COUNTED, (used, held, said_used, said_held, counters), strict=True)
    query = (
        select(*keys, *(total.label(name) for name, total in sums))
        .group_by(*keys)
        .having(or_(used != said_used, held != said_held, used < 0, held < 0))
    )
    for row in books.rows(query):
        subject = f"counter {row.subject} {row.name} of the {row.period} from {row.starts_at:%Y-%m-%d %H:%M} UTC"
        if not row.counters:
            yield Disagreement(subject, "the counter", f"{int(row.said_used):,} used, {int(row.said_held):,} held", "none")
            continue
        for what, wanted, found in (("used", row.said_used, row.used), ("held", row.said_held, row.held)):
            if wanted != found:
                yield Disagreement(subject, what, f"{int(wanted):,}", f"{int(found):,}")
            elif found < 0:
                yield Disagreement(subject, what, "not below 0", f"{int(found):,}")


# -- what belongs to no request ------------------------------------------------------------------------------------------
def _reserved(books: Books) -> Select[Any]:
    """What the house holds for itself, and, which cannot be, what nobody does. Nothing of it is an organization's."""
    mine = _hold.c.request_id.is_(None) if books.organization_id is None else false()
    return select(_hold.c.id, _hold.c.name, _hold.c.expires_at).where(
        mine, _hold.c.settled_at.is_(None), _hold.c.expires_at.is_not(None)
    )


def _count_reserved(books: Books) -> int:
    return books.count(_reserved(books))


def _expired(books: Books) -> Iterator[Disagreement]:
    """Nothing is held without a request beyond its time."""
    for row in books.rows(_reserved(books).where(_hold.c.expires_at < books.at - _LATE)):
        yield Disagreement(
            f"hold {row.id} ({row.name}) without a request",
            "held",
            f"given back at {row.expires_at:%Y-%m-%d %H:%M} UTC by the sweep",
            "still held",
        )


# -- notes ---------------------------------------------------------------------------------------------------------------
def _passed(books: Books) -> Iterator[Disagreement]:
    passed = _counter.c.used + _counter.c.held > _counter.c.maximum
    # A counter that was begun by a refusal or lowered has no maximum of its own to pass.
    query = select(_counter).where(books.whose(_counter.c.subject), passed)
    for row in books.rows(query):
        yield Disagreement(
            f"counter {row.subject} {row.name} of the {row.period} from {row.starts_at:%Y-%m-%d %H:%M} UTC",
            "used and held",
            f"at most {row.maximum:,}",
            f"{row.used + row.held:,}",
        )


CHECKS = (
    Check("holds", "holds", _count_holds, _ends),
    Check("receipts", "receipts", _count_holds, _receipts),
    Check("counters", "counters", _count_counters, _counters),
    Check("reservations", "holds without a request", _count_reserved, _expired),
)
PASSED = Check("passed", "counters above their maximum", _count_counters, _passed)
