"""The providers' pages: how each is doing, setting it up, and testing it by a real call."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from tests.fakes.openai import FakeOpenAI
from tests.integration.web_support import ALICE, HTMX, Browser, Site
from webapp.extensions import reading
from webapp.models import AuditEntry, PersonRole, ProviderSetting

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


def fields(page: str) -> dict[str, str]:
    """What the form of the settings would send if nobody touched it."""
    form = page[page.index('<form id="settings"') :]
    form = form[: form.index("</form>")]
    found: dict[str, str] = {}
    for tag in re.findall(r"<input[^>]*>", form):
        given = dict(re.findall(r'([\w-]+)="([^"]*)"', tag))
        if given.get("type") in ("checkbox", "radio") and " checked" not in tag:
            continue
        if "name" in given:
            found[given["name"]] = given.get("value", "")
    found.pop("csrf_token")
    return found


def save(browser: Browser, path: str = OPENAI, **changed: str) -> Any:
    """Open the page, change some fields, press Save; a field that is given as '-' is left out, as an unticked box is."""
    form = fields(browser.get(path).text) | {name.replace("__", "-"): value for name, value in changed.items()}
    return browser.post(path, {name: value for name, value in form.items() if value != "-"})


def row(site: Site, name: str = "openai") -> Any:
    """What is stored for a provider."""
    with site.app.app_context(), reading() as connection:
        return connection.execute(select(ProviderSetting.__table__).where(ProviderSetting.provider == name)).one_or_none()


@pytest.mark.parametrize("role", [PersonRole.MEMBER, PersonRole.MANAGER])
def test_the_pages_are_for_administrators(site: Site, role: PersonRole) -> None:
    site.add(ALICE, role=role)
    alice = site.browser(ALICE)
    for path in (HOME, OPENAI, f"{OPENAI}/state", f"{OPENAI}/models"):
        assert alice.get(path).status_code == 403
        assert site.browser().get(path).status_code == 303
        assert "/login" in site.browser().get(path).location
    for path in (OPENAI, f"{OPENAI}/test", f"{OPENAI}/reset"):
        assert alice.post(path, {"enabled": ""}).status_code == 403
    assert HOME not in alice.get("/").text
    assert HOME in site.admin().get("/").text
    assert row(site) is None


@pytest.mark.parametrize("path", [OPENAI, f"{OPENAI}/test", f"{OPENAI}/reset"])
def test_no_form_is_taken_without_its_token(site: Site, path: str) -> None:
    assert site.admin().client.post(path, data={"enabled": ""}).status_code == 400
    assert row(site) is None


def test_a_provider_that_is_none_is_not_found(site: Site) -> None:
    admin = site.admin()
    for path in (f"{HOME}/nobody", f"{HOME}/%00", f"{HOME}/nobody/models?models=1"):
        assert admin.get(path, headers=HTMX).status_code == 404
    assert admin.post(f"{HOME}/nobody/test").status_code == 404


def test_without_any_provider_the_page_says_how_to_begin(site: Site) -> None:
    page = site.admin().get(HOME).text
    assert "Set up your first provider" in page
    assert "so the demo answers: it is no model" in page
    assert "OPENAI_API_KEY is not set" in page
    # What nobody counts, because it has no limit, is not shown at all.
    assert "Running now" not in page
    assert "This minute" not in page


def test_the_figures_are_a_part_of_the_page_that_asks_for_itself(with_openai: Site) -> None:
    admin = with_openai.admin()
    whole, part = admin.get(HOME), admin.get(HOME, headers=HTMX)
    assert "Set up your first provider" not in whole.text
    assert 'hx-trigger="every 10s"' in part.text
    assert "<html" in whole.text
    assert "<html" not in part.text
    assert part.text.lstrip().startswith('<div id="providers"')
    assert "HX-Request" in part.headers["Vary"]
    state = admin.get(f"{OPENAI}/state", headers=HTMX).text
    assert state.lstrip().startswith('<section class="card state-box" id="state"')
    assert admin.get(f"{OPENAI}/state").location == OPENAI


def test_what_was_asked_of_a_provider_is_in_its_figures(with_openai: Site) -> None:
    admin = with_openai.admin()
    assert "> Ready<" in admin.get(HOME).text.replace('good">', 'good"> ')
    save(admin, limit__concurrent="3", limit__requests_per_minute="60")
    admin.ask("hello")
    with_openai.run_jobs()
    card = admin.get(HOME, headers=HTMX).text
    card = card[card.index('id="provider-openai"') : card.index("</article>")]
    assert 'state-word good">Serving' in card
    assert "<dt>Calls, last hour</dt><dd>1</dd>" in card
    assert "<dd>0 % (0)</dd>" in card
    assert "<dd>0 of 3</dd>" in card
    assert "<dd>1 of 60 calls</dd>" in card
    assert re.search(r"Usual \(p50\)</dt><dd>[\d.]+ m?s</dd>", card)


def test_a_provider_is_set_up_with_every_kind_of_field(site: Site) -> None:
    admin = site.admin()
    answer = save(
        admin,
        var__OPENAI_API_KEY="sk-secret-0123456789-abcd",
        var__OPENAI_BASE_URL="https://api.example.com/v1",
        default_model="gpt-4.1",
        limit__requests_per_minute="30",
        limit__concurrent="0",
        price__1__model="*",
        price__1__input_usd="0.5",
        peak="own",
        peak_hours="Mon-Fri 01:00-04:00",
    )
    assert (answer.status_code, answer.location) == (303, OPENAI)
    page = admin.get(OPENAI).text
    assert "OpenAI was saved." in page
    assert "set, ends in …abcd" in page
    assert "sk-secret" not in page
    assert "OpenAI was saved." not in admin.get(OPENAI).text
    form = fields(page)
    assert form["var-OPENAI_BASE_URL"] == "https://api.example.com/v1"
    assert form["default_model"] == "gpt-4.1"
    assert (form["limit-requests_per_minute"], form["limit-tokens_per_minute"], form["limit-concurrent"]) == ("30", "", "0")
    assert (form["price-1-model"], form["price-1-input_usd"], form["price-1-output_usd"]) == ("*", "0.5", "")
    assert (form["peak"], form["peak_hours"]) == ("own", "Mon-Fri 01:00-04:00")
    kept = row(site)
    assert kept.values["OPENAI_API_KEY"].keys() == {"sealed", "hint"}
    assert kept.limits == {"requests_per_minute": 30, "concurrent": 0}
    with site.app.app_context(), reading() as connection:
        entry = connection.execute(select(AuditEntry.action, AuditEntry.actor)).one()
    assert entry.action == "provider.change"
    assert entry.actor.startswith("person:")


def test_saving_what_is_there_changes_nothing(site: Site) -> None:
    admin = site.admin()
    save(
        admin,
        var__OPENAI_API_KEY="sk-secret-0123456789-abcd",
        price__1__model="gpt-4.1",
        price__1__input_usd="0.5",
        limit__concurrent="4",
    )
    before = row(site)
    assert save(admin).status_code == 303
    assert row(site) == before


def test_fields_that_are_emptied_go_back_to_what_they_were(site: Site) -> None:
    admin = site.admin()
    save(
        admin,
        default_model="gpt-4.1",
        limit__concurrent="4",
        price__1__model="m",
        price__1__input_usd="1",
        peak_hours="Sat 01:00-02:00",
    )
    assert row(site).peak_hours == "Sat 01:00-02:00"
    save(
        admin,
        default_model="",
        limit__concurrent="",
        price__1__model="",
        price__1__input_usd="",
        price__1__as_of="",
        peak="vendor",
    )
    kept = row(site)
    assert (kept.default_model, kept.limits, kept.prices, kept.peak_hours) == (None, {}, {}, None)


def test_every_fault_is_beside_its_field_and_what_was_typed_is_kept(site: Site) -> None:
    admin = site.admin()
    answer = save(
        admin,
        var__OPENAI_API_KEY="sk-typed-secret",
        var__OPENAI_BASE_URL="<not an address>",
        default_model="two words",
        limit__concurrent="many",
        limit__requests_per_minute="99999999999",
        price__1__model="gpt-4.1",
        price__1__output_usd="cheap",
        price__2__input_usd="1",
        peak="own",
        peak_hours="Someday",
    )
    assert answer.status_code == 422
    page = answer.text
    for name in (
        "var-OPENAI_BASE_URL",
        "default_model",
        "limit-concurrent",
        "limit-requests_per_minute",
        "price-1-output_usd",
        "price-2-model",
        "peak_hours",
    ):
        assert f'id="fault-{name}"' in page, name
        assert f'href="#{name}"' in page
        assert f'id="{name}"' in page
        assert re.search(rf'name="{name}"[^>]*aria-invalid="true"', page), name
    assert page.count('aria-invalid="true"') == 7
    said = dict(re.findall(r'id="fault-([^"]+)">([^<]*)<', page))
    assert said["var-OPENAI_BASE_URL"].startswith("It has to be a whole address")
    assert not any(name.partition("-")[2] in words for name, words in said.items() if name.startswith("var-"))
    assert not any(".." in words or "`" in words for words in said.values())
    notice = page.partition('<div class="notice bad">')[2].partition("</div>")[0]
    assert "OPENAI_BASE_URL</a>" not in notice, "it is called as its label calls it"
    typed = fields(page)
    assert typed["limit-concurrent"] == "many"
    assert typed["var-OPENAI_BASE_URL"] == "&lt;not an address&gt;"
    assert typed["price-1-output_usd"] == "cheap"
    assert typed["peak_hours"] == "Someday"
    assert "sk-typed-secret" not in page
    assert "the keys that you typed were not kept" in page
    assert row(site) is None


def test_prices_have_units_and_the_default_model_says_which_setting_wins(with_openai: Site) -> None:
    page = with_openai.admin().get(OPENAI).text
    for unit in ("$ per million tokens", "$ per picture", "$ per credit of the vendor"):
        assert f'<span class="unit">{unit}</span>' in page
    hint = re.search(r'id="hint-default_model">(.*?)</small>', page, re.S)
    assert hint
    assert "What you enter here wins" in hint[1]
    assert not re.search(r"<label[^>]*>[^<]*`", page)


def test_an_internal_address_is_refused_beside_its_field(site: Site) -> None:
    answer = save(site.admin(), var__OPENAI_BASE_URL="http://169.254.169.254/latest")
    assert answer.status_code == 422
    assert re.search(r'id="fault-var-OPENAI_BASE_URL">[^<]*internal address', answer.text)


def test_a_provider_can_be_switched_off(with_openai: Site) -> None:
    admin = with_openai.admin()
    assert save(admin, enabled="-").status_code == 303
    assert row(with_openai).enabled is False
    page = admin.get(HOME).text
    assert re.search(r'id="provider-openai">.*?state-word off">Switched off', page, re.DOTALL)
    assert "Set up your first provider" in page


def test_a_key_is_removed_only_after_it_was_confirmed(site: Site) -> None:
    admin = site.admin()
    save(admin, var__OPENAI_API_KEY="sk-secret-0123456789-abcd")
    asked = save(admin, remove__OPENAI_API_KEY="1", default_model="gpt-4.1")
    assert asked.status_code == 200
    assert "Remove OPENAI_API_KEY?" in asked.text
    assert fields(asked.text)["default_model"] == "gpt-4.1"
    assert "OPENAI_API_KEY" in row(site).values
    # A confirmation of something else is none.
    assert save(admin, remove__OPENAI_API_KEY="1", confirmed="OPENAI_BASE_URL").status_code == 200
    assert "OPENAI_API_KEY" in row(site).values
    done = save(admin, remove__OPENAI_API_KEY="1", confirmed="OPENAI_API_KEY")
    assert done.status_code == 303
    assert row(site).values == {}
    assert "OPENAI_API_KEY is not set" in admin.get(HOME).text


def test_a_value_of_the_environment_is_shown_as_one_and_never_stored(with_openai: Site, openai: FakeOpenAI) -> None:
    admin = with_openai.admin()
    page = admin.get(OPENAI).text
    assert "from the environment, ends in …only" in page
    assert f"{openai.url}/v1 (from the environment)" in page
    assert KEY not in page
    assert "remove-OPENAI_API_KEY" not in page
    save(admin, default_model="fake-model")
    assert row(with_openai).values == {}


def test_the_warning_comes_before_the_switch(site: Site) -> None:
    page = site.admin().get(f"{HOME}/midjourney").text
    assert page.index("Before you switch it on") < page.index('name="enabled"')
    assert 'aria-describedby="warning"' in page


def test_a_value_that_is_one_of_few_is_chosen_from_a_list(site: Site) -> None:
    admin = site.admin()
    assert save(admin, f"{HOME}/prsm", var__PRSM_DIALECT="node").status_code == 303
    page = admin.get(f"{HOME}/prsm").text
    assert '<option value="node" selected>' in page
    assert row(site, "prsm").values == {"PRSM_DIALECT": {"plain": "node"}}
    wrong = save(admin, f"{HOME}/prsm", var__PRSM_DIALECT="latin")
    assert wrong.status_code == 422
    assert 'id="fault-var-PRSM_DIALECT"' in wrong.text
    save(admin, f"{HOME}/prsm", var__PRSM_DIALECT="")
    assert row(site, "prsm").values == {}


def test_hours_that_were_written_count_even_if_their_button_was_forgotten(site: Site) -> None:
    admin = site.admin()
    save(admin, f"{HOME}/deepseek", peak="vendor", peak_hours="Sat 01:00-02:00")
    assert row(site, "deepseek").peak_hours == "Sat 01:00-02:00"
    save(admin, f"{HOME}/deepseek", peak="vendor")
    assert row(site, "deepseek").peak_hours is None


def test_the_figures_go_on_without_redis(make_app: Callable[..., Flask]) -> None:
    admin = Site(make_app(redis_url="redis://127.0.0.1:9/0")).admin()
    page = admin.get(HOME)
    assert page.status_code == 200
    assert "Redis does not answer" in page.text
