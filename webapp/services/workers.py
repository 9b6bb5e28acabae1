"""Who works on the queues, by what Redis knows of them."""

from __future__ import annotations

import redis
from rq import Worker


def alive(client: redis.Redis) -> int:
    """How many workers gave a sign of life lately. A killed one stays registered, but its own entry ends by itself."""
    keys = Worker.all_keys(connection=client)
    return int(client.exists(*keys)) if keys else 0
