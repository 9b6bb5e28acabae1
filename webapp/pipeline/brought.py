"""What a caller brings along beside the text: the whole conversation, and tools. It is used and not stored: an attended request
ends with its process, so nobody has to find it again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from webapp.contracts.calls import Tool, Turn
from webapp.routing import prices

PICTURE_TOKENS = 1_600
"""What a picture in a prompt counts for before the vendor has counted it: the most of the vendors' usual sizes."""


@dataclass(frozen=True, slots=True)
class Brought:
    """The conversation, oldest first, with the person's own turn or a tool's at its end; and what the model may ask for
    (`webapp.contracts.calls.TextCall`)."""

    turns: tuple[Turn, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: str = ""
    parallel_tools: bool | None = None
    whole: bool = False
    """Whether the answer is read at its end only."""

    _tokens: int = field(default=-1, init=False, repr=False, compare=False)
    """Of all of it, once they were counted."""

    def tokens(self) -> int:
        """About how many tokens all of it has, rather too many than too few."""
        if self._tokens < 0:
            found = tokens_of(self.turns)
            for tool in self.tools:
                found += _tokens_of_tool(tool)
            object.__setattr__(self, "_tokens", found)
        return self._tokens


def tokens_of(turns: Iterable[Turn]) -> int:
    """About how many tokens turns have, with their pictures and the tools they ask for."""
    found = prices.TURN_TOKENS
    for turn in turns:
        found += prices.estimate_tokens(turn.text) + prices.TURN_TOKENS
        if turn.pictures:
            found += PICTURE_TOKENS * len(turn.pictures)
        for call in turn.tool_calls:
            found += prices.estimate_tokens(call.name) + prices.estimate_tokens(call.arguments) + prices.TURN_TOKENS
    return found


def _tokens_of_tool(tool: Tool) -> int:
    schema = json.dumps(tool.parameters, ensure_ascii=False) if tool.parameters is not None else ""
    return sum(prices.estimate_tokens(text) for text in (tool.name, tool.description, schema)) + prices.TURN_TOKENS
