"""Proof of the books: ledger, requests, receipts, counters and sums by the hour say the same, at one moment, while the product
runs. Everything is compared by the database, in one read transaction; what is held in memory does not grow with the tables.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection

from webapp.extensions import db, now
from webapp.services import ledger_checks, ledger_counter_checks
from webapp.services.ledger_books import Books, Check, Disagreement

LISTED_MAX = 100
"""How many disagreements of one kind are listed; all are counted."""

CHECKS: tuple[Check, ...] = (*ledger_checks.CHECKS, *ledger_counter_checks.CHECKS)
_NOTES = ledger_counter_checks.PASSED


@dataclass(slots=True)
class Checked:
    """What came of one check: how many rows were looked at, the first disagreements, and how many there are."""

    name: str
    rows: str
    """What was looked at, as people call it."""
    looked_at: int = 0
    listed: list[Disagreement] = field(default_factory=list)
    total: int = 0


@dataclass(slots=True)
class Verified:
    """The proof. `notes` are no disagreements: counters above their maximum, which a lowered limit or a vendor that counts more
    than was held may have brought about."""

    at: datetime
    checks: list[Checked] = field(default_factory=list)
    notes: Checked | None = None

    @property
    def agree(self) -> bool:
        return not any(check.total for check in self.checks)

    @property
    def disagreements(self) -> int:
        return sum(check.total for check in self.checks)


def verify(organization_id: uuid.UUID | None = None, begun: Callable[[str, int, int], None] | None = None) -> Verified:
    """Look through the books, of one organization or of all. `begun` is told of each check as it begins: what is looked at, its
    number from 1, and how many there are."""
    verified = Verified(now())
    steps = (*CHECKS, _NOTES)
    with _one_moment() as connection:
        books = Books(connection, organization_id, verified.at)
        for number, check in enumerate(steps, 1):
            if begun is not None:
                begun(check.rows, number, len(steps))
            done = _done(check, books)
            if check is _NOTES:
                verified.notes = done
            else:
                verified.checks.append(done)
    return verified


def _done(check: Check, books: Books) -> Checked:
    done = Checked(check.name, check.rows, check.count(books))
    for disagreement in check.find(books):
        done.total += 1
        if done.total <= LISTED_MAX:
            done.listed.append(disagreement)
    return done


@contextmanager
def _one_moment() -> Iterator[Connection]:
    """One transaction that only reads and sees one moment throughout. SQLite's does so by itself."""
    with db.engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with connection.begin():
            yield connection
