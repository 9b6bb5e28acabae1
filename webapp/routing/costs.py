"""What a call to a target costs under this installation's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from webapp.contracts.calls import Usage
from webapp.extensions import current_settings
from webapp.routing import prices, vendors
from webapp.routing.prices import Counted, Price, Rates

if TYPE_CHECKING:
    from webapp.routing.route import Target

NO_MODEL = "(none)"
"""A name that no price table knows."""


def charge(target: Target, counted: Counted, usage: Usage | None = None) -> Price:
    """What a call that used this costs; `usage` may tell what the vendor itself charged."""
    provider = target.provider
    return prices.price(
        provider.price_as,
        target.model,
        counted,
        fallback=fallback(),
        override=vendors.override(provider, target.model),
        free_of_charge=provider.free_of_charge,
        vendor_usd=usage.cost_usd if usage else None,
    )


def most(target: Target | None, input_tokens: int, max_output_tokens: int, pictures: int = 0) -> Price:
    """The most that a call can cost: what is held before it is made. With no target known, the operator's ceiling."""
    provider = None if target is None else target.provider
    return prices.ceiling(
        "" if provider is None else provider.price_as,
        NO_MODEL if target is None else target.model,
        input_tokens=input_tokens,
        max_output_tokens=max_output_tokens,
        pictures=pictures,
        fallback=fallback(),
        override=None if target is None else vendors.override(target.provider, target.model),
        free_of_charge=provider is not None and provider.free_of_charge,
    )


def fallback() -> Rates:
    """The operator's ceiling."""
    settings = current_settings()
    return Rates.of(settings.ceiling_input_usd, settings.ceiling_output_usd, settings.ceiling_picture_usd)
