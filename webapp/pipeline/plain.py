"""Markdown as plain text, for channels that show text as it is: a phone would show the asterisks."""

from __future__ import annotations

from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token

_MAX_CHARS = 60_000
"""Longer answers go out as they are: parsing hostile Markdown takes more than linear time, and they are cut anyway."""


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("js-default", {"html": False, "linkify": False})


def plain_text(markdown: str) -> str:
    """`markdown` without its marks: lists keep their dashes and numbers, links their addresses, code its lines."""
    if len(markdown) > _MAX_CHARS:
        return markdown
    writer = _Writer()
    for token in _parser().parse(markdown):
        writer.block(token)
    return "".join(writer.out).strip() or markdown


class _Writer:
    """Walks the parser's flat list of tokens and writes what they stand for."""

    def __init__(self) -> None:
        self.out: list[str] = []
        self._lists: list[int | None] = []
        self._cells: list[str] | None = None

    def block(self, token: Token) -> None:
        kind = token.type
        if kind == "inline":
            self._text(_inline(token.children or []))
        elif kind in ("fence", "code_block"):
            self._text(token.content.rstrip("\n"))
            self._end()
        elif kind in ("bullet_list_open", "ordered_list_open"):
            start = int(token.attrGet("start") or 1) if kind == "ordered_list_open" else None
            self._lists.append(start)
        elif kind in ("bullet_list_close", "ordered_list_close"):
            self._lists.pop()
            self._end()
        elif kind == "list_item_open":
            self._item()
        elif kind == "tr_open":
            self._cells = []
        elif kind == "tr_close":
            cells, self._cells = self._cells or [], None
            self.out.append(" | ".join(cells) + "\n")
        elif kind in ("paragraph_close", "heading_close", "table_close"):
            self._end()

    def _text(self, text: str) -> None:
        if self._cells is not None:
            self._cells.append(text)
        else:
            self.out.append(text)

    def _item(self) -> None:
        number = self._lists[-1]
        self._line()
        self.out.append("  " * (len(self._lists) - 1) + ("- " if number is None else f"{number}. "))
        if number is not None:
            self._lists[-1] = number + 1

    def _line(self) -> None:
        if self.out and not self.out[-1].endswith("\n"):
            self.out.append("\n")

    def _end(self) -> None:
        """A line of a list ends with it; anything else is followed by an empty one."""
        self._line()
        if not self._lists and not (self.out and self.out[-1] == "\n\n"):
            self.out.append("\n")


def _inline(tokens: list[Token]) -> str:
    out: list[str] = []
    address = ""
    for token in tokens:
        if token.type in ("text", "code_inline"):
            out.append(token.content)
        elif token.type in ("softbreak", "hardbreak"):
            out.append("\n")
        elif token.type == "image":
            out.append(token.content)
        elif token.type == "link_open":
            address = str(token.attrGet("href") or "")
            out.append("\0")
        elif token.type == "link_close":
            start = len(out) - 1 - out[::-1].index("\0")
            label = "".join(out[start + 1 :])
            del out[start:]
            out.append(label if label == address or not address else f"{label} ({address})")
    return "".join(out)
