"""What programs of administrators do: errors, providers, plugins, and requests that were set aside."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import insert, select, update

from tests.fakes.openai import FakeOpenAI
from tests.integration.api_program import Caller, Town
from tests.integration.test_dead_letters import set_aside
from tests.integration.web_support import ADMIN, ALICE, Site
from webapp.extensions import now, reading, writing
from webapp.models import AuditEntry, DeadLetter, ErrorLog, OrganizationProvider, ProviderSetting, Request
from webapp.models.columns import new_id
from webapp.services import error_log

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ERRORS, PROVIDERS, DEAD = "/api/errors", "/api/providers", "/api/dead-letters"
KEY = "sk-for-tests-only"


@pytest.fixture
def town(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> Town:
    monkeypatch.setenv("SWITCHHOOK_DEMO_DELAY_MS", "0")
    return Town(Site(make_app(throttle_signed_in_per_h=0)))


def note(town: Town, kind: str, message: str, **values: Any) -> str:
    """An error in the log; its id."""
    row = {"id": new_id(), "kind": kind, "message": message, "created_at": now()} | values
    if "created_at" in values:
        row["id"] = uuid.UUID(int=int(row["created_at"].timestamp() * 1000) << 80 | 7)
    with town.site.app.app_context(), writing() as connection:
        connection.execute(insert(ErrorLog.__table__), row)
    return str(row["id"])


def audit(town: Town, prefix: str) -> list[tuple[str, str, Any]]:
    with town.site.app.app_context(), reading() as connection:
        query = select(AuditEntry.action, AuditEntry.subject, AuditEntry.detail).order_by(AuditEntry.id)
        return [tuple(row) for row in connection.execute(query.where(AuditEntry.action.like(f"{prefix}%")))]


def test_all_of_it_is_for_administrators_with_the_scope_admin(town: Town) -> None:
    key, error_id = uuid.uuid4(), note(town, "provider_timeout", "late")
    plain = Caller(town.site, ADMIN, "read", "write", "chat")
    gets = (ERRORS, f"{ERRORS}/{error_id}", "/api/plugins", DEAD, f"{DEAD}/{key}", f"{PROVIDERS}/demo/settings")
    gets += (f"{PROVIDERS}/demo/health", f"{PROVIDERS}/demo/models")
    posts = (f"{ERRORS}/{error_id}/resolve", f"{ERRORS}/{error_id}/reopen", f"{ERRORS}/resolve", f"{DEAD}/replay")
    posts += (f"{DEAD}/{key}/replay", f"{DEAD}/{key}/dismiss", f"{PROVIDERS}/demo/test", f"{PROVIDERS}/demo/reset")
    for caller in (town.alice, town.bob, plain):
        for path in gets:
            assert caller.get(path).status_code == 403, path
        for path in posts:
            assert caller.post(path).status_code == 403, path
        assert caller.patch(f"{PROVIDERS}/demo", {"enabled": False}).status_code == 403
    nobody = town.site.app.test_client()
    assert {nobody.get(path).status_code for path in (*gets, PROVIDERS)} == {401}
    assert audit(town, "error") == audit(town, "provider") == []


# -- errors --------------------------------------------------------------------------------------------------------------
def test_errors_are_listed_read_resolved_and_reopened(town: Town) -> None:
    alice = town.ids[ALICE]
    first = note(town, "provider_timeout", "No answer from OpenAI.", detail="504 <b>", person_id=alice)
    second = note(town, "internal", "A fault at 100%.", created_at=now() - timedelta(days=2))
    listed = town.admin.get(ERRORS, total="true").json
    assert [each["id"] for each in listed["items"]] == [first, second]
    assert listed["total"] == 2
    assert "detail" not in listed["items"][0], "a list is not where the vendor's words belong"
    assert town.admin.get(f"{ERRORS}/{first}").json["detail"] == "504 <b>"
    done = town.admin.post(f"{ERRORS}/{first}/resolve", {"notes": " The key was renewed. "})
    assert done.status_code == 200
    assert (done.json["resolution"], done.json["resolved_by"][:7]) == ("The key was renewed.", "person:")
    assert done.json["resolved_at"] is not None
    assert town.admin.post(f"{ERRORS}/{first}/resolve").status_code == 409
    day = (now() - timedelta(days=1)).isoformat()
    for query, ids in (
        ({"resolved": "true"}, [first]),
        ({"resolved": "false"}, [second]),
        ({"kind": "internal"}, [second]),
        ({"person_id": alice}, [first]),
        ({"person_id": uuid.uuid4()}, []),
        ({"request_id": uuid.uuid4()}, []),
        ({"q": "openai"}, [first]),
        ({"q": "100%"}, [second]),
        ({"q": "%"}, [second]),
        ({"created_from": day}, [first]),
        ({"created_to": day}, [second]),
        ({"created_from": "9999-12-31T00:00:00"}, []),
        ({"created_to": "0001-01-02"}, []),
    ):
        assert [each["id"] for each in town.admin.get(ERRORS, **query).json["items"]] == ids, query
    again = town.admin.post(f"{ERRORS}/{first}/reopen")
    assert (again.status_code, again.json["resolved_at"], again.json["resolution"]) == (200, None, None)
    assert town.admin.post(f"{ERRORS}/{first}/reopen").status_code == 409
    assert [(action, subject) for action, subject, _ in audit(town, "error")] == [
        ("error.resolve", f"error:{first}"), ("error.reopen", f"error:{first}")
    ]  # fmt: skip
    for path in (f"{ERRORS}/{uuid.uuid4()}/resolve", f"{ERRORS}/{uuid.uuid4()}/reopen"):
        assert town.admin.post(path).status_code == 404
    assert town.admin.get(f"{ERRORS}/{uuid.uuid4()}").status_code == 404
    for query in ({"resolved": "perhaps"}, {"person_id": "x"}, {"q": "x" * 201}, {"created_from": "x"}, {"cursor": "x"}):
        assert town.admin.get(ERRORS, **query).status_code == 422, query
    assert town.admin.post(f"{ERRORS}/{first}/resolve", {"notes": "x" * 4_001}).status_code == 422


def test_many_errors_are_resolved_by_ids_or_by_kind(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [note(town, "provider_timeout", f"number {number}") for number in range(5)]
    other = note(town, "internal", "another")
    act = f"{ERRORS}/resolve"
    done = town.admin.post(act, {"ids": [ids[0], ids[0], str(uuid.uuid4())], "notes": "seen"})
    assert done.json == {"resolved": 1, "more": False}
    monkeypatch.setattr(error_log, "AT_ONCE", 3)
    assert town.admin.post(act, {"kind": "provider_timeout"}).json == {"resolved": 3, "more": True}
    assert town.admin.post(act, {"kind": "provider_timeout"}).json == {"resolved": 1, "more": False}
    assert town.admin.post(act, {"kind": "provider_timeout"}).json == {"resolved": 0, "more": False}
    assert [each["id"] for each in town.admin.get(ERRORS, resolved="false").json["items"]] == [other]
    assert [detail for _, _, detail in audit(town, "error")] == [
        {"errors": 1, "notes": "seen"}, {"kind": "provider_timeout", "errors": 3}, {"kind": "provider_timeout", "errors": 1}
    ]  # fmt: skip
    for body in ({}, {"ids": []}, {"ids": ["x"]}, {"ids": [other], "kind": "internal"}, {"kind": ""}, {"kinds": "internal"}):
        assert town.admin.post(act, body).status_code == 422, body


def test_a_search_looks_at_a_bounded_number_and_goes_on(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_log, "LOOKED_MAX", 3)
    wanted = note(town, "internal", "the needle")
    for number in range(7):
        note(town, "provider_timeout", f"hay {number}")
    found, cursor, pages = [], None, 0
    while pages == 0 or cursor:
        page = town.admin.get(ERRORS, q="needle", **({"cursor": cursor} if cursor else {})).json
        found += [each["id"] for each in page["items"]]
        cursor, pages = page["next_cursor"], pages + 1
    assert (found, pages) == ([wanted], 3)


# -- providers -----------------------------------------------------------------------------------------------------------
def test_everybody_reads_the_providers_they_may_use(openai: FakeOpenAI, town: Town) -> None:
    listed = town.alice.get(PROVIDERS).json["items"]
    assert [each["name"] for each in listed] == ["openai", "demo"]
    first = listed[0]
    assert (first["ready"], first["enabled"], first["own_key"], first["demo"]) == (True, True, False, False)
    model = next(each for each in first["models"] if each["default"])
    assert model["name"] == f"openai/{first['default_model']}"
    assert model["price"]["known"]
    assert model["price"]["output_microusd"] > model["price"]["input_microusd"] > 0
    assert KEY not in town.alice.get(PROVIDERS).text
    assert town.alice.get(f"{PROVIDERS}/openai").json == first
    for name in ("anthropic", "nothing", "x" * 40):
        assert town.alice.get(f"{PROVIDERS}/{name}").status_code == 404
    everything = town.admin.get(PROVIDERS, unusable="true").json["items"]
    assert {"anthropic", "openai", "demo"} <= {each["name"] for each in everything}
    assert town.alice.get(PROVIDERS, unusable="true").json["items"] == listed
    assert town.admin.get(f"{PROVIDERS}/anthropic").json["ready"] is False
    # What an organization has switched off is switched off for its people alone.
    with town.site.app.app_context(), writing() as connection:
        row = {"organization_id": town.elsewhere, "provider": "openai", "enabled": False, "values": {}}
        connection.execute(insert(OrganizationProvider), row)
        from webapp.routing import vendors

        vendors.changed(connection)
    with town.site.app.app_context():
        vendors.look_again()
    assert [each["name"] for each in town.carol.get(PROVIDERS).json["items"]] == ["demo"]
    assert town.carol.get(f"{PROVIDERS}/openai").status_code == 404
    assert town.alice.get(f"{PROVIDERS}/openai").status_code == 200


def test_a_provider_is_set_up_tested_and_watched_without_showing_a_key(openai: FakeOpenAI, town: Town) -> None:
    address, secret = f"{PROVIDERS}/openai", "sk-another-secret-9876"
    change = {
        "values": {"OPENAI_API_KEY": secret, "OPENAI_BASE_URL": "http://10.1.2.3/v1"},
        "limits": {"requests_per_minute": 120, "concurrent": None},
        "prices": {"*": {"input_usd": "1.5", "output_usd": "6"}, "gpt-own": {"output_usd": "2"}},
        "default_model": "gpt-own",
    }
    refused = town.admin.patch(address, change)
    assert (refused.status_code, refused.json["field"]) == (422, "values.OPENAI_BASE_URL"), "an internal address is no vendor"
    del change["values"]["OPENAI_BASE_URL"]
    changed = town.admin.patch(address, change)
    assert changed.status_code == 200, changed.text
    assert secret not in changed.text
    key = next(each for each in changed.json["variables"] if each["name"] == "OPENAI_API_KEY")
    assert (key["source"], key["shown"], key["secret"]) == ("set here", "…9876", True)
    assert changed.json["limits"] == {"requests_per_minute": 120}
    assert changed.json["pace"]["requests_per_minute"] == 120
    assert (changed.json["prices"]["*"]["input_usd"], changed.json["default_model"]) == ("1.5", "gpt-own")
    own = next(each for each in town.alice.get(address).json["models"] if each["id"] == "gpt-own")
    assert (own["default"], own["price"]["output_microusd"], own["price"]["source"]) == (True, 2_000_000, "override")
    openai.text = "OK"
    tested = town.admin.post(f"{address}/test")
    assert (tested.status_code, tested.json["ok"], tested.json["said"]) == (200, True, "OK"), tested.text
    openai.key = "another"
    failed = town.admin.post(f"{address}/test", {"kind": "text", "model": "gpt-own"}).json
    assert (failed["ok"], failed["code"]) == (False, "provider_credentials")
    assert secret not in failed["said"]
    openai.key = secret
    listed = town.admin.get(f"{address}/models").json
    assert listed["trouble"] == ""
    assert listed["items"]
    health = town.admin.get(f"{address}/health").json
    assert (health["calls"], health["error_rate"], health["circuits"]) == (0, 0.0, [])
    assert town.admin.post(f"{address}/reset").status_code == 200
    back = town.admin.patch(address, {"values": {"OPENAI_API_KEY": None}, "prices": {"*": None}, "default_model": ""})
    assert (back.json["prices"].keys(), secret in back.text) == ({"gpt-own"}, False)
    assert town.admin.patch(address, {"enabled": False}).json["enabled"] is False
    assert [each["name"] for each in town.alice.get(PROVIDERS).json["items"]] == ["demo"]
    assert [action for action, _, _ in audit(town, "provider")] == [
        "provider.change", "provider.reset", "provider.change", "provider.change"
    ]  # fmt: skip
    assert secret not in str(audit(town, "provider"))


def test_settings_that_cannot_be_are_refused_and_nothing_is_kept(town: Town) -> None:
    address = f"{PROVIDERS}/openai"
    for body, field in (
        ({"enabled": "yes"}, "enabled"),
        ({"enabled": 1}, "enabled"),
        ({"values": {"NOTHING": "x"}}, "values.NOTHING"),
        ({"values": {"OPENAI_API_KEY": 5}}, "values.OPENAI_API_KEY"),
        ({"values": {"OPENAI_API_KEY": "ключ"}}, "values.OPENAI_API_KEY"),
        ({"limits": {"requests_per_minute": -1}}, "limits.requests_per_minute"),
        ({"limits": {"requests_per_minute": 1.5}}, "limits.requests_per_minute"),
        ({"limits": {"per_minute": 1}}, "limits.per_minute"),
        ({"prices": {"*": {"input_usd": "-1"}}}, "prices.*.input_usd"),
        ({"prices": {"*": {"input_usd": 1}}}, "prices.*.input_usd"),
        ({"prices": {"*": {}}}, "prices.*"),
        ({"prices": {"*": {"input_usd": "9999999"}}}, "prices.*"),
        ({"prices": {"a b": {"input_usd": "1"}}}, "prices"),
        ({"default_model": "a b"}, "default_model"),
        ({"default_model": "x" * 121}, "default_model"),
        ({"peak_hours": "late"}, "peak_hours"),
        ({"nothing": 1}, "nothing"),
    ):
        answer = town.admin.patch(address, body)
        assert (answer.status_code, answer.json["field"]) == (422, field), (body, answer.text)
    assert town.admin.patch(f"{PROVIDERS}/nothing", {"enabled": True}).status_code == 404
    assert town.admin.post(f"{PROVIDERS}/openai/test", {"kind": "sounds"}).status_code == 422
    assert town.admin.post(f"{PROVIDERS}/nothing/test").status_code == 404
    assert town.admin.post(f"{PROVIDERS}/anthropic/test").json["code"] == "not_ready"
    with town.site.app.app_context(), reading() as connection:
        assert connection.execute(select(ProviderSetting.provider)).all() == []


# -- plugins -------------------------------------------------------------------------------------------------------------
def test_the_plugins_are_listed_with_what_they_give_and_what_is_wrong(make_app: Callable[..., Flask], tmp_path: Any) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "broken.py").write_text("raise RuntimeError('it\\nfails')")
    town = Town(Site(make_app(plugins_dir=folder)))
    found = {each["name"]: each for each in town.admin.get("/api/plugins").json["items"]}
    demo = found["providers.demo"]
    assert (demo["source"], demo["loaded"], demo["hooks"], demo["fault"]) == ("built-in", True, ["register_providers"], "")
    assert demo["gives"]["providers"] == ["demo"]
    assert (found["broken"]["source"], found["broken"]["loaded"]) == ("folder", False)
    assert "it fails" in found["broken"]["fault"]


# -- what was set aside --------------------------------------------------------------------------------------------------
def test_requests_that_were_set_aside_are_listed_replayed_and_dismissed(town: Town) -> None:
    site = town.site
    with site.app.app_context():
        ids = [str(each) for each in set_aside(3)] + [str(each) for each in set_aside(2, "account", "x" * 1000)]
    page = town.admin.get(DEAD, limit=2, total="true").json
    assert (page["total"], [each["request_id"] for each in page["items"]]) == (5, [ids[4], ids[3]])
    assert len(page["items"][0]["last_error"]) < 1000
    assert len(town.admin.get(f"{DEAD}/{ids[4]}").json["last_error"]) == 1000
    rest = town.admin.get(DEAD, cursor=page["next_cursor"]).json
    assert ([each["request_id"] for each in rest["items"]], rest["next_cursor"]) == ([ids[2], ids[1], ids[0]], None)
    assert [each["request_id"] for each in town.admin.get(DEAD, reason="account").json["items"]] == [ids[4], ids[3]]
    put_back = town.admin.post(f"{DEAD}/{ids[0]}/replay")
    assert (put_back.status_code, put_back.json["state"], put_back.json["replays"]) == (202, "replayed", 1)
    assert put_back.headers["Location"] == f"/api/tasks/{ids[0]}"
    assert town.admin.post(f"{DEAD}/{ids[0]}/replay").status_code == 409
    closed = town.admin.post(f"{DEAD}/{ids[1]}/dismiss")
    assert (closed.status_code, closed.json["state"]) == (200, "dismissed")
    assert closed.json["acted_by"].startswith("person:")
    assert town.admin.post(f"{DEAD}/{ids[1]}/dismiss").status_code == 409
    with site.app.app_context(), writing() as connection:
        connection.execute(update(Request).where(Request.id == uuid.UUID(ids[2])).values(prompt=""))
    all_of_them = town.admin.post(f"{DEAD}/replay", {"reason": "vendor"}).json
    assert (all_of_them["replayed"], all_of_them["failed"], all_of_them["more"]) == (0, 1, False)
    assert all_of_them["troubles"][0]["request_id"] == ids[2]
    assert "erased" in all_of_them["troubles"][0]["message"]
    assert town.admin.post(f"{DEAD}/replay", {"reason": "account"}).json["replayed"] == 2
    with site.app.app_context(), reading() as connection:
        states = {str(row[0]): row[1] for row in connection.execute(select(DeadLetter.request_id, DeadLetter.state))}
    assert [states[each] for each in ids] == ["replayed", "dismissed", "open", "replayed", "replayed"]
    assert [action for action, _, _ in audit(town, "request")] == [
        "request.replay", "request.dismiss", "request.replay", "request.replay"
    ]  # fmt: skip
    for path in (f"{DEAD}/{uuid.uuid4()}/replay", f"{DEAD}/{uuid.uuid4()}/dismiss"):
        assert town.admin.post(path).status_code == 404
    assert town.admin.get(f"{DEAD}/{uuid.uuid4()}").status_code == 404
    for body in ({}, {"reason": "weather"}, {"reason": "vendor", "all": True}):
        assert town.admin.post(f"{DEAD}/replay", body).status_code == 422
    assert town.admin.get(DEAD, state="lost").status_code == 422
