"""What a token entitles to, worked out once for as long as its row and those beside it (person, organization, plans) read the
same. The rows are read for each request: what changes in them counts from the next one on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from webapp.contracts.limits import Dimension, Limit, Window
from webapp.extensions import current_settings
from webapp.models import senders
from webapp.models.connections import Unusual
from webapp.models.senders import Sender
from webapp.models.straight import Convert
from webapp.quota import asking, windows
from webapp.quota.asking import PolicyFailed
from webapp.quota.holds import Need

_KINDS = 32
"""Of one token: an allocation may be any of five hundred."""
_LONG_AGO = datetime.min.replace(tzinfo=UTC)

Held = tuple[tuple[Limit, datetime, datetime], ...]


class Terms:
    """The limits on one kind of request of one sender."""

    def __init__(self, limits: Sequence[Limit], time_zone: str) -> None:
        self.limits = tuple(limits)
        self.cap_microusd = asking.cap_microusd(limits)
        self._zone = time_zone
        self._held: dict[str, tuple[datetime, datetime, Held]] = {}

    def needs(self, provider: str, amounts: Mapping[Dimension, int], at: datetime) -> list[Need]:
        """What is held of counters when the request is admitted, in the one order in which they are locked, if its first
        provider is this one. `Unusual` for a request that is too large by itself."""
        if any(amounts.get(limit.dimension, 0) > limit.maximum for limit in asking.held_at(self.limits, provider)):
            raise Unusual("it is too large by itself")
        since, until, held = self._held.get(provider) or (_LONG_AGO, _LONG_AGO, ())
        if not since <= at < until:
            since, until, held = self._held[provider] = self._windows(provider, at)
        return [Need(limit, amounts.get(limit.dimension, 0), starts, resets, self._zone) for limit, starts, resets in held]

    def _windows(self, provider: str, at: datetime) -> tuple[datetime, datetime, Held]:
        """Between which moments, which counters."""
        counted = [limit for limit in asking.held_at(self.limits, provider) if limit.window is not Window.REQUEST]
        held = tuple(
            (limit, *windows.bounds(limit.window, at, self._zone))
            for limit in sorted(counted, key=lambda limit: (limit.subject, limit.name, limit.window))
        )
        ends = (resets for _, _, resets in held)
        return at, min(ends, default=datetime.max.replace(tzinfo=UTC)), held


class Entitled:
    """A token with its sender."""

    def __init__(self, row: Sequence[Any], reads: Sequence[Convert]) -> None:
        """`row` is one of `senders.BY_DIGEST`, as the driver gives it."""
        values = [value if read is None or value is None else read(value) for read, value in zip(reads, row, strict=True)]
        scopes, self._expires_at, revoked_at, _, *rest = values
        sender = senders.sender_of(rest)
        assert sender is not None
        self.sender: Sender = sender
        self._opens = revoked_at is None and sender.active and senders.opens(scopes, "chat")
        self._terms: dict[tuple[str, str, int | None], Terms] = {}

    def opens(self, at: datetime) -> bool:
        """Whether the token opens `/v1` at a moment."""
        return self._opens and (self._expires_at is None or at < self._expires_at)

    def terms(self, operation: str, medium: str, allocation: int | None) -> Terms:
        """The limits on such requests; asked anew each time where a policy may say something else the next time. `Unusual` if
        a policy fails."""
        if allocation is None:
            allocation = current_settings().allocation_credits
        kind = (operation, medium, allocation)
        if (known := self._terms.get(kind)) is not None:
            return known
        try:
            found = Terms(asking.limits_of(self.sender, operation, medium, allocation), self.sender.time_zone)
        except PolicyFailed as exc:
            raise Unusual("the limits are unknown") from exc
        if asking.steady():
            if len(self._terms) >= _KINDS:
                self._terms.clear()
            self._terms[kind] = found
        return found
