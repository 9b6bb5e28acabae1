"""People through the REST API: who finds, registers, changes and writes to whom."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import quote

import pytest
from flask import Flask

from tests.integration.people_api_support import (
    ALICE,
    ALICE_PHONE,
    ANN,
    MARY,
    OLGA,
    OLGA_PHONE,
    OTTO,
    World,
    ok,
    refused,
)
from tests.integration.web_support import ADMIN, token
from tests.support import add_person
from webapp.extensions import now
from webapp.models import AuditEntry, Delivery, Membership, Organization, Person, PlanChange, Request
from webapp.services import people

WHO = f"/users/{quote(ALICE_PHONE)}"


@pytest.fixture
def world(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("SWITCHHOOK_DEMO_DELAY_MS", "0")
    return World(make_app())


def emails(items: list[dict[str, object]]) -> list[object]:
    return [item["email"] for item in items]


# -- finding ---------------------------------------------------------------------------------------------------------
def test_managers_list_their_organization_and_administrators_everybody(world: World) -> None:
    assert set(emails(world.api(MARY).pages("/users"))) == {ADMIN, ALICE, ANN, MARY}
    assert set(emails(world.api(OTTO).pages("/users"))) == {OTTO, OLGA}
    assert set(emails(world.api(ADMIN).pages("/users"))) == {ADMIN, ALICE, ANN, MARY, OTTO, OLGA}
    for caller, status in (
        (world.api(ALICE), 403),
        (world.api(MARY, "read", "write"), 403),
        (world.api(ADMIN, "read"), 403),
        (world.api(), 401),
    ):
        refused(caller.get("/users"), status)


def test_pages_of_people_follow_each_other_to_the_end(world: World) -> None:
    with world.app.app_context():
        for number in range(4):
            add_person(email=f"p{number}@example.com")
    for caller in (world.api(MARY), world.api(ADMIN)):
        whole = emails(caller.pages("/users"))
        for query in ({"limit": 3}, {"limit": 3, "q": "example"}, {"limit": len(whole)}):
            assert emails(caller.pages("/users", **query)) == whole
        assert emails(caller.pages("/users", limit=4, order="created")) == whole[::-1]
        assert ok(caller.get("/users", limit=1, total="true"))["total"] == len(whole)
        assert ok(caller.get("/users", limit=1, total="true", q="p3@"))["total"] == 1


def test_filters_narrow_the_list_of_people(world: World) -> None:
    world.change_person(ANN, active=False, plan_code="premium")
    admin, soon = world.api(ADMIN), (now() + timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    earlier = (now() - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    everybody = {ADMIN, ALICE, ANN, MARY, OTTO, OLGA}
    for query, found in (
        ({"active": "false"}, {ANN}),
        ({"active": "true"}, everybody - {ANN}),
        ({"plan": "premium"}, {ANN}),
        ({"plan": "nothing"}, set()),
        ({"role": "manager"}, {MARY, OTTO}),
        ({"role": "admin"}, {ADMIN}),
        ({"role": "member", "active": "true"}, {ALICE, OLGA}),
        ({"q": "OLG"}, {OLGA}),
        ({"q": "0009"}, {OLGA}),
        ({"q": "%"}, set()),
        ({"created_from": earlier, "created_to": soon}, everybody),
        ({"created_from": soon}, set()),
        ({"created_to": earlier}, set()),
    ):
        assert set(emails(ok(admin.get("/users", **query))["items"])) == found, query
    assert emails(world.api(MARY).pages("/users", q="otto")) == []


def test_a_query_that_is_wrong_is_refused(world: World) -> None:
    admin = world.api(ADMIN)
    for query, field in (
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"cursor": "nonsense"}, "cursor"),
        ({"cursor": "WyJ4Il0"}, "cursor"),
        ({"role": "king"}, "role"),
        ({"active": "perhaps"}, "active"),
        ({"order": "name"}, "order"),
        ({"created_from": "yesterday"}, "created_from"),
        ({"q": "x" * 101}, "q"),
        ({"organization": "1"}, "organization"),
    ):
        refused(admin.get("/users", **query), 422, field)


def test_people_are_read_by_id_by_phone_and_as_me_by_those_who_may(world: World) -> None:
    alice = str(world.ids[ALICE])
    for caller in (world.api(ALICE), world.api(ALICE, "read"), world.api(MARY), world.api(ADMIN)):
        for who in (alice, quote(ALICE_PHONE), "+1 500 555 0006".replace(" ", "%20")):
            assert ok(caller.get(f"/users/{who}"))["id"] == alice
    for caller in (world.api(ANN), world.api(OTTO), world.api(MARY, "read")):
        for who in (alice, quote(ALICE_PHONE), "+1", "nobody", ALICE, str(uuid.uuid4())):
            refused(caller.get(f"/users/{who}"), 404)
    refused(world.api(ALICE, "chat").get(f"/users/{alice}"), 403)
    refused(world.api().get(f"/users/{alice}"), 401)
    assert ok(world.api(ALICE, "chat").get("/users/me"))["email"] == ALICE
    assert ok(world.api(MARY).get("/users/me"))["role"] == "manager"
    assert ok(world.api(ADMIN).get("/users/me"))["role"] == "admin"
    refused(world.api().get("/users/me"), 401)


def test_a_manager_sees_nothing_of_what_a_member_does_elsewhere(world: World) -> None:
    world.change_person(ALICE, requests_total=7, last_active_at=now(), preferences={"theme": "dark"})
    alice = f"/users/{world.ids[ALICE]}"
    seen = ok(world.api(MARY).get(alice))
    assert (seen["requests_total"], seen["preferences"], seen["organization_id"]) == (7, None, str(world.home))
    world.join(ALICE, world.other)
    for manager, place, here in ((MARY, world.home, True), (OTTO, world.other, False)):
        seen = ok(world.api(manager).get(alice))
        assert (seen["requests_total"], seen["last_active_at"], seen["preferences"]) == (None, None, None)
        assert (seen["organization_id"], seen["here"]) == (str(place), here)
    assert ok(world.api(ADMIN).get(alice))["requests_total"] == 7
    assert ok(world.api(ALICE).get(alice))["preferences"] == {"theme": "dark"}
    assert set(emails(world.api(OTTO).pages("/users", limit=1))) == {OTTO, OLGA, ALICE}
    assert ok(world.api(OTTO).get(f"{alice}/profile"))["statistics"]["requests_this_month"] == 0


def test_a_profile_tells_what_became_of_a_persons_requests(world: World) -> None:
    profile = f"{WHO}/profile"
    empty = ok(world.api(ALICE).get(profile))["statistics"]
    assert (empty["success_rate"], empty["mean_seconds"], empty["favourite_categories"]) == (None, None, [])
    alice = world.browser(ALICE)
    for text in ("Write a Python function that sorts a list", "Debug this stack trace of my Python program", "Hello"):
        alice.ask(text)
        world.run_jobs()
    world.change(world.newest_request().id, status="failed", answer=None, category="design")
    for caller in (world.api(ALICE), world.api(MARY), world.api(ADMIN)):
        found = ok(caller.get(profile))
        figures = found["statistics"]
        assert found["user"]["email"] == ALICE
        assert figures["requests_this_month"] == figures["requests_total"] == 3
        assert figures["recent"] == 3
        assert figures["success_rate"] == pytest.approx(2 / 3, abs=1e-3)
        assert figures["mean_seconds"] >= 0
        assert {"category": "design", "requests": 1} in figures["favourite_categories"]
        assert figures["cost_this_month_microusd"] == sum(row.cost_microusd for row in world.all(Request))
        assert figures["last_active_at"]
    world.put(Request, Request.person_id == world.ids[ALICE], organization_id=world.other)
    assert ok(world.api(MARY).get(profile))["statistics"]["recent"] == 0
    refused(world.api(OTTO).get(profile), 404)
    refused(world.api(ANN).get(profile), 404)
    refused(world.api(ALICE, "chat").get(profile), 403)
    refused(world.api().get(profile), 401)


# -- registering -----------------------------------------------------------------------------------------------------
def test_managers_register_into_their_organization_and_administrators_anywhere(world: World) -> None:
    mary, admin = world.api(MARY), world.api(ADMIN)
    made = mary.post("/users", {"email": "New@Example.com", "full_name": "New Person", "time_zone": "Europe/Berlin"})
    user = ok(made, 201)
    assert (user["email"], user["phones"], user["time_zone"]) == ("new@example.com", [], "Europe/Berlin")
    assert (user["role"], user["plan"], user["organization_id"]) == ("member", "free", str(world.home))
    assert made.headers["Location"] == f"/api/users/{user['id']}"
    entry = world.all(AuditEntry)[-1]
    assert (entry.action, entry.actor_id, entry.organization_id) == ("person.create", world.ids[MARY], world.home)
    there = ok(
        admin.post("/users/register", {"email": "b@example.com", "plan": "business", "organization_id": str(world.other)}), 201
    )
    assert (there["organization_id"], there["plan"]) == (str(world.other), "business")
    assert "b@example.com" in emails(world.api(OTTO).pages("/users"))
    assert ok(mary.post("/users", {"phone": "+15005550013"}), 201)["phones"] == ["+15005550013"]
    for caller, status in ((world.api(ALICE), 403), (world.api(MARY, "write"), 403), (world.api(), 401)):
        for path in ("/users", "/users/register"):
            refused(caller.post(path, {"email": "c@example.com"}), status)


def test_a_manager_cannot_sign_in_as_whoever_writes_from_a_number(world: World) -> None:
    world.put(Membership, Membership.person_id == world.ids[MARY], role="admin")
    trap = {"phone": "+15005550011", "email": "mine@example.com", "password": "four plain words here"}
    for caller in (world.api(MARY), world.api(OTTO)):
        for path in ("/users", "/users/register"):
            for body, field in (
                (trap, "password"),
                ({"phone": "+15005550011", "password": "four plain words here"}, "password"),
                ({"email": "mine@example.com", "password": "four plain words here"}, "password"),
                ({"phone": "+15005550011", "email": "mine@example.com"}, "email"),
            ):
                said = refused(caller.post(path, body), 422, field)["detail"]
                assert "dministrators of the installation alone" in said or field == "email", said
    assert len(world.all(Person)) == 6
    refused(world.api(ADMIN).post("/users", {"phone": "+15005550011", "password": "four plain words here"}), 422, "password")
    # By the number alone nobody can sign in, and the manager cannot add to it later.
    made = ok(world.api(MARY).post("/users", {"phone": "+15005550011"}), 201)
    for change in ({"email": "mine@example.com"}, {"full_name": "Mine"}):
        refused(world.api(MARY).patch(f"/users/{made['id']}", change), 403)
    admin = ok(world.api(ADMIN).post("/users", trap | {"phone": "+15005550014"}), 201)
    assert (admin["email"], admin["phones"]) == ("mine@example.com", ["+15005550014"])
    with world.app.app_context():
        assert people.sign_in("mine@example.com", "four plain words here") is not None


def test_registering_the_same_twice_with_one_key_makes_one_person(world: World) -> None:
    mary, key = world.api(MARY), {"Idempotency-Key": "once"}
    first = mary.post("/users", {"email": "c@example.com"}, headers=key)
    again = mary.post("/users", {"email": "c@example.com"}, headers=key)
    assert (ok(first, 201), again.headers["Idempotent-Replayed"]) == (ok(again, 201), "true")


def test_whoever_cannot_be_registered_is_refused_by_field(world: World) -> None:
    world.change_person(OLGA, active=False)
    mary = world.api(MARY)
    for body, status, field in (
        ({}, 422, "phone"),
        ({"phone": "12345"}, 422, "phone"),
        ({"email": "nobody"}, 422, "email"),
        ({"email": "c@example.com", "plan": "gold"}, 422, "plan"),
        ({"email": "c@example.com", "plan": "premium"}, 403, ""),
        ({"email": "c@example.com", "time_zone": "Mars"}, 422, "time_zone"),
        ({"email": "c@example.com", "password": "short"}, 422, "password"),
        ({"phone": "+15005550012", "password": "four plain words here"}, 422, "password"),
        ({"email": "c@example.com", "organization_id": str(world.other)}, 422, "organization_id"),
        ({"email": "c@example.com", "role": "admin"}, 422, "role"),
        ({"email": 5}, 422, "email"),
        ({"email": "c@example.com", "full_name": "x" * 256}, 422, "full_name"),
        ({"email": ALICE}, 409, ""),
        ({"phone": ALICE_PHONE}, 409, ""),
        ({"phone": OLGA_PHONE}, 409, ""),
    ):
        problem = refused(mary.post("/users", body), status, field)
        assert "inactive" not in problem["detail"]
    nowhere = {"email": "c@example.com", "organization_id": str(uuid.uuid4())}
    refused(world.api(ADMIN).post("/users", nowhere), 422, "organization_id")
    world.put(Organization, Organization.id == world.other, active=False)
    refused(world.api(ADMIN).post("/users", {"email": "c@example.com", "organization_id": str(world.other)}), 409)
    assert len(world.all(Person)) == 6


# -- changing --------------------------------------------------------------------------------------------------------
def test_people_change_of_themselves_what_is_their_own_affair(world: World) -> None:
    alice = world.api(ALICE, "write", "read")
    changed = ok(alice.patch("/users/me", {"full_name": " Alice \u202eB. ", "preferences": {"a": [1, {"b": None}]}}))
    assert (changed["full_name"], changed["preferences"]) == ("Alice B.", {"a": [1, {"b": None}]})
    assert ok(alice.patch(WHO, {"time_zone": "Asia/Tokyo"}))["time_zone"] == "Asia/Tokyo"
    assert ok(alice.patch(WHO, {"time_zone": None}))["time_zone"] is None
    assert ok(alice.patch(WHO, {}))["full_name"] == "Alice B."
    assert [entry.detail["changed"] for entry in world.all(AuditEntry) if entry.action == "person.change"] == [
        ["full_name", "preferences"],
        ["time_zone"],
        ["time_zone"],
    ]
    for body in ({"email": "other@example.com"}, {"active": False}, {"full_name": "X", "email": None}):
        refused(alice.patch(WHO, body), 403)
    refused(world.api(ALICE, "read").patch(WHO, {"full_name": "X"}), 403)
    refused(world.api(MARY).patch(WHO, {"full_name": "X"}), 403)
    for caller in (world.api(ANN), world.api(OTTO)):
        refused(caller.patch(WHO, {"full_name": "X"}), 404)
    refused(world.api().patch(WHO, {"full_name": "X"}), 401)
    assert ok(alice.get(WHO))["full_name"] == "Alice B."


def test_administrators_change_everything(world: World) -> None:
    admin = world.api(ADMIN)
    changed = ok(admin.patch(WHO, {"email": "A2@example.com", "active": False, "full_name": "A"}))
    assert (changed["email"], changed["active"], changed["full_name"]) == ("a2@example.com", False, "A")
    assert ok(admin.patch(WHO, {"email": None}))["email"] is None
    refused(admin.patch(WHO, {"email": OLGA}), 409)
    refused(admin.patch(f"/users/{world.ids[ANN]}", {"email": None}), 422, "email")
    refused(admin.patch("/users/me", {"active": False}), 422, "active")
    # Without the scope admin they are a person like others.
    refused(world.api(ADMIN, "read", "write").patch(f"/users/{world.ids[ANN]}", {"full_name": "X"}), 404)


def test_a_change_that_is_wrong_is_refused_by_field(world: World) -> None:
    admin = world.api(ADMIN)
    deep: object = 1
    for _ in range(9):
        deep = [deep]
    for body, field in (
        ({"full_name": None}, "full_name"),
        ({"full_name": "x\x00"}, "full_name"),
        ({"time_zone": "Mars"}, "time_zone"),
        ({"email": "nobody"}, "email"),
        ({"active": "yes"}, "active"),
        ({"active": None}, "active"),
        ({"preferences": []}, "preferences"),
        ({"preferences": {"a": deep}}, "preferences"),
        ({"preferences": {"a": "x\x00"}}, "preferences.a"),
        ({"preferences": {"a": "x\x1b"}}, "preferences"),
        ({"preferences": {"a": "\ud800"}}, "preferences.a"),
        ({"preferences": {"a": "x" * 16_001}}, "preferences"),
        ({"plan": "premium"}, "plan"),
    ):
        refused(admin.patch(WHO, body), 422, field)


def test_administrators_shut_people_out_and_let_them_in(world: World) -> None:
    admin, alice = world.api(ADMIN), world.api(ALICE)
    browser = world.browser(ALICE)
    for _ in range(2):
        assert ok(admin.post(f"{WHO}/deactivate"))["active"] is False
    refused(alice.get("/users/me"), 401)
    assert browser.get("/settings").status_code == 303
    assert ok(admin.post(f"{WHO}/activate"))["active"] is True
    ok(alice.get("/users/me"))
    acts = [entry.action for entry in world.all(AuditEntry) if entry.action.startswith("person.") and "tivate" in entry.action]
    assert acts == ["person.deactivate", "person.activate"]
    refused(admin.post("/users/me/deactivate"), 422, "active")
    refused(admin.post(f"/users/{uuid.uuid4()}/deactivate"), 404)
    for act in ("activate", "deactivate"):
        for caller, status in ((alice, 403), (world.api(MARY), 403), (world.api(OTTO), 403), (world.api(), 401)):
            refused(caller.post(f"{WHO}/{act}"), status)


def test_only_administrators_of_the_installation_change_plans(world: World) -> None:
    admin, premium = world.api(ADMIN), {"plan": "premium", "reason": "invoice 1042"}
    changed = ok(admin.post(f"{WHO}/update_tier", premium))
    assert changed == {"user_id": str(world.ids[ALICE]), "before": "free", "plan": "premium", "month_restarted": True}
    assert [(row.before, row.after, row.reason) for row in world.all(PlanChange)] == [("free", "premium", "invoice 1042")]
    assert [entry.actor_id for entry in world.all(AuditEntry) if entry.action == "person.plan"] == [world.ids[ADMIN]]
    assert ok(admin.post(f"{WHO}/update_tier", {"plan": "free", "reason": "x"}))["month_restarted"] is False
    for body, field in (
        ({"plan": "free", "reason": "again"}, "plan"),
        ({"plan": "gold", "reason": "x"}, "plan"),
        ({"plan": "premium"}, "reason"),
        ({"plan": "premium", "reason": "  "}, "reason"),
        ({"plan": "premium", "reason": "x" * 501}, "reason"),
        ({"tier": "premium", "reason": "x"}, "plan"),
    ):
        refused(admin.post(f"{WHO}/update_tier", body), 422, field)
    refused(admin.post(f"/users/{uuid.uuid4()}/update_tier", premium), 404)
    for caller, status in (
        (world.api(ALICE), 403),
        (world.api(MARY), 403),
        (world.api(ADMIN, "write"), 403),
        (world.api(), 401),
    ):
        refused(caller.post(f"{WHO}/update_tier", premium), status)


# -- writing to them -------------------------------------------------------------------------------------------------
def test_a_message_is_accepted_and_can_be_followed(world: World) -> None:
    for caller, reader in (
        (world.api(MARY, "admin"), world.api(MARY)),
        (world.api(MARY, "sms"), world.api(MARY)),
        (world.api(ADMIN, "sms"), world.api(ADMIN)),
        (world.api(ALICE, "sms"), world.api(ALICE)),
    ):
        sent = caller.post(f"{WHO}/send_message", {"body": "Your report is ready."})
        delivery = ok(sent, 202)
        assert (delivery["status"], delivery["address"], delivery["kind"]) == ("pending", ALICE_PHONE, "manual")
        assert sent.headers["Retry-After"]
        world.run_jobs()
        followed = ok(reader.client.get(sent.headers["Location"], headers=reader.headers))
        assert followed["delivery"]["id"] == delivery["id"]
        assert followed["delivery"]["status"] in ("sent", "delivered")
    assert [row.body for row in world.all(Delivery)] == ["Your report is ready."] * 4
    assert [entry.action for entry in world.all(AuditEntry)].count("message.send") == 4


def test_a_message_is_sent_once_for_one_key(world: World) -> None:
    mary = world.api(MARY)
    for _ in range(2):
        ok(mary.post(f"{WHO}/send_message", {"body": "once"}, headers={"Idempotency-Key": "k1"}), 202)
    assert len(world.all(Delivery)) == 1


def test_nobody_is_written_to_who_may_not_be(world: World) -> None:
    mary, hello = world.api(MARY), {"body": "hello"}
    refused(mary.post(f"/users/{world.ids[ANN]}/send_message", hello), 409)
    for caller in (world.api(OTTO), world.api(ANN, "sms"), world.api(OTTO, "sms")):
        refused(caller.post(f"{WHO}/send_message", hello), 404)
    refused(mary.post(f"/users/{quote(OLGA_PHONE)}/send_message", hello), 404)
    for caller, status in ((world.api(ALICE, "read", "write"), 403), (world.api(), 401)):
        refused(caller.post(f"{WHO}/send_message", hello), status)
    for body, field in (
        ({}, "body"),
        ({"body": ""}, "body"),
        ({"body": "  "}, "body"),
        ({"body": "x" * 5000}, "body"),
        ({"body": "x", "channel": "pigeon"}, "channel"),
        ({"body": "x", "to": "+15005550001"}, "to"),
    ):
        refused(mary.post(f"{WHO}/send_message", body), 422, field)
    world.opt_out(ALICE_PHONE)
    assert "opted out" in refused(mary.post(f"{WHO}/send_message", hello), 409)["detail"]
    world.join(OLGA, world.home)
    refused(mary.post(f"/users/{world.ids[OLGA]}/send_message", hello), 409)
    assert world.all(Delivery) == []


def test_a_session_of_a_member_sends_nothing(world: World) -> None:
    def send(email: str) -> int:
        browser = world.browser(email)
        csrf = {"X-CSRFToken": token(browser.get("/settings"))}
        return browser.client.post(f"/api{WHO}/send_message", json={"body": "hi"}, headers=csrf).status_code

    assert (send(ALICE), send(MARY)) == (403, 202)
    unsafe = world.browser(MARY).client.post(f"/api{WHO}/send_message", json={"body": "hi"})
    assert unsafe.status_code == 400
