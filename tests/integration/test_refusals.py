"""Whoever is refused hears of it: each person once for each limit, window and number; and no warning is lost on its way."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest
from flask import Flask, current_app
from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy import text as sql

from tests.fakes.smtp import FakeSmtp
from tests.integration.limits_support import organization_id
from tests.integration.test_charges import Vendor
from tests.integration.vendor_support import install
from tests.support import add_person, assert_books_agree, one, requests, rows, run_jobs, sent, text
from webapp.contracts.channels import DeliveryStatus
from webapp.contracts.errors import LimitReached
from webapp.contracts.limits import Dimension, Limit, StoredLimit, Window
from webapp.extensions import now, reading, writing
from webapp.models import (
    Delivery,
    Direction,
    LimitCounter,
    Membership,
    Organization,
    Person,
    PersonRole,
    Plan,
    Request,
    RequestStatus,
)
from webapp.models.columns import new_id
from webapp.pipeline import cancel, warnings
from webapp.pipeline.admit import admit
from webapp.pipeline.intake import Intake
from webapp.plugin import QuotaEvent, Text, Unavailable, Usage, hookimpl
from webapp.quota import holds, stored
from webapp.quota.windows import bounds
from webapp.registry import current_registry
from webapp.services import organization_counts

ALICE, BOB, BOSS = "+15005550006", "+15005550007", "boss@example.com"
OK = [Text("ok"), Usage(50, 50)]


@pytest.fixture
def heard(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[QuotaEvent]]:
    """What listeners hear, in an application with one manager who has an e-mail address."""
    with FakeSmtp() as mail:
        monkeypatch.setenv("SMTP_URL", mail.url())
        monkeypatch.setenv("MAIL_FROM", "Switchhook <bot@example.com>")
        with make_app(warn_percents="80,100").app_context():
            found: list[QuotaEvent] = []
            module = ModuleType("listener")

            def quota_warning(event: QuotaEvent) -> None:
                found.append(event)

            module.quota_warning = hookimpl(quota_warning)  # type: ignore[attr-defined]
            assert not current_registry().add(module, "listener", {}).error
            boss = add_person(email=BOSS)
            with writing() as connection:
                mine = Membership.person_id == boss
                connection.execute(update(Membership).where(mine).values(role=PersonRole.MANAGER))
            install(Vendor("a", OK, preference=0))
            plan_limits()
            yield found


def plan_limits(**limits: int | None) -> None:
    with writing() as connection:
        connection.execute(update(Plan).where(Plan.code == "free").values(limits=limits))


def organization_limits(*limits: StoredLimit) -> None:
    with writing() as connection:
        connection.execute(update(Organization).values(limits=stored.write(limits)))


def ask(times: int = 1, sender: str = ALICE, body: str = "question") -> None:
    for _ in range(times):
        text(body, sender)
        run_jobs()


def answers(*acts: Iterable[Any]) -> None:
    vendor: Any = current_registry().providers["a"]
    vendor.acts, vendor.calls = list(acts), []


def bodies(address: str = ALICE, kind: str = "") -> list[str]:
    return [message.body for message in sent(address) if kind in ("", message.kind)]


def counter(name: str) -> LimitCounter:
    return one(select(LimitCounter).where(LimitCounter.name == name, LimitCounter.subject.not_like("told:%")))


# -- each person ---------------------------------------------------------------------------------------------------------
def test_everybody_whom_a_shared_limit_refuses_is_told_once(heard: list[QuotaEvent]) -> None:
    organization_limits(StoredLimit("shared", Dimension.REQUESTS, Window.MONTH, 1))
    for sender in (ALICE, ALICE, ALICE, BOB, BOB):
        ask(1, sender)
    assert len(bodies(ALICE, "notice")) == 1
    assert len(bodies(BOB)) == 1
    assert "Your organization's 1 request of this month is used." in bodies(BOB)[0]
    assert [event.percent for event in heard] == [100]
    assert len(sent(BOSS)) == 1
    assert_books_agree()


def test_a_refusal_on_a_page_leaves_the_answer_to_a_message(heard: list[QuotaEvent]) -> None:
    plan_limits(messages=1)
    ask()
    alice = one(select(Request.person_id))
    with pytest.raises(LimitReached):
        admit(Intake("web", "question", person_id=alice))
    ask(2)
    assert len(bodies(ALICE, "notice")) == 1


def test_notices_go_along_with_the_counts_into_another_time_zone(heard: list[QuotaEvent]) -> None:
    organization_limits(StoredLimit("shared", Dimension.REQUESTS, Window.DAY, 1))
    ask(2)
    place = organization_id()
    with writing() as connection:
        organization_counts.carry_organization(connection, place, "UTC", "Asia/Kathmandu", now(), actor="a test")
        connection.execute(update(Organization).where(Organization.id == place).values(time_zone="Asia/Kathmandu"))
    ask(2)
    assert len(bodies(ALICE, "notice")) == 1
    assert_books_agree()


# -- what is in the way is not what was used -----------------------------------------------------------------------------
def test_a_message_that_is_too_long_by_itself_is_always_answered_and_warns_nobody(heard: list[QuotaEvent]) -> None:
    plan_limits(tokens=3_000)
    answers([Text("ok"), Usage(400, 400)])
    ask(2, body="x " * 6_000)
    assert len(bodies(ALICE, "notice")) == 2
    assert all("alone needs more than your 3,000 tokens" in body for body in bodies(ALICE))
    assert (heard, sent(BOSS), rows(select(LimitCounter.name))) == ([], [], [])
    ask(5)
    assert any("2,400 of 3,000 tokens" in body for body in bodies(ALICE, "answer"))
    assert len(bodies(ALICE, "notice")) == 3, "the limit had not enough left: told once"
    assert [event.percent for event in heard] == [80]


def test_a_limit_with_something_left_is_not_called_used_up(heard: list[QuotaEvent]) -> None:
    plan_limits(tokens=3_000)
    answers([Text("ok"), Usage(350, 350)])
    ask()
    first = requests()[0]
    plan_limits(tokens=700 + first.max_input_tokens + first.max_output_tokens - 1)
    ask(2)
    assert [request.status for request in requests()][1:] == [RequestStatus.REJECTED] * 2
    assert len(bodies(ALICE, "notice")) == 1
    assert (heard, sent(BOSS), counter("tokens").warned_percent) == ([], [], 0)


def test_of_a_limit_of_nothing_the_sender_is_told_once_and_no_manager(heard: list[QuotaEvent]) -> None:
    plan_limits(messages=0)
    ask(3)
    assert bodies(ALICE) == ["Your limit of messages is 0 in this month."]
    assert (heard, sent(BOSS)) == ([], [])


# -- a number that changes -----------------------------------------------------------------------------------------------
def test_a_raised_number_is_told_of_again(heard: list[QuotaEvent]) -> None:
    plan_limits(messages=2)
    ask(3)
    before = len(bodies())
    plan_limits(messages=10)
    ask(10)
    later = bodies()[before:]
    assert [percent for percent in ("8 of 10", "10 of 10", "all 10") if any(percent in body for body in later)] == [
        "8 of 10",
        "10 of 10",
        "all 10",
    ]
    assert [event.percent for event in heard] == [100, 80, 100]
    assert len(bodies(ALICE, "notice")) == 2


def test_a_raised_number_of_a_shared_limit_is_told_to_everybody_again(heard: list[QuotaEvent]) -> None:
    for maximum in (1, 2):
        organization_limits(StoredLimit("shared", Dimension.REQUESTS, Window.MONTH, maximum))
        for sender in (ALICE, ALICE, BOB, BOB):
            ask(1, sender)
    assert (len(bodies(ALICE, "notice")), len(bodies(BOB, "notice"))) == (2, 2)


def test_a_raised_number_wipes_what_was_told_and_the_same_number_does_not(heard: list[QuotaEvent]) -> None:
    alice = add_person(email="alice@example.com")
    limit = Limit(f"person:{alice}", "messages", Dimension.REQUESTS, Window.MONTH, 5, "messages")

    def told_after(maximum: int) -> tuple[bool, int]:
        wider = Limit(limit.subject, limit.name, limit.dimension, limit.window, maximum, limit.label)
        with writing() as connection:
            connection.execute(update(LimitCounter).values(noticed_at=now(), warned_percent=80))
            holds.raise_counters(connection, holds.needs([wider], {Dimension.REQUESTS: 1}, now(), "UTC"))
        row = counter("messages")
        return row.noticed_at is not None, row.warned_percent

    told_after(5)
    assert [told_after(maximum) for maximum in (5, 4, 6)] == [(True, 80), (True, 80), (False, 0)]


def test_percent_are_those_of_the_number_that_refused_last(heard: list[QuotaEvent]) -> None:
    plan_limits(messages=100)
    for _ in range(5):
        text("question", ALICE)
    plan_limits(messages=5)
    text("one too many", ALICE)
    assert counter("messages").maximum == 5
    run_jobs()
    assert [(event.percent, event.maximum) for event in heard] == [(100, 5)]
    assert "all 5 messages" in bodies(ALICE, "notice")[0]
    plan_limits(messages=6)
    ask()
    assert any("6 of 6 messages" in body for body in bodies(ALICE, "answer"))
    assert [(event.percent, event.maximum) for event in heard] == [(100, 5), (100, 6)]


def test_of_a_window_that_is_over_nobody_is_warned(heard: list[QuotaEvent]) -> None:
    alice = add_person(email="alice@example.com")
    row = one(select(Person).where(Person.id == alice))
    began = bounds(Window.HOUR, now() - timedelta(hours=1), "UTC")[0]

    class Ended:
        person_id, organization_id = row.id, row.organization_id

    def told(starts_at: Any) -> list[int]:
        full = holds.Counter(f"person:{alice}", "messages", Window.HOUR, starts_at, Dimension.REQUESTS, 9, 0, 10, 0)
        with writing() as connection:
            return [event.percent for event in warnings.tell(connection, Ended(), [full], now()).events]

    assert told(began) == []
    assert told(began + timedelta(hours=1)) == [80]


# -- warnings that do not fit, or have nothing to go with ----------------------------------------------------------------
def test_of_two_limits_that_are_reached_together_both_are_told(heard: list[QuotaEvent]) -> None:
    plan_limits(messages=5)
    organization_limits(StoredLimit("each", Dimension.REQUESTS, Window.DAY, 5, each=True))
    ask(4)
    assert all(part in bodies()[-1] for part in ("4 of 5 messages of this month", "4 of 5 requests of this day"))


@pytest.mark.parametrize("filler", ["x", "\U0001f600"])
def test_a_warning_that_does_not_fit_beside_the_answer_is_a_message_of_its_own(heard: list[QuotaEvent], filler: str) -> None:
    most = current_registry().channels["simulator"].max_chars
    plan_limits(messages=1)
    answers([Text(filler * (most // len(filler.encode("utf-16-le")) * 2 - 40)), Usage(5, 5)])
    ask()
    answer, note = sent(ALICE)
    assert (answer.kind, note.kind) == ("answer", "notice")
    assert "1 of 1 messages" not in answer.body
    assert "1 of 1 messages" in note.body
    assert {answer.status, note.status} != {DeliveryStatus.PENDING}


def test_a_warning_without_an_answer_to_go_with_is_a_message_of_its_own(heard: list[QuotaEvent]) -> None:
    plan_limits(tokens=3_000)
    request_ids = []

    def stop() -> None:
        request_ids.append(requests()[-1].id)
        cancel.cancel(request_ids[0], requests()[-1].person_id)

    def pieces() -> Iterator[Any]:
        yield Text("a piece")
        stop()
        raise Unavailable("away", usage=Usage(1_400, 1_300))

    answers(pieces())
    ask()
    assert requests()[-1].status == RequestStatus.CANCELLED
    assert ["2,700 of 3,000 tokens" in body for body in bodies(ALICE, "notice")] == [True]
    assert sent(ALICE)[0].request_id == request_ids[0]


def test_an_apology_carries_the_warning(heard: list[QuotaEvent]) -> None:
    plan_limits(tokens=3_000)
    answers([Unavailable("away", usage=Usage(1_400, 1_300))])
    ask()
    assert requests()[-1].status == RequestStatus.FAILED
    assert any("2,700 of 3,000 tokens" in body for body in bodies())


# -- locks ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_warning_to_somebody_who_writes_for_the_first_time_waits_for_nobody(heard: list[QuotaEvent]) -> None:
    # Whoever tells a manager holds the counter that the manager's own first message waits for.
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    organization_limits(StoredLimit("shared", Dimension.REQUESTS, Window.MONTH, 100))
    ask(1, BOB)
    boss = one(select(Person.id).where(Person.email == BOSS))
    done: list[bool] = []

    def first_message() -> None:
        with app.app_context():
            done.append(admit(Intake("web", "question", person_id=boss)).request_id is not None)

    thread = threading.Thread(target=first_message)
    with writing() as connection:
        connection.execute(update(LimitCounter).where(LimitCounter.name == "limit:shared").values(warned_percent=80))
        thread.start()
        wait_for_a_lock()
        connection.execute(sql("SET LOCAL lock_timeout = '500ms'"))
        notify(connection, boss)
    thread.join(20)
    assert done == [True]


def wait_for_a_lock() -> None:
    """Until another connection waits for this one."""
    waiting = sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")
    for _ in range(200):
        with reading() as connection:
            if connection.execute(waiting).scalar_one():
                return
        time.sleep(0.05)
    pytest.fail("nobody waits")


def notify(connection: Connection, person_id: uuid.UUID) -> None:
    at = now()
    row = {"channel": "email", "medium": "email", "direction": Direction.OUT, "kind": "notice", "address": BOSS}
    row |= {"our_address": "", "body": "b", "status": DeliveryStatus.SENT}
    connection.execute(insert(Delivery), row | {"id": new_id(), "person_id": person_id, "created_at": at, "updated_at": at})
    assert connection.execute(select(func.count()).select_from(Delivery).where(Delivery.person_id == person_id)).scalar_one()
