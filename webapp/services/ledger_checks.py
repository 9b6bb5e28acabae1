"""Checks of the ledger against what stands beside it: requests, calls, people, and the sums by the hour."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    DateTime,
    and_,
    case,
    cast,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    union_all,
)

from webapp.contracts.channels import MESSAGE_SEND
from webapp.extensions import table_of
from webapp.models import Attempt, DeadLetter, HourlyStat, Person
from webapp.services import rollups
from webapp.services.ledger_books import FIGURES, PERSON, Books, Check, Disagreement, differing, ledger, request

_USED = FIGURES[1:]
"""What a request itself says."""
_CALLED = ("input_tokens", "output_tokens", "cost_microusd")
"""What a call's own record says."""
_attempt, _person, _letter, _hour = table_of(Attempt), table_of(Person), table_of(DeadLetter), table_of(HourlyStat)


# -- requests ------------------------------------------------------------------------------------------------------------
def _count_requests(books: Books) -> int:
    return books.count(select(request.c.id).where(books.of(request.c.organization_id)))


def _requests(books: Books) -> Iterator[Disagreement]:
    """Every request, also one that is on the road: what it says that it used is what its executions have entered so far."""
    entered = books.entered(ledger.c.request_id)
    replays = func.coalesce(_letter.c.replays, 0)
    answered = func.coalesce(entered.c.requests, 0)
    # Each time on the road at most one answer; a kept one counts as none.
    too_often = or_(answered > replays + 1, and_(request.c.cached, replays == 0, answered > 0), answered < 0)
    differs = [request.c[name] != func.coalesce(entered.c[name], 0) for name in _USED]
    query = (
        select(
            request.c.id,
            answered.label("answered"),
            replays.label("replays"),
            too_often.label("too_often"),
            *(request.c[name].label(f"says_{name}") for name in _USED),
            *(entered.c[name].label(f"ledger_{name}") for name in _USED),
        )
        .select_from(
            request.outerjoin(entered, entered.c.request_id == request.c.id).outerjoin(
                _letter, _letter.c.request_id == request.c.id
            )
        )
        .where(books.of(request.c.organization_id), or_(*differs, too_often))
    )
    for row in books.rows(query):
        yield from differing(f"request {row.id}", row, _USED, "ledger", "says")
        if row.too_often:
            yield Disagreement(
                f"request {row.id}", "answers in the ledger", f"at most {row.replays + 1}", f"{int(row.answered):,}"
            )


# -- ledger entries ------------------------------------------------------------------------------------------------------
def _count_entries(books: Books) -> int:
    return books.count(select(ledger.c.id).where(books.of(ledger.c.organization_id)))


def _entries(books: Books) -> Iterator[Disagreement]:
    """Every entry has its request and its call, which say the same. Messages that were sent, and what the house tried by
    itself, have no call; entries from before calls were numbered name none."""
    call, owner = _attempt.alias("call"), request.alias("owner")
    other = _attempt.alias("other")
    numbered = exists().where(other.c.request_id == ledger.c.request_id, or_(*(other.c[name] > 0 for name in _CALLED)))
    of_person = ledger.c.payer == PERSON
    ownerless = and_(of_person, ledger.c.request_id.is_(None))
    callless = and_(
        ledger.c.request_id.is_not(None), ledger.c.attempt_id.is_(None), ledger.c.operation != MESSAGE_SEND, numbered
    )
    lost = or_(
        and_(ledger.c.request_id.is_not(None), owner.c.id.is_(None)),
        and_(ledger.c.attempt_id.is_not(None), call.c.id.is_(None)),
    )
    strange = and_(call.c.id.is_not(None), or_(ledger.c.request_id.is_(None), call.c.request_id != ledger.c.request_id))
    elsewhere = and_(
        owner.c.id.is_not(None),
        ledger.c.operation != MESSAGE_SEND,
        or_(owner.c.person_id != ledger.c.person_id, owner.c.organization_id != ledger.c.organization_id),
    )
    differs = or_(*(call.c[name] != ledger.c[name] for name in _CALLED))
    below = or_(ledger.c.requests < 0, ledger.c.credits_millicredits < 0)
    what = case(
        (ownerless, "request"),
        (callless, "call"),
        (lost, "lost"),
        (strange, "strange"),
        (elsewhere, "elsewhere"),
        (below, "negative"),
        else_="",
    )
    query = (
        select(
            ledger.c.id,
            what.label("trouble"),
            *(ledger.c[name].label(f"entry_{name}") for name in _CALLED),
            *(call.c[name].label(f"call_{name}") for name in _CALLED),
        )
        .select_from(
            ledger.outerjoin(call, call.c.id == ledger.c.attempt_id).outerjoin(owner, owner.c.id == ledger.c.request_id)
        )
        .where(books.of(ledger.c.organization_id), or_(what != "", differs))
    )
    for row in books.rows(query):
        if row.trouble:
            yield Disagreement(f"ledger entry {row.id}", *_TROUBLES[row.trouble])
        elif row.call_cost_microusd is not None:
            yield from differing(f"ledger entry {row.id}", row, _CALLED, "entry", "call")


_TROUBLES = {
    "request": ("its request", "a request", "none"),
    "call": ("its call", "a call", "none"),
    "lost": ("what it names", "a request and a call that are there", "one is missing"),
    "strange": ("its call", "a call of its own request", "one of another"),
    "elsewhere": ("whose it is", "the person and organization of its request", "others"),
    "negative": ("its figures", "none below 0", "one is"),
}


def _count_calls(books: Books) -> int:
    calls = select(_attempt.c.id).join(request, request.c.id == _attempt.c.request_id)
    return books.count(calls.where(books.of(request.c.organization_id)))


def _calls(books: Books) -> Iterator[Disagreement]:
    """Every call that used something has its entry."""
    used = or_(*(_attempt.c[name] > 0 for name in _CALLED))
    entry = exists().where(ledger.c.attempt_id == _attempt.c.id)
    query = (
        select(_attempt.c.id, _attempt.c.request_id, *(_attempt.c[name] for name in _CALLED))
        .join(request, request.c.id == _attempt.c.request_id)
        .where(books.of(request.c.organization_id), used, ~entry)
    )
    for row in books.rows(query):
        spent = f"{row.input_tokens + row.output_tokens:,} tokens, {row.cost_microusd:,} micro-dollars"
        yield Disagreement(f"call {row.id} of request {row.request_id}", "its ledger entry", f"one of {spent}", "none")


# -- people --------------------------------------------------------------------------------------------------------------
def _of_members(books: Books, column: Any) -> ColumnElement[bool]:
    return true() if books.organization_id is None else column.in_(books.members())


def _count_people(books: Books) -> int:
    return books.count(select(_person.c.id).where(_of_members(books, _person.c.id)))


def _people(books: Books) -> Iterator[Disagreement]:
    """Each person's number of requests, over all organizations that they were in."""
    sums = (
        select(ledger.c.person_id, func.sum(ledger.c.requests).label("requests"))
        .where(ledger.c.payer == PERSON, _of_members(books, ledger.c.person_id))
        .group_by(ledger.c.person_id)
        .subquery()
    )
    entered = func.coalesce(sums.c.requests, 0)
    query = (
        select(_person.c.id, _person.c.requests_total, entered.label("entered"))
        .select_from(_person.outerjoin(sums, sums.c.person_id == _person.c.id))
        .where(_of_members(books, _person.c.id), _person.c.requests_total != entered)
    )
    for row in books.rows(query):
        yield Disagreement(f"person {row.id}", "requests in all", f"{int(row.entered):,}", f"{row.requests_total:,}")


# -- hours ---------------------------------------------------------------------------------------------------------------
_KEYS = ("organization_id", "channel", "operation", "provider", "model", "payer")
_SUMS = ("calls", "requests", "input_tokens", "output_tokens", "pictures", "cost_microusd", "credits_millicredits")


def _until(books: Books) -> datetime | None:
    """The end of the hours that are summed up for good, None where none is: the last ones are summed up anew each time."""
    last: datetime | None = books.connection.execute(select(func.max(_hour.c.hour))).scalar()
    return None if last is None else min(last + rollups.HOUR, rollups.whole_hour(books.at) - rollups.LATE)


def _count_hours(books: Books) -> int:
    until = _until(books)
    return (
        0 if until is None else books.count(select(_hour.c.hour).where(books.of(_hour.c.organization_id), _hour.c.hour < until))
    )


def _hours(books: Books) -> Iterator[Disagreement]:
    """The sums of each hour that is over are the ledger's."""
    until = _until(books)
    if until is None:
        return
    hour: Any
    if books.on_sqlite:
        hour = func.substr(ledger.c.created_at, 1, 13).op("||")(literal_column("':00:00.000000'"))
    else:
        hour = cast(func.date_trunc("hour", ledger.c.created_at, "UTC"), DateTime(timezone=True))
    of_ledger = select(
        hour.label("hour"),
        *(ledger.c[name] for name in _KEYS),
        *((literal(1) if name == "calls" else ledger.c[name]).label(f"ledger_{name}") for name in _SUMS),
        *(literal(0).label(f"sum_{name}") for name in _SUMS),
    ).where(books.of(ledger.c.organization_id), ledger.c.created_at < until)
    of_hours = select(
        _hour.c.hour,
        *(_hour.c[name] for name in _KEYS),
        *(literal(0).label(f"ledger_{name}") for name in _SUMS),
        *(_hour.c[name].label(f"sum_{name}") for name in _SUMS),
    ).where(books.of(_hour.c.organization_id), _hour.c.hour < until)
    lines = union_all(of_ledger, of_hours).subquery()
    keys = [lines.c.hour, *(lines.c[name] for name in _KEYS)]
    sums = {name: func.sum(lines.c[name]) for side in ("ledger", "sum") for name in (f"{side}_{each}" for each in _SUMS)}
    query = (
        select(*keys, *(total.label(name) for name, total in sums.items()))
        .group_by(*keys)
        .having(or_(*(sums[f"ledger_{name}"] != sums[f"sum_{name}"] for name in _SUMS)))
    )
    for row in books.rows(query):
        where = f"{str(row.hour)[:13]} h UTC, {row.provider}/{row.model}, {row.operation} by {row.channel}, {row.payer}"
        yield from differing(f"hour {where}, organization {row.organization_id}", row, _SUMS, "ledger", "sum")


CHECKS = (
    Check("requests", "requests", _count_requests, _requests),
    Check("entries", "ledger entries", _count_entries, _entries),
    Check("calls", "calls", _count_calls, _calls),
    Check("people", "people", _count_people, _people),
    Check("hours", "sums by the hour", _count_hours, _hours),
)
