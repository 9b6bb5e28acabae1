"""The core's side of a channel: where verified messages and receipts come in."""

from __future__ import annotations

from webapp.contracts.channels import DeliveryStatus, InboundMessage, Receipt
from webapp.contracts.errors import BadInput, LimitReached, LimitsUnknown
from webapp.contracts.texts import clean
from webapp.pipeline import receipts
from webapp.pipeline.admit import admit
from webapp.pipeline.intake import Intake
from webapp.registry import current_registry


class CoreInbox:
    """Takes messages onto the road. What the sender has to be told goes out as a message, not as the webhook's answer."""

    def receive(self, message: InboundMessage) -> None:
        channel = current_registry().channels.get(message.channel)
        if channel is None:
            raise BadInput("channel", f"There is no channel {message.channel!r}.")
        for field, longest in (("external_id", 120), ("sender", 255)):
            value = getattr(message, field)
            if not isinstance(value, str) or not 0 < len(value) <= longest or clean(value) != value:
                raise BadInput(field, f"A message needs a {field} of at most {longest} characters.")
        if not isinstance(message.text, str) or not isinstance(message.recipient, str):
            raise BadInput("text", "A message needs a text and a recipient.")
        try:
            admit(Intake(medium=channel.medium, text=message.text, message=message))
        except (LimitReached, LimitsUnknown):
            # Stored, and told to the sender.
            return

    def receipt(self, receipt: Receipt) -> None:
        if not isinstance(receipt.status, DeliveryStatus):
            raise BadInput("status", f"There is no status {receipt.status!r}.")
        receipts.record(receipt)
