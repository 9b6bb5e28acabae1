"""What every part shares: database, sign-in, CSRF, throttles, Redis clients. Made here, bound in `create_app`."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import redis
from flask import Flask, current_app
from flask.globals import _cv_app
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_login import LoginManager
from flask_sqlalchemy import SQLAlchemy
from flask_wtf import CSRFProtect
from sqlalchemy import Connection, Dialect, Engine, ExceptionContext, MetaData, Table, event
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.types import DateTime, TypeDecorator

from webapp.contracts.errors import SetupError
from webapp.interrupts import shielded
from webapp.settings import Settings

T = TypeVar("T")
P = ParamSpec("P")

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Base of every table."""

    metadata = MetaData(naming_convention=NAMING)


def table_of(model: type[Base]) -> Table:
    """A model's table, for statements that are built once and run often."""
    return cast(Table, model.__table__)


class UTCDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime. SQLite keeps no zone, so it is put back on reading; a naive value is taken as UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class RouteLimiter(Limiter):
    """Checks the limits of routes that have some, and leaves the others alone: there are no limits on everything, and looking
    for them before each request would cost the webhook a twentieth of its time."""

    def _check_request_limit(self, callable_name: str | None = None, in_middleware: bool = True) -> None:
        if not in_middleware:
            super()._check_request_limit(callable_name, in_middleware)


db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False})
login = LoginManager()
csrf = CSRFProtect()
limiter = RouteLimiter(get_remote_address, strategy="fixed-window", headers_enabled=False)

_WRITING = "switchhook_writing"
_TRIES = 5
_WAIT_S = 0.05
"""At most, before the second try of a transaction; what waited for it gets the time to end."""


def of_application(name: str) -> Any:
    """What the running application keeps under a name; `KeyError` if it keeps nothing there.

    Asked for thirty times a request: each look through Flask's proxy costs three times this.
    """
    context = _cv_app.get(None)
    # Where none is running the proxy says so.
    return (current_app if context is None else context.app).extensions[name]


def current_settings() -> Settings:
    """The settings of the running application."""
    # Not by `of_application`: this is most of what is asked for.
    context = _cv_app.get(None)
    settings: Settings = (current_app if context is None else context.app).extensions["switchhook.settings"]
    return settings


def within(app: Flask, work: Callable[P, T], *args: P.args, **values: P.kwargs) -> T:
    """Do `work` in a context of the application, as in `with app.app_context()`, for a tenth of its cost: what Flask looks for
    at the end of one is looked for only where there is something to end. Its signals of contexts are not sent."""
    context = app.app_context()
    outer = _cv_app.set(context)
    try:
        return work(*args, **values)
    finally:
        try:
            # The first is Flask-SQLAlchemy's, which ends the session of this context, if one was made.
            if id(context) in db.session.registry.registry or app.teardown_appcontext_funcs[1:]:
                app.do_teardown_appcontext(sys.exc_info()[1])
        finally:
            _cv_app.reset(outer)


def now() -> datetime:
    """The present moment as the database keeps it."""
    return datetime.now(UTC)


# A log of 32 MB at most before it is carried into the database: the pages that every request changes then go there once for
# hundreds of requests, which halves what a commit costs.
_PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=15000", "wal_autocheckpoint=8000")


def tune_engine(engine: Engine) -> None:
    """Make SQLite keep its promises: WAL, foreign keys, and transactions that begin when we say so.

    A transaction that will write begins IMMEDIATE: one that reads first and then writes fails with "database is locked" as
    soon as another has written in between, whatever the time-out.
    """
    if engine.dialect.name != "sqlite":
        event.listen(engine, "handle_error", _without_details)
        return

    @event.listens_for(engine, "connect")
    def _connect(dbapi_connection: Any, _record: Any) -> None:
        dbapi_connection.isolation_level = None
        cursor = dbapi_connection.cursor()
        for pragma in _PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writing = connection.get_execution_options().get(_WRITING)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


@contextmanager
def without_foreign_keys(connection: Connection) -> Iterator[None]:
    """Switch SQLite's foreign keys off for a migration that rebuilds a table: dropping the old one would empty, by cascade,
    whatever refers to it. The switch does nothing inside a transaction, so it goes to the driver, before one begins."""
    if connection.dialect.name != "sqlite":
        yield
        return
    driver: Any = connection.connection.dbapi_connection
    driver.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        driver.execute("PRAGMA foreign_keys=ON")


# SQLite lets one writer in at a time and makes the others poll, unfairly; a lock in the process queues them instead
# (p99 of a webhook at 32 connections: 63 ms instead of 711).
one_writer = threading.Lock()


def _without_details(context: ExceptionContext) -> None:
    """Take PostgreSQL's DETAIL out of an error before it is logged: it quotes the row, and so what people wrote."""
    cause: Any = context.original_exception
    primary = getattr(getattr(cause, "diag", None), "message_primary", None)
    if primary is None:
        return
    cause.args = (primary,)
    if context.sqlalchemy_exception is not None:
        context.sqlalchemy_exception.args = (f"({type(cause).__name__}) {primary}",)


@contextmanager
def writing() -> Iterator[Connection]:
    """One writing transaction on a connection of its own: committed at the end, rolled back when anything is raised.

    Keep it short, never call a vendor inside, and never open a second one inside the first. A job's time limit that passes
    inside takes effect after the commit: in the middle it could leave the lock and the transaction open for good.
    """
    engine = db.engine
    if engine.dialect.name != "sqlite":
        with shielded(), engine.begin() as connection:
            yield connection
        return
    writer = {_WRITING: True}
    with shielded(), one_writer, engine.connect().execution_options(**writer) as connection, connection.begin():
        yield connection


@contextmanager
def writing_session() -> Iterator[Session]:
    """`writing()` for code that is clearer with objects than with statements; flushed and committed at the end."""
    with writing() as connection, Session(bind=connection, expire_on_commit=False) as session:
        yield session
        session.flush()


def ended_for_another(exc: BaseException) -> bool:
    """Whether PostgreSQL ended a transaction by a deadlock or a serialization failure, so that it may succeed when done again:
    of two that wait for each other it ends one."""
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


def retries(work: Callable[P, T]) -> Callable[P, T]:
    """Make a function that is one transaction, and nothing else that counts twice, one that is `retried`."""

    @wraps(work)
    def again(*args: P.args, **values: P.kwargs) -> T:
        return retried(lambda: work(*args, **values))

    return again


@contextmanager
def reading() -> Iterator[Connection]:
    """One read-only transaction on a connection of its own. Not interrupted either: a connection that is left in the middle of
    an answer cannot be used again, and on SQLite it keeps its snapshot open until the garbage collector finds it."""
    with shielded(), db.engine.connect() as connection:
        yield connection


def connect_redis(url: str, **options: Any) -> redis.Redis:
    """A Redis client that says within a second and a half that the server is away, instead of holding a request for it."""
    given: dict[str, Any] = {
        "socket_timeout": 1.5,
        "socket_connect_timeout": 0.5,
        "retry": None,
        "health_check_interval": 30,
        "max_connections": 1024,
    }
    return redis.Redis.from_url(url, **(given | options))


def queue_redis() -> redis.Redis:
    """The client for enqueuing, publishing and short look-ups; never blocks for long."""
    return cast(redis.Redis, of_application("switchhook.redis"))


def waiting_redis() -> redis.Redis:
    """The client for reads that wait on the server (XREAD BLOCK); its time-out is longer than any such wait."""
    return cast(redis.Redis, current_app.extensions["switchhook.redis.waiting"])


# A host that is cut off in the middle of a transaction keeps what it has locked until the server finds out; by default after
# two hours. Whoever gives `options=` in DATABASE_URL (or needs none, behind a pooler that refuses them) looks after it himself.
_PATIENCE: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "options": "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3 -c tcp_user_timeout=20000 "
    "-c idle_in_transaction_session_timeout=60s -c lock_timeout=20s",
}


def engine_options(settings: Settings) -> dict[str, Any]:
    """Sizes of the connection pool. Transactions are short, so many threads share few connections."""
    options: dict[str, Any] = {
        "pool_size": 16,
        "max_overflow": 16,
        "pool_timeout": 30,
        # Or an error would print what people wrote.
        "hide_parameters": True,
    }
    if not settings.effective_database_url.startswith("sqlite"):
        options["pool_pre_ping"] = True
        if "options=" not in settings.effective_database_url:
            options["connect_args"] = _PATIENCE
    return options


def limiter_storage(settings: Settings) -> str:
    """Where throttles count: in Redis, so that all processes share them. Its library has its own spelling of sockets."""
    return settings.effective_redis_url.replace("unix://", "redis+unix://", 1)


def bind(app: Flask, settings: Settings) -> None:
    """Attach every extension to the application. `SetupError` for an address that is none."""
    app.extensions["switchhook.settings"] = settings
    try:
        app.extensions["switchhook.redis"] = connect_redis(settings.effective_redis_url)
        app.extensions["switchhook.redis.waiting"] = connect_redis(settings.effective_redis_url, socket_timeout=20.0)
    except ValueError as exc:
        raise SetupError("REDIS_URL is not a URL of Redis, such as redis://localhost:6379/0: correct it.") from exc
    try:
        db.init_app(app)
    except (ArgumentError, NoSuchModuleError) as exc:
        raise SetupError(
            "DATABASE_URL is not a URL of a database, such as postgresql://user:password@host/name: correct it."
        ) from exc
    except ModuleNotFoundError as exc:
        if exc.name != "psycopg":
            raise SetupError(
                "DATABASE_URL names a database that is not supported: Switchhook runs on SQLite and PostgreSQL."
            ) from exc
        raise SetupError("PostgreSQL needs its driver: install Switchhook as `switchhook[postgres]`.") from exc
    login.init_app(app)
    csrf.init_app(app)
    limiter.init_app(app)
    with app.app_context():
        tune_engine(db.engine)
