"""Usage, quotas and plans through the REST API."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask

from tests.integration.people_api_support import ALICE, ALICE_PHONE, ANN, MARY, OTTO, Api, World, ok, refused
from tests.integration.web_support import ADMIN
from webapp.models import Organization, Plan, Request

LIMIT = {"id": "t1", "dimension": "tokens", "window": "day", "maximum": 5000, "label": "tokens of the robot"}


@pytest.fixture
def world(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("SWITCHHOOK_DEMO_DELAY_MS", "0")
    return World(make_app())


def ask(world: World, email: str = ALICE) -> None:
    world.browser(email).ask("How many legs has a beetle?")
    world.run_jobs()


def test_usage_and_quotas_tell_what_is_used_of_each_limit(world: World) -> None:
    ask(world)
    [asked] = world.all(Request)
    alice = world.api(ALICE, "read")
    usage = ok(alice.get("/usage"))
    [messages] = [each for each in usage["quotas"] if each["name"] == "messages"]
    assert {name: messages[name] for name in ("used", "held", "limit", "remaining", "percent", "unit", "window", "whose")} == {
        "used": 1,
        "held": 0,
        "limit": 10,
        "remaining": 9,
        "percent": 10,
        "unit": "requests",
        "window": "month",
        "whose": "person",
    }
    assert messages["starts_at"] < usage["at"] < messages["resets_at"]
    [cost] = [each for each in usage["quotas"] if each["name"] == "cost_microusd"]
    assert (cost["unit"], cost["used"]) == ("microusd", asked.cost_microusd)
    assert (usage["month"]["requests"], usage["month"]["cost_microusd"]) == (1, asked.cost_microusd)
    assert usage["month"]["models"][0]["model"] == asked.model
    assert (usage["person_id"], usage["organization_id"]) == (str(world.ids[ALICE]), str(world.home))
    assert ok(alice.get("/quotas")) == {"items": usage["quotas"], "next_cursor": None, "total": None}
    browser = world.browser(ALICE).client
    assert ok(browser.get("/api/usage"))["quotas"] == usage["quotas"]


def test_a_call_by_a_token_sees_its_own_limits_and_no_others(world: World) -> None:
    robot = Api(world, world.token(ALICE, "chat", limits=[LIMIT]))
    [line] = [each for each in ok(robot.get("/quotas"))["items"] if each["whose"] == "token"]
    assert (line["dimension"], line["limit"], line["unit"]) == ("tokens", 5000, "tokens")
    for other in (world.api(ALICE), world.api(MARY)):
        for path in ("/quotas", "/usage"):
            assert "robot" not in other.get(path).text
    for path in ("/usage", "/quotas", "/plans"):
        refused(world.api(ALICE, "write").get(path), 403)
        refused(world.api().get(path), 401)
        ok(world.api(ALICE, "chat").get(path))


def test_a_token_of_another_organization_sees_that_ones_limits(world: World) -> None:
    world.join(ALICE, world.other)
    limits = [LIMIT | {"id": "o1", "label": "of the other one"}]
    world.put(Organization, Organization.id == world.other, limits=limits)
    there = Api(world, world.token(ALICE, "read", organization_id=world.other))
    assert "of the other one" in there.get("/usage").text
    assert ok(there.get("/usage"))["organization_id"] == str(world.other)
    assert "of the other one" not in world.api(ALICE).get("/usage").text


def test_managers_and_administrators_see_the_usage_of_people(world: World) -> None:
    ask(world)
    for who in (str(world.ids[ALICE]), quote(ALICE_PHONE)):
        for caller in (world.api(ALICE), world.api(MARY), world.api(ADMIN)):
            assert ok(caller.get(f"/users/{who}/usage"))["month"]["requests"] == 1
        for caller in (world.api(ANN), world.api(OTTO), world.api(MARY, "read")):
            refused(caller.get(f"/users/{who}/usage"), 404)
        refused(world.api(ALICE, "chat").get(f"/users/{who}/usage"), 403)
        refused(world.api().get(f"/users/{who}/usage"), 401)
    world.join(ALICE, world.other)
    elsewhere = ok(world.api(OTTO).get(f"/users/{world.ids[ALICE]}/usage"))
    assert (elsewhere["month"]["requests"], elsewhere["organization_id"]) == (0, str(world.other))


def test_managers_see_the_usage_of_their_organization_page_by_page(world: World) -> None:
    world.put(Organization, Organization.id == world.home, limits=[LIMIT])
    ask(world)
    ask(world, ANN)
    mary = world.api(MARY)
    members: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        found = ok(mary.get("/organization/usage", limit=1, **cursor))
        assert [quota["label"] for quota in found["quotas"]] == ["tokens of the robot"]
        assert found["month"]["requests"] == 2
        assert len(found["spenders"]) == 2
        members += found["members"]
        if found["next_cursor"] is None:
            break
        cursor = {"cursor": found["next_cursor"]}
    assert [each["person_id"] for each in members] == sorted(str(world.ids[who]) for who in (ADMIN, ALICE, ANN, MARY))
    assert sum(each["requests"] for each in members) == 2
    assert ok(world.api(OTTO).get("/organization/usage"))["month"]["requests"] == 0
    for caller, status in ((world.api(ALICE), 403), (world.api(MARY, "read"), 403), (world.api(), 401)):
        refused(caller.get("/organization/usage"), status)
    for query, field in (({"limit": 0}, "limit"), ({"cursor": "x"}, "cursor"), ({"total": "true"}, "total")):
        refused(mary.get("/organization/usage", **query), 422, field)


def test_plans_are_told_with_their_limits_and_features(world: World) -> None:
    world.put(Plan, Plan.code == "free", more_limits=[LIMIT], features=["batch"])
    items = ok(world.api(ALICE).get("/plans"))["items"]
    assert [plan["code"] for plan in items] == ["free", "starter", "premium", "professional", "business", "enterprise"]
    assert [plan["code"] for plan in items if plan["mine"]] == ["free"]
    assert [plan["code"] for plan in items if plan["default"]] == ["free"]
    assert (items[0]["limits"]["messages"], items[-1]["limits"]["tokens"]) == (10, None)
    assert (items[0]["more_limits"][0]["maximum"], items[0]["features"]) == (5000, ["batch"])
    assert not {"persons", "organizations"} & set(items[0])


def test_a_persons_tasks_are_listed_for_those_who_may(world: World) -> None:
    for number in range(5):
        world.browser(ALICE).ask(f"secret number {number}")
    world.run_jobs()
    ask(world, ANN)
    path = f"/users/{quote(ALICE_PHONE)}/tasks"
    whole = [str(row.id) for row in world.all(Request) if row.person_id == world.ids[ALICE]][::-1]
    for caller in (world.api(ALICE), world.api(MARY), world.api(ADMIN)):
        assert [item["id"] for item in caller.pages(path, limit=2)] == whole
        assert [item["id"] for item in caller.pages(path, order="created")] == whole[::-1]
        assert caller.pages(path, status="failed") == []
    assert "secret" in world.api(ADMIN).get(path).text
    assert "secret" not in world.api(MARY).get(path).text
    for caller, status in (
        (world.api(ANN), 404),
        (world.api(OTTO), 404),
        (world.api(ALICE, "chat"), 403),
        (world.api(), 401),
    ):
        refused(caller.get(path), status)
    for query, field in (({"status": "x"}, "status.0"), ({"person": str(uuid.uuid4())}, "person"), ({"limit": 0}, "limit")):
        refused(world.api(ALICE).get(path, **query), 422, field)
