"""The routing page: rules in their order, and which model would serve what."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from tests.fakes.openai import FakeOpenAI
from tests.integration.web_support import ALICE, HTMX, Browser, Site
from webapp.extensions import reading
from webapp.models import AuditEntry, Organization, PersonRole, RouteRule
from webapp.services import providers, routes
from webapp.services.routes import RuleValues

HOME = "/dashboard/routing"


@pytest.fixture
def site(openai: FakeOpenAI, make_app: Callable[..., Flask]) -> Site:
    return Site(make_app())


def rules(site: Site) -> list[Any]:
    """What is stored, in order."""
    with site.app.app_context(), reading() as connection:
        return list(connection.execute(select(RouteRule.__table__).order_by(RouteRule.position)).all())


def add(site: Site, name: str, *targets: str, **more: Any) -> str:
    """A rule; its id."""
    with site.app.app_context():
        return str(routes.add(RuleValues(name, targets or ("openai",), **more), "test").id)


def of_rule(page: str, rule_id: str) -> str:
    """The part of the page about one rule."""
    part = page[page.index(f'id="rule-{rule_id}"') :]
    return part[: part.index("</details>\n    </li>")] if "</details>\n    </li>" in part else part


def form(**given: str) -> dict[str, str]:
    """The fields of a rule as a browser sends them."""
    return {"name": "", "operation": "", "category": "", "plan": "", "targets": "", "another": "", "max_cost": ""} | given


@pytest.mark.parametrize("role", [PersonRole.MEMBER, PersonRole.MANAGER])
def test_the_page_is_for_administrators(site: Site, role: PersonRole) -> None:
    rule = add(site, "Mine")
    site.add(ALICE, role=role)
    alice = site.browser(ALICE)
    assert alice.get(HOME).status_code == 403
    for path in (HOME, f"{HOME}/{rule}", f"{HOME}/{rule}/move", f"{HOME}/{rule}/switch", f"{HOME}/{rule}/remove"):
        assert alice.post(path, form(name="x", targets="demo")).status_code == 403
        assert site.admin().client.post(path, data=form(name="x", targets="demo")).status_code == 400
    answer = site.browser().get(HOME)
    assert (answer.status_code, answer.location) == (303, "/login?next=/dashboard/routing")
    assert [found.name for found in rules(site)] == ["Mine"]
    assert HOME not in alice.get("/").text
    assert HOME in site.admin().get("/").text


def test_without_rules_the_page_explains_who_serves(site: Site) -> None:
    page = site.admin().get(HOME).text
    assert "There is no rule, and none is needed" in page
    assert re.search(r"<code>openai/gpt-4.1-mini</code>: at most \$0\.00\d+", page)
    assert "Decided by the providers that are ready." in page


def test_a_rule_is_added_from_what_was_typed_and_what_was_chosen(site: Site) -> None:
    admin = site.admin()
    given = form(
        name="Code",
        operation="chat",
        category="coding",
        plan="free",
        targets="openai/gpt-4.1\r\n\r\n  demo ",
        another="anthropic",
        max_cost="$0.05",
    )
    answer = admin.post(HOME, given)
    (rule,) = rules(site)
    assert (answer.status_code, answer.location) == (303, f"{HOME}#rule-{rule.id}")
    assert rule.targets == ["openai/gpt-4.1", "demo", "anthropic"]
    assert (rule.operation, rule.category, rule.plan_code, rule.max_cost_microusd) == ("chat", "coding", "free", 50_000)
    page = admin.get(HOME).text
    assert "The rule “Code” was added" in page
    mine = of_rule(page, str(rule.id))
    assert "1. Code" in mine
    assert "at most $0.05 a request" in mine
    assert 'value="0.05"' in mine
    assert "Anthropic: ANTHROPIC_API_KEY is not set." in mine
    assert "There is no rule" not in page
    with site.app.app_context(), reading() as connection:
        entry = connection.execute(select(AuditEntry.action, AuditEntry.actor)).one()
    assert entry.action == "route.add"
    assert entry.actor.startswith("person:")


@pytest.mark.parametrize(
    ("field", "typed", "words"),
    [
        ("name", " ", "Give the rule a name"),
        ("targets", "", "Name 1 to 20 models"),
        ("targets", "nobody/x", "there is no text provider"),
        ("operation", "Two Words", "It is one word"),
        ("plan", "gold", "There is no plan"),
        ("max_cost", "cheap", "Write an amount of dollars"),
        ("max_cost", "0", "Write an amount of dollars"),
        ("max_cost", "-1", "Write an amount of dollars"),
        ("max_cost", "1e400", "Write an amount of dollars"),
        ("max_cost", "NaN", "Write an amount of dollars"),
        ("max_cost", "0.00000001", "The smallest amount"),
    ],
)
def test_a_fault_is_beside_its_field_and_what_was_typed_is_kept(site: Site, field: str, typed: str, words: str) -> None:
    given = form(name="A <b>rule</b>", targets="demo", category="coding") | {field: typed}
    answer = site.admin().post(HOME, given)
    assert answer.status_code == 422
    assert re.search(rf'id="fault-new-{field}">[^<]*{words}', answer.text)
    assert re.search(rf'id="new-{field}"[^>]*aria-invalid="true"', answer.text)
    assert f'href="#new-{field}"' in answer.text
    assert 'value="coding"' in answer.text
    assert "<b>rule" not in answer.text
    assert rules(site) == []


def test_a_rule_is_edited_and_keeps_its_place_its_switch_and_its_organization(site: Site) -> None:
    with site.app.app_context(), reading() as connection:
        organization = connection.execute(select(Organization.id)).scalars().first()
    first = add(site, "First", enabled=False, organization_id=organization)
    add(site, "Second")
    answer = site.admin().post(f"{HOME}/{first}", form(name="Renamed", targets="demo"))
    assert (answer.status_code, answer.location) == (303, f"{HOME}#rule-{first}")
    found = rules(site)
    assert [rule.name for rule in found] == ["Renamed", "Second"]
    assert (found[0].enabled, found[0].organization_id, found[0].targets) == (False, organization, ["demo"])


def test_a_fault_in_an_edited_rule_opens_that_rule(site: Site) -> None:
    first, second = add(site, "First"), add(site, "Second")
    answer = site.admin().post(f"{HOME}/{second}", form(name="Second", targets="nobody"))
    assert answer.status_code == 422
    assert "<details open>" in of_rule(answer.text, second)
    assert f'id="fault-{second}-targets"' in of_rule(answer.text, second)
    assert answer.text.count("<details open>") == 1
    assert f'id="fault-{first}-targets"' not in answer.text
    assert rules(site)[1].targets == ["openai"]


def test_rules_change_places(site: Site) -> None:
    admin = site.admin()
    a, b = add(site, "A"), add(site, "B")
    assert admin.post(f"{HOME}/{b}/move", {"to": "up"}).location == f"{HOME}#rule-{b}"
    assert [rule.name for rule in rules(site)] == ["B", "A"]
    assert "“B” is number 1 now." in admin.get(HOME).text
    assert admin.post(f"{HOME}/{b}/move", {"to": "up"}).status_code == 303
    part = admin.post(f"{HOME}/{b}/move", {"to": "down"}, headers=HTMX)
    assert part.status_code == 200
    assert part.text.lstrip().startswith('<div id="rules">')
    assert part.text.index(f"rule-{a}") < part.text.index(f"rule-{b}")
    assert "“B” is number 2 now." in part.text


def test_a_rule_is_switched_off_and_on(site: Site) -> None:
    admin = site.admin()
    rule = add(site, "Mine", "openai/gpt-4.1", max_cost_microusd=123_457)
    admin.post(f"{HOME}/{rule}/switch", {"to": "off"})
    page = admin.get(HOME).text
    assert '<span class="badge">off</span>' in of_rule(page, rule)
    assert "All rules are switched off" in page
    assert admin.post(f"{HOME}/{rule}/switch", {"to": "on"}, headers=HTMX).status_code == 200
    (found,) = rules(site)
    assert (found.enabled, found.max_cost_microusd, found.targets) == (True, 123_457, ["openai/gpt-4.1"])


def test_a_rule_is_deleted_by_a_form_of_its_own_that_asks(site: Site) -> None:
    admin = site.admin()
    rule = add(site, "Mine")
    page = admin.get(HOME).text
    asked = page[page.index("Delete…") :]
    assert "Yes, delete “Mine”" in asked[: asked.index("</form>")]
    assert admin.post(f"{HOME}/{rule}/remove").status_code == 303
    assert rules(site) == []
    assert "The rule “Mine” was deleted." in admin.get(HOME).text


@pytest.mark.parametrize("what", ["", "/move", "/switch", "/remove"])
def test_a_rule_that_is_gone_is_not_found(site: Site, what: str) -> None:
    admin = site.admin()
    for rule in (str(uuid.uuid4()), "x"):
        assert admin.post(f"{HOME}/{rule}{what}", form(name="x", targets="demo")).status_code == 404


def test_what_keeps_a_rule_from_working_is_said_with_it(site: Site) -> None:
    first = add(site, "All")
    second = add(site, "Shadowed", "demo", category="coding")
    with site.app.app_context():
        providers.change("openai", providers.Change(enabled=False), "test")
    page = site.admin().get(HOME).text
    assert "Openai: the provider is switched off." in of_rule(page, first)
    assert "It is never used: the rule “All” before it takes all of its requests." in of_rule(page, second)


def ask(admin: Browser, **given: str) -> str:
    """The answer to the question which model would serve such a request."""
    page = admin.get(HOME, query_string={"which": "1", "operation": "chat"} | given)
    assert page.status_code == 200
    return page.text[page.text.index('id="explained"') :]


def test_the_page_tells_which_model_would_serve_at_what_price_and_why_others_would_not(site: Site, openai: FakeOpenAI) -> None:
    add(site, "Code", "anthropic", "openai/gpt-4.1", "openai/gpt-4.1-mini", category="coding", max_cost_microusd=5_000)
    admin = site.admin()
    assert 'id="explained"' not in admin.get(HOME).text
    found = ask(admin, category="coding", input_tokens="1,000", output_tokens="1000")
    assert "Decided by the rule “Code”" in found
    served = found[: found.index("Passed over:")]
    assert re.search(r"<code>openai/gpt-4.1-mini</code>: at most \$0\.00\d+ <span class=\"state-word good\">Serves", served)
    assert "openai/gpt-4.1<" not in served
    assert "ANTHROPIC_API_KEY is not set" in found
    assert re.search(r"<code>openai/gpt-4.1</code>: it may cost \$0\.01, and the rule allows \$0\.005", found)
    other = ask(admin, category="general", input_tokens="1000", output_tokens="1000")
    assert "Decided by the providers that are ready" in other
    assert openai.calls == []


def test_needs_and_sizes_are_part_of_the_question(site: Site) -> None:
    add(site, "Small", "openai/gpt-3.5-turbo")
    found = ask(site.admin(), input_tokens="5000000", output_tokens="0", **{"need-vision": "1"})
    assert "it is not known to see pictures" in found
    assert "No model can serve this" in found
    assert 'name="need-vision" value="1" checked' in site.admin().get(f"{HOME}?which=1&need-vision=1").text


def test_who_draws_is_another_question(site: Site) -> None:
    add(site, "Words", "demo")
    found = ask(site.admin(), operation="image.generate")
    assert "openai/gpt-image-2" in found
    assert "the rule" not in found


@pytest.mark.parametrize("typed", ["many", "-1", "1e9", "9" * 30])
def test_a_number_that_is_none_is_a_fault_beside_its_field(site: Site, typed: str) -> None:
    page = site.admin().get(HOME, query_string={"which": "1", "input_tokens": typed})
    assert page.status_code == 422
    assert re.search(r'id="ask-input_tokens"[^>]*aria-invalid="true"', page.text)
    assert f'value="{typed}"' in page.text
    assert 'id="explained"' not in page.text
