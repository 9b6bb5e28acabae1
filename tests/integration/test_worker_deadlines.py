"""Time limits for threads: raised in time, with a message, and never after the work has ended."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import pytest
from rq.timeouts import JobTimeoutException

from webapp import interrupts
from webapp.interrupts import shielded
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
    thread = interrupts.this_thread()

    def raise_when_the_block_is_being_left(thread_id, exception, raise_in=interrupts._raise_in):
        under_way.set()
        while not thread._shields:
            time.sleep(0)
        return raise_in(thread_id, exception)

    monkeypatch.setattr(interrupts, "_raise_in", raise_when_the_block_is_being_left)
    with deadlines.limit(0.01):
        assert under_way.wait(10)
    turn(0.05)


def test_what_is_shielded_is_done_before_the_interruption_takes_effect(deadlines):
    done = []
    watch = deadlines.limit(10)

    def work() -> None:
        with shielded():
            assert deadlines.interrupt(watch, JobStopped)
            with shielded():
                turn(0.01)
            done.append("the inner block's end was not the end")
        done.append("this is not reached")

    with pytest.raises(JobStopped), watch:
        work()
    assert done == ["the inner block's end was not the end"]
    turn(0.01)


def test_an_interruption_that_is_under_way_when_a_shield_is_entered_waits_for_its_end(deadlines, monkeypatch):
    under_way = threading.Event()
    thread = interrupts.this_thread()
    done = []

    def raise_when_the_shield_is_up(thread_id, exception, raise_in=interrupts._raise_in):
        under_way.set()
        while not thread._shields:
            time.sleep(0)
        return raise_in(thread_id, exception)

    def work() -> None:
        assert under_way.wait(10)
        with shielded():
            turn(0.01)
            done.append("shielded")
        done.append("this is not reached")

    monkeypatch.setattr(interrupts, "_raise_in", raise_when_the_shield_is_up)
    with pytest.raises(JobTimeoutException, match="maximum timeout"), deadlines.limit(0.01):
        work()
    assert done == ["shielded"]


def test_nothing_is_raised_in_a_shielded_block_whenever_the_limit_ends(deadlines):
    """Blocks that begin and end all the time, and limits that end anywhere: each block that was begun is ended, the shield is
    down afterwards, and each limit that was passed is told exactly once."""
    begun = ended = late = 0
    for _ in range(600):
        limit_s = random.uniform(0.0001, 0.002)
        try:
            with deadlines.limit(limit_s):
                ends = time.monotonic() + 1
                while time.monotonic() < ends:
                    with shielded():
                        begun += 1
                        time.sleep(0)
                        list(range(20))
                        ended += 1
        except JobTimeoutException:
            late += 1
        turn(0.0002)
    assert begun == ended
    assert late == 600
    assert interrupts.this_thread()._shields == 0
    assert interrupts.this_thread()._waiting == []


def test_two_limits_that_end_together_are_both_told(deadlines):
    outer = deadlines.limit(10)
    inner = deadlines.limit(10)
    told = []

    def work() -> None:
        try:
            with inner, shielded():
                deadlines.interrupt(inner, JobTimeoutException)
                deadlines.interrupt(outer, JobStopped)
        except JobTimeoutException as exc:
            told.append(type(exc))
            raise

    with pytest.raises(JobStopped), outer:
        work()
    assert interrupts.this_thread()._waiting == []


def test_a_failure_inside_a_shield_goes_its_way_when_nothing_waits(deadlines):
    with deadlines.limit(10), pytest.raises(ValueError, match="mine"), shielded():
        raise ValueError("mine")
    assert interrupts.this_thread()._shields == 0


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
