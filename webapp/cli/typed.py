"""How the operator types our commands here: by name if that is on the path, else by where the script is."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

NAME = "switchhook"


def own_command() -> str:
    """`switchhook` as the operator would type it here: by name if it is on the path, else by the shortest path."""
    script = Path(sys.argv[0])
    if script.name == "__main__.py" and script.parent.name == "cli":
        return f"{shlex.quote(_short(Path(sys.executable)))} -m webapp.cli"
    if script.name != NAME:
        return NAME  # somebody else's program runs us and says nothing about how it is typed
    found = shutil.which(script.name)
    if found and Path(found).resolve() == script.resolve():
        return script.name
    return shlex.quote(_short(script))


def as_typed(text: str) -> str:
    """`text` with every command in it, such as `switchhook doctor`, as it is typed here."""
    return text.replace(f"`{NAME} ", f"`{own_command()} ")


def _short(path: Path) -> str:
    """`path` relative to the working directory if it is below it. Links stay: a virtual environment's Python is one."""
    absolute = path if path.is_absolute() else Path.cwd() / path
    return str(absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute)
