"""The pictures of requests: which there are, and who may see one."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, select

from webapp.contracts.errors import NotFound
from webapp.extensions import reading, table_of
from webapp.models import Attachment, Request

_attachment, _request = table_of(Attachment), table_of(Request)


@dataclass(frozen=True, slots=True)
class RequestPicture:
    """A picture of a request: `kind` is given or made. `actions` are the labels of what its vendor can do with it."""

    sha256: str
    kind: str
    media_type: str
    size_bytes: int
    width: int
    height: int
    seed: int | None
    actions: tuple[str, ...]


def of_requests(connection: Connection, request_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, tuple[RequestPicture, ...]]:
    """The pictures of these requests: one statement, none for no ids."""
    if not request_ids:
        return {}
    names = ("sha256", "kind", "media_type", "size_bytes", "width", "height", "seed")
    query: Select[Any] = (
        select(_attachment.c.request_id, _attachment.c.actions, *(_attachment.c[name] for name in names))
        .where(_attachment.c.request_id.in_(request_ids))
        .order_by(_attachment.c.request_id, _attachment.c.id)
    )
    found: dict[uuid.UUID, list[RequestPicture]] = {}
    for request_id, actions, *values in connection.execute(query):
        # The vendor's own tokens beside the labels are not for the world.
        labels = tuple(str(action[0]) for action in actions or ())
        given: dict[str, Any] = dict(zip(names, values, strict=True)) | {"actions": labels}
        found.setdefault(request_id, []).append(RequestPicture(**given))
    return {request_id: tuple(pictures) for request_id, pictures in found.items()}


def media_type(sha256: str, *requests: ColumnElement[bool]) -> str:
    """The media type of a picture that belongs to a request of which these conditions are true; `NotFound` if there is none."""
    query = select(_attachment.c.media_type).where(_attachment.c.sha256 == sha256).limit(1)
    if requests:
        query = query.join(_request, _request.c.id == _attachment.c.request_id).where(*requests)
    with reading() as connection:
        found: str | None = connection.execute(query).scalar()
    if found is None:
        raise NotFound("There is no such picture.")
    return found
