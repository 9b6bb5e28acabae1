"""`GET /v1/models` and `GET /v1/models/{id}`: the names that a call may give as `model`. No vendor is asked."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Response, request

from webapp.api.v1 import calls, errors, ground, naming
from webapp.api.v1.calls import BadCall
from webapp.contracts.sorting import CATEGORIES
from webapp.routing import vendors
from webapp.services import provider_offers
from webapp.services.provider_offers import ModelOffer
from webapp.services.provider_views import IMAGES

blueprint = ground.group("models")

_AT = 0
_DAY = "1970-01-01T00:00:00Z"
"""When a model came out: nobody is asked for it, and both formats want a time."""
_PAGE, _PAGE_MAX = 20, 1000


@dataclass(frozen=True, slots=True)
class Named:
    """A name that may be given. `offer` is what is known of the model, None for a choice that is left to the rules."""

    id: str
    label: str
    owner: str
    offer: ModelOffer | None = None
    images: bool = False


@blueprint.get("/models")
def list_models() -> Response:
    """All names."""
    found = list(_names(calls.known("chat", "read").organization_id))
    if errors.speaks_anthropic():
        return ground.answer(_page(found))
    return ground.answer({"object": "list", "data": [_openai(each) for each in found]})


@blueprint.get("/models/<path:name>")
def read_model(name: str) -> Response:
    """One name; also the bare name of a model that is listed with its provider."""
    found = {each.id: each for each in _names(calls.known("chat", "read").organization_id)}
    meant = found.get(name) or found.get(_in_full(name))
    if meant is None:
        raise BadCall(f"There is no model {name[:80]!r} here: `GET /v1/models` lists them.", "model", "model_not_found", 404)
    return ground.answer(_anthropic(meant) if errors.speaks_anthropic() else _openai(meant))


def _names(organization_id: uuid.UUID) -> Iterator[Named]:
    yield Named(naming.AUTO, "The operator's rules choose", "switchhook")
    of_rules = {rule.category for rule in vendors.current().rules if rule.category is not None}
    for category in (*CATEGORIES, *sorted(of_rules - set(CATEGORIES))):
        yield Named(f"{naming.AUTO}:{category}", f"The operator's rules for {category} choose", "switchhook")
    for provider in provider_offers.offers(organization_id):
        for offer in provider.models if provider.enabled and provider.ready else ():
            images = offer.kind == IMAGES
            if _can_be_named(offer.name, images=images):
                yield Named(offer.name, offer.label or offer.id, provider.name, offer, images)


def _can_be_named(name: str, *, images: bool) -> bool:
    try:
        naming.parameters_of(name, images=images)
    except BadCall:
        return False
    return True


def _in_full(name: str) -> str:
    for images in (False, True):
        try:
            return str(naming.parameters_of(name, images=images).get("model", ""))
        except BadCall:
            continue
    return ""


def _openai(named: Named) -> Mapping[str, Any]:
    found: dict[str, Any] = {"id": named.id, "object": "model", "created": _AT, "owned_by": named.owner, "name": named.label}
    found["operation"] = "image" if named.images else "chat"
    if named.offer is not None:
        found |= {"context_window": named.offer.context_tokens, "max_output_tokens": named.offer.output_tokens}
        found["capabilities"] = None if named.offer.capabilities is None else sorted(named.offer.capabilities)
    return found


# -- Anthropic's shape -------------------------------------------------------------------------------------------------
def _anthropic(named: Named) -> Mapping[str, Any]:
    offer = named.offer
    return {
        "type": "model",
        "id": named.id,
        "display_name": named.label,
        "created_at": _DAY,
        "lifecycle": "active",
        "max_input_tokens": offer.context_tokens if offer else None,
        "max_tokens": offer.output_tokens if offer else None,
    }


def _page(found: list[Named]) -> Mapping[str, Any]:
    """A page as `limit`, `after_id` and `before_id` ask, without what makes pictures: this format has none."""
    ids = {each.id: each for each in found if not each.images}
    names, limit = list(ids), _limit(request.args.get("limit", str(_PAGE)))
    after, before = request.args.get("after_id"), request.args.get("before_id")
    for param, name in (("after_id", after), ("before_id", before)):
        if name is not None and name not in ids:
            raise BadCall(f"{param}: there is no model {name[:80]!r}.", param)
    if before is not None:
        earlier = names[: names.index(before)]
        page, more = earlier[-limit:], len(earlier) > limit
    else:
        later = names[names.index(after) + 1 :] if after is not None else names
        page, more = later[:limit], len(later) > limit
    return {
        "data": [_anthropic(ids[name]) for name in page],
        "has_more": more,
        "first_id": page[0] if page else None,
        "last_id": page[-1] if page else None,
    }


def _limit(given: str) -> int:
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:9]) <= _PAGE_MAX):
        raise BadCall(f"limit: it is a whole number from 1 to {_PAGE_MAX}.", "limit")
    return int(given)


__all__ = ["Named", "blueprint"]
