"""The installation under fire: database, queue, fakes and the product, each a process that can be killed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.fakes.twilio import TwilioSigner
from tests.fault import plan
from tests.fault.postgres import Postgres
from tests.system.product import ROOT, Product
from webapp.services import setup

_AGAIN_S = 0.5


class Fake:
    """A fake as a process of its own."""

    def __init__(self, module: str, log: Path, *arguments: str) -> None:
        with log.open("wb") as errors:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", module, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        assert self.popen.stdout is not None
        self.url = self.popen.stdout.readline().strip()
        if not self.url:
            raise RuntimeError(f"{module} did not start: {log.read_text()}")

    def ask(self, path: str) -> Any:
        """What it tells under a control path."""
        return httpx.get(self.url + path, timeout=30).raise_for_status().json()

    def stop(self) -> None:
        self.popen.terminate()
        self.popen.wait(10)
        if self.popen.stdout is not None:
            self.popen.stdout.close()


class Site(Product):
    """The product, whose processes are started again whenever they end, as a process manager does."""

    def __init__(self, folder: Path, postgres: Postgres, env: Mapping[str, str]) -> None:
        super().__init__(folder, postgres.url, env)
        self.postgres = postgres
        self.fell = 0
        """How many processes ended by themselves."""
        self._guard = threading.RLock()
        self._due: dict[str, float] = {}

    def begin(self) -> None:
        """Migrate, and start everything."""
        setup.prepare()
        self.start("web", *plan.WORKERS, "cron")

    def tend(self) -> None:
        """Start again what has ended; call it often."""
        with self._guard:
            for name, process in list(self.processes.items()):
                if process.poll() is not None:
                    self.processes.pop(name)
                    self.fell += 1
                    self._due[name] = time.monotonic() + _AGAIN_S
            for name, due in list(self._due.items()):
                if time.monotonic() >= due:
                    del self._due[name]
                    self.launch(name)

    def strike(self, name: str) -> None:
        """Kill a process; `tend` starts it again."""
        with self._guard:
            if name in self.processes:
                self.kill(name)
                self._due[name] = time.monotonic() + _AGAIN_S

    def redis_away(self, seconds: float) -> None:
        self.kill_redis()
        time.sleep(seconds)
        self.start_redis()

    def database_away(self, seconds: float) -> None:
        self.postgres.stop("fast")
        time.sleep(seconds)
        self.postgres.start()


@contextlib.contextmanager
def built(folder: Path, seed: int) -> Iterator[tuple[Site, Fake, Fake]]:
    """The installation, the vendor and the carrier."""
    with contextlib.ExitStack() as stack:
        vendor = Fake("tests.fault.vendor", folder / "vendor.err", "--delay", "0.3", "--piece-delay", "0.03")
        stack.callback(vendor.stop)
        carrier = Fake("tests.fault.carrier", folder / "carrier.err", "--silent", "0.01", "--seed", str(seed))
        stack.callback(carrier.stop)
        postgres = stack.enter_context(Postgres())
        signer = TwilioSigner()
        env = {
            "OPENAI_API_KEY": "sk-for-tests-only",
            "OPENAI_BASE_URL": f"{vendor.url}/v1",
            "TWILIO_ACCOUNT_SID": signer.account_sid,
            "TWILIO_AUTH_TOKEN": signer.auth_token,
            "TWILIO_PHONE_NUMBER": signer.number,
            "TWILIO_API_BASE_URL": carrier.url,
            "SWITCHHOOK_DEFAULT_PLAN": "business",
            "SWITCHHOOK_WEB_PROCESSES": "2",
            "SWITCHHOOK_LEASE_S": "4",
            # Processes die at random here, and never by the fault of a request.
            "SWITCHHOOK_POISON_AFTER": "20",
            "SWITCHHOOK_JOB_RETRIES": "20",
            "SWITCHHOOK_JOB_RETRY_WAITS_S": "1",
        }
        site = stack.enter_context(Site(folder, postgres, env))
        site.begin()
        yield site, vendor, carrier
