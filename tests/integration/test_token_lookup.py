"""Who is behind a token: found by one statement, on both databases."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, update

from tests.support import add_person
from webapp.extensions import db, now, writing, writing_session
from webapp.models import ApiToken, Organization, Person, PersonRole
from webapp.services import people, tokens


@pytest.fixture
def alice(app: Flask) -> uuid.UUID:
    return add_person(email="alice@example.com", role=PersonRole.MANAGER)


def made(person_id: uuid.UUID) -> str:
    with writing_session() as session:
        return people.make_token(session, session.get_one(Person, person_id), "a test", ["read"], None, "test")


def test_one_statement_finds_the_person_their_role_and_where_they_work(alice: uuid.UUID) -> None:
    token = made(alice)
    statements: list[str] = []
    event.listen(db.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    known = tokens.find(token)
    assert len([text for text in statements if text != "BEGIN"]) == 1
    assert known is not None
    assert (known.person_id, known.role, known.scopes, known.use_due) == (alice, PersonRole.MANAGER, {"read"}, True)
    tokens.note_use(known.token_id)
    again = tokens.find(token)
    assert again is not None
    assert not again.use_due
    assert known.person.email == "alice@example.com"
    assert tokens.find(token[:-1]) is None


def test_a_token_is_void_as_soon_as_anything_about_it_is(alice: uuid.UUID) -> None:
    token = made(alice)
    ends: tuple[tuple[Callable[[], Any], Callable[[], Any]], ...] = (
        (lambda: update(Person).values(active=False), lambda: update(Person).values(active=True)),
        (lambda: update(Organization).values(active=False), lambda: update(Organization).values(active=True)),
        (
            lambda: update(ApiToken).values(expires_at=now() - timedelta(seconds=1)),
            lambda: update(ApiToken).values(expires_at=now() + timedelta(hours=1)),
        ),
        (lambda: update(ApiToken).values(revoked_at=now()), lambda: update(ApiToken).values(revoked_at=None)),
    )
    for off, on in ends:
        with writing() as connection:
            connection.execute(off())
        assert tokens.find(token) is None
        with writing() as connection:
            connection.execute(on())
        assert tokens.find(token) is not None
