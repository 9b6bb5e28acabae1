"""Twilio's words: to and from the values of the core. Pure functions, no I/O.

Source: https://www.twilio.com/docs/messaging/api/message-resource and https://www.twilio.com/docs/api/errors.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from webapp.plugin import (
    BadInput,
    ChannelError,
    Consent,
    DeliveryStatus,
    InboundMessage,
    Receipt,
    RecipientOptedOut,
    SendFailed,
    SendUnknown,
    Sent,
    clean,
)

NAME = "twilio"
RECEIVE_PATH, STATUS_PATH = "/sms/receive", "/sms/status"
TRIAL_PREFIX = "Sent from your Twilio trial account - "

_ADDRESS = re.compile(r"\+[1-9][0-9]{6,14}|[0-9]{3,8}")
_OTHER_MEDIUM = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*:")
_SID = re.compile(r"[A-Za-z]{2}[0-9A-Za-z]{1,62}")

# Twilio's `sending` is past our own SENDING, which means that the call to Twilio is under way. What has arrived in part
# (`partially_delivered`) is sent, not delivered.
STATUSES: dict[str, DeliveryStatus] = {
    "accepted": DeliveryStatus.QUEUED,
    "scheduled": DeliveryStatus.QUEUED,
    "queued": DeliveryStatus.QUEUED,
    "sending": DeliveryStatus.QUEUED,
    "sent": DeliveryStatus.SENT,
    "partially_delivered": DeliveryStatus.SENT,
    "delivered": DeliveryStatus.DELIVERED,
    "read": DeliveryStatus.DELIVERED,
    "undelivered": DeliveryStatus.UNDELIVERED,
    "failed": DeliveryStatus.FAILED,
    "canceled": DeliveryStatus.CANCELLED,
}


class Meaning(NamedTuple):
    """What one of Twilio's error codes says, and what the operator can do."""

    says: str
    cure: str
    again: bool = False


OPTED_OUT = "21610"

ERRORS: dict[str, Meaning] = {
    "20003": Meaning(
        "Twilio does not accept the credentials",
        "Compare TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN (or TWILIO_API_KEY and its secret) with the console.",
    ),
    "20404": Meaning("Twilio knows no such account", "Check TWILIO_ACCOUNT_SID and TWILIO_API_BASE_URL."),
    "20429": Meaning("Too many calls at once", "It is tried again by itself; run fewer workers if it persists.", True),
    "21211": Meaning("The recipient is not a valid phone number", "Correct the number of this person."),
    "21212": Meaning("The sender is not a valid phone number", "Correct TWILIO_PHONE_NUMBER."),
    "21408": Meaning("The account may not send to this country", "Enable it in the console under Messaging, Geo permissions."),
    "21602": Meaning("The message has no text", "Nothing was sent; the answer was empty."),
    "21603": Meaning("No sender is set", "Set TWILIO_PHONE_NUMBER or TWILIO_MESSAGING_SERVICE_SID."),
    "21604": Meaning("No recipient is set", "Correct the number of this person."),
    "21606": Meaning(
        "The sender is not a number of this account that can send SMS",
        "Set TWILIO_PHONE_NUMBER to one of the numbers listed in the console.",
    ),
    "21609": Meaning(
        "Twilio does not accept the address for receipts",
        "Set SWITCHHOOK_PUBLIC_URL to an address the world can reach.",
    ),
    "21611": Meaning("The sender's queue is full", "It is tried again by itself; send less, or from more numbers.", True),
    "21612": Meaning("There is no route from this sender to this recipient", "Send from a number of another kind."),
    "21614": Meaning("The recipient is not a mobile number", "Correct the number of this person."),
    "21605": Meaning("The text is longer than Twilio takes", "Report this: it should have been shortened."),
    "21617": Meaning("The text is longer than 1600 characters", "Report this: it should have been shortened."),
    "21658": Meaning("A parameter is longer than Twilio takes", "Report this: it should have been shortened."),
    "21703": Meaning("The messaging service has no sender", "Add a number to the messaging service in the console."),
    "21704": Meaning("The messaging service has no sender", "Add a number to the messaging service in the console."),
    "30001": Meaning("Twilio's queue is full", "It is tried again by itself; send less, or from more numbers.", True),
    "30002": Meaning("The account is suspended", "Look into the console for the reason."),
    "30004": Meaning("The recipient or the carrier blocks the message", "Nothing can be done from here."),
    "30007": Meaning("The carrier filtered the message as spam", "Register the sender (A2P 10DLC, toll-free)."),
}

_READ = frozenset({"MessageSid", "From", "To", "Body", "OptOutType", "MessageStatus", "SmsStatus", "ErrorCode"})
_CONSENTS = {consent.value: consent for consent in Consent}

_BY_HTTP_STATUS: dict[int, str] = {401: "20003", 403: "20003", 404: "20404", 429: "20429"}


def first_of_each(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """A form as names and values; `BadInput` if a name that is read here has two different values.

    Twilio signs names and values with nothing between them: a repeated field is where a form could be read otherwise
    than it was meant.
    """
    form: dict[str, str] = {}
    for name, value in pairs:
        if form.setdefault(name, value) != value and name in _READ:
            raise BadInput(name, f"{name} has two different values.")
    return form


def parse_message(form: Mapping[str, str]) -> InboundMessage:
    """An inbound message; `BadInput` names the field that is missing or cannot be right."""
    kind = form.get("OptOutType", "").strip().lower()
    recipient = form.get("To", "").strip()
    return InboundMessage(
        channel=NAME,
        external_id=_message_sid(form),
        sender=_sender(form),
        recipient=recipient if _ADDRESS.fullmatch(recipient) else "",
        text=clean(form.get("Body", "")),
        consent=_CONSENTS.get(kind),
    )


def parse_receipt(form: Mapping[str, str]) -> Receipt:
    """What has become of a sent message; `BadInput` names the field that is missing or unknown."""
    word = (form.get("MessageStatus") or form.get("SmsStatus") or "").strip().lower()
    if not word:
        raise BadInput("MessageStatus", "MessageStatus is missing.")
    if word not in STATUSES:
        raise BadInput("MessageStatus", "MessageStatus is none that a sent message can have.")
    code = form.get("ErrorCode", "").strip()
    return Receipt(
        channel=NAME,
        external_id=_message_sid(form),
        status=STATUSES[word],
        error_code=code if re.fullmatch(r"[0-9]{1,9}", code) and code != "0" else "",
    )


def _message_sid(form: Mapping[str, str]) -> str:
    sid = form.get("MessageSid", "").strip()
    if not sid:
        raise BadInput("MessageSid", "MessageSid is missing.")
    if not _SID.fullmatch(sid):
        raise BadInput("MessageSid", "MessageSid is not an id of Twilio's (two letters, then letters and digits).")
    return sid


def _sender(form: Mapping[str, str]) -> str:
    sender = form.get("From", "").strip()
    if not sender:
        raise BadInput("From", "From is missing.")
    if _OTHER_MEDIUM.match(sender):
        raise BadInput("From", "From belongs to another medium; this address takes SMS and MMS only.")
    if not _ADDRESS.fullmatch(sender):
        raise BadInput("From", "From is neither a phone number in E.164 form, such as +15005550006, nor a short code.")
    return sender


def parse_sent(answer: object) -> Sent:
    """What Twilio says about a message it took; `SendUnknown` if that is not what a message looks like."""
    if not isinstance(answer, dict) or not isinstance(answer.get("sid"), str) or not _SID.fullmatch(answer["sid"]):
        raise SendUnknown("Twilio took the call, but its answer has no message id: the message may have been sent.")
    count = str(answer.get("num_segments") or "")
    return Sent(
        external_id=answer["sid"],
        status=STATUSES.get(str(answer.get("status")), DeliveryStatus.QUEUED),
        # A messaging service chooses the sender later, and says "0" until then.
        segments=int(count) if re.fullmatch(r"[1-9][0-9]{0,3}", count) else None,
        cost_usd=_cost_usd(answer),
    )


def _cost_usd(answer: Mapping[str, Any]) -> Decimal | None:
    """What Twilio charged, once it says so: an amount below zero, in the account's currency; only dollars are of use here."""
    price = answer.get("price")
    if answer.get("price_unit") != "USD" or not isinstance(price, str) or not re.fullmatch(r"-?\d{1,4}(\.\d{1,10})?", price):
        return None
    return abs(Decimal(price))


def failure(status: int, answer: object, retry_after: str, now: datetime) -> ChannelError:
    """The error that an answer other than 2xx stands for. Twilio's own wording is left out: it quotes phone numbers."""
    code = error_code(answer)
    if code == OPTED_OUT:
        return RecipientOptedOut("The recipient has opted out of messages from this sender.", vendor_code=code)
    if status >= 500 or status == 408:
        return SendUnknown(f"Twilio failed while it took the message (HTTP {status}): it may have been sent.", vendor_code=code)
    message = " ".join(explain(status, code))
    meaning = ERRORS.get(code)
    if status == 429 or (meaning is not None and meaning.again):
        return SendFailed(message, vendor_code=code, permanent=False, retry_after_s=_seconds(retry_after, now))
    return SendFailed(message, vendor_code=code, permanent=True)


def error_code(answer: object) -> str:
    """The code in an error of Twilio's, '' if `answer` is none."""
    code = answer.get("code") if isinstance(answer, dict) else None
    return str(code) if isinstance(code, int) else ""


def explain(status: int, code: str) -> tuple[str, str]:
    """What an answer of Twilio's means, and how to mend it, for the operator. `code` is '' if it named none."""
    meaning = ERRORS.get(code or _BY_HTTP_STATUS.get(status, ""))
    if meaning is not None:
        return f"{meaning.says} ({f'error {code}' if code else f'HTTP {status}'}).", meaning.cure
    if code:
        return f"Twilio refuses (error {code}).", f"See https://www.twilio.com/docs/api/errors/{code}"
    if status >= 500:
        return f"Twilio has a failure (HTTP {status}).", "Look at https://status.twilio.com, then try again."
    return f"Something that is not Twilio's API answered (HTTP {status}).", "Check TWILIO_API_BASE_URL."


def _seconds(retry_after: str, now: datetime) -> float | None:
    """A Retry-After header in seconds, whether it is a number or a date; None if it is neither."""
    if re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", retry_after.strip()):
        return float(retry_after)
    at = moment(retry_after)
    return None if at is None else max(0.0, (at - now).total_seconds())


def moment(text: object) -> datetime | None:
    """An RFC 2822 date as Twilio writes them, in UTC; None if `text` is none."""
    try:
        return parsedate_to_datetime(str(text)).astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None


def is_ours(listed: Mapping[str, Any], recipient: str, text: str, since: datetime) -> bool:
    """Whether a listed message is one we sent to `recipient` with this `text`, not before `since`."""
    created = moment(listed.get("date_created"))
    return (
        listed.get("direction") == "outbound-api"
        and listed.get("to") == recipient
        and created is not None
        and created >= since
        and _same(str(listed.get("body") or "").removeprefix(TRIAL_PREFIX), text)
    )


def _same(body: str, text: str) -> bool:
    """Whether Twilio's copy of a text is ours. Smart encoding changes quotes and blanks, not letters or digits."""
    if body.strip() == text.strip():
        return True
    letters = _letters(text)
    return bool(letters) and _letters(body) == letters


def _letters(text: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFKC", text) if char.isalnum())
