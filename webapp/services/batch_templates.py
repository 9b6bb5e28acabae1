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
        names: dict[str, None] = {}
        for place in _PLACE.finditer(text):
            name = place[1].strip()
            if not name or len(name) > NAME_CHARS:
                raise BadInput("template", f"Between {{{{ and }}}} stands the name of a column: 1 to {NAME_CHARS} characters.")
            names[name] = None
        rest = _PLACE.sub("", text)
        if "{{" in rest:
            near = " ".join(rest[rest.index("{{") :][:30].split())
            raise BadInput("template", f"The braces at “{near}” are not closed: write {{{{name}}}} with the name of a column.")
        if not names:
            raise BadInput(
                "template", "There is no {{name}} in it, so every row would ask the same: name a column of your file."
            )
        return cls(text, tuple(names))

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with the values in their places; braces within a value are left as they are."""
        return _PLACE.sub(lambda place: values[place[1].strip()], self.text)
