"""The document of the API: valid, complete, and readable without a script."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from flask import Flask
from schemathesis.specs.openapi.definitions import OPENAPI_31

from tests.integration.api_support import bearer, token_for
from tests.integration.web_support import ALICE, Site
from webapp.api import document, reference
from webapp.api.access import Opening
from webapp.models import PersonRole

_METHODS = ("get", "post", "put", "patch", "delete")


@pytest.fixture
def site(make_app: Callable[..., Flask]) -> Site:
    made = Site(make_app(public_url="https://bot.example.com", throttle_signed_in_per_h=777))
    made.add(ALICE)
    return made


@pytest.fixture
def spec(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = site.app.test_client().get("/api/openapi.json").get_json()
    return found


def operations(spec: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in spec["paths"].items():
        for method, operation in item.items():
            if method in _METHODS:
                yield method, path, operation


def refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from refs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from refs(inner)


def test_the_document_is_valid_openapi(spec: dict[str, Any]) -> None:
    errors = [f"{error.instance_path}: {error.message}" for error in jsonschema_rs.validator_for(OPENAPI_31).iter_errors(spec)]
    assert errors == []
    assert len(list(schemathesis.openapi.from_dict(spec).get_all_operations())) == len(list(operations(spec)))
    for name, schema in spec["components"]["schemas"].items():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema)
        assert "$defs" not in schema, name
    for ref in set(refs(spec)):
        place = spec
        for part in ref.removeprefix("#/").split("/"):
            place = place[part]
    assert spec["servers"] == [{"url": "https://bot.example.com"}]
    assert set(spec["components"]["securitySchemes"]) == {"token", "session"}
    assert "777 calls an hour" in spec["info"]["description"]
    ids = [operation["operationId"] for _, _, operation in operations(spec)]
    assert len(ids) == len(set(ids))


def test_every_operation_says_what_it_is_who_may_and_what_it_answers(site: Site, spec: dict[str, Any]) -> None:
    lacking = []
    for method, path, operation in operations(spec):
        given = {
            "summary": operation.get("summary"),
            "description": operation.get("description"),
            "scopes": operation.get("x-scopes"),
            "role": operation.get("x-role") in set(PersonRole),
            "security": {"session": []} in operation["security"],
            "success": any(status.startswith(("2", "3")) for status in operation["responses"]),
            "problems": {"400", "401", "403", "404", "422", "429", "503"} <= set(operation["responses"]),
            "no markup": "<br" not in operation.get("description", ""),
        }
        lacking += [f"{method} {path}: {name}" for name, there in given.items() if not there]
        for status, answer in operation["responses"].items():
            if status.startswith(("4", "5")):
                assert list(answer["content"]) == ["application/problem+json"], (path, status)
            assert "X-Request-Id" in answer["headers"]
    assert lacking == []
    # No route of the API is left out of the document.
    documented = {(method, path) for method, path, _ in operations(spec)}
    for rule in site.app.url_map.iter_rules():
        opening = getattr(site.app.view_functions[rule.endpoint], "opening", None)
        if rule.rule.startswith("/api/") and not rule.endpoint.startswith("api_document."):
            assert isinstance(opening, Opening), rule.endpoint
            path = re.sub(r"<(?:[^<>:]*:)?([^<>]+)>", r"{\1}", rule.rule)
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
                assert (method.lower(), path) in documented


def test_what_makes_something_takes_an_idempotency_key(spec: dict[str, Any]) -> None:
    found = {operation["operationId"]: operation for _, _, operation in operations(spec)}
    made = found["create_token"]
    assert [each["name"] for each in made["parameters"] if each["in"] == "header"] == ["Idempotency-Key"]
    assert "Idempotent-Replayed" in made["responses"]["201"]["headers"]
    assert made["x-scopes"] == ["write", "admin"]
    assert made["security"] == [{"token": ["write"]}, {"token": ["admin"]}, {"session": []}]
    # A manager's or administrator's operation opens to the scope admin alone.
    assert (found["read_queue"]["x-scopes"], found["read_queue"]["x-role"]) == (["admin"], "admin")


def test_examples_fit_their_schemas(spec: dict[str, Any]) -> None:
    components = {"$schema": "https://json-schema.org/draft/2020-12/schema", "components": spec["components"]}
    shown = 0
    for name, schema in spec["components"]["schemas"].items():
        validator = jsonschema_rs.validator_for(components | {"$ref": f"#/components/schemas/{name}"})
        for example in schema.get("examples", []):
            assert list(validator.iter_errors(example)) == [], (name, example)
            shown += 1
    assert shown > 5


def test_every_call_to_copy_is_one_that_a_shell_reads(site: Site) -> None:
    with site.app.app_context():
        found = document.document()
    calls = [operation for area in found.areas for operation in area.operations]
    assert len(calls) > 20
    for operation in calls:
        words = shlex.split(operation.call.replace("\\\n", " "))
        assert words[0] == "curl"
        url = next(word for word in words if word.startswith(reference.ADDRESS))
        assert "{" not in url.removeprefix(reference.ADDRESS), operation.call
        assert ("-X" in words) == (operation.method != "GET")


def test_the_document_is_made_once_and_asked_for_by_its_tag(site: Site) -> None:
    client = site.app.test_client()
    first = client.get("/api/openapi.json")
    assert first.mimetype == "application/json"
    again = client.get("/api/openapi.json", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    with site.app.app_context():
        assert document.document() is document.document()
    assert first.headers["RateLimit-Limit"]


def test_the_root_leads_on(site: Site) -> None:
    client = site.app.test_client()
    page = client.get("/api/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (page.status_code, page.headers["Location"]) == (303, "/api/docs")
    for accept in ("*/*", "application/json"):
        listed = client.get("/api/", headers={"Accept": accept}).get_json()
        assert listed["openapi"] == "/api/openapi.json"
        assert {"name", "description", "operations"} <= set(listed["areas"][0])


def test_the_page_counts_for_strangers_is_kept_for_a_few_and_has_a_tag(make_app: Callable[..., Flask]) -> None:
    site = Site(make_app(throttle_anonymous_per_h=16))
    site.add(ALICE)
    client = site.app.test_client()
    first = client.get("/api/docs?q=token")
    again = site.app.test_client().get("/api/docs?q=token", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert client.get("/api/docs?q=user").headers["ETag"] != first.headers["ETag"]
    for number in range(12):
        page = client.get("/api/docs?q=queue", headers={"Host": f"host{number}.example.com"})
        assert f"http://host{number}.example.com/api/queue" in page.text
    assert len(site.app.extensions[document._PAGES]) == document._PAGES_KEPT
    assert [client.get("/api/docs").status_code for _ in range(2)] == [200, 429]
    mine = site.browser(ALICE).get("/api/docs")
    assert (mine.status_code, mine.headers["Cache-Control"], "ETag" in mine.headers) == (200, "no-store", False)


def test_the_page_shows_and_finds_operations(site: Site) -> None:
    client = site.app.test_client()
    page = client.get("/api/docs")
    assert page.status_code == 200
    assert "<script>" not in page.text
    assert " style=" not in page.text
    for words in (
        'id="create_token"',
        'href="#tokens"',
        "Nightly report",
        "https://bot.example.com/api/tokens",
        "idempotency_key_reused",
    ):
        assert words in page.text, words
    found = client.get("/api/docs?q=make+TOKEN")
    assert 'id="create_token"' in found.text
    assert 'id="read_queue"' not in found.text
    assert '<details class="operation" open>' in found.text
    nothing = client.get("/api/docs?q=%3Cscript%3Ealert(1)")
    assert "No operations fit" in nothing.text
    assert "<script>alert" not in nothing.text
    assert client.get("/api/docs?q=" + "x" * 5000 + "%00").status_code == 200
    assert site.browser(ALICE).get("/api/docs").status_code == 200
    # A call of the page works as it stands.
    token = token_for(site.app, ALICE, "write")
    body = {"name": "Nightly report", "scopes": ["write"], "days": 90}
    assert client.post("/api/tokens", json=body, headers=bearer(token)).status_code == 201
