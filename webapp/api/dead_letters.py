"""Requests that were set aside, for programs of administrators."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from datetime import datetime
from typing import Literal

from flask import Response
from pydantic import ConfigDict, Field

from webapp.api import access, once
from webapp.api.base import ApiModel, PageQuery, answer, area, make_cursor, page_answer, page_of, read_cursor
from webapp.models import PersonRole
from webapp.pipeline import replay
from webapp.services import dead_letters

blueprint = area(
    "dead_letters",
    "Dead letters",
    "Requests that failed for no fault of whoever asked, after everything was tried. For administrators of the installation.",
)

Reason = Literal["vendor", "account", "worker", "queue", "internal"]
_AT_ONCE = 500
"""How many one call puts back: it has to be answered."""
_TROUBLES_SHOWN = 50


class DeadLetterItem(ApiModel):
    """A request that was set aside."""

    request_id: uuid.UUID
    person: str = Field(description="Whose it is, by name or e-mail, else by id.")
    channel: str
    operation: str
    reason: str = Field(description="The class of what went wrong: vendor, account, worker, queue, internal.")
    error_code: str
    last_error: str = Field(description="Perhaps a vendor's own words; cut in lists.")
    attempts: int
    state: str = Field(description="open, replayed or dismissed.")
    replays: int
    asked_at: datetime
    created_at: datetime = Field(description="When it was set aside.")
    acted_at: datetime | None
    acted_by: str = Field(description="Who replayed or dismissed it: person:ID, or the command line.")


class DeadLetterPath(ApiModel):
    """The address of a request that was set aside."""

    request_id: uuid.UUID


class DeadLettersQuery(PageQuery):
    """Which of them."""

    reason: Reason | None = None
    state: Literal["open", "replayed", "dismissed"] = "open"


class DeadLettersReplay(ApiModel):
    """Which to put back on the road."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"reason": "vendor"}]})

    reason: Reason = Field(description="All that are open for this reason, the oldest first, 500 in one call.")


class DeadLetterTrouble(ApiModel):
    """One that could not be put back."""

    request_id: uuid.UUID
    message: str


class DeadLettersReplayed(ApiModel):
    """What came of it."""

    replayed: int
    failed: int
    troubles: list[DeadLetterTrouble] = Field(description="Why, for the first 50 that could not be put back.")
    more: bool = Field(description="Whether there may be others for this reason: call again.")


DeadLetterPage = page_of(DeadLetterItem)


@blueprint.get("/dead-letters", summary="List what was set aside", responses={200: DeadLetterPage})
@access.opens("admin", role=PersonRole.ADMIN)
def list_dead_letters(query: DeadLettersQuery) -> Response:
    """The newest first. The total counts those in this state for this reason."""
    after, reason = read_cursor(query.cursor, uuid.UUID), query.reason or ""
    found = dead_letters.letters(reason, query.state, after[0] if after else None, query.limit + 1)
    shown = found[: query.limit]
    cursor = make_cursor(shown[-1].request_id) if len(found) > query.limit else None
    total = dead_letters.count(reason, query.state) if query.total else None
    return page_answer([_item(letter) for letter in shown], cursor, total)


@blueprint.get("/dead-letters/<request_id>", summary="Read what was set aside", responses={200: DeadLetterItem})
@access.opens("admin", role=PersonRole.ADMIN)
def read_dead_letter(path: DeadLetterPath) -> Response:
    """With the whole of its last error."""
    return answer(_item(dead_letters.letter(path.request_id)))


@blueprint.post("/dead-letters/<request_id>/replay", summary="Put a request back on the road", responses={202: DeadLetterItem})
@once.repeatable
@access.opens("admin", role=PersonRole.ADMIN)
def replay_dead_letter(path: DeadLetterPath) -> Response:
    """It is the same request, with one answer, held anew on the limits of its person as they are: 429 if they have no room,
    409 if it is on the road already."""
    actor = access.caller().actor
    replay.replay(path.request_id, actor.name, actor.person_id)
    headers = {"Location": f"/api/tasks/{path.request_id}", "Retry-After": "1"}
    return answer(_item(dead_letters.letter(path.request_id)), 202, headers)


@blueprint.post("/dead-letters/replay", summary="Put all of a reason back", responses={200: DeadLettersReplayed})
@once.repeatable
@access.opens("admin", role=PersonRole.ADMIN)
def replay_dead_letters(body: DeadLettersReplay) -> Response:
    """Each by itself: what cannot be put back stays, and is named."""
    actor, replayed, troubles = access.caller().actor, 0, list[DeadLetterTrouble]()
    for each in replay.replay_all(body.reason, actor.name, actor.person_id):
        if each.trouble:
            troubles.append(DeadLetterTrouble(request_id=each.request_id, message=each.trouble))
        else:
            replayed += 1
        if replayed + len(troubles) >= _AT_ONCE:
            break
    more = replayed + len(troubles) >= _AT_ONCE
    return answer(DeadLettersReplayed(replayed=replayed, failed=len(troubles), troubles=troubles[:_TROUBLES_SHOWN], more=more))


@blueprint.post("/dead-letters/<request_id>/dismiss", summary="Close the matter", responses={200: DeadLetterItem})
@access.opens("admin", role=PersonRole.ADMIN)
def dismiss_dead_letter(path: DeadLetterPath) -> Response:
    """It is not tried again unless somebody replays it. 409 if it is not open."""
    actor = access.caller().actor
    replay.dismiss(path.request_id, actor.name, actor.person_id)
    return answer(_item(dead_letters.letter(path.request_id)))


def _item(letter: dead_letters.Letter) -> DeadLetterItem:
    return DeadLetterItem(**asdict(letter))
