"""Cells of a vendor's usage export as values. Whoever wrote the file, nothing in it is computed or believed beyond its text."""

from __future__ import annotations

import re
import unicodedata
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache

COUNT_MAX = 10**15
COST_MAX_USD = 10**9
NAME_MAX = 120

_AS_TEXT = re.compile(r'="(.*)"\Z', re.S)
_NUMBER = re.compile(r"[+-]?(?:[0-9][0-9.,' \u00a0\u202f_]*|[.,][0-9]+)(?:[eE][+-]?[0-9]{1,3})?\Z")
_GROUPED = {mark: re.compile(rf"[+-]?[1-9][0-9]{{0,2}}(?:{re.escape(mark)}[0-9]{{3}})+\Z") for mark in ".,"}
_MONEY = re.compile(r"(?:US\$|USD|\$)|(?:USD)\Z", re.I)
_DATE_FORMS = ("%Y-%m-%d", "%Y/%m/%d", "%Y%m%d", "%d.%m.%Y", "%b %d, %Y", "%B %d, %Y", "%d %b %Y", "%d %B %Y", "%b %d %Y")
_SLASHES = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})\Z")


class Unreadable(ValueError):
    """The cell is not what its column is for; the message says what it should be."""


def text(cell: str) -> str:
    """What a cell says: without what spreadsheets put around texts, control characters, or more than a name's length."""
    cell = cell.strip().removeprefix("'")
    if len(cell) <= NAME_MAX and cell.isprintable() and not cell.startswith("=") and "  " not in cell:
        return cell  # nearly all of them, and a file has many
    wrapped = _AS_TEXT.match(cell)
    if wrapped:
        cell = wrapped[1].replace('""', '"')
    shown = "".join(" " if unicodedata.category(char).startswith("C") else char for char in cell[: 4 * NAME_MAX])
    return " ".join(shown.split())[:NAME_MAX]


def count(cell: str, *, decimal_comma: bool = False) -> int:
    """A whole number, 0 where the cell is empty. `Unreadable` for any other, a negative or an absurd one."""
    found = _number(cell, decimal_comma=decimal_comma, whole=True)
    if found is None:
        return 0
    if found < 0:
        raise Unreadable("is negative")
    if found > COUNT_MAX:
        raise Unreadable("is more than anybody uses")
    if found != found.to_integral_value():
        raise Unreadable("is not a whole number")
    return int(found)


def dollars(cell: str, *, decimal_comma: bool = False) -> Decimal:
    """An amount, 0 where the cell is empty; negative for a credit. `Unreadable` for what is none."""
    cell = text(cell)
    refund = cell.startswith("(") and cell.endswith(")")
    found = _number(_MONEY.sub("", cell.strip("()")).strip(), decimal_comma=decimal_comma)
    if found is None:
        return Decimal(0)
    if abs(found) > COST_MAX_USD:
        raise Unreadable("is more than anybody pays")
    return -found if refund else found


def _number(cell: str, *, decimal_comma: bool, whole: bool = False) -> Decimal | None:
    cell = text(cell)
    if cell.isascii() and cell.isdecimal() and len(cell) <= 20:
        return Decimal(cell)
    if cell in {"", "-", "–", "—", "null", "NULL", "None", "N/A", "n/a"}:
        return None
    if not _NUMBER.match(cell):
        raise Unreadable("is not a number")
    for space in ("'", " ", "\u00a0", "\u202f", "_"):
        cell = cell.replace(space, "")
    try:
        return Decimal(_with_point(cell, decimal_comma=decimal_comma, whole=whole))
    except InvalidOperation:
        raise Unreadable("is not a number") from None


def _with_point(cell: str, *, decimal_comma: bool, whole: bool) -> str:
    """The number as Python writes it. Where both marks occur the last one is the decimal mark; a mark that occurs once and
    could be either is read as the rest of the file suggests."""
    if "." in cell and "," in cell:
        group, point = (".", ",") if cell.rindex(",") > cell.rindex(".") else (",", ".")
        return cell.replace(group, "").replace(point, ".")
    for mark in ".,":
        if cell.count(mark) > 1:
            if not _GROUPED[mark].match(cell):
                raise Unreadable("is not a number")
            return cell.replace(mark, "")
    if "," in cell:
        grouped = _GROUPED[","].match(cell) and (whole or not decimal_comma)
        return cell.replace(",", "" if grouped else ".")
    if whole and decimal_comma and _GROUPED["."].match(cell):
        return cell.replace(".", "")
    return cell


def day(cell: str) -> date | None:
    """The UTC day of a date, a time or a Unix time (seconds or milliseconds); None where the cell is empty.

    `11/05/2026` is read with the month first, as the vendors write it, unless that is impossible.
    """
    return _day(text(cell))


@lru_cache(maxsize=1024)
def _day(cell: str) -> date | None:
    if not cell:
        return None
    found = _unix_day(cell) if cell.replace(".", "", 1).isdecimal() and len(cell) != 8 else _written_day(cell)
    if found is None:
        raise Unreadable("is not a date")
    if not 2015 <= found.year <= 2200:
        raise Unreadable("is a date of another age")
    return found


def _unix_day(cell: str) -> date | None:
    with suppress(ValueError, OverflowError, OSError):
        seconds = float(cell) if len(cell) < 40 else 0.0
        return datetime.fromtimestamp(seconds / 1000 if seconds > 1e11 else seconds, UTC).date()
    return None


def _written_day(cell: str) -> date | None:
    cell = re.sub(r"\s*(?:UTC|GMT)\Z", "Z" if ":" in cell else "", cell)
    with suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(cell)
        return (moment.astimezone(UTC) if moment.tzinfo else moment).date()
    slashes = _SLASHES.match(cell.split(" ")[0])
    if slashes:
        first, second, year = (int(part) for part in slashes.groups())
        month, number = (second, first) if first > 12 else (first, second)
        with suppress(ValueError):
            return date(year, month, number)
        return None
    for form in _DATE_FORMS:
        with suppress(ValueError):
            return datetime.strptime(cell, form).replace(tzinfo=UTC).date()
    return None
