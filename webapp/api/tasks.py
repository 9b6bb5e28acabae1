"""Requests for programs, which the API calls tasks."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

from flask import Response

from webapp.api import access, once, task_answers, task_orders, watching
from webapp.api.base import answer, area, page_of
from webapp.api.queue import Wait
from webapp.api.task_models import (
    Task,
    TaskAgain,
    TaskCreate,
    TaskDetail,
    TaskPath,
    TaskQuery,
    TaskRating,
    TaskStatusAnswer,
    TaskSumsAnswer,
    TaskSumsQuery,
    TaskWaitQuery,
    detail_values_of,
    values_of,
)
from webapp.api.task_orders import Order
from webapp.contracts.errors import BadInput
from webapp.pipeline.intake import Outcome
from webapp.services import ratings, request_lists, task_statistics, templates, waiting

blueprint = area("tasks", "Tasks", "What somebody asks for, from its admission to its end.")
PLACE = "/api/tasks"
TaskPage = page_of(Task)
EVENTS: dict[str, Any] = {
    "description": "Server-sent events: `piece` and `reset` with a JSON string, `end` with the status; comments while there is "
    "nothing. `Last-Event-ID` goes on after that event.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}


@blueprint.get("/tasks", summary="List tasks", responses={200: TaskPage})
@access.opens("read", "chat")
def list_tasks(query: TaskQuery) -> Response:
    """The tasks that you may see: your own, those of your organization for managers, all for administrators. A token with the
    scope `chat` alone sees what came with it. Texts of others are shown to administrators alone."""
    return task_answers.listed(Task, query)


@blueprint.post("/tasks", summary="Make a task", responses={201: Task, 202: Task})
@once.repeatable
@access.opens("chat", "write")
def create_task(query: TaskWaitQuery, body: TaskCreate) -> Response:
    """Ask for something. It is queued: 202 says where its state is found, and when to come again. With `wait` the call waits
    for the end, and answers 201 with the finished task if that comes in time. What a limit has no room for is answered 429,
    and is on the list as rejected."""
    order = _order(body)
    admission = task_orders.create(task_answers.by(access.caller()), order)
    if order.template_version_id is not None and admission.outcome is Outcome.ACCEPTED:
        templates.note_use(order.template_version_id)
    return task_answers.started(Task, PLACE, admission, query.wait)


@blueprint.get("/tasks/analytics", summary="What became of tasks", responses={200: TaskSumsAnswer})
@access.opens("read")
def read_task_analytics(query: TaskSumsQuery) -> Response:
    """How many tasks of a time there are by status, category and operation, how many succeed, how long they take, and what they
    cost."""
    scope = task_answers.scope_of(access.caller(), query.whose)
    return answer(TaskSumsAnswer.of(task_statistics.sums(scope, query.created_from, query.created_to)))


@blueprint.get("/tasks/<task_id>", summary="Read a task", responses={200: TaskDetail})
@access.opens("read", "chat")
def read_task(path: TaskPath, query: TaskWaitQuery) -> Response:
    """A task with its calls and the reasons for its model. With `wait` the call waits for the end first."""
    scope = task_answers.visible(access.caller())
    task_answers.waited(path.task_id, scope, query.wait)
    return answer(TaskDetail(**detail_values_of(request_lists.one(path.task_id, scope))))


@blueprint.get("/tasks/<task_id>/wait", summary="How long a task will wait", responses={200: Wait})
@access.opens("read", "chat")
def read_task_wait(path: TaskPath) -> Response:
    """How many requests are before it in the queue, and for about how many seconds."""
    request_lists.line(path.task_id, task_answers.visible(access.caller()))
    found = waiting.estimate(path.task_id)
    seconds = None if found.seconds is None else round(found.seconds, 1)
    return answer(Wait(position=found.position, seconds=seconds, reason=found.reason.value or None, words=found.words))


@blueprint.get("/tasks/<task_id>/events", summary="Watch a task's answer", responses={200: EVENTS})
@access.opens("read", "chat")
def watch_task(path: TaskPath) -> Response:
    """Your own task's answer as it is written."""
    caller = access.caller()
    request_lists.line(path.task_id, task_answers.watchable(caller))
    return watching.events(path.task_id, caller.id)


@blueprint.post("/tasks/<task_id>/cancel", summary="Cancel a task", responses={200: TaskStatusAnswer})
@access.opens("chat", "write")
def cancel_task(path: TaskPath) -> Response:
    """One that waits ends at once, free of charge. One that runs ends at its next piece, charged for what was written: its
    status is `processing` until then. Managers and administrators may cancel those of others; that is on the audit log."""
    caller = access.caller()
    status = task_orders.cancel(task_answers.visible(caller), path.task_id, caller.actor.name)
    return answer({"id": path.task_id, "status": status})


@blueprint.post("/tasks/<task_id>/rate", summary="Rate a task", responses={200: Task})
@access.opens("chat", "write")
def rate_task(path: TaskPath, body: TaskRating) -> Response:
    """Say how good the answer was: 1 to 5, and a comment. Your own completed tasks alone; you may rate one otherwise later."""
    scope = task_answers.mine(access.caller())
    ratings.rate(scope, path.task_id, body.rating, body.comment)
    return answer(Task(**values_of(request_lists.line(path.task_id, scope))))


@blueprint.post("/tasks/<task_id>/regenerate", summary="Ask once more", responses={201: Task, 202: Task})
@once.repeatable
@access.opens("chat", "write")
def regenerate_task(path: TaskPath, query: TaskWaitQuery, body: TaskAgain) -> Response:
    """A new task with the same prompt, parameters and pictures, and perhaps another model. No kept answer is taken. The first
    one has to be your own, and at its end."""
    caller = access.caller()
    first = request_lists.line(path.task_id, task_answers.mine(caller))
    return task_answers.started(Task, PLACE, task_orders.again(task_answers.by(caller), first, body.model), query.wait)


# -- parts ---------------------------------------------------------------------------------------------------------------
def _order(body: TaskCreate) -> Order:
    if body.conversation_id is not None and body.new_conversation and "new_conversation" in body.model_fields_set:
        raise BadInput("new_conversation", "Either go on with `conversation_id`, or begin a new conversation.")
    order = Order(
        prompt=body.prompt or "",
        operation=body.operation,
        model=body.model,
        parameters=body.parameters,
        pictures=body.pictures,
        conversation_id=body.conversation_id,
        new_conversation=body.new_conversation,
        urgent=body.urgent,
        allocation=body.allocation,
        may_wait=body.may_wait,
    )
    if body.template_id is not None:
        return _filled_in(body, body.template_id, order)
    if body.variables:
        raise BadInput("variables", "Variables belong to a template: name it by `template_id`.")
    if body.prompt is None:
        raise BadInput("prompt", "Write a prompt, or name a template by `template_id`.")
    return order


def _filled_in(body: TaskCreate, template_id: uuid.UUID, order: Order) -> Order:
    """The order with the prompt that a template makes; what the call says itself counts more than what the template does."""
    if body.prompt is not None:
        raise BadInput("prompt", "The template makes the prompt: leave it out.")
    caller = access.caller()
    viewer = templates.Viewer(caller.id, caller.organization_id, caller.is_manager, caller.is_admin)
    made = templates.render(template_id, body.variables, viewer)
    defaults = dict(made.parameters)
    if body.model is not None:
        defaults.pop("model", None)
    return replace(
        order,
        prompt=made.text,
        operation=body.operation if "operation" in body.model_fields_set else made.operation,
        parameters={**defaults, **body.parameters},
        template_version_id=made.version_id,
    )
