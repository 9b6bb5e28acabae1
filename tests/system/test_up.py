"""`switchhook up`: what it says when it cannot start, and the whole product, started, killed and stopped."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request

import pytest

from tests.system.conftest import Launcher, Process

pytestmark = pytest.mark.system


def up(launch: Launcher, *options: str, **env: str) -> Process:
    return launch("-m", "webapp.cli", "up", *options, **env)


def refused(process: Process) -> str:
    """Its one line, once it has ended with exit code 2."""
    assert process.exit_code() == 2
    said = process.everything().splitlines()
    assert len(said) == 1, said
    assert said[0].startswith("switchhook: ")
    assert process.all_gone()
    return said[0]


def test_a_port_in_use_is_named_with_the_way_to_choose_another(launch: Launcher) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refused(up(launch, "--port", str(port)))
    assert f"Port {port} on 127.0.0.1 is in use" in line
    assert "--port" in line
    assert "SWITCHHOOK_PORT" in line


def test_a_port_that_shares_itself_with_others_counts_as_in_use(launch: Launcher) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", launch.port))
        taken.listen()
        assert f"Port {launch.port} on 127.0.0.1 is in use" in refused(up(launch))
        assert f"Port {launch.port} on 127.0.0.1 is in use" in refused(launch("-m", "webapp.cli", "web"))


def test_an_address_of_another_machine_is_refused(launch: Launcher) -> None:
    assert "192.0.2.1 is not an address of this machine" in refused(up(launch, "--host", "192.0.2.1"))


def test_a_data_directory_that_cannot_be_written_is_named(launch: Launcher) -> None:
    blocked = launch.folder / "file"
    blocked.write_text("")
    line = refused(up(launch, SWITCHHOOK_DATA_DIR=str(blocked / "data")))
    assert f"The data directory {blocked}/data cannot be used" in line
    assert "SWITCHHOOK_DATA_DIR" in line


def test_every_wrong_setting_is_named(launch: Launcher) -> None:
    line = refused(up(launch, SWITCHHOOK_WEB_THREADS="many", SWITCHHOOK_TIME_ZONE="Moon"))
    assert "SWITCHHOOK_WEB_THREADS" in line
    assert "SWITCHHOOK_TIME_ZONE: must be an IANA time zone" in line


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SWITCHHOOK_ADMIN_PASSWORD", "short", "10 to 200 characters"),
        ("SWITCHHOOK_DEFAULT_PLAN", "gold", "set it to one of free, starter"),
    ],
)
def test_a_setting_that_the_first_start_cannot_use_is_named(launch: Launcher, name: str, value: str, said: str) -> None:
    process = up(launch, **{name: value})
    assert process.exit_code() == 2
    everything = process.everything()
    assert "Traceback" not in everything
    last = everything.splitlines()[-1]
    assert last.startswith(f"switchhook: {name}: ")
    assert said in last
    assert process.all_gone()


def test_a_redis_that_does_not_answer_is_named_without_its_password(launch: Launcher) -> None:
    process = up(launch, REDIS_URL="redis://:secret-word@127.0.0.1:1/0")
    line = refused(process)
    assert "Redis does not answer at 127.0.0.1:1" in line
    assert "secret-word" not in line


def test_a_redis_url_that_is_none_is_refused_without_being_repeated(launch: Launcher) -> None:
    line = refused(up(launch, REDIS_URL="redis://:secret/word@localhost/0"))
    assert "REDIS_URL is not a URL of Redis" in line
    assert "secret" not in line


def test_a_database_that_cannot_be_reached_is_named(launch: Launcher) -> None:
    process = up(launch, DATABASE_URL=f"sqlite:///{launch.folder}/nowhere/at.db")
    assert process.exit_code() == 2
    assert "DATABASE_URL" in process.everything().splitlines()[-1]
    assert process.all_gone()


def test_a_second_one_on_the_same_data_directory_is_refused_and_the_first_one_named(launch: Launcher) -> None:
    launch.data_dir.mkdir()
    with (launch.data_dir / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(str(os.getpid()))
        lock.flush()
        line = refused(up(launch))
    assert f"Another Switchhook (process {os.getpid()}) is running" in line


def test_the_processes_of_a_killed_run_get_the_time_to_end(launch: Launcher) -> None:
    launch.data_dir.mkdir()
    with (launch.data_dir / "processes.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = up(launch, REDIS_URL="redis://127.0.0.1:1/0")
        with pytest.raises(subprocess.TimeoutExpired):
            process.popen.wait(1)
    assert "Redis does not answer" in refused(process)


# -- the whole product ---------------------------------------------------------------------------------------------
def wait_until_up(launch: Launcher, process: Process) -> None:
    process.expect(rf"^Switchhook is at http://127\.0\.0\.1:{launch.port}$", 60)
    process.expect("Ctrl-C stops it")
    with urllib.request.urlopen(f"http://127.0.0.1:{launch.port}/health/live", timeout=10) as answer:
        assert answer.status == 200


def wait_until_healthy(launch: Launcher, process: Process) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{launch.port}/health/ready", timeout=2) as answer:
                assert answer.status == 200
                return
        except OSError as exc:
            if time.monotonic() > deadline:
                process.signal(signal.SIGTERM)
                pytest.fail(f"the product did not get well ({exc}):\n{process.everything()}")
            time.sleep(0.05)


def test_the_first_start_tells_how_to_sign_in_and_the_next_one_keeps_quiet(launch: Launcher) -> None:
    process = up(launch)
    wait_until_up(launch, process)
    process.signal(signal.SIGINT)
    assert process.exit_code() == 0
    said = process.everything()
    assert re.search(r"password  \S{12,} ", said)
    assert "sms simulate --from +15005550006" in said
    assert process.all_gone()

    again = up(launch)
    wait_until_up(launch, again)
    again.signal(signal.SIGTERM)
    assert again.exit_code() == 0
    assert "made just now" not in again.everything()
    assert again.all_gone()


def children_of(pid: int) -> dict[str, int]:
    """The process ids of a supervisor's children by name."""
    kinds = {
        "valkey-server": "queue",
        "webapp.cli web": "web",
        "webapp.cli worker": "worker",
    }
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return {
        name: int(child)
        for child, parent, command in rows
        for kind, name in kinds.items()
        if int(parent) == pid and kind in command
    }


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs ps")
@pytest.mark.parametrize("name", ["queue", "web", "worker"])
def test_each_process_that_is_killed_comes_back_and_the_product_goes_on(launch: Launcher, name: str) -> None:
    process = up(launch)
    wait_until_up(launch, process)
    os.kill(children_of(process.popen.pid)[name], signal.SIGKILL)
    process.expect(rf"^switchhook: {name} was ended by SIGKILL; starting it again in 1 s")
    wait_until_healthy(launch, process)
    process.signal(signal.SIGTERM)
    assert process.exit_code() == 0
    assert process.all_gone()


def test_a_killed_one_leaves_nobody_behind_and_can_be_started_again_at_once(launch: Launcher) -> None:
    process = up(launch, SWITCHHOOK_ADMIN_PASSWORD="correct horse battery staple")
    wait_until_up(launch, process)
    assert "correct horse" not in "\n".join(process.said)
    process.signal(signal.SIGKILL)
    again = up(launch)
    wait_until_up(launch, again)
    assert process.all_gone(), "somebody has outlived a killed `switchhook up`"
