"""What else there is under `/v1`: models, pictures, repetitions by a key, and what is not served."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine
from flask import Flask
from sqlalchemy import event

from tests.fakes.openai import FakeOpenAI
from tests.fakes.openai_images import FakeOpenAIImages
from tests.fakes.vendor import Trouble
from tests.integration.v1_support import CHAT, HELLO, MESSAGES, V1, chunks
from tests.integration.vendor_support import add_rule, set_provider
from webapp.api.v1 import naming, ratelimits
from webapp.api.v1.ratelimits import Standing
from webapp.contracts.limits import Dimension
from webapp.extensions import db

IMAGES = "/v1/images/generations"
CLAUDE = {"anthropic-version": "2023-06-01"}


@pytest.fixture
def database_url(tmp_path: Path, migrated_sqlite: Path) -> str:
    """SQLite alone: the statements are those of the road, and of the REST API."""
    shutil.copy(migrated_sqlite, tmp_path / "switchhook.db")
    return f"sqlite:///{tmp_path / 'switchhook.db'}"


@pytest.fixture
def v1(openai: FakeOpenAI, make_app: Callable[..., Flask]) -> V1:
    return V1(make_app(chat_model="openai/gpt-4.1-mini", retries=0))


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch, make_app: Callable[..., Flask]) -> Iterator[tuple[V1, FakeOpenAIImages]]:
    with FakeOpenAIImages() as fake:
        for name, value in fake.settings.items():
            monkeypatch.setenv(name, value)
        yield V1(make_app(public_url="http://localhost:8000", retries=0)), fake


# -- models --------------------------------------------------------------------------------------------------------------
def test_models_are_listed_in_both_shapes_and_each_can_be_asked_for(v1: V1, openai: FakeOpenAI) -> None:
    with v1.app.app_context():
        add_rule(1, "openai/gpt-4.1-nano", category="poetry")
        set_provider("demo", enabled=False)
    listed = v1.get("/v1/models").get_json()
    names = {each["id"]: each for each in listed["data"]}
    assert listed["object"] == "list"
    assert {"auto", "auto:coding", "auto:poetry", "openai/gpt-4.1-mini", "openai/gpt-4.1-nano"} <= set(names)
    assert all(set(each) >= {"id", "object", "created", "owned_by"} and each["object"] == "model" for each in listed["data"])
    assert not [name for name in names if name.startswith("demo/")]
    assert [name for name, each in names.items() if each["operation"] == "image"]
    assert names["openai/gpt-4.1-mini"]["context_window"] == 1_047_576
    with v1.app.app_context():
        for name, each in names.items():
            naming.parameters_of(name, images=each["operation"] == "image")
    for name in ("auto", "openai/gpt-4.1-mini", "gpt-4.1-mini"):
        found = v1.get(f"/v1/models/{name}")
        assert (found.status_code, found.get_json()["object"]) == (200, "model"), name
    assert v1.get("/v1/models/nobody/nothing").get_json()["error"]["code"] == "model_not_found"
    assert openai.requests == []

    first = v1.get("/v1/models?limit=2", **CLAUDE).get_json()
    assert (len(first["data"]), first["has_more"], first["first_id"]) == (2, True, "auto")
    second = v1.get(f"/v1/models?limit=1000&after_id={first['last_id']}", **CLAUDE).get_json()
    assert second["has_more"] is False
    ids = [each["id"] for each in first["data"] + second["data"]]
    assert ids == [name for name, each in names.items() if each["operation"] == "chat"]
    back = v1.get(f"/v1/models?limit=1&before_id={ids[2]}", **CLAUDE).get_json()
    assert ([each["id"] for each in back["data"]], back["has_more"]) == ([ids[1]], True)
    assert v1.get("/v1/models/auto", **CLAUDE).get_json()["type"] == "model"
    for query in ("limit=0", "limit=x", "limit=1001", "after_id=none", "before_id=none"):
        refused = v1.get(f"/v1/models?{query}", **CLAUDE)
        assert (refused.status_code, refused.get_json()["type"]) == (400, "error"), query
    read_only = v1.make_token("read")
    assert v1.get("/v1/models", Authorization=f"Bearer {read_only}").status_code == 200
    assert v1.get("/v1/models", Authorization=f"Bearer {v1.make_token('sms')}").status_code == 403


# -- pictures ------------------------------------------------------------------------------------------------------------
def test_a_picture_is_made_while_the_caller_waits(pictures: tuple[V1, FakeOpenAIImages]) -> None:
    v1, fake = pictures
    answer = v1.post(IMAGES, {"prompt": "a cat", "model": f"openai/{fake.model}", "size": "1536x1024", "n": 1, "quality": "hd"})
    given, row = answer.get_json(), v1.newest()
    assert answer.status_code == 200, answer.text
    (made,) = given["data"]
    assert base64.b64decode(made["b64_json"]).startswith(b"\x89PNG")
    assert given["usage"]["total_tokens"] == row.input_tokens + row.output_tokens > 0
    assert (row.operation, row.status, row.parameters["width"]) == ("image.generate", "completed", 1536)
    assert answer.headers["x-switchhook-ignored"] == "quality"
    assert answer.headers["x-switchhook-request"] == str(row.id)
    assert v1.counts() == (1, 1, 0)
    by_address = v1.post(IMAGES, {"prompt": "a cat", "size": "auto", "response_format": "url"}).get_json()["data"][0]["url"]
    assert by_address.startswith("http://localhost:8000/api/pictures/")
    with v1.get(by_address.removeprefix("http://localhost:8000")) as seen:
        assert (seen.status_code, seen.data[:4]) == (200, b"\x89PNG")
    twice = [v1.post(IMAGES, {"prompt": "a dog"}, Idempotency_Key="k") for _ in range(2)]
    assert twice[0].get_json() == twice[1].get_json()
    assert (twice[1].headers["Idempotent-Replayed"], v1.counts()) == ("true", (3, 3, 0))
    fault = fake.trouble(Trouble.POLICY)
    assert fault is not None
    fake.faults.append(fault)
    refused = v1.post(IMAGES, {"prompt": "a cat"})
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (400, "content_policy_violation")


# -- what is not served --------------------------------------------------------------------------------------------------
def test_what_is_not_served_says_what_to_use_instead(v1: V1) -> None:
    for method, path, words in (
        ("POST", "/v1/embeddings", "embeddings"),
        ("POST", "/v1/completions", "/v1/chat/completions"),
        ("POST", "/v1/responses", "/v1/chat/completions"),
        ("GET", "/v1/responses/resp_1", "/v1/chat/completions"),
        ("POST", "/v1/audio/speech", "sound"),
        ("POST", "/v1/audio/transcriptions", "sound"),
        ("POST", "/v1/moderations", "/v1/chat/completions"),
        ("POST", "/v1/images/edits", "/v1/images/generations"),
        ("GET", "/v1/files", "data URLs"),
    ):
        answer = v1.client.open(path, method=method, json={})
        error = answer.get_json()["error"]
        assert (answer.status_code, error["code"]) == (404, "unsupported_endpoint"), path
        assert words in error["message"]
        assert answer.headers["x-request-id"]
    for path in ("/v1", "/v1/", "/v1/nothing", "/v1/chat", "/v1/chat/completions/x"):
        answer = v1.client.post(path, json={})
        assert (answer.status_code, answer.get_json()["error"]["code"]) == (404, "unknown_url"), path
    batches = v1.client.post("/v1/messages/batches", json={})
    assert (batches.status_code, batches.get_json()["error"]["type"]) == (404, "not_found_error")
    assert v1.client.get(CHAT).get_json()["error"]["code"] == "method_not_allowed"


# -- repetitions ---------------------------------------------------------------------------------------------------------
def test_a_repeated_call_gets_the_first_answer(v1: V1, openai: FakeOpenAI) -> None:
    streamed = {"stream": True}
    for path, more in ((CHAT, {}), (CHAT, streamed), (MESSAGES, {"max_tokens": 9}), (MESSAGES, {"max_tokens": 9} | streamed)):
        body, key = {"model": "auto", "messages": HELLO} | more, f"{path}{more}".replace(" ", "")
        before = len(openai.calls)
        first = v1.post(path, body, Idempotency_Key=key)
        said = first.text
        again = v1.post(path, body, Idempotency_Key=key)
        assert (first.status_code, said) == (again.status_code, again.text) == (200, again.text), path
        assert "Idempotent-Replayed" not in first.headers
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.mimetype == first.mimetype
        assert len(openai.calls) == before + 1
        other = v1.post(path, body | {"temperature": 0.5}, Idempotency_Key=key)
        assert other.status_code == 400, other.text
        assert "Idempotency-Key" in other.get_json()["error"]["message"]
    assert v1.counts() == (4, 4, 0)
    assert v1.post(CHAT, {"model": "auto", "messages": HELLO}, Idempotency_Key="a b").status_code == 400
    assert v1.post(CHAT, {}, Idempotency_Key="k", Authorization="Bearer sh_wrong").status_code == 401


def test_a_call_that_failed_may_be_tried_again_with_its_key(v1: V1, openai: FakeOpenAI) -> None:
    fault = openai.trouble(Trouble.DOWN)
    assert fault is not None
    body = {"model": "auto", "messages": HELLO}
    openai.faults.append(fault)
    assert v1.post(CHAT, body, Idempotency_Key="k1").status_code == 503
    assert v1.post(CHAT, body, Idempotency_Key="k1").status_code == 200
    wrong = [v1.post(CHAT, {"model": "nothing", "messages": HELLO}, Idempotency_Key="k2") for _ in range(2)]
    assert [each.status_code for each in wrong] == [404, 404]
    assert wrong[1].headers["Idempotent-Replayed"] == "true"
    assert wrong[0].get_json() == wrong[1].get_json()


# -- doors ---------------------------------------------------------------------------------------------------------------
def test_nobody_is_looked_up_before_the_road_does(v1: V1, openai: FakeOpenAI) -> None:
    said: list[str] = []
    v1.message()
    with v1.app.app_context():
        engine = db.engine

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        said.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        assert v1.message().status_code == 200
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert [statement for statement in said if statement.startswith("SELECT") and "api_token" in statement] == []


@time_machine.travel("2027-01-04T12:20:20+00:00")
def test_limits_on_calls_are_told_as_openais_clients_know_them(openai: FakeOpenAI, make_app: Callable[..., Flask]) -> None:
    v1 = V1(make_app(chat_model="openai/gpt-4.1-mini", throttle_v1_per_min=2))
    answers = [v1.chat() for _ in range(3)]
    assert [each.status_code for each in answers] == [200, 200, 429]
    assert [each.headers["x-ratelimit-remaining-requests"] for each in answers] == ["1", "0", "0"]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "2"
    assert answers[0].headers["x-ratelimit-reset-requests"].endswith("s")
    error = answers[2].get_json()["error"]
    assert (error["code"], error["type"]) == ("too_many_requests", "rate_limit_error")
    assert 0 < int(answers[2].headers["Retry-After"]) <= 60
    refused = v1.message()
    assert (refused.status_code, refused.get_json()["error"]["type"]) == (429, "rate_limit_error")
    assert chunks(
        v1.post(CHAT, {"model": "auto", "messages": HELLO, "stream": True}, Authorization=f"Bearer {v1.make_token('chat')}")
    )


def test_headers_tell_of_the_tightest_limits() -> None:
    at = datetime(2027, 1, 1, 12, tzinfo=UTC)
    told = ratelimits.of_limits(
        [
            Standing(Dimension.REQUESTS, 100, 40, at + timedelta(days=1)),
            Standing(Dimension.REQUESTS, 20, 25, at + timedelta(minutes=6)),
            Standing(Dimension.TOKENS, 1000, 1, at + timedelta(seconds=0.12)),
            Standing(Dimension.COST, 5, 1, at),
        ],
        at,
    )
    assert told == {
        "x-ratelimit-limit-requests": "20",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "6m0s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "999",
        "x-ratelimit-reset-tokens": "120ms",
    }
    assert [ratelimits.duration(seconds) for seconds in (-1, 0, 0.5, 1, 59.1, 3600, 90_061)] == [
        "0s", "0s", "500ms", "1s", "1m0s", "1h0m0s", "25h1m1s",
    ]  # fmt: skip
    assert json.dumps(dict(ratelimits.of_calls(5, 9, 61.0))).count("1m1s") == 1
