"""Providers as administrators see them: what is set where, how they do, what was last seen of them. No secret is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from sqlalchemy import select

from webapp.contracts.errors import NotFound, SetupError
from webapp.contracts.providers import ImageProvider, Provider, TextProvider, Variable
from webapp.extensions import current_settings, reading
from webapp.models import ProviderSetting
from webapp.registry import Registry, current_registry
from webapp.routing import resilience, route, vendors
from webapp.routing.prices import Override
from webapp.routing.resilience import Pace, ProviderState
from webapp.routing.vendor_keys import NOT_USED, variables_of
from webapp.services import health
from webapp.services.provider_live import Live, live_of
from webapp.vault import Vault, current_vault

__all__ = ["Live", "ProviderView", "VariableView", "overview", "secrets_of", "show", "variables_of"]

TEXT, IMAGES = "text", "images"


@dataclass(frozen=True, slots=True)
class VariableView:
    """A variable of a provider and what it holds now."""

    variable: Variable
    source: str
    """`environment`, `set here`, `default` or `nothing`."""
    shown: str
    """The value; of a secret only its end (`…abcd`) or ''."""


@dataclass(frozen=True, slots=True)
class ProviderView:
    """A vendor, with all that is set for it and all that is known of it. One of both kinds is one vendor."""

    name: str
    label: str
    kinds: tuple[str, ...]
    """`text`, `images`."""
    enabled: bool
    ready: bool
    """Whether nothing is missing, for one of its kinds at least."""
    missing: str
    default_model: str
    """The model that counts: what was set here, else the plugin's."""
    base_url: str
    variables: tuple[VariableView, ...]
    limits: Mapping[str, int]
    """Those that were set here."""
    pace: Pace
    """The limits that count."""
    prices: Mapping[str, Override]
    peak_hours: str
    """Those that count."""
    peak_hours_set: str | None
    """Those that were set here: '' for none, None where nothing was set."""
    warning: str
    by_name_only: bool
    demo: bool
    free: bool
    trouble: str
    """What of its settings does not work, '' if all of it does."""
    state: ProviderState
    live: Live
    balance: str
    seen: str
    """What the last look at it showed, '' if nobody looked lately."""
    seen_ok: bool | None
    updated_at: datetime | None
    image_model: str = ""
    """The model that draws, where the vendor has both kinds; '' elsewhere."""


@dataclass(frozen=True, slots=True)
class _Gathered:
    """What all providers' views are made from, fetched once."""

    rows: Mapping[str, Any]
    live: Mapping[str, Live]
    seen: Mapping[str, health.Seen]
    environment: Mapping[str, str] = field(repr=False)


def overview() -> list[ProviderView]:
    """All providers, in the order in which they are preferred."""
    vendors.current()
    names = _names(current_registry())
    gathered = _gather(names)
    return [_view(name, gathered) for name in names]


def show(name: str) -> ProviderView:
    """One provider. `NotFound` if there is none of that name."""
    vendors.current()
    providers_of(name)
    return _view(name, _gather([name]))


def providers_of(name: str) -> list[Provider]:
    """The text and the image provider of that name, one at least. `NotFound` says which there are."""
    found = current_registry().any_provider(name)
    if not found:
        there = ", ".join(_names(current_registry()))
        raise NotFound(f"There is no provider {name[:40]!r}; there are {there}.")
    return found


def secrets_of(name: str) -> tuple[str, ...]:
    """The secrets of a provider in clear, in every form, to be taken out of what its vendor says. They go nowhere else."""
    providers_of(name)
    vendors.current()
    return vendors.secrets_of(name)


def _names(registry: Registry) -> list[str]:
    best: dict[str, tuple[bool, int, str]] = {}
    for provider in (*registry.providers.values(), *registry.image_providers.values()):
        rank = (provider.demo, provider.preference, provider.name)
        best[provider.name] = min(best.get(provider.name, rank), rank)
    return sorted(best, key=lambda name: best[name])


def _gather(names: list[str]) -> _Gathered:
    with reading() as connection:
        found = connection.execute(select(ProviderSetting.__table__).where(ProviderSetting.provider.in_(names))).all()
        live = live_of(connection, names)
    return _Gathered({row.provider: row for row in found}, live, health.seen(), current_settings().for_plugins())


def _view(name: str, gathered: _Gathered) -> ProviderView:
    found = providers_of(name)
    first, row, vendor = found[0], gathered.rows.get(name), vendors.known().vendor(name)
    values: Mapping[str, Any] = row.values if row is not None and isinstance(row.values, dict) else {}
    lacks = [(_kind(provider), route.missing(provider)) for provider in found]
    looks = [(_kind(p), look) for p in found if (look := gathered.seen.get(health.name_of(p))) is not None]
    return ProviderView(
        name=name,
        label=first.label,
        kinds=tuple(_kind(provider) for provider in found),
        enabled=vendor.enabled,
        ready=any(not lack for _, lack in lacks),
        missing=_joined(lacks),
        default_model=vendors.default_model(first),
        image_model=vendors.default_model(found[1]) if len(found) > 1 else "",
        base_url=without_sign_in(first.base_url),
        variables=tuple(_variable(variable, values, gathered.environment) for variable in variables_of(found)),
        limits=vendor.limits,
        pace=vendors.pace(first),
        prices=vendor.prices,
        peak_hours=str(vendors.peak_hours(first)),
        peak_hours_set=None if row is None else row.peak_hours,
        warning=" ".join(dict.fromkeys(provider.warning for provider in found if provider.warning)),
        by_name_only=all(provider.by_name_only for provider in found),
        demo=all(provider.demo for provider in found),
        free=all(provider.free_of_charge for provider in found),
        trouble=_trouble(name, vendor.trouble, values, variables_of(found)),
        state=resilience.state(name),
        live=gathered.live.get(name) or Live(),
        balance=next((look.balance for _, look in looks if look.balance), ""),
        seen=_joined([(kind, look.detail) for kind, look in looks]),
        seen_ok=all(look.ok for _, look in looks) if looks else None,
        updated_at=None if row is None else row.updated_at,
    )


def _kind(provider: Provider) -> str:
    assert isinstance(provider, TextProvider | ImageProvider)
    return IMAGES if isinstance(provider, ImageProvider) else TEXT


def _joined(words: list[tuple[str, str]]) -> str:
    """What is said of each kind: once where it is the same of all, else with the kind in front."""
    said = {text for _, text in words}
    if len(said) <= 1 or len(words) == 1:
        return next(iter(said), "")
    return "; ".join(f"{kind}: {text}" for kind, text in words if text)


def _variable(variable: Variable, values: Mapping[str, Any], environment: Mapping[str, str]) -> VariableView:
    value = values.get(variable.name)
    if isinstance(value, dict):
        if "sealed" in value:
            return VariableView(variable, "set here", _end(value.get("hint")))
        plain = str(value.get("plain", ""))
        return VariableView(variable, "set here", "" if variable.secret else without_sign_in(plain))
    if given := environment.get(variable.name, "").strip():
        shown = _end(Vault.hint(given)) if variable.secret else without_sign_in(given)
        return VariableView(variable, "environment", shown)
    if variable.default:
        return VariableView(variable, "default", "" if variable.secret else variable.default)
    return VariableView(variable, "nothing", "")


def _end(hint: object) -> str:
    return f"…{hint}" if isinstance(hint, str) and hint else ""


def without_sign_in(text: str) -> str:
    """A URL without the user and the password in it; anything else as it is."""
    if "@" not in text or "://" not in text:
        return text
    try:
        parts = urlsplit(text)
    except ValueError:
        return "(not an address)"
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _trouble(name: str, of_values: str, values: Mapping[str, Any], declared: Iterable[Variable]) -> str:
    """Everything of a provider's settings that does not work: for the pages and the operator."""
    troubles = [of_values] if of_values else []
    known = {variable.name for variable in declared}
    if known & vendors.known().left_out:
        troubles.append(NOT_USED)
    for variable, value in values.items():
        if variable not in known:
            troubles.append(f"{variable} is set here, but the plugin does not read it")
        elif isinstance(value, dict) and "sealed" in value and not _opens(value["sealed"]):
            troubles.append(f"{variable} cannot be opened with the encryption keys that are here: enter it again")
    gives = {f"providers: {name}", f"image providers: {name}"}
    troubles += [f"the plugin failed {r.error}" for r in current_registry().records if r.error and gives & set(r.gives)]
    return "; ".join(dict.fromkeys(" ".join(trouble.split()) for trouble in troubles))


def _opens(token: object) -> bool:
    try:
        return isinstance(token, str) and current_vault().sealed_by(token) is not None
    except SetupError:
        return False
