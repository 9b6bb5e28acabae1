"""Everything Switchhook raises on purpose, in one tree.

SwitchhookError
├── Refusal                 a request is not admitted; the person can do something about it
│   ├── BadInput            a field is missing, malformed or too large
│   ├── NotAllowed          the person is unknown, inactive or opted out
│   │   └── UnknownToken    the token is unknown, expired or revoked
│   ├── LimitReached        a quota is full; says which and when it resets
│   ├── LimitsUnknown       a quota policy failed; nothing is spent on a guess
│   ├── NotFound            there is no such thing for this person
│   └── Conflict            the thing is in a state that does not allow it
├── ProviderError           a call to a model vendor failed
│   ├── RateLimited         too fast for the vendor; says when to come back
│   ├── TimedOut            no answer in time
│   ├── Unavailable         the vendor is down or unreachable
│   ├── Rejected            the vendor does not accept the call as it is
│   ├── RefusedByPolicy     the vendor's content policy refuses it
│   ├── ContextTooLong      more text than the model reads
│   ├── BadCredentials      the key is wrong or lacks a permission
│   ├── OutOfCredit         the account at the vendor has no money left
│   └── MalformedAnswer     what came back is not what the wire format says
├── ChannelError            a message could not be sent
│   ├── SendFailed          it is certain that it was not sent
│   ├── SendUnknown         it may or may not have been sent
│   └── RecipientOptedOut   the recipient told the carrier to stop
└── SetupError              the installation cannot run as it is configured
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from webapp.contracts.calls import Usage


class SwitchhookError(Exception):
    """Base of the tree. `code` is stable and for programs; the message is for people and carries no secret."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Refusal(SwitchhookError):
    """A request is not admitted."""

    code = "refused"


class BadInput(Refusal):
    """`field` names what is wrong, the message says how to mend it."""

    code = "bad_input"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class NotAllowed(Refusal):
    """The person is unknown here, inactive, or has opted out."""

    code = "not_allowed"


class UnknownToken(NotAllowed):
    """The token is unknown, expired or revoked, or its person or organization is not active."""

    code = "invalid_token"


class NotFound(Refusal):
    """There is no such thing, or it is somebody else's: the answer is the same."""

    code = "not_found"


class Conflict(Refusal):
    """The thing exists, but its state does not allow what was asked."""

    code = "conflict"


class LimitReached(Refusal):
    """A limit has no room for the request. `resets_at` is the aware UTC start of the next window; `alone` means that the
    request by itself needs more than the limit allows, so that waiting does not help; `closed`, that the limit is 0."""

    code = "limit_reached"

    def __init__(
        self,
        message: str,
        *,
        limit: str,
        resets_at: datetime,
        request_id: str = "",
        alone: bool = False,
        closed: bool = False,
    ) -> None:
        super().__init__(message)
        self.closed = closed
        self.limit = limit
        self.resets_at = resets_at
        self.request_id = request_id
        self.alone = alone


class LimitsUnknown(Refusal):
    """A quota policy failed, so nobody knows what the person may spend. The operator finds the reason in the error log."""

    code = "limits_unknown"

    def __init__(self, message: str, *, request_id: str = "") -> None:
        super().__init__(message)
        self.request_id = request_id


class ProviderError(SwitchhookError):
    """A call to a vendor failed. `retryable` says whether the same call may succeed later.

    `status` is the HTTP status, if there was one; `detail` is the vendor's own wording for the operator's error log.
    `usage` is what the vendor counted for the call although it failed, where it said so: it will be on the bill.
    """

    code = "provider_error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        detail: str = "",
        retry_after_s: float | None = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.usage = usage


class RateLimited(ProviderError):
    """The vendor asks us to slow down; `retry_after_s` is its wish in seconds, None if it gave none."""

    code = "provider_rate_limited"
    retryable = True


class TimedOut(ProviderError):
    """No answer, or no further piece of one, in time."""

    code = "provider_timeout"
    retryable = True


class Unavailable(ProviderError):
    """The vendor cannot be reached, or answers with a server error."""

    code = "provider_unavailable"
    retryable = True


class Rejected(ProviderError):
    """The vendor does not accept the call: unknown model, unsupported parameter, malformed body."""

    code = "provider_rejected"


class RefusedByPolicy(ProviderError):
    """The vendor's content policy refuses the prompt or its answer."""

    code = "content_refused"


class ContextTooLong(ProviderError):
    """The turns are longer than the model reads."""

    code = "context_too_long"


class BadCredentials(ProviderError):
    """The key is missing, wrong, or lacks a permission."""

    code = "provider_credentials"


class OutOfCredit(ProviderError):
    """The operator's account at the vendor has no money left."""

    code = "provider_out_of_credit"


class MalformedAnswer(ProviderError):
    """The vendor's answer breaks its own wire format, or ended before its end marker."""

    code = "provider_malformed"
    retryable = True


class ChannelError(SwitchhookError):
    """A message could not be handed to a channel. `vendor_code` is the channel vendor's own error code."""

    code = "channel_error"

    def __init__(self, message: str, *, vendor_code: str = "") -> None:
        super().__init__(message)
        self.vendor_code = vendor_code


class SendFailed(ChannelError):
    """Certainly not sent. `permanent` means that the same message will fail again."""

    code = "send_failed"

    def __init__(
        self,
        message: str,
        *,
        vendor_code: str = "",
        permanent: bool,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, vendor_code=vendor_code)
        self.permanent = permanent
        self.retry_after_s = retry_after_s


class SendUnknown(ChannelError):
    """The vendor may or may not have taken the message: it must not be sent again without looking it up."""

    code = "send_unknown"


class RecipientOptedOut(ChannelError):
    """The vendor refuses because the recipient opted out there; the core stores it as an opt-out."""

    code = "recipient_opted_out"


class SetupError(SwitchhookError):
    """The installation cannot run as it is configured; the message says what to change."""

    code = "setup"
