"""`clean` by each single character, whichever way it goes for a text."""

from __future__ import annotations

import pytest

from webapp.contracts.errors import BadInput
from webapp.contracts.texts import clean
from webapp.pipeline import parameters

_TAKEN_OUT = {*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), *range(0x7F, 0xA0)}


def cleaned(code: int) -> str:
    """What is to become of a character in the middle of a text."""
    if code in _TAKEN_OUT:
        return ""
    if code == 0x0D:
        return "\n"
    return "\ufffd" if 0xD800 <= code <= 0xDFFF else chr(code)


@pytest.mark.parametrize(("before", "after"), [("a", "b"), ("a\n", "b"), ("é", "b\t"), ("\U0001f600\n", "")])
def test_each_character_is_kept_or_taken_out_whatever_stands_beside_it(before: str, after: str) -> None:
    for code in (*range(0x3000), *range(0xD7F0, 0xE010), 0xFEFF, 0xFFFF, 0x10000, 0x10FFFF):
        assert clean(f"{before}{chr(code)}{after}") == f"{before}{cleaned(code)}{after}", hex(code)
    assert clean(f"{before}\r\n{after}") == f"{before}\r\n{after}"


def test_the_name_of_a_model_has_only_what_is_kept() -> None:
    for code in (*range(0x3000), *range(0xD7F0, 0xE010), 0xFEFF, 0x10FFFF):
        name = f"openai/gpt{chr(code)}4"
        try:
            parameters.check({"model": name})
            taken = True
        except BadInput:
            taken = False
        assert taken == (not chr(code).isspace() and clean(name) == name), hex(code)
