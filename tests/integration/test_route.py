"""Which models may serve a request: rules, the operator's list, what is ready; and nothing exchanged in silence."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, select

from tests.fakes.openai import FakeOpenAI
from tests.integration.vendor_support import add_rule, install, set_provider
from tests.support import one
from webapp.contracts.errors import Unavailable
from webapp.extensions import db, writing
from webapp.models import Organization
from webapp.plugin import Capability, Health, ModelInfo, TextProvider
from webapp.registry import current_registry
from webapp.routing import route, vendors
from webapp.routing.route import IMAGES, Ask, choose, named_target, plan

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


class Shop(TextProvider):
    """A provider of whom everything can be said."""

    label = "Shop"
    free_of_charge = True

    def __init__(self, name: str, **values: Any) -> None:
        self.name = name
        self.default_model = "m"
        self.info: ModelInfo | None = ModelInfo("")
        self.lacks = ""
        self.there = True
        self.found = ""
        self.checks = 0
        for attribute, value in values.items():
            setattr(self, attribute, value)

    def missing(self) -> str:
        return self.lacks

    def model_info(self, model: str) -> ModelInfo:
        if self.info is None:
            raise KeyError(model)
        return replace(self.info, id=model)

    def check(self, http: Any) -> Health:
        self.checks += 1
        self.default_model = self.default_model or self.found
        return Health(self.there, "")


@pytest.fixture(autouse=True)
def no_old_probes() -> Iterator[None]:
    route._probes.clear()
    yield
    route._probes.clear()


@pytest.fixture
def shops(app: Flask) -> None:
    install(Shop("alpha", preference=1), Shop("beta", preference=2), Shop("gamma", preference=3))


def names(ask: Ask | None = None) -> list[str]:
    vendors.look_again()
    return [target.name for target in plan(ask or Ask()).targets]


def reasons(ask: Ask | None = None) -> dict[str, str]:
    vendors.look_again()
    return {passed.target: passed.reason for passed in plan(ask or Ask()).passed}


# -- rules -----------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("shops")
@pytest.mark.parametrize(
    ("about", "fitting", "other"),
    [
        ({}, Ask("content.generate", "coding", "free"), Ask(IMAGES)),
        ({}, Ask(), Ask("categorize")),
        ({"operation": "chat"}, Ask("chat"), Ask("content.generate")),
        ({"operation": "categorize"}, Ask("categorize"), Ask("chat")),
        ({"category": "coding"}, Ask(category="coding"), Ask(category="design")),
        ({"category": "coding"}, Ask(category="coding"), Ask(category=None)),
        ({"plan_code": "premium"}, Ask(plan="premium"), Ask(plan="free")),
        (
            {"operation": "chat", "category": "coding", "plan_code": "free"},
            Ask("chat", "coding", "free"),
            Ask("chat", "coding", "premium"),
        ),
    ],
)
def test_a_rule_decides_for_the_requests_that_it_is_about(about: dict[str, str], fitting: Ask, other: Ask) -> None:
    add_rule(1, "gamma/x", **about)
    assert names(fitting) == ["gamma/x"]
    assert plan(fitting).by == "the rule “rule 1”"
    assert "gamma/x" not in names(other)


@pytest.mark.usefixtures("shops")
def test_a_rule_of_an_organization_is_for_it_alone() -> None:
    mine = one(select(Organization)).id
    add_rule(1, "gamma", organization_id=mine)
    assert names(Ask(organization_id=mine)) == ["gamma/m"]
    assert names(Ask(organization_id=uuid.uuid4())) == ["alpha/m", "beta/m", "gamma/m"]


@pytest.mark.usefixtures("shops")
def test_the_first_rule_that_fits_decides_alone_and_its_order_is_kept() -> None:
    add_rule(9, "alpha")
    add_rule(2, "gamma/b", "beta", "gamma/a", "gamma/b")
    add_rule(1, "alpha", category="coding")
    add_rule(0, "alpha", enabled=False)
    assert names() == ["gamma/b", "beta/m", "gamma/a"]
    assert names(Ask(category="coding")) == ["alpha/m"]


@pytest.mark.usefixtures("shops")
def test_a_rule_whose_models_cannot_serve_leaves_no_model_and_says_why() -> None:
    current_registry().providers["beta"].lacks = "BETA_KEY is not set"  # type: ignore[attr-defined]
    current_registry().providers["gamma"].default_model = ""
    add_rule(1, "beta/x", "nobody/x", "gamma")
    vendors.look_again()
    found = plan(Ask())
    assert found.targets == ()
    assert found.why_none.startswith("No model can serve this (the rule “rule 1”): beta/x: BETA_KEY is not set; nobody/x: ")
    assert "there is no provider 'nobody'; there are" in found.why_none
    assert "gamma: no model is named, and the provider has no default model" in found.why_none
    with pytest.raises(Unavailable) as raised:
        choose()
    assert raised.value.detail == found.why_none


@pytest.mark.usefixtures("shops")
def test_a_models_name_may_hold_slashes() -> None:
    add_rule(1, "beta/openai/gpt-oss-20b")
    (target,) = plan(Ask()).targets
    assert (target.provider.name, target.model) == ("beta", "openai/gpt-oss-20b")


# -- what a model can do, and what it may cost -----------------------------------------------------------------------
ABLE = frozenset({Capability.VISION, Capability.JSON})


@pytest.mark.parametrize(
    ("info", "wish", "reason"),
    [
        (ModelInfo(""), Ask(needs=frozenset({Capability.VISION})), "it is not known to see pictures"),
        (ModelInfo("", capabilities=frozenset()), Ask(needs=frozenset({Capability.VISION})), "it is not known to see pictures"),
        (ModelInfo("", capabilities=ABLE), Ask(needs=frozenset({Capability.VISION})), ""),
        (ModelInfo(""), Ask(needs=frozenset({Capability.JSON})), ""),
        (ModelInfo("", capabilities=frozenset()), Ask(needs=frozenset({Capability.JSON})), "it gives no JSON"),
        (ModelInfo("", context_tokens=1000), Ask(input_tokens=1001), "it reads at most 1,000 tokens"),
        (ModelInfo("", context_tokens=1000), Ask(input_tokens=1000), ""),
        (ModelInfo(""), Ask(input_tokens=10**7), ""),
        (None, Ask(), "its plugin failed (KeyError)"),
        (ModelInfo("", context_tokens="8k"), Ask(input_tokens=1), "its plugin failed (TypeError)"),  # type: ignore[arg-type]
    ],
)
def test_a_model_that_cannot_do_it_is_passed_over_for_the_next(app: Flask, info: ModelInfo, wish: Ask, reason: str) -> None:
    install(Shop("alpha", preference=1, info=info), Shop("beta", preference=2, info=ModelInfo("", capabilities=ABLE)))
    assert names(wish) == (["beta/m"] if reason else ["alpha/m", "beta/m"])
    assert reasons(wish) == ({"alpha/m": reason} if reason else {})


def test_a_rules_price_ceiling_passes_over_what_may_cost_more(app: Flask) -> None:
    install(Shop("alpha", free_of_charge=False), Shop("beta", free_of_charge=False), Shop("gamma"))
    set_provider("alpha", prices={"m": {"input_usd": "1", "output_usd": "10"}})
    set_provider("beta", prices={"*": {"input_usd": "1", "output_usd": "1"}})
    add_rule(1, "alpha", "beta", "gamma", max_cost_microusd=2000)
    wish = Ask(input_tokens=1000, output_tokens=1000)
    assert names(wish) == ["beta/m", "gamma/m"]
    assert reasons(wish)["alpha/m"].startswith("it may cost $0.011")
    assert names(Ask(input_tokens=1000, output_tokens=100)) == ["alpha/m", "beta/m", "gamma/m"]
    assert names(Ask(input_tokens=1000, output_tokens=1001)) == ["gamma/m"]


# -- without a rule --------------------------------------------------------------------------------------------------
def test_the_operators_list_is_tried_in_its_order_and_nothing_else(make_app: Callable[..., Flask]) -> None:
    with make_app(chat_model="gamma/x, alpha/z,beta/y").app_context():
        install(
            Shop("alpha", preference=1), Shop("beta", preference=2, lacks="BETA_KEY is not set"), Shop("gamma"), Shop("delta")
        )
        assert names() == ["gamma/x", "alpha/z"]
        assert reasons() == {"beta/y": "BETA_KEY is not set"}
        assert plan(Ask()).by == "SWITCHHOOK_CHAT_MODEL"
        add_rule(1, "delta", category="coding")
        assert names(Ask(category="coding")) == ["delta/m"]
        assert names() == ["gamma/x", "alpha/z"]


def test_the_request_itself_may_name_its_model_past_rules_and_lists(make_app: Callable[..., Flask]) -> None:
    with make_app(chat_model="alpha/m").app_context():
        install(Shop("alpha"), Shop("beta"))
        add_rule(1, "alpha", max_cost_microusd=1)
        assert names(Ask(named="beta/z")) == ["beta/z"]
        assert names(Ask(named="nobody/z")) == []


def test_those_that_are_ready_serve_by_preference(app: Flask) -> None:
    install(
        Shop("late", preference=80),
        Shop("early", preference=2),
        Shop("keyless", preference=1, lacks="no key"),
        Shop("shy", preference=0, by_name_only=True),
        Shop("away", preference=0, default_model="", probe_needed=True, there=False),
        Shop("near", preference=5, default_model="", probe_needed=True, found="found"),
    )
    assert names() == ["early/m", "near/found", "late/m"]
    assert names(Ask(named="shy")) == ["shy/m"]


def test_no_more_models_are_tried_than_anybody_waits_for(app: Flask) -> None:
    install(*(Shop(f"shop{number}", preference=number) for number in range(9)))
    assert names() == [f"shop{number}/m" for number in range(route.TARGETS_MAX)]


def test_the_demo_serves_only_where_there_is_nothing_else(app: Flask) -> None:
    assert names() == ["demo/demo"]
    install(Shop("alpha", info=ModelInfo("", context_tokens=10)))
    assert names() == ["alpha/m"]
    # A model that cannot serve this request is no reason to answer it with a demo's text.
    assert names(Ask(input_tokens=11)) == []
    current_registry().providers["alpha"].lacks = "no key"  # type: ignore[attr-defined]
    assert names() == ["demo/demo"]


def test_a_provider_that_is_switched_off_serves_nobody_and_is_not_asked_whether_it_is_there(app: Flask) -> None:
    alpha = Shop("alpha", preference=1, default_model="", probe_needed=True, found="found")
    install(alpha, Shop("beta", preference=2))
    set_provider("alpha", enabled=False)
    assert names() == ["beta/m"]
    assert reasons() == {"alpha": "the provider is switched off"}
    add_rule(1, "alpha", "alpha/x")
    assert names() == []
    assert reasons() == {"alpha": "the provider is switched off", "alpha/x": "the provider is switched off"}
    assert alpha.checks == 0
    with pytest.raises(Unavailable) as raised:
        named_target("alpha/x")
    assert raised.value.detail == "alpha/x: the provider is switched off."


def test_a_default_model_that_was_set_goes_before_the_providers_own(app: Flask) -> None:
    install(Shop("alpha"))
    set_provider("alpha", default_model="mine")
    assert names() == ["alpha/mine"]


def test_a_provider_that_breaks_when_it_is_asked_is_passed_over(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    def fails() -> str:
        raise ZeroDivisionError

    broken = Shop("alpha", preference=1)
    broken.missing = fails  # type: ignore[method-assign]
    install(broken, Shop("beta"))
    with caplog.at_level(logging.ERROR):
        assert names() == ["beta/m"]
    assert "the plugin of alpha failed: ZeroDivisionError" in caplog.text


# -- servers that may be there ---------------------------------------------------------------------------------------
def test_a_server_is_asked_once_however_many_threads_want_to_know(app: Flask) -> None:
    alpha = Shop("alpha", default_model="", probe_needed=True, found="found")
    install(alpha)
    vendors.current()

    def look() -> None:
        with app.app_context():
            plan(Ask())

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert alpha.checks == 1


def test_changed_settings_do_not_hide_a_server_whose_model_was_found(app: Flask) -> None:
    """Providers are made anew with changed settings, and the new one knows no model before it has looked."""
    made: list[Shop] = []

    class Maker:
        pass

    def register_providers(settings: Any) -> list[TextProvider]:
        made.append(Shop("alpha", default_model="", probe_needed=True, found="found"))
        return [made[-1]]

    from webapp.plugin import hookimpl

    Maker.register_providers = staticmethod(hookimpl(register_providers))  # type: ignore[attr-defined]
    assert not current_registry().add(Maker, "maker", {}).error
    assert names() == ["alpha/found"]
    set_provider("demo", default_model="whatever")
    assert names() == ["alpha/found"]
    assert len(made) == 2


# -- what is known of changes ------------------------------------------------------------------------------------------
def test_what_was_set_in_the_pages_reaches_the_providers(app: Flask) -> None:
    set_provider(
        "openai",
        values={"OPENAI_API_KEY": {"plain": "sk-from-the-page"}, "OPENAI_BASE_URL": {"sealed": "not ours"}},
        default_model="gpt-5",
        prices={"gpt-5": {"dollars": 1}},
        peak_hours="whenever",
        limits={"concurrent": 3, "requests_per_minute": "many"},
    )
    assert names() == ["openai/gpt-5"]
    provider = current_registry().providers["openai"]
    assert provider.missing() == ""
    assert provider.base_url == "https://api.openai.com/v1"
    set_up = vendors.known().vendor("openai")
    assert "the price of gpt-5: dollars" in set_up.trouble
    assert "the peak hours: 'whenever' is not a span" in set_up.trouble
    assert vendors.pace(provider).concurrent == 3


def test_inside_a_transaction_nothing_is_read_and_nobody_is_asked(app: Flask) -> None:
    alpha = Shop("alpha", default_model="", probe_needed=True, found="found")
    install(alpha, Shop("beta"))
    assert names() == ["alpha/found", "beta/m"]
    set_provider("alpha", enabled=False)
    # Old enough to be looked at again, both of them.
    vendors._kept().look_at = 0.0
    route._probes["alpha"] = replace(route._probes["alpha"], at=0.0)
    statements: list[str] = []
    with writing() as connection:
        event.listen(db.engine, "before_cursor_execute", lambda *told: statements.append(told[2]))
        found = plan(Ask(input_tokens=10, output_tokens=10), fresh=False)
        assert connection.in_transaction()
    assert [target.name for target in found.targets] == ["alpha/found", "beta/m"]
    assert statements == []
    assert alpha.checks == 1
    assert [target.name for target in plan(Ask()).targets] == ["beta/m"]


def test_a_database_that_is_away_leaves_what_is_known(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy.exc import OperationalError

    install(Shop("alpha"))
    add_rule(1, "alpha/x")
    assert names() == ["alpha/x"]

    def broken(*_: object) -> None:
        raise OperationalError("SELECT", {}, Exception("the server closed the connection"))

    event.listen(db.engine, "before_cursor_execute", broken)
    try:
        vendors._kept().look_at = 0.0
        assert [target.name for target in plan(Ask()).targets] == ["alpha/x"]
    finally:
        event.remove(db.engine, "before_cursor_execute", broken)


def test_while_one_asks_whether_a_provider_is_there_the_others_go_by_what_was_known(app: Flask) -> None:
    asking, go_on = threading.Event(), threading.Event()

    class Slow(Shop):
        def check(self, http: Any) -> Health:
            if self.checks:
                asking.set()
                assert go_on.wait(20)
            return super().check(http)

    slow = Slow("slow", probe_needed=True)
    install(slow)
    assert route.answers(slow)
    route._probes["slow"] = replace(route._probes["slow"], at=0.0)

    def ask() -> None:
        with app.app_context():
            route.answers(slow)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        assert asking.wait(10)
        slow.there = False
        assert route.answers(slow)
        assert slow.checks == 1
    finally:
        go_on.set()
        thread.join(10)
    assert not route.answers(slow)
    assert slow.checks == 2


def test_a_model_whose_price_nobody_knows_is_refused_where_that_is_wanted(
    make_app: Callable[..., Flask], openai: FakeOpenAI
) -> None:
    named = Ask(named="openai/a-model-of-tomorrow")
    with make_app().app_context():
        assert [target.model for target in route.plan(named).targets] == ["a-model-of-tomorrow"]
    with make_app(unknown_price="refuse").app_context():
        found = route.plan(named)
        assert found.targets == ()
        assert "nobody knows its price" in found.why_none
        assert route.plan(Ask(named="openai/gpt-4.1-mini")).targets
        assert route.plan(Ask(named="demo/demo")).targets, "what is free of charge has a price"
