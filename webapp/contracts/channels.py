"""Messages in and out: what a channel plugin hands to the core, and what the core asks of it."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Protocol

from webapp.contracts.errors import SendUnknown
from webapp.contracts.providers import Health, Variable

if TYPE_CHECKING:
    import httpx
    from flask import Blueprint


MESSAGE_SEND = "message.send"
"""The operation under which the ledger has messages that were sent."""


class Consent(StrEnum):
    """What a message says about receiving messages."""

    STOP = "stop"
    START = "start"
    HELP = "help"


@dataclass(frozen=True, slots=True)
class InboundMessage:
    """A message that a channel received and whose origin it has verified.

    `external_id` is the vendor's id of the message: the core answers each (channel, external_id) once.
    `sender` and `recipient` are addresses in the channel's form (E.164 for SMS).
    `consent` is the vendor's own reading of an opt-out word, if it made one.
    """

    channel: str
    external_id: str
    sender: str
    recipient: str
    text: str
    consent: Consent | None = None


@dataclass(frozen=True, slots=True)
class OutboundMessage:
    """A message to be sent. `sender` is the address the person wrote to, '' if they never did.

    `status_url` is where the vendor may report receipts, '' if the installation has no public address.
    `subject` is for media that have one, such as e-mail; '' if nobody wrote one.
    `timeout_s` is how many seconds `send` may take in all. The client that it is given keeps to them by itself.
    """

    delivery_id: str
    recipient: str
    sender: str
    text: str
    status_url: str = ""
    subject: str = ""
    timeout_s: float = 25.0


class DeliveryStatus(StrEnum):
    """Where a message is. The order of `RANK` is the only direction in which it moves."""

    PENDING = "pending"
    SENDING = "sending"
    QUEUED = "queued"
    SENT = "sent"
    DELIVERED = "delivered"
    UNDELIVERED = "undelivered"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPPRESSED = "suppressed"
    UNKNOWN = "unknown"
    RECEIVED = "received"


RANK: dict[DeliveryStatus, int] = {
    DeliveryStatus.PENDING: 0,
    DeliveryStatus.SENDING: 1,
    DeliveryStatus.UNKNOWN: 2,
    DeliveryStatus.QUEUED: 3,
    DeliveryStatus.SENT: 4,
    DeliveryStatus.DELIVERED: 5,
    DeliveryStatus.UNDELIVERED: 5,
    DeliveryStatus.FAILED: 5,
    DeliveryStatus.CANCELLED: 5,
    DeliveryStatus.SUPPRESSED: 5,
    DeliveryStatus.RECEIVED: 5,
}
"""A delivery's status only ever changes to one of a higher rank, in whatever order receipts arrive."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The vendor took a message. `segments` is None where it has not counted them yet, or the medium has none.

    `cost_usd` is what the vendor says that the message costs, in dollars; None where it has not said so.
    """

    external_id: str
    status: DeliveryStatus = DeliveryStatus.QUEUED
    segments: int | None = None
    cost_usd: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a vendor says has become of a message it took. `cost_usd` as in `Sent`: the first price that is told counts."""

    channel: str
    external_id: str
    status: DeliveryStatus
    error_code: str = ""
    cost_usd: Decimal | None = None


class Inbox(Protocol):
    """The core's side of a channel: where a blueprint hands what arrived. Both return quickly and may be called twice."""

    def receive(self, message: InboundMessage) -> None:
        """Admit a verified message. Raises `BadInput` when a field cannot be right, and nothing else for what people do."""

    def receipt(self, receipt: Receipt) -> None:
        """Record what became of a message that was sent. An unknown message is ignored."""


class Channel:
    """A way in and out. Subclass it, set the class attributes, write `send`; add `blueprint` if messages come in."""

    name: str
    """Short and stable, lower case: `twilio`."""

    medium: str = "sms"
    """What kind of address it uses; people are found by (medium, address), so two SMS vendors share their people."""

    answers_consent_words: bool = False
    """True where the vendor itself answers STOP, START and HELP, so that the core must not."""

    max_chars: int = 1600
    """The longest text that one `send` takes."""

    free_of_charge: bool = False
    """True where nobody bills for messages. Text messages of other channels are in the ledger, at the vendor's price, the
    operator's, or a ceiling."""

    environment: ClassVar[tuple[Variable, ...]] = ()

    def missing(self) -> str:
        """What keeps this channel from sending, or '' if it is ready. No I/O."""
        return ""

    def blueprint(self, inbox: Inbox) -> Blueprint | None:
        """Routes for the vendor's webhooks, or None. They verify, parse, call `inbox`, and answer at once."""
        return None

    def status_path(self) -> str:
        """The path of the webhook for receipts, '' if there is none. The core puts the public address before it."""
        return ""

    def send(self, message: OutboundMessage, http: httpx.Client) -> Sent:
        """Hand one message to the vendor. Raises `SendFailed`, `SendUnknown` or `RecipientOptedOut`."""
        raise NotImplementedError

    def find_sent(self, message: OutboundMessage, since_s: float, http: httpx.Client) -> Sent | None:
        """Look for a message handed over in the last `since_s` seconds whose outcome is unknown.

        None means that the vendor certainly does not have it. Raises `SendUnknown` where that cannot be told.
        """
        raise SendUnknown("This channel cannot look up what it sent.")

    def check(self, http: httpx.Client) -> Health:
        """Look at the vendor by a call that costs nothing. Raises nothing: a failure is a `Health` that is not ok."""
        raise NotImplementedError
