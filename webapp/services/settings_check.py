"""Looks at the settings before the application is made with them: each fault with its cure."""

from __future__ import annotations

import difflib
import stat
import tempfile
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import redis
from pydantic import ValidationError
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from webapp.contracts.errors import SetupError
from webapp.contracts.providers import Variable
from webapp.services.findings import Finding, Level, blotted
from webapp.settings import CORE_SECRETS, Settings, read_settings
from webapp.settings_faults import in_words

_LOCAL_HOSTS = ("127.0.0.1", "::1", "localhost")
_PREFIX = "SWITCHHOOK_"
_INTERNAL = "SWITCHHOOK_LEASH_"  # what one of our processes tells another


def check_settings() -> tuple[Settings | None, list[Finding]]:
    """The settings, None if the application cannot be made with them, and what there is to say about them."""
    try:
        settings = read_settings()
    except SetupError as exc:
        return None, _wrong_settings(exc)
    found = [
        Finding("settings", "settings", Level.OK, "read from the environment and .env"),
        _data_dir(settings),
        _database_url(settings),
        _redis_url(settings),
        *_secret_key(settings),
        *_public_url(settings),
        *_proxy(settings),
        _time_zone(settings),
    ]
    broken = any(finding.level is Level.FAULT for finding in found)
    return None if broken else settings, blotted(found, settings, ())


def _wrong_settings(exc: SetupError) -> list[Finding]:
    cause = exc.__cause__
    if not isinstance(cause, ValidationError):
        return [Finding("settings", "settings", Level.FAULT, exc.message, "Correct it in the environment or in .env.")]
    meanings = {field.alias: field.description or "" for field in Settings.model_fields.values()}
    return [
        Finding(
            "settings",
            str(fault["loc"][0]),
            Level.FAULT,
            in_words(fault),
            f"Correct or unset it, in the environment or in .env. {meanings.get(str(fault['loc'][0]), '')}".strip(),
        )
        for fault in cause.errors(include_url=False, include_input=False)
    ]


def _data_dir(settings: Settings) -> Finding:
    where = settings.data_dir.resolve()
    place = next(folder for folder in (where, *where.parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as exc:
        return Finding(
            "settings",
            "data directory",
            Level.FAULT,
            f"{where} cannot be written ({exc.strerror})",
            "Make it writable, or name another one in SWITCHHOOK_DATA_DIR.",
        )
    if place != where:
        return Finding("settings", "data directory", Level.OK, f"{where} will be made at the first start")
    return Finding("settings", "data directory", Level.OK, f"{where} is writable")


def sqlite_file(settings: Settings) -> Path | None:
    """The file in which SQLite keeps the database; None where it is no file, or the URL none of SQLite."""
    try:
        url = make_url(settings.effective_database_url)
    except (ArgumentError, ValueError):
        return None
    if url.get_backend_name() != "sqlite" or not url.database or url.database.startswith((":memory:", "file:")):
        return None
    return Path(url.database)


def _database_url(settings: Settings) -> Finding:
    try:
        url = make_url(settings.effective_database_url)
        kind = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}.get(url.get_backend_name())
        if kind is None:
            return Finding(
                "settings",
                "DATABASE_URL",
                Level.FAULT,
                f"{url.get_backend_name()} is not supported: Switchhook runs on SQLite and PostgreSQL",
                "Write it as postgresql://user:password@host/name, or unset it to use SQLite.",
            )
        url.get_dialect().import_dbapi()
    except (ArgumentError, NoSuchModuleError, ValueError):
        return Finding(
            "settings",
            "DATABASE_URL",
            Level.FAULT,
            "is not a URL of a database",
            "Write it as postgresql://user:password@host/name, or unset it to use SQLite.",
        )
    except ImportError:
        return Finding(
            "settings",
            "DATABASE_URL",
            Level.FAULT,
            f"the driver of {url.get_backend_name()} is not installed",
            "Install Switchhook as `switchhook[postgres]`.",
        )
    place = url.database if kind == "SQLite" else f"{url.database} at {url.host or 'a local socket'}"
    return Finding("settings", "DATABASE_URL", Level.OK, f"{kind}: {place}")


def _redis_url(settings: Settings) -> Finding:
    try:
        redis.Redis.from_url(settings.effective_redis_url).close()
    except ValueError:
        return Finding(
            "settings",
            "REDIS_URL",
            Level.FAULT,
            "is not a URL of Redis",
            "Write it as redis://localhost:6379/0, or unset it to use the Redis that comes with Switchhook.",
        )
    return Finding("settings", "REDIS_URL", Level.OK, redis_place(settings))


def redis_place(settings: Settings) -> str:
    """Where Redis is, without the user and password that its URL may hold."""
    parts = urlsplit(settings.effective_redis_url)
    if not settings.redis_url:
        return "the one that comes with Switchhook"
    return f"{parts.hostname}:{parts.port or 6379}" if parts.hostname else parts.path


def _secret_key(settings: Settings) -> Iterator[Finding]:
    given = settings.secret_key.get_secret_value()
    path = settings.data_dir / "secret_key"
    if given:
        if len(given) < 32:
            cure = "Set one of 32 characters or more, or unset it: then one is made."
            yield Finding("settings", "secret key", Level.WARNING, "SECRET_KEY is short enough to be guessed", cure)
        else:
            yield Finding("settings", "secret key", Level.OK, "set in SECRET_KEY")
    elif path.exists():
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield Finding("settings", "secret key", Level.WARNING, f"others may read {path}", f"Run: chmod 600 {path}")
        else:
            yield Finding("settings", "secret key", Level.OK, f"kept in {path}")
    else:
        yield Finding("settings", "secret key", Level.OK, "will be made at the first start")


def _public_url(settings: Settings) -> Iterator[Finding]:
    host = urlsplit(settings.public_url).hostname or ""
    name = "public address"
    if not settings.public_url:
        if settings.host in _LOCAL_HOSTS:
            yield Finding("settings", name, Level.OK, "none: only this machine reaches it, and receipts are not asked for")
            return
        yield Finding(
            "settings",
            name,
            Level.WARNING,
            f"none, but the server listens on {settings.host}: sign-ins travel without encryption",
            "Put a proxy with HTTPS in front and set SWITCHHOOK_PUBLIC_URL to its https:// address.",
        )
    elif not settings.secure and host not in _LOCAL_HOSTS:
        yield Finding(
            "settings",
            name,
            Level.WARNING,
            f"{settings.public_url} is not https: sign-ins and cookies travel without encryption",
            "Put a proxy with HTTPS in front and set SWITCHHOOK_PUBLIC_URL to its https:// address.",
        )
    elif settings.secure and not settings.trusted_proxies:
        yield Finding(
            "settings",
            name,
            Level.WARNING,
            f"{settings.public_url}, but no proxy is trusted: all visitors seem to come from one address",
            "Set SWITCHHOOK_TRUSTED_PROXIES to the number of proxies in front, usually 1.",
        )
    else:
        yield Finding("settings", name, Level.OK, settings.public_url)


def _proxy(settings: Settings) -> Iterator[Finding]:
    if settings.host in _LOCAL_HOSTS or settings.trusted_proxies:
        return
    yield Finding(
        "settings",
        "proxy",
        Level.WARNING,
        f"none is configured, and the server listens on {settings.host}: a few slow clients can keep all its threads",
        "Put a proxy in front that takes requests in whole before it passes them on, and set SWITCHHOOK_TRUSTED_PROXIES; "
        "docs/operations.md shows how.",
    )


def unknown_names(settings: Settings, variables: Iterable[Variable]) -> Iterator[Finding]:
    """A warning for every variable that is named like one of ours and is none; `variables` are what plugins read."""
    known = {str(field.alias) for field in Settings.model_fields.values()} | {variable.name for variable in variables}
    for name in sorted(settings.for_plugins()):
        upper = name.upper()
        if not upper.startswith(_PREFIX) or upper.startswith(_INTERNAL) or name in CORE_SECRETS or upper in known:
            continue
        [nearest] = difflib.get_close_matches(upper, known, n=1, cutoff=0.75) or [""]
        cure = f"Name it {nearest}." if nearest else "Correct its name, or remove it: docs/settings.md lists all of them."
        yield Finding("settings", name, Level.WARNING, "nothing reads a variable of this name", cure)


def _time_zone(settings: Settings) -> Finding:
    local = datetime.now(ZoneInfo(settings.time_zone))
    return Finding("settings", "time zone", Level.OK, f"{settings.time_zone}, where it is {local:%H:%M}")
