"""Looks at the whole installation and says what to mend. Returns values; the command line prints them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from webapp import queues
from webapp.contracts.calls import Health, TextProvider
from webapp.contracts.channels import Channel
from webapp.contracts.errors import ProviderError, SetupError
from webapp.extensions import current_settings, queue_redis, reading
from webapp.models import Organization, Plan
from webapp.registry import current_registry
from webapp.routing import costs, http, route
from webapp.services import setup, workers
from webapp.services.findings import Finding, Level, blotted
from webapp.services.settings_check import check_settings, redis_place, sqlite_file, unknown_names
from webapp.settings import Settings

__all__ = ["Finding", "Level", "check_installation", "check_settings"]

log = logging.getLogger(__name__)

LOOK_S = 5.0
"""Seconds that one vendor gets to answer."""
_LOOKS_AT_ONCE = 8
_CRON_LAST = "switchhook:cron:last"
_FIRST_START = "`make run` (or `switchhook up`) makes it."


def check_installation() -> list[Finding]:
    """Everything else, the vendors by a call that costs nothing. Needs an application context; takes some seconds."""
    registry, settings = current_registry(), current_settings()
    things: list[TextProvider | Channel] = [*registry.providers.values(), *registry.channels.values()]
    variables = [variable for thing in things for variable in thing.environment]
    found = [*unknown_names(settings, variables), *_database(), *_queue(), *_plugins()]
    vendors = _vendors()
    found += [*_chat(vendors), *vendors]
    return blotted(found, settings, variables)


def _database() -> Iterator[Finding]:
    file = sqlite_file(current_settings())
    if file is not None and not file.exists() and file.parent == current_settings().data_dir.resolve():
        # Opening it would make it.
        yield Finding("database", "schema", Level.WARNING, "there is no database yet", _FIRST_START)
        return
    try:
        with reading() as connection:
            name = "SQLite" if connection.dialect.name == "sqlite" else "PostgreSQL"
            version = ".".join(map(str, connection.dialect.server_version_info or ()))
            connection.execute(text("SELECT 1"))
        yield Finding("database", "database", Level.OK, f"{name} {version} answers".replace("  ", " "))
        at, _ = setup.heads()
        if not at:
            cure = f"{_FIRST_START} Or run `switchhook db upgrade`."
            yield Finding("database", "schema", Level.WARNING, "the database is empty", cure)
            return
        setup.check_schema()
        yield Finding("database", "schema", Level.OK, f"at this release's ({', '.join(sorted(at))})")
        yield from _house()
    except SetupError as exc:
        what, _, cure = exc.message.partition(": ")
        yield Finding("database", "schema", Level.FAULT, what, cure[:1].upper() + cure[1:])
    except SQLAlchemyError as exc:
        reason = setup.database_says(exc) if isinstance(exc, DBAPIError) else type(exc).__name__
        what = "does not answer" if file is None else "cannot be opened"
        cure = setup.database_cure()
        yield Finding("database", "database", Level.FAULT, f"{what} ({reason})", cure[:1].upper() + cure[1:])


def _house() -> Iterator[Finding]:
    settings = current_settings()
    with reading() as connection:
        codes = connection.execute(select(Plan.code).order_by(Plan.rank)).scalars().all()
        zone = connection.execute(select(Organization.time_zone).order_by(Organization.id).limit(1)).scalar()
    if settings.default_plan not in codes:
        cure = f"Set SWITCHHOOK_DEFAULT_PLAN to one of: {', '.join(codes)}."
        yield Finding("database", "default plan", Level.FAULT, f"there is no plan {settings.default_plan!r}", cure)
    if zone and settings.time_zone not in ("UTC", zone):
        yield Finding(
            "database",
            "time zone",
            Level.WARNING,
            f"the organization's is {zone}, SWITCHHOOK_TIME_ZONE says {settings.time_zone}: the setting is read only once",
            f"Unset SWITCHHOOK_TIME_ZONE, or set it to {zone}.",
        )


def _queue() -> Iterator[Finding]:
    client, settings = queue_redis(), current_settings()
    try:
        server: dict[str, Any] = client.info()
    except redis.RedisError as exc:
        if not settings.redis_url:
            yield Finding(
                "queue", "redis", Level.WARNING, "Switchhook is not running", "Start it: `make run`, or `switchhook up`."
            )
        else:
            yield Finding(
                "queue",
                "redis",
                Level.FAULT,
                f"does not answer at {redis_place(settings)} ({type(exc).__name__})",
                "Start it, or correct REDIS_URL.",
            )
        return
    if valkey := server.get("valkey_version"):
        version = f"Valkey {valkey}"
    else:
        version = f"Redis {server.get('redis_version', 'of an unknown version')}"
    yield Finding("queue", "redis", Level.OK, f"{version} answers ({redis_place(settings)})")
    yield from _persistence(client, server)
    yield from _workers(client, settings)


def _persistence(client: redis.Redis, server: dict[str, Any]) -> Iterator[Finding]:
    snapshots: str | None = None
    try:
        snapshots = client.config_get("save").get("save", "")
    except redis.RedisError:
        log.debug("this Redis does not say how it keeps its data")
    if server.get("aof_enabled"):
        yield Finding("queue", "persistence", Level.OK, "append-only file")
    elif snapshots:
        yield Finding("queue", "persistence", Level.OK, "snapshots; what came since the last one is found in the database")
    elif snapshots is None:
        yield Finding("queue", "persistence", Level.OK, "this Redis does not say; what it loses is found in the database")
    else:
        yield Finding(
            "queue",
            "persistence",
            Level.WARNING,
            "off: when Redis restarts, work is late until the sweep finds it, and throttles start again",
            "Set `appendonly yes` in its configuration.",
        )
    policy = str(server.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction" and server.get("maxmemory"):
        cure = "Set `maxmemory-policy noeviction` in its configuration."
        yield Finding("queue", "memory", Level.WARNING, f"Redis may throw jobs away when it is full ({policy})", cure)


def _workers(client: redis.Redis, settings: Settings) -> Iterator[Finding]:
    try:
        count = workers.alive(client)
        waiting = sum(queues.queue(name, client).count for name in queues.QUEUES)
        swept = client.hget(_CRON_LAST, "sweep")
    except redis.RedisError as exc:
        yield Finding("queue", "workers", Level.FAULT, f"Redis went away ({type(exc).__name__})", "Try again.")
        return
    if count:
        yield Finding("queue", "workers", Level.OK, f"{count} at work, {waiting} job(s) waiting")
    else:
        cure = "Start one: `switchhook worker` (`switchhook up` runs one)."
        yield Finding("queue", "workers", Level.FAULT, f"none, {waiting} job(s) waiting: nothing is answered", cure)
    age_s = time.time() - float(swept.split()[0]) if swept else None
    if age_s is not None and age_s < 4 * settings.sweep_s + 10:
        yield Finding("queue", "scheduler", Level.OK, f"looked for lost work {max(age_s, 0):.0f} s ago")
    else:
        cure = "Start one: `switchhook cron` (`switchhook up` runs it)."
        yield Finding("queue", "scheduler", Level.WARNING, "no sign of it: what a crash loses stays lost", cure)


def _plugins() -> Iterator[Finding]:
    records = current_registry().records
    for record in records:
        if record.error:
            cure = "Mend, update or remove it; the others work without it."
            yield Finding("plugins", record.name, Level.FAULT, f"left out: {' '.join(record.error.split())}", cure)
    loaded = sum(not record.error for record in records)
    yield Finding("plugins", "plugins", Level.OK, f"{loaded} loaded")


def _chat(vendors: Iterable[Finding]) -> Iterator[Finding]:
    """What serves chat, with what was seen of it among the `vendors`."""
    try:
        target = route.choose()
    except ProviderError as exc:
        cure = "Correct SWITCHHOOK_CHAT_MODEL, or set a provider up; see the providers below."
        yield Finding("providers", "chat", Level.FAULT, exc.detail or exc.message, cure)
        return
    served = f"served by {target.provider.name}/{target.model}: {target.why}"
    if target.provider.demo:
        yield Finding(
            "providers",
            "chat",
            Level.WARNING,
            f"{served}; its answers come from no model",
            _way_to_a_model(),
        )
        return
    ill = [f for f in vendors if (f.area, f.name, f.level) == ("providers", target.provider.name, Level.FAULT)]
    if ill:
        yield Finding("providers", "chat", Level.FAULT, f"{served}, which fails", f"See {ill[0].name} below. {ill[0].cure}")
        return
    yield Finding("providers", "chat", Level.OK, served)
    if not costs.most(target, 1000, 1000).known:
        yield Finding(
            "providers",
            "price",
            Level.WARNING,
            f"the price of {target.model} is not known: the ceiling counts",
            "Set SWITCHHOOK_CEILING_INPUT_USD and SWITCHHOOK_CEILING_OUTPUT_USD to what the vendor charges.",
        )


def _way_to_a_model() -> str:
    """How to get real answers: mend what somebody began to set up, else set the key of the vendor that is taken first."""
    given = current_settings().for_plugins()
    providers = sorted((p for p in current_registry().providers.values() if not p.demo), key=lambda p: p.preference)
    for provider in providers:
        if (missing := provider.missing()) and _begun(provider, given):
            return f"For real answers correct this in .env and start again: {missing}."
    keys = (v.name for p in providers for v in p.environment if v.secret and v.name in p.missing())
    key = next(keys, "a vendor's key")
    return f"For real answers set {key} in .env and start again, or run Ollama on this machine."


def _begun(thing: TextProvider | Channel, given: Iterable[str]) -> bool:
    """Whether somebody has set anything of it."""
    return any(variable.name in given for variable in thing.environment)


def _vendors() -> list[Finding]:
    """Every provider and channel; those that are set up are asked, several at once."""
    registry = current_registry()
    things: list[tuple[str, TextProvider | Channel]] = [
        *(("providers", provider) for provider in sorted(registry.providers.values(), key=lambda p: p.preference)),
        *(("channels", channel) for channel in registry.channels.values()),
    ]
    given = current_settings().for_plugins()
    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
        looks = [pool.submit(_vendor, area, thing, given.keys()) for area, thing in things]
        return [look.result() for look in looks]


def _vendor(area: str, thing: TextProvider | Channel, given: Iterable[str]) -> Finding:
    try:
        if missing := thing.missing():
            if _begun(thing, given):
                verb = "Set" if missing.endswith("not set") else "Correct"
                return Finding(area, thing.name, Level.WARNING, missing, f"{verb} it in .env and start again.")
            return Finding(area, thing.name, Level.OFF, f"not set up ({missing})")
        with http.call_limits(timeout_s=LOOK_S, silence_s=LOOK_S):
            seen = thing.check(http.client())
        if not isinstance(seen, Health):
            raise TypeError(f"check() gave a {type(seen).__name__}")
    except Exception as exc:
        cure = "Update or remove the plugin."
        return Finding(area, thing.name, Level.FAULT, f"its plugin failed ({type(exc).__name__}: {exc})", cure)
    if seen.ok:
        return Finding(area, thing.name, Level.OK, seen.detail)
    if getattr(thing, "probe_needed", False) and not _begun(thing, given):
        # It was only looked for; nobody has asked for it.
        return Finding(area, thing.name, Level.OFF, f"not there ({seen.detail.rstrip('.')})")
    return Finding(area, thing.name, Level.FAULT, seen.detail, seen.cure or "Look into the vendor's console.")
