"""The chat in a real browser: sending, watching the answer grow, stopping it, leaving and coming back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.conftest import Live, Watched
from tests.integration.web_support import ALICE, PASSWORD
from webapp.pipeline.stream import Publisher
from webapp.web import chat, streams

SLOW = pytest.mark.parametrize("live", [60], indirect=True)
Open = Callable[..., Page]


def send(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")
    page.locator(".bubble.mine", has_text=text).last.wait_for()


@SLOW
def test_an_answer_streams_and_ends_as_markdown(live: Live, signed_in: Open, quiet: Watched) -> None:
    page = signed_in()
    send(page, "show me a table")
    growing = page.locator("[data-text]")
    expect(growing).to_contain_text("This is")
    early = growing.inner_text()
    expect(growing).to_contain_text("This is the demo provider, not a model")
    assert growing.inner_text().startswith(early)
    expect(page.get_by_text("Answering…")).to_be_visible()
    expect(page.get_by_label("Your message")).to_be_focused()
    expect(page.get_by_label("Your message")).to_have_value("")
    expect(page.locator(".answer table")).to_be_visible(timeout=20_000)
    expect(page.get_by_text("no model was asked")).to_be_visible()
    assert f"/c/{live.newest_request().conversation_id}" in page.url
    expect(page).to_have_title("show me a table · Switchhook")
    expect(page.locator("#conversations li")).to_have_count(1)


@SLOW
def test_stop_keeps_what_was_written(live: Live, signed_in: Open, quiet: Watched) -> None:
    page = signed_in()
    send(page, "show me a table")
    expect(page.locator("[data-text]")).to_contain_text("This is the")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped")).to_be_visible()
    expect(page.get_by_label("Your message")).to_be_focused()
    expect(page.locator(".answer")).to_contain_text("This is the")
    assert live.newest_request().status == "cancelled"


_WATCH = """() => { window.grown = ''; new MutationObserver(() => {
    const text = document.querySelector('[data-text]')?.textContent; if (text) window.grown = text;
}).observe(document.body, {subtree: true, childList: true, characterData: true}) }"""


def assert_it_grew_into(page: Page, live: Live) -> None:
    """The text that was watched is the stored answer; its last words may have come in one breath with the end."""
    expect(page.locator(".answer table")).to_be_visible(timeout=20_000)
    answer, grown = live.newest_request().answer, page.evaluate("() => window.grown")
    assert answer.startswith(grown)
    assert len(grown) > len(answer) - 80


@SLOW
def test_a_reload_in_the_middle_shows_the_same_text_in_the_end(live: Live, signed_in: Open, page: Page) -> None:
    signed_in()
    send(page, "show me a table")
    expect(page.locator("[data-text]")).to_contain_text("This is the")
    page.reload()
    page.evaluate(_WATCH)
    expect(page.locator("[data-text]")).to_contain_text("This is the demo provider, not a model: for real answers")
    assert_it_grew_into(page, live)


@SLOW
def test_a_stream_that_is_cut_again_and_again_loses_and_repeats_nothing(
    live: Live, signed_in: Open, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "STREAM_S", 0.3)
    monkeypatch.setattr(chat, "_RETRY_MS", 50)
    places: list[str | None] = []
    page.on("request", lambda asked: places.append(asked.headers.get("last-event-id")) if "/events" in asked.url else None)
    signed_in()
    page.evaluate(_WATCH)
    send(page, "show me a table")
    assert_it_grew_into(page, live)
    assert len(places) > 2


def test_what_a_lost_worker_wrote_is_replaced_by_its_successor_s_text(live: Live, signed_in: Open, page: Page) -> None:
    signed_in()
    live.rest()
    send(page, "hello")
    request_id = live.newest_request().id
    with live.app.app_context():
        Publisher(request_id, 1).piece("from a worker that died")
        expect(page.locator("[data-text]")).to_have_text("from a worker that died")
        successor = Publisher(request_id, 2)
        successor.piece("from ")
        successor.piece("its successor")
    expect(page.locator("[data-text]")).to_have_text("from its successor")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped")).to_be_visible()


def test_a_long_wait_is_counted_in_seconds(live: Live, signed_in: Open, page: Page) -> None:
    page.clock.install()
    signed_in()
    live.rest()
    send(page, "hello")
    expect(page.get_by_text("Waiting…")).to_be_visible()
    page.clock.fast_forward(12_000)
    expect(page.get_by_text("Still waiting;")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped")).to_be_visible()


def test_a_stopped_wait_is_asked_again_by_one_press(live: Live, signed_in: Open, quiet: Watched) -> None:
    page = signed_in()
    live.rest()
    send(page, "show me a table")
    expect(page.get_by_text("Waiting…")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Nothing had been written yet.")).to_be_visible()
    live.work()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".answer table")).to_be_visible()
    expect(page.locator(".exchange")).to_have_count(2)


def test_when_the_stream_cannot_be_had_the_page_asks_until_the_answer_is_there(live: Live, signed_in: Open, page: Page) -> None:
    signed_in()
    page.route("**/events", lambda route: route.fulfill(status=502, body="no"))
    send(page, "show me a table")
    expect(page.locator(".answer table")).to_be_visible()


def test_a_full_limit_is_told_and_what_was_written_is_kept(live: Live, signed_in: Open, page: Page) -> None:
    live.give_limits("free", messages=1)
    signed_in()
    send(page, "the first")
    expect(page.locator(".answer")).to_have_count(1)
    send(page, "the second")
    expect(page.locator(".notice.warn")).to_contain_text("of this month")
    expect(page.locator(".bubble.mine")).to_have_count(2)
    expect(page.get_by_label("Your message")).to_have_value("")


def test_what_could_not_be_sent_stays_in_the_box(live: Live, signed_in: Open, page: Page) -> None:
    signed_in()
    page.route("**/chat", lambda route: route.abort())
    page.get_by_label("Your message").fill("do not lose me")
    page.keyboard.press("Enter")
    expect(page.locator("#notices")).to_contain_text("could not be reached")
    expect(page.get_by_label("Your message")).to_have_value("do not lose me")
    page.unroute("**/chat")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator(".bubble.mine")).to_have_count(1)
    expect(page.locator("#notices")).to_be_empty()


def test_shift_and_enter_makes_a_line_and_enter_sends_both(live: Live, signed_in: Open, quiet: Watched) -> None:
    page = signed_in()
    page.get_by_label("Your message").fill("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    expect(page.locator(".answer")).to_be_visible()
    assert live.newest_request().prompt == "one\ntwo"
    page.keyboard.press("Enter")
    expect(page.locator(".exchange")).to_have_count(1)


def test_an_example_begins_a_conversation_and_back_leads_out_of_it(live: Live, signed_in: Open, quiet: Watched) -> None:
    page = signed_in()
    page.goto(f"{live.address}/c/new")
    page.get_by_role("button", name="Compare tea and coffee in a table").click()
    expect(page.locator(".answer table")).to_be_visible()
    expect(page.get_by_text("What can I help with?")).to_have_count(0)
    expect(page.get_by_role("heading", name="Compare tea and coffee in a table")).to_be_visible()
    page.go_back()
    expect(page.get_by_text("What can I help with?")).to_be_visible()


def test_markup_is_only_text_while_it_streams_and_after(live: Live, signed_in: Open, quiet: Watched) -> None:
    page = signed_in()
    send(page, "<img src=x onerror=\"document.title='owned'\"> **list**")
    expect(page.locator(".answer")).to_contain_text("<img src=x")
    assert page.locator("#exchanges img").count() == 0
    assert page.title() != "owned"


def test_it_works_without_scripts(live: Live, new_context: Callable[..., BrowserContext]) -> None:
    live.add(ALICE)
    page = new_context(java_script_enabled=False).new_page()
    page.goto(live.address)
    page.get_by_label("E-mail").fill(ALICE)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_label("Your message").fill("show me a table")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator(".bubble.mine")).to_contain_text("show me a table")
    while page.locator("[data-events]").count():
        # The driver switches scripts off without switching `noscript` on, and with it the page's own reloading.
        page.reload()
    expect(page.locator(".answer table")).to_be_visible()


def test_a_reader_for_whom_no_stream_is_free_gets_the_answer_all_the_same(
    live: Live, signed_in: Open, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PER_PERSON", 0)
    refused: list[int] = []
    page.on("response", lambda got: refused.append(got.status) if got.url.endswith("/events") else None)
    signed_in()
    live.rest()
    with page.expect_response("**/events"):
        send(page, "show me a table")
    live.work()
    expect(page.locator(".answer table")).to_be_visible()
    assert set(refused) == {503}


def test_after_signing_in_again_elsewhere_what_was_typed_survives_the_reload(
    live: Live, signed_in: Open, context: BrowserContext, page: Page
) -> None:
    signed_in()
    other = context.new_page()
    other.goto(live.address)
    other.get_by_role("button", name="Sign out", exact=True).click()
    page.get_by_label("Your message").fill("do not lose me")
    page.keyboard.press("Enter")
    expect(page.locator("#notices")).to_contain_text("Nothing was sent.")
    expect(page.get_by_text("What can I help with?")).to_be_visible()
    page.locator("#notices").get_by_role("link", name="Sign in").click()
    page.get_by_label("E-mail").fill(ALICE)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_label("Your message")).to_have_value("do not lose me")
    other.goto(f"{live.address}/settings")
    other.get_by_role("button", name="Sign out", exact=True).click()
    other.get_by_label("E-mail").fill(ALICE)
    other.get_by_label("Password").fill(PASSWORD)
    other.get_by_role("button", name="Sign in").click()
    other.get_by_role("button", name="Sign out", exact=True).wait_for()
    page.keyboard.press("Enter")
    page.locator("#notices").get_by_role("link", name="Reload").click()
    expect(page.locator("#notices")).to_be_empty()
    expect(page.get_by_label("Your message")).to_have_value("do not lose me")
    page.get_by_label("Your message").press("Enter")
    expect(page.locator(".bubble.mine")).to_contain_text("do not lose me")
    page.reload()
    expect(page.get_by_label("Your message")).to_have_value("")
