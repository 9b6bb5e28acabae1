"""The text of a prompt template and its variables: read, checked, filled in. A variable is replaced by its value and nothing
else happens: nothing in a text is ever run, and what a value brings along is not looked at again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from webapp.contracts.errors import BadInput
from webapp.contracts.texts import bare, clean
from webapp.extensions import current_settings
from webapp.services import batch_templates

VARIABLES_MAX = 50
NAME_CHARS = 40
DEFAULT_CHARS = 4_000
DESCRIPTION_CHARS = 500
_NAME = re.compile(rf"[A-Za-z][A-Za-z0-9_]{{0,{NAME_CHARS - 1}}}\Z")
_SHOWN_MAX = 10


@dataclass(frozen=True, slots=True)
class Variable:
    """What stands as `{{name}}` in a text. A default of None makes it required."""

    name: str
    description: str = ""
    default: str | None = None

    def as_json(self) -> dict[str, Any]:
        """As it is stored."""
        return asdict(self)

    @classmethod
    def stored(cls, value: Mapping[str, Any]) -> Variable:
        """From what is stored."""
        return cls(str(value["name"]), str(value.get("description") or ""), value.get("default"))


def read(text: str, described: Iterable[Variable]) -> tuple[str, tuple[Variable, ...]]:
    """The text as it is stored, and its variables in the order in which they stand in it: those that are described as they are,
    the others required. `BadInput` about `text` or `variables`."""
    text = clean(text).strip()
    if not text:
        raise BadInput("text", "Write the text of the template.")
    longest = current_settings().prompt_max_chars
    if len(text) > longest:
        raise BadInput("text", f"This is {len(text):,} characters; at most {longest:,} fit into one message.")
    names = batch_templates.names_in(text, "text", "a variable")
    for name in names:
        if not _NAME.match(name):
            raise BadInput("text", f"{{{{{name}}}}} is no variable: its name is a letter, then letters, digits and _ (A to Z).")
    if len(names) > VARIABLES_MAX:
        raise BadInput("text", f"There are {len(names)} variables in it; a template has at most {VARIABLES_MAX}.")
    known = _described(names, described)
    return text, tuple(known.get(name) or Variable(name) for name in names)


def _described(names: tuple[str, ...], described: Iterable[Variable]) -> dict[str, Variable]:
    known: dict[str, Variable] = {}
    for each in described:
        shown = clean(each.name)[:NAME_CHARS]
        if each.name not in names:
            raise BadInput("variables", f"There is no {{{{{shown}}}}} in the text: put it there, or leave the variable out.")
        if each.name in known:
            raise BadInput("variables", f"The variable {shown} is described twice.")
        if len(each.description) > DESCRIPTION_CHARS:
            raise BadInput("variables", f"The description of {shown} has more than {DESCRIPTION_CHARS} characters.")
        if each.default is not None and len(each.default) > DEFAULT_CHARS:
            raise BadInput("variables", f"The default of {shown} has more than {DEFAULT_CHARS:,} characters.")
        default = None if each.default is None else clean(each.default)
        known[each.name] = Variable(each.name, bare(each.description).strip(), default)
    return known


def render(text: str, variables: Iterable[Variable], values: Mapping[str, str]) -> str:
    """The text with the values in it. `BadInput` names the variables that are missing, or that the template does not have."""
    known = {variable.name: variable for variable in variables}
    if unknown := [name for name in values if name not in known]:
        there = ", ".join(known) or "none"
        raise BadInput(_field(unknown), f"The template has no variable {_listed(unknown)}; its variables are: {there}.")
    for name, value in values.items():
        if not isinstance(value, str):
            raise BadInput(_field([name]), f"The value of {name} has to be a text.")
    given = {name: clean(value) for name, value in values.items()}
    filled = {name: given.get(name, variable.default) for name, variable in known.items()}
    if missing := [name for name, value in filled.items() if value is None]:
        raise BadInput(
            _field(missing), f"A value is missing for {_listed(missing)}: give one for each variable without a default."
        )
    ready = {name: value for name, value in filled.items() if value is not None}
    length, longest = batch_templates.length_of(text, ready), current_settings().prompt_max_chars
    if length > longest:
        raise BadInput("variables", f"With these values it is {length:,} characters; at most {longest:,} fit into one message.")
    return batch_templates.fill(text, ready)


def _field(names: list[str]) -> str:
    return f"variables.{clean(names[0])[:NAME_CHARS]}"


def _listed(names: list[str]) -> str:
    shown = [clean(name)[:NAME_CHARS] for name in names[:_SHOWN_MAX]]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN_MAX} more" if len(names) > _SHOWN_MAX else "")
