"""What the tests about the queue share: requests that wait, workers that are said to be at work, minutes that are on record."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import update

from webapp import queues
from webapp.extensions import now, queue_redis, writing
from webapp.models import Request
from webapp.pipeline.admit import admit
from webapp.pipeline.intake import Intake
from webapp.turns import LOADS, MINUTES, SIGNS


def ask(person_id: uuid.UUID, words: str = "How do I reverse a list?") -> uuid.UUID:
    """A request of a person that waits in their queue."""
    admission = admit(Intake(medium="web", text=words, person_id=person_id))
    assert admission.request_id is not None
    return admission.request_id


def change(request_id: uuid.UUID, **values: Any) -> None:
    """Put values into a request's row."""
    with writing() as connection:
        connection.execute(update(Request).where(Request.id == request_id).values(**values))


def sign(name: str = "w", *, slots: int = 4, in_flight: int = 4, seen_s_ago: float = 0.0, queues: Sequence[str] = ()) -> None:
    """A worker has told of itself."""
    told = {
        "host": "host-1",
        "pid": 4711,
        "version": "1.2.3",
        "queues": list(queues or ("high", "normal", "low")),
        "slots": slots,
        "in_flight": 0,
        "memory": 104_857_600,
        "started": time.time() - 3600,
        "seen": time.time() - seen_s_ago,
    }
    queue_redis().hset(SIGNS, name, json.dumps(told))
    queue_redis().hset(LOADS, name, in_flight)


def pace(ended: int, busy_s: float, minutes: int = 5, **started: int) -> None:
    """So many jobs ended in each of the last minutes, after so much work; and were started, by queue."""
    for number in range(int(time.time() // 60) - minutes, int(time.time() // 60) + 1):
        fields = {f"s:{queue}:execute": count for queue, count in started.items()}
        fields |= {f"d:{name}": 0 for name in queues.QUEUES} | {"ended": ended, "busy_ms": int(1000 * busy_s)}
        queue_redis().hset(f"{MINUTES}{number}", mapping=fields)  # type: ignore[arg-type]


def later(seconds: float) -> datetime:
    """A moment in the future."""
    return now() + timedelta(seconds=seconds)
