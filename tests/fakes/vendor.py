"""What the fakes of all model vendors have in common, so that one contract suite and one set of faults serves them all."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .server import FakeServer, Fault

KEY = "test-key-0123456789abcdef"
"""The key that every fake wants, in whatever header its vendor uses."""


class Trouble(StrEnum):
    """What can go wrong at a vendor, whichever way it says so."""

    RATE_LIMITED = "rate limited"
    OVERLOADED = "overloaded"
    DOWN = "down"
    BAD_KEY = "bad key"
    NO_CREDIT = "no credit"
    NO_MODEL = "no model"
    TOO_LONG = "too long"
    POLICY = "policy"
    BAD_REQUEST = "bad request"


@dataclass(frozen=True, slots=True)
class Reported:
    """What a fake told a client that it counted, in our convention: cached tokens inside the input, reasoning inside the
    output."""

    model: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    pictures: int = 0


class FakeVendor(FakeServer):
    """A fake of a model vendor. It refuses calls that break its vendor's format, as the vendor would."""

    name: str
    """The provider plugin's name."""

    model = "fake-model"

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.key = KEY
        self.first_delay_s = 0.0
        """Seconds before an answer begins."""
        self.reported: list[Reported] = []
        """The counts of every answer that was written to its end; add to it by `report`."""

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, str]:
        """The environment that leads the plugin here, with the key and the fake's model."""

    @abstractmethod
    def trouble(self, kind: Trouble) -> Fault | None:
        """How this vendor says so: status, headers and body as in its documentation. None where it has no such thing."""

    def report(self, counts: Reported) -> None:
        """Call it just before the last piece of an answer is handed to the server."""
        with self.lock:
            self.reported.append(counts)

    def delay(self) -> None:
        """Wait `first_delay_s`, or until the fake is stopped."""
        if self.first_delay_s:
            self.stopping.wait(self.first_delay_s)


class FakeTextVendor(FakeVendor):
    """A fake vendor of text models."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.text = "Hello there. This is the fake vendor speaking."
        """What it answers, streamed word by word; a token is a word."""
        self.finish = ""
        """The finish reason in the vendor's own word; '' for its word for a normal end."""
        self.with_usage = True
        self.cached_tokens = 0
        """How many input tokens it says were read from its cache, in the vendor's own convention of counting."""
        self.reasoning_tokens = 0
        """How many reasoning tokens it adds to the output."""
        self.wishes: list[tuple[str, dict[str, Any]]] = []
        """Tools that it asks for, with their arguments, where a call offers any and does not end with a tool's answer."""
        self.wish_text = ""
        """What it says before it asks for them."""
        self.script: Callable[[], Iterator[bytes]] | None = None
        """Replaces the body of an answer: the pieces are sent as they are."""

    def asked_for(self, offered: list[str], choice: str, *, answered: bool) -> list[tuple[str, dict[str, Any]]]:
        """The tools that it asks for: `wishes`, or one if it must. `choice` is '', `auto`, `none`, `required` or a name;
        `answered` tells that the call ends with what a tool gave."""
        if not offered or choice == "none" or answered:
            return []
        if choice in offered:
            return [(choice, dict(self.wishes).get(choice, {}))]
        return self.wishes or ([(offered[0], {})] if choice == "required" else [])

    @abstractmethod
    def good_stream(self, text: str) -> bytes:
        """The whole body of a streamed answer that says `text`, with usage, for tests that cut or spoil it."""

    def good_document(self, text: str) -> bytes | None:
        """The whole body of an answer by a server that does not stream although it was asked to; None where there is none."""
        return None


class FakeImageVendor(FakeVendor):
    """A fake vendor of images. It draws real, tiny pictures."""


_guard = threading.Lock()
_pictures: dict[tuple[int, int, str], bytes] = {}


def tiny_png(width: int = 8, height: int = 8, color: str = "teal") -> bytes:
    """A real PNG of one colour, made by hand: no image library is needed to run a fake."""
    import struct
    import zlib

    shades = {"teal": (0, 128, 128), "red": (200, 0, 0), "grey": (90, 90, 90)}
    with _guard:
        known = _pictures.get((width, height, color))
        if known is None:
            row = b"\0" + bytes(shades[color]) * width

            def chunk(kind: bytes, data: bytes) -> bytes:
                return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

            head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
            known = (
                b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(row * height)) + chunk(b"IEND", b"")
            )
            _pictures[width, height, color] = known
    return known
