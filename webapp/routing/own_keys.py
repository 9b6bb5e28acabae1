"""Organizations' own keys: their providers, made with what an organization set over the installation's environment.

They are made when a request of the organization is first routed, and kept in memory until something is set anew. A key that
cannot be read, or that was set while its provider had another address, is not used, and neither is the installation's in its
place: whoever set a key of their own wants to be billed by it, and the key goes where they sent it and nowhere else.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import current_app

from webapp.contracts.errors import SetupError
from webapp.contracts.providers import ImageProvider, Provider, VariableKind
from webapp.registry import current_registry
from webapp.routing import vendor_keys, vendors
from webapp.routing.vendors import House
from webapp.vault import current_vault

log = logging.getLogger(__name__)

KEPT_MAX = 256
"""Organizations whose providers a process keeps made; those asked longest ago are made anew."""
UNREADABLE = "the organization's own key cannot be read: it has to be set again"
MOVED = "the address of this provider has changed since the organization set its own key: it has to be set again"
NOT_MADE = "its plugin failed with the organization's own key"
_KEY = "switchhook.own_keys"


@dataclass(frozen=True, slots=True)
class OwnKey:
    """By which account of its own an organization calls a provider. `gate` is under which name its pace, pauses and circuits
    are kept; `forms` are the secrets, to be taken out of what the vendor says."""

    gate: str
    forms: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Shelf:
    """The providers of one organization that differ from the installation's, by name. `troubles` says why one is not used."""

    text: Mapping[str, Provider] = field(default_factory=dict)
    images: Mapping[str, Provider] = field(default_factory=dict)
    keys: Mapping[str, OwnKey] = field(default_factory=dict)
    troubles: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Made:
    shelves: OrderedDict[uuid.UUID, tuple[int, Shelf]] = field(default_factory=OrderedDict)
    guard: threading.Lock = field(default_factory=threading.Lock)


_NONE = Shelf()


def shelf(organization_id: uuid.UUID | None, house: House | None = None) -> Shelf:
    """The organization's own providers as this process knows them: no query. `house` is what is known, where it is at hand."""
    if house is None:
        house = vendors.known()
    if organization_id is None or not house.organizations:
        return _NONE
    own = house.organizations.get(organization_id)
    if not own or not any(vendor.values for vendor in own.values()):
        return _NONE
    made = _made()
    with made.guard:
        revision, found = made.shelves.get(organization_id, (-1, _NONE))
        if revision != house.revision:
            found = _make(house, organization_id)
            made.shelves[organization_id] = (house.revision, found)
        made.shelves.move_to_end(organization_id)
        while len(made.shelves) > KEPT_MAX:
            made.shelves.popitem(last=False)
    return found


def gate(provider_name: str, organization_id: uuid.UUID) -> str:
    """Under which name the pace, pauses and circuits of an organization's own account are kept."""
    return f"{provider_name}@{organization_id.hex}"


def place(provider_name: str, environment: Mapping[str, str]) -> str:
    """Where a provider is, as far as somebody has set it; kept with a key, so that the key goes nowhere else later."""
    variables = vendor_keys.variables_of(current_registry().any_provider(provider_name))
    urls = sorted(variable.name for variable in variables if variable.kind is VariableKind.URL)
    given = "\n".join(f"{name}={vendor_keys.place(environment.get(name, ''))}" for name in urls)
    return hashlib.sha256(given.encode()).hexdigest()[:32]


def _made() -> _Made:
    found = current_app.extensions.get(_KEY)
    if found is None:
        found = current_app.extensions.setdefault(_KEY, _Made())
    assert isinstance(found, _Made)
    return found


def _make(house: House, organization_id: uuid.UUID) -> Shelf:
    opened: dict[str, str] = {}
    troubles: dict[str, str] = {}
    for vendor in house.organizations[organization_id].values():
        try:
            opened |= _opened(house, vendor.name, vendor.values)
        except _Unusable as exc:
            log.error("the own key of an organization for %s is not used: %s", vendor.name, exc)
            troubles[vendor.name] = str(exc)
    declared = vendor_keys.declared(current_registry())
    # Providers may share a variable: all that have it are called by this key.
    secrets = {name: [v.name for v in variables if v.secret and v.name in opened] for name, variables in declared.items()}
    names = {name for name, found in secrets.items() if found} - troubles.keys()
    if not names:
        return Shelf(troubles=troubles)
    text: dict[str, Provider] = {}
    images: dict[str, Provider] = {}
    for provider in current_registry().make({**house.environment, **opened}, names):
        (images if isinstance(provider, ImageProvider) else text)[provider.name] = provider
    for name in names:
        made = [name in shelf for shelf in (text, images)]
        if made != [name in shelf for shelf in (current_registry().providers, current_registry().image_providers)]:
            troubles[name] = NOT_MADE
    keys = {
        name: OwnKey(gate(name, organization_id), vendor_keys.forms((opened[v] for v in secrets[name]), ())) for name in names
    }
    return Shelf(text, images, keys, troubles)


class _Unusable(Exception):
    """Why an organization's own key is not used."""


def _opened(house: House, provider_name: str, values: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    here = place(provider_name, house.environment)
    for name, value in values.items():
        try:
            if value["place"] != here:
                raise _Unusable(MOVED)
            found[name] = current_vault().unseal(value["sealed"])
        except (SetupError, KeyError, TypeError) as exc:
            raise _Unusable(UNREADABLE) from exc
    return found
