"""The core's side of a channel: where verified messages and receipts come in."""

from __future__ import annotations

from webapp.contracts.channels import InboundMessage, Receipt
from webapp.contracts.errors import LimitReached, LimitsUnknown
from webapp.pipeline import receipts
from webapp.pipeline.admit import admit
from webapp.pipeline.intake import Intake
from webapp.registry import current_registry


class CoreInbox:
    """Takes messages onto the road. What the sender has to be told goes out as a message, not as the webhook's answer."""

    def receive(self, message: InboundMessage) -> None:
        channel = current_registry().channels[message.channel]
        try:
            admit(Intake(medium=channel.medium, text=message.text, message=message))
        except (LimitReached, LimitsUnknown):
            # Stored, and told to the sender.
            return

    def receipt(self, receipt: Receipt) -> None:
        receipts.record(receipt)
