"""What an organization sets for the providers: whether its people may use one, with which model, and by which key of its own.

A key is sealed before it is kept and never shown again. It goes to the address that the installation has for the provider at
that moment and to no other, so an address cannot be set here, and a key is void when the installation's address changes.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.orm import Session

from webapp.contracts.errors import BadInput, Conflict, NotFound
from webapp.contracts.providers import Variable
from webapp.extensions import now, reading, table_of, writing
from webapp.models import OrganizationProvider, PersonRole
from webapp.registry import current_registry
from webapp.routing import own_keys, resilience, route, vendors
from webapp.services import provider_values
from webapp.services.organizations import CHANGED, Actor, acting, audit
from webapp.services.provider_changes import keep_writers_out
from webapp.services.provider_views import providers_of, variables_of
from webapp.vault import Vault, current_vault

_table = table_of(OrganizationProvider)


@dataclass(frozen=True, slots=True)
class KeyView:
    """A secret that may be set. `hint` is the end of the one that is, '' for none."""

    variable: Variable
    hint: str


@dataclass(frozen=True, slots=True)
class OrganizationProviderView:
    """A provider as an organization has it. `missing` says what keeps it from being used here, '' if nothing does; `house_off`
    that the installation has switched it off for everybody. `seen` names this state for a change of it."""

    name: str
    label: str
    demo: bool
    enabled: bool
    house_off: bool
    missing: str
    default_model: str
    usual_model: str
    """The model that is used where the organization names none."""
    keys: tuple[KeyView, ...]
    own_key: bool
    seen: str
    updated_at: datetime | None


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be different. None, and what is not named, stays as it is; '' removes."""

    enabled: bool | None = None
    default_model: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)


def overview(actor: Actor, organization_id: uuid.UUID) -> list[OrganizationProviderView]:
    """All providers as the organization has them, for its administrators; those that can be used first."""
    vendors.current()
    with reading() as connection:
        _check(connection, actor, organization_id)
        stored = {row.provider: row for row in connection.execute(_of(organization_id))}
    registry = current_registry()
    names = {**registry.providers, **registry.image_providers}
    views = [_view(name, organization_id, stored.get(name)) for name in names]
    return sorted(views, key=lambda view: (bool(view.missing), view.demo, view.label.lower(), view.name))


def show(actor: Actor, organization_id: uuid.UUID, name: str) -> OrganizationProviderView:
    """One of them. `NotFound`."""
    vendors.current()
    with reading() as connection:
        _check(connection, actor, organization_id)
        providers_of(name)
        row = connection.execute(_of(organization_id).where(_table.c.provider == name)).first()
    return _view(name, organization_id, row)


def change(actor: Actor, organization_id: uuid.UUID, name: str, seen: str, change: Change) -> OrganizationProviderView:
    """Set what `change` names, for administrators of the organization; the provider as it is then. `seen` is the view's.

    `BadInput` names the field, `Conflict` says that somebody else was quicker; nothing is kept then.
    """
    vendors.current()
    with reading() as connection:
        # Who may not do this learns nothing of what is wrong with it.
        _check(connection, actor, organization_id)
    secrets = {variable.name: variable for variable in variables_of(providers_of(name)) if variable.secret}
    keys = {variable: _checked_key(secrets, variable, text) for variable, text in change.keys.items()}
    model = change.default_model
    if model:
        model = provider_values.model("default_model", model)
    place = own_keys.place(name, vendors.known().environment)
    sealed: dict[str, dict[str, str] | None] = {
        variable: {"sealed": current_vault().seal(text), "hint": Vault.hint(text), "place": place} if text else None
        for variable, text in keys.items()
    }
    with writing() as connection:
        # A rotation of keys must not be overtaken by one that was sealed before it.
        keep_writers_out(connection, OrganizationProvider)
        _check(connection, actor, organization_id)
        row = connection.execute(_of(organization_id).where(_table.c.provider == name)).first()
        if _seen(row) != seen:
            raise Conflict(CHANGED)
        told = _store(connection, organization_id, name, row, change.enabled, model, sealed)
        if told:
            with Session(bind=connection) as session:
                audit(session, actor, "organization.provider", f"provider:{name}", organization_id, told)
                session.flush()
            vendors.changed(connection)
    if told:
        vendors.look_again()
        # Whatever was wrong with the account may be mended.
        resilience.reset(own_keys.gate(name, organization_id))
    return show(actor, organization_id, name)


def _check(connection: Connection, actor: Actor, organization_id: uuid.UUID) -> None:
    with Session(bind=connection) as session:
        acting(session, actor, organization_id, PersonRole.ADMIN)


def _of(organization_id: uuid.UUID) -> Any:
    return select(_table).where(_table.c.organization_id == organization_id)


def _checked_key(secrets: Mapping[str, Variable], name: str, text: str) -> str:
    if name not in secrets:
        there = ", ".join(secrets) or "none"
        raise BadInput(str(name)[:60], f"This is no key that an organization sets for this provider; there are: {there}.")
    return provider_values.checked(secrets[name], text) if text.strip() else ""


def _store(
    connection: Connection,
    organization_id: uuid.UUID,
    name: str,
    row: Any,
    enabled: bool | None,
    model: str | None,
    sealed: Mapping[str, dict[str, str] | None],
) -> dict[str, Any]:
    """Write what differs; what the audit trail will say of it, nothing where nothing does."""
    told: dict[str, Any] = {}
    values: dict[str, Any] = {
        "enabled": True if row is None else row.enabled,
        "default_model": None if row is None else row.default_model,
        "values": dict(row.values) if row is not None and isinstance(row.values, dict) else {},
    }
    if enabled is not None and enabled != values["enabled"]:
        values["enabled"] = told["enabled"] = enabled
    if model is not None and (model or None) != values["default_model"]:
        values["default_model"], told["default_model"] = model or None, model
    for variable, value in sealed.items():
        if value is not None:
            values["values"][variable] = value
            told.setdefault("keys", {})[variable] = "set"
        elif values["values"].pop(variable, None) is not None:
            told.setdefault("keys", {})[variable] = "removed"
    if told and row is None:
        key = {"organization_id": organization_id, "provider": name, "updated_at": now()}
        connection.execute(insert(_table), values | key)
    elif told:
        here = (_table.c.organization_id == organization_id) & (_table.c.provider == name)
        connection.execute(update(_table).where(here).values(values | {"updated_at": now()}))
    return told


def _view(name: str, organization_id: uuid.UUID, row: Any) -> OrganizationProviderView:
    house, shelf = vendors.known(), own_keys.shelf(organization_id)
    found = current_registry().any_provider(name)
    if not found:
        raise NotFound("There is no such provider.")
    kept = row.values if row is not None and isinstance(row.values, dict) else {}
    mine = [shelf.text.get(name), shelf.images.get(name)]
    first = next((provider for provider in mine if provider is not None), found[0])
    lacks = shelf.troubles.get(name) or route.missing(first)
    return OrganizationProviderView(
        name=name,
        label=first.label,
        demo=first.demo,
        enabled=True if row is None else row.enabled,
        house_off=not house.vendor(name).enabled,
        missing=vendors.redacted(name, lacks) if lacks else "",
        default_model="" if row is None else row.default_model or "",
        usual_model=vendors.default_model(found[0]),
        keys=tuple(KeyView(v, _hint(kept.get(v.name))) for v in variables_of(found) if v.secret),
        own_key=name in shelf.keys or name in shelf.troubles,
        seen=_seen(row),
        updated_at=None if row is None else row.updated_at,
    )


def _hint(value: object) -> str:
    hint = value.get("hint") if isinstance(value, dict) else None
    return hint if isinstance(hint, str) else ""


def _seen(row: Any) -> str:
    return "" if row is None else row.updated_at.isoformat()
