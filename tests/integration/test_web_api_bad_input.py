"""Bad input to every route of the document that changes something: a problem that names the field, never a fault of ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jsonschema_rs
import pytest
from flask import Flask
from werkzeug.test import TestResponse

from tests.fakes.receiver import FakeReceiver
from tests.fakes.stability import FakeStability
from tests.integration.api_things import Things, body_schema, example, operations
from tests.integration.people_api_support import World
from tests.integration.web_support import ADMIN

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

JSON = "application/json"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NAMES = {"name": "demo"}
# One of each kind, and what is often taken for another.
_VALUES: tuple[Any, ...] = (None, True, 0, -1, 7, 1.5, 10**30, "", "text", "1", "true", "null", [], [[]], [1], {}, {"x": 1})


class Counter:
    """Where bad input is handed in: by an administrator, for things that are there."""

    def __init__(self, world: World, things: Things) -> None:
        self.world, self.things = world, things
        self.spec: dict[str, Any] = world.app.test_client().get("/api/openapi.json").get_json()
        self.caller = world.api(ADMIN)
        self.calls = 0

    def routes(self, body: bool = True) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
        """(METHOD, path of the document, path to a thing, schema of the body) of the routes with, or without, a JSON body."""
        for method, path, operation in operations(self.spec):
            schema = body_schema(self.spec, operation)
            if method not in ("POST", "PATCH", "PUT") or (schema is not None) != body:
                continue
            there = path
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    name = parameter["name"]
                    there = there.replace(f"{{{name}}}", _NAMES.get(name) or self.things.value(name, path))
            yield method, path, there, schema or {}

    def send(self, method: str, there: str, raw: bytes | str, kind: str | None = JSON) -> TestResponse:
        """An answer to a body, which is never a fault of ours, and if it is a refusal, a problem."""
        self.calls += 1
        data = raw if isinstance(raw, bytes) else raw.encode()
        answer = self.caller.client.open(
            there, method=method, data=data, content_type=kind, headers=self.caller.headers, buffered=True
        )
        what = f"{method} {there} with {data[:200]!r}: {answer.status_code} {answer.text[:300]}"
        assert answer.status_code < 500, what
        if answer.status_code >= 400:
            assert answer.mimetype == "application/problem+json", what
            problem = answer.get_json()
            assert problem["status"] == answer.status_code, what
            assert problem["code"], what
            assert problem["detail"], what
        return answer

    def refused(self, status: int, method: str, there: str, raw: bytes | str, kind: str | None = JSON, field: str = "") -> None:
        """It is refused with this status, about this field."""
        answer = self.send(method, there, raw, kind)
        what = f"{method} {there} with {raw[:200]!r}: {answer.status_code} {answer.text[:300]}"
        assert answer.status_code == status, what
        if field:
            named = answer.get_json().get("field", "")
            assert named == field or named.startswith(f"{field}."), what

    def misfits(self, schema: dict[str, Any]) -> list[Any]:
        """Those of `_VALUES` that the document does not allow for a member."""
        whole = {"$schema": _DIALECT, "components": self.spec["components"], **schema}
        allowed = jsonschema_rs.validator_for(whole)
        return [value for value in _VALUES if not allowed.is_valid(value)]

    def members(self, schema: dict[str, Any], sample: Any) -> Iterator[tuple[str, dict[str, Any], Callable[[Any], Any]]]:
        """(dotted name, schema, the body with a value in that place) of each member, also of those inside of lists."""
        for name, given in schema.get("properties", {}).items():
            yield name, given, partial(_with, sample, name)
            inner = self._listed(given)
            if inner is not None:
                filled = self._least(inner)
                for below, deeper in inner["properties"].items():

                    def put(value: Any, name: str = name, below: str = below, filled: dict[str, Any] = filled) -> Any:
                        return {**sample, name: [{**filled, below: value}]}

                    yield f"{name}.0.{below}", deeper, put

    def _listed(self, schema: dict[str, Any]) -> dict[str, Any] | None:
        for option in (schema, *schema.get("anyOf", ())):
            ref = option.get("items", {}).get("$ref", "")
            found: dict[str, Any] = self.spec["components"]["schemas"].get(ref.rpartition("/")[2], {})
            if "properties" in found:
                return found
        return None

    def _least(self, schema: dict[str, Any]) -> dict[str, Any]:
        """An object with what it has to have."""
        made = {}
        for name in schema.get("required", ()):
            given = schema["properties"][name]
            given = self.spec["components"]["schemas"].get(given.get("$ref", "").rpartition("/")[2], given)
            made[name] = given["enum"][0] if "enum" in given else 1 if given.get("type") == "integer" else "word"
        return made


def _with(sample: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    return {**sample, name: value}


@pytest.fixture
def counter(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:
    with FakeStability() as stability, FakeReceiver() as receiver:
        for name, value in stability.settings.items():
            monkeypatch.setenv(name, value)
        world = World(make_app(throttle_signed_in_per_h=0, allow_outbound="127.0.0.1", api_body_max_mb=1))
        yield Counter(world, Things(world, receiver))


def nested(levels: int) -> str:
    """An object of so many levels."""
    return '{"more":' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


def test_a_body_that_is_none_is_refused_before_it_is_looked_into(counter: Counter) -> None:
    twice = '{"name": 1, "name": 2}'
    for method, _path, there, _schema in counter.routes():
        for raw in ("{", "nothing", twice, "NaN", '{"x": Infinity}', '{"x": 1e999}', b"\xff\xfe", '{"x": ' + "9" * 5000 + "}"):
            counter.refused(400, method, there, raw, field="body")
        counter.refused(400, method, there, nested(65), field="body")
        counter.refused(400, method, there, "[" * 100_000, field="body")
        counter.send(method, there, "")
        for raw in ("[]", '[{"x": 1}]', "7", "true", "1.5", '"text"', '"{}"'):
            counter.refused(422, method, there, raw, field="body")
        counter.refused(413, method, there, b'{"x": "' + b"x" * 1024 * 1024 + b'"}')
        for kind in (
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/xml",
            "multipart/form-data; boundary=x",
            None,
        ):
            counter.refused(415, method, there, "{}", kind)
        counter.refused(422, method, there, nested(64))
        counter.refused(422, method, there, '{"no_such_member": 1}')
        assert counter.send(method, there, "null").status_code in (422, 404), there
    assert counter.calls > 500


def test_an_unknown_member_is_named(counter: Counter) -> None:
    for method, _path, there, schema in counter.routes():
        counter.refused(422, method, there, json.dumps({**example(schema), "no_such_member": 1}), field="no_such_member")


def test_an_empty_body_lacks_what_is_required(counter: Counter) -> None:
    for method, _path, there, schema in counter.routes():
        if schema.get("required"):
            for raw in ("", "{}"):
                answer = counter.send(method, there, raw)
                assert answer.status_code == 422, there
                assert answer.get_json()["field"] in ("body", *schema["required"]), there


def test_a_value_that_the_document_does_not_allow_is_refused_by_its_name(counter: Counter) -> None:
    refused = 0
    for method, _path, there, schema in counter.routes():
        for name, given, put in counter.members(schema, example(schema)):
            for value in counter.misfits(given):
                counter.refused(422, method, there, json.dumps(put(value)), field=name)
                refused += 1
    assert refused > 1000


def test_what_no_database_holds_is_refused_by_its_name(counter: Counter) -> None:
    for method, _path, there, schema in counter.routes():
        for name, _given, put in counter.members(schema, example(schema)):
            for text in ("a\x00b", "\ud800", "a\udfffb"):
                counter.refused(422, method, there, json.dumps(put(text)), field=name)
                counter.refused(422, method, there, json.dumps(put({"x": [text]})), field=name)
                counter.refused(422, method, there, json.dumps(put({text: 1})), field=name)


def test_odd_values_that_the_document_allows_are_no_fault(counter: Counter) -> None:
    odd: tuple[Any, ...] = (
        1e300,
        -0.0,
        2**63,
        -(2**63) - 1,
        "\u202e\u0007\u00ad",
        "\U0001f9d1\u200d\U0001f680" * 50,
        " ",
        "%",
        "_'\";--",
    )
    deep: Any = 1
    for _ in range(60):
        deep = {"x": [deep]} if len(str(deep)) < 200 else [deep]
    for method, _path, there, schema in counter.routes():
        for name, _given, put in counter.members(schema, example(schema)):
            for value in (*odd, {"x": deep}, {"x" * 5000: 2**80}, [2**80] * 50, ["x" * 50_000], {"": ""}, *_VALUES):
                answer = counter.send(method, there, json.dumps(put(value)))
                if answer.status_code == 422:
                    assert answer.get_json().get("field"), (there, name, str(value)[:100], answer.text[:300])


def test_routes_without_a_body_do_not_trip_over_one(counter: Counter) -> None:
    for method, _path, there, _schema in counter.routes(body=False):
        for raw, kind in (("{", JSON), ("x=1", "application/x-www-form-urlencoded"), (nested(70), JSON), (b"\xff\x00", None)):
            counter.send(method, there, raw, kind)


def test_a_path_beside_those_with_ids_takes_its_own_methods(counter: Counter) -> None:
    call, headers = counter.caller.client.open, counter.caller.headers
    for path in ("/api/batches/file", "/api/dead-letters/replay", "/api/errors/resolve", "/api/users/register"):
        wrong = call(path, method="GET", headers=headers)
        assert (wrong.status_code, wrong.get_json()["code"], wrong.headers["Allow"]) == (
            405,
            "method_not_allowed",
            "OPTIONS, POST",
        )
        assert call(path, method="OPTIONS", headers=headers).headers["Allow"] == "OPTIONS, POST"
    # `me` is somebody's id.
    assert call("/api/users/me", method="PATCH", json={"full_name": "Ada"}, headers=headers).status_code == 200


def test_a_moment_is_no_number(counter: Counter) -> None:
    for moment in ("0.5", "1700000000", "-1", "+1e9", "1_0", "", "tomorrow", "2027-13-01T00:00:00Z"):
        answer = counter.caller.get("/tasks", created_to=moment)
        assert (answer.status_code, answer.get_json().get("field")) == (422, "created_to"), moment
    for moment in ("2027-01-04", "2027-01-04T12:00:00", "2027-01-04T12:00:00.5Z", "2027-01-04T12:00:00+02:00"):
        assert counter.caller.get("/tasks", created_to=moment).status_code == 200, moment
