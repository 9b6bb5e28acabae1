"""What the next call of a request may use is held, by every limit that counts at its provider."""

from __future__ import annotations

from sqlalchemy import Connection

from webapp.contracts.errors import LimitReached
from webapp.contracts.limits import Dimension
from webapp.extensions import now
from webapp.models import senders
from webapp.pipeline import words
from webapp.pipeline.claims import Claimed
from webapp.quota import asking, extension, holds
from webapp.quota.asking import PolicyFailed
from webapp.quota.holds import NoRoom, Use


def hold(connection: Connection, taken: Claimed, provider: str, *, used: Use, used_there: Use, following: Use) -> None:
    """Hold it. Raises `LimitReached`, and the caller rolls back. The arguments are those of `webapp.quota.extension.extend`."""
    sender = senders.within(connection, taken.person_id, taken.organization_id, taken.token_id)
    at = now()
    if sender is None:
        # They have left the organization: nobody knows any more what they may use there.
        raise LimitReached(words.TOO_DEAR, limit="membership", resets_at=at)
    try:
        limits = asking.limits_for(asking.question_of(sender, taken.operation, taken.channel))
        own = [limit for limit in limits if limit.provider == provider]
        further = holds.needs(own, {Dimension.REQUESTS: 1, **following}, at, sender.time_zone)
        extension.extend(
            connection,
            taken.id,
            used=used,
            used_there=used_there,
            following=following,
            provider=provider,
            further=further,
        )
    except NoRoom as full:
        raise LimitReached(words.TOO_DEAR, limit=full.need.limit.label, resets_at=full.need.resets_at) from None
    except PolicyFailed as exc:
        raise LimitReached(words.LIMITS_UNKNOWN, limit="policy", resets_at=at) from exc
