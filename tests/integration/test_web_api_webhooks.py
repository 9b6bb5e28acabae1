"""`/api/webhooks`: who may, what is answered, and that the API tells what the receiver saw."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select

from tests.fakes.receiver import FakeReceiver
from tests.fakes.server import Fault
from tests.integration.api_support import bearer, token_for
from tests.integration.web_support import ALICE, Site
from webapp.extensions import now, writing
from webapp.models import AuditEntry, PersonRole
from webapp.pipeline import webhook_send, webhooks
from webapp.services import memberships, organizations
from webapp.services.organizations import Actor

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
OPERATOR = Actor.operator("a test")
BOSS, STRANGER = "boss@example.com", "stranger@example.com"
PLACE = "/api/webhooks"


@pytest.fixture
def receiver() -> Iterator[FakeReceiver]:
    with FakeReceiver() as fake:
        yield fake


class Api:
    """Calls in the name of somebody with a token."""

    def __init__(self, client: FlaskClient, token: str) -> None:
        self.client = client
        self.token = token

    def __call__(self, method: str, path: str = "", body: Any = None, **headers: str) -> tuple[int, Any]:
        response = self.client.open(PLACE + path, method=method, json=body, headers=bearer(self.token, **headers))
        return response.status_code, response.json


@pytest.fixture
def site(make_app: Callable[..., Flask]) -> Site:
    """The Weavers with a manager and a member, and the Dyers with a manager of theirs."""
    site = Site(make_app(allow_outbound="127.0.0.1", webhook_timeout_s=2.0))
    with site.app.app_context():
        places = {name: organizations.create(OPERATOR, name).id for name in ("Weavers", "Dyers")}
    members = (
        (BOSS, "Weavers", PersonRole.MANAGER),
        (ALICE, "Weavers", PersonRole.MEMBER),
        (STRANGER, "Dyers", PersonRole.MANAGER),
    )
    for email, name, role in members:
        person_id = site.add(email)
        with site.app.app_context():
            memberships.add(OPERATOR, places[name], email, role)
            memberships.switch(OPERATOR, person_id, places[name])
    return site


def api(site: Site, email: str, *scopes: str) -> Api:
    return Api(site.app.test_client(), token_for(site.app, email, *scopes))


def test_a_webhook_from_its_beginning_to_its_end(site: Site, receiver: FakeReceiver) -> None:
    boss = api(site, BOSS, "admin")
    assert boss("GET", "?total=true") == (200, {"items": [], "next_cursor": None, "total": 0})
    body = {"url": receiver.hook, "description": "Our CRM", "events": ["quota.warning"]}
    status, made = boss("POST", "", body, Idempotency_Key="k1")
    assert status == 201
    assert made["secret"].startswith("whsec_")
    # The same call again is no second webhook, and says the same.
    assert boss("POST", "", body, Idempotency_Key="k1") == (201, made)
    one = f"/{made['id']}"
    shown = {name: value for name, value in made.items() if name != "secret"}
    assert boss("GET", one) == (200, shown)
    assert boss("GET", "?limit=1&total=true") == (200, {"items": [shown], "next_cursor": None, "total": 1})
    receiver.secrets.append(made["secret"])
    status, tested = boss("POST", f"{one}/test")
    assert (status, tested["delivered"], tested["status"], tested["trouble"]) == (200, True, 204, "")
    receiver.faults.append(Fault(status=500, body=b"oh no"))
    status, tested = boss("POST", f"{one}/test")
    assert (tested["delivered"], tested["status"], tested["answer"]) == (False, 500, "oh no")
    status, renewed = boss("POST", f"{one}/rotate?version=0")
    assert (status, renewed["version"], renewed["former_secret_until"] is not None) == (200, 1, True)
    assert boss("POST", f"{one}/rotate?version=0")[0] == 409
    assert boss("PATCH", one, {"active": False, "version": 0})[0] == 409
    assert boss("PATCH", one, {"events": [], "version": 1})[1]["events"] == []
    with site.app.app_context(), writing() as connection:
        query = select(AuditEntry.organization_id).where(AuditEntry.action == "webhook.create")
        organization_id = connection.execute(query).scalar_one()
        (delivery_id,) = webhooks.note(connection, "quota.warning", organization_id, lambda: {"percent": 80}, now())
    assert boss("POST", f"{one}/deliveries/{delivery_id}/resend")[0] == 409
    with site.app.app_context():
        webhook_send.send(delivery_id)
    status, page = boss("GET", f"{one}/deliveries?limit=1&total=true")
    assert (status, page["total"]) == (200, 3)
    (delivery,) = page["items"]
    assert (delivery["id"], delivery["state"], delivery["payload"]["data"]) == (str(delivery_id), "delivered", {"percent": 80})
    status, page = boss("GET", f"{one}/deliveries?cursor={page['next_cursor']}")
    assert [each["state"] for each in page["items"]] == ["failed", "delivered"]
    status, again = boss("POST", f"{one}/deliveries/{delivery_id}/resend")
    assert (status, again["state"]) == (202, "pending")
    assert boss("POST", f"{one}/deliveries/{page['items'][0]['id']}/resend")[0] == 404
    assert boss("DELETE", f"{one}?version=1")[0] == 409
    assert boss("DELETE", one)[0] == 204
    assert boss("GET", one)[0] == 404


def test_nobody_else_sees_a_webhook(site: Site, receiver: FakeReceiver) -> None:
    made = api(site, BOSS, "admin")("POST", "", {"url": receiver.hook})[1]
    calls = [
        ("GET", "", None),
        ("PATCH", "", {"active": False}),
        ("DELETE", "", None),
        ("POST", "/rotate", None),
        ("POST", "/test", None),
        ("GET", "/deliveries", None),
        ("POST", f"/deliveries/{uuid.uuid4()}/resend", None),
    ]
    stranger = api(site, STRANGER, "admin")
    member, weak = api(site, ALICE, "admin"), api(site, BOSS, "read", "write")
    for method, path, body in calls:
        assert stranger(method, f"/{made['id']}{path}", body)[0] == 404, path
        for other in (member, weak):
            assert other(method, f"/{made['id']}{path}", body)[0] == 403, path
    assert stranger("GET")[1]["items"] == []
    assert member("GET")[0] == weak("POST", "", {"url": receiver.hook})[0] == 403
    assert receiver.requests == []


def test_wrong_bodies_name_the_field(site: Site) -> None:
    boss = api(site, BOSS, "admin")
    good = "https://hooks.invalid/x"
    cases: list[tuple[Any, str]] = [
        ({}, "url"),
        ({"url": 7}, "url"),
        ({"url": "ftp://x/"}, "url"),
        ({"url": "http://10.0.0.1/"}, "url"),
        ({"url": good, "events": ["nothing"]}, "events"),
        ({"url": good, "events": "quota.warning"}, "events"),
        ({"url": good, "description": "x" * 256}, "description"),
        ({"url": good, "secret": "mine"}, "secret"),
    ]
    for body, field in cases:
        status, problem = boss("POST", "", body)
        assert (status, problem["field"]) == (422, field), body
    made = boss("POST", "", {"url": good})[1]
    for body, field in (({"active": "yes"}, "active"), ({"version": "1"}, "version"), ({"url": "x"}, "url")):
        status, problem = boss("PATCH", f"/{made['id']}", body)
        assert (status, problem["field"]) == (422, field), body
    assert boss("GET", "?cursor=nonsense")[0] == 422
    assert boss("GET", "/no-uuid")[0] in (404, 422)
