"""A change of plan: with a reason that is kept, counts that start afresh where it rises, and books that stay exact."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select, update

from tests.integration.limits_support import (
    OPERATOR,
    Vendor,
    add_organization,
    assert_receipts_agree,
    begin,
    changes,
    counters,
    organization_id,
    set_role,
)
from tests.integration.vendor_support import install
from tests.support import add_person, one, rows, run_jobs, text
from webapp.contracts.errors import BadInput, NotAllowed, NotFound
from webapp.contracts.limits import Dimension, Limit, StoredLimit, Window
from webapp.extensions import now, writing, writing_session
from webapp.models import AuditEntry, LimitCounter, Organization, Person, PersonRole, Plan, PlanChange
from webapp.plugin import hookimpl
from webapp.quota import holds, stored
from webapp.quota.windows import bounds
from webapp.registry import current_registry
from webapp.services import accounts, people_bulk, plan_changes
from webapp.services.organizations import Actor
from webapp.services.people_bulk import Act, Order
from webapp.services.people_lists import Filter

ALICE = "+15005550006"


@pytest.fixture
def alice(app: Flask) -> uuid.UUID:
    install(Vendor("v", preference=0))
    return add_person(phone=ALICE, email="alice@example.com")


def plan_of(person_id: uuid.UUID) -> str:
    return one(select(Person.plan_code).where(Person.id == person_id))


def used(person_id: uuid.UUID) -> dict[str, int]:
    return {name: amount for name, (amount, _) in counters(f"person:{person_id}").items()}


def test_raising_a_plan_starts_the_month_afresh_and_keeps_the_reason(alice: uuid.UUID) -> None:
    heard: list[Any] = []

    def plan_changed(event: Any) -> None:
        heard.append(event)

    listener = ModuleType("listener")
    listener.plan_changed = hookimpl(plan_changed)  # type: ignore[attr-defined]
    assert not current_registry().add(listener, "listener", {}).error
    text("one")
    run_jobs()
    before = used(alice)
    assert before["messages"] == 1
    assert before["tokens"] == 150
    with writing() as connection:
        connection.execute(update(LimitCounter).values(warned_percent=80, noticed_at=now()))
    changed = plan_changes.change_person(alice, "business", "  a good customer  ", OPERATOR)
    assert (changed.before, changed.plan, changed.restarted) == ("free", "business", 1)
    assert plan_of(alice) == "business"
    assert set(used(alice).values()) == {0}
    assert {(row.warned_percent, row.noticed_at) for row in rows(select(LimitCounter))} == {(0, None)}
    kept = one(select(PlanChange))
    assert (kept.person_id, kept.before, kept.after, kept.reason, kept.restarted) == (
        alice,
        "free",
        "business",
        "a good customer",
        True,
    )
    entry = one(select(AuditEntry).where(AuditEntry.action == "person.plan"))
    assert entry.subject == f"person:{alice}"
    assert entry.organization_id == organization_id()
    assert {(name, -amount, reason) for _, name, amount, reason in changes()} == {
        (name, amount, "a good customer") for name, amount in before.items() if amount
    }
    assert_receipts_agree()
    [event] = heard
    assert (event.person_id, event.before, event.after, event.reason) == (str(alice), "free", "business", "a good customer")


def test_lowering_a_plan_keeps_the_counts(alice: uuid.UUID) -> None:
    plan_changes.change_person(alice, "business", "a trial", OPERATOR)
    text("one")
    run_jobs()
    before = used(alice)
    assert plan_changes.change_person(alice, "free", "the trial ended", OPERATOR).restarted == 0
    assert used(alice) == before
    assert before["messages"] == 1
    assert [row.restarted for row in rows(select(PlanChange).order_by(PlanChange.id))] == [True, False]


def test_a_change_that_makes_no_sense_changes_nothing(alice: uuid.UUID) -> None:
    for plan, reason, field in [
        ("free", "why not", "plan"),
        ("gold", "why not", "plan"),
        ("business", " ", "reason"),
        ("business", "x" * 501, "reason"),
        ("business", "\x00", "reason"),
    ]:
        with pytest.raises(BadInput) as refused:
            plan_changes.change_person(alice, plan, reason, OPERATOR)
        assert refused.value.field == field
    with pytest.raises(NotFound):
        plan_changes.change_person(uuid.uuid4(), "business", "x", OPERATOR)
    with pytest.raises(NotAllowed):
        plan_changes.change_person(alice, "business", "please", Actor.person(alice))
    assert plan_of(alice) == "free"
    assert rows(select(PlanChange)) == []


def test_a_request_in_flight_counts_in_the_month_that_started_afresh(alice: uuid.UUID) -> None:
    text("one")
    run_jobs()
    text("two")
    held = counters(f"person:{alice}")
    assert held["messages"] == (1, 1)
    plan_changes.change_person(alice, "starter", "paid", OPERATOR)
    assert counters(f"person:{alice}")["messages"] == (0, 1)
    assert counters(f"person:{alice}")["tokens"] == (0, held["tokens"][1])
    run_jobs()
    assert counters(f"person:{alice}")["messages"] == (1, 0)
    assert counters(f"person:{alice}")["tokens"] == (150, 0)
    assert_receipts_agree()


def test_only_limits_of_plans_in_running_windows_start_afresh(alice: uuid.UUID) -> None:
    daily = StoredLimit("daily", Dimension.REQUESTS, Window.DAY, 50)
    own = StoredLimit("own", Dimension.REQUESTS, Window.DAY, 50)
    with writing() as connection:
        connection.execute(update(Plan).where(Plan.code == "free").values(more_limits=stored.write([daily])))
        connection.execute(update(Organization).values(limits=stored.write([own])))
    text("one")
    run_jobs()
    with writing_session() as session:
        month = bounds(Window.MONTH, now(), "UTC")[0]
        past = bounds(Window.MONTH, datetime(month.year - 1, 3, 3, tzinfo=UTC), "UTC")[0]
        key = {"subject": f"person:{alice}", "name": "messages", "period": "month", "dimension": "requests", "maximum": 10}
        session.add(LimitCounter(**key, starts_at=past, used=7, held=0))
    plan_changes.change_person(alice, "starter", "paid", OPERATOR)
    left = {(row.name, row.starts_at.year): row.used for row in rows(select(LimitCounter)) if row.used}
    assert left == {("messages", past.year): 7, ("limit:own", now().year): 1}


def test_a_month_that_starts_afresh_while_requests_are_settled_loses_and_gains_nothing(app: Flask, alice: uuid.UUID) -> None:
    limits = [
        Limit(f"person:{alice}", "messages", Dimension.REQUESTS, Window.MONTH, 10**6, "messages"),
        Limit(f"person:{alice}", "tokens", Dimension.TOKENS, Window.MONTH, 10**9, "tokens"),
        Limit(f"organization:{organization_id()}", "limit:x", Dimension.COST, Window.DAY, 10**9, "spending"),
    ]
    amounts = {Dimension.REQUESTS: 1, Dimension.TOKENS: 40, Dimension.COST: 300}
    over = threading.Event()

    def traffic(_: int) -> int:
        done = 0
        with app.app_context():
            while not over.is_set() and done < 60:
                request_id = begin(alice)
                with writing() as connection:
                    holds.take(connection, request_id, holds.needs(limits, amounts, now(), "UTC"))
                with writing() as connection:
                    # As `settle` does: the person before the counters.
                    connection.execute(
                        update(Person).where(Person.id == alice).values(requests_total=Person.requests_total + 1)
                    )
                    spent = {Dimension.REQUESTS: 1, Dimension.TOKENS: 17 + done, Dimension.COST: 3}
                    holds.settle(connection, request_id, spent, now(), by="test", why="completed")
                done += 1
        return done

    with ThreadPoolExecutor(4) as pool:
        threads = [pool.submit(traffic, number) for number in range(4)]
        try:
            for step in range(8):
                plan_changes.change_person(alice, "business" if step % 2 == 0 else "free", f"step {step}", OPERATOR)
                plan_changes.start_afresh(alice, f"step {step}", OPERATOR)
        finally:
            over.set()
        settled = sum(thread.result(timeout=120) for thread in threads)
    assert settled > 4
    assert_receipts_agree()
    found = counters(f"person:{alice}")
    assert found["messages"][0] - sum(amount for _, name, amount, _ in changes() if name == "messages") == settled
    assert found["messages"][1] == found["tokens"][1] == 0


def test_an_organizations_plan_starts_the_month_afresh_for_those_whom_it_raises(
    alice: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_changes, "CHUNK", 2)
    place = organization_id()
    others = [add_person(phone=f"+1500555{number:04}", plan="starter") for number in range(1001, 1006)]
    above = add_person(phone="+15005552001", plan="enterprise")
    elsewhere = add_person(phone="+15005552002", organization_id=add_organization("Elsewhere"))
    for number in (ALICE, "+15005551001", "+15005551005", "+15005552001", "+15005552002"):
        text("one", sender=number)
    run_jobs()
    told: list[int] = []
    changed = plan_changes.change_organization(place, "professional", "they all pay", OPERATOR, told.append)
    assert changed.restarted == 6
    assert told == [2, 4, 6]
    assert {used(person)["messages"] for person in (alice, others[0], others[4])} == {0}
    assert {used(person)["messages"] for person in (above, elsewhere)} == {1}
    kept = one(select(PlanChange))
    assert (kept.person_id, kept.organization_id, kept.before, kept.after) == (None, place, "", "professional")
    assert one(select(AuditEntry.action).where(AuditEntry.subject == f"organization:{place}")) == "organization.plan"
    text("two")
    run_jobs()
    # Whoever has a higher plan by the organization does not rise by an own one below it.
    assert plan_changes.change_person(alice, "premium", "a gift", OPERATOR).restarted == 0
    assert used(alice)["messages"] == 1
    assert plan_changes.change_organization(place, "", "it ended", OPERATOR).restarted == 0
    assert used(alice)["messages"] == 1
    with pytest.raises(BadInput):
        plan_changes.change_organization(place, "", "again", OPERATOR)
    assert_receipts_agree()


def test_many_people_are_changed_each_by_themselves_and_failures_are_reported(alice: uuid.UUID) -> None:
    bob = add_person(phone="+15005550007", plan="business")
    nobody = uuid.uuid4()
    told: list[int] = []
    report = people_bulk.run(
        [alice, nobody, bob],
        Order(Act.PLAN, "business", "the whole team"),
        OPERATOR,
        lambda so_far: told.append(so_far.seen),
    )
    assert (report.done, report.unchanged, report.failed) == (1, 1, 1)
    assert report.failures == [(nobody, "There is no such person.")]
    assert told == [1, 2, 3]
    text("one")
    run_jobs()
    assert people_bulk.run(people_bulk.matching(Filter(plan="business")), Order(Act.MONTH, reason="sorry"), OPERATOR).done == 1
    assert used(alice)["messages"] == 0
    admin = one(select(Person).where(Person.role == PersonRole.ADMIN))
    report = people_bulk.run(people_bulk.matching(Filter()), Order(Act.DEACTIVATE), Actor.person(admin.id))
    assert (report.done, [person for person, _ in report.failures]) == (2, [admin.id])
    assert {person.active for person in rows(select(Person).where(Person.id != admin.id))} == {False}
    with pytest.raises(NotAllowed):
        people_bulk.run([alice], Order(Act.ACTIVATE), Actor.person(bob))
    for order in (Order(Act.PLAN, "gold", "x"), Order(Act.PLAN, "free", ""), Order(Act.MONTH)):
        with pytest.raises(BadInput):
            people_bulk.run([alice], order, OPERATOR)


def test_the_operators_older_command_changes_plans_by_the_same_rules(alice: uuid.UUID) -> None:
    text("one")
    run_jobs()
    account = accounts.change_plan(ALICE, "starter", "paid", "command line")
    assert (account.before, account.plan) == ("free", "starter")
    assert used(alice)["messages"] == 0
    assert one(select(PlanChange)).actor == "command line"


def test_a_manager_cannot_change_plans(alice: uuid.UUID) -> None:
    set_role(alice, organization_id(), PersonRole.ADMIN)
    with pytest.raises(NotAllowed):
        plan_changes.change_organization(organization_id(), "business", "please", Actor.person(alice))
    with pytest.raises(NotAllowed):
        plan_changes.start_afresh(alice, "please", Actor.person(alice))
