"""Plans, people and limits in light and dark, on a desk and in a hand; and many people changed at once, step by step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import select

from tests.browser.conftest import Live, Watched
from tests.browser.test_look import DESK, HAND, faults, too_wide
from tests.integration.web_support import ADMIN
from webapp.extensions import reading
from webapp.models import Person
from webapp.web import people_bulk_page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, HAND], ids=["desk", "hand"])
def test_the_pages_are_accessible_and_fit(
    live: Live, signed_in: Callable[..., Page], page: Page, quiet: Watched, size: tuple[int, int], scheme: str
) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    alice = live.add("a-rather-long-address-of-alice@a-rather-long-domain.example.com", phone="+15005550006", plan="starter")
    signed_in(ADMIN)
    seen = {}

    def look(name: str) -> None:
        seen[name] = (faults(page), too_wide(page))

    for path in ("plans", "plans/free", "plans/free/limits", "people", f"people/{alice}"):
        page.goto(f"{live.address}/dashboard/{path}")
        look(path)
    page.get_by_label("Another plan").select_option("business")
    page.get_by_label("Why").first.fill("a good customer")
    page.get_by_role("button", name="Change the plan").click()
    expect(page.get_by_text("They are on the plan business now.")).to_be_visible()
    look("a change of plan")
    page.goto(f"{live.address}/organization/limits")
    look("limits, empty")
    page.get_by_label("Dollars that all people").fill("50")
    page.get_by_role("button", name="Save the budget").click()
    expect(page.get_by_text("The budget is $50.00 per month now.")).to_be_visible()
    page.get_by_label("At most").fill("1.5")
    page.get_by_label("of", exact=True).select_option("requests")
    page.get_by_role("button", name="Add the limit").click()
    expect(page.get_by_text("Write a whole number").first).to_be_visible()
    look("limits, with a fault")
    page.goto(f"{live.address}/dashboard/people")
    page.locator("#all").select_option("1")
    page.get_by_role("button", name="Go on…").click()
    look("a question about many")
    # Chromium reports the form that was sent back with its fault.
    quiet.complaints[:] = [each for each in quiet.complaints if "422" not in each]
    assert {name: found for name, found in seen.items() if found != ([], 0)} == {}


def test_all_who_match_are_changed_while_the_page_shows_how_far_it_is(
    live: Live, signed_in: Callable[..., Page], page: Page, quiet: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people_bulk_page, "STEP", 2)
    for number in range(5):
        live.add(f"p{number}@example.com", plan="starter")
    signed_in(ADMIN)
    page.goto(f"{live.address}/dashboard/people?plan=starter")
    page.locator("#all").select_option("1")
    page.get_by_role("button", name="Go on…").click()
    page.get_by_label("The plan that they get").select_option("business")
    page.get_by_label("Why").fill("raised")
    page.get_by_role("button", name="Yes, change the plan").click()
    expect(page.get_by_text("5 changed, 0 were so already, 0 failed.")).to_be_visible()
    expect(page.get_by_role("heading", name="Done")).to_be_visible()
    with live.app.app_context(), reading() as connection:
        assert set(connection.execute(select(Person.plan_code).where(Person.email.like("p%"))).scalars()) == {"business"}
