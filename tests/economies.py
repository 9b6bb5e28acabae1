"""What makes thousands of tests cheaper and changes none: databases in memory, work of libraries that is done once."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from werkzeug.routing.rules import Rule

from webapp.services import passwords

_MEMORY = Path("/dev/shm")
_ROOM = 2 << 30
_NAME = re.compile(r"switchhook-tests-(\d+)-")


def postgres_folder() -> Path:
    """A folder for the PostgreSQL of this test process: in memory where there is room, which saves a quarter of a second for
    each test (a database is made by copying 270 files). Readable by others: run as root, PostgreSQL is another user.
    """
    place = None
    if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK):
        _clear_up(_MEMORY)
        if shutil.disk_usage(_MEMORY).free >= _ROOM:
            place = _MEMORY
    folder = Path(tempfile.mkdtemp(prefix=f"switchhook-tests-{os.getpid()}-", dir=place))
    folder.chmod(0o755)
    return folder


def _clear_up(memory: Path) -> None:
    """Free the memory of test processes that were killed before they could."""
    for folder in memory.iterdir():
        named = _NAME.match(folder.name)
        if named is None or _runs(int(named[1])):
            continue
        with contextlib.suppress(OSError, ValueError):
            server = int((folder / "data" / "postmaster.pid").read_text().splitlines()[0])
            if str(folder).encode() in Path(f"/proc/{server}/cmdline").read_bytes():
                os.kill(server, signal.SIGQUIT)
                for _ in range(100):
                    if not _runs(server):
                        break
                    time.sleep(0.05)
        shutil.rmtree(folder, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def build_urls_on_demand() -> None:
    """An application has some hundred routes, and Werkzeug compiles two functions for each that write its URL: more than half
    of the work of making an application. A test writes a few URLs, so each function is compiled when it is first called.
    """
    compiled = Rule._compile_builder

    def later(self: Rule, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        made: list[Callable[..., tuple[str, str]]] = []

        def build(rule: Rule, /, **values: Any) -> tuple[str, str]:
            if not made:
                made.append(compiled(self, append_unknown))
            return made[0](rule, **values)

        return build

    Rule._compile_builder = later  # type: ignore[method-assign]


def look_up_entry_points_once() -> None:
    """The files of all installed distributions are read once for each `sys.path`, and not for each application."""
    look_up = importlib.metadata.entry_points

    @functools.cache
    def found(_path: tuple[str, ...], **wanted: Any) -> importlib.metadata.EntryPoints:
        return look_up(**wanted)

    def entry_points(**wanted: Any) -> importlib.metadata.EntryPoints:
        return found(tuple(sys.path), **wanted)

    importlib.metadata.entry_points = entry_points


def hash_passwords_cheaply() -> None:
    """Argon2id with the smallest reasonable cost: in its full one, a test that signs in spends most of its time there. What
    tests start as processes of their own has the full cost.
    """
    passwords._hasher = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1)
