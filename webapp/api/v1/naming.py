"""Model names as callers write them, and what they mean here."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from webapp.api.v1.calls import BadCall
from webapp.contracts.errors import BadInput
from webapp.contracts.providers import Provider
from webapp.pipeline import parameters
from webapp.registry import current_registry
from webapp.routing import route, vendors

log = logging.getLogger(__name__)

AUTO = "auto"
"""The installation's rules choose; `auto:coding` says what the call is about, so that none has to find out."""

_NOBODYS = "a-model-that-is-none"


def parameters_of(model: str, *, images: bool = False) -> dict[str, Any]:
    """A model's name as the parameters of a request. `BadCall` (model_not_found) for one that cannot be served.

    `auto` and `auto:CATEGORY` leave the choice to the rules; `provider/model` and a provider's name alone name it. The bare
    name of a model means that of the provider whose default it is, or that knows it; the preferred one of several.
    """
    name = model.strip()
    registry = current_registry()
    found = _meant(name, registry.image_providers if images else registry.providers)
    try:
        if found is not None:
            parameters.check(found)
            return found
    except BadInput:
        pass
    raise BadCall(
        f"There is no model {name[:80]!r} here: `GET /v1/models` lists them; `auto` lets the operator's rules choose.",
        "model",
        "model_not_found",
        404,
    )


def _meant(name: str, shelf: Mapping[str, Provider]) -> dict[str, Any] | None:
    if name == AUTO:
        return {}
    if name.partition("/")[0] in shelf:  # no provider has a colon in its name
        return {"model": name}
    if name.startswith(f"{AUTO}:"):
        return {"category": name.removeprefix(f"{AUTO}:")}
    provider = _provider_of(name, shelf)
    return None if provider is None else {"model": f"{provider}/{name}"}


def _provider_of(name: str, shelf: Mapping[str, Provider]) -> str | None:
    ready = sorted((p for p in shelf.values() if not _missing(p)), key=lambda p: (p.demo, p.preference, p.name))
    for provider in ready:
        if vendors.default_model(provider, None) == name:
            return provider.name
    return next((provider.name for provider in ready if _knows(provider, name)), None)


def _knows(provider: Provider, model: str) -> bool:
    """Whether a provider knows more of a model than of any that there may be."""
    try:
        info, of_any = provider.model_info(model), provider.model_info(_NOBODYS)
    except Exception as exc:
        log.error("the plugin of %s failed: %s", provider.name, type(exc).__name__)
        return False
    known = (info.context_tokens, info.output_tokens, info.capabilities)
    return known != (of_any.context_tokens, of_any.output_tokens, of_any.capabilities)


def _missing(provider: Provider) -> bool:
    return bool(route.missing(provider)) or not vendors.known().vendor(provider.name).enabled
