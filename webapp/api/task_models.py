"""Bodies, queries and answers about tasks, as the API calls requests."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field

from webapp.api.base import ApiModel, Flag, Moment, PageQuery, Text, Whole
from webapp.api.watching import WAIT_MAX_S
from webapp.models import RequestStatus
from webapp.pipeline.admit import ALLOCATION_MAX, ALLOCATION_MIN, PICTURES_MAX
from webapp.services.ratings import COMMENT_CHARS
from webapp.services.request_lists import LOOKED_MAX, SEARCH_CHARS, SEARCHED_MAX, RequestDetail, RequestLine
from webapp.services.request_pictures import RequestPicture
from webapp.services.task_statistics import TaskSums

_PROMPT_CHARS = 2_000_000
_PICTURE_CHARS = 30_000_000
_MOST = 2**62


class TaskPath(ApiModel):
    """The address of a task."""

    task_id: uuid.UUID


class TaskWaitQuery(ApiModel):
    """Whether the call waits for the end."""

    wait: int = Field(
        0,
        ge=0,
        le=WAIT_MAX_S,
        description="Wait so many seconds for the end at most. Only a few calls of one person wait at once; the others "
        "are answered immediately.",
    )


class TaskQuery(PageQuery):
    """Which tasks are listed."""

    whose: Literal["own", "organization", "all"] | None = Field(
        None, description="`own`, `organization` (managers) or `all` (administrators); without it, all that you may see."
    )
    status: list[RequestStatus] | None = Field(None, max_length=7, description="One of these; repeat it for several.")
    operation: Text | None = Field(None, max_length=40)
    category: Text | None = Field(None, max_length=40)
    channel: Text | None = Field(None, max_length=40, description="sms, web, api, batch…")
    provider: Text | None = Field(None, max_length=40)
    model: Text | None = Field(None, max_length=160, description="As the vendor calls it, or provider/model.")
    person: uuid.UUID | None = None
    conversation: uuid.UUID | None = None
    batch: uuid.UUID | None = None
    rating: int | None = Field(None, ge=1, le=5)
    created_from: Moment | None = None
    created_to: Moment | None = Field(None, description="Tasks before this moment.")
    cost_from_microusd: int | None = Field(None, ge=0, le=_MOST)
    cost_to_microusd: int | None = Field(None, ge=0, le=_MOST)
    q: Text | None = Field(
        None,
        max_length=SEARCH_CHARS,
        description="Words as they stand in the prompt or the answer, capital or small. A page looks at "
        f"{SEARCHED_MAX:,} tasks at most ({LOOKED_MAX:,} with other filters alone): it may have fewer items than asked for, "
        "or none, and still a `next_cursor`. Managers find their own texts only.",
    )
    order: Literal["-created", "created"] = Field("-created", description="Newest or oldest first.")


class TaskSumsQuery(ApiModel):
    """Which tasks are counted."""

    whose: Literal["own", "organization", "all"] | None = Field(
        None, description="`own`, `organization` (managers) or `all` (administrators); without it, all that you may see."
    )
    created_from: Moment | None = Field(None, description="Without it, 30 days before the end.")
    created_to: Moment | None = Field(None, description="Without it, now.")


class TaskCreate(ApiModel):
    """What is wanted."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "Show me how to reverse a list in Python", "allocation": 50}]}
    )

    prompt: Text | None = Field(None, max_length=_PROMPT_CHARS, description="Required, unless a template makes it.")
    operation: Text = Field("chat", max_length=40, description="chat, or image.generate.")
    model: Text | None = Field(None, max_length=200, description="provider/model; without it the routing decides.")
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        max_length=40,
        description="What shapes the answer, such as `output` ({schema, name}: JSON by a JSON Schema), `fresh` (no kept "
        "answer) and, for pictures, `width`, `height` and `seed`. A name that does not exist is refused with all that do.",
    )
    pictures: list[Text] = Field(
        default_factory=list,
        max_length=PICTURES_MAX,
        description="PNG, JPEG, GIF or WebP in base64, or as data URLs, for models that read pictures.",
    )
    conversation_id: uuid.UUID | None = Field(None, description="Goes on with this conversation of yours.")
    new_conversation: Flag = Field(
        True, description="Without `conversation_id`: begins a conversation; false goes on with your latest one."
    )
    urgent: Flag = Field(False, description="Moves it forward in the queue, where the plan includes that.")
    allocation: Whole | None = Field(
        None,
        ge=ALLOCATION_MIN,
        le=ALLOCATION_MAX,
        description=f"Credits that it may cost: {ALLOCATION_MIN} to {ALLOCATION_MAX}; without it, the usual number.",
    )
    may_wait: Flag = Field(False, description="May wait for its vendor's cheaper hours.")
    template_id: uuid.UUID | None = Field(None, description="A template of which the prompt is made.")
    variables: dict[str, Text] = Field(default_factory=dict, max_length=100, description="The template's variables.")


class TaskRating(ApiModel):
    """How good an answer was."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"rating": 5, "comment": "Just what I needed"}]})

    rating: Whole = Field(ge=1, le=5)
    comment: Text | None = Field(
        None, max_length=COMMENT_CHARS, description="Without it, the comment of before stays; an empty one removes it."
    )


class TaskAgain(ApiModel):
    """Another try."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})

    model: Text | None = Field(None, max_length=200, description="Another model, as provider/model.")


class TaskPicture(ApiModel):
    """A picture that came with a task, or was made for it."""

    url: str = Field(description="Where it is, for those who may read the task.")
    sha256: str
    kind: Literal["given", "made"]
    media_type: str
    size_bytes: int
    width: int
    height: int
    seed: int | None = None
    actions: list[str] = Field(description="What its vendor can do with it.")

    @classmethod
    def of(cls, picture: RequestPicture) -> TaskPicture:
        """The answer about a picture."""
        values = {name: getattr(picture, name) for name in RequestPicture.__slots__}
        return cls(**(values | {"url": f"/api/pictures/{picture.sha256}", "actions": list(picture.actions)}))


class Task(ApiModel):
    """A request on its way, or at its end."""

    id: uuid.UUID
    status: RequestStatus
    operation: str
    category: str | None = Field(description="What it is about, once that is known.")
    complexity: float | None
    channel: str
    readable: bool = Field(description="False where it is another person's, whose texts are not shown.")
    prompt: str
    parameters: dict[str, Any]
    answer: str | None
    result: dict[str, Any] | None = Field(description="A structured result.")
    finish: str | None = Field(description="Why the answer ended: stop, length…")
    error_code: str | None
    error_message: str | None
    provider: str | None
    model: str | None
    cached: bool = Field(description="Whether a kept answer to the same question was given, free of charge.")
    input_tokens: int
    output_tokens: int
    cost_microusd: int
    credits_millicredits: int
    allocation_millicredits: int | None
    person_id: uuid.UUID
    organization_id: uuid.UUID
    conversation_id: uuid.UUID | None
    batch_id: uuid.UUID | None
    again_of_id: uuid.UUID | None = Field(description="The task of which this is another try.")
    template_version_id: uuid.UUID | None
    priority: int
    queue: str
    attempts: int = Field(description="How many executions have begun.")
    quality: float | None
    rating: int | None
    rating_comment: str | None
    pictures: list[TaskPicture]
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    not_before: datetime | None = Field(description="It waits for this moment.")
    cancel_asked_at: datetime | None
    queue_s: float | None = Field(description="Seconds that it waited.")
    took_s: float | None = Field(description="Seconds from its beginning to its end.")
    erased_after_days: int | None = Field(description="After how many days its texts were erased; null if they were not.")


class TaskCall(ApiModel):
    """One call to a provider."""

    execution: int
    number: int
    provider: str | None
    model: str | None
    outcome: str
    error_code: str | None
    detail: str | None = Field(description="What went wrong, in the vendor's words; for administrators.")
    input_tokens: int
    output_tokens: int
    cost_microusd: int
    first_piece_ms: int | None
    started_at: datetime
    ended_at: datetime


class TaskStep(ApiModel):
    """A model that was tried before the one that answered, and what became of it."""

    model: str
    words: str


class TaskWhy(ApiModel):
    """Why this model answered."""

    decided: str
    answered: str
    tried: list[TaskStep]
    interrupted: int = Field(description="How often an execution was lost, and begun anew.")


class TaskDetail(Task):
    """A task with its calls, and the reasons for its model."""

    calls: list[TaskCall]
    why: TaskWhy | None


class TaskSumsAnswer(ApiModel):
    """What became of the tasks of a time."""

    created_from: datetime
    created_to: datetime
    complete: bool = Field(description=f"False where there are more than {LOOKED_MAX:,}: it is about the newest of them then.")
    total: int
    by_status: dict[str, int]
    by_category: dict[str, int]
    by_operation: dict[str, int]
    success_rate: float | None = Field(description="0 to 1, of those that ended otherwise than cancelled.")
    mean_s: float | None = Field(description="Seconds from beginning to end.")
    input_tokens: int
    output_tokens: int
    cost_microusd: int

    @classmethod
    def of(cls, sums: TaskSums) -> TaskSumsAnswer:
        """The answer about sums."""
        return cls(**{name: getattr(sums, name) for name in TaskSums.__slots__})


class TaskStatusAnswer(ApiModel):
    """Where a task is."""

    id: uuid.UUID
    status: RequestStatus


_SAME = [name for name in Task.model_fields if name in RequestLine.__slots__ and name != "pictures"]
_OF_CALL = list(TaskCall.model_fields)


def values_of(line: RequestLine) -> dict[str, Any]:
    """The values of a `Task` about a request."""
    return {name: getattr(line, name) for name in _SAME} | {
        "readable": line.texts,
        "pictures": [TaskPicture.of(picture) for picture in line.pictures],
        "queue_s": line.queue_s,
        "took_s": line.took_s,
        "erased_after_days": line.erased_days,
    }


def task_of(line: RequestLine) -> Task:
    """The answer about a request."""
    return Task(**values_of(line))


def detail_values_of(detail: RequestDetail) -> dict[str, Any]:
    """The values of a `TaskDetail` about a request."""
    why = detail.why
    return values_of(detail.line) | {
        "calls": [TaskCall(**{name: getattr(call, name) for name in _OF_CALL}) for call in detail.calls],
        "why": None
        if why is None
        else TaskWhy(
            decided=why.decided,
            answered=why.answered,
            tried=[TaskStep(model=step.model, words=step.words) for step in why.tried],
            interrupted=why.interrupted,
        ),
    }
