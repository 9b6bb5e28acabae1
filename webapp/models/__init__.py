"""Tables, one module per aggregate, with the queries that belong to them."""

from webapp.models.answers import ApiAnswer
from webapp.models.house import AuditEntry, ErrorLog, OrganizationProvider, ProviderSetting, Revision, RouteRule
from webapp.models.jobs import Batch, BatchRow, BatchStatus, DeadLetter, HourlyStat, LetterState, RowState
from webapp.models.messages import Delivery, DeliveryKind, Direction, Receipt
from webapp.models.people import (
    PLAN_FEATURES,
    ApiToken,
    Identity,
    Invitation,
    Membership,
    Organization,
    Person,
    PersonRole,
    Plan,
    PlanChange,
)
from webapp.models.quotas import CounterChange, Hold, LimitCounter
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
from webapp.models.templates import Template, TemplateScope, TemplateVersion
from webapp.models.webhooks import WebhookDelivery, WebhookEndpoint, WebhookState

__all__ = [
    "ENDED",
    "PLAN_FEATURES",
    "ApiAnswer",
    "ApiToken",
    "Attachment",
    "AttachmentKind",
    "Attempt",
    "AuditEntry",
    "Batch",
    "BatchRow",
    "BatchStatus",
    "Conversation",
    "CounterChange",
    "DeadLetter",
    "Delivery",
    "DeliveryKind",
    "Direction",
    "ErrorLog",
    "Hold",
    "HourlyStat",
    "Identity",
    "Invitation",
    "LedgerEntry",
    "LetterState",
    "LimitCounter",
    "Membership",
    "Organization",
    "OrganizationProvider",
    "Person",
    "PersonRole",
    "Plan",
    "PlanChange",
    "ProviderSetting",
    "Receipt",
    "Request",
    "RequestStatus",
    "Revision",
    "RouteRule",
    "RowState",
    "Template",
    "TemplateScope",
    "TemplateVersion",
    "WebhookDelivery",
    "WebhookEndpoint",
    "WebhookState",
    "unfinished",
]
