"""Trying a provider: one token of an answer, by the provider itself and outside any request, with the vendor's real words.

The house pays for it, within its bound of the day. It goes past circuits and pace: an administrator wants to know what the
vendor says now.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import NamedTuple

import redis
from sqlalchemy import Connection, insert, select

from webapp.contracts.calls import Finish, Role, Text, TextCall, Turn, Usage
from webapp.contracts.errors import (
    BadInput,
    Conflict,
    MalformedAnswer,
    NotFound,
    ProviderError,
    Rejected,
    TimedOut,
    Unavailable,
)
from webapp.contracts.money import MICROUSD
from webapp.contracts.providers import ImageProvider, ModelInfo, Provider, TextProvider
from webapp.contracts.texts import frames
from webapp.contracts.wire import token_count, token_part, vendor_id, vendor_words
from webapp.extensions import current_settings, now, queue_redis, writing
from webapp.models import LedgerEntry, Person, PersonRole
from webapp.models.columns import new_id
from webapp.quota import house
from webapp.quota.house import Reservation
from webapp.routing import costs, http, prices, resilience, route, vendors
from webapp.routing.prices import Counted, Price
from webapp.routing.route import Target
from webapp.services import health, provider_values
from webapp.services.accounts import CHANNEL
from webapp.services.provider_changes import person_in
from webapp.services.provider_views import IMAGES, TEXT, providers_of, secrets_of

__all__ = ["Tested", "models", "test"]

log = logging.getLogger(__name__)

OPERATION = "test"
TIMEOUT_S = 20.0
_TURNS = (Turn(Role.USER, "Say OK."),)
_MAX_TOKENS = 1
_LOCK = "switchhook:provider-test:"
_LOCK_S = int(TIMEOUT_S) + 10
_SAID_CHARS = 500
_USD_MAX = Decimal(100)
_MODELS_MAX = 5000
_KEY_CHARS = 16
"""What is this long and in a model's name is a key; what is shorter may be part of the name by chance."""
_NOTHING_SAID = "(it answers; its one token went into thinking)"
_NO_PICTURE = "No picture was made: that would cost money."


@dataclass(frozen=True, slots=True)
class Tested:
    """What came of trying a provider. `said`: what the model answered, or the vendor's own words about what is wrong;
    `code`: the error's, '' where it is well; `tokens` are input and output together."""

    ok: bool
    said: str
    code: str = ""
    model: str = ""
    latency_ms: int = 0
    cost_microusd: int = 0
    tokens: int = 0


class _Payer(NamedTuple):
    """The person and the organization that a ledger entry names."""

    person_id: uuid.UUID
    organization_id: uuid.UUID


@dataclass(slots=True)
class _Heard:
    """What a test call brought."""

    text: str = ""
    usage: Usage | None = None
    error: ProviderError | None = None
    latency_ms: int = 0


def test(name: str, kind: str = TEXT, model: str = "", actor: str = "") -> Tested:  # noqa: PT028  (no pytest)
    """Have a provider answer with one token, within 20 seconds; of images only a look is taken, which makes none.

    A success closes its circuits. `NotFound`; `BadInput` for a model's name that is none; `Conflict` while another test of it
    is under way, or where the house has nothing left to spend today.
    """
    provider = _of_kind(name, kind)
    model = provider_values.model("model", model) if model.strip() else ""
    if lacks := route.missing(provider):
        return Tested(False, f"{lacks}.", "not_ready")
    with _alone(name, provider.label):
        if not isinstance(provider, TextProvider):
            return _looked_at(provider)
        if not (model or vendors.default_model(provider)):
            health.look(provider)  # it may find a model
        model = model or vendors.default_model(provider)
        if not model:
            return Tested(False, "No model is named, and the provider has no default model.", "not_ready")
        return _try(Target(provider, model, "it is tested"), actor)


def models(name: str, kind: str = TEXT) -> list[ModelInfo]:
    """The models that the vendor lists now. `NotFound`, `ProviderError`."""
    provider = _of_kind(name, kind)
    if lacks := route.missing(provider):
        raise Rejected(f"{provider.label} is not set up: {lacks}.")
    try:
        with http.call_limits(timeout_s=TIMEOUT_S, silence_s=TIMEOUT_S):
            listed: Iterable[object] = provider.models(http.client())
            return list(_sound(provider.name, islice(listed, _MODELS_MAX)))
    except NotImplementedError:
        raise Rejected(f"{provider.label} does not list its models.") from None
    except ProviderError as exc:
        exc.message, exc.detail = (vendors.redacted(name, str(words)) for words in (exc.message, exc.detail))
        raise
    except Exception as exc:
        raise _plugin_failed(provider, exc) from exc


def _sound(name: str, listed: Iterable[object]) -> Iterator[ModelInfo]:
    """What of a plugin's list can be shown and chosen. A server may list anything, the key that it was sent included."""
    secrets = set(vendors.secrets_of(name))
    for each in listed:
        known: object = each.id if isinstance(each, ModelInfo) else None
        if not isinstance(each, ModelInfo) or not isinstance(known, str) or not known.strip() or vendor_id(known) != known:
            continue
        if known in secrets or any(secret in known for secret in secrets if len(secret) >= _KEY_CHARS):
            continue
        label, note = (vendors.redacted(name, text) if isinstance(text, str) else "" for text in (each.label, each.note))
        context, output = (count if token_count(count) else None for count in (each.context_tokens, each.output_tokens))
        can = each.capabilities if isinstance(each.capabilities, frozenset) else None
        yield ModelInfo(known, label, context, output, can, note)


def _of_kind(name: str, kind: str) -> Provider:
    vendors.current()
    if kind not in (TEXT, IMAGES):
        raise BadInput("kind", f"The kind is {TEXT} or {IMAGES}.")
    for provider in providers_of(name):
        if isinstance(provider, ImageProvider) == (kind == IMAGES):
            return provider
    raise NotFound(f"The provider {name} has no {'images' if kind == IMAGES else 'texts'}.")


@contextlib.contextmanager
def _alone(name: str, label: str) -> Iterator[None]:
    """Keep a second test of the provider out: a button that was pressed twice is not to be paid twice."""
    client, mine, taken = queue_redis(), uuid.uuid4().hex, False
    try:
        taken = bool(client.set(_LOCK + name, mine, nx=True, ex=_LOCK_S))
    except redis.RedisError:
        log.debug("tests of %s cannot be kept apart: Redis is away", name)
    else:
        if not taken:
            raise Conflict(f"A test of {label} is under way: wait for its end.")
    try:
        yield
    finally:
        if taken:
            with contextlib.suppress(redis.RedisError):
                if client.get(_LOCK + name) == mine.encode():
                    client.delete(_LOCK + name)


def _looked_at(provider: Provider) -> Tested:
    began = time.monotonic()
    found = health.look(provider, TIMEOUT_S)
    said = " ".join(filter(None, (found.detail, "" if found.ok else found.cure, _NO_PICTURE)))
    if found.ok:
        resilience.reset(provider.name)
    return Tested(
        found.ok,
        vendor_words(said, secrets_of(provider.name)),
        "" if found.ok else "unhealthy",
        vendors.default_model(provider),
        _since(began),
    )


def _try(target: Target, actor: str) -> Tested:
    estimate = prices.estimate_input(_TURNS)
    most = costs.most(target, estimate, _MAX_TOKENS).cost_microusd
    with writing() as connection:
        who = _payer(connection, actor)
        room = house.reserve(connection, most, round(current_settings().house_daily_usd * MICROUSD), now())
    if room is None:
        raise Conflict("The house has spent what it may today: raise SWITCHHOOK_HOUSE_DAILY_USD to test now.")
    heard, cost, counted = _Heard(), 0, Counted()
    try:
        heard = _ask(target)
    finally:
        usage = heard.usage or (heard.error.usage if heard.error else None)
        usage = usage if isinstance(usage, Usage) else None
        counted, estimated = _counted(usage, heard.text, estimate)
        cost = _charge(target, usage, counted, who, room, estimated=estimated)
    ok, said = _verdict(heard)
    if ok:
        resilience.reset(target.provider.name)
    return Tested(
        ok=ok,
        said=vendor_words(said, secrets_of(target.provider.name))[:_SAID_CHARS],
        code="" if ok or heard.error is None else heard.error.code,
        model=_named(target, usage),
        latency_ms=heard.latency_ms,
        cost_microusd=cost,
        tokens=counted.input_tokens + counted.output_tokens,
    )


def _named(target: Target, usage: Usage | None) -> str:
    """The model that answered, in the vendor's words where it tells."""
    told = usage.model if usage and isinstance(usage.model, str) else ""
    return vendor_id(vendors.redacted(target.provider.name, told[:_SAID_CHARS]))[:120] or target.model


def _ask(target: Target) -> _Heard:
    heard, began = _Heard(), time.monotonic()
    call = TextCall(f"test-{uuid.uuid4().hex}", target.model, _TURNS, _MAX_TOKENS, TIMEOUT_S)
    try:
        with (
            http.call_limits(timeout_s=TIMEOUT_S, silence_s=TIMEOUT_S),
            closing(target.text.stream(call, http.client())) as pieces,  # type: ignore[type-var]
        ):
            for piece in pieces:
                if isinstance(piece, Usage):
                    heard.usage = piece
                    break
                if isinstance(piece, Text) and len(heard.text) < _SAID_CHARS:
                    heard.text += piece.text
                if time.monotonic() - began > TIMEOUT_S:
                    raise TimedOut(f"{target.provider.label} did not end its answer within {TIMEOUT_S:.0f} seconds.")
        if heard.usage is None:
            raise MalformedAnswer(f"The provider plugin {target.provider.name} ended without telling what was used.")
    except ProviderError as exc:
        heard.error = exc
    except Exception as exc:
        heard.error = _plugin_failed(target.provider, exc)
    heard.latency_ms = _since(began)
    return heard


def _verdict(heard: _Heard) -> tuple[bool, str]:
    error = heard.error
    if error is None:
        return True, heard.text.strip() or _NOTHING_SAID
    spent = isinstance(error.usage, Usage) and error.usage.finish is Finish.LENGTH
    if isinstance(error, MalformedAnswer) and spent:
        # A model that thinks first has no word left of one token; all that was to be tried has worked.
        return True, _NOTHING_SAID
    return False, f"{error.message} {error.detail}".strip()


def _counted(usage: Usage | None, text: str, estimate: int) -> tuple[Counted, bool]:
    """What the call used, and whether that is an estimate. A call that failed at once used nothing."""
    if usage is None and not text:
        return Counted(), False
    read = token_count(usage.input_tokens) if usage else None
    written = token_count(usage.output_tokens) if usage else None
    estimated = read is None or written is None
    counted = Counted(
        input_tokens=estimate if read is None else read,
        output_tokens=prices.estimate_tokens(text) if written is None else written,
        cached_tokens=token_part(usage.cached_tokens, read) if usage else 0,
        cache_write_tokens=token_part(usage.cache_write_tokens, read) if usage else 0,
        credits=usage.credits if usage and isinstance(usage.credits, Decimal) else None,
    )
    return counted.plausible(), estimated


def _charge(target: Target, usage: Usage | None, counted: Counted, who: _Payer, room: Reservation, *, estimated: bool) -> int:
    """Write the call into the ledger, for the house to pay; its cost in micro-dollars."""
    told = usage.cost_usd if usage else None
    if usage is not None and not (isinstance(told, Decimal) and told.is_finite() and 0 <= told <= _USD_MAX):
        usage = None  # what nobody can have meant is no price
    price = costs.charge(target, counted, usage)
    used = bool(counted.input_tokens or counted.output_tokens or (usage and told))
    cost = price.cost_microusd if used else 0
    with writing() as connection:
        house.settle(connection, room, cost)
        if used:
            connection.execute(insert(LedgerEntry), _entry(target, counted, price, who, estimated=estimated))
    return cost


def _entry(target: Target, counted: Counted, price: Price, who: _Payer, *, estimated: bool) -> dict[str, object]:
    return {
        "id": new_id(),
        "payer": "house",
        "person_id": who.person_id,
        "organization_id": who.organization_id,
        "channel": CHANNEL,
        "operation": OPERATION,
        "provider": target.provider.name,
        "model": target.model,
        "requests": 0,
        "input_tokens": counted.input_tokens,
        "output_tokens": counted.output_tokens,
        "cached_tokens": counted.cached_tokens,
        "cache_write_tokens": counted.cache_write_tokens,
        "cost_microusd": price.cost_microusd,
        "estimated": estimated,
        "price_source": price.source[:255],
        "price_date": price.date[:10] or None,
        "created_at": now(),
    }


def _payer(connection: Connection, actor: str) -> _Payer:
    """Who the ledger's entry names: whoever tests, else the first administrator."""
    found = connection.execute(
        select(Person.id, Person.organization_id)
        .order_by((Person.id == person_in(actor)).desc(), (Person.role == PersonRole.ADMIN).desc(), Person.id)
        .limit(1)
    ).first()
    if found is None:
        raise Conflict("Nobody is there who could be charged: make an administrator with `switchhook admin create`.")
    return _Payer(found.id, found.organization_id)


def _plugin_failed(provider: Provider, exc: Exception) -> ProviderError:
    log.error("the plugin of %s failed: %s\n%s", provider.name, type(exc).__name__, frames(exc))
    return Unavailable(f"The plugin of {provider.label} failed.", detail=f"its plugin raised {type(exc).__name__}")


def _since(began: float) -> int:
    return int((time.monotonic() - began) * 1000)
