"""What goes into and comes out of `/api/templates`."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Strict, StringConstraints

from webapp.api.base import ApiModel, Flag, PageQuery, Text, Whole, page_of
from webapp.pipeline.admit import ALLOCATION_MAX, ALLOCATION_MIN

Scope = Literal["personal", "organization", "public"]
TEXT_MAX = 1_000_000
VariableName = Annotated[str, Strict(), StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,39}$")]
_TEXT = (
    "The prompt. `{{name}}` is a variable: a letter, then letters, digits and _ . It is replaced by its value; nothing in the "
    "text is ever run. At most as long as a message may be."
)
_PARAMETERS = "Parameters of the requests made with it, such as `model` (provider/model), or `width` and `height` for pictures."
_VERSION_SEEN = "The version that you have seen: 409 if the template has another one by now."


class TemplateVariable(ApiModel):
    """A variable of a template."""

    name: VariableName = Field(description="As it stands in the text between {{ and }}.")
    description: Text = Field("", max_length=500, description="What to give, for people.")
    default: Text | None = Field(
        None, max_length=4_000, description="What stands there without a value; null: one is required."
    )


class TemplateDraft(ApiModel):
    """A template to be made."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "name": "Translation",
                    "text": "Translate into {{language}}, in a {{tone}} tone:\n\n{{text}}",
                    "category": "documentation",
                    "variables": [{"name": "tone", "description": "formal, friendly…", "default": "friendly"}],
                }
            ]
        },
    )

    name: Text = Field(min_length=1, max_length=120)
    text: Text = Field(min_length=1, max_length=TEXT_MAX, description=_TEXT)
    description: Text = Field("", max_length=2_000)
    category: Text = Field(
        "general", min_length=1, max_length=40, description="A word of your own: small letters, digits, - and _."
    )
    operation: Text = Field("chat", min_length=1, max_length=40, description="What kind of request it makes.")
    scope: Scope = Field(
        "personal",
        description="personal: only you use it. organization: its people do; for its managers to make. public: everybody does; "
        "for administrators of the installation to make.",
    )
    variables: list[TemplateVariable] = Field(
        default_factory=list, max_length=50, description="Those that have a description or a default; the others are required."
    )
    parameters: dict[str, Any] = Field(default_factory=dict, max_length=20, description=_PARAMETERS)


class TemplateChange(ApiModel):
    """What is to be different. A member that is not there stays as it is; `variables` and `parameters` are replaced whole."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"version": 1, "text": "Translate into {{language}}:\n\n{{text}}", "variables": []}]},
    )

    version: Whole = Field(ge=1, le=2**31 - 1, description=_VERSION_SEEN)
    name: Text | None = Field(None, min_length=1, max_length=120)
    text: Text | None = Field(None, min_length=1, max_length=TEXT_MAX, description=_TEXT)
    description: Text | None = Field(None, max_length=2_000)
    category: Text | None = Field(None, min_length=1, max_length=40)
    operation: Text | None = Field(None, min_length=1, max_length=40)
    scope: Scope | None = None
    variables: list[TemplateVariable] | None = Field(None, max_length=50)
    parameters: dict[str, Any] | None = Field(None, max_length=20, description=_PARAMETERS)


class TemplateFilling(ApiModel):
    """Values for the variables of a template."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"variables": {"language": "Dutch", "text": "The meeting begins at nine."}}]},
    )

    variables: dict[str, Text] = Field(
        default_factory=dict,
        max_length=50,
        description="Variable -> value. What has no default needs one; a name that the template does not have is refused. "
        "Braces in a value stay as they are.",
    )
    version: Whole | None = Field(None, ge=1, le=2**31 - 1, description="An older version; without it, the current one.")


class TemplateUse(TemplateFilling):
    """Values for the variables, and how the request is to be made."""

    conversation_id: uuid.UUID | None = Field(
        None, description="Goes on with this conversation of yours; without it, a new one."
    )
    model: Text | None = Field(None, max_length=160, description="provider/model, in the place of the template's own.")
    urgent: Flag = Field(False, description="Whether it goes before others, where your plan includes that.")
    may_wait: Flag = Field(False, description="Whether it may wait for cheaper hours.")
    allocation: Whole | None = Field(
        None, ge=ALLOCATION_MIN, le=ALLOCATION_MAX, description="Credits that it may cost at most."
    )


class TemplateItem(ApiModel):
    """A template without its text."""

    id: uuid.UUID
    name: str
    description: str
    category: str
    operation: str
    scope: Scope
    version: int = Field(description="The number of the current version: name it in a change.")
    used: int = Field(description="How many requests were made with it.")
    person_id: uuid.UUID | None = Field(description="Who made it; null where it comes from another organization.")
    organization_id: uuid.UUID | None = Field(description="Where it was made; null where that is another organization.")
    changeable: bool = Field(description="Whether you may change it.")
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None = Field(description="Since when it cannot be used.")


class TemplateVersionItem(ApiModel):
    """A version of a template."""

    id: uuid.UUID
    number: int
    text: str
    variables: list[TemplateVariable]
    parameters: dict[str, Any]
    person_id: uuid.UUID | None = Field(description="Who wrote it; null where the template comes from another organization.")
    created_at: datetime


class TemplateResults(ApiModel):
    """What became of requests made with it: of the newest 200 of each of its last 10 versions."""

    counted: int = Field(description="How many requests these figures are of.")
    completed: int
    failed: int
    success_rate: float | None = Field(description="Completed among those completed or failed, 0 to 1; null without any.")
    ratings: int = Field(description="How many of them were rated.")
    rating: float | None = Field(description="The mean of these ratings, 1 to 5.")


class TemplateDetail(TemplateItem):
    """A template with its current version and its results."""

    current: TemplateVersionItem
    results: TemplateResults


class TemplateRendered(ApiModel):
    """A prompt made of a template."""

    template_id: uuid.UUID
    version_id: uuid.UUID
    version: int
    operation: str
    text: str
    parameters: dict[str, Any]


class TemplateRequest(ApiModel):
    """The request that was made."""

    id: uuid.UUID = Field(description="Of the task: `/api/tasks/{id}` tells how it is.")
    conversation_id: uuid.UUID | None
    template_id: uuid.UUID
    template_version_id: uuid.UUID
    outcome: str = Field(description="accepted, or repeated where a call with the same Idempotency-Key made it before.")


class TemplatePath(ApiModel):
    """The address of a template."""

    template_id: uuid.UUID


class TemplatesQuery(PageQuery):
    """Which templates."""

    q: Text = Field("", max_length=100, description="A part of the name or the description.")
    scope: Scope | None = None
    category: Text = Field("", max_length=40)
    operation: Text = Field("", max_length=40)
    person_id: uuid.UUID | None = Field(None, description="Made by this person; administrators see their personal ones, too.")
    organization_id: uuid.UUID | None = Field(None, description="Made in this organization.")


TemplatePage = page_of(TemplateItem)
TemplateVersionPage = page_of(TemplateVersionItem)
