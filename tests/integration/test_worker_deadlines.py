"""Time limits for threads: raised in time, with a message, and never after the work has ended."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import pytest
from rq.timeouts import JobTimeoutException

from webapp.jobs import deadlines as limits
from webapp.jobs.deadlines import Deadlines, JobStopped


@pytest.fixture
def deadlines() -> Iterator[Deadlines]:
    deadlines = Deadlines()
    yield deadlines
    deadlines.close()


def turn(seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pass


def test_work_over_its_limit_is_interrupted_with_a_message(deadlines):
    with pytest.raises(JobTimeoutException, match=r"maximum timeout value \(0.05 seconds\)"), deadlines.limit(0.05):
        turn(10)


def test_work_within_its_limit_is_left_alone(deadlines):
    with deadlines.limit(5):
        turn(0.01)
    with deadlines.limit(None), deadlines.limit(-1):
        turn(0.01)


def test_a_later_limit_that_ends_sooner_is_kept_first(deadlines):
    with deadlines.limit(60):
        began = time.monotonic()
        with pytest.raises(JobTimeoutException), deadlines.limit(0.05):
            turn(10)
        assert time.monotonic() - began < 5


def test_each_thread_gets_its_own_interruption(deadlines):
    ended: list[tuple[int, str]] = []

    def work(number: int) -> None:
        try:
            with deadlines.limit(0.05 if number % 2 else 30):
                turn(30 if number % 2 else 0.2)
            ended.append((number, "done"))
        except JobTimeoutException:
            ended.append((number, "late"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(ended) == [(number, "late" if number % 2 else "done") for number in range(6)]


def test_nothing_is_raised_once_the_work_has_ended(deadlines):
    """Limits that end at the very moment when the work does: whichever comes first, the code behind is never hit."""
    outcomes = set()
    for _ in range(400):
        limit_s = random.uniform(0.0002, 0.001)
        try:
            with deadlines.limit(limit_s):
                turn(limit_s + random.uniform(-0.0001, 0.0001))
            outcomes.add("in time")
        except JobTimeoutException:
            outcomes.add("late")
        turn(0.0003)
    assert outcomes == {"in time", "late"}
    assert not deadlines._watches


def test_an_interruption_that_is_under_way_when_the_work_ends_is_awaited_and_dropped(deadlines, monkeypatch):
    under_way = threading.Event()
    watch = deadlines.limit(0.01)

    def raise_when_the_block_is_being_left(thread_id, exception, raise_in=limits._raise_in):
        if exception is not limits._NOTHING:
            under_way.set()
            while not watch.over:
                time.sleep(0)
        return raise_in(thread_id, exception)

    monkeypatch.setattr(limits, "_raise_in", raise_when_the_block_is_being_left)
    with watch:
        assert under_way.wait(10)
    turn(0.05)


def test_work_that_has_not_begun_is_interrupted_when_it_begins(deadlines):
    watch = deadlines.limit(10)
    assert deadlines.interrupt(watch, JobStopped)
    with pytest.raises(JobStopped), watch:
        turn(10)


def test_work_that_is_over_cannot_be_interrupted(deadlines):
    watch = deadlines.limit(10)
    with watch:
        pass
    assert not deadlines.interrupt(watch, JobStopped)


def test_a_job_is_stopped_through_its_own_error_handling(deadlines):
    watch = deadlines.limit(10)
    swallowed = False

    def turn_whatever_happens() -> None:
        nonlocal swallowed
        try:
            turn(10)
        except Exception:
            swallowed = True

    threading.Timer(0.02, deadlines.interrupt, (watch, JobStopped)).start()
    with pytest.raises(JobStopped), watch:
        turn_whatever_happens()
    assert not swallowed
