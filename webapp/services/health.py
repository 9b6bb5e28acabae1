"""How the installation is: its database, its queue, its workers, and the vendors it depends on."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from typing import Any

import redis
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from webapp import queues
from webapp.contracts.calls import Health
from webapp.contracts.errors import ProviderError, SetupError
from webapp.extensions import queue_redis, reading
from webapp.registry import current_registry
from webapp.routing import http, route
from webapp.services import setup, workers

log = logging.getLogger(__name__)

_VENDORS = "switchhook:health:vendors"
_FRESH_S = 600
_CHECK_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. `needed` things make the product not ready, others only degraded."""

    name: str
    ok: bool
    detail: str
    cure: str = ""
    needed: bool = False


def checks() -> list[Check]:
    """Everything, by what is known without asking a vendor now."""
    return [database(), queue(), *vendors()]


def database() -> Check:
    """Whether the database answers and is at this release's schema."""
    try:
        with reading() as connection:
            connection.execute(text("SELECT 1"))
        setup.check_schema()
    except SetupError as exc:
        return Check("database", False, exc.message, "Run `switchhook db upgrade`.", needed=True)
    except SQLAlchemyError as exc:
        return Check("database", False, f"does not answer ({type(exc).__name__})", "Start it, or correct DATABASE_URL.", True)
    return Check("database", True, "answers", needed=True)


def queue() -> Check:
    """Whether Redis answers, how much waits in it, and who works. What arrives meanwhile is kept in the database."""
    client = queue_redis()
    try:
        waiting = {name: queues.queue(name, client).count for name in queues.QUEUES}
        at_work = workers.alive(client)
    except redis.RedisError as exc:
        return Check("queue", False, f"Redis does not answer ({type(exc).__name__})", "Start it, or correct REDIS_URL.")
    detail = ", ".join(f"{name} {count}" for name, count in waiting.items()) + f" waiting; {at_work} worker(s)"
    if not at_work:
        return Check("queue", False, detail, "Start a worker: `switchhook worker` (`switchhook up` runs one).")
    return Check("queue", True, detail)


def vendors() -> list[Check]:
    """What the last look at each vendor in use showed; it is taken by the clock, never here."""
    try:
        kept: dict[bytes, bytes] = queue_redis().hgetall(_VENDORS)  # type: ignore[assignment]
    except redis.RedisError:
        return []
    found = []
    for name, value in sorted(kept.items()):
        seen: dict[str, Any] = json.loads(value)
        age_s = time.time() - seen["at"]
        if age_s < _FRESH_S:
            found.append(Check(name.decode(), seen["ok"], f"{seen['detail']} ({age_s:.0f} s ago)", seen["cure"]))
    return found


def check_vendors() -> list[Check]:
    """Look at the provider in use and at every channel that is set up, and keep what was seen for `/health`."""
    registry = current_registry()
    looked: dict[str, Health] = {}
    try:
        target = route.choose(registry)
        looked[f"provider {target.provider.name}"] = _look(target.provider)
    except ProviderError as exc:
        looked["provider"] = Health(False, exc.detail or exc.message, "Run `switchhook doctor`.")
    for channel in registry.channels.values():
        if not channel.missing():
            looked[f"channel {channel.name}"] = _look(channel)
    at = time.time()
    try:
        with queue_redis().pipeline() as pipe:
            pipe.delete(_VENDORS)
            for name, seen in looked.items():
                pipe.hset(_VENDORS, name, json.dumps(asdict(seen) | {"at": at}))
            pipe.execute()
    except redis.RedisError:
        log.warning("what was seen of the vendors could not be kept: Redis is away")
    return [Check(name, seen.ok, seen.detail, seen.cure) for name, seen in looked.items()]


def _look(vendor: Any) -> Health:
    try:
        with http.call_limits(timeout_s=_CHECK_TIMEOUT_S, silence_s=_CHECK_TIMEOUT_S):
            seen = vendor.check(http.client())
    except Exception as exc:
        log.exception("the plugin of %s failed in its check", vendor.name)
        return Health(False, f"its plugin failed: {type(exc).__name__}", "Update or remove the plugin.")
    return seen if isinstance(seen, Health) else Health(False, "its plugin gave no answer", "Update or remove the plugin.")
