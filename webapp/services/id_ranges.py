"""Ranges of time as ranges of ids: UUIDv7 begin with milliseconds (RFC 9562), so the index of the ids leads to a time."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement

_LATE_MS = 3_600_000
"""What is made gets its id at most this long after the moment that is stored with it."""
_EARLY_MS = 1_000
_LAST_MS = 2**48 - 1


def id_at(milliseconds: int) -> uuid.UUID:
    """What is before every UUIDv7 of this millisecond since 1970, and behind those of earlier ones."""
    return uuid.UUID(int=min(max(0, milliseconds), _LAST_MS) << 80)


def within(ids: Any, since: datetime | None, until: datetime | None) -> Iterator[ColumnElement[bool]]:
    """Conditions on a column of ids that leave out most of what was not made between two moments, and nothing that was."""
    if since is not None:
        yield ids >= id_at(_ms(since) - _EARLY_MS)
    if until is not None:
        yield ids < id_at(_ms(until) + _LATE_MS)


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
