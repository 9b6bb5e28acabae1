"""What tests about the short way of attended requests do: people with tokens, a vendor in the process, calls, what a driver is
given."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from flask import Flask
from sqlalchemy import Engine, event, select, update

from tests.integration.limits_support import add_organization
from webapp.contracts.limits import StoredLimit
from webapp.extensions import db, now, reading, writing, writing_session
from webapp.models import ApiToken, Membership, Organization
from webapp.models.connections import Connections, Unusual
from webapp.pipeline import quick
from webapp.pipeline.brought import tokens_of
from webapp.plugin import Text, TextCall, TextProvider, Usage
from webapp.quota import stored
from webapp.services import people

PATH = "/v1/chat/completions"
QUESTION = {"role": "user", "content": "What is the answer?"}


class Exact(TextProvider):
    """A vendor that uses exactly what was held for a call, or what it was told to yield or raise."""

    label, default_model, preference = "Exact", "m", 0

    def __init__(self, name: str = "exact", act: list[Any] | None = None, **values: Any) -> None:
        self.name, self.act = name, act
        self.calls: list[TextCall] = []
        for attribute, value in values.items():
            setattr(self, attribute, value)

    def stream(self, call: TextCall, http: Any) -> Iterator[Any]:
        self.calls.append(call)
        pieces = self.act or [Text("It is "), Text("42."), Usage(tokens_of(call.turns), call.max_output_tokens)]
        for piece in pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield piece


@dataclass(frozen=True)
class Owner:
    """Somebody in an organization of their own, with a token that was used just now."""

    person_id: uuid.UUID
    organization_id: uuid.UUID
    token_id: uuid.UUID
    token: str


def owner(name: str = "alice", scopes: tuple[str, ...] = ("chat",)) -> Owner:
    """Make an `Owner`."""
    place = add_organization(name)
    with writing_session() as session:
        person = people.add(session, email=f"{name}@example.com", organization_id=place)
        token = people.make_token(session, person, "a test", scopes, None, "test")
        session.flush()
        token_id = session.scalars(select(ApiToken.id).where(ApiToken.person_id == person.id)).one()
        found = Owner(person.id, place, token_id, token)
    change_token(found, last_used_at=now())
    return found


def change_token(who: Owner, **values: Any) -> None:
    with writing() as connection:
        connection.execute(update(ApiToken).where(ApiToken.id == who.token_id).values(**values))


def limit(who: Owner, *limits: StoredLimit, of: str = "organization") -> None:
    """Store limits of somebody's organization, of themselves or of their token."""
    change: dict[str, Any] = {
        "organization": update(Organization).where(Organization.id == who.organization_id),
        "person": update(Membership).where(Membership.person_id == who.person_id),
        "token": update(ApiToken).where(ApiToken.id == who.token_id),
    }
    with writing() as connection:
        assert connection.execute(change[of].values(limits=stored.write(limits))).rowcount == 1


def ask(app: Flask, token: str, headers: dict[str, str] | None = None, **body: Any) -> Any:
    """A call; its answer, read to the end."""
    given = {"model": "exact", "messages": [QUESTION], "max_tokens": 50} | body
    answer = app.test_client().post(PATH, json=given, headers={"Authorization": f"Bearer {token}"} | (headers or {}))
    answer.get_data()
    return answer


def at_once(app: Flask, *acts: Callable[[], None]) -> None:
    """Do each in a thread of its own, all of them at the same moment; what one raises is raised here."""
    start, failures = threading.Barrier(len(acts)), list[BaseException]()

    def run(act: Callable[[], None]) -> None:
        with app.app_context():
            try:
                start.wait(10)
                act()
            except BaseException as exc:
                failures.append(exc)

    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    if failures:
        raise failures[0]


def in_general(patch: pytest.MonkeyPatch) -> None:
    """Close the short way."""

    def closed(*_: object) -> Any:
        raise Unusual("closed")

    patch.setattr(quick, "admit", closed)
    patch.setattr(quick, "settled", closed)


@dataclass
class Seen:
    """How often the short way was taken to its end, and why it was not."""

    admitted: int = 0
    settled: int = 0
    reasons: list[str] = field(default_factory=list)


def watched(patch: pytest.MonkeyPatch) -> Seen:
    """Look at who takes the short way."""
    seen, guard = Seen(), threading.Lock()

    def look(name: str, count: str) -> None:
        real = getattr(quick, name)

        def inside(*given: Any) -> Any:
            try:
                found = real(*given)
            except Unusual as exc:
                with guard:
                    seen.reasons.append(f"{name}: {exc}")
                raise
            with guard:
                setattr(seen, count, getattr(seen, count) + 1)
            return found

        patch.setattr(quick, name, inside)

    look("admit", "admitted")
    look("settled", "settled")
    return seen


@contextmanager
def driven(patch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the driver of the database is given, whoever gives it, except for the ends of transactions on PostgreSQL; there,
    what is not committed by itself is marked."""
    given: list[str] = []
    engine: Engine = db.engine
    if engine.dialect.name == "sqlite":

        def out(connection: Any, *_: object) -> None:
            connection.set_trace_callback(lambda text: given.append(" ".join(text.split())))

        def back(connection: Any, *_: object) -> None:
            connection.set_trace_callback(None)

        take, give = Connections.take, Connections.give

        def taken(self: Connections) -> Any:
            driver = take(self)
            out(driver)
            return driver

        def given_back(self: Connections, driver: Any) -> None:
            back(driver)
            give(self, driver)

        event.listen(engine.pool, "checkout", out)
        event.listen(engine.pool, "checkin", back)
        try:
            with patch.context() as inner:
                inner.setattr(Connections, "take", taken)
                inner.setattr(Connections, "give", given_back)
                yield given
        finally:
            event.remove(engine.pool, "checkout", out)
            event.remove(engine.pool, "checkin", back)
        return
    execute = psycopg.Cursor.execute

    def noted(self: Any, query: Any, *values: Any, **options: Any) -> Any:
        given.append(("" if self.connection.autocommit else "in a transaction: ") + " ".join(str(query).split()))
        return execute(self, query, *values, **options)

    with patch.context() as inner:
        inner.setattr(psycopg.Cursor, "execute", noted)
        yield given


def counter(subject: str, name: str) -> tuple[int, int, int]:
    """(used, held, maximum) of a counter."""
    from webapp.models import LimitCounter

    with reading() as connection:
        wanted = (LimitCounter.subject == subject, LimitCounter.name == name)
        row = connection.execute(select(LimitCounter.used, LimitCounter.held, LimitCounter.maximum).where(*wanted)).one()
    return row[0], row[1], row[2]
