"""A route that was found before for a model that requests name: what may have changed since is looked at each time."""

from __future__ import annotations

import uuid

import pytest
from flask import Flask
from sqlalchemy import insert, select

from tests.integration.test_route import Shop
from tests.integration.vendor_support import install, set_provider
from tests.support import one
from webapp.extensions import now, writing
from webapp.models import Organization, OrganizationProvider
from webapp.plugin import Capability, ModelInfo
from webapp.registry import current_registry
from webapp.routing import route, vendors
from webapp.routing.route import Ask, Route, plan

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def shop(app: Flask) -> Shop:
    shop = Shop("alpha")
    install(shop)
    return shop


def _found(name: str = "alpha/m", **about: object) -> Route:
    return plan(Ask(named=name, **about))  # type: ignore[arg-type]


def _reason(found: Route) -> str:
    assert found.targets == ()
    return found.passed[0].reason


@pytest.mark.usefixtures("shop")
def test_it_is_the_same_for_everybody_whom_nothing_else_was_set_for() -> None:
    first = _found(input_tokens=1)
    assert first.by == "the request itself"
    assert [target.name for target in first.targets] == ["alpha/m"]
    assert _found(organization_id=uuid.uuid4(), plan="free", category="coding", input_tokens=2) is first


def test_a_provider_that_lacks_something_by_now_is_passed_over(shop: Shop) -> None:
    first = _found()
    shop.lacks = "no key"
    assert _reason(_found()) == "no key"
    shop.lacks = ""
    assert _found() == first


def test_what_a_model_cannot_do_is_looked_at_for_each_request(shop: Shop) -> None:
    shop.info = ModelInfo("", context_tokens=100, capabilities=frozenset())
    assert _found(input_tokens=100).targets
    assert _reason(_found(input_tokens=101)) == "it reads at most 100 tokens"
    assert _reason(_found(needs=frozenset({Capability.VISION}))) == "it is not known to see pictures"
    assert _found(input_tokens=100).targets
    shop.info = None
    assert _reason(_found(input_tokens=100)) == "its plugin failed (KeyError)"


@pytest.mark.usefixtures("shop")
def test_another_provider_of_its_name_takes_its_place() -> None:
    first = _found()
    other = Shop("alpha")
    current_registry().providers["alpha"] = other
    assert _found() is not first
    assert _found().targets[0].provider is other


@pytest.mark.usefixtures("shop")
def test_a_provider_that_was_switched_off_meanwhile_serves_nobody() -> None:
    assert _found().targets
    set_provider("alpha", enabled=False)
    vendors.look_again()
    assert _reason(_found()) == "the provider is switched off"


@pytest.mark.usefixtures("shop")
def test_an_organization_that_has_set_something_has_a_route_of_its_own() -> None:
    mine = one(select(Organization)).id
    with writing() as connection:
        row = {"organization_id": mine, "provider": "alpha", "enabled": False, "values": {}, "updated_at": now()}
        connection.execute(insert(OrganizationProvider), row)
        vendors.changed(connection)
    vendors.look_again()
    for _ in range(2):
        assert _found(organization_id=uuid.uuid4()).targets
        assert _reason(_found(organization_id=mine)) == "the organization has switched the provider off"


def test_a_default_model_is_looked_up_each_time(shop: Shop) -> None:
    assert _found("alpha").targets[0].model == "m"
    shop.default_model = "n"
    assert _found("alpha").targets[0].model == "n"


@pytest.mark.usefixtures("shop")
def test_no_more_are_kept_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "_ROUTES_MAX", 3)
    vendors.look_again()
    for number in range(10):
        _found(f"alpha/{number}")
    assert 1 <= len(vendors.known().routes) <= 3
