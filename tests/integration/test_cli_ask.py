"""`switchhook ask` and `switchhook draw`: the whole road from the command line."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.fakes.stability import FakeStability
from tests.fakes.vendor import Trouble, tiny_png
from tests.integration.cli_support import Operator, operator
from webapp.pipeline import words

__all__ = ["operator"]

ADMIN = "admin@example.com"


@pytest.fixture(autouse=True)
def _one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where Switchhook was started before: kept answers are signed with its key."""
    monkeypatch.setenv("SECRET_KEY", "for tests only")


@pytest.fixture
def stability(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStability]:
    with FakeStability() as fake:
        for name, value in fake.settings.items():
            monkeypatch.setenv(name, value)
        yield fake


@pytest.fixture
def seeing(openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> FakeOpenAI:
    """An OpenAI whose model sees pictures."""
    monkeypatch.setenv("OPENAI_MODEL", "gpt-4.1-mini")
    return openai


def balanced(operator: Operator) -> None:
    [(used,)] = operator.rows("SELECT COALESCE(SUM(cost_microusd), 0) FROM ledger_entry WHERE payer='person'")
    [(said,)] = operator.rows("SELECT COALESCE(SUM(cost_microusd), 0) FROM request")
    assert used == said
    assert operator.rows("SELECT id FROM hold WHERE settled_at IS NULL") == []


# -- ask -----------------------------------------------------------------------------------------------------------------
def test_an_answer_goes_to_standard_output_and_the_line_about_it_to_standard_error(
    operator: Operator, openai: FakeOpenAI
) -> None:
    result = operator("ask", "Are you there?", "--model", "openai/gpt-4.1-mini")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{openai.text}\n"
    assert "openai/" in result.stderr
    assert "by the request itself" in result.stderr
    assert "tokens in" in result.stderr
    assert "a new answer" in result.stderr
    [(who, channel, status, prompt)] = operator.rows(
        "SELECT p.email, r.channel, r.status, r.prompt FROM request r JOIN person p ON p.id = r.person_id"
    )
    assert (who, channel, status, prompt) == (ADMIN, "cli", "completed", "Are you there?")
    balanced(operator)


def test_the_same_question_again_gets_the_kept_answer_unless_a_fresh_one_is_wanted(
    operator: Operator, openai: FakeOpenAI
) -> None:
    first = operator.json("ask", "Are you there?")
    again = operator.json("ask", "Are you there?")
    assert (first["cached"], again["cached"]) == (False, True)
    assert again["answer"] == first["answer"]
    assert again["cost_microusd"] == 0
    assert "a kept answer" in operator("ask", "Are you there?").stderr
    assert len(openai.calls) == 1
    assert operator.json("ask", "Are you there?", "--fresh")["cached"] is False
    assert len(openai.calls) == 2


def test_it_counts_on_the_limits_of_whoever_asks(operator: Operator, openai: FakeOpenAI) -> None:
    operator.ok("person", "create", "--email", "alice@example.com")
    operator.ok("ask", "Hello", "--as", "alice@example.com")
    with operator.database() as connection:
        connection.execute(text("UPDATE plan SET limits=:l WHERE code='free'"), {"l": json.dumps({"messages": 1})})
    refused = operator("ask", "Hello again", "--as", "alice@example.com")
    assert refused.exit_code == 1
    assert "You have used" in refused.stderr
    assert len(openai.calls) == 1
    nobody = operator("ask", "Hello", "--as", "nobody@example.com")
    assert nobody.exit_code == 1
    assert "There is no person" in nobody.stderr


def test_a_prompt_can_come_from_standard_input(operator: Operator, openai: FakeOpenAI) -> None:
    operator.ok("ask", "-", given="from a pipe\n")
    assert openai.calls[0]["messages"][-1]["content"] == "from a pipe"


def test_a_schema_and_pictures_reach_the_model(operator: Operator, seeing: FakeOpenAI) -> None:
    schema: dict[str, object] = {"type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"]}
    schema["additionalProperties"] = False
    (operator.folder / "schema.json").write_text(json.dumps(schema))
    (operator.folder / "teal.png").write_bytes(tiny_png())
    seeing.text = '{"colour": "teal"}'
    said = operator.json("ask", "What colour?", "--json-schema", "schema.json", "--picture", "teal.png")
    assert said["result"] == {"colour": "teal"}
    [call] = seeing.calls
    assert call["response_format"]["json_schema"]["schema"]["required"] == ["colour"]
    assert "image_url" in json.dumps(call["messages"][-1])


def test_the_log_stays_away_from_the_answer_unless_it_is_wanted(operator: Operator, openai: FakeOpenAI) -> None:
    openai.faults.append(Fault(status=400))
    failed = operator("ask", "Hello", "--model", "openai/gpt-4.1-mini")
    assert failed.exit_code == 1
    assert not any(word in failed.output for word in (" WARNING ", " ERROR ", " INFO "))
    assert failed.stderr.count("provider_rejected: ") == 1
    assert logging.root.manager.disable == logging.NOTSET
    assert operator("ask", "Hello", "-v").exit_code == 0


def test_a_picture_of_a_provider_that_does_not_exist_is_refused_before_anything_is_stored(operator: Operator) -> None:
    result = operator("draw", "a boat", "--model", "anthropic/x")
    assert result.exit_code == 1
    assert "There is no image provider 'anthropic'; there are " in result.stderr
    assert operator.rows("SELECT id FROM request") == []


def test_what_cannot_be_asked_is_said_before_anything_is_stored(operator: Operator, openai: FakeOpenAI) -> None:
    (operator.folder / "broken.json").write_text("{")
    (operator.folder / "list.json").write_text("[]")
    (operator.folder / "note.png").write_text("no picture")
    for arguments, fault in (
        (("--json-schema", "broken.json"), "broken.json is no JSON"),
        (("--json-schema", "list.json"), "holds no JSON Schema"),
        (("--picture", "note.png"), "note.png: This is not a picture"),
        (("--model", "Not A Model"), "model must be provider/model"),
        (("--model", "nosuch/x"), "There is no provider 'nosuch'; there are anthropic, "),
        (("--json-schema", "list.json", "--json-object"), "exclude each other"),
    ):
        result = operator("ask", "Hello", *arguments)
        assert result.exit_code != 0
        assert fault in result.stderr
    assert operator.rows("SELECT id FROM request") == []
    assert openai.calls == []


def test_a_failure_shows_what_the_person_is_told_and_what_is_true(
    operator: Operator, openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWITCHHOOK_CHAT_MODEL", "openai/gpt-4.1-mini")
    trouble = openai.trouble(Trouble.BAD_REQUEST)
    assert trouble is not None
    openai.faults.append(trouble)
    result = operator("ask", "Hello")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert words.failed("provider_rejected") in result.stderr
    assert "provider_rejected: " in result.stderr
    assert "1. openai/gpt-4.1-mini: failed provider_rejected" in result.stderr
    assert "sk-for-tests-only" not in result.stderr
    balanced(operator)


SLOW_LISTENER = """
import pathlib, time
from webapp.plugin import hookimpl

@hookimpl
def request_admitted(event):
    until = time.monotonic() + 20
    while not pathlib.Path("taken").exists() and time.monotonic() < until:
        time.sleep(0.01)
"""


def test_what_a_worker_took_first_is_followed_to_its_end(
    operator: Operator, openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins = operator.folder / "listeners"
    plugins.mkdir()
    (plugins / "slow_listener.py").write_text(SLOW_LISTENER)
    monkeypatch.setenv("SWITCHHOOK_PLUGINS_DIR", str(plugins))
    openai.text = "one two three four five six seven eight"
    openai.piece_delay_s = 0.05
    done = threading.Event()

    def tell() -> None:
        while not openai.calls and not done.wait(0.01):
            pass
        (operator.folder / "taken").touch()

    teller = threading.Thread(target=tell)
    teller.start()
    try:
        with operator.worker():
            result = operator("ask", "Hello", "--model", "openai/gpt-4.1-mini")
    finally:
        done.set()
        teller.join()
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{openai.text}\n"
    assert operator.rows("SELECT status, attempts FROM request") == [("completed", 1)]
    assert len(openai.calls) == 1


def _run(operator: Operator, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "webapp.cli", *arguments]
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command, cwd=operator.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_ctrl_c_cancels_at_once_what_a_silent_vendor_has_begun(operator: Operator, openai: FakeOpenAI) -> None:
    openai.faults.append(Fault(hang=True))
    asked = threading.Event()
    with _run(operator, "ask", "Hello", "--model", "openai/gpt-4.1-mini") as process:
        while not openai.requests and process.poll() is None:
            asked.wait(0.02)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130, stderr
    assert "Cancelled." in stderr
    assert "Traceback" not in stderr
    [(status, code, attempts)] = operator.rows("SELECT status, error_code, attempts FROM request")
    assert (status, code, attempts) == ("cancelled", "cancelled", 1)
    balanced(operator)


def test_ctrl_c_in_the_middle_of_an_answer_keeps_and_charges_what_was_written(operator: Operator, openai: FakeOpenAI) -> None:
    openai.text = " ".join(f"word{number}" for number in range(2000))
    openai.piece_delay_s = 0.02
    with _run(operator, "ask", "Hello", "--model", "openai/gpt-4.1-mini") as process:
        assert process.stdout is not None
        seen = process.stdout.read(5)
        process.send_signal(signal.SIGINT)
        rest, stderr = process.communicate(timeout=20)
    assert process.returncode == 130, stderr
    [(status, answer, cost)] = operator.rows("SELECT status, answer, cost_microusd FROM request")
    assert status == "cancelled"
    assert cost > 0
    assert (seen + rest).strip() == answer.strip()
    assert len(answer) < len(openai.text)
    balanced(operator)


def test_what_may_wait_says_until_when_and_is_not_asked_yet(operator: Operator, openai: FakeOpenAI) -> None:
    days = [datetime.now(UTC) + timedelta(days=number) for number in range(2)]
    with operator.database() as connection:
        connection.execute(
            text(
                'INSERT INTO provider_setting (provider, enabled, "values", limits, prices, peak_hours, updated_at) '
                "VALUES ('openai', :yes, '{}', '{}', '{}', :hours, '2026-01-01')"
            ),
            {"yes": True, "hours": ", ".join(f"{day:%a} 00:00-00:00" for day in days)},
        )
        connection.execute(text("INSERT INTO revision (subject, number) VALUES ('routing', 1)"))
    waiting = operator("ask", "Hello", "--when-cheap")
    assert waiting.exit_code == 0, waiting.output
    assert waiting.stdout == ""
    assert "It waits for cheaper hours, until 20" in waiting.stderr
    assert openai.calls == []
    [(status, not_before)] = operator.rows("SELECT status, not_before FROM request")
    assert status == "queued"
    assert not_before is not None
    assert operator("ask", "Hello").stdout == f"{openai.text}\n"


# -- draw ----------------------------------------------------------------------------------------------------------------
def test_a_picture_is_drawn_kept_and_written_to_a_file(operator: Operator, stability: FakeStability) -> None:
    result = operator("draw", "a boat", "--size", "1600x900", "--seed", "7", "--negative", "people", "--style", "anime")
    assert result.exit_code == 0, result.output
    data = tiny_png(16, 16)
    sha256 = hashlib.sha256(data).hexdigest()
    assert result.stdout == f"picture-{sha256[:8]}.png\n"
    assert (operator.folder / result.stdout.strip()).read_bytes() == data
    assert "stability/core" in result.stderr
    assert "1 picture · seed 7" in result.stderr
    assert "$0.03" in result.stderr
    [call] = stability.calls
    assert (call["aspect_ratio"], call["seed"], call["negative_prompt"]) == ("16:9", "7", "people")
    assert call["style_preset"] == "anime"
    assert (operator.folder / "pictures" / sha256[:2] / sha256).read_bytes() == data
    balanced(operator)


def test_a_picture_is_written_where_it_is_wanted_and_told_as_json(operator: Operator, stability: FakeStability) -> None:
    said = operator.json("draw", "a boat", "--model", "stability/core", "--out", "boat.png")
    assert said["status"] == "completed"
    assert said["files"] == ["boat.png"]
    assert said["pictures"][0]["seed"] == stability.seed
    assert (operator.folder / "boat.png").read_bytes() == tiny_png(16, 16)


def test_a_place_that_is_not_there_is_said_before_anything_is_paid(operator: Operator, stability: FakeStability) -> None:
    for arguments in (("--out", "nowhere/boat.png"), ("--size", "big"), ("--size", "10x10"), ("--seed", "-1")):
        assert operator("draw", "a boat", *arguments).exit_code != 0
    assert stability.calls == []
    assert operator.rows("SELECT id FROM request") == []


def test_a_filtered_picture_is_a_failure_with_its_reason(operator: Operator, stability: FakeStability) -> None:
    stability.filtered = True
    result = operator("draw", "a boat")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "content_refused: " in result.stderr
    assert list(operator.folder.glob("*.png")) == []
    balanced(operator)


def test_ctrl_c_cancels_a_picture_that_is_being_drawn(operator: Operator, stability: FakeStability) -> None:
    stability.first_delay_s = 60
    waited = threading.Event()
    with _run(operator, "draw", "a boat") as process:
        while not stability.calls and process.poll() is None:
            waited.wait(0.02)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130, stderr
    assert operator.rows("SELECT status FROM request") == [("cancelled",)]
    balanced(operator)


def test_what_a_question_may_cost_and_how_urgent_it_is_is_told_and_checked(operator: Operator) -> None:
    operator.ok("ask", "hello", "--allocation", "20", "--urgent")
    ((allotted, priority),) = operator.rows("SELECT allocation_millicredits, priority FROM request")
    assert (allotted, priority) == (20_000, 150), "administrators are on the plan with the highest priority, and urgent adds 50"
    refused = operator("ask", "hello", "--allocation", "9")
    assert refused.exit_code != 0
    assert "10 to 500" in refused.output
