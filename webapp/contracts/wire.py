"""Reading what vendors send: server-sent events, texts in pieces, token counts, waiting times. Pure functions, no I/O."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from webapp.contracts.texts import bare, clean

LINE_BYTES = 4 * 1024 * 1024
ANSWER_CHARS = 4 * 1024 * 1024
BLANK_CHARS = 10_000
DETAIL_CHARS = 500
_DAY_S = 86_400.0
_TOKENS_MAX = 1_000_000_000


def lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a stream, without their ends (LF or CRLF). The last one need not have an end."""
    parts: list[bytes] = []
    size = 0
    for piece in pieces:
        first, newline, rest = piece.partition(b"\n")
        parts.append(first)
        size += len(first)
        if size > LINE_BYTES:
            raise ValueError("a line of the stream is longer than 4 MiB")
        if not newline:
            continue
        yield b"".join(parts).rstrip(b"\r")
        *whole, last = rest.split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r")
        parts, size = [last], len(last)
    if tail := b"".join(parts).rstrip(b"\r"):
        yield tail


def sse_events(stream: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    """(name, data) of each server-sent event. Comments, ids and unknown fields are skipped; data lines join with LF."""
    name, data = "", []
    for line in stream:
        if line.startswith(b"data:"):
            data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line.startswith(b"event:"):
            name = line[6:].strip().decode("utf-8", "replace")
        elif not line:
            if data:
                yield name, b"\n".join(data)
            name, data = "", []
    if data:  # some servers close without the last empty line
        yield name, b"\n".join(data)


class TextFlow:
    """Text on its way from a vendor to the core: cleaned, without a blank beginning, never half a surrogate pair.

    Models' texts come in any pieces. A blank beginning may be all there is, so it is held back until something visible
    follows. `ValueError` when the text is nothing but blanks for too long, or larger than any answer.
    """

    def __init__(self) -> None:
        self.visible = False
        self._held = ""
        self._chars = 0

    def feed(self, text: str, *, last: bool = False) -> str:
        """What of the text so far can be handed on now; '' for nothing yet. `last` lets go of what was held back."""
        text = self._held + text
        self._held = ""
        if not text:
            return ""
        # Half a character, or half of the end of a line: what it is shows with the next piece.
        if not last and ("\ud800" <= text[-1] <= "\udbff" or text[-1] == "\r"):
            text, self._held = text[:-1], text[-1]
        if not text.isascii():
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        text = clean(text)
        if not self.visible and not text.strip():
            self._held = text + self._held if not last else ""
            if len(self._held) > BLANK_CHARS:
                raise ValueError("the answer is nothing but blanks")
            return ""
        self.visible = True
        self._chars += len(text)
        if self._chars > ANSWER_CHARS:
            raise ValueError("the answer is too large")
        return text


def token_count(value: object) -> int | None:
    """A token count, None where it is missing or cannot be one."""
    if type(value) is int:
        return value if 0 <= value <= _TOKENS_MAX else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _TOKENS_MAX:
        return None
    return value


def token_part(value: object, whole: object) -> int:
    """A count that is part of another one; 0 where either cannot be believed."""
    if not value:
        return 0
    part, total = token_count(value), token_count(whole)
    return part if part is not None and total is not None and part <= total else 0


def vendor_id(text: str) -> str:
    """A name or id from outside, fit for a log line and a column."""
    text = text[:200]
    return text if text.isprintable() else "".join(character for character in text if character.isprintable())


def vendor_words(text: str, secrets: Iterable[str] = ()) -> str:
    """What a vendor said, fit for an error log: harmless, short, in one line, and without our own key, should it have echoed
    it. What nobody sees is taken out first: it could stand inside the key."""
    text = bare(text)
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "[key]")
    text = " ".join(text.split())
    return text if len(text) <= DETAIL_CHARS else text[: DETAIL_CHARS - 1] + "…"


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds the vendor asks to wait: `retry-after-ms`, else `retry-after` in seconds or as a date; else None."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if not value:
            continue
        try:
            seconds = float(value) * unit_s
        except ValueError:
            seconds = _until(value) if unit_s == 1.0 else math.nan
        if math.isfinite(seconds) and seconds >= 0:
            return min(seconds, _DAY_S)
    return None


def _until(date: str) -> float:
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return math.nan


def is_usable_url(url: str) -> bool:
    """Whether `url` is an http or https address with a host, and nothing that a path cannot be put behind. A sign-in in it
    is refused: it would be shown wherever the address is, and keys have variables of their own."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname and parts.port != 0)
    except ValueError:
        return False
    return usable and not (parts.query or parts.fragment or "@" in parts.netloc) and not any(c.isspace() for c in url)
