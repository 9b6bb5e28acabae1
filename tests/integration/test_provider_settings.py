"""Vendors as administrators set them up: what is kept, who notices, what is refused, and what a test call costs."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Connection, event, insert, select

from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.support import add_person, assert_books_balance, one, requests, rows, run_jobs, text
from webapp.contracts.errors import BadInput, Conflict, NotFound, ProviderError
from webapp.extensions import Base, db, now, queue_redis, reading, writing
from webapp.models import Attempt, AuditEntry, LedgerEntry, Person, ProviderSetting
from webapp.plugin import Health, ModelInfo, TextProvider, Usage, Variable, VariableKind, hookimpl
from webapp.registry import current_registry
from webapp.routing import resilience, route, vendors
from webapp.routing.prices import Override
from webapp.routing.resilience import Pace, Verdict
from webapp.services import health, providers
from webapp.services.providers import Change, ProviderView
from webapp.vault import current_vault

SECRET = "sk-proj-set-in-the-pages-7731"
ADMIN = "command line (tests)"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    """An OpenAI that wants the secret, at an address that the environment names; the environment has no key."""
    with FakeOpenAI() as server:
        server.key = SECRET
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        yield server


def held(view: ProviderView, name: str) -> tuple[str, str]:
    """Where a variable is from, and what is shown of it."""
    (found,) = [v for v in view.variables if v.variable.name == name]
    return found.source, found.shown


def set_key(secret: str = SECRET) -> ProviderView:
    return providers.change("openai", Change(values={"OPENAI_API_KEY": secret}), ADMIN)


def audited() -> list[tuple[str, str, Any]]:
    return [(e.action, e.subject, e.detail) for e in rows(select(AuditEntry).order_by(AuditEntry.id))]


def whole_database() -> str:
    """Everything in every table, as text."""
    with reading() as connection:
        return "\n".join(str(connection.execute(select(table)).all()) for table in Base.metadata.sorted_tables)


# -- what is set here ----------------------------------------------------------------------------------------------------
def test_a_key_that_is_set_here_serves_at_once_and_is_nowhere_in_clear(
    make_app: Callable[..., Flask], fake: FakeOpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with make_app().app_context():
        assert providers.show("openai").missing == "OPENAI_API_KEY is not set"
        view = set_key(f"  {SECRET}\n")
        assert (view.ready, view.missing, view.trouble) == (True, "", "")
        assert held(view, "OPENAI_API_KEY") == ("set here", "…7731")
        assert held(view, "OPENAI_BASE_URL") == ("environment", f"{fake.url}/v1")
        text("hello")
        run_jobs()
        assert (requests()[0].status, requests()[0].provider) == ("completed", "openai")
        assert fake.calls
        health.check_vendors()
        assert providers.test("openai", actor=ADMIN).ok
        stored = whole_database()
        assert "OPENAI_API_KEY" in stored
        assert SECRET not in stored
        assert audited()[-1] == ("provider.change", "provider:openai", {"values": {"OPENAI_API_KEY": "set"}})
        for shown in (view, providers.overview(), Change(values={"OPENAI_API_KEY": SECRET}), health.seen()):
            assert SECRET not in repr(shown)
    assert SECRET not in caplog.text


def test_another_application_notices_within_the_look_interval(
    make_app: Callable[..., Flask], fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vendors, "LOOK_S", 0.1)
    first, second = make_app(), make_app()
    with second.app_context():
        assert vendors.current().vendor("openai").enabled
        before = current_registry().providers["openai"]
        assert before.missing()
    with first.app_context():
        set_key()
        providers.change("anthropic", Change(enabled=False), ADMIN)
    with second.app_context():
        until = time.monotonic() + 5
        while vendors.current().vendor("anthropic").enabled and time.monotonic() < until:
            time.sleep(0.02)
        assert not vendors.current().vendor("anthropic").enabled
        assert current_registry().providers["openai"].missing() == ""
        assert before.missing(), "whoever holds the old one goes on undisturbed"
        providers.change("openai", Change(default_model="fake-model"), "command line (second)")
    with first.app_context():
        until = time.monotonic() + 5
        while vendors.current().vendor("openai").default_model != "fake-model" and time.monotonic() < until:
            time.sleep(0.02)
        assert providers.show("openai").default_model == "fake-model"
        assert held(providers.show("openai"), "OPENAI_API_KEY")[0] == "set here", "the other fields stay"


def test_what_is_removed_here_falls_back_to_the_environment_then_to_the_default(
    make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_MODEL", "claude-of-the-environment")
    with make_app().app_context():
        assert providers.show("anthropic").default_model == "claude-of-the-environment"
        view = providers.change("anthropic", Change(values={"ANTHROPIC_MODEL": "claude-set-here"}), ADMIN)
        assert held(view, "ANTHROPIC_MODEL") == ("set here", "claude-set-here")
        assert view.default_model == "claude-set-here"
        view = providers.change("anthropic", Change(values={"ANTHROPIC_MODEL": ""}), ADMIN)
        assert held(view, "ANTHROPIC_MODEL") == ("environment", "claude-of-the-environment")
        view = providers.change("anthropic", Change(values={"ANTHROPIC_VERSION": None}), ADMIN)
        assert held(view, "ANTHROPIC_VERSION")[0] == "default"
        assert held(view, "ANTHROPIC_API_KEY") == ("nothing", "")


def test_limits_prices_hours_and_the_switch_count_and_can_be_taken_back(app: Flask) -> None:
    del app
    own = Override(input_usd=Decimal("0.5"), output_usd=Decimal(2))
    change = Change(False, "mistral-large", {}, {"requests_per_minute": 7, "concurrent": 0}, {"*": own}, "mon 01:00-02:00")
    view = providers.change("mistral", change, ADMIN)
    assert (view.enabled, view.default_model, view.peak_hours, view.peak_hours_set) == (
        False,
        "mistral-large",
        "Mon 01:00-02:00",
        "Mon 01:00-02:00",
    )
    assert dict(view.limits) == {"requests_per_minute": 7, "concurrent": 0}
    assert view.pace == Pace(requests_per_minute=7)
    assert view.prices["*"].input_usd == Decimal("0.5")
    assert view.prices["*"].as_of == now().date().isoformat()
    assert providers.change("mistral", Change(peak_hours=""), ADMIN).peak_hours_set == ""
    back = Change(True, "", {}, {"requests_per_minute": None, "concurrent": None}, {"*": None}, "default")
    view = providers.change("mistral", back, ADMIN)
    assert (view.enabled, dict(view.limits), dict(view.prices), view.peak_hours_set) == (True, {}, {}, None)
    assert view.pace == Pace()
    assert view.updated_at is not None


def test_a_change_that_changes_nothing_leaves_no_trace(app: Flask) -> None:
    del app
    providers.change("mistral", Change(limits={"concurrent": 3}), ADMIN)
    before, revision = audited(), vendors.known().revision
    providers.change("mistral", Change(enabled=True, limits={"concurrent": 3}, prices={"x": None}), ADMIN)
    providers.change("mistral", Change(), ADMIN)
    assert (audited(), vendors.current().revision) == (before, revision)


def test_the_acting_person_is_in_the_audit_trail(app: Flask) -> None:
    del app
    admin = one(select(Person))
    providers.change("mistral", Change(enabled=False), f"person:{admin.id}")
    providers.reset("mistral", f"person:{uuid.uuid4()}")
    first, second = rows(select(AuditEntry).order_by(AuditEntry.id))
    assert (first.actor_id, first.detail) == (admin.id, {"enabled": False})
    assert (second.action, second.actor_id) == ("provider.reset", None)


def test_a_change_closes_the_circuit_and_forgets_what_was_seen(app: Flask, make_app: Callable[..., Flask]) -> None:
    del app
    with make_app(breaker_failures=1).app_context():
        granted = resilience.enter("mistral", "mistral/m", Pace(), tokens=1, hold_s=5)
        assert isinstance(granted, resilience.Grant)
        resilience.leave(granted, Verdict.BAD)
        resilience.pause("mistral", 60, "it asks for fewer calls")
        health._keep({"provider mistral": Health(False, "bad key")}, set())
        assert providers.show("mistral").seen_ok is False
        view = providers.change("mistral", Change(limits={"concurrent": 3}), ADMIN)
        assert (view.state.paused_until, view.state.circuits) == (None, ())
        assert (view.seen, view.seen_ok) == ("", None)


def test_many_changes_at_once_lose_nothing(app: Flask) -> None:
    names = [f"model-{n}" for n in range(12)]
    failed: list[BaseException] = []

    def work(model: str) -> None:
        try:
            with app.app_context():
                providers.change("mistral", Change(prices={model: Override(input_usd=Decimal(1))}), ADMIN)
        except BaseException as exc:
            failed.append(exc)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failed == []
    assert set(one(select(ProviderSetting)).prices) == set(names)
    assert len(audited()) == len(names)


# -- what is refused -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "variable", "value"),
    [
        ("openai", "DATABASE_URL", "sqlite://"),
        ("openai", "ANTHROPIC_API_KEY", "sk-of-another"),
        ("openai", "OPENAI_API_KEY", "sk-1\r\nX-Other: 1"),
        ("openai", "OPENAI_API_KEY", "sk-\x00"),
        ("openai", "OPENAI_API_KEY", "sk-schlüssel"),
        ("openai", "OPENAI_API_KEY", "k" * 5000),
        ("openai", "OPENAI_ORG_ID", "org\n1"),
        ("openai", "OPENAI_MODEL", "two words"),
        ("openai", "OPENAI_MODEL", "m" * 121),
        ("prsm", "PRSM_DIALECT", "klingon"),
        ("prsm", "PRSM_BUDGET_FTNS", "a lot"),
        ("prsm", "PRSM_BUDGET_FTNS", "NaN"),
        ("prsm", "PRSM_BUDGET_FTNS", "1e9999"),
        ("openai", "OPENAI_BASE_URL", "ftp://api.example.com"),
        ("openai", "OPENAI_BASE_URL", "api.example.com/v1"),
        ("openai", "OPENAI_BASE_URL", "https:///v1"),
        ("openai", "OPENAI_BASE_URL", "https://user:pass@8.8.8.8/v1"),
        ("openai", "OPENAI_BASE_URL", "https://8.8.8.8/v1?key=1"),
        ("openai", "OPENAI_BASE_URL", "https://8.8.8.8/v1#part"),
        ("openai", "OPENAI_BASE_URL", "https://8.8.8.8:99999/v1"),
        ("openai", "OPENAI_BASE_URL", "https://[::1"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_variable_and_nothing_is_kept(
    app: Flask, name: str, variable: str, value: str
) -> None:
    del app
    with pytest.raises(BadInput) as refused:
        providers.change(name, Change(enabled=False, values={variable: value}), ADMIN)
    assert refused.value.field == variable
    assert value.strip() not in refused.value.message
    assert rows(select(ProviderSetting)) == []
    assert audited() == []


@pytest.mark.parametrize(
    "url",
    [
        "http://10.1.2.3:8080/v1",
        "http://169.254.169.254/latest/meta-data",
        "http://127.0.0.1:1/v1",
        "http://localhost:2/v1",
        "http://[::1]:3/v1",
        "http://[::ffff:10.1.2.3]/v1",
        "http://2130706433:4/",
        "http://0x7f.1:5/",
    ],
)
def test_an_internal_address_is_refused_in_the_words_of_the_guard(app: Flask, url: str) -> None:
    del app
    with pytest.raises(BadInput, match="internal address: add it to SWITCHHOOK_ALLOW_OUTBOUND") as refused:
        providers.change("openai", Change(values={"OPENAI_BASE_URL": url}), ADMIN)
    assert refused.value.field == "OPENAI_BASE_URL"
    assert rows(select(ProviderSetting)) == []


def test_an_internal_address_that_is_allowed_is_kept_and_called(make_app: Callable[..., Flask]) -> None:
    with FakeOpenAI() as server:
        place = server.url.removeprefix("http://")
        values = {"SWITCHHOOK_COMPATIBLE_BASE_URL": f"{server.url}/v1", "SWITCHHOOK_COMPATIBLE_MODEL": "fake-model"}
        with make_app(allow_outbound=place).app_context():
            assert providers.change("compatible", Change(values=values), ADMIN).base_url == f"{server.url}/v1"
            assert providers.test("compatible").ok


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (Change(limits={"requests_per_minute": -1}), "requests_per_minute"),
        (Change(limits={"tokens_per_minute": 1_000_001}), "tokens_per_minute"),
        (Change(limits={"concurrent": True}), "concurrent"),
        (Change(limits={"concurrent": 1.5}), "concurrent"),  # type: ignore[dict-item]
        (Change(limits={"per_day": 1}), "per_day"),
        (Change(prices={"m": Override()}), "price m"),
        (Change(prices={"m": Override(input_usd=Decimal(-1))}), "price m"),
        (Change(prices={"two words": Override(input_usd=Decimal(1))}), "price"),
        (Change(peak_hours="now and then"), "peak_hours"),
        (Change(peak_hours="Mon 05:00-04:00"), "peak_hours"),
        (Change(default_model="a,b"), "default_model"),
        (Change(default_model="a\x00b"), "default_model"),
    ],
)
def test_other_settings_that_cannot_be_are_refused_by_their_names(app: Flask, change: Change, field: str) -> None:
    del app
    with pytest.raises(BadInput) as refused:
        providers.change("mistral", change, ADMIN)
    assert refused.value.field == field
    assert rows(select(ProviderSetting)) == []


def test_a_provider_that_is_not_there_is_not_found(app: Flask) -> None:
    del app
    for act in (
        lambda: providers.show("nobody"),
        lambda: providers.change("nobody", Change(enabled=False), ADMIN),
        lambda: providers.test("nobody"),
        lambda: providers.models("nobody"),
        lambda: providers.reset("nobody", ADMIN),
    ):
        with pytest.raises(NotFound, match="openai"):
            act()
    with pytest.raises(NotFound, match="no images"):
        providers.test("anthropic", "images")


# -- what does not work --------------------------------------------------------------------------------------------------
class Moody(TextProvider):
    """A provider that takes some settings and breaks with others."""

    name, label, default_model = "moody", "Moody", "m"
    environment = (
        Variable("MOODY_MOOD", "How it is.", kind=VariableKind.TEXT),
        Variable("MOODY_FLAG", "Whether.", kind=VariableKind.FLAG),
    )

    def __init__(self, settings: Mapping[str, str]) -> None:
        self.flag = settings.get("MOODY_FLAG", "")
        if settings.get("MOODY_MOOD") == "bad":
            raise RuntimeError("not today")

    def stream(self, call: object, http: object) -> Iterator[Any]:
        raise KeyError("a fault in the plugin")

    def models(self, http: object) -> list[ModelInfo]:
        raise KeyError("a fault in the plugin")

    def check(self, http: object) -> Health:
        raise KeyError("a fault in the plugin")


class MoodyPlugin:
    """Its plugin."""

    @hookimpl
    def register_providers(self, settings: Mapping[str, str]) -> list[TextProvider]:
        return [Moody(settings)]


@pytest.fixture
def moody(app: Flask) -> Flask:
    current_registry().add(MoodyPlugin(), "moody", {"MOODY_FLAG": "1"})
    return app


def test_a_plugin_that_fails_with_its_new_settings_is_told_of(moody: Flask) -> None:
    del moody
    view = providers.change("moody", Change(values={"MOODY_MOOD": "bad"}), ADMIN)
    assert "not today" in view.trouble
    assert providers.change("moody", Change(values={"MOODY_MOOD": "good"}), ADMIN).trouble == ""


def test_a_flag_of_the_environment_can_be_switched_off_here(moody: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    del moody
    monkeypatch.setenv("MOODY_FLAG", "1")
    view = providers.change("moody", Change(values={"MOODY_FLAG": "off"}), ADMIN)
    assert held(view, "MOODY_FLAG") == ("set here", "")
    assert current_registry().providers["moody"].flag == ""  # type: ignore[attr-defined]
    providers.change("moody", Change(values={"MOODY_FLAG": "yes"}), ADMIN)
    assert current_registry().providers["moody"].flag == "1"  # type: ignore[attr-defined]


def test_a_plugin_that_breaks_its_promises_breaks_nothing_else(moody: Flask) -> None:
    del moody
    found = providers.test("moody")
    assert (found.ok, found.code) == (False, "provider_unavailable")
    assert "KeyError" in found.said
    with pytest.raises(ProviderError, match="failed"):
        providers.models("moody")
    health.check_vendors()
    assert providers.show("moody").seen_ok is False


def test_a_secret_whose_key_is_lost_and_a_foreign_variable_are_told_of(app: Flask) -> None:
    del app
    set_key()
    with writing() as connection:
        lost = {"OPENAI_API_KEY": {"sealed": "gAAAAA-of-another-key", "hint": "7731"}, "GONE": {"plain": "1"}}
        connection.execute(ProviderSetting.__table__.update().values({"values": lost}))  # type: ignore[attr-defined]
        vendors.changed(connection)
    vendors.look_again()
    view = providers.show("openai")
    assert "OPENAI_API_KEY cannot be opened" in view.trouble
    assert "GONE is set here" in view.trouble
    assert not view.ready
    assert "cannot be opened" not in set_key().trouble


# -- looking -------------------------------------------------------------------------------------------------------------
@pytest.fixture
def attempts(app: Flask) -> Callable[..., None]:
    """Writes calls of a provider into the books: their outcomes and how long they took."""
    del app
    text("hello")
    run_jobs()
    request = requests()[0]

    def write(provider: str, *calls: tuple[str, int, int | None], ago: timedelta = timedelta(minutes=5)) -> None:
        ended = now() - ago
        with writing() as connection:
            for number, (outcome, ms, first) in enumerate(calls):
                connection.execute(
                    insert(Attempt),
                    {
                        "request_id": request.id,
                        "execution": 2 + abs(hash((provider, ago))) % 10**6,
                        "number": number,
                        "provider": provider,
                        "outcome": outcome,
                        "error_code": "provider_timeout" if outcome == "failed" else None,
                        "detail": f"too late {number}" if outcome == "failed" else None,
                        "first_piece_ms": first,
                        "started_at": ended - timedelta(milliseconds=ms),
                        "ended_at": ended + timedelta(seconds=number),
                    },
                )

    return write


def test_the_last_hour_is_summed_up_by_provider(attempts: Callable[..., None]) -> None:
    # Each ends a second after the one before, so that its time is that much longer.
    attempts("mistral", *[("completed", ms - 1000 * n, 10 * n) for n, ms in enumerate(range(100_000, 2_100_000, 100_000))])
    attempts("mistral", ("failed", 1, None), ("failed", 1, None), ("cancelled", 1, None), ago=timedelta(minutes=3))
    attempts("mistral", ("failed", 1, None), ago=timedelta(minutes=61))
    attempts("groq", ("failed", 1, None))
    found = {view.name: view.live for view in providers.overview()}
    live = found["mistral"]
    assert (live.calls, live.failures, live.p50_ms, live.p95_ms) == (23, 2, 1_000_000, 1_900_000)
    assert live.first_piece_p50_ms == 90
    assert live.error_rate == pytest.approx(2 / 23)
    assert live.last_error == "too late 1"
    assert live.last_error_at is not None
    assert now() - live.last_error_at < timedelta(minutes=3)
    assert (found["groq"].calls, found["groq"].p50_ms, found["groq"].error_rate) == (1, None, 1.0)
    assert found["openai"].calls == 0


def test_the_overview_asks_the_database_twice_however_many_providers_there_are(attempts: Callable[..., None]) -> None:
    attempts("mistral", ("completed", 5, 1))
    providers.overview()
    asked: list[str] = []

    def note(_connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    event.listen(db.engine, "before_cursor_execute", note)
    try:
        views = providers.overview()
    finally:
        event.remove(db.engine, "before_cursor_execute", note)
    assert len([s for s in asked if s.lstrip().upper().startswith(("SELECT", "WITH"))]) <= 3, asked
    assert [view.name for view in views][-1] == "demo"
    assert next(view for view in views if view.name == "openai").kinds == ("text", "images")
    assert len({view.name for view in views}) == len(views)


def test_a_password_in_an_address_of_the_environment_is_not_shown(
    make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTRAL_API_KEY", "the-key-of-mistral")
    monkeypatch.setenv("MISTRAL_BASE_URL", "https://me:hunter22@proxy.example/v1")
    with make_app().app_context():
        view = providers.show("mistral")
        assert "hunter22" not in repr(view)
        assert view.base_url == "https://proxy.example/v1"
        assert held(view, "MISTRAL_API_KEY") == ("environment", "…tral")


# -- trying --------------------------------------------------------------------------------------------------------------
@pytest.fixture
def with_openai(make_app: Callable[..., Flask], openai: FakeOpenAI) -> Iterator[FakeOpenAI]:
    """An application whose OpenAI is a fake, inside its context."""
    with make_app(breaker_failures=1).app_context():
        yield openai


def test_a_test_is_one_token_that_the_house_pays(with_openai: FakeOpenAI) -> None:
    with_openai.text = "OK"
    found = providers.test("openai", actor=ADMIN)
    assert (found.ok, found.said, found.code) == (True, "OK", "")
    assert found.tokens > 0
    assert found.cost_microusd > 0
    assert found.latency_ms >= 0
    (call,) = with_openai.calls
    assert call["max_completion_tokens"] == 1
    entry = one(select(LedgerEntry))
    admin = one(select(Person))
    assert (entry.payer, entry.operation, entry.request_id, entry.person_id) == ("house", "test", None, admin.id)
    assert (entry.cost_microusd, entry.requests) == (found.cost_microusd, 0)
    assert entry.input_tokens + entry.output_tokens == found.tokens
    assert_books_balance()


def test_a_test_is_noted_under_the_person_who_made_it(with_openai: FakeOpenAI) -> None:
    del with_openai
    second = add_person(email="second@example.com")
    assert providers.test("openai", actor=f"person:{second}").ok
    assert one(select(LedgerEntry)).person_id == second


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (
            Fault(status=401, body=b'{"error":{"message":"Incorrect key sk-for-tests-only."}}'),
            "provider_credentials",
            "Incorrect",
        ),
        (
            Fault(status=429, body=b'{"error":{"message":"You exceeded","code":"insufficient_quota"}}'),
            "provider_out_of_credit",
            "exceeded",
        ),
        (Fault(status=404, body=b'{"error":{"message":"The model nope does not exist"}}'), "provider_rejected", "nope"),
        (Fault(drop=True), "provider_unavailable", "OpenAI"),
        (Fault(status=503, body=b"upstream exploded"), "provider_unavailable", "exploded"),
    ],
)
def test_a_test_that_fails_says_what_the_vendor_says_and_costs_nothing(
    with_openai: FakeOpenAI, fault: Fault, code: str, words: str
) -> None:
    with_openai.faults.append(fault)
    found = providers.test("openai")
    assert (found.ok, found.code, found.cost_microusd, found.tokens) == (False, code, 0, 0)
    assert words in found.said
    assert "sk-for-tests-only" not in found.said
    assert rows(select(LedgerEntry)) == []
    assert_books_balance()


def test_a_model_that_thinks_first_passes_although_its_token_is_spent(with_openai: FakeOpenAI) -> None:
    with_openai.text = ""
    with_openai.finish = "length"
    found = providers.test("openai")
    assert (found.ok, found.code) == (True, "")
    assert "thinking" in found.said
    assert one(select(LedgerEntry)).payer == "house"


def test_a_test_goes_past_circuit_and_pause_and_a_success_ends_them(with_openai: FakeOpenAI) -> None:
    target = route.choose().name
    granted = resilience.enter("openai", target, Pace(), tokens=1, hold_s=5)
    assert isinstance(granted, resilience.Grant)
    resilience.leave(granted, Verdict.BAD)
    resilience.pause("openai", 300, "OpenAI does not accept the API key for this.")
    with_openai.faults.append(Fault(status=500, body=b""))
    assert not providers.test("openai").ok
    assert resilience.is_open(target)
    assert providers.test("openai").ok
    assert not resilience.is_open(target)
    assert resilience.state("openai").paused_until is None


def test_a_second_test_is_refused_while_one_is_under_way(with_openai: FakeOpenAI, app: Flask) -> None:
    with_openai.faults.append(Fault(delay_s=1.0))
    found: list[Any] = []

    def first() -> None:
        with app.app_context():
            found.append(providers.test("openai"))

    thread = threading.Thread(target=first)
    thread.start()
    until = time.monotonic() + 10
    while not with_openai.requests and time.monotonic() < until:
        time.sleep(0.01)
    with pytest.raises(Conflict, match="under way"):
        providers.test("openai")
    thread.join(20)
    assert found[0].ok
    assert providers.test("openai").ok, "the lock is given back"
    assert len(with_openai.calls) == 2


def test_a_test_of_pictures_makes_none_and_says_so(with_openai: FakeOpenAI) -> None:
    found = providers.test("openai", "images")
    assert found.ok
    assert "No picture was made" in found.said
    assert [r.method for r in with_openai.requests] == ["GET"]
    assert rows(select(LedgerEntry)) == []


def test_the_house_does_not_pass_its_bound_of_the_day_for_a_test(make_app: Callable[..., Flask], openai: FakeOpenAI) -> None:
    with make_app(house_daily_usd=0).app_context():
        with pytest.raises(Conflict, match="SWITCHHOOK_HOUSE_DAILY_USD"):
            providers.test("openai")
        assert providers.test("demo").ok, "what costs nothing always has room"
    assert openai.calls == []


def test_what_is_not_set_up_is_not_called(app: Flask) -> None:
    del app
    found = providers.test("openai")
    assert (found.ok, found.code, found.said) == (False, "not_ready", "OPENAI_API_KEY is not set.")
    with pytest.raises(ProviderError, match="not set up"):
        providers.models("openai")


def test_the_models_are_the_vendors_own_list(with_openai: FakeOpenAI) -> None:
    assert "fake-model" in [model.id for model in providers.models("openai")]
    with_openai.faults.append(Fault(status=500, body=b""))
    with pytest.raises(ProviderError):
        providers.models("openai")


def test_a_vendor_that_counts_nonsense_cannot_spoil_the_books(moody: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    del moody

    def stream(self: Moody, call: object, http: object) -> Iterator[Any]:
        del self, call, http
        yield Usage(input_tokens=-5, output_tokens=10**30, cached_tokens=99, cost_usd=Decimal("NaN"))

    monkeypatch.setattr(Moody, "stream", stream)
    found = providers.test("moody")
    assert found.ok
    entry = one(select(LedgerEntry))
    assert (entry.estimated, entry.input_tokens > 0, entry.output_tokens, entry.cached_tokens) == (True, True, 0, 0)
    assert 0 < entry.cost_microusd < 100_000


# -- the looks by the clock ----------------------------------------------------------------------------------------------
def test_every_ready_provider_is_looked_at_and_its_balance_kept(
    make_app: Callable[..., Flask], openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeOpenAI() as deepseek:
        monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-of-deepseek")
        monkeypatch.setenv("DEEPSEEK_BASE_URL", deepseek.url)
        monkeypatch.setenv("GROQ_API_KEY", "sk-of-groq")
        monkeypatch.setenv("GROQ_BASE_URL", "http://127.0.0.1:9/v1")
        with make_app().app_context():
            providers.change("mistral", Change(enabled=False, values={"MISTRAL_API_KEY": "sk-of-mistral"}), ADMIN)
            checks = {check.name: check.ok for check in health.check_vendors()}
            found = {view.name: view for view in providers.overview()}
            assert found["deepseek"].seen_ok
            assert "110.00" in found["deepseek"].balance
            assert found["openai"].seen_ok
            assert "images:" in found["openai"].seen
            assert found["groq"].seen_ok is False
            assert found["mistral"].seen_ok is None, "what is switched off is left alone"
            assert found["anthropic"].seen_ok is None
            assert checks["provider openai"]
            assert "provider groq" not in checks, "nobody is served by it, so health does not depend on it"
            assert "provider groq" not in [check.name for check in health.in_use()]
            assert openai.calls == deepseek.calls == [], "a look costs nothing"


def test_a_vendor_that_is_silent_does_not_hold_the_others_up(
    make_app: Callable[..., Flask], openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_ROUND_S", 0.5)
    with FakeOpenAI() as silent:
        monkeypatch.setenv("GROQ_API_KEY", "sk-of-groq")
        monkeypatch.setenv("GROQ_BASE_URL", f"{silent.url}/v1")
        silent.faults.append(Fault(hang=True))
        with make_app().app_context():
            began = time.monotonic()
            health.check_vendors()
            assert time.monotonic() - began < 4
            assert providers.show("openai").seen_ok
            assert "in time" in providers.show("groq").seen
    del openai


def test_without_redis_everything_but_the_numbers_of_redis_is_shown(make_app: Callable[..., Flask]) -> None:
    with make_app(redis_url="unix:///nowhere/at/all.sock").app_context():
        view = providers.change("mistral", Change(limits={"concurrent": 3}), ADMIN)
        assert (view.pace.concurrent, view.state.shared, view.seen_ok) == (3, False, None)
        assert providers.test("demo").ok


def test_the_vault_makes_no_key_for_what_is_not_secret(app: Flask) -> None:
    del app
    providers.change("openai", Change(values={"OPENAI_MODEL": "gpt-5"}), ADMIN)
    assert current_vault().keys == ()
    assert one(select(ProviderSetting)).values == {"OPENAI_MODEL": {"plain": "gpt-5"}}
    assert queue_redis().keys("switchhook:provider-test:*") == []
