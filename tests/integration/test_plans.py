"""Plans as data: made, changed, deleted; what makes no sense is refused, and of two who change one at once both are heard."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import insert, select, update

from tests.integration.limits_support import OPERATOR, assert_receipts_agree, organization_id, set_role
from tests.support import add_person, one, rows, run_jobs, text
from webapp.contracts.errors import BadInput, Conflict, NotAllowed, NotFound
from webapp.contracts.limits import MAXIMUM
from webapp.extensions import now, writing
from webapp.models import AuditEntry, LimitCounter, Organization, Person, PersonRole, Plan, PlanChange, RouteRule
from webapp.models.columns import new_id
from webapp.services import plans
from webapp.services.organizations import Actor
from webapp.services.plans import Typed

TEAM = Typed(
    "Team",
    "3",
    "70",
    "1,500",
    "0",
    {"messages": "1,000", "tokens": "", "cost_microusd": "$25.000001"},
    ("batch",),
)


def test_a_plan_is_made_changed_and_deleted(app: Flask) -> None:
    made = plans.create("team-1", TEAM, OPERATOR)
    assert (made.rank, made.priority, made.max_output_tokens, made.context_tokens) == (3, 70, 1500, 0)
    assert made.limits == {"messages": 1000, "tokens": None, "cost_microusd": 25_000_001}
    assert made.features == ("batch",)
    typed = plans.as_typed(made)
    assert plans.checked(typed) == plans.checked(TEAM)
    changed = plans.change("team-1", replace(typed, priority="0", limits={"messages": "0"}), made.version, OPERATOR)
    assert (changed.priority, changed.limits, changed.version) == (0, {"messages": 0}, made.version + 1)
    # What is there already is no change.
    assert plans.change("team-1", plans.as_typed(changed), changed.version, OPERATOR).version == changed.version
    moved = plans.delete("team-1", OPERATOR)
    assert (moved.persons, moved.organizations) == (0, 0)
    with pytest.raises(NotFound):
        plans.show("team-1")
    told = rows(select(AuditEntry).where(AuditEntry.subject == "plan:team-1").order_by(AuditEntry.id))
    assert [entry.action for entry in told] == ["plan.create", "plan.change", "plan.delete"]
    assert told[1].detail["priority"] == {"from": 70, "to": 0}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": " "}, "name"),
        ({"name": "x" * 81}, "name"),
        ({"rank": "-1"}, "rank"),
        ({"rank": ""}, "rank"),
        ({"priority": "201"}, "priority"),
        ({"priority": "50.5"}, "priority"),
        ({"max_output_tokens": "0"}, "max_output_tokens"),
        ({"max_output_tokens": "99999999999"}, "max_output_tokens"),
        ({"context_tokens": "many"}, "context_tokens"),
        ({"limits": {"messages": "-5"}}, "messages"),
        ({"limits": {"messages": "1.5"}}, "messages"),
        ({"limits": {"tokens": str(MAXIMUM + 1)}}, "tokens"),
        ({"limits": {"tokens": "1e6"}}, "tokens"),
        ({"limits": {"cost_microusd": "-0.01"}}, "cost_microusd"),
        ({"limits": {"cost_microusd": "0.0000001"}}, "cost_microusd"),
        ({"limits": {"cost_microusd": "inf"}}, "cost_microusd"),
        ({"limits": {"pigeons": "5"}}, "limits"),
        ({"features": ("flying",)}, "features"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_name_of_the_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(BadInput) as refused:
        plans.checked(replace(TEAM, **changes))
    assert refused.value.field == field
    assert refused.value.message


def test_codes_are_plain_and_given_once(app: Flask) -> None:
    for code in ("", "Team", "a b", "-x", "x" * 41, "ü", "../x"):
        with pytest.raises(BadInput) as refused:
            plans.create(code, TEAM, OPERATOR)
        assert refused.value.field == "code"
    with pytest.raises(Conflict):
        plans.create("free", TEAM, OPERATOR)


def test_only_administrators_of_the_installation_change_plans(app: Flask) -> None:
    alice = add_person(phone="+15005550006")
    set_role(alice, organization_id(), PersonRole.ADMIN)
    actor = Actor.person(alice)
    for act in (
        lambda: plans.create("team", TEAM, actor),
        lambda: plans.change("free", TEAM, 0, actor),
        lambda: plans.delete("starter", actor),
    ):
        with pytest.raises(NotAllowed):
            act()


def test_of_two_who_change_a_plan_at_once_the_second_is_told(app: Flask) -> None:
    start = threading.Barrier(2)

    def change(name: str) -> str:
        with app.app_context():
            typed = replace(plans.as_typed(plans.show("free")), name=name)
            start.wait()
            try:
                plans.change("free", typed, 0, OPERATOR)
            except Conflict:
                return ""
            return name

    with ThreadPoolExecutor(2) as pool:
        saved = [name for name in pool.map(change, ("One", "Two")) if name]
    assert len(saved) == 1
    assert (plans.show("free").name, plans.show("free").version) == (saved[0], 1)


def test_a_plan_that_people_have_is_deleted_only_with_a_replacement(app: Flask) -> None:
    plans.create("old", TEAM, OPERATOR)
    people = [add_person(phone=f"+1500555{number:04}", plan="old") for number in range(1001, 1004)]
    with writing() as connection:
        connection.execute(update(Organization).values(plan_code="old"))
    text("one", sender="+15005551001")
    run_jobs()
    with pytest.raises(Conflict, match="3 people and 1 organization are on this plan"):
        plans.delete("old", OPERATOR)
    for replacement, reason, field in [("gold", "x", "replacement"), ("old", "x", "replacement"), ("free", " ", "reason")]:
        with pytest.raises(BadInput) as refused:
            plans.delete("old", OPERATOR, replacement=replacement, reason=reason)
        assert refused.value.field == field
    assert len(rows(select(Person).where(Person.plan_code == "old"))) == 3
    told: list[int] = []
    moved = plans.delete("old", OPERATOR, replacement="business", reason="a new price list", progress=told.append)
    assert (moved.persons, moved.organizations, moved.restarted, moved.failures) == (3, 1, 3, [])
    assert told == [3]
    assert {row.plan_code for row in rows(select(Person).where(Person.id.in_(people)))} == {"business"}
    assert one(select(Organization)).plan_code == "business"
    assert rows(select(Plan).where(Plan.code == "old")) == []
    assert {change.reason for change in rows(select(PlanChange))} == {"a new price list"}
    assert {row.used for row in rows(select(LimitCounter).where(LimitCounter.name == "messages"))} == {0}
    assert_receipts_agree()


def test_plans_that_others_depend_on_stay(app: Flask) -> None:
    with pytest.raises(Conflict, match="SWITCHHOOK_DEFAULT_PLAN"):
        plans.delete("free", OPERATOR, replacement="starter", reason="x")
    with pytest.raises(Conflict, match="Administrators"):
        plans.delete("enterprise", OPERATOR, replacement="business", reason="x")
    with writing() as connection:
        rule = {"id": new_id(), "position": 1, "name": "Dear ones", "targets": ["demo"], "plan_code": "business"}
        connection.execute(insert(RouteRule), rule | {"enabled": True, "updated_at": now()})
    with pytest.raises(Conflict, match="Dear ones"):
        plans.delete("business", OPERATOR)
    with pytest.raises(NotFound):
        plans.delete("gold", OPERATOR)


def test_the_list_says_how_many_have_each(app: Flask) -> None:
    add_person(phone="+15005550006")
    add_person(phone="+15005550007")
    found = {row.code: row.persons for row in plans.rows()}
    assert (found["free"], found["starter"], found["enterprise"]) == (2, 0, 1)
    assert plans.rows()[0].code == "free"
    assert plans.show("free").default


def test_numbers_of_other_policies_stay_as_they_are(app: Flask) -> None:
    with writing() as connection:
        connection.execute(update(Plan).where(Plan.code == "free").values(limits={"messages": 5, "postcards": 3}))
    view = plans.show("free")
    assert plans.change("free", replace(plans.as_typed(view), limits={}), 0, OPERATOR).limits == {"postcards": 3}
