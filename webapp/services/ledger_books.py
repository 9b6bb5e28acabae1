"""What the checks of the books share: what is looked at, in which scope, and the words of a disagreement."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, String, Subquery, cast, func, literal, or_, select, true, union_all

from webapp.extensions import table_of
from webapp.models import ApiToken, LedgerEntry, Membership, Person, Request

PERSON = "person"
_STREAMED = 1000
"""How many rows the database hands over at a time."""
ledger = table_of(LedgerEntry)
request = table_of(Request)


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Two books that differ. `subject` says of what by kind and id, `what` which figure; the ledger is what is believed."""

    subject: str
    what: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class Books:
    """The books at one moment: of one organization, or of the installation where that is None."""

    connection: Connection
    organization_id: uuid.UUID | None
    at: datetime

    @property
    def on_sqlite(self) -> bool:
        return self.connection.dialect.name == "sqlite"

    def of(self, column: Any) -> ColumnElement[bool]:
        """The condition that a row belongs to the organization, by its column."""
        return true() if self.organization_id is None else column == self.organization_id

    def rows(self, query: Select[Any]) -> Iterator[Any]:
        """What a query finds, a part at a time."""
        yield from self.connection.execute(query.execution_options(yield_per=_STREAMED))

    def count(self, query: Select[Any]) -> int:
        """How many rows a query finds."""
        return int(self.connection.execute(select(func.count()).select_from(query.subquery())).scalar_one())

    def entered(self, *keys: Any) -> Subquery:
        """What the person's calls have used by the ledger, summed up by `keys`: requests, tokens, cost, credits."""
        sums = [func.sum(ledger.c[name]).label(name) for name in FIGURES]
        query = select(*keys, *sums).where(ledger.c.payer == PERSON, self.of(ledger.c.organization_id))
        return query.where(*(key.is_not(None) for key in keys)).group_by(*keys).subquery()

    def members(self) -> Select[Any]:
        """The ids of the organization's people: those who have a place in it, and those who work in it without one."""
        placed = select(Membership.person_id).where(Membership.organization_id == self.organization_id)
        return select(Person.id).where(or_(Person.id.in_(placed), Person.organization_id == self.organization_id))

    def whose(self, subject: Any) -> ColumnElement[bool]:
        """The condition that a counter belongs to the organization, its people or their tokens, by its subject."""
        if self.organization_id is None:
            return true()
        people = select(literal("person:").op("||")(self._text(Person.id))).where(Person.id.in_(self.members()))
        tokens = select(literal("token:").op("||")(self._text(ApiToken.id))).where(ApiToken.person_id.in_(self.members()))
        here = select(literal(f"organization:{self.organization_id}"))
        condition: ColumnElement[bool] = subject.in_(union_all(here, people, tokens))
        return condition

    def _text(self, column: Any) -> ColumnElement[Any]:
        """An id as it stands in subjects. SQLite keeps it without hyphens."""
        if not self.on_sqlite:
            return cast(column, String)
        whole = cast(column, String)
        text: ColumnElement[Any] = func.substr(whole, 1, 8)
        for start, length in ((9, 4), (13, 4), (17, 4), (21, 12)):
            text = text.op("||")(literal("-")).op("||")(func.substr(whole, start, length))
        return text


FIGURES = ("requests", "input_tokens", "output_tokens", "cost_microusd", "credits_millicredits")
WORDS = {
    "requests": "requests",
    "input_tokens": "input tokens",
    "output_tokens": "output tokens",
    "cost_microusd": "micro-dollars",
    "credits_millicredits": "milli-credits",
    "pictures": "pictures",
    "calls": "calls",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that has to agree. `count` says how many rows are looked at; `find` yields what disagrees."""

    name: str
    rows: str
    count: Callable[[Books], int]
    find: Callable[[Books], Iterator[Disagreement]]


def differing(subject: str, row: Any, names: tuple[str, ...], expected: str, found: str) -> Iterator[Disagreement]:
    """A disagreement for each figure in which two prefixes of a row's columns differ."""
    for name in names:
        wanted, there = getattr(row, f"{expected}_{name}") or 0, getattr(row, f"{found}_{name}") or 0
        if wanted != there:
            yield Disagreement(subject, WORDS[name], f"{wanted:,}", f"{there:,}")
