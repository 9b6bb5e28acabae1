"""What a request is about: categories and the plugins that assign them."""

from __future__ import annotations

from dataclasses import dataclass

CATEGORIES = ("general", "coding", "debug", "design", "documentation", "analysis")
"""The built-in categories; a categorizer may use others."""


@dataclass(frozen=True, slots=True)
class Sorting:
    """A categorizer's opinion. `confidence` and `complexity` are in 0–1; the surest opinion wins."""

    category: str
    confidence: float
    complexity: float


class Categorizer:
    """Sorts requests. Called in the worker, before the route is chosen."""

    name: str

    def sort(self, text: str) -> Sorting | None:
        """An opinion about `text`, or None to have none. Must be quick; no I/O."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Question:
    """What a categorizer wants to ask a cheap model: an instruction, the text, and the longest answer it can use."""

    instruction: str
    text: str
    max_output_tokens: int = 60


class AskingCategorizer(Categorizer):
    """A categorizer that asks a model where the others are unsure. It makes no call itself: the core asks a cheap routed
    model for it, charges that to the house within its daily bound, and keeps the answer for a day."""

    def question(self, text: str) -> Question | None:
        """What to ask about `text`, or None to leave it."""
        raise NotImplementedError

    def read(self, answer: str) -> Sorting | None:
        """The opinion in a model's answer, or None if there is none in it: models say all sorts of things."""
        raise NotImplementedError

    def sort(self, text: str) -> Sorting | None:
        return None
