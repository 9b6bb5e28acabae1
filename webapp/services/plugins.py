"""What is plugged in, for administrators: where each plugin comes from, what it gives, and why one is left out."""

from __future__ import annotations

from dataclasses import dataclass

from webapp.registry import PluginRecord, current_registry


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin, loaded or not. `source` is built-in, entry point, or folder; `gives` has what it registered by kind; `fault`
    says why it is left out, or what of it does not work, '' where all does."""

    name: str
    source: str
    version: str
    loaded: bool
    hooks: tuple[str, ...]
    gives: dict[str, tuple[str, ...]]
    fault: str


def plugins() -> list[Plugin]:
    """All that were found when the process started, in the order in which they were loaded."""
    return [_plugin(record) for record in current_registry().records]


def _plugin(record: PluginRecord) -> Plugin:
    gives: dict[str, list[str]] = {}
    for entry in record.gives:
        kind, _, name = entry.partition(": ")
        gives.setdefault(kind, []).append(name)
    return Plugin(
        record.name,
        record.source,
        record.version,
        not record.error,
        tuple(record.hooks),
        {kind: tuple(names) for kind, names in gives.items()},
        " ".join(record.error.split()),
    )
