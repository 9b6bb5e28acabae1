"""What administrators set for providers: checked, kept in one transaction with its entry in the audit trail, and told to all
processes, which notice within seconds. Secrets are sealed before they are kept; what was set is never handed out again."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, insert, select, update

from webapp.contracts.errors import BadInput
from webapp.contracts.providers import Variable
from webapp.extensions import current_settings, now, table_of, writing
from webapp.models import AuditEntry, Person, ProviderSetting, Revision
from webapp.registry import current_registry
from webapp.routing import resilience, vendor_keys, vendors
from webapp.routing.prices import Override
from webapp.services import health, provider_values
from webapp.services.provider_views import ProviderView, providers_of, show, variables_of
from webapp.vault import Vault, current_vault

__all__ = ["Change", "audit", "change", "keep_writers_out", "reset"]

_OBJECTS = ("values", "limits", "prices")


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be different. None, and what is not named, stays as it is."""

    enabled: bool | None = None
    default_model: str | None = None
    """'' goes back to the plugin's own."""
    values: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    """Variable -> what it is to hold; None or '' removes what was set here."""
    limits: Mapping[str, int | None] = field(default_factory=dict)
    """0 for no limit; None goes back to the installation's own."""
    prices: Mapping[str, Override | None] = field(default_factory=dict)
    """Model, or `*` for all -> the operator's own price; None removes it."""
    peak_hours: str | None = None
    """Hours in UTC, '' for none, `default` for what the plugin says."""


@dataclass(slots=True)
class _Draft:
    """A provider's row as it will be, and what the audit trail will say of the difference."""

    row: dict[str, Any]
    told: dict[str, Any] = field(default_factory=dict)

    def put(self, name: str, value: Any) -> None:
        if self.row[name] != value:
            self.row[name] = value
            self.told[name] = value

    def put_into(self, column: str, name: str, value: Any, told: Any = None) -> None:
        """Set or, with None, remove one entry of a column that holds several."""
        kept: dict[str, Any] = self.row[column]
        if kept.get(name) == value:
            return
        self.row[column] = {k: v for k, v in kept.items() if k != name} | ({} if value is None else {name: value})
        self.told.setdefault(column, {})[name] = "removed" if value is None else value if told is None else told


def change(name: str, change: Change, actor: str) -> ProviderView:
    """Set what `change` names; the provider as it is then. `NotFound`; `BadInput` names what is wrong, and nothing is kept.

    Its circuits are closed and its pause ends: whatever was wrong may be mended now. What of the new settings does not work
    is said in the view's `trouble`.
    """
    variables = {variable.name: variable for variable in variables_of(providers_of(name))}
    ready = _checked(change, variables)
    with writing() as connection:
        keep_writers_out(connection, ProviderSetting)
        draft, there = _draft(connection, name)
        _apply(draft, ready, variables)
        if "values" in draft.told:
            _keys_stay_where_they_are(connection, name, draft.row["values"])
        if draft.told:
            _store(connection, name, draft, there=there)
            audit(connection, actor, "provider.change", f"provider:{name}", draft.told)
            vendors.changed(connection)
    if draft.told:
        vendors.look_again()
        resilience.reset(name)
        health.forget(name)
    return show(name)


def reset(name: str, actor: str) -> None:
    """Close the provider's circuits and end its pause. `NotFound` if there is no such provider."""
    providers_of(name)
    with writing() as connection:
        audit(connection, actor, "provider.reset", f"provider:{name}", {})
    resilience.reset(name)


def audit(connection: Connection, actor: str, action: str, subject: str, detail: dict[str, Any]) -> None:
    """An entry in the audit trail, in the transaction of what it tells of. `person:…` as the actor is that person."""
    actor_id = person_in(actor)
    if actor_id is not None and connection.execute(select(Person.id).where(Person.id == actor_id)).first() is None:
        actor_id = None
    entry = {"actor": actor[:255], "actor_id": actor_id, "action": action, "subject": subject[:255], "detail": detail}
    connection.execute(insert(AuditEntry), entry)


def person_in(actor: str) -> uuid.UUID | None:
    """The person that an actor is (`person:` and their id); None for the command line and the product itself."""
    kind, _, text = actor.partition(":")
    try:
        return uuid.UUID(text) if kind == "person" else None
    except ValueError:
        return None


def keep_writers_out(connection: Connection, *models: Any) -> None:
    """Wait for those who change these tables, a rotation of keys among them, and let no others begin before the end of this
    transaction: what is read is then what is changed. SQLite does so by itself."""
    if connection.dialect.name == "postgresql":
        # The number of the revision first, everywhere: in one order nobody waits for each other.
        names = ", ".join(table_of(model).name for model in (Revision, *models))
        connection.exec_driver_sql(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE")


def _checked(change: Change, variables: Mapping[str, Variable]) -> Change:
    """The change in the form in which it is kept. Addresses are looked up here, before the transaction."""
    values: dict[str, str | None] = {}
    for name, value in change.values.items():
        if name not in variables:
            there = ", ".join(variables) or "none"
            raise BadInput(str(name)[:60], f"This provider has no variable {str(name)[:60]!r}; there are: {there}.")
        given = (value or "").strip()
        values[name] = provider_values.checked(variables[name], given) if given else None
    for model, override in change.prices.items():
        if model != "*":
            provider_values.model("price", model)
        if override is not None:
            provider_values.price(model, override)
    for name, limit in change.limits.items():
        provider_values.limit(name, limit)
    if change.default_model:
        provider_values.model("default_model", change.default_model)
    if change.peak_hours is not None:
        provider_values.hours(change.peak_hours)
    return Change(change.enabled, change.default_model, values, change.limits, change.prices, change.peak_hours)


def _keys_stay_where_they_are(connection: Connection, name: str, values: Mapping[str, Any]) -> None:
    """A key is never shown again, so it must not be had by sending it to an address of one's own either: who names another
    address for a provider types its key again. `values` are the provider's as they will be; providers share variables."""
    found = connection.execute(select(ProviderSetting.provider, ProviderSetting.values)).all()
    rows: dict[str, object] = dict(found)
    before, after = (vendor_keys.set_here(each.values()) for each in (rows, rows | {name: values}))
    given, declared = current_settings().for_plugins(), vendor_keys.declared(current_registry())
    for variables in declared.values():
        addresses = [v.name for v in variables if _newly_moved(v, before, after, given)]
        secrets = [v.name for v in variables if v.secret]
        kept = [s for s in secrets if any(value in before.get(s, ()) for value in after.get(s, ()))]
        kept += [s for s in secrets if s not in after and given.get(s, "").strip()]
        if addresses and kept:
            again = f"Set {' and '.join(kept)} again together with the new address"
            raise BadInput(addresses[0], f"{again}: the key would be sent there.")
    was_out, is_out = (vendor_keys.left_out(here, given, declared.values()) for here in (before, after))
    if bare := sorted(is_out - was_out):
        keys = " and ".join(bare)
        raise BadInput(
            bare[0],
            f"{keys} cannot be removed here while an address is set here: the key in the environment is not used with it. "
            "Remove the address too, or set another key.",
        )


def _newly_moved(variable: Variable, before: vendor_keys.SetHere, after: vendor_keys.SetHere, given: Mapping[str, str]) -> bool:
    there = vendor_keys.moved(variable, before, given)
    return any(value not in there for value in vendor_keys.moved(variable, after, given))


def _draft(connection: Connection, name: str) -> tuple[_Draft, bool]:
    table = table_of(ProviderSetting)
    row = connection.execute(select(table).where(table.c.provider == name)).mappings().first()
    empty: dict[str, Any] = {
        "enabled": True,
        "default_model": None,
        "values": {},
        "limits": {},
        "prices": {},
        "peak_hours": None,
    }
    if row is None:
        return _Draft(empty), False
    # Whatever somebody wrote there by hand, it does not stand in the way of setting it right.
    kept = {column: row[column] for column in empty}
    return _Draft(kept | {c: {} for c in _OBJECTS if not isinstance(kept[c], dict)}), True


def _apply(draft: _Draft, change: Change, variables: Mapping[str, Variable]) -> None:
    if change.enabled is not None:
        draft.put("enabled", bool(change.enabled))
    if change.default_model is not None:
        draft.put("default_model", change.default_model.strip() or None)
    if change.peak_hours is not None:
        draft.put("peak_hours", provider_values.hours(change.peak_hours))
    for name, value in change.values.items():
        if value is not None and variables[name].secret:
            sealed = {"sealed": current_vault().seal(value), "hint": Vault.hint(value)}
            draft.put_into("values", name, sealed, told="set")
        else:
            draft.put_into("values", name, None if value is None else {"plain": value}, told=value)
    for name, limit in change.limits.items():
        draft.put_into("limits", name, limit)
    for model, override in change.prices.items():
        kept = None if override is None else dict(provider_values.price(model, override))
        draft.put_into("prices", model.strip(), kept)
    if len(draft.row["prices"]) > provider_values.PRICES_MAX:
        raise BadInput("prices", f"A provider has at most {provider_values.PRICES_MAX} prices of the operator's own.")


def _store(connection: Connection, name: str, draft: _Draft, *, there: bool) -> None:
    table = table_of(ProviderSetting)
    written = draft.row | {"updated_at": now()}
    if there:
        connection.execute(update(table).where(table.c.provider == name).values(written))
    else:
        connection.execute(insert(table), written | {"provider": name})
