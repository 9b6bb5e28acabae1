"""How jobs end in the worker: well, with an error, out of time, by command, and more than once under one id."""

from __future__ import annotations

import logging

import pytest
from rq import Retry
from rq.command import send_shutdown_command, send_stop_job_command
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

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
from webapp.queues import HIGH, Task, put

__all__ = ["client", "queues"]  # Fixtures.


# -- how jobs end ----------------------------------------------------------------------------------------------------
def test_a_job_that_keeps_no_result_leaves_nothing_behind(client, queues):
    enqueue(queues[0], "note", job_id="execute-1", result_ttl=0)
    ThreadWorker(queues, client, name="w").work(burst=True)
    left = {key.decode() for key in client.scan_iter()}
    # The pace is kept by the hour, and not by the job.
    assert {key for key in left if not key.startswith(("switchhook:pace:", "switchhook:turn:"))} == {"rq:queues", "rq:worker:w"}
    assert client.hget("rq:worker:w", "successful_job_count") == b"1"


def test_a_result_is_kept_for_as_long_as_the_job_says(client, queues):
    job = enqueue(queues[0], "note", "kept", result_ttl=60)
    ThreadWorker(queues, client).work(burst=True)
    assert job.get_status() == JobStatus.FINISHED
    assert job.return_value() == "kept"
    assert job.id in queues[0].finished_job_registry


@pytest.mark.parametrize("result_ttl", [0, 60])
def test_a_job_that_depends_on_another_runs_after_it(client, queues, result_ttl):
    first = enqueue(queues[0], "note", "first", result_ttl=result_ttl)
    enqueue(queues[1], "note", "second", depends_on=first)
    ThreadWorker(queues, client).work(burst=True)
    assert meeting.notes == ["first", "second"]


def test_a_job_enqueued_twice_before_it_runs_is_run_once(client, queues):
    for _ in range(2):
        put(client, Task("note", JOBS + "note", 30), ["1"], HIGH)
    ThreadWorker(queues, client, slots=1).work(burst=True)
    assert len(meeting.notes) == 1
    assert nothing_is_left(queues[0])


def test_a_job_enqueued_again_while_it_runs_is_run_again(client, queues):
    task = Task("note", JOBS + "wait_at_gate", 30)
    with working(ThreadWorker(queues, client, slots=1)):
        put(client, task, ["1"], HIGH)
        wait_for(meeting.started)
        put(client, task, ["1"], HIGH)
        meeting.gate.set()
        wait_for(meeting.done, 2)
    assert nothing_is_left(queues[0])
    assert not client.exists(Job.key_for("note-1"))


def test_of_two_runs_of_one_job_the_first_to_end_leaves_the_job_to_the_other(client, queues):
    task = Task("note", JOBS + "leave_one_by_one", 30)
    with working(ThreadWorker(queues, client, name="w")):
        for _ in range(2):
            put(client, task, ["1"], HIGH)
            wait_for(meeting.started)
        meeting.exits.release()
        until(lambda: client.hget("rq:worker:w", "successful_job_count") == b"1")
        assert Job.fetch("note-1", connection=client, serializer=JSONSerializer).get_status() == JobStatus.STARTED
        assert len(queues[0].started_job_registry.get_job_ids()) == 1
        meeting.exits.release()
        until(lambda: nothing_is_left(queues[0]))
    assert not client.exists(Job.key_for("note-1"))
    assert queues[0].failed_job_registry.count == 0


def test_a_job_that_raises_is_in_the_failed_registry_and_the_next_one_runs(client, queues):
    job = enqueue(queues[0], "fail", "no such thing")
    enqueue(queues[0], "note", "next")
    ThreadWorker(queues, client, slots=1).work(burst=True)
    assert meeting.notes == ["failed", "next"]
    assert job.get_status() == JobStatus.FAILED
    assert job.id in queues[0].failed_job_registry
    assert "ValueError: no such thing" in job.latest_result().exc_string
    assert nothing_is_left(queues[0])


def test_a_job_with_retries_runs_again_before_it_fails(client, queues):
    job = enqueue(queues[0], "fail", "again", retry=Retry(max=2))
    ThreadWorker(queues, client).work(burst=True)
    assert meeting.notes == ["failed"] * 3
    assert job.get_status() == JobStatus.FAILED


def test_a_job_may_ask_for_another_try(client, queues):
    job = enqueue(queues[0], "ask_for_another_try", result_ttl=60)
    ThreadWorker(queues, client).work(burst=True)
    assert meeting.notes == ["tried"] * 3
    assert job.get_status() == JobStatus.FINISHED


def test_arguments_results_and_exception_texts_are_not_logged(client, queues, caplog):
    caplog.set_level(logging.DEBUG)
    for function in ("note", "fail"):
        for result_ttl in (0, 60):
            enqueue(queues[0], function, "hunter2", result_ttl=result_ttl)
    ThreadWorker(queues, client).work(burst=True)
    assert "ValueError" in caplog.text
    assert "hunter2" not in caplog.text
    assert not [record for record in caplog.records if "hunter2" in str(vars(record))]


# -- time limits and commands ----------------------------------------------------------------------------------------
def test_a_job_over_its_time_limit_fails_and_its_neighbours_go_on(client, queues):
    late = enqueue(queues[0], "turn_for_ever", timeout=1)
    neighbour = enqueue(queues[0], "wait_at_gate", timeout=30, result_ttl=60)
    with working(ThreadWorker(queues, client)):
        until(lambda: late.id in queues[0].failed_job_registry)
        meeting.gate.set()
        until(lambda: neighbour.get_status() == JobStatus.FINISHED)
    assert late.get_status() == JobStatus.FAILED
    report = late.latest_result().exc_string
    assert "rq.timeouts.JobTimeoutException: Task exceeded maximum timeout value (1 seconds)" in report


def test_a_stopped_job_ends_as_stopped_whatever_it_swallows_and_is_not_retried(client, queues):
    with working(ThreadWorker(queues, client)):
        job = enqueue(queues[0], "swallow_and_turn", retry=Retry(max=3))
        neighbour = enqueue(queues[0], "wait_at_gate", result_ttl=60)
        wait_for(meeting.started, 2)
        send_stop_job_command(client, job.id, serializer=JSONSerializer)
        until(lambda: job.id in queues[0].failed_job_registry)
        assert job.get_status() == JobStatus.STOPPED
        meeting.gate.set()
        until(lambda: neighbour.get_status() == JobStatus.FINISHED)
    assert "swallowed" not in meeting.notes


def test_a_job_that_does_not_run_here_cannot_be_stopped(client, queues):
    assert not ThreadWorker(queues, client).stop_job("elsewhere")


def test_the_shutdown_command_lets_running_jobs_end(client, queues):
    worker = ThreadWorker(queues, client, name="w")
    with working(worker) as thread:
        enqueue(queues[0], "wait_at_gate", "ended")
        wait_for(meeting.started)
        client.publish("rq:pubsub:w", "no command at all")
        send_shutdown_command(client, "w")
        until(lambda: worker._asked_to_stop)
        meeting.gate.set()
        thread.join(SOON_S)
    assert meeting.notes == ["ended"]
