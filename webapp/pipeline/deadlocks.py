"""Transactions that PostgreSQL ends for another's sake, done again: of two that wait for each other it ends one."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import OperationalError

T = TypeVar("T")

_TRIES = 5
_WAIT_S = 0.05
"""At most, before the second try; what waited for this one gets the time to end."""


def ended_for_another(exc: BaseException) -> bool:
    """Whether a transaction was ended by a deadlock or a serialization failure, so that it may succeed when done again."""
    return isinstance(exc, OperationalError) and getattr(exc.orig, "sqlstate", None) in ("40P01", "40001")


def retried(work: Callable[[], T]) -> T:
    """Do `work`, which is one transaction and nothing else that counts twice; again if it was ended for another's sake."""
    for tries in range(1, _TRIES):
        try:
            return work()
        except OperationalError as exc:
            if not ended_for_another(exc):
                raise
            time.sleep(random.uniform(0, _WAIT_S * tries))
    return work()
