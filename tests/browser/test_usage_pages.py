"""The pages about usage and receipts, on a desk in light and in a hand in the dark: accessible, no wider than they may be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import update

from tests.browser.conftest import Live, Watched
from tests.browser.test_look import DESK, HAND, faults, too_wide
from tests.integration.web_support import ADMIN
from webapp.contracts.limits import Dimension, StoredLimit, Window
from webapp.extensions import writing
from webapp.models import Organization
from webapp.quota import stored


@pytest.mark.parametrize(("size", "scheme"), [(DESK, "light"), (HAND, "dark")], ids=["desk", "hand"])
def test_usage_is_accessible_and_fits(
    live: Live, signed_in: Callable[..., Page], page: Page, quiet: Watched, size: tuple[int, int], scheme: str
) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    live.give_limits("enterprise", messages=2, tokens=None, cost_microusd=5_000_000, content=10)
    shared = StoredLimit("all", Dimension.TOKENS, Window.DAY, 1_000_000, provider="demo")
    with live.app.app_context(), writing() as connection:
        connection.execute(update(Organization).values(limits=stored.write([shared])))
    signed_in(ADMIN)
    for number in range(2):
        page.get_by_label("Your message").fill(f"question {number}")
        page.keyboard.press("Enter")
        expect(page.locator(".answer")).to_have_count(number + 1)
    page.reload()
    expect(page.locator(".near")).to_contain_text("Used up:")
    seen = {"chat": (faults(page), too_wide(page))}
    page.locator(".near").get_by_role("link", name="All limits").click()
    expect(page.get_by_role("heading", name="Usage")).to_be_visible()
    receipt = f"/dashboard/requests/{live.newest_request().id}"
    for path in ("/usage", "/organization/usage", receipt):
        page.goto(live.address + path)
        seen[path] = (faults(page), too_wide(page))
    assert {path: found for path, found in seen.items() if found != ([], 0)} == {}
