"""The headers of every page, the way to https, and what is shown when something breaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tests.integration.web_support import ALICE, HTMX, Browser, Site, token
from webapp.extensions import db

PUBLIC = "https://bot.example.com"


@pytest.fixture
def site(make_app: Callable[..., Flask]) -> Site:
    app = make_app()

    @app.get("/broken")
    def broken() -> str:
        raise RuntimeError("the secret is 1234")

    @app.get("/crowded")
    def crowded() -> str:
        raise PoolTimeout("QueuePool limit reached")

    return Site(app)


def take_the_database_away(site: Site) -> None:
    """From now on no connection can be made."""
    with site.app.app_context():
        engine = db.engine
    engine.dispose()

    @event.listens_for(engine, "do_connect")
    def _refuse(dialect: Any, *_rest: Any) -> None:
        raise dialect.loaded_dbapi.OperationalError("connection refused")


def test_a_page_loads_nothing_from_elsewhere_and_runs_nothing_inline(site: Site) -> None:
    site.add(ALICE)
    answer = site.browser(ALICE).get("/")
    policy = answer.headers["Content-Security-Policy"]
    for rule in ("default-src 'self'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
        assert rule in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Strict-Transport-Security" not in answer.headers
    assert " style=" not in answer.text
    assert "<script>" not in answer.text
    assert 'src="http' not in answer.text


def test_static_files_are_kept_by_the_browser_and_change_their_address_with_their_content(site: Site) -> None:
    page = site.browser().get("/login")
    address = page.text.split('<link rel="stylesheet" href="')[2].split('"')[0]
    answer = site.browser().get(address)
    assert answer.status_code == 200
    assert "immutable" in answer.headers["Cache-Control"]
    answer.close()


def test_with_an_https_address_browsers_are_led_there_and_machines_are_not(make_app: Callable[..., Flask]) -> None:
    client = make_app(public_url=PUBLIC).test_client()
    plain = {"X-Forwarded-Proto": "http"}
    answer = client.get("/login?next=/settings", headers=plain)
    assert (answer.status_code, answer.location) == (308, PUBLIC + "/login?next=/settings")
    assert client.get("/health/live", headers=plain).status_code == 200
    assert client.post("/sms/receive", headers=plain).status_code not in (301, 302, 307, 308)
    # A proxy that says nothing must not be led in a circle.
    assert client.get("/login").status_code == 200
    secure = client.get("/login", base_url=PUBLIC)
    assert secure.headers["Strict-Transport-Security"].startswith("max-age=")
    assert "Secure" in secure.headers["Set-Cookie"]


def test_a_fault_shows_its_number_and_nothing_internal(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    page = site.browser().get("/broken")
    assert page.status_code == 500
    assert "1234" not in page.text
    assert "RuntimeError" not in page.text
    error_id = page.text.split("<code>")[1].split("</code>")[0]
    assert f"error {error_id} in GET broken" in caplog.text
    told = site.browser().get("/broken", headers={"Accept": "application/json"})
    assert told.json is not None
    assert told.json["error"]["code"] == "internal"
    assert "1234" not in told.text


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/nowhere", 404, "not_found"), ("DELETE", "/login", 405, "method_not_allowed")],
)
def test_errors_are_pages_for_people_and_json_for_programs(site: Site, method: str, path: str, status: int, code: str) -> None:
    client = site.app.test_client()
    page = client.open(path, method=method)
    assert page.status_code == status
    assert "<h1>" in page.text
    told = client.open(path, method=method, headers={"Accept": "application/json"})
    assert told.status_code == status
    assert told.json is not None
    assert told.json["error"]["code"] == code
    assert told.json["error"]["message"]


def test_what_is_too_large_is_refused_with_a_page(site: Site) -> None:
    site.add(ALICE)
    answer = site.browser(ALICE).post("/chat", {"text": "x" * (1024 * 1024 + 1)})
    assert answer.status_code == 413
    assert "larger than" in answer.text


def test_a_page_that_was_open_too_long_gives_back_what_was_typed(site: Site) -> None:
    site.add(ALICE)
    alice = site.browser(ALICE)
    answer = alice.client.post("/chat", data={"csrf_token": "stale", "text": "a long <b>letter</b>", "key": "k"})
    assert answer.status_code == 400
    assert "You were signed out or in again elsewhere. Nothing was sent." in answer.text
    assert "a long &lt;b&gt;letter&lt;/b&gt;</textarea>" in answer.text
    # The page's own form sends it after all.
    form = {"csrf_token": token(answer), "text": "a long <b>letter</b>", "key": "k", "conversation": ""}
    assert alice.client.post("/chat", data=form).status_code == 303
    assert site.newest_request().prompt == "a long <b>letter</b>"


def test_an_error_in_a_part_of_a_page_is_a_notice_in_its_place(site: Site) -> None:
    answer = site.browser().client.post("/login", headers=HTMX)
    assert answer.status_code == 400
    assert answer.headers["HX-Retarget"] == "#notices"
    assert "<html" not in answer.text


def test_a_part_of_a_page_says_how_to_go_on_after_signing_in_elsewhere(site: Site) -> None:
    site.add(ALICE)
    here = HTMX | {"HX-Current-URL": "http://localhost/c/new?a=b"}
    stale = {"csrf_token": "stale", "text": "kept"}
    signed_in = site.browser(ALICE).client.post("/chat", data=stale, headers=here)
    assert signed_in.status_code == 400
    assert "Reload this page, then send it again." in signed_in.text
    assert '<a href="/c/new?a=b" data-reload>Reload</a>' in signed_in.text
    signed_out = site.browser().client.post("/chat", data=stale, headers=here)
    assert signed_out.status_code == 400
    assert '<a href="/login?next=/c/new?a%3Db" data-reload>Sign in</a>' in signed_out.text
    elsewhere = site.browser(ALICE).client.post(
        "/chat", data=stale, headers=HTMX | {"HX-Current-URL": "https://evil.example/c/new"}
    )
    assert "evil" not in elsewhere.text


@pytest.mark.parametrize("headers", [{}, HTMX])
def test_what_was_typed_survives_the_end_of_all_sessions(site: Site, headers: dict[str, str]) -> None:
    site.add(ALICE)
    alice = site.browser(ALICE)
    csrf = token(alice.get("/"))
    site.change_person(ALICE, session_key="another")
    answer = alice.client.post("/chat", data={"csrf_token": csrf, "text": "a letter"}, headers=headers)
    assert answer.status_code == 401
    assert "Nothing was sent" in answer.text
    assert "HX-Redirect" not in answer.headers
    assert ("a letter</textarea>" in answer.text) == (not headers)
    assert "/login" in answer.text


def told(browser: Browser, path: str, **headers: str) -> str:
    """The text of an answer without a database, whose status and headers are checked."""
    answer = browser.get(path, headers=headers)
    assert answer.status_code == 503
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert int(answer.headers["Retry-After"]) > 0
    return answer.text


def test_without_its_database_every_page_says_so(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.add(ALICE)
    alice = site.browser(ALICE)
    assert alice.get("/").status_code == 200
    take_the_database_away(site)
    words = "Switchhook cannot reach its database. Nothing was lost; try again in a minute."
    for path in ("/", "/login", "/settings", "/nowhere", "/c/new", "/dashboard/simulator", "/broken"):
        page = told(alice, path)
        assert words in page
        assert "</html>" in page
    part = told(alice, "/conversations", **HTMX)
    assert words in part
    assert "<html" not in part
    assert '"code":"unavailable"' in told(alice, "/", Accept="application/json").replace(" ", "")
    assert "the database cannot be reached" in caplog.text
    assert "connection refused" in caplog.text


def test_a_crowded_database_is_no_fault_either(site: Site) -> None:
    assert "cannot reach its database" in told(site.browser(), "/crowded")
