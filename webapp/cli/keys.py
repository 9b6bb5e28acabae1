"""`switchhook keys`: the keys that seal what is secret in the database, and how they are replaced."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from webapp.cli import context
from webapp.cli.typed import as_typed

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from webapp.vault import Key, KeyFile, Vault


@click.group()
def keys() -> None:
    """Look after the keys that seal vendors' keys in the database."""


@keys.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def make(as_json: bool) -> None:
    """Print a new key for SWITCHHOOK_ENCRYPTION_KEYS. Nothing else is done with it."""
    from webapp.vault import new_key

    made = new_key()
    if as_json:
        context.print_json({"key": made.text, "fingerprint": made.fingerprint})
    else:
        click.echo(made.text)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List the keys by their fingerprints, newest first, with how many stored secrets each one seals."""
    with context.application():
        from webapp.extensions import reading
        from webapp.vault import current_vault

        vault = current_vault()
        with reading() as connection:
            seen = survey(connection, vault)
        known, source = vault.keys, vault.source
    if as_json:
        rows = [{"fingerprint": k.fingerprint, "newest": k == known[0], "secrets": seen.by_key[k]} for k in known]
        context.print_json({"source": source, "keys": rows, "secrets": seen.total, "unreadable": seen.unreadable})
        return
    if known:
        context.print_table(
            ("key", "does", "secrets"),
            [(k.fingerprint, "seals and opens" if k == known[0] else "opens", seen.by_key[k]) for k in known],
        )
        click.echo(f"From {source}.")
    else:
        click.echo(f"There is no key yet: one is made in {source} when the first secret is stored.")
    if seen.unreadable:
        click.echo(_lost(seen.unreadable), err=True)


@keys.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rotate(yes: bool, as_json: bool) -> None:
    """Make a new key and seal every stored secret with it.

    The older keys stay until `keys prune` removes them. What was interrupted is finished by running this again. With keys from
    SWITCHHOOK_ENCRYPTION_KEYS none is made: put a new one in front there, start Switchhook anew, and then run this.
    """
    with context.application():
        from webapp.vault import current_vault

        vault = current_vault()
        if not yes:
            first = f"A new key comes into {vault.source}. " if vault.file else f"The first key of {vault.source} is used. "
            click.confirm(f"{first}Every stored secret is sealed with it. Go on?", abort=True, err=True)
        done = _rotate(vault, lambda line: click.echo(line, err=True))
        newest, source, own_file = vault.keys[0].fingerprint, vault.source, vault.file is not None
    if as_json:
        context.print_json(
            {
                "source": source,
                "newest": newest,
                "added": done.added,
                "sealed_anew": done.sealed_anew,
                "unchanged": done.unchanged,
                "unreadable": done.unreadable,
            }
        )
    elif done.added:
        click.echo(f"The new key {newest} is in {source}. {_secrets(done.sealed_anew)} sealed anew with it.")
        click.echo(as_typed("Back the file up, apart from the database. `switchhook keys prune` removes the older keys."))
    elif own_file:
        click.echo(f"An interrupted rotation to the key {newest} was finished: {_secrets(done.sealed_anew)} sealed anew.")
    else:
        click.echo(f"{_secrets(done.sealed_anew)} sealed anew with the key {newest}; {done.unchanged} already were.")
        if not done.sealed_anew:
            how = "put what `switchhook keys make` prints in front of the others, start Switchhook anew, and run this again"
            click.echo(as_typed(f"For a new key in {source}: {how}."))
    if done.unreadable:
        raise context.Failed(_lost(done.unreadable))


@keys.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def prune(yes: bool, as_json: bool) -> None:
    """Remove every key but the newest, once no stored secret needs them.

    An older backup of the database cannot be read without the keys of its time: keep a copy of them as long as of it. Keys in
    SWITCHHOOK_ENCRYPTION_KEYS are only named: take them out there.
    """
    with context.application():
        from webapp.extensions import reading
        from webapp.vault import current_vault

        vault = current_vault()
        with reading() as connection:
            older = _not_needed(survey(connection, vault), vault)
        shown = [key.fingerprint for key in older]
        if older and vault.file is not None:
            if not yes:
                click.confirm(
                    f"{_keys(shown)} removed from {vault.source} for good: older backups of the database cannot be read "
                    "without. Go on?",
                    abort=True,
                    err=True,
                )
            shown = [key.fingerprint for key in _prune(vault, vault.file)]
        source, removed = vault.source, vault.file is not None
    if as_json:
        context.print_json({"source": source, "removed": shown if removed else [], "not_needed": [] if removed else shown})
    elif not shown:
        click.echo("There is nothing to remove: no key but the newest.")
    elif removed:
        click.echo(f"{_keys(shown)} removed from {source}.")
    else:
        click.echo(f"{_keys(shown)} needed no longer: take out of {source} what is not the first, and start Switchhook anew.")


# -- what is stored ------------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class Survey:
    """Which key seals how many stored secrets, and the names of those that none opens."""

    by_key: Counter[Key] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """How many secrets are stored."""
        return self.by_key.total() + len(self.unreadable)


@dataclass(slots=True)
class Rotation:
    """What a rotation did. `added` is the new key's fingerprint, '' if none was made."""

    added: str = ""
    sealed_anew: int = 0
    unchanged: int = 0
    unreadable: list[str] = field(default_factory=list)


def survey(connection: Connection, vault: Vault) -> Survey:
    """Look at every stored secret."""
    found = Survey()
    for provider, values in _rows(connection):
        for variable, token in _tokens(values):
            key = vault.sealed_by(token)
            if key is None:
                found.unreadable.append(f"{provider} {variable}")
            else:
                found.by_key[key] += 1
    return found


def _rows(connection: Connection) -> list[tuple[str, Any]]:
    """Every row that may hold secrets: (provider, its values); of an organization's, its id stands behind the provider. A
    webhook stands there as `webhook` and its id."""
    return [(name, values) for name, values, _ in _rows_with_places(connection)]


def _rows_with_places(connection: Connection) -> list[tuple[str, Any, tuple[Any, Any]]]:
    """The same with where each row is: (its table, the condition that finds it there)."""
    from sqlalchemy import select

    from webapp.extensions import table_of
    from webapp.models import OrganizationProvider, ProviderSetting, WebhookEndpoint

    house, own, hooks = table_of(ProviderSetting), table_of(OrganizationProvider), table_of(WebhookEndpoint)
    found: list[tuple[str, Any, tuple[Any, Any]]] = []
    for provider, values in connection.execute(select(house.c.provider, house.c["values"]).order_by(house.c.provider)):
        found.append((provider, values, (house, house.c.provider == provider)))
    columns = select(own.c.provider, own.c["values"], own.c.organization_id).order_by(own.c.provider, own.c.organization_id)
    for provider, values, organization_id in connection.execute(columns):
        here = (own.c.provider == provider) & (own.c.organization_id == organization_id)
        found.append((f"{provider}@{organization_id}", values, (own, here)))
    for row in connection.execute(select(hooks.c.id, hooks.c.secret, hooks.c.secret_before).order_by(hooks.c.id)):
        sealed = {"secret": row.secret, "secret_before": row.secret_before}
        values = {name: {"sealed": token} for name, token in sealed.items() if token is not None}
        found.append((f"webhook {row.id}", values, (hooks, hooks.c.id == row.id)))
    return found


def _as_stored(table: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The columns of a row that hold its values: one for all, but for webhooks one each."""
    if "values" in table.c:
        return {"values": values}
    return {name: value["sealed"] for name, value in values.items()}


def _tokens(values: Any) -> Iterator[tuple[str, str]]:
    """The sealed ones of a provider's values: (variable, token)."""
    if isinstance(values, dict):
        for variable, value in values.items():
            if isinstance(value, dict) and isinstance(value.get("sealed"), str):
                yield variable, value["sealed"]


def _rotate(vault: Vault, tell: Callable[[str], None]) -> Rotation:
    """Make a new key, unless one is there that does not seal everything yet, and seal everything with the newest."""
    from webapp.extensions import reading
    from webapp.vault import new_key

    done = Rotation()
    if vault.file is None:
        _seal_anew(vault, done, tell)
        return done
    with vault.file.locked():
        known = vault.keys
        with reading() as connection:
            seen = survey(connection, vault)
        if not known:
            done.added = vault.file.make()[0].fingerprint
        elif not any(seen.by_key[key] for key in known[1:]):
            # On the disk before anything is sealed with it, so that a crash at any moment leaves every secret with its key.
            made = new_key()
            vault.file.replace([made, *known])
            done.added = made.fingerprint
        _seal_anew(vault, done, tell)
    return done


def _seal_anew(vault: Vault, done: Rotation, tell: Callable[[str], None]) -> None:
    """Seal every secret with the newest key, in one transaction with its entry in the audit trail."""
    from sqlalchemy import update

    from webapp.contracts.errors import SetupError
    from webapp.extensions import writing

    with writing() as connection:
        _keep_writers_out(connection)
        rows = _rows_with_places(connection)
        for number, (provider, values, (table, here)) in enumerate(rows, 1):
            before = done.sealed_anew
            fresh = dict(values) if isinstance(values, dict) else values
            for variable, token in _tokens(values):
                try:
                    sealed = vault.rotate(token)
                except SetupError:
                    done.unreadable.append(f"{provider} {variable}")
                    continue
                if sealed == token:
                    done.unchanged += 1
                else:
                    done.sealed_anew += 1
                    fresh[variable] = {**fresh[variable], "sealed": sealed}
            if done.sealed_anew > before:
                connection.execute(update(table).where(here).values(_as_stored(table, fresh)))
            tell(f"{number}/{len(rows)} {provider}: {_secrets(done.sealed_anew - before)} sealed anew.")
        if done.added or done.sealed_anew:
            detail = {"newest": vault.keys[0].fingerprint, "added": bool(done.added), "sealed_anew": done.sealed_anew}
            _audit(connection, "keys.rotate", detail)


def _prune(vault: Vault, file: KeyFile) -> list[Key]:
    """Take every key but the newest out of the file. `Failed` if one is needed after all; returns those that are gone."""
    from webapp.extensions import writing
    from webapp.vault import SETTLE_S

    with file.locked():
        wait_s = SETTLE_S - file.age_s()
        if wait_s > 0:
            click.echo(f"Waiting {wait_s:.0f} s: the newest key is so new that a process may not know it yet.", err=True)
            time.sleep(wait_s)
        with writing() as connection:
            _keep_writers_out(connection)
            older = _not_needed(survey(connection, vault), vault)
            if older:
                _audit(connection, "keys.prune", {"removed": [key.fingerprint for key in older]})
                file.replace(vault.keys[:1])
    return older


def _not_needed(seen: Survey, vault: Vault) -> list[Key]:
    """The keys but the newest. `Failed` if a stored secret is sealed with one of them."""
    older = list(vault.keys[1:])
    needed = sum(seen.by_key[key] for key in older)
    if needed:
        raise context.Failed(f"{_secrets(needed)} still sealed with an older key: run `switchhook keys rotate` first.")
    return older


def _keep_writers_out(connection: Connection) -> None:
    """Wait for those who are changing secrets, and let no others begin before the end of this transaction. SQLite does so by
    itself."""
    from webapp.models import OrganizationProvider, ProviderSetting, WebhookEndpoint

    if connection.dialect.name == "postgresql":
        names = ", ".join(model.__tablename__ for model in (ProviderSetting, OrganizationProvider, WebhookEndpoint))
        connection.exec_driver_sql(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE")


def _audit(connection: Connection, action: str, detail: dict[str, Any]) -> None:
    from sqlalchemy import insert

    from webapp.models import AuditEntry

    entry = {"actor": context.actor(), "action": action, "subject": "encryption keys", "detail": detail}
    connection.execute(insert(AuditEntry), entry)


# -- in words ------------------------------------------------------------------------------------------------------------
def _secrets(count: int) -> str:
    return "1 stored secret is" if count == 1 else f"{count} stored secrets are"


def _keys(fingerprints: list[str]) -> str:
    named = ", ".join(fingerprints)
    return f"The key {named} is" if len(fingerprints) == 1 else f"The keys {named} are"


def _lost(unreadable: list[str]) -> str:
    return (
        f"{_secrets(len(unreadable))} opened by none of the keys ({', '.join(unreadable)}): restore the keys from a backup, or "
        "enter these again."
    )
