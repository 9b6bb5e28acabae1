"""Money is whole micro-dollars. Nothing else is added, compared or stored."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

MICROUSD = 1_000_000


def to_microusd(usd: Decimal) -> int:
    """Whole micro-dollars of an amount in dollars, rounded up: a charge is never understated."""
    return int((usd * MICROUSD).to_integral_value(rounding=ROUND_CEILING))


def format_microusd(amount: int) -> str:
    """An amount for people: cents where they suffice, else as many digits as show it.

    >>> format_microusd(1_250_000), format_microusd(420), format_microusd(0)
    ('$1.25', '$0.00042', '$0.00')
    """
    sign = "-" if amount < 0 else ""
    whole, part = divmod(abs(amount), MICROUSD)
    digits = f"{part:06d}".rstrip("0").ljust(2, "0")
    return f"{sign}${whole:,}.{digits}"
