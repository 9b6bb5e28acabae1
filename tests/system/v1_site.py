"""A served installation for tests of `/v1`: the product's own web server, its vendors the fakes, people with tokens."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import httpx
from sqlalchemy import select, update

from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.openai import FakeOpenAI
from tests.fakes.openai_images import FakeOpenAIImages
from tests.fakes.server import FakeReply, FakeRequest
from tests.system.product import Product
from webapp.extensions import db, writing
from webapp.models import Hold, LedgerEntry, Plan, Request
from webapp.services import accounts


class FakeOpenAIWithImages(FakeOpenAI):
    """Both of OpenAI's APIs under one address, as the vendor has them."""

    def __init__(self, images: FakeOpenAIImages) -> None:
        super().__init__()
        self.images = images

    @property
    def settings(self) -> Mapping[str, str]:
        return {**super().settings, "OPENAI_IMAGE_MODEL": self.images.model}

    def handle(self, request: FakeRequest) -> FakeReply:
        return self.images.handle(request) if "/images/" in request.path else super().handle(request)


class V1Site:
    """The installation. `token` belongs to somebody with room, `poor` to somebody whose plan allows nothing more."""

    def __init__(self, product: Product, openai: FakeOpenAI, claude: FakeAnthropic) -> None:
        self.product = product
        self.openai = openai
        self.claude = claude
        self.token = self._token("alice@example.com")
        self.poor = self._token("bob@example.com")
        accounts.change_plan("bob@example.com", "free", "for a test", "test")
        with writing() as connection:
            connection.execute(update(Plan).where(Plan.code == "free").values(limits={"messages": 1}))

    def spend(self) -> None:
        """Use up what `poor` may."""
        body = {"model": "auto", "messages": [{"role": "user", "content": "The last one."}]}
        httpx.post(f"{self.url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {self.poor}"}, timeout=20)

    @property
    def url(self) -> str:
        return self.product.url

    def _token(self, email: str) -> str:
        accounts.create_person(actor="test", email=email, plan="enterprise")
        return accounts.create_token(email, "test", ["chat", "read"], None, "test")

    def newest(self) -> Request:
        """The request that was made last, as it stands now."""
        db.session.rollback()
        db.session.expire_all()
        return db.session.scalars(select(Request).order_by(Request.id.desc()).limit(1)).one()

    def ledger(self, request: Request) -> list[LedgerEntry]:
        """What a request was charged."""
        return list(db.session.scalars(select(LedgerEntry).where(LedgerEntry.request_id == request.id)))

    def open_holds(self) -> int:
        """How many limits are held by what has not ended."""
        db.session.rollback()
        return len(db.session.scalars(select(Hold).where(Hold.settled_at.is_(None))).all())

    def calm(self) -> None:
        """Let the fakes answer again as they do by themselves."""
        for fake in (self.openai, self.claude):
            fake.script, fake.wishes, fake.finish, fake.wish_text, fake.first_delay_s = None, [], "", "", 0.0
            fake.text = "Hello there. This is the fake vendor speaking."


_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


class SlowVendor:
    """Speaks OpenAI's format over a bare socket: says a few words, then nothing, or `pings` for ever; and notes when its caller
    closed the connection."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self.says = b""
        self.pings = False
        self.closed = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            with caller, contextlib.suppress(OSError):
                caller.settimeout(0.05)
                heard = b""
                while not heard.endswith(b"}"):
                    heard += caller.recv(65536)
                caller.sendall(_HEAD + self.says)
                self._wait(caller)
            self.closed.set()

    def _wait(self, caller: socket.socket) -> None:
        while True:
            try:
                if not caller.recv(1):
                    return
            except TimeoutError:
                if self.pings:
                    caller.sendall(b": ping\n\n")


@contextmanager
def served(folder: Path, database: Path, env: Mapping[str, str]) -> Iterator[V1Site]:
    """The installation, served until the block ends. `database` is copied."""
    shutil.copy(database, folder / "switchhook.db")
    with ExitStack() as stack:
        images = stack.enter_context(FakeOpenAIImages())
        openai, claude = stack.enter_context(FakeOpenAIWithImages(images)), stack.enter_context(FakeAnthropic())
        of_vendors = {**openai.settings, **claude.settings}
        url = f"sqlite:///{folder / 'switchhook.db'}"
        product = stack.enter_context(Product(folder, url, {**of_vendors, **env}))
        site = V1Site(product, openai, claude)
        product.start("web")
        yield site
