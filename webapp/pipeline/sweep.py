"""Sweep: find what a crash lost and put it back on the road. Runs every few seconds; two at once do no harm.

The database says what is unfinished; Redis is only asked what it knows of it.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import redis
from sqlalchemy import ColumnElement, Select, Update, func, insert, or_, select, true, update
from sqlalchemy.exc import OperationalError

from webapp import queues
from webapp.contracts.channels import DeliveryStatus
from webapp.contracts.texts import frames
from webapp.extensions import current_settings, now, queue_redis, reading, retried, writing
from webapp.models import Attempt, Conversation, Delivery, Request, RequestStatus, unfinished
from webapp.models.columns import new_id
from webapp.pipeline import agree, deliver, lease, stream, webhook_send, webhooks, words
from webapp.pipeline.endings import Call, Ending, Used
from webapp.pipeline.settle import Settled, after_commit, settle_within
from webapp.pipeline.timing import job_timeout_s
from webapp.queues import Task
from webapp.quota import holds

log = logging.getLogger(__name__)

_BATCH = 5000
_leases_count_from = 0.0
_YOUNG_S = 3.0
"""What was stored a moment ago is being enqueued by whoever stored it."""
_LOOK_UP_AFTER_S = 5.0
_LOOK_UP_FOR_S = 24 * 3600
_LOOK_UP_BUDGET_S = 10.0


@dataclass(frozen=True, slots=True)
class Swept:
    """How much of what was put back."""

    enqueued: int = 0
    taken_over: int = 0
    given_up: int = 0
    expired: int = 0
    """Requests that waited for too long, and holds whose owner has died."""
    deliveries: int = 0
    looked_up: int = 0
    webhooks: int = 0
    forgotten: int = 0
    """Jobs in Redis whose requests had ended."""

    @property
    def anything(self) -> bool:
        return any(astuple(self))


def sweep() -> Swept:
    """Put back on the road whatever fell off it."""
    global _leases_count_from
    webhooks.look()
    try:
        taken_over, given_up = _take_over() if time.monotonic() >= _leases_count_from else (0, 0)
    except OperationalError:
        # While the database is away nobody can prolong a lease: afterwards everybody gets the time to do it.
        _leases_count_from = time.monotonic() + current_settings().lease_s
        raise
    expired = _attempted(_expire, "give up what waited for too long")
    expired += _attempted(_expire_reservations, "give back what dead processes hold")
    swept = Swept(
        enqueued=_attempted(_enqueue_waiting, "enqueue requests"),
        taken_over=taken_over,
        given_up=given_up,
        expired=expired,
        deliveries=_attempted(_enqueue_deliveries, "enqueue messages"),
        looked_up=_attempted(_look_up_unknown, "look up messages"),
        webhooks=_attempted(_enqueue_webhooks, "enqueue outgoing webhooks"),
        forgotten=_attempted(agree.forget_ended, "compare the queue with the table"),
    )
    if swept.anything:
        log.info("swept: %s", swept)
    return swept


def _attempted(work: Callable[[], int], what: str) -> int:
    """What one part of the sweep came to, 0 if it failed: the others must not stay undone for it. Not so while the database is
    away: then nothing can be done at all."""
    try:
        return work()
    except OperationalError:
        raise
    except Exception as exc:
        # Without its words: they may quote what people wrote.
        log.error("the sweep cannot %s: %s\n%s", what, type(exc).__name__, frames(exc))
        return 0


def _take_over() -> tuple[int, int]:
    """Requests whose executing process gave no sign of life: back to the queue, or given up after several times."""
    at = now()
    with reading() as connection:
        lost = connection.execute(_processing().where(Request.lease_until < at).limit(_BATCH)).all()
    taken_over = given_up = 0
    for row in lost:
        if row.queue == queues.NONE:
            # Whoever waited for the answer went with the process.
            given_up += _attempted(partial(_give_up, row, at), f"give up request {row.id}")
        elif _times_lost(row.id) + 1 >= current_settings().poison_after:
            given_up += _attempted(partial(_give_up, row, at), f"give up request {row.id}")
        elif _attempted(
            partial(_back_to_the_queue, row, "lost", "worker_lost", Request.lease_until < at), f"take over {row.id}"
        ):
            taken_over += 1
            log.warning("request %s is taken over: its process died in attempt %d", row.id, row.attempts)
    return taken_over, given_up


def _times_lost(request_id: uuid.UUID) -> int:
    """How many executions of a request have died so far."""
    lost = select(func.count()).where(Attempt.request_id == request_id, Attempt.error_code == "worker_lost")
    with reading() as connection:
        return connection.execute(lost).scalar_one()


def hand_back() -> int:
    """Put back what this process still executes and cannot finish because it has to end; returns how many there were."""
    with reading() as connection:
        mine = connection.execute(_processing().where(Request.claim.in_(lease.held()))).all()
    queued = [row for row in mine if row.queue != queues.NONE]
    given = [row for row in queued if _back_to_the_queue(row, "handed back", "worker_stopped", true())]
    for (name, operation), ids in _by_job(given).items():
        queues.put(queue_redis(), queues.EXECUTE, map(str, ids), name, job_timeout_s(operation))
    return len(given)


def _by_job(rows: Iterable[Any]) -> dict[tuple[str, str], list[uuid.UUID]]:
    """The ids of requests by what their jobs have in common: the queue, and the operation, which decides the time limit."""
    found: dict[tuple[str, str], list[uuid.UUID]] = {}
    for row in rows:
        found.setdefault((row.queue, row.operation), []).append(row.id)
    return found


def _processing() -> Select[*tuple[Any, ...]]:
    return select(
        Request.id,
        Request.claim,
        Request.attempts,
        Request.started_at,
        Request.queue,
        Request.operation,
        Request.lease_until,
    ).where(Request.status == RequestStatus.PROCESSING, unfinished())


def _back_to_the_queue(row: Any, outcome: str, code: str, condition: ColumnElement[bool]) -> bool:
    """End an execution without a result, if it still holds the request and `condition` is true."""
    at = now()
    with writing() as connection:
        done = connection.execute(
            update(Request)
            .where(Request.id == row.id, Request.status == RequestStatus.PROCESSING, Request.claim == row.claim, condition)
            .values(status=RequestStatus.QUEUED, claim=None, lease_until=None)
        )
        if done.rowcount != 1:
            return False
        connection.execute(
            insert(Attempt),
            {
                "id": new_id(),
                "request_id": row.id,
                "execution": row.attempts,
                "number": 1,
                "outcome": outcome,
                "error_code": code,
                "started_at": row.started_at or at,
                "ended_at": at,
            },
        )
    return True


def _give_up(row: Any, at: datetime) -> int:
    if row.queue == queues.NONE:
        detail = "The web process that executed it for a waiting caller has died."
    else:
        detail = f"The process that executed it died each time; the last one was its execution number {row.attempts}. "
        detail += "It may be what kills them."
    ending = Ending(
        RequestStatus.FAILED,
        (Call(Used(), outcome="lost", started_at=row.started_at, error_code="worker_lost"),),
        error_code="worker_lost",
        error_message=words.failed("worker_lost"),
        detail=detail,
    )
    # Its process may have come back to life since it was found.
    dead = update(Request).where(Request.id == row.id, Request.claim == row.claim, Request.lease_until < at)
    return _end(row.id, row.claim, dead.values(lease_until=at), ending)


def _end(request_id: uuid.UUID, claim: uuid.UUID, take: Update, ending: Ending) -> int:
    """End a request if `take` changes its row; 0 if it does not, because somebody was faster."""

    def work() -> Settled | None:
        with writing() as connection:
            if connection.execute(take).rowcount != 1:
                return None
            return settle_within(connection, request_id, claim, ending, now(), by="sweep")

    settled = retried(work)
    if settled is None:
        return 0
    after_commit(request_id, settled, settled.ending)
    stream.publish_end(request_id, settled.ending.status)
    return 1


def _expire() -> int:
    """End requests that were queued for too long: nobody waits for them any more."""
    at = now()
    with reading() as connection:
        late = connection.execute(
            select(Request.id, Request.retries, Request.error_code)
            .where(Request.status == RequestStatus.QUEUED, unfinished(), Request.expires_at < at)
            .order_by(Request.id)
            .limit(_BATCH)
        ).all()
    return sum(_attempted(partial(_expire_request, row, at), f"give up request {row.id}") for row in late)


def _expire_request(row: Any, at: datetime) -> int:
    claim = new_id()
    late = (Request.id == row.id, Request.status == RequestStatus.QUEUED, Request.expires_at < at)
    # The number of its tries still the same: its failure would be another otherwise.
    mine = update(Request).where(*late, Request.retries == row.retries).values(status=RequestStatus.PROCESSING, claim=claim)
    return _end(row.id, claim, mine, _too_late(row))


def _too_late(row: Any) -> Ending:
    """The end of a request that waited for too long: for a worker, or, after a failure, for its next try."""
    limit = f"{current_settings().queue_max_h:g} hours (SWITCHHOOK_QUEUE_MAX_H)"
    if not (row.retries and row.error_code):
        code, detail = "expired", f"It was not executed within {limit}: there are too few workers, or none."
    else:
        code, detail = row.error_code, f"{_last_failure(row.id)}\nIts {limit} were over before its next try.".strip()
    return Ending(RequestStatus.FAILED, error_code=code, error_message=words.failed(code), detail=detail)


def _last_failure(request_id: uuid.UUID) -> str:
    """What went wrong the last time, in the vendor's words."""
    failed = select(Attempt.detail).where(Attempt.request_id == request_id, Attempt.detail.is_not(None))
    with reading() as connection:
        last = failed.order_by(Attempt.execution.desc(), Attempt.number.desc()).limit(1)
        return connection.execute(last).scalar() or ""


def _expire_reservations() -> int:
    """Give back what the reservations of dead processes hold."""

    def work() -> int:
        with writing() as connection:
            return holds.expire(connection, now())

    return retried(work)


def _enqueue_waiting() -> int:
    before = now() - timedelta(seconds=_YOUNG_S)
    with reading() as connection:
        rows = connection.execute(
            select(Request.id, Request.queue, Request.operation)
            .where(
                Request.status == RequestStatus.QUEUED,
                unfinished(),
                Request.created_at < before,
                or_(Request.not_before.is_(None), Request.not_before <= now()),
            )
            .order_by(Request.priority.desc(), Request.id)
            .limit(_BATCH)
        ).all()
    enqueued = 0
    for (name, operation), waiting in _by_job(rows).items():
        enqueued += _put_unknown(queues.EXECUTE, waiting, name, job_timeout_s(operation))
    return enqueued


def _enqueue_deliveries() -> int:
    at = now()
    with reading() as connection:
        rows = (
            connection.execute(
                select(Delivery.id)
                .where(
                    Delivery.status == DeliveryStatus.PENDING,
                    or_(Delivery.next_try_at.is_(None), Delivery.next_try_at <= at),
                    Delivery.updated_at < at - timedelta(seconds=_YOUNG_S),
                )
                .order_by(Delivery.id)
                .limit(_BATCH)
            )
            .scalars()
            .all()
        )
    return _put_unknown(queues.DELIVER, rows, queues.NORMAL, 0)


def _enqueue_webhooks() -> int:
    return _put_unknown(queues.WEBHOOK, webhook_send.due(), queues.NORMAL, 0)


def _put_unknown(task: Task, ids: Sequence[uuid.UUID], queue_name: str, timeout_s: int) -> int:
    """Enqueue those that are not waiting in Redis.

    What a worker has taken from its queue this very moment, or was killed with in its hands, looks lost, too: a job that is
    enqueued twice finds its row taken.
    """
    if not ids:
        return 0
    client = queue_redis()
    try:
        waiting = {job for name in queues.QUEUES for job in queues.waiting(client, name)}
        lost = [str(subject) for subject in ids if queues.job_id(task, str(subject)) not in waiting]
    except redis.RedisError as exc:
        log.warning("the sweep cannot enqueue: Redis is away (%s)", type(exc).__name__)
        return 0
    if not lost or not queues.put(client, task, lost, queue_name, timeout_s):
        return 0
    return len(lost)


def _look_up_unknown() -> int:
    """Sends that nobody reported back: their process died, or the vendor's answer was lost. Look, then decide."""
    at, settings = now(), current_settings()
    # Whoever was sending would have given up by now, so it is dead.
    lost_before = at - timedelta(seconds=settings.send_timeout_s + settings.lease_s)
    with writing() as connection:
        connection.execute(
            update(Delivery)
            .where(
                Delivery.status == DeliveryStatus.SENDING,
                Delivery.claimed_at < lost_before,
            )
            .values(status=DeliveryStatus.UNKNOWN, error_code="send_unknown", updated_at=at)
        )
    with reading() as connection:
        unknown = (
            connection.execute(
                select(Delivery.id)
                .where(
                    Delivery.status == DeliveryStatus.UNKNOWN,
                    Delivery.updated_at < at - timedelta(seconds=_LOOK_UP_AFTER_S),
                    or_(Delivery.next_try_at.is_(None), Delivery.next_try_at <= at),
                    Delivery.created_at > at - timedelta(seconds=_LOOK_UP_FOR_S),
                )
                .order_by(Delivery.updated_at)
                .limit(50)
            )
            .scalars()
            .all()
        )
    # A vendor that hangs must not keep the sweep from everybody else's work.
    until, looked_up = time.monotonic() + _LOOK_UP_BUDGET_S, 0
    for delivery_id in unknown:
        if time.monotonic() > until:
            break
        deliver.look_up(delivery_id)
        looked_up += 1
    return looked_up


def close_idle_conversations() -> int:
    """Close conversations without a message for the configured number of days; returns how many."""
    before = now() - timedelta(days=current_settings().conversation_idle_days)
    with writing() as connection:
        return connection.execute(
            update(Conversation).where(Conversation.active, Conversation.last_activity_at < before).values(active=False)
        ).rowcount
