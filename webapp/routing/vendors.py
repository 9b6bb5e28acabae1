"""What administrators set for providers and routes, kept in memory and looked after.

Every process keeps the whole of it. Whatever changes it raises a number in the table `revision`; a process looks at that
number at most every two seconds, and reads everything anew when it has changed. The providers are then made anew with the
environment and, over it, what was set in the pages.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from flask import current_app
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import SQLAlchemyError

from webapp.contracts.errors import SetupError
from webapp.contracts.hours import Hours
from webapp.contracts.providers import ImageProvider, Provider, VariableKind
from webapp.extensions import current_settings, of_application, reading
from webapp.models import OrganizationProvider, ProviderSetting, Revision, RouteRule
from webapp.registry import current_registry
from webapp.routing import listeners, vendor_keys
from webapp.routing.prices import Override
from webapp.routing.resilience import Pace
from webapp.vault import current_vault

if TYPE_CHECKING:
    from webapp.routing.route import Route
    from webapp.settings import Settings

log = logging.getLogger(__name__)

LOOK_S = 2.0
"""Seconds after which a process notices what another one has changed."""
LIMIT_MAX = 1_000_000_000
"""The highest limit of pace: what is above it is none."""
_SUBJECT = "routing"
_OPENED_MAX = 4
# One statement, the same for both databases: of two first changes at the same moment neither may fail.
_RAISE = text(
    "INSERT INTO revision (subject, number) VALUES (:subject, 1) "
    "ON CONFLICT (subject) DO UPDATE SET number = revision.number + 1"
)
_KEY = "switchhook.vendors"


@dataclass(frozen=True, slots=True)
class Vendor:
    """What was set for one provider. The defaults are those of a provider for which nothing was set."""

    name: str
    enabled: bool = True
    default_model: str = ""
    limits: Mapping[str, int] = field(default_factory=dict)
    prices: Mapping[str, Override] = field(default_factory=dict)
    peak_hours: Hours | None = None
    trouble: str = ""
    """What of it could not be read, for the pages and the doctor."""


_unset = lru_cache(maxsize=256)(Vendor)
"""A provider for which nothing was set, by its name."""


@dataclass(frozen=True, slots=True)
class OrganizationVendor:
    """What an organization set for one provider. `values` are as they are stored: its own keys are sealed in them."""

    name: str
    enabled: bool = True
    default_model: str = ""
    values: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Rule:
    """A routing rule. None fits every request."""

    id: uuid.UUID
    name: str
    operation: str | None
    category: str | None
    plan: str | None
    organization_id: uuid.UUID | None
    targets: tuple[str, ...]
    max_cost_microusd: int | None


@dataclass(frozen=True, slots=True)
class House:
    """Everything that was set, at one revision."""

    revision: int
    vendors: Mapping[str, Vendor]
    rules: tuple[Rule, ...]
    left_out: frozenset[str] = frozenset()
    """Variables whose secrets in the environment no plugin gets, because an address was set here to which they would go."""
    organizations: Mapping[uuid.UUID, Mapping[str, OrganizationVendor]] = field(default_factory=dict)
    """What organizations set, for those that set anything."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What the providers were made with, secrets included."""
    routes: dict[tuple[str, str], Route] = field(default_factory=dict, repr=False, compare=False)
    """What `route` has found at this revision for models that requests name: by operation and name."""

    def vendor(self, name: str) -> Vendor:
        """What was set for a provider, or the defaults."""
        return self.vendors.get(name) or _unset(name)

    def of_organization(self, organization_id: uuid.UUID | None, name: str) -> OrganizationVendor | None:
        """What an organization set for a provider; None where it set nothing."""
        if organization_id is None or not self.organizations:
            return None
        own = self.organizations.get(organization_id)
        return own.get(name) if own else None


@dataclass(slots=True)
class _Kept:
    house: House = field(default_factory=lambda: House(-1, MappingProxyType({}), ()))
    look_at: float = 0.0
    opened: dict[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    """Variable -> the secrets that were set for it, the newest first: calls under way still hold the ones before."""
    blots: dict[str, tuple[int, tuple[str, ...]]] = field(default_factory=dict, repr=False)
    """Provider -> the revision, and what is to be taken out of its vendor's words at it."""
    guard: threading.Lock = field(default_factory=threading.Lock)


def current() -> House:
    """What is set now, as this process knows it. Never call it inside a writing transaction: it may have to read."""
    kept = _kept()
    if time.monotonic() < kept.look_at:
        return kept.house
    if not kept.guard.acquire(blocking=kept.house.revision < 0):
        return kept.house  # another thread is looking
    try:
        if time.monotonic() >= kept.look_at:
            _look_or_wait(kept)
    finally:
        kept.guard.release()
    return kept.house


def known() -> House:
    """What `current` found last, without looking: for use inside transactions."""
    return _kept().house


def depends_on_sender(organization_id: uuid.UUID | None) -> bool:
    """Whether a route may be another one for people of this organization than for anybody; no look-up."""
    house = known()
    return bool(house.rules) or organization_id in house.organizations


def changed(connection: Connection) -> None:
    """Tell all processes that something of this was changed: in the transaction that changes it."""
    connection.execute(_RAISE, {"subject": _SUBJECT})


def look_again() -> None:
    """Let this process notice at once what it has just changed itself, whoever else is looking."""
    kept = _kept()
    with kept.guard:
        _look_or_wait(kept)


def go_without() -> None:
    """Take nothing as set, and do not look: for a process that has found that there is no usable database."""
    kept = _kept()
    kept.house = House(0, MappingProxyType({}), (), environment=MappingProxyType(current_settings().for_plugins()))
    kept.look_at = math.inf


def pace(provider: Provider, settings: Settings | None = None) -> Pace:
    """How fast a provider may be called: what was set for it, else the installation's default where it bills somebody.
    `settings` are the installation's, where they are at hand."""
    vendor = _kept().house.vendors.get(provider.name)
    given = vendor.limits if vendor is not None else None
    if provider.free_of_charge or provider.demo:
        requests = tokens = concurrent = 0
    else:
        settings = settings or current_settings()
        requests, tokens = settings.provider_requests_per_minute, settings.provider_tokens_per_minute
        concurrent = settings.provider_concurrent
    if given:
        requests = given.get("requests_per_minute", requests)
        tokens = given.get("tokens_per_minute", tokens)
        concurrent = given.get("concurrent", concurrent)
    return _pace(requests or None, tokens or None, concurrent or None)


def override(provider: Provider, model: str) -> Override | None:
    """The operator's own price of a model, None where there is none."""
    vendor = _kept().house.vendors.get(provider.name)
    if vendor is None or not vendor.prices:
        return None
    return vendor.prices.get(model) or vendor.prices.get("*")


def default_model(provider: Provider, organization_id: uuid.UUID | None = None) -> str:
    """The model that a provider is called with when none is named: the organization's, the installation's, or its own."""
    if isinstance(provider, ImageProvider) and provider.name in current_registry().providers:
        # What was set is for the texts of a vendor that does both.
        return provider.default_model
    house = known()
    own = house.of_organization(organization_id, provider.name)
    return (own.default_model if own else "") or house.vendor(provider.name).default_model or provider.default_model


def peak_hours(provider: Provider) -> Hours:
    """When a provider's calls cost more: what was set, else what it says itself."""
    given = known().vendor(provider.name).peak_hours
    return provider.peak_hours if given is None else given


def redacted(provider_name: str, text: str) -> str:
    """`text` without the secrets of a provider, and without characters that nobody sees: for everything that a plugin says of
    its vendor. Secrets are those of the environment, those that are or lately were set here, and sign-ins in addresses."""
    return vendor_keys.blot(text, secrets_of(provider_name))


def secrets_of(provider_name: str) -> tuple[str, ...]:
    """The secrets of a provider in clear, in every form, to be taken out of what its vendor says. They go nowhere else."""
    kept = _kept()
    revision = kept.house.revision
    known_at, found = kept.blots.get(provider_name, (None, ()))
    if known_at == revision:
        return found
    providers = current_registry().any_provider(provider_name)
    given = current_settings().for_plugins()
    secrets: list[str] = []
    addresses = [provider.base_url for provider in providers]
    for variable in vendor_keys.variables_of(providers):
        values = (given.get(variable.name, ""), *kept.opened.get(variable.name, ()))
        if variable.secret:
            secrets += values
        if variable.kind is VariableKind.URL:
            addresses += values
    found = vendor_keys.forms(secrets, addresses)
    if providers:
        kept.blots[provider_name] = (revision, found)
    return found


_pace = lru_cache(maxsize=256)(Pace)


def _kept() -> _Kept:
    try:
        kept: _Kept = of_application(_KEY)
    except KeyError:
        kept = current_app.extensions.setdefault(_KEY, _Kept())
    return kept


def _look_or_wait(kept: _Kept) -> None:
    try:
        _look(kept)
    except SQLAlchemyError as exc:
        # What is known goes on being true until somebody can say otherwise.
        if kept.house.revision < 0:
            raise
        kept.look_at = time.monotonic() + LOOK_S
        log.warning("the settings of providers could not be looked at: %s", type(exc).__name__)


def _look(kept: _Kept) -> None:
    with reading() as connection:
        query = select(Revision.subject, Revision.number).where(Revision.subject.in_((_SUBJECT, listeners.SUBJECT)))
        numbers = {row.subject: row.number for row in connection.execute(query)}
        listeners.take(connection, numbers.get(listeners.SUBJECT, 0))
        number = numbers.get(_SUBJECT, 0)
        if number != kept.house.revision:
            settings = connection.execute(select(ProviderSetting.__table__)).all()
            rules = connection.execute(
                select(RouteRule.__table__).where(RouteRule.enabled).order_by(RouteRule.position, RouteRule.id)
            ).all()
            first = kept.house.revision < 0
            without = _left_out(settings)
            if without - kept.house.left_out:
                names = ", ".join(sorted(without))
                log.warning("%s of the environment: not used, an address was set in the pages to which it would go", names)
            vendors_set = MappingProxyType({row.provider: _vendor(row) for row in settings})
            environment = MappingProxyType(_environment(settings, without, kept.opened))
            of_organizations = _of_organizations(connection.execute(select(OrganizationProvider.__table__)))
            house = House(number, vendors_set, _rules(rules), without, of_organizations, environment)
            if settings or not first:
                current_registry().configure(environment)
            # Last: an interrupted look is taken again, and nobody goes by a revision whose providers are not made yet.
            kept.house = house
    kept.look_at = time.monotonic() + LOOK_S


def _left_out(rows: Any) -> frozenset[str]:
    here = vendor_keys.set_here(row.values for row in rows)
    return vendor_keys.left_out(here, current_settings().for_plugins(), vendor_keys.declared(current_registry()).values())


def _environment(rows: Any, without: frozenset[str], opened: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """The environment for plugins, with what was set for providers over it, and without the variables `without`. A secret
    that cannot be unsealed is left out. What was unsealed is noted in `opened`."""
    found = {name: value for name, value in current_settings().for_plugins().items() if name not in without}
    for row in rows:
        for name, value in row.values.items() if isinstance(row.values, dict) else ():
            try:
                given = current_vault().unseal(value["sealed"]) if "sealed" in value else value["plain"]
            except (SetupError, KeyError, TypeError) as exc:
                log.error("%s of provider %s cannot be read: %s", name, row.provider, exc)
                found.pop(name, None)
                continue
            if given:
                found[name] = given
                if "sealed" in value:
                    opened[name] = tuple(dict.fromkeys((given, *opened.get(name, ()))))[:_OPENED_MAX]
            else:
                found.pop(name, None)
    return found


def _of_organizations(rows: Any) -> Mapping[uuid.UUID, Mapping[str, OrganizationVendor]]:
    found: dict[uuid.UUID, dict[str, OrganizationVendor]] = {}
    for row in rows:
        values = row.values if isinstance(row.values, dict) else {}
        vendor = OrganizationVendor(row.provider, row.enabled, row.default_model or "", MappingProxyType(values))
        found.setdefault(row.organization_id, {})[row.provider] = vendor
    return MappingProxyType(found)


def _vendor(row: Any) -> Vendor:
    troubles: list[str] = []
    prices: dict[str, Override] = {}
    for model, value in row.prices.items():
        try:
            prices[model] = Override.read(value)
        except ValueError as exc:
            troubles.append(f"the price of {model}: {exc}")
    hours = None
    if row.peak_hours is not None:
        try:
            hours = Hours.parse(row.peak_hours)
        except ValueError as exc:
            troubles.append(f"the peak hours: {exc}")
    limits = {name: min(value, LIMIT_MAX) for name, value in row.limits.items() if type(value) is int and value >= 0}
    return Vendor(row.provider, row.enabled, row.default_model or "", limits, prices, hours, "; ".join(troubles))


def _rules(rows: Any) -> tuple[Rule, ...]:
    return tuple(
        Rule(
            row.id,
            row.name,
            row.operation,
            row.category,
            row.plan_code,
            row.organization_id,
            tuple(target for target in row.targets if isinstance(target, str)),
            row.max_cost_microusd,
        )
        for row in rows
    )
