"""The error log for programs of administrators."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from datetime import datetime

from flask import Response
from pydantic import ConfigDict, Field, model_validator

from webapp.api import access
from webapp.api.base import ApiModel, Moment, PageQuery, Text, answer, area, make_cursor, page_answer, page_of, read_cursor
from webapp.contracts.errors import BadInput
from webapp.models import PersonRole
from webapp.services import error_log
from webapp.services.error_log import ErrorEntry, Filters

blueprint = area("errors", "Errors", "What went wrong. For administrators of the installation.")


class ErrorLine(ApiModel):
    """An error."""

    id: uuid.UUID
    kind: str = Field(description="Its code, such as provider_timeout.")
    message: str
    person_id: uuid.UUID | None
    request_id: uuid.UUID | None
    created_at: datetime
    resolved_at: datetime | None
    resolution: str | None = Field(description="What was done about it.")
    resolved_by: str | None = Field(description="Who resolved it: person:ID, or the command line.")


class ErrorDetail(ErrorLine):
    """An error with its detail."""

    detail: str | None = Field(
        description="The vendor's or plugin's own words, or a stack trace. It may quote what people wrote."
    )


class ErrorPath(ApiModel):
    """The address of an error."""

    error_id: uuid.UUID


class ErrorsQuery(PageQuery):
    """Which errors. At most 5,000 are looked at for a page: it may be short, or empty, and still have a `next_cursor`."""

    kind: Text = Field("", max_length=40)
    resolved: bool | None = Field(None, description="Only those that are resolved, or only those that are not.")
    person_id: uuid.UUID | None = None
    request_id: uuid.UUID | None = None
    created_from: Moment | None = Field(None, description="Not before this moment.")
    created_to: Moment | None = Field(None, description="Before this moment.")
    q: Text = Field("", max_length=200, description="A part of the message.")


class ErrorResolution(ApiModel):
    """What was done about it."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"notes": "The key was renewed."}]})

    notes: Text = Field("", max_length=error_log.NOTES_CHARS)


class ErrorsResolution(ErrorResolution):
    """Which errors to resolve: these, or all of a kind."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"kind": "provider_timeout", "notes": "The vendor was down."}]}
    )

    ids: list[uuid.UUID] | None = Field(None, min_length=1, max_length=error_log.AT_ONCE)
    kind: Text | None = Field(None, min_length=1, max_length=40, description="The oldest 1,000 that are open of this kind.")

    @model_validator(mode="after")
    def _one_of_them(self) -> ErrorsResolution:
        if (self.ids is None) == (self.kind is None):
            raise ValueError("give either ids or kind")
        return self


class ErrorsResolved(ApiModel):
    """How many were resolved."""

    resolved: int
    more: bool = Field(description="Whether others of the kind are open: call again.")


ErrorPage = page_of(ErrorLine)


@blueprint.get("/errors", summary="List errors", responses={200: ErrorPage})
@access.opens("admin", role=PersonRole.ADMIN)
def list_errors(query: ErrorsQuery) -> Response:
    """The newest first. The total is null where more than 20,000 would have to be looked at."""
    after = read_cursor(query.cursor, uuid.UUID)
    wanted = Filters(**query.model_dump(exclude={"cursor", "limit", "total"}))
    found = error_log.page(wanted, after=after[0] if after else None, size=query.limit, total=query.total)
    cursor = make_cursor(found.next_id) if found.next_id else None
    return page_answer([_line(entry) for entry in found.entries], cursor, found.total)


@blueprint.get("/errors/<error_id>", summary="Read an error", responses={200: ErrorDetail})
@access.opens("admin", role=PersonRole.ADMIN)
def read_error(path: ErrorPath) -> Response:
    """With the vendor's own words, or the stack trace."""
    return answer(ErrorDetail(**asdict(error_log.show(path.error_id))))


@blueprint.post("/errors/<error_id>/resolve", summary="Resolve an error", responses={200: ErrorDetail})
@access.opens("admin", role=PersonRole.ADMIN)
def resolve_error(path: ErrorPath, body: ErrorResolution) -> Response:
    """Note that it was seen to. 409 if it is resolved."""
    return answer(ErrorDetail(**asdict(error_log.resolve(path.error_id, body.notes, access.caller().actor))))


@blueprint.post("/errors/<error_id>/reopen", summary="Reopen an error", responses={200: ErrorDetail})
@access.opens("admin", role=PersonRole.ADMIN)
def reopen_error(path: ErrorPath) -> Response:
    """Take the note away. 409 if it is not resolved."""
    return answer(ErrorDetail(**asdict(error_log.reopen(path.error_id, access.caller().actor))))


@blueprint.post("/errors/resolve", summary="Resolve many errors", responses={200: ErrorsResolved})
@access.opens("admin", role=PersonRole.ADMIN)
def resolve_errors(body: ErrorsResolution) -> Response:
    """Those with these ids that are open, or all of a kind, up to 1,000 in one call."""
    actor = access.caller().actor
    if body.ids is not None:
        done = error_log.resolve_these(body.ids, body.notes, actor)
    elif body.kind is not None:
        done = error_log.resolve_kind(body.kind, body.notes, actor)
    else:
        raise BadInput("ids", "Give either ids or kind.")
    return answer(ErrorsResolved(resolved=done.resolved, more=done.more))


def _line(entry: ErrorEntry) -> ErrorLine:
    return ErrorLine(**{name: getattr(entry, name) for name in ErrorLine.model_fields})
