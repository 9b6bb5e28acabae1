"""What a door hands to the road, and what it gets back."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from webapp.contracts.channels import InboundMessage
from webapp.pipeline.brought import Brought
from webapp.pipeline.claims import Claimed


@dataclass(frozen=True, slots=True)
class Intake:
    """Something that arrived, with the proof of who sent it: a person's id (a session, a token) or a verified message.

    `conversation_id` continues that conversation; without it, `new_conversation` starts one and otherwise the person's latest
    goes on. `idempotency_key` makes a repeated submission return the first one's request.

    `parameters` shape the answer: `model` (provider/model, where the door allows it), `output` ({name, schema} for JSON),
    `fresh` (no kept answer), and for pictures `width`, `height`, `seed`, `style`, `negative_prompt`, `action`. `pictures` come
    with the prompt. `may_wait` holds the request until its vendor's cheaper hours. `urgent` moves it forward, where the plan
    includes that. `allocation` is how many credits it may cost (10 to 500), None for the installation's setting.

    `brought` is the whole conversation, where the door brings it along: `text` is the last thing that the person said in it,
    nothing earlier is looked up and no conversation is kept. `attended` means that the door executes it at once and hands the
    answer to whoever waits for it: it is never queued, and ends with its process.

    `template_version_id` is the version of a template that the text was made with; `again_of_id` the person's own request of
    which it is another try.

    `token` is an API token in clear that is still to be looked up; it stands in the place of `person_id`, has to have the scope
    `chat`, and is never stored. `token_id` is the API token that it came with, where that was looked up already. A request of a
    batch names it and its organization: it goes to the low queue, belongs to no conversation, and is not stored where a limit
    has no room for it.
    """

    medium: str
    text: str
    operation: str = "chat"
    person_id: uuid.UUID | None = None
    message: InboundMessage | None = None
    conversation_id: uuid.UUID | None = None
    new_conversation: bool = False
    idempotency_key: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    pictures: tuple[bytes, ...] = ()
    may_wait: bool = False
    urgent: bool = False
    allocation: int | None = None
    token: str = field(default="", repr=False)
    token_id: uuid.UUID | None = None
    batch_id: uuid.UUID | None = None
    organization_id: uuid.UUID | None = None
    brought: Brought | None = None
    attended: bool = False
    template_version_id: uuid.UUID | None = None
    again_of_id: uuid.UUID | None = None


class Outcome(StrEnum):
    """What became of an intake."""

    ACCEPTED = "accepted"
    """It is a request now, held and queued."""
    REPEATED = "repeated"
    """It was here before; nothing was done."""
    CONSENT = "consent"
    """It was STOP, START or HELP and has been honoured."""
    COMMAND = "command"
    """It was a word such as USAGE and has been answered at once."""
    IGNORED = "ignored"
    """It was recorded, and nothing is owed: the sender opted out, is inactive, or is not known and not to be."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The result of `admit`. A refusal is not one: it is raised."""

    outcome: Outcome
    request_id: uuid.UUID | None = None
    conversation_id: uuid.UUID | None = None
    claimed: Claimed | None = None
    """An attended request in the hands of whoever admitted it, to be executed by `execute.attend`."""
