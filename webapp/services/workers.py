"""Who works on the queues, by what Redis knows of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import redis
from rq import Worker
from rq.utils import utcparse

from webapp.extensions import now

log = logging.getLogger(__name__)

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


@dataclass(frozen=True, slots=True)
class WorkerSign:
    """What a worker told of itself last."""

    name: str
    host: str
    process_id: int
    version: str
    queues: tuple[str, ...]
    slots: int
    in_flight: int
    memory_bytes: int
    started_at: datetime
    seen_at: datetime
    alive: bool
    """Whether that was lately: a killed one is listed for an hour, so that somebody notices."""


def read_signs(signs: Mapping[bytes, bytes], loads: Mapping[bytes, bytes], at: datetime) -> list[WorkerSign]:
    """The workers, by what Redis has under `turns.SIGNS` and `turns.LOADS`, in the order of their names. The load is fresher
    than the sign, which comes with the heartbeat. What cannot be read is passed over."""
    found = []
    for name, told in sorted(signs.items()):
        try:
            found.append(_read(name.decode(), json.loads(told), loads.get(name), at))
        except (ValueError, KeyError, TypeError, OverflowError) as exc:
            log.warning("what the worker %r tells of itself cannot be read (%s)", name, type(exc).__name__)
    return found


def _read(name: str, told: Mapping[str, object], load: bytes | None, at: datetime) -> WorkerSign:
    def number(field: str) -> float:
        return float(str(told[field]))

    seen_at = datetime.fromtimestamp(number("seen"), UTC)
    queues = told["queues"]
    return WorkerSign(
        name,
        str(told["host"]),
        int(number("pid")),
        str(told["version"]),
        tuple(str(queue) for queue in queues) if isinstance(queues, list) else (),
        int(number("slots")),
        int(load) if load is not None else int(number("in_flight")),
        int(number("memory")),
        datetime.fromtimestamp(number("started"), UTC),
        seen_at,
        seen_at > at - timedelta(seconds=FRESH_S),
    )


def serving(signs: Iterable[WorkerSign], queue: str) -> list[WorkerSign]:
    """Those of the living that take jobs from a queue."""
    return [sign for sign in signs if sign.alive and queue in sign.queues]
