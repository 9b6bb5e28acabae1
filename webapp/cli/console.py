"""What `switchhook up` shows: the children's lines with their names in front, and its own."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import IO

LINE_MAX_BYTES = 64 * 1024
"""A longer line is cut into several: a child that never ends its line must not fill our memory."""

_COLOURS = (36, 32, 35, 33, 34, 31)  # ANSI: cyan, green, magenta, yellow, blue, red


class Console:
    """Writes whole lines. A terminal that is gone is no reason to stop: what cannot be written is dropped."""

    def __init__(self, out: IO[bytes] | None = None, err: IO[bytes] | None = None, *, width: int = 6) -> None:
        self._out = out or sys.stdout.buffer
        self._err = err or sys.stderr.buffer
        self._width = width
        self._colour = out is None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self._prefixes: dict[str, bytes] = {}

    def line(self, name: str, line: bytes) -> None:
        """One line of a child's output, without its line end."""
        self._write(self._out, self._prefix(name) + line + b"\n")

    def show(self, text: str) -> None:
        """Something for the operator to read, on standard output."""
        self._write(self._out, text.encode() + b"\n")

    def report(self, text: str) -> None:
        """One line about the processes, on standard error."""
        self._write(self._err, f"switchhook: {text}\n".encode())

    def _prefix(self, name: str) -> bytes:
        if name not in self._prefixes:
            text = f"{name:<{self._width}} | "
            if self._colour:
                text = f"\x1b[{_COLOURS[len(self._prefixes) % len(_COLOURS)]}m{text}\x1b[0m"
            self._prefixes[name] = text.encode()
        return self._prefixes[name]

    @staticmethod
    def _write(stream: IO[bytes], data: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):
            stream.write(data)
            stream.flush()


class Output:
    """The reading end of one process's standard output and error, cut into lines."""

    def __init__(self, stream: IO[bytes], name: str, console: Console, *, mute: tuple[bytes, ...] = ()) -> None:
        os.set_blocking(stream.fileno(), False)
        self._stream = stream
        self._name = name
        self._console = console
        self._mute = mute
        self._rest = b""

    def fileno(self) -> int:
        return self._stream.fileno()

    def close(self) -> None:
        self._stream.close()

    def read(self) -> bool:
        """Show what has arrived; False once everyone who could write there has closed it."""
        data = self._take()
        return data is None or bool(data)

    def drain(self) -> None:
        """Show all that has arrived, without waiting for more."""
        while self._take():
            pass

    def _take(self) -> bytes | None:
        """Read once and show the whole lines; None if there is nothing now, empty at the end."""
        try:
            data = os.read(self.fileno(), LINE_MAX_BYTES)
        except BlockingIOError:
            return None
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if self._rest and (not data or len(self._rest) >= LINE_MAX_BYTES):
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            if not any(word in line for word in self._mute):
                self._console.line(self._name, line)
        return data
