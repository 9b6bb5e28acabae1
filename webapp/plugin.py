"""The public API for plugins. What is in `__all__` is promised; nothing else of `webapp` is.

Within one contract version names are only added. `CONTRACT_VERSION` goes up when something is removed or changes its meaning;
a plugin may set `SWITCHHOOK_CONTRACT = 1` at module level to be left out, with a clear message, by a core it does not fit.
"""

from __future__ import annotations

from webapp.contracts.calls import Finish, Health, Role, Text, TextCall, TextProvider, Turn, Usage, Variable
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
from webapp.contracts.events import DeliveryEvent, PersonEvent, QuotaEvent, RequestEvent
from webapp.contracts.limits import Dimension, Limit, QuotaPolicy, QuotaQuestion, Window
from webapp.contracts.sorting import Categorizer, Sorting
from webapp.contracts.texts import clean, mask_address
from webapp.hookspecs import hookimpl

CONTRACT_VERSION = 1

__all__ = [
    "CONTRACT_VERSION",
    "BadCredentials",
    "BadInput",
    "Categorizer",
    "Channel",
    "ChannelError",
    "Consent",
    "ContextTooLong",
    "DeliveryEvent",
    "DeliveryStatus",
    "Dimension",
    "Finish",
    "Health",
    "InboundMessage",
    "Inbox",
    "Limit",
    "MalformedAnswer",
    "OutOfCredit",
    "OutboundMessage",
    "PersonEvent",
    "ProviderError",
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
    "Text",
    "TextCall",
    "TextProvider",
    "TimedOut",
    "Turn",
    "Unavailable",
    "Usage",
    "Variable",
    "Window",
    "clean",
    "hookimpl",
    "mask_address",
]
