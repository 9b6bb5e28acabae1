"""`switchhook cache`: what is kept, keeping answers ready, and forgetting them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.integration.cli_support import Operator, operator
from webapp.cli import context
from webapp.models import Request
from webapp.pipeline import kept, sorting
from webapp.pipeline.admit import admit
from webapp.pipeline.execute import execute
from webapp.pipeline.intake import Intake

__all__ = ["operator"]

ADMIN = "admin@example.com"


@pytest.fixture(autouse=True)
def vendor(openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> FakeOpenAI:
    monkeypatch.setenv("SECRET_KEY", "for tests only")
    monkeypatch.setenv("SWITCHHOOK_CHAT_MODEL", "openai/gpt-4.1-mini")
    monkeypatch.setenv("SWITCHHOOK_RETRIES", "0")
    return openai


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as connection:
        yield connection


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.txt"
    path.write_text("# often asked\nHow high is the tower?\n\nWho built it?\n", "utf-8")
    return path


@pytest.fixture
def shared(operator: Operator, questions: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """An operator whose installation shares answers within the organization and names the file of questions."""
    monkeypatch.setenv("SWITCHHOOK_CACHE_SCOPE", "organization")
    monkeypatch.setenv("SWITCHHOOK_CACHE_WARM_FILE", str(questions))
    return operator


def ask(prompt: str) -> bool:
    """A colleague of the administrator asks; whether a kept answer served them."""
    from sqlalchemy import select

    from tests.support import add_person
    from webapp.extensions import db
    from webapp.services import people

    with context.application():
        with db.session() as session:
            known = session.scalar(select(people.Person.id).where(people.Person.email == "alice@example.com"))
        who = known or add_person(email="alice@example.com", plan="premium")
        request_id = admit(Intake(medium="web", text=prompt, person_id=who, new_conversation=True)).request_id
        assert request_id is not None
        assert execute(request_id)
        return bool(db.session.scalar(select(Request.cached).where(Request.id == request_id)))


# -- status --------------------------------------------------------------------------------------------------------------
def test_status_of_a_new_installation(operator: Operator) -> None:
    shown = operator.ok("cache", "status")
    assert "the same person" in shown
    assert "chat 300 s" in shown
    assert re.search(r"^kept now +0$", shown, re.M)
    assert re.search(r"^used in the last 24 hours +0$", shown, re.M)
    assert "kept ready" not in shown


def test_status_counts_answers_hits_and_what_they_would_have_cost(shared: Operator) -> None:
    assert [ask("How high is the tower?") for _ in range(3)] == [False, True, True]
    found = shared.json("cache", "status")
    ((cost,),) = shared.rows("SELECT max(cost_microusd) FROM request")
    assert cost > 0
    assert found["last_24_h"] == {"hits": 2, "known": 2, "cost_microusd": 2 * cost}
    assert (found["scope"], found["kept"]) == ("organization", 1)
    assert (found["warm_up"]["questions"], found["warm_up"]["ready"], found["warm_up"]["fault"]) == (2, 1, "")
    shown = shared.ok("cache", "status")
    assert "would have cost" in shown
    assert "1 of 2 questions" in shown


def test_status_says_when_redis_is_away_and_when_the_warm_up_makes_no_sense(
    shared: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "unix:///nowhere/at/all.sock")
    found = shared.json("cache", "status")
    assert found["kept"] is None
    assert "Redis" in found["warm_up"]["fault"]
    assert "unknown" in shared.ok("cache", "status")
    monkeypatch.setenv("SWITCHHOOK_CACHE_SCOPE", "person")
    assert "SWITCHHOOK_CACHE_SCOPE=organization" in shared.ok("cache", "status")


# -- warm ----------------------------------------------------------------------------------------------------------------
def test_warm_answers_what_is_missing_without_a_worker(shared: Operator, vendor: FakeOpenAI) -> None:
    shown = shared.ok("cache", "warm")
    assert "2 questions: 2 answered now. Cost $" in shown
    assert len(vendor.calls) == 2
    assert shared.rows("SELECT channel, status FROM request") == [("warmup", "completed")] * 2
    assert ask("Who built it?")
    assert "2 questions: 2 kept already." in shared.ok("cache", "warm")
    assert len(vendor.calls) == 2


def test_warm_works_beside_a_worker(shared: Operator, vendor: FakeOpenAI) -> None:
    with shared.worker():
        found = shared.json("cache", "warm")
    assert (found["good"], found["fates"]["answered"], found["kept_before"]) == (True, 2, 0)
    assert len(vendor.calls) == 2


def test_warm_takes_another_file(shared: Operator, vendor: FakeOpenAI, tmp_path: Path) -> None:
    path = tmp_path / "other.txt"
    path.write_text("What is the time?\n" + "x" * 16_001 + "\n")
    result = shared("cache", "warm", str(path))
    assert result.exit_code == 0
    assert "1 question: 1 answered now" in result.stdout
    assert "Line 2 is left out" in result.stderr
    assert vendor.calls[0]["messages"][-1]["content"] == "What is the time?"


def test_warm_fails_if_a_question_has_no_answer_in_the_end(shared: Operator, vendor: FakeOpenAI) -> None:
    vendor.faults.append(Fault(status=400, body=b'{"error":{"message":"no"}}'))
    result = shared("cache", "warm")
    assert result.exit_code == 1
    assert "1 answered now, 1 failed" in result.stdout


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("SWITCHHOOK_CACHE_SCOPE", "person", "SWITCHHOOK_CACHE_SCOPE=organization"),
        ("SWITCHHOOK_CACHE_CHAT_S", "0", "SWITCHHOOK_CACHE_CHAT_S"),
        ("SWITCHHOOK_CACHE_WARM_FILE", "", "SWITCHHOOK_CACHE_WARM_FILE"),
        ("SWITCHHOOK_CACHE_WARM_FILE", "/nowhere/at/all.txt", "There is no file"),
        ("REDIS_URL", "unix:///nowhere/at/all.sock", "Redis"),
    ],
)
def test_warm_says_what_to_change(
    shared: Operator, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    monkeypatch.setenv(variable, value)
    result = shared("cache", "warm")
    assert result.exit_code == 1
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


# -- clear ---------------------------------------------------------------------------------------------------------------
def test_clear_forgets_answers_and_opinions_and_is_in_the_audit_trail(shared: Operator, client: redis.Redis) -> None:
    shared.ok("cache", "warm")
    client.set(f"{sorting.PREFIX}x", "{}")
    client.set("switchhook:other", "stays")
    assert "2 kept answers and 1 opinion of" in shared.ok("cache", "clear", "--yes")
    assert client.keys(f"{kept.PREFIX}*") == client.keys(f"{sorting.PREFIX}*") == []
    assert client.get("switchhook:other") == b"stays"
    ((action, subject),) = shared.rows("SELECT action, subject FROM audit_entry WHERE action LIKE 'cache%'")
    assert (action, subject) == ("cache.clear", "cache")
    assert not ask("Who built it?")


def test_clear_asks_first(shared: Operator, client: redis.Redis) -> None:
    shared.ok("cache", "warm")
    assert shared("cache", "clear", given="n\n").exit_code == 1
    assert len(client.keys(f"{kept.PREFIX}*")) == 2
    assert shared.ok("cache", "clear", given="y\n").startswith("Forgotten: 2")
    assert shared.json("cache", "clear", "--yes") == {"answers": 0, "opinions": 0}


def test_clear_says_when_redis_is_away(shared: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "unix:///nowhere/at/all.sock")
    result = shared("cache", "clear", "--yes")
    assert result.exit_code == 2
    assert "Redis" in result.stderr
    assert shared.rows("SELECT action FROM audit_entry WHERE action LIKE 'cache%'") == []
