"""Replay: put a request that was set aside back on the road, as itself: same id, same idempotency key, one answer."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import redis
from sqlalchemy import Connection, case, insert, select, update

from webapp import queues
from webapp.contracts.errors import Conflict, LimitReached, NotAllowed, NotFound, Refusal
from webapp.contracts.limits import Dimension, Window
from webapp.extensions import current_settings, now, queue_redis, reading, retried, writing
from webapp.models import AuditEntry, DeadLetter, Identity, LetterState, Request, RequestStatus, senders
from webapp.models.columns import new_id
from webapp.models.senders import Sender
from webapp.pipeline import stream, words
from webapp.pipeline.timing import job_timeout_s
from webapp.quota import asking, credits, holds
from webapp.quota.asking import PolicyFailed
from webapp.quota.holds import NoRoom
from webapp.routing import costs, route
from webapp.routing.route import IMAGES, Ask, Target

_PAGE = 200


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of one request of several: `trouble` says why it was not put back, '' if it was."""

    request_id: uuid.UUID
    trouble: str = ""


def replay(request_id: uuid.UUID, actor: str, actor_id: uuid.UUID | None = None) -> None:
    """Put a request back. It is held again, on the limits that apply now: `LimitReached` if they have no room. `NotFound` if it
    was never set aside, `Conflict` if it is on the road again already or has been erased, `NotAllowed` if its person is not
    served any more."""
    target = _target(request_id)

    def work() -> Any:
        with writing() as connection:
            row = _reopen(connection, request_id)
            sender = _sender(connection, row)
            _hold(connection, row, sender, target)
            connection.execute(
                update(DeadLetter)
                .where(DeadLetter.request_id == request_id)
                .values(state=LetterState.REPLAYED, replays=DeadLetter.replays + 1, acted_at=now(), acted_by=actor)
            )
            _audit(connection, "request.replay", row, actor, actor_id)
        return row

    row = retried(work)
    try:
        stream.forget(request_id)
        queues.put(queue_redis(), queues.EXECUTE, [str(request_id)], row.queue, job_timeout_s(row.operation))
    except redis.RedisError:
        # The sweep enqueues it when Redis is back.
        return


def replay_all(reason: str, actor: str, actor_id: uuid.UUID | None = None) -> Iterator[Replayed]:
    """Put back all that were set aside for a reason, oldest first, each by itself."""
    for request_id in _of(reason):
        try:
            replay(request_id, actor, actor_id)
            yield Replayed(request_id)
        except Refusal as exc:
            yield Replayed(request_id, exc.message)


def dismiss(request_id: uuid.UUID, actor: str, actor_id: uuid.UUID | None = None) -> None:
    """Close the matter of a request without trying it again. `NotFound`, or `Conflict` if it is not open."""
    with writing() as connection:
        row = connection.execute(
            select(Request.id, Request.organization_id, DeadLetter.state)
            .join(DeadLetter, DeadLetter.request_id == Request.id)
            .where(Request.id == request_id)
        ).first()
        if row is None:
            raise NotFound("This request was not set aside.")
        done = connection.execute(
            update(DeadLetter)
            .where(DeadLetter.request_id == request_id, DeadLetter.state == LetterState.OPEN)
            .values(state=LetterState.DISMISSED, acted_at=now(), acted_by=actor)
        )
        if not done.rowcount:
            raise Conflict(f"This request is not open any more: it was {row.state}.")
        _audit(connection, "request.dismiss", row, actor, actor_id)


def _of(reason: str) -> Iterator[uuid.UUID]:
    after: uuid.UUID | None = None
    while True:
        query = select(DeadLetter.request_id).where(DeadLetter.state == LetterState.OPEN, DeadLetter.reason == reason)
        if after is not None:
            query = query.where(DeadLetter.request_id > after)
        with reading() as connection:
            found = connection.execute(query.order_by(DeadLetter.request_id).limit(_PAGE)).scalars().all()
        yield from found
        if len(found) < _PAGE:
            return
        after = found[-1]


def _target(request_id: uuid.UUID) -> Target | None:
    """What will probably answer. Looked at before the transaction: it may have to ask whether a server is there."""
    columns = (Request.operation, Request.category, Request.plan_code, Request.organization_id, Request.parameters)
    with reading() as connection:
        row = connection.execute(select(*columns).where(Request.id == request_id)).first()
    if row is None:
        raise NotFound("There is no such request.")
    named = str((row.parameters or {}).get("model") or "")
    drawing = row.operation == IMAGES
    ask = Ask(row.operation, row.category, row.plan_code, row.organization_id, pictures=int(drawing), named=named)
    targets = route.plan(ask).targets
    # The price table is loaded at its first use: not inside the transaction.
    costs.most(targets[0] if targets else None, 0, 0)
    return targets[0] if targets else None


def _reopen(connection: Connection, request_id: uuid.UUID) -> Any:
    """The request's row, queued again."""
    at = now()
    row = connection.execute(
        update(Request)
        .where(
            Request.id == request_id,
            Request.status == RequestStatus.FAILED,
            Request.id.in_(select(DeadLetter.request_id).where(DeadLetter.request_id == request_id)),
        )
        .values(
            status=RequestStatus.QUEUED,
            error_code=None,
            error_message=None,
            finish=None,
            ended_at=None,
            started_at=None,
            not_before=None,
            cancel_asked_at=None,
            retries=0,
            # What belongs to a batch waits for as long as the batch takes.
            expires_at=case((Request.batch_id.is_(None), at + timedelta(hours=current_settings().queue_max_h))),
        )
        .returning(
            Request.id,
            Request.person_id,
            Request.organization_id,
            Request.token_id,
            Request.operation,
            Request.channel,
            Request.queue,
            Request.max_input_tokens,
            Request.max_output_tokens,
            Request.input_tokens,
            Request.output_tokens,
            Request.cost_microusd,
            Request.allocation_millicredits,
            Request.reply_channel,
            Request.reply_to,
            Request.prompt,
        )
    ).first()
    if row is None:
        state = connection.execute(select(DeadLetter.state).where(DeadLetter.request_id == request_id)).scalar()
        if state is None:
            raise NotFound("This request was not set aside.")
        raise Conflict("This request is on the road again already, or has been answered.")
    if not row.prompt:
        raise Conflict("This request has been erased: nobody knows any more what was asked. Ask again instead.")
    return row


def _sender(connection: Connection, row: Any) -> Sender:
    sender = senders.within(connection, row.person_id, row.organization_id, row.token_id)
    if sender is None or not sender.active:
        raise NotAllowed("Its person is not active, or has left the organization.")
    if row.reply_channel is not None:
        silent = connection.execute(
            select(Identity.id).where(
                Identity.person_id == row.person_id, Identity.address == row.reply_to, Identity.opted_out_at.is_not(None)
            )
        ).first()
        if silent is not None:
            raise NotAllowed("Its sender wants no more messages.")
    return sender


def _hold(connection: Connection, row: Any, sender: Sender, target: Target | None) -> None:
    """Hold what it may use afresh. What its earlier lives have used is on the counters already; it counts with the rest on what
    a single request may use."""
    drawing = row.operation == IMAGES
    tokens = row.max_input_tokens + row.max_output_tokens
    cost = costs.most(target, row.max_input_tokens, row.max_output_tokens, int(drawing)).cost_microusd
    fresh = _amounts(tokens, cost)
    in_all = _amounts(tokens + row.input_tokens + row.output_tokens, cost + row.cost_microusd)
    provider = target.provider.name if target else ""
    allotted = row.allocation_millicredits or current_settings().allocation_credits * credits.MILLI
    try:
        limits = asking.limits_for(asking.question_of(sender, row.operation, row.channel, allotted))
        held = asking.held_at(limits, provider)
        alone = [limit for limit in held if limit.window is Window.REQUEST]
        others = [limit for limit in held if limit.window is not Window.REQUEST]
        at, zone = now(), sender.time_zone
        holds.take(connection, row.id, holds.needs(alone, in_all, at, zone) + holds.needs(others, fresh, at, zone))
    except NoRoom as full:
        message = words.limit_reached(full.need, row.operation)
        raise LimitReached(message, limit=full.need.limit.label, resets_at=full.need.resets_at) from None
    except PolicyFailed as exc:
        raise Conflict("A quota policy failed: nobody knows what its person may spend.") from exc
    connection.execute(
        update(Request)
        .where(Request.id == row.id)
        .values(held_microusd=cost, held_provider=provider or None, cap_microusd=asking.cap_microusd(limits))
    )


def _amounts(tokens: int, cost_microusd: int) -> dict[Dimension, int]:
    return {
        Dimension.REQUESTS: 1,
        Dimension.TOKENS: tokens,
        Dimension.COST: cost_microusd,
        Dimension.CREDITS: credits.of_cost(cost_microusd),
    }


def _audit(connection: Connection, action: str, row: Any, actor: str, actor_id: uuid.UUID | None) -> None:
    connection.execute(
        insert(AuditEntry),
        {
            "id": new_id(),
            "actor": actor,
            "actor_id": actor_id,
            "action": action,
            "subject": f"request:{row.id}",
            "organization_id": row.organization_id,
            "detail": {},
            "created_at": now(),
        },
    )
