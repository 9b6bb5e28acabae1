"""The operator's commands about plans and limits."""

from __future__ import annotations

import json

import pytest

from tests.integration.cli_support import SENDER, Operator, operator

__all__ = ["operator"]
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_plans_are_made_changed_listed_and_deleted(operator: Operator) -> None:
    made = operator.json("plan", "create", "team", "--name", "Team", "--limit", "messages=500", "--limit", "cost_microusd=2.5")
    assert made["limits"] == {"messages": 500, "cost_microusd": 2_500_000}
    changed = operator.json(
        "plan", "set", "team", "--limit", "messages=unlimited", "--limit", "cost_microusd=none", "--feature", "urgent"
    )
    assert (changed["limits"], changed["features"], changed["name"]) == ({"messages": None}, ["urgent"], "Team")
    assert "unlimited messages" in operator.ok("plan", "show", "team")
    assert "free (default)" in operator.ok("plan", "list")
    operator.ok("person", "create", "--phone", SENDER, "--plan", "team")
    refused = operator("plan", "delete", "team", "--yes")
    assert refused.exit_code == 1
    assert "1 person is on this plan" in refused.stderr
    moved = operator.json("plan", "delete", "team", "--yes", "--replacement", "starter", "--reason", "no more")
    assert (moved["persons"], moved["failures"]) == (1, [])
    assert operator.rows("SELECT plan_code FROM person WHERE email IS NULL") == [("starter",)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "Team"), "small letters"),
        (("create", "team", "--limit", "messages=-1"), "whole number"),
        (("create", "team", "--limit", "messages="), "whole number"),
        (("create", "team", "--limit", "messages"), "NAME=NUMBER"),
        (("create", "team", "--limit", "pigeons=1"), "pigeons"),
        (("create", "team", "--limit", "cost_microusd=0.0000001"), "6 digits"),
        (("create", "team", "--priority", "201"), "0 to 200"),
        (("create", "team", "--feature", "flying"), "urgent"),
        (("set", "gold", "--rank", "1"), "no such plan"),
        (("change", "admin@example.com", "gold", "--reason", "x"), "no plan"),
        (("change", "admin@example.com", "enterprise", "--reason", "x"), "already"),
        (("change", "--organization", "Nowhere", "business", "--reason", "x"), "no organization"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(operator: Operator, arguments: tuple[str, ...], said: str) -> None:
    result = operator("plan", *arguments)
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_people_and_organizations_are_put_on_plans(operator: Operator) -> None:
    operator.ok("person", "create", "--phone", SENDER)
    changed = operator.json("plan", "change", SENDER, "business", "--reason", "paid")
    assert (changed["before"], changed["plan"], changed["restarted"]) == ("free", "business", 1)
    said = operator.ok("plan", "change", "--organization", "default organization", "professional", "--reason", "all paid")
    assert "professional" in said
    assert operator.rows("SELECT plan_code FROM organization") == [("professional",)]
    operator.ok("plan", "change", "--organization", "default organization", "none", "--reason", "over")
    assert operator.rows("SELECT plan_code FROM organization") == [(None,)]
    for wrong in (("plan", "change", "free", "--reason", "x"), ("plan", "bulk", "month", "--reason", "x", "--yes")):
        assert operator(*wrong).exit_code == 2
    assert operator.rows("SELECT count(*) FROM plan_change") == [(3,)]


def test_many_people_are_changed_and_failures_make_the_command_fail(operator: Operator) -> None:
    operator.ok("person", "create", "--phone", SENDER)
    operator.ok("person", "create", "--email", "bo@example.com")
    asked = operator("plan", "bulk", "plan", "--on", "free", "--to", "starter", "--reason", "x", given="n\n")
    assert asked.exit_code == 1
    assert operator.rows("SELECT count(*) FROM person WHERE plan_code = 'starter'") == [(0,)]
    said = operator.ok("plan", "bulk", "plan", "--on", "free", "--to", "starter", "--reason", "all up", "--yes")
    assert "2 changed" in said
    report = json.loads(operator("plan", "bulk", "deactivate", SENDER, "bo@example.com", "--yes", "--json").stdout)
    assert report["done"] == 2
    assert operator("plan", "bulk", "plan", SENDER, "--to", "gold", "--reason", "x", "--yes").exit_code == 1


def test_limits_are_set_from_the_command_line(operator: Operator) -> None:
    operator.ok("person", "create", "--phone", SENDER)
    token = operator.ok("token", "create", SENDER, "--name", "x", "--scope", "chat")
    begin = next(word for word in token.split() if word.startswith("sh_"))[:9]
    for whose in (
        ("--organization", "Default organization"),
        ("--person", SENDER),
        ("--token", begin),
        ("--plan", "free"),
    ):
        assert "has no limits" in operator.ok("limit", "list", *whose)
        made = operator.json("limit", "add", *whose, "--dimension", "cost", "--window", "month", "--maximum", "12.50")
        assert (made["maximum"], made["words"], made["by_house"]) == (12_500_000, "$12.50 per month", whose[0] != "--plan")
        changed = operator.json("limit", "change", made["id"], *whose, "--maximum", "13")
        assert changed["maximum"] == 13_000_000
        assert "$13.00 per month" in operator.ok("limit", "list", *whose)
        operator.ok("limit", "remove", made["id"], *whose)
        assert operator.json("limit", "list", *whose) == []
    assert operator.rows("SELECT count(*) FROM audit_entry WHERE action LIKE 'limit.%'") == [(12,)]
    each = operator.json(
        "limit",
        "add",
        *("--organization", "Default organization", "--each", "--open", "--provider", "demo", "--operation", "chat"),
        *("--dimension", "requests", "--window", "day", "--maximum", "5"),
    )
    assert each["words"] == "5 requests per day at demo for chat, for each person"
    assert not each["by_house"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--plan", "free", "--person", SENDER), "Name one of"),
        ((), "Name one of"),
        (("--token", "sh_nothing1"), "no such token"),
        (("--token", "x"), "first 9 characters"),
        (("--organization", "Nowhere"), "no organization"),
        (("--plan", "gold"), "no such plan"),
        (("--person", "+15005550099"), "no person"),
    ],
)
def test_whose_limits_they_are_has_to_be_clear(operator: Operator, arguments: tuple[str, ...], said: str) -> None:
    result = operator("limit", "list", *arguments)
    assert result.exit_code == 1
    assert said in result.stderr
