"""Conversations for programs. New ones are made by tasks."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from datetime import datetime

from flask import Response
from pydantic import ConfigDict, Field

from webapp.api import access, task_answers
from webapp.api.base import (
    ApiModel,
    Flag,
    PageQuery,
    Text,
    answer,
    area,
    make_cursor,
    moment_of,
    page_answer,
    page_of,
    read_cursor,
)
from webapp.api.task_models import Task, values_of
from webapp.contracts.errors import BadInput
from webapp.services import conversations, request_lists
from webapp.services.conversations import SEARCH_CHARS, TITLE_CHARS
from webapp.services.request_lists import Filters

blueprint = area("conversations", "Conversations", "Tasks that belong together. New ones are made by tasks.")


class ConversationPath(ApiModel):
    """The address of a conversation."""

    conversation_id: uuid.UUID


class ConversationQuery(PageQuery):
    """Which conversations are listed."""

    active: bool | None = Field(None, description="Only those that are open, or closed.")
    q: Text | None = Field(
        None,
        max_length=SEARCH_CHARS,
        description="A part of the title. A page may have fewer items than asked for, or none, and still a `next_cursor`.",
    )


class Conversation(ApiModel):
    """A conversation. A closed one is not gone on with by itself."""

    id: uuid.UUID
    title: str
    active: bool
    created_at: datetime
    last_activity_at: datetime


class ConversationChange(ApiModel):
    """What is to be different."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"title": "Travel plans", "active": False}]})

    title: Text | None = Field(None, min_length=1, max_length=TITLE_CHARS)
    active: Flag | None = Field(None, description="false closes it, true opens it again.")


class ConversationTasksQuery(PageQuery):
    """A page of a conversation's tasks."""


ConversationPage = page_of(Conversation)


class ConversationTasks(Conversation):
    """A conversation with a page of its tasks, the newest first."""

    tasks: list[Task]
    next_cursor: str | None
    total: int | None


@blueprint.get("/conversations", summary="List conversations", responses={200: ConversationPage})
@access.opens("read")
def list_conversations(query: ConversationQuery) -> Response:
    """Your own, where you work, the latest activity first."""
    caller = access.caller()
    position = read_cursor(query.cursor, moment_of, uuid.UUID)
    found = conversations.page(
        caller.id,
        caller.organization_id,
        active=query.active,
        q=query.q or "",
        after=position,
        size=query.limit,
        total=query.total,
    )
    cursor = None if found.next is None else make_cursor(*found.next)
    return page_answer([Conversation(**asdict(line)) for line in found.lines], cursor, found.total)


@blueprint.get("/conversations/<conversation_id>", summary="Read a conversation", responses={200: ConversationTasks})
@access.opens("read")
def read_conversation(path: ConversationPath, query: ConversationTasksQuery) -> Response:
    """A conversation of yours with its tasks, a page at a time."""
    caller = access.caller()
    found = conversations.one(caller.id, caller.organization_id, path.conversation_id)
    position = read_cursor(query.cursor, uuid.UUID)
    tasks = request_lists.page(
        task_answers.mine(caller),
        Filters(conversation_id=found.id),
        after=position[0] if position else None,
        size=query.limit,
        total=query.total,
    )
    return answer(
        ConversationTasks(
            **asdict(found),
            tasks=[Task(**values_of(line)) for line in tasks.lines],
            next_cursor=None if tasks.next_id is None else make_cursor(tasks.next_id),
            total=tasks.total,
        )
    )


@blueprint.patch("/conversations/<conversation_id>", summary="Change a conversation", responses={200: Conversation})
@access.opens("write")
def change_conversation(path: ConversationPath, body: ConversationChange) -> Response:
    """Name it anew, close it, or open it again."""
    if not body.model_fields_set:
        raise BadInput("body", "Say what is to be different: title, active.")
    caller = access.caller()
    changed = conversations.change(
        caller.id, caller.organization_id, path.conversation_id, title=body.title, active=body.active
    )
    return answer(Conversation(**asdict(changed)))
