"""Which models may serve a request, in which order, and why the others may not.

The first routing rule that fits decides. Without one it is SWITCHHOOK_CHAT_MODEL (or SWITCHHOOK_IMAGE_MODEL), and without
that every provider that is ready, in the order of their preference, the demo only where there is nothing else. What was
named is never exchanged for something else silently: it might cost more, or send people's words elsewhere.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from webapp.contracts.errors import Unavailable
from webapp.contracts.money import format_microusd
from webapp.contracts.providers import Capability, ImageProvider, Provider, TextProvider
from webapp.extensions import current_settings
from webapp.registry import current_registry
from webapp.routing import costs, http, own_keys, vendors
from webapp.routing.own_keys import OwnKey, Shelf
from webapp.routing.prices import Price
from webapp.routing.vendors import House, Rule

log = logging.getLogger(__name__)

PROBE_TTL_S = 30.0
PROBE_TIMEOUT_S = 0.5
TARGETS_MAX = 5
_ROUTES_MAX = 1000
IMAGES = "image.generate"
"""The operation whose providers make pictures."""
_READY = "a provider that is ready"
_SWITCHED_OFF = "the provider is switched off"
_OFF_HERE = "the organization has switched the provider off"


@dataclass(frozen=True, slots=True)
class Target:
    """A provider and one of its models. `why` says in a few words how it was chosen."""

    provider: Provider
    model: str
    why: str
    own: OwnKey | None = None
    """Set where it is called by a key of the organization's own."""

    @property
    def name(self) -> str:
        """`provider/model`."""
        return f"{self.provider.name}/{self.model}"

    @property
    def account(self) -> str:
        """Under which name the pace and the pauses of the provider are kept: those of an organization's own key are its own."""
        return self.own.gate if self.own else self.provider.name

    @property
    def circuit(self) -> str:
        """Under which name its circuit is kept: `account/model`."""
        return f"{self.account}/{self.model}"

    @property
    def text(self) -> TextProvider:
        """The provider, known to be one of text."""
        assert isinstance(self.provider, TextProvider)
        return self.provider

    @property
    def images(self) -> ImageProvider:
        """The provider, known to be one of images."""
        assert isinstance(self.provider, ImageProvider)
        return self.provider


@dataclass(slots=True)
class Ask:
    """What is to be served. `input_tokens` and `output_tokens` are the most it may use, 0 where nobody knows yet. Nothing of it
    changes; it is not frozen because each request makes several, and that would take them seven times as long."""

    operation: str = "chat"
    category: str | None = None
    plan: str | None = None
    organization_id: uuid.UUID | None = None
    needs: frozenset[Capability] = frozenset()
    input_tokens: int = 0
    output_tokens: int = 0
    pictures: int = 0
    named: str = ""
    """The one model that may serve it, as provider/model; '' leaves it to the rules."""


@dataclass(frozen=True, slots=True)
class Passed:
    """A model that was passed over, and why, in words for the operator."""

    target: str
    reason: str


@dataclass(frozen=True, slots=True)
class Route:
    """The models to try, best first; `by` says who decided. With none left, `passed` says why."""

    by: str
    targets: tuple[Target, ...]
    passed: tuple[Passed, ...] = ()

    @property
    def why_none(self) -> str:
        """Why there is no target, for the operator."""
        reasons = "; ".join(f"{passed.target}: {passed.reason}" for passed in self.passed)
        return f"No model can serve this ({self.by}): {reasons or 'no provider plugin is ready'}."


@dataclass(frozen=True, slots=True)
class _Probe:
    """What the last look at a provider showed. Changed settings make providers anew, and what one was is not told of its
    successor: it may lead elsewhere, and has to find its default model by itself."""

    provider: Provider
    at: float
    ok: bool

    def tells_of(self, provider: Provider) -> bool:
        """Whether it is about this very provider, and not too old."""
        return self.provider is provider and time.monotonic() - self.at < PROBE_TTL_S


@dataclass(slots=True)
class _Sieve:
    """One building of a route: by what it goes, what was taken, and what was passed over. `own` are the organization's own
    providers, `shelf` all that may serve, by name: an own one takes the place of the installation's."""

    ask: Ask
    fresh: bool
    house: House
    own: Shelf
    shelf: Mapping[str, Provider]
    rule: Rule | None = None
    targets: list[Target] = field(default_factory=list)
    passed: list[Passed] = field(default_factory=list)


_probes: dict[str, _Probe] = {}
_probing = threading.Lock()


def plan(ask: Ask, *, fresh: bool = True) -> Route:
    """The route of a request. With `fresh` it may ask the database for new rules and servers whether they are there; without,
    it goes by what is known, for use inside a transaction."""
    house = vendors.current() if fresh else vendors.known()
    if ask.named and (before := _as_before(ask, house)) is not None:
        return before
    sieve = _sieve(ask, house, fresh=fresh)
    if ask.named:
        by = "the request itself"
        _take_named(sieve, ask.named, "asked for")
    elif (rule := next((rule for rule in house.rules if fits(rule, ask)), None)) is not None:
        by, sieve.rule = f"the rule “{rule.name}”", rule
        for name in rule.targets:
            _take_named(sieve, name, by)
    elif named := _listed(ask.operation):
        by = "SWITCHHOOK_IMAGE_MODEL" if ask.operation == IMAGES else "SWITCHHOOK_CHAT_MODEL"
        for name in named.split(","):
            _take_named(sieve, name, f"named in {by}")
    else:
        by = "the providers that are ready"
        _take_ready(sieve)
    found = Route(by, tuple(sieve.targets[:TARGETS_MAX]), tuple(sieve.passed))
    if ask.named and found.targets:
        _keep(found, ask, house)
    return found


def _as_before(ask: Ask, house: House) -> Route | None:
    """The route of a request that names its model, as it was found for one before; None for what has to be looked at anew. What
    may have changed since without a new revision is asked again: the provider, and what the model can do."""
    found = house.routes.get((ask.operation, ask.named))
    if found is None or (house.organizations and ask.organization_id in house.organizations):
        return None
    provider, registry = found.targets[0].provider, current_registry()
    there: Mapping[str, Provider] = registry.image_providers if ask.operation == IMAGES else registry.providers
    if there.get(provider.name) is not provider:
        return None
    try:
        return None if provider.missing() or _unable(provider, found.targets[0].model, ask) else found
    except Exception:
        return None  # what is to be said of it is said on the long way


def _keep(found: Route, ask: Ask, house: House) -> None:
    """Keep the route of a named model for the next request that names it, where it follows from nothing but the name."""
    named_in_full = bool(ask.named.strip().partition("/")[2])
    for_anybody = not house.organizations or ask.organization_id not in house.organizations
    if named_in_full and for_anybody and current_settings().unknown_price != "refuse":
        if len(house.routes) >= _ROUTES_MAX:
            house.routes.clear()
        house.routes[ask.operation, ask.named] = found


def _listed(operation: str) -> str:
    """The models that the operator named in the environment, '' for none."""
    settings = current_settings()
    return settings.image_model if operation == IMAGES else settings.chat_model


def choose(ask: Ask | None = None) -> Target:
    """The model that would serve a request first. Raises `Unavailable` if there is none."""
    route = plan(ask or Ask())
    if not route.targets:
        raise Unavailable("No model can be used.", detail=route.why_none)
    return route.targets[0]


def fits(rule: Rule, ask: Ask) -> bool:
    """Whether a rule is about such requests."""
    return (
        rule.operation in (None, ask.operation)
        and rule.category in (None, ask.category)
        and rule.plan in (None, ask.plan)
        and rule.organization_id in (None, ask.organization_id)
        # A rule for everything is about words: pictures and the house's own calls need a rule of their own.
        and (rule.operation is not None or ask.operation not in (IMAGES, "categorize"))
    )


def asked_by(rule: Rule) -> Ask:
    """The plainest request that a rule is about."""
    return Ask(rule.operation or "chat", rule.category, rule.plan, rule.organization_id, pictures=int(rule.operation == IMAGES))


def named_target(name: str, operation: str = "chat") -> Target:
    """The target that `provider/model`, or a provider's name, means. Raises `Unavailable` with the reason if it is none."""
    sieve = _sieve(Ask(operation), vendors.known(), fresh=True)
    _take_named(sieve, name, "named")
    if not sieve.targets:
        raise Unavailable("The model cannot be used.", detail=f"{name}: {sieve.passed[0].reason}.")
    return sieve.targets[0]


def missing(provider: Provider) -> str:
    """What keeps a provider from being used, '' if it is ready; a plugin that fails in saying it is not."""
    try:
        return provider.missing()
    except Exception as exc:
        log.error("the plugin of %s failed: %s", provider.name, type(exc).__name__)
        return f"its plugin failed ({type(exc).__name__})"


def answers(provider: Provider, account: str = "") -> bool:
    """Whether a provider that needs no key is there at all; asked at most every 30 seconds. While somebody is asking, the
    others go by what was known before, if anything was. `account` is the target's, where that is not the provider's name."""
    account = account or provider.name
    known = _probes.get(account)
    if known and known.tells_of(provider):
        return known.ok
    old = known if known and known.provider is provider else None
    if not _probing.acquire(blocking=old is None):
        return old is not None and old.ok
    try:
        known = _probes.get(account)
        if known and known.tells_of(provider):
            return known.ok
        try:
            with http.call_limits(timeout_s=PROBE_TIMEOUT_S, silence_s=PROBE_TIMEOUT_S):
                ok = bool(provider.check(http.client()).ok)
        except Exception as exc:
            log.error("the plugin of %s failed in its check: %s", provider.name, type(exc).__name__)
            ok = False
        if known is None or known.ok != ok:
            log.debug("%s %s", provider.label, "answers and will be used" if ok else "does not answer")
        _probes[account] = _Probe(provider, time.monotonic(), ok)
    finally:
        _probing.release()
    return ok


# -- the sieve -----------------------------------------------------------------------------------------------------------
def _sieve(ask: Ask, house: House, *, fresh: bool) -> _Sieve:
    registry = current_registry()
    # Sorting is the house's own work, on its own account.
    own = own_keys.shelf(None if ask.operation == "categorize" else ask.organization_id, house)
    drawing = ask.operation == IMAGES
    there: Mapping[str, Provider] = registry.image_providers if drawing else registry.providers
    instead = own.images if drawing else own.text
    return _Sieve(ask, fresh, house, own, {**there, **instead} if instead else there)


def _take_named(sieve: _Sieve, name: str, why: str) -> None:
    provider_name, _, model = name.strip().partition("/")
    provider = sieve.shelf.get(provider_name)
    if provider is None:
        there = ", ".join(sorted(sieve.shelf))
        kind = "image provider" if sieve.ask.operation == IMAGES else "provider"
        sieve.passed.append(Passed(name, f"there is no {kind} {provider_name!r}; there are {there}"))
        return
    _take(sieve, provider, model, why)


def _take_ready(sieve: _Sieve) -> None:
    real = False
    for provider in _by_preference(sieve.shelf):
        if provider.demo and real:
            return  # also where no real model can serve this very request: a demo's answer is none
        if provider.by_name_only or missing(provider):
            continue
        if off := _off(sieve, provider):
            sieve.passed.append(Passed(provider.name, off))
            continue
        if provider.probe_needed and not _there(sieve, provider):
            continue
        real = True
        _take(sieve, provider, "", _READY, probed=True)


def _by_preference(shelf: Mapping[str, Provider]) -> Iterator[Provider]:
    yield from sorted(shelf.values(), key=lambda p: (p.demo, p.preference, p.name))


def _there(sieve: _Sieve, provider: Provider) -> bool:
    own = sieve.own.keys.get(provider.name)
    account = own.gate if own else provider.name
    if sieve.fresh:
        return answers(provider, account)
    known = _probes.get(account)
    return known is not None and known.provider is provider and known.ok


def _off(sieve: _Sieve, provider: Provider) -> str:
    """Why a provider may not be used here at all, '' if it may."""
    house = sieve.house
    if not house.vendor(provider.name).enabled:
        return _SWITCHED_OFF
    set_here = house.of_organization(sieve.ask.organization_id, provider.name)
    if set_here is not None and not set_here.enabled:
        return _OFF_HERE
    return sieve.own.troubles.get(provider.name, "")


def _take(sieve: _Sieve, provider: Provider, model: str, why: str, *, probed: bool = False) -> None:
    if not model and not probed and provider.probe_needed and not _off(sieve, provider):
        _there(sieve, provider)  # it may find a default model
    model = model or vendors.default_model(provider, sieve.ask.organization_id)
    name = f"{provider.name}/{model}" if model else provider.name
    reason = _against(sieve, provider, model)
    if reason:
        sieve.passed.append(Passed(name, reason))
    elif not sieve.targets or all(target.name != name for target in sieve.targets):
        sieve.targets.append(Target(provider, model, why, sieve.own.keys.get(provider.name)))


def _against(sieve: _Sieve, provider: Provider, model: str) -> str:
    """Why a model may not serve, '' if it may."""
    ask = sieve.ask
    if off := _off(sieve, provider):
        return off
    if lacks := missing(provider):
        return lacks
    if not model:
        return "no model is named, and the provider has no default model"
    try:
        return _unable(provider, model, ask) or _too_dear(sieve, provider, model)
    except Exception as exc:
        log.error("the plugin of %s failed: %s", provider.name, type(exc).__name__)
        return f"its plugin failed ({type(exc).__name__})"


def _unable(provider: Provider, model: str, ask: Ask) -> str:
    """What a model cannot do that is needed."""
    info = provider.model_info(model)
    if Capability.VISION in ask.needs and Capability.VISION not in (info.capabilities or ()):
        return "it is not known to see pictures"
    if Capability.TOOLS in ask.needs and info.capabilities is not None and Capability.TOOLS not in info.capabilities:
        return "it has no tools"
    if Capability.JSON in ask.needs and info.capabilities is not None and Capability.JSON not in info.capabilities:
        return "it gives no JSON"
    if info.context_tokens is not None and ask.input_tokens > info.context_tokens:
        return f"it reads at most {info.context_tokens:,} tokens"
    return ""


def _too_dear(sieve: _Sieve, provider: Provider, model: str) -> str:
    """Whether a model may cost more than the rule allows, or nobody knows what it costs and that is not to be guessed."""
    if current_settings().unknown_price == "refuse" and not most_of(Target(provider, model, ""), sieve.ask).known:
        return "nobody knows its price, and SWITCHHOOK_UNKNOWN_PRICE is refuse: set a price for it under Providers"
    if sieve.rule is not None and sieve.rule.max_cost_microusd is not None:
        most = most_of(Target(provider, model, ""), sieve.ask).cost_microusd
        if most > sieve.rule.max_cost_microusd:
            limit = format_microusd(sieve.rule.max_cost_microusd)
            return f"it may cost {format_microusd(most)}, and the rule allows {limit}"
    return ""


def most_of(target: Target, ask: Ask) -> Price:
    """The most that a request can cost at a target."""
    return costs.most(target, ask.input_tokens, ask.output_tokens, ask.pictures)
