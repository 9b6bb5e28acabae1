"""Limits that count at one provider only: held when a request goes on to a provider that was not expected to answer it."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from webapp.contracts.errors import LimitReached
from webapp.contracts.limits import Dimension
from webapp.extensions import now
from webapp.models import senders
from webapp.pipeline import words
from webapp.pipeline.claims import Claimed
from webapp.quota import asking, holds
from webapp.quota.asking import PolicyFailed
from webapp.quota.holds import NoRoom


def hold_at(connection: Connection, taken: Claimed, provider: str, most: Mapping[Dimension, int]) -> None:
    """Hold for a request what it may use at one more provider, by that provider's own limits. Raises `LimitReached`, and the
    caller rolls back. An earlier execution may have held it already."""
    if holds.is_held_at(connection, taken.id, provider):
        return
    if taken.token_id is not None:
        sender = senders.by_id(connection, taken.person_id, token_id=taken.token_id)
    else:
        sender = senders.within(connection, taken.person_id, taken.organization_id)
    at = now()
    if sender is None:
        # They have left the organization: nobody knows any more what they may use there.
        raise LimitReached(words.TOO_DEAR, limit="membership", resets_at=at)
    try:
        limits = asking.limits_for(asking.question_of(sender, taken.operation, taken.channel))
        own = [limit for limit in limits if limit.provider == provider]
        amounts = {Dimension.REQUESTS: 1, **most}
        holds.take(connection, taken.id, holds.needs(own, amounts, at, sender.time_zone))
    except NoRoom as full:
        message = words.limit_reached(full.need, taken.operation)
        raise LimitReached(message, limit=full.need.limit.label, resets_at=full.need.resets_at) from None
    except PolicyFailed as exc:
        raise LimitReached(words.LIMITS_UNKNOWN, limit="policy", resets_at=at) from exc
