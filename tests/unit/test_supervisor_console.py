"""What `switchhook up` shows of its children."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import pytest

from webapp.cli.console import LINE_MAX_BYTES, Console, Output


class Child:
    """A child's end of its output, and what the operator sees of it."""

    def __init__(self, *, mute: tuple[bytes, ...] = ()) -> None:
        reading, self._writing = os.pipe()
        self.shown = io.BytesIO()
        self.output = Output(os.fdopen(reading, "rb", 0), "web", Console(self.shown, self.shown), mute=mute)

    def says(self, data: bytes) -> None:
        os.write(self._writing, data)

    def ends(self) -> None:
        os.close(self._writing)


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child()
    yield child
    child.output.close()


def test_a_line_is_shown_once_it_is_whole(child: Child) -> None:
    child.says(b"half a li")
    assert child.output.read()
    assert child.shown.getvalue() == b""
    child.says(b"ne\nand another\n")
    assert child.output.read()
    assert child.shown.getvalue() == b"web    | half a line\nweb    | and another\n"
    child.ends()
    assert not child.output.read()


def test_the_last_words_of_a_child_are_shown_without_a_line_end(child: Child) -> None:
    child.says(b"aaargh")
    child.ends()
    child.output.drain()
    assert child.shown.getvalue() == b"web    | aaargh\n"


def test_nothing_to_read_is_not_the_end(child: Child) -> None:
    assert child.output.read()
    child.ends()
    assert not child.output.read()


def test_a_line_without_end_is_shown_in_pieces(child: Child) -> None:
    endless = b"x" * LINE_MAX_BYTES
    child.says(endless)
    while len(child.shown.getvalue()) < LINE_MAX_BYTES:
        assert child.output.read()
    assert child.shown.getvalue() == b"web    | " + endless + b"\n"
    child.ends()


def test_bytes_that_are_no_text_pass_as_they_are(child: Child) -> None:
    child.says(b"\xff\x00\n")
    child.ends()
    child.output.drain()
    assert child.shown.getvalue() == b"web    | \xff\x00\n"


def test_lines_that_are_not_worth_it_are_left_out() -> None:
    child = Child(mute=(b"overcommit",))
    child.says(b"set overcommit\nsomething else\n")
    child.ends()
    child.output.drain()
    child.output.close()
    assert child.shown.getvalue() == b"web    | something else\n"


def test_a_terminal_that_is_gone_is_no_reason_to_fail() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", 0) as gone:
        console = Console(gone, gone)
        console.show("hello")
        console.report("still here")
        console.line("web", b"and here")
