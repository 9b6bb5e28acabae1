"""How a text message is encoded, into how many billed parts it falls, and how a long answer is made to fit."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Literal

Encoding = Literal["gsm7", "ucs2"]

BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡"
    "ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
"""GSM-7's basic table: one septet each. Source: 3GPP TS 23.038."""

EXTENSION = frozenset("^{}\\[~]|€\f")
"""GSM-7's extension table: an escape and a character, two septets."""

_GSM7 = BASIC | EXTENSION
_WHOLE: dict[Encoding, int] = {"gsm7": 160, "ucs2": 70}
_PART: dict[Encoding, int] = {"gsm7": 153, "ucs2": 67}

# One typographic quote turns a whole message into UCS-2 and more than doubles its price, and models like to write them.
_LOOK_ALIKES = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛′`´", "'"),
        **dict.fromkeys("“”„‟″«»", '"'),
        **dict.fromkeys("‐‑‒–—―−", "-"),
        **dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u3000\t", " "),
        **dict.fromkeys("\u200b\u200c\u2060\ufeff", None),
        "…": "...",
        "•": "-",
        "·": "-",
        "×": "x",
    }
)

ENDING = "... (shortened)"
"""What a shortened text ends with. Three dots: the ellipsis is not in GSM-7."""

_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*(?=\s)|[。！？]|\n")
_WORD_END = re.compile(r"(?<=\S)(?=\s)")


def encoding(text: str) -> Encoding:
    """`gsm7` if every character of `text` is in GSM-7's two tables, else `ucs2`: one character decides for all."""
    return "gsm7" if _GSM7.issuperset(text) else "ucs2"


def segments(text: str) -> int:
    """Number of SMS segments `text` is billed as; ValueError if it is empty.

    GSM-7: 160 septets alone, 153 each in several. Anything else is UCS-2: 70 UTF-16 units, or 67. A pair (escape and
    character, or two surrogates) is never split: a part then carries one unit less. Source: 3GPP TS 23.038, 23.040.
    """
    if not text:
        raise ValueError("an empty text has no segments")
    kind = encoding(text)
    widths = [2 if char in EXTENSION else 1 for char in text] if kind == "gsm7" else [_units(char) for char in text]
    if sum(widths) <= _WHOLE[kind]:
        return 1
    return _parts(widths, _PART[kind])


def economical(text: str) -> str:
    """`text` with typographic quotes, dashes, ellipses and blanks made plain, if that brings all of it into GSM-7.

    Otherwise `text` as it is: where an emoji needs UCS-2 anyway, nothing is gained by plainer quotes. The text may
    become longer, so this goes before `fit`.
    """
    if encoding(text) == "gsm7":
        return text
    plain = text.translate(_LOOK_ALIKES)
    return plain if encoding(plain) == "gsm7" else text


def fit(text: str, max_chars: int = 1600) -> str:
    """`text`, or where it is longer than `max_chars` its start, up to the end of a sentence or word, and `ENDING`.

    Characters are counted as UTF-16 units (most emoji are two), the strictest way in which vendors count. Where
    `max_chars` has no room for `ENDING`, the text is cut without it. ValueError if `max_chars` is below 1.
    """
    if max_chars < 1:
        raise ValueError(f"max_chars must be at least 1, not {max_chars}")
    if len(text) <= max_chars and (text.isascii() or sum(map(_units, text)) <= max_chars):
        return text
    room = max_chars - len(ENDING) - 1
    if room < 1:
        return _prefix(text, max_chars)
    start = _prefix(text, room)
    # A sentence may cost a third of the room, a word half of it; beyond that a rough cut says more.
    sentence = max((m.end() for m in _SENTENCE_END.finditer(text, 0, len(start) + 1) if m.end() <= len(start)), default=0)
    if sentence >= len(start) * 2 / 3:
        return f"{start[:sentence].rstrip()} {ENDING}"
    word = max((m.start() for m in _WORD_END.finditer(text, 0, len(start) + 1)), default=0)
    if word >= len(start) / 2:
        start = start[:word]
    return start.rstrip() + ENDING


def _units(char: str) -> int:
    return 2 if char > "\uffff" else 1


def _parts(widths: Iterable[int], capacity: int) -> int:
    """Into how many parts of `capacity` units a row of unsplittable widths falls, filled in order."""
    parts, room = 1, capacity
    for width in widths:
        if width > room:
            parts, room = parts + 1, capacity
        room -= width
    return parts


def _prefix(text: str, units: int) -> str:
    """The longest start of `text` of at most `units` UTF-16 units that does not tear a combined character apart."""
    end = used = 0
    for char in text:
        used += _units(char)
        if used > units:
            break
        end += 1
    whole = end
    while 0 < end < len(text) and (_joins(text[end]) or text[end - 1] == "\u200d"):
        end -= 1
    return text[: end or whole]


def _joins(char: str) -> bool:
    """Whether `char` belongs to the one before it: combining marks, joiners, variation selectors, skin tones."""
    return unicodedata.category(char).startswith("M") or char == "\u200d" or "\U0001f3fb" <= char <= "\U0001f3ff"
