"""What may be stored and shown: text from outside, made harmless once, at the door."""

from __future__ import annotations

import re
import traceback

# NUL is refused by PostgreSQL; the other C0 controls (tab, line feed and carriage return excepted) and the C1 controls
# have no meaning in a message and can forge log lines or terminal sequences. A carriage return alone overwrites a line.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_ASCII_CONTROLS = {code: None for code in range(0x80) if _CONTROLS.match(chr(code))}
_LONE_RETURN = re.compile("\r(?!\n)")
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")
# Nobody sees them: they turn the direction of what follows, or stand inside a word that then no longer is found.
_HIDDEN = re.compile("[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]")
_LINE_ENDS = re.compile("[\u2028\u2029]")
# A whole token, wherever it stands, also percent-encoded; or a part of one that stands by itself. The first nine characters,
# by which people tell their tokens apart, may be shown.
_TOKEN = re.compile(r"(?i:sh(?:_|%5f))[A-Za-z0-9_%-]{28,}|(?<![A-Za-z0-9])sh_[A-Za-z0-9_-]{7,}")


def clean(text: str) -> str:
    """`text` without control characters and with lone surrogates replaced by U+FFFD, so that it can be stored as UTF-8.

    A carriage return without a line feed becomes one.
    """
    if type(text) is str and text.isprintable():
        return text  # as most texts of one line are
    # Of plain text `translate` is three times as fast, of other text thirty times as slow.
    plain = text.isascii()
    text = text.translate(_ASCII_CONTROLS) if plain else _CONTROLS.sub("", text)
    if "\r" in text:
        text = _LONE_RETURN.sub("\n", text)
    return text if plain or _encodes(text) else _LONE_SURROGATES.sub("\ufffd", text)


def _encodes(text: str) -> bool:
    """Whether there is no lone surrogate in a text; a search for one takes five times as long."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def bare(text: str) -> str:
    """`text` as `clean` leaves it, without characters that nobody sees either: for what is searched, and for logs.

    >>> bare("a\\u202eb")
    'ab'
    """
    text = clean(text)
    return text if text.isascii() else _LINE_ENDS.sub("\n", _HIDDEN.sub("", text))


def hide_tokens(text: str) -> str:
    """`text` without API tokens, nor what looks like one: for logs, answers and the audit trail.

    >>> hide_tokens("no such token: sh_not-a-real-token")
    'no such token: sh_***'
    """
    return _TOKEN.sub("sh_***", text) if "sh" in text or "SH" in text else text


def mask_address(address: str) -> str:
    """An address for log lines: the last two characters of a number, the domain of an e-mail; the rest is hidden.

    >>> mask_address("+15005550006")
    '+1********06'
    """
    if "@" in address:
        return "***@" + address.rpartition("@")[2]
    if len(address) < 6:
        return "*" * len(address)
    return address[:2] + "*" * (len(address) - 4) + address[-2:]


def frames(exc: BaseException) -> str:
    """Where an exception came from, for a log line: its text is left out, because it may quote what people wrote."""
    return "".join(traceback.format_tb(exc.__traceback__)).rstrip()
