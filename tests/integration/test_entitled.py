"""What a token entitles to is worked out once, and whatever changes about it counts from the next call on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import update

from tests.integration.quick_support import Exact, Owner, ask, change_token, limit, owner, watched
from tests.integration.vendor_support import install
from webapp.contracts.limits import Dimension, Limit, QuotaPolicy, QuotaQuestion, StoredLimit, Window
from webapp.extensions import now, writing
from webapp.models import Organization, Person, Plan
from webapp.plugin import hookimpl
from webapp.quota import asking
from webapp.registry import current_registry


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Iterator[Flask]:
    with make_app(retries=0).app_context() as context:
        install(Exact())
        yield context.app


def set_plan(**values: Any) -> None:
    with writing() as connection:
        connection.execute(update(Plan).values(**values))


CHANGES: dict[str, tuple[Callable[[Owner], None], int]] = {
    "revoked": (lambda who: change_token(who, revoked_at=now()), 401),
    "expired": (lambda who: change_token(who, expires_at=now() - timedelta(seconds=1)), 401),
    "scopes": (lambda who: change_token(who, scopes=["read"]), 403),
    "limit of the token": (lambda who: limit(who, NONE, of="token"), 429),
    "limit of the person": (lambda who: limit(who, NONE, of="person"), 429),
    "limit of the organization": (lambda who: limit(who, NONE), 429),
    "limit of the plan": (lambda who: set_plan(limits={"messages": 0}), 429),
    "person": (lambda who: of_person(who, active=False), 401),
    "organization": (lambda who: of_organization(who, active=False), 401),
}
NONE = StoredLimit("none", Dimension.REQUESTS, Window.DAY, 0)


def of_person(who: Owner, **values: Any) -> None:
    with writing() as connection:
        connection.execute(update(Person).where(Person.id == who.person_id).values(**values))


def of_organization(who: Owner, **values: Any) -> None:
    with writing() as connection:
        connection.execute(update(Organization).where(Organization.id == who.organization_id).values(**values))


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_counts_from_the_next_call_on(app: Flask, name: str) -> None:
    who, other = owner(), owner("bob")
    assert [ask(app, each.token).status_code for each in (who, who, other)] == [200, 200, 200]
    change, status = CHANGES[name]
    change(who)
    assert ask(app, who.token).status_code == status
    assert ask(app, other.token).status_code == (429 if name == "limit of the plan" else 200)


def test_an_expiry_that_passes_meanwhile_ends_it(app: Flask) -> None:
    who = owner()
    change_token(who, expires_at=now() + timedelta(hours=1))
    assert ask(app, who.token).status_code == 200
    set_plan(limits={})
    ends = now() + timedelta(seconds=0.5)
    change_token(who, expires_at=ends)
    while now() < ends:
        assert ask(app, who.token).status_code in (200, 401)
    assert ask(app, who.token).status_code == 401


def test_a_longer_answer_of_a_changed_plan_is_held_at_once(app: Flask) -> None:
    who, vendor = owner(), Exact("second")
    install(vendor)
    for most in (40, 30, 20):
        set_plan(max_output_tokens=most)
        assert ask(app, who.token, model="second").status_code == 200
    assert [call.max_output_tokens for call in vendor.calls] == [40, 30, 20]


class Counting(QuotaPolicy):
    """A policy that says something else each time."""

    name = "counting"

    def __init__(self) -> None:
        self.asked = 0

    def limits(self, question: QuotaQuestion) -> Iterable[Limit]:
        self.asked += 1
        maximum = 0 if self.asked > 2 else 10
        yield Limit(f"person:{question.person_id}", "counting", Dimension.REQUESTS, Window.DAY, maximum, "requests")


def test_policies_that_are_not_steady_are_asked_for_every_call(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, who = Counting(), owner()
    assert asking.steady(), "those that come with the product are"
    assert ask(app, who.token).status_code == 200
    module = ModuleType("counting")
    module.register_quota_policies = hookimpl(lambda settings: [policy])  # type: ignore[attr-defined]
    assert not current_registry().add(module, "counting", {}).error
    assert not asking.steady()
    seen = watched(monkeypatch)
    assert ask(app, owner("carol").token).status_code == 200
    assert ask(app, owner("dave").token).status_code == 200
    assert (seen.admitted, policy.asked) == (2, 2)
    assert ask(app, owner("erin").token).status_code == 429
