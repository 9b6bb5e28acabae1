"""The queue page and the line that tells a wait, in a real browser."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Live, Watched
from tests.browser.test_look import DESK, HAND, faults
from tests.integration import queue_support
from tests.integration.queue_support import ask, sign
from tests.integration.web_support import ADMIN, BOB
from webapp.services import waiting

PATH = "/dashboard/queue"


def fill(live: Live) -> None:
    """Workers, a pace and five requests that wait."""
    bob = live.add(BOB, plan="premium")
    with live.app.app_context():
        for _ in range(5):
            ask(bob)
        sign("w1", slots=2, in_flight=2)
        sign("gone", seen_s_ago=900)
        queue_support.pace(ended=40, busy_s=240, normal=3, high=5, low=2, minutes=20)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_queue_page_is_accessible_fits_and_renews_itself(
    live: Live, signed_in: Callable[..., Page], page: Page, quiet: Watched, scheme: str
) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    live.rest()
    signed_in(ADMIN)
    seen = {}
    for words in ("empty", "full"):
        if words == "full":
            fill(live)
        for size in (DESK, HAND):
            page.set_viewport_size({"width": size[0], "height": size[1]})
            page.goto(live.address + PATH)
            wide = page.evaluate(
                "() => { const main = document.getElementById('main'); return main.scrollWidth - main.clientWidth; }"
            )
            seen[words, size] = (faults(page), wide)
    assert {name: found for name, found in seen.items() if found != ([], 0)} == {}
    rows = page.locator("#queue-status tr[id^=waiting-]")
    expect(rows).to_have_count(5)
    page.get_by_role("link", name="Stop the request of").first.click()
    assert faults(page) == []
    page.get_by_role("button", name="Yes, stop it").click()
    expect(page.get_by_text("stopped before it began")).to_be_visible()
    expect(rows).to_have_count(4)
    live.work()
    expect(rows).to_have_count(0, timeout=20_000)


def test_the_chat_tells_the_wait_and_forgets_it_when_the_answer_begins(
    live: Live, signed_in: Callable[..., Page], page: Page, quiet: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "FRESH_S", 0.0)
    live.rest()
    signed_in(plan="premium")
    fill(live)
    page.get_by_label("Your message").fill("show me a table")
    page.keyboard.press("Enter")
    line = page.locator(".wait")
    expect(line).to_have_text(re.compile("5 ahead of you, about [0-9]0 seconds"))
    with live.app.app_context():
        sign("w1", slots=20, in_flight=2)
    expect(line).to_have_text("5 ahead of you, a moment")
    assert faults(page) == []
    before = time.monotonic()
    live.work()
    expect(page.locator(".answer table")).to_be_visible(timeout=20_000)
    expect(line).to_have_count(0)
    assert time.monotonic() - before < 30
