"""The tool calls of an answer in OpenAI's chat format: complete, or in fragments that name the call they belong to.

Servers differ here too: `index` or `id` may be missing, be repeated with every fragment, or be the same for all calls;
arguments may be an object instead of its JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from webapp.plugin import ToolFlow, ToolPiece


class ToolPieces:
    """Follows the tool calls of one answer. `ValueError` for what cannot be one."""

    def __init__(self) -> None:
        self._flow = ToolFlow()
        self._index: int | None = None
        self._id = ""
        self._seen: set[int] = set()

    @property
    def count(self) -> int:
        """How many calls there were so far."""
        return self._flow.count

    def read(self, wishes: object, *, complete: bool) -> Iterator[ToolPiece]:
        """The field `tool_calls` of a delta, or where the calls are `complete`, of a message."""
        if not isinstance(wishes, list):
            raise ValueError("the tool calls are not a list")
        for wish in wishes:
            function = wish.get("function") if isinstance(wish, dict) else None
            if not isinstance(function, dict):
                raise ValueError("a tool call is not one of a function")
            if complete:
                yield from self._flow.call(function.get("name"), wish.get("id"), function.get("arguments"))
            else:
                yield from self._fragment(wish, function)

    def end(self, *, cut: bool) -> Iterator[ToolPiece]:
        """What was held back. `cut`: the answer ended because of its length."""
        return self._flow.end(cut=cut)

    def _fragment(self, wish: Mapping[str, Any], function: Mapping[str, Any]) -> Iterator[ToolPiece]:
        index, given, name = wish.get("index"), wish.get("id"), function.get("name")
        if type(index) is not int:
            index = None
        given = given if isinstance(given, str) else ""
        if not self._goes_on(index, given, name):
            if index is not None and index != self._index and index in self._seen:
                raise ValueError("the fragments of several tool calls are mixed up")
            yield from self._flow.begin(name, given)
            self._index, self._id = index, given
            if index is not None:
                self._seen.add(index)
        yield from self._flow.feed(function.get("arguments"))

    def _goes_on(self, index: int | None, given: str, name: object) -> bool:
        """Whether a fragment belongs to the call before it."""
        if not self._flow.count or (name and given and given != self._id):
            return False
        if index is not None and self._index is not None:
            return index == self._index
        return bool(given) or not name
