"""The worker: an RQ worker that carries many waiting jobs at once, in threads of one process.

A request waits for a model for seconds and uses the processor for milliseconds. RQ's own worker forks for every job,
27 MB each; a thread that waits costs a fraction of one. RQ's registries, heartbeats, retries and commands keep
working: other RQ tools see an RQ worker.

Known sharp edges:

- A job that blocks in C is not interrupted by its time limit or by a stop command before the call returns
  (`deadlines.py`).
- A job that ends the process (`os._exit`, a crash in C) takes the other running jobs with it; they come back as lost
  ones.
- RQ's delayed jobs (`enqueue_in`, `Retry(interval=…)`) need RQ's scheduler, which is not this worker's work.
"""

from __future__ import annotations

import copy
import importlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import redis
from rq import Queue

from webapp.jobs.deadlines import JobStopped
from webapp.jobs.worker_books import LONGEST_PAUSE_S, Bookkeeper, Phase, Run
from webapp.jobs.worker_take import Taken, Taker
from webapp.jobs.worker_threads import Threads, Wake
from webapp.jobs.worker_upkeep import Ear, Upkeep

log = logging.getLogger(__name__)

POLL_S = 1.0
"""How long an idle worker waits for a wake-up before it looks by itself."""

# Ctrl+C reaches every process of the terminal, and the one that started this worker then sends SIGTERM too: one wish,
# said twice. Only a signal that comes later is a second wish.
_SAME_WISH_S = 1.0

_ENDING_S = 2.0


class ThreadWorker(Bookkeeper):
    """Runs jobs of `queues`, highest first, up to `slots` at once.

    connection     a client with a pool of at least 20 connections, beside what the jobs take from it (redis-py's pools
                   stop at 100). Its socket time-out is how long a Redis that hangs goes unnoticed: a few seconds.
    grace_s        seconds that running jobs get to end after the worker was told to stop; what still runs then goes
                   back to the front of its queue.
    job_context    entered around every job in the job's thread, such as `app.app_context`.
    preload        modules to import before the first job, so that no job pays for an import.
    heartbeat_s    seconds between two signs of life of this worker and its jobs.
    lost_after_s   whole seconds without one after which any worker may take a job for lost: it goes back to its queue
                   if it has retries left, else to the FailedJobRegistry.
    maintenance_s  seconds between two looks for lost jobs.
    name           unique among workers; default: host, process and a random part.
    on_ready       called once, when the worker is registered and about to take its first job.

    `ValueError` if a number makes no sense.
    """

    def __init__(
        self,
        queues: Sequence[Queue],
        connection: redis.Redis,
        *,
        slots: int = 128,
        grace_s: float = 25,
        job_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        preload: Sequence[str] = (),
        heartbeat_s: float = 15,
        lost_after_s: int = 90,
        maintenance_s: float = 60,
        name: str | None = None,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        if slots < 1 or grace_s < 0 or maintenance_s <= 0:
            raise ValueError("a worker needs a slot, a grace of 0 s or more, and maintenance from time to time")
        if not 0 < heartbeat_s < lost_after_s - 1:
            # RQ's registries count in whole seconds.
            raise ValueError("lost_after_s must exceed heartbeat_s by more than 1 s, or living jobs would count as lost")
        super().__init__(
            queues,
            connection,
            name=name or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
            lost_after_s=lost_after_s,
            heartbeat_s=heartbeat_s,
            job_context=job_context,
        )
        # At DEBUG, RQ logs what jobs returned and what their exceptions said.
        logging.getLogger("rq").setLevel(logging.INFO)
        self.slots = slots
        self.grace_s = grace_s
        self.left_running = 0
        """Threads that were still at a job when `work` returned; the job itself was handed back."""
        self._maintenance_s = maintenance_s
        self._preload = tuple(preload)
        self._on_ready = on_ready
        self._wake = Wake()
        self._running: set[Run] = set()
        self._taken: list[Taken] = []
        self._taker = Taker(self.queues, connection, self.name, slots)
        self._asked_to_stop: float | None = None
        self._grace_ends: float | None = None

    # -- from outside ----------------------------------------------------------------------------------------------
    def request_stop(self, signum: int = 0, frame: object = None) -> None:  # noqa: ARG002
        """Take no more jobs and let the running ones end, within the grace. A second call ends the grace.

        May be called from any thread and is the handler of SIGTERM and SIGINT, so it takes no lock and logs nothing.
        """
        now = time.monotonic()
        if self._asked_to_stop is None:
            self._asked_to_stop = now
            self._grace_ends = now + self.grace_s
        elif not signum or now - self._asked_to_stop > _SAME_WISH_S:
            self._grace_ends = now
        self._wake.set()

    def stop_job(self, job_id: str) -> bool:
        """Stop a job that runs here: it ends with status `stopped` in the FailedJobRegistry, without a retry.

        False if no such job runs here, or it has just ended.
        """
        with self.books_lock:
            runs = [run for run in self._running if run.job.id == job_id and run.phase is Phase.RUNNING]
            for run in runs:
                run.books._stopped_job_id = job_id
        stopped = [self.deadlines.interrupt(run.watch, JobStopped) for run in runs]
        return any(stopped)

    def work(self, burst: bool = False) -> bool:  # type: ignore[override]
        """Take and run jobs until told to stop; with `burst`, until the queues are empty and all running jobs have
        ended.

        True if any job was taken. Installs signal handlers only where Python allows it, in the main thread, and puts
        the former ones back. Waits while Redis is away. After the grace it returns although threads may still be at
        their jobs (`left_running`): a process should then end by `end_process`.
        """
        for module in self._preload:
            importlib.import_module(module)
        worked = False
        with self._signal_handlers():
            self.closing.clear()
            upkeep = Upkeep(self, lambda: list(self._running), self.slots, self._maintenance_s, self._wake.set)
            ear = Ear(self, self._wake.set, self._obey)
            threads = Threads("job")
            try:
                if self._enter(upkeep) and not burst:
                    ear.start()
                if self._on_ready and not self._asked_to_stop:
                    self._on_ready()
                worked = self._loop(upkeep, threads, burst)
            finally:
                self._leave(upkeep, ear, threads)
        return worked

    def end_process(self, status: int = 0) -> None:
        """End the process after `work` returned: at once if threads were left at their jobs, else return.

        An interpreter that ends tears modules down under threads that still run; the jobs were handed back, so nothing
        that those threads might still do is wanted.
        """
        if self.left_running:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    # -- the loop --------------------------------------------------------------------------------------------------
    def _enter(self, upkeep: Upkeep) -> bool:
        """Register and recover what was lost, as soon as Redis is there. False if told to stop before."""
        steps: list[Callable[[], None]] = [self.register_birth, upkeep.start]
        pause_s = 0.05
        while steps and self._asked_to_stop is None:
            try:
                steps[0]()
                steps.pop(0)
            except redis.RedisError as exc:
                self.outage.begins(exc)
                self._wake.wait(pause_s)
                pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
        if steps:
            return False
        self.outage.ends()
        log.info("worker %s: up to %d jobs at once from %s", self.name, self.slots, ", ".join(self.queue_names()))
        return True

    def _loop(self, upkeep: Upkeep, threads: Threads, burst: bool) -> bool:
        worked = False
        pause_s = 0.05
        while self._asked_to_stop is None:
            self._wake.clear()  # Before looking: a call that comes while we look is not lost.
            was_idle = not self._running
            try:
                if self.outage.active:
                    upkeep.beat()
                    upkeep.enter_worker()
                    self.outage.ends()
                started, more = self._start_jobs(threads)
            except redis.RedisError as exc:
                self.outage.begins(exc)
                self._wake.wait(pause_s)
                pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
                continue
            pause_s = 0.05
            worked = worked or started > 0
            if more:
                continue
            if burst and was_idle and not started:
                break
            self._wake.wait(POLL_S)
        return worked

    def _start_jobs(self, threads: Threads) -> tuple[int, bool]:
        """Fill the free slots: how many jobs were started, and whether to look again at once.

        The slot comes first: a job that was taken and has to wait here would be taken from a worker that has room.
        Jobs that were taken just before Redis went away are still in `_taken` when it is back, and are started then.
        """
        more = False
        if not self._taken and (free := self.slots - len(self._running)) > 0:
            self._taken, more = self._taker.take(free)
        if not self._taken:
            return 0, more
        runs = [self._run_of(taken) for taken in self._taken]
        self.open_books(runs)
        self._taken = []
        with self.books_lock:
            self._running.update(runs)
        for run in runs:
            threads.run(partial(self._carry, run))
        return len(runs), more

    def _run_of(self, taken: Taken) -> Run:
        job = taken.job
        books = copy.copy(self)
        books.execution = taken.execution
        timeout_s = job.timeout if job.timeout is not None else Queue.DEFAULT_TIMEOUT
        return Run(job, taken.queue, taken.execution, books, self.deadlines.limit(timeout_s))

    def _carry(self, run: Run) -> None:
        try:
            run.books.carry_out(run)
        finally:
            with self.books_lock:
                self._running.discard(run)
            self._wake.set()

    # -- the end ---------------------------------------------------------------------------------------------------
    def _leave(self, upkeep: Upkeep, ear: Ear, threads: Threads) -> None:
        self._drain()
        self._hand_back()
        self.closing.set()
        ear.stop()
        upkeep.join()
        threads.close()
        self.deadlines.close()
        self._asked_to_stop = self._grace_ends = None
        try:
            if self.birth_date:  # Else it never registered, and the record under its name is another's.
                self.register_death()  # type: ignore[no-untyped-call]
        except redis.RedisError as exc:
            log.warning("worker %s could not sign off (%s): its record will expire", self.name, type(exc).__name__)
        self.birth_date = None
        log.info("worker %s: stopped", self.name)

    def _drain(self) -> None:
        """Wait for the running jobs, until the grace ends."""
        if self._grace_ends is None:
            self._grace_ends = time.monotonic() + self.grace_s
        if self._running:
            log.info("worker %s: stopping, %d jobs still run", self.name, len(self._running))
        while self._running and (left_s := self._grace_ends - time.monotonic()) > 0:
            self._wake.wait(min(left_s, POLL_S))

    def _hand_back(self) -> None:
        """Give away the jobs that still run, and wait a moment for those whose end is just being entered."""
        with self.books_lock:
            runs = [run for run in self._running if run.phase is Phase.RUNNING]
            for run in runs:
                run.phase = Phase.HANDED_BACK
        if runs:
            try:
                self.put_back(runs)
                log.warning("worker %s: handed back %d jobs that did not end in time", self.name, len(runs))
            except redis.RedisError as exc:
                log.error("%d jobs could not be handed back (%s): they will count as lost", len(runs), type(exc).__name__)
        ends = time.monotonic() + _ENDING_S
        while any(run.phase is Phase.ENDING for run in list(self._running)) and time.monotonic() < ends:
            self._wake.wait(0.1)
        with self.books_lock:
            self.left_running = len(self._running)
            self._running.clear()

    # -- signals and commands --------------------------------------------------------------------------------------
    @contextmanager
    def _signal_handlers(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.request_stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _obey(self, command: dict[str, object]) -> None:
        """RQ's commands, from `rq.command`. There is no horse to kill: that, and anything unknown, is ignored."""
        name = command.get("command")
        if name == "shutdown":
            log.info("worker %s: told to shut down", self.name)
            self.request_stop()
        elif name == "stop-job" and not self.stop_job(str(command.get("job_id"))):
            log.info("worker %s: told to stop a job that does not run here", self.name)
