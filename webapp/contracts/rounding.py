"""Money in as many digits as people read. What is added, compared and stored stays exact: see `money`."""

from __future__ import annotations

from webapp.contracts.money import MICROUSD, format_microusd

_CENT = MICROUSD // 100
_DIGITS = 4


def rounded_microusd(amount: int, *, left: bool = False) -> str:
    """An amount in four significant digits, and in cents at least. What was used is rounded up; what is `left` is rounded
    down, so that nobody reads that there is more than there is.

    >>> rounded_microusd(999_999_982, left=True), rounded_microusd(18), rounded_microusd(1_234_567)
    ('$999.99', '$0.000018', '$1.235')
    """
    unit = min(_CENT, 10 ** max(0, len(str(abs(amount))) - _DIGITS))
    units = amount // unit if left else -(-amount // unit)
    return format_microusd(units * unit)
