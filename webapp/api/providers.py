"""The providers for programs: what may be used, for everybody; settings, tests and health, for administrators."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flask import Response

from webapp.api import access
from webapp.api.base import answer, area
from webapp.api.providers_models import (
    ProviderChange,
    ProviderCircuit,
    ProviderHealth,
    ProviderItem,
    ProviderLimits,
    ProviderList,
    ProviderListed,
    ProviderListedModel,
    ProviderPace,
    ProviderPath,
    ProviderPriceShown,
    ProviderSettings,
    ProvidersQuery,
    ProviderTest,
    ProviderTested,
    ProviderVariable,
)
from webapp.contracts.errors import BadInput, NotFound, ProviderError
from webapp.contracts.wire import vendor_words
from webapp.extensions import limiter
from webapp.models import PersonRole
from webapp.routing.prices import Override
from webapp.services import provider_offers, providers
from webapp.services.provider_views import secrets_of
from webapp.services.providers import Change, ProviderView, VariableView

_SHOWN_OTHERWISE = {"variables", "limits", "pace", "prices", "health"}
_SAME = [name for name in ProviderSettings.model_fields if name not in _SHOWN_OTHERWISE]

blueprint = area("providers", "Providers", "The model vendors: what may be used, and for administrators how each is set up.")


@blueprint.get("/providers", summary="List providers", responses={200: ProviderList})
@access.opens("read", "chat")
def list_providers(query: ProvidersQuery) -> Response:
    """Those that you may use where you work, with the models that are known and what these cost."""
    caller = access.caller()
    found = provider_offers.offers(caller.organization_id, everything=query.unusable and caller.is_admin)
    return answer(ProviderList(items=[ProviderItem(**asdict(offer)) for offer in found]))


@blueprint.get("/providers/<name>", summary="Read a provider", responses={200: ProviderItem})
@access.opens("read", "chat")
def read_provider(path: ProviderPath) -> Response:
    """One that you may use; administrators read the others, too."""
    caller = access.caller()
    found = provider_offers.offer(path.name, caller.organization_id)
    if not found.ready and not caller.is_admin:
        raise NotFound("There is no such provider that you may use.")
    return answer(ProviderItem(**asdict(found)))


@blueprint.get("/providers/<name>/settings", summary="Read a provider's settings", responses={200: ProviderSettings})
@access.opens("admin", role=PersonRole.ADMIN)
def read_provider_settings(path: ProviderPath) -> Response:
    """What is set for it and where, and how it is doing. Of a secret its last characters are shown."""
    return answer(_settings(providers.show(path.name)))


@blueprint.get("/providers/<name>/health", summary="Read a provider's health", responses={200: ProviderHealth})
@access.opens("admin", role=PersonRole.ADMIN)
def read_provider_health(path: ProviderPath) -> Response:
    """Latency and failures of the last hour, its breakers and pauses, and what is left on its account."""
    return answer(_health(providers.show(path.name)))


@blueprint.get("/providers/<name>/models", summary="Ask the vendor for its models", responses={200: ProviderListed})
@access.opens("admin", role=PersonRole.ADMIN)
@limiter.limit("20/minute", key_func=lambda: str(access.caller().id))
def list_provider_models(path: ProviderPath) -> Response:
    """A call to the vendor, which costs nothing."""
    view = providers.show(path.name)
    found: dict[str, ProviderListedModel] = {}
    trouble = ""
    for kind in view.kinds:
        try:
            for model in providers.models(path.name, kind):
                values = asdict(model) | {"capabilities": None if model.capabilities is None else sorted(model.capabilities)}
                found[model.id] = ProviderListedModel(**values)
        except ProviderError as exc:
            trouble = vendor_words(f"{exc.message} {exc.detail}".strip(), secrets_of(path.name))
    return answer(ProviderListed(items=list(found.values()), trouble="" if found else trouble))


@blueprint.patch("/providers/<name>", summary="Change a provider's settings", responses={200: ProviderSettings})
@access.opens("admin", role=PersonRole.ADMIN)
def change_provider(path: ProviderPath, body: ProviderChange) -> Response:
    """All processes notice within seconds. Its breakers are closed and its pause ends: whatever was wrong may be mended."""
    limits = body.limits.model_dump(exclude_unset=True) if body.limits else {}
    wanted = Change(
        enabled=body.enabled,
        default_model=body.default_model,
        values=dict(body.values),
        limits=limits,
        prices={model: None if price is None else _override(model, price.model_dump()) for model, price in body.prices.items()},
        peak_hours=body.peak_hours,
    )
    try:
        return answer(_settings(providers.change(path.name, wanted, access.caller().actor.name)))
    except BadInput as exc:
        raise BadInput(_member(exc.field, body), exc.message) from exc


def _member(field: str, body: ProviderChange) -> str:
    """Where in a body it stands what a service calls by the name of a variable, of a limit, or by `price` and a model."""
    if field in body.values:
        return f"values.{field}"
    if field == "price" or field.startswith("price "):
        return "prices" + field.removeprefix("price").replace(" ", ".", 1)
    return f"limits.{field}" if field in ProviderLimits.model_fields else field


@blueprint.post("/providers/<name>/test", summary="Test a provider", responses={200: ProviderTested})
@access.opens("admin", role=PersonRole.ADMIN)
@limiter.limit("10/minute;120/hour", key_func=lambda: str(access.caller().id))
def test_provider(path: ProviderPath, body: ProviderTest) -> Response:
    """One real call of one token, which the house pays for; of images only a look is taken. The vendor's own words are in
    `said`. 409 while another test is under way."""
    kind = body.kind or providers.show(path.name).kinds[0]
    return answer(ProviderTested(**asdict(providers.test(path.name, kind, body.model, access.caller().actor.name))))


@blueprint.post("/providers/<name>/reset", summary="Let a provider be tried again", responses={200: ProviderHealth})
@access.opens("admin", role=PersonRole.ADMIN)
def reset_provider(path: ProviderPath) -> Response:
    """Close its breakers and end its pause."""
    providers.reset(path.name, access.caller().actor.name)
    return answer(_health(providers.show(path.name)))


def _override(model: str, price: dict[str, Any]) -> Override:
    try:
        return Override.read({name: value for name, value in price.items() if value is not None})
    except ValueError as exc:
        raise BadInput(f"prices.{model[:120]}", f"The price of {model[:120]}: {exc}.") from exc


def _settings(view: ProviderView) -> ProviderSettings:
    return ProviderSettings(
        **{name: getattr(view, name) for name in _SAME},
        variables=[_variable(each) for each in view.variables],
        limits=dict(view.limits),
        pace=ProviderPace(**{name: getattr(view.pace, name) or 0 for name in ProviderPace.model_fields}),
        prices={model: ProviderPriceShown.model_validate(price.as_json()) for model, price in view.prices.items()},
        health=_health(view),
    )


def _variable(view: VariableView) -> ProviderVariable:
    known = view.variable
    return ProviderVariable(
        name=known.name,
        meaning=known.meaning,
        kind=known.kind,
        choices=list(known.choices),
        secret=known.secret,
        source=view.source,
        shown=view.shown,
    )


def _health(view: ProviderView) -> ProviderHealth:
    live = asdict(view.live) | {"error_rate": round(view.live.error_rate, 4)}
    state = ("in_flight", "requests_last_minute", "tokens_last_minute", "paused_until", "pause_reason")
    return ProviderHealth(
        **live,
        **{name: getattr(view.state, name) for name in state},
        circuits=[ProviderCircuit(**asdict(circuit)) for circuit in view.state.circuits],
        balance=view.balance,
        seen=view.seen,
        seen_ok=view.seen_ok,
    )
