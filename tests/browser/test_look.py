"""Every page in light and dark, on a desk and in a hand: no accessibility fault, no sideways scrolling, a quiet console."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import Live, Watched
from tests.integration.web_support import ADMIN

DESK, HAND = (1280, 860), (390, 844)


def faults(page: Page) -> list[str]:
    """What axe finds, a line each."""
    found = Axe().run(page).response["violations"]
    return [f"{fault['id']}: {node['html'][:160]}" for fault in found for node in fault["nodes"]]


def too_wide(page: Page) -> int:
    """By how many pixels the page is wider than its window."""
    return int(page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, HAND], ids=["desk", "hand"])
def test_every_page_is_accessible_and_fits(
    live: Live, signed_in: Callable[..., Page], page: Page, quiet: Watched, size: tuple[int, int], scheme: str
) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    live.give_limits("enterprise", messages=4, tokens=None)
    page.goto(f"{live.address}/login")
    seen = {"login": (faults(page), too_wide(page))}
    signed_in(ADMIN)

    def look(name: str) -> None:
        seen[name] = (faults(page), too_wide(page))

    look("empty")
    for words in ("reverse a list in Python", "show me a table " + "x" * 200):
        page.get_by_label("Your message").fill(words)
        page.keyboard.press("Enter")
        page.locator(".bubble.mine", has_text=words).wait_for()
    expect(page.locator(".answer")).to_have_count(2)
    look("answers")
    live.rest()
    page.get_by_label("Your message").fill("still waiting")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Waiting…")).to_be_visible()
    look("waiting")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped")).to_be_visible()
    look("stopped")
    live.work()
    page.goto(f"{live.address}/dashboard/simulator")
    look("simulator, empty")
    page.get_by_label("Text message").fill("show me a table " + "x" * 200)
    page.keyboard.press("Enter")
    expect(page.locator(".story", has_text="delivered")).to_be_visible()
    page.get_by_role("button", name="STOP").click()
    expect(page.get_by_text("Understood as STOP")).to_be_visible()
    look("simulator")
    look_at_routes = "/dashboard/routing?which=1&operation=chat&input_tokens=10&output_tokens=10"
    pages = ("/dashboard/providers", "/dashboard/providers/openai", "/dashboard/providers/midjourney", "/dashboard/routing")
    for path in ("/settings", "/conversations", *pages, look_at_routes):
        page.goto(live.address + path)
        look(path)
    assert {name: found for name, found in seen.items() if found != ([], 0)} == {}


def test_error_pages_are_accessible(live: Live, page: Page) -> None:
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        page.goto(f"{live.address}/nowhere")
        assert faults(page) == []


def test_the_whole_way_is_possible_by_keyboard(live: Live, signed_in: Callable[..., Page], page: Page) -> None:
    signed_in()
    page.goto(f"{live.address}/conversations")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="New conversation")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Your message")).to_be_focused()
    page.keyboard.type("show me a table")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".answer table")).to_be_visible()


def test_a_text_makes_its_round_in_the_simulator(
    live: Live, signed_in: Callable[..., Page], page: Page, quiet: Watched
) -> None:
    signed_in(ADMIN)
    page.locator("nav summary", has_text="Dashboard").click()
    page.get_by_role("link", name="Simulator").click()
    page.get_by_label("Phone number").fill("+15005550123")
    page.get_by_role("button", name="Use this number").click()
    live.rest()
    page.get_by_label("Text message").fill("show me a table")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("Waiting for a worker")).to_be_visible()
    expect(page.get_by_label("Text message")).to_have_value("")
    live.work()
    expect(page.locator(".sms.theirs")).to_contain_text("This is the demo provider")
    expect(page.locator(".story")).to_contain_text("delivered")
    # Everything is done, so nothing is asked any more.
    expect(page.locator("#panel[hx-get]")).to_have_count(0)
    page.get_by_role("button", name="STOP").click()
    expect(page.get_by_text("opted out by")).to_be_visible()


def test_the_simulator_s_field_is_on_a_small_laptop_s_screen(live: Live, signed_in: Callable[..., Page], page: Page) -> None:
    page.set_viewport_size({"width": 1280, "height": 720})
    signed_in(ADMIN)
    page.goto(f"{live.address}/dashboard/simulator")
    for n in range(8):
        page.get_by_label("Text message").fill(f"show me a table {n}")
        page.keyboard.press("Enter")
        page.locator(".sms.mine", has_text=f"table {n}").wait_for()
    page.goto(f"{live.address}/dashboard/simulator")
    field = page.get_by_label("Text message").bounding_box()
    assert field is not None
    assert field["y"] + field["height"] <= 720
    # The page ends where its content does.
    below = page.evaluate(
        "() => document.documentElement.scrollHeight - document.querySelector('main').getBoundingClientRect().bottom - scrollY"
    )
    assert below <= 1


def test_the_smallest_phone_has_the_menu_on_one_line(live: Live, signed_in: Callable[..., Page], page: Page) -> None:
    page.set_viewport_size({"width": 320, "height": 640})
    signed_in(ADMIN)
    assert too_wide(page) == 0
    box = page.get_by_role("button", name="Sign out", exact=True).bounding_box()
    assert box is not None
    assert box["height"] < 40
