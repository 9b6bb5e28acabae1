"""How the installation is: its database, its queue, its workers, and the vendors it depends on."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import redis
from flask import current_app
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from webapp import queues
from webapp.contracts.channels import Channel
from webapp.contracts.errors import ProviderError, SetupError
from webapp.contracts.providers import Health, ImageProvider, Provider, VariableKind
from webapp.contracts.texts import frames
from webapp.contracts.wire import vendor_words
from webapp.extensions import current_settings, queue_redis, reading
from webapp.registry import current_registry
from webapp.routing import http, route, vendor_keys, vendors
from webapp.routing.route import Ask
from webapp.services import schedule, setup, workers

log = logging.getLogger(__name__)

_VENDORS = "switchhook:health:vendors"
_FRESH_S = 600
_CHECK_TIMEOUT_S = 5.0
_ROUND_S = 20.0
"""Seconds after which a round of looks ends: who has not answered by then gave no answer."""
_LOOKS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. `needed` things make the product not ready, others only degraded."""

    name: str
    ok: bool
    detail: str
    cure: str = ""
    needed: bool = False
    vendor: bool = False
    """Whether `detail` and `cure` are a vendor's or its plugin's words: nothing for people who are not signed in."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the last look at a vendor showed. `used`: whether requests go to it now, so that its trouble is everybody's."""

    ok: bool
    detail: str
    cure: str
    balance: str
    used: bool
    at: datetime


def checks() -> list[Check]:
    """Everything, by what is known without asking a vendor now."""
    return [database(), queue(), scheduler(), *in_use()]


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


def scheduler() -> Check:
    """Whether somebody runs what runs by the clock, and whether its tasks go well."""
    found = schedule.view()
    if found.fault:
        return Check("scheduler", False, found.fault, "Start one: `switchhook cron` (`switchhook up` runs it).")
    if failing := found.failing:
        detail = ", ".join(f"{row.name} failed {row.failures} times in a row" for row in failing)
        return Check("scheduler", False, detail, "See why: `switchhook schedule`, and the log of the process that runs it.")
    return Check("scheduler", True, "runs")


def in_use() -> list[Check]:
    """What the last look at each vendor that serves now showed; it is taken by the clock, never here."""
    found = []
    for name, look in sorted(seen().items()):
        if look.used:
            age_s = (datetime.now(UTC) - look.at).total_seconds()
            found.append(Check(name, look.ok, f"{look.detail} ({max(age_s, 0):.0f} s ago)", look.cure, vendor=True))
    return found


def seen() -> dict[str, Seen]:
    """The last look at each vendor, by `name_of` for providers; those older than ten minutes are left out."""
    try:
        kept: dict[bytes, bytes] = queue_redis().hgetall(_VENDORS)  # type: ignore[assignment]
    except redis.RedisError:
        return {}
    found = {}
    for name, value in kept.items():
        look: dict[str, Any] = json.loads(value)
        if time.time() - look["at"] < _FRESH_S:
            at = datetime.fromtimestamp(look["at"], UTC)
            found[name.decode()] = Seen(
                look["ok"], look["detail"], look["cure"], look.get("balance", ""), look.get("used", True), at
            )
    return found


def name_of(provider: Provider) -> str:
    """How a look at a provider is called: its two kinds are looked at apart."""
    return f"{'image provider' if isinstance(provider, ImageProvider) else 'provider'} {provider.name}"


def forget(provider: str) -> None:
    """What was seen of a provider tells nothing any more: its settings have changed."""
    try:
        queue_redis().hdel(_VENDORS, f"provider {provider}", f"image provider {provider}")
    except redis.RedisError:
        log.debug("what was seen of %s cannot be forgotten: Redis is away", provider)


def look(vendor: Provider | Channel, timeout_s: float = _CHECK_TIMEOUT_S) -> Health:
    """Look at a vendor now, by a call that costs nothing. A plugin that fails is a vendor that is not well."""
    try:
        with http.call_limits(timeout_s=timeout_s, silence_s=timeout_s):
            found: object = vendor.check(http.client())
    except Exception as exc:
        log.error("the plugin of %s failed in its check: %s\n%s", vendor.name, type(exc).__name__, frames(exc))
        return Health(False, f"its plugin failed: {type(exc).__name__}", "Update or remove the plugin.")
    if not isinstance(found, Health):
        return Health(False, "its plugin gave no answer", "Update or remove the plugin.")
    secrets = _secrets_of(vendor)
    words = (vendor_words(str(text), secrets) for text in (found.detail, found.cure, found.balance))
    return Health(bool(found.ok), *words)


def _secrets_of(vendor: Provider | Channel) -> tuple[str, ...]:
    if isinstance(vendor, Provider):
        return vendors.secrets_of(vendor.name)
    given = current_settings().for_plugins()
    return vendor_keys.forms(
        [given.get(variable.name, "") for variable in vendor.environment if variable.secret],
        [given.get(variable.name, "") for variable in vendor.environment if variable.kind is VariableKind.URL],
    )


def check_vendors() -> list[Check]:
    """Look at every provider that is ready and every channel that is set up, and keep what was seen for pages and `/health`.

    Several are looked at at once, and the whole round takes some twenty seconds at most. Those that serve now are returned.
    """
    serving, looked = _serving()
    registry = current_registry()
    house = vendors.current()
    wanted: list[tuple[str, Provider | Channel]] = [
        (name_of(provider), provider)
        for provider in (*registry.providers.values(), *registry.image_providers.values())
        if house.vendor(provider.name).enabled and not route.missing(provider)
    ]
    channels = [(f"channel {channel.name}", channel) for channel in registry.channels.values() if not channel.missing()]
    looked |= _look_at_all([*wanted, *channels])
    used = {*serving, *(name for name, _ in channels), "provider", "image provider"}
    _keep(looked, used)
    return [Check(name, found.ok, found.detail, found.cure, vendor=True) for name, found in looked.items() if name in used]


def _serving() -> tuple[set[str], dict[str, Health]]:
    """The providers that serve chat and pictures now; and the reason where nobody does although somebody should."""
    serving: set[str] = set()
    looked: dict[str, Health] = {}
    try:
        serving.add(name_of(route.choose().provider))
    except ProviderError as exc:
        looked["provider"] = Health(False, exc.detail or exc.message, "Run `switchhook doctor`.")
    drawing = route.plan(Ask(operation=route.IMAGES))
    if drawing.targets:
        serving.add(name_of(drawing.targets[0].provider))
    elif current_settings().image_model:
        looked["image provider"] = Health(False, drawing.why_none, "Correct SWITCHHOOK_IMAGE_MODEL.")
    return serving, looked


def _look_at_all(wanted: Iterable[tuple[str, Provider | Channel]]) -> dict[str, Health]:
    app = current_app._get_current_object()  # type: ignore[attr-defined]

    def look_inside(vendor: Provider | Channel) -> Health:
        with app.app_context():
            return look(vendor)

    pool = ThreadPoolExecutor(_LOOKS_AT_ONCE, thread_name_prefix="vendor-look")
    try:
        looks = {name: pool.submit(look_inside, vendor) for name, vendor in wanted}
        wait(looks.values(), timeout=_ROUND_S)
        late = Health(False, "gave no answer in time", "Look into the vendor's status page.")
        return {name: each.result() if each.done() else late for name, each in looks.items()}
    finally:
        # A look that is late goes on to the end of its own time; nobody waits for it.
        pool.shutdown(wait=False, cancel_futures=True)


def _keep(looked: dict[str, Health], used: set[str]) -> None:
    at = time.time()
    try:
        with queue_redis().pipeline() as pipe:
            pipe.delete(_VENDORS)
            for name, found in looked.items():
                pipe.hset(_VENDORS, name, json.dumps(asdict(found) | {"at": at, "used": name in used}))
            pipe.execute()
    except redis.RedisError:
        log.warning("what was seen of the vendors could not be kept: Redis is away")
