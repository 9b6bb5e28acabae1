"""What a worker does beside its jobs: signs of life, recovery of what other workers lost, and listening for calls."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import redis
from redis.client import PubSub
from rq import Queue
from rq.connections import get_connection_kwargs
from rq.group import Group
from rq.job import Job
from rq.worker import WorkerStatus
from rq.worker_registration import clean_worker_registry, register

from webapp.jobs.worker_books import LONGEST_PAUSE_S, Bookkeeper, Phase, Run
from webapp.jobs.worker_signs import Sign, forgotten
from webapp.queues import WAKE_CHANNEL
from webapp.turns import LOADS, SIGNS

log = logging.getLogger(__name__)

# Short, because a worker that dies while it holds the lock keeps all others from recovering its own jobs (RQ: 15
# minutes).
_MAINTENANCE_LOCK_S = 60

_NEVER_STARTED_S = 60.0

_GIVE_BACK = """
-- KEYS: intermediate queue, queue, job; ARGV: id of the job
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 or redis.call('EXISTS', KEYS[3]) == 0 then return 0 end
redis.call('LPUSH', KEYS[2], ARGV[1])
return 1
"""


class Upkeep:
    """One thread that renews the worker's key and the executions of all its running jobs, and runs RQ's maintenance."""

    def __init__(
        self,
        worker: Bookkeeper,
        runs: Callable[[], list[Run]],
        slots: int,
        maintenance_s: float,
        on_recovered: Callable[[], None],
    ) -> None:
        self._worker = worker
        self._runs = runs
        self._maintenance_s = maintenance_s
        self._on_recovered = on_recovered
        self._give_back = worker.connection.register_script(_GIVE_BACK)
        self._first_seen: dict[str, dict[str, float]] = {}
        self._sign = Sign(worker.name, worker.queue_names(), slots)
        self._thread = threading.Thread(target=self._serve, name="worker-upkeep", daemon=True)

    def start(self) -> None:
        """Maintain once, now, and go on in a thread until the worker is `closing`."""
        self.maintain()
        with self._worker.connection.pipeline(transaction=False) as pipe:
            self._sign.give(len(self._runs()), pipe)
            pipe.execute()
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread, at most two seconds: it may be stuck in a Redis that hangs. Then withdraw the sign."""
        if not self._thread.ident:
            return
        self._thread.join(LONGEST_PAUSE_S)
        with suppress(redis.RedisError), self._worker.connection.pipeline(transaction=False) as pipe:
            self._sign.withdraw(pipe)
            pipe.execute()

    def beat(self) -> None:
        """One sign of life of the worker and of every running job, in one round trip. Raises `redis.RedisError`."""
        worker = self._worker
        with worker.books_lock, worker.connection.pipeline(transaction=False) as pipe:
            carried = self._runs()
            runs = [run for run in carried if run.phase is Phase.RUNNING]
            worker.heartbeat(worker.lost_after_s, pipe)
            # RQ writes the state with each job. It is for people who look, who can wait for the next heartbeat.
            worker.set_state(WorkerStatus.BUSY if runs else WorkerStatus.IDLE, pipe)
            for run in runs:
                run.keep_alive(worker.lost_after_s, pipe)
            self._sign.give(len(carried), pipe)
            field_was_new = pipe.execute()[0]
        if field_was_new:
            self.enter_worker()  # Its record had expired, or Redis was restarted without its data.

    def enter_worker(self) -> None:
        """Write the worker's record again, after Redis was away."""
        worker = self._worker
        with worker.connection.pipeline() as pipe:
            pipe.hset(worker.key, mapping=worker.serialize())
            register(worker, pipe)
            pipe.expire(worker.key, worker.lost_after_s)
            pipe.execute()

    def maintain(self) -> None:
        """Clean the registries of each queue that no other worker is cleaning just now. Raises `redis.RedisError`."""
        worker = self._worker
        for queue in worker.queues:
            if not worker.connection.set(queue.registry_cleaning_key, 1, nx=True, ex=_MAINTENANCE_LOCK_S):
                continue
            try:
                for registry in (queue.finished_job_registry, queue.started_job_registry, queue.failed_job_registry):
                    registry.death_penalty_class = worker.death_penalty_class
                    registry.cleanup()
                clean_worker_registry(queue)
                self._recover_never_started(queue)
            finally:
                queue.release_maintenance_lock()  # type: ignore[no-untyped-call]
        Group.clean_registries(connection=worker.connection)
        self._forget_signs()
        self._on_recovered()

    def _forget_signs(self) -> None:
        signs: dict[bytes, bytes] = self._worker.connection.hgetall(SIGNS)  # type: ignore[assignment]
        if gone := forgotten(signs):
            self._worker.connection.hdel(SIGNS, *gone)
            self._worker.connection.hdel(LOADS, *gone)

    def _recover_never_started(self, queue: Queue) -> None:
        """Jobs that a worker took and did not live to start go back to the front of their queue.

        RQ's own cleanup of the intermediate queue, but for two things. RQ counts a job without retries as failed,
        though it certainly never began. And RQ remembers for a day when it first saw an id there, so an id that is
        used again is taken for stuck the moment it passes by.
        """
        now = time.monotonic()
        before = self._first_seen.get(queue.name, {})
        job_ids = queue.intermediate_queue.get_job_ids()
        seen = self._first_seen[queue.name] = {job_id: before.get(job_id, now) for job_id in job_ids}
        overdue_s = min(float(self._worker.lost_after_s), _NEVER_STARTED_S)
        overdue = [job_id for job_id, since in seen.items() if now - since >= overdue_s]
        if not overdue:
            return
        started = set(queue.started_job_registry.get_job_ids(cleanup=False))
        for job_id in overdue:
            if job_id not in started:
                keys = [queue.intermediate_queue_key, queue.key, Job.key_for(job_id)]
                if self._give_back(keys=keys, args=[job_id]):
                    log.warning("job %s was taken by a worker that died before starting it: queued again", job_id)
            del seen[job_id]

    def _serve(self) -> None:
        worker = self._worker
        maintenance_due = time.monotonic() + self._maintenance_s
        pause_s = self._pause_s
        while not worker.closing.wait(pause_s):
            pause_s = self._pause_s
            try:
                self.beat()
                if time.monotonic() >= maintenance_due:
                    self.maintain()
                    maintenance_due = time.monotonic() + self._maintenance_s
            except redis.RedisError as exc:
                worker.outage.begins(exc)
                pause_s = min(pause_s, LONGEST_PAUSE_S)
            except Exception as exc:
                # One record that RQ cannot read must not end the signs of life of all others.
                log.error("the worker's upkeep failed: %s", type(exc).__name__, exc_info=exc)

    @property
    def _pause_s(self) -> float:
        return min(self._worker.heartbeat_s, self._maintenance_s)


class Ear:
    """One thread that listens for wake-ups after an enqueue and for RQ's commands to this worker.

    It has a connection of its own, beside the pool that the jobs share. A call that is missed while the connection is
    away costs the worker's fallback poll, a second, and nothing else.
    """

    def __init__(self, worker: Bookkeeper, wake: Callable[[], None], obey: Callable[[dict[str, object]], None]) -> None:
        self._worker = worker
        self._wake = wake
        self._obey = obey
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="worker-ear", daemon=True)

    def start(self) -> None:
        """Listen from now on; returns when the subscription stands, or after a second."""
        self._thread.start()
        self._listening.wait(1.0)

    def stop(self) -> None:
        """Wait for the thread after the worker is `closing`, at most two seconds."""
        if self._thread.ident:
            with suppress(redis.RedisError):  # Without the call it looks for itself, every second.
                self._worker.connection.publish(self._worker.pubsub_channel_name, "{}")
            self._thread.join(LONGEST_PAUSE_S)

    def _client(self) -> redis.Redis:
        pool = self._worker.connection.connection_pool
        kwargs = get_connection_kwargs(self._worker.connection) | {"health_check_interval": 30}
        return redis.Redis.from_pool(redis.ConnectionPool(connection_class=pool.connection_class, **kwargs))

    def _serve(self) -> None:
        pause_s = 0.05
        while not self._worker.closing.is_set():
            try:
                with self._client() as client, client.pubsub() as pubsub:
                    pubsub.subscribe(WAKE_CHANNEL, self._worker.pubsub_channel_name)
                    while not self._worker.closing.is_set():
                        self._hear(pubsub)
                        pause_s = 0.05
            except (redis.RedisError, OSError) as exc:
                self._worker.outage.begins(exc)
                self._worker.closing.wait(pause_s)
                pause_s = min(LONGEST_PAUSE_S, pause_s * 2)

    def _hear(self, pubsub: PubSub) -> None:
        message = pubsub.get_message(timeout=1.0)
        if message is None:
            return
        if message["type"] == "subscribe":
            self._listening.set()
            self._wake()  # Something may have been enqueued while nobody listened.
        elif message["type"] == "message" and message["channel"] == WAKE_CHANNEL.encode():
            self._wake()
        elif message["type"] == "message":
            try:
                self._obey(json.loads(message["data"]))
            except Exception as exc:
                log.warning("a command to this worker could not be read (%s)", type(exc).__name__)
