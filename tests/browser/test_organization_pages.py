"""The pages of organizations in a browser: accessible, and as wide as the window, by day and by night."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import Live, Watched
from tests.browser.test_look import DESK, HAND, faults, too_wide
from tests.integration.web_support import ADMIN, ALICE
from webapp.extensions import writing_session
from webapp.models import PersonRole
from webapp.services import memberships, organizations, people
from webapp.services.organizations import Actor


@pytest.mark.parametrize(("size", "scheme"), [(DESK, "light"), (HAND, "dark")], ids=["desk", "hand"])
def test_every_page_is_accessible_and_fits(
    live: Live, signed_in: Callable[..., Page], page: Page, quiet: Watched, size: tuple[int, int], scheme: str
) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    signed_in(ALICE)
    with live.app.app_context():
        weavers = organizations.create(Actor.operator("a test"), "The Worshipful Company of Weavers of the whole valley").id
        for who, role in ((ALICE, PersonRole.ADMIN), (ADMIN, PersonRole.MANAGER)):
            memberships.add(Actor.operator("a test"), weavers, who, role)
        with writing_session() as session:
            alice = people.find(session, ALICE)
            people.make_token(
                session, alice, "A nightly report of all that the looms have done", ["chat", "read"], 90, "a test"
            )
        tokens = f"/members/{alice.id}/tokens"
    page.goto(f"{live.address}/organization/{weavers}")
    page.get_by_role("button", name="Work in The Worshipful").last.click()
    page.get_by_text("You are working in The Worshipful").wait_for()
    seen = {}
    for path in ("", "/members", tokens, "/invitations", "/providers", "/providers/openai", "/settings"):
        page.goto(f"{live.address}/organization/{weavers}{path}")
        if path == tokens:
            page.get_by_text("Revoke…").click()
            page.get_by_role("button", name="Yes, revoke it").wait_for()
        seen[path] = (faults(page), too_wide(page))
    page.goto(f"{live.address}/organization/{weavers}/invitations")
    page.get_by_label("E-mail or phone number").fill("new@example.com")
    page.get_by_role("button", name="Invite").click()
    link = page.get_by_label("The link").input_value()
    seen["invited"] = (faults(page), too_wide(page))
    page.goto(link)
    seen["join"] = (faults(page), too_wide(page))
    page.context.clear_cookies()
    page.goto(link)
    seen["join as somebody new"] = (faults(page), too_wide(page))
    assert seen == {name: ([], 0) for name in seen}
