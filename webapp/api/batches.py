"""Batches for programs: many prompts in one go, checked whole, confirmed by their price, and taken home as one file."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, BinaryIO, Literal, cast

from flask import Flask, Response, current_app, request
from flask_openapi3 import MediaType, RawModel, RequestBody, Schema

from webapp.api import access, once, problems
from webapp.api.base import answer, area, make_cursor, nothing, page_answer, page_of, read_cursor
from webapp.api.batch_models import Batch, BatchCreate, BatchFault, BatchItem, BatchPath, BatchQuery, BatchResultsQuery
from webapp.contracts.errors import BadInput, NotAllowed
from webapp.contracts.texts import clean
from webapp.pipeline import batch_feed
from webapp.services import batch_results, batch_views, batches
from webapp.services.batches import NotTaken, Order, Viewer

blueprint = area("batches", "Batches", "Many prompts at once, each a task of the low queue, with one result file.")
BatchPage = page_of(BatchItem)
_FIELDS = ("name", "template", "model")


class BatchFile(RawModel):
    """A form with a file."""

    mimetypes = ["multipart/form-data"]  # noqa: RUF012


@blueprint.get("/batches", summary="List batches", responses={200: BatchPage})
@access.opens("read")
def list_batches(query: BatchQuery) -> Response:
    """Your own, those of your organization for managers, all for administrators; the newest first."""
    viewer, everybody = _viewer(query.whose), query.whose != "own"
    position = read_cursor(query.cursor, uuid.UUID)
    before = position[0] if position else None
    lines = batch_views.lines(viewer, everybody=everybody, before=before, size=query.limit + 1)
    shown = lines[: query.limit]
    total = batch_views.count(viewer, everybody=everybody) if query.total else None
    cursor = make_cursor(shown[-1].id) if len(lines) > query.limit else None
    return page_answer([BatchItem.of(line) for line in shown], cursor, total)


@blueprint.post("/batches", summary="Make a batch", responses={201: Batch})
@once.repeatable
@access.opens("write")
def create_batch(body: BatchCreate) -> Response:
    """Check all rows, and store them with their price; nothing is asked until it is confirmed. Where anything is wrong nothing
    is stored, and the problem's `faults` say in which row and column, and how to mend it; `faults_total` counts them."""
    given = [name for name in ("rows", "csv", "jsonl") if getattr(body, name) is not None]
    if len(given) != 1:
        raise BadInput("rows", "Send the prompts once: as rows, csv or jsonl.")
    if body.rows is not None:
        text = "".join(f"{json.dumps(row)}\n" for row in body.rows)
    else:
        text = body.csv if body.csv is not None else body.jsonl or ""
    file_name = "Batch.csv" if body.csv is not None else "Batch.jsonl"
    values = {"name": body.name, "template": body.template, "model": body.model or ""}
    return _made(values, io.BytesIO(text.encode()), file_name, given[0])


@blueprint.post("/batches/file", summary="Upload a batch", responses={201: Batch})
@once.repeatable
@access.opens("write")
def upload_batch(raw: BatchFile) -> Response:  # noqa: ARG001
    """The same with a file: a form with `file` (CSV in UTF-8 with a header, or JSON Lines), and perhaps `name`, `template` and
    `model`."""
    if request.mimetype != "multipart/form-data":
        return problems.of_status(415, "Send a form (multipart/form-data) with the file in `file`.")
    for name in (*request.form, *request.files):
        if name not in (*_FIELDS, "file"):
            raise BadInput(clean(name)[:40], f"There is no field {clean(name)[:40]!r}: file, {', '.join(_FIELDS)}.")
    file = request.files.get("file")
    if file is None or not file.filename:
        raise BadInput("file", "Send a file, with its name: CSV or JSON Lines, with a prompt a row.")
    values = {name: request.form.get(name, "") for name in _FIELDS}
    try:
        return _made(values, cast(BinaryIO, file.stream), file.filename, "file")
    finally:
        file.close()


_FORM: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["file"],
    "properties": {name: {"type": "string"} for name in _FIELDS} | {"file": {"type": "string", "format": "binary"}},
}
# What flask-openapi3 says of a raw body is only that it is a text.
blueprint.paths["/api/batches/file"].post.requestBody = RequestBody(
    required=True, content={"multipart/form-data": MediaType(schema=Schema.model_validate(_FORM))}
)


@blueprint.get("/batches/<batch_id>", summary="Read a batch", responses={200: Batch})
@access.opens("read")
def read_batch(path: BatchPath) -> Response:
    """Its price to be confirmed, or how far it is."""
    return answer(Batch.of(batch_views.view(_viewer(), path.batch_id)))


@blueprint.delete("/batches/<batch_id>", summary="Delete a batch", responses={204: None})
@access.opens("write")
def delete_batch(path: BatchPath) -> Response:
    """Throw away one that was never confirmed. 409 for any other: cancel it."""
    batches.remove(_viewer(), path.batch_id)
    return nothing()


@blueprint.post("/batches/<batch_id>/confirm", summary="Start a batch", responses={200: Batch})
@access.opens("write")
def confirm_batch(path: BatchPath) -> Response:
    """Begin, at the price that was told. Only whoever made it may."""
    return _acted(batches.confirm, path)


@blueprint.post("/batches/<batch_id>/pause", summary="Pause a batch", responses={200: Batch})
@access.opens("write")
def pause_batch(path: BatchPath) -> Response:
    """Begin no further row. What is under way is finished."""
    return _acted(batches.pause, path)


@blueprint.post("/batches/<batch_id>/resume", summary="Go on with a batch", responses={200: Batch})
@access.opens("write")
def resume_batch(path: BatchPath) -> Response:
    """Go on where it was paused."""
    return _acted(batches.resume, path)


@blueprint.post("/batches/<batch_id>/cancel", summary="Cancel a batch", responses={200: Batch})
@access.opens("write")
def cancel_batch(path: BatchPath) -> Response:
    """End it: no further row is begun, and what is under way is stopped."""
    made = _acted(batches.cancel, path)
    batch_feed.stop(path.batch_id)
    return made


_RESULTS: dict[str, Any] = {
    "description": "The rows in their order, with status, answer, model, tokens, cost and error.",
    "content": {kind.partition(";")[0]: {"schema": {"type": "string"}} for kind in sorted(batch_results.MEDIA_TYPES.values())},
}


@blueprint.get("/batches/<batch_id>/results", summary="A batch's result file", responses={200: _RESULTS})
@access.opens("read")
def read_batch_results(path: BatchPath, query: BatchResultsQuery) -> Response:
    """The result file, as far as it is there. Its cells are made harmless for spreadsheets."""
    result = batch_results.result(_viewer(), path.batch_id, query.format)
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    response = Response(batch_results.in_context(result.pieces, app.app_context), content_type=result.media_type)
    response.headers["Content-Disposition"] = f'attachment; filename="{result.file_name}"'
    response.headers["Cache-Control"] = "no-store"
    return response


# -- parts ---------------------------------------------------------------------------------------------------------------
def _viewer(whose: Literal["own", "organization", "all"] | None = None) -> Viewer:
    caller = access.caller()
    if whose == "organization" and not caller.is_manager:
        raise NotAllowed("The batches of an organization are for its managers, with a token that has the scope admin.")
    if whose == "all" and not caller.is_admin:
        raise NotAllowed("All batches are for administrators of the installation, with a token that has the scope admin.")
    house = caller.is_admin and whose != "organization"
    return Viewer(caller.id, caller.organization_id, house, caller.actor.name, manager=caller.is_manager)


def _made(values: dict[str, str], file: BinaryIO, file_name: str, source: str) -> Response:
    """Check and store. `source` is the member that the prompts came in."""
    caller, viewer = access.caller(), _viewer()
    if values["model"] and not caller.is_admin:
        raise BadInput("model", "Only administrators choose the model of a batch: leave it out.")
    order = Order(values["name"], file, file_name, values["template"], values["model"], caller.token_id)
    try:
        batch_id = batches.create(caller.id, order, viewer)
    except NotTaken as exc:
        return _refused(exc, source)
    return answer(Batch.of(batch_views.view(viewer, batch_id)), 201, {"Location": f"/api/batches/{batch_id}"})


def _refused(exc: NotTaken, source: str) -> Response:
    """Everything that is wrong, in one answer."""
    errors = [{"field": name, "message": message} for name, message in exc.fields.items()]
    faults = exc.file.faults if exc.file is not None else None
    for fault in faults.shown if faults else ():
        by_row = source == "rows" and fault.row is not None
        place = ".".join(part for part in (f"rows.{(fault.row or 1) - 1}", fault.field) if part) if by_row else source
        errors.append({"field": place, "message": fault.message if by_row else str(fault)})
    return problems.problem(
        422,
        exc.code,
        exc.message,
        field=errors[0]["field"] if errors else source,
        errors=errors,
        faults=[BatchFault(**asdict(fault)).model_dump() for fault in faults.shown] if faults else None,
        faults_total=faults.total if faults else None,
    )


def _acted(act: Callable[[Viewer, uuid.UUID], None], path: BatchPath) -> Response:
    viewer = _viewer()
    act(viewer, path.batch_id)
    return answer(Batch.of(batch_views.view(viewer, path.batch_id)))
