"""The lines of a file that says to be UTF-8 text: bounded, numbered, and with what is not UTF-8 noted where it is."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import BinaryIO

_OTHER_MARKS = {
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
    b"PK\x03\x04": "a spreadsheet or a ZIP file",
    b"\x1f\x8b": "compressed",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet",
    b"%PDF": "a PDF",
}
SAVE = "save it as CSV in UTF-8, or as JSON Lines"


class Lines:
    """An iterator of a file's lines with their ends. `fault` says afterwards why it ended too early, '' if it did not."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self.number = 0
        """The line that was read last, counted from 1."""
        self.fault = ""
        self._file = file
        self._max_bytes = max_bytes
        self._bytes = 0
        self._head: str | None = None
        self._bad = ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        text, self._head = self._head, None
        if text is None:
            text = self._read()
        if not text:
            raise StopIteration
        self.number += 1
        return text

    def head(self) -> str:
        """The next line, which stays the next one; '' at the end."""
        if self._head is None:
            self._head = self._read() or None
        return self._head or ""

    def skip(self) -> None:
        """Pass over the next line."""
        next(self, None)

    def take_bad(self) -> str:
        """What was wrong with the lines that were read since it was last asked, '' for nothing."""
        bad, self._bad = self._bad, ""
        return bad

    def _read(self) -> str:
        """The next line, '' at the end. Text that is not UTF-8 is replaced, and noted."""
        if self.fault:
            return ""
        at = self._bytes
        data = self._file.readline(self._max_bytes + 1)
        self._bytes += len(data)
        if self._bytes > self._max_bytes:
            self.fault = f"It is larger than {self._max_bytes // 1_048_576} MB: split it into several files."
            return ""
        if at == 0:
            for mark, what in _OTHER_MARKS.items():
                if data.startswith(mark):
                    self.fault = f"It is {what}, and not UTF-8 text: {SAVE}."
                    return ""
            data = data.removeprefix(codecs.BOM_UTF8)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as exc:
            byte = data[exc.start]
            self._bad = (
                f"Line {self.number + 1} is not UTF-8: byte {exc.start + 1} of it is {byte:#04x}. Save the file as UTF-8 again."
            )
            return data.decode("utf-8", "replace")
