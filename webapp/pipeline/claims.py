"""Claims: one execution takes a queued request, so that nobody else does."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, or_, update

from webapp.extensions import current_settings, now, table_of, writing
from webapp.models import Request, RequestStatus
from webapp.models.columns import new_id
from webapp.quota.holds import Standing


@dataclass(slots=True)
class Claimed:
    """A request in the hands of this execution. Nothing of it changes, but for `standings`, which are known last."""

    id: uuid.UUID
    claim: uuid.UUID
    started_at: datetime
    person_id: uuid.UUID
    organization_id: uuid.UUID
    conversation_id: uuid.UUID | None
    operation: str
    prompt: str
    parameters: Mapping[str, Any]
    plan_code: str | None
    max_input_tokens: int
    max_output_tokens: int
    attempt: int
    reply_channel: str | None
    held_microusd: int
    cancel_asked_at: datetime | None
    channel: str
    retries: int
    token_id: uuid.UUID | None
    held_provider: str | None
    cap_microusd: int | None
    tokens_before: int
    """What earlier executions have used."""
    cost_before_microusd: int
    standings: tuple[Standing, ...] = ()
    """How its limits stood when it was admitted, where it was admitted and claimed in one."""


_table = table_of(Request)
_claim = (
    update(_table)
    .where(_table.c.id == bindparam("b_id"), _table.c.status == RequestStatus.QUEUED)
    .where(or_(_table.c.not_before.is_(None), _table.c.not_before <= bindparam("b_at")))
    .values(
        status=RequestStatus.PROCESSING,
        claim=bindparam("b_claim"),
        lease_until=bindparam("b_lease"),
        started_at=bindparam("b_at"),
        attempts=_table.c.attempts + 1,
    )
    .returning(
        _table.c.person_id,
        _table.c.organization_id,
        _table.c.conversation_id,
        _table.c.operation,
        _table.c.prompt,
        _table.c.parameters,
        _table.c.plan_code,
        _table.c.max_input_tokens,
        _table.c.max_output_tokens,
        _table.c.attempts,
        _table.c.reply_channel,
        _table.c.held_microusd,
        _table.c.cancel_asked_at,
        _table.c.channel,
        _table.c.retries,
        _table.c.token_id,
        _table.c.held_provider,
        _table.c.cap_microusd,
        _table.c.input_tokens + _table.c.output_tokens,
        _table.c.cost_microusd,
    )
)


def claim(request_id: uuid.UUID) -> Claimed | None:
    """Take a queued request; None if it is not queued any more, or waits for a later moment, whatever job names it. It is held
    for the time of a lease, which `run` prolongs."""
    mine, at = new_id(), now()
    values = {
        "b_id": request_id,
        "b_claim": mine,
        "b_lease": at + timedelta(seconds=current_settings().lease_s),
        "b_at": at,
    }
    with writing() as connection:
        row = connection.execute(_claim, values).first()
    if row is None:
        return None
    return Claimed(request_id, mine, at, *tuple(row))
