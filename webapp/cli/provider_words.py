"""Providers in words and in JSON, for `switchhook provider`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import click

from webapp.cli import context

if TYPE_CHECKING:
    from webapp.routing.prices import Override
    from webapp.services.providers import Change, ProviderView

PRICES = ("input", "output", "cached", "cache_write", "picture", "credit")
"""The amounts of an own price, in the order of tables."""
UNITS = {
    "input": "per million input tokens",
    "output": "per million output tokens",
    "cached": "per million cached tokens",
    "cache_write": "per million tokens written to the cache",
    "picture": "per picture",
    "credit": "per credit of the vendor",
}
LIMITS = {
    "requests_per_minute": "requests a minute",
    "tokens_per_minute": "tokens a minute",
    "concurrent": "requests at the same time",
}


def standing(view: ProviderView) -> str:
    """A provider's state in a few words."""
    if not view.enabled:
        return "switched off"
    if not view.ready:
        return f"not ready ({view.missing})"
    if view.state.paused_until is not None:
        return f"left alone until {context.when(view.state.paused_until)}"
    if any(circuit.state != "closed" for circuit in view.state.circuits):
        return "failing"
    if view.state.rests:
        rest = min(view.state.rests, key=lambda rest: rest.until)
        return f"{rest.target} is left alone until {context.when(rest.until)}"
    return "ready, but does not answer" if view.seen_ok is False else "ready"


def warn(views: Iterable[ProviderView]) -> None:
    """Say on standard error what of the providers does not work, and what an operator must know of them."""
    for view in views:
        for line in filter(None, (view.trouble, view.warning if view.enabled and view.ready else "")):
            click.echo(f"{view.name}: {line}", err=True)


def saved(change: Change, view: ProviderView) -> str:
    """What a change has saved, in words. Of values only the names: they may be secret, or hold a password."""
    said = [] if change.enabled is None else ["switched on" if change.enabled else "switched off"]
    if change.default_model is not None:
        said.append(f"default model {change.default_model}" if change.default_model else "no default model of your own")
    said += [f"{name} {'is set' if value else 'is removed'}" for name, value in change.values.items()]
    for name, limit in change.limits.items():
        said.append(f"{LIMITS[name]} {'as everywhere' if limit is None else f'{limit:,}' if limit else 'without a limit'}")
    for model, own in change.prices.items():
        whose = "all models" if model == "*" else model
        said.append(f"the price of {whose} is {_dollars(own)}" if own else f"no price of your own for {whose}")
    if change.peak_hours is not None:
        hours = view.peak_hours or "none"
        said.append(
            f"peak hours (UTC) {hours}" if view.peak_hours_set is not None else f"peak hours as the vendor has them ({hours})"
        )
    return "; ".join(said)


def _dollars(own: Override) -> str:
    given = own.as_json()
    return ", ".join(f"${given[f'{part}_usd']} {UNITS[part]}" for part in PRICES if given.get(f"{part}_usd") not in (None, ""))


def lines(view: ProviderView) -> list[tuple[str, object]]:
    """All that is to be said of a provider: what, and how it is."""
    pace, live = view.pace, view.live
    limits = {
        "requests/min": pace.requests_per_minute,
        "tokens/min": pace.tokens_per_minute,
        "at once": pace.concurrent,
    }
    now = f"{live.calls} calls, {live.failures} failed"
    if live.p50_ms is not None:
        now += f"; half within {live.p50_ms:,} ms, 95 % within {live.p95_ms:,} ms"
    return [
        ("vendor", f"{view.label} ({', '.join(view.kinds)})"),
        ("state", standing(view)),
        ("lacks", view.missing if view.ready else ""),
        ("default model", ", ".join(filter(None, (view.default_model, view.image_model)))),
        ("address", view.base_url),
        ("limits", ", ".join(f"{value:,} {what}" for what, value in limits.items() if value) or "none"),
        ("peak hours (UTC)", view.peak_hours or "none"),
        ("last hour", now),
        ("last error", f"{context.when(live.last_error_at)}: {live.last_error}" if live.last_error else ""),
        ("last look", view.seen),
        ("balance", view.balance),
        ("set", context.when(view.updated_at)),
    ]


def amounts(override: Override) -> list[str]:
    """The amounts of an own price in the order of `PRICES`, '' where one is not set."""
    found = override.as_json()
    return [found.get(f"{part}_usd", "") for part in PRICES]


def as_json(view: ProviderView) -> dict[str, Any]:
    """A provider for programs: as the view, with values that JSON knows."""
    found: dict[str, Any] = {field.name: getattr(view, field.name) for field in fields(view)}
    return found | {
        "variables": [
            {
                "name": each.variable.name,
                "meaning": each.variable.meaning,
                "kind": each.variable.kind,
                "secret": each.variable.secret,
                "choices": list(each.variable.choices),
                "source": each.source,
                "shown": each.shown,
            }
            for each in view.variables
        ],
        "limits": dict(view.limits),
        "pace": asdict(view.pace),
        "prices": {model: override.as_json() for model, override in view.prices.items()},
        "state": asdict(view.state),
        "live": asdict(view.live) | {"error_rate": round(view.live.error_rate, 4)},
    }
