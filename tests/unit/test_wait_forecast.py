"""How long people are told they will wait, against how long they do."""

from __future__ import annotations

import random
import statistics

import pytest

from tests.unit.queue_day import Days
from webapp.queues import HIGH, LOW, NORMAL, QUEUES
from webapp.services import pace
from webapp.services.pace import Spell
from webapp.services.wait_forecast import Line, taken_before, wait_s
from webapp.turns import cycle, preferences

NOTHING = (0.0, 0.0, 0.0)
A_FEW_S = 5.0
SEEDS = (1, 2, 3, 4)


def line(*waiting: int, comes: tuple[float, ...] = NOTHING, starts_per_s: float = 1.0) -> Line:
    return Line(waiting, comes, comes, (), 0.0, starts_per_s)


# -- a day -----------------------------------------------------------------------------------------------------------
def test_over_a_day_of_rush_hours_and_bursts_the_mean_error_is_under_thirty_percent(capsys: pytest.CaptureFixture[str]) -> None:
    errors: list[float] = []
    told: list[str] = []
    for seed in SEEDS:
        days = Days(seed)
        days.run()
        waited = [one for one in days.told if one.was_s > A_FEW_S]
        found = [abs(one.said_s - one.was_s) / one.was_s for one in waited]
        errors += found
        each = {q: [error for error, one in zip(found, waited, strict=True) if one.queue == q] for q in QUEUES}
        by_queue = ", ".join(f"{name} {statistics.mean(some):.0%}" for name, some in each.items())
        told.append(f"seed {seed}: {days.jobs} jobs, {len(found)} asked, mean error {statistics.mean(found):.1%} ({by_queue})")
        assert len(found) > 500
        assert statistics.mean(found) < 0.4
        assert days.longest > 500, "nobody had to wait for long: the day proves nothing"
    told.append(f"all: mean error {statistics.mean(errors):.1%}, median {statistics.median(errors):.1%}")
    with capsys.disabled():
        print("\n" + "\n".join(told))  # noqa: T201
    assert statistics.mean(errors) < 0.30


# -- the order -------------------------------------------------------------------------------------------------------
def by_hand(waiting: list[int], own: int, ahead: int, turn: int) -> list[int]:
    """Job by job, as the worker's script takes them."""
    left, taken = list(waiting), [0] * len(waiting)
    left[own] = ahead + 1
    while True:
        first = cycle(len(waiting))[turn % 16]
        chosen = next(queue for queue in preferences(first, len(waiting)) if left[queue])
        turn += 1
        left[chosen] -= 1
        if not left[own]:
            return taken
        taken[chosen] += 1


def test_whole_cycles_at_once_give_the_same_order_as_job_by_job() -> None:
    chance = random.Random(7)
    for _ in range(300):
        waiting = [chance.choice((0, 1, 5, 40, 300)) for _ in QUEUES]
        own, turn = chance.randrange(3), chance.randrange(16)
        ahead = chance.randint(0, waiting[own])
        assert taken_before(waiting, own, ahead, turn) == by_hand(waiting, own, ahead, turn)


def test_a_position_among_a_million_is_found_at_once() -> None:
    assert sum(taken_before([1_000_000, 1_000_000, 1_000_000], 2, 900_000, 5)) == 2_900_000


def test_a_single_low_request_waits_for_one_cycle_at_most_however_full_the_others_are() -> None:
    assert all(sum(taken_before([5000, 5000, 0], 2, 0, turn)) < 16 for turn in range(16))


# -- the forecast ----------------------------------------------------------------------------------------------------
def test_alone_in_its_queue_each_job_ahead_takes_one_start() -> None:
    assert wait_s(line(0, 9, 0), 1, 9) == pytest.approx(10)
    assert wait_s(line(0, 9, 0, starts_per_s=4.0), 1, 9) == pytest.approx(2.5)


def test_higher_queues_that_empty_leave_their_turns() -> None:
    # 12 of 16 turns until the 60 are gone: 80 s, in which the low queue has 5 of them; then the rest.
    assert wait_s(line(60, 0, 0), 2, 30) == pytest.approx(91, rel=0.05)


def test_what_still_comes_in_higher_queues_counts() -> None:
    quiet, busy = wait_s(line(0, 0, 20), 2, 20), wait_s(line(0, 0, 20, comes=(0.7, 0.0, 0.0)), 2, 20)
    assert quiet == pytest.approx(21)
    assert busy == pytest.approx(70, rel=0.05)


def test_a_flood_in_the_higher_queues_leaves_the_lowest_its_share() -> None:
    assert wait_s(line(10_000, 10_000, 0, comes=(5.0, 5.0, 0.0)), 2, 9) == pytest.approx(160, rel=0.02)


def test_a_flood_that_is_over_by_tomorrows_hours_is_not_forecast_for_ever() -> None:
    calm = Line((0, 0, 500), (2.0, 0.0, 0.0), (2.0, 0.0, 0.0), ((0.1, 0.0, 0.0),) * 24, 0.0, 1.0)
    for_ever = Line((0, 0, 500), (2.0, 0.0, 0.0), (2.0, 0.0, 0.0), (), 0.0, 1.0)
    assert wait_s(calm, 2, 500) < wait_s(for_ever, 2, 500) / 3


# -- the pace --------------------------------------------------------------------------------------------------------
def spell(number: int, *, started: int = 0, waited: int = 0, ended: int = 0, busy_s: float = 0.0, queue: str = NORMAL) -> Spell:
    return Spell(number, {(queue, "execute"): started}, {HIGH: 0, NORMAL: 0, LOW: 0} | {queue: waited}, ended, busy_s)


def test_the_pace_of_a_slot_is_its_ends_by_its_work() -> None:
    found = pace.measure([spell(n, started=30, ended=30, busy_s=90) for n in range(1000, 1006)], [], (0, 0, 0), 1005 * 60 + 59)
    assert found.ends_per_slot_s == pytest.approx(1 / 3)


def test_before_any_job_has_ended_the_pace_is_not_known() -> None:
    assert pace.measure([spell(1000, started=8, busy_s=100)], [], (0, 0, 0), 60_030).ends_per_slot_s is None
    assert pace.measure([], [], (0, 0, 0), 60_030).ends_per_slot_s is None


def test_few_ends_are_looked_for_further_back() -> None:
    old = [spell(n, ended=10, busy_s=100) for n in range(1000, 1010)]
    found = pace.measure([*old, spell(1020, ended=1, busy_s=1)], [], (0, 0, 0), 1020 * 60 + 30)
    assert found.ends_per_slot_s == pytest.approx(51 / 501)


def test_what_came_is_what_started_and_what_waits_beyond_what_had_waited() -> None:
    minutes = [spell(n, started=10, waited=100) for n in range(1000, 1006)]
    found = pace.measure(minutes, [], (0, 220, 0), 1005 * 60 + 30)
    assert found.recent == pytest.approx((0.0, (60 + 120) / 330, 0.0))


def test_what_waited_while_no_worker_looked_did_not_come_just_now() -> None:
    after_an_outage = [spell(1000, started=50, waited=5000)]
    found = pace.measure(after_an_outage, [], (0, 4950, 0), 1000 * 60 + 50)
    assert found.recent == (0.0, 0.0, 0.0)


def test_a_minute_of_workers_of_another_queue_does_not_make_an_arrival_of_what_waits() -> None:
    minute = Spell(1000, {(HIGH, "execute"): 5}, {HIGH: 0}, 5, 10.0)
    assert pace.measure([minute], [], (0, 0, 700), 1000 * 60 + 50).recent[2] == 0.0


def test_yesterday_is_known_once_there_is_a_whole_day() -> None:
    hours = [spell(n, started=3600) for n in range(100, 125)]
    at_s = 124 * 3600 + 10.0
    assert pace.measure([], hours[1:], (0, 0, 0), at_s).yesterday == ()
    assert pace.measure([], hours, (0, 0, 0), at_s).yesterday == ((0.0, 1.0, 0.0),) * 24


def test_fields_that_are_not_ours_are_passed_over() -> None:
    fields = {b"s:normal:execute": b"4", b"d:normal": b"2", b"ended": b"3", b"busy_ms": b"1500", b"s:x:y": b"9", b"\xff": b"1"}
    found = pace.read(7, fields)
    assert found == Spell(7, {(NORMAL, "execute"): 4}, {NORMAL: 2}, 3, 1.5)
    assert pace.read(7, {}) is None
