"""What comes from vendors, made harmless: controls, lone carriage returns, hidden characters, keys."""

from __future__ import annotations

import pytest

from webapp.contracts.texts import bare, clean
from webapp.contracts.wire import TextFlow, vendor_words

KEY = "sk-test-0123456789"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a\x00b\x1b[2J\x7f", "ab[2J"),
        ("a\x9b31mb\x85c", "a31mbc"),
        ("one\rtwo\r\nthree\r", "one\ntwo\r\nthree\n"),
        ("é ü ß ñ À ÿ \xa0 ¡ €", "é ü ß ñ À ÿ \xa0 ¡ €"),
        ("\u202eabc", "\u202eabc"),
        ("a\ud800b", "a\ufffdb"),
    ],
)
def test_controls_go_and_letters_stay(text: str, left: str) -> None:
    assert clean(text) == left
    assert clean(left) == left


def test_what_nobody_sees_goes_from_what_is_searched() -> None:
    assert bare("a\u202e\u2066\u200b\u00ad\ufeffb\u2028c") == "ab\nc"


@pytest.mark.parametrize("hidden", ["\x00", "\x9b", "\u202e", "\u2069", "\u200b", "\u00ad"])
def test_a_key_with_something_hidden_in_it_is_found(hidden: str) -> None:
    assert vendor_words(f"bad {KEY[:5]}{hidden}{KEY[5:]}!", (KEY,)) == "bad [key]!"


def test_vendors_words_are_one_line() -> None:
    assert vendor_words(" a\r\nb\tc\u2028d\u2029e\x85  f\rg ") == "a b c d e f g"


def test_the_longer_of_two_keys_is_taken_out_first() -> None:
    assert vendor_words("sk-abc-def", ("sk-abc", "sk-abc-def", "")) == "[key]"


@pytest.mark.parametrize("cut", range(6))
def test_the_end_of_a_line_in_two_pieces_stays_one(cut: int) -> None:
    flow, text = TextFlow(), "a\r\nb\r"
    assert flow.feed(text[:cut]) + flow.feed(text[cut:]) + flow.feed("", last=True) == "a\r\nb\n"
