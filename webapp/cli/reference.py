"""Writes the reference pages from the code they describe, so that they cannot disagree.

`python -m webapp.cli.reference`, in a checkout, writes docs/cli.md, docs/settings.md, .env.example and the hook reference in
docs/plugins.md anew; `make test` says when that is due. With `--check` it only says so itself.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from webapp import hookspecs
from webapp.contracts.channels import Channel
from webapp.contracts.providers import Provider, Variable
from webapp.registry import BUILT_IN, Registry
from webapp.settings import ENV_FILE, Settings
from webapp.settings_api import ApiSettings
from webapp.settings_vendors import VendorSettings
from webapp.settings_work import WorkSettings

WIDTH = 100
HOOKS_BEGIN = "<!-- hooks: written by `python -m webapp.cli.reference` -->"
HOOKS_END = "<!-- end of hooks -->"

_ROOT = Path(__file__).resolve().parents[2]
_GENERATED = "<!-- Written by `python -m webapp.cli.reference`: change the code it describes, then run that. -->"
_SECTION = re.compile(r"^    # -- (?P<title>.+?) -*$")
_FIELD = re.compile(r"^    (?P<name>[a-z0-9_]+): .* = Field\(")


def main(arguments: list[str]) -> int:
    """Write the pages, or with `--check` name those that are out of date; returns the exit code."""
    stale = [path for path, text in pages(_ROOT).items() if not path.is_file() or path.read_text("utf-8") != text]
    for path in stale:
        if "--check" in arguments:
            print(f"{path.relative_to(_ROOT)} is out of date: run `python -m webapp.cli.reference`.")
        else:
            path.write_text(pages(_ROOT)[path], "utf-8")
            print(f"{path.relative_to(_ROOT)} was written.")
    return 1 if stale and "--check" in arguments else 0


def pages(root: Path) -> dict[Path, str]:
    """Every generated page with the text that it should have."""
    plugins = root / "docs" / "plugins.md"
    return {
        root / "docs" / "cli.md": cli_page(),
        root / "docs" / "settings.md": settings_page(),
        root / ".env.example": env_example(),
        plugins: with_hooks(plugins.read_text("utf-8")),
    }


# -- commands ----------------------------------------------------------------------------------------------------------
def cli_page() -> str:
    """docs/cli.md: the help text of every command."""
    parts = [
        "# The `switchhook` command",
        _GENERATED,
        "Every command says with `--help` what is written here. Commands read the same settings as the server, from the "
        "environment and\n`.env` in the working directory: run them where the server runs. What can be read by programs has "
        "`--json`.",
        "A failure is one line on standard error that says what to do. Exit codes: 0 all is well; 1 the answer is no, or it "
        "failed; 2 the\ncommand was typed wrong, or the installation cannot run as it is configured.",
    ]
    for context in commands():
        level = context.command_path.count(" ") + 2
        help_text = context.command.get_help(context)
        parts.append(f"{'#' * level} {context.command_path}\n\n```text\n{help_text}\n```")
    return "\n\n".join(parts) + "\n"


def commands() -> Iterator[click.Context]:
    """A context for every command, the groups before what is in them."""
    from webapp.cli import main as root

    def below(command: click.Command, name: str, parent: click.Context | None) -> Iterator[click.Context]:
        given = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
        context = click.Context(command, info_name=name, parent=parent, **given)
        yield context
        if isinstance(command, click.Group):
            for child_name in command.list_commands(context):
                child = command.get_command(context, child_name)
                if child is not None and not child.hidden:
                    yield from below(child, child_name, context)

    yield from below(root, "switchhook", None)


# -- settings ----------------------------------------------------------------------------------------------------------
def sections() -> dict[str, dict[str, FieldInfo]]:
    """The core's settings by environment name, under the headings of `webapp/settings.py`."""
    found: dict[str, dict[str, FieldInfo]] = {}
    for source, title in (
        (Settings, ""),
        (WorkSettings, "limits, jobs and batches"),
        (ApiSettings, "APIs and webhooks"),
        (VendorSettings, "vendors"),
    ):
        for line in inspect.getsource(source).splitlines():
            if heading := _SECTION.match(line):
                title = heading["title"]
            elif field := _FIELD.match(line):
                info = Settings.model_fields[field["name"]]
                found.setdefault(title, {})[str(info.alias)] = info
    return found


def plugin_variables() -> dict[str, tuple[Variable, ...]]:
    """The variables that built-in plugins read, by the vendor's name as people know it."""
    registry = Registry()
    registry.load({})
    found: dict[str, tuple[Variable, ...]] = {}
    things: list[Provider | Channel] = [
        *registry.providers.values(),
        *registry.image_providers.values(),
        *registry.channels.values(),
    ]
    for thing in things:
        if type(thing).__module__.startswith(tuple(BUILT_IN)) and thing.environment:
            label = str(getattr(thing, "label", thing.name.capitalize()))
            known = found.get(label, ())
            names = {variable.name for variable in known}
            found[label] = (*known, *(variable for variable in thing.environment if variable.name not in names))
    return found


def settings_page() -> str:
    """docs/settings.md: every setting of the core, every variable of the built-in plugins."""
    parts = [
        "# Settings",
        _GENERATED,
        f"Switchhook runs without any. Settings are environment variables; what is not in the environment is read from "
        f"`{ENV_FILE}` in the working\ndirectory, for which `.env.example` is a start. An empty one counts as not set. They "
        "are read at the start: restart after a change.\n`switchhook doctor` says which are wrong, and how.",
    ]
    for title, fields in sections().items():
        rows = [_row(name, _kind(info), _code(_default(info)), info.description or "") for name, info in fields.items()]
        parts.append(_table(title[:1].upper() + title[1:], ("variable", "value", "default", "meaning"), rows))
    parts.append(
        "## Plugins\n\nPlugins read these from the same places. They see the whole environment except for the core's own "
        "secrets."
    )
    for label, variables in plugin_variables().items():
        rows = [_row(v.name, "secret" if v.secret else "text", _code(v.default), v.meaning) for v in variables]
        parts.append(_table(label, ("variable", "value", "default", "meaning"), rows, level=3))
    return "\n\n".join(parts) + "\n"


def env_example() -> str:
    """.env.example: every variable, commented out, with its default."""
    lines = [
        "# Copy this to .env and take the # away from what you change: Switchhook runs without any of it.",
        "# Written by `python -m webapp.cli.reference` from what docs/settings.md shows in tables.",
    ]
    for title, fields in sections().items():
        lines += ["", f"# == {title} =="]
        for name, info in fields.items():
            lines += [f"# {info.description}", f"#{name}={_quoted(_default(info))}"]
    for label, variables in plugin_variables().items():
        lines += ["", f"# == {label} =="]
        for variable in variables:
            words = " " in variable.default  # a default in words is no value
            told = f" Default: {variable.default}." if words else ""
            lines += [f"# {variable.meaning}{told}", f"#{variable.name}={'' if words else _quoted(variable.default)}"]
    return "\n".join(lines) + "\n"


def _default(info: FieldInfo) -> str:
    value = info.default
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value)


def _kind(info: FieldInfo) -> str:
    """What may be written: 'text', 'whole number, 1–65535', 'one of open, closed'."""
    annotation: Any = info.annotation
    if isinstance(annotation, types.UnionType):
        annotation = next(part for part in get_args(annotation) if part is not types.NoneType)
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(f"`{choice}`" for choice in get_args(annotation))
    names: Mapping[object, str] = {int: "whole number", float: "number", Path: "path", SecretStr: "secret"}
    low = next((str(rule.ge) for rule in info.metadata if hasattr(rule, "ge")), "")
    high = next((str(rule.le) for rule in info.metadata if hasattr(rule, "le")), "")
    limits = f", {low}–{high}" if low and high else f", at least {low}" if low else ""
    return names.get(annotation, "text") + limits


def _quoted(value: str) -> str:
    return f'"{value}"' if " " in value else value


def _code(value: str) -> str:
    if not value:
        return ""
    return value if " " in value and not value.endswith(".") else f"`{value}`"


def _row(name: str, *cells: str) -> tuple[str, ...]:
    return (f"`{name}`", *(cell.replace("|", "\\|") for cell in cells))


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]], level: int = 2) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return f"{'#' * level} {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


# -- hooks -------------------------------------------------------------------------------------------------------------
def hooks() -> dict[str, Callable[..., Any]]:
    """Every hook by name, in the order of `webapp/hookspecs.py`."""
    return {name: value for name, value in vars(hookspecs).items() if hasattr(value, f"{hookspecs.NAMESPACE}_spec")}


def with_hooks(page: str) -> str:
    """docs/plugins.md with its hook reference as it should be."""
    before, begin, rest = page.partition(HOOKS_BEGIN)
    _, end, after = rest.partition(HOOKS_END)
    if not begin or not end:
        raise ValueError(f"docs/plugins.md needs the lines {HOOKS_BEGIN} and {HOOKS_END}")
    return f"{before}{begin}\n\n{_hook_reference()}\n\n{end}{after}"


def _hook_reference() -> str:
    entries = []
    for name, hook in hooks().items():
        signature = inspect.signature(hook)
        arguments = ", ".join(signature.parameters)
        result = str(signature.return_annotation)
        gives = "" if result == "None" else f"Gives `{result}`. "
        takes = ", ".join(f"`{p.name}: {p.annotation}`" for p in signature.parameters.values())
        doc = " ".join((inspect.getdoc(hook) or "").split())
        entries.append(f"### `{name}({arguments})`\n\n{gives}Takes {takes}.\n\n{doc}")
    return "\n\n".join(entries)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
