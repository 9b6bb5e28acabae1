"""Bodies that are large or many-membered: refused early, at the cost of a moment."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from tests.integration.api_support import bearer, token_for
from tests.integration.web_support import ALICE, Site
from webapp.api import base
from webapp.api.problems import BadJson

MOST_S = 3.0
"""Of processor, on a machine that is busy with other tests; alone it is below one."""


@pytest.fixture
def database_url(tmp_path: Any, migrated_sqlite: Any) -> str:
    (tmp_path / "switchhook.db").write_bytes(migrated_sqlite.read_bytes())
    return f"sqlite:///{tmp_path / 'switchhook.db'}"


def names(count: int) -> str:
    return "{" + ",".join(f'"k{number}":1' for number in range(count)) + "}"


def lists(of: str, count: int) -> str:
    """So many values, in lists that are short enough."""
    return "[" + ",".join(["[" + ",".join([of] * 9_000) + "]"] * (count // 9_001)) + "]"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (names(1_001), "more than 1,000 names"),
        (names(99_000), "more than 1,000 names"),
        (names(1_900_000), "too many values"),
        (lists('"a"', 110_000), "too many values"),
        ("[" + "[]," * 8_000_000 + "[]]", "too many values"),
        ("[" + '"",' * 8_000_000 + '""]', "too many values"),
        ("[" * 25_000_000, "too many values"),
        ("[" + ",".join(["1"] * 10_001) + "]", "more than 10,000 items"),
    ],
    ids=["1001 names", "99000 names", "many names", "many values", "empty lists", "empty texts", "brackets", "items"],
)
def test_a_body_with_too_much_in_it_is_refused_at_once(body: str, said: str) -> None:
    raw = body.encode()
    begun = time.process_time()
    with pytest.raises(BadJson, match=said):
        base.parse_json(raw)
    assert time.process_time() - begun < MOST_S


def test_what_looks_like_structure_in_a_text_is_a_text() -> None:
    for text in ('[{,"' * 100_000, "\\" * 100_000 + '"[,' * 60_000, ",\\" * 200_000):
        assert base.parse_json(json.dumps({"text": text, "list": [1] * 10_000}).encode())["text"] == text
    exactly = json.loads(lists("7", base.VALUES_MAX - 20_000))
    assert base.parse_json(json.dumps(exactly).encode()) == exactly


def test_only_what_takes_pictures_and_conversations_takes_large_bodies(make_app: Callable[..., Flask]) -> None:
    site = Site(make_app())
    site.add(ALICE)
    headers = bearer(token_for(site.app, ALICE, "write", "chat"))

    def send(path: str, body: str) -> tuple[TestResponse, float]:
        begun = time.process_time()
        answer = site.app.test_client().post(path, data=body, headers=headers, content_type="application/json")
        return answer, time.process_time() - begun

    large = json.dumps({"name": "x" * base.SMALL_BODY})
    assert send("/api/tokens", large)[0].status_code == 413
    assert send("/api/tasks", large)[0].status_code == 422
    # The worst that each part of the API still reads.
    wrong = ",".join(["{" + ",".join(f'"k{number}":1' for number in range(990)) + "}"] * 20)
    answer, seconds = send("/api/tokens", f'{{"name":"x","scopes":["read"],"limits":[{wrong}]}}')
    assert (answer.status_code, seconds < MOST_S) == (422, True), seconds
    for message in ('{"role":"user","content":[' + ",".join(["1"] * 9_000) + "]}", names(990)):
        messages = ",".join([message] * (base.VALUES_MAX // (message.count(",") + 8)))
        answer, seconds = send("/v1/chat/completions", f'{{"model":"auto","messages":[{messages}]}}')
        assert (answer.status_code, seconds < MOST_S) == (400, True), (seconds, answer.text[:200])
    answer, seconds = send("/api/batches", '{"rows":[' + ",".join(["1"] * 10_001) + "]}")
    assert (answer.status_code, answer.get_json()["code"], seconds < MOST_S) == (422, "bad_input", True), answer.text[:300]
    answer, seconds = send("/api/batches", '{"rows":[' + ",".join(['{"a":"b"}'] * 10_001) + "]}")
    assert (answer.status_code, seconds < MOST_S) == (403, True), "this plan has no batches, and the body was read"
    assert send("/api/batches", '{"rows":[' + ",".join(["1"] * 10_002) + "]}")[0].get_json()["code"] == "bad_json"
