"""What messages cost, in the ledger: one entry for each that a vendor took, the house pays.

Who says it, in this order: the vendor, where it told its price; the operator (`SWITCHHOOK_SMS_PART_USD`, for each part); the
operator's ceiling (`SWITCHHOOK_CEILING_SMS_USD`), so that a message is never free by accident. An entry is never changed: a
price that the vendor tells later and that is higher is entered as the difference. A lower one stands in the delivery alone.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from webapp.contracts.channels import MESSAGE_SEND, Channel, DeliveryStatus, Sent
from webapp.contracts.money import to_microusd
from webapp.contracts.segments import segments
from webapp.extensions import current_settings
from webapp.models import Delivery, LedgerEntry, Person, PersonRole, Request
from webapp.models.columns import new_id
from webapp.pipeline.endings import HOUSE
from webapp.routing.price_values import Price, amount_or_none

VENDOR_USD_MAX = 100
"""A vendor that says that one message cost more is not believed."""

_TAKEN = frozenset({DeliveryStatus.QUEUED, DeliveryStatus.SENT, DeliveryStatus.DELIVERED, DeliveryStatus.UNDELIVERED})
"""What vendors bill: what they took, whether or not it arrived."""


def told_microusd(cost_usd: object) -> int | None:
    """A vendor's price in whole micro-dollars, None where it told none that there can be."""
    usd = amount_or_none(cost_usd, VENDOR_USD_MAX) if isinstance(cost_usd, Decimal) else None
    return None if usd is None else to_microusd(usd)


def enter(connection: Connection, row: Any, channel: Channel | None, sent: Sent, at: datetime) -> None:
    """Write a message that was handed over into the ledger, in the transaction that marks it sent. A second time nothing.

    `row` is the delivery. Media other than text messages, whose parts nobody counts, are entered at the vendor's price alone.
    """
    if sent.status not in _TAKEN or channel is None or channel.free_of_charge is True:
        return
    parts = sent.segments
    if parts is None and row.medium == "sms":
        parts = segments(row.body) if row.body else 0
    price = _price(told_microusd(sent.cost_usd), parts or 0, at)
    if price is not None:
        _write(connection, row, price, at, estimated=sent.segments is None and price.source != "vendor", once=True)


def correct(connection: Connection, row: Any, told: int, at: datetime) -> None:
    """Keep the price that the vendor told for a delivery, and enter what it is more than was entered. The first price counts.

    `told` is whole micro-dollars; `row` is the delivery as it is in this transaction.
    """
    first = connection.execute(
        update(Delivery).where(Delivery.id == row.id, Delivery.cost_microusd.is_(None)).values(cost_microusd=told)
    )
    if first.rowcount != 1:
        return
    entered = connection.execute(select(LedgerEntry.cost_microusd).where(LedgerEntry.id == row.id)).scalar()
    price = Price(told - (entered or 0), "vendor", _day(at), True)
    if price.cost_microusd > 0:
        _write(connection, row, price, at, estimated=False, once=entered is None)


def _price(told: int | None, parts: int, at: datetime) -> Price | None:
    """What a message costs, None for one that nobody bills for."""
    if told is not None:
        return Price(told, "vendor", _day(at), True)
    if not parts:
        return None
    settings = current_settings()
    if settings.sms_part_usd:
        return Price(to_microusd(parts * Decimal(str(settings.sms_part_usd))), "override", "", True)
    return Price(to_microusd(parts * Decimal(str(settings.ceiling_sms_usd))), "ceiling", "", False)


def _day(at: datetime) -> str:
    return at.astimezone(UTC).date().isoformat()


def _write(connection: Connection, row: Any, price: Price, at: datetime, *, estimated: bool, once: bool) -> None:
    """An entry for a delivery. The first one has the delivery's own id: that is what makes it the only one of its kind."""
    person_id, organization_id = _payer(connection, row)
    if person_id is None:
        return
    entry = {
        "id": row.id if once else new_id(),
        "request_id": row.request_id,
        "payer": HOUSE,
        "person_id": person_id,
        "organization_id": organization_id,
        "channel": row.medium,
        "operation": MESSAGE_SEND,
        "provider": row.channel,
        "model": row.medium,
        "requests": 0,
        "input_tokens": 0,
        "output_tokens": 0,
        "cost_microusd": price.cost_microusd,
        "estimated": estimated,
        "price_source": price.source,
        "price_date": price.date or None,
        "created_at": at,
    }
    if not once:
        connection.execute(insert(LedgerEntry).values(entry))
        return
    upsert = sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert
    connection.execute(upsert(LedgerEntry).values(entry).on_conflict_do_nothing(index_elements=["id"]))


def _payer(connection: Connection, row: Any) -> tuple[uuid.UUID | None, Any]:
    """Whom and which organization an entry names: the delivery's person and, where it belongs to a request, the organization
    that the person was working in then. A message to somebody who is not known is in the first administrator's name.

    The organization may be SQL, so that the entry is one statement.
    """
    if row.person_id is None:
        query = select(Person.id, Person.organization_id).order_by((Person.role == PersonRole.ADMIN).desc(), Person.id).limit(1)
        found = connection.execute(query).first()
        return (None, None) if found is None else (found.id, found.organization_id)
    organization = select(Person.organization_id).where(Person.id == row.person_id).scalar_subquery()
    if row.request_id is None:
        return row.person_id, organization
    at_work = select(Request.organization_id).where(Request.id == row.request_id).scalar_subquery()
    return row.person_id, func.coalesce(at_work, organization)
