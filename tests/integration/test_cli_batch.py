"""`switchhook batch`: the same batches from the command line."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.batch_support import table
from tests.integration.cli_support import Operator, operator
from webapp import create_app
from webapp.extensions import db
from webapp.jobs import schedule
from webapp.settings import read_settings

__all__ = ["operator"]
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ADA = "ada@example.com"


@pytest.fixture
def file(operator: Operator) -> Path:
    """A file of five prompts, and somebody who may have them asked."""
    operator.ok("person", "create", "--email", ADA, "--plan", "professional")
    path = operator.folder / "words.csv"
    path.write_text(table(5))
    return path


@contextmanager
def clock() -> Iterator[None]:
    """The scheduler at work, in a thread of this process."""
    app, stop = create_app(read_settings()), threading.Event()
    thread = threading.Thread(target=schedule.run, args=(app, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(20)
        with app.app_context():
            db.engine.dispose()
        for name in ("switchhook.redis", "switchhook.redis.waiting"):
            app.extensions[name].close()
    assert not thread.is_alive()


def test_a_file_is_run_to_its_end_by_the_clock_and_a_worker(operator: Operator, file: Path) -> None:
    with operator.worker(), clock():
        said = operator.json("batch", "create", str(file), "--person", ADA, "--yes", "--wait", "--template", "About {{prompt}}")
    assert (said["status"], said["counts"]["completed"], said["percent"]) == ("completed", 5, 100)
    lines = [json.loads(line) for line in operator.ok("batch", "results", said["id"], "--format", "jsonl").splitlines()]
    assert [line["n"] for line in lines] == ["1", "2", "3", "4", "5"]
    assert {line["status"] for line in lines} == {"completed"}
    out = operator.folder / "out.csv"
    operator.ok("batch", "results", said["id"], "--output", str(out))
    assert out.read_text(encoding="utf-8-sig").splitlines()[0] == "prompt,n,status,answer,model,tokens,cost_usd,error"
    assert "completed, 5 of 5 rows (100 %)" in operator.ok("batch", "show", said["id"])


def test_it_asks_before_it_starts_and_a_no_stores_it(operator: Operator, file: Path) -> None:
    said = operator.ok("batch", "create", str(file), "--person", ADA, "--name", "Mine", given="n\n")
    assert "5 rows, likely $" in said
    batch_id = said.rstrip().splitlines()[-1].split("`")[1].split()[-1]
    assert operator.json("batch", "show", batch_id)["status"] == "ready"
    assert operator.json("batch", "start", batch_id)["status"] == "running"
    assert operator.json("batch", "pause", batch_id)["status"] == "paused"
    assert operator.json("batch", "resume", batch_id)["status"] == "running"
    assert operator("batch", "cancel", batch_id, given="n\n").exit_code == 1
    assert operator.json("batch", "cancel", batch_id, "--yes")["status"] == "cancelled"
    twice = operator("batch", "cancel", batch_id, "--yes")
    assert (twice.exit_code, "was cancelled" in twice.output) == (1, True)
    [line] = operator.json("batch", "list", "--person", ADA)
    assert (line["name"], line["status"], line["owner"]) == ("Mine", "cancelled", ADA)
    assert "Mine" in operator.ok("batch", "list")
    actions = [row[0] for row in operator.rows("SELECT action FROM audit_entry WHERE action LIKE 'batch.%' ORDER BY id")]
    assert actions == ["batch.create", "batch.confirm", "batch.pause", "batch.resume", "batch.cancel"]


def test_faults_of_a_file_are_listed_and_nothing_is_stored(operator: Operator, file: Path) -> None:
    file.write_text("prompt,n\n" + ",1\n" * 120)
    result = operator("batch", "create", str(file), "--person", ADA, "--yes")
    assert result.exit_code == 1
    assert "Row 100 (line 101), column “prompt”: It is empty" in result.output
    assert "20 more" in result.output
    said = operator("batch", "create", str(file), "--person", ADA, "--yes", "--json")
    assert json.loads(said.stdout)["faults_total"] == 120
    assert operator.rows("SELECT count(*) FROM batch") == [(0,)]


def test_what_is_not_there_is_said_in_one_line(operator: Operator, file: Path) -> None:
    for arguments in (
        ("show", "01900000-0000-7000-8000-000000000000"),
        ("results", "01900000-0000-7000-8000-000000000000"),
        ("pause", "01900000-0000-7000-8000-000000000000"),
    ):
        result = operator("batch", *arguments)
        assert (result.exit_code, "There is no such batch." in result.output) == (1, True)
    operator.ok("person", "create", "--email", "free@example.com", "--plan", "free")
    refused = operator("batch", "create", str(file), "--person", "free@example.com", "--yes")
    assert (refused.exit_code, "does not include batches" in refused.output) == (1, True)
