"""A served installation for the examples on the pages for programs, and how those examples are run."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anthropic
import httpx
import openai

from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.openai_images import FakeOpenAIImages
from tests.fakes.receiver import FakeReceiver
from tests.system.product import ROOT, Product
from tests.system.v1_site import FakeOpenAIWithImages
from webapp.extensions import writing_session
from webapp.models import PersonRole
from webapp.services import accounts, organizations, people
from webapp.services.organizations import Actor

JANE = "jane@example.com"
ADDRESS = "http://127.0.0.1:8000"
HOOK = "https://hooks.example.com/switchhook"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
# What fails has to be seen: as it stands on the page, curl says nothing of a status.
_CURL = 'set -euo pipefail\ncurl() { command curl --silent --show-error --fail-with-body "$@"; }\n'


class DocsSite:
    """The installation. Jane manages an organization on a plan that includes everything; the administrator is nobody's
    colleague."""

    def __init__(self, product: Product, chatty: FakeOpenAIWithImages, claude: FakeAnthropic, receiver: FakeReceiver) -> None:
        self.product, self.openai, self.claude, self.receiver = product, chatty, claude, receiver
        office = organizations.create(Actor.operator("test"), "Harbour Office")
        with writing_session() as session:
            people.add(session, email=JANE, role=PersonRole.MANAGER, organization_id=office.id, plan="business")
        self.token = accounts.create_token(JANE, "test", ["chat", "read", "write", "admin"], None, "test")
        self.admin_token = accounts.create_token("admin@example.com", "test", ["read", "admin"], None, "test")

    @property
    def url(self) -> str:
        return self.product.url


@contextmanager
def served(folder: Path, database: Path) -> Iterator[DocsSite]:
    """The installation with all its processes, served until the block ends. `database` is copied."""
    shutil.copy(database, folder / "switchhook.db")
    with ExitStack() as stack:
        images = stack.enter_context(FakeOpenAIImages())
        chatty, claude = stack.enter_context(FakeOpenAIWithImages(images)), stack.enter_context(FakeAnthropic())
        receiver = stack.enter_context(FakeReceiver())
        env = {**chatty.settings, **claude.settings, "SWITCHHOOK_ALLOW_OUTBOUND": "127.0.0.1"}
        product = stack.enter_context(Product(folder, f"sqlite:///{folder / 'switchhook.db'}", env))
        site = DocsSite(product, chatty, claude, receiver)
        product.start("web", "worker", "cron")
        yield site


class Examples:
    """The examples of a page, run from its top to its end: Python in one namespace, lines for a shell each block by itself. A
    shell knows what Python has by its id: `$TASK` is the id of `task`."""

    def __init__(self, site: DocsSite, page: str, folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.site, self.page, self.folder = site, page, folder
        self.names: dict[str, Any] = {"__name__": page}
        self.said: list[str] = []
        self._env = {"URL": site.url, "TOKEN": site.token, "ADMIN_TOKEN": site.admin_token, **(env or {})}

    def run(self) -> None:
        """Run all of them, and close what they have opened."""
        text = (ROOT / "docs" / self.page).read_text("utf-8")
        runners = {"python": self._python, "shell": self._shell}
        try:
            for found in _BLOCK.finditer(text):
                if run := runners.get(found[1]):
                    run(self._here(found[2]), text.count("\n", 0, found.start()) + 2)
        finally:
            for value in self.names.values():
                if isinstance(value, httpx.Client | openai.OpenAI | anthropic.Anthropic):
                    value.close()

    def _here(self, code: str) -> str:
        known = code.replace(ADDRESS, self.site.url).replace(HOOK, self.site.receiver.hook)
        return known.replace('api_key="sh_…"', f'api_key="{self.site.token}"')

    def _python(self, code: str, line: int) -> None:
        printed = io.StringIO()
        # The line numbers of a fault are those of the page.
        compiled = compile("\n" * (line - 1) + code, self.page, "exec")
        with patch.dict(os.environ, self._env), redirect_stdout(printed):
            exec(compiled, self.names)
        self.said.append(printed.getvalue())

    def _shell(self, code: str, line: int) -> None:
        # What the page leaves to its reader to fill in is filled in.
        lines = [text for text in code.splitlines() if not re.match(r"export \w+=.*(sh_…|http:)", text)]
        told = {name: value for name, value in self.names.items() if isinstance(value, dict) and "id" in value}
        ids = {name.upper(): str(value["id"]) for name, value in told.items()}
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        done = subprocess.run(
            ["bash", "-c", _CURL + "\n".join(lines)],
            env=kept | self._env | ids,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{self.page}, line {line}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
        self.said.append(done.stdout)
