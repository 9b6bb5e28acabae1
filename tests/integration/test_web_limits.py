"""The pages of limits: an organization's budget, its limits, those of a member and of a token."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from html import unescape

import pytest
from flask import Flask
from sqlalchemy import select

from tests.integration.limits_support import OPERATOR, add_organization, organization_id, set_role
from tests.integration.web_support import ALICE, BOB, Browser, Site
from webapp.contracts.limits import Dimension
from webapp.extensions import reading, writing_session
from webapp.models import ApiToken, Organization, Person, PersonRole
from webapp.services import limits, people
from webapp.services.limits import LimitView, Owner, Typed

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
HERE = "/organization/limits"


@pytest.fixture
def site(make_app: Callable[..., Flask]) -> Site:
    return Site(make_app())


@pytest.fixture
def place(site: Site) -> uuid.UUID:
    with site.app.app_context():
        return organization_id()


def views(site: Site, owner: Owner) -> list[LimitView]:
    with site.app.app_context():
        return list(limits.show(owner, OPERATOR).limits)


def seen(page: str) -> str:
    found = re.search(r'name="seen" value="([^"]*)"', page)
    assert found
    return found[1]


def admin_of(site: Site, place: uuid.UUID, email: str = ALICE, role: PersonRole = PersonRole.ADMIN) -> Browser:
    person = site.add(email)
    with site.app.app_context():
        set_role(person, place, role)
    return site.browser(email)


def test_the_budget_and_its_alerts_are_set_first(site: Site, place: uuid.UUID) -> None:
    alice = admin_of(site, place)
    page = alice.get(HERE)
    assert "no budget" in page.text
    wrong = alice.post(HERE, {"do": "budget", "budget": "-5", "seen": seen(page.text)})
    assert wrong.status_code == 422
    assert 'value="-5"' in wrong.text
    assert 'id="fault-budget-budget"' in wrong.text
    assert alice.post(HERE, {"do": "budget", "budget": "1,250.50", "seen": seen(page.text)}).status_code == 303
    [view] = views(site, Owner.organization(place))
    assert (view.words, view.limit.by_house, view.budget) == ("$1,250.50 per month", False, True)
    late = alice.post(HERE, {"do": "budget", "budget": "9", "seen": seen(page.text)})
    assert late.status_code == 409
    assert "Somebody else changed these limits" in late.text
    assert "$1,250.50 per month" in late.text
    page = alice.get(HERE)
    for typed in ("101", "5, 0", "half"):
        assert alice.post(HERE, {"do": "alerts", "alert_percents": typed, "seen": seen(page.text)}).status_code == 422
    assert alice.post(HERE, {"do": "alerts", "alert_percents": "50, 90", "seen": seen(page.text)}).status_code == 303
    with site.app.app_context(), reading() as connection:
        assert connection.execute(select(Organization.preferences)).scalar_one() == {"alert_percents": [50, 90]}
    assert alice.post(HERE, {"do": "nonsense", "seen": "0"}).status_code == 422


def test_limits_are_added_changed_and_removed_and_nothing_typed_is_lost(site: Site, place: uuid.UUID) -> None:
    alice = admin_of(site, place)
    add = {"do": "add", "maximum": "1,000", "dimension": "requests", "window": "day", "provider": "demo", "label": "ours"}
    wrong = alice.post(HERE, add | {"seen": "0", "maximum": "1.5", "each": "1"})
    assert wrong.status_code == 422
    assert 'value="1.5"' in wrong.text
    assert re.search(r'<option value="demo" selected>', wrong.text)
    assert re.search(r'name="each" value="1" checked', wrong.text)
    assert alice.post(HERE, add | {"seen": "0"}).status_code == 303
    page = alice.get(HERE)
    assert "1,000 requests per day at demo" in unescape(page.text)
    [view] = views(site, Owner.organization(place))
    assert (view.limit.label, view.limit.by_house) == ("ours", False)
    change = {"do": "change", "id": view.limit.id, "seen": seen(page.text), "label": "theirs"}
    wrong = alice.post(HERE, change | {"maximum": "-1"})
    assert wrong.status_code == 422
    assert 'value="theirs"' in wrong.text
    assert f'id="fault-{view.limit.id}-maximum"' in wrong.text
    assert alice.post(HERE, change | {"maximum": "7"}).status_code == 303
    assert views(site, Owner.organization(place))[0].words == "7 requests per day at demo"
    page = alice.get(HERE)
    assert alice.post(HERE, {"do": "remove", "id": view.limit.id, "seen": seen(page.text)}).status_code == 303
    assert views(site, Owner.organization(place)) == []
    # It is gone: whoever had the page open is told.
    assert alice.post(HERE, change | {"maximum": "8", "seen": seen(alice.get(HERE).text)}).status_code == 409
    forged = alice.post(HERE, add | {"by_house": "1", "seen": seen(alice.get(HERE).text)})
    assert forged.status_code == 403


def test_members_see_limits_and_change_none(site: Site, place: uuid.UUID) -> None:
    bob = site.add(BOB)
    with site.app.app_context():
        limits.set_budget(Owner.organization(place), "50", OPERATOR)
        limits.add(Owner.member(place, bob), Typed("3", Dimension.REQUESTS), OPERATOR)
        elsewhere = add_organization("Elsewhere")
    browser = site.browser(BOB)
    page = browser.get(HERE)
    assert "$50.00 per month" in page.text
    assert 'name="budget"' not in page.text
    assert "Add a limit" not in page.text
    assert browser.post(HERE, {"do": "budget", "budget": "1", "seen": "0"}).status_code == 403
    own = browser.get(f"/organization/{place}/members/{bob}/limits")
    assert "3 requests per month" in own.text
    assert "Add a limit" not in own.text
    with site.app.app_context(), reading() as connection:
        other = connection.execute(select(Person.id).where(Person.id != bob)).scalar_one()
    for path in (f"/organization/{elsewhere}/limits", f"/organization/{place}/members/{other}/limits"):
        assert browser.get(path).status_code == 404
        assert browser.post(path, {"do": "add", "maximum": "1"}).status_code == 404
    assert site.browser().get(HERE).status_code == 303


def test_managers_set_limits_of_members(site: Site, place: uuid.UUID) -> None:
    manager = admin_of(site, place, ALICE, PersonRole.MANAGER)
    bob = site.add(BOB)
    path = f"/organization/{place}/members/{bob}/limits"
    assert path in manager.get(f"/organization/{place}/members").text
    page = manager.get(path)
    given = {"do": "add", "maximum": "2.50", "dimension": "cost", "window": "day", "seen": seen(page.text)}
    assert manager.post(path, given).status_code == 303
    assert manager.post(path, given | {"dimension": "tokens", "maximum": "5"}).status_code == 409
    [view] = views(site, Owner.member(place, bob))
    assert view.words == "$2.50 per day"
    assert manager.post(HERE, {"do": "budget", "budget": "5", "seen": "0"}).status_code == 403


def test_a_tokens_limits_are_its_owners(site: Site) -> None:
    alice = site.add(ALICE)
    site.add(BOB)
    with site.app.app_context():
        with writing_session() as session:
            people.make_token(session, session.get_one(Person, alice), "my <program>", ["chat"], None, "test")
        with reading() as connection:
            token = connection.execute(select(ApiToken.id)).scalar_one()
    path = f"/settings/tokens/{token}/limits"
    browser = site.browser(ALICE)
    page = browser.get(path)
    assert "my &lt;program&gt;" in page.text
    given = {"do": "add", "maximum": "5", "dimension": "credits", "window": "hour", "seen": seen(page.text)}
    assert browser.post(path, given).status_code == 303
    assert [view.words for view in views(site, Owner.token(token))] == ["5 credits per hour"]
    assert site.browser(BOB).get(path).status_code == 404
    assert site.browser(BOB).post(path, given).status_code == 404
    assert site.admin().get(path).status_code == 200


def test_the_installations_administrators_mark_what_nobody_else_may_change(site: Site, place: uuid.UUID) -> None:
    admin = site.admin()
    page = admin.get(f"/organization/{place}/limits")
    assert 'name="by_house" value="1" checked' in page.text
    given = {"do": "add", "maximum": "5", "dimension": "requests", "window": "day", "by_house": "1", "seen": seen(page.text)}
    assert admin.post(f"/organization/{place}/limits", given).status_code == 303
    [view] = views(site, Owner.organization(place))
    alice = admin_of(site, place)
    page = alice.get(HERE)
    assert "set by the installation" in page.text
    change = {"do": "change", "id": view.limit.id, "maximum": "9", "label": "", "seen": seen(page.text)}
    assert alice.post(HERE, change).status_code == 403


def test_the_installations_administrators_give_an_organization_a_plan(site: Site, place: uuid.UUID) -> None:
    admin, path = site.admin(), f"/organization/{place}/limits"
    unsaid = admin.post(path, {"do": "plan", "plan": "business", "reason": ""})
    assert unsaid.status_code == 422
    assert '<option value="business" selected>' in unsaid.text
    assert 'id="fault-plan-reason"' in unsaid.text
    assert admin.post(path, {"do": "plan", "plan": "business", "reason": "they all pay"}).status_code == 303
    assert '<option value="business" selected>' in admin.get(path).text
    assert admin.post(path, {"do": "plan", "plan": "business", "reason": "again"}).status_code == 422
    assert admin.post(path, {"do": "plan", "plan": "", "reason": "over"}).status_code == 303
    alice = admin_of(site, place)
    assert "A plan for all its people" not in alice.get(HERE).text
    assert alice.post(HERE, {"do": "plan", "plan": "enterprise", "reason": "please"}).status_code == 403
