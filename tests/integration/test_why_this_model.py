"""“Why this model?” under each answer: plain words for everybody, the record for administrators."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape

import pytest
from flask import Flask
from sqlalchemy import insert

from tests.fakes.openai import FakeOpenAI
from tests.fakes.vendor import Trouble
from tests.integration.web_support import ALICE, BOB, HTMX, Browser, Site
from webapp.contracts.errors import ProviderError
from webapp.extensions import now, writing
from webapp.models import Attempt, LedgerEntry, Request, RouteRule
from webapp.models.columns import new_id
from webapp.routing import vendors
from webapp.services import why

SECRETS = ("SWITCHHOOK_", "OPENAI_", "sk-for-tests-only", "invalid_api_key", "Incorrect API key", "passed over", "Passed over")


@pytest.fixture
def make_site(make_app: Callable[..., Flask], openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Site]:
    monkeypatch.setenv("SWITCHHOOK_DEMO_DELAY_MS", "0")

    def make(**values: object) -> Site:
        site = Site(make_app(**values))
        site.add(ALICE, plan="enterprise")
        return site

    return make


def reasons(browser: Browser, site: Site) -> str:
    """What the disclosure under the newest answer says, without its markup."""
    page = browser.get(f"/requests/{site.newest_request().id}", headers=HTMX).text
    found = re.search(r'<details class="why">(.*?)</details>', page, re.S)
    return unescape(" ".join(re.sub(r"<[^>]+>", " ", found[1]).split())) if found else ""


def fail(openai: FakeOpenAI, kind: Trouble) -> None:
    fault = openai.trouble(kind)
    assert fault is not None
    openai.faults.append(fault)


def test_a_member_learns_who_decided_in_plain_words(make_site: Callable[..., Site]) -> None:
    site = make_site(chat_model="openai/gpt-4.1-mini")
    alice = site.browser(ALICE)
    alice.ask("Hello")
    assert reasons(alice, site) == ""
    site.run_jobs()
    said = reasons(alice, site)
    assert said == "Why this model? It is the model that this installation is set to."
    assert alice.get(f"/c/{site.newest_request().conversation_id}").text.count('<details class="why">') == 1


def test_what_failed_before_is_told_without_variables_and_vendors_words(
    make_site: Callable[..., Site], openai: FakeOpenAI
) -> None:
    site = make_site(chat_model="openai/gpt-4.1-mini,demo/demo")
    alice = site.browser(ALICE)
    fail(openai, Trouble.BAD_KEY)
    alice.ask("Hello")
    site.run_jobs()
    said = reasons(alice, site)
    assert "openai/gpt-4.1-mini is not set up correctly. demo/demo answered." in said
    assert not [secret for secret in SECRETS if secret in said]


def test_an_administrator_sees_the_record_too(make_site: Callable[..., Site], openai: FakeOpenAI) -> None:
    site = make_site(chat_model="nobody/at-all,openai/gpt-4.1-mini,demo/demo")
    admin = site.admin()
    fail(openai, Trouble.BAD_KEY)
    admin.ask("Hello")
    site.run_jobs()
    said = reasons(admin, site)
    assert "Decided by: SWITCHHOOK_CHAT_MODEL." in said
    assert "openai/gpt-4.1-mini is not set up correctly. OpenAI" in said
    assert "Passed over: nobody/at-all: there is no provider 'nobody'" in said
    assert "sk-for-tests-only" not in said
    assert site.newest_request().route["by"] == "SWITCHHOOK_CHAT_MODEL"


def test_a_rule_is_named_to_administrators_only(make_site: Callable[..., Site]) -> None:
    site = make_site()
    with site.app.app_context(), writing() as connection:
        connection.execute(
            insert(RouteRule),
            {"id": new_id(), "position": 1, "name": "cheap <b>for</b> guests", "targets": ["demo/demo"], "updated_at": now()},
        )
        vendors.changed(connection)
    for browser in (site.browser(ALICE), site.admin()):
        browser.ask("Hello")
        site.run_jobs()
        said = reasons(browser, site)
        assert "A rule of this installation chose it for such requests." in said
        assert ("cheap <b>for</b> guests" in said) == (browser.get("/dashboard/simulator").status_code == 200)


def test_a_kept_answer_says_that_it_was_kept_and_is_free(make_site: Callable[..., Site], openai: FakeOpenAI) -> None:
    site = make_site(chat_model="openai/gpt-4.1-mini")
    alice = site.browser(ALICE)
    for _ in range(2):
        alice.ask("Hello")
        site.run_jobs()
    request = site.newest_request()
    assert request.cached
    page = alice.get(f"/c/{request.conversation_id}").text
    assert page.count("Kept answer") == 1
    assert "That answer was kept: no model was asked now, and nothing is charged." in reasons(alice, site)
    assert len(openai.calls) == 1


def test_where_nothing_answered_it_says_what_was_tried(make_site: Callable[..., Site], openai: FakeOpenAI) -> None:
    site = make_site(chat_model="openai/gpt-4.1-mini,openai/gpt-4.1")
    alice = site.browser(ALICE)
    fail(openai, Trouble.TOO_LONG)
    fail(openai, Trouble.BAD_REQUEST)
    alice.ask("Hello")
    site.run_jobs()
    said = reasons(alice, site)
    assert "openai/gpt-4.1-mini cannot read that much text. openai/gpt-4.1 did not take the request." in said
    assert "answered" not in said


def test_where_no_model_could_be_asked_it_says_so(make_site: Callable[..., Site]) -> None:
    site = make_site(chat_model="nobody/at-all")
    for browser in (site.browser(ALICE), site.admin()):
        browser.ask("Hello")
        site.run_jobs()
        assert reasons(browser, site).startswith("What was tried? No model could be asked.")
    assert "there is no provider 'nobody'" in reasons(site.admin(), site)


def test_nobody_reads_why_anothers_model_was_chosen(make_site: Callable[..., Site]) -> None:
    site = make_site()
    site.add(BOB)
    site.browser(ALICE).ask("Hello")
    site.run_jobs()
    request_id = site.newest_request().id
    for browser in (site.browser(BOB), site.admin()):
        answer = browser.get(f"/requests/{request_id}", headers=HTMX)
        assert answer.status_code == 404
        assert "details" not in answer.text


def test_an_exchange_with_several_charged_calls_is_shown_once(make_site: Callable[..., Site]) -> None:
    site = make_site()
    alice = site.browser(ALICE)
    alice.ask("Hello")
    site.run_jobs()
    request = site.newest_request()
    with site.app.app_context(), writing() as connection:
        table = LedgerEntry.__table__
        row = connection.execute(table.select()).first()
        assert row is not None
        values = row._asdict() | {"id": new_id(), "attempt_id": None, "payer": "house", "estimated": True}
        connection.execute(insert(LedgerEntry), values)
    page = alice.get(f"/c/{request.conversation_id}").text
    assert page.count(f'id="request-{request.id}"') == 1
    assert "about" not in re.search(r'<ul class="facts".*?</ul>', page, re.S)[0].replace("About", "")  # type: ignore[index]


def test_a_model_that_was_stopped_is_the_one_that_answered() -> None:
    told = why.tell({"by": "the request itself", "models": [{"model": "a/a", "what": "cancelled", "why": "asked for"}]}, [])
    assert told is not None
    assert (told.answered, told.tried, told.decided) == ("a/a", (), "It was asked for by name.")


def test_an_interruption_is_told(make_site: Callable[..., Site]) -> None:
    site = make_site(chat_model="demo/demo")
    alice = site.browser(ALICE)
    alice.ask("Hello")
    site.run_jobs()
    request = site.newest_request()
    site.change(request.id, attempts=2)
    with site.app.app_context(), writing() as connection:
        connection.execute(Attempt.__table__.update().values(execution=2))  # type: ignore[attr-defined]
        lost = {"id": new_id(), "request_id": request.id, "execution": 1, "number": 1, "outcome": "lost"}
        connection.execute(insert(Attempt), lost | {"error_code": "worker_lost", "started_at": now(), "ended_at": now()})
    assert "It was interrupted once and begun anew." in reasons(alice, site)


def test_the_houses_own_call_is_not_taken_for_one_of_the_route() -> None:
    route = {"by": "SWITCHHOOK_CHAT_MODEL", "models": [{"model": "a/a", "what": "failed", "why": "x"}]}
    told = why.tell(route, [(1, "completed", ""), (1, "failed", "provider_timeout")])
    assert told is not None
    assert [(step.model, step.words) for step in told.tried] == [("a/a", "took too long")]


def test_every_failure_of_a_vendor_has_plain_words() -> None:
    found = [ProviderError]
    for kind in found:
        found += [sub for sub in kind.__subclasses__() if sub.__module__ == "webapp.contracts.errors"]
    for kind in found[1:]:
        assert why._WORDS.get(kind.code), kind.code


def test_a_record_that_nobody_expects_breaks_no_page(make_site: Callable[..., Site]) -> None:
    site = make_site()
    alice = site.browser(ALICE)
    alice.ask("Hello")
    site.run_jobs()
    for route in (None, {}, {"by": ""}, {"by": "x"}, {"by": "x", "models": []}, {"models": None}):
        site.change(site.newest_request().id, route=route)
        assert alice.get(f"/c/{site.newest_request().conversation_id}").status_code == 200
    assert site.count(Request) == 1
