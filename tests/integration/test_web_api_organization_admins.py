"""Administrators of an organization are no administrators of the installation: on every route, by token and by session."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from tests.fakes.receiver import FakeReceiver
from tests.fakes.stability import FakeStability
from tests.integration.api_things import CANARY, Things, body_schema, example, operations
from tests.integration.people_api_support import ALICE, ANN, MARY, OLGA, OLGA_PHONE, OTTO, World, ok, refused
from tests.integration.web_support import ADMIN, token
from webapp.models import Membership, PersonRole

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

Call = Callable[..., TestResponse]
# What is told of a provider by its name is the same for everybody.
NOBODYS = frozenset({"name"})


class Town:
    """The default organization with an administrator of its own, Mary, and the things of Olga in the other one."""

    def __init__(self, world: World, things: Things) -> None:
        self.world, self.things = world, things
        self.spec: dict[str, Any] = world.app.test_client().get("/api/openapi.json").get_json()
        self.operations = operations(self.spec)

    def there(self, path: str, operation: dict[str, Any]) -> str:
        """The path to one of Olga's things."""
        for each in operation.get("parameters", ()):
            if each["in"] == "path":
                name = each["name"]
                path = path.replace(f"{{{name}}}", "demo" if name in NOBODYS else self.things.value(name, path))
        return path

    def callers(self) -> dict[str, Call]:
        """Mary, by a token with every scope and by the session of her browser."""
        api, browser = self.world.api(MARY), self.world.browser(MARY)
        client, headers = browser.client, {"X-CSRFToken": token(browser.get("/settings"))}

        def by_token(method: str, path: str, body: Any = None, **query: Any) -> TestResponse:
            return api.client.open(path, method=method, json=body, headers=api.headers, query_string=query, buffered=True)

        def by_session(method: str, path: str, body: Any = None, **query: Any) -> TestResponse:
            return client.open(path, method=method, json=body, headers=headers, query_string=query, buffered=True)

        return {"token": by_token, "session": by_session}


@pytest.fixture
def town(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    with FakeStability() as stability, FakeReceiver() as receiver:
        for name, value in stability.settings.items():
            monkeypatch.setenv(name, value)
        app = make_app(throttle_signed_in_per_h=0, throttle_anonymous_per_h=0, allow_outbound="127.0.0.1")
        world = World(app)
        world.put(Membership, Membership.person_id == world.ids[MARY], role=PersonRole.ADMIN)
        yield Town(world, Things(world, receiver))


def test_what_is_for_the_installation_is_not_for_administrators_of_an_organization(town: Town) -> None:
    asked = 0
    for method, path, operation in town.operations:
        if operation["x-role"] == "admin":
            schema = body_schema(town.spec, operation)
            body = None if schema is None else example(schema)
            for how, call in town.callers().items():
                answer = call(method, town.there(path, operation), body)
                what = f"{method} {path} by {how}: {answer.status_code} {answer.text[:300]}"
                assert answer.status_code in (403, 404), what
                assert answer.mimetype == "application/problem+json", what
                assert CANARY not in answer.text, what
                asked += 1
    assert asked > 40
    # The table of routes has nothing that the document has not.
    openings = {
        rule.endpoint: getattr(town.world.app.view_functions[rule.endpoint], "opening", None)
        for rule in town.world.app.url_map.iter_rules()
    }
    assert sum(found is not None and found.role == PersonRole.ADMIN for found in openings.values()) * 2 == asked
    # The administrator of the installation is let in.
    assert ok(town.world.api(ADMIN).get("/queue"))


def test_nothing_of_another_organization_is_read_or_changed_by_an_administrator_of_one(town: Town) -> None:
    walked = 0
    for method, path, operation in town.operations:
        names = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"}
        if not names or names & NOBODYS:
            continue
        schema = body_schema(town.spec, operation)
        for how, call in town.callers().items():
            answer = call(method, town.there(path, operation), None if schema is None else example(schema))
            what = f"{method} {path} by {how}: {answer.status_code} {answer.text[:300]}"
            assert answer.status_code == (403 if operation["x-role"] == "admin" else 404), what
            assert CANARY not in answer.text, what
            walked += 1
    assert walked > 100
    assert town.things.receiver.requests == []


def test_no_list_or_figure_of_an_administrator_of_an_organization_has_another_ones(town: Town) -> None:
    asked = 0
    place = str(town.world.other)
    for method, path, operation in town.operations:
        parameters = {each["name"]: each for each in operation.get("parameters", ())}
        if method != "GET" or any(each["in"] == "path" for each in parameters.values()):
            continue
        queries: list[dict[str, str]] = [{}]
        queries += [{"whose": whose} for whose in ("organization", "all") if "whose" in parameters]
        queries += [{"q": text} for text in (CANARY, OLGA_PHONE) if "q" in parameters]
        for name, each in parameters.items():
            if each["schema"].get("format") == "uuid":
                queries += [{name: str(town.world.ids[OLGA])}, {name: place}]
        for how, call in town.callers().items():
            for query in queries:
                answer = call(method, path, **query)
                what = f"{method} {path} {query} by {how}"
                assert answer.status_code in (200, 403, 404, 422), f"{what}: {answer.status_code}"
                if query.get("whose") == "all":
                    assert answer.status_code == 403, what
                for secret in (CANARY, OLGA_PHONE, OLGA, OTTO):
                    assert secret not in answer.text, f"{what}: {answer.text[:300]}"
                asked += 1
    assert asked > 80


def test_an_administrator_of_an_organization_is_its_manager_in_the_api(town: Town) -> None:
    mary = town.world.api(MARY)
    assert {each["email"] for each in mary.pages("/users")} == {ADMIN, ALICE, ANN, MARY}
    assert ok(mary.get("/users/me"))["role"] == "admin"
    assert ok(mary.get("/webhooks"))["items"] == []
    refused(town.world.api(MARY, "read").get("/webhooks"), 403)
    refused(mary.post("/users", {"email": "x@example.com", "organization_id": str(town.world.other)}), 422, "organization_id")
    refused(mary.post("/users", {"email": "x@example.com", "plan": "enterprise"}), 403)
    assert re.fullmatch(r"[0-9a-f-]{36}", ok(mary.post("/users", {"email": "x@example.com"}), 201)["id"])
