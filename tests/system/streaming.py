"""A small WSGI application that says what happens to its streams; `python -m tests.system.streaming` serves it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator

from webapp.cli import processes
from webapp.contracts.errors import SetupError


def make() -> Callable[..., Iterable[bytes]]:
    """The application. `/pid` names the process, `/slow` streams two pieces, `/endless` streams until it is closed."""
    if fault := os.environ.get("STREAMING_FAULT"):
        raise SetupError(fault)
    if os.environ.get("STREAMING_LOADS_LONG"):
        os.write(1, b"loading\n")
        time.sleep(60)

    def application(environ: dict[str, str], start_response: Callable[..., object]) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        if environ["PATH_INFO"] == "/slow":
            return slow()
        if environ["PATH_INFO"] == "/endless":
            return endless()
        return [str(os.getpid()).encode()]

    return application


def slow() -> Iterator[bytes]:
    yield b"first\n"
    time.sleep(0.7)
    yield b"last\n"


def endless() -> Iterator[bytes]:
    try:
        while True:
            yield b"piece\n"
            time.sleep(0.02)
    finally:
        os.write(1, b"the stream was closed\n")


if __name__ == "__main__":
    settings = processes.settings_with()
    processes.serve(settings, processes.free_address(settings), factory="tests.system.streaming:make")
