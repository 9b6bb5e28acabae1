"""Deliver: claim a message, hand it to its channel, keep what the vendor said. Receipts move it forward only.

A send whose outcome is unknown is never repeated blindly: it is looked up at the vendor first.
"""

from __future__ import annotations

import logging
import math
import uuid
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, case, exists, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from webapp import queues
from webapp.contracts.channels import RANK, Channel, DeliveryStatus, OutboundMessage, Sent
from webapp.contracts.errors import NotAllowed, RecipientOptedOut, SendFailed, SendUnknown
from webapp.contracts.texts import clean, frames
from webapp.extensions import current_settings, now, queue_redis, reading, retries, table_of, writing
from webapp.models import Delivery, DeliveryKind, Direction, ErrorLog, Identity, Person
from webapp.models.columns import new_id
from webapp.pipeline import incoming, message_costs, receipts, webhooks
from webapp.registry import current_registry
from webapp.routing import http

log = logging.getLogger(__name__)

MAX_TRIES = 5
_LOOK_UP_AGAIN_S = 600
_LONGEST_WAIT_S = 3600.0
_RETRY_S = (5.0, 20.0, 60.0, 300.0)
EMAIL = "email"
_SUBJECT_CHARS = 255

_table = table_of(Delivery)
# Identities have e-mail addresses in lower case; whoever wrote the delivery may not have.
_known_address = case((_table.c.medium == EMAIL, func.lower(_table.c.address)), else_=_table.c.address)
_opted_out = exists().where(
    Identity.medium == _table.c.medium, Identity.address == _known_address, Identity.opted_out_at.is_not(None)
)
_claim = (
    update(_table)
    .where(
        _table.c.id == bindparam("b_id"),
        _table.c.status == DeliveryStatus.PENDING,
        or_(_table.c.next_try_at.is_(None), _table.c.next_try_at <= bindparam("b_at")),
        ~_opted_out,
    )
    .values(
        status=DeliveryStatus.SENDING,
        claimed_at=bindparam("b_at"),
        updated_at=bindparam("b_at"),
        attempts=_table.c.attempts + 1,
    )
    .returning(*_table.c)
)


def deliver(delivery_id: uuid.UUID) -> DeliveryStatus | None:
    """Send one pending message. Returns its status after that, None if it was not there to be sent."""
    at = now()
    webhooks.look()
    with writing() as connection:
        row = connection.execute(_claim, {"b_id": delivery_id, "b_at": at}).first()
        if row is None:
            suppressed = connection.execute(
                update(_table)
                .where(_table.c.id == delivery_id, _table.c.status == DeliveryStatus.PENDING, _opted_out)
                .values(status=DeliveryStatus.SUPPRESSED, updated_at=at)
            )
            return DeliveryStatus.SUPPRESSED if suppressed.rowcount else None
    return _send(row)


def _send(row: Any) -> DeliveryStatus:
    channel = current_registry().channels.get(row.channel)
    if channel is None or channel.missing():
        why = channel.missing() if channel else f"the channel {row.channel} is not installed"
        return _note(row, DeliveryStatus.FAILED, code="channel_missing", message=f"Not sent: {why}.")
    try:
        with _send_limits():
            sent = channel.send(_outbound(row, channel), http.client())
    except RecipientOptedOut as exc:
        _learn_opt_out(row)
        return _note(row, DeliveryStatus.FAILED, code=exc.vendor_code or exc.code, message=exc.message)
    except SendFailed as exc:
        if not exc.permanent and row.attempts < MAX_TRIES:
            return _again(row, _wait_s(exc.retry_after_s, row.attempts), exc)
        return _note(row, DeliveryStatus.FAILED, code=exc.vendor_code or exc.code, message=exc.message)
    except SendUnknown as exc:
        return _note(row, DeliveryStatus.UNKNOWN, code=exc.code, message=exc.message)
    except (Exception, SystemExit) as exc:
        # A channel plugin that breaks in the middle: the message may be out.
        log.error("channel %s failed in sending: %s\n%s", row.channel, type(exc).__name__, frames(exc))
        return _note(
            row, DeliveryStatus.UNKNOWN, code="internal", message=f"The channel's plugin failed: {type(exc).__name__}."
        )
    return _sent(row, sent)


def _wait_s(wished_s: float | None, attempts: int) -> float:
    """How long to wait before the next try: the vendor's wish within reason, else longer each time."""
    usual = _RETRY_S[min(attempts, len(_RETRY_S)) - 1]
    if not isinstance(wished_s, int | float) or not math.isfinite(wished_s):
        return usual
    return min(max(float(wished_s), 1.0), _LONGEST_WAIT_S)


def _sound(sent: object) -> bool:
    """Whether a plugin's answer can be stored as it is."""
    return (
        isinstance(sent, Sent)
        and isinstance(sent.external_id, str)
        and 0 < len(sent.external_id) <= 120
        and clean(sent.external_id) == sent.external_id
        and isinstance(sent.status, DeliveryStatus)
        and (sent.segments is None or (type(sent.segments) is int and 0 <= sent.segments < 1000))
    )


def _is_another(row: Any, found: Sent) -> bool:
    """Whether what was found is another delivery with the same text: then this one's fate is still not known."""
    with reading() as connection:
        other = connection.execute(
            select(_table.c.id).where(_table.c.channel == row.channel, _table.c.external_id == found.external_id)
        ).scalar()
    return other is not None and other != row.id


def _send_limits() -> AbstractContextManager[object]:
    limit_s = current_settings().send_timeout_s
    return http.call_limits(timeout_s=limit_s, silence_s=limit_s)


def _outbound(row: Any, channel: Channel) -> OutboundMessage:
    public, path = current_settings().public_url, channel.status_path()
    return OutboundMessage(
        delivery_id=str(row.id),
        recipient=row.address,
        sender=row.our_address,
        text=row.body,
        status_url=public + path if public and path else "",
        subject=row.subject or "",
        timeout_s=current_settings().send_timeout_s,
    )


def _sent(row: Any, sent: Sent) -> DeliveryStatus:
    if not _sound(sent):
        log.error("the plugin of channel %s gave no proper account of what it sent", row.channel)
        return _note(row, DeliveryStatus.UNKNOWN, code="internal", message="The channel's plugin gave no proper account.")
    at, channel = now(), current_registry().channels.get(row.channel)
    told = message_costs.told_microusd(sent.cost_usd)
    priced = {} if told is None else {"cost_microusd": func.coalesce(_table.c.cost_microusd, told)}
    hooks: tuple[uuid.UUID, ...] = ()
    try:
        with writing() as connection:
            marked = connection.execute(
                update(_table)
                .where(_table.c.id == row.id, _table.c.attempts == row.attempts)
                .values(
                    status=_forward(sent.status),
                    external_id=sent.external_id,
                    segments=sent.segments,
                    error_code=None,
                    error_message=None,
                    updated_at=at,
                    **priced,
                )
            )
            if marked.rowcount:
                message_costs.enter(connection, row, channel, sent, at)
                hooks = webhooks.message_updated(connection, row, sent.status, "", at)
    except IntegrityError:
        log.error("channel %s gave the id of another message", row.channel)
        return _note(row, DeliveryStatus.UNKNOWN, code="internal", message="The vendor's id is that of another message.")
    webhooks.hand_over(hooks)
    status = sent.status
    # The vendor's first receipt may have come before we knew the message's id.
    for early in receipts.early(row.channel, sent.external_id):
        receipts.record(early)
        status = early.status
    receipts.emit(row, status)
    return status


def _forward(status: DeliveryStatus) -> Any:
    """SQL: `status`, unless the delivery is further already."""
    behind = [known for known, rank in RANK.items() if rank < RANK[status]]
    return case((_table.c.status.in_(behind), status.value), else_=_table.c.status)


def _note(row: Any, status: DeliveryStatus, *, code: str, message: str) -> DeliveryStatus:
    """Record that a message was not sent, or may not have been, for the person's page and the operator's log."""
    at, code, message = now(), clean(str(code))[:40], clean(str(message))[:2000]
    with writing() as connection:
        connection.execute(
            update(_table)
            .where(_table.c.id == row.id)
            .values(status=_forward(status), error_code=code, error_message=message, updated_at=at)
        )
        hooks = webhooks.message_updated(connection, row, status, code, at)
        connection.execute(
            insert(ErrorLog),
            {
                "id": new_id(),
                "kind": "delivery_" + status.value,
                "message": message,
                "detail": f"channel {row.channel}, code {code}, delivery {row.id}",
                "person_id": row.person_id,
                "request_id": row.request_id,
                "created_at": at,
            },
        )
    webhooks.hand_over(hooks)
    log.warning("delivery %s is %s: %s", row.id, status.value, code)
    receipts.emit(row, status, code)
    return status


def _again(row: Any, wait_s: float, why: SendFailed) -> DeliveryStatus:
    at = now()
    with writing() as connection:
        connection.execute(
            update(_table)
            .where(
                _table.c.id == row.id,
                _table.c.status == DeliveryStatus.SENDING,
                _table.c.attempts == row.attempts,
            )
            .values(
                status=DeliveryStatus.PENDING,
                next_try_at=at + timedelta(seconds=wait_s),
                error_code=clean(str(why.vendor_code or why.code))[:40],
                error_message=clean(why.message)[:2000],
                updated_at=at,
            )
        )
    log.info("delivery %s is tried again in %.0f s: %s", row.id, wait_s, why.vendor_code or why.code)
    return DeliveryStatus.PENDING


@retries
def _learn_opt_out(row: Any) -> None:
    """The carrier knows of an opt-out that we do not: keep it, so that nothing is tried again."""
    at = now()
    with writing() as connection:
        incoming.opt_out(connection, row.medium, row.address, "(told by the carrier)", at)
        incoming.silence(connection, row.medium, row.address, at)


def send_by_hand(
    address: str,
    text: str,
    channel: Channel,
    person_id: uuid.UUID | None,
    request_id: uuid.UUID | None = None,
    subject: str = "",
) -> uuid.UUID:
    """Write a message that somebody here sends to a person, and queue it; returns its id. Opted-out addresses are refused."""
    delivery_id = write_by_hand(address, text, channel, person_id, request_id, subject)
    queues.put(queue_redis(), queues.DELIVER, [str(delivery_id)], queues.HIGH)
    return delivery_id


def write_by_hand(
    address: str,
    text: str,
    channel: Channel,
    person_id: uuid.UUID | None,
    request_id: uuid.UUID | None = None,
    subject: str = "",
) -> uuid.UUID:
    """The same without queueing it, for callers that `deliver` it themselves."""
    at, delivery_id = now(), new_id()
    with writing() as connection:
        identity = connection.execute(
            select(Identity.person_id, Identity.opted_out_at).where(
                Identity.medium == channel.medium, Identity.address == address
            )
        ).first()
        if identity is not None and identity.opted_out_at is not None:
            raise NotAllowed(
                "This address has opted out: it gets no message."
                if channel.medium == EMAIL
                else "This number has opted out: it gets no message until it sends START."
            )
        known = identity.person_id if identity else None
        if known is None and person_id is None and channel.medium == EMAIL:
            known = connection.execute(select(Person.id).where(Person.email == address)).scalar()
        connection.execute(
            insert(Delivery),
            {
                "id": delivery_id,
                "channel": channel.name,
                "medium": channel.medium,
                "direction": Direction.OUT,
                "kind": DeliveryKind.MANUAL,
                "request_id": request_id,
                "person_id": person_id or known,
                "address": address,
                "subject": clean(subject)[:_SUBJECT_CHARS] or None,
                "body": text,
                "status": DeliveryStatus.PENDING,
                "created_at": at,
                "updated_at": at,
            },
        )
    return delivery_id


def look_up(delivery_id: uuid.UUID) -> DeliveryStatus:
    """Ask the vendor about a message whose outcome is unknown: found, it is sent; certainly not there, it is sent again."""
    with reading() as connection:
        row = connection.execute(select(_table).where(_table.c.id == delivery_id)).first()
    if row is None or row.status != DeliveryStatus.UNKNOWN:
        return DeliveryStatus(row.status) if row else DeliveryStatus.UNKNOWN
    channel = current_registry().channels.get(row.channel)
    if channel is None or channel.missing():
        return DeliveryStatus.UNKNOWN
    since: datetime = row.claimed_at or row.created_at
    try:
        with _send_limits():
            found = channel.find_sent(_outbound(row, channel), (now() - since).total_seconds() + 60, http.client())
    except (Exception, SystemExit) as exc:
        log.info("delivery %s stays unknown: %s", row.id, exc.message if isinstance(exc, SendUnknown) else type(exc).__name__)
        return _stays_unknown(row)
    if found is not None:
        return _stays_unknown(row) if _is_another(row, found) else _sent(row, found)
    if row.attempts >= MAX_TRIES:
        return _note(row, DeliveryStatus.FAILED, code="send_unknown", message="The vendor never took the message.")
    with writing() as connection:
        # The one step backwards there is: the vendor has just said that it does not have the message.
        connection.execute(
            update(_table)
            .where(
                _table.c.id == row.id,
                _table.c.status == DeliveryStatus.UNKNOWN,
                # Or somebody else has looked and sent meanwhile, and this is about the next try.
                _table.c.attempts == row.attempts,
            )
            .values(status=DeliveryStatus.PENDING, next_try_at=None, updated_at=now())
        )
    queues.put(queue_redis(), queues.DELIVER, [str(row.id)], queues.NORMAL)
    return DeliveryStatus.PENDING


def _stays_unknown(row: Any) -> DeliveryStatus:
    """Ask again later, not at every sweep."""
    with writing() as connection:
        connection.execute(
            update(_table)
            .where(_table.c.id == row.id, _table.c.status == DeliveryStatus.UNKNOWN)
            .values(next_try_at=now() + timedelta(seconds=_LOOK_UP_AGAIN_S))
        )
    return DeliveryStatus.UNKNOWN
