"""Counts go on when their windows change: another time zone of the organization, or another organization of the person."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask, current_app
from sqlalchemy import Connection, func, insert, select, text, update

from tests.support import add_person, one, rows
from webapp.contracts.limits import Dimension, Limit, Window
from webapp.extensions import now, reading, writing
from webapp.models import ApiToken, CounterChange, Hold, LimitCounter, Organization, Request
from webapp.models.columns import new_id
from webapp.pipeline.admit import admit
from webapp.pipeline.execute import execute
from webapp.pipeline.intake import Intake
from webapp.quota.windows import bounds
from webapp.services import memberships, organization_counts, organizations
from webapp.services.organizations import Actor, Change

OPERATOR = Actor.operator("a test")
KATHMANDU, ST_JOHNS = "Asia/Kathmandu", "America/St_Johns"
# In Kathmandu it is the first of December, 03:45; in St. John's the thirtieth of November, 18:30.
AT = datetime(2026, 11, 30, 22, 0, tzinfo=UTC)
WINDOWS = (Window.HOUR, Window.DAY, Window.MONTH)


def put(subject: str, window: Window, zone: str, used: int, at: datetime = AT, **values: Any) -> None:
    row = {
        "subject": subject,
        "name": "messages",
        "period": window.value,
        "starts_at": bounds(window, at, zone)[0],
        "dimension": Dimension.REQUESTS.value,
        "maximum": 100,
        "used": used,
        "held": 0,
    }
    with writing() as connection:
        connection.execute(insert(LimitCounter), row | values)


def counter(subject: str, window: Window, zone: str, at: datetime = AT) -> LimitCounter | None:
    query = select(LimitCounter).where(
        LimitCounter.subject == subject,
        LimitCounter.period == window.value,
        LimitCounter.starts_at == bounds(window, at, zone)[0],
    )
    return next(iter(rows(query)), None)


def used(subject: str, window: Window, zone: str, at: datetime = AT) -> int | None:
    found = counter(subject, window, zone, at)
    return None if found is None else found.used


def carry(organization_id: uuid.UUID, before: str, after: str, at: datetime = AT) -> None:
    with writing() as connection:
        organization_counts.carry_organization(connection, organization_id, before, after, at, actor="a test")


@pytest.fixture
def weavers(app: Flask) -> Iterator[uuid.UUID]:
    return organizations.create(OPERATOR, "Weavers", KATHMANDU).id


def test_from_kathmandu_to_st_johns_nothing_is_forgotten(weavers: uuid.UUID) -> None:
    ada = add_person(email="ada@example.com", organization_id=weavers)
    away = add_person(email="away@example.com", organization_id=weavers)
    elsewhere = organizations.create(OPERATOR, "Elsewhere", KATHMANDU).id
    memberships.add(OPERATOR, elsewhere, "away@example.com")
    memberships.switch(OPERATOR, away, elsewhere)
    subjects = [f"organization:{weavers}", f"person:{ada}"]
    for number, window in enumerate(WINDOWS, 1):
        for subject in (*subjects, f"person:{away}"):
            put(subject, window, KATHMANDU, 10 * number, warned_percent=80, noticed_at=AT)
    carry(weavers, KATHMANDU, ST_JOHNS)
    for number, window in enumerate(WINDOWS, 1):
        assert bounds(window, AT, KATHMANDU) != bounds(window, AT, ST_JOHNS)
        for subject in subjects:
            found = counter(subject, window, ST_JOHNS)
            assert found is not None
            assert (found.used, found.maximum, found.warned_percent, found.noticed_at) == (10 * number, 100, 80, AT)
            assert used(subject, window, KATHMANDU) == 10 * number
        assert used(f"person:{away}", window, ST_JOHNS) is None
    changes = {(c.subject, c.period, c.starts_at): c for c in rows(select(CounterChange))}
    assert len(changes) == 6
    change = changes[f"person:{ada}", "month", bounds(Window.MONTH, AT, ST_JOHNS)[0]]
    assert (change.amount, change.actor, change.reason) == (30, "a test", organization_counts.ZONE_CHANGED)


def test_going_back_counts_nothing_twice(weavers: uuid.UUID) -> None:
    subject = f"organization:{weavers}"
    put(subject, Window.MONTH, KATHMANDU, 5)
    carry(weavers, KATHMANDU, ST_JOHNS)
    with writing() as connection:
        later = LimitCounter.__table__.update().where(LimitCounter.starts_at == bounds(Window.MONTH, AT, ST_JOHNS)[0])  # type: ignore[attr-defined]
        connection.execute(later.values(used=8))
    carry(weavers, ST_JOHNS, KATHMANDU)
    assert used(subject, Window.MONTH, KATHMANDU) == 8
    carry(weavers, KATHMANDU, ST_JOHNS)
    assert used(subject, Window.MONTH, ST_JOHNS) == 8
    assert sorted(rows(select(CounterChange.amount))) == [3, 5]


def test_windows_that_begin_at_the_same_moment_go_on_as_they_are(weavers: uuid.UUID) -> None:
    subject = f"organization:{weavers}"
    put(subject, Window.HOUR, "UTC", 4)
    put(subject, Window.DAY, "UTC", 4)
    carry(weavers, "UTC", "Europe/Berlin")
    assert used(subject, Window.HOUR, "UTC") == used(subject, Window.HOUR, "Europe/Berlin") == 4
    assert used(subject, Window.DAY, "Europe/Berlin") == 4
    assert [change.period for change in rows(select(CounterChange))] == ["day"]


def test_what_was_counted_in_windows_that_are_over_stays_there(weavers: uuid.UUID) -> None:
    subject, earlier = f"organization:{weavers}", datetime(2026, 9, 10, tzinfo=UTC)
    put(subject, Window.MONTH, KATHMANDU, 50, earlier)
    carry(weavers, KATHMANDU, ST_JOHNS)
    assert used(subject, Window.MONTH, ST_JOHNS) is None
    assert not rows(select(CounterChange))


def test_the_time_zone_is_changed_with_its_counts_in_one_act(weavers: uuid.UUID) -> None:
    at, subject = now(), f"organization:{weavers}"
    put(subject, Window.DAY, KATHMANDU, 7, at)
    changed = organizations.change(OPERATOR, weavers, 0, Change(time_zone=ST_JOHNS))
    assert changed.time_zone == one(select(Organization.time_zone).where(Organization.id == weavers)) == ST_JOHNS
    # Whether or not midnight has passed in one of the two meanwhile.
    assert sum(rows(select(CounterChange.amount))) in (0, 7)
    assert used(subject, Window.DAY, ST_JOHNS, at) == 7


def test_what_a_running_request_holds_is_settled_in_the_other_windows(weavers: uuid.UUID) -> None:
    ada = add_person(email="ada@example.com", organization_id=weavers)
    request_id = admit(Intake(medium="web", text="hello", person_id=ada, new_conversation=True)).request_id
    assert request_id is not None
    at = one(select(Request.created_at))
    before = one(select(func.sum(Hold.amount)).where(Hold.dimension == "tokens"))
    organizations.change(OPERATOR, weavers, 0, Change(time_zone=ST_JOHNS))
    here, there = (bounds(Window.MONTH, at, zone)[0] for zone in (KATHMANDU, ST_JOHNS))
    held = {(c.starts_at, c.name): c.held for c in rows(select(LimitCounter))}
    assert held[there, "tokens"] == before
    assert held[here, "tokens"] == 0
    execute(request_id)
    assert {hold.starts_at for hold in rows(select(Hold)) if hold.period == "month"} == {there}
    counters = {(c.starts_at, c.name): (c.used, c.held) for c in rows(select(LimitCounter))}
    assert counters[there, "messages"] == (1, 0)
    assert counters[here, "messages"] == (0, 0)
    _every_counter_is_the_sum_of_its_receipts()


def test_whoever_goes_to_an_organization_in_another_zone_begins_no_new_month_by_it(weavers: uuid.UUID) -> None:
    other = organizations.create(OPERATOR, "Others", ST_JOHNS).id
    ada = add_person(email="ada@example.com", organization_id=weavers)
    with writing() as connection:
        token = {"id": new_id(), "person_id": ada, "name": "t", "prefix": "sh_", "digest": "d", "scopes": [], "limits": []}
        connection.execute(insert(ApiToken), token | {"created_at": now()})
    memberships.add(OPERATOR, other, "ada@example.com")
    at = now()
    for subject in (f"person:{ada}", f"token:{token['id']}", f"organization:{weavers}"):
        put(subject, Window.DAY, KATHMANDU, 9, at)
    memberships.switch(OPERATOR, ada, other)
    assert used(f"person:{ada}", Window.DAY, ST_JOHNS, at) == 9
    assert used(f"token:{token['id']}", Window.DAY, ST_JOHNS, at) == 9
    assert used(f"organization:{weavers}", Window.DAY, ST_JOHNS, at) is None
    memberships.switch(OPERATOR, ada, weavers)
    assert used(f"person:{ada}", Window.DAY, KATHMANDU, at) == 9
    assert {change.reason for change in rows(select(CounterChange))} == {organization_counts.MOVED}


def test_an_organization_of_many_people_keeps_all_their_counts(weavers: uuid.UUID) -> None:
    many = [add_person(email=f"p{number}@example.com", organization_id=weavers) for number in range(5)]
    for number, person_id in enumerate(many):
        put(f"person:{person_id}", Window.DAY, KATHMANDU, number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(organization_counts, "_CHUNK", 2)
        carry(weavers, KATHMANDU, ST_JOHNS)
    assert [used(f"person:{person_id}", Window.DAY, ST_JOHNS) for person_id in many] == [0, 1, 2, 3, 4]


def _every_counter_is_the_sum_of_its_receipts() -> None:
    with reading() as connection:
        for row in connection.execute(select(LimitCounter.__table__)):
            key = [getattr(row, name) for name in ("subject", "name", "period", "starts_at")]
            sums = []
            for model, amount in ((Hold, Hold.used), (CounterChange, CounterChange.amount)):
                query = select(func.coalesce(func.sum(amount), 0)).where(
                    model.subject == key[0], model.name == key[1], model.period == key[2], model.starts_at == key[3]
                )
                sums.append(connection.execute(query).scalar_one())
            assert row.used == sum(sums), key


def test_a_limit_has_room_for_no_more_after_the_change(weavers: uuid.UUID) -> None:
    from webapp.quota import holds

    at = now()
    subject = f"organization:{weavers}"
    put(subject, Window.DAY, KATHMANDU, 100, at)
    organizations.change(OPERATOR, weavers, 0, Change(time_zone=ST_JOHNS))
    limit = Limit(subject, "messages", Dimension.REQUESTS, Window.DAY, 100, "messages")
    with pytest.raises(holds.NoRoom), writing() as connection:
        holds.raise_counters(connection, holds.needs([limit], {Dimension.REQUESTS: 1}, at, ST_JOHNS))


# -- locks ---------------------------------------------------------------------------------------------------------------
def beside(
    work: Callable[[], object], lock_first: Callable[[Connection], object], then: Callable[[Connection], object]
) -> None:
    """Do `work` in another thread; it waits for what `lock_first` has locked while `then` is done in the same transaction."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    done: list[object] = []

    def other() -> None:
        with app.app_context():
            done.append(work())

    waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")
    thread = threading.Thread(target=other)
    with writing() as connection:
        lock_first(connection)
        thread.start()
        for _ in range(200):
            with reading() as watching:
                if watching.execute(waiting).scalar_one():
                    break
            time.sleep(0.02)
        else:
            pytest.fail("nobody waits")
        then(connection)
    thread.join(20)
    assert len(done) == 1, "it has failed"


def raised(connection: Connection, name: str) -> None:
    connection.execute(update(LimitCounter).where(LimitCounter.name == name).values(held=LimitCounter.held + 1))


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize(("first", "second"), [("a_month", "z_day"), ("Z_month", "a_day"), ("a-z_month", "ab_day")])
def test_counters_are_locked_in_the_order_in_which_requests_lock_them(weavers: uuid.UUID, first: str, second: str) -> None:
    subject = f"organization:{weavers}"
    put(subject, Window.MONTH, KATHMANDU, 1, name=first)
    put(subject, Window.DAY, KATHMANDU, 1, name=second)

    def then(connection: Connection) -> None:
        connection.execute(text("SET LOCAL lock_timeout = '500ms'"))
        raised(connection, second)

    beside(lambda: carry(weavers, KATHMANDU, ST_JOHNS), lambda connection: raised(connection, first), then)
    assert used(subject, Window.MONTH, ST_JOHNS) == used(subject, Window.DAY, ST_JOHNS) == 1


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_change_of_the_time_zone_that_is_ended_for_another_is_done_again(weavers: uuid.UUID) -> None:
    at, subject = now(), f"organization:{weavers}"
    put(subject, Window.DAY, KATHMANDU, 5, at)

    def then(connection: Connection) -> None:
        # Each waits for the other: the database ends the one that has waited longest.
        connection.execute(update(Organization).where(Organization.id == weavers).values(preferences={}))

    change = Change(time_zone=ST_JOHNS)
    beside(lambda: organizations.change(OPERATOR, weavers, 0, change), lambda connection: raised(connection, "messages"), then)
    assert used(subject, Window.DAY, ST_JOHNS, at) == 5
    assert one(select(Organization).where(Organization.id == weavers)).time_zone == ST_JOHNS
