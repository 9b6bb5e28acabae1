"""Prompts with {{names}} in them. Nothing but a name can stand in the braces, so a template can never run code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from webapp.contracts.errors import BadInput

NAME_CHARS = 100
_PLACE = re.compile(r"\{\{([^{}\n]*)\}\}")


@dataclass(frozen=True, slots=True)
class Template:
    """A text and the names in it, each once, in order."""

    text: str
    names: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> Template:
        """`BadInput` about the field `template` for one that has no names, or braces that are not closed."""
        names = names_in(text, "template", "a column")
        if not names:
            raise BadInput(
                "template", "There is no {{name}} in it, so every row would ask the same: name a column of your file."
            )
        return cls(text, names)

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with the values in their places; braces within a value are left as they are."""
        return fill(self.text, values)


def names_in(text: str, field: str, what: str) -> tuple[str, ...]:
    """The names in a text, each once, in order. `BadInput` about `field` where something else stands in the braces, or where
    they are not closed; `what` is what the names are of, such as "a column"."""
    names: dict[str, None] = {}
    for place in _PLACE.finditer(text):
        name = place[1].strip()
        if not name or len(name) > NAME_CHARS:
            raise BadInput(field, f"Between {{{{ and }}}} stands the name of {what}: 1 to {NAME_CHARS} characters.")
        names[name] = None
    # What stands before and behind a place does not become one thing without it.
    rest = _PLACE.sub(" ", text)
    if "{{" in rest:
        near = " ".join(rest[rest.index("{{") :][:30].split())
        raise BadInput(field, f"The braces at “{near}” are not closed: write {{{{name}}}} with the name of {what}.")
    return tuple(names)


def fill(text: str, values: Mapping[str, str]) -> str:
    """A text with the values in the places of their names; braces within a value are left as they are."""
    return _PLACE.sub(lambda place: values[place[1].strip()], text)


def length_of(text: str, values: Mapping[str, str]) -> int:
    """How many characters `fill` would give, without making them."""
    return len(text) + sum(len(values[place[1].strip()]) - len(place[0]) for place in _PLACE.finditer(text))
