"""Names of queues and tasks, time limits, and how work is handed to the workers. Knows no task's code."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

log = logging.getLogger(__name__)

HIGH, NORMAL, LOW = "high", "normal", "low"
QUEUES = (HIGH, NORMAL, LOW)
"""Highest first."""

NONE = "none"
"""What an attended request says as its queue: whoever waits for the answer has it executed."""

WAKE_CHANNEL = "switchhook:wake"
"""Published to after every enqueue, so that idle workers look at once instead of polling."""

FAILURE_TTL_S = 14 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Task:
    """A job by its dotted name. `timeout_s` is None where the caller gives it."""

    name: str
    function: str
    timeout_s: int


EXECUTE = Task("execute", "webapp.jobs.tasks.execute", 120)
DELIVER = Task("deliver", "webapp.jobs.tasks.deliver", 60)
WEBHOOK = Task("webhook", "webapp.jobs.tasks.webhook", 180)


def queue_for(priority: int) -> str:
    """The queue for a priority score (features QT10): plan 20–100, plus operation, plus urgency."""
    if priority >= 80:
        return HIGH
    return NORMAL if priority >= 40 else LOW


@lru_cache(maxsize=32)
def _queue(name: str, connection: redis.Redis) -> Queue:
    return Queue(name, connection=connection, serializer=JSONSerializer)


def queue(name: str, connection: redis.Redis) -> Queue:
    """RQ's queue of that name. Arguments travel as JSON: a job's payload can never run code when it is read."""
    return _queue(name, connection)


def job_id(task: Task, subject_id: str) -> str:
    """The id under which a task about a subject is enqueued: the same each time, so that twice is harmless."""
    return f"{task.name}-{subject_id}"


def waiting(connection: redis.Redis, name: str) -> list[str]:
    """Ids of the jobs that wait in a queue, next one first."""
    found: list[bytes] = connection.lrange(queue(name, connection).key, 0, -1)  # type: ignore[assignment]
    return [job.decode() for job in found]


def put(connection: redis.Redis, task: Task, subject_ids: Iterable[str], queue_name: str, timeout_s: int = 0) -> bool:
    """Enqueue `task` for each id and wake the workers, in one round trip. False if Redis is away.

    The steps are those of RQ's `enqueue_call` for a job without dependencies, on a plain pipeline; RQ's own insists on a
    Redis transaction and prepares the job twice.

    Call it after the commit only. Nothing is lost when it fails: the sweeper finds what is waiting in the database.
    """
    target = queue(queue_name, connection)
    try:
        with connection.pipeline(transaction=False) as pipe:
            for subject_id in subject_ids:
                job = Job.create(
                    task.function,
                    args=(subject_id,),
                    id=job_id(task, subject_id),
                    origin=target.name,
                    timeout=timeout_s or task.timeout_s,
                    result_ttl=0,
                    failure_ttl=FAILURE_TTL_S,
                    status=JobStatus.QUEUED,
                    description=task.name,
                    connection=connection,
                    serializer=JSONSerializer,
                )
                job.enqueued_at = datetime.now(UTC)
                job.save(pipeline=pipe)
                target.push_job_id(job.id, pipeline=pipe)
            pipe.sadd(Queue.redis_queues_keys, target.key)
            pipe.publish(WAKE_CHANNEL, queue_name)
            pipe.execute()
    except redis.RedisError as exc:
        log.warning("the queue is away (%s): the sweeper will enqueue what waits", type(exc).__name__)
        return False
    return True
