"""The pages of outgoing webhooks."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from html import unescape

import pytest
from flask import Flask
from sqlalchemy import select

from tests.fakes.receiver import FakeReceiver
from tests.fakes.server import Fault
from tests.integration.web_support import ALICE, HTMX, Site, hidden
from webapp.extensions import now, reading, writing
from webapp.models import PersonRole, WebhookDelivery, WebhookEndpoint
from webapp.pipeline import webhook_send, webhooks
from webapp.services import memberships, organizations
from webapp.services.organizations import Actor

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
OPERATOR = Actor.operator("a test")
BOSS, STRANGER = "boss@example.com", "stranger@example.com"


@pytest.fixture
def receiver() -> Iterator[FakeReceiver]:
    with FakeReceiver() as fake:
        yield fake


class Town(Site):
    """The Weavers with a manager and a member, and a manager of the Dyers."""

    def __init__(self, app: Flask) -> None:
        super().__init__(app)
        with app.app_context():
            self.weavers = organizations.create(OPERATOR, "Weavers").id
            dyers = organizations.create(OPERATOR, "Dyers").id
        self.place = f"/organization/{self.weavers}/webhooks"
        for email, organization_id, role in (
            (BOSS, self.weavers, PersonRole.MANAGER),
            (ALICE, self.weavers, PersonRole.MEMBER),
            (STRANGER, dyers, PersonRole.MANAGER),
        ):
            self.add(email)
            with app.app_context():
                memberships.add(OPERATOR, organization_id, email, role)

    def endpoint(self) -> str:
        """The page of the only webhook."""
        with self.app.app_context(), reading() as connection:
            return f"{self.place}/{connection.execute(select(WebhookEndpoint.id)).scalar_one()}"

    def note(self, count: int = 1) -> list[uuid.UUID]:
        """Events, as a transaction writes them."""
        with self.app.app_context(), writing() as connection:
            return [webhooks.note(connection, "quota.warning", self.weavers, dict, now())[0] for _ in range(count)]


@pytest.fixture
def town(make_app: Callable[..., Flask]) -> Town:
    return Town(make_app(allow_outbound="127.0.0.1", webhook_timeout_s=2.0))


def secret_of(page: str) -> str:
    found = re.search(r'id="secret" readonly value="([^"]+)"', page)
    assert found, "the page shows no secret"
    return unescape(found[1])


def test_a_webhook_is_added_tested_renewed_switched_and_removed(town: Town, receiver: FakeReceiver) -> None:
    boss = town.browser(BOSS)
    empty = boss.get(town.place).text
    assert "Add its address below" in empty
    assert "Webhook(os.environ" in unescape(empty)
    refused = boss.post(town.place, {"url": "http://10.0.0.1/x", "description": "CRM <b>"})
    assert refused.status_code == 422
    assert "is an internal address: if it is meant, ask the operator to allow it" in refused.text
    assert "CRM &lt;b&gt;" in refused.text
    added = boss.post(town.place, {"url": receiver.hook, "description": "CRM <b>", "events": "quota.warning"})
    receiver.secrets.append(secret_of(added.text))
    here = town.endpoint()
    shown = boss.get(here)
    assert receiver.secrets[0] not in shown.text
    assert "Nothing was sent yet" in shown.text
    assert "arrived: the receiver answered 204" in boss.post(f"{here}/test", headers=HTMX).text
    receiver.faults.append(Fault(status=500, body=b"<i>oh no</i>"))
    failed = boss.post(f"{here}/test").text
    assert "did not arrive. It answered 500." in failed
    assert "&lt;i&gt;oh no" in failed
    seen = {"seen": hidden(shown, "seen")}
    changed = boss.post(here, {"url": receiver.hook, "description": "Till"} | seen, follow_redirects=True)
    assert "The webhook was saved." in changed.text
    assert boss.post(here, {"url": receiver.hook, "description": "Tills"} | seen).status_code == 409
    seen = {"seen": hidden(changed, "seen")}
    bad = boss.post(here, {"url": "nonsense", "description": "Till"} | seen)
    assert (bad.status_code, 'value="nonsense"' in bad.text) == (422, True)
    renewed = boss.post(f"{here}/rotate", seen)
    receiver.secrets.append(secret_of(renewed.text))
    assert boss.post(f"{here}/rotate", seen).status_code == 409
    assert "arrived" in boss.post(f"{here}/test", headers=HTMX).text
    for to, word in (("off", "The webhook is off"), ("on", "The webhook is on")):
        seen = {"seen": hidden(boss.get(here), "seen")}
        assert word in boss.post(f"{here}/state", {"to": to} | seen, follow_redirects=True).text
    seen = {"seen": hidden(boss.get(here), "seen")}
    assert "The webhook was removed." in boss.post(f"{here}/remove", seen, follow_redirects=True).text
    assert boss.get(here).status_code == 404


def test_forms_that_are_sent_again_make_no_second_webhook_and_no_third_secret(town: Town, receiver: FakeReceiver) -> None:
    boss = town.browser(BOSS)
    once = re.search(r'name="once" value="([^"]+)"', boss.get(town.place).text)
    assert once
    form = {"url": receiver.hook, "once": once[1]}
    assert boss.post(town.place, form | {"url": "nonsense"}).status_code == 422
    first = secret_of(boss.post(town.place, form).text)
    again = boss.post(town.place, form, follow_redirects=True)
    assert "This webhook was added already, and no second one" in again.text
    assert first not in again.text
    here = town.endpoint()

    page = boss.get(here)
    assert 'id="drop"' not in page.text
    seen = {"seen": hidden(page, "seen")}
    renewed = boss.post(f"{here}/rotate", seen)
    receiver.secrets += [first, secret_of(renewed.text)]
    reloaded = boss.post(f"{here}/rotate", seen)
    assert (reloaded.status_code, "Nothing was renewed" in reloaded.text) == (409, True)
    seen = {"seen": hidden(renewed, "seen")}
    unsure = boss.post(f"{here}/rotate", seen)
    assert (unsure.status_code, 'id="fault-drop"' in unsure.text) == (422, True)
    tested = boss.post(f"{here}/test", headers=HTMX).text
    assert "arrived" in tested, "the first secret still signs"
    assert tested.count('<div id="log" hx-swap-oob="true">') == 1
    assert tested.count('id="delivery-') == 1
    assert secret_of(boss.post(f"{here}/rotate", seen | {"drop": "yes"}).text) not in receiver.secrets


def test_the_log_is_paged_and_a_message_is_sent_again(town: Town, receiver: FakeReceiver) -> None:
    boss = town.browser(BOSS)
    receiver.secrets.append(secret_of(boss.post(town.place, {"url": receiver.hook}).text))
    here = town.endpoint()
    ids = town.note(23)
    receiver.faults.append(Fault(status=410))
    with town.app.app_context():
        webhook_send.send(ids[-1])
    page = boss.get(here).text
    assert "It was switched off. It answered 410" in page
    assert page.count('id="delivery-') == 20
    assert not re.search(r'="[^"]*<time', page)
    older = re.search(r'<li class="older"><a href="([^"]+)"', page)
    assert older
    lines = boss.get(unescape(older[1]), headers=HTMX).text
    assert (lines.count('id="delivery-'), "<html" in lines) == (3, False)
    again = f"{here}/deliveries/{ids[-1]}/resend"
    assert boss.post(again).status_code == 409
    boss.post(f"{here}/state", {"to": "on", "seen": hidden(boss.get(here), "seen")})
    assert "on its way again" in boss.post(again, follow_redirects=True).text
    with town.app.app_context():
        webhook_send.send(ids[-1])
        with reading() as connection:
            query = select(WebhookDelivery.state).where(WebhookDelivery.id == ids[-1])
            assert connection.execute(query).scalar_one() == "delivered"


def test_the_pages_are_for_managers_of_the_organization(town: Town, receiver: FakeReceiver) -> None:
    town.browser(BOSS).post(town.place, {"url": receiver.hook})
    here = town.endpoint()
    posts = ("", "/test", "/rotate", "/state", "/remove", f"/deliveries/{uuid.uuid4()}/resend")
    for email, status in ((STRANGER, 404), (ALICE, 403)):
        browser = town.browser(email)
        assert browser.get(town.place).status_code == browser.get(here).status_code == status
        assert browser.post(town.place, {"url": receiver.hook}).status_code == status
        assert [browser.post(here + path, {"seen": "0"}).status_code for path in posts] == [status] * len(posts)
        assert (town.place in browser.get(f"/organization/{town.weavers}").text) is False
    assert receiver.requests == []
    assert town.place in town.browser(BOSS).get(f"/organization/{town.weavers}").text
    assert town.browser().get(town.place).location.startswith("/login")
