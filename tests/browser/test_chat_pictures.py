"""Pictures in the chat's box: chosen, taken out again, sent, shown; and the reasons under an answer."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.conftest import Live, Watched
from tests.fakes.vendor import tiny_png

Open = Callable[..., Page]


def _file(name: str, data: bytes = b"", kind: str = "image/png") -> dict[str, object]:
    return {"name": name, "mimeType": kind, "buffer": data or tiny_png()}


def test_pictures_are_chosen_taken_out_sent_and_shown(live: Live, signed_in: Open, quiet: Watched) -> None:
    page = signed_in()
    field, chosen = page.locator("#pictures"), page.get_by_role("list", name="Pictures to be sent")
    field.set_input_files([_file("one.png"), _file("two.png", tiny_png(9, 9, "red"))])
    expect(chosen.get_by_role("listitem")).to_have_count(2)
    field.set_input_files([_file("three.png", tiny_png(10, 10, "grey"))])
    expect(chosen.get_by_role("listitem")).to_have_count(3)
    chosen.get_by_role("button", name="Remove two.png").click()
    page.get_by_label("Your message").fill("what are these?")
    page.get_by_label("Your message").press("Enter")
    sent = page.get_by_role("list", name="Pictures you sent").get_by_role("img")
    expect(sent).to_have_count(2)
    expect(chosen).to_be_hidden()
    for picture in sent.all():  # by the product's own policy no script of ours may be evaluated in the page
        expect(picture).to_have_js_property("complete", True)
        expect(picture).not_to_have_js_property("naturalWidth", 0)
    expect(page.get_by_text("You sent 2 pictures")).to_be_visible()
    reasons = page.locator("details.why")
    expect(reasons.get_by_text("the first that is ready answers")).to_be_hidden()
    reasons.get_by_text("Why this model?").click()
    expect(reasons.get_by_text("the first that is ready answers")).to_be_visible()


def test_what_the_server_would_not_take_is_said_at_once(live: Live, signed_in: Open, quiet: Watched) -> None:
    page = signed_in()
    page.locator("#pictures").set_input_files([_file("notes.txt", b"text", "text/plain")])
    expect(page.get_by_role("alert")).to_contain_text("notes.txt: this is not a picture.")
    page.locator("#pictures").set_input_files([_file(f"{number}.png") for number in range(5)])
    expect(page.get_by_role("alert")).to_contain_text("At most 4 pictures fit into one message.")
    expect(page.get_by_role("list", name="Pictures to be sent").get_by_role("listitem")).to_have_count(4)


def test_what_only_looks_like_a_picture_keeps_the_text_and_the_choice(live: Live, signed_in: Open, page: Page) -> None:
    signed_in()
    page.locator("#pictures").set_input_files([_file("fake.png", b"no picture at all")])
    page.get_by_label("Your message").fill("look at this")
    page.get_by_label("Your message").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("fake.png: This is not a picture")
    expect(page.get_by_label("Your message")).to_have_value("look at this")
    expect(page.get_by_role("list", name="Pictures to be sent").get_by_role("listitem")).to_have_count(1)


def test_a_picture_is_sent_without_scripts(live: Live, new_context: Callable[..., BrowserContext]) -> None:
    live.add("alice@example.com")
    page = new_context(java_script_enabled=False).new_page()
    page.goto(live.address)
    page.get_by_label("E-mail").fill("alice@example.com")
    page.get_by_label("Password").fill("four plain words here")
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#pictures")).to_be_visible()
    page.locator("#pictures").set_input_files([_file("one.png")])
    page.get_by_label("Your message").fill("what is this?")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("list", name="Pictures you sent").get_by_role("img")).to_have_count(1)
