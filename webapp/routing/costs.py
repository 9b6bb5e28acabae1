"""What a call to a target costs under this installation's settings."""

from __future__ import annotations

from webapp.extensions import current_settings
from webapp.routing import prices
from webapp.routing.prices import Price, Rates
from webapp.routing.route import Target

NO_MODEL = "(none)"
"""A name that no price table knows."""


def charge(target: Target, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> Price:
    """What a call that used these tokens costs."""
    return prices.price(
        target.provider.price_as,
        target.model,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_tokens=cached_tokens,
        fallback=_fallback(),
        free_of_charge=target.provider.free_of_charge,
    )


def most(target: Target | None, input_tokens: int, max_output_tokens: int) -> Price:
    """The most that a call can cost: what is held before it is made. With no target known, the operator's ceiling."""
    if target is None:
        return prices.price("", NO_MODEL, input_tokens=input_tokens, output_tokens=max_output_tokens, fallback=_fallback())
    return prices.ceiling(
        target.provider.price_as,
        target.model,
        input_tokens=input_tokens,
        max_output_tokens=max_output_tokens,
        fallback=_fallback(),
        free_of_charge=target.provider.free_of_charge,
    )


def _fallback() -> Rates:
    settings = current_settings()
    return Rates.of(settings.ceiling_input_usd, settings.ceiling_output_usd)
