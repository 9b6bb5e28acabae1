"""What a program asks for becomes an intake of the road: a new request, or one once more.

What it asks for beside the prompt is checked here, so that a fault names the member of the call that has it.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from webapp.contracts.errors import BadInput, Conflict
from webapp.contracts.texts import clean
from webapp.pipeline import cancel as cancelling
from webapp.pipeline import parameters, pictures
from webapp.pipeline.admit import PICTURES_MAX, admit
from webapp.pipeline.intake import Admission, Intake
from webapp.quota.credits import MILLI
from webapp.registry import current_registry
from webapp.routing.route import IMAGES
from webapp.services import request_lists
from webapp.services.request_lists import RequestLine, Scope

MEDIUM = "api"
CHAT = "chat"
OPERATIONS = (CHAT, IMAGES)
"""The operations that something executes."""
GENERATIONS = (IMAGES,)
"""Those of them that make something else than an answer."""
_FIELDS = {"text": "prompt", "picture": "pictures", "key": "Idempotency-Key"}
"""What the road calls a thing, and what a program does."""
_DATA_URL = re.compile(r"data:[a-z]+/[a-z0-9.+-]+;base64,", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class By:
    """Who makes a request: a person, by a session or a token. `key` is that of a call that may be repeated."""

    person_id: uuid.UUID
    token_id: uuid.UUID | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """What is wanted. `pictures` are in base64 or data URLs; `allocation` is in credits. Without `conversation_id` a
    conversation begins, or, unless `new_conversation`, the person's latest goes on."""

    prompt: str
    operation: str = CHAT
    model: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    pictures: Sequence[str] = ()
    conversation_id: uuid.UUID | None = None
    new_conversation: bool = True
    urgent: bool = False
    allocation: int | None = None
    may_wait: bool = False
    template_version_id: uuid.UUID | None = None


def create(by: By, order: Order, operations: Sequence[str] = OPERATIONS) -> Admission:
    """Put a request on the road. `operations` are those that the door takes. Raises what `admit` does; the field of a
    `BadInput` is the member of the order."""
    if order.operation not in operations:
        known = ", ".join(operations)
        raise BadInput("operation", f"There is no operation {clean(order.operation)[:40]!r} here; there are: {known}.")
    given = {name: value for name, value in order.parameters.items() if value is not None}
    if order.model is not None:
        if given.get("model") not in (None, order.model):
            raise BadInput("model", "Name the model once: as `model`, or among the parameters.")
        given["model"] = order.model
    _check_parameters(given, order.operation, named_apart=order.model is not None)
    return _admit(
        Intake(
            medium=MEDIUM,
            text=order.prompt,
            operation=order.operation,
            person_id=by.person_id,
            conversation_id=order.conversation_id,
            new_conversation=order.conversation_id is None and order.new_conversation,
            idempotency_key=by.key,
            parameters=given,
            pictures=_pictures(order.pictures),
            may_wait=order.may_wait,
            urgent=order.urgent,
            allocation=order.allocation,
            token_id=by.token_id,
            template_version_id=order.template_version_id,
        )
    )


def again(by: By, first: RequestLine, model: str | None = None) -> Admission:
    """Ask once more what a request of theirs asked, with its parameters and pictures; no kept answer is taken. `model` is
    another one. `Conflict` for a request that still runs, has been erased, or came with a conversation of its own."""
    if not first.ended:
        raise Conflict("This request still runs: wait for its end, or cancel it.")
    if not first.prompt:
        raise Conflict("This request has been erased: nobody knows any more what was asked.")
    if first.channel == MEDIUM and first.operation != IMAGES and first.conversation_id is None and first.batch_id is None:
        raise Conflict("The conversation that came along with this request was not kept: make the call once more.")
    given = dict(first.parameters) | {"fresh": True} | ({"model": model} if model else {})
    if model:
        _check_parameters({"model": model}, first.operation, named_apart=True)
    try:
        came = tuple(pictures.read(each.sha256).data for each in first.pictures if each.kind == "given")
    except (OSError, ValueError) as exc:
        raise Conflict("A picture of this request is not there any more: send it as a new one.") from exc
    allotted = first.allocation_millicredits
    return _admit(
        Intake(
            medium=MEDIUM,
            text=first.prompt,
            operation=first.operation,
            person_id=by.person_id,
            conversation_id=first.conversation_id,
            new_conversation=first.conversation_id is None,
            idempotency_key=by.key,
            parameters=given,
            pictures=came,
            allocation=None if allotted is None else allotted // MILLI,
            token_id=by.token_id,
            template_version_id=first.template_version_id,
            again_of_id=first.id,
        )
    )


def cancel(scope: Scope, request_id: uuid.UUID, actor: str) -> str:
    """Cancel a request that somebody may see; returns its status now. That of somebody else is entered in the audit log.
    `NotFound`, `Conflict` if it has ended."""
    found = request_lists.line(request_id, scope)
    if scope.reader_id is not None and found.person_id == scope.reader_id:
        return cancelling.cancel(request_id, scope.reader_id)
    return cancelling.cancel_any(request_id, actor, scope.reader_id)


# -- parts ---------------------------------------------------------------------------------------------------------------
def _admit(intake: Intake) -> Admission:
    try:
        return admit(intake)
    except BadInput as exc:
        raise BadInput(_FIELDS.get(exc.field, exc.field), exc.message) from exc


def _check_parameters(given: Mapping[str, Any], operation: str, *, named_apart: bool) -> None:
    try:
        parameters.check(given)
    except BadInput as exc:
        apart = exc.field == "model" and named_apart
        raise BadInput("model" if apart else f"parameters.{exc.field}", exc.message) from exc
    named = given.get("model")
    registry = current_registry()
    shelf: Mapping[str, Any] = registry.image_providers if operation == IMAGES else registry.providers
    if named and named.partition("/")[0] not in shelf:
        there = ", ".join(sorted(shelf)) or "none"
        message = f"There is no provider {clean(named.partition('/')[0])[:40]!r} for this operation; there are: {there}."
        raise BadInput("model" if named_apart else "parameters.model", message)


def _pictures(given: Sequence[str]) -> tuple[bytes, ...]:
    """The bytes of pictures in base64, or data URLs. `BadInput` says which one is at fault."""
    if len(given) > PICTURES_MAX:
        raise BadInput("pictures", f"At most {PICTURES_MAX} pictures fit into one request; these are {len(given)}.")
    found = []
    for number, text in enumerate(given):
        name = f"pictures.{number}"
        head = _DATA_URL.match(text)
        try:
            data = base64.b64decode(text[head.end() :] if head else text, validate=True)
        except (binascii.Error, ValueError) as exc:
            raise BadInput(name, "This is no base64: send a picture's bytes in base64, or as a data URL.") from exc
        try:
            pictures.look(data)
        except BadInput as exc:
            raise BadInput(name, exc.message) from exc
        found.append(data)
    return tuple(found)
