"""The result file of a batch: its rows in their order with what became of them, as far as it is there."""

from __future__ import annotations

import csv
import io
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from webapp.contracts.errors import NotFound
from webapp.contracts.money import MICROUSD
from webapp.extensions import reading
from webapp.models import BatchRow, BatchStatus, Request, RequestStatus, RowState
from webapp.services.batches import Viewer, find

CSV, JSON_LINES = "csv", "jsonl"
FORMS = (CSV, JSON_LINES)
MEDIA_TYPES = {CSV: "text/csv; charset=utf-8", JSON_LINES: "application/jsonl; charset=utf-8"}
RESULT_COLUMNS = ("status", "answer", "model", "tokens", "cost_usd", "error")
_CHUNK = 500
# What spreadsheets take for the beginning of a formula (OWASP, "CSV Injection"), the wide forms of East Asian keyboards too.
_FORMULA = re.compile(r"\s*[=+\-@\t\r\n＝＋－＠|%]")
_NUMBER = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+)?\Z")
_WORDS = {
    RequestStatus.QUEUED: "waiting",
    RequestStatus.PROCESSING: "running",
    RequestStatus.AWAITING_REVIEW: "in review",
    RequestStatus.REJECTED: "refused",
}


@dataclass(frozen=True, slots=True)
class Result:
    """The file, in pieces. `partial` means that not every row has ended yet."""

    file_name: str
    media_type: str
    pieces: Iterator[str]


def result(viewer: Viewer, batch_id: uuid.UUID, form: str) -> Result:
    """The result file of a batch that is the viewer's to read; `NotFound` else. Each piece is read when it is asked for."""
    with reading() as connection:
        found = find(connection, viewer, batch_id)
    if not found.mine or form not in FORMS:
        raise NotFound("There is no such file.")
    row = found.row
    given = tuple(row.parameters.get("columns", ()))
    names = tuple(_free(name, given) for name in RESULT_COLUMNS)
    pieces = _csv(row, given, names) if form == CSV else _json_lines(row, names)
    return Result(f"{_file_name(row.name)}-results.{form}", MEDIA_TYPES[form], pieces)


def safe_cell(value: object) -> str:
    """A value as a cell that no spreadsheet runs: what looks like a formula gets an apostrophe in front; numbers do not."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.match(text) else text


def _free(name: str, given: Sequence[str]) -> str:
    """A name for one of our columns that the file does not have yet."""
    while name in given:
        name = f"result_{name}"
    return name


def _file_name(name: str) -> str:
    """A batch's name as part of a file name that every system takes."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:60] or "batch"


def _csv(batch: Any, given: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    out = io.StringIO()
    writer = csv.writer(out)
    # Without the mark Excel takes UTF-8 for the machine's own code page.
    out.write("\ufeff")
    writer.writerow([safe_cell(name) for name in (*given, *names)])
    for rows in _chunks(batch):
        for row in rows:
            values = [safe_cell(row.given.get(name)) for name in given]
            writer.writerow([*values, *(safe_cell(value) for value in _outcome(batch, row))])
        yield out.getvalue()
        out.seek(0)
        out.truncate()
    if out.tell():
        yield out.getvalue()


def _json_lines(batch: Any, names: Sequence[str]) -> Iterator[str]:
    for rows in _chunks(batch):
        lines = []
        for row in rows:
            status, answer, model, tokens, cost, error = _outcome(batch, row)
            own: Mapping[str, Any] = dict(
                zip(names, (status, answer, model, tokens, None if cost is None else float(cost), error), strict=True)
            )
            lines.append(json.dumps({**row.given, **own}, ensure_ascii=False) + "\n")
        yield "".join(lines)


def _chunks(batch: Any) -> Iterator[Sequence[Any]]:
    """The rows with their requests, a page at a time: no connection is kept while somebody downloads slowly."""
    after = 0
    while True:
        query = (
            select(
                BatchRow.number,
                BatchRow.given,
                BatchRow.state,
                BatchRow.error,
                Request.status,
                Request.answer,
                Request.provider,
                Request.model,
                (Request.input_tokens + Request.output_tokens).label("tokens"),
                Request.cost_microusd,
                Request.error_message,
            )
            .outerjoin(Request, Request.id == BatchRow.request_id)
            .where(BatchRow.batch_id == batch.id, BatchRow.number > after)
            .order_by(BatchRow.number)
            .limit(_CHUNK)
        )
        with reading() as connection:
            rows = connection.execute(query).all()
        if rows:
            yield rows
            after = rows[-1].number
        if len(rows) < _CHUNK:
            return


def _outcome(batch: Any, row: Any) -> tuple[str, str | None, str | None, int | None, str | None, str | None]:
    """The values of `RESULT_COLUMNS`; None for what there is not, or not yet."""
    if row.status is None:
        status = "refused" if row.state == RowState.REFUSED else _not_begun(batch)
        return status, None, None, None, None, row.error
    model = "/".join(part for part in (row.provider, row.model) if part) or None
    cost = f"{row.cost_microusd // MICROUSD}.{row.cost_microusd % MICROUSD:06d}"
    return _WORDS.get(row.status, row.status), row.answer, model, row.tokens, cost, row.error_message


def _not_begun(batch: Any) -> str:
    return "cancelled" if batch.status == BatchStatus.CANCELLED else "waiting"


def in_context(pieces: Iterator[str], context: Callable[[], Any]) -> Iterator[bytes]:
    """The pieces as bytes, each made within a context that is not there between two of them: the thread may be lent out."""
    while True:
        with context():
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece.encode()
