"""What may be stored and shown: text from outside, made harmless once, at the door."""

from __future__ import annotations

import re
import traceback

# NUL is refused by PostgreSQL; the other C0 controls (tab, line feed and carriage return excepted) have no meaning in a
# message and can forge log lines or terminal sequences.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """`text` without control characters and with lone surrogates replaced by U+FFFD, so that it can be stored as UTF-8."""
    if text.isascii():
        return _CONTROLS.sub("", text)
    return _LONE_SURROGATES.sub("\ufffd", _CONTROLS.sub("", text))


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
