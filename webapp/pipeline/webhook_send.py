"""The way out of outgoing webhooks: claim a message that is due, send it, and write down what came of it.

A message is sent at least once, always with the same id: a worker that is killed in the middle leaves a claim that runs out,
and then somebody else sends it again. Nobody waits for an endpoint that is slow: each has a few lanes, one that is failing has
a single one, and whoever finds them taken leaves the message to whoever is in them, or to the sweep.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import redis
from sqlalchemy import Connection, func, insert, or_, select, text, update

from webapp import queues
from webapp.contracts import webhooks as events
from webapp.extensions import current_settings, now, queue_redis, reading, retries, table_of, writing
from webapp.models import WebhookDelivery, WebhookEndpoint, WebhookState
from webapp.models.columns import new_id
from webapp.models.webhooks import open_deliveries
from webapp.pipeline import webhook_disable, webhook_post, webhooks
from webapp.pipeline.webhook_post import Answer

log = logging.getLogger(__name__)

LANES = 4
"""How many messages are on their way to one endpoint at once."""
LOG_MAX = 60
"""How many tries of a message are kept."""
_MARGIN_S = 30
_GO_ON_S = 20.0
_YOUNG_S = 3.0
"""What was noted a moment ago is being enqueued by whoever noted it."""
_CANCELLED_AT_ONCE = 1000

_delivery, _endpoint = table_of(WebhookDelivery), table_of(WebhookEndpoint)


@dataclass(frozen=True, slots=True)
class Taken:
    """A message in the hands of this try, and where it goes (the endpoint's row)."""

    id: uuid.UUID
    event: str
    payload: Any
    attempts: int
    log: list[Any]
    endpoint: Any


def send(delivery_id: uuid.UUID) -> WebhookState | None:
    """Send a message if it is due, then others that are due to the same endpoint, for as long as it takes them and not for too
    long. Returns what became of the first; None if it was not there to be sent now."""
    until = time.monotonic() + _GO_ON_S
    with reading() as connection:
        query = select(_endpoint.c.id, _endpoint.c.failing_since).join(_delivery, _delivery.c.endpoint_id == _endpoint.c.id)
        endpoint = connection.execute(query.where(_delivery.c.id == delivery_id)).first()
    if endpoint is None:
        return None
    following: uuid.UUID | None = None
    failing = endpoint.failing_since is not None
    with _seat(failing) as seated, _lane(endpoint.id, 1 if failing else LANES, seated) as free:
        if not free:
            return None
        first = state = _send(delivery_id)
        while state is WebhookState.DELIVERED:
            following = _next(endpoint.id)
            if following is None or time.monotonic() > until:
                break
            state, following = _send(following), None
    if following is not None:
        webhooks.hand_over([following])
    return first


def ping(endpoint_id: uuid.UUID) -> Answer | None:
    """Send an endpoint a test message now, once, whether or not it is switched on; what it answered, None if there is no such
    endpoint. A failure has no consequences. Who may do this is the caller's business."""
    at = now()
    with writing() as connection:
        key = select(_endpoint).where(_endpoint.c.id == endpoint_id).with_for_update(read=True, key_share=True)
        endpoint = connection.execute(key).first()
        if endpoint is None:
            return None
        claimed_until = at + timedelta(seconds=_claim_s())
        payload = events.message(events.PING, at, {"endpoint_id": str(endpoint_id)})
        taken = Taken(new_id(), events.PING, payload, 1, [], endpoint)
        values = {
            "id": taken.id,
            "endpoint_id": endpoint_id,
            "event": events.PING,
            "payload": payload,
            "state": WebhookState.SENDING,
            "attempts": 1,
            "next_try_at": claimed_until,
            "claimed_until": claimed_until,
            "log": [],
            "created_at": at,
        }
        connection.execute(insert(WebhookDelivery), values)
    answer = webhook_post.post(endpoint, taken.id, payload, at)
    _finish(taken, answer)
    return answer


def due() -> list[uuid.UUID]:
    """Messages that nobody sends although it is their time, for the sweep: a few of each endpoint, whatever waits for others.
    Those to endpoints that are switched off are cancelled."""
    at = now()
    waiting = (text(open_deliveries()), _delivery.c.next_try_at <= at)
    with reading() as connection:
        if connection.execute(select(_delivery.c.id).where(*waiting).limit(1)).first() is None:
            return []
        idle = (
            select(_delivery.c.id)
            .join(_endpoint, _endpoint.c.id == _delivery.c.endpoint_id)
            .where(*waiting, ~_endpoint.c.active, _delivery.c.event != events.PING)
            .limit(_CANCELLED_AT_ONCE)
        )
        unwanted = connection.execute(idle).scalars().all()
        place = func.row_number().over(partition_by=_delivery.c.endpoint_id, order_by=(_delivery.c.next_try_at, _delivery.c.id))
        old_enough = or_(_delivery.c.attempts > 0, _delivery.c.next_try_at < at - timedelta(seconds=_YOUNG_S))
        ranked = select(_delivery.c.id, place.label("place")).where(*waiting, old_enough).subquery()
        found = connection.execute(select(ranked.c.id).where(ranked.c.place <= LANES)).scalars().all()
    if unwanted:
        with writing() as connection:
            this = (_delivery.c.id.in_(unwanted), text(open_deliveries()), _delivery.c.next_try_at <= at)
            connection.execute(update(_delivery).where(*this).values(_ended(WebhookState.CANCELLED, at)))
    gone = set(unwanted)
    return [delivery_id for delivery_id in found if delivery_id not in gone]


# -- one try -------------------------------------------------------------------------------------------------------------
def _send(delivery_id: uuid.UUID) -> WebhookState | None:
    taken = _take(delivery_id)
    if taken is None:
        return None
    return _finish(taken, webhook_post.post(taken.endpoint, taken.id, taken.payload, now()))


@retries
def _take(delivery_id: uuid.UUID) -> Taken | None:
    """Claim a message that is due; None if it is not, or somebody else is at it."""
    at = now()
    with writing() as connection:
        # A fresh one is due by whatever clock.
        its_time = or_(_delivery.c.attempts == 0, _delivery.c.next_try_at <= at)
        row = connection.execute(
            select(_delivery)
            .where(_delivery.c.id == delivery_id, text(open_deliveries()), its_time)
            .with_for_update(skip_locked=True)
        ).first()
        if row is None:
            return None
        endpoint = connection.execute(select(_endpoint).where(_endpoint.c.id == row.endpoint_id)).one()
        this = update(_delivery).where(_delivery.c.id == delivery_id, _delivery.c.attempts == row.attempts)
        if not endpoint.active and row.event != events.PING:
            connection.execute(this.values(_ended(WebhookState.CANCELLED, at)))
            return None
        told = list(row.log)
        if row.state == WebhookState.SENDING:
            told.append({"at": at.isoformat(), "status": None, "ms": 0, "words": "The process that sent it has died."})
            if row.attempts and current_settings().webhook_wait_after_s(row.attempts) is None:
                connection.execute(this.values(_ended(WebhookState.FAILED, at) | {"log": told[-LOG_MAX:]}))
                return None
        until = at + timedelta(seconds=_claim_s())
        claimed = {"state": WebhookState.SENDING, "attempts": row.attempts + 1, "claimed_until": until, "next_try_at": until}
        done = connection.execute(this.values(claimed | {"log": told[-LOG_MAX:]}))
        return Taken(row.id, row.event, row.payload, row.attempts + 1, told, endpoint) if done.rowcount else None


@retries
def _settle(taken: Taken, answer: Answer) -> tuple[WebhookState, list[uuid.UUID]]:
    """Write down what came of a try; the letters to enqueue. The endpoint's row comes first, as everywhere."""
    at = now()
    letters: list[uuid.UUID] = []
    with writing() as connection:
        if answer.delivered:
            connection.execute(
                update(_endpoint)
                .where(_endpoint.c.id == taken.endpoint.id, _endpoint.c.failing_since.is_not(None))
                .values(failing_since=None)
            )
        elif taken.event != events.PING and not answer.ours:
            letters = _blame(connection, taken, answer, at)
        values, state = _outcome(taken, answer, at)
        connection.execute(
            update(_delivery)
            .where(
                _delivery.c.id == taken.id,
                _delivery.c.state == WebhookState.SENDING,
                _delivery.c.attempts == taken.attempts,
            )
            .values(values)
        )
    return state, letters


def _finish(taken: Taken, answer: Answer) -> WebhookState:
    state, letters = _settle(taken, answer)
    if letters:
        queues.put(queue_redis(), queues.DELIVER, map(str, letters), queues.NORMAL)
    if not answer.delivered:
        log.info("webhook %s to endpoint %s is %s after try %d", taken.id, taken.endpoint.id, state, taken.attempts)
    return state


def _outcome(taken: Taken, answer: Answer, at: datetime) -> tuple[dict[str, Any], WebhookState]:
    logged = {"log": [*taken.log, answer.as_logged()][-LOG_MAX:]}
    if answer.delivered:
        return _ended(WebhookState.DELIVERED, at) | logged, WebhookState.DELIVERED
    wait_s = current_settings().webhook_wait_after_s(taken.attempts)
    if taken.event == events.PING or answer.status == webhook_post.GONE or wait_s is None:
        return _ended(WebhookState.FAILED, at) | logged, WebhookState.FAILED
    again = {"state": WebhookState.PENDING, "claimed_until": None, "next_try_at": at + timedelta(seconds=wait_s)}
    return again | logged, WebhookState.PENDING


def _ended(state: WebhookState, at: datetime) -> dict[str, Any]:
    return {"state": state, "claimed_until": None, "next_try_at": None, "ended_at": at}


def _blame(connection: Connection, taken: Taken, answer: Answer, at: datetime) -> list[uuid.UUID]:
    """Remember that the endpoint fails, and switch it off where that is enough of it."""
    row = connection.execute(
        update(_endpoint)
        .where(_endpoint.c.id == taken.endpoint.id)
        .values(failing_since=func.coalesce(_endpoint.c.failing_since, at))
        .returning(_endpoint.c.id, _endpoint.c.organization_id, _endpoint.c.url, _endpoint.c.failing_since, _endpoint.c.active)
    ).first()
    if row is None or not row.active:
        return []
    hours = current_settings().webhook_disable_after_h
    if answer.status == webhook_post.GONE:
        return webhook_disable.disable(connection, row, "It answered 410 (gone), which asks for no more messages.", at)
    if row.failing_since <= at - timedelta(hours=hours):
        return webhook_disable.disable(connection, row, f"Every message to it has failed for {hours:g} hours.", at)
    return []


# -- lanes ---------------------------------------------------------------------------------------------------------------
_seats_lock = threading.Lock()
_seats_taken = 0


@contextmanager
def _seat(failing: bool) -> Iterator[bool]:
    """Whether this process has room for another try at an endpoint that fails: together they get an eighth of its jobs, so that
    however many hang, the others' work goes on."""
    global _seats_taken
    if not failing:
        yield True
        return
    with _seats_lock:
        free = _seats_taken < max(1, current_settings().worker_jobs // 8)
        _seats_taken += free
    try:
        yield free
    finally:
        with _seats_lock:
            _seats_taken -= free


@contextmanager
def _lane(endpoint_id: uuid.UUID, lanes: int, seated: bool) -> Iterator[bool]:
    """Whether one of an endpoint's lanes was free; then it is ours inside the block. A lane that a dead process held is free
    again after its time. While Redis is away nobody can count, and all are taken for free."""
    if not seated:
        yield False
        return
    key, mine, client = f"switchhook:webhook:{endpoint_id}", uuid.uuid4().hex, queue_redis()
    at, held_s = time.time(), _GO_ON_S + _claim_s()
    try:
        with client.pipeline(transaction=True) as pipe:
            pipe.zremrangebyscore(key, 0, at)
            pipe.zadd(key, {mine: at + held_s})
            pipe.zcard(key)
            pipe.expire(key, int(held_s) + 1)
            taken = int(pipe.execute()[2])
    except redis.RedisError:
        taken = 0
    try:
        if taken > lanes:
            _leave(client, key, mine)
        yield taken <= lanes
    finally:
        if taken <= lanes:
            _leave(client, key, mine)


def _leave(client: redis.Redis, key: str, mine: str) -> None:
    try:
        client.zrem(key, mine)
    except redis.RedisError:
        log.debug("a lane of a webhook endpoint was not given back: Redis is away")


def _next(endpoint_id: uuid.UUID) -> uuid.UUID | None:
    """The message to an endpoint that is due for the longest time."""
    query = (
        select(_delivery.c.id)
        .where(_delivery.c.endpoint_id == endpoint_id, text(open_deliveries()), _delivery.c.next_try_at <= now())
        .order_by(_delivery.c.next_try_at, _delivery.c.id)
        .limit(1)
    )
    with reading() as connection:
        found: uuid.UUID | None = connection.execute(query).scalar()
    return found


def _claim_s() -> float:
    return current_settings().webhook_timeout_s + _MARGIN_S
