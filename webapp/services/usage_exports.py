"""Vendors' usage and cost exports as rows: CSV files of OpenAI, Anthropic, Google, DeepSeek, and of anybody whose columns have
customary names. Read row by row, however large the file is; what cannot be read is named by line and column.

The layouts are those of the vendors' dashboards and reports as they were in 2026. They change without notice: the operator
can say which column is which.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, TextIO, TypeVar

from webapp.contracts.errors import BadInput
from webapp.services import usage_cells, usage_columns
from webapp.services.usage_columns import FIELDS, Columns

LINE_MAX_CHARS = 1_000_000
COLUMNS_MAX = 1000
PREAMBLE_MAX_LINES = 30
"""How many lines before the headers are passed over: titles, account names."""

_DELIMITERS = ",;\t|"
_ARCHIVES = {b"PK\x03\x04": "a spreadsheet or an archive", b"\x1f\x8b": "compressed"}
_TOTAL = re.compile(r"\W*(?:grand |sub)?-?totals?\b|\W*sum\b|\W*rounding", re.I)
_PART = re.compile(
    r"\s*(?:[,|]|\s-\s)\s*(?:cached |cache |batch |image |audio |text )*(?:input|output|read|write|tokens?)\b.*\Z", re.I
)
_GEMINI = re.compile(r"gemini[ -](\d+(?:\.\d+)?)((?:[ -](?:flash|pro|lite|nano|ultra|argon|image))*)", re.I)
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One row of an export. `input_tokens` includes the cached ones, whatever the vendor's own convention; what the file does
    not tell is 0. `model` is '' where a row is about all of them. A negative cost is a credit."""

    line: int
    day: date
    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    requests: int = 0
    cost_usd: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Export:
    """An opened export: its columns are known, its rows are read as they are asked for, once."""

    columns: Columns
    rows: Iterator[UsageRow]

    @property
    def measures(self) -> frozenset[str]:
        """What the file tells of: input, output, cached, requests, cost."""
        return self.columns.measures

    @property
    def has_models(self) -> bool:
        """Whether its rows say which model they are about."""
        return "model" in self.columns.at


def parse_columns(text: str) -> dict[str, str]:
    """`date=Day,model=Which one,cost=` as a mapping from field to header. `BadInput` for what is none."""
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        field, sign, header = part.partition("=")
        field = field.strip().lower()
        if not sign or field not in FIELDS:
            raise BadInput("columns", f"Write the columns as date=…,model=…: there are {', '.join(FIELDS)}.")
        found[field] = header.strip()
    return found


@contextmanager
def opened(path: Path, provider: str = "", columns: Mapping[str, str] | None = None) -> Iterator[Export]:
    """A file, with its columns found. `BadInput` if it cannot be read; its rows may raise it too."""
    try:
        with path.open("rb") as file, _decoded(file) as text:
            yield read(text, provider, columns)
    except OSError as exc:
        raise BadInput("file", f"{path} cannot be read: {exc.strerror or exc}.") from exc


def read(text: TextIO, provider: str = "", columns: Mapping[str, str] | None = None) -> Export:
    """A text, with its columns found. `BadInput` if there are none; its rows may raise it too."""
    lines = _Lines(text)
    for _ in range(PREAMBLE_MAX_LINES):
        line = lines.next_line()
        if line is None:
            break
        found = _headers(line, provider, columns or {})
        if found is not None:
            delimiter, place = found
            return Export(place, _rows(lines, delimiter, place))
    raise BadInput(
        "file",
        "No line with known columns was found: there must be a date and tokens or a cost. "
        "Say which columns they are: --columns date=…,model=…,input=…,output=…,cost=…",
    )


@contextmanager
def _decoded(file: BinaryIO) -> Iterator[TextIO]:
    import io

    start = file.read(4)
    file.seek(0)
    for mark, what in _ARCHIVES.items():
        if start.startswith(mark):
            raise BadInput("file", f"The file is {what}: unpack it, or save it as CSV.")
    encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = io.TextIOWrapper(file, encoding, errors="replace", newline="")
    try:
        yield text
    finally:
        text.detach()


class _Lines:
    """Lines of a text, none of them longer than can be held, counted from 1."""

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        while (line := self.next_line()) is not None:
            yield line

    def next_line(self) -> str | None:
        line = self._text.readline(LINE_MAX_CHARS)
        if not line:
            return None
        self.number += 1
        if len(line) >= LINE_MAX_CHARS:
            raise BadInput("file", f"Line {self.number} does not end: this is no CSV file.")
        return line


def _headers(line: str, provider: str, given: Mapping[str, str]) -> tuple[str, Columns] | None:
    """How the line is to be cut and what its columns are, None if these are not the headers."""
    best: tuple[str, Columns] | None = None
    missing = ""
    for delimiter in _DELIMITERS:
        try:
            cells = next(csv.reader([line], delimiter=delimiter), [])
            found = usage_columns.find([usage_cells.text(cell) for cell in cells[:COLUMNS_MAX]], provider, given)
        except csv.Error:
            continue
        except ValueError as exc:
            if usage_columns.find(cells, provider).useful:
                missing = f"There is no column {usage_cells.text(str(exc))!r}; there are: {_listed(cells)}."
            continue
        if found.useful and (best is None or len(found.at) > len(best[1].at)):
            best = delimiter, found
    if best is None and missing:
        raise BadInput("columns", missing)
    return best


def _listed(cells: list[str]) -> str:
    shown = ", ".join(usage_cells.text(cell) for cell in cells[:20])
    return shown if len(cells) <= 20 else f"{shown} and {len(cells) - 20} more"


def _rows(lines: _Lines, delimiter: str, columns: Columns) -> Iterator[UsageRow]:
    cut = csv.reader(lines, delimiter=delimiter)
    while True:
        line = lines.number + 1
        try:
            cells = next(cut, None)
        except csv.Error as exc:
            raise BadInput("file", f"Line {line} cannot be cut into cells: {exc}.") from exc
        if cells is None:
            return
        row = _Row(line, cells, columns, decimal_comma=delimiter == ";").value()
        if row is not None:
            yield row


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    cells: list[str]
    columns: Columns
    decimal_comma: bool

    def value(self) -> UsageRow | None:
        """The row, None where it says nothing: blank ones, totals."""
        if not any(cell.strip() for cell in self.cells) or any(_TOTAL.match(cell) for cell in self.cells[:3]):
            return None
        day = self._read("date", usage_cells.day)
        if day is None:
            return None
        cached, written = self._count("cached"), self._count("cache_write")
        read, output, requests = self._count("input"), self._count("output"), self._count("requests")
        if "uncached" in self.columns.at:
            read = self._count("uncached") + cached + written
        if "amount" in self.columns.at:
            read, output, cached, requests = self._by_kind()
        return UsageRow(self.line, day, self._model(), read, output, cached, requests, self._cost())

    def _by_kind(self) -> tuple[int, int, int, int]:
        """Input, output, cached tokens and requests of a row that is about one kind of them."""
        kind = self._text("kind").lower().replace("_", " ")
        if "request" in kind:
            return 0, 0, 0, self._count("amount")
        if re.search(r"output|completion|response|generated", kind):
            return 0, self._count("amount"), 0, 0
        if re.search(r"input|prompt|cache", kind):
            amount = self._count("amount")
            cached = "cach" in kind and not re.search(r"miss|write|creat|storage", kind)
            return (0 if "storage" in kind else amount), 0, amount if cached else 0, 0
        return 0, 0, 0, 0  # searches, hours of storage and the like: no tokens

    def _cost(self) -> Decimal:
        def amount(cell: str) -> Decimal:
            return usage_cells.dollars(cell, decimal_comma=self.decimal_comma)

        if "cost" not in self.columns.at:
            return Decimal(0)
        found = self._read("cost", amount)
        currency = self._text("currency").upper()
        if found and currency not in {"", "USD", "US$", "$"}:
            raise self._wrong("currency", f"is {currency}: only dollars can be compared (--columns cost= leaves costs out)")
        return found

    def _model(self) -> str:
        return _model(self._text("model"))

    def _count(self, field: str) -> int:
        def whole(cell: str) -> int:
            return usage_cells.count(cell, decimal_comma=self.decimal_comma)

        places = self.columns.at.get(field, ())
        return sum(self._read(field, whole, number) for number in range(len(places)))

    def _text(self, field: str) -> str:
        return self._read(field, usage_cells.text) if field in self.columns.at else ""

    def _read(self, field: str, as_value: Callable[[str], _Value], number: int = 0) -> _Value:
        place = self.columns.at[field][number]
        try:
            return as_value(self.cells[place] if place < len(self.cells) else "")
        except usage_cells.Unreadable as exc:
            raise self._wrong(field, str(exc), number) from exc

    def _wrong(self, field: str, what: str, number: int = 0) -> BadInput:
        place = self.columns.at[field][number]
        header = self.columns.headers[place]
        cell = usage_cells.text(self.cells[place])[:40] if place < len(self.cells) else ""
        return BadInput("file", f"Line {self.line}, column {header!r}: {cell!r} {what}.")


@lru_cache(maxsize=1024)
def _model(name: str) -> str:
    """The model in a line item of a bill, or in a model's column."""
    gemini = _GEMINI.search(name) if " " in name else None
    if gemini:
        return f"gemini-{gemini[1]}{gemini[2].replace(' ', '-')}".lower()
    return _PART.sub("", name)
