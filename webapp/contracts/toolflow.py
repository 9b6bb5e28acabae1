"""Wishes to have tools called, on their way from a vendor to the core: checked, bounded, numbered. Pure, no I/O."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

from webapp.contracts.calls import ToolPiece
from webapp.contracts.wire import TextFlow, vendor_id

TOOL_CALLS = 128
"""Wishes in one answer, at most."""
TOOL_NAME_CHARS = 128
ARGUMENT_CHARS = 1024 * 1024
"""Characters of arguments in one answer, at most, all its wishes together."""


class ToolFlow:
    """The wishes of one answer, in the order in which they begin.

    A vendor that streams them is followed by `begin`, `feed` and `end`; one that sends them complete by `call`. What a vendor
    names no id for gets one. `ValueError` for a wish without a proper name, arguments that are no text and no object, and more
    of either than any answer has. A wish without arguments has `{}`, so that they are JSON in any case.
    """

    def __init__(self) -> None:
        self.count = 0
        """How many wishes have begun."""
        self._ids: set[str] = set()
        self._chars = 0
        self._flow: TextFlow | None = None

    def begin(self, name: object, call_id: object = "") -> Iterator[ToolPiece]:
        """The end of the wish before, and the first piece of the next one."""
        yield from self.end()
        self._flow = TextFlow()
        yield self._first(name, call_id, "")

    def feed(self, arguments: object) -> Iterator[ToolPiece]:
        """What of the present wish's arguments can be handed on now."""
        if self._flow is None:
            raise ValueError("arguments came before the tool that they are for")
        if ready := self._flow.feed(self._written(arguments)):
            yield ToolPiece(self.count - 1, arguments=ready)

    def end(self, *, cut: bool = False) -> Iterator[ToolPiece]:
        """What was held back of the present wish, if there is one; `{}` if it had no arguments, unless it was `cut` short."""
        flow, self._flow = self._flow, None
        if flow is None:
            return
        ready = flow.feed("", last=True)
        if not flow.visible and not cut:
            ready = "{}"
        if ready:
            yield ToolPiece(self.count - 1, arguments=ready)

    def call(self, name: object, call_id: object, arguments: object) -> Iterator[ToolPiece]:
        """A wish that came complete."""
        yield from self.end()
        yield self._first(name, call_id, TextFlow().feed(self._written(arguments), last=True) or "{}")

    def _first(self, name: object, call_id: object, arguments: str) -> ToolPiece:
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > TOOL_NAME_CHARS:
            raise ValueError("a tool was asked for without a proper name")
        if self.count >= TOOL_CALLS:
            raise ValueError(f"more than {TOOL_CALLS} tools were asked for at once")
        own = vendor_id(call_id).strip() if isinstance(call_id, str) else ""
        if not own or own in self._ids:
            own = f"call_{secrets.token_hex(12)}"
        self._ids.add(own)
        self.count += 1
        return ToolPiece(self.count - 1, own, name, arguments)

    def _written(self, arguments: object) -> str:
        """Arguments as JSON text: some vendors send the object itself, and nothing where there are none."""
        if arguments is None:
            return ""
        if isinstance(arguments, dict):
            try:
                arguments = json.dumps(arguments, ensure_ascii=False)
            except RecursionError as exc:
                raise ValueError("the arguments of a tool are nested too deeply") from exc
        if not isinstance(arguments, str):
            raise ValueError("the arguments of a tool are neither text nor an object")
        self._chars += len(arguments)
        if self._chars > ARGUMENT_CHARS:
            raise ValueError("the arguments of the tools are too large")
        return arguments


def arguments_object(arguments: str) -> dict[str, object]:
    """A wish's arguments for vendors that want the object: {} for none. What is no JSON object goes under `arguments` as it
    was written, so that the model sees what it did."""
    if not arguments.strip():
        return {}
    try:
        found = json.loads(arguments, parse_constant=_no_number)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"arguments": arguments}


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is not JSON")
