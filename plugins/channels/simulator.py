"""SMS without a vendor: the phone on the simulator page, and `switchhook sms simulate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from webapp.plugin import Channel, DeliveryStatus, Health, OutboundMessage, Sent, hookimpl

if TYPE_CHECKING:
    import httpx

SWITCHHOOK_CONTRACT = 1


class SimulatorChannel(Channel):
    """A phone that is a page. Whatever is sent has arrived: the page shows the deliveries in the database."""

    name = "simulator"
    medium = "sms"
    answers_consent_words = False
    free_of_charge = True

    def send(self, message: OutboundMessage, http: httpx.Client) -> Sent:  # noqa: ARG002
        return Sent(f"sim-{message.delivery_id}", DeliveryStatus.DELIVERED)

    def find_sent(self, message: OutboundMessage, since_s: float, http: httpx.Client) -> Sent | None:  # noqa: ARG002
        # Sending has no effect outside the database, so a send of unknown outcome never happened.
        return None

    def check(self, http: httpx.Client) -> Health:  # noqa: ARG002
        return Health(True, "The simulator needs nothing.")


@hookimpl
def register_channels(settings: Mapping[str, str]) -> list[Channel]:  # noqa: ARG001
    return [SimulatorChannel()]
