"""Files of prompts: CSV or JSON Lines, read as a stream, every row checked. Whoever wrote the file, nothing in it is believed.

`Reader` yields the rows that are fine and notes what is wrong with the others, so one pass over it is the check.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from webapp.contracts.errors import BadInput
from webapp.contracts.texts import bare, clean
from webapp.services.batch_lines import Lines
from webapp.services.batch_templates import Template

FILE_MAX_BYTES = 20 * 1024 * 1024
COLUMNS_MAX = 50
PROMPTS_MAX_CHARS = 50_000_000
"""All filled-in prompts of a file together: a long template with many rows is more than a small file."""
FAULTS_SHOWN = 100
PROMPT = "prompt"
_JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
_CSV_ENDINGS = (".csv", ".tsv", ".tab", ".txt")
_SHOWN_CHARS = 60


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong and how to mend it. `row` counts from 1 without header and empty lines, `line` is that of the file; both
    are None where the whole file is meant. `field` is the column, '' for the whole row."""

    row: int | None
    line: int | None
    field: str
    message: str

    def __str__(self) -> str:
        place = [f"Row {self.row} (line {self.line})"] if self.row is not None else []
        place += [f"Line {self.line}"] if self.row is None and self.line is not None else []
        place += [f"column “{self.field}”"] if self.field else []
        return f"{', '.join(place)}: {self.message}" if place else self.message


@dataclass(slots=True)
class Faults:
    """The first faults of a file, and how many there are."""

    shown: list[Fault] = field(default_factory=list)
    total: int = 0

    def add(self, fault: Fault) -> None:
        self.total += 1
        if len(self.shown) < FAULTS_SHOWN:
            self.shown.append(fault)


class FileFaults(BadInput):
    """A file that cannot be taken as it is."""

    def __init__(self, faults: Faults) -> None:
        one = faults.total == 1
        first = str(faults.shown[0]) if one else f"{faults.total:,} things in this file are to be mended."
        super().__init__("file", first)
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Row:
    """A row that is fine: its prompt, and its own columns as they were given (JSON's scalars, or texts)."""

    number: int
    prompt: str
    given: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a file may have."""

    rows: int
    prompt_chars: int


class _Stop(Exception):
    """What follows cannot be read."""


class Reader:
    """The rows of a file, in its order; afterwards `faults` and `columns` are complete. It is read once."""

    def __init__(self, file: BinaryIO, name: str, template: Template | None, bounds: Bounds) -> None:
        self.faults = Faults()
        self.columns: list[str] = []
        self.count = 0
        """How many rows there are, faulty ones too."""
        self._template = template
        self._bounds = bounds
        self._lines = Lines(file, FILE_MAX_BYTES)
        self._name = name.lower()
        self._chars = 0

    def __iter__(self) -> Iterator[Row]:
        try:
            head = self._lines.head()
            json_lines = self._name.endswith(_JSON_ENDINGS) or (
                not self._name.endswith(_CSV_ENDINGS) and head.lstrip()[:1] in ("{", "[")
            )
            for line, values in self._objects() if json_lines else self._records():
                row = self._row(line, values)
                if row is not None:
                    yield row
            if not self.count and not self._lines.fault:
                self._whole("It has no rows: write one prompt a row below the header, or one JSON object a line.")
        except _Stop:
            return
        finally:
            if self._lines.fault:
                self._whole(self._lines.fault)

    # -- CSV -------------------------------------------------------------------------------------------------------------
    def _records(self) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """(first line, values by column; None for a row whose fault is noted) of every record below the header."""
        # The module's own limit is one for the whole process, so it is only ever raised.
        csv.field_size_limit(max(csv.field_size_limit(), self._bounds.prompt_chars + 1))
        reader = csv.reader(self._lines, delimiter=_delimiter(self._lines), strict=True)
        header = self._next(reader)
        while header is not None and not any(cell.strip() for cell in header):
            header = self._next(reader)
        if header is None:
            return
        self.columns = self._header([clean(cell).strip() for cell in header])
        width = len(self.columns)
        while True:
            first = self._lines.number + 1
            cells = self._next(reader)
            if cells is None:
                return
            if not any(cell.strip() for cell in cells):
                continue
            self._counted()
            if len(cells) != width:
                self._fault(first, "", f"It has {len(cells)} values, and the header has {width} columns. {_QUOTE}")
                yield first, None
            else:
                yield first, dict(zip(self.columns, cells, strict=True))

    def _next(self, reader: Iterator[list[str]]) -> list[str] | None:
        first = self._lines.number + 1
        try:
            return next(reader, None)
        except csv.Error as exc:
            self.faults.add(Fault(self.count + 1 if self.columns else None, first, "", f"{_csv_words(exc)} {_NOT_READ}"))
            raise _Stop from exc

    def _header(self, names: list[str]) -> list[str]:
        """The columns' names; whatever is wrong with them makes the rows senseless, so that is the end."""
        before = self.faults.total
        if len(names) > COLUMNS_MAX:
            self._whole(f"It has {len(names)} columns; at most {COLUMNS_MAX} are taken.")
            raise _Stop
        for number, name in enumerate(names, 1):
            if not name:
                self._whole(f"Column {number} has no name: the first line is the header, with a name for every column.")
            elif name in names[: number - 1]:
                self._whole(f"The column “{_shown(name)}” is there twice: every column needs a name of its own.")
            elif len(name) > 255:
                self._whole(f"The name of column {number} is longer than 255 characters.")
        there = ", ".join(f"“{_shown(name)}”" for name in names[:20] if name)
        if self._template is None and PROMPT not in names:
            self._whole(
                f"There is no column “{PROMPT}”, and no template is given. The first line has {there}: name the column "
                f"with the prompts “{PROMPT}”, or write a template with {{{{names}}}} of these columns."
            )
        for wanted in self._template.names if self._template else ():
            if wanted not in names:
                self._whole(f"The template wants “{_shown(wanted)}”, and there is no such column: the first line has {there}.")
        if self.faults.total > before:
            raise _Stop
        return names

    # -- JSON Lines ------------------------------------------------------------------------------------------------------
    def _objects(self) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """(line, values by name; None for a line whose fault is noted) of every line that is not empty."""
        names: dict[str, None] = {}
        for text in self._lines:
            line = self._lines.number
            if not text.strip():
                continue
            if not self.count and text.lstrip().startswith("["):
                self._whole(
                    "This is a JSON array. Write one JSON object a line instead, without brackets around and commas between."
                )
                raise _Stop
            self._counted()
            values = self._object(line, text)
            names.update(dict.fromkeys(values or ()))
            if len(names) > COLUMNS_MAX:
                self._fault(
                    line,
                    "",
                    f"There are more than {COLUMNS_MAX} names up to here; at most {COLUMNS_MAX} are taken. {_NOT_READ}",
                )
                raise _Stop
            self.columns = list(names)
            yield line, values

    def _object(self, line: int, text: str) -> dict[str, Any] | None:
        try:
            values = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite)
        except _BadValue as exc:
            self._fault(line, exc.name, exc.message)
            return None
        except RecursionError:
            self._fault(line, "", "It is nested too deeply: give texts, numbers, true, false or null only.")
            return None
        except ValueError as exc:
            self._fault(line, "", f'It is no JSON ({_json_words(exc)}): write one object a line, such as {{"prompt": "…"}}.')
            return None
        if not isinstance(values, dict):
            self._fault(line, "", 'It is no JSON object: write one a line, such as {"prompt": "…"}.')
            return None
        named = {clean(name).strip(): value for name, value in values.items()}
        if len(named) < len(values) or "" in named or any(len(name) > 255 for name in named):
            self._fault(line, "", "Its names must differ, and have 1 to 255 characters.")
            return None
        fine = True
        for name, value in named.items():
            if isinstance(value, dict | list):
                self._fault(line, name, "It is an object or a list: give a text, a number, true, false or null.")
                fine = False
        return named if fine else None

    # -- rows ------------------------------------------------------------------------------------------------------------
    def _row(self, line: int, values: dict[str, Any] | None) -> Row | None:
        """The row, None if anything is wrong with it."""
        before = self.faults.total
        if bad := self._lines.take_bad():
            self._fault(line, "", bad)
        if values is None or self.faults.total > before:
            return None
        longest = self._bounds.prompt_chars
        for name, value in values.items():
            text = _text(value)
            if "\0" in text:
                self._fault(line, name, "It has a NUL character: remove it, or save the file as UTF-8 again.")
            elif len(text) > longest:
                self._fault(line, name, f"It has {len(text):,} characters; at most {longest:,} are taken.")
            values[name] = clean(value) if isinstance(value, str) else value
        if self.faults.total > before:
            return None
        prompt = self._prompt(line, values)
        if prompt is None:
            return None
        self._chars += len(prompt)
        if self._chars > PROMPTS_MAX_CHARS:
            self._whole(f"Its prompts have more than {PROMPTS_MAX_CHARS:,} characters together: split the file.")
            raise _Stop
        return Row(self.count, prompt, values)

    def _prompt(self, line: int, values: dict[str, Any]) -> str | None:
        if self._template is None:
            prompt = values.get(PROMPT)
            if PROMPT not in values:
                self._fault(line, PROMPT, f"There is no “{PROMPT}”: give one, or write a template with {{{{names}}}}.")
                return None
            if prompt is not None and not isinstance(prompt, str):
                self._fault(line, PROMPT, "It is no text: put it into quotation marks.")
                return None
            filled = prompt or ""
        else:
            missing = [name for name in self._template.names if name not in values or not _text(values[name]).strip()]
            for name in missing:
                words = "It is empty" if name in values else "It is missing"
                self._fault(line, name, f"{words}, and the template wants it: fill it in, or remove the row.")
            if missing:
                return None
            filled = self._template.fill({name: _text(values[name]) for name in self._template.names})
        filled = filled.strip()
        longest = self._bounds.prompt_chars
        if not filled:
            self._fault(line, PROMPT, "It is empty: write a prompt, or remove the row.")
            return None
        if len(filled) > longest:
            self._fault(line, PROMPT, f"The prompt has {len(filled):,} characters; at most {longest:,} are taken.")
            return None
        return filled

    def _counted(self) -> None:
        self.count += 1
        if self.count > self._bounds.rows:
            self._whole(f"It has more than {self._bounds.rows:,} rows: split it into several files.")
            raise _Stop

    def _fault(self, line: int, name: str, message: str) -> None:
        self.faults.add(Fault(self.count, line, _shown(name), message))

    def _whole(self, message: str) -> None:
        self.faults.add(Fault(None, None, "", message))


_QUOTE = "A value with a separator or a line break in it stands in double quotation marks."
_NOT_READ = "What follows was not read."


class _BadValue(Exception):
    def __init__(self, name: str, message: str) -> None:
        self.name, self.message = name, message


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _BadValue(name, "This name is there twice: which value is meant?")
        found[name] = value
    return found


def _no_constant(name: str) -> Any:
    raise _BadValue("", f"{name} is no value in JSON: write a number, or null.")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _BadValue("", f"{_shown(text)} is too large a number: write it as a text.")
    return value


def _text(value: Any) -> str:
    """A scalar as it stands in a prompt; '' for null."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value)


def _delimiter(lines: Lines) -> str:
    """Comma, semicolon or tab: whichever the first line has most of, outside quotation marks. Excel may say it itself."""
    head = lines.head()
    if head.lower().startswith("sep=") and len(head.strip()) == 5:
        lines.skip()
        return head.strip()[-1] if head.strip()[-1] in ",;" else "\t"
    plain = "".join(head.split('"')[::2])
    return max(",;\t", key=plain.count)


def _csv_words(exc: csv.Error) -> str:
    words = str(exc)
    if "expected after" in words:
        return "A quotation mark within a value is written twice, and the whole value stands in quotation marks."
    if "unexpected end" in words or "field limit" in words:
        return "A value is too long, or a quotation mark in it is never closed: close it."
    if "new-line" in words:
        return "A line ends in the way of old Macs: save the file with ordinary line ends."
    return f"It is no CSV ({words})."


def _json_words(exc: ValueError) -> str:
    if isinstance(exc, json.JSONDecodeError):
        return f"{exc.msg.lower()}, at character {exc.pos + 1}"
    return "a number has too many digits"


def _shown(name: str) -> str:
    """A name of the file's for a message."""
    name = " ".join(bare(name).split())
    return name if len(name) <= _SHOWN_CHARS else name[: _SHOWN_CHARS - 1] + "…"


def from_bytes(data: bytes, name: str, template: Template | None, bounds: Bounds) -> Reader:
    """A reader of a file that is in memory."""
    return Reader(io.BytesIO(data), name, template, bounds)
