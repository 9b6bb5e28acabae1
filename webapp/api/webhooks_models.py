"""What the API takes and gives about outgoing webhooks."""

from __future__ import annotations

import uuid
from typing import Annotated

from pydantic import ConfigDict, Field

from webapp.api.base import ApiModel, Flag, Moment, Text, Whole, page_of
from webapp.contracts.webhooks import EVENTS
from webapp.models import WebhookState
from webapp.services.webhook_values import DESCRIPTION_CHARS, URL_CHARS

_WANTED = "The events that it gets; an empty list: all. " + " ".join(f"`{name}`: {words}" for name, words in EVENTS.items())
_URL = "Where messages are sent by POST: https or http, without user, password and `#`. Internal addresses are refused."
_Event = Annotated[Text, Field(min_length=1, max_length=40)]
_Version = Annotated[Whole, Field(ge=0, le=2_147_483_647)]
_URL_EXAMPLE = "https://hooks.example.com/switchhook"


class WebhookPath(ApiModel):
    """The address of a webhook."""

    webhook_id: uuid.UUID


class WebhookDeliveryPath(WebhookPath):
    """The address of a message to a webhook."""

    delivery_id: uuid.UUID


class WebhookSeen(ApiModel):
    """Which version of the webhook the call is about."""

    version: int | None = Field(
        None, ge=0, le=2_147_483_647, description="The version that you saw: 409 if it is another now. Without it, whichever."
    )


class WebhookCreate(ApiModel):
    """A new webhook."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"url": _URL_EXAMPLE, "description": "Our CRM", "events": ["request.completed", "request.failed"]}]
        }
    )

    url: Text = Field(min_length=1, max_length=URL_CHARS, description=_URL)
    description: Text = Field("", max_length=DESCRIPTION_CHARS, description="What it is for, for people.")
    events: list[_Event] = Field(default_factory=list, max_length=50, description=_WANTED)


class WebhookChange(ApiModel):
    """What is to be different; what is left out stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"events": ["quota.warning"], "active": True}]})

    url: Annotated[Text, Field(min_length=1, max_length=URL_CHARS)] | None = Field(None, description=_URL)
    description: Annotated[Text, Field(max_length=DESCRIPTION_CHARS)] | None = None
    events: Annotated[list[_Event], Field(max_length=50)] | None = Field(None, description=_WANTED)
    active: Flag | None = Field(None, description="Whether it is switched on. What is due while it is off is cancelled.")
    version: _Version | None = Field(None, description="The version that you saw: 409 if it is another now.")


class Webhook(ApiModel):
    """Where an organization's events go."""

    id: uuid.UUID
    url: str
    description: str
    events: list[str] = Field(description="The events that it gets; an empty list: all.")
    active: bool
    disabled_reason: str | None = Field(description="Why it was switched off, where nobody did that by hand.")
    failing_since: Moment | None = Field(description="Since when every message to it has failed; null if none does.")
    former_secret_until: Moment | None = Field(
        description="Until when messages carry the signature of the secret before, too; null if they do not."
    )
    version: int
    created_at: Moment
    updated_at: Moment


class WebhookMade(Webhook):
    """A webhook with its secret, which is shown this once."""

    secret: str = Field(description="Signs the messages to it (Standard Webhooks). It is shown this once.")


class WebhookTested(ApiModel):
    """What a receiver answered to a test message."""

    delivered: bool = Field(description="Whether it answered 2xx.")
    status: int | None = Field(description="The status of its answer; null if there was none.")
    duration_ms: int
    trouble: str = Field(description="What went wrong, for people; empty if nothing did.")
    answer: str = Field(description="The beginning of its answer, without secrets and phone numbers.")


class WebhookTry(ApiModel):
    """One try to send a message."""

    at: Moment
    status: int | None = Field(description="The status of the answer; null if there was none.")
    duration_ms: int
    trouble: str = Field(description="What went wrong, for people; empty if nothing did.")


class WebhookDelivery(ApiModel):
    """A message to a webhook."""

    id: uuid.UUID = Field(description="What the receiver sees as `webhook-id`: the same at each try.")
    event: str
    state: WebhookState
    attempts: int
    next_try_at: Moment | None = Field(description="When it is tried next; null if it is being sent, or has ended.")
    created_at: Moment
    ended_at: Moment | None
    tries: list[WebhookTry]
    payload: dict[str, object] = Field(description="What is sent: `type`, `timestamp`, `data`.")


WebhookPage = page_of(Webhook)
WebhookDeliveryPage = page_of(WebhookDelivery)
