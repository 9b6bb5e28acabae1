"""What belongs to people of another organization does not exist for others: on every route of the document, whatever it is."""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from tests.fakes.receiver import FakeReceiver
from tests.fakes.stability import FakeStability
from tests.integration.api_things import CANARY, SCOPES, Things, body_schema, example, operations
from tests.integration.people_api_support import ALICE, ANN, MARY, OLGA, OLGA_PHONE, OTTO, Api, World
from tests.integration.web_support import ADMIN
from webapp.models import Person

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

# What is known of a provider by its name is the same for everybody; none of it is anybody's.
_NOBODYS = frozenset({"name"})


class Street:
    """The things of Olga and Otto, the document, and everybody else."""

    def __init__(self, world: World, things: Things) -> None:
        self.world, self.things = world, things
        self.spec: dict[str, Any] = world.app.test_client().get("/api/openapi.json").get_json()
        self.operations = operations(self.spec)

    def with_ids(self) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
        """(METHOD, path of the document, path to one of the things, operation) of all that have an id in their path."""
        for method, path, operation in self.operations:
            names = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"]
            if names and not set(names) & _NOBODYS:
                there = path
                for name in names:
                    there = there.replace(f"{{{name}}}", self.things.value(name, path))
                yield method, path, there, operation

    def body(self, operation: dict[str, Any]) -> Any:
        schema = body_schema(self.spec, operation)
        return None if schema is None else example(schema)

    def call(self, caller: Api, method: str, path: str, body: Any = None, **query: Any) -> TestResponse:
        return caller.client.open(path, method=method, json=body, headers=caller.headers, query_string=query, buffered=True)

    def read(self, caller: Api) -> dict[str, tuple[int, bytes]]:
        """What somebody gets of every thing that can be read; streams are left out, for they end with the request."""
        found = {}
        for method, path, there, _ in self.with_ids():
            if method == "GET" and not path.endswith("/wait"):
                answer = self.call(caller, method, there)
                # The figures of usage say of which moment they are.
                found[path] = (answer.status_code, re.sub(rb'"at":"[^"]+"', b"", answer.data))
        return found


@pytest.fixture
def street(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> Iterator[Street]:
    with FakeStability() as stability, FakeReceiver() as receiver:
        for name, value in stability.settings.items():
            monkeypatch.setenv(name, value)
        app = make_app(throttle_signed_in_per_h=0, throttle_anonymous_per_h=0, allow_outbound="127.0.0.1")
        world = World(app)
        world.put(Person, Person.email.in_((ALICE, ANN, MARY)), plan_code="enterprise")
        yield Street(world, Things(world, receiver))


def untold(response: TestResponse, what: str) -> None:
    """Nothing of the others is in an answer: neither their words, nor their numbers, nor their names."""
    told = response.data.decode("utf-8", "replace") + str(response.headers)
    for secret in (CANARY, OLGA_PHONE, OLGA, OTTO):
        assert secret not in told.lower(), f"{what}: {told[:400]}"


def strangers(world: World) -> dict[str, Api]:
    """Who is not to see any of it: the last one is in the same organization."""
    world.add("owen@example.com")
    world.ids["owen@example.com"] = owen = world.all(Person)[-1].id
    world.put(Person, Person.id == owen, organization_id=world.other)
    world.join("owen@example.com", world.other)
    return {who: world.api(who) for who in (ALICE, MARY, "owen@example.com")}


def test_what_is_of_others_does_not_exist(street: Street) -> None:
    owners = {OLGA: street.world.api(OLGA), OTTO: street.world.api(OTTO), ADMIN: street.world.api(ADMIN)}
    before = {who: street.read(owner) for who, owner in owners.items()}
    seen_by_owners = {path for found in before.values() for path, (status, _) in found.items() if status == 200}
    assert seen_by_owners == set(before[OLGA]), "each of these things is there, and somebody may see it"
    assert sum(CANARY.encode() in data for found in before.values() for _, data in found.values()) > 15
    callers = strangers(street.world)
    walked = 0
    for method, path, there, operation in street.with_ids():
        for who, caller in callers.items():
            answer = street.call(caller, method, there, street.body(operation))
            what = f"{method} {path} as {who}: {answer.status_code} {answer.text[:300]}"
            member = {"member": 404, "manager": 403 if caller is not callers[MARY] else 404}.get(operation["x-role"], 403)
            assert answer.status_code == member, what
            assert answer.mimetype == "application/problem+json", what
            untold(answer, what)
            # What is not theirs is told like what is not at all.
            if answer.status_code == 404 and "{who}" not in path and "sha256" not in path:
                gone = there
                for value in street.things.ids.values():
                    gone = gone.replace(value, str(uuid.uuid4()))
                assert street.call(caller, method, gone, street.body(operation)).get_json() == answer.get_json(), what
            walked += 1
    assert walked > 150
    after = {who: street.read(owner) for who, owner in owners.items()}
    for who, found in before.items():
        for path, (status, data) in found.items():
            assert after[who][path] == (status, data), f"{path} of {who} was changed"
    assert street.things.receiver.requests == []


def test_a_token_without_the_scope_opens_nothing(street: Street) -> None:
    without = {scope: street.world.api(OTTO, scope) for scope in SCOPES - {"admin"}}
    mine = {scope: street.world.api(OLGA, scope) for scope in SCOPES - {"admin"}}
    before = street.read(street.world.api(OLGA))
    for method, path, there, operation in street.with_ids():
        lacking = sorted(SCOPES - set(operation["x-scopes"]))
        assert lacking, path
        for scope in lacking:
            for who in (without, mine):
                answer = street.call(who[scope], method, there, street.body(operation))
                assert answer.status_code == 403, f"{method} {path} with {scope}: {answer.status_code} {answer.text[:200]}"
                untold(answer, f"{method} {path} with {scope}")
        nobody = street.call(street.world.api(), method, there, street.body(operation))
        assert nobody.status_code == 401, f"{method} {path}"
    assert street.read(street.world.api(OLGA)) == before


def test_no_list_search_filter_or_cursor_shows_what_is_of_others(street: Street) -> None:
    callers = strangers(street.world)
    theirs = [value for name, value in street.things.ids.items() if name != "sha256"]
    cursors = [base64.urlsafe_b64encode(json.dumps([value]).encode()).decode().rstrip("=") for value in theirs]
    cursors.append(base64.urlsafe_b64encode(b'["ffffffff-ffff-7fff-bfff-ffffffffffff"]').decode().rstrip("="))
    asked = 0
    for method, path, operation in street.operations:
        if method != "GET" or {"path"} & {each["in"] for each in operation.get("parameters", ())}:
            continue
        queries: list[dict[str, str]] = [{}]
        for parameter in operation.get("parameters", ()):
            name = parameter["name"]
            if name == "q":
                queries += [{"q": CANARY}, {"q": "example.com"}, {"q": OLGA_PHONE}]
            elif name == "cursor":
                queries += [{"cursor": cursor} for cursor in cursors]
            elif parameter["schema"].get("format") == "uuid":
                queries += [{name: value} for value in theirs]
            elif name == "whose":
                queries += [{"whose": value} for value in ("organization", "all")]
            elif name in ("total", "unusable"):
                queries.append({name: "true"})
            elif name in ("address", "category", "channel"):
                queries += [{name: value} for value in (CANARY, OLGA_PHONE)]
        for who, caller in callers.items():
            for query in queries:
                answer = street.call(caller, method, path, **query)
                what = f"{method} {path} {query} as {who}"
                assert answer.status_code in (200, 403, 404, 422), f"{what}: {answer.status_code}"
                told = answer.text
                if who not in (ALICE, MARY):
                    # Owen works in the organization: its name is no secret to him.
                    told = told.replace(f"Other {CANARY}", "")
                for secret in (CANARY, OLGA_PHONE, OLGA):
                    assert secret not in told, f"{what}: {told[:300]}"
                asked += 1
    assert asked > 500


def test_a_body_cannot_name_what_is_of_others(street: Street) -> None:
    callers = strangers(street.world)
    before = street.read(street.world.api(OLGA))
    theirs = {name: value for name, value in street.things.ids.items() if name != "sha256"}
    named = 0
    for method, path, operation in street.operations:
        schema = body_schema(street.spec, operation)
        if schema is None or "{" in path:
            continue
        for member, given in schema["properties"].items():
            if '"uuid"' not in json.dumps(given):
                continue
            many = "array" in json.dumps(given)
            for value in theirs.values():
                for who, caller in callers.items():
                    body = dict(example(schema)) | {member: [value] if many else value}
                    if member == "organization_id" and value == theirs["organization_id"] and who not in (ALICE, MARY):
                        continue
                    answer = street.call(caller, method, path, body)
                    what = f"{method} {path} with {member} as {who}: {answer.status_code} {answer.text[:300]}"
                    assert answer.status_code in (403, 404, 422), what
                    untold(answer, what)
                    named += 1
    assert named > 50
    assert street.read(street.world.api(OLGA)) == before
