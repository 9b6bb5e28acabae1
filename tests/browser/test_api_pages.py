"""The pages about the API, tokens and reference, on a desk in light and in a hand in the dark, and without scripts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.conftest import Live, Watched
from tests.browser.test_look import DESK, HAND, faults, too_wide
from tests.integration.web_support import ADMIN, ALICE, PASSWORD
from webapp.services import organizations
from webapp.services.organizations import Actor


@pytest.mark.parametrize(("size", "scheme"), [(DESK, "light"), (HAND, "dark")], ids=["desk", "hand"])
def test_tokens_and_reference_are_accessible_and_fit(
    live: Live, signed_in: Callable[..., Page], page: Page, quiet: Watched, size: tuple[int, int], scheme: str
) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    signed_in(ADMIN)
    seen = {}

    def look(name: str) -> None:
        seen[name] = (faults(page), too_wide(page))

    page.goto(f"{live.address}/settings/tokens")
    look("no tokens")
    page.get_by_label("What it is for").fill("Nightly report " + "x" * 60)
    page.get_by_role("button", name="Make the token").click()
    expect(page.get_by_role("heading", name="Copy your new token now")).to_be_visible()
    look("made")
    page.locator("#tokens summary").first.click()
    look("revoking")
    page.get_by_role("button", name="Yes, revoke").click()
    expect(page.get_by_role("status")).to_contain_text("is revoked")
    look("revoked")
    page.goto(f"{live.address}/api/docs")
    look("reference")
    page.get_by_text("How it works").click()
    look("guide")
    page.get_by_label("Find an operation").fill("make a token")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("fit")
    page.locator("#create_token").wait_for()
    look("found")
    assert {name: found for name, found in seen.items() if found != ([], 0)} == {}


def test_a_double_click_makes_one_and_shows_its_secret(
    live: Live, signed_in: Callable[..., Page], page: Page, quiet: Watched
) -> None:
    signed_in(ADMIN)
    page.goto(f"{live.address}/settings/tokens")
    page.get_by_label("What it is for").fill("Nightly report")
    page.get_by_role("button", name="Make the token").dblclick()
    expect(page.get_by_label("Token “Nightly report”")).to_be_focused()
    expect(page.locator("#tokens > li")).to_have_count(1)

    with live.app.app_context():
        weavers = organizations.create(Actor.operator("a test"), "Weavers").id
    page.goto(f"{live.address}/organization/{weavers}/webhooks")
    page.get_by_label("Address").fill("https://nowhere.invalid/hook")
    page.get_by_role("button", name="Add", exact=True).dblclick()
    expect(page.get_by_label("Signing secret")).to_be_visible()
    expect(page.locator("#log")).to_contain_text("Nothing was sent yet")
    page.get_by_role("button", name="Send a test message").click()
    expect(page.locator("#tested")).to_contain_text("did not arrive")
    expect(page.locator("#log li[id^=delivery]")).to_have_count(1)
    expect(page.locator("#log")).not_to_contain_text("Nothing was sent yet")
    page.get_by_text("Renew the secret…").click()
    page.get_by_role("button", name="Yes, renew it").dblclick()
    expect(page.get_by_text("The secret was renewed.")).to_be_visible()
    page.goto(f"{live.address}/organization/{weavers}/webhooks")
    expect(page.locator(".shelf li")).to_have_count(1)


def test_a_token_is_made_and_ended_without_scripts(live: Live, new_context: Callable[..., BrowserContext]) -> None:
    live.add(ALICE)
    page = new_context(java_script_enabled=False).new_page()
    page.goto(f"{live.address}/login?next=/settings/tokens")
    page.get_by_label("E-mail").fill(ALICE)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_label("What it is for").fill("A script")
    page.get_by_role("button", name="Make the token").click()
    assert page.get_by_label("Token “A script”").input_value().startswith("sh_")
    page.locator("#tokens summary").click()
    page.get_by_role("button", name="Yes, revoke it").click()
    expect(page.get_by_role("status")).to_contain_text("is revoked")
    page.goto(f"{live.address}/api/docs?q=token")
    expect(page.locator(".operation").first).to_be_visible()
