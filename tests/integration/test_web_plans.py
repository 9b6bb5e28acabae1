"""The pages of plans and people: made, changed, deleted, looked for, and changed many at once."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from html import unescape

import pytest
from flask import Flask
from sqlalchemy import select, update

from tests.integration.web_support import ADMIN, ALICE, BOB, HTMX, Browser, Site
from webapp.extensions import reading, writing
from webapp.models import Organization, Person, PersonRole, Plan
from webapp.services import people_lists
from webapp.web import people_bulk_page, plans_page

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
PLANS, PEOPLE = "/dashboard/plans", "/dashboard/people"


@pytest.fixture
def site(make_app: Callable[..., Flask]) -> Site:
    return Site(make_app())


@pytest.fixture
def admin(site: Site) -> Browser:
    return site.admin()


def form(**given: str) -> dict[str, str]:
    """The fields of a plan as a browser sends them."""
    usual = {"name": "Team", "rank": "3", "priority": "60", "max_output_tokens": "900", "context_tokens": "1000"}
    return usual | {f"limit-{key}": "" for key in ("messages", "content", "sentiment", "optimisation", "tokens")} | given


def stored(site: Site, code: str) -> Plan | None:
    with site.app.app_context(), reading() as connection:
        return connection.execute(select(Plan.__table__).where(Plan.code == code)).first()  # type: ignore[return-value]


def plan_of(site: Site, email: str) -> str:
    with site.app.app_context(), reading() as connection:
        return connection.execute(select(Person.plan_code).where(Person.email == email)).scalar_one()


@pytest.mark.parametrize("path", [PLANS, f"{PLANS}/free", f"{PLANS}/free/limits", PEOPLE, f"{PEOPLE}/{uuid.UUID(int=1)}"])
def test_the_pages_are_for_administrators_of_the_installation(site: Site, path: str) -> None:
    site.add(ALICE, role=PersonRole.MANAGER)
    alice = site.browser(ALICE)
    assert alice.get(path).status_code == 403
    assert site.browser().get(path).status_code == 303
    for each in (PLANS, f"{PLANS}/free", f"{PLANS}/free/delete", f"{PLANS}/free/limits", f"{PEOPLE}/bulk"):
        assert alice.post(each, form()).status_code == 403


def test_a_plan_is_made_and_changed_by_its_form(site: Site, admin: Browser) -> None:
    made = admin.post(
        PLANS, form(code="team", **{"limit-messages": "1,000", "limit-cost_microusd": "0.5", "silent-tokens": "1"})
    )
    assert (made.status_code, made.location) == (303, f"{PLANS}/team")
    plan = stored(site, "team")
    assert plan is not None
    assert plan.limits == {
        "messages": 1000,
        "content": None,
        "sentiment": None,
        "optimisation": None,
        "cost_microusd": 500_000,
    }
    page = admin.get(f"{PLANS}/team")
    assert 'value="0.50"' in page.text
    assert re.search(r'name="silent-tokens" value="1" checked', page.text)
    saved = admin.post(f"{PLANS}/team", form(seen="0", name="The team", **{"feature-urgent": "1"}))
    assert saved.status_code == 303
    late = admin.post(f"{PLANS}/team", form(seen="0", name="Mine"))
    assert late.status_code == 409
    assert 'value="Mine"' in late.text
    plan = stored(site, "team")
    assert plan is not None
    assert (plan.name, plan.features, plan.version) == ("The team", ["urgent"], 1)
    assert "The team" in admin.get(PLANS).text


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("limit-messages", "-5"),
        ("limit-tokens", "1.5"),
        ("limit-cost_microusd", "0.0000001"),
        ("limit-cost_microusd", "9" * 30),
        ("priority", "201"),
        ("rank", ""),
        ("max_output_tokens", "many"),
    ],
)
def test_a_wrong_number_is_named_and_nothing_that_was_typed_is_lost(admin: Browser, name: str, typed: str) -> None:
    for path, more in ((PLANS, {"code": "team"}), (f"{PLANS}/starter", {"seen": "0"})):
        given = form(name="A <name>", **more) | {"limit-content": "77", name: typed, "feature-batch": "1"}
        page = admin.post(path, given)
        assert page.status_code == 422
        field = name.removeprefix("limit-")
        assert f'id="fault-{field}"' in page.text
        assert f'aria-describedby="fault-{field}' in page.text
        assert f'name="{name}"' in page.text
        assert re.search(rf'name="{name}"[^>]* value="{re.escape(typed)}"', page.text)
        assert 'value="77"' in page.text
        assert 'value="A &lt;name&gt;"' in page.text
        assert re.search(r'name="feature-batch" value="1" checked', page.text)


def test_a_number_and_a_tick_that_contradict_each_other_are_asked_about(admin: Browser) -> None:
    page = admin.post(PLANS, form(code="team", **{"limit-messages": "5", "silent-messages": "1"}))
    assert page.status_code == 422
    assert "Clear the number" in page.text


def test_a_plan_in_use_says_how_many_and_takes_a_replacement(site: Site, admin: Browser) -> None:
    site.add(ALICE, plan="starter")
    refused = admin.post(f"{PLANS}/starter/delete")
    assert refused.status_code == 409
    assert "1 person is on this plan" in refused.text
    unsaid = admin.post(f"{PLANS}/starter/delete", {"replacement": "business", "reason": ""})
    assert unsaid.status_code == 422
    assert '<option value="business" selected>' in unsaid.text
    done = admin.post(f"{PLANS}/starter/delete", {"replacement": "business", "reason": "a new price list"})
    assert (done.status_code, done.location) == (303, PLANS)
    assert plan_of(site, ALICE) == "business"
    assert admin.get(f"{PLANS}/starter").status_code == 404
    assert admin.post(f"{PLANS}/free/delete", {"replacement": "business", "reason": "x"}).status_code == 409


def test_a_plan_of_too_many_people_is_not_deleted_while_a_page_waits(
    site: Site, admin: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans_page, "_MOVED_MAX", 1)
    for email in (ALICE, BOB):
        site.add(email, plan="starter")
    refused = admin.post(f"{PLANS}/starter/delete", {"replacement": "business", "reason": "x"})
    assert refused.status_code == 409
    assert "on the page of people first" in refused.text
    assert plan_of(site, ALICE) == "starter"


def test_a_plans_other_limits_are_set_on_their_page(site: Site, admin: Browser) -> None:
    path = f"{PLANS}/free/limits"
    given = {"do": "add", "seen": "0", "maximum": "5", "dimension": "requests", "window": "hour", "provider": "demo"}
    assert admin.post(path, given).status_code == 303
    page = admin.get(path)
    assert "5 requests per hour at demo" in page.text
    plan = stored(site, "free")
    assert plan is not None
    assert plan.more_limits[0]["maximum"] == 5
    assert "1 limit by the hour" in " ".join(admin.get(f"{PLANS}/free").text.split())


def test_people_are_looked_for_and_listed_a_page_at_a_time(site: Site, admin: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    site.add(ALICE, plan="starter", phone="+15005550006")
    site.add(BOB)
    site.change_person(BOB, active=False, full_name="Bob <b>")
    assert ALICE in admin.get(PEOPLE).text
    assert "Bob &lt;b&gt;" in admin.get(PEOPLE).text
    for query, found in [
        ("q=alice", {ALICE}),
        ("q=555-0006", {ALICE}),
        ("plan=starter", {ALICE}),
        ("active=no", {BOB}),
        ("active=yes", {ADMIN, ALICE}),
        ("place=default organization", {ADMIN, ALICE, BOB}),
        ("q=%25", set()),
        ("q=nobody", set()),
    ]:
        page = admin.get(f"{PEOPLE}?{query}", headers=HTMX)
        assert {email for email in (ADMIN, ALICE, BOB) if email in page.text} == found, query
        assert "<html" not in page.text
    wrong = admin.get(f"{PEOPLE}?place=Nowhere")
    assert wrong.status_code == 422
    assert 'id="fault-place"' in wrong.text
    monkeypatch.setattr(people_lists, "PAGE", 2)
    first = admin.get(f"{PEOPLE}?active=")
    following = re.search(r'href="([^"]+after=[^"]+)"', first.text)
    assert following
    second = admin.get(unescape(following[1]))
    assert "Bob &lt;b&gt;" in second.text
    assert ALICE not in second.text
    newest = admin.get(f"{PEOPLE}?order=newest")
    assert "Bob &lt;b&gt;" in newest.text
    assert 'aria-label="Choose Administrator"' not in newest.text
    following = re.search(r'href="([^"]+after=[^"]+)"', newest.text)
    assert following
    assert 'aria-label="Choose Administrator"' in admin.get(unescape(following[1])).text


def test_a_person_in_detail_and_a_change_of_plan_with_its_reason(site: Site, admin: Browser) -> None:
    alice = site.add(ALICE, phone="+15005550006")
    path = f"{PEOPLE}/{alice}"
    page = admin.get(path)
    assert "+15005550006" in page.text
    assert "never changed" in page.text
    assert "10 messages" in page.text or "of 10" in page.text
    unsaid = admin.post(f"{path}/plan", {"plan": "business", "reason": " "})
    assert unsaid.status_code == 422
    assert '<option value="business" selected>' in unsaid.text
    assert 'id="fault-reason"' in unsaid.text
    assert admin.post(f"{path}/plan", {"plan": "free", "reason": "x"}).status_code == 422
    assert admin.post(f"{path}/plan", {"plan": "business", "reason": "a <good> customer"}).status_code == 303
    assert plan_of(site, ALICE) == "business"
    page = admin.get(path)
    assert "a &lt;good&gt; customer" in page.text
    assert "month started afresh" in page.text
    with site.app.app_context(), writing() as connection:
        connection.execute(update(Organization).values(plan_code="enterprise"))
    assert "they have Enterprise" in admin.get(path).text
    assert admin.post(f"{path}/month", {"month_reason": ""}).status_code == 422
    assert admin.post(f"{path}/month", {"month_reason": "sorry"}).status_code == 303
    assert admin.post(f"{path}/state", {"to": "inactive"}).status_code == 303
    assert "Let them in again" in admin.get(path).text
    assert admin.get(f"{PEOPLE}/{uuid.uuid4()}").status_code == 404
    with site.app.app_context(), reading() as connection:
        me = connection.execute(select(Person.id).where(Person.email == ADMIN)).scalar_one()
    assert admin.post(f"{PEOPLE}/{me}/state", {"to": "inactive"}).status_code == 409


def test_many_are_changed_at_once_after_one_question(site: Site, admin: Browser) -> None:
    people = [str(site.add(email)) for email in (ALICE, BOB)]
    assert admin.post(f"{PEOPLE}/bulk", {"act": "plan"}).status_code == 422
    asked = admin.post(f"{PEOPLE}/bulk", {"act": "plan", "person": people})  # type: ignore[dict-item]
    assert "Change the plan for 2 people?" in asked.text
    assert plan_of(site, ALICE) == "free"
    given = {"act": "plan", "person": people, "confirmed": "1"}
    wrong = admin.post(f"{PEOPLE}/bulk", given | {"to_plan": "business"})  # type: ignore[arg-type]
    assert wrong.status_code == 422
    assert '<option value="business" selected>' in wrong.text
    done = admin.post(f"{PEOPLE}/bulk", given | {"to_plan": "business", "reason": "the team"})  # type: ignore[arg-type]
    assert "2 changed, 0 were so already, 0 failed" in done.text
    assert (plan_of(site, ALICE), plan_of(site, BOB)) == ("business", "business")
    gone = [*people, str(uuid.uuid4())]
    report = admin.post(
        f"{PEOPLE}/bulk",
        {"act": "plan", "person": gone, "confirmed": "1", "to_plan": "business", "reason": "x"},  # type: ignore[dict-item]
    )
    assert "0 changed, 2 were so already, 1 failed" in report.text
    assert "There is no such person." in report.text


def test_all_who_match_are_changed_some_at_a_time_with_their_progress(
    site: Site, admin: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people_bulk_page, "STEP", 2)
    for number in range(3):
        site.add(f"p{number}@example.com", plan="starter")
    site.add(ALICE)
    asked = admin.post(f"{PEOPLE}/bulk", {"act": "plan", "all": "1", "plan": "starter"})
    assert "for 3 people?" in asked.text
    page = admin.post(f"{PEOPLE}/bulk", fields(asked.text) | {"to_plan": "business", "reason": "raised"}, headers=HTMX)
    assert "2 of 3 people so far" in page.text
    assert '<progress value="2" max="3"' in page.text
    assert plan_of(site, "p2@example.com") == "starter"
    done = admin.post(f"{PEOPLE}/bulk", fields(page.text), headers=HTMX)
    assert "3 changed, 0 were so already, 0 failed" in done.text
    assert "Go on" not in done.text
    assert plan_of(site, "p2@example.com") == "business"
    assert plan_of(site, ALICE) == "free"
    shut = admin.post(f"{PEOPLE}/bulk", {"act": "deactivate", "all": "1", "plan": "business", "confirmed": "1", "total": "3"})
    assert "2 changed" in shut.text


def fields(page: str) -> dict[str, str]:
    """The hidden fields of the form of many people."""
    part = page[page.index('id="bulk"') :]
    return {name: unescape(value) for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', part)}
