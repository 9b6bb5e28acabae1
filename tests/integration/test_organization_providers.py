"""What an organization sets for the providers: switched off, default models, and keys of its own."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select, update

from tests.fakes.openai import FakeOpenAI
from tests.fakes.vendor import KEY, Trouble
from tests.integration.vendor_support import attempts, set_provider
from tests.support import add_person, one, rows
from webapp.contracts.errors import BadInput, Conflict, NotFound
from webapp.extensions import writing
from webapp.models import AuditEntry, ErrorLog, OrganizationProvider, Request
from webapp.pipeline.admit import admit
from webapp.pipeline.execute import execute
from webapp.pipeline.intake import Intake
from webapp.plugin import TextProvider, Variable, hookimpl
from webapp.registry import current_registry
from webapp.routing import own_keys, resilience, route, vendors
from webapp.routing.route import Ask
from webapp.services import organization_providers, organizations
from webapp.services.organization_providers import Change
from webapp.services.organizations import Actor
from webapp.vault import current_vault

sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

_numbers = itertools.count(1)
OPERATOR = Actor.operator("a test")
HOUSE_KEY = "sk-for-tests-only"
OWN_KEY = "sk-own-of-the-weavers-0123456789"


def place(name: str) -> tuple[uuid.UUID, uuid.UUID]:
    """An organization and somebody in it."""
    made = organizations.create(OPERATOR, name)
    return made.id, add_person(email=f"{name.lower()}@example.com", organization_id=made.id)


def set_for(organization_id: uuid.UUID, name: str = "openai", **values: Any) -> organization_providers.OrganizationProviderView:
    seen = organization_providers.show(OPERATOR, organization_id, name).seen
    return organization_providers.change(OPERATOR, organization_id, name, seen, Change(**values))


def ask(person_id: uuid.UUID) -> Request:
    # Another text each time: the same one would be answered from what is kept.
    request_id = admit(
        Intake(medium="web", text=f"hello {next(_numbers)}", person_id=person_id, new_conversation=True)
    ).request_id
    assert request_id is not None
    execute(request_id)
    return one(select(Request).where(Request.id == request_id))


def keys_used(fake: FakeOpenAI) -> list[str]:
    return [request.header("Authorization").removeprefix("Bearer ") for request in fake.requests if request.method == "POST"]


@pytest.fixture
def app(openai: FakeOpenAI, make_app: Callable[..., Flask]) -> Any:
    with FakeOpenAI() as elsewhere:
        app = make_app(allow_outbound=elsewhere.url.removeprefix("http://"))
        app.extensions["elsewhere"] = elsewhere
        with app.app_context():
            yield app


@pytest.fixture
def weavers(app: Flask) -> tuple[uuid.UUID, uuid.UUID]:
    return place("Weavers")


@pytest.fixture
def dyers(app: Flask) -> tuple[uuid.UUID, uuid.UUID]:
    return place("Dyers")


Place = tuple[uuid.UUID, uuid.UUID]


def test_a_provider_that_one_organization_switched_off_serves_the_other(weavers: Place, dyers: Place) -> None:
    assert not vendors.depends_on_sender(weavers[0])
    set_for(weavers[0], enabled=False)
    assert vendors.depends_on_sender(weavers[0])
    assert not vendors.depends_on_sender(dyers[0])
    assert [ask(person).provider for person in (weavers[1], dyers[1])] == ["demo", "openai"]
    path = route.plan(Ask(organization_id=weavers[0]))
    assert [(passed.target, passed.reason) for passed in path.passed] == [
        ("openai", "the organization has switched the provider off")
    ]
    named = route.plan(Ask(organization_id=weavers[0], named="openai/gpt-4.1"))
    assert named.passed[0].reason == "the organization has switched the provider off"
    assert "categorize" not in {target.provider.name for target in path.targets}
    sorting = route.plan(Ask("categorize", organization_id=weavers[0]))
    assert "openai" not in [target.provider.name for target in sorting.targets]
    set_for(weavers[0], enabled=True)
    assert ask(weavers[1]).provider == "openai"


@sqlite
def test_what_the_house_has_switched_off_nobody_switches_on(weavers: Place) -> None:
    set_provider("openai", enabled=False)
    set_for(weavers[0], enabled=True, keys={"OPENAI_API_KEY": OWN_KEY})
    assert organization_providers.show(OPERATOR, weavers[0], "openai").house_off
    assert ask(weavers[1]).provider == "demo"


@sqlite
def test_the_default_model_is_the_organizations(weavers: Place, dyers: Place, openai: FakeOpenAI) -> None:
    set_provider("openai", default_model="gpt-4.1")
    view = set_for(weavers[0], default_model=" gpt-4.1-nano ")
    assert (view.default_model, view.usual_model) == ("gpt-4.1-nano", "gpt-4.1")
    for person in (weavers[1], dyers[1]):
        ask(person)
    set_for(weavers[0], default_model="")
    ask(weavers[1])
    asked = [request.json()["model"] for request in openai.requests if request.method == "POST"]
    assert asked == ["gpt-4.1-nano", "gpt-4.1", "gpt-4.1"]


@sqlite
def test_a_key_of_its_own_is_used_for_the_organization_alone(weavers: Place, dyers: Place, openai: FakeOpenAI) -> None:
    openai.key = ""
    view = set_for(weavers[0], keys={"OPENAI_API_KEY": f" {OWN_KEY} "})
    (key,) = [key for key in view.keys if key.variable.name == "OPENAI_API_KEY"]
    assert (view.own_key, key.hint) == (True, OWN_KEY[-4:])
    for person in (weavers[1], dyers[1], weavers[1]):
        assert ask(person).status == "completed"
    assert keys_used(openai) == [OWN_KEY, HOUSE_KEY, OWN_KEY]
    stored = one(select(OrganizationProvider))
    assert OWN_KEY not in json.dumps(stored.values)
    assert current_vault().unseal(stored.values["OPENAI_API_KEY"]["sealed"]) == OWN_KEY
    told = one(select(AuditEntry).where(AuditEntry.action == "organization.provider"))
    assert (told.detail, told.organization_id) == ({"keys": {"OPENAI_API_KEY": "set"}}, weavers[0])
    set_for(weavers[0], keys={"OPENAI_API_KEY": ""})
    ask(weavers[1])
    assert keys_used(openai)[-1] == HOUSE_KEY


@sqlite
def test_a_key_of_its_own_serves_where_the_house_has_none(
    make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch, openai: FakeOpenAI
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    openai.key = OWN_KEY
    with make_app().app_context():
        weavers, dyers = place("Weavers"), place("Dyers")
        assert organization_providers.show(OPERATOR, weavers[0], "openai").missing
        assert set_for(weavers[0], keys={"OPENAI_API_KEY": OWN_KEY}).missing == ""
        assert [ask(person).provider for person in (weavers[1], dyers[1])] == ["openai", "demo"]


@sqlite
def test_trouble_with_an_own_key_is_the_organizations_own(weavers: Place, dyers: Place, openai: FakeOpenAI) -> None:
    openai.key = ""
    set_for(weavers[0], keys={"OPENAI_API_KEY": OWN_KEY})
    trouble = openai.trouble(Trouble.BAD_KEY)
    assert trouble is not None
    assert trouble.body is not None
    # As vendors do: they repeat what was sent.
    openai.faults.append(
        type(trouble)(status=401, headers=trouble.headers, body=trouble.body.replace(KEY.encode(), OWN_KEY.encode()))
    )
    assert ask(weavers[1]).error_code == "provider_credentials"
    gate = own_keys.gate("openai", weavers[0])
    assert resilience.state(gate).paused_until is not None
    assert resilience.state("openai").paused_until is None
    assert ask(dyers[1]).status == "completed"
    assert ask(weavers[1]).status == "failed"  # it is left alone
    assert keys_used(openai) == [OWN_KEY, HOUSE_KEY]
    said = [attempt.detail or "" for attempt in attempts()] + [f"{e.message} {e.detail}" for e in rows(select(ErrorLog))]
    assert any("[key]" in words for words in said)
    assert not any(OWN_KEY in words for words in said)
    set_for(weavers[0], keys={"OPENAI_API_KEY": OWN_KEY + "x"})
    assert resilience.state(gate).paused_until is None
    assert ask(weavers[1]).status == "completed"


@sqlite
def test_a_circuit_is_the_organizations_own_too(weavers: Place, dyers: Place, openai: FakeOpenAI) -> None:
    set_for(weavers[0], keys={"OPENAI_API_KEY": OWN_KEY})
    (mine,) = [t for t in route.plan(Ask(organization_id=weavers[0])).targets if t.provider.name == "openai"]
    (theirs,) = [t for t in route.plan(Ask(organization_id=dyers[0])).targets if t.provider.name == "openai"]
    assert (mine.name, mine.account, mine.circuit) == (
        theirs.name,
        f"openai@{weavers[0].hex}",
        f"openai@{weavers[0].hex}/{mine.model}",
    )
    assert (theirs.account, theirs.circuit) == ("openai", theirs.name)
    for _ in range(5):
        granted = resilience.enter(mine.account, mine.circuit, resilience.Pace(), tokens=1, hold_s=5)
        assert isinstance(granted, resilience.Grant)
        resilience.leave(granted, resilience.Verdict.BAD)
    assert resilience.is_open(mine.circuit)
    assert not resilience.is_open(theirs.circuit)
    assert OWN_KEY not in repr(mine)


@sqlite
def test_sorting_is_on_the_houses_account(weavers: Place) -> None:
    set_for(weavers[0], keys={"OPENAI_API_KEY": OWN_KEY})
    targets = route.plan(Ask("categorize", organization_id=weavers[0])).targets
    assert [target.account for target in targets if target.provider.name == "openai"] == ["openai"]


@sqlite
def test_a_key_goes_nowhere_but_where_it_was_set_for(app: Flask, weavers: Place, dyers: Place, openai: FakeOpenAI) -> None:
    openai.key = ""
    set_for(weavers[0], keys={"OPENAI_API_KEY": OWN_KEY})
    elsewhere = app.extensions["elsewhere"]
    sealed = {"sealed": current_vault().seal("sk-of-the-house-elsewhere"), "hint": ""}
    set_provider("openai", values={"OPENAI_BASE_URL": {"plain": f"{elsewhere.url}/v1"}, "OPENAI_API_KEY": sealed})
    vendors.look_again()
    path = route.plan(Ask(organization_id=weavers[0]))
    assert ("openai", own_keys.MOVED) in [(passed.target.partition("/")[0], passed.reason) for passed in path.passed]
    assert organization_providers.show(OPERATOR, weavers[0], "openai").missing == own_keys.MOVED
    assert ask(weavers[1]).provider == "demo"  # and not the house's key in its place
    assert ask(dyers[1]).provider == "openai"
    assert keys_used(elsewhere) == ["sk-of-the-house-elsewhere"]
    set_for(weavers[0], keys={"OPENAI_API_KEY": OWN_KEY})
    assert ask(weavers[1]).provider == "openai"
    assert keys_used(elsewhere)[-1] == OWN_KEY
    assert not keys_used(openai)


@sqlite
def test_a_key_that_cannot_be_read_is_not_replaced_by_the_houses(weavers: Place, openai: FakeOpenAI) -> None:
    set_for(weavers[0], keys={"OPENAI_API_KEY": OWN_KEY})
    broken = dict(one(select(OrganizationProvider)).values)
    broken["OPENAI_API_KEY"] = broken["OPENAI_API_KEY"] | {"sealed": "nonsense"}
    with writing() as connection:
        connection.execute(update(OrganizationProvider).values({"values": broken}))
        vendors.changed(connection)
    vendors.look_again()
    assert ask(weavers[1]).provider == "demo"
    assert organization_providers.show(OPERATOR, weavers[0], "openai").missing == own_keys.UNREADABLE
    assert not keys_used(openai)


@sqlite
def test_a_plugin_that_fails_with_the_key_serves_the_others_on(weavers: Place, dyers: Place) -> None:
    class Picky(TextProvider):
        name, label, default_model, preference = "picky", "Picky", "m", 1
        environment = (Variable("PICKY_API_KEY", "its key", secret=True),)

    def register_providers(settings: Any) -> list[TextProvider]:
        if settings.get("PICKY_API_KEY"):
            raise ValueError("no")
        return [Picky()]

    module = ModuleType("picky")
    module.register_providers = hookimpl(register_providers)  # type: ignore[attr-defined]
    assert not current_registry().add(module, "picky", {}).error
    view = set_for(weavers[0], "picky", keys={"PICKY_API_KEY": OWN_KEY})
    assert view.missing == own_keys.NOT_MADE
    assert route.plan(Ask(organization_id=dyers[0])).targets[0].provider.name == "picky"
    assert "picky" not in [target.provider.name for target in route.plan(Ask(organization_id=weavers[0])).targets]


@sqlite
@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"keys": {"OPENAI_BASE_URL": "https://evil.example.com"}}, "OPENAI_BASE_URL"),
        ({"keys": {"OPENAI_MODEL": "x"}}, "OPENAI_MODEL"),
        ({"keys": {"PATH": "x"}}, "PATH"),
        ({"keys": {"OPENAI_API_KEY": "two\nlines"}}, "OPENAI_API_KEY"),
        ({"keys": {"OPENAI_API_KEY": "x" * 5000}}, "OPENAI_API_KEY"),
        ({"default_model": "two words"}, "default_model"),
        ({"default_model": "x" * 200}, "default_model"),
    ],
)
def test_what_an_organization_cannot_set_is_refused(weavers: Place, values: dict[str, Any], field: str) -> None:
    with pytest.raises(BadInput) as refused:
        set_for(weavers[0], **values)
    assert refused.value.field == field
    assert not rows(select(OrganizationProvider))


@sqlite
def test_of_two_who_change_a_provider_the_second_is_told(weavers: Place) -> None:
    seen = organization_providers.show(OPERATOR, weavers[0], "openai").seen
    organization_providers.change(OPERATOR, weavers[0], "openai", seen, Change(enabled=False))
    with pytest.raises(Conflict, match="Somebody else changed this"):
        organization_providers.change(OPERATOR, weavers[0], "openai", seen, Change(default_model="x"))
    again = organization_providers.show(OPERATOR, weavers[0], "openai")
    same = organization_providers.change(OPERATOR, weavers[0], "openai", again.seen, Change(enabled=False))
    assert same.seen == again.seen


@sqlite
def test_a_provider_that_is_not_there_cannot_be_set(weavers: Place) -> None:
    for act in (
        lambda: organization_providers.show(OPERATOR, weavers[0], "nobody"),
        lambda: organization_providers.change(OPERATOR, weavers[0], "nobody", "", Change(enabled=False)),
    ):
        with pytest.raises(NotFound):
            act()


@sqlite
def test_many_organizations_keep_few_providers_in_memory(
    app: Flask, monkeypatch: pytest.MonkeyPatch, openai: FakeOpenAI
) -> None:
    openai.key = ""
    monkeypatch.setattr(own_keys, "KEPT_MAX", 2)
    places = [place(name) for name in ("Aa", "Bb", "Cc")]
    for number, (organization_id, _) in enumerate(places):
        set_for(organization_id, keys={"OPENAI_API_KEY": f"{OWN_KEY}-{number}"})
    for _, person in (*places, places[0]):
        ask(person)
    assert keys_used(openai) == [f"{OWN_KEY}-{number}" for number in (0, 1, 2, 0)]
    assert len(own_keys._made().shelves) == 2
