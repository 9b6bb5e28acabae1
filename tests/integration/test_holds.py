"""No limit is passed, whoever asks at once; every hold ends."""

from __future__ import annotations

import random
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from flask import Flask
from sqlalchemy import Connection, insert, select

from tests.support import add_person
from webapp.contracts.limits import Dimension, Limit, Window
from webapp.extensions import db, now, reading, writing
from webapp.models import Hold, LimitCounter, Organization, Request, RequestStatus
from webapp.models.columns import new_id
from webapp.quota import holds
from webapp.quota.extension import extend
from webapp.quota.holds import Need, NoRoom

SUBJECT = "person:somebody"


def limit(name: str, maximum: int, dimension: Dimension = Dimension.REQUESTS, window: Window = Window.MONTH) -> Limit:
    return Limit(SUBJECT, name, dimension, window, maximum, name)


@pytest.fixture
def person(app: Flask) -> uuid.UUID:
    return add_person(phone="+15005550006")


def begin(person: uuid.UUID) -> uuid.UUID:
    """A request's row, which holds refer to."""
    request_id = new_id()
    with writing() as connection:
        organization = connection.execute(select(Organization.id)).scalar_one()
        connection.execute(
            insert(Request),
            {
                "id": request_id,
                "person_id": person,
                "organization_id": organization,
                "channel": "sms",
                "operation": "chat",
                "prompt": "x",
                "status": RequestStatus.QUEUED,
                "max_input_tokens": 1,
                "max_output_tokens": 1,
                "queue": "low",
                "priority": 20,
                "created_at": now(),
            },
        )
    return request_id


def take(request_id: uuid.UUID, *limits: Limit, amounts: dict[Dimension, int] | None = None) -> None:
    wanted = holds.needs(limits, amounts or {Dimension.REQUESTS: 1}, now(), "UTC")
    with writing() as connection:
        holds.take(connection, request_id, wanted)


def counters() -> dict[str, tuple[int, int]]:
    db.session.rollback()
    return {
        name: (used, held)
        for name, used, held in db.session.execute(select(LimitCounter.name, LimitCounter.used, LimitCounter.held))
    }


def test_what_is_taken_is_held_and_what_is_settled_is_used(person: uuid.UUID) -> None:
    request = begin(person)
    amounts = {Dimension.REQUESTS: 1, Dimension.TOKENS: 900}
    take(request, limit("messages", 10), limit("tokens", 10_000, Dimension.TOKENS), amounts=amounts)
    assert counters() == {"messages": (0, 1), "tokens": (0, 900)}
    with writing() as connection:
        holds.settle(connection, request, {Dimension.REQUESTS: 1, Dimension.TOKENS: 250}, now(), by="test", why="completed")
    assert counters() == {"messages": (1, 0), "tokens": (250, 0)}


def test_settling_twice_changes_nothing(person: uuid.UUID) -> None:
    request = begin(person)
    take(request, limit("messages", 10))
    for _ in range(3):
        with writing() as connection:
            holds.settle(connection, request, {Dimension.REQUESTS: 1}, now(), by="test", why="completed")
    assert counters() == {"messages": (1, 0)}


def test_giving_back_frees_the_room(person: uuid.UUID) -> None:
    first, second = begin(person), begin(person)
    take(first, limit("messages", 1))
    with pytest.raises(NoRoom):
        take(second, limit("messages", 1))
    with writing() as connection:
        holds.give_back(connection, first, now(), by="test", why="cancelled")
    take(second, limit("messages", 1))
    assert counters() == {"messages": (0, 1)}


def test_a_refusal_names_the_limit_that_is_full_and_holds_nothing(person: uuid.UUID) -> None:
    take(begin(person), limit("tokens", 100, Dimension.TOKENS), amounts={Dimension.TOKENS: 60})
    wanted = (limit("messages", 10), limit("tokens", 100, Dimension.TOKENS))
    with pytest.raises(NoRoom) as refused:
        take(begin(person), *wanted, amounts={Dimension.REQUESTS: 1, Dimension.TOKENS: 41})
    assert refused.value.need.limit.name == "tokens"
    assert counters() == {"tokens": (0, 60)}


def test_a_request_larger_than_the_whole_limit_is_refused_on_an_empty_counter(person: uuid.UUID) -> None:
    with pytest.raises(NoRoom):
        take(begin(person), limit("messages", 0))
    assert counters() == {}


def test_a_vendor_that_counts_more_than_was_held_is_booked_in_full_and_closes_the_limit(person: uuid.UUID) -> None:
    request = begin(person)
    tokens = limit("tokens", 100, Dimension.TOKENS)
    take(request, tokens, amounts={Dimension.TOKENS: 50})
    with writing() as connection:
        holds.settle(connection, request, {Dimension.TOKENS: 170}, now(), by="test", why="completed")
    assert counters() == {"tokens": (170, 0)}
    with pytest.raises(NoRoom):
        take(begin(person), tokens, amounts={Dimension.TOKENS: 1})


def test_a_lowered_limit_counts_at_once(person: uuid.UUID) -> None:
    for _ in range(3):
        take(begin(person), limit("messages", 10))
    with pytest.raises(NoRoom):
        take(begin(person), limit("messages", 3))


def test_a_hold_taken_before_midnight_is_settled_in_its_own_window(person: uuid.UUID) -> None:
    request = begin(person)
    daily = limit("messages", 10, window=Window.DAY)
    wanted = holds.needs([daily], {Dimension.REQUESTS: 1}, datetime(2026, 11, 20, 23, 59, 59, tzinfo=UTC), "UTC")
    with writing() as connection:
        holds.take(connection, request, wanted)
    with writing() as connection:
        holds.settle(
            connection,
            request,
            {Dimension.REQUESTS: 1},
            datetime(2026, 11, 21, 0, 0, 5, tzinfo=UTC),
            by="test",
            why="completed",
        )
    rows = db.session.execute(select(LimitCounter.starts_at, LimitCounter.used, LimitCounter.held)).all()
    assert [tuple(row) for row in rows] == [(datetime(2026, 11, 20, tzinfo=UTC), 1, 0)]


def test_the_first_refusal_of_a_window_is_noticed_once(person: uuid.UUID) -> None:
    with pytest.raises(NoRoom) as refused:
        take(begin(person), limit("messages", 0))
    need: Need = refused.value.need
    noticed = []
    for _ in range(3):
        with writing() as connection:
            noticed.append(holds.notice_once(connection, need, person, now()))
    assert noticed == [True, False, False]


def held(request_id: uuid.UUID, dimension: Dimension = Dimension.TOKENS) -> int:
    with reading() as connection:
        amounts = connection.execute(
            select(Hold.amount).where(
                Hold.request_id == request_id, Hold.dimension == dimension.value, Hold.settled_at.is_(None)
            )
        ).scalars()
        return max(amounts, default=0)


def lock(connection: Connection, request_id: uuid.UUID) -> None:
    """The request's row first, which whoever changes its holds has changed before."""
    connection.execute(select(Request.id).where(Request.id == request_id).with_for_update(key_share=True))


def top_up(request_id: uuid.UUID, more: int, dimension: Dimension = Dimension.TOKENS) -> bool:
    following = {dimension: held(request_id, dimension) + more}
    try:
        with writing() as connection:
            lock(connection, request_id)
            extend(connection, request_id, used={}, used_there={}, following=following, provider="")
    except NoRoom:
        return False
    return True


def test_what_is_held_in_addition_counts_on_every_limit_and_is_settled_with_the_rest(person: uuid.UUID) -> None:
    request = begin(person)
    limits = [limit("tokens", 1000, Dimension.TOKENS), limit("daily tokens", 200, Dimension.TOKENS, Window.DAY)]
    take(request, *limits, amounts={Dimension.TOKENS: 50})
    assert top_up(request, 150)
    assert counters() == {"tokens": (0, 200), "daily tokens": (0, 200)}
    assert not top_up(request, 1)
    assert counters() == {"tokens": (0, 200), "daily tokens": (0, 200)}
    assert held(request) == 200
    with writing() as connection:
        holds.settle(connection, request, {Dimension.TOKENS: 120}, now(), by="test", why="completed")
    assert held(request) == 0
    assert counters() == {"tokens": (120, 0), "daily tokens": (120, 0)}


def test_a_settled_request_holds_nothing_in_addition(person: uuid.UUID) -> None:
    request = begin(person)
    take(request, limit("tokens", 1000, Dimension.TOKENS), amounts={Dimension.TOKENS: 50})
    with writing() as connection:
        holds.give_back(connection, request, now(), by="test", why="cancelled")
    assert top_up(request, 10)
    assert counters() == {"tokens": (0, 0)}


def test_a_request_without_such_a_limit_has_room(person: uuid.UUID) -> None:
    unlimited, limited = begin(person), begin(person)
    take(limited, limit("messages", 10))
    assert top_up(unlimited, 10**9)
    assert top_up(limited, 10**9)
    assert counters() == {"messages": (0, 1)}


@pytest.mark.parametrize("first", ["top_up", "settle"])
def test_what_is_held_in_addition_while_the_request_is_settled_has_an_owner_or_is_not_held(
    app: Flask, person: uuid.UUID, first: str
) -> None:
    request = begin(person)
    take(request, limit("tokens", 1000, Dimension.TOKENS), amounts={Dimension.TOKENS: 50})
    begun = threading.Event()

    def other() -> None:
        with app.app_context():
            begun.set()
            if first == "settle":
                top_up(request, 100)
            else:
                with writing() as connection:
                    holds.settle(connection, request, {Dimension.TOKENS: 30}, now(), by="test", why="completed")

    thread = threading.Thread(target=other)
    with writing() as connection:
        if first == "settle":
            holds.settle(connection, request, {Dimension.TOKENS: 30}, now(), by="test", why="completed")
        else:
            extend(connection, request, used={}, used_there={}, following={Dimension.TOKENS: 150}, provider="")
        thread.start()
        begun.wait(10)
        thread.join(0.3)
        # It waits for this transaction, and then sees what it did.
        assert thread.is_alive()
    thread.join(20)
    assert not thread.is_alive()
    assert counters() == {"tokens": (30, 0)}
    assert db.session.scalars(select(Hold.id).where(Hold.settled_at.is_(None))).all() == []


def test_additions_and_settlements_in_any_order_leave_nothing_held_and_nobody_waiting(app: Flask, person: uuid.UUID) -> None:
    limits = [limit("tokens", 10**6, Dimension.TOKENS), limit("daily", 10**6, Dimension.TOKENS, Window.DAY)]
    waiting = [begin(person) for _ in range(12)]
    for request in waiting:
        take(request, *limits, amounts={Dimension.TOKENS: 50})

    def end(request: uuid.UUID) -> None:
        with app.app_context(), writing() as connection:
            lock(connection, request)
            holds.settle(connection, request, {Dimension.TOKENS: 7}, now(), by="test", why="completed")

    def add(request: uuid.UUID) -> bool:
        with app.app_context():
            return top_up(request, 100)

    with ThreadPoolExecutor(12) as pool:
        work = [pool.submit(act, request) for request in waiting for act in (add, end, add)]
        assert {done.result(60) for done in work} <= {None, True, False}
    assert counters() == {"tokens": (84, 0), "daily": (84, 0)}


@pytest.mark.parametrize("room", [1, 10])
def test_twenty_threads_never_take_more_than_there_is(app: Flask, person: uuid.UUID, room: int) -> None:
    requests = [begin(person) for _ in range(40)]
    start = threading.Barrier(20)

    def race(mine: list[uuid.UUID]) -> int:
        granted = 0
        with app.app_context():
            start.wait()
            for request in mine:
                try:
                    take(request, limit("messages", room), limit("tokens", 10**9, Dimension.TOKENS))
                    granted += 1
                except NoRoom:
                    pass
        return granted

    with ThreadPoolExecutor(20) as pool:
        granted = sum(pool.map(race, [requests[i::20] for i in range(20)]))
    assert granted == room
    assert counters()["messages"] == (0, room)


def test_any_interleaving_of_take_settle_and_give_back_keeps_the_sums_right(app: Flask, person: uuid.UUID) -> None:
    maximum = 12
    limits = (limit("messages", maximum), limit("tokens", 40 * maximum, Dimension.TOKENS))
    seen_above: list[int] = []
    used: list[int] = []

    def live(seed: int) -> None:
        chance = random.Random(seed)
        with app.app_context():
            for _ in range(6):
                request = begin(person)
                try:
                    take(request, *limits, amounts={Dimension.REQUESTS: 1, Dimension.TOKENS: 40})
                except NoRoom:
                    continue
                with db.engine.connect() as c:
                    found = c.execute(select(LimitCounter.used, LimitCounter.held, LimitCounter.maximum)).all()
                seen_above.extend(1 for row in found if row.used + row.held > row.maximum)
                spent = chance.choice((0, 1))
                for _ in range(chance.choice((1, 2))):
                    with writing() as connection:
                        holds.settle(
                            connection,
                            request,
                            {Dimension.REQUESTS: spent, Dimension.TOKENS: 25 * spent},
                            now(),
                            by="test",
                            why="completed",
                        )
                used.append(spent)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(live, range(12)))
    assert not seen_above
    assert counters() == {"messages": (sum(used), 0), "tokens": (25 * sum(used), 0)}
    assert sum(used) <= maximum
    assert db.session.scalars(select(Hold.id).where(Hold.settled_at.is_(None))).all() == []
