"""What runs by the clock: who runs it, when it is due, what is known of its last runs, and who is told when it goes wrong."""

from __future__ import annotations

import html
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import time_machine
from flask import Flask

from tests.integration.cli_support import Operator, operator
from tests.integration.web_support import ALICE, HTMX, Site
from webapp.extensions import queue_redis
from webapp.jobs import schedule as clock
from webapp.jobs.schedule import Periodic
from webapp.services import doctor, health, schedule
from webapp.services.schedule import Leader, Run

__all__ = ["operator"]

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@dataclass
class Counted:
    released: int = 0
    not_told: str = "words"
    more: bool = False


def fail() -> None:
    words = ["written", "by", "a", "person"]
    raise LookupError(" ".join(reversed(words)))


def row(name: str) -> schedule.Row:
    return next(each for each in schedule.view().rows if each.name == name)


def lead(seconds_ago: float = 0.0) -> None:
    at = time.time() - seconds_ago
    schedule.keep_leader(queue_redis(), Leader("me", "a-machine", 4711, at, at))


# -- the list ------------------------------------------------------------------------------------------------------------
def test_every_task_exists_has_a_meaning_and_runs_in_an_empty_installation(
    make_app: Callable[..., Flask], tmp_path: Any
) -> None:
    questions = tmp_path / "questions.txt"
    questions.write_text("")
    with make_app(retention_days=1, cache_warm_file=questions).app_context():
        tasks = clock.periodics()
        assert [task.name for task in tasks] == [task.name for task in schedule.TASKS]
        assert all(task.meaning.endswith(".") for task in schedule.TASKS)
        for task in tasks:
            assert clock.do(task).error is None, task.name
        assert [each.error for each in schedule.view().rows] == [""] * len(tasks)


def test_what_is_switched_off_does_not_run_and_says_why(app: Flask) -> None:
    assert "retention" not in [task.name for task in clock.periodics()]
    assert row("retention").off == "SWITCHHOOK_RETENTION_DAYS is 0"
    assert row("sweep").off == ""


# -- one run -------------------------------------------------------------------------------------------------------------
def test_a_run_is_kept_with_its_figures_and_the_next_moment(app: Flask) -> None:
    before = time.time()
    clock.do(Periodic("sweep", 5, lambda: Counted(3)))
    found = row("sweep")
    assert found.last_at is not None
    assert found.next_at is not None
    assert before <= found.last_at.timestamp() <= time.time()
    assert 4 < found.next_at.timestamp() - found.last_at.timestamp() < 6
    assert (found.error, found.did) == ("", "released: 3")
    # A run that had nothing to do leaves what was done last.
    clock.do(Periodic("sweep", 5, lambda: Counted(0)))
    assert row("sweep").did == "released: 3"
    assert row("sweep").did_at == found.did_at


def test_failures_are_counted_until_it_goes_well_again_and_say_nothing_of_their_words(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    clock.do(Periodic("sweep", 5, Counted))
    well = row("sweep").well_at
    task = Periodic("sweep", 5, fail)
    for count in (1, 2, 3):
        clock.do(task)
        assert (row("sweep").error, row("sweep").failures, row("sweep").well_at) == ("LookupError", count, well)
        assert 4 < task.due_at - time.monotonic() <= 5
    assert "person a by written" not in caplog.text
    clock.do(Periodic("sweep", 5, Counted))
    assert (row("sweep").error, row("sweep").failures) == ("", 0)


def test_a_task_that_has_more_to_do_goes_on_soon(app: Flask) -> None:
    task = Periodic("retention", 3600, lambda: Counted(more=True))
    clock.do(task)
    assert task.due_at - time.monotonic() < 2
    clock.do(Periodic("retention", 3600, Counted))
    assert row("retention").last_at is not None


@pytest.mark.parametrize("left", [b"1764500000 0.120", b"{", b'{"at": "x"}', b"\xff\xfe", b'{"later": 1}', b"[]"])
def test_what_another_release_left_in_redis_breaks_nothing(app: Flask, left: bytes) -> None:
    queue_redis().hset(schedule.LAST, "sweep", left)
    queue_redis().set(schedule.LEADER, left)
    schedule.view()
    clock.do(Periodic("sweep", 5, Counted))
    assert row("sweep").error == ""


# -- who acts, and when --------------------------------------------------------------------------------------------------
@pytest.fixture
def running(app: Flask) -> Iterator[Callable[..., threading.Event]]:
    stops: list[tuple[threading.Event, threading.Thread]] = []

    def start() -> threading.Event:
        stop = threading.Event()
        thread = threading.Thread(target=clock.run, args=(app, stop))
        stops.append((stop, thread))
        thread.start()
        return stop

    yield start
    for stop, _ in stops:
        stop.set()
    for _, thread in stops:
        thread.join(20)
        assert not thread.is_alive()


def wait_for(true: Callable[[], object]) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until, "it did not happen within 20 seconds"
        time.sleep(0.02)


def test_one_of_several_processes_acts_and_another_takes_over_without_running_long_tasks_again(
    app: Flask, running: Callable[..., threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    short = Periodic("sweep", 0.05, lambda: ran.append("short"))
    long = Periodic("retention", 3600, lambda: ran.append("long"))
    monkeypatch.setattr(clock, "periodics", lambda: [Periodic(t.name, t.every_s, t.do) for t in (short, long)])
    monkeypatch.setattr(clock, "LOOK_S", 0.05)
    first = running()
    wait_for(lambda: ran.count("short") > 2 and "long" in ran)
    view = schedule.view()
    assert view.fault == ""
    assert view.leader_pid is not None
    leader = schedule.leader(queue_redis())
    running()
    first.set()
    # A process that dies gives nothing back: its lock runs out.
    wait_for(lambda: queue_redis().pexpire("switchhook:cron", 1))
    count = ran.count("short")
    wait_for(lambda: ran.count("short") > count + 2)
    after = schedule.leader(queue_redis())
    assert leader is not None
    assert after is not None
    assert after.id != leader.id
    assert ran.count("long") == 1


def test_without_redis_everything_runs_all_the_same(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(redis_url="unix:///nowhere/at/all.sock")
    stop = threading.Event()
    monkeypatch.setattr(clock, "periodics", lambda: [Periodic("sweep", 5, stop.set)])
    thread = threading.Thread(target=clock.run, args=(app, stop))
    thread.start()
    thread.join(20)
    assert stop.is_set()
    with app.app_context():
        assert not schedule.view().known


@pytest.mark.parametrize(
    ("ran_ago_s", "least_s", "most_s"),
    [
        (600, 2990, 3010),
        (5000, -1, 1),
        # The wall clock was set back: it is not put off by more than its pace.
        (-100_000, 3590, 3610),
    ],
)
def test_whoever_takes_over_goes_on_where_the_last_one_left_off(
    app: Flask, ran_ago_s: float, least_s: float, most_s: float
) -> None:
    schedule.keep_run(queue_redis(), "retention", Run(at=time.time() - ran_ago_s))
    schedule.keep_run(queue_redis(), "sweep", Run(at=time.time()))
    tasks = [Periodic("retention", 3600, Counted), Periodic("sweep", 5, Counted), Periodic("rollups", 3600, Counted)]
    clock.take_over(tasks)
    assert least_s < tasks[0].due_at - time.monotonic() < most_s
    # Short tasks, and those that never ran, are due at once.
    assert tasks[1].due_at == tasks[2].due_at == 0.0


def test_a_wall_clock_that_jumps_changes_nothing_in_a_running_process(app: Flask) -> None:
    task = Periodic("idle conversations", 3600, lambda: 1)
    with time_machine.travel("2030-01-01T00:00:00Z", tick=True):
        clock.do(task)
    assert 3590 < task.due_at - time.monotonic() <= 3600


# -- who is told ---------------------------------------------------------------------------------------------------------
def test_doctor_and_health_speak_of_a_missing_scheduler_and_of_tasks_that_fail_again_and_again(app: Flask) -> None:
    def told() -> dict[str, tuple[str, str, str]]:
        return {each.name: (each.level, each.detail, each.cure) for each in doctor.check_installation()}

    assert told()["scheduler"][0] == "warning"
    assert not health.scheduler().ok
    lead()
    assert told()["scheduler"][0] == "ok"
    assert "a-machine" in told()["scheduler"][1]
    assert health.scheduler().ok
    for _ in range(2):
        clock.do(Periodic("provider health", 60, fail))
    assert health.scheduler().ok
    assert "provider health" not in told()
    clock.do(Periodic("provider health", 60, fail))
    level, detail, cure = told()["provider health"]
    assert (level, "3 times in a row (LookupError)" in detail) == ("warning", True)
    assert "switchhook schedule run provider-health" in cure
    assert "provider health failed 3 times" in health.scheduler().detail
    lead(seconds_ago=600)
    assert told()["scheduler"][0] == "warning"
    assert "switchhook cron" in health.scheduler().cure


# -- the page ------------------------------------------------------------------------------------------------------------
def test_the_page_shows_every_task_to_administrators_alone(app: Flask, make_app: Callable[..., Flask]) -> None:
    site = Site(make_app())
    site.add(ALICE)
    with site.app.app_context():
        lead()
        clock.do(Periodic("sweep", 5, fail))
        clock.do(Periodic("off-peak release", 5, lambda: Counted(1234)))
    page = site.admin().get("/dashboard/schedule")
    assert page.status_code == 200
    for task in schedule.TASKS:
        assert task.meaning in html.unescape(page.text)
    assert "<strong>a-machine</strong>, process 4711" in page.text
    assert "LookupError" in page.text
    assert "Released: 1,234" in page.text
    assert "SWITCHHOOK_RETENTION_DAYS is 0" in page.text
    assert 'href="/dashboard/schedule" aria-current="page"' in page.text
    part = site.admin().get("/dashboard/schedule", headers=HTMX).text
    assert part.startswith('<div id="schedule"')
    assert site.browser(ALICE).get("/dashboard/schedule").status_code == 403
    assert "/login" in site.browser().get("/dashboard/schedule").headers["Location"]


def test_the_page_says_what_to_do_when_nobody_runs_it(make_app: Callable[..., Flask]) -> None:
    page = Site(make_app()).admin().get("/dashboard/schedule").text
    assert "no scheduler has run yet" in page
    assert "switchhook cron" in page
    away = Site(make_app(redis_url="unix:///nowhere/at/all.sock")).admin().get("/dashboard/schedule")
    assert away.status_code == 200
    assert "Redis does not answer" in away.text


# -- the command ---------------------------------------------------------------------------------------------------------
def test_the_command_shows_the_schedule_and_runs_one_task(operator: Operator) -> None:
    listed = operator.json("schedule")
    assert {each["name"] for each in listed["rows"]} == {task.name for task in schedule.TASKS}
    assert listed["fault"] == "no scheduler has run yet"
    out = operator.ok("schedule", "run", "idle-conversations")
    assert "nothing was to be done" in out
    [last] = [each for each in operator.json("schedule")["rows"] if each["name"] == "idle conversations"]
    assert (last["error"], last["failures"]) == ("", 0)
    assert last["last_at"]
    assert re.search(r"idle conversations +every hour +20\d\d-", operator.ok("schedule"))
    assert "By the clock it is off" in operator.ok("schedule", "run", "retention")
    assert operator.rows("SELECT action, subject FROM audit_entry WHERE action = 'schedule.run'") == [
        ("schedule.run", "task:idle conversations"),
        ("schedule.run", "task:retention"),
    ]


def test_the_command_says_what_went_wrong_and_which_tasks_there_are(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = operator("schedule", "run", "nonsense")
    assert unknown.exit_code == 1
    assert "idle-conversations" in unknown.output
    with operator.database() as connection:
        connection.exec_driver_sql("ALTER TABLE conversation RENAME TO gone")
    failed = operator("schedule", "run", "idle-conversations", "--json")
    assert failed.exit_code == 1
    assert json.loads(failed.stdout)["error"] == "OperationalError"
    assert "idle conversations failed: OperationalError" in failed.stderr
