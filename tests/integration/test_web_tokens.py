"""The page of one's own API tokens."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from werkzeug.test import TestResponse

from tests.integration.web_support import ALICE, BOB, HTMX, Site, token
from webapp.extensions import reading
from webapp.models import ApiToken, AuditEntry
from webapp.services import memberships, organizations, personal_tokens
from webapp.services.organizations import Actor
from webapp.services.personal_tokens import Maker, NewToken

PAGE = "/settings/tokens"
GOOD = {"name": "Nightly <report>", "scopes": "read", "days": "30"}


@pytest.fixture
def site(make_app: Callable[..., Flask]) -> Site:
    made = Site(make_app(public_url="http://bot.example.com"))
    made.alice = made.add(ALICE)  # type: ignore[attr-defined]
    return made


def stored(site: Site) -> list[Any]:
    with site.app.app_context(), reading() as connection:
        return list(connection.execute(select(ApiToken.__table__).order_by(ApiToken.id)).all())


def clear_in(page: TestResponse) -> str:
    found = re.search(r'id="clear"[^>]* value="(sh_[^"]+)"', page.text)
    assert found, page.text
    return found[1]


def test_a_token_is_shown_once_works_and_ends_when_it_is_revoked(site: Site) -> None:
    browser, program = site.browser(ALICE), site.app.test_client()
    assert PAGE in browser.get("/settings").text
    assert "You have no tokens" in browser.get(PAGE).text
    made = browser.post(PAGE, GOOD)
    clear = clear_in(made)
    assert made.headers["Cache-Control"] == "no-store"
    assert "curl http://bot.example.com/api/tokens" in made.text
    assert "Nightly &lt;report&gt;" in made.text
    assert clear not in browser.get(PAGE).text
    signed = {"Authorization": f"Bearer {clear}"}
    assert program.get("/api/tokens", headers=signed).status_code == 200
    [row] = stored(site)
    assert row.prefix in browser.get(PAGE).text
    assert f"{PAGE}/{row.id}/limits" in browser.get(PAGE).text
    assert row.expires_at is not None
    assert browser.get(f"{PAGE}/{row.id}/limits").status_code == 200
    assert site.browser().get(PAGE).status_code == 303
    site.add(BOB)
    assert site.browser(BOB).post(f"{PAGE}/{row.id}/revoke").status_code == 404
    ended = browser.post(f"{PAGE}/{row.id}/revoke", follow_redirects=True)
    assert "is revoked" in ended.text
    assert "Yes, revoke" not in ended.text
    assert program.get("/api/tokens", headers=signed).status_code == 401
    with site.app.app_context(), reading() as connection:
        acts = connection.scalars(select(AuditEntry.action).where(AuditEntry.subject == f"person:{site.alice}")).all()  # type: ignore[attr-defined]
    assert set(acts) == {"token.create", "token.revoke"}


def test_what_is_wrong_is_said_beside_its_field_and_nothing_is_lost(site: Site) -> None:
    browser = site.browser(ALICE)
    for given, field in (
        (GOOD | {"name": " "}, "name"),
        (GOOD | {"scopes": ""}, "scopes"),
        (GOOD | {"scopes": "everything"}, "scopes"),
        (GOOD | {"scopes": "sms"}, "scopes"),
        (GOOD | {"scopes": "admin"}, "scopes"),
        (GOOD | {"days": "12"}, "days"),
    ):
        refused = browser.post(PAGE, given)
        assert refused.status_code == 422, given
        assert f'id="fault-{field}"' in refused.text, given
        if field != "name":
            assert 'value="Nightly &lt;report&gt;"' in refused.text
        if given["days"] == "30":
            assert '<option value="30" selected>' in refused.text
    assert browser.post(PAGE, GOOD | {"organization": "nonsense"}).status_code == 422
    assert stored(site) == []
    assert "scope-admin" not in browser.get(PAGE).text
    offered = site.admin().get(PAGE).text
    assert 'id="scope-admin"' in offered
    assert 'id="scope-sms"' in offered


def test_a_form_that_is_sent_again_makes_no_second_token(site: Site) -> None:
    browser = site.browser(ALICE)
    page = browser.get(PAGE).text
    found = re.search(r'name="once" value="([^"]+)"', page)
    assert found, page
    form = {"csrf_token": token(browser.get(PAGE)), "once": found[1]}
    assert browser.client.post(PAGE, data=form | GOOD | {"name": " "}).status_code == 422, "what was refused may be mended"
    with ThreadPoolExecutor(2) as pool:
        clients = [site.browser(ALICE).client, browser.client]
        given = [(client, {**form, **GOOD, "csrf_token": token(client.get(PAGE))}) for client in clients]
        answers = list(pool.map(lambda each: each[0].post(PAGE, data=each[1]), given))
    assert sorted(answer.status_code for answer in answers) == [200, 303]
    [clear] = [clear_in(answer) for answer in answers if answer.status_code == 200]
    again = browser.post(PAGE, form | GOOD, follow_redirects=True)
    assert "This token was made already, and no second one" in again.text
    assert clear not in again.text
    assert len(stored(site)) == 1
    clear_in(browser.post(PAGE, form | GOOD | {"name": "Another"}))
    assert len(stored(site)) == 2


def test_hidden_characters_do_not_get_into_a_tokens_name(site: Site) -> None:
    clear_in(site.browser(ALICE).post(PAGE, GOOD | {"name": "Night\u202etropeR\u2066 \u200bx"}))
    assert stored(site)[0].name == "NighttropeR x"


def test_a_token_works_in_the_organization_that_was_chosen(site: Site) -> None:
    with site.app.app_context():
        other = organizations.create(Actor.operator("test"), "Other house").id
        memberships.add(Actor.operator("test"), other, ALICE)
    browser = site.browser(ALICE)
    assert "Other house" in browser.get(PAGE).text
    assert browser.post(PAGE, GOOD | {"organization": str(other), "days": ""}).status_code == 200
    [row] = stored(site)
    assert (row.organization_id, row.expires_at) == (other, None)
    assert "works in Other house" in browser.get(PAGE).text


def test_long_lists_come_a_page_at_a_time(site: Site) -> None:
    with site.app.app_context():
        alice = site.alice  # type: ignore[attr-defined]
        [here] = organizations.of_person(alice)
        for number in range(23):
            personal_tokens.create(Maker(alice, here.id, frozenset({"read"})), NewToken(f"number {number}", ["read"]))
    browser = site.browser(ALICE)
    first = browser.get(PAGE)
    assert (first.text.count('<li id="token-'), "number 22" in first.text, "number 2<" in first.text) == (20, True, False)
    found = re.search(r'hx-get="([^"]+after=[^"]+)"', first.text)
    assert found
    assert browser.get(found[1], headers=HTMX).text.count('<li id="token-') == 3
    assert "number 0<" in browser.get(found[1]).text
    assert browser.get(f"{PAGE}?after=nonsense").status_code == 200
