"""The providers that somebody may use, with the models that are known of each and what these cost: nobody is asked for it."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from webapp.contracts.providers import ImageProvider, ModelInfo, Provider
from webapp.extensions import current_settings
from webapp.registry import current_registry
from webapp.routing import costs, own_keys, route, vendors
from webapp.routing.prices import Counted
from webapp.routing.route import Target
from webapp.services.provider_views import IMAGES, TEXT, providers_of

log = logging.getLogger(__name__)

MODELS_MAX = 200
_SHARE = 10
_TOKENS = 1_000_000 // _SHARE
"""Long calls cost more per token with some vendors: the price is that of a call of this size, in or out."""


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs: micro-dollars for a million tokens, and for a picture where it makes some. `known` is False where
    the operator's ceiling counts; `source` says whose price it is."""

    input_microusd: int
    output_microusd: int
    picture_microusd: int | None
    known: bool
    source: str
    date: str


@dataclass(frozen=True, slots=True)
class ModelOffer:
    """A model. `name` is provider/model, as a request names it; None is what nobody knows."""

    name: str
    id: str
    label: str
    kind: str
    default: bool
    context_tokens: int | None
    output_tokens: int | None
    capabilities: tuple[str, ...] | None
    note: str
    price: Price


@dataclass(frozen=True, slots=True)
class ProviderOffer:
    """A provider as people of one organization have it. `enabled`: neither the installation nor the organization has switched
    it off; `ready`: nothing else is missing either. `own_key`: the organization pays by an account of its own."""

    name: str
    label: str
    kinds: tuple[str, ...]
    enabled: bool
    ready: bool
    demo: bool
    own_key: bool
    default_model: str
    models: tuple[ModelOffer, ...]


def offers(organization_id: uuid.UUID, *, everything: bool = False) -> list[ProviderOffer]:
    """The providers that people of an organization may use, in the order in which they are preferred; with `everything` those
    that they may not use as well. The models are the default one and those named in settings, prices and routing rules."""
    vendors.current()
    registry = current_registry()
    found = sorted(
        [*registry.providers.values(), *registry.image_providers.values()],
        key=lambda provider: (provider.demo, provider.preference, provider.name),
    )
    made = [_offer(name, organization_id) for name in dict.fromkeys(provider.name for provider in found)]
    return [offer for offer in made if everything or offer.ready]


def offer(name: str, organization_id: uuid.UUID) -> ProviderOffer:
    """One of them, whether they may use it or not. `NotFound`."""
    vendors.current()
    providers_of(name)
    return _offer(name, organization_id)


def _offer(name: str, organization_id: uuid.UUID) -> ProviderOffer:
    house, shelf = vendors.known(), own_keys.shelf(organization_id)
    found: list[Provider] = []
    for provider in providers_of(name):
        own = (shelf.images if isinstance(provider, ImageProvider) else shelf.text).get(name)
        found.append(own or provider)
    here = house.of_organization(organization_id, name)
    enabled = house.vendor(name).enabled and (here is None or here.enabled)
    account = shelf.keys[name].gate if name in shelf.keys else name
    usable = enabled and name not in shelf.troubles
    ready = [provider for provider in found if usable and not route.missing(provider) and _there(provider, account)]
    models = tuple(model for provider in found for model in _models(provider, organization_id))
    return ProviderOffer(
        name=name,
        label=found[0].label,
        kinds=tuple(_kind(provider) for provider in found),
        enabled=enabled,
        ready=bool(ready),
        demo=all(provider.demo for provider in found),
        own_key=name in shelf.keys,
        default_model=vendors.default_model(found[0], organization_id),
        models=models[:MODELS_MAX],
    )


def _there(provider: Provider, account: str) -> bool:
    """A server that needs no key is always set up; whether it is there is another matter."""
    return not provider.probe_needed or route.answers(provider, account)


def _kind(provider: Provider) -> str:
    return IMAGES if isinstance(provider, ImageProvider) else TEXT


def _models(provider: Provider, organization_id: uuid.UUID) -> Iterable[ModelOffer]:
    default = vendors.default_model(provider, organization_id)
    drawing = isinstance(provider, ImageProvider)
    names = [default, vendors.default_model(provider), *_named(provider.name, organization_id, drawing=drawing)]
    if not drawing or provider.name not in current_registry().providers:
        # Of a vendor of both kinds nothing says which of them a price is for: it is taken for text.
        names += [model for model in vendors.known().vendor(provider.name).prices if model != "*"]
    for model in dict.fromkeys(filter(None, names)):
        yield _model(provider, model, default=model == default)


def _named(name: str, organization_id: uuid.UUID, *, drawing: bool) -> Iterable[str]:
    """The models of a provider that settings and routing rules name, for people of this organization."""
    settings = current_settings()
    targets = (settings.image_model if drawing else settings.chat_model).split(",")
    for rule in vendors.known().rules:
        of_images = rule.operation == route.IMAGES
        if rule.organization_id in (None, organization_id) and of_images == drawing:
            targets += rule.targets
    for target in targets:
        provider, _, model = target.strip().partition("/")
        if provider == name and model:
            yield model


def _model(provider: Provider, model: str, *, default: bool) -> ModelOffer:
    info = _info(provider, model)
    known = None if info.capabilities is None else tuple(sorted(info.capabilities))
    return ModelOffer(
        name=f"{provider.name}/{model}",
        id=model,
        label=info.label or model,
        kind=_kind(provider),
        default=default,
        context_tokens=info.context_tokens,
        output_tokens=info.output_tokens,
        capabilities=known,
        note=info.note,
        price=_price(provider, model),
    )


def _info(provider: Provider, model: str) -> ModelInfo:
    try:
        info: object = provider.model_info(model)
    except Exception as exc:
        log.error("the plugin of %s failed: %s", provider.name, type(exc).__name__)
        info = None
    return info if isinstance(info, ModelInfo) else ModelInfo(model)


def _price(provider: Provider, model: str) -> Price:
    target = Target(provider, model, "it is shown")
    read = costs.charge(target, Counted(input_tokens=_TOKENS))
    written = costs.charge(target, Counted(output_tokens=_TOKENS))
    picture = costs.charge(target, Counted(pictures=1)) if isinstance(provider, ImageProvider) else None
    main = picture or read
    return Price(
        read.cost_microusd * _SHARE,
        written.cost_microusd * _SHARE,
        picture.cost_microusd if picture else None,
        main.known,
        main.source,
        main.date,
    )
