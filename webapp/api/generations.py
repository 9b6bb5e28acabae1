"""Requests for pictures, which the API calls generation requests, and the pictures themselves."""

from __future__ import annotations

import uuid

from flask import Response, send_file

from webapp.api import access, once, task_answers, task_orders
from webapp.api.base import ApiModel, Text, answer, area, page_of
from webapp.api.generation_models import GenerationCreate, GenerationDetail, GenerationPath, GenerationRequest
from webapp.api.task_models import TaskAgain, TaskQuery, TaskRating, TaskWaitQuery, detail_values_of, values_of
from webapp.api.task_orders import GENERATIONS, Order
from webapp.contracts.errors import NotFound
from webapp.pipeline import pictures
from webapp.services import ratings, request_lists
from webapp.services.request_lists import RequestLine, Scope

blueprint = area("generations", "Generation requests", "Pictures that are made, and where they are.")
PLACE = "/api/generation-requests"
GenerationPage = page_of(GenerationRequest)
_NONE = "There is no such picture."


class PicturePath(ApiModel):
    """The address of a picture."""

    sha256: Text


@blueprint.get("/generation-requests", summary="List generation requests", responses={200: GenerationPage})
@access.opens("read", "chat")
def list_generations(query: TaskQuery) -> Response:
    """Those that you may see, as with tasks."""
    return task_answers.listed(GenerationRequest, query, GENERATIONS)


@blueprint.post(
    "/generation-requests",
    summary="Have something made",
    responses={201: GenerationRequest, 202: GenerationRequest},
)
@once.repeatable
@access.opens("chat", "write")
def create_generation(query: TaskWaitQuery, body: GenerationCreate) -> Response:
    """Have a picture made. It is queued, as with tasks; `wait` waits for its end."""
    given = {name: getattr(body, name) for name in ("width", "height", "seed", "style", "negative_prompt")}
    order = Order(
        prompt=body.prompt,
        operation=body.operation,
        model=body.model,
        parameters=given,
        pictures=() if body.picture is None else (body.picture,),
        urgent=body.urgent,
        allocation=body.allocation,
    )
    admission = task_orders.create(task_answers.by(access.caller()), order, GENERATIONS)
    return task_answers.started(GenerationRequest, PLACE, admission, query.wait)


@blueprint.get("/generation-requests/<generation_id>", summary="Read a generation request", responses={200: GenerationDetail})
@access.opens("read", "chat")
def read_generation(path: GenerationPath, query: TaskWaitQuery) -> Response:
    """What was made is in `pictures`. With `wait` the call waits for the end first."""
    scope = task_answers.visible(access.caller())
    _one(path.generation_id, scope)
    task_answers.waited(path.generation_id, scope, query.wait)
    return answer(GenerationDetail(**detail_values_of(request_lists.one(path.generation_id, scope))))


@blueprint.post(
    "/generation-requests/<generation_id>/regenerate",
    summary="Make another one",
    responses={201: GenerationRequest, 202: GenerationRequest},
)
@once.repeatable
@access.opens("chat", "write")
def regenerate_generation(path: GenerationPath, query: TaskWaitQuery, body: TaskAgain) -> Response:
    """A new request with the same prompt and parameters, and perhaps another model."""
    caller = access.caller()
    first = _one(path.generation_id, task_answers.mine(caller))
    admission = task_orders.again(task_answers.by(caller), first, body.model)
    return task_answers.started(GenerationRequest, PLACE, admission, query.wait)


@blueprint.post("/generation-requests/<generation_id>/rate", summary="Rate what was made", responses={200: GenerationRequest})
@access.opens("chat", "write")
def rate_generation(path: GenerationPath, body: TaskRating) -> Response:
    """Say how good it is: 1 to 5, and a comment."""
    scope = task_answers.mine(access.caller())
    _one(path.generation_id, scope)
    ratings.rate(scope, path.generation_id, body.rating, body.comment)
    return answer(GenerationRequest(**values_of(_one(path.generation_id, scope))))


@blueprint.get(
    "/pictures/<sha256>",
    summary="A picture",
    responses={
        200: {
            "description": "The picture.",
            "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in sorted(pictures.EXTENSIONS)},
        },
    },
)
@access.opens("read", "chat")
def read_picture(path: PicturePath) -> Response:
    """The bytes of a picture of a task of yours, or for administrators of any."""
    try:
        place = pictures.path_of(path.sha256)
        media_type = request_lists.picture_type(path.sha256, task_answers.watchable(access.caller()))
        # The address says what is in it, so the hash is its tag; whether it may still be seen is asked each time.
        response = send_file(
            place.resolve(), mimetype=media_type, conditional=True, etag=path.sha256, last_modified=None, max_age=0
        )
    except (OSError, ValueError):
        raise NotFound(_NONE) from None
    response.headers["Cache-Control"] = "private, no-cache"
    name = pictures.file_name(path.sha256, media_type)
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.vary.update(("Authorization", "Cookie"))
    return response


def _one(request_id: uuid.UUID, scope: Scope) -> RequestLine:
    found = request_lists.line(request_id, scope)
    if found.operation not in GENERATIONS:
        raise NotFound("There is no such generation request.")
    return found
