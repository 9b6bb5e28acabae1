"""Bodies, queries and answers about generation requests."""

from __future__ import annotations

import uuid

from pydantic import ConfigDict, Field

from webapp.api.base import ApiModel, Flag, Text, Whole
from webapp.api.task_models import Task, TaskDetail
from webapp.api.task_orders import GENERATIONS
from webapp.pipeline.admit import ALLOCATION_MAX, ALLOCATION_MIN
from webapp.pipeline.parameters import SEED_MAX, SIDE_MAX, SIDE_MIN


class GenerationPath(ApiModel):
    """The address of a generation request."""

    generation_id: uuid.UUID


class GenerationCreate(ApiModel):
    """What is to be made."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "A lighthouse in a storm, woodcut", "width": 1024, "height": 1024}]}
    )

    prompt: Text = Field(max_length=2_000_000)
    operation: Text = Field(GENERATIONS[0], max_length=40, description=f"What there is: {', '.join(GENERATIONS)}.")
    model: Text | None = Field(None, max_length=200, description="provider/model; without it the routing decides.")
    width: Whole | None = Field(None, ge=SIDE_MIN, le=SIDE_MAX, description="Pixels.")
    height: Whole | None = Field(None, ge=SIDE_MIN, le=SIDE_MAX, description="Pixels.")
    seed: Whole | None = Field(None, ge=0, le=SEED_MAX)
    style: Text | None = Field(None, max_length=80)
    negative_prompt: Text | None = Field(None, max_length=2000, description="What is not to be seen.")
    picture: Text | None = Field(
        None, max_length=30_000_000, description="A picture to start from, in base64 or as a data URL."
    )
    urgent: Flag = Field(False, description="Moves it forward in the queue, where the plan includes that.")
    allocation: Whole | None = Field(
        None,
        ge=ALLOCATION_MIN,
        le=ALLOCATION_MAX,
        description=f"Credits that it may cost: {ALLOCATION_MIN} to {ALLOCATION_MAX}; without it, the usual number.",
    )


class GenerationRequest(Task):
    """A request for something to be made. What was made is in `pictures`, with the kind `made`."""


class GenerationDetail(TaskDetail):
    """A generation request with its calls, and the reasons for its model."""
