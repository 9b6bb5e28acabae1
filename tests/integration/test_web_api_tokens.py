"""One's own tokens through the REST API: made, listed, revoked, and never stronger than what made them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from flask import Flask
from sqlalchemy import select

from tests.integration.people_api_support import ALICE, MARY, OLGA, OTTO, Api, World, ok, refused
from tests.integration.web_support import ADMIN, token
from webapp.extensions import db, now
from webapp.models import ApiToken, AuditEntry, Organization, Request

NEW = {"name": "report", "scopes": ["read"]}


@pytest.fixture
def world(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("SWITCHHOOK_DEMO_DELAY_MS", "0")
    return World(make_app())


def row(world: World, token_id: str) -> ApiToken:
    with world.app.app_context():
        return db.session.execute(select(ApiToken).where(ApiToken.id == uuid.UUID(token_id))).scalar_one()


def test_a_token_is_told_once_and_works(world: World) -> None:
    alice = world.api(ALICE, "chat", "read", "write")
    limits = [{"dimension": "cost", "window": "month", "maximum": 1_234_567, "label": "reports"}]
    wanted = NEW | {"scopes": ["read", "chat", "read"], "days": 30, "organization_id": str(world.home), "limits": limits}
    answered = alice.post("/tokens", wanted)
    made = ok(answered, 201)
    clear = made.pop("token")
    assert clear.startswith("sh_")
    assert made["scopes"] == ["chat", "read"]
    assert (made["state"], made["prefix"], made["organization_id"]) == ("active", clear[:9], str(world.home))
    assert {name: made["limits"][0][name] for name in limits[0]} == limits[0]
    assert timedelta(days=29) < datetime.fromisoformat(made["expires_at"]) - now() <= timedelta(days=30)
    assert ok(Api(world, clear).get("/users/me"))["email"] == ALICE
    read = alice.client.get(answered.headers["Location"], headers=alice.headers)
    assert ok(read) | {"last_used_at": None} == made
    stored = row(world, made["id"])
    listed = alice.get("/tokens").text
    for secret in (clear, stored.digest):
        assert secret not in read.text
        assert secret not in listed
        assert secret not in json.dumps([entry.detail for entry in world.all(AuditEntry)])
    assert [entry.actor_id for entry in world.all(AuditEntry) if entry.action == "token.create"][-1] == world.ids[ALICE]


def test_a_limit_of_a_token_counts(world: World) -> None:
    alice = world.api(ALICE)
    limits = [{"dimension": "requests", "window": "day", "maximum": 1}]
    made = ok(alice.post("/tokens", NEW | {"scopes": ["chat", "read"], "limits": limits}), 201)
    program = Api(world, made["token"])
    asked = program.post("/tasks", {"prompt": "one"}).status_code
    assert asked == 202
    problem = refused(program.post("/tasks", {"prompt": "two"}), 429)
    assert problem["limit"]
    [line] = [quota for quota in ok(program.get("/quotas"))["items"] if quota["whose"] == "token"]
    assert (line["dimension"], line["window"], line["limit"], line["used"] + line["held"]) == ("requests", "day", 1, 1)
    assert [r.status for r in world.all(Request)] == ["queued", "rejected"]


def test_what_a_token_makes_is_no_stronger(world: World) -> None:
    soon = now() + timedelta(days=2)
    weak = Api(world, world.token(ALICE, "read", "write", expires_at=soon, organization_id=world.home))
    world.join(ALICE, world.other)
    made = ok(weak.post("/tokens", NEW | {"days": 300}), 201)
    assert datetime.fromisoformat(made["expires_at"]) == soon
    assert made["organization_id"] == str(world.home)
    assert ok(weak.post("/tokens", NEW), 201)["expires_at"] == made["expires_at"]
    for scope in ("chat", "sms", "admin"):
        refused(weak.post("/tokens", NEW | {"scopes": ["read", scope]}), 403)
    refused(weak.post("/tokens", NEW | {"organization_id": str(world.other)}), 403)
    limited = world.token(ALICE, limits=[{"id": "a", "dimension": "cost", "window": "month", "maximum": 1}])
    refused(Api(world, limited).post("/tokens", NEW), 403)
    for caller, status in ((world.api(ALICE, "read", "chat"), 403), (world.api(), 401)):
        refused(caller.post("/tokens", NEW), status)


@pytest.mark.parametrize("by_session", [False, True])
def test_strong_scopes_are_for_those_who_have_the_role(world: World, by_session: bool) -> None:
    def create(email: str, scopes: list[str], *own: str, **more: str) -> int:
        body = NEW | {"scopes": scopes} | more
        if not by_session:
            return world.api(email, *own).post("/tokens", body).status_code
        browser = world.browser(email)
        csrf = {"X-CSRFToken": token(browser.get("/settings"))}
        return browser.client.post("/api/tokens", json=body, headers=csrf).status_code

    assert create(ALICE, ["chat", "read", "write"], "chat", "read", "write") == 201
    assert create(ALICE, ["admin"]) == 403
    assert create(ALICE, ["sms"], "read", "write", "chat") == 403
    assert create(MARY, ["chat", "admin"], "admin") == 201
    assert create(MARY, ["sms"], "admin", "write") == 403
    assert create(ADMIN, ["admin", "sms"], "admin") == 201
    world.join(MARY, world.other)
    # She manages the one, and is a member of the other.
    assert create(MARY, ["admin"], organization_id=str(world.other)) == 403


def test_a_token_that_is_wrong_is_refused_by_field(world: World) -> None:
    alice, limit = world.api(ALICE), {"dimension": "cost", "window": "month", "maximum": 1}
    world.put(Organization, Organization.id == world.other, active=False)
    world.join(ALICE, world.other)
    for more, field in (
        ({"name": ""}, "name"),
        ({"name": " \t "}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["king"]}, "scopes.0"),
        ({"days": 0}, "days"),
        ({"days": 3651}, "days"),
        ({"days": "7"}, "days"),
        ({"organization_id": str(uuid.uuid4())}, "organization_id"),
        ({"organization_id": str(world.other)}, "organization_id"),
        ({"limits": [limit, limit]}, "limits.1"),
        ({"limits": [limit | {"maximum": -1}]}, "limits.0.maximum"),
        ({"limits": [limit | {"maximum": 1.5}]}, "limits.0.maximum"),
        ({"limits": [limit | {"provider": "nobody"}]}, "limits.0.provider"),
        ({"limits": [limit | {"operation": "nothing"}]}, "limits.0.operation"),
        ({"limits": [limit | {"dimension": "requests", "window": "request"}]}, "limits.0.window"),
        ({"limits": [limit | {"by_house": True}]}, "limits.0.by_house"),
        ({"limits": [limit] * 51}, "limits"),
        ({"person": "x"}, "person"),
    ):
        refused(alice.post("/tokens", NEW | more), 422, field)
    assert len(world.all(ApiToken)) == 1


def test_people_see_and_revoke_their_own_tokens_only(world: World) -> None:
    alice = world.api(ALICE)
    made = [ok(alice.post("/tokens", NEW | {"name": f"t{number}"}), 201)["id"] for number in range(5)]
    own = [item["id"] for item in alice.pages("/tokens")]
    assert own[:5] == made[::-1]
    assert len(own) == 6
    assert [item["id"] for item in alice.pages("/tokens", limit=2)] == own
    assert ok(alice.get("/tokens", limit=1, total="true"))["total"] == 6
    for caller in (world.api(MARY), world.api(OTTO), world.api(OLGA), world.api(ADMIN)):
        refused(caller.get(f"/tokens/{made[0]}"), 404)
        refused(caller.delete(f"/tokens/{made[0]}"), 404)
        assert not {item["id"] for item in caller.pages("/tokens")} & set(own)
    for caller, status in ((world.api(ALICE, "write"), 403), (world.api(), 401)):
        refused(caller.get("/tokens"), status)
        refused(caller.get(f"/tokens/{made[0]}"), status)
    for caller, status in ((world.api(ALICE, "read"), 403), (world.api(), 401)):
        refused(caller.delete(f"/tokens/{made[0]}"), status)
    for _ in range(2):
        gone = alice.delete(f"/tokens/{made[0]}")
        assert (gone.status_code, gone.data) == (204, b"")
    assert ok(alice.get(f"/tokens/{made[0]}"))["state"] == "revoked"
    assert [entry.action for entry in world.all(AuditEntry)].count("token.revoke") == 1
    world.put(ApiToken, ApiToken.id == uuid.UUID(made[1]), expires_at=now())
    assert ok(alice.get(f"/tokens/{made[1]}"))["state"] == "expired"
    refused(alice.get("/tokens/nonsense"), 422, "token_id")
    refused(alice.get("/tokens", cursor="nonsense"), 422, "cursor")


def test_a_token_may_end_itself(world: World) -> None:
    alice = world.api(ALICE)
    mine = ok(alice.get("/tokens"))["items"][0]["id"]
    assert alice.delete(f"/tokens/{mine}").status_code == 204
    refused(alice.get("/tokens"), 401)


def test_the_same_key_gives_the_same_token(world: World) -> None:
    alice, key = world.api(ALICE), {"Idempotency-Key": "k"}
    first, again = (ok(alice.post("/tokens", NEW, headers=key), 201) for _ in range(2))
    assert first == again
    ok(Api(world, first["token"]).get("/users/me"))
    assert len(world.all(ApiToken)) == 2
