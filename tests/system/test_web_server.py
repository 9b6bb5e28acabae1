"""The web server around a small application: pieces, hang-ups, signals, and processes that die."""

from __future__ import annotations

import http.client
import os
import signal
import time

import pytest

from tests.system.conftest import TIMEOUT_S, Launcher, Process

pytestmark = pytest.mark.system


def connect(launch: Launcher, path: str) -> http.client.HTTPResponse:
    """The answer's head, from a connection of its own; waits for a server that is just starting."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", launch.port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            return connection.getresponse()
        except ConnectionError:
            connection.close()
            assert time.monotonic() < deadline, "the web server does not answer"
            time.sleep(0.02)


def serving_pid(launch: Launcher) -> int:
    with connect(launch, "/pid") as answer:
        return int(answer.read())


def start(launch: Launcher, **env: str) -> Process:
    return launch("-m", "tests.system.streaming", **env)


def test_a_stream_arrives_piece_by_piece_and_ends_in_peace_after_sigterm(launch: Launcher) -> None:
    process = start(launch)
    with connect(launch, "/slow") as answer:
        assert answer.readline() == b"first\n"
        process.signal(signal.SIGTERM)
        assert process.popen.poll() is None
        assert answer.readline() == b"last\n"
        assert answer.read() == b""
    assert process.exit_code() == 0
    assert process.all_gone()


def test_a_stream_that_nobody_reads_any_more_is_closed(launch: Launcher) -> None:
    process = start(launch)
    with connect(launch, "/endless") as answer:
        assert answer.readline() == b"piece\n"
    process.expect("the stream was closed")


def test_a_stream_that_never_ends_is_cut_when_the_grace_is_over(launch: Launcher) -> None:
    process = start(launch, SWITCHHOOK_WORKER_GRACE_S="1")
    with connect(launch, "/endless") as answer:
        assert answer.readline() == b"piece\n"
        process.signal(signal.SIGTERM)
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            answer.read()
    assert process.exit_code() == 0
    assert process.all_gone()


def test_a_serving_process_that_is_killed_is_replaced(launch: Launcher) -> None:
    start(launch)
    first = serving_pid(launch)
    os.kill(first, signal.SIGKILL)
    assert serving_pid(launch) != first


def test_no_serving_process_outlives_the_main_one_to_share_its_port(launch: Launcher) -> None:
    process = start(launch, SWITCHHOOK_WEB_PROCESSES="2")
    serving_pid(launch)
    process.signal(signal.SIGKILL)
    assert process.all_gone(), "a serving process has outlived the main one"
    start(launch)
    assert serving_pid(launch)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_application_that_is_still_loading_does_not_hold_up_the_end(launch: Launcher, number: signal.Signals) -> None:
    process = start(launch, STREAMING_LOADS_LONG="1", SWITCHHOOK_WORKER_GRACE_S="60")
    process.expect("loading")
    process.signal(number)
    assert process.all_gone(10)


def test_a_stream_goes_on_to_its_end_though_the_main_process_is_killed(launch: Launcher) -> None:
    process = start(launch)
    with connect(launch, "/slow") as answer:
        assert answer.readline() == b"first\n"
        process.signal(signal.SIGKILL)
        assert answer.readline() == b"last\n"
    assert process.all_gone()


def test_an_application_that_is_set_up_wrong_is_told_once_with_exit_code_2(launch: Launcher) -> None:
    process = start(launch, STREAMING_FAULT="Set SOMETHING to another value.")
    assert process.exit_code() == 2
    assert process.everything().count("switchhook: Set SOMETHING to another value.") == 1
    assert process.all_gone()


def test_the_server_says_nothing_about_its_many_threads(launch: Launcher) -> None:
    process = start(launch)
    serving_pid(launch)
    process.signal(signal.SIGTERM)
    assert process.exit_code() == 0
    assert process.everything() == ""
