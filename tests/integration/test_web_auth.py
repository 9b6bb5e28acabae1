"""Signing in and out: who gets in, where they land, and how guessing is slowed down."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask
from sqlalchemy import event

from tests.integration.web_support import ALICE, HTMX, PASSWORD, Site, token
from webapp.extensions import db, queue_redis
from webapp.web.auth import local


@pytest.fixture
def site(make_app: Callable[..., Flask]) -> Site:
    return Site(make_app())


def test_a_stranger_is_asked_to_sign_in_and_comes_back_to_the_page(site: Site) -> None:
    site.add(ALICE)
    browser = site.browser()
    asked = browser.get("/settings")
    assert asked.status_code == 303
    assert asked.location == "/login?next=/settings"
    done = browser.post("/login", {"email": ALICE.upper(), "password": PASSWORD, "next": "/settings"})
    assert (done.status_code, done.location) == (303, "/settings")
    assert browser.get("/settings").status_code == 200


def test_signing_in_never_leads_to_another_site(site: Site) -> None:
    elsewhere = (
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "javascript:alert(1)",
        "evil.example",
        " //evil.example",
        "",
    )
    with site.app.test_request_context():
        assert [local(target) for target in elsewhere] == ["/"] * len(elsewhere)
        assert local("/settings?a=b") == "/settings?a=b"
    site.add(ALICE)
    form = {"email": ALICE, "password": PASSWORD, "next": elsewhere[1]}
    assert site.browser().post("/login", form).location == "/"


def test_the_answer_is_the_same_for_a_wrong_password_and_an_unknown_person(site: Site) -> None:
    site.add(ALICE)
    wrong = site.browser().sign_in(ALICE, "not the password")
    unknown = site.browser().sign_in("nobody@example.com", "not the password")
    assert wrong.status_code == unknown.status_code == 422
    message = "This e-mail and password do not fit together."
    assert message in wrong.text
    assert message in unknown.text


def test_a_person_who_was_made_inactive_is_out_at_once(site: Site) -> None:
    site.add(ALICE)
    alice = site.browser(ALICE)
    assert alice.get("/settings").status_code == 200
    site.change_person(ALICE, active=False)
    assert alice.get("/settings").status_code == 303
    assert site.browser().sign_in(ALICE).status_code == 422


def test_signing_out_needs_the_token_and_ends_the_session(site: Site) -> None:
    site.add(ALICE)
    alice = site.browser(ALICE)
    assert alice.client.post("/logout").status_code == 400
    assert alice.get("/settings").status_code == 200
    assert alice.post("/logout").location == "/login"
    assert alice.get("/settings").status_code == 303


def test_guessing_a_password_is_stopped_with_a_page_that_says_when_to_return(site: Site) -> None:
    site.add(ALICE)
    browser = site.browser()
    csrf = token(browser.get("/login"))
    form = {"csrf_token": csrf, "email": ALICE, "password": "a guess"}
    answers = [browser.client.post("/login", data=form) for _ in range(11)]
    assert [answer.status_code for answer in answers] == [422] * 10 + [429]
    assert "Too many attempts" in answers[-1].text
    assert 0 < int(answers[-1].headers["Retry-After"]) <= 61
    with site.app.app_context():
        # Counted in Redis, so that all web processes count together.
        assert any(b"LIMITS" in key for key in queue_redis().scan_iter())
    # The right password does not help either for now, but another account is not locked out.
    assert browser.client.post("/login", data=form | {"password": PASSWORD}).status_code == 429
    assert browser.client.post("/login", data=form | {"email": "b@example.com"}).status_code == 422


def test_a_form_without_its_token_changes_nothing(site: Site) -> None:
    site.add(ALICE)
    browser = site.browser()
    answer = browser.client.post("/login", data={"email": ALICE, "password": PASSWORD})
    assert answer.status_code == 400
    assert "Nothing was sent" in answer.text
    assert browser.get("/settings").status_code == 303


def test_the_part_of_a_page_sends_a_stranger_to_the_sign_in_page(site: Site) -> None:
    answer = site.browser().get("/conversations", headers=HTMX)
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (401, "/login")
    for headers in ({"Accept": "application/json"}, {"Accept": "text/event-stream"}):
        assert site.browser().get("/conversations", headers=headers).status_code == 401


def test_knowing_the_reader_of_a_page_is_one_statement(site: Site) -> None:
    site.add(ALICE)
    alice = site.browser(ALICE)
    said: list[str] = []
    with site.app.app_context():
        engine = db.engine
    event.listen(engine, "before_cursor_execute", lambda c, cursor, statement, *rest: said.append(statement))
    assert alice.get("/login").status_code == 303
    assert len([statement for statement in said if statement.startswith("SELECT")]) == 1


def test_cookies_are_only_for_this_site_and_its_server(site: Site) -> None:
    site.add(ALICE)
    cookie = site.browser().sign_in(ALICE).headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Expires=" in cookie


def test_a_burst_of_guesses_is_stopped_at_the_same_number(site: Site) -> None:
    site.add(ALICE)
    browsers = [site.browser() for _ in range(24)]
    tokens = [token(browser.get("/login")) for browser in browsers]

    def guess(n: int) -> int:
        form = {"csrf_token": tokens[n], "email": ALICE, "password": f"guess {n}"}
        return browsers[n].client.post("/login", data=form).status_code

    with ThreadPoolExecutor(24) as pool:
        answers = sorted(pool.map(guess, range(24)))
    assert answers == [422] * 10 + [429] * 14


def test_signing_in_rightly_is_not_counted(site: Site) -> None:
    site.add(ALICE)
    assert [site.browser().sign_in(ALICE).status_code for _ in range(12)] == [303] * 12
    with site.app.app_context():
        counted = [queue_redis().get(key) for key in queue_redis().scan_iter("LIMITS*")]
    # Per minute and per hour, for the account and for the address.
    assert counted == [b"0"] * 4
    wrong = [site.browser().sign_in(ALICE, "a guess").status_code for _ in range(11)]
    assert wrong == [422] * 10 + [429]


def test_a_failed_sign_in_is_logged_with_the_address_and_without_the_e_mail(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        site.browser().sign_in("nobody@example.com", "a guess")
    assert "a sign-in from 127.0.0.1 failed" in caplog.text
    assert "nobody@" not in caplog.text


def test_an_e_mail_with_control_characters_belongs_to_nobody(site: Site) -> None:
    assert site.browser().sign_in("no\x00body@example.com", "a guess").status_code == 422


def test_a_second_form_to_sign_in_leads_on_where_the_first_was_used(site: Site) -> None:
    site.add(ALICE)
    browser = site.browser()
    form = {"csrf_token": token(browser.get("/login")), "email": ALICE, "password": PASSWORD, "next": "/settings"}
    assert browser.client.post("/login", data=form).location == "/settings"
    second = browser.client.post("/login", data=form)
    assert (second.status_code, second.location) == (303, "/login?next=/settings")
    assert browser.get(second.location).location == "/settings"


def test_a_form_without_its_token_is_no_warning_in_the_log(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        site.browser().client.post("/login", data={"email": ALICE, "password": PASSWORD})
    assert "CSRF" not in caplog.text
