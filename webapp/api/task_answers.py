"""What the areas of tasks and of generation requests share: who sees which, and how a new one is answered."""

from __future__ import annotations

import math
import uuid
from typing import Literal

from flask import Response

from webapp.api import access, once, watching
from webapp.api.access import Caller
from webapp.api.base import answer, make_cursor, page_answer, read_cursor
from webapp.api.task_models import Task, TaskQuery, values_of
from webapp.api.task_orders import By
from webapp.contracts.errors import BadInput, NotAllowed
from webapp.pipeline.intake import Admission
from webapp.services import request_lists, waiting
from webapp.services.request_lists import Filters, Scope

_LATER_S = 60
"""Whoever asks again is told to come at least this often."""


def visible(caller: Caller) -> Scope:
    """All that a caller may see: their own, of their organization for managers, everything for administrators."""
    if caller.is_admin:
        return Scope.all(caller.id)
    if caller.is_manager:
        return Scope.organization(caller.id, caller.organization_id)
    return mine(caller)


def mine(caller: Caller) -> Scope:
    """A caller's own. What a token that may not read sees is what came with it."""
    reads = caller.scopes & {"read", "admin"}
    return Scope.own(caller.id, caller.organization_id, None if reads else caller.token_id)


def watchable(caller: Caller) -> Scope:
    """Those of which a caller may read the texts."""
    return Scope.all(caller.id) if caller.is_admin else mine(caller)


def scope_of(caller: Caller, whose: Literal["own", "organization", "all"] | None) -> Scope:
    """What a caller wants to see. `NotAllowed` for more than they may."""
    if whose == "own":
        return mine(caller)
    if whose == "organization":
        if not caller.is_manager:
            raise NotAllowed("The tasks of an organization are for its managers, with a token that has the scope admin.")
        return Scope.organization(caller.id, caller.organization_id)
    if whose == "all" and not caller.is_admin:
        raise NotAllowed("All tasks are for administrators of the installation, with a token that has the scope admin.")
    return visible(caller)


def by(caller: Caller) -> By:
    """Who makes a request."""
    key = once.call_id()
    return By(caller.id, caller.token_id, None if key is None else str(key))


def listed(model: type[Task], query: TaskQuery, operations: tuple[str, ...] = ()) -> Response:
    """A page of the list."""
    position = read_cursor(query.cursor, uuid.UUID)
    if query.created_from and query.created_to and query.created_from >= query.created_to:
        raise BadInput("created_from", "The range has to begin before it ends.")
    filters = Filters(
        status=query.status or (),
        operation=query.operation,
        operations=operations,
        category=query.category,
        channel=query.channel,
        provider=query.provider,
        model=query.model,
        person_id=query.person,
        conversation_id=query.conversation,
        batch_id=query.batch,
        rating=query.rating,
        created_from=query.created_from,
        created_to=query.created_to,
        cost_from_microusd=query.cost_from_microusd,
        cost_to_microusd=query.cost_to_microusd,
        q=query.q or "",
    )
    found = request_lists.page(
        scope_of(access.caller(), query.whose),
        filters,
        after=position[0] if position else None,
        size=query.limit,
        oldest_first=query.order == "created",
        total=query.total,
    )
    next_cursor = None if found.next_id is None else make_cursor(found.next_id)
    return page_answer([model(**values_of(line)) for line in found.lines], next_cursor, found.total)


def started(model: type[Task], place: str, admission: Admission, wait: int) -> Response:
    """A new request: 202 with where to look, or 201 with its end where that was waited for. `place` is the area's address."""
    caller, request_id = access.caller(), admission.request_id
    assert request_id is not None, "a known person's call becomes a request"
    scope = Scope.own(caller.id, caller.organization_id)
    line = request_lists.line(request_id, scope)
    if wait and not line.ended:
        watching.until_end(request_id, caller.id, wait)
        line = request_lists.line(request_id, scope)
    headers = {"Location": f"{place}/{request_id}"}
    if line.ended:
        return answer(model(**values_of(line)), 201, headers)
    return answer(model(**values_of(line)), 202, headers | {"Retry-After": str(_come_again_s(request_id))})


def waited(request_id: uuid.UUID, scope: Scope, wait: int) -> None:
    """Wait for the end of a request that somebody may see. `NotFound`."""
    if wait and not request_lists.line(request_id, scope).ended:
        watching.until_end(request_id, access.caller().id, wait)


def _come_again_s(request_id: uuid.UUID) -> int:
    seconds = waiting.estimate(request_id).seconds
    return 1 if seconds is None else min(_LATER_S, max(1, math.ceil(seconds)))
