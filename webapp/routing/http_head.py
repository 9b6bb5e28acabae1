"""The head of an answer: status and headers, from bytes as they arrived. Pure but for the reader it is handed.

Most answers come with their whole head in one packet, in the one form that RFC 9112 knows: `plain_head` reads those at once.
Everything else goes line by line through `read_head`, within the bounds of `http.client`. What is wrong with a head raises the
exceptions of `http.client`, and the whole answer is refused: whoever guesses what such a head means may take the rest of one
answer for the next one.
"""

from __future__ import annotations

import re
from http.client import BadStatusLine, HTTPException, LineTooLong, RemoteDisconnected, UnknownProtocol
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from io import BufferedReader

    from webapp.routing.wire import Raw

LONGEST_LINE = 65_536
"""Bytes of a line, its end included."""

MOST_LINES = 100
"""Lines of headers, with those that continue another and the empty one at the end."""

_STATUS = re.compile(rb"HTTP/(?:1\.[0-9]|0\.9)[ \t]+([1-9][0-9]{2})(?:[ \t][^\r\n]*)?\r?\n")
_PLAIN = re.compile(
    rb"(HTTP/1\.[0-9]) ([2-9][0-9]{2})(?: [^\r\n]*+)?\r\n"
    rb"((?:[!-9;-~]++:[^\r\n\x00]*+\r\n)*+)\r\n"
)
_FIELDS = re.compile(rb"([!-9;-~]++):[ \t]*+([^\r\n]*?)[ \t]*+\r\n")
_LINE = re.compile(rb"([!-9;-~]++):([^\r\n\x00]*+)\r?\n")
_MORE = re.compile(rb"[ \t]([^\r\n\x00]*+)\r?\n")
_MOST_DIGITS = 18
_NO_BODY = (204, 304)

Field = tuple[bytes, bytes, bytes]
"""A header: its name as it came, its name in lower case, its value."""


class Head:
    """What a head says, and what that means for the body and the connection."""

    __slots__ = ("ascii", "chunked", "encoded", "fields", "length", "status", "will_close")

    def __init__(self, status: int, old: bool, fields: list[Field], method: str, *, ascii_only: bool = False) -> None:
        """`old`: HTTP/1.0, where a connection ends with its answer unless the server says otherwise. `ascii_only`: whether the
        fields are known to hold nothing else."""
        self.status = status
        self.ascii = ascii_only
        self.fields = fields
        self.chunked = self.encoded = False
        self.length: int | None = None
        """Bytes of the body, None where its end is told by chunks or by the end of the connection."""
        lengths: bytes | None = None
        connection = proxy = keep_alive = b""
        for _, name, value in fields:
            if name == b"content-length":
                if lengths is not None and lengths != value:
                    raise HTTPException("two lengths of one body")
                lengths = value
            elif name == b"transfer-encoding":
                self._transfer(value)
            elif name == b"connection":
                connection += value.lower() + b","
            elif name == b"content-encoding":
                self.encoded = self.encoded or value.lower() not in (b"", b"identity")
            elif name == b"keep-alive":
                keep_alive = value
            elif name == b"proxy-connection":
                proxy = value.lower()
        if status in _NO_BODY or method == "HEAD":
            self.length = 0
        elif lengths and not self.chunked and lengths.isdigit():
            if len(lengths) > _MOST_DIGITS:
                raise HTTPException("the length of the body is none")
            self.length = int(lengths)
        kept = b"close" not in connection
        if old:
            kept = bool(keep_alive) or b"keep-alive" in connection or b"keep-alive" in proxy
        # A body with two ends may have been cut in two by somebody on the way.
        self.will_close = not kept or (lengths is not None if self.chunked else self.length is None)

    def _transfer(self, value: bytes) -> None:
        """Nobody asked for any encoding but chunks, so no other one can be read."""
        coding = value.lower()
        if coding == b"chunked":
            self.chunked = True
        elif coding not in (b"", b"identity"):
            raise HTTPException("the body's transfer encoding is unknown")


def plain_head(data: bytes, method: str) -> tuple[Head, int] | None:
    """The head at the beginning of `data` and where it ends, if it is all there, final and without oddities; else None."""
    found = _PLAIN.match(data)
    if found is None:
        return None
    version, status, lines = found.groups()
    fields = [(name, name.lower(), value) for name, value in _FIELDS.findall(lines)]
    if len(fields) >= MOST_LINES or len(data) > LONGEST_LINE:
        return None
    return Head(int(status), version == b"HTTP/1.0", fields, method, ascii_only=lines.isascii()), found.end()


def read_head(reader: BufferedReader[Raw], method: str) -> Head:
    """The head of the final answer, whatever form it has; what stands before it for status 100 is passed over. Any other
    interim answer is returned as it is."""
    while True:
        status, old = _status(reader)
        fields = _fields(reader)
        if status != 100:
            return Head(status, old, fields, method)


def _status(reader: BufferedReader[Raw]) -> tuple[int, bool]:
    line = reader.readline(LONGEST_LINE + 1)
    if not line:
        raise RemoteDisconnected("the server closed the connection without an answer")
    if len(line) > LONGEST_LINE:
        raise LineTooLong("status line")
    found = _STATUS.fullmatch(line)
    if found is None:
        version = line.split(None, 1)[:1]
        if version and version[0].startswith(b"HTTP/") and version[0] != b"HTTP/0.9" and not version[0].startswith(b"HTTP/1."):
            raise UnknownProtocol(version[0].decode("latin-1"))
        raise BadStatusLine(line.decode("latin-1"))
    return int(found[1]), line.startswith((b"HTTP/1.0", b"HTTP/0.9"))


def _fields(reader: BufferedReader[Raw]) -> list[Field]:
    """The headers up to the empty line. A value that goes on in the next line is put together with blanks."""
    fields: list[Field] = []
    for _ in range(MOST_LINES):
        line = reader.readline(LONGEST_LINE + 1)
        if line in (b"\r\n", b"\n"):
            return fields
        if len(line) > LONGEST_LINE:
            raise LineTooLong("header line")
        if found := _LINE.fullmatch(line):
            fields.append((found[1], found[1].lower(), found[2].strip(b" \t")))
        elif fields and (more := _MORE.fullmatch(line)):
            name, lower, value = fields[-1]
            fields[-1] = (name, lower, b"%b %b" % (value, more[1].strip(b" \t")))
        else:
            raise HTTPException("a line of the header is none" if line else "the answer ended within its header")
    raise HTTPException(f"got more than {MOST_LINES} headers")
