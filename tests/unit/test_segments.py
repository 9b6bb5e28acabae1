"""Encodings, segments and shortened answers, against a second way of counting."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from webapp.contracts.segments import BASIC, ENDING, EXTENSION, economical, encoding, fit, segments

GSM7_TEXT = st.text(st.sampled_from(sorted(BASIC | EXTENSION)), min_size=1, max_size=700)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=400)


def utf16_units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def cut_into_parts(text: str) -> list[str]:
    """The parts a phone receives, cut greedily one after the other: the slow, obvious way."""
    gsm7 = all(c in BASIC | EXTENSION for c in text)

    def width(part: str) -> int:
        return sum(2 if c in EXTENSION else 1 for c in part) if gsm7 else utf16_units(part)

    if width(text) <= (160 if gsm7 else 70):
        return [text]
    parts = [""]
    for char in text:
        if width(parts[-1] + char) > (153 if gsm7 else 67):
            parts.append("")
        parts[-1] += char
    return parts


def test_the_gsm7_tables_are_complete() -> None:
    assert len(BASIC) == 127  # 128 places, one of them the escape
    assert len(EXTENSION) == 10
    assert not BASIC & EXTENSION


@pytest.mark.parametrize(
    ("text", "kind", "count"),
    [
        ("a" * 160, "gsm7", 1),
        ("a" * 161, "gsm7", 2),
        ("a" * 306, "gsm7", 2),
        ("a" * 307, "gsm7", 3),
        ("€" * 80, "gsm7", 1),
        ("€" * 81, "gsm7", 2),
        # 153 is odd: every part of a text of pairs loses a septet, so that 153 pairs are 3 parts and not 2.
        ("€" * 153, "gsm7", 3),
        ("a" * 152 + "€" + "a" * 152, "gsm7", 3),
        ("a" * 152 + "€" + "a" * 151, "gsm7", 2),
        ("é" * 160, "gsm7", 1),
        ("ç" + "a" * 69, "ucs2", 1),
        ("ç" + "a" * 70, "ucs2", 2),
        ("ç" * 134, "ucs2", 2),
        ("ç" * 135, "ucs2", 3),
        ("😀" * 35, "ucs2", 1),
        ("😀" * 36, "ucs2", 2),
        ("😀" * 67, "ucs2", 3),
        ("👨‍👩‍👧‍👦" * 6, "ucs2", 1),
        ("👨‍👩‍👧‍👦" * 7, "ucs2", 2),
        ("שלום", "ucs2", 1),
        ("a`b", "ucs2", 1),
        ("a" * 1600, "gsm7", 11),
        ("ж" * 1600, "ucs2", 24),
    ],
)
def test_segments_at_the_edges(text: str, kind: str, count: int) -> None:
    assert encoding(text) == kind
    assert segments(text) == count


def test_an_empty_text_has_no_segments() -> None:
    with pytest.raises(ValueError, match="empty"):
        segments("")


@given(GSM7_TEXT)
def test_gsm7_texts_fall_into_as_many_parts_as_a_phone_receives(text: str) -> None:
    assert encoding(text) == "gsm7"
    assert segments(text) == len(cut_into_parts(text))


@given(ANY_TEXT)
@example("\ud800" * 71)
def test_any_text_falls_into_as_many_parts_as_a_phone_receives(text: str) -> None:
    assert segments(text) == len(cut_into_parts(text))


@given(ANY_TEXT, ANY_TEXT)
def test_more_text_never_costs_less(one: str, more: str) -> None:
    assert segments(one + more) >= segments(one)


def test_typographic_characters_are_made_plain_where_that_saves_money() -> None:
    assert economical("It’s “fine” — really…") == 'It\'s "fine" - really...'
    assert economical("It’s fine 😀") == "It’s fine 😀"
    assert economical("plain") == "plain"


@given(ANY_TEXT)
def test_making_a_text_plain_never_makes_it_dearer_by_its_encoding(text: str) -> None:
    plain = economical(text)
    assert plain == text or (encoding(text), encoding(plain)) == ("ucs2", "gsm7")


# -- shortening ----------------------------------------------------------------------------------------------------


def test_a_text_that_fits_stays_as_it_is() -> None:
    assert fit("a" * 1600) == "a" * 1600
    assert fit("") == ""
    assert fit("  two  \n", 20) == "  two  \n"


def test_a_long_answer_ends_with_a_sentence() -> None:
    text = "The first sentence is here. The second one is a little longer! And this third one does not fit any more."
    assert fit(text, 80) == f"The first sentence is here. The second one is a little longer! {ENDING}"


def test_a_decimal_point_is_not_the_end_of_a_sentence() -> None:
    text = "The value of pi is about 3.14159265358979323846264338327950288419716939937510"
    assert fit(text, 45) == f"The value of pi is about{ENDING}"


def test_a_long_sentence_is_cut_between_words() -> None:
    assert fit("one two three four five six seven eight nine ten eleven", 40) == f"one two three four five{ENDING}"


def test_a_word_longer_than_the_room_is_cut_within() -> None:
    assert fit("x" * 200, 50) == "x" * 34 + ENDING


def test_a_text_without_blanks_in_another_script_ends_with_its_sentence() -> None:
    assert fit("これは最初の文です。" * 8, 50) == "これは最初の文です。" * 3 + f" {ENDING}"


def test_characters_of_several_parts_are_not_torn_apart() -> None:
    family = "👨‍👩‍👧‍👦"
    assert fit(family * 10, 40) == family * 2 + ENDING
    assert fit("e\u0301" * 40, 20) == "e\u0301" * 2 + ENDING
    assert fit("👍🏽" * 20, 21) == "👍🏽" + ENDING


def test_gsm7_stays_gsm7_when_it_is_shortened() -> None:
    assert encoding(fit("word " * 1000)) == "gsm7"
    assert segments(fit("word " * 1000)) <= 11


def test_room_for_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        fit("text", 0)


@given(st.text(max_size=300), st.integers(1, 120))
def test_what_was_fitted_fits_and_begins_as_the_text_did(text: str, max_chars: int) -> None:
    fitted = fit(text, max_chars)
    assert utf16_units(fitted) <= max_chars
    if fitted != text:
        assert utf16_units(text) > max_chars
        start = fitted.removesuffix(ENDING).rstrip()
        assert text.startswith(start)
        assert fitted.endswith(ENDING) or max_chars <= len(ENDING) + 1
