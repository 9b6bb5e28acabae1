"""A receiver of outgoing webhooks that checks signatures with the library of Standard Webhooks."""

from __future__ import annotations

import threading
from typing import Any

from standardwebhooks import Webhook

from .server import FakeReply, FakeRequest, FakeServer


class FakeReceiver(FakeServer):
    """Takes every message whose signature fits one of `secrets`, and keeps it in `messages` as (id, payload)."""

    def __init__(self) -> None:
        super().__init__()
        self.secrets: list[str] = []
        self.messages: list[tuple[str, Any]] = []
        self.reply: FakeReply | None = None
        """What it answers to a message that it took; None for 204."""
        self.gate: threading.Event | None = None
        """Where it is set, an answer waits for it."""

    @property
    def hook(self) -> str:
        """Where it takes messages."""
        return f"{self.url}/hook"

    @property
    def types(self) -> list[str]:
        """The events that came, in their order."""
        return [payload["type"] for _, payload in self.messages]

    def data(self, event: str) -> list[Any]:
        """What was said about each event of that name."""
        return [payload["data"] for _, payload in self.messages if payload["type"] == event]

    def handle(self, request: FakeRequest) -> FakeReply:
        if request.method != "POST" or request.header("Content-Type") != "application/json":
            return FakeReply(400)
        # Every secret that it knows has to fit: after a change both signatures are there.
        for secret in self.secrets:
            Webhook(secret).verify(request.body, dict(request.headers.items()))
        with self.lock:
            self.messages.append((request.header("webhook-id"), request.json()))
        if self.gate is not None:
            self.gate.wait(10)
        return self.reply or FakeReply(204)
