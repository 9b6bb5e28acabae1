"""What becomes of counters when limits do: a new one begins with what was used before it, and keeps its count when its number
changes.

What was used is read from the ledger. A request that is under way when the limit is set holds nothing of it and is not counted
by it, unless it ended just before: limits hold from the next request on.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, and_, func, insert, or_, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from webapp.contracts.limits import Dimension, StoredLimit, Window
from webapp.extensions import reading, table_of, writing
from webapp.models import ApiToken, CounterChange, LedgerEntry, LimitCounter, Organization, Person, Request
from webapp.models.columns import new_id
from webapp.quota.windows import bounds
from webapp.services.limit_owners import Kind, Owner

REASON = "Used before the limit was set."
_CHUNK = 200
_SETTLED = timedelta(seconds=15)
"""Ledger entries older than this are committed: they are summed up before the transaction that others wait for."""
_FULL = 100
_counter = table_of(LimitCounter)
_KEY = ("subject", "name", "period", "starts_at")
_AMOUNTS = {
    Dimension.REQUESTS: LedgerEntry.requests,
    Dimension.TOKENS: LedgerEntry.input_tokens + LedgerEntry.output_tokens,
    Dimension.COST: LedgerEntry.cost_microusd,
    Dimension.CREDITS: LedgerEntry.credits_millicredits,
}


@dataclass(frozen=True, slots=True)
class Before:
    """What was used in the window that began at `starts_at`, by counter's subject, until `until`."""

    starts_at: datetime
    until: datetime
    used: Mapping[str, int]


def counter_name(limit_id: str) -> str:
    """Under which name a stored limit is counted."""
    return f"limit:{limit_id}"


def used_before(connection: Connection, owner: Owner, limit: StoredLimit, at: datetime) -> Before | None:
    """What an owner has used so far, apart from the last moments, of what a limit is to count; None where nothing is summed
    up: for a plan, whose people are gone through one after the other, and for limits on single requests."""
    if limit.window is Window.REQUEST or owner.kind is Kind.PLAN:
        return None
    starts_at = bounds(limit.window, at, _zone(connection, owner))[0]
    until = max(starts_at, at - _SETTLED)
    return Before(starts_at, until, _used(connection, owner, limit, starts_at, until))


def begin(connection: Connection, owner: Owner, limit: StoredLimit, before: Before | None, at: datetime, actor: str) -> None:
    """Let a new limit begin with what was used, in the transaction that stores it. `before` is what was summed up shortly
    before it."""
    if limit.window is Window.REQUEST or owner.kind is Kind.PLAN:
        return
    starts_at = bounds(limit.window, at, _zone(connection, owner))[0]
    used: dict[str, int] = {}
    since = starts_at
    if before is not None and before.starts_at == starts_at:
        used, since = dict(before.used), before.until
    for subject, amount in _used(connection, owner, limit, since, at).items():
        used[subject] = used.get(subject, 0) + amount
    _write(connection, limit, starts_at, used, at, actor)


def begin_for_plan(code: str, limit: StoredLimit, at: datetime, actor: str) -> int:
    """Let a plan's new limit, stored at `at`, begin with what each person on the plan had used before; returns for how many it
    did. A few hundred people in one transaction each, after the limit was stored: who comes in between is counted from then on,
    and what they had used is added."""
    if limit.window is Window.REQUEST:
        return 0
    last: uuid.UUID | None = None
    found = 0
    while True:
        query = (
            select(Person.id, Organization.time_zone)
            .join(Organization, Organization.id == Person.organization_id)
            .where(or_(Person.plan_code == code, Organization.plan_code == code))
            .order_by(Person.id)
            .limit(_CHUNK)
        )
        with reading() as connection:
            persons = connection.execute(query if last is None else query.where(Person.id > last)).all()
        if not persons:
            return found
        last = persons[-1].id
        with writing() as connection:
            for zone in sorted({row.time_zone for row in persons}):
                ids = [row.id for row in persons if row.time_zone == zone]
                starts_at = bounds(limit.window, at, zone)[0]
                used = _sums(connection, [LedgerEntry.person_id.in_(ids)], limit, starts_at, at, by_person=True)
                _write(connection, limit, starts_at, used, at, actor)
                found += len(used)


def retune(connection: Connection, owner: Owner, limit: StoredLimit, at: datetime) -> None:
    """Let the running counter of a limit whose number changed show the new one, and tell people again when they come near it.
    Counters of each person by themselves take the number over with the next request."""
    if limit.window is Window.REQUEST or owner.kind is Kind.PLAN or limit.each:
        return
    starts_at = bounds(limit.window, at, _zone(connection, owner))[0]
    key = dict(zip(_KEY, (owner.subject, counter_name(limit.id), limit.window.value, starts_at), strict=True))
    where = [_counter.c[name] == value for name, value in key.items()]
    row = connection.execute(select(_counter.c.used, _counter.c.warned_percent).where(*where).with_for_update()).first()
    if row is None:
        return
    percent = min(_FULL, row.used * _FULL // limit.maximum) if limit.maximum else _FULL
    values = {"maximum": limit.maximum, "warned_percent": min(row.warned_percent, percent)}
    if row.used < limit.maximum:
        values["noticed_at"] = None
    connection.execute(update(_counter).where(*where).values(values))


def _zone(connection: Connection, owner: Owner) -> str:
    """The time zone in which an owner's windows begin."""
    place: object = owner.organization_id
    if owner.kind is Kind.TOKEN:
        place = (
            select(func.coalesce(ApiToken.organization_id, Person.organization_id))
            .join(Person, Person.id == ApiToken.person_id)
            .where(ApiToken.id == owner.id)
            .scalar_subquery()
        )
    return connection.execute(select(Organization.time_zone).where(Organization.id == place)).scalar_one()


def _used(connection: Connection, owner: Owner, limit: StoredLimit, since: datetime, until: datetime) -> dict[str, int]:
    if owner.kind is Kind.ORGANIZATION:
        where = [LedgerEntry.organization_id == owner.id]
        return _sums(connection, where, limit, since, until, by_person=limit.each, subject=owner.subject)
    if owner.kind is Kind.MEMBER:
        where = [LedgerEntry.person_id == owner.id, LedgerEntry.organization_id == owner.organization_id]
        return _sums(connection, where, limit, since, until, subject=owner.subject)
    whose = select(ApiToken.person_id).where(ApiToken.id == owner.id).scalar_subquery()
    where = [LedgerEntry.person_id == whose, Request.token_id == owner.id]
    return _sums(connection, where, limit, since, until, subject=owner.subject, requests=True)


def _sums(
    connection: Connection,
    where: Sequence[ColumnElement[bool]],
    limit: StoredLimit,
    since: datetime,
    until: datetime,
    *,
    by_person: bool = False,
    subject: str = "",
    requests: bool = False,
) -> dict[str, int]:
    """What was used from `since` until before `until`, of the limit's dimension, provider and operation: by `subject`, or by
    person."""
    total = func.coalesce(func.sum(_AMOUNTS[limit.dimension]), 0)
    conditions = [*where, LedgerEntry.payer == "person", LedgerEntry.created_at >= since, LedgerEntry.created_at < until]
    if limit.provider:
        conditions.append(LedgerEntry.provider == limit.provider)
    if limit.operation:
        conditions.append(LedgerEntry.operation == limit.operation)
    if by_person:
        grouped = select(LedgerEntry.person_id, total).where(and_(*conditions)).group_by(LedgerEntry.person_id)
        return {f"person:{row[0]}": int(row[1]) for row in connection.execute(grouped) if row[1]}
    query = select(total).select_from(LedgerEntry)
    if requests:
        query = query.join(Request, Request.id == LedgerEntry.request_id)
    amount = int(connection.execute(query.where(and_(*conditions))).scalar_one())
    return {subject: amount} if amount else {}


def _write(
    connection: Connection, limit: StoredLimit, starts_at: datetime, used: Mapping[str, int], at: datetime, actor: str
) -> None:
    if not used:
        return
    key = {"name": counter_name(limit.id), "period": limit.window.value, "starts_at": starts_at}
    counters: list[dict[str, object]] = [
        key | {"subject": subject, "dimension": limit.dimension.value, "maximum": limit.maximum, "used": amount, "held": 0}
        for subject, amount in sorted(used.items())
    ]
    statement = postgresql_insert(_counter) if connection.dialect.name == "postgresql" else sqlite_insert(_counter)
    raised = {"used": _counter.c.used + statement.excluded.used}
    connection.execute(statement.on_conflict_do_update(index_elements=list(_KEY), set_=raised), counters)
    changes = [
        key
        | {
            "id": new_id(),
            "subject": counter["subject"],
            "amount": counter["used"],
            "reason": REASON,
            "actor": actor[:255],
            "created_at": at,
        }
        for counter in counters
    ]
    connection.execute(insert(CounterChange), changes)
