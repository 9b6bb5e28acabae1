"""The public API for plugins. What is in `__all__` is promised; nothing else of `webapp` is.

Within one contract version names are only added. `CONTRACT_VERSION` goes up when something is removed or changes its meaning;
a plugin may set `SWITCHHOOK_CONTRACT = 1` at module level to be left out, with a clear message, by a core it does not fit.
"""

from __future__ import annotations

from webapp.contracts.calls import Finish, JsonOutput, Picture, Role, Text, TextCall, Turn, Usage
from webapp.contracts.channels import (
    Channel,
    Consent,
    DeliveryStatus,
    InboundMessage,
    Inbox,
    OutboundMessage,
    Receipt,
    Sent,
)
from webapp.contracts.errors import (
    BadCredentials,
    BadInput,
    ChannelError,
    ContextTooLong,
    MalformedAnswer,
    OutOfCredit,
    ProviderError,
    RateLimited,
    RecipientOptedOut,
    RefusedByPolicy,
    Rejected,
    SendFailed,
    SendUnknown,
    TimedOut,
    Unavailable,
)
from webapp.contracts.events import DeliveryEvent, PersonEvent, PlanEvent, QuotaEvent, RequestEvent
from webapp.contracts.failures import about_key, about_length, about_policy, at_most, error_for_network, error_for_status
from webapp.contracts.hours import Hours, Span
from webapp.contracts.limits import Dimension, Limit, QuotaPolicy, QuotaQuestion, StoredLimit, Window
from webapp.contracts.pictures import Drawn, ImageAction, ImageCall, Progress
from webapp.contracts.providers import (
    Capability,
    Health,
    ImageProvider,
    ModelInfo,
    Provider,
    TextProvider,
    Variable,
    VariableKind,
)
from webapp.contracts.sorting import CATEGORIES, AskingCategorizer, Categorizer, Question, Sorting
from webapp.contracts.texts import clean, mask_address
from webapp.contracts.wire import (
    ANSWER_CHARS,
    TextFlow,
    is_usable_url,
    lines,
    retry_after_s,
    sse_events,
    token_count,
    token_part,
    vendor_id,
    vendor_words,
)
from webapp.hookspecs import hookimpl

CONTRACT_VERSION = 1

__all__ = [
    "ANSWER_CHARS",
    "CATEGORIES",
    "CONTRACT_VERSION",
    "AskingCategorizer",
    "BadCredentials",
    "BadInput",
    "Capability",
    "Categorizer",
    "Channel",
    "ChannelError",
    "Consent",
    "ContextTooLong",
    "DeliveryEvent",
    "DeliveryStatus",
    "Dimension",
    "Drawn",
    "Finish",
    "Health",
    "Hours",
    "ImageAction",
    "ImageCall",
    "ImageProvider",
    "InboundMessage",
    "Inbox",
    "JsonOutput",
    "Limit",
    "MalformedAnswer",
    "ModelInfo",
    "OutOfCredit",
    "OutboundMessage",
    "PersonEvent",
    "Picture",
    "PlanEvent",
    "Progress",
    "Provider",
    "ProviderError",
    "Question",
    "QuotaEvent",
    "QuotaPolicy",
    "QuotaQuestion",
    "RateLimited",
    "Receipt",
    "RecipientOptedOut",
    "RefusedByPolicy",
    "Rejected",
    "RequestEvent",
    "Role",
    "SendFailed",
    "SendUnknown",
    "Sent",
    "Sorting",
    "Span",
    "StoredLimit",
    "Text",
    "TextCall",
    "TextFlow",
    "TextProvider",
    "TimedOut",
    "Turn",
    "Unavailable",
    "Usage",
    "Variable",
    "VariableKind",
    "Window",
    "about_key",
    "about_length",
    "about_policy",
    "at_most",
    "clean",
    "error_for_network",
    "error_for_status",
    "hookimpl",
    "is_usable_url",
    "lines",
    "mask_address",
    "retry_after_s",
    "sse_events",
    "token_count",
    "token_part",
    "vendor_id",
    "vendor_words",
]
