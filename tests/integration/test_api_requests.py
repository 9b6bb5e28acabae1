"""Lists of requests on both databases: pages by cursor, searches with a bound, and what a range of time finds."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import insert, select, text, update

from tests.support import add_person
from webapp.contracts.errors import NotFound
from webapp.extensions import now, reading, table_of, writing
from webapp.models import Attempt, Conversation, Person, Request
from webapp.models.columns import new_id
from webapp.services import conversations, ratings, request_lists, task_statistics
from webapp.services.request_lists import Filters, Scope


@pytest.fixture
def scope(app: Flask) -> Scope:
    person_id = add_person(email="ada@example.com")
    with reading() as connection:
        place = connection.execute(select(Person.organization_id).where(Person.id == person_id)).scalar_one()
    return Scope.own(person_id, place)


def store(scope: Scope, count: int, **values: Any) -> list[uuid.UUID]:
    """So many completed requests, oldest first."""
    at = now()
    rows = [
        {
            "id": new_id(),
            "person_id": scope.reader_id,
            "organization_id": scope.organization_id,
            "channel": "api",
            "operation": "chat",
            "prompt": f"question {number}",
            "answer": f"Answer {number}",
            "parameters": {},
            "status": "completed",
            "max_input_tokens": 1,
            "max_output_tokens": 1,
            "queue": "normal",
            "priority": 20,
            "extra": {},
            "created_at": at,
            "started_at": at,
            "ended_at": at + timedelta(seconds=2),
        }
        | values
        for number in range(count)
    ]
    with writing() as connection:
        connection.execute(insert(Request), rows)
    return [row["id"] for row in rows]


def walk(scope: Scope, filters: Filters, **options: Any) -> tuple[list[uuid.UUID], int]:
    """(what all pages have, how many pages there were)."""
    found: list[uuid.UUID] = []
    pages, after = 0, None
    while True:
        page = request_lists.page(scope, filters, after=after, **options)
        found += [line.id for line in page.lines]
        pages, after = pages + 1, page.next_id
        if after is None:
            return found, pages


def test_a_page_looks_at_a_bounded_number_of_requests_and_no_page_leaves_a_gap(
    scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_lists, "LOOKED_MAX", 10)
    monkeypatch.setattr(request_lists, "SEARCHED_MAX", 5)
    ids = store(scope, 40)
    rare = ids[3]
    with writing() as connection:
        connection.execute(update(Request).where(Request.id == rare).values(rating=5, prompt="a needle 50%_"))
    assert walk(scope, Filters(), size=7)[0] == ids[::-1]
    assert walk(scope, Filters(), size=7, oldest_first=True)[0] == ids
    assert walk(scope, Filters(rating=5)) == ([rare], 4)
    assert walk(scope, Filters(rating=5), oldest_first=True) == ([rare], 4)
    assert walk(scope, Filters(q="NEEDLE 50%_")) == ([rare], 8)
    assert walk(scope, Filters(q="answer 39")) == ([ids[39]], 8)
    first = request_lists.page(scope, Filters(q="needle"))
    assert (first.lines, first.next_id) == ((), ids[35])
    assert request_lists.page(scope, Filters(), total=True).total == 40
    assert request_lists.page(scope, Filters(q="needle"), total=True).total is None
    monkeypatch.setattr(request_lists, "COUNTED_MAX", 39)
    assert request_lists.page(scope, Filters(rating=5), total=True).total is None
    sums = task_statistics.sums(scope)
    assert (sums.total, sums.complete, sums.mean_s, sums.by_status["completed"]) == (10, False, 2.0, 10)


def test_a_range_of_time_finds_what_was_made_in_it(scope: Scope) -> None:
    early, late = store(scope, 3), []
    middle: datetime = now() + timedelta(milliseconds=1)
    late = store(scope, 3, created_at=middle)
    assert walk(scope, Filters(created_from=middle))[0] == late[::-1]
    assert walk(scope, Filters(created_to=middle))[0] == early[::-1]
    assert walk(scope, Filters(created_from=middle + timedelta(seconds=1)))[0] == []
    ends = Filters(
        created_from=datetime.min.replace(tzinfo=middle.tzinfo), created_to=datetime.max.replace(tzinfo=middle.tzinfo)
    )
    assert walk(scope, ends)[0] == (early + late)[::-1]


def test_the_list_of_a_person_and_of_an_organization_follow_their_indexes(scope: Scope) -> None:
    store(scope, 1)
    for whose, index in (
        (scope, "ix_request_person"),
        (Scope.organization(uuid.uuid4(), scope.organization_id or uuid.uuid4()), "ix_request_organization"),
    ):
        wanted = request_lists._wanted(whose, Filters(q="x", status=("failed",)))
        if whose is not scope:
            # A manager searches what they asked themselves.
            assert "person_id" in str(wanted.track[0])
            wanted = request_lists._wanted(whose, Filters(status=("failed",)))
        query = select(Request.id).where(*wanted.track).order_by(Request.id.desc()).limit(10)
        with reading() as connection:
            sql = str(query.compile(connection.engine, compile_kwargs={"literal_binds": True}))
            if connection.dialect.name == "sqlite":
                plan = connection.execute(text(f"EXPLAIN QUERY PLAN {sql}")).all()
            else:
                connection.execute(text("SET LOCAL enable_seqscan = off"))
                plan = connection.execute(text(f"EXPLAIN {sql}")).all()
        assert index in str(plan), (index, plan)


def test_one_request_comes_with_its_calls_in_the_words_that_are_for_its_reader(scope: Scope) -> None:
    (request_id,) = store(scope, 1, route={"by": "the request itself", "models": []})
    other = Scope.own(uuid.uuid4(), scope.organization_id or uuid.uuid4())
    with writing() as connection:
        call = {"provider": "demo", "model": "demo", "outcome": "failed", "detail": "the vendor's words"}
        moments = {"started_at": now(), "ended_at": now()}
        connection.execute(
            insert(table_of(Attempt)),
            {"id": new_id(), "request_id": request_id, "execution": 1, "number": 1} | call | moments | _NOTHING,
        )
    mine, all_of_it = request_lists.one(request_id, scope), request_lists.one(request_id, Scope.all())
    assert (mine.calls[0].detail, all_of_it.calls[0].detail) == ("", "the vendor's words")
    assert mine.why is not None
    assert mine.why.decided == "It was asked for by name."
    for nobodys in (other, Scope.organization(uuid.uuid4(), uuid.uuid4())):
        with pytest.raises(NotFound):
            request_lists.one(request_id, nobodys)
        assert not request_lists.sees(request_id, nobodys)
    ratings.rate(scope, request_id, 3, "so so")
    managers = Scope.organization(uuid.uuid4(), scope.organization_id or uuid.uuid4())
    line = request_lists.line(request_id, managers)
    assert (line.texts, line.prompt, line.answer, line.rating, line.rating_comment) == (False, "", None, 3, None)


_NOTHING = {"input_tokens": 0, "output_tokens": 0, "cost_microusd": 0}


def test_conversations_are_found_with_a_bound(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "LOOKED_MAX", 4)
    at = now()
    rows = [
        {
            "id": new_id(),
            "person_id": scope.reader_id,
            "organization_id": scope.organization_id,
            "title": f"Talk {number}",
            "active": number != 2,
            "created_at": at,
            "last_activity_at": at + timedelta(seconds=number // 2),
        }
        for number in range(10)
    ]
    with writing() as connection:
        connection.execute(insert(Conversation), rows)
    assert scope.reader_id is not None
    assert scope.organization_id is not None

    def walk_talks(**options: Any) -> list[str]:
        found: list[str] = []
        after = None
        while True:
            page = conversations.page(scope.reader_id, scope.organization_id, after=after, size=3, **options)  # type: ignore[arg-type]
            found += [line.title for line in page.lines]
            if (after := page.next) is None:
                return found

    assert walk_talks() == [f"Talk {number}" for number in reversed(range(10))]
    assert walk_talks(active=False) == ["Talk 2"]
    assert walk_talks(q="talk 7") == ["Talk 7"]
    assert len(walk_talks(active=True)) == 9
