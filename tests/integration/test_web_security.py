"""The headers of every page, the way to https, and what is shown when something breaks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Flask

from tests.integration.web_support import ALICE, HTMX, Site, token

PUBLIC = "https://bot.example.com"


@pytest.fixture
def site(make_app: Callable[..., Flask]) -> Site:
    app = make_app()

    @app.get("/broken")
    def broken() -> str:
        raise RuntimeError("the secret is 1234")

    return Site(app)


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
