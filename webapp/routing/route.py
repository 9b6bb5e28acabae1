"""Which provider and model serve a request."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from webapp.contracts.calls import TextProvider
from webapp.contracts.errors import Unavailable
from webapp.extensions import current_settings
from webapp.registry import Registry, current_registry
from webapp.routing import http

log = logging.getLogger(__name__)

PROBE_TTL_S = 30.0
PROBE_TIMEOUT_S = 0.5


@dataclass(frozen=True, slots=True)
class Target:
    """A provider and one of its models. `why` says in a few words how it was chosen."""

    provider: TextProvider
    model: str
    why: str


@dataclass(frozen=True, slots=True)
class _Probe:
    at: float
    ok: bool


_probes: dict[str, _Probe] = {}
_probing = threading.Lock()


def choose(registry: Registry | None = None) -> Target:
    """The target for chat: what the operator named, else the ready provider with the lowest preference, the demo last.

    Raises `Unavailable` when the named one cannot be used: another is never taken silently, it might cost more.
    """
    registry = registry or current_registry()
    named = current_settings().chat_model
    if named:
        return _named(registry, named)
    ready = [p for p in registry.providers.values() if not missing(p)]
    for provider in sorted(ready, key=lambda p: (p.preference, p.name)):
        if provider.probe_needed and not answers(provider):
            continue
        if provider.default_model:
            return Target(provider, provider.default_model, "the first provider that is ready")
    raise Unavailable("No provider is ready.", detail="No provider plugin is ready: run `switchhook doctor`.")


def missing(provider: TextProvider) -> str:
    """What keeps a provider from being used, '' if it is ready; a plugin that fails in saying it is not."""
    try:
        return provider.missing()
    except Exception as exc:
        log.error("the plugin of %s failed: %s", provider.name, type(exc).__name__)
        return f"its plugin failed ({type(exc).__name__})"


def answers(provider: TextProvider) -> bool:
    """Whether a provider that needs no key is there at all; asked at most every 30 seconds."""
    known = _probes.get(provider.name)
    if known and time.monotonic() - known.at < PROBE_TTL_S:
        return known.ok
    with _probing:
        known = _probes.get(provider.name)
        if known and time.monotonic() - known.at < PROBE_TTL_S:
            return known.ok
        try:
            with http.call_limits(timeout_s=PROBE_TIMEOUT_S, silence_s=PROBE_TIMEOUT_S):
                ok = bool(provider.check(http.client()).ok)
        except Exception as exc:
            log.error("the plugin of %s failed in its check: %s", provider.name, type(exc).__name__)
            ok = False
        if known is None or known.ok != ok:
            log.debug("%s %s", provider.label, "answers and will be used" if ok else "does not answer")
        _probes[provider.name] = _Probe(time.monotonic(), ok)
    return ok


def _named(registry: Registry, named: str) -> Target:
    name, _, model = named.partition("/")
    provider = registry.providers.get(name)
    if provider is None:
        raise Unavailable(
            "The chosen model cannot be used.",
            detail=f"SWITCHHOOK_CHAT_MODEL names the provider {name!r}; there are {', '.join(sorted(registry.providers))}.",
        )
    if lacks := missing(provider):
        raise Unavailable("The chosen model cannot be used.", detail=f"SWITCHHOOK_CHAT_MODEL is {named}, but {lacks}.")
    return Target(provider, model, "named in SWITCHHOOK_CHAT_MODEL")
