"""A real Chromium on a real server: Werkzeug's in a thread, and a worker in another that answers what is queued."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, expect
from werkzeug.serving import make_server

from tests.conftest import ADMIN_PASSWORD
from tests.integration.web_support import ADMIN, PASSWORD, Site, run_once

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_QUIET = (
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-domain-reliability",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)

# Two browsers and two web servers share two cores: what a quick machine shows in half a second may take ten.
expect.set_options(timeout=15_000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is marked `browser`, and skipped where there is none."""
    missing = not any(shutil.which(name) for name in _NAMES)
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            if missing:
                item.add_marker(pytest.mark.skip(reason="no Chromium is installed (apt install chromium)"))


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict[str, Any]:
    """The system's Chromium, without a network of its own."""
    return {"executable_path": next(filter(None, map(shutil.which, _NAMES))), "args": list(_QUIET)}


@pytest.fixture
def database_url(tmp_path: Path, migrated_sqlite: Path) -> str:
    """SQLite alone: what a browser shows does not depend on the database."""
    shutil.copy(migrated_sqlite, tmp_path / "switchhook.db")
    return f"sqlite:///{tmp_path / 'switchhook.db'}"


class Live(Site):
    """A site that is being served. `work` lets the worker go on, which is paused by `rest`."""

    def __init__(self, app: Flask, address: str) -> None:
        super().__init__(app)
        self.address = address
        self.may_work = threading.Event()
        self.may_work.set()
        self.closing = threading.Event()

    def rest(self) -> None:
        self.may_work.clear()

    def work(self) -> None:
        self.may_work.set()

    def loop(self) -> None:
        """Answer what is queued until the end of the test."""
        with self.app.app_context():
            while not self.closing.is_set():
                if not (self.may_work.wait(0.1) and run_once()):
                    self.closing.wait(0.02)


@pytest.fixture
def live(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Live]:
    """The site, its worker running. `@pytest.mark.parametrize("live", [ms], indirect=True)` sets the demo's pace."""
    monkeypatch.setenv("SWITCHHOOK_DEMO_DELAY_MS", str(getattr(request, "param", 5)))
    app = make_app()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    site = Live(app, f"http://127.0.0.1:{server.server_port}")
    threads = [threading.Thread(target=server.serve_forever), threading.Thread(target=site.loop)]
    for thread in threads:
        thread.start()
    yield site
    site.closing.set()
    server.shutdown()
    for thread in threads:
        thread.join(10)
    server.server_close()


class Watched:
    """What a page complained about."""

    def __init__(self, page: Page) -> None:
        self.complaints: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


@pytest.fixture
def quiet(page: Page) -> Iterator[Watched]:
    """Fails the test if the page's console had an error, such as a violation of the content security policy."""
    watched = Watched(page)
    yield watched
    assert watched.complaints == []


@pytest.fixture
def signed_in(live: Live, context: BrowserContext, page: Page) -> Callable[..., Page]:
    """Opens the site as a new person with an e-mail, or as the administrator."""
    context.set_default_timeout(30_000)

    def open_as(email: str = "alice@example.com", **person: Any) -> Page:
        if email != ADMIN:
            live.add(email, **person)
        page.goto(live.address)
        page.get_by_label("E-mail").fill(email)
        page.get_by_label("Password").fill(ADMIN_PASSWORD if email == ADMIN else PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("button", name="Sign out", exact=True).wait_for()
        return page

    return open_as
