"""Receipts: what a vendor says has become of a message. They move it forward only, in whatever order they come."""

from __future__ import annotations

import logging
import uuid
from decimal import Decimal
from typing import Any

import redis
from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from webapp.contracts.channels import RANK, DeliveryStatus, Receipt
from webapp.contracts.events import DeliveryEvent
from webapp.contracts.texts import clean
from webapp.extensions import now, queue_redis, reading, table_of, writing
from webapp.models import Delivery
from webapp.models import Receipt as ReceiptRow
from webapp.models.columns import new_id
from webapp.pipeline import message_costs, webhooks
from webapp.registry import current_registry

log = logging.getLogger(__name__)

_EARLY_S = 600
_table = table_of(Delivery)


def emit(row: Any, status: DeliveryStatus, code: str = "") -> None:
    """Tell the listeners that a delivery (its row) has changed its status."""
    event = DeliveryEvent(
        delivery_id=str(row.id),
        channel=row.channel,
        direction=row.direction,
        status=status.value,
        request_id=str(row.request_id or ""),
        error_code=code,
    )
    current_registry().emit("delivery_updated", event)


def record(news: Receipt) -> bool:
    """Record what a vendor says of a message. Later news moves it forward, older news and repeats change nothing.

    False if the message is not known (yet): the news is then kept for a while, in case it overtook the vendor's own answer.
    """
    if _recorded(news):
        return True
    _keep_early(news)
    # The sender may have learned the message's id, and looked for early news, between the look and the keeping.
    with reading() as connection:
        known = connection.execute(
            select(_table.c.id).where(_table.c.channel == news.channel, _table.c.external_id == news.external_id)
        ).first()
    if known is None:
        return False
    for kept in early(news.channel, news.external_id):
        _recorded(kept)
    return True


def _recorded(news: Receipt) -> bool:
    at = now()
    code = clean(str(news.error_code))[:40] or None
    hooks: tuple[uuid.UUID, ...] = ()
    webhooks.look()
    with writing() as connection:
        row = connection.execute(
            select(_table).where(_table.c.channel == news.channel, _table.c.external_id == news.external_id)
        ).first()
        if row is None:
            return False
        upsert = sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert
        connection.execute(
            upsert(ReceiptRow).on_conflict_do_nothing(index_elements=["delivery_id", "status"]),
            {
                "id": new_id(),
                "delivery_id": row.id,
                "status": news.status,
                "error_code": code,
                "received_at": at,
            },
        )
        behind = [known.value for known, rank in RANK.items() if rank < RANK[news.status]]
        moved = connection.execute(
            update(_table)
            .where(_table.c.id == row.id, _table.c.status.in_(behind))
            .values(status=news.status, error_code=code, updated_at=at)
        )
        told = message_costs.told_microusd(news.cost_usd)
        if told is not None:
            message_costs.correct(connection, row, told, at)
        if moved.rowcount:
            hooks = webhooks.message_updated(connection, row, news.status, code or "", at)
    webhooks.hand_over(hooks)
    if moved.rowcount:
        emit(row, news.status, code or "")
    return True


def _early_key(channel: str, external_id: str) -> str:
    return f"switchhook:early:{channel}:{external_id}"


def _keep_early(news: Receipt) -> None:
    try:
        key = _early_key(news.channel, news.external_id)
        with queue_redis().pipeline(transaction=False) as pipe:
            cost = "" if message_costs.told_microusd(news.cost_usd) is None else f":{news.cost_usd}"
            pipe.rpush(key, f"{news.status.value}{cost} {news.error_code}")
            pipe.expire(key, _EARLY_S)
            pipe.execute()
    except redis.RedisError:
        log.warning("a receipt that came early could not be kept: Redis is away")


def early(channel: str, external_id: str) -> list[Receipt]:
    """What was said about a message before we knew its id; asked once."""
    try:
        key = _early_key(channel, external_id)
        with queue_redis().pipeline(transaction=False) as pipe:
            pipe.lrange(key, 0, -1)
            pipe.delete(key)
            kept, _ = pipe.execute()
    except redis.RedisError:
        return []
    found = []
    for entry in kept:
        word, _, code = entry.decode().partition(" ")
        status, _, cost = word.partition(":")
        found.append(Receipt(channel, external_id, DeliveryStatus(status), code, Decimal(cost) if cost else None))
    return found
