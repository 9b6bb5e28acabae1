"""Usage: what somebody has used of every limit that may refuse them. One function for the page, the API and the command line;
`webapp.pipeline.usage_words` tells the same by text message."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from webapp.contracts.errors import NotFound
from webapp.contracts.limits import Window
from webapp.extensions import now, reading, table_of
from webapp.models import ApiToken, LedgerEntry, senders
from webapp.models.senders import Sender
from webapp.quota import usage as counted
from webapp.quota.usage import OPERATIONS, Line, Usage, Whose
from webapp.quota.windows import bounds

__all__ = ["OPERATIONS", "Line", "ModelCost", "Usage", "Whose", "month_of", "near_limits", "token_owner", "usage_of"]

MODELS_MAX = 8
"""How many models a chart shows."""
_ledger = table_of(LedgerEntry)


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What one model was used for in a month. `share` is its part of the dearest model's cost, 0 to 100."""

    provider: str
    model: str
    requests: int
    tokens: int
    cost_microusd: int
    share: int


@dataclass(frozen=True, slots=True)
class Month:
    """What was used since the month began. `others` is how many models beyond the listed ones there were."""

    starts_at: datetime
    models: tuple[ModelCost, ...]
    requests: int
    cost_microusd: int
    others: int = 0


def usage_of(
    person_id: uuid.UUID,
    *,
    organization_id: uuid.UUID | None = None,
    token_id: uuid.UUID | None = None,
    channel: str = "web",
) -> Usage:
    """What a person has used of their limits where they work, or in the named organization, or by a token of theirs. `NotFound`
    for somebody who is not there."""
    with reading() as connection:
        return counted.usage(connection, _sender(connection, person_id, organization_id, token_id), channel, now())


def near_limits(person_id: uuid.UUID, organization_id: uuid.UUID, time_zone: str) -> tuple[Line, ...]:
    """The limits of which people are to be told on a page, the fullest first. One statement while there is none."""
    at = now()
    with reading() as connection:
        if not counted.may_be_near(connection, (person_id, organization_id), time_zone, at):
            return ()
        sender = senders.within(connection, person_id, organization_id)
        return () if sender is None else counted.usage(connection, sender, "web", at).urgent


def _sender(
    connection: Connection, person_id: uuid.UUID, organization_id: uuid.UUID | None, token_id: uuid.UUID | None
) -> Sender:
    if organization_id is not None and token_id is None:
        sender = senders.within(connection, person_id, organization_id)
    else:
        sender = senders.by_id(connection, person_id, token_id=token_id)
    if sender is None or (organization_id is not None and sender.organization_id != organization_id):
        raise NotFound("There is no such person there.")
    return sender


def token_owner(token_id: uuid.UUID) -> uuid.UUID:
    """Whose token it is. `NotFound`."""
    with reading() as connection:
        owner = connection.execute(select(ApiToken.person_id).where(ApiToken.id == token_id)).scalar()
    if owner is None:
        raise NotFound("There is no such token: `switchhook token list` shows those there are.")
    return owner


def month_of(person_id: uuid.UUID, organization_id: uuid.UUID, time_zone: str) -> Month:
    """What a person has used in this month in an organization, by model, the dearest first: one statement."""
    starts_at = bounds(Window.MONTH, now(), time_zone)[0]
    query = (
        select(
            _ledger.c.provider,
            _ledger.c.model,
            func.sum(_ledger.c.requests).label("requests"),
            func.sum(_ledger.c.input_tokens + _ledger.c.output_tokens).label("tokens"),
            func.sum(_ledger.c.cost_microusd).label("cost"),
        )
        .where(
            _ledger.c.person_id == person_id,
            _ledger.c.created_at >= starts_at,
            _ledger.c.organization_id == organization_id,
            _ledger.c.payer == "person",
        )
        .group_by(_ledger.c.provider, _ledger.c.model)
    )
    with reading() as connection:
        return by_cost(starts_at, list(connection.execute(query)))


def by_cost(starts_at: datetime, rows: list[Any]) -> Month:
    """A month from rows of provider, model, requests, tokens and cost."""
    rows.sort(key=lambda row: (-int(row.cost), -int(row.requests), row.provider, row.model))
    dearest = max((int(row.cost) for row in rows), default=0)
    models = tuple(
        ModelCost(
            row.provider,
            row.model,
            int(row.requests),
            int(row.tokens),
            int(row.cost),
            int(row.cost) * 100 // dearest if dearest else 0,
        )
        for row in rows[:MODELS_MAX]
    )
    return Month(
        starts_at,
        models,
        sum(int(row.requests) for row in rows),
        sum(int(row.cost) for row in rows),
        max(0, len(rows) - MODELS_MAX),
    )
