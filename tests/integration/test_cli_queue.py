"""`switchhook queue`."""

from __future__ import annotations

import json
import re

import pytest

from tests.integration.cli_support import SENDER, Operator, fresh_operator, operator  # noqa: F401
from tests.support import text
from webapp.cli import context

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_the_queues_are_shown_as_a_table_and_what_is_missing_is_said(operator: Operator) -> None:  # noqa: F811
    told = operator.ok("queue")
    assert re.search(r"queue\s+requests\s+jobs in Redis", told)
    assert "No worker is at work: start one with `switchhook worker`" in told
    assert "0 running, 0 of 0 slots in use" in told


def test_what_waits_and_who_works_is_there_in_json(operator: Operator) -> None:  # noqa: F811
    with context.application():
        text("How do I reverse a list?", SENDER)
    found = operator.json("queue")
    assert [line["name"] for line in found["queues"]] == ["high", "normal", "low"]
    assert sum(line["in_database"] for line in found["queues"]) == 1
    assert found["waiting"][0]["operation"] == "chat"
    assert found["workers"] == []
    with operator.worker():
        working = operator.json("queue")
        assert working["workers"][0]["slots"] == 4
        assert working["workers"][0]["memory_bytes"] > 10_000_000
        assert working["slots"] == 4
        assert "of 4" in operator.ok("queue")
    assert operator.json("queue")["workers"] == []


def test_watching_goes_on_until_it_is_interrupted(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("webapp.cli.queue.time.sleep", sleep)
    told = operator.ok("queue", "--watch", "--json", "--every", "0.5")
    assert looks == [0.5] * 3
    decoder, documents = json.JSONDecoder(), []
    while told.strip():
        document, end = decoder.raw_decode(told.lstrip())
        documents.append(document)
        told = told.lstrip()[end:]
    assert len(documents) == 3


def test_while_redis_is_away_the_database_is_told(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("REDIS_URL", "unix:///nowhere")
    assert "Redis does not answer" in operator.ok("queue")
    assert operator.json("queue")["redis"] is False
