"""Money for people: few digits, never more left than there is, never less used than was."""

from __future__ import annotations

import pytest

from webapp.contracts.rounding import rounded_microusd


@pytest.mark.parametrize(
    ("microusd", "used", "left"),
    [
        (0, "$0.00", "$0.00"),
        (1, "$0.000001", "$0.000001"),
        (1234, "$0.001234", "$0.001234"),
        (12_345, "$0.01235", "$0.01234"),
        (123_456, "$0.1235", "$0.1234"),
        (1_234_567, "$1.235", "$1.234"),
        (12_345_678, "$12.35", "$12.34"),
        (400_000, "$0.40", "$0.40"),
        (999_999_982, "$1,000.00", "$999.99"),
        (123_456_789_012, "$123,456.79", "$123,456.78"),
        (-18, "-$0.000018", "-$0.000018"),
        (-12_345, "-$0.01234", "-$0.01235"),
    ],
)
def test_what_was_used_is_rounded_up_and_what_is_left_is_rounded_down(microusd: int, used: str, left: str) -> None:
    assert rounded_microusd(microusd) == used
    assert rounded_microusd(microusd, left=True) == left
