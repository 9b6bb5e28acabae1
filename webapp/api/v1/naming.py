"""Model names as callers write them, and what they mean here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from webapp.api.v1.calls import BadCall
from webapp.contracts.providers import Provider
from webapp.registry import current_registry
from webapp.routing import vendors

AUTO = "auto"
"""The installation's rules choose; `auto:coding` says what the call is about, so that none has to find out."""


def parameters_of(model: str, *, images: bool = False) -> dict[str, Any]:
    """A model's name as the parameters of a request. `BadCall` (model_not_found) for one that cannot be served.

    `auto` and `auto:CATEGORY` leave the choice to the rules; `provider/model` and a provider's name alone name it. The bare
    name of a model means that of the provider whose default it is, or that knows it; the preferred one of several.
    """
    name = model.strip()
    if name == AUTO:
        return {}
    if name.startswith(f"{AUTO}:"):
        return {"category": name.removeprefix(f"{AUTO}:")}
    shelf = _shelf(images=images)
    if name.partition("/")[0] in shelf:
        return {"model": name}
    provider = _provider_of(name, shelf)
    if provider is None:
        raise BadCall(
            f"There is no model {name[:80]!r} here: `GET /v1/models` lists them; `auto` lets the operator's rules choose.",
            "model",
            "model_not_found",
            404,
        )
    return {"model": f"{provider}/{name}"}


def _shelf(*, images: bool) -> Mapping[str, Provider]:
    registry = current_registry()
    return registry.image_providers if images else registry.providers


def _provider_of(name: str, shelf: Mapping[str, Provider]) -> str | None:
    ready = sorted((p for p in shelf.values() if not _missing(p)), key=lambda p: (p.demo, p.preference, p.name))
    for provider in ready:
        if vendors.default_model(provider, None) == name:
            return provider.name
    for provider in ready:
        info = provider.model_info(name)
        if info.context_tokens is not None or info.capabilities is not None:
            return provider.name
    return None


def _missing(provider: Provider) -> bool:
    from webapp.routing import route

    return bool(route.missing(provider)) or not vendors.known().vendor(provider.name).enabled
