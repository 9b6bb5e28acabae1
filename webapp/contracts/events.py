"""What event hooks are told: plain values, made after the commit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestEvent:
    """A request at a turning point. Carries no text: a listener that needs it asks for the request by id."""

    request_id: str
    person_id: str
    organization_id: str
    channel: str
    operation: str
    status: str
    category: str = ""
    provider: str = ""
    model: str = ""
    cost_microusd: int = 0
    error_code: str = ""


@dataclass(frozen=True, slots=True)
class PersonEvent:
    """A person was created, by whichever channel."""

    person_id: str
    organization_id: str
    channel: str
    plan: str


@dataclass(frozen=True, slots=True)
class PlanEvent:
    """The plan of a person, or of a whole organization (`person_id` is then ''), was changed."""

    person_id: str
    organization_id: str
    before: str
    after: str
    reason: str


@dataclass(frozen=True, slots=True)
class QuotaEvent:
    """A limit has reached `percent` of its maximum, or (100) is full. `subject` is whose limit it is, `kind:id`; `person_id`
    is whose request made it so. `resets_at` is ISO 8601 in UTC."""

    person_id: str
    limit: str
    maximum: int
    resets_at: str
    subject: str = ""
    percent: int = 100
    organization_id: str = ""


@dataclass(frozen=True, slots=True)
class DeliveryEvent:
    """A message was received, or a sent one changed its status."""

    delivery_id: str
    channel: str
    direction: str
    status: str
    request_id: str = ""
    error_code: str = ""
