"""The shortest way to the database, for the few statements that every attended request runs: compiled once, given to the driver
as they are, on connections that are kept for them.

Through SQLAlchemy's layers a statement costs several times what the database needs for it, and so does its pool. Whatever is
unusual goes the general way: a statement here that does not find what it expects divides by zero, which undoes it, and its
caller falls back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from flask import current_app
from sqlalchemy import JSON, ClauseElement, Column, Dialect, Engine, NullPool, Table, Uuid, event, insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.types import TypeDecorator, TypeEngine

from webapp.extensions import UTCDateTime, current_settings, db, engine_options
from webapp.interrupts import shielded
from webapp.models.connections import Connections, Unusual
from webapp.models.together import Together, Work

_WAY = "switchhook.straight"
_NAMED = re.compile(r"%\((\w+)\)s")
_CONNECTIONS = 12
"""As many as do something at once; with those of the other engine, what two processes take stays below the hundred that
PostgreSQL gives by default."""

Convert = Callable[[Any], Any] | None


# -- statements --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Mark:
    """One value of a statement. It is given by `name`, or the same each time: `fixed`."""

    name: str
    convert: Convert = None
    of_none: bool = False
    """Whether None is converted, too: in JSON it is a value."""
    fixed: Any = None


class Part:
    """A statement for one driver, with its values in the order of the marks."""

    __slots__ = ("_converts", "_fixed", "_get", "text")

    def __init__(self, text: str, marks: Sequence[_Mark]) -> None:
        self.text = text
        names = [mark.name or f"fixed {place}" for place, mark in enumerate(marks)]
        self._fixed = {name: mark.fixed for name, mark in zip(names, marks, strict=True) if not mark.name}
        self._get = _getter(names)
        self._converts = tuple((place, mark.convert, mark.of_none) for place, mark in enumerate(marks) if mark.convert)

    def row(self, given: Mapping[str, Any]) -> list[Any]:
        """The values, converted, in the order of the marks."""
        found = list(self._get({**given, **self._fixed}))
        for place, convert, of_none in self._converts:
            value = found[place]
            if value is not None or of_none:
                found[place] = convert(value)
        return found


def _getter(names: Sequence[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    if len(names) > 1:
        return itemgetter(*names)
    return lambda given: tuple(given[name] for name in names)


def part(statement: ClauseElement, dialect: Dialect) -> Part:
    """Compile a statement whose values are all bind parameters; those that have one already stand in it for good."""
    compiled: Any = statement.compile(dialect=dialect)
    text, order = _in_order(compiled)
    binds = compiled.binds
    marks = {
        name: _mark(name, bind.type, dialect) if bind.required else _Mark("", fixed=_converted(bind.value, bind.type, dialect))
        for name, bind in binds.items()
    }
    return Part(text, tuple(marks[name] for name in order))


def insertion(table: Table, columns: Sequence[str], dialect: Dialect) -> Part:
    """The INSERT of one row: of `columns` from its values, of the others the defaults that the model declares."""
    compiled: Any = insert(table).inline().compile(dialect=dialect, column_keys=list(columns))
    text, order = _in_order(compiled)
    given = frozenset(columns)
    return Part(
        text,
        tuple(
            _mark(name, table.c[name].type, dialect) if name in given else _default(table.c[name], dialect) for name in order
        ),
    )


def readers(statement: sa.Select[Any], dialect: Dialect) -> tuple[Convert, ...]:
    """What turns each column of a row, as the driver gives it, into its value; JSON comes as a text."""
    return tuple(
        json.loads if _is_json(column.type) else column.type.dialect_impl(dialect).result_processor(dialect, None)
        for column in statement.selected_columns
    )


def _in_order(compiled: Any) -> tuple[str, list[str]]:
    """The text of a statement with the driver's marks, and the names of its values in their order."""
    text = str(compiled)
    return (text, list(compiled.positiontup)) if compiled.positional else (_NAMED.sub("%s", text), _NAMED.findall(text))


def _mark(name: str, kind: TypeEngine[Any], dialect: Dialect) -> _Mark:
    return _Mark(name, _converter(kind, dialect), of_none=_is_json(kind))


def _default(column: Column[Any], dialect: Dialect) -> _Mark:
    declared: Any = column.default
    # What is made anew for each row, an empty list or object, is the same text each time; moments and identities are given.
    assert not declared.is_callable or _is_json(column.type), f"no value for {column}"
    return _Mark("", fixed=_converted(declared.arg(None) if declared.is_callable else declared.arg, column.type, dialect))


def _converted(value: Any, kind: TypeEngine[Any], dialect: Dialect) -> Any:
    convert = _converter(kind, dialect)
    return value if convert is None or (value is None and not _is_json(kind)) else convert(value)


def _converter(kind: TypeEngine[Any], dialect: Dialect) -> Convert:
    """The conversion that a type makes for a driver; for SQLite's texts of identities and moments one that is quicker."""
    if dialect.name == "sqlite" and isinstance(kind, Uuid):
        return attrgetter("hex")
    if dialect.name == "sqlite" and isinstance(kind, UTCDateTime):
        return sqlite_moment
    if dialect.name == "sqlite" and isinstance(kind, JSON):
        return _sqlite_json
    return kind.dialect_impl(dialect).bind_processor(dialect)


@lru_cache(maxsize=512)
def sqlite_moment(moment: datetime) -> str:
    """A moment as SQLite's columns keep it."""
    return (moment.astimezone(UTC) if moment.tzinfo else moment).isoformat(" ", "microseconds")[:26]


def _sqlite_json(value: Any) -> str:
    return "null" if value is None else json.dumps(value)


def _is_json(kind: TypeEngine[Any]) -> bool:
    return isinstance(kind.impl if isinstance(kind, TypeDecorator) else kind, JSON)


# -- the way -----------------------------------------------------------------------------------------------------------
class Way:
    """The way to one database. `dialect` is its name: sqlite or postgresql."""

    def __init__(self, engine: Engine) -> None:
        self.dialect = engine.dialect.name
        straight = engine if self.dialect == "sqlite" else _autocommitting(engine)
        driver: Any = straight.dialect.loaded_dbapi
        self._errors = (driver.Error, SQLAlchemyError)
        self._harmless = (driver.DataError, driver.IntegrityError)
        self._connections = Connections(straight, _CONNECTIONS)
        self._together = Together(self._connections, _queue(engine))
        event.listen(engine, "engine_disposed", self._close)

    def row(self, text: str, values: Sequence[Any]) -> Sequence[Any] | None:
        """Run one statement, which is a transaction by itself, and return its first row. What the driver raises is `Unusual`; a
        connection that has died is noticed that way, and dropped."""
        if self.dialect == "postgresql":
            text = _numbered(text)
        try:
            with shielded():
                driver = self._connections.take()
                try:
                    found = driver.execute(text, values).fetchone()
                except self._harmless:
                    self._connections.give(driver)
                    raise
                except BaseException:
                    self._connections.drop(driver)
                    raise
                self._connections.give(driver)
        except self._errors as exc:
            raise Unusual(type(exc).__name__) from exc
        return cast("Sequence[Any] | None", found)

    def write(self, work: Work) -> Any:
        """SQLite: what `work` returns, which is given a connection inside a writing transaction (see `Together`)."""
        try:
            with shielded():
                return self._together.write(work)
        except self._errors as exc:
            raise Unusual(type(exc).__name__) from exc

    def _close(self, _engine: Engine) -> None:
        self._connections.close()
        self._together.close()


def way() -> Way:
    """The way to this application's database."""
    found = current_app.extensions.get(_WAY)
    # Of several threads that come here first at once, one makes what all use.
    return cast(Way, found if found is not None else current_app.extensions.setdefault(_WAY, Way(db.engine)))


def _queue(engine: Engine) -> Path | None:
    """The file at which the processes queue up that write a SQLite database of a file."""
    file = engine.url.database if engine.dialect.name == "sqlite" else None
    return None if not file or file.startswith((":", "file:")) else Path(f"{file}-queue")


def _autocommitting(engine: Engine) -> Engine:
    options = engine_options(current_settings())
    options = {name: value for name, value in options.items() if not name.startswith(("pool_", "max_overflow"))}
    made = sa.create_engine(engine.url, poolclass=NullPool, isolation_level="AUTOCOMMIT", **options)
    event.listen(made, "connect", _plain)
    return made


def _plain(driver: Any, _record: Any) -> None:
    from psycopg import RawCursor  # PostgreSQL's driver is an extra
    from psycopg.types.string import TextLoader

    # Other cursors look for their marks in a long statement each time it runs: a thousand calls.
    driver.cursor_factory = RawCursor
    # The same three statements for ever, found by keys: planned once and not, as is usual, ten times first.
    driver.prepare_threshold = 0
    driver.execute("SET plan_cache_mode = force_generic_plan")
    if not driver.autocommit:
        driver.commit()
    # A row that was seen before needs no reading, and a text can be compared.
    for kind in ("json", "jsonb"):
        driver.adapters.register_loader(kind, TextLoader)


@lru_cache(maxsize=256)
def _numbered(text: str) -> str:
    """A statement with PostgreSQL's own marks ($1, $2, …) in the place of `%s`."""
    head, *parts = text.replace("%%", "%").split("%s")
    return head + "".join(f"${number}{part}" for number, part in enumerate(parts, 1))
