"""What a door hands to the road, and what it gets back."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from enum import StrEnum

from webapp.contracts.channels import InboundMessage


@dataclass(frozen=True, slots=True)
class Intake:
    """Something that arrived, with the proof of who sent it: a person's id (a session, a token) or a verified message.

    `conversation_id` continues that conversation; without it, `new_conversation` starts one and otherwise the person's latest
    goes on. `idempotency_key` makes a repeated submission return the first one's request.
    """

    medium: str
    text: str
    operation: str = "chat"
    person_id: uuid.UUID | None = None
    message: InboundMessage | None = None
    conversation_id: uuid.UUID | None = None
    new_conversation: bool = False
    idempotency_key: str | None = None


class Outcome(StrEnum):
    """What became of an intake."""

    ACCEPTED = "accepted"
    """It is a request now, held and queued."""
    REPEATED = "repeated"
    """It was here before; nothing was done."""
    CONSENT = "consent"
    """It was STOP, START or HELP and has been honoured."""
    IGNORED = "ignored"
    """It was recorded, and nothing is owed: the sender opted out, is inactive, or is not known and not to be."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The result of `admit`. A refusal is not one: it is raised."""

    outcome: Outcome
    request_id: uuid.UUID | None = None
    conversation_id: uuid.UUID | None = None
