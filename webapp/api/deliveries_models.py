"""What messages are in the REST API."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Literal

from pydantic import Field

from webapp.api.base import ApiModel, Moment, PageQuery, Text, page_of
from webapp.contracts.channels import DeliveryStatus
from webapp.models import DeliveryKind, Direction
from webapp.services.delivery_lists import DeliveryView, ReceiptView


class DeliveryPath(ApiModel):
    """The address of a message."""

    delivery_id: uuid.UUID


class DeliveryQuery(PageQuery):
    """Which messages are listed. 5,000 messages are looked at for a page: it may so have fewer items than asked for, or none,
    and still a `next_cursor`."""

    status: DeliveryStatus | None = Field(None, description="How far it has come.")
    direction: Direction | None = Field(None, description="Seen from here.")
    channel: Text | None = Field(None, max_length=40, description="The channel's name, such as twilio.")
    kind: DeliveryKind | None = Field(None, description="Why it exists.")
    address: Text | None = Field(None, max_length=255, description="The whole address: a number with its country code.")
    person_id: uuid.UUID | None = None
    request_id: uuid.UUID | None = None
    created_from: Moment | None = Field(None, description="Made at this moment or later.")
    created_to: Moment | None = Field(None, description="Made before this moment.")
    order: Literal["-created"] = Field("-created", description="The latest first.")


class Delivery(ApiModel):
    """A message to or from somebody."""

    id: uuid.UUID
    channel: str
    medium: str
    direction: Direction
    kind: DeliveryKind
    status: DeliveryStatus
    person_id: uuid.UUID | None
    request_id: uuid.UUID | None = Field(description="The request that it brought, or answers.")
    address: str = Field(description="The person's address.")
    our_address: str
    subject: str | None = Field(description="Of an e-mail.")
    body: str | None = Field(description="Null where the text is not for the reader: managers read no texts of others.")
    external_id: str | None = Field(description="The vendor's id, for administrators.")
    error_code: str | None
    error_message: str | None = Field(description="The vendor's words, for administrators.")
    segments: int | None
    cost_microusd: int | None = Field(description="Null until the vendor has told the price.")
    attempts: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, view: DeliveryView) -> Delivery:
        """A message as it is told."""
        return cls(**{name: getattr(view, name) for name in cls.model_fields})


DeliveryPage = page_of(Delivery)


class DeliveryReceipt(ApiModel):
    """What the vendor said about a message."""

    status: DeliveryStatus
    error_code: str | None
    received_at: datetime


class DeliveryDetail(ApiModel):
    """A message with its receipts, in the order in which they came."""

    delivery: Delivery
    receipts: list[DeliveryReceipt]

    @classmethod
    def told(cls, view: DeliveryView, receipts: tuple[ReceiptView, ...]) -> DeliveryDetail:
        """Both as they are told."""
        lines = [
            DeliveryReceipt(status=DeliveryStatus(each.status), error_code=each.error_code, received_at=each.received_at)
            for each in receipts
        ]
        return cls(delivery=Delivery.of(view), receipts=lines)
