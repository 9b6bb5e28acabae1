"""Who works on the queues, by what Redis knows of them."""

from __future__ import annotations

from datetime import timedelta

import redis
from rq import Worker
from rq.utils import utcparse

from webapp.extensions import now

FRESH_S = 35
"""Seconds after its last sign of life in which a worker counts: two of its heartbeats, and a little for slow ones."""


def alive(client: redis.Redis) -> int:
    """How many workers gave a sign of life lately. A killed one stays registered for a while, and is not counted."""
    keys = Worker.all_keys(connection=client)
    if not keys:
        return 0
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.hget(key, "last_heartbeat")
        beats: list[bytes | None] = pipe.execute()
    since = now() - timedelta(seconds=FRESH_S)
    return sum(beat is not None and utcparse(beat.decode()) > since for beat in beats)
