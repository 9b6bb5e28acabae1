"""The supervisor over small children that misbehave: real processes, real signals."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.system.conftest import Launcher, Process
from webapp.cli import leash

pytestmark = pytest.mark.system

SLEEPER = "import os, time; print('pid', os.getpid(), flush=True); time.sleep(60)"
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: print("not now", flush=True))
print("ready", flush=True)
while True: time.sleep(60)
"""
POLITE = """
import signal, sys, time
def end(number, frame):
    print("got", signal.Signals(number).name, flush=True); time.sleep(float(sys.argv[1])); print("bye", flush=True)
    sys.exit(0)
for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, end)
print("ready", flush=True)
while True: time.sleep(60)
"""


def python(name: str, code: str, *arguments: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "command": [sys.executable, "-c", code, *arguments], **more}


def supervise(
    launch: Launcher, *children: dict[str, Any], queue: bool = False, first_s: float = 0.05, env: dict[str, str] | None = None
) -> Process:
    plan = {
        "children": children,
        "queue": queue,
        "keep_fds": ["KEEP_FD"],
        "backoff": {"first_s": first_s, "longest_s": 0.1, "steady_s": 60},
    }
    return launch("-m", "tests.system.driver", json.dumps(plan).replace('"KEEP_FD"', "KEEP_FD"), **(env or {}))


@pytest.fixture(params=["kernel", "pipe"])
def leashed(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment for each of the two ways to bind a child's life to the supervisor's."""
    return {leash.WATCH_VARIABLE: "1"} if request.param == "pipe" else {}


def test_a_child_that_is_killed_is_reported_and_started_again_later_each_time(launch: Launcher) -> None:
    process = supervise(launch, python("job", SLEEPER))
    first = int(process.expect(r"^job +\| pid (\d+)")[1])
    os.kill(first, signal.SIGKILL)
    process.expect(r"^switchhook: job was ended by SIGKILL; starting it again in 0.05 s$")
    second = int(process.expect(r"pid (\d+)")[1])
    os.kill(second, signal.SIGKILL)
    process.expect(r"again in 0.1 s$")
    third = int(process.expect(r"pid (\d+)")[1])
    os.kill(third, signal.SIGKILL)
    process.expect(r"again in 0.1 s$")  # and never later than the longest time
    assert len({first, second, third}) == 3


def test_a_child_that_ends_by_itself_is_reported_with_its_exit_code(launch: Launcher) -> None:
    process = supervise(launch, python("job", "import sys; print('unfinished', end=''); sys.exit(3)"))
    process.expect(r"^job +\| unfinished$")
    process.expect(r"^switchhook: job ended with exit code 3; starting it again")


def test_a_command_that_does_not_exist_is_reported_and_tried_again(launch: Launcher) -> None:
    process = supervise(launch, {"name": "job", "command": ["/nowhere/at/all"]})
    process.expect(r"^job +\| /nowhere/at/all cannot be started: No such file or directory$")
    process.expect(r"^switchhook: job ended with exit code 127; starting it again")
    process.expect(r"again in 0.1 s$")


def test_what_a_dead_child_has_left_behind_is_ended_with_it(launch: Launcher) -> None:
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {POLITE!r}, '0']); time.sleep(60)"
    process = supervise(launch, python("job", "import os; print('leader', os.getpid(), flush=True)\n" + parent))
    leader = int(process.expect(r"leader (\d+)")[1])
    process.expect("ready")
    os.kill(leader, signal.SIGKILL)
    process.expect("got SIGTERM")


def test_sigterm_stops_the_stages_one_after_the_other(launch: Launcher) -> None:
    process = supervise(
        launch,
        python("last", POLITE, "0", stop_order=2),
        python("first", POLITE, "0.2", stop_order=0),
        python("middle-1", POLITE, "0.2", stop_order=1),
        python("middle-2", POLITE, "0.2", stop_order=1),
    )
    for _ in range(4):
        process.expect("ready")
    process.signal(signal.SIGTERM)
    assert process.exit_code() == 0
    said = process.everything().splitlines()
    said = [line.replace(" ", "") for line in said[said.index("stopping") + 1 :]]
    assert said[:2] == ["first|gotSIGTERM", "first|bye"]
    assert sorted(said[2:4]) == ["middle-1|gotSIGTERM", "middle-2|gotSIGTERM"]
    assert sorted(said[4:6]) == ["middle-1|bye", "middle-2|bye"]
    assert said[6:] == ["last|gotSIGTERM", "last|bye", "stopped"]


def test_ctrl_c_at_the_terminal_reaches_the_supervisor_alone(launch: Launcher) -> None:
    process = supervise(launch, python("job", POLITE, "0"))
    process.expect("ready")
    os.killpg(process.popen.pid, signal.SIGINT)  # what a terminal does: everybody in the foreground group
    assert process.exit_code() == 0
    said = process.everything()
    assert "got SIGTERM" in said
    assert "got SIGINT" not in said


def test_a_child_that_does_not_stop_in_time_is_killed(launch: Launcher) -> None:
    process = supervise(launch, python("job", STUBBORN, grace_s=0.3))
    process.expect("ready")
    process.signal(signal.SIGTERM)
    process.expect("not now")
    process.expect(r"^switchhook: job did not stop in time and is killed$")
    assert process.exit_code() == 0
    assert process.all_gone()


def test_a_second_signal_hurries_but_leaves_the_last_stage_its_time(launch: Launcher) -> None:
    process = supervise(
        launch,
        python("one", STUBBORN, stop_order=0, grace_s=60, hurry_s=0.2),
        python("two", STUBBORN, stop_order=1, grace_s=60, hurry_s=0.2),
        python("last", POLITE, "0.5", stop_order=2, grace_s=60, hurry_s=5),
    )
    for _ in range(3):
        process.expect("ready")
    process.signal(signal.SIGINT)
    process.expect(r"^one +\| not now")
    started = time.monotonic()
    process.signal(signal.SIGINT)
    assert process.exit_code() == 0
    assert time.monotonic() - started < 10
    said = process.everything()
    assert "one did not stop in time" in said
    assert "two did not stop in time" in said
    assert "last   | bye" in said


def test_no_child_is_started_again_while_stopping(launch: Launcher) -> None:
    process = supervise(launch, python("dies", "import sys; sys.exit(1)"), python("job", POLITE, "0.5"), first_s=0.3)
    process.expect_each("dies ended with exit code 1", "ready")
    process.signal(signal.SIGTERM)
    assert process.exit_code() == 0
    after = process.everything().partition("stopping\n")[2]
    assert "dies" not in after


def test_a_supervisor_that_is_killed_leaves_no_child(launch: Launcher, leashed: dict[str, str]) -> None:
    process = supervise(launch, python("one", SLEEPER), python("two", POLITE, "0"), env=leashed)
    process.expect_each("ready", "pid")
    process.signal(signal.SIGKILL)
    assert process.all_gone(), "a child has outlived the supervisor"


def test_a_child_that_does_not_want_to_end_is_killed_after_its_supervisor(launch: Launcher) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    holding = f"from webapp.cli import leash; leash.hold(0.3); {deaf}"
    process = supervise(launch, python("job", holding))
    process.expect("ready")
    process.signal(signal.SIGKILL)
    assert process.all_gone(), "a stubborn child has outlived the supervisor"


def test_on_the_portable_leash_signals_and_exit_codes_pass_through(launch: Launcher) -> None:
    watch = {leash.WATCH_VARIABLE: "1"}
    process = supervise(launch, python("job", "import sys; sys.exit(7)"), python("polite", POLITE, "0"), env=watch)
    process.expect_each(r"^switchhook: job ended with exit code 7;", r"^polite +\| ready")
    process.signal(signal.SIGTERM)
    process.expect(r"^polite +\| got SIGTERM")
    assert process.exit_code() == 0


def test_on_the_portable_leash_a_killed_child_is_reported_as_killed(launch: Launcher) -> None:
    process = supervise(launch, python("job", SLEEPER), env={leash.WATCH_VARIABLE: "1"})
    os.kill(int(process.expect(r"pid (\d+)")[1]), signal.SIGKILL)
    process.expect(r"^switchhook: job was ended by SIGKILL")


# -- the embedded queue --------------------------------------------------------------------------------------------
def queue_client(folder: Path) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(folder / "queue" / "queue.sock"))


def test_the_queue_keeps_its_data_over_a_restart(launch: Launcher) -> None:
    process = supervise(launch, queue=True)
    process.expect("the queue answers")
    with queue_client(launch.data_dir) as client:
        client.set("kept", "yes")
    process.signal(signal.SIGTERM)
    assert process.exit_code() == 0
    again = supervise(launch, queue=True)
    again.expect("the queue answers")
    with queue_client(launch.data_dir) as client:
        assert client.get("kept") == b"yes"


def test_a_queue_that_is_killed_comes_back_with_its_data(launch: Launcher) -> None:
    process = supervise(launch, queue=True)
    process.expect("the queue answers")
    with queue_client(launch.data_dir) as client:
        client.set("kept", "yes")
        os.kill(client.info("server")["process_id"], signal.SIGKILL)
    process.expect(r"^switchhook: queue was ended by SIGKILL; starting it again")
    with queue_client(launch.data_dir) as client:
        deadline = time.monotonic() + 10
        while True:
            try:
                assert client.get("kept") == b"yes"
                break
            except redis.ConnectionError:
                assert time.monotonic() < deadline, "the queue did not come back"
                time.sleep(0.02)


def test_the_queue_does_not_outlive_a_supervisor_that_is_killed(launch: Launcher, leashed: dict[str, str]) -> None:
    process = supervise(launch, queue=True, env=leashed)
    process.expect("the queue answers")
    process.signal(signal.SIGKILL)
    assert process.all_gone(), "the queue has outlived the supervisor"


def test_only_this_user_reaches_the_queue(launch: Launcher) -> None:
    process = supervise(launch, queue=True)
    process.expect("the queue answers")
    folder = launch.data_dir / "queue"
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / "queue.sock").stat().st_mode & 0o077 == 0
