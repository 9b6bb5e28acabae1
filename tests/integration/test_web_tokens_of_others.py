"""Tokens of others, by the API and on the pages: who sees them, and who ends one that has leaked."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from flask import Flask

from tests.integration.people_api_support import ALICE, ALICE_PHONE, ANN, MARY, OLGA, OTTO, Api, World, ok, refused
from tests.integration.quick_support import Exact, ask, owner, watched
from tests.integration.vendor_support import install
from tests.integration.web_support import ADMIN, token
from webapp.models import ApiToken, AuditEntry, Membership, Person
from webapp.services import people

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def world(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("SWITCHHOOK_DEMO_DELAY_MS", "0")
    return World(make_app())


def id_of(world: World, clear: str) -> uuid.UUID:
    digest = people.token_digest(clear)
    found: list[uuid.UUID] = [row.id for row in world.all(ApiToken) if row.digest == digest]
    return found[0]


def entries(world: World) -> list[AuditEntry]:
    return [entry for entry in world.all(AuditEntry) if entry.action == "token.revoke"]


def test_managers_and_administrators_end_a_token_that_has_leaked(world: World) -> None:
    for caller, path in ((MARY, f"/users/{world.ids[ALICE]}"), (ADMIN, f"/users/%2B{ALICE_PHONE[1:]}")):
        clear = world.token(ALICE, "read", "chat")
        leaked, by = Api(world, clear), world.api(caller)
        v1 = world.app.test_client().get("/v1/models", headers={"Authorization": f"Bearer {clear}"})
        assert (leaked.get("/users/me").status_code, v1.status_code) == (200, 200)
        key = id_of(world, clear)
        [first, *_] = ok(by.get(f"{path}/tokens", total="true", limit=1))["items"]
        assert (first["id"], first["state"]) == (str(key), "active")
        assert clear not in by.get(f"{path}/tokens").text
        for _ in range(2):
            assert by.delete(f"{path}/tokens/{key}").status_code == 204
        v1 = world.app.test_client().get("/v1/models", headers={"Authorization": f"Bearer {clear}"})
        assert (leaked.get("/users/me").status_code, v1.status_code) == (401, 401)
        assert ok(by.get(f"{path}/tokens"))["items"][0]["state"] == "revoked"
        entry = entries(world)[-1]
        assert (entry.actor_id, entry.subject) == (world.ids[caller], f"person:{world.ids[ALICE]}")
        assert (entry.organization_id, entry.detail["prefix"]) == (world.home, clear[:9])
    assert len(entries(world)) == 2


def test_whoever_may_not_sees_and_ends_none(world: World) -> None:
    alices = id_of(world, world.token(ALICE, "read"))
    path = f"/users/{world.ids[ALICE]}/tokens"
    for caller, status in (
        (world.api(), 401),
        (world.api(ANN), 403),
        (world.api(ALICE), 403),
        (world.api(MARY, "read", "write"), 403),
        (world.api(OTTO), 404),
    ):
        refused(caller.get(path), status)
        refused(caller.delete(f"{path}/{alices}"), status)
    # Neither by the name of somebody else, nor what is not there.
    refused(world.api(MARY).delete(f"/users/{world.ids[ANN]}/tokens/{alices}"), 404)
    refused(world.api(ADMIN).delete(f"{path}/{uuid.uuid4()}"), 404)
    assert entries(world) == []


def test_a_manager_ends_what_works_in_their_organization_alone(world: World) -> None:
    world.join(ALICE, world.other)
    anywhere = id_of(world, world.token(ALICE, "read"))
    there = id_of(world, world.token(ALICE, "read", organization_id=world.other))
    path = f"/users/{world.ids[ALICE]}/tokens"
    mary, otto, admin = world.api(MARY), world.api(OTTO), world.api(ADMIN)
    assert [each["id"] for each in mary.pages(path, limit=1)] == [str(anywhere)]
    assert [each["id"] for each in otto.pages(path, limit=1)] == [str(there)]
    assert [each["id"] for each in admin.pages(path, limit=1)] == [str(there), str(anywhere)]
    assert [ok(each.get(path, total="true"))["total"] for each in (mary, otto, admin)] == [1, 1, 2]
    refused(mary.delete(f"{path}/{there}"), 404)
    refused(otto.delete(f"{path}/{anywhere}"), 404)
    assert otto.delete(f"{path}/{there}").status_code == 204
    # Where they go on, their token works.
    world.put(Person, Person.id == world.ids[ALICE], organization_id=world.other)
    refused(mary.delete(f"{path}/{anywhere}"), 404)
    assert otto.delete(f"{path}/{anywhere}").status_code == 204


def test_managers_do_not_end_tokens_of_those_above_them(world: World) -> None:
    world.put(Membership, Membership.person_id == world.ids[ANN], role="admin")
    anns, marys, admins = (id_of(world, world.token(who, "read")) for who in (ANN, MARY, ADMIN))
    mary, ann = world.api(MARY), world.api(ANN)
    refused(mary.delete(f"/users/{world.ids[ANN]}/tokens/{anns}"), 403)
    for caller in (mary, ann):
        refused(caller.delete(f"/users/{world.ids[ADMIN]}/tokens/{admins}"), 403)
    assert ann.delete(f"/users/{world.ids[MARY]}/tokens/{marys}").status_code == 204
    assert world.api(ADMIN).delete(f"/users/{world.ids[ANN]}/tokens/{anns}").status_code == 204
    assert [entry.actor_id for entry in entries(world)] == [world.ids[ANN], world.ids[ADMIN]]


def test_a_weaker_token_does_not_get_what_a_stronger_one_was_answered(world: World) -> None:
    body, key = {"name": "report", "scopes": ["admin"]}, {"Idempotency-Key": "once"}
    strong, weak, alike = world.api(MARY), world.api(MARY, "read", "write"), world.api(MARY)
    made = ok(strong.post("/tokens", body, headers=key), 201)
    for other in (weak, alike):
        told = other.post("/tokens", body, headers=key)
        assert refused(told, 422)["code"] == "idempotency_key_reused"
        assert made["token"] not in told.text
    assert ok(strong.post("/tokens", body, headers=key), 201)["token"] == made["token"]
    # A session is not a token either.
    browser = world.browser(MARY)
    headers = key | {"X-CSRFToken": token(browser.get("/settings"))}
    assert browser.client.post("/api/tokens", json=body, headers=headers).status_code == 422
    asked = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
    # Errors there are those of the format.
    for index, caller in enumerate((strong, alike, strong)):
        answer = caller.client.post("/v1/chat/completions", json=asked, headers=caller.headers | {"Idempotency-Key": "v1"})
        assert answer.status_code == (400 if index == 1 else 200), answer.text
        assert answer.headers.get("Idempotent-Replayed") == ("true" if index == 2 else None)


def test_the_scope_admin_opens_the_compatible_endpoints(world: World) -> None:
    asked = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
    for scopes, status in ((("admin",), 200), (("chat",), 200), (("write", "sms"), 403)):
        caller = world.api(MARY, *scopes)
        # The first call notes that the token is used; the second one goes the quick way.
        for _ in range(2):
            for path in ("chat/completions", "messages"):
                body = asked | ({"max_tokens": 50} if path == "messages" else {})
                answer = caller.client.post(f"/v1/{path}", json=body, headers=caller.headers)
                assert answer.status_code == status, f"{path} {scopes}: {answer.text}"
        keyed = caller.headers | {"Idempotency-Key": scopes[0]}
        assert caller.client.post("/v1/chat/completions", json=asked, headers=keyed).status_code == status
        assert caller.client.get("/v1/models", headers=caller.headers).status_code == status


def test_a_token_with_the_scope_admin_alone_takes_the_short_way(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    with app.app_context():
        install(Exact())
        clear = owner(scopes=("admin",)).token
    seen = watched(monkeypatch)
    assert ask(app, clear).status_code == 200
    assert (seen.admitted, seen.settled, seen.reasons) == (1, 1, [])


def test_the_pages_list_tokens_of_others_and_end_them(world: World) -> None:
    clear = world.token(ALICE, "read", name="Nightly <report>")
    for who, page in (
        (MARY, f"/organization/{world.home}/members/{world.ids[ALICE]}/tokens"),
        (ADMIN, f"/dashboard/people/{world.ids[ALICE]}"),
    ):
        key, browser = id_of(world, clear), world.browser(who)
        shown = browser.get(page).text
        assert "Nightly &lt;report&gt;" in shown
        assert "Yes, revoke it" in shown
        there = page.removesuffix("/tokens") + f"/tokens/{key}/revoke"
        assert there in shown
        answered = browser.post(there)
        assert answered.status_code == 303
        assert "is revoked" in browser.get(page).text
        assert there not in browser.get(page).text
        assert Api(world, clear).get("/users/me").status_code == 401
        assert entries(world)[-1].actor_id == world.ids[who]
        clear = world.token(ALICE, "read", name="Nightly <report>")
    assert "/tokens" in world.browser(MARY).get(f"/organization/{world.home}/members").text


def test_the_pages_let_nobody_end_what_is_not_theirs_to_end(world: World) -> None:
    key, olgas = id_of(world, world.token(ALICE, "read")), id_of(world, world.token(OLGA, "read"))
    marys = id_of(world, world.token(MARY, "read"))
    world.put(Membership, Membership.person_id == world.ids[ANN], role="manager")
    place = f"/organization/{world.home}/members"
    for who, path, status in (
        (OTTO, f"{place}/{world.ids[ALICE]}/tokens/{key}/revoke", 404),
        (ALICE, f"{place}/{world.ids[ALICE]}/tokens/{key}/revoke", 403),
        (MARY, f"{place}/{world.ids[OLGA]}/tokens/{olgas}/revoke", 404),
        (MARY, f"{place}/{world.ids[ALICE]}/tokens/{olgas}/revoke", 404),
        (ANN, f"{place}/{world.ids[MARY]}/tokens/{marys}/revoke", 403),
        (MARY, f"/dashboard/people/{world.ids[ALICE]}/tokens/{key}/revoke", 403),
    ):
        assert world.browser(who).post(path).status_code == status, (who, path)
    assert "Yes, revoke it" not in world.browser(ANN).get(f"{place}/{world.ids[MARY]}/tokens").text
    assert world.browser(OTTO).get(f"{place}/{world.ids[ALICE]}/tokens").status_code == 404
    assert "no token that works here" in world.browser(MARY).get(f"{place}/{world.ids[ADMIN]}/tokens").text
    assert entries(world) == []
