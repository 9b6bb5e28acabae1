"""Admission and settling of the usual attended request in the fewest statements: the same rows as `admit` and `settle` write,
under the same conditions. On PostgreSQL each is one statement beside the look at who it is, and so one transaction.

Whatever is not usual (a limit without room, a mark at which people are told, an answer that is none, a database that is away)
changes nothing here and goes the general way.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, cast

from flask import current_app
from sqlalchemy import Dialect

from webapp.extensions import current_settings, db, now, table_of
from webapp.models import Attempt, LedgerEntry, Request, RequestStatus, senders, straight
from webapp.models.columns import new_id
from webapp.models.connections import Unusual
from webapp.models.senders import Sender
from webapp.models.straight import Convert, Part, Way
from webapp.pipeline import books, settle
from webapp.pipeline.books import ATTEMPT, ENTRY
from webapp.pipeline.claims import Claimed
from webapp.pipeline.end_values import dimensions_of, sums_of, values_of
from webapp.pipeline.endings import PERSON, Ending
from webapp.pipeline.entering import COLUMNS, Entry, new_row
from webapp.pipeline.entitled import Entitled
from webapp.pipeline.settle import Settled
from webapp.quota import holds
from webapp.quota.holds import Need
from webapp.routing import listeners

_Values = Mapping[str, Any]
_ENTITLED = "switchhook.entitled"
_ENTITLED_MAX = 10_000
_LAST_USED = 3
"""Where a token's last use stands in a row of `senders.BY_DIGEST`: it changes, and entitles to nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class _Statements:
    """What is compiled once for a database."""

    sender: Part
    reads: tuple[Convert, ...]
    request: Part
    end: Part
    person: Part
    attempt: Part
    entry: Part


@lru_cache(maxsize=4)
def _compiled(name: str) -> _Statements:
    dialect: Dialect = db.engine.dialect
    assert dialect.name == name
    return _Statements(
        sender=straight.part(senders.BY_DIGEST, dialect),
        reads=straight.readers(senders.BY_DIGEST, dialect),
        request=straight.insertion(table_of(Request), COLUMNS, dialect),
        end=straight.part(settle.END.returning(table_of(Request).c.person_id), dialect),
        person=straight.part(settle.SEEN_PERSON, dialect),
        attempt=straight.insertion(table_of(Attempt), ATTEMPT, dialect),
        entry=straight.insertion(table_of(LedgerEntry), ENTRY, dialect),
    )


# -- admission ---------------------------------------------------------------------------------------------------------
def admit(entry: Entry) -> tuple[Sender, uuid.UUID]:
    """Store and claim an attended request of a token, with what it holds; `entry.claimed` is the claim. Raises `Unusual`."""
    intake, way = entry.intake, straight.way()
    if not (intake.attended and intake.token) or intake.idempotency_key or entry.pictures or intake.urgent or entry.full_at:
        raise Unusual("not the usual kind")
    known, request_id = _compiled(way.dialect), new_id()
    entitled = _entitled(way, known, intake.token)
    sender, terms = entitled.sender, entitled.terms(intake.operation, intake.medium, intake.allocation)
    values, filed = new_row(entry, sender, request_id, None, terms.cap_microusd, None)
    wanted = terms.needs(filed.provider, filed.amounts, entry.at)
    raised = (_store_step_by_step if way.dialect == "sqlite" else _store_at_once)(way, known, values, request_id, wanted)
    assert entry.claimed is not None
    entry.claimed.standings = holds.standings(wanted, raised)
    return sender, request_id


def _entitled(way: Way, known: _Statements, token: str) -> Entitled:
    """What a token entitles to. `Unusual` for one that opens nothing here, or whose use is to be noted."""
    row = way.row(known.sender.text, known.sender.row({"digest": senders.token_digest(token)}))
    if row is None:
        raise Unusual("nobody has this token")
    seen: dict[tuple[Any, ...], Entitled] | None = current_app.extensions.get(_ENTITLED)
    if seen is None:
        seen = current_app.extensions.setdefault(_ENTITLED, {})
    same = (*row[:_LAST_USED], *row[_LAST_USED + 1 :])
    found = seen.get(same)
    if found is None:
        if len(seen) >= _ENTITLED_MAX:
            seen.clear()
        found = seen[same] = Entitled(row, known.reads)
    at, last_used, read = now(), row[_LAST_USED], known.reads[_LAST_USED]
    if not found.opens(at) or last_used is None:
        raise Unusual("the token does not open this, or was never used")
    if at - (last_used if read is None else _moment(read, last_used)) > senders.USED_EVERY:
        raise Unusual("its use is to be noted")
    return found


@lru_cache(maxsize=1024)
def _moment(read: Any, value: Any) -> Any:
    return read(value)


# A row whatever `t` holds: without one nothing would be divided, and so nothing undone.
_ALL_HAD_ROOM = """
SELECT 1 / (CASE WHEN (SELECT count(*) FROM t) = %s THEN 1 ELSE 0 END),
(SELECT json_agg(json_build_array(subject, name, period, used, held)) FROM t)
"""


def _store_step_by_step(
    way: Way, known: _Statements, values: _Values, request_id: uuid.UUID, wanted: list[Need]
) -> list[Sequence[Any]]:
    text, row = known.request.text, known.request.row(values)
    take, hold = holds.taking("sqlite", request_id, wanted) if wanted else (None, None)

    def work(driver: Any) -> list[Sequence[Any]]:
        driver.execute(text, row)
        if take is None or hold is None:
            return []
        raised: list[Sequence[Any]] = driver.execute(*take).fetchall()
        if len(raised) != len(wanted):
            raise Unusual("a limit has no room")
        driver.execute(*hold)
        return raised

    return cast("list[Sequence[Any]]", way.write(work))


def _store_at_once(
    way: Way, known: _Statements, values: _Values, request_id: uuid.UUID, wanted: list[Need]
) -> list[Sequence[Any]]:
    text, given = f"WITH r AS ({known.request.text})", known.request.row(values)
    if wanted:
        take, hold = holds.taking("postgresql", request_id, wanted)
        text += f", t AS ({take[0]}), h AS ({hold[0]}) {_ALL_HAD_ROOM}"
        given = [*given, *take[1], *hold[1], len(wanted)]
    else:
        text += " SELECT 1, NULL::json"
    found = way.row(text, given)
    assert found is not None
    return json.loads(found[1]) if found[1] else []


# -- settling ----------------------------------------------------------------------------------------------------------
def settled(taken: Claimed, ending: Ending) -> Settled:
    """Write down the end of an answered request. Raises `Unusual`."""
    if (
        ending.status is not RequestStatus.COMPLETED
        or len(ending.calls) != 1
        or ending.calls[0].payer != PERSON
        or ending.troubles
        or ending.pictures
        or taken.attempt != 1
        or taken.conversation_id is not None
        or taken.reply_channel is not None
        or listeners.wanted(taken.organization_id, "request.completed")
    ):
        raise Unusual("not the usual end")
    at, way = now(), straight.way()
    known = _compiled(way.dialect)
    row = _row(taken, ending)
    sums, _ = sums_of(ending)
    values = values_of(taken.id, taken.claim, ending, at) | sums
    attempts, entries = books.rows_of(taken.id, row, ending.calls, 1, ending.counts, at)
    if not entries:
        raise Unusual("nothing was used")
    person = {"b_id": taken.person_id, "at": at, "counted": ending.counts}
    closing = holds.closing(way.dialect, taken.id, dimensions_of(ending.counts, sums), at, "execution", "completed")
    write = _end_step_by_step if way.dialect == "sqlite" else _end_at_once
    write(way, known, values, person, closing, attempts[0], entries[0])
    return Settled(row, None, ending)


def _row(taken: Claimed, ending: Ending) -> Any:
    """The request's row as `after_commit` and the books want it."""
    return SimpleNamespace(
        person_id=taken.person_id,
        organization_id=taken.organization_id,
        conversation_id=None,
        channel=taken.channel,
        operation=taken.operation,
        attempts=1,
        started_at=taken.started_at,
        cost_microusd=ending.used.cost_microusd,
        reply_channel=None,
    )


def _end_step_by_step(way: Way, known: _Statements, values: Any, person: Any, closing: Any, attempt: Any, entry: Any) -> None:
    end, seen = (known.end.text, known.end.row(values)), (known.person.text, known.person.row(person))
    books_of = (known.attempt.text, known.attempt.row(attempt)), (known.entry.text, known.entry.row(entry))
    lowest_of_person = _lowest()

    def work(driver: Any) -> None:
        if driver.execute(*end).fetchone() is None:
            raise Unusual("it is held by somebody else")
        driver.execute(*seen)
        ended = driver.execute(*closing).fetchall()
        if any(hold[7] is not None for hold in ended):
            raise Unusual("a provider's own limit is held")
        if ended and any(_may_tell(*counter, lowest_of_person) for counter in holds.lower("sqlite", driver, ended)):
            raise Unusual("somebody is to be told of a limit")
        for statement in books_of:
            driver.execute(*statement)

    way.write(work)


def _may_tell(subject: str, used: int, maximum: int, warned_percent: int, lowest_of_person: int) -> bool:
    if maximum <= 0:
        return False
    percent = min(100, used * 100 // maximum)
    return percent > warned_percent and percent >= (1 if subject.startswith("organization:") else lowest_of_person)


def _lowest() -> int:
    """The percentage from which on people are told of their limits."""
    return min(current_settings().warned_percents, default=101)


# Each part waits for the one before it, so that rows are locked in the order of the general way: request, person, counters, and
# these in the order of their characters' numbers (collation "C"), not of a language.
_AT_ONCE = """
WITH e AS ({end}),
p AS ({person} AND EXISTS (SELECT 1 FROM e) RETURNING person.id),
h AS ({closing_head} AND EXISTS (SELECT 1 FROM p) {closing_tail}),
c AS (
  INSERT INTO limit_counter (subject, name, period, starts_at, dimension, maximum, used, held)
  SELECT subject, name, period, starts_at, dimension, 0, sum(used)::bigint, sum(amount)::bigint FROM h
  GROUP BY subject, name, period, starts_at, dimension
  ORDER BY subject COLLATE "C", name COLLATE "C", period COLLATE "C"
  ON CONFLICT (subject, name, period, starts_at) DO UPDATE
  SET held = limit_counter.held - excluded.held, used = limit_counter.used + excluded.used
  RETURNING subject, used, maximum, warned_percent
),
a AS ({attempt}),
l AS ({entry})
SELECT 1 / (CASE WHEN EXISTS (SELECT 1 FROM e) AND NOT EXISTS (SELECT 1 FROM h WHERE provider IS NOT NULL)
AND NOT EXISTS (
  SELECT 1 FROM c WHERE maximum > 0 AND least(100, used * 100 / maximum) > warned_percent
  AND least(100, used * 100 / maximum) >= CASE WHEN subject LIKE 'organization:%%' THEN 1 ELSE %s END
) THEN 1 ELSE 0 END)
"""


@lru_cache(maxsize=2)
def _text_at_once(known: _Statements, closing: str) -> str:
    head, _, tail = closing.partition("RETURNING")
    return _AT_ONCE.format(
        end=known.end.text,
        person=known.person.text,
        closing_head=head,
        closing_tail=f"RETURNING {tail}",
        attempt=known.attempt.text,
        entry=known.entry.text,
    )


def _end_at_once(way: Way, known: _Statements, values: Any, person: Any, closing: Any, attempt: Any, entry: Any) -> None:
    text, closed = closing
    given = [*known.end.row(values), *known.person.row(person), *closed, *known.attempt.row(attempt), *known.entry.row(entry)]
    way.row(_text_at_once(known, text), [*given, _lowest()])
