"""`switchhook plugin`: what is plugged in."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from webapp.cli import context

if TYPE_CHECKING:
    from webapp.registry import PluginRecord


@click.group()
def plugin() -> None:
    """See which plugins there are, and why one is left out."""


@plugin.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List all plugins: where they come from, what they give, and those that are left out with the reason."""
    with context.application(current_schema=False, quiet_plugins=True, installed=False):
        from webapp.registry import current_registry

        records = current_registry().records
    if as_json:
        context.print_json([asdict(record) | {"state": _state(record)} for record in records])
        return
    failed = [record for record in records if record.error]
    for record in failed:
        where = " ".join(filter(None, (record.source, record.version)))
        click.secho(f"✗ {record.name} ({where}) is left out: {' '.join(record.error.split())}", fg="red")
    context.print_table(
        ("plugin", "source", "version", "state", "hooks", "gives"),
        [
            (
                record.name,
                record.source,
                record.version,
                _state(record),
                ", ".join(record.hooks),
                _gives(record),
            )
            for record in records
        ],
    )


def _gives(record: PluginRecord) -> str:
    """What it registered, by kind: 'providers: openai, groq'."""
    names: dict[str, list[str]] = {}
    for entry in record.gives:
        kind, _, name = entry.partition(": ")
        names.setdefault(kind, []).append(name)
    return "; ".join(f"{kind}: {', '.join(given)}" for kind, given in names.items())


def _state(record: PluginRecord) -> str:
    return "left out" if record.error else "loaded"
