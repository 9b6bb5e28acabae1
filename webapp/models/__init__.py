"""Tables, one module per aggregate, with the queries that belong to them."""

from webapp.models.house import AuditEntry, ErrorLog, ProviderSetting, Revision, RouteRule
from webapp.models.messages import Delivery, DeliveryKind, Direction, Receipt
from webapp.models.people import ApiToken, Identity, Organization, Person, PersonRole, Plan
from webapp.models.quotas import Hold, LimitCounter
from webapp.models.requests import (
    ENDED,
    Attachment,
    AttachmentKind,
    Attempt,
    Conversation,
    LedgerEntry,
    Request,
    RequestStatus,
    unfinished,
)

__all__ = [
    "ENDED",
    "ApiToken",
    "Attachment",
    "AttachmentKind",
    "Attempt",
    "AuditEntry",
    "Conversation",
    "Delivery",
    "DeliveryKind",
    "Direction",
    "ErrorLog",
    "Hold",
    "Identity",
    "LedgerEntry",
    "LimitCounter",
    "Organization",
    "Person",
    "PersonRole",
    "Plan",
    "ProviderSetting",
    "Receipt",
    "Request",
    "RequestStatus",
    "Revision",
    "RouteRule",
    "unfinished",
]
