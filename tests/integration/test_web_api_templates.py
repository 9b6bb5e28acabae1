"""Templates: who sees, changes and uses them; versions; and that a value is a value, whatever stands in it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select, update

from tests.integration.api_program import CAROL, Town
from tests.integration.web_support import ALICE, BOB, Site
from webapp.extensions import reading, writing
from webapp.models import AuditEntry, Request, Template
from webapp.services import template_changes

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
HOME = "/api/templates"
TEXT = "Translate into {{language}}, in a {{ tone }} tone:\n\n{{text}}"
TONE = {"name": "tone", "description": "how it sounds", "default": "friendly"}
GIVEN = {"language": "Dutch", "text": "The meeting begins at nine."}


@pytest.fixture
def town(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> Town:
    monkeypatch.setenv("SWITCHHOOK_DEMO_DELAY_MS", "0")
    return Town(Site(make_app(throttle_signed_in_per_h=0)))


def draft(**more: Any) -> dict[str, Any]:
    return {"name": "Translation", "text": TEXT, "variables": [TONE]} | more


def make(caller: Any, **more: Any) -> dict[str, Any]:
    answer = caller.post(HOME, draft(**more))
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json
    assert answer.headers["Location"] == f"{HOME}/{found['id']}"
    return found


def audit(town: Town) -> list[tuple[str, bool]]:
    """(action, whether managers may read it) of everything that was done to templates."""
    with town.site.app.app_context(), reading() as connection:
        query = select(AuditEntry.action, AuditEntry.organization_id.is_not(None))
        return [
            (row[0], bool(row[1]))
            for row in connection.execute(query.where(AuditEntry.action.like("template.%")).order_by(AuditEntry.id))
        ]


def test_a_template_is_made_read_changed_used_and_archived(town: Town) -> None:
    alice, site = town.alice, town.site
    made = make(alice, category="documentation", parameters={"fresh": True})
    address = f"{HOME}/{made['id']}"
    assert (made["scope"], made["version"], made["used"], made["changeable"]) == ("personal", 1, 0, True)
    required = [(each["name"], each["default"]) for each in made["current"]["variables"]]
    assert required == [("language", None), ("tone", "friendly"), ("text", None)]
    assert made["results"] == {
        "counted": 0, "completed": 0, "failed": 0, "success_rate": None, "ratings": 0, "rating": None
    }  # fmt: skip
    rendered = alice.post(f"{address}/render", {"variables": GIVEN}).json
    assert rendered["text"] == "Translate into Dutch, in a friendly tone:\n\nThe meeting begins at nine."
    assert (rendered["version"], rendered["parameters"], rendered["operation"]) == (1, {"fresh": True}, "chat")
    assert site.count(Request) == 0

    used = alice.post(f"{address}/use", {"variables": GIVEN, "allocation": 50}, Idempotency_Key="one")
    assert used.status_code == 202
    assert used.headers["Location"] == f"/api/tasks/{used.json['id']}"
    assert int(used.headers["Retry-After"]) >= 1
    again = alice.post(f"{address}/use", {"variables": GIVEN, "allocation": 50}, Idempotency_Key="one")
    assert (again.status_code, again.json) == (202, used.json)
    request = site.newest_request()
    assert (request.prompt, request.channel, request.parameters) == (rendered["text"], "api", {"fresh": True})
    assert str(request.template_version_id) == made["current"]["id"] == used.json["template_version_id"]
    assert site.count(Request) == 1
    site.run_jobs()
    site.change(request.id, rating=4)
    read = alice.get(address).json
    assert read["used"] == 1
    assert (read["results"]["success_rate"], read["results"]["rating"], read["results"]["counted"]) == (1.0, 4.0, 1)

    changed = alice.patch(address, {"version": 1, "text": "Say {{word}} in {{language}}."})
    assert changed.status_code == 200, changed.text
    assert changed.json["version"] == 2
    assert [each["name"] for each in changed.json["current"]["variables"]] == ["word", "language"]
    assert changed.json["results"]["counted"] == 1, "what older versions did counts"
    assert alice.patch(address, {"version": 2, "name": "Translation"}).json["version"] == 2, "nothing is different"
    late = alice.patch(address, {"version": 1, "name": "Mine"})
    assert (late.status_code, late.json["code"]) == (409, "conflict")
    old = alice.post(f"{address}/render", {"variables": GIVEN, "version": 1}).json
    assert old["text"] == rendered["text"]
    versions = alice.get(f"{address}/versions", limit=1, total="true").json
    assert (versions["total"], [each["number"] for each in versions["items"]]) == (2, [2])
    older = alice.get(f"{address}/versions", limit=1, cursor=versions["next_cursor"]).json
    assert (older["next_cursor"], [each["text"] for each in older["items"]]) == (None, [TEXT])

    assert alice.delete(address).status_code == 204
    assert alice.delete(address).status_code == 204
    assert alice.get(HOME).json["items"] == []
    assert alice.get(address).json["archived_at"] is not None
    for answer in (
        alice.post(f"{address}/use", {"variables": GIVEN}),
        alice.post(f"{address}/render", {"variables": GIVEN}),
        alice.patch(address, {"version": 2, "name": "x"}),
    ):
        assert answer.status_code == 409
    assert audit(town) == [], "what is one's own alone is no administrative act"


def test_everybody_sees_and_changes_what_is_theirs_to_see_and_to_change(town: Town) -> None:
    own = make(town.alice)
    shared = make(town.bob, scope="organization", name="Ours")
    public = make(town.admin, scope="public", name="Everybody's")
    everybody = {"alice": town.alice, "bob": town.bob, "carol": town.carol, "dave": town.dave, "admin": town.admin}
    sees = {
        own["id"]: {"alice": 200, "bob": 404, "carol": 404, "dave": 404, "admin": 200},
        shared["id"]: {"alice": 200, "bob": 200, "carol": 404, "dave": 404, "admin": 200},
        public["id"]: {"alice": 200, "bob": 200, "carol": 200, "dave": 200, "admin": 200},
    }
    changes = {
        own["id"]: {"alice": 200, "bob": 404, "carol": 404, "dave": 404, "admin": 200},
        shared["id"]: {"alice": 403, "bob": 200, "carol": 404, "dave": 404, "admin": 200},
        public["id"]: {"alice": 403, "bob": 403, "carol": 403, "dave": 403, "admin": 200},
    }
    for template_id, wanted in sees.items():
        for name, status in wanted.items():
            address = f"{HOME}/{template_id}"
            for answer in (
                everybody[name].get(address),
                everybody[name].get(f"{address}/versions"),
                everybody[name].post(f"{address}/render", {"variables": GIVEN}),
            ):
                assert answer.status_code == status, (template_id, name, answer.text)
            version = town.admin.get(address).json["version"]
            answer = everybody[name].patch(address, {"version": version, "description": name})
            assert answer.status_code == changes[template_id][name], (template_id, name, answer.text)
            if status == 200:
                may = everybody[name].get(address).json["changeable"]
                assert may == (changes[template_id][name] == 200), (template_id, name)
            if changes[template_id][name] != 200:
                assert everybody[name].delete(address).status_code == changes[template_id][name]
    listed = {name: {each["id"] for each in caller.get(HOME).json["items"]} for name, caller in everybody.items()}
    here = {shared["id"], public["id"]}
    assert listed == {
        "alice": here | {own["id"]}, "bob": here, "carol": {public["id"]}, "dave": {public["id"]}, "admin": here
    }  # fmt: skip
    theirs = town.carol.get(f"{HOME}/{public['id']}").json
    assert (theirs["person_id"], theirs["organization_id"], theirs["current"]["person_id"]) == (None, None, None)
    assert [each["id"] for each in town.admin.get(HOME, person_id=town.ids[ALICE]).json["items"]] == [own["id"]]
    assert town.bob.get(HOME, person_id=town.ids[ALICE]).json["items"] == []
    assert town.carol.get(HOME, organization_id=shared["organization_id"]).json["items"] == []
    # A template that an administrator made elsewhere is not used by the people of another organization.
    assert town.carol.post(f"{HOME}/{shared['id']}/use", {"variables": GIVEN}).status_code == 404
    assert town.site.count(Request) == 0
    assert ("template.change", True) in audit(town)
    assert ("template.create", False) in audit(town)


def test_scopes_are_filled_by_those_who_look_after_them(town: Town) -> None:
    for caller, scope, status in (
        (town.alice, "organization", 403),
        (town.alice, "public", 403),
        (town.bob, "public", 403),
        (town.bob, "organization", 201),
        (town.admin, "public", 201),
    ):
        assert caller.post(HOME, draft(scope=scope)).status_code == status
    own = make(town.alice)
    address = f"{HOME}/{own['id']}"
    for scope in ("organization", "public"):
        assert town.alice.patch(address, {"version": 1, "scope": scope}).status_code == 403
    mine = make(town.bob)
    moved = town.bob.patch(f"{HOME}/{mine['id']}", {"version": 1, "scope": "organization"})
    assert (moved.status_code, moved.json["scope"]) == (200, "organization")
    assert town.alice.get(f"{HOME}/{mine['id']}").status_code == 200
    assert town.bob.patch(f"{HOME}/{mine['id']}", {"version": 2, "scope": "personal"}).status_code == 200
    assert town.alice.get(f"{HOME}/{mine['id']}").status_code == 404
    # A token without the scope admin acts for a manager as for anybody.
    plain = type(town.bob)(town.site, BOB, "read", "write")
    assert plain.post(HOME, draft(scope="organization")).status_code == 403
    reader = type(town.bob)(town.site, ALICE, "read")
    assert reader.post(HOME, draft()).status_code == 403
    assert reader.post(f"{address}/use", {"variables": GIVEN}).status_code == 403
    assert reader.post(f"{address}/render", {"variables": GIVEN}).status_code == 200
    assert town.site.app.test_client().get(HOME).status_code == 401


def test_what_stands_in_a_value_is_never_looked_at(town: Town) -> None:
    made = make(town.alice, text="{{a}}|{{b}}|{% if a %}{{ a }}{% endif %}|{# {{b}} #}", variables=[])
    address = f"{HOME}/{made['id']}/render"
    for value in (
        "{{a}}",
        "{{b}} {{ b }}",
        "{{nothing}}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ config.items() }}",
        "{{ 7*7 }}",
        "{% for x in range(9) %}x{% endfor %}",
        "${7*7} #{7*7} <%= 7*7 %> %(a)s {a} {0.__class__}",
        "\\1 \\g<0> \\n",
        "{{",
        "}}",
        "\U0001f600 \u202e {{a}} é",
    ):
        shown = town.alice.post(address, {"variables": {"a": value, "b": "B"}}).json["text"]
        assert shown == f"{value}|B|{{% if a %}}{value}{{% endif %}}|{{# B #}}"
    # The braces that a value begins and a text ends are no place either.
    half = make(town.alice, text="{{a}}b}}", variables=[])
    assert town.alice.post(f"{HOME}/{half['id']}/render", {"variables": {"a": "{{"}}).json["text"] == "{{b}}"
    default = make(town.alice, text="{{a}}", variables=[{"name": "a", "default": "{{a}}"}])
    assert town.alice.post(f"{HOME}/{default['id']}/render").json["text"] == "{{a}}"


def test_a_value_that_is_missing_unknown_or_too_long_is_named(town: Town) -> None:
    made = make(town.alice)
    address = f"{HOME}/{made['id']}"
    for body, field, words in (
        ({}, "variables.language", "language, text"),
        ({"variables": {"language": "Dutch"}}, "variables.text", "text"),
        ({"variables": GIVEN | {"tune": "x"}}, "variables.tune", "language, tone, text"),
        ({"variables": GIVEN | {"__class__": "x"}}, "variables.__class__", "no variable __class__"),
        ({"variables": GIVEN | {"tön": "x"}}, "variables.tön", "no variable tön"),
        ({"variables": GIVEN | {"text": "x" * 17_000}}, "variables", "17,"),
        ({"variables": GIVEN | {"text": 5}}, "variables.text", "string"),
        ({"variables": GIVEN | {"text": None}}, "variables.text", "string"),
        ({"variables": "x"}, "variables", "dict"),
        ({"variables": {f"v{number}": "" for number in range(60)}}, "variables", "50"),
        ({"variables": GIVEN, "versoin": 1}, "versoin", "not permitted"),
        ({"variables": GIVEN, "version": 0}, "version", "greater"),
    ):
        for act in ("render", "use"):
            answer = town.alice.post(f"{address}/{act}", body)
            assert answer.status_code == 422, answer.text
            assert answer.json["field"] == field
            assert words in answer.json["detail"], answer.json["detail"]
    assert town.alice.post(f"{address}/render", {"variables": GIVEN, "version": 9}).status_code == 404
    # The same value in many places is long, too.
    many = make(town.alice, text="{{a}}" * 1000, variables=[])
    answer = town.alice.post(f"{HOME}/{many['id']}/render", {"variables": {"a": "x" * 15_000}})
    assert "15,000,000" in answer.json["detail"]
    blank = make(town.alice, text="{{a}}", variables=[])
    assert town.alice.post(f"{HOME}/{blank['id']}/render", {"variables": {"a": " "}}).status_code == 422
    assert town.site.count(Request) == 0
    assert town.alice.get(address).json["used"] == 0


def test_a_template_that_cannot_be_is_refused_by_its_field(town: Town) -> None:
    made = make(town.alice)
    fifty = "".join(f"{{{{v{number}}}}}" for number in range(51))
    for change, field in (
        ({"name": ""}, "name"),
        ({"name": " \n"}, "name"),
        ({"name": "\u202e\u200b"}, "name"),
        ({"name": "x" * 121}, "name"),
        ({"text": ""}, "text"),
        ({"text": " "}, "text"),
        ({"text": "x" * 16_001}, "text"),
        ({"text": "{{ ''.__class__ }}"}, "text"),
        ({"text": "{{a b}}"}, "text"),
        ({"text": "{{größe}}"}, "text"),
        ({"text": "{{ａ}}"}, "text"),
        ({"text": "{{1}}"}, "text"),
        ({"text": "{{}}"}, "text"),
        ({"text": "{{a"}, "text"),
        ({"text": "{{a\n}}"}, "text"),
        ({"text": "{{" + "a" * 41 + "}}"}, "text"),
        ({"text": fifty, "variables": []}, "text"),
        ({"variables": [{"name": "nothing"}]}, "variables"),
        ({"variables": [TONE, TONE]}, "variables"),
        ({"variables": [{"name": "a b"}]}, "variables.0.name"),
        ({"variables": [TONE | {"default": 5}]}, "variables.0.default"),
        ({"variables": [TONE | {"default": "x" * 4_001}]}, "variables.0.default"),
        ({"category": "Not A Word"}, "category"),
        ({"operation": "nothing.such"}, "operation"),
        ({"scope": "world"}, "scope"),
        ({"parameters": {"nothing": 1}}, "parameters.nothing"),
        ({"parameters": {"model": "../../x y"}}, "parameters.model"),
    ):
        for answer in (
            town.alice.post(HOME, draft() | change),
            town.alice.patch(f"{HOME}/{made['id']}", {"version": 1} | change),
        ):
            assert answer.status_code == 422, (change, answer.text)
            assert answer.json["field"] == field, (change, answer.text)
    assert town.alice.patch(f"{HOME}/{made['id']}", {"name": "x"}).json["field"] == "version"
    assert town.alice.get(f"{HOME}/{made['id']}").json["version"] == 1
    for path in (f"{HOME}/{uuid.uuid4()}", f"{HOME}/{uuid.uuid4()}/versions"):
        assert town.alice.get(path).status_code == 404
    assert town.alice.get(f"{HOME}/x").status_code in (404, 422)


def test_lists_are_searched_filtered_and_paged(town: Town) -> None:
    for number in range(5):
        make(town.alice, name=f"Number {number} 100%", category="odd" if number % 2 else "even")
    make(town.bob, scope="organization", name="Ours", operation="image.generate", description="draws a HOUSE")
    first = town.alice.get(HOME, limit=4, total="true").json
    assert (first["total"], len(first["items"])) == (6, 4)
    rest = town.alice.get(HOME, limit=4, cursor=first["next_cursor"]).json
    assert rest["next_cursor"] is None
    assert [each["name"] for each in first["items"] + rest["items"]] == [
        "Ours", *(f"Number {number} 100%" for number in (4, 3, 2, 1, 0))
    ]  # fmt: skip
    for query, names in (
        ({"category": "odd"}, ["Number 3 100%", "Number 1 100%"]),
        ({"q": "number 2"}, ["Number 2 100%"]),
        ({"q": "house"}, ["Ours"]),
        ({"q": "%"}, [f"Number {number} 100%" for number in (4, 3, 2, 1, 0)]),
        ({"q": "_"}, []),
        ({"scope": "organization"}, ["Ours"]),
        ({"operation": "image.generate"}, ["Ours"]),
        ({"scope": "public"}, []),
    ):
        assert [each["name"] for each in town.alice.get(HOME, **query).json["items"]] == names, query
    for query in ({"cursor": "nonsense"}, {"scope": "all"}, {"limit": 0}, {"person_id": "x"}, {"order": "x"}):
        assert town.alice.get(HOME, **query).status_code == 422, query
    huge = town.alice.get(f"{HOME}/{first['items'][1]['id']}/versions", cursor="WyI5OTk5OTk5OTk5OTk5OTk5OTk5OTk5Il0")
    assert huge.status_code == 422


def test_there_is_an_end_to_how_many_there_can_be(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_changes, "TEMPLATES_MAX", 2)
    kept = [make(town.alice)["id"] for _ in range(2)]
    assert town.alice.post(HOME, draft()).status_code == 409
    make(town.carol)
    assert town.alice.delete(f"{HOME}/{kept[0]}").status_code == 204
    make(town.alice)


def test_a_refused_request_is_no_use_of_a_template(town: Town) -> None:
    made = make(town.alice)
    town.site.give_limits("free", messages=0)
    answer = town.alice.post(f"{HOME}/{made['id']}/use", {"variables": GIVEN})
    assert answer.status_code == 429, answer.text
    assert town.alice.get(f"{HOME}/{made['id']}").json["used"] == 0
    town.site.give_limits("free")
    with town.site.app.app_context(), writing() as connection:
        connection.execute(update(Template).values(used=41))
    foreign = town.carol.post(HOME, draft()).json
    conversation = town.carol.post(f"{HOME}/{foreign['id']}/use", {"variables": GIVEN}).json["conversation_id"]
    answer = town.alice.post(f"{HOME}/{made['id']}/use", {"variables": GIVEN, "conversation_id": conversation})
    assert answer.status_code == 404, "a conversation of somebody else's"
    mine = town.alice.post(f"{HOME}/{made['id']}/use", {"variables": GIVEN, "model": "demo/demo"})
    assert mine.status_code == 202, mine.text
    assert town.site.newest_request().parameters == {"model": "demo/demo"}
    assert town.alice.get(f"{HOME}/{made['id']}").json["used"] == 42
    assert town.carol.get(f"{HOME}/{foreign['id']}").json["person_id"] == str(town.ids[CAROL])
