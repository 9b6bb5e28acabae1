"""What the tests of `/v1` share: somebody with a token, calls in both formats, and the events of their streams."""

from __future__ import annotations

import base64
import json
from typing import Any

from flask import Flask
from sqlalchemy import func, select
from werkzeug.test import TestResponse

from tests.fakes.vendor import tiny_png
from webapp.extensions import reading
from webapp.models import Hold, LedgerEntry, Request
from webapp.services import accounts

ALICE = "alice@example.com"
HELLO = [{"role": "user", "content": "Hello?"}]
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
PNG = base64.b64encode(tiny_png()).decode()
WEATHER = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}


class V1:
    """The API, called by Alice's token."""

    def __init__(self, app: Flask, plan: str = "enterprise") -> None:
        self.app = app
        self.client = app.test_client()
        with app.app_context():
            accounts.create_person(actor="test", email=ALICE, plan=plan)
        self.token = self.make_token("chat", "read")

    def make_token(self, *scopes: str) -> str:
        with self.app.app_context():
            return accounts.create_token(ALICE, "test", list(scopes), None, "test")

    def post(self, path: str, body: Any, **headers: str) -> TestResponse:
        """A call with a JSON body; bytes and texts are sent as they are."""
        raw = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        given = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(path, data=raw, headers={name: value for name, value in given.items() if value})

    def get(self, path: str, **headers: str) -> TestResponse:
        given = {"Authorization": f"Bearer {self.token}"}
        return self.client.get(path, headers=given | {name.replace("_", "-"): value for name, value in headers.items()})

    def chat(self, messages: Any = HELLO, **body: Any) -> TestResponse:
        return self.post(CHAT, {"model": "auto", "messages": messages} | body)

    def message(self, messages: Any = HELLO, **body: Any) -> TestResponse:
        return self.post(MESSAGES, {"model": "auto", "max_tokens": 200, "messages": messages} | body)

    def newest(self) -> Any:
        """The row of the request that was made last."""
        with self.app.app_context(), reading() as connection:
            return connection.execute(select(Request.__table__).order_by(Request.id.desc()).limit(1)).one()

    def counts(self) -> tuple[int, int, int]:
        """How many requests, ledger entries and open holds there are."""
        with self.app.app_context(), reading() as connection:
            found = [connection.execute(select(func.count()).select_from(kind)).scalar_one() for kind in (Request, LedgerEntry)]
            held = connection.execute(select(func.count()).select_from(Hold).where(Hold.settled_at.is_(None))).scalar_one()
        return found[0], found[1], held


def chunks(response: TestResponse) -> list[Any]:
    """The events of a stream in OpenAI's format; the last one has to be `[DONE]`."""
    assert response.mimetype == "text/event-stream", response.text
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]", lines[-1]
    return [json.loads(line) for line in lines[:-1]]


def events(response: TestResponse) -> list[Any]:
    """The events of a stream in Anthropic's format, whose names have to be their types."""
    assert response.mimetype == "text/event-stream", response.text
    found = []
    for part in response.text.split("\n\n")[:-1]:
        name, data = part.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found
