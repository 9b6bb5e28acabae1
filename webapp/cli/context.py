"""What the operator's commands share: the application around them, who is at the keyboard, tables and JSON.

Faults need nothing here: `webapp.cli` turns every `SwitchhookError` into one line and an exit code.
"""

from __future__ import annotations

import getpass
import json
import logging
import secrets
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from webapp.contracts.errors import SetupError, SwitchhookError

if TYPE_CHECKING:
    from flask import Flask
    from rich.console import Console

    from webapp.settings import Settings

PLAIN_WIDTH = 200
"""Columns of a table that goes into a file or a pipe, where nothing may be cut off."""


class Failed(SwitchhookError):
    """The command did what it could and the outcome is bad: exit code 1."""

    code = "failed"


def make_app(settings: Settings | None = None, *, quiet_plugins: bool = False) -> Flask:
    """The application. `SetupError` for whatever keeps it from being made.

    `quiet_plugins` is for commands that report plugins that are left out themselves; others get the log's lines.
    """
    from pydantic import SecretStr

    from webapp import create_app
    from webapp.settings import read_settings

    settings = settings or read_settings()
    if not settings.secret_key.get_secret_value() and not (settings.data_dir / "secret_key").exists():
        # No command signs anything: a key is made by what serves, where it is started.
        settings = settings.model_copy(update={"secret_key": SecretStr(secrets.token_hex(32))})
    if settings.log_level == "INFO":
        # What a server notes in passing is noise on a terminal where somebody asked one thing.
        settings = settings.model_copy(update={"log_level": "WARNING"})
    if quiet_plugins:
        logging.disable(logging.CRITICAL)
    try:
        return create_app(settings)
    finally:
        if quiet_plugins:
            logging.disable(logging.NOTSET)


@contextmanager
def application(*, current_schema: bool = True, quiet_plugins: bool = False, installed: bool = True) -> Iterator[Flask]:
    """The application's context, on a database at this release's schema unless `current_schema` is False.

    `installed` says that the command makes sense only where Switchhook was started before: elsewhere it is a
    `SetupError`, and nothing is made. So is a database that is away, then or later.
    """
    from webapp.settings import read_settings

    settings = read_settings()
    if installed:
        _check_installed(settings)
    from sqlalchemy.exc import DatabaseError, OperationalError

    app = make_app(settings, quiet_plugins=quiet_plugins)
    with app.app_context():
        try:
            if current_schema:
                check_schema()
            yield app
        except DatabaseError as exc:
            # Exactly this class is a file that is no database; what else is below it is a fault in our statements.
            if not isinstance(exc, OperationalError) and type(exc) is not DatabaseError:
                raise
            from webapp.services import setup

            raise setup.unusable_database(exc) from exc
        finally:
            _close(app)


def _check_installed(settings: Settings) -> None:
    """`SetupError` where SQLite is used and has no file yet: most likely this is the wrong directory."""
    from webapp.services.settings_check import sqlite_file

    path = sqlite_file(settings)
    if path is None or path.exists():
        return
    if settings.database_url:
        raise SetupError(f"There is no database at {path}: start Switchhook, or correct DATABASE_URL.")
    where = settings.data_dir
    shown = where if where.is_absolute() else f"./{where}"
    raise SetupError(f"There is no Switchhook in {shown}: run this where you started it, or set SWITCHHOOK_DATA_DIR.")


def _close(app: Flask) -> None:
    """Hang up: a command is one act, and whoever called it in their own process keeps no connections of it."""
    from webapp.extensions import db

    db.session.remove()
    db.engine.dispose()
    app.extensions["switchhook.redis"].close()
    app.extensions["switchhook.redis.waiting"].close()


def check_schema() -> None:
    """`SetupError` unless the database is at this release's schema."""
    from webapp.services import setup

    setup.check_schema()


def actor() -> str:
    """Who is at the keyboard, for the audit trail."""
    try:
        return f"command line ({getpass.getuser()})"
    except (KeyError, OSError):  # a container's user need not have a name
        return "command line"


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(value, default=_plain, ensure_ascii=False, indent=2))


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, uuid.UUID | Path):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def console(*, stderr: bool = False) -> Console:
    """A console that shows texts as they are: what people are called is no markup."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on standard output, as narrow as its contents."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(when(cell) if isinstance(cell, datetime) else str(cell) for cell in row))
    out = console()
    with out.capture() as captured:
        out.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines() if line.strip()))


def when(moment: datetime | None) -> str:
    """A moment for people, in UTC to the minute; '' for none."""
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else ""
