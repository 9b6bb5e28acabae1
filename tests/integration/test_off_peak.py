"""Requests that may wait are held until their vendor's dear hours are over, and nobody else's are."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from flask import Flask
from sqlalchemy import insert, update

from tests.fakes.openai import FakeOpenAI
from tests.integration.web_support import ALICE, HTMX, Site
from tests.support import add_person, assert_books_balance, requests, run_jobs
from webapp import queues
from webapp.extensions import now, queue_redis, writing
from webapp.models import ProviderSetting, Request
from webapp.pipeline.admit import admit
from webapp.pipeline.cancel import cancel
from webapp.pipeline.intake import Intake, Outcome
from webapp.pipeline.off_peak import Released, release
from webapp.pipeline.sweep import sweep
from webapp.routing import vendors

MONDAY = datetime(2026, 11, 23, 8, 30, tzinfo=UTC)
CHEAP_AGAIN = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
HOURS = "Mon-Fri 06:00-10:00"


@pytest.fixture
def app(make_app: Callable[..., Flask], openai: FakeOpenAI) -> Iterator[Flask]:
    app = make_app(chat_model="openai/gpt-4.1-mini")
    with app.app_context():
        set_hours(HOURS)
        yield app


def set_hours(hours: str | None) -> None:
    with writing() as connection:
        values = {"provider": "openai", "enabled": True, "values": {}, "limits": {}, "prices": {}, "peak_hours": hours}
        connection.execute(insert(ProviderSetting), values | {"updated_at": now()})
        vendors.changed(connection)


def ask(person: uuid.UUID, **values: Any) -> uuid.UUID:
    admission = admit(Intake(medium="web", text="Hello", person_id=person, **values))
    assert admission.outcome is Outcome.ACCEPTED
    assert admission.request_id is not None
    return admission.request_id


def queued() -> list[str]:
    return [job for name in queues.QUEUES for job in queues.waiting(queue_redis(), name)]


def test_it_waits_for_the_end_of_the_dear_hours_and_is_then_released_by_the_sweep(app: Flask, openai: FakeOpenAI) -> None:
    person = add_person(email=ALICE)
    with time_machine.travel(MONDAY, tick=True) as clock:
        ask(person, may_wait=True)
        [request] = requests()
        assert (request.status, request.not_before) == ("queued", CHEAP_AGAIN)
        assert queued() == []
        clock.move_to(CHEAP_AGAIN - timedelta(seconds=1), tick=False)
        assert sweep().enqueued == 0
        clock.move_to(CHEAP_AGAIN, tick=False)
        assert sweep().enqueued == 1
        assert len(queued()) == 1
        clock.move_to(CHEAP_AGAIN, tick=True)
        run_jobs()
        assert requests()[0].status == "completed"
    assert len(openai.calls) == 1
    assert_books_balance()


@pytest.mark.parametrize(
    "moment", [CHEAP_AGAIN, datetime(2026, 11, 23, 5, 59, 59, tzinfo=UTC), datetime(2026, 11, 22, 8, 30, tzinfo=UTC)]
)
def test_outside_the_dear_hours_nothing_waits(app: Flask, moment: datetime) -> None:
    person = add_person(email=ALICE)
    with time_machine.travel(moment, tick=True):
        ask(person, may_wait=True)
        assert requests()[0].not_before is None
        assert len(queued()) == 1


def test_what_may_not_wait_is_begun_in_the_dear_hours_too(app: Flask) -> None:
    person = add_person(email=ALICE)
    with time_machine.travel(MONDAY, tick=True):
        ask(person)
        assert requests()[0].not_before is None
        assert len(queued()) == 1
        run_jobs()
    assert requests()[0].status == "completed"


def test_nothing_waits_for_hours_of_a_vendor_that_will_not_answer(app: Flask) -> None:
    person = add_person(email=ALICE)
    with time_machine.travel(MONDAY, tick=True):
        ask(person, may_wait=True, parameters={"model": "demo/demo"})
        assert requests()[0].not_before is None


def test_hours_that_never_end_hold_nobody(make_app: Callable[..., Flask], openai: FakeOpenAI) -> None:
    with make_app(chat_model="openai/gpt-4.1-mini").app_context():
        set_hours("00:00-00:00")
        ask(add_person(email=ALICE), may_wait=True)
        assert requests()[0].not_before is None


def test_what_waits_holds_its_limits_and_gives_them_back_when_it_is_cancelled(app: Flask, openai: FakeOpenAI) -> None:
    person = add_person(email=ALICE)
    with time_machine.travel(MONDAY, tick=True):
        request_id = ask(person, may_wait=True)
        assert cancel(request_id, person) == "cancelled"
    assert_books_balance()
    with time_machine.travel(CHEAP_AGAIN + timedelta(hours=1), tick=True):
        assert sweep().enqueued == 0
        run_jobs()
    assert requests()[0].status == "cancelled"
    assert openai.calls == []


def test_the_same_key_again_is_the_request_that_waits(app: Flask) -> None:
    person = add_person(email=ALICE)
    with time_machine.travel(MONDAY, tick=True):
        first = ask(person, may_wait=True, idempotency_key="once")
        again = admit(Intake(medium="web", text="Hello", person_id=person, may_wait=True, idempotency_key="once"))
        assert (again.outcome, again.request_id) == (Outcome.REPEATED, first)
        assert queued() == []


def test_the_page_says_until_when_it_waits_and_stops_it_on_request(make_app: Callable[..., Flask], openai: FakeOpenAI) -> None:
    site = Site(make_app(chat_model="openai/gpt-4.1-mini"))
    person = site.add(ALICE)
    with time_machine.travel(MONDAY, tick=True) as clock:
        with site.app.app_context():
            set_hours(HOURS)
            request_id = ask(person, may_wait=True)
        alice = site.browser(ALICE)
        part = alice.get(f"/requests/{request_id}", headers=HTMX).text
        assert "Waiting for cheaper hours, until" in part
        assert 'datetime="2026-11-23T10:00:00+00:00"' in part
        # It asks again by itself, and keeps no stream open for hours.
        assert 'hx-trigger="refresh, every 30s"' in part
        assert "data-events" not in part
        page = alice.get(f"/c/{site.newest_request().conversation_id}").text
        assert '<meta http-equiv="refresh" content="60;' in page
        clock.move_to(CHEAP_AGAIN, tick=True)
        part = alice.get(f"/requests/{request_id}", headers=HTMX).text
        assert "cheaper hours" not in part
        assert "data-events" in part
        alice.post(f"/requests/{request_id}/cancel")
        assert site.newest_request().status == "cancelled"


# -- the release ---------------------------------------------------------------------------------------------------------
def change_hours(hours: str | None) -> None:
    with writing() as connection:
        connection.execute(update(ProviderSetting).values(peak_hours=hours))
        vendors.changed(connection)
    vendors.look_again()


def test_the_release_begins_what_has_waited_in_order_and_counts_it_once(app: Flask, openai: FakeOpenAI) -> None:
    person = add_person(email=ALICE)
    with time_machine.travel(MONDAY, tick=False) as clock:
        asked = [ask(person, may_wait=True) for _ in range(6)]
        with writing() as connection:
            # Of another operation, of higher priority, and one that waits to be tried again.
            connection.execute(update(Request).where(Request.id == asked[3]).values(operation="content.generate"))
            connection.execute(update(Request).where(Request.id == asked[4]).values(priority=Request.priority + 10))
            connection.execute(update(Request).where(Request.id == asked[5]).values(attempts=1))
        assert release() == Released()
        clock.move_to(CHEAP_AGAIN - timedelta(seconds=1))
        assert release() == Released()
        clock.move_to(CHEAP_AGAIN + timedelta(seconds=2))
        assert release() == Released(released=5)
        order = [asked[number] for number in (4, 0, 1, 2, 3)]
        assert queued() == [f"execute-{each}" for each in order]
        clock.move_to(CHEAP_AGAIN + timedelta(seconds=4))
        assert release() == Released()
        # The sweep knows them, and puts the one that is tried again beside them.
        assert sweep().enqueued == 1
        assert len(queued()) == 6


def test_what_came_due_while_nobody_ran_is_found_by_the_sweep(app: Flask) -> None:
    person = add_person(email=ALICE)
    with time_machine.travel(MONDAY, tick=False) as clock:
        ask(person, may_wait=True)
        clock.move_to(CHEAP_AGAIN + timedelta(hours=1))
        assert release() == Released()
        assert sweep().enqueued == 1


def test_changed_hours_put_off_or_begin_what_waits(app: Flask) -> None:
    person = add_person(email=ALICE)
    with time_machine.travel(MONDAY, tick=False) as clock:
        request_id = ask(person, may_wait=True)
        retried = ask(person, may_wait=True)
        with writing() as connection:
            connection.execute(update(Request).where(Request.id == retried).values(attempts=1))
        release()
        change_hours("Mon-Fri 06:00-12:00")
        assert release() == Released(moved=1)
        first, second = requests()
        noon = CHEAP_AGAIN + timedelta(hours=2)
        assert (first.not_before, second.not_before) == (noon, CHEAP_AGAIN)
        assert first.expires_at == noon + timedelta(hours=24)
        clock.move_to(CHEAP_AGAIN + timedelta(minutes=1))
        assert release() == Released()
        assert queued() == []
        clock.move_to(CHEAP_AGAIN + timedelta(hours=1))
        change_hours("")
        assert release() == Released(released=1, moved=1)
        assert queued() == [f"execute-{request_id}"]


def test_what_waits_for_a_vendor_that_is_switched_off_waits_no_longer(app: Flask) -> None:
    person = add_person(email=ALICE)
    with time_machine.travel(MONDAY, tick=False) as clock:
        ask(person, may_wait=True)
        release()
        clock.shift(timedelta(seconds=5))
        with writing() as connection:
            connection.execute(update(ProviderSetting).values(enabled=False))
            vendors.changed(connection)
        vendors.look_again()
        assert release() == Released(released=1, moved=1)


def test_without_redis_nothing_is_counted_as_begun(make_app: Callable[..., Flask], openai: FakeOpenAI) -> None:
    with make_app(chat_model="openai/gpt-4.1-mini", redis_url="unix:///nowhere/at/all.sock").app_context():
        set_hours(HOURS)
        person = add_person(email=ALICE)
        with time_machine.travel(MONDAY, tick=False) as clock:
            ask(person, may_wait=True)
            release()
            clock.move_to(CHEAP_AGAIN)
            assert release() == Released()
