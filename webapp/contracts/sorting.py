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
