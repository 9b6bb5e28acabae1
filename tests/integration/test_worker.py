"""The worker in one process: how it takes, runs and ends jobs, and how it stops."""

from __future__ import annotations

import logging
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import redis
from rq import Queue, Retry, Worker
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend

from tests.integration import worker_jobs
from tests.integration.worker_jobs import meeting
from webapp.jobs.worker import ThreadWorker
from webapp.queues import HIGH, LOW, NORMAL, QUEUES, WAKE_CHANNEL, Task, put
from webapp.turns import cycle

JOBS = "tests.integration.worker_jobs."
SOON_S = 10.0


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    meeting.reset()
    with redis.Redis.from_url(redis_url) as client:
        yield client
    meeting.gate.set()


@pytest.fixture
def queues(client: redis.Redis) -> list[Queue]:
    return [Queue(name, connection=client, serializer=JSONSerializer) for name in QUEUES]


@contextmanager
def working(worker: ThreadWorker) -> Iterator[threading.Thread]:
    """The worker at work in a thread of its own; stopped at the end."""
    ready = threading.Event()
    worker._on_ready = ready.set
    thread = threading.Thread(target=worker.work)
    thread.start()
    try:
        assert ready.wait(SOON_S)
        yield thread
    finally:
        worker.request_stop()
        meeting.gate.set()
        thread.join(SOON_S)
        assert not thread.is_alive()


def enqueue(queue: Queue, function: str, *args: object, **options: object) -> Job:
    """A job in the queue, and a call to the workers that are idle."""
    job = queue.enqueue_call(JOBS + function, args=args, **options)
    queue.connection.publish(WAKE_CHANNEL, queue.name)
    return job


def until(condition: Callable[[], object]) -> None:
    """Wait for something that only Redis can tell."""
    ends = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.01)


def wait_for(semaphore: threading.Semaphore, times: int = 1) -> None:
    for _ in range(times):
        assert semaphore.acquire(timeout=SOON_S)


def nothing_is_left(queue: Queue) -> bool:
    """No job of the queue is waiting, under way or forgotten in between."""
    connection = queue.connection
    return not any(
        [queue.count, connection.llen(queue.intermediate_queue_key), connection.zcard(queue.started_job_registry.key)]
    )


# -- running ---------------------------------------------------------------------------------------------------------
def test_sixty_waiting_jobs_run_at_the_same_time_in_one_process(client, queues):
    meeting.reset(together=60)
    for _ in range(60):
        enqueue(queues[0], "meet", result_ttl=0)
    assert ThreadWorker(queues, client, slots=60).work(burst=True)
    wait_for(meeting.done, 60)
    assert queues[0].failed_job_registry.count == 0
    assert nothing_is_left(queues[0])


def test_jobs_that_end_at_once_do_not_exhaust_a_small_pool_of_connections(redis_url, queues, caplog):
    meeting.reset(together=100)
    for _ in range(100):
        enqueue(queues[0], "meet", result_ttl=0)
    with redis.Redis.from_url(redis_url, max_connections=20) as client:
        few = [Queue(name, connection=client, serializer=JSONSerializer) for name in QUEUES]
        ThreadWorker(few, client).work(burst=True)
    assert nothing_is_left(queues[0])
    assert "Redis is away" not in caplog.text


def test_a_worker_takes_no_more_jobs_than_it_has_free_slots(client, queues):
    for number in range(8):
        enqueue(queues[1], "wait_at_gate", str(number), result_ttl=0)
    with working(ThreadWorker(queues, client, slots=3)):
        wait_for(meeting.started, 3)
        assert queues[1].count == 5
        assert client.llen(queues[1].intermediate_queue_key) == 0
        assert len(queues[1].started_job_registry.get_job_ids()) == 3
        meeting.gate.set()
        wait_for(meeting.done, 8)
    assert sorted(meeting.notes) == list("01234567")


def test_a_burst_returns_when_the_queues_are_empty_and_says_whether_it_worked(client, queues):
    assert not ThreadWorker(queues, client).work(burst=True)
    enqueue(queues[2], "note", "one")
    worker = ThreadWorker(queues, client)
    assert worker.work(burst=True)
    assert meeting.notes == ["one"]
    assert worker.left_running == 0
    assert Worker.all(client) == []


def test_a_burst_in_the_main_thread_puts_the_signal_handlers_back(client, queues):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    enqueue(queues[0], "note")
    ThreadWorker(queues, client).work(burst=True)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_burst_works_in_another_thread(client, queues):
    enqueue(queues[0], "note", "here")
    thread = threading.Thread(target=ThreadWorker(queues, client).work, kwargs={"burst": True})
    thread.start()
    thread.join(SOON_S)
    assert meeting.notes == ["here"]


def test_a_worker_may_work_again(client, queues):
    worker = ThreadWorker(queues, client)
    for text in ("first", "second"):
        enqueue(queues[0], "note", text)
        assert worker.work(burst=True)
    assert meeting.notes == ["first", "second"]


def test_every_job_runs_inside_the_context(client, queues):
    for _ in range(3):
        enqueue(queues[0], "note_context")
    ThreadWorker(queues, client, job_context=worker_jobs.inside).work(burst=True)
    assert meeting.notes == ["inside"] * 3
    assert worker_jobs.context.get() == "outside"


def test_modules_are_imported_before_the_first_job(client, queues):
    enqueue(queues[0], "note")
    with pytest.raises(ModuleNotFoundError):
        ThreadWorker(queues, client, preload=["tests.no_such_module"]).work(burst=True)
    assert queues[0].count == 1


def test_a_worker_with_senseless_numbers_is_refused(client, queues):
    for wrong in ({"slots": 0}, {"grace_s": -1}, {"heartbeat_s": 5, "lost_after_s": 6}, {"maintenance_s": 0}):
        with pytest.raises(ValueError):
            ThreadWorker(queues, client, **wrong)


def test_a_second_worker_of_the_same_name_is_refused_and_the_first_stays_registered(client, queues):
    with working(ThreadWorker(queues, client, name="one")):
        with pytest.raises(ValueError):
            ThreadWorker(queues, client, name="one").work(burst=True)
        assert [worker.name for worker in Worker.all(client)] == ["one"]


# -- which job is next -----------------------------------------------------------------------------------------------
def test_the_lowest_queue_gets_its_share_while_the_higher_ones_stay_full(client, queues):
    with client.pipeline() as pipe:
        for queue, jobs in zip(queues, (200, 100, 100), strict=True):
            for _ in range(jobs):
                enqueue(queue, "note_queue", result_ttl=0, pipeline=pipe)
        pipe.execute()
    ThreadWorker(queues, client, slots=1).work(burst=True)
    assert len(meeting.notes) == 400
    share = Counter(meeting.notes[:200])
    assert share[LOW] >= 10
    assert share[HIGH] > 4 * share[NORMAL] - 4 > 4 * share[LOW]


def test_a_turn_of_an_empty_queue_goes_to_the_next_higher_one(client, queues):
    for queue in (queues[0], queues[1]):
        for _ in range(40):
            enqueue(queue, "note_queue")
    ThreadWorker(queues, client, slots=1).work(burst=True)
    assert Counter(meeting.notes[:32]) == {HIGH: 24, NORMAL: 8}


@pytest.mark.parametrize("queues", range(1, 8))
def test_each_of_up_to_seven_queues_has_a_share_of_at_least_five_percent(queues):
    turns = cycle(queues)
    shares = [turns.count(queue) / len(turns) for queue in range(queues)]
    assert min(shares) >= 0.05
    assert shares == sorted(shares, reverse=True)


def test_an_entry_without_a_job_and_an_entry_that_is_no_job_are_passed_over(client, queues):
    client.rpush(queues[0].key, "gone", "broken")
    client.hset(Job.key_for("broken"), "status", "queued")
    enqueue(queues[0], "note", "behind them")
    ThreadWorker(queues, client).work(burst=True)
    assert meeting.notes == ["behind them"]
    assert nothing_is_left(queues[0])


def test_suspended_workers_take_nothing(client, queues):
    enqueue(queues[0], "note")
    suspend(client)
    assert not ThreadWorker(queues, client).work(burst=True)
    assert queues[0].count == 1
    resume(client)
    assert ThreadWorker(queues, client).work(burst=True)


# -- waking up -------------------------------------------------------------------------------------------------------
def test_an_idle_worker_starts_a_job_when_it_is_enqueued(client, queues):
    delays = []
    with working(ThreadWorker(queues, client)):
        for number in range(30):
            before = time.monotonic()
            assert put(client, Task("note", JOBS + "note", 30), [str(number)], NORMAL)
            wait_for(meeting.done)
            delays.append(meeting.times[-1] - before)
    # By its fallback poll alone it would take half a second and more.
    assert statistics.median(delays) < 0.2


def test_no_wake_up_is_lost(client, queues, monkeypatch):
    monkeypatch.setattr("webapp.jobs.worker.POLL_S", 60.0)
    task = Task("note", JOBS + "note", 30)
    with working(ThreadWorker(queues, client, slots=2)):
        for number in range(300):
            put(client, task, [str(number)], QUEUES[number % 3])
            if number % 7 == 0:
                wait_for(meeting.done)
                meeting.done.release()
        wait_for(meeting.done, 300)
    assert sorted(map(int, meeting.notes)) == list(range(300))


def test_a_wake_up_that_comes_while_the_worker_looks_is_not_lost(client, queues, monkeypatch):
    monkeypatch.setattr("webapp.jobs.worker.POLL_S", 60.0)
    worker = ThreadWorker(queues, client)
    look = worker._taker.take
    arrivals = ["a", "b", "c"]

    def look_while_something_arrives(wanted: int):
        found = look(wanted)
        if arrivals and not found[0]:
            put(client, Task("note", JOBS + "note", 30), [arrivals.pop()], HIGH)
            worker._wake.set()
        return found

    worker._taker.take = look_while_something_arrives
    with working(worker):
        wait_for(meeting.done, 3)


# -- stopping --------------------------------------------------------------------------------------------------------
def test_a_stopping_worker_ends_its_jobs_and_takes_no_others(client, queues):
    worker = ThreadWorker(queues, client, grace_s=SOON_S)
    with working(worker) as thread:
        enqueue(queues[0], "wait_at_gate", "running")
        wait_for(meeting.started)
        worker.request_stop()
        put(client, Task("note", JOBS + "note", 30), ["too-late"], HIGH)
        meeting.gate.set()
        thread.join(SOON_S)
    assert meeting.notes == ["running"]
    assert worker.left_running == 0
    assert queues[0].count == 1


def test_jobs_past_the_grace_go_to_the_front_of_their_queue_in_their_order(client, queues, caplog):
    caplog.set_level(logging.INFO)
    worker = ThreadWorker(queues, client, slots=2, grace_s=3600)
    jobs = [enqueue(queues[1], "wait_at_gate", text) for text in "abc"]
    with working(worker) as thread:
        wait_for(meeting.started, 2)
        worker.request_stop()
        worker.request_stop()  # The second wish ends the grace.
        thread.join(SOON_S)
        assert not thread.is_alive()
        assert worker.left_running == 2
        assert queues[1].job_ids == [job.id for job in jobs]
        assert [job.get_status() for job in jobs] == [JobStatus.QUEUED] * 3
        assert client.zcard(queues[1].started_job_registry.key) == 0
        # What the threads that were left do now concerns nobody.
        meeting.gate.set()
        until(lambda: caplog.text.count("ended after it had been handed back") == 2)
    assert queues[1].job_ids == [job.id for job in jobs]
    assert [job.get_status() for job in jobs] == [JobStatus.QUEUED] * 3
    assert ThreadWorker(queues, client).work(burst=True)
    assert sorted(meeting.notes) == list("aabbc")
    assert nothing_is_left(queues[1])


def test_a_worker_stopped_before_it_began_does_nothing(client, queues):
    enqueue(queues[0], "note")
    worker = ThreadWorker(queues, client)
    worker.request_stop()
    assert not worker.work()
    assert queues[0].count == 1


# -- signs of life ---------------------------------------------------------------------------------------------------
def test_a_job_longer_than_the_time_after_which_jobs_are_lost_is_not_taken_for_lost(client, queues):
    quick = {"heartbeat_s": 0.3, "lost_after_s": 2, "maintenance_s": 0.2}
    with working(ThreadWorker(queues, client, **quick)), working(ThreadWorker(queues, client, **quick)):
        job = enqueue(queues[0], "sleep", 3.2, result_ttl=60, retry=Retry(max=3))
        until(lambda: job.get_status() == JobStatus.FINISHED)
    assert meeting.notes == ["slept"]
    assert queues[0].failed_job_registry.count == 0


def test_the_workers_record_tells_what_it_does(client, queues):
    with working(ThreadWorker(queues, client, name="w", heartbeat_s=0.05, maintenance_s=60)):
        enqueue(queues[0], "wait_at_gate")
        wait_for(meeting.started)
        until(lambda: Worker.find_by_key("rq:worker:w", client).get_state() == "busy")
        meeting.gate.set()
        until(lambda: Worker.find_by_key("rq:worker:w", client).get_state() == "idle")
        assert 0 < client.ttl("rq:worker:w") <= 90


def test_a_worker_whose_record_was_lost_writes_it_again(client, queues):
    with working(ThreadWorker(queues, client, name="w", heartbeat_s=0.05)):
        client.flushall()
        until(lambda: [worker.name for worker in Worker.all(client)] == ["w"])
        until(lambda: client.ttl("rq:worker:w") > 0)


def test_a_job_that_was_taken_and_never_started_goes_back_and_runs(client, queues):
    job = enqueue(queues[2], "note", "recovered", result_ttl=0)
    Queue.lmove(client, queues[2].key, None)  # A worker took it, and died.
    with working(ThreadWorker(queues, client, heartbeat_s=0.1, lost_after_s=2, maintenance_s=0.1)):
        wait_for(meeting.done)
        until(lambda: nothing_is_left(queues[2]))
    assert meeting.notes == ["recovered"]
    assert job.id not in queues[2].failed_job_registry
