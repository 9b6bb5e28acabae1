"""A key goes where the operator sent it, and nowhere else: to no address of a page, and into no words of a vendor."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from flask import Flask

from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.integration.web_support import Site
from webapp.contracts.errors import BadInput, ProviderError
from webapp.contracts.providers import Health
from webapp.extensions import writing
from webapp.models import PersonRole, ProviderSetting
from webapp.plugin import ModelInfo, TextProvider, Unavailable, Variable, VariableKind, hookimpl
from webapp.registry import current_registry
from webapp.routing import vendor_keys, vendors
from webapp.services import health, providers
from webapp.services.providers import Change

OPERATORS = "sk-for-tests-only"
DUMMY = "a-dummy-key-0000"
ADMIN = "command line (tests)"


@pytest.fixture
def elsewhere() -> Iterator[FakeOpenAI]:
    """A server that notes every key that it is sent."""
    with FakeOpenAI() as server:
        yield server


@pytest.fixture
def house(make_app: Callable[..., Flask], openai: FakeOpenAI, elsewhere: FakeOpenAI) -> Iterator[Flask]:
    """An application whose OpenAI is set up in the environment; a second server may be called too."""
    del openai
    app = make_app(allow_outbound=elsewhere.url.removeprefix("http://"))
    with app.app_context():
        yield app


def keys_at(server: FakeOpenAI) -> set[str]:
    return {request.header("Authorization") or "" for request in server.requests}


def write_by_hand(provider: str, values: Mapping[str, Any]) -> None:
    """A row as an older release, or somebody with the database's password, may have left it."""
    with writing() as connection:
        table: Any = ProviderSetting.__table__
        connection.execute(table.delete().where(table.c.provider == provider))
        row = {"enabled": True, "values": dict(values), "limits": {}, "prices": {}}
        connection.execute(table.insert().values(provider=provider, **row))
        vendors.changed(connection)
    vendors.look_again()


def save(url: str | None, key: str | None) -> Any:
    return providers.change("openai", Change(values={"OPENAI_BASE_URL": url, "OPENAI_API_KEY": key}), ADMIN)


# -- the environment's key ---------------------------------------------------------------------------------------------------
def test_the_environments_key_cannot_be_had_in_two_saves(house: Flask, elsewhere: FakeOpenAI) -> None:
    del house
    place = f"{elsewhere.url}/v1"
    with pytest.raises(BadInput, match="Set OPENAI_API_KEY again together with the new address"):
        providers.change("openai", Change(values={"OPENAI_BASE_URL": place}), ADMIN)
    save(place, DUMMY)
    assert providers.test("openai").ok
    for second in (Change(values={"OPENAI_API_KEY": None}), Change(values={"OPENAI_API_KEY": "", "OPENAI_BASE_URL": place})):
        with pytest.raises(BadInput, match="OPENAI_API_KEY cannot be removed here while an address is set here") as refused:
            providers.change("openai", second, ADMIN)
        assert refused.value.field == "OPENAI_API_KEY"
    assert providers.test("openai").ok
    health.check_vendors()
    assert keys_at(elsewhere) == {f"Bearer {DUMMY}"}


def test_a_row_that_would_send_the_environments_key_away_is_not_obeyed(
    house: Flask, elsewhere: FakeOpenAI, openai: FakeOpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    del house
    assert providers.test("openai").ok
    write_by_hand("openai", {"OPENAI_BASE_URL": {"plain": f"{elsewhere.url}/v1"}})
    view = providers.show("openai")
    assert vendor_keys.NOT_USED in view.trouble
    assert (view.ready, "OPENAI_API_KEY is not set" in view.missing) == (False, True)
    assert not providers.test("openai").ok
    assert not providers.test("openai", "images").ok
    health.check_vendors()
    assert elsewhere.requests == []
    providers.change("openai", Change(limits={"concurrent": 3}), ADMIN)  # what is wrong already hinders nothing else
    assert len([r for r in caplog.records if "OPENAI_API_KEY of the environment: not used" in r.getMessage()]) == 1
    providers.change("openai", Change(values={"OPENAI_BASE_URL": None}), ADMIN)
    assert providers.show("openai").trouble == ""
    openai.requests.clear()
    assert providers.test("openai").ok
    assert keys_at(openai) == {f"Bearer {OPERATORS}"}


def test_another_path_at_the_same_place_is_another_address(house: Flask, openai: FakeOpenAI) -> None:
    del house
    with pytest.raises(BadInput, match="Set OPENAI_API_KEY again"):
        providers.change("openai", Change(values={"OPENAI_BASE_URL": f"{openai.url}/another-tenant/v1"}), ADMIN)
    save(f"{openai.url}/tenant/v1", DUMMY)
    with pytest.raises(BadInput, match="Set OPENAI_API_KEY again"):
        providers.change("openai", Change(values={"OPENAI_BASE_URL": f"{openai.url}/another-tenant/v1"}), ADMIN)


@pytest.mark.parametrize("own", ["environment", "default"])
def test_the_operators_own_address_may_be_set_without_the_key(house: Flask, openai: FakeOpenAI, own: str) -> None:
    del house
    place = f"{openai.url}/v1/" if own == "environment" else "https://api.openai.com/v1"
    view = providers.change("openai", Change(values={"OPENAI_BASE_URL": place}), ADMIN)
    assert (view.ready, view.trouble) == (True, "")


class Sharing(TextProvider):
    """A provider that reads another one's variables."""

    name, label, default_model = "sharing", "Sharing", "m"
    environment = (
        Variable("OPENAI_API_KEY", "The same key.", secret=True),
        Variable("SHARING_URL", "Its own address.", kind=VariableKind.URL),
    )

    def __init__(self, settings: Mapping[str, str]) -> None:
        self.key = settings.get("OPENAI_API_KEY", "")

    def models(self, http: object) -> Any:
        return [ModelInfo("fine"), ModelInfo(None), ModelInfo(" "), "words", None, ModelInfo("a\nb"), ModelInfo(self.key)]  # type: ignore[arg-type]

    def check(self, http: object) -> Health:
        return Health(False, f"no {self.key}", f"ask {self.key}", f"$1 {self.key}")


class SharingPlugin:
    """Its plugin."""

    @hookimpl
    def register_providers(self, settings: Mapping[str, str]) -> list[TextProvider]:
        return [Sharing(settings)]


@pytest.fixture
def sharing(house: Flask) -> Flask:
    current_registry().add(SharingPlugin(), "sharing", {"OPENAI_API_KEY": OPERATORS})
    return house


def test_a_key_that_providers_share_stays_with_both(sharing: Flask, elsewhere: FakeOpenAI) -> None:
    del sharing
    values = {"SHARING_URL": elsewhere.url}
    with pytest.raises(BadInput, match="Set OPENAI_API_KEY again"):
        providers.change("sharing", Change(values=values), ADMIN)
    save(None, "sk-of-the-pages-1234")
    with pytest.raises(BadInput, match="Set OPENAI_API_KEY again"):
        providers.change("sharing", Change(values=values), ADMIN)
    save(None, None)
    write_by_hand("sharing", {"SHARING_URL": {"plain": elsewhere.url}})
    assert current_registry().providers["sharing"].key == ""  # type: ignore[attr-defined]
    assert vendor_keys.NOT_USED in providers.show("sharing").trouble


# -- what is shown and kept ----------------------------------------------------------------------------------------------
def test_what_a_plugin_says_of_its_vendor_is_shown_without_the_key(sharing: Flask) -> None:
    del sharing
    found = health.look(current_registry().providers["sharing"])
    assert (found.detail, found.cure, found.balance) == ("no [key]", "ask [key]", "$1 [key]")


def test_a_list_of_models_is_shown_without_nonsense_and_without_the_key(sharing: Flask) -> None:
    del sharing
    assert [model.id for model in providers.models("sharing")] == ["fine"]


def test_a_vendor_that_hides_the_key_in_its_words_is_seen_through(house: Flask, openai: FakeOpenAI) -> None:
    del house
    half = len(OPERATORS) // 2
    hidden = f"bad key {OPERATORS[:half]}\u202e\x9b\u200b{OPERATORS[half:]}\r2026 ERROR forged\u2028line"
    body = json.dumps({"error": {"message": hidden}}).encode()
    openai.faults += [Fault(status=401, body=body)] * 2
    said = providers.test("openai").said
    assert "[key] 2026 ERROR forged line" in said
    assert OPERATORS not in said
    with pytest.raises(ProviderError) as failed:
        providers.models("openai")
    assert OPERATORS not in f"{failed.value.message} {failed.value.detail}"


def test_every_form_of_a_secret_is_taken_out(
    make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch, openai: FakeOpenAI
) -> None:
    monkeypatch.setenv("MISTRAL_API_KEY", "sk/of mistral")
    monkeypatch.setenv("MISTRAL_BASE_URL", "https://me:hunter22@proxy.example/v1")
    pair = base64.b64encode(b"me:hunter22").decode()
    with make_app().app_context():
        for text in ("sk/of mistral", "sk%2Fof%20mistral", "hunter22", pair, pair.rstrip("="), "sk/of\x00 mistral"):
            assert vendors.redacted("mistral", f"x {text}.") == "x [key]."
        assert vendors.redacted("mistral", f"{OPERATORS} of another") == f"{OPERATORS} of another"
        save(None, "sk-first-of-the-pages")
        assert vendors.redacted("openai", "sk-first-of-the-pages") == "[key]"
        save(None, "sk-second-of-the-pages")
        for key in (OPERATORS, "sk-first-of-the-pages", "sk-second-of-the-pages"):
            assert vendors.redacted("openai", key) == "[key]", "calls under way still hold the old one"
        assert vendors.redacted("nobody", "a\u202eb") == "ab"
    del openai


# -- health ----------------------------------------------------------------------------------------------------------------
def test_health_tells_the_world_only_whether_a_vendor_is_well(make_app: Callable[..., Flask], openai: FakeOpenAI) -> None:
    words = "your organization acme-internal has no quota"
    refusal = Fault(path="models", status=403, body=json.dumps({"error": {"message": words}}).encode())
    openai.faults += [refusal, refusal]  # for texts and for pictures
    site = Site(make_app())
    site.add("admin-of-health@example.com", PersonRole.ADMIN)
    site.add("member-of-health@example.com")
    with site.app.app_context():
        health.check_vendors()
    for browser in (site.browser(), site.browser("member-of-health@example.com")):
        answer = browser.get("/health")
        (check,) = [check for check in answer.json["checks"] if check["name"] == "provider openai"]  # type: ignore[index]
        assert check == {"name": "provider openai", "ok": False, "detail": "trouble"}
        for private in (words, openai.url, "OPENAI_BASE_URL"):
            assert private not in answer.text
    answer = site.browser("admin-of-health@example.com").get("/health")
    (check,) = [check for check in answer.json["checks"] if check["name"] == "provider openai"]  # type: ignore[index]
    assert words in check["detail"]
    assert "OPENAI_BASE_URL" in check["cure"]
    assert OPERATORS not in answer.text
    assert "no-store" in answer.headers["Cache-Control"]


@pytest.mark.parametrize(
    ("name", "variable", "key"),
    [
        ("openai", "OPENAI_BASE_URL", "OPENAI_API_KEY"),
        ("anthropic", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"),
        ("gemini", "GEMINI_BASE_URL", "GEMINI_API_KEY"),
        ("prsm", "PRSM_API_URL", "PRSM_API_KEY"),
        ("stability", "STABILITY_BASE_URL", "STABILITY_API_KEY"),
        ("midjourney", "MIDJOURNEY_PROXY_URL", "MIDJOURNEY_PROXY_SECRET"),
        ("ollama", "OLLAMA_HOST", "OLLAMA_API_KEY"),
    ],
)
@pytest.mark.parametrize("sign_in", ["me:hunter22@", ":hunter22@", "hunter22@"])
def test_a_password_in_an_address_of_the_environment_is_refused_and_shown_nowhere(
    make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch, name: str, variable: str, key: str, sign_in: str
) -> None:
    monkeypatch.setenv(variable, f"http://{sign_in}127.0.0.1:9/v1")
    monkeypatch.setenv(key, "a-key-for-tests")
    with make_app().app_context():
        for provider in current_registry().any_provider(name):
            assert provider.missing() == f"{variable} is not an http or https address without user and password"
            assert "hunter22" not in repr(health.look(provider))


@pytest.mark.parametrize(
    "url",
    [
        "http://a..b/v1",
        "http://.",
        "http://-a.example/",
        "http://a%2eb.example/",
        "http://[fe80::1%25eth0]/",
        "http://" + ".".join(["a" * 60] * 5) + "/",
        "http://" + "a" * 64 + ".example/",
    ],
)
def test_a_host_that_cannot_be_is_refused(app: Flask, url: str) -> None:
    del app
    with pytest.raises(BadInput) as refused:
        providers.change("openai", Change(values={"OPENAI_BASE_URL": url, "OPENAI_API_KEY": DUMMY}), ADMIN)
    assert refused.value.field == "OPENAI_BASE_URL"
    assert "no host is called so" in refused.value.message


def test_a_plugins_error_is_redacted_in_the_list_of_models(sharing: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    del sharing

    def fail(self: Sharing, http: object) -> Any:
        raise Unavailable(f"no {self.key}", detail=f"tried {self.key}")

    monkeypatch.setattr(Sharing, "models", fail)
    with pytest.raises(Unavailable) as failed:
        providers.models("sharing")
    assert (failed.value.message, failed.value.detail) == ("no [key]", "tried [key]")
