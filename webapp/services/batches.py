"""Batches: check a file and store it, start it, pause it, go on, cancel it. The feeder puts its rows on the road.

Every change is one conditional statement, so that of two clicks at once one is told that the other was first.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from sqlalchemy import ColumnElement, Connection, delete, exists, insert, select, update

from webapp.contracts.errors import BadInput, Conflict, NotAllowed, NotFound, Unavailable
from webapp.contracts.texts import bare, clean
from webapp.extensions import current_settings, now, reading, writing
from webapp.models import AuditEntry, Batch, BatchRow, BatchStatus, Membership, PersonRole, RowState, senders
from webapp.models.columns import new_id
from webapp.quota.asking import PolicyFailed
from webapp.routing import route
from webapp.services.batch_estimates import Weight, estimate
from webapp.services.batch_files import Bounds, FileFaults, Reader, Row
from webapp.services.batch_templates import Template

FEATURE = "batch"
NAME_CHARS = 120
NOT_INCLUDED = "Your plan does not include batches. Ask the operator for a plan that does."
_CHUNK = 1000


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks or acts: a signed-in person and the organization that they are working in, or the operator at the command line,
    who has no ids. `manager`: whether they act as a manager of that organization; None: if they are one."""

    person_id: uuid.UUID | None
    organization_id: uuid.UUID | None
    admin: bool
    actor: str
    manager: bool | None = None

    def owns(self, batch: Any) -> bool:
        """Whether a batch is their own: what they have in another organization is seen from there."""
        return bool(batch.person_id == self.person_id and batch.organization_id == self.organization_id)


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody wants done. `file` is read twice, so it can seek. `token_id` is the API token that it came with: its limits
    are those of every row."""

    name: str
    file: BinaryIO
    file_name: str
    template: str = ""
    model: str = ""
    token_id: uuid.UUID | None = None


class NotTaken(BadInput):
    """An order with faults: `fields` says what is wrong with what was typed, `file` what is wrong with the file."""

    def __init__(self, fields: dict[str, str], file: FileFaults | None = None) -> None:
        name, message = next(iter(fields.items())) if fields else ("file", file.message if file else "")
        super().__init__(name, message)
        self.fields = fields
        self.file = file


@dataclass(frozen=True, slots=True)
class Found:
    """A batch that the viewer may see. `mine`: they may read what is in it, and start it."""

    row: Any
    mine: bool


@dataclass(slots=True)
class _Checked:
    """What was typed, as it will be stored, and what is wrong with it."""

    name: str
    template: Template | None
    model: str
    fields: dict[str, str] = field(default_factory=dict)


def why_not(person_id: uuid.UUID) -> str:
    """Why somebody may not make batches, '' if they may."""
    with reading() as connection:
        sender = senders.by_id(connection, person_id)
    return "" if sender is not None and sender.active and FEATURE in sender.features else NOT_INCLUDED


def create(person_id: uuid.UUID, order: Order, viewer: Viewer) -> uuid.UUID:
    """Check all of a file, and store it with its price; it waits to be confirmed.

    Raises `NotTaken` with everything that is wrong, and stores nothing then; `NotAllowed` where the plan has no batches.
    """
    sender = _sender(person_id, order, viewer)
    if sender is None or not sender.active:
        raise NotAllowed("This account is not active. Ask the operator to activate it.")
    if FEATURE not in sender.features:
        raise NotAllowed(NOT_INCLUDED)
    checked = _check(order)
    bounds = Bounds(current_settings().batch_rows_max, current_settings().prompt_max_chars)
    if "template" in checked.fields:
        raise NotTaken(checked.fields)
    order.file.seek(0)
    reader, weight = Reader(order.file, order.file_name, checked.template, bounds), Weight()
    for row in reader:
        weight.add(row.prompt)
    file_faults = FileFaults(reader.faults) if reader.faults.total else None
    if checked.fields or file_faults is not None:
        raise NotTaken(checked.fields, file_faults)
    try:
        cost = estimate(sender, "chat", checked.model, weight)
    except PolicyFailed as exc:
        raise Conflict("What this may cost cannot be said just now. Please try again in a few minutes.") from exc
    order.file.seek(0)
    rows = Reader(order.file, order.file_name, checked.template, bounds)
    values = {
        "id": new_id(),
        "person_id": person_id,
        "organization_id": sender.organization_id,
        "name": checked.name,
        "operation": "chat",
        "template": checked.template.text if checked.template else None,
        "parameters": {"columns": reader.columns}
        | ({"model": checked.model} if checked.model else {})
        | ({"token": str(order.token_id)} if order.token_id else {}),
        "status": BatchStatus.READY,
        "total": reader.count,
        "likely_microusd": cost.likely_microusd,
        "most_microusd": cost.most_microusd,
        "created_at": now(),
    }
    return _store(values, rows, viewer)


def _sender(person_id: uuid.UUID, order: Order, viewer: Viewer) -> senders.Sender | None:
    """Whose batch it will be, in the organization that they are working in."""
    with reading() as connection:
        if viewer.person_id == person_id and viewer.organization_id is not None:
            return senders.within(connection, person_id, viewer.organization_id, order.token_id)
        return senders.by_id(connection, person_id, token_id=order.token_id)


def _check(order: Order) -> _Checked:
    stem = " ".join(PurePosixPath(bare(order.file_name).replace("\\", "/")).stem.split())[:NAME_CHARS]
    name = " ".join(bare(order.name).split()) or stem or "Batch"
    checked = _Checked(name, None, clean(order.model).strip())
    if len(checked.name) > NAME_CHARS:
        checked.fields["name"] = f"A name has at most {NAME_CHARS} characters."
    text = clean(order.template).replace("\r\n", "\n").strip()
    longest = current_settings().prompt_max_chars
    if len(text) > longest:
        checked.fields["template"] = f"This is {len(text):,} characters; at most {longest:,} are taken."
    elif text:
        try:
            checked.template = Template.read(text)
        except BadInput as exc:
            checked.fields["template"] = exc.message
    if checked.model:
        try:
            route.named_target(checked.model)
        except Unavailable as exc:
            checked.fields["model"] = f"This model cannot be used: {clean(exc.detail)[:200]}"
    return checked


def _store(values: dict[str, Any], rows: Iterable[Row], viewer: Viewer) -> uuid.UUID:
    batch_id: uuid.UUID = values["id"]
    source = iter(rows)
    with writing() as connection:
        connection.execute(insert(Batch), values)
        count = 0
        while chunk := list(islice(source, _CHUNK)):
            connection.execute(
                insert(BatchRow),
                [
                    {
                        "batch_id": batch_id,
                        "number": row.number,
                        "prompt": row.prompt,
                        "given": row.given,
                        "state": RowState.WAITING,
                    }
                    for row in chunk
                ],
            )
            count += len(chunk)
        if count != values["total"]:
            raise Conflict("The file changed while it was read. Send it again.")
        if viewer.person_id != values["person_id"]:
            _audit(connection, viewer, "batch.create", batch_id, values["organization_id"])
    return batch_id


def confirm(viewer: Viewer, batch_id: uuid.UUID) -> None:
    """Start a batch whose price was seen."""
    values = {"status": BatchStatus.RUNNING, "confirmed_at": now()}
    _change(viewer, batch_id, "confirm", (BatchStatus.READY,), values=values, own=True)


def pause(viewer: Viewer, batch_id: uuid.UUID) -> None:
    """Begin no further row. What is under way is finished. A batch that would go on by itself does not any more."""
    waits = exists().where(BatchRow.batch_id == Batch.id, BatchRow.state == RowState.WAITING)
    stops = (Batch.status == BatchStatus.RUNNING) | Batch.resume_at.is_not(None)
    values = {"status": BatchStatus.PAUSED, "pause_reason": None, "resume_at": None}
    _change(viewer, batch_id, "pause", (BatchStatus.RUNNING, BatchStatus.PAUSED), (waits, stops), values=values)


def resume(viewer: Viewer, batch_id: uuid.UUID) -> None:
    """Go on with a paused batch."""
    values = {"status": BatchStatus.RUNNING, "pause_reason": None, "resume_at": None}
    _change(viewer, batch_id, "resume", (BatchStatus.PAUSED,), values=values)


def cancel(viewer: Viewer, batch_id: uuid.UUID) -> None:
    """End a batch: no further row is begun. What is under way is stopped by the feeder, or at once by `batch_feed.stop`."""
    values = {"status": BatchStatus.CANCELLED, "pause_reason": None, "resume_at": None, "ended_at": now()}
    _change(viewer, batch_id, "cancel", (BatchStatus.RUNNING, BatchStatus.PAUSED), values=values)


def remove(viewer: Viewer, batch_id: uuid.UUID) -> None:
    """Delete a batch that was never confirmed, with all that is in it."""
    with writing() as connection:
        found = find(connection, viewer, batch_id)
        if not found.mine:
            raise NotAllowed("Only whoever made a batch can delete it.")
        connection.execute(delete(BatchRow).where(BatchRow.batch_id == batch_id))
        gone = connection.execute(delete(Batch).where(Batch.id == batch_id, Batch.status == BatchStatus.READY))
        if gone.rowcount != 1:
            raise Conflict(_refused(connection, batch_id, "delete"))
        if found.row.person_id != viewer.person_id:
            _audit(connection, viewer, "batch.delete", batch_id, found.row.organization_id)


# -- parts ---------------------------------------------------------------------------------------------------------------
def manages(connection: Connection, viewer: Viewer) -> bool:
    """Whether somebody sees the batches of the whole organization that they are working in."""
    if viewer.manager is not None:
        return viewer.manager
    query = select(Membership.role).where(
        Membership.person_id == viewer.person_id, Membership.organization_id == viewer.organization_id
    )
    return connection.execute(query).scalar() in (PersonRole.MANAGER, PersonRole.ADMIN)


def find(connection: Connection, viewer: Viewer, batch_id: uuid.UUID) -> Found:
    """The batch, if it is the viewer's, of an organization that they manage, or they are an administrator; else `NotFound`."""
    row = connection.execute(select(Batch.__table__).where(Batch.id == batch_id)).first()
    if row is not None:
        mine = viewer.admin or viewer.owns(row)
        if mine or (row.organization_id == viewer.organization_id and manages(connection, viewer)):
            return Found(row, mine)
    raise NotFound("There is no such batch.")


def _change(
    viewer: Viewer,
    batch_id: uuid.UUID,
    action: str,
    before: tuple[BatchStatus, ...],
    conditions: tuple[ColumnElement[bool], ...] = (),
    *,
    values: dict[str, Any],
    own: bool = False,
) -> None:
    """One change of state, if the batch is still in one of the states `before`; `Conflict` says how it is instead."""
    with writing() as connection:
        found = find(connection, viewer, batch_id)
        if own and not found.mine:
            raise NotAllowed("Only whoever made a batch can start it.")
        done = connection.execute(
            update(Batch).where(Batch.id == batch_id, Batch.status.in_(before), *conditions).values(**values)
        )
        if done.rowcount != 1:
            raise Conflict(_refused(connection, batch_id, action))
        if found.row.person_id != viewer.person_id:
            _audit(connection, viewer, f"batch.{action}", batch_id, found.row.organization_id)


_IS = {
    BatchStatus.READY: "has not been started yet",
    BatchStatus.RUNNING: "is running",
    BatchStatus.PAUSED: "is paused",
    BatchStatus.CANCELLED: "was cancelled",
    BatchStatus.COMPLETED: "is completed",
}


def _refused(connection: Connection, batch_id: uuid.UUID, action: str) -> str:
    status = connection.execute(select(Batch.status).where(Batch.id == batch_id)).scalar()
    if status is None:
        return "This batch was deleted meanwhile."
    if action == "pause" and status == BatchStatus.RUNNING:
        return "Every row has been begun already: there is nothing left to pause."
    return f"This batch {_IS[BatchStatus(status)]}. Nothing was changed."


def _audit(connection: Connection, viewer: Viewer, action: str, batch_id: uuid.UUID, organization_id: uuid.UUID) -> None:
    connection.execute(
        insert(AuditEntry),
        {
            "id": new_id(),
            "actor_id": viewer.person_id,
            "actor": viewer.actor,
            "action": action,
            "subject": f"batch:{batch_id}",
            "organization_id": organization_id,
            "detail": {},
            "created_at": now(),
        },
    )
