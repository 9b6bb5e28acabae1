"""The part of admission that only messages have: who wrote, what they consent to, and the record of what came in and goes out.

Runs inside the transaction of `admit`.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from webapp.contracts.channels import Consent, DeliveryStatus, InboundMessage
from webapp.contracts.consent import consent_of
from webapp.contracts.events import DeliveryEvent, PersonEvent
from webapp.extensions import current_settings, table_of
from webapp.models import (
    Delivery,
    DeliveryKind,
    Direction,
    Hold,
    Identity,
    LimitCounter,
    Membership,
    Organization,
    Person,
    PersonRole,
    Request,
    RequestStatus,
    senders,
)
from webapp.models.columns import new_id
from webapp.models.senders import Sender
from webapp.pipeline import usage_words, webhooks, words
from webapp.pipeline.intake import Outcome
from webapp.quota import holds
from webapp.registry import current_registry

_delivery = table_of(Delivery)
_record = {
    dialect: insert_into(_delivery).on_conflict_do_nothing(index_elements=["channel", "external_id"]).returning(_delivery.c.id)
    for dialect, insert_into in (("sqlite", sqlite_insert), ("postgresql", postgresql_insert))
}


@dataclass(slots=True)
class Known:
    """Who wrote. `sender` is None for somebody who is not known and not to be."""

    sender: Sender | None
    outcome: Outcome = Outcome.IGNORED
    hooks: list[uuid.UUID] = field(default_factory=list)
    """Outgoing webhooks that were noted."""


def find(connection: Connection, message: InboundMessage, events: list[tuple[str, object]], at: datetime) -> Known:
    """The sender, registered now if the installation is open to everybody."""
    medium = _medium(message)
    sender = senders.by_address(connection, medium, message.sender)
    if sender is None and current_settings().sms_registration == "open":
        _register(connection, medium, message.sender, active=True, at=at)
        sender = senders.by_address(connection, medium, message.sender)
        assert sender is not None
        event = PersonEvent(str(sender.person_id), str(sender.organization_id), medium, sender.plan)
        events.append(("person_created", event))
    events.append(("message_received", DeliveryEvent("", message.channel, Direction.IN, DeliveryStatus.RECEIVED)))
    return Known(sender)


def continues(
    connection: Connection,
    message: InboundMessage,
    text: str,
    known: Known,
    deliveries: list[uuid.UUID],
    at: datetime,
) -> bool:
    """Whether the message is to become a request. If not, it has been dealt with and recorded, and `known.outcome` says how."""
    sender = known.sender
    opted_out = sender is not None and sender.opted_out_at is not None
    consent = message.consent or consent_of(text, opted_out=opted_out)
    command = consent is None and usage_words.asked_for(text)
    if consent is None and not command and sender is not None and sender.active and not opted_out and text:
        return True
    person_id = sender.person_id if sender else None
    if not record(connection, message, text, known, None, at):
        known.outcome = Outcome.REPEATED
        return False
    answer = ""
    if consent is not None:
        known.outcome = Outcome.CONSENT
        answer = _honour(connection, message, consent, text, sender, at)
    elif sender is None:
        answer = _not_invited(connection, message)
    elif command and sender.active and not opted_out:
        known.outcome = Outcome.COMMAND
        answer = usage_words.answer(connection, sender, message.sender, _medium(message), at)
    elif sender.active and not opted_out:
        answer = words.TEXT_ONLY
    if answer:
        deliveries.append(reply(connection, message, answer, DeliveryKind.NOTICE, person_id, None, at))
    return False


def record(
    connection: Connection,
    message: InboundMessage,
    text: str,
    known: Known,
    request_id: uuid.UUID | None,
    at: datetime,
) -> bool:
    """Write the message down. False if the vendor delivered it before: the unique key is the dedupe."""
    person_id = known.sender.person_id if known.sender else None
    done = connection.execute(
        _record[connection.dialect.name],
        {
            "id": new_id(),
            "channel": message.channel,
            "medium": _medium(message),
            "direction": Direction.IN,
            "kind": DeliveryKind.MESSAGE,
            "external_id": message.external_id,
            "request_id": request_id,
            "person_id": person_id,
            "address": message.sender,
            "our_address": message.recipient,
            "body": text,
            "status": DeliveryStatus.RECEIVED,
            "created_at": at,
            "updated_at": at,
        },
    )
    written = done.first()
    if written is None:
        return False
    if known.sender is not None:
        organization_id = known.sender.organization_id
        known.hooks += webhooks.message_received(
            connection, written.id, message, _medium(message), organization_id, person_id, request_id, at
        )
    return True


def reply(
    connection: Connection,
    message: InboundMessage,
    text: str,
    kind: DeliveryKind,
    person_id: uuid.UUID | None,
    request_id: uuid.UUID | None,
    at: datetime,
) -> uuid.UUID:
    """Write a message that is to go back the way this one came; returns its id."""
    delivery_id = new_id()
    connection.execute(
        insert(Delivery),
        {
            "id": delivery_id,
            "channel": message.channel,
            "medium": _medium(message),
            "direction": Direction.OUT,
            "kind": kind,
            "request_id": request_id,
            "person_id": person_id,
            "address": message.sender,
            "our_address": message.recipient,
            "body": text,
            "status": DeliveryStatus.PENDING,
            "created_at": at,
            "updated_at": at,
        },
    )
    return delivery_id


def _medium(message: InboundMessage) -> str:
    channel = current_registry().channels.get(message.channel)
    return channel.medium if channel else "sms"


def _honour(
    connection: Connection,
    message: InboundMessage,
    consent: Consent,
    text: str,
    sender: Sender | None,
    at: datetime,
) -> str:
    """Do what a consent word asks; returns what to answer. Nothing is ever sent after STOP, not even a confirmation."""
    medium = _medium(message)
    channel = current_registry().channels.get(message.channel)
    answered = message.consent is not None or (channel is not None and channel.answers_consent_words)
    if consent is Consent.STOP:
        opt_out(connection, medium, message.sender, text[:40], at)
        silence(connection, medium, message.sender, at)
        return ""
    if consent is Consent.START:
        connection.execute(
            update(Identity)
            .where(Identity.medium == medium, Identity.address == message.sender)
            .values(opted_out_at=None, consent_word=text[:40], consent_at=at)
        )
        # Somebody who is not served is not told that they will be.
        return "" if answered or sender is None or not sender.active else words.WELCOME_BACK
    opted_out = sender is not None and sender.opted_out_at is not None
    return "" if answered or opted_out else words.HELP


def opt_out(connection: Connection, medium: str, address: str, word: str, at: datetime) -> None:
    """Keep that an address wants no messages. A stranger's STOP binds later messages, too, so it gets a place to be kept."""
    known = connection.execute(
        update(Identity)
        .where(Identity.medium == medium, Identity.address == address)
        .values(opted_out_at=func.coalesce(Identity.opted_out_at, at), consent_word=word, consent_at=at)
    )
    if known.rowcount:
        return
    _register(connection, medium, address, active=False, at=at)
    opt_out(connection, medium, address, word, at)


def silence(connection: Connection, medium: str, address: str, at: datetime) -> None:
    """Take back what is waiting to go to an address: its messages, and its requests that nobody has begun.

    A request that is running is asked to stop, and not tried again. Should it be answered all the same, the answer is written
    down and, by the check at the moment of sending, not sent.
    """
    connection.execute(
        update(Delivery)
        .where(
            Delivery.address == address,
            Delivery.medium == medium,
            Delivery.direction == Direction.OUT,
            Delivery.status == DeliveryStatus.PENDING,
        )
        .values(status=DeliveryStatus.SUPPRESSED, updated_at=at)
    )
    # Locked first: one that is put back to the queue, or taken from it, at this very moment is neither to an update.
    found = connection.execute(
        select(Request.id, Request.status)
        .where(
            Request.person_id.in_(select(Identity.person_id).where(Identity.medium == medium, Identity.address == address)),
            Request.reply_to == address,
            Request.status.in_((RequestStatus.QUEUED, RequestStatus.PROCESSING)),
        )
        .order_by(Request.id)
        .with_for_update(key_share=True, of=Request)
    ).all()
    running = [row.id for row in found if row.status == RequestStatus.PROCESSING]
    if running:
        connection.execute(update(Request).where(Request.id.in_(running)).values(cancel_asked_at=at))
    _take_back(connection, [row.id for row in found if row.status == RequestStatus.QUEUED], at)


def _take_back(connection: Connection, request_ids: Sequence[uuid.UUID], at: datetime) -> None:
    """End requests that wait, whose rows are locked, and give back what they hold."""
    if not request_ids:
        return
    connection.execute(
        update(Request)
        .where(Request.id.in_(request_ids))
        .values(
            status=RequestStatus.CANCELLED,
            error_code="opted_out",
            error_message="The sender asked for no more messages.",
            ended_at=at,
        )
    )
    if len(request_ids) > 1:
        _lock_counters(connection, request_ids)
    for request_id in request_ids:
        holds.give_back(connection, request_id, at, by="stop", why="opted_out")


def _lock_counters(connection: Connection, request_ids: Sequence[uuid.UUID]) -> None:
    """Lock the counters of several requests in the one order in which others lock those of one. The order is Python's: the
    database's own may be that of a language."""
    counter = LimitCounter
    held = select(Hold.subject, Hold.name, Hold.period, Hold.starts_at)
    keys = connection.execute(held.where(Hold.request_id.in_(request_ids), Hold.settled_at.is_(None)).distinct()).all()
    for subject, name, period, starts_at in sorted(tuple(key) for key in keys):
        this = (counter.subject == subject, counter.name == name, counter.period == period, counter.starts_at == starts_at)
        connection.execute(select(counter.used).where(*this).with_for_update(key_share=True))


def _not_invited(connection: Connection, message: InboundMessage) -> str:
    """What a stranger is told where only invited people are served: once, so that two machines cannot talk for ever."""
    if current_settings().sms_registration != "invite":
        return ""
    told = connection.execute(
        select(Delivery.id).where(Delivery.address == message.sender, Delivery.direction == Direction.OUT).limit(1)
    ).first()
    return "" if told else words.NOT_INVITED


def _register(connection: Connection, medium: str, address: str, *, active: bool, at: datetime) -> None:
    person_id = new_id()
    organization_id = connection.execute(select(Organization.id).order_by(Organization.id).limit(1)).scalar_one()
    connection.execute(
        insert(Person),
        {
            "id": person_id,
            "organization_id": organization_id,
            "plan_code": current_settings().default_plan,
            "active": active,
            "created_at": at,
        },
    )
    connection.execute(
        insert(Membership),
        {"person_id": person_id, "organization_id": organization_id, "role": PersonRole.MEMBER, "limits": [], "created_at": at},
    )
    connection.execute(
        insert(Identity),
        {"id": new_id(), "person_id": person_id, "medium": medium, "address": address, "created_at": at},
    )
