"""What the operator's commands share: the application around them, who is at the keyboard, tables and JSON.

Faults need nothing here: `webapp.cli` turns every `SwitchhookError` into one line and an exit code.
"""

from __future__ import annotations

import getpass
import json
import logging
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
    from webapp import create_app
    from webapp.settings import read_settings

    settings = settings or read_settings()
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
def application(*, current_schema: bool = True, quiet_plugins: bool = False) -> Iterator[Flask]:
    """The application's context, on a database at this release's schema unless `current_schema` is False.

    A database that is away, then or later, is a `SetupError`.
    """
    from sqlalchemy.exc import OperationalError

    app = make_app(quiet_plugins=quiet_plugins)
    with app.app_context():
        try:
            if current_schema:
                check_schema()
            yield app
        except OperationalError as exc:
            reason = str(exc.orig).strip().splitlines() or [type(exc.orig).__name__]
            raise SetupError(f"The database cannot be used ({reason[0]}): start it, or correct DATABASE_URL.") from exc
        finally:
            _close(app)


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
