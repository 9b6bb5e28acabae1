"""The settings page: one's own password, and what is used of the plan."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask
from sqlalchemy import select

from tests.integration.web_support import ALICE, PASSWORD, Site, token
from webapp.extensions import reading
from webapp.models import AuditEntry

NEW = "another good password"


@pytest.fixture
def site(make_app: Callable[..., Flask]) -> Site:
    site = Site(make_app())
    site.add(ALICE, phone="+15005550111")
    return site


def test_the_page_shows_who_one_is_and_what_is_used_of_the_plan(site: Site) -> None:
    site.give_limits("free", messages=3, tokens=None)
    alice = site.browser(ALICE)
    assert "0 of 3 used" in alice.get("/settings").text
    alice.ask("hello")
    held = alice.get("/settings").text
    assert "0 of 3 used (0 %), 1 held for what runs now" in held
    site.run_jobs()
    page = alice.get("/settings").text
    assert ALICE in page
    assert "+15005550111" in page
    assert "1 of 3 used (33 %)" in page
    assert 'value="1" max="3"></progress>' in page
    assert "61 used, no limit" in page


def test_a_new_password_ends_other_sessions_and_keeps_this_one(site: Site) -> None:
    here, there = site.browser(ALICE), site.browser(ALICE)
    changed = here.post("/settings/password", {"old": PASSWORD, "new": NEW, "again": NEW})
    assert changed.status_code == 303
    assert "Your password was changed." in here.get("/settings").text
    assert there.get("/settings").status_code == 303
    assert site.browser().sign_in(ALICE, PASSWORD).status_code == 422
    assert site.browser().sign_in(ALICE, NEW).status_code == 303


@pytest.mark.parametrize(
    ("old", "new", "again", "words"),
    [
        ("wrong", NEW, NEW, "This is not your present password."),
        (PASSWORD, NEW, NEW + "x", "The two new passwords differ."),
        (PASSWORD, "short", "short", "A password needs 10 to 200 characters."),
    ],
)
def test_a_password_is_not_changed_by_mistake(site: Site, old: str, new: str, again: str, words: str) -> None:
    alice = site.browser(ALICE)
    page = alice.post("/settings/password", {"old": old, "new": new, "again": again})
    assert page.status_code == 422
    assert words in page.text
    assert 'aria-invalid="true"' in page.text
    assert NEW not in page.text
    assert site.browser().sign_in(ALICE, PASSWORD).status_code == 303


def test_guessing_the_present_password_in_a_burst_is_stopped(site: Site) -> None:
    alice = site.browser(ALICE)
    form = {"csrf_token": token(alice.get("/settings")), "old": "wrong", "new": NEW, "again": NEW}
    browsers = [site.browser(ALICE) for _ in range(16)]
    forms = [form | {"csrf_token": token(browser.get("/settings"))} for browser in browsers]
    with ThreadPoolExecutor(16) as pool:
        answers = pool.map(lambda n: browsers[n].client.post("/settings/password", data=forms[n]).status_code, range(16))
        assert sorted(answers) == [422] * 10 + [429] * 6


def test_signing_out_everywhere_else_keeps_this_session(site: Site) -> None:
    here, there = site.browser(ALICE), site.browser(ALICE)
    assert "Sign out everywhere else" in here.get("/settings").text
    done = here.post("/settings/sessions/end")
    assert (done.status_code, done.location) == (303, "/settings")
    assert "You are signed out everywhere else." in here.get("/settings").text
    assert there.get("/settings").status_code == 303
    with site.app.app_context(), reading() as connection:
        entry = connection.execute(select(AuditEntry.action, AuditEntry.subject, AuditEntry.actor)).one()
    assert entry.action == "person.sessions"
    assert entry.subject == entry.actor


def test_a_full_limit_stands_out(site: Site) -> None:
    site.give_limits("free", messages=1)
    alice = site.browser(ALICE)
    assert 'class="meter"' in alice.get("/settings").text
    alice.ask("hello")
    assert 'class="meter full"' in alice.get("/settings").text
