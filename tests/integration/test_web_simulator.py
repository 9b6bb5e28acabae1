"""The simulator page: the whole road of a text message, for administrators."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from flask import Flask
from sqlalchemy import event

from tests.integration.web_support import ALICE, HTMX, Browser, Site
from webapp.extensions import db
from webapp.models import Conversation, Delivery, PersonRole, Request

NUMBER = "+15005550006"
HOME = "/dashboard/simulator"


@pytest.fixture
def site(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("SWITCHHOOK_DEMO_DELAY_MS", "0")
    return Site(make_app())


def text(browser: Browser, words: str, number: str = NUMBER, htmx: bool = True) -> str:
    """Send a text from the phone; the panel that comes back."""
    answer = browser.post(f"{HOME}/send", {"number": number, "text": words}, headers=HTMX if htmx else {})
    assert answer.status_code == (200 if htmx else 303)
    return answer.text


@pytest.mark.parametrize("role", [PersonRole.MEMBER, PersonRole.MANAGER])
def test_the_simulator_is_for_administrators(site: Site, role: PersonRole) -> None:
    site.add(ALICE, role=role)
    alice = site.browser(ALICE)
    assert alice.get(HOME).status_code == 403
    assert alice.get(f"{HOME}/panel").status_code == 403
    assert alice.post(f"{HOME}/send", {"number": NUMBER, "text": "x"}).status_code == 403
    assert site.browser().get(HOME).status_code == 303
    assert HOME not in alice.get("/").text
    assert site.count(Delivery) == 0


def test_a_text_takes_the_whole_road_and_each_step_is_told(site: Site) -> None:
    admin = site.admin()
    started = text(admin, "What is a table?")
    assert 'hx-trigger="every 1s"' in started
    assert "Waiting for a worker" in started
    site.run_jobs()
    done = admin.get(f"{HOME}/panel?number=%2B15005550006", headers=HTMX).text
    assert "every 1s" not in done
    for step in (
        "<strong>Received</strong> by simulator, 1 segment (GSM-7)",
        "plan Free",
        "<strong>Admitted</strong>",
        "Held 1 message for this month, settled",
        "<strong>Queued</strong> in low, priority 20",
        "<strong>Sorted</strong> as",
        "<strong>Attempt 1</strong> at demo / demo: completed",
        "<strong>Used</strong>",
        "as the vendor counted",
        "<strong>Answer</strong> by simulator: delivered",
    ):
        assert step in done, step
    assert '<div class="sms theirs">' in done
    assert site.newest_request().reply_to == NUMBER


def test_without_scripts_the_page_is_led_back_to(site: Site) -> None:
    admin = site.admin()
    text(admin, "hello", "+15005550123", htmx=False)
    page = admin.get(f"{HOME}?number=%2B15005550123").text
    assert '<div class="plain" dir="auto">hello</div>' in page
    assert "Nothing yet." in admin.get(HOME).text


def test_stop_help_and_start_do_what_a_carrier_s_rules_ask(site: Site) -> None:
    admin = site.admin()
    panel = text(admin, "HELP")
    assert "Understood as HELP" in panel
    site.run_jobs()
    assert "Reply STOP to get no more messages" in admin.get(HOME).text
    text(admin, "STOP")
    assert site.opted_out(NUMBER)
    silent = text(admin, "are you there?")
    assert "this number had opted out" in silent
    assert site.count(Request) == 0
    text(admin, "START")
    assert not site.opted_out(NUMBER)
    panel = text(admin, "and now?")
    assert site.count(Request) == 1
    # What happened then reads the same now.
    assert panel.count("this number had opted out") == 1


def test_without_a_known_reason_the_story_names_none(site: Site) -> None:
    site.add(ALICE, phone=NUMBER)
    site.change_person(ALICE, active=False)
    admin = site.admin()
    told = "<strong>Recorded;</strong> no request came of it"
    before = text(admin, "hello?")
    assert told in before
    assert "not active" in before
    site.change_person(ALICE, active=True)
    assert told in admin.get(HOME).text


def test_what_was_held_is_said_in_words(site: Site) -> None:
    site.give_limits("free", messages=5, tokens=100_000, cost_microusd=1_000_000)
    admin = site.admin()
    panel = text(admin, "hello")
    assert "No name, plan Free" in panel
    assert "Held 1 message for this month" in panel
    assert re.search(r"Held [\d,]+ tokens for this month", panel)
    assert re.search(r"Held \$[\d.]+ of spending for this month", panel)


def test_a_refusal_names_the_limit_and_is_sent_to_the_phone(site: Site) -> None:
    site.give_limits("free", messages=0)
    admin = site.admin()
    panel = text(admin, "hello")
    assert "<strong>Refused:</strong>" in panel
    site.run_jobs()
    done = admin.get(HOME).text
    assert "<strong>Notice</strong> by simulator: delivered" in done
    assert "every 1s" not in done


@pytest.mark.parametrize("number", ["", "123", "+1", "five", "+15005550006000000000"])
def test_what_is_no_number_is_refused(site: Site, number: str) -> None:
    admin = site.admin()
    assert admin.post(f"{HOME}/send", {"number": number, "text": "x"}, headers=HTMX).status_code == 422
    assert admin.get(f"{HOME}/panel", query_string={"number": number or "x"}).status_code == 422
    if number:
        assert admin.get(HOME, query_string={"number": number}).status_code == 422
    assert site.count(Delivery) == 0


def test_an_empty_or_endless_text_is_refused_in_the_page(site: Site) -> None:
    admin = site.admin()
    for words, reason in (("  ", "Write a message first."), ("x" * 16_001, "at most 16,000")):
        answer = admin.post(f"{HOME}/send", {"number": NUMBER, "text": words}, headers=HTMX)
        assert answer.status_code == 422
        assert reason in answer.text
        assert admin.post(f"{HOME}/send", {"number": NUMBER, "text": words}).status_code == 422


def test_a_conversation_goes_on_from_the_phone_to_the_web(site: Site) -> None:
    site.add(ALICE, phone=NUMBER)
    text(site.admin(), "from my phone")
    site.run_jobs()
    alice = site.browser(ALICE)
    page = alice.get("/").text
    assert "from my phone" in page
    assert page.count('<span class="badge">SMS</span>') == 2
    alice.ask("and now from the web", str(site.newest_request().conversation_id))
    site.run_jobs()
    assert site.count(Conversation) == 1


def test_markup_in_a_text_is_only_text(site: Site) -> None:
    admin = site.admin()
    text(admin, "<script>alert(1)</script>")
    assert "<script>alert" not in admin.get(HOME).text


def test_more_messages_take_no_more_statements(site: Site) -> None:
    admin = site.admin()
    text(admin, "one")
    site.run_jobs()
    said: list[str] = []
    with site.app.app_context():
        engine = db.engine
    event.listen(engine, "before_cursor_execute", lambda c, cursor, statement, *rest: said.append(statement))
    admin.get(HOME)
    few = len(said)
    for words in ("two", "three", "HELP", "four"):
        text(admin, words)
    site.run_jobs()
    said.clear()
    admin.get(HOME)
    assert 0 < len(said) <= few


def test_control_characters_in_a_number_are_left_out(site: Site) -> None:
    admin = site.admin()
    text(admin, "hello\x00 there", number="+1500555\x000006")
    assert site.newest_request().prompt == "hello there"
    assert admin.get(HOME, query_string={"number": "+1500555\x000006"}).status_code == 200
    assert admin.get(f"{HOME}/panel", query_string={"number": "+1500555\x000006"}, headers=HTMX).status_code == 200
