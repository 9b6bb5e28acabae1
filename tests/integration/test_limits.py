"""Limits as data: who sets them, what they begin with, and that they hold where they should and nowhere else."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
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
    set_plan_limits,
    set_role,
)
from tests.integration.vendor_support import install
from tests.support import add_person, one, requests, rows, run_jobs, text
from webapp.contracts.errors import BadInput, Conflict, LimitReached, NotAllowed, NotFound
from webapp.contracts.limits import MAXIMUM, Dimension, Limit, Window
from webapp.extensions import now, writing, writing_session
from webapp.models import (
    ApiToken,
    AuditEntry,
    LedgerEntry,
    LimitCounter,
    Membership,
    Organization,
    Person,
    PersonRole,
    Request,
    RequestStatus,
)
from webapp.pipeline.admit import admit
from webapp.pipeline.intake import Intake
from webapp.plugin import TextCall, Unavailable
from webapp.quota import credits, holds
from webapp.quota.windows import bounds
from webapp.services import limit_changes, limits, organizations, people, plan_changes
from webapp.services.limits import Owner, Typed
from webapp.services.organizations import Actor

ALICE, BOB = "+15005550006", "+15005550007"


@pytest.fixture
def place(app: Flask) -> uuid.UUID:
    install(Vendor("acme", preference=0), Vendor("other", preference=1))
    return organization_id()


@pytest.fixture
def alice(place: uuid.UUID) -> uuid.UUID:
    return add_person(phone=ALICE, email="alice@example.com", plan="enterprise")


@pytest.fixture
def bob(place: uuid.UUID) -> uuid.UUID:
    return add_person(phone=BOB, email="bob@example.com", plan="enterprise")


def ask(person: uuid.UUID, token: uuid.UUID | None = None) -> Request:
    """A question by the API, as it ended."""
    admit(Intake("api", "What is the answer?", person_id=person, token_id=token))
    run_jobs()
    return requests()[-1]


def add_token(person_id: uuid.UUID) -> uuid.UUID:
    with writing_session() as session:
        people.make_token(session, session.get_one(Person, person_id), "a program", ["chat"], None, "test")
    return rows(select(ApiToken.id).where(ApiToken.person_id == person_id).order_by(ApiToken.id))[-1]


def count(owner: Owner, limit_id: str) -> dict[str, tuple[int, int]]:
    return {row.subject: (row.used, row.held) for row in rows(select(LimitCounter)) if row.name == f"limit:{limit_id}"}


# -- what a limit begins with --------------------------------------------------------------------------------------------
def test_a_budget_set_in_the_middle_of_a_month_counts_the_month(place: uuid.UUID, alice: uuid.UUID, bob: uuid.UUID) -> None:
    ask(alice)
    ask(bob)
    spent = sum(rows(select(LedgerEntry.cost_microusd)))
    assert spent > 0
    with writing() as connection:
        # Half of it was spent the month before.
        first = connection.execute(select(LedgerEntry.id).order_by(LedgerEntry.id).limit(1)).scalar_one()
        before = bounds(Window.MONTH, now(), "UTC")[0] - timedelta(seconds=1)
        connection.execute(update(LedgerEntry).where(LedgerEntry.id == first).values(created_at=before))
    budget = limits.set_budget(Owner.organization(place), "$50", OPERATOR)
    assert budget is not None
    assert (budget.maximum, budget.by_house, limits.describe(budget)) == (50_000_000, True, "$50.00 per month")
    subject = f"organization:{place}"
    assert count(Owner.organization(place), budget.id) == {subject: (spent // 2, 0)}
    assert [(who, name, amount) for who, name, amount, _ in changes()] == [(subject, f"limit:{budget.id}", spent // 2)]
    ask(alice)
    assert count(Owner.organization(place), budget.id) == {subject: (spent, 0)}
    assert_receipts_agree()
    entry = one(select(AuditEntry).where(AuditEntry.action == "limit.add"))
    assert (entry.subject, entry.organization_id, entry.detail["after"]["maximum"]) == (subject, place, 50_000_000)


def test_every_kind_of_limit_begins_with_what_it_is_about(place: uuid.UUID, alice: uuid.UUID, bob: uuid.UUID) -> None:
    token = add_token(alice)
    ask(alice)
    ask(alice, token)
    ask(bob)
    with writing() as connection:
        # One of Alice's was another kind of work, and old for a day, in the same month unless it is its first day.
        connection.execute(update(LedgerEntry).where(LedgerEntry.person_id == bob).values(operation="image.generate"))
    cost = sum(rows(select(LedgerEntry.cost_microusd))) // 3

    def began(owner: Owner, dimension: Dimension, window: Window = Window.MONTH, **more: Any) -> dict[str, int]:
        made = limits.add(owner, Typed("1000000", dimension, window, **more), OPERATOR)
        return {who: used for who, (used, _) in count(owner, made.id).items()}

    whole = Owner.organization(place)
    a, b, o, t = f"person:{alice}", f"person:{bob}", f"organization:{place}", f"token:{token}"
    assert began(whole, Dimension.REQUESTS) == {o: 3}
    assert began(whole, Dimension.TOKENS, Window.DAY) == {o: 450}
    assert began(whole, Dimension.COST) == {o: 3 * cost}
    assert began(whole, Dimension.CREDITS) == {o: 3 * credits.of_cost(cost)}
    assert began(whole, Dimension.REQUESTS, each=True) == {a: 2, b: 1}
    assert began(whole, Dimension.REQUESTS, provider="acme", operation="image.generate") == {o: 1}
    assert began(whole, Dimension.REQUESTS, provider="other") == {}
    assert began(whole, Dimension.COST, Window.REQUEST) == {}
    assert began(Owner.member(place, alice), Dimension.TOKENS) == {a: 300}
    assert began(Owner.token(token), Dimension.TOKENS) == {t: 150}
    assert began(Owner.plan("enterprise"), Dimension.REQUESTS, Window.HOUR) in ({a: 2, b: 1}, {})
    assert began(Owner.plan("free"), Dimension.REQUESTS) == {}
    assert_receipts_agree()


def test_a_request_in_flight_is_not_counted_by_a_limit_that_came_after_it(place: uuid.UUID, alice: uuid.UUID) -> None:
    text("in flight", sender=ALICE)
    made = limits.add(Owner.organization(place), Typed("1", Dimension.REQUESTS), OPERATOR)
    run_jobs()
    assert count(Owner.organization(place), made.id) == {}
    assert ask(alice).status == RequestStatus.COMPLETED
    with pytest.raises(LimitReached):
        ask(alice)
    assert_receipts_agree()


def test_another_number_keeps_the_count_and_people_are_told_again(place: uuid.UUID, alice: uuid.UUID) -> None:
    owner = Owner.organization(place)
    made = limits.add(owner, Typed("1", Dimension.REQUESTS), OPERATOR)
    ask(alice)
    with pytest.raises(LimitReached):
        ask(alice)
    with writing() as connection:
        connection.execute(update(LimitCounter).values(warned_percent=100, noticed_at=now()))
    changed = limits.change(owner, made.id, "4", OPERATOR, label="questions")
    assert (changed.id, changed.maximum, changed.label) == (made.id, 4, "questions")
    row = one(select(LimitCounter).where(LimitCounter.name == f"limit:{made.id}"))
    assert (row.used, row.maximum, row.warned_percent, row.noticed_at) == (1, 4, 25, None)
    assert ask(alice).status == RequestStatus.COMPLETED
    entry = one(select(AuditEntry).where(AuditEntry.action == "limit.change"))
    assert (entry.detail["before"]["maximum"], entry.detail["after"]["maximum"]) == (1, 4)
    limits.remove(owner, made.id, OPERATOR)
    assert limits.show(owner, OPERATOR).limits == ()
    assert_receipts_agree()


def test_the_people_of_a_large_plan_are_gone_through_some_at_a_time(
    place: uuid.UUID, alice: uuid.UUID, bob: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit_changes, "_CHUNK", 1)
    elsewhere = add_organization("Kathmandu", "Asia/Kathmandu")
    with writing() as connection:
        connection.execute(update(Organization).where(Organization.id == elsewhere).values(plan_code="enterprise"))
    carol = add_person(phone="+15005550008", organization_id=elsewhere)
    for person in (alice, bob, carol):
        ask(person)
    made = limits.add(Owner.plan("enterprise"), Typed("9", Dimension.REQUESTS, Window.MONTH), OPERATOR)
    found = rows(select(LimitCounter).where(LimitCounter.name == f"limit:{made.id}"))
    zones = {f"person:{alice}": "UTC", f"person:{bob}": "UTC", f"person:{carol}": "Asia/Kathmandu"}
    assert {row.subject: (row.used, row.starts_at) for row in found} == {
        who: (1, bounds(Window.MONTH, now(), zone)[0]) for who, zone in zones.items()
    }
    ask(carol)
    assert count(Owner.plan("enterprise"), made.id)[f"person:{carol}"] == (2, 0)
    assert_receipts_agree()


# -- limits hold ---------------------------------------------------------------------------------------------------------
def test_an_organizations_limit_holds_for_its_members_together(place: uuid.UUID, alice: uuid.UUID, bob: uuid.UUID) -> None:
    limits.add(Owner.organization(place), Typed("2", Dimension.REQUESTS, Window.DAY), OPERATOR)
    ask(alice)
    ask(bob)
    for person in (alice, bob):
        with pytest.raises(LimitReached) as refused:
            ask(person)
        assert refused.value.limit == "organization's requests"
        assert refused.value.resets_at == bounds(Window.DAY, now(), "UTC")[1]
        assert "Your organization's 2 requests of this day are used." in refused.value.message
    outside = add_person(phone="+15005550009", organization_id=add_organization("Elsewhere"))
    assert ask(outside).status == RequestStatus.COMPLETED


def test_a_limit_for_each_person_is_each_ones_own(place: uuid.UUID, alice: uuid.UUID, bob: uuid.UUID) -> None:
    limits.add(Owner.organization(place), Typed("1", Dimension.REQUESTS, each=True), OPERATOR)
    ask(alice)
    assert ask(bob).status == RequestStatus.COMPLETED
    with pytest.raises(LimitReached):
        ask(alice)


def test_a_limit_at_a_provider_refuses_only_there_and_another_answers(place: uuid.UUID, alice: uuid.UUID) -> None:
    acme, other = Vendor("acme2", preference=-2), Vendor("other2", preference=-1)
    install(acme, other)
    made = limits.add(Owner.organization(place), Typed("1", Dimension.REQUESTS, provider="acme2", operation="chat"), OPERATOR)
    assert ask(alice).provider == "acme2"
    second = ask(alice)
    third = ask(alice)
    assert [(each.status, each.provider) for each in (second, third)] == [(RequestStatus.COMPLETED, "other2")] * 2
    assert (len(acme.calls), len(other.calls)) == (1, 2)
    assert count(Owner.organization(place), made.id) == {f"organization:{place}": (1, 0)}
    for name in ("other2", "acme", "other", "demo"):
        limits.add(Owner.organization(place), Typed("0", Dimension.REQUESTS, provider=name), OPERATOR)
    with pytest.raises(LimitReached) as refused:
        ask(alice)
    assert refused.value.limit == "organization's requests at acme2"
    assert refused.value.resets_at == bounds(Window.MONTH, now(), "UTC")[1]
    assert_receipts_agree()


def test_a_limit_at_a_provider_that_others_fall_back_to_is_not_passed(place: uuid.UUID, alice: uuid.UUID) -> None:
    class Down(Vendor):
        def stream(self, call: TextCall, http: Any) -> Iterator[Any]:
            super().stream(call, http)
            raise Unavailable("it is down")

    down, full, last = Down("down", preference=-3), Vendor("full", preference=-2), Vendor("last", preference=-1)
    install(down, full, last)
    made = limits.add(Owner.organization(place), Typed("1", Dimension.REQUESTS, provider="full"), OPERATOR)
    assert [ask(alice).provider for _ in range(2)] == ["full", "last"]
    assert count(Owner.organization(place), made.id) == {f"organization:{place}": (1, 0)}
    assert_receipts_agree()


def test_a_limit_of_one_kind_of_work_leaves_others_alone(place: uuid.UUID, alice: uuid.UUID) -> None:
    limits.add(Owner.organization(place), Typed("0", Dimension.REQUESTS, operation="image.generate"), OPERATOR)
    assert ask(alice).status == RequestStatus.COMPLETED
    limits.add(Owner.organization(place), Typed("0", Dimension.REQUESTS, operation="chat"), OPERATOR)
    with pytest.raises(LimitReached):
        ask(alice)


def test_a_tokens_limit_holds_for_the_token_alone(place: uuid.UUID, alice: uuid.UUID) -> None:
    token = add_token(alice)
    limits.add(Owner.token(token), Typed("1", Dimension.REQUESTS, Window.HOUR), Actor.person(alice))
    ask(alice, token)
    with pytest.raises(LimitReached) as refused:
        ask(alice, token)
    assert refused.value.limit == "token's requests"
    assert ask(alice).status == RequestStatus.COMPLETED


def test_credits_are_limited_by_the_window_and_by_the_request(place: uuid.UUID, alice: uuid.UUID) -> None:
    made = limits.add(Owner.member(place, alice), Typed("1000000.5", Dimension.CREDITS), OPERATOR)
    assert made.maximum == 1_000_000_500
    assert limits.describe(made) == "1,000,000.5 credits per month"
    first = ask(alice)
    assert first.credits_millicredits > 0
    assert count(Owner.member(place, alice), made.id) == {f"person:{alice}": (first.credits_millicredits, 0)}
    limits.change(Owner.member(place, alice), made.id, "0.001", OPERATOR)
    with pytest.raises(LimitReached):
        ask(alice)
    limits.remove(Owner.member(place, alice), made.id, OPERATOR)
    limits.add(Owner.organization(place), Typed("0.001", Dimension.CREDITS, Window.REQUEST), OPERATOR)
    with pytest.raises(LimitReached, match="that one request may"):
        ask(alice)


def test_a_clock_that_jumps_across_a_window_while_a_request_runs_keeps_the_books_exact(
    place: uuid.UUID, alice: uuid.UUID
) -> None:
    limit = Limit(f"person:{alice}", "limit:x", Dimension.TOKENS, Window.HOUR, 1000, "tokens")
    before, after = datetime(2026, 10, 25, 0, 59, tzinfo=UTC), datetime(2026, 10, 25, 1, 1, tzinfo=UTC)
    windows = [bounds(Window.HOUR, at, "Europe/Berlin")[0] for at in (before, after)]
    assert windows[1] - windows[0] == timedelta(hours=1)

    def take(at: datetime) -> uuid.UUID:
        request_id = begin(alice)
        with writing() as connection:
            holds.take(connection, request_id, holds.needs([limit], {Dimension.TOKENS: 600}, at, "Europe/Berlin"))
        return request_id

    def settle(request_id: uuid.UUID, at: datetime) -> None:
        with writing() as connection:
            holds.settle(connection, request_id, {Dimension.TOKENS: 250}, at, by="test", why="completed")

    def standing() -> list[tuple[int, int]]:
        found = {row.starts_at: (row.used, row.held) for row in rows(select(LimitCounter))}
        return [found.get(start, (0, 0)) for start in windows]

    early = take(before)
    late = take(after)
    assert standing() == [(0, 600), (0, 600)]
    with pytest.raises(holds.NoRoom):
        take(before)  # the clock went back: that window is as full as it was
    settle(early, after)
    assert standing() == [(250, 0), (0, 600)]
    settle(late, before)
    assert standing() == [(250, 0), (250, 0)]
    settle(take(before), after)
    assert standing() == [(500, 0), (250, 0)]
    assert_receipts_agree()


# -- who may -------------------------------------------------------------------------------------------------------------
def test_everybody_changes_only_the_limits_that_are_theirs_to_change(
    place: uuid.UUID, alice: uuid.UUID, bob: uuid.UUID
) -> None:
    carol = add_person(phone="+15005550008", email="carol@example.com")
    outsider = add_person(phone="+15005550009", organization_id=add_organization("Elsewhere"))
    set_role(alice, place, PersonRole.ADMIN)
    set_role(bob, place, PersonRole.MANAGER)
    admin, manager, member = Actor.person(alice), Actor.person(bob), Actor.person(carol)
    whole, of_carol = Owner.organization(place), Owner.member(place, carol)
    of_bob = Owner.member(place, bob)
    typed = Typed("5", Dimension.REQUESTS)
    ours = limits.add(whole, typed, admin)
    theirs = limits.add(whole, Typed("7", Dimension.REQUESTS, by_house=True), OPERATOR)
    limits.add(of_carol, typed, manager)
    limits.add(of_bob, typed, admin)

    for actor, owner, refusal in [
        (manager, whole, NotAllowed),
        (member, whole, NotAllowed),
        (manager, of_bob, NotAllowed),
        (member, of_carol, NotAllowed),
        (member, of_bob, NotFound),
        (Actor.person(outsider), whole, NotFound),
        (Actor.person(outsider), of_carol, NotFound),
        (admin, Owner.member(place, outsider), NotFound),
        (admin, Owner.plan("free"), NotAllowed),
        (OPERATOR, Owner.plan("gold"), NotFound),
        (OPERATOR, Owner.token(uuid.uuid4()), NotFound),
    ]:
        with pytest.raises(refusal):
            limits.add(owner, Typed("1", Dimension.TOKENS), actor)
    with pytest.raises(NotAllowed):
        limits.add(whole, Typed("1", Dimension.TOKENS, by_house=True), admin)
    for act in (lambda: limits.change(whole, theirs.id, "9", admin), lambda: limits.remove(whole, theirs.id, admin)):
        with pytest.raises(NotAllowed):
            act()
    limits.change(whole, ours.id, "6", admin)
    seen = {view.limit.maximum: view.may_change for view in limits.show(whole, admin).limits}
    assert seen == {6: True, 7: False}
    assert [view.may_change for view in limits.show(whole, member).limits] == [False, False]
    assert [view.words for view in limits.show(of_carol, member).limits] == ["5 requests per month"]
    token = add_token(carol)
    limits.add(Owner.token(token), typed, member)
    for actor in (admin, manager, Actor.person(outsider)):
        with pytest.raises(NotFound):
            limits.show(Owner.token(token), actor)


def test_of_two_managers_at_once_the_second_is_told(place: uuid.UUID, alice: uuid.UUID) -> None:
    token = add_token(alice)
    for owner in (Owner.organization(place), Owner.member(place, alice), Owner.token(token), Owner.plan("free")):
        seen = limits.show(owner, OPERATOR).seen
        first = limits.add(owner, Typed("5", Dimension.REQUESTS), OPERATOR, seen)
        for act in (
            lambda o=owner, s=seen: limits.add(o, Typed("9", Dimension.TOKENS), OPERATOR, s),
            lambda o=owner, s=seen, i=first.id: limits.change(o, i, "9", OPERATOR, s),
            lambda o=owner, s=seen, i=first.id: limits.remove(o, i, OPERATOR, s),
        ):
            with pytest.raises(Conflict):
                act()
        assert [view.limit for view in limits.show(owner, OPERATOR).limits] == [first]
        limits.change(owner, first.id, "6", OPERATOR, limits.show(owner, OPERATOR).seen)
        with pytest.raises(NotFound):
            limits.remove(owner, "gone", OPERATOR)


@pytest.mark.parametrize(
    ("typed", "field"),
    [
        (Typed("-1"), "maximum"),
        (Typed(""), "maximum"),
        (Typed("1.5"), "maximum"),
        (Typed("ten"), "maximum"),
        (Typed("1e3"), "maximum"),
        (Typed("٣"), "maximum"),
        (Typed(str(MAXIMUM + 1)), "maximum"),
        (Typed("9" * 39), "maximum"),
        (Typed("1,00"), "maximum"),
        (Typed("-0.5", "cost"), "maximum"),
        (Typed("0.0000001", "cost"), "maximum"),
        (Typed("5000000000000", "cost"), "maximum"),
        (Typed("NaN", "cost"), "maximum"),
        (Typed("1.0001", "credits"), "maximum"),
        (Typed("1", "euros"), "dimension"),
        (Typed("1", "requests", "year"), "window"),
        (Typed("1", "requests", "request"), "window"),
        (Typed("1", "cost", "request", provider="acme"), "provider"),
        (Typed("1", provider="nobody"), "provider"),
        (Typed("1", operation="chatt"), "operation"),
        (Typed("1", label="x" * 61), "label"),
        (Typed("1", label="a\x1bb"), "label"),
        (Typed("1", by_house=True, each=True), "each"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_name_of_the_field(alice: uuid.UUID, typed: Typed, field: str) -> None:
    owner = Owner.member(organization_id(), alice)
    with pytest.raises(BadInput) as refused:
        limits.add(owner, typed, OPERATOR)
    assert refused.value.field == field
    assert limits.show(owner, OPERATOR).limits == ()


def test_amounts_of_money_are_exact(place: uuid.UUID) -> None:
    owner = Owner.organization(place)
    for typed, stored, shown in [
        ("0.000001", 1, "0.000001"),
        ("$1,234.5", 1_234_500_000, "1234.50"),
        ("4611686018427.387904", 2**62, "4611686018427.387904"),
        ("0", 0, "0"),
    ]:
        made = limits.set_budget(owner, typed, OPERATOR)
        assert made is not None
        assert made.maximum == stored
        [view] = limits.show(owner, OPERATOR).limits
        assert view.typed == shown
        assert view.budget
    assert limits.set_budget(owner, "", OPERATOR) is None
    assert limits.show(owner, OPERATOR).limits == ()
    with pytest.raises(BadInput) as refused:
        limits.set_budget(owner, "much", OPERATOR)
    assert refused.value.field == "budget"


def test_a_limit_like_another_is_refused_and_so_is_the_fifty_first(place: uuid.UUID) -> None:
    owner = Owner.organization(place)
    limits.add(owner, Typed("5", Dimension.REQUESTS), OPERATOR)
    with pytest.raises(BadInput, match="already"):
        limits.add(owner, Typed("6", Dimension.REQUESTS, label="another"), OPERATOR)
    with writing_session() as session:
        organization = session.get_one(Organization, place)
        organization.limits = [organization.limits[0] | {"id": f"l{number}"} for number in range(50)]
    with pytest.raises(BadInput, match="50"):
        limits.add(owner, Typed("6", Dimension.TOKENS), OPERATOR)


def test_an_organizations_admins_may_set_a_lower_budget_beside_that_of_the_installation(
    place: uuid.UUID, alice: uuid.UUID
) -> None:
    set_role(alice, place, PersonRole.ADMIN)
    owner, admin = Owner.organization(place), Actor.person(alice)
    limits.set_budget(owner, "50", OPERATOR)
    limits.set_budget(owner, "20", admin)
    limits.set_budget(owner, "30", admin)
    assert [(view.words, view.limit.by_house) for view in limits.show(owner, admin).limits] == [
        ("$50.00 per month", True),
        ("$30.00 per month", False),
    ]
    budget = limits.show(owner, admin).budget
    assert budget is not None
    assert budget.typed == "30"
    limits.set_budget(owner, "", admin)
    limits.set_budget(owner, "", admin)
    assert [view.words for view in limits.show(owner, admin).limits] == ["$50.00 per month"]


def test_somebody_without_a_membership_gets_one_with_their_first_limit(place: uuid.UUID, alice: uuid.UUID) -> None:
    with writing_session() as session:
        session.delete(session.get_one(Membership, (alice, place)))
    owner = Owner.member(place, alice)
    assert limits.show(owner, OPERATOR).limits == ()
    assert rows(select(Membership).where(Membership.person_id == alice)) == []
    limits.add(owner, Typed("1", Dimension.REQUESTS), OPERATOR)
    ask(alice)
    with pytest.raises(LimitReached):
        ask(alice)


def test_a_plans_own_limits_start_afresh_with_the_plan_and_its_numbers_hold(place: uuid.UUID) -> None:
    set_plan_limits("free", messages=1)
    limits.add(Owner.plan("starter"), Typed("1", Dimension.REQUESTS, Window.DAY), OPERATOR)
    carol = add_person(phone="+15005550008")
    ask(carol)
    with pytest.raises(LimitReached):
        ask(carol)
    plan_changes.change_person(carol, "starter", "paid", OPERATOR)
    ask(carol)
    with pytest.raises(LimitReached):
        ask(carol)
    assert plan_changes.start_afresh(carol, "sorry", OPERATOR) == 4
    assert set(counters(f"person:{carol}").values()) == {(0, 0)}
    assert ask(carol).status == RequestStatus.COMPLETED
    assert_receipts_agree()


def test_alert_percents_are_the_organizations_own(place: uuid.UUID) -> None:
    for wrong in ("0", "101", "1.5", "-5", "a", ",".join(str(number) for number in range(1, 12))):
        with pytest.raises(BadInput) as refused:
            organizations.change(OPERATOR, place, 0, organizations.Change(alert_percents=wrong))
        assert refused.value.field == "alert_percents"
    view = organizations.change(OPERATOR, place, 0, organizations.Change(alert_percents="50, 100"))
    assert view.alert_percents == (50, 100)
