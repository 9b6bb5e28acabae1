"""How much of their limits callers have left, in the headers that OpenAI's clients know: `x-ratelimit-limit-requests` and the
like, with times such as `6m0s`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime

from webapp.contracts.limits import Dimension
from webapp.quota.holds import Standing

_NAMES = {Dimension.REQUESTS: "requests", Dimension.TOKENS: "tokens"}


def of_limits(standings: Iterable[Standing], at: datetime) -> Mapping[str, str]:
    """The headers for the tightest limit on requests, and for the tightest on tokens."""
    found: dict[str, str] = {}
    tightest: dict[str, tuple[int, Standing]] = {}
    for standing in standings:
        name = _NAMES.get(standing.dimension)
        if name is not None:
            remaining = standing.remaining
            if name not in tightest or remaining < tightest[name][0]:
                tightest[name] = remaining, standing
    for name, (remaining, standing) in tightest.items():
        found |= _of(name, standing.maximum, remaining, (standing.resets_at - at).total_seconds())
    return found


def of_calls(limit: int, used: int, left_s: float) -> Mapping[str, str]:
    """The headers for a limit on calls, of which `used` were made and which starts again in `left_s` seconds."""
    return _of("requests", limit, max(0, limit - used), left_s)


def _of(name: str, limit: int, remaining: int, left_s: float) -> Mapping[str, str]:
    return {
        f"x-ratelimit-limit-{name}": str(limit),
        f"x-ratelimit-remaining-{name}": str(remaining),
        f"x-ratelimit-reset-{name}": duration(left_s),
    }


def duration(seconds: float) -> str:
    """A time as OpenAI writes it: `120ms`, `1s`, `6m0s`, `23h59m1s`; rounded up."""
    if 0 < seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    whole = math.ceil(seconds) if seconds > 0 else 0
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
