"""Rows of the hot tables, written by statements that are compiled once.

SQLAlchemy's Core prepares the values of a statement anew each time it runs: for a row of forty columns that costs more than
SQLite needs to write it. Here the statement is compiled once for each database, with the types' own conversions, and then only
the values are converted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Dialect, Table, insert
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

_INTO: dict[str, Any] = {"sqlite": sqlite_insert, "postgresql": postgresql_insert}


@dataclass(frozen=True, slots=True)
class _Compiled:
    text: str
    named: bool
    """Whether the driver wants values by name, else in the order of the marks."""
    columns: tuple[tuple[str, Callable[[Any], Any] | None], ...]
    """Each with the conversion that its type makes for this driver."""

    def values(self, row: Mapping[str, Any], table: Table) -> Any:
        """A row as the driver wants it."""
        found = {}
        for name, convert in self.columns:
            value = row[name] if name in row else default(table, name)
            found[name] = value if convert is None else convert(value)
        return found if self.named else tuple(found.values())


def default(table: Table, name: str) -> Any:
    """The value that a column gets which is not given, as its model declares it."""
    declared: Any = table.c[name].default
    return declared.arg(None) if declared.is_callable else declared.arg


class Inserter:
    """Writes rows of one table. Every row has a value for each of `columns`; the others get the defaults that the model
    declares. With `once`, the columns of a unique key, a row that is there already is left as it is."""

    def __init__(self, table: Table, columns: Sequence[str], once: Sequence[str] = ()) -> None:
        self._table, self._columns, self._once = table, tuple(columns), tuple(once)
        self._compiled: dict[str, _Compiled] = {}

    def __call__(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Write the rows. False if there was one alone and it was there already."""
        if not rows:
            return True
        dialect = connection.dialect
        known = self._compiled.get(dialect.name) or self._compile(dialect)
        values = [known.values(row, self._table) for row in rows]
        done = connection.exec_driver_sql(known.text, values[0] if len(values) == 1 else values)
        return len(values) > 1 or done.rowcount == 1

    def _compile(self, dialect: Dialect) -> _Compiled:
        if self._once:
            statement = _INTO[dialect.name](self._table).on_conflict_do_nothing(index_elements=self._once)
        else:
            statement = insert(self._table).inline()
        compiled = statement.compile(dialect=dialect, column_keys=list(self._columns))
        names = compiled.positiontup if compiled.positional else list(compiled.params)
        converters = {name: self._table.c[name].type.dialect_impl(dialect).bind_processor(dialect) for name in names}
        columns = tuple((name, converters[name]) for name in names)
        found = self._compiled[dialect.name] = _Compiled(str(compiled), not compiled.positional, columns)
        return found
