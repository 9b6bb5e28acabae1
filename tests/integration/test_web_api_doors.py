"""The doors of the API: who is let in, how often, from which sites, with which bodies; and what is never said."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from flask import Flask
from sqlalchemy import delete, select, update
from werkzeug.test import TestResponse

from tests.integration.api_support import Probe, bearer, last_use, token_for
from tests.integration.web_support import ALICE, BOB, Site, token
from webapp.api import base
from webapp.extensions import reading, writing, writing_session
from webapp.logs import MaskingFormatter
from webapp.models import ApiAnswer, ApiToken, AuditEntry, Membership, Organization, Person, PersonRole
from webapp.services import people, tokens

FAKE = "sh_" + "x" * 43
GOOD = {"text": "hello"}


@pytest.fixture
def log() -> Iterator[Callable[[], str]]:
    """Everything that is logged at any level, as the product writes it."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(MaskingFormatter("%(levelname)s %(name)s:%(call)s %(message)s"))
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield written.getvalue
    root.removeHandler(handler)
    root.setLevel(before)


@pytest.fixture
def site(make_app: Callable[..., Flask]) -> Site:
    return site_with(make_app)


def site_with(make_app: Callable[..., Flask], **settings: Any) -> Site:
    made = Site(make_app(**settings))
    made.app.extensions["probe"] = Probe(made.app)
    made.add(ALICE)
    return made


def probe(site: Site) -> Probe:
    found: Probe = site.app.extensions["probe"]
    return found


def problem(response: TestResponse) -> tuple[int, str]:
    """Status and code of an answer that is a problem."""
    assert response.mimetype == "application/problem+json", response.text
    given = response.get_json()
    assert given["status"] == response.status_code
    return given["status"], given["code"]


# -- who is let in -------------------------------------------------------------------------------------------------------
def test_a_token_opens_until_anything_about_it_ends(site: Site) -> None:
    client = site.app.test_client()
    given = token_for(site.app, ALICE)
    home = token_for(site.app, ALICE)

    def status(which: str = given) -> int:
        return client.post("/api/probe", json=GOOD, headers=bearer(which)).status_code

    def change(statement: Any) -> None:
        with site.app.app_context(), writing() as connection:
            connection.execute(statement)

    with site.app.app_context(), writing_session() as session:
        alice = session.execute(select(Person).where(Person.email == ALICE)).scalar_one()
        first = session.get_one(Organization, alice.organization_id)
        other = Organization(name="Other", time_zone="UTC")
        session.add(other)
        session.flush()
        session.add(Membership(person_id=alice.id, organization_id=other.id, role=PersonRole.MANAGER))
        first_id, other_id, alice_id = first.id, other.id, alice.id
    of_token = ApiToken.digest == people.token_digest(given)
    change(update(ApiToken).where(of_token).values(organization_id=other_id))
    with site.app.app_context():
        known = tokens.find(given)
        assert known is not None
        assert (known.organization_id, known.role, known.person.email) == (other_id, PersonRole.MANAGER, ALICE)

    assert (status(), status(home)) == (201, 201)
    for off, on in (
        (update(Person).where(Person.id == alice_id).values(active=False), update(Person).values(active=True)),
        (
            update(Organization).where(Organization.id == other_id).values(active=False),
            update(Organization).values(active=True),
        ),
        (
            update(ApiToken).where(of_token).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)),
            update(ApiToken).values(expires_at=None),
        ),
        (update(ApiToken).where(of_token).values(revoked_at=datetime.now(UTC)), update(ApiToken).values(revoked_at=None)),
        (delete(Membership).where(Membership.organization_id == other_id), None),
    ):
        change(off)
        assert status() == 401
        if on is not None:
            change(on)
            assert status() == 201
    assert status(home) == 201
    assert first_id != other_id
    for wrong in (FAKE, "sh_" + "y" * 500, "nothing of ours", ""):
        assert status(wrong) == 401


def test_the_last_use_is_written_once_a_minute_and_after_the_answer(site: Site) -> None:
    client = site.app.test_client()
    given = token_for(site.app, ALICE)

    def call() -> None:
        client.post("/api/probe", json=GOOD, headers=bearer(given)).close()

    call()
    first = last_use(site.app, given)
    assert first is not None
    call()
    assert last_use(site.app, given) == first
    long_ago = first - timedelta(minutes=2)
    with site.app.app_context(), writing() as connection:
        connection.execute(update(ApiToken).values(last_used_at=long_ago))
    call()
    assert (last_use(site.app, given) or long_ago) >= first


def test_a_session_changes_things_only_with_its_csrf_token(site: Site) -> None:
    browser = site.browser(ALICE)
    refused = browser.client.post("/api/probe", json=GOOD)
    assert problem(refused) == (400, "csrf")
    assert "X-CSRFToken" in refused.json["detail"]
    given = token(browser.get("/settings"))
    assert browser.client.post("/api/probe", json=GOOD, headers={"X-CSRFToken": given}).status_code == 201
    # A wrong token is not made good by the session.
    both = bearer(FAKE) | {"X-CSRFToken": given}
    assert problem(browser.client.post("/api/probe", json=GOOD, headers=both)) == (401, "unauthorized")


# -- bodies --------------------------------------------------------------------------------------------------------------
def test_bodies_are_read_strictly(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_LARGE", ("/api/probe",))
    site = site_with(make_app, api_body_max_mb=2)
    client = site.app.test_client()
    signed = bearer(token_for(site.app, ALICE))
    deep = b'{"text": "x", "more": ' + b'{"a":' * 64 + b"1" + b"}" * 64 + b"}"
    cases: list[tuple[bytes, str, int, str, str]] = [
        (b'{"text": "x"', "application/json", 400, "bad_json", "not JSON"),
        (b'{"text": "\xff"}', "application/json", 400, "bad_json", "UTF-8"),
        (b'{"text": "\xed\xa0\x80"}', "application/json", 400, "bad_json", "UTF-8"),
        (b'{"text": "x", "number": NaN}', "application/json", 400, "bad_json", "not JSON"),
        (b'{"text": "x", "more": {"a": 1e999}}', "application/json", 400, "bad_json", "not JSON"),
        (b'{"text": "x", "text": "y"}', "application/json", 400, "bad_json", "'text'"),
        (b'{"text": "x", "more": {"b": 1, "b": 2}}', "application/json", 400, "bad_json", "'b'"),
        (deep, "application/json", 400, "bad_json", "deeply"),
        (b"[" * 100_000, "application/json", 400, "bad_json", ""),
        (b'{"text": "x"}', "text/plain", 415, "unsupported_media_type", "application/json"),
        (b"text=x", "application/x-www-form-urlencoded", 415, "unsupported_media_type", "application/json"),
        (b'{"text": "a\\u0000b"}', "application/json", 422, "bad_input", "text"),
        (b'{"text": "x", "more": {"a": [1, "\\ud800"]}}', "application/json", 422, "bad_input", "more.a.1"),
        (b'{"text": "x", "more": {"a\\u0000": 1}}', "application/json", 422, "bad_input", "more"),
        (b'"{\\"text\\": \\"x\\"}"', "application/json", 422, "bad_input", "object"),
        (b'{"text": 5}', "application/json", 422, "bad_input", "text"),
        (b'{"text": "x", "number": "5"}', "application/json", 422, "bad_input", "number"),
        (b'{"text": "x", "txet": 1}', "application/json", 422, "bad_input", "txet"),
        (b"", "application/json", 422, "bad_input", "body"),
    ]
    for raw, kind, status, code, words in cases:
        response = client.post("/api/probe", data=raw, content_type=kind, headers=signed)
        assert problem(response) == (status, code), (raw[:40], response.text)
        assert words in response.get_json()["detail"], raw[:40]
        # Who is not signed in is told nothing about the body.
        assert problem(client.post("/api/probe", data=raw, content_type=kind)) == (401, "unauthorized")
    assert probe(site).calls == 0
    for raw in (b'\xef\xbb\xbf{"text": "x"}', b'{"text": "\\ud83d\\ude00"}', '{"text": "é"}'.encode()):
        assert client.post("/api/probe", data=raw, content_type="application/json", headers=signed).status_code == 201
    large = json.dumps({"text": "x" * 1_500_000})
    assert client.post("/api/probe", data=large, content_type="application/json", headers=signed).status_code == 201
    huge = json.dumps({"text": "x" * 2_200_000})
    assert problem(client.post("/api/probe", data=huge, content_type="application/json", headers=signed))[0] == 413
    assert problem(client.post("/api/probe", data=huge, content_type="application/json"))[0] == 401
    assert client.post("/sms/send", data=large, content_type="application/json", headers=signed).status_code in (401, 413)
    assert problem(client.get("/api/queue?x=%00", headers=bearer(token_for(site.app, "admin@example.com", "admin")))) == (
        422,
        "bad_input",
    )


def test_what_is_not_there_is_a_problem_too(site: Site) -> None:
    client = site.app.test_client()
    assert problem(client.get("/api/nothing/here")) == (404, "not_found")
    wrong = client.delete("/api/probe")
    assert problem(wrong) == (405, "method_not_allowed")
    assert "POST" in wrong.headers["Allow"]
    probe(site).how = "crash"
    site.app.config["PROPAGATE_EXCEPTIONS"] = False
    site.app.testing = False
    broken = client.post("/api/probe", json=GOOD, headers=bearer(token_for(site.app, ALICE)))
    assert problem(broken) == (500, "internal")
    assert broken.headers["X-Request-Id"]


# -- how often -----------------------------------------------------------------------------------------------------------
@time_machine.travel("2027-01-04T12:20:00+00:00")
def test_calls_are_throttled_by_address_and_by_person(make_app: Callable[..., Flask]) -> None:
    site = site_with(make_app, throttle_anonymous_per_h=4, throttle_signed_in_per_h=3, trusted_proxies=1)
    site.add(BOB)
    client = site.app.test_client()
    mine, also_mine, bobs = (bearer(token_for(site.app, who)) for who in (ALICE, ALICE, BOB))

    def call(headers: dict[str, str], address: str = "203.0.113.7") -> TestResponse:
        return client.post("/api/probe", json=GOOD, headers=headers | {"X-Forwarded-For": address})

    # Guesses at tokens, nobody at all, and addresses that are not there count alike.
    seen = [
        call({}),
        call(bearer(FAKE)),
        call(bearer("rubbish")),
        client.get("/api/none", headers={"X-Forwarded-For": "203.0.113.7"}),
    ]
    assert [each.status_code for each in seen] == [401, 401, 401, 404]
    assert [each.headers["RateLimit-Remaining"] for each in seen] == ["3", "2", "1", "0"]
    refused = call(bearer(FAKE))
    assert problem(refused) == (429, "too_many_requests")
    wait = int(refused.headers["Retry-After"])
    assert 0 < wait <= 3600
    assert refused.headers["RateLimit-Limit"] == refused.headers["X-RateLimit-Limit"] == "4"
    assert abs(int(refused.headers["RateLimit-Reset"]) - wait) <= 1
    assert int(refused.headers["X-RateLimit-Reset"]) > datetime.now(UTC).timestamp()
    # What a client writes into X-Forwarded-For before the proxy's own entry changes nothing.
    assert call({}, "198.51.100.9, 203.0.113.7").status_code == 429
    assert call({}, "203.0.113.8").status_code == 401
    # IPv6: a household counts as one.
    assert [call({}, f"2001:db8::{number}").status_code for number in range(1, 6)] == [401] * 4 + [429]
    # A valid token is counted by its person, also from an address that has used up its own.
    assert [call(headers).status_code for headers in (mine, also_mine, mine, also_mine)] == [201, 201, 201, 429]
    assert call(bobs).headers["RateLimit-Remaining"] == "2"
    # Pages are not counted.
    assert "RateLimit-Limit" not in site.browser(ALICE).get("/settings").headers


@time_machine.travel("2027-01-04T12:20:00+00:00")
def test_calls_are_counted_without_redis(make_app: Callable[..., Flask]) -> None:
    site = site_with(make_app, redis_url="redis://127.0.0.1:9/0", throttle_anonymous_per_h=2)
    client = site.app.test_client()
    assert [client.get("/api/queue").status_code for _ in range(3)] == [401, 401, 429]


@time_machine.travel("2027-01-04T12:20:20+00:00")
def test_calls_of_the_compatible_endpoints_are_throttled_by_token(make_app: Callable[..., Flask]) -> None:
    site = site_with(make_app, throttle_anonymous_per_h=2, throttle_v1_per_min=2, throttle_signed_in_per_h=1)
    client = site.app.test_client()
    one, two = (bearer(token_for(site.app, ALICE, "chat")) for _ in range(2))

    def call(headers: dict[str, str]) -> TestResponse:
        asked = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
        return client.post("/v1/chat/completions", json=asked, headers=headers)

    answers = [call(one) for _ in range(3)]
    assert [each.status_code for each in answers] == [200, 200, 429]
    assert answers[0].headers["RateLimit-Limit"] == "2"
    assert 0 < int(answers[2].headers["Retry-After"]) <= 60
    assert "error" in answers[2].get_json()
    assert call(two).status_code == 200
    assert [call({"x-api-key": f"{FAKE[:-1]}{number}"}).status_code for number in range(2)] == [401, 401]
    refused = call({"x-api-key": FAKE})
    assert refused.status_code == call({}).status_code == 429
    assert int(refused.headers["Retry-After"]) > 60
    assert call({"x-api-key": two["Authorization"][7:]}).status_code == 200


def test_no_limit_is_no_limit(make_app: Callable[..., Flask]) -> None:
    site = site_with(make_app, throttle_anonymous_per_h=0, throttle_signed_in_per_h=0)
    client = site.app.test_client()
    response = client.post("/api/probe", json=GOOD, headers=bearer(token_for(site.app, ALICE)))
    assert response.status_code == 201
    assert "RateLimit-Limit" not in response.headers


# -- from where ----------------------------------------------------------------------------------------------------------
def test_pages_of_other_sites_call_only_where_the_operator_allows_it(make_app: Callable[..., Flask]) -> None:
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, content-type"}
    closed = site_with(make_app).app.test_client()
    for response in (
        closed.options("/api/probe", headers=ask | {"Origin": "https://app.example.com"}),
        closed.get("/api/queue", headers={"Origin": "https://app.example.com"}),
    ):
        assert response.status_code == 401
        assert not [name for name in dict(response.headers) if name.startswith("Access-Control")]

    site = Site(make_app(cors_origins="https://app.example.com, https://b.example.com"))
    client = site.app.test_client()
    for path in ("/api/queue", "/v1/models"):
        allowed = client.options(path, headers=ask | {"Origin": "https://b.example.com"})
        assert allowed.status_code == 204
        assert allowed.headers["Access-Control-Allow-Origin"] == "https://b.example.com"
        assert "POST" in allowed.headers["Access-Control-Allow-Methods"]
        assert allowed.headers["Access-Control-Allow-Headers"] == "authorization, content-type"
        assert "RateLimit-Limit" not in allowed.headers
        foreign = client.options(path, headers=ask | {"Origin": "https://evil.example.com"})
        assert foreign.status_code != 204
        assert "Access-Control-Allow-Origin" not in foreign.headers
    response = client.get("/api/queue", headers={"Origin": "https://app.example.com"})
    assert response.status_code == 401
    assert response.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
    shown = {"X-Request-Id", "Location", "RateLimit-Remaining", "X-Switchhook-Request", "X-RateLimit-Reset-Tokens"}
    assert shown <= set(response.headers["Access-Control-Expose-Headers"].split(", "))
    assert "Access-Control-Allow-Credentials" not in response.headers
    for headers in ({}, {"Origin": "https://app.example.com"}):
        assert "Origin" in client.get("/api/queue", headers=headers).headers["Vary"]
    assert "Access-Control-Allow-Origin" not in client.get("/login", headers={"Origin": "https://app.example.com"}).headers

    anyone = Site(make_app(cors_origins="*")).app.test_client()
    assert anyone.get("/api/queue", headers={"Origin": "null"}).headers["Access-Control-Allow-Origin"] == "null"


# -- ids and secrets -----------------------------------------------------------------------------------------------------
def test_every_answer_has_an_id_that_the_logs_carry(site: Site, log: Callable[[], str]) -> None:
    client = site.app.test_client()
    made = client.get("/api/queue").headers["X-Request-Id"]
    assert len(made) == 32
    assert client.get("/api/queue", headers={"X-Request-Id": "job-7.a_B"}).headers["X-Request-Id"] == "job-7.a_B"
    for odd in ("", "a b", "x" * 65, "ä", FAKE):
        assert client.get("/api/queue", headers={"X-Request-Id": odd}).headers["X-Request-Id"] != odd
    assert client.get("/v1/none").headers["X-Request-Id"]
    assert "X-Request-Id" not in client.get("/login").headers
    probe(site).how = "crash"
    site.app.testing = False
    client.post("/api/probe", json=GOOD, headers=bearer(token_for(site.app, ALICE), X_Request_Id="find-me-again"))
    assert "ERROR webapp.web.errors: [find-me-again] error" in log()
    logging.getLogger("webapp").warning("between calls")
    assert "webapp: between calls" in log()


def test_tokens_are_nowhere_to_be_read(site: Site, log: Callable[[], str]) -> None:
    site.app.testing = False
    client = site.app.test_client()
    real = token_for(site.app, ALICE, "read", "write", "admin")
    places: list[tuple[str, str, dict[str, Any]]] = []
    for secret in (real, FAKE, real[:20]):
        places += [
            ("GET", f"/api/{secret}", {}),
            ("GET", f"/{secret}?token={secret}", {}),
            ("GET", f"/api/queue?cursor={secret}", {"headers": bearer(real)}),
            ("GET", f"/api/requests/{secret}/wait", {"headers": bearer(real)}),
            ("POST", "/api/probe", {"json": {"text": "x", secret: 1}, "headers": bearer(real)}),
            ("POST", "/api/probe", {"json": {"text": 5, "more": secret}, "headers": bearer(real)}),
            ("POST", "/api/probe", {"data": f'{{"{secret}": 1, "{secret}": 2}}', "content_type": "application/json"}),
            (
                "POST",
                "/api/probe",
                {"data": f'{{"{secret}": 1, "{secret}": 2}}', "content_type": "application/json", "headers": bearer(real)},
            ),
            ("GET", "/api/queue", {"headers": {"X-Request-Id": secret, "Authorization": f"Basic {secret}"}}),
            ("POST", "/api/probe", {"json": GOOD, "headers": bearer(real, Idempotency_Key=f"{secret} with a space")}),
        ]
    for method, path, options in places:
        response = client.open(path, method=method, **options)
        assert response.status_code >= 400
        for name, value in response.headers:
            assert name == "Location" or "sh_" not in value.replace("sh_***", ""), (path, name)
        for secret in (real[:20], FAKE[:20]):
            assert secret not in response.text, (method, path, response.text)
    probe(site).how = "crash"
    client.post("/api/probe", json={"text": real}, headers=bearer(real))
    logging.getLogger("webapp").warning("the header was Bearer%%20%s, or %s", real, f"sh%5F{real[3:]}")
    for secret in (real, real[3:], FAKE):
        assert secret not in log()
    with site.app.app_context():
        with writing_session() as session:
            session.add(AuditEntry(actor="test", action="token.create", subject="person:1", detail={"name": f"my {real}"}))
        with reading() as connection:
            details = connection.scalars(select(AuditEntry.detail)).all()
    assert "my sh_***" in str(details)
    assert real not in str(details)


# -- repeated calls ------------------------------------------------------------------------------------------------------
def test_a_repeated_call_gets_the_first_answer(site: Site) -> None:
    client, counts = site.app.test_client(), probe(site)
    site.add(BOB)
    alice, bob = token_for(site.app, ALICE), token_for(site.app, BOB)

    def call(key: str = "k1", body: Any = GOOD, who: str = alice, query: str = "") -> TestResponse:
        return client.post(f"/api/probe{query}", json=body, headers=bearer(who, Idempotency_Key=key))

    first = call()
    again = call()
    assert (first.status_code, again.status_code, counts.calls) == (201, 201, 1)
    assert (again.data, again.headers["Location"], again.mimetype) == (first.data, first.headers["Location"], first.mimetype)
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Cache-Control"] == "no-store"
    assert again.headers["X-Request-Id"] != first.headers["X-Request-Id"]
    for other in (call(body={"text": "other"}), call(query="?a=1")):
        assert problem(other) == (422, "idempotency_key_reused")
    # What one token was answered is not for another one of the same person, which may open less.
    for less in (token_for(site.app, ALICE, "write"), token_for(site.app, ALICE)):
        assert problem(call(who=less)) == (422, "idempotency_key_reused")
    assert call(who=bob).get_json() == {"made": 2}
    assert client.post("/api/probe", json=GOOD, headers=bearer(alice)).get_json() == {"made": 3}
    for wrong in ("", "x" * 256, "a b", "ä"):
        refused = call(wrong)
        assert problem(refused) == (422, "bad_input")
        assert refused.get_json()["field"] == "Idempotency-Key"
    assert call("x" * 255).status_code == 201


def test_refusals_are_kept_and_what_may_be_tried_again_is_not(site: Site) -> None:
    site.app.testing = False
    client, counts = site.app.test_client(), probe(site)
    signed = token_for(site.app, ALICE)

    def call(key: str, body: Any = GOOD) -> TestResponse:
        return client.post("/api/probe", json=body, headers=bearer(signed, Idempotency_Key=key))

    for how, status in (("conflict", 409), ("404", 404)):
        counts.how = how
        first = call(how)
        counts.how = "made"
        assert problem(first)[0] == problem(call(how))[0] == status
        assert call(how).headers["Idempotent-Replayed"] == "true"
    for how, status in (("429", 429), ("503", 503), ("crash", 500)):
        counts.how, counts.ids = how, []
        assert call(how).status_code == status
        counts.how = "made"
        assert call(how).status_code == 201
        # After a fault it is the same call still, whatever was done of it; after 429 nothing was.
        assert (counts.ids[0] == counts.ids[1]) == (status != 429)
    # A body that is wrong does not use the key up.
    assert call("fresh", {"text": 5}).status_code == 422
    assert call("fresh").status_code == 201


def test_a_streamed_answer_is_kept_when_it_has_ended(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_LARGE", ("/api/probe",))
    client, counts = site.app.test_client(), probe(site)
    counts.how = "stream"
    signed = token_for(site.app, ALICE)

    def call(key: str, text: str = "end") -> TestResponse:
        return client.post("/api/probe", json={"text": text}, headers=bearer(signed, Idempotency_Key=key))

    first = call("whole")
    assert problem(call("whole")) == (409, "idempotency_key_in_use")
    assert call("whole").headers["Retry-After"] == "1"
    assert first.text == "data: 1\n\nend"
    again = call("whole")
    assert (again.text, again.mimetype) == (first.text, "text/event-stream")
    # Whoever hangs up, and whoever gets more than is kept, is told so.
    call("cut").close()
    assert problem(call("cut")) == (409, "idempotency_not_kept")
    long = "x" * (2 * 1024 * 1024)
    assert call("long", long).text.endswith("x")
    assert problem(call("long", long)) == (409, "idempotency_not_kept")
    assert counts.calls == 3
    with site.app.app_context(), reading() as connection:
        stored = connection.scalars(select(ApiAnswer.body)).all()
    assert not any(b"data: 1" in body for body in stored if body)
