"""How many attended calls run at once: for all together, and for each token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from tests.fakes.openai import FakeOpenAI
from tests.fakes.vendor import Trouble
from tests.integration.v1_support import CHAT, HELLO, MESSAGES, V1
from webapp.api.v1 import chat

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

IMAGES = "/v1/images/generations"


@pytest.fixture
def v1(openai: FakeOpenAI, make_app: Callable[..., Flask]) -> V1:
    return V1(make_app(chat_model="openai/gpt-4.1-mini", retries=0, web_threads=8))


def opened(v1: V1, path: str, token: str, **headers: str) -> TestResponse:
    """A call for a stream, which is open until its answer is closed."""
    body = {"model": "auto", "max_tokens": 50, "messages": HELLO, "stream": True}
    given = {"Authorization": f"Bearer {token}"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return v1.app.test_client().post(path, json=body, headers=given, buffered=False)


def test_open_streams_leave_threads_to_others_and_to_health(v1: V1) -> None:
    one, two, three = (v1.make_token("chat") for _ in range(3))
    held = [opened(v1, CHAT, one), opened(v1, MESSAGES, one), opened(v1, CHAT, one, Idempotency_Key="k")]
    made = v1.counts()[0]
    for stream in (True, False):
        v1.token = one
        refused = v1.chat(stream=stream)
        assert (refused.status_code, refused.get_json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert (refused.headers["Retry-After"], refused.headers["x-should-retry"]) == ("2", "true")
    refused = v1.message()
    assert (refused.status_code, refused.get_json()["error"]["type"]) == (429, "rate_limit_error")
    # What has a share of its own goes on, until there is no seat for anybody.
    held += [opened(v1, CHAT, two) for _ in range(3)]
    assert [answer.status_code for answer in held] == [200] * 6
    v1.token = three
    refused = v1.chat()
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (503, "server_overloaded")
    assert (refused.headers["Retry-After"], refused.headers["x-should-retry"]) == ("5", "true")
    refused = v1.message()
    assert (refused.status_code, refused.get_json()["error"]["type"]) == (529, "overloaded_error")
    assert v1.post(IMAGES, {"prompt": "a cat"}).status_code == 503
    assert v1.get("/v1/models").status_code == 200
    assert v1.client.get("/health/live").status_code == 200
    assert v1.counts()[0] == made + 3, "a call without a seat was admitted"
    # Some are read to their end, some hung up, one before its first byte: each gives its seat back, and once.
    for number, answer in enumerate(held):
        for count, _ in enumerate(answer.response):
            if number < 2 and count == number:
                break
            if number == 5:
                break
        answer.close()
        answer.close()
    seats = v1.app.extensions["switchhook.seats"]
    assert (seats._lent, seats._attended, seats._bodies) == (0, {}, 0)
    assert v1.chat().status_code == 200


def test_a_seat_comes_back_however_a_call_ends(v1: V1, openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    seats, mine = v1.app.extensions["switchhook.seats"], v1.token

    def ends(answer: TestResponse, *statuses: int) -> None:
        assert answer.status_code in statuses, answer.text
        answer.close()
        assert (seats._lent, seats._attended, seats._bodies, seats._senders) == (0, {}, 0, {}), answer.text

    ends(v1.chat(), 200)
    ends(v1.message(), 200)
    ends(v1.post(IMAGES, {"prompt": "a cat"}), 200, 503, 400, 502)
    ends(v1.chat([]), 400)
    v1.token = "sh_unknown"
    ends(v1.chat(), 401)
    ends(v1.post(CHAT, b"x" * 300_000), 401)
    v1.token = mine
    ends(opened(v1, CHAT, mine), 200)
    for stream in (True, False):
        openai.faults.extend(fault for fault in [openai.trouble(Trouble.BAD_REQUEST)] * 9 if fault)
        ends(v1.chat(stream=stream), 400)
        openai.faults.clear()
        ends(v1.message(stream=stream), 200)

    def broken(*_: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(chat, "admit", broken)
    v1.app.config["PROPAGATE_EXCEPTIONS"] = False
    ends(v1.chat(stream=True), 500)
    ends(v1.message(), 500)
