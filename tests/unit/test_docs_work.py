"""What the pages about limits and jobs say in tables and examples is what the code has."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.unit.test_docs import CORE, ROOT, TEXTS, blocks
from webapp.models.jobs import REASONS
from webapp.models.people import PersonRole
from webapp.queues import QUEUES, queue_for
from webapp.quota.priority import OPERATION_POINTS, URGENT_POINTS
from webapp.services import schedule
from webapp.services.batch_files import Bounds, Reader, from_bytes
from webapp.services.batch_results import RESULT_COLUMNS
from webapp.services.batch_templates import Template
from webapp.settings import read_settings
from webapp.turns import cycle

JOBS, LIMITS = TEXTS["docs/jobs.md"], TEXTS["docs/limits.md"]


def table(page: str, head: str) -> list[list[str]]:
    """The rows of the table whose first row begins like this, without that row."""
    lines = page.partition(f"\n| {head}")[2].partition("\n\n")[0].splitlines()[2:]
    assert lines, head
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def migration(name: str) -> ModuleType:
    [path] = (ROOT / "migrations" / "versions").glob(f"*_{name}_*.py")
    spec = importlib.util.spec_from_file_location(f"migration_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- limits ------------------------------------------------------------------------------------------------------------
def test_the_plans_in_the_table_are_those_that_are_made() -> None:
    def shown(number: int | None) -> str:
        return "unlimited" if number is None else f"{number:,}"

    made = []
    for code, name, _, priority, *numbers in migration("0001")._PLANS:
        *counts, microusd, longest, earlier = numbers
        dollars = f"{microusd / 1e6:,.2f}".removesuffix(".00")
        features = "none" if code == "free" else "urgent, batch"
        made.append([name, f"`{code}`", *map(shown, counts), dollars, f"{longest:,}", f"{earlier:,}", str(priority), features])
    assert table(LIMITS, "plan | code") == made


def test_the_roles_in_the_table_are_those_that_there_are() -> None:
    assert [row[0] for row in table(LIMITS, "role | may")] == [f"`{role}`" for role in PersonRole]


# -- jobs --------------------------------------------------------------------------------------------------------------
def test_the_score_and_the_queues_are_as_the_tables_say() -> None:
    points = dict(table(JOBS, "part of the score"))
    for operation, count in OPERATION_POINTS.items():
        assert points[f"operation `{operation}`"] == str(count)
    assert len([part for part in points if part.startswith("operation ")]) == len(OPERATION_POINTS)
    assert points["marked as urgent, where the plan includes it"] == str(URGENT_POINTS)
    turns = cycle(len(QUEUES))
    rows = table(JOBS, "queue | score")
    assert [row[0] for row in rows] == [f"`{name}`" for name in QUEUES]
    assert [row[2] for row in rows] == [f"{turns.count(index)} of {len(turns)}" for index in range(len(QUEUES))]
    assert [queue_for(score) for score in (80, 79, 40, 39)] == ["high", "normal", "normal", "low"]
    assert [re.findall(r"\d+", row[1]) for row in rows] == [["80"], ["40", "79"], ["40"]]


def test_the_reasons_of_dead_letters_are_in_the_table_with_their_meanings() -> None:
    assert [tuple(row[:2]) for row in table(JOBS, "reason | meaning")] == [
        (f"`{name}`", text) for name, text in REASONS.items()
    ]


def test_what_runs_by_the_clock_is_in_the_table_with_its_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = read_settings()
    rows = table(JOBS, "task | how often")
    assert [(row[0], row[2]) for row in rows] == [(f"`{task.name}`", task.meaning) for task in schedule.TASKS]
    told = {1: "every second", 60: "every minute", 300: "every 5 minutes", 600: "every 10 minutes", 3600: "every hour"}
    for (_, often, _), task in zip(rows, schedule.TASKS, strict=True):
        every_s = task.every_s(settings)
        named = re.search(r"`(\w+)` seconds", often)
        assert CORE[named[1]].default == every_s if named else often.partition(",")[0] == told[int(every_s)]
        assert (", with `" in often) == bool(task.off_because)


def test_the_files_of_the_page_about_batches_are_taken() -> None:
    bounds = Bounds(10_000, 10_000)

    def taken(reader: Reader) -> list[str]:
        prompts = [row.prompt for row in reader]
        assert reader.faults.shown == []
        return prompts

    [places], [questions] = blocks(JOBS, "csv"), blocks(JOBS, "json")
    [template] = re.findall(r'places\.csv .*--template "([^"]+)"', JOBS)
    assert taken(from_bytes(places.encode(), "places.csv", Template.read(template), bounds)) == [
        "Write one sentence about The Lantern in Kiel.",
        "Write one sentence about Blue Door, upstairs in Bath.",
    ]
    assert taken(from_bytes(questions.encode(), "questions.jsonl", None, bounds)) == [
        "Name a colour of the sea.",
        "Name a colour of the sky.",
    ]
    assert ", ".join(f"`{name}`" for name in RESULT_COLUMNS) in JOBS
