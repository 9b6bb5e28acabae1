"""The real commands on an installation of their own: a migrated database and a Redis, found through the environment."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result
from sqlalchemy import Connection, create_engine, text

from webapp import create_app
from webapp import queues as queue_names
from webapp.cli import main
from webapp.extensions import db
from webapp.jobs.worker import ThreadWorker
from webapp.routing import route
from webapp.settings import read_settings

SENDER = "+15005550006"
NOBODY = "http://127.0.0.1:9"


class Operator:
    """Types commands, and looks into the database behind them."""

    def __init__(self, folder: Path, redis_url: str, database_url: str) -> None:
        self.folder = folder
        self.database_url = database_url.replace("postgresql://", "postgresql+psycopg://")
        self.redis_url = redis_url
        self.runner = CliRunner()

    def __call__(self, *arguments: str, given: str | None = None) -> Result:
        """Run a command; an exception that it does not turn into a message fails the test."""
        result = self.runner.invoke(main, arguments, input=given, prog_name="switchhook")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def ok(self, *arguments: str, given: str | None = None) -> str:
        """What a command prints; it must succeed."""
        result = self(*arguments, given=given)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *arguments: str) -> Any:
        """What a command prints with --json; it must succeed."""
        return json.loads(self.ok(*arguments, "--json"))

    def rows(self, sql: str, **values: object) -> list[Any]:
        """What the database has."""
        with self.database() as connection:
            return [tuple(row) for row in connection.execute(text(sql), values)]

    @contextlib.contextmanager
    def database(self) -> Iterator[Connection]:
        """The database behind the commands; what is done to it is committed."""
        engine = create_engine(self.database_url)
        try:
            with engine.begin() as connection:
                yield connection
        finally:
            engine.dispose()

    @contextlib.contextmanager
    def worker(self) -> Iterator[None]:
        """A worker at work, in threads of this process."""
        settings = read_settings()
        app = create_app(settings)
        client = redis.Redis.from_url(self.redis_url)
        ready = threading.Event()
        worker = ThreadWorker(
            [queue_names.queue(name, client) for name in queue_names.QUEUES],
            client,
            slots=4,
            grace_s=5,
            job_context=app.app_context,
            on_ready=ready.set,
        )
        thread = threading.Thread(target=worker.work)
        thread.start()
        try:
            assert ready.wait(20)
            yield
        finally:
            worker.request_stop()
            thread.join(20)
            with app.app_context():
                db.engine.dispose()
            for name in ("switchhook.redis", "switchhook.redis.waiting"):
                app.extensions[name].close()
            client.close()
        assert not thread.is_alive()


@pytest.fixture
def operator(tmp_path: Path, redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """An operator in an empty directory, whose installation is in `tmp_path` and the database."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    return operator_in(tmp_path, redis_url, monkeypatch, database_url)


@pytest.fixture
def fresh_operator(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """An operator who has not started anything yet."""
    return operator_in(tmp_path, redis_url, monkeypatch)


def operator_in(folder: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch, database_url: str = "") -> Operator:
    """An operator with the environment of an installation in `folder`."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SWITCHHOOK_DATA_DIR", str(folder))
    monkeypatch.setenv("SWITCHHOOK_DEMO_DELAY_MS", "0")
    monkeypatch.setenv("REDIS_URL", redis_url)
    # As on a machine where nobody has asked for Ollama and none runs, whatever runs on this one.
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    monkeypatch.setattr("plugins.providers.ollama.DEFAULT_HOST", NOBODY)
    monkeypatch.setattr(route, "_probes", {})
    return Operator(folder, redis_url, database_url or f"sqlite:///{folder / 'switchhook.db'}")
