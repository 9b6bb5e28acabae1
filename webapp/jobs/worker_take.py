"""Which jobs a worker takes next: RQ's safe move from each queue, higher queues first, with a share for the lower
ones."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from uuid import uuid4

import redis
from rq import Queue
from rq.executions import Execution
from rq.job import Job, _job_stack
from rq.suspension import WORKERS_SUSPENDED

from webapp.turns import DELIVER, EXECUTE, HOURS, HOURS_KEPT_S, LOADS, MINUTES, MINUTES_KEPT_S, OTHER, cycle, turn_key

log = logging.getLogger(__name__)

# One round trip whatever the number of jobs, and no more moves than there are slots: a pipeline of moves could not
# know when to stop. Each move is the LMOVE into that queue's intermediate queue by which RQ recovers jobs of a worker
# that dies before it has started them. (RQ's own way with several queues is BLPOP, which loses them: its issue 1716.)
# The jobs' keys are not declared, as their ids are known only here: like all of RQ, this is not for Redis Cluster.
#
# It also counts what it moves, and enters what the worker tells of its slots: figures that cost no round trip of their own.
# The share of a lower queue comes from one cycle of turns for all workers, which goes on where the last one left it.
_TAKE = (
    """
-- KEYS: per queue, highest first: the queue, its intermediate queue; then the turn, the loads
-- ARGV: wanted, prefix of job keys, key of the suspension, worker, jobs in flight before, ended since the last call, busy ms
--       since then, jobs in flight as entered last (-1: never), of the paces by minute and by hour the prefix and the life
--       (s), first choices (from 1)
local wanted, prefix, worker, before = tonumber(ARGV[1]), ARGV[2], ARGV[4], tonumber(ARGV[5])
local ended, busy, at = tonumber(ARGV[6]), tonumber(ARGV[7]), redis.call('TIME')[1]
local minute, hour = ARGV[9] .. math.floor(at / 60), ARGV[11] .. math.floor(at / 3600)
local queues, turns = (#KEYS - 2) / 2, #ARGV - 12
local turn_key, loads = KEYS[#KEYS - 1], KEYS[#KEYS]
local offset = tonumber(redis.call('GET', turn_key) or '0') or 0
local left, dead, empty, taken, starts = queues, 0, {}, {}, {}
local function choose(first)
  for q = first, 1, -1 do if not empty[q] then return q end end
  for q = first + 1, queues do if not empty[q] then return q end end
end
local function name_of(q) return string.match(KEYS[2 * q - 1], '([^:]+)$') end
local depths = nil
-- Other workers may serve other queues.
if redis.call('HEXISTS', minute, 'd:' .. name_of(1)) + redis.call('HEXISTS', minute, 'd:' .. name_of(queues)) < 2 then
  depths = {}
  for q = 1, queues do depths[q] = redis.call('LLEN', KEYS[2 * q - 1]) end
end
local function begin(pace, life)
  for q = 1, queues do redis.call('HSETNX', pace, 'd:' .. name_of(q), depths[q]) end
  redis.call('EXPIRE', pace, life)
end
local function enter(pace)
  for field, count in pairs(starts) do redis.call('HINCRBY', pace, field, count) end
  if ended > 0 then redis.call('HINCRBY', pace, 'ended', ended) end
  if busy > 0 then redis.call('HINCRBY', pace, 'busy_ms', busy) end
end
if redis.call('EXISTS', ARGV[3]) == 1 then left = 0 end
while #taken < wanted and left > 0 and dead < 1000 do
  local q = choose(tonumber(ARGV[13 + (offset + #taken) % turns]))
  local id = redis.call('LMOVE', KEYS[2 * q - 1], KEYS[2 * q], 'LEFT', 'RIGHT')
  if not id then
    empty[q] = true
    left = left - 1
  else
    local fields = redis.call('HGETALL', prefix .. id)
    if #fields > 0 then
      taken[#taken + 1] = {q, id, fields}
      local task = string.match(id, '^(%l+)%-')
      if task ~= 'TASK_EXECUTE' and task ~= 'TASK_DELIVER' then task = 'TASK_OTHER' end
      local field = 's:' .. name_of(q) .. ':' .. task
      starts[field] = (starts[field] or 0) + 1
    else
      -- Deleted, expired, or enqueued twice under one id and done already.
      redis.call('LREM', KEYS[2 * q], -1, id)
      dead = dead + 1
    end
  end
end
if #taken > 0 then redis.call('SET', turn_key, (offset + #taken) % turns) end
if before + #taken ~= tonumber(ARGV[8]) then redis.call('HSET', loads, worker, before + #taken) end
if #taken > 0 or ended > 0 or busy > 0 then
  if depths then begin(minute, ARGV[10]) begin(hour, ARGV[12]) end
  enter(minute) enter(hour)
end
return {taken, left}
""".replace("TASK_EXECUTE", EXECUTE)
    .replace("TASK_DELIVER", DELIVER)
    .replace("TASK_OTHER", OTHER)
)


class ThreadJob(Job):
    """RQ's job without the round trip that makes it persistent: the worker sends that along when it starts the job."""

    def perform(self) -> object:
        """Run the job's function and return its result."""
        _job_stack.push(self)  # type: ignore[no-untyped-call]
        try:
            self._result = self._execute()
        finally:
            _job_stack.pop()  # type: ignore[no-untyped-call]
        return self._result


class Taken:
    """A job that this worker has taken and not yet started. Its execution has its id from now on, so that starting
    it again after a lost connection is the same start."""

    __slots__ = ("execution", "job", "queue")

    def __init__(self, queue: Queue, job: Job, worker_name: str) -> None:
        self.queue = queue
        self.job = job
        self.execution = Execution(uuid4().hex, job.id, queue.connection, worker_name)


class Taker:
    """Takes jobs for one worker of `slots` slots. Not for several threads at once."""

    def __init__(self, queues: Sequence[Queue], connection: redis.Redis, worker_name: str, slots: int) -> None:
        self._queues = list(queues)
        self._worker_name = worker_name
        self._slots = slots
        self._script = connection.register_script(_TAKE)
        names = [queue.name for queue in self._queues]
        self._keys = [key for queue in self._queues for key in (queue.key, queue.intermediate_queue_key)]
        self._keys += [turn_key(names), LOADS]
        self._first_choices = [index + 1 for index in cycle(len(self._queues))]
        self._paces: list[str | int] = [MINUTES, MINUTES_KEPT_S, HOURS, HOURS_KEPT_S]
        self._in_flight = 0
        self._entered = -1
        self._since = time.monotonic()

    def take(self, wanted: int) -> tuple[list[Taken], bool]:
        """At most `wanted` jobs, now in their intermediate queues, and whether to look again at once. Does not wait.

        `wanted` is the number of free slots: from it follows what ended since the last call. Nothing while workers are
        suspended (`rq suspend`). Raises `redis.RedisError`.
        """
        at, before = time.monotonic(), self._slots - wanted
        ended = max(0, self._in_flight - before)
        busy_ms = int(1000 * (at - self._since) * self._in_flight)
        told: list[str | int] = [self._worker_name, before, ended, busy_ms, self._entered]
        moved, queues_left = self._script(
            keys=self._keys,
            args=[wanted, Job.redis_job_namespace_prefix, WORKERS_SUSPENDED, *told, *self._paces, *self._first_choices],
        )
        self._since, self._in_flight = at, before + len(moved)
        self._entered = self._in_flight
        taken = [self._read(self._queues[index - 1], job_id.decode(), fields) for index, job_id, fields in moved]
        return [one for one in taken if one], queues_left > 0 and len(moved) < wanted

    def _read(self, queue: Queue, job_id: str, fields: list[bytes]) -> Taken | None:
        try:
            job = ThreadJob(job_id, connection=queue.connection, serializer=queue.serializer)
            job.restore(dict(zip(fields[::2], fields[1::2], strict=True)))
        except Exception as exc:
            # Something that is no job of RQ's. Left where it is, it would stop the recovery of everything behind it.
            log.error("an entry of the queue %s is not a job (%s) and was dropped", queue.name, type(exc).__name__)
            queue.intermediate_queue.remove(job_id)
            return None
        return Taken(queue, job, self._worker_name)
