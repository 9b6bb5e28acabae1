"""What many tests do: text the application, run its jobs, read its books."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from flask import Flask, current_app
from sqlalchemy import Select, func, select

from webapp import queues
from webapp.contracts.channels import InboundMessage
from webapp.extensions import db, queue_redis, reading, writing_session
from webapp.jobs.worker import ThreadWorker
from webapp.models import Delivery, Direction, Hold, LedgerEntry, LimitCounter, Person, Request
from webapp.pipeline.inbox import CoreInbox
from webapp.services import ledger_verify, people

T = TypeVar("T")
_numbers = itertools.count(1)


def text(body: str, sender: str = "+15005550006", external_id: str = "", channel: str = "simulator") -> None:
    """A verified message arrives."""
    CoreInbox().receive(
        InboundMessage(
            channel=channel,
            external_id=external_id or f"M{next(_numbers)}",
            sender=sender,
            recipient="+15005550001",
            text=body,
        )
    )


def run_jobs() -> None:
    """Run everything that is queued, and what that queues, in this application."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    connection = queue_redis()
    worker = ThreadWorker(
        [queues.queue(name, connection) for name in queues.QUEUES],
        connection,
        slots=16,
        job_context=app.app_context,
        preload=("webapp.jobs.tasks",),
    )
    worker.work(burst=True)
    failed = [q.failed_job_registry.get_job_ids() for q in (queues.queue(n, connection) for n in queues.QUEUES)]
    assert not any(failed), f"jobs failed: {failed}"


def add_person(**values: Any) -> uuid.UUID:
    """A person, by the same function as the command line."""
    with writing_session() as session:
        return people.add(session, **values).id


def rows(query: Select[tuple[T]]) -> list[T]:
    """What the query finds now, not what this session saw before."""
    db.session.rollback()
    db.session.expire_all()
    return list(db.session.scalars(query))


def one(query: Select[tuple[T]]) -> T:
    """The only thing that the query finds now."""
    (found,) = rows(query)
    return found


def requests() -> list[Request]:
    """All requests, oldest first."""
    return rows(select(Request).order_by(Request.id))


def sent(address: str = "") -> list[Delivery]:
    """All outgoing messages, oldest first."""
    query = select(Delivery).where(Delivery.direction == Direction.OUT).order_by(Delivery.id)
    return rows(query.where(Delivery.address == address) if address else query)


@dataclass(frozen=True, slots=True)
class Books:
    """Sums that must agree: what the ledger says, what requests say, what counters say."""

    ledger: tuple[int, int]
    requests: tuple[int, int]
    counters: Mapping[str, int]
    held: int
    open_holds: int


def books() -> Books:
    """(tokens, micro-dollars) of the ledger and of the requests; used by dimension; what is still held."""
    with reading() as c:
        entry, request, counter = LedgerEntry, Request, LimitCounter
        ledger = c.execute(
            select(
                func.coalesce(func.sum(entry.input_tokens + entry.output_tokens), 0),
                func.coalesce(func.sum(entry.cost_microusd), 0),
            ).where(entry.payer == "person")
        ).one()
        said = c.execute(
            select(
                func.coalesce(func.sum(request.input_tokens + request.output_tokens), 0),
                func.coalesce(func.sum(request.cost_microusd), 0),
            )
        ).one()
        mine = counter.subject != "house"
        used = c.execute(select(counter.dimension, func.sum(counter.used)).where(mine).group_by(counter.dimension)).all()
        held = c.execute(select(func.coalesce(func.sum(counter.held), 0))).scalar_one()
        open_holds = c.execute(select(func.count()).select_from(Hold).where(Hold.settled_at.is_(None))).scalar_one()
    return Books(
        (int(ledger[0]), int(ledger[1])),
        (int(said[0]), int(said[1])),
        {dimension: int(total) for dimension, total in used},
        int(held),
        open_holds,
    )


def assert_books_balance() -> None:
    """Ledger = requests = counters, and nothing is held by a request that ended."""
    found = books()
    assert found.ledger == found.requests
    assert found.counters.get("tokens", 0) == found.ledger[0]
    assert found.counters.get("cost", 0) == found.ledger[1]
    assert found.held == 0
    assert found.open_holds == 0
    assert_books_agree()


def assert_books_agree() -> None:
    """Every check of `switchhook ledger verify` holds, and a failure names what disagrees."""
    verified = ledger_verify.verify()
    assert verified.agree, [disagreement for check in verified.checks for disagreement in check.listed]


def persons() -> list[Person]:
    """All persons, oldest first."""
    return rows(select(Person).order_by(Person.id))
