"""What the providers' pages do at the vendors: a test, the list of models; and the end of a rest."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from flask import Flask

from tests.fakes.openai import FakeOpenAI
from tests.fakes.vendor import Trouble
from tests.integration.web_support import ALICE, HTMX, Site
from webapp.models import LedgerEntry, PersonRole
from webapp.routing import resilience, vendors
from webapp.routing.resilience import Pace, Verdict

HOME = "/dashboard/providers"
OPENAI = f"{HOME}/openai"
KEY = "sk-for-tests-only"


@pytest.fixture
def site(make_app: Callable[..., Flask]) -> Site:
    return Site(make_app())


@pytest.fixture
def with_openai(openai: FakeOpenAI, make_app: Callable[..., Flask]) -> Site:
    """A site that knows the fake OpenAI from its environment."""
    return Site(make_app())


def open_circuit(site: Site, target: str) -> None:
    """Let a target fail so often that it is left alone."""
    provider = target.partition("/")[0]
    with site.app.app_context():
        vendors.current()
        for _ in range(5):
            grant = resilience.enter(provider, target, Pace(), tokens=1, hold_s=60)
            assert isinstance(grant, resilience.Grant)
            resilience.leave(grant, Verdict.BAD)
        assert resilience.is_open(target)


def test_a_test_shows_the_vendor_s_answer_its_time_and_its_cost(with_openai: Site, openai: FakeOpenAI) -> None:
    admin = with_openai.admin()
    shown = admin.post(f"{OPENAI}/test", {"kind": "text", "model": "fake-model"}, headers=HTMX)
    assert shown.status_code == 200
    assert "<html" not in shown.text
    assert "It works." in shown.text
    assert openai.text in shown.text
    assert re.search(r"\d ms · cost \$0\.\d+ · \d+ tokens", shown.text)
    assert [call["model"] for call in openai.calls] == ["fake-model"]
    assert with_openai.count(LedgerEntry) == 1


def test_a_test_without_scripts_leads_back_and_shows_its_outcome_once(with_openai: Site, openai: FakeOpenAI) -> None:
    admin = with_openai.admin()
    answer = admin.post(f"{OPENAI}/test", {"kind": "text"})
    assert (answer.status_code, answer.location) == (303, f"{OPENAI}#test-title")
    assert "It works." not in admin.get(f"{HOME}/anthropic").text
    assert openai.text in admin.get(OPENAI).text
    assert openai.text not in admin.get(OPENAI).text
    assert len(openai.calls) == 1


@pytest.mark.parametrize("htmx", [True, False])
def test_a_test_that_fails_shows_the_vendor_s_real_words(with_openai: Site, openai: FakeOpenAI, htmx: bool) -> None:
    admin = with_openai.admin()
    fault = openai.trouble(Trouble.NO_CREDIT)
    assert fault is not None
    openai.faults = [fault]
    answer = admin.post(f"{OPENAI}/test", headers=HTMX if htmx else {})
    page = answer.text if htmx else admin.get(OPENAI).text
    assert "It did not work." in page
    assert "You exceeded your quota." in page
    assert "provider_out_of_credit" in page
    assert KEY not in page


def test_a_provider_without_a_key_says_so_when_it_is_tested(site: Site) -> None:
    shown = site.admin().post(f"{OPENAI}/test", headers=HTMX).text
    assert "It did not work." in shown
    assert "OPENAI_API_KEY is not set." in shown


def test_what_a_vendor_says_is_text_and_not_a_page(with_openai: Site, openai: FakeOpenAI) -> None:
    openai.text = "<script>alert(1)</script>"
    openai.models = ['"><img src=x>']
    admin = with_openai.admin()
    shown = admin.post(f"{OPENAI}/test", headers=HTMX).text
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "<img" not in admin.get(f"{OPENAI}/models", headers=HTMX).text


def test_tests_are_limited_and_by_person(with_openai: Site, openai: FakeOpenAI) -> None:
    admin = with_openai.admin()
    answers = [admin.post(f"{OPENAI}/test", headers=HTMX) for _ in range(11)]
    assert [answer.status_code for answer in answers] == [200] * 10 + [429]
    assert answers[-1].headers["HX-Retarget"] == "#notices"
    assert len(openai.calls) == 10
    with_openai.add(ALICE, role=PersonRole.ADMIN)
    assert with_openai.browser(ALICE).post(f"{OPENAI}/test", headers=HTMX).status_code == 200


def test_the_vendor_s_models_are_listed_with_and_without_scripts(with_openai: Site, openai: FakeOpenAI) -> None:
    admin = with_openai.admin()
    part = admin.get(f"{OPENAI}/models", headers=HTMX).text
    assert part.lstrip().startswith('<div id="models"')
    assert '<option value="fake-model-large">' in part
    whole = admin.get(f"{OPENAI}?models=1").text
    assert '<option value="fake-model-large">' in whole
    assert "<html" in whole
    assert "fake-model-large" not in admin.get(OPENAI).text


def test_models_that_cannot_be_listed_are_explained(with_openai: Site, openai: FakeOpenAI) -> None:
    fault = openai.trouble(Trouble.BAD_KEY)
    assert fault is not None
    openai.faults = [fault, fault]
    part = with_openai.admin().get(f"{OPENAI}/models", headers=HTMX)
    assert part.status_code == 200
    assert "Incorrect API key provided" in part.text
    assert KEY not in part.text


def test_a_provider_that_rests_says_so_and_can_be_tried_again(with_openai: Site) -> None:
    admin = with_openai.admin()
    assert "Try again now" not in admin.get(OPENAI).text
    open_circuit(with_openai, "openai/gpt-4.1-mini")
    page = admin.get(HOME).text
    assert 'state-word bad">Resting after failures' in page
    assert re.search(r"openai/gpt-4.1-mini: left alone until <time", page)
    assert "Try again now" in admin.get(OPENAI).text
    done = admin.post(f"{OPENAI}/reset")
    assert (done.status_code, done.location) == (303, OPENAI)
    page = admin.get(OPENAI).text
    assert "is tried again from now on" in page
    assert "Try again now" not in page
    with with_openai.app.app_context():
        assert not resilience.is_open("openai/gpt-4.1-mini")


def test_a_vendor_that_asked_for_patience_is_shown_as_resting(with_openai: Site) -> None:
    with with_openai.app.app_context():
        resilience.pause("openai", 90, "rate limited")
    page = with_openai.admin().get(HOME).text
    assert re.search(r"No calls until <time[^>]*>\d\d:\d\d</time>: rate limited\.", page)


def test_a_look_at_a_vendor_of_pictures_makes_none(site: Site) -> None:
    shown = site.admin().post(f"{HOME}/midjourney/test", headers=HTMX)
    assert shown.status_code == 200
    assert "MIDJOURNEY_PROXY_URL is not set." in shown.text
    assert "none is made" in site.admin().get(f"{HOME}/midjourney").text
