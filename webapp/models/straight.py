"""The shortest way to the database, for the few statements that every attended request runs: compiled once, given to the driver
as they are.

Through SQLAlchemy's layers a statement costs several times what the database needs for it. Whatever is unusual goes the general
way: a statement here that does not find what it expects divides by zero, which undoes it, and its caller falls back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import sqlalchemy as sa
from flask import current_app
from sqlalchemy import ClauseElement, Dialect, Engine, Table, event, insert
from sqlalchemy.exc import SQLAlchemyError

from webapp.extensions import current_settings, db, engine_options, one_writer
from webapp.interrupts import shielded
from webapp.models.inserting import default

_ENGINE = "switchhook.straight"
_NAMED = re.compile(r"%\((\w+)\)s")

Convert = Callable[[Any], Any] | None


class Unusual(Exception):
    """The straight way does not serve here: go the general one. Nothing was changed."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A statement for one driver, with its values in the order of the marks."""

    text: str
    names: tuple[tuple[str, Convert], ...]
    """The name of each value, and the conversion that its type makes."""
    fixed: Mapping[str, Any]
    """Values that stand in the statement itself."""
    table: Table | None = None
    """Whose columns' defaults count for values that are not given."""

    def row(self, given: Mapping[str, Any]) -> list[Any]:
        """The values, converted, in the order of the marks."""
        found = []
        for name, convert in self.names:
            if name in given:
                value = given[name]
            elif name in self.fixed:
                value = self.fixed[name]
            else:
                assert self.table is not None, f"no value for {name}"
                value = default(self.table, name)
            found.append(value if convert is None else convert(value))
        return found


def part(statement: ClauseElement, dialect: Dialect, columns: Sequence[str] | None = None, table: Table | None = None) -> Part:
    """Compile a statement whose values are all bind parameters."""
    compiled: Any = statement.compile(dialect=dialect, column_keys=None if columns is None else list(columns))
    text, binds = str(compiled), compiled.binds
    order = list(compiled.positiontup) if compiled.positional else _NAMED.findall(text)
    converts = {name: binds[name].type.dialect_impl(dialect).bind_processor(dialect) for name in dict.fromkeys(order)}
    if not compiled.positional:
        text = _NAMED.sub("%s", text)
    fixed = {name: binds[name].value for name in converts if not binds[name].required and table is None}
    return Part(text, tuple((name, converts[name]) for name in order), fixed, table)


def insertion(table: Table, columns: Sequence[str], dialect: Dialect) -> Part:
    """The INSERT of one row: of `columns` from its values, of the others the defaults that the model declares."""
    return part(insert(table).inline(), dialect, columns, table)


def readers(statement: sa.Select[Any], dialect: Dialect) -> tuple[Convert, ...]:
    """What turns each column of a row, as the driver gives it, into its value."""
    return tuple(column.type.dialect_impl(dialect).result_processor(dialect, None) for column in statement.selected_columns)


@contextmanager
def connection() -> Iterator[Any]:
    """A connection of the driver. On SQLite inside a writing transaction, committed at the end and rolled back when anything is
    raised; on PostgreSQL each statement is a transaction of its own. What the driver raises is `Unusual`."""
    engine = db.engine
    sqlite = engine.dialect.name == "sqlite"
    try:
        if sqlite:
            with shielded(), one_writer, _checked_out(engine) as driver, _transaction(driver):
                yield driver
        else:
            with shielded(), _checked_out(_autocommitting(engine)) as driver:
                yield driver
    except (engine.dialect.loaded_dbapi.Error, SQLAlchemyError) as exc:
        raise Unusual(type(exc).__name__) from exc


@contextmanager
def _checked_out(engine: Engine) -> Iterator[Any]:
    kept = engine.raw_connection()
    try:
        yield kept.driver_connection
    except (engine.dialect.loaded_dbapi.OperationalError, engine.dialect.loaded_dbapi.InterfaceError):
        kept.invalidate()
        raise
    finally:
        kept.close()


@contextmanager
def _transaction(driver: Any) -> Iterator[None]:
    driver.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        driver.execute("ROLLBACK")
        raise
    driver.execute("COMMIT")


def _autocommitting(engine: Engine) -> Engine:
    """The engine of this application for statements that are transactions by themselves. A connection that has died is noticed
    by the statement that fails on it, which then goes the general way."""
    found = current_app.extensions.get(_ENGINE)
    if found is None:
        # As many connections as do something at once; with those of the other engine, what two processes take stays below the
        # hundred that PostgreSQL gives by default.
        sizes = {"pool_size": 8, "max_overflow": 4}
        options = engine_options(current_settings()) | sizes | {"pool_pre_ping": False, "pool_reset_on_return": None}
        made = sa.create_engine(engine.url, isolation_level="AUTOCOMMIT", **options)
        # Of several threads that come here at once, one makes what all use.
        found = current_app.extensions.setdefault(_ENGINE, made)
        if found is made:
            event.listen(engine, "engine_disposed", lambda _: made.dispose())
    return cast(Engine, found)
