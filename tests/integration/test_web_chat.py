"""The chat page: sending, refusing, repeating, stopping; and that nobody reaches what is another's."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask

from tests.integration.web_support import ALICE, BOB, HTMX, Site, hidden
from webapp.models import Conversation, Request


@pytest.fixture
def site(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("SWITCHHOOK_DEMO_DELAY_MS", "0")
    site = Site(make_app())
    site.add(ALICE, plan="enterprise")
    return site


def test_without_scripts_a_message_is_sent_and_its_answer_found_on_the_page(site: Site) -> None:
    alice = site.browser(ALICE)
    empty = alice.get("/")
    assert "What can I help with?" in empty.text
    sent = alice.ask("show me a table", key=hidden(empty, "chat-key"))
    request = site.newest_request()
    assert sent.status_code == 303
    assert sent.location == f"/c/{request.conversation_id}#request-{request.id}"
    waiting = alice.get(f"/c/{request.conversation_id}")
    assert "Waiting…" in waiting.text
    # With an address: without one, a browser that is at `#request-…` only scrolls there.
    refresh = f'<noscript><meta http-equiv="refresh" content="2; url=/c/{request.conversation_id}"></noscript>'
    assert refresh in waiting.text
    assert refresh in alice.get("/").text
    # What is being put right must not be reloaded away.
    kept = alice.ask("x" * 16_001, str(request.conversation_id))
    assert kept.status_code == 422
    assert "http-equiv" not in kept.text
    site.run_jobs()
    done = alice.get("/")
    assert "<table>" in done.text
    assert "http-equiv" not in done.text
    assert '<strong class="badge demo">Demo</strong>' in done.text
    assert "$0.00" in done.text


def test_with_scripts_a_message_adds_its_exchange_and_a_fresh_key(site: Site) -> None:
    alice = site.browser(ALICE)
    first = alice.ask("hello there", htmx=True)
    request = site.newest_request()
    assert first.status_code == 200
    assert f'id="request-{request.id}"' in first.text
    assert f'data-events="/requests/{request.id}/events"' in first.text
    assert first.headers["HX-Push-Url"] == f"/c/{request.conversation_id}"
    assert hidden(first, "chat-conversation") == str(request.conversation_id)
    assert "<title>hello there · Switchhook</title>" in first.text
    assert "<html" not in first.text
    second = alice.ask("and again", str(request.conversation_id), hidden(first, "chat-key"), htmx=True)
    assert "HX-Push-Url" not in second.headers
    assert site.newest_request().conversation_id == request.conversation_id


def test_a_message_that_arrives_twice_is_one_request(site: Site) -> None:
    alice = site.browser(ALICE)
    for _ in range(2):
        assert alice.ask("once", key="the same").status_code == 303
    assert site.count(Request) == 1
    again = alice.ask("once", key="the same", htmx=True)
    assert again.headers["HX-Redirect"].startswith(f"/c/{site.newest_request().conversation_id}?")
    assert site.count(Conversation) == 1


def test_another_text_under_the_same_key_is_refused_and_kept_in_the_box(site: Site) -> None:
    alice = site.browser(ALICE)
    alice.ask("first", key="the same")
    page = alice.ask("second <i>", key="the same")
    assert page.status_code == 409
    assert "sent before with another text" in page.text
    assert "second &lt;i&gt;</textarea>" in page.text
    notice = alice.ask("second", key="the same", htmx=True)
    assert (notice.status_code, notice.headers["HX-Retarget"]) == (409, "#notices")


@pytest.mark.parametrize(("text", "words"), [("  \n ", "Write something first."), ("x" * 16_001, "at most 16,000")])
def test_what_cannot_be_sent_is_refused_with_the_reason(site: Site, text: str, words: str) -> None:
    alice = site.browser(ALICE)
    page = alice.ask(text)
    assert page.status_code == 422
    assert words in page.text
    assert 'aria-invalid="true"' in page.text
    assert alice.ask(text, htmx=True).status_code == 422
    assert site.count(Request) == 0


def test_a_full_limit_is_told_in_the_page_and_the_message_is_kept(site: Site) -> None:
    site.give_limits("enterprise", messages=1)
    alice = site.browser(ALICE)
    alice.ask("within")
    refused = alice.ask("beyond", htmx=True)
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 0
    assert "of this month" in refused.text
    assert "You get new" in refused.text
    assert "beyond" in refused.text
    assert "data-events" not in refused.text
    request = site.newest_request()
    assert (request.status, request.prompt) == ("rejected", "beyond")
    # Without scripts the same notice is on the page that is led to.
    plain = alice.ask("beyond again")
    assert plain.status_code == 303
    assert "Not sent to the assistant." in alice.get(plain.location).text


def test_markup_in_prompts_answers_and_titles_is_only_text(site: Site) -> None:
    alice = site.browser(ALICE)
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    alice.ask(evil)
    site.run_jobs()
    request = site.newest_request()
    site.change(request.id, answer=evil + "\n\n[x](javascript:alert(3))", provider="<b>p</b>", model="<b>m</b>")
    for path in ("/", "/conversations"):
        page = alice.get(path).text
        assert "<script>alert" not in page
        assert "<img" not in page
        assert 'href="javascript' not in page
        assert "<b>p</b>" not in page
        assert "&lt;script&gt;" in page


def test_another_person_s_things_are_not_there(site: Site) -> None:
    alice = site.browser(ALICE)
    alice.ask("a secret")
    request = site.newest_request()
    site.add(BOB)
    bob = site.browser(BOB)
    for path in (
        f"/c/{request.conversation_id}",
        f"/requests/{request.id}",
        f"/requests/{request.id}/events",
        f"/c/{uuid.uuid4()}",
        f"/requests/{uuid.uuid4()}/events",
    ):
        answer = bob.get(path)
        assert answer.status_code == 404
        assert "a secret" not in answer.text
    assert bob.post(f"/requests/{request.id}/cancel").status_code == 404
    assert bob.post(f"/requests/{request.id}/again").status_code == 404
    assert bob.ask("into it", str(request.conversation_id)).status_code == 404
    assert bob.ask("into it", "not an id").status_code == 404
    assert "a secret" not in bob.get("/").text
    assert "a secret" not in bob.get("/conversations").text
    assert site.newest_request().status == "queued"


def test_a_waiting_request_is_stopped_and_can_be_asked_again(site: Site) -> None:
    alice = site.browser(ALICE)
    alice.ask("never mind")
    first = site.newest_request()
    stopped = alice.post(f"/requests/{first.id}/cancel")
    assert stopped.location == f"/c/{first.conversation_id}#request-{first.id}"
    page = alice.get("/").text
    assert "Stopped" in page
    assert "Try again" in page
    # Pressing Stop on what has ended is no error.
    assert alice.post(f"/requests/{first.id}/cancel", headers=HTMX).status_code == 204
    for _ in range(2):
        alice.post(f"/requests/{first.id}/again")
    assert site.count(Request) == 2
    again = site.newest_request()
    assert (again.prompt, again.conversation_id, again.status) == ("never mind", first.conversation_id, "queued")


def test_a_failed_request_says_so_politely_and_offers_another_try(site: Site) -> None:
    alice = site.browser(ALICE)
    alice.ask("hello")
    request = site.newest_request()
    site.change(request.id, status="failed", error_code="provider_timeout", error_message="It took too long.")
    page = alice.get("/").text
    assert "It took too long." in page
    assert f"/requests/{request.id}/again" in page


def test_a_long_wait_is_shown_in_seconds(site: Site) -> None:
    alice = site.browser(ALICE)
    alice.ask("hello")
    site.change(site.newest_request().id, created_at=datetime.now(UTC) - timedelta(seconds=42))
    # A slow machine takes some of them to make the page.
    assert re.search(r"Still waiting; (4[2-9]|5\d) s", alice.get("/").text)


def test_the_part_of_an_exchange_tells_the_script_whether_it_has_ended(site: Site) -> None:
    alice = site.browser(ALICE)
    alice.ask("hello")
    address = f"/requests/{site.newest_request().id}"
    assert alice.get(address, headers=HTMX).headers["X-Request-Status"] == "queued"
    site.run_jobs()
    done = alice.get(address, headers=HTMX)
    assert done.headers["X-Request-Status"] == "completed"
    assert "data-events" not in done.text
    assert alice.get(address).status_code == 303


def test_conversations_are_listed_by_page_and_none_is_left_out(site: Site) -> None:
    alice = site.browser(ALICE)
    for n in range(33):
        alice.ask(f"conversation number {n:02}")
    first = alice.get("/conversations").text
    assert first.count('class="name"') == 30
    older = first.split('<li class="older"><a href="')[1].split('"')[0].replace("&amp;", "&")
    second = alice.get(older, headers=HTMX).text
    assert second.count('class="name"') == 3
    assert "older" not in second
    assert {n for n in range(33) if f"number {n:02}" in first + second} == set(range(33))
    assert alice.get("/conversations?after=nonsense").text.count('class="name"') == 30


def test_a_long_conversation_is_shown_in_parts(site: Site) -> None:
    alice = site.browser(ALICE)
    alice.ask("message 00")
    conversation = str(site.newest_request().conversation_id)
    for n in range(1, 53):
        alice.ask(f"message {n:02}", conversation)
    newest = alice.get("/").text
    assert newest.count('class="exchange"') == 50
    assert "message 52" in newest
    earlier = newest.split('class="earlier"><a href="')[1].split('"')[0]
    page = alice.get(earlier).text
    assert [f"message {n:02}" in page for n in range(4)] == [True, True, True, False]


def test_a_key_with_control_characters_is_a_key_all_the_same(site: Site) -> None:
    alice = site.browser(ALICE)
    for _ in range(2):
        assert alice.ask("once", key="k\x00\x01").status_code == 303
    assert site.count(Request) == 1


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00"])
def test_a_cursor_beyond_all_times_is_harmless(site: Site, at: str) -> None:
    alice = site.browser(ALICE)
    alice.ask("hello")
    assert alice.get("/conversations", query_string={"after": f"{at}_{uuid.uuid4()}"}).status_code == 200


def test_what_a_limit_refused_can_be_tried_again_until_there_is_room(site: Site) -> None:
    alice = site.browser(ALICE)
    alice.ask("hello")
    failed = site.newest_request()
    site.change(failed.id, status="failed", error_code="provider_timeout", error_message="It took too long.")
    site.give_limits("enterprise", messages=0)
    for n in range(2):
        alice.post(f"/requests/{failed.id}/again")
        refused = site.newest_request()
        assert (refused.status, site.count(Request)) == ("rejected", n + 2)
    assert f'action="/requests/{refused.id}/again"' in alice.get("/").text
    site.give_limits("enterprise", messages=9)
    for request in (failed, refused, failed, refused):
        alice.post(f"/requests/{request.id}/again")
    taken = site.newest_request()
    assert (taken.status, taken.prompt, site.count(Request)) == ("queued", "hello", 4)
