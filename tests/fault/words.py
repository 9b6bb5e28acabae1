"""What is written in the messages of the run, so that every call, answer and text can be told whose it is."""

from __future__ import annotations

import re

_MARK = re.compile(r"\bmark (\d+)\b")


def question(number: int) -> str:
    """The text of message `number`; no two are alike, so no answer is kept from another."""
    return f"Please explain the history of mark {number} in a sentence or two"


def answer(number: int) -> str:
    """What the vendor says to it: long enough to be cut off in the middle."""
    return f"This is all that is known about mark {number} by those " + "who have looked into it with care " * 3


def number_in(text: str) -> int | None:
    """Which message a text is about."""
    found = _MARK.findall(text)
    return int(found[-1]) if found else None


def phone(number: int) -> str:
    """A number that means nothing to Twilio's test mode."""
    return f"+1500555{2000 + number}"
