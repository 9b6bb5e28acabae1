"""The bookkeeping of one job: RQ's own, where jobs share a process and a worker has many of them at once.

RQ's worker keeps what belongs to its one job in attributes. So every job runs on its own shallow copy of the worker,
and what only makes sense for a single current job is left out.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum, auto
from types import TracebackType
from typing import Any

import redis
from redis.client import Pipeline
from rq import Queue
from rq.exceptions import DeserializationError
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job, JobStatus, Retry
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.utils import current_timestamp, now
from rq.worker import BaseWorker

from webapp.jobs.deadlines import Deadlines, Watch
from webapp.jobs.worker_take import ThreadJob
from webapp.jobs.worker_threads import Outage
from webapp.queues import WAKE_CHANNEL

log = logging.getLogger(__name__)

ENTERING = 16
"""How many threads enter the end of their jobs at the same time, each with a connection to Redis."""

LONGEST_PAUSE_S = 2.0
"""The longest wait between two attempts to reach Redis."""

# What RQ does in a dozen round trips when a job without a result has succeeded, in one; 0 if the job has dependents,
# whose story RQ tells better. Unlike RQ it leaves the job alone that was enqueued again under its id, or runs twice:
# ours have the same id each time, and deleting it would lose the second one.
_FORGET = """
-- KEYS: job, dependents, dependencies, execution, executions of the job, started registry, worker
-- ARGV: id of the execution, member of the started registry, now (s), working time (s)
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('DEL', KEYS[4])
redis.call('ZREM', KEYS[5], ARGV[1])
redis.call('ZREM', KEYS[6], ARGV[2])
redis.call('HINCRBY', KEYS[7], 'successful_job_count', 1)
redis.call('HINCRBYFLOAT', KEYS[7], 'total_working_time', ARGV[4])
if redis.call('HGET', KEYS[1], 'status') == 'queued' then return 1 end
if redis.call('ZCOUNT', KEYS[5], ARGV[3], '+inf') > 0 then
  -- Another run of it is alive, or died a minute ago; whichever it is, the job is not kept for ever.
  redis.call('EXPIRE', KEYS[1], 86400)
  return 1
end
redis.call('DEL', KEYS[1], KEYS[3], KEYS[5])
return 1
"""


class Phase(Enum):
    """Who has the say about a job that was started."""

    RUNNING = auto()
    ENDING = auto()
    HANDED_BACK = auto()


@dataclass(slots=True, eq=False)
class Run:
    """One job on its way through this process. `phase` changes under the worker's `books_lock` only."""

    job: Job
    queue: Queue
    execution: Execution
    books: Bookkeeper
    watch: Watch
    started: float = field(default_factory=time.monotonic)
    phase: Phase = Phase.RUNNING
    registry: StartedJobRegistry = field(init=False)

    def __post_init__(self) -> None:
        self.registry = self.queue.started_job_registry

    def keep_alive(self, ttl_s: int, pipe: Pipeline) -> None:
        """Say that the job is alive for another `ttl_s` seconds.

        The execution is saved whole: RQ's own heartbeat writes one field, which after a long sleep of the machine
        would make an execution out of nothing that RQ cannot read.
        """
        self.execution.last_heartbeat = now()
        self.execution.save(ttl_s, pipe)
        self.registry.add_execution(self.execution, pipe, ttl_s, xx=True)
        ExecutionRegistry(self.job.id, pipe).add(self.execution, ttl_s, pipe)


class Bookkeeper(BaseWorker):
    """RQ's worker as far as it concerns jobs that run in threads."""

    def __init__(
        self,
        queues: Sequence[Queue],
        connection: redis.Redis,
        *,
        name: str,
        lost_after_s: int,
        heartbeat_s: float,
        job_context: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        super().__init__(
            list(queues),
            name=name,
            connection=connection,
            worker_ttl=lost_after_s,
            job_class=ThreadJob,
            serializer=JSONSerializer,
            log_job_description=False,  # It holds the arguments.
        )
        self.log = log
        self.lost_after_s = lost_after_s
        self.heartbeat_s = heartbeat_s
        self.outage = Outage()
        self.deadlines = Deadlines()
        self.death_penalty_class = self.deadlines.limit  # type: ignore[assignment]
        # Held while heartbeats are on their way, so that none arrives after its job's books were closed and leaves a
        # trace.
        self.books_lock = threading.Lock()
        self.closing = threading.Event()
        # Many jobs may end at once. More threads than this would not be quicker at entering it, only take more connections.
        self._entering = threading.Semaphore(ENTERING)
        self._job_context = job_context
        self._forget_script = connection.register_script(_FORGET)

    # -- what RQ's worker does for a process of its own ------------------------------------------------------------
    def _set_connection(self, connection: redis.Redis) -> redis.Redis:
        """RQ would raise the socket time-out to minutes for its blocking reads. There are none here, and a Redis that
        hangs must be noticed in seconds."""
        return connection

    def _set_ip_address(self, connection: redis.Redis) -> None:  # noqa: ARG002
        """RQ asks Redis for the list of its clients. A pool has many addresses, and Redis may be away just now."""
        self.ip_address = "unknown"

    def set_current_job_id(self, job_id: str | None = None, pipeline: Pipeline | None = None) -> None:
        """Nothing: there is no such thing as the one current job. A job's own record says which worker has it."""

    def get_heartbeat_ttl(self, job: Job) -> int:  # noqa: ARG002
        """Seconds after which a job without a heartbeat counts as lost."""
        return self.lost_after_s

    # -- start -----------------------------------------------------------------------------------------------------
    def open_books(self, runs: Sequence[Run]) -> None:
        """Enter jobs as started, all in one round trip and all or none. Doing it twice changes nothing.

        What RQ does in `prepare_execution`, `prepare_job_execution` and `Job.perform`, without the fields of the
        worker that tell of a single current job; the worker's state goes with the heartbeats.
        """
        with self.connection.pipeline() as pipe:
            for run in runs:
                job, execution = run.job, run.execution
                execution.save(self.lost_after_s, pipe)
                ExecutionRegistry(job.id, pipe).add(execution, self.lost_after_s, pipe)
                run.registry.add_execution(execution, pipe, self.lost_after_s)
                job.prepare_for_execution(self.name, pipe)
                pipe.persist(job.key)
                pipe.lrem(run.queue.intermediate_queue_key, -1, job.id)
            pipe.execute()

    # -- the job ---------------------------------------------------------------------------------------------------
    def carry_out(self, run: Run) -> None:
        """Run a started job to its end and enter how it ended. Raises nothing that the job raised."""
        job, value, failure = run.job, None, None
        try:
            with self._job_context(), run.watch:
                value = job.perform()
            job.ended_at = now()
            if not isinstance(value, Retry):
                job._status = JobStatus.FINISHED
                job.execute_success_callback(self.death_penalty_class, value)
        except BaseException as exc:
            failure = exc
        try:
            if not self._claim(run):
                log.info("job %s ended after it had been handed back", job.id)
            elif failure is not None:
                with self._entering:
                    self._enter_failure(run, failure)
            else:
                self._enter_success(run, value)
        except redis.RedisError as exc:
            self._not_entered(job, exc)
        finally:
            del failure  # An exception and the frame that holds it keep each other in memory.

    def _claim(self, run: Run) -> bool:
        with self.books_lock:
            if run.phase is not Phase.RUNNING:
                return False
            run.phase = Phase.ENDING
            return True

    def _not_entered(self, job: Job, exc: Exception) -> None:
        self.outage.begins(exc)
        log.error("job %s has ended, but Redis could not be told (%s): it counts as lost", job.id, type(exc).__name__)

    # -- its end ---------------------------------------------------------------------------------------------------
    def _enter_success(self, run: Run, value: object) -> None:
        job, queue = run.job, run.queue
        if isinstance(value, Retry):
            self.handle_job_retry(job=job, queue=queue, retry=value, started_job_registry=run.registry, execution=run.execution)
            return
        give_up = time.monotonic() + self.lost_after_s - self.heartbeat_s
        pause_s = 0.1
        while True:
            try:
                self.execution = run.execution  # RQ forgets it in the attempt.
                with self._entering:
                    if not self._forget(run):
                        self.handle_job_success(job=job, queue=queue, started_job_registry=run.registry)
                break
            except (redis.ConnectionError, redis.TimeoutError) as exc:
                # The work is done, perhaps paid for: a restart of Redis must not make it look lost.
                self.outage.begins(exc)
                if time.monotonic() > give_up or self.closing.wait(pause_s):
                    raise
                pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
        job.send_webhooks(JobStatus.FINISHED)

    def _forget(self, run: Run) -> bool:
        """Close the books of a job that asked for its result not to be kept. False if it needs RQ's longer way."""
        job = run.job
        if job.get_result_ttl(self.default_result_ttl) != 0 or job.group_id or job.repeats_left:
            return False
        assert job.started_at is not None
        assert job.ended_at is not None
        return bool(
            self._forget_script(
                keys=[
                    job.key,
                    job.dependents_key,
                    job.dependencies_key,
                    run.execution.key,
                    job.execution_registry.key,
                    run.registry.key,
                    self.key,
                ],
                args=[
                    run.execution.id,
                    run.execution.composite_key,
                    current_timestamp(),
                    (job.ended_at - job.started_at).total_seconds(),
                ],
            )
        )

    def _enter_failure(self, run: Run, exc: BaseException) -> None:
        job = run.job
        job._status = JobStatus.FAILED
        job.ended_at = now()
        self.execution = run.execution
        if self._stopped_job_id == job.id:
            log.warning("job %s was stopped by command", job.id)
            job.execute_stopped_callback(self.death_penalty_class)
            report = "Job stopped by user."
        else:
            report = "".join(traceback.format_exception(exc))
            try:
                job.execute_failure_callback(self.death_penalty_class, type(exc), exc, exc.__traceback__)
            except BaseException as another:
                report = "".join(traceback.format_exception(another))
            self.handle_exception(job, type(exc), exc, exc.__traceback__)
        self.handle_job_failure(job=job, queue=run.queue, started_job_registry=run.registry, exc_string=report)

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Log where a job failed. RQ's own adds the arguments and the exception's text, which may quote a message."""
        kind: type[BaseException] = exc_info[0]
        trace: TracebackType | None = exc_info[2]
        try:
            name = job.func_name
        except DeserializationError:
            name = "unreadable"
        log.error("job %s (%s) failed: %s\n%s", job.id, name, kind.__name__, "".join(traceback.format_tb(trace)).rstrip())

    def put_back(self, runs: Sequence[Run]) -> None:
        """Put started jobs that have not ended to the front of their queues, those that started first in front.

        The caller has claimed them, so nothing else is entered about them by this process.
        """
        with self.connection.pipeline() as pipe:
            for run in sorted(runs, key=lambda run: run.started, reverse=True):
                job = run.job
                run.execution.delete(job, pipe)
                job.started_at, job.worker_name = None, None
                job.set_status(JobStatus.QUEUED, pipe)
                # The whole record: a Redis that was restarted empty meanwhile gets its job back.
                job.save(pipe, include_meta=False)
                run.queue.push_job_id(job.id, pipe, at_front=True)
            pipe.publish(WAKE_CHANNEL, "")
            pipe.execute()
