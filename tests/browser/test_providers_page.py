"""The administrators' pages in a real browser: figures that move, a test with its progress, rules that change places."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Live, Watched
from tests.browser.test_look import HAND, faults, too_wide
from tests.conftest import ADMIN_PASSWORD
from tests.fakes.openai import FakeOpenAI
from tests.integration.web_support import ADMIN
from webapp.services import providers, routes
from webapp.services.routes import RuleValues

Open = Callable[..., Page]


@pytest.fixture
def site(openai: FakeOpenAI, live: Live) -> Live:
    """A site that is served, and that knows the fake OpenAI."""
    return live


@pytest.fixture
def without_scripts(site: Live, browser: Browser) -> Iterator[Page]:
    """The administrator's page in a browser that runs no scripts."""
    context = browser.new_context(java_script_enabled=False)
    context.set_default_timeout(30_000)
    page = context.new_page()
    page.goto(site.address)
    page.get_by_label("E-mail").fill(ADMIN)
    page.get_by_label("Password").fill(ADMIN_PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    yield page
    context.close()


def change(site: Live, **values: object) -> None:
    """Set something for OpenAI."""
    with site.app.app_context():
        providers.change("openai", providers.Change(**values), "test")  # type: ignore[arg-type]


def add_rules(site: Live, *names: str) -> None:
    with site.app.app_context():
        for name in names:
            routes.add(RuleValues(name, ("openai",), category=name.lower()), "test")


def test_the_figures_move_by_themselves_and_leave_the_focus_alone(site: Live, signed_in: Open, quiet: Watched) -> None:
    page = signed_in(ADMIN)
    page.clock.install()
    page.goto(f"{site.address}/dashboard/providers")
    card = page.locator("#provider-openai")
    link = card.get_by_role("link", name="OpenAI")
    link.focus()
    expect(card.get_by_text("Ready")).to_be_visible()
    expect(card.locator("dd").first).to_have_text("0")
    site.rest()
    site.admin().ask("hello")
    site.run_jobs()
    page.clock.run_for(10_500)
    expect(card.get_by_text("Serving")).to_be_visible()
    expect(card.locator("dd").first).to_have_text("1")
    expect(link).to_be_focused()
    change(site, enabled=False)
    page.clock.run_for(10_500)
    expect(page.get_by_text("Switched off")).to_be_visible()


def test_what_is_being_typed_is_not_touched_when_the_state_renews_itself(site: Live, signed_in: Open, quiet: Watched) -> None:
    page = signed_in(ADMIN)
    page.clock.install()
    page.goto(f"{site.address}/dashboard/providers/openai")
    page.get_by_label("Default model").fill("gpt-4.1")
    change(site, limits={"concurrent": 7})
    page.clock.run_for(10_500)
    expect(page.locator("#state")).to_contain_text("0 of 7")
    expect(page.get_by_label("Default model")).to_have_value("gpt-4.1")
    expect(page.get_by_label("Default model")).to_be_focused()


def test_a_test_shows_that_it_runs_and_is_made_once_however_often_it_is_pressed(
    site: Live, openai: FakeOpenAI, signed_in: Open, quiet: Watched
) -> None:
    openai.first_delay_s = 1.0
    page = signed_in(ADMIN)
    page.goto(f"{site.address}/dashboard/providers/openai")
    expect(page.get_by_text("Asking OpenAI…")).to_be_hidden()
    button = page.get_by_role("button", name="Test", exact=True)
    button.dblclick()
    expect(page.get_by_text("Asking OpenAI…")).to_be_visible()
    expect(button).to_be_disabled()
    outcome = page.get_by_role("status").filter(has_text="It works.")
    expect(outcome).to_contain_text(openai.text)
    expect(outcome).to_contain_text("cost $")
    expect(page.get_by_text("Asking OpenAI…")).to_be_hidden()
    expect(button).to_be_enabled()
    assert len(openai.calls) == 1


def test_the_vendor_s_models_become_suggestions_and_what_was_typed_stays(site: Live, signed_in: Open, quiet: Watched) -> None:
    page = signed_in(ADMIN)
    page.goto(f"{site.address}/dashboard/providers/openai")
    page.get_by_label("API key for OpenAI").fill("sk-not-saved-yet")
    page.get_by_role("button", name="List models").click()
    expect(page.get_by_text("OpenAI lists")).to_be_visible()
    suggested = page.locator("#model-names option").evaluate_all("options => options.map(option => option.value)")
    assert "fake-model-large" in suggested
    expect(page.get_by_label("API key for OpenAI")).to_have_value("sk-not-saved-yet")
    assert "sk-not-saved-yet" not in page.url


def test_enter_does_not_confirm_that_a_key_goes(site: Live, signed_in: Open, quiet: Watched) -> None:
    change(site, values={"OPENAI_API_KEY": "sk-0123456789-abcdef"})
    page = signed_in(ADMIN)
    page.goto(f"{site.address}/dashboard/providers/openai")
    page.get_by_label("Remove this key").check()
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_role("alert").filter(has_text="Remove OPENAI_API_KEY?")).to_be_visible()
    assert (faults(page), too_wide(page)) == ([], 0)
    page.get_by_label("Default model").press("Enter")
    expect(page.get_by_text("Remove OPENAI_API_KEY?")).to_be_visible()
    page.get_by_role("button", name="Yes, remove and save").click()
    expect(page.get_by_text("OpenAI was saved.")).to_be_visible()
    # What the environment says counts again.
    expect(page.get_by_label("Remove this key")).to_have_count(0)


def test_faults_lead_to_their_fields(site: Live, signed_in: Open, page: Page, quiet: Watched) -> None:
    page.set_viewport_size({"width": HAND[0], "height": HAND[1]})
    signed_in(ADMIN)
    page.goto(f"{site.address}/dashboard/providers/openai")
    page.get_by_label("Input, row 1", exact=True).fill("cheap")
    page.get_by_label("Calls a minute", exact=True).fill("many")
    page.get_by_role("button", name="Save", exact=True).click()
    alert = page.get_by_role("alert").filter(has_text="Nothing was saved")
    expect(alert).to_be_visible()
    assert (faults(page), too_wide(page)) == ([], 0)
    alert.get_by_role("link", name="Calls a minute").click()
    field = page.get_by_label("Calls a minute", exact=True)
    expect(field).to_be_in_viewport()
    expect(field).to_have_accessible_description("Write a whole number, or leave it empty.")
    quiet.complaints = [said for said in quiet.complaints if "422" not in said]


def test_a_rule_moves_under_the_finger_that_moves_it(site: Live, signed_in: Open, quiet: Watched) -> None:
    add_rules(site, "One", "Two", "Three")
    page = signed_in(ADMIN)
    page.goto(f"{site.address}/dashboard/routing")
    up = page.get_by_role("button", name="Up: Three")
    up.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".rules h3")).to_have_text(["1. One", "2. Three", "3. Two"])
    expect(up).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".rules h3")).to_have_text(["1. Three", "2. One", "3. Two"])
    expect(up).to_be_focused()
    page.get_by_role("button", name="Switch off: One").click()
    expect(page.get_by_role("button", name="Switch on: One")).to_be_focused()
    page.locator("summary", has_text="Delete…").first.click()
    assert (faults(page), too_wide(page)) == ([], 0)
    page.get_by_role("button", name="Yes, delete “Three”").click()
    expect(page.locator(".rules h3")).to_have_text(["1. One off", "2. Two"])


def test_everything_works_without_scripts(site: Live, openai: FakeOpenAI, without_scripts: Page) -> None:
    page = without_scripts
    add_rules(site, "One", "Two")
    page.goto(f"{site.address}/dashboard/providers")
    page.get_by_role("link", name="OpenAI", exact=True).click()
    page.get_by_role("button", name="Test", exact=True).click()
    expect(page.get_by_text("It works.")).to_be_visible()
    page.get_by_role("button", name="List models").click()
    expect(page.get_by_text("fake-model-large")).to_be_visible()
    page.get_by_label("Calls at the same time").fill("5")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("OpenAI was saved.")).to_be_visible()
    expect(page.locator("#state")).to_contain_text("0 of 5")
    page.goto(f"{site.address}/dashboard/routing")
    page.get_by_role("button", name="Up: Two").click()
    expect(page.locator(".rules h3")).to_have_text(["1. Two", "2. One"])
    page.get_by_role("button", name="Show the route").click()
    expect(page.locator("#explained")).to_contain_text("Decided by")
    assert len(openai.calls) == 1


def test_on_a_phone_the_menu_opens_by_keyboard(site: Live, signed_in: Open, page: Page, quiet: Watched) -> None:
    page.set_viewport_size({"width": 320, "height": 640})
    signed_in(ADMIN)
    expect(page.get_by_role("link", name="Routing")).to_be_hidden()
    page.locator(".top summary").focus()
    page.keyboard.press("Enter")
    assert (faults(page), too_wide(page)) == ([], 0)
    page.get_by_role("link", name="Routing").click()
    expect(page).to_have_title("Routing · Switchhook")
