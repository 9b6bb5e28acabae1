"""Looks at the whole installation and says what to mend. Returns values; the command line prints them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from webapp import queues
from webapp.contracts.channels import Channel
from webapp.contracts.errors import ProviderError, SetupError
from webapp.contracts.providers import Health, ImageProvider, Provider
from webapp.extensions import current_settings, queue_redis, reading
from webapp.models import Organization, Plan
from webapp.registry import current_registry
from webapp.routing import costs, http, route
from webapp.routing import vendors as house
from webapp.services import provider_views, schedule, setup, workers
from webapp.services.findings import Finding, Level, blotted
from webapp.services.settings_check import check_settings, redis_place, sqlite_file, unknown_names

__all__ = ["Finding", "Level", "check_installation", "check_settings"]

log = logging.getLogger(__name__)

LOOK_S = 5.0
"""Seconds that one vendor gets to answer."""
_LOOKS_AT_ONCE = 8
_FIRST_START = "`make run` (or `switchhook up`) makes it."


def check_installation() -> list[Finding]:
    """Everything else, the vendors by a call that costs nothing. Needs an application context; takes some seconds."""
    registry, settings = current_registry(), current_settings()
    database = list(_database())
    if all(finding.level is Level.OK for finding in database if finding.name in ("database", "schema")):
        house.current()  # what administrators have set makes the providers anew
    else:
        house.go_without()
    things: list[Provider | Channel] = [*_providers(), *registry.channels.values()]
    variables = [variable for thing in things for variable in thing.environment]
    found = [*unknown_names(settings, variables), *database, *_queue(), *_plugins()]
    here = _set_in_pages()
    vendors = _vendors(here)
    found += [*_chat(vendors, here), *_routing(), *vendors]
    return blotted(found, settings, variables, (secret for name in here for secret in provider_views.secrets_of(name)))


def _set_in_pages() -> dict[str, frozenset[str]]:
    """Which variables of which providers are set in the pages or by `switchhook provider set`; nothing without a database."""
    found = {}
    for name in house.known().vendors:
        if current_registry().any_provider(name):
            variables = provider_views.show(name).variables
            found[name] = frozenset(v.variable.name for v in variables if v.source == "set here")
    return found


def _providers() -> list[Provider]:
    """All providers, of text and of images, in the order in which they would be taken."""
    registry = current_registry()
    given: list[Provider] = [*registry.providers.values(), *registry.image_providers.values()]
    return sorted(given, key=lambda provider: (provider.preference, provider.name))


def _routing() -> Iterator[Finding]:
    """What of the settings of providers and rules cannot work."""
    for vendor in house.known().vendors.values():
        if vendor.trouble:
            cure = f"Correct it: `switchhook provider show {vendor.name}`."
            yield Finding("providers", vendor.name, Level.WARNING, f"what is set for it cannot be read: {vendor.trouble}", cure)
    for rule in house.known().rules:
        if why := _why_unserved(rule):
            cure = "Mend what it names, or correct or remove the rule: `switchhook route list`."
            yield Finding("providers", f"rule “{rule.name}”", Level.FAULT, why, cure)


def _why_unserved(rule: house.Rule) -> str:
    """Why no model of a rule can serve, '' if one can. A local server that is named is a target whether it runs or not."""
    path = route.plan(route.asked_by(rule))
    reasons = {}
    for passed in path.passed:
        provider = _named(passed.target, rule)
        silent = provider is not None and _silent(provider)
        reasons[passed.target] = f"it does not answer at {provider.base_url}" if silent and provider else passed.reason
    for target in path.targets:
        if not _silent(target.provider):
            return ""
        reasons[target.name] = f"it does not answer at {target.provider.base_url}"
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "it names no model"


def _named(target: str, rule: house.Rule) -> Provider | None:
    """The provider of a rule's target, None if there is none."""
    registry, name = current_registry(), target.partition("/")[0]
    return registry.image_providers.get(name) if rule.operation == route.IMAGES else registry.providers.get(name)


def _silent(provider: Provider) -> bool:
    """Whether it is a local server that is set up and switched on, but does not run."""
    on = house.known().vendor(provider.name).enabled
    return on and getattr(provider, "probe_needed", False) and not route.missing(provider) and not route.answers(provider)


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
        proof = "`switchhook ledger verify` proves that ledger, limits and requests agree."
        yield Finding("database", "books", Level.OFF, "not compared here", proof)
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
    yield from _workers(client)
    yield from _scheduler()


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


def _workers(client: redis.Redis) -> Iterator[Finding]:
    try:
        count = workers.alive(client)
        waiting = sum(queues.queue(name, client).count for name in queues.QUEUES)
    except redis.RedisError as exc:
        yield Finding("queue", "workers", Level.FAULT, f"Redis went away ({type(exc).__name__})", "Try again.")
        return
    if count:
        yield Finding("queue", "workers", Level.OK, f"{count} at work, {waiting} job(s) waiting")
    else:
        cure = "Start one: `switchhook worker` (`switchhook up` runs one)."
        yield Finding("queue", "workers", Level.FAULT, f"none, {waiting} job(s) waiting: nothing is answered", cure)


def _scheduler() -> Iterator[Finding]:
    """Who runs what runs by the clock, and which tasks of it go wrong again and again."""
    found = schedule.view()
    if found.fault:
        cure = "Start one: `switchhook cron` (`switchhook up` runs it)."
        yield Finding("queue", "scheduler", Level.WARNING, f"{found.fault}: what a crash loses stays lost", cure)
    else:
        detail = f"{found.leader_host}, process {found.leader_pid}, runs what runs by the clock"
        yield Finding("queue", "scheduler", Level.OK, detail)
    for row in found.failing:
        well = f"it last went well at {row.well_at:%Y-%m-%d %H:%M} UTC" if row.well_at else "it never went well"
        detail = f"failed {row.failures} times in a row ({row.error}); {well}"
        cure = f"See why: `switchhook schedule run {row.name.replace(' ', '-')}`."
        yield Finding("queue", row.name, Level.WARNING, detail, cure)


def _plugins() -> Iterator[Finding]:
    records = current_registry().records
    for record in records:
        if record.error:
            cure = "Mend, update or remove it; the others work without it."
            yield Finding("plugins", record.name, Level.FAULT, f"left out: {' '.join(record.error.split())}", cure)
    loaded = sum(not record.error for record in records)
    yield Finding("plugins", "plugins", Level.OK, f"{loaded} loaded")


def _chat(vendors: Iterable[Finding], here: Mapping[str, frozenset[str]]) -> Iterator[Finding]:
    """What serves chat, with what was seen of it among the `vendors`."""
    try:
        target = route.choose()
    except ProviderError as exc:
        cure = "Correct the rules or SWITCHHOOK_CHAT_MODEL, or set a provider up; see the providers below."
        what = (exc.detail or exc.message).rstrip(" .")
        yield Finding("providers", "chat", Level.FAULT, what, cure)
        return
    served = f"served by {target.provider.name}/{target.model}: {target.why}"
    if target.provider.demo:
        yield Finding(
            "providers",
            "chat",
            Level.WARNING,
            f"{served}; its answers come from no model",
            _way_to_a_model(here),
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


def _way_to_a_model(here: Mapping[str, frozenset[str]]) -> str:
    """How to get real answers: mend what somebody began to set up, else set the key of the vendor that is taken first."""
    providers = [p for p in _providers() if not p.demo and not isinstance(p, ImageProvider)]
    providers = [p for p in providers if house.known().vendor(p.name).enabled]
    for provider in providers:
        if (missing := route.missing(provider)) and _begun(provider, here):
            return f"For real answers correct this on the Providers page, by `switchhook provider set` or in .env: {missing}."
    needs = ((p, v) for p in providers for v in p.environment if v.secret and v.name in route.missing(p))
    provider_key = next(needs, None)
    if provider_key is None:
        return "For real answers set a vendor up on the Providers page, or run Ollama on this machine."
    name, key = provider_key[0].name, provider_key[1].name
    return (
        f"For real answers set {key} on the Providers page, by `switchhook provider set {name} --secret {key}` or in .env, "
        "or run Ollama on this machine."
    )


def _begun(thing: Provider | Channel, here: Mapping[str, frozenset[str]]) -> bool:
    """Whether somebody has set anything of it, wherever."""
    given = current_settings().for_plugins()
    names = {variable.name for variable in thing.environment}
    return not names.isdisjoint(given) or (isinstance(thing, Provider) and bool(here.get(thing.name)))


def _vendors(here: Mapping[str, frozenset[str]]) -> list[Finding]:
    """Every provider and channel; those that are set up and switched on are asked, several at once."""
    registry = current_registry()
    things: list[tuple[str, Provider | Channel]] = [
        *(("providers", provider) for provider in _providers()),
        *(("channels", channel) for channel in registry.channels.values()),
    ]
    off = {vendor.name for vendor in house.known().vendors.values() if not vendor.enabled}
    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
        looks = [
            pool.submit(_vendor, area, thing, _begun(thing, here), area == "providers" and thing.name in off)
            for area, thing in things
        ]
        return [look.result() for look in looks]


def _vendor(area: str, thing: Provider | Channel, begun: bool, off: bool) -> Finding:
    name = f"{thing.name} (pictures)" if isinstance(thing, ImageProvider) else thing.name
    if off:
        return Finding(area, name, Level.OFF, "switched off")
    try:
        if missing := thing.missing():
            if begun:
                verb = "Set" if missing.endswith("not set") else "Correct"
                return Finding(area, name, Level.WARNING, missing, f"{verb} it {_where(thing)}.")
            return Finding(area, name, Level.OFF, f"not set up ({missing})")
        with http.call_limits(timeout_s=LOOK_S, silence_s=LOOK_S):
            seen = thing.check(http.client())
        if not isinstance(seen, Health):
            raise TypeError(f"check() gave a {type(seen).__name__}")
    except Exception as exc:
        cure = "Update or remove the plugin."
        return Finding(area, name, Level.FAULT, f"its plugin failed ({type(exc).__name__}: {exc})", cure)
    if seen.ok:
        return Finding(area, name, Level.OK, seen.detail)
    if getattr(thing, "probe_needed", False) and not begun:
        # It was only looked for; nobody has asked for it.
        return Finding(area, name, Level.OFF, f"not there ({seen.detail.rstrip('.')})")
    cure = seen.cure or "Look into the vendor's console."
    if isinstance(thing, Provider) and any(variable.name in cure for variable in thing.environment):
        cure = f"{cure.rstrip('.')}. Settings are changed {_where(thing)}."
    return Finding(area, name, Level.FAULT, seen.detail, cure)


def _where(thing: Provider | Channel) -> str:
    """Where something of it is set. What is set in the pages counts at once, and before .env."""
    if isinstance(thing, Provider):
        return f"on the Providers page or by `switchhook provider set {thing.name}`, or in .env and start again"
    return "in .env and start again"
