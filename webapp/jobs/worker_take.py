"""Which jobs a worker takes next: RQ's safe move from each queue, higher queues first, with a share for the lower
ones."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from uuid import uuid4

import redis
from rq import Queue
from rq.executions import Execution
from rq.job import Job, _job_stack
from rq.suspension import WORKERS_SUSPENDED

log = logging.getLogger(__name__)

_LOWEST, _BETWEEN, _HIGHEST = 1, 3, 4
_CYCLE = 16

# One round trip whatever the number of jobs, and no more moves than there are slots: a pipeline of moves could not
# know when to stop. Each move is the LMOVE into that queue's intermediate queue by which RQ recovers jobs of a worker
# that dies before it has started them. (RQ's own way with several queues is BLPOP, which loses them: its issue 1716.)
# The jobs' keys are not declared, as their ids are known only here: like all of RQ, this is not for Redis Cluster.
_TAKE = """
-- KEYS: per queue, highest first: the queue, its intermediate queue
-- ARGV: wanted, offset into the cycle, prefix of job keys, key of the suspension, the cycle of first choices (from 1)
if redis.call('EXISTS', ARGV[4]) == 1 then return {{}, 0} end
local wanted, offset, prefix = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local queues, turns = #KEYS / 2, #ARGV - 4
local left, dead, empty, taken = queues, 0, {}, {}
local function choose(first)
  for q = first, 1, -1 do if not empty[q] then return q end end
  for q = first + 1, queues do if not empty[q] then return q end end
end
while #taken < wanted and left > 0 and dead < 1000 do
  local q = choose(tonumber(ARGV[5 + (offset + #taken) % turns]))
  local id = redis.call('LMOVE', KEYS[2 * q - 1], KEYS[2 * q], 'LEFT', 'RIGHT')
  if not id then
    empty[q] = true
    left = left - 1
  else
    local fields = redis.call('HGETALL', prefix .. id)
    if #fields > 0 then
      taken[#taken + 1] = {q, id, fields}
    else
      -- Deleted, expired, or enqueued twice under one id and done already.
      redis.call('LREM', KEYS[2 * q], -1, id)
      dead = dead + 1
    end
  end
end
return {taken, left}
"""


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


def cycle(queues: int) -> list[int]:
    """First choices of consecutive turns, as indexes into the queues, highest first; the same for ever.

    While all queues are full, of three queues the highest gets 12 of 16 turns, the middle one 3 and the lowest 1 (6
    %). With up to seven queues each gets at least 5 %. The turns of a queue are spread evenly (smooth weighted round
    robin).
    """
    if queues < 1:
        raise ValueError("a worker needs at least one queue")
    lower = [_BETWEEN] * (queues - 2) + [_LOWEST] if queues > 1 else []
    weights = [max(_HIGHEST, _CYCLE - sum(lower)), *lower]
    credit, order = [0] * queues, []
    for _ in range(sum(weights)):
        credit = [have + weight for have, weight in zip(credit, weights, strict=True)]
        chosen = credit.index(max(credit))
        credit[chosen] -= sum(weights)
        order.append(chosen)
    return order


class Taker:
    """Takes jobs from `queues`, highest first. A turn whose queue is empty goes to the next higher one, then to the
    rest."""

    def __init__(self, queues: Sequence[Queue], connection: redis.Redis, worker_name: str) -> None:
        self._queues = list(queues)
        self._connection = connection
        self._worker_name = worker_name
        self._cycle = cycle(len(self._queues))
        self._turn = 0
        self._script = connection.register_script(_TAKE)
        self._keys = [key for queue in self._queues for key in (queue.key, queue.intermediate_queue_key)]

    def take(self, wanted: int) -> tuple[list[Taken], bool]:
        """At most `wanted` jobs, now in their intermediate queues, and whether to look again at once. Does not wait.

        Nothing while workers are suspended (`rq suspend`). Raises `redis.RedisError`.
        """
        first_choices = [index + 1 for index in self._cycle]
        moved, queues_left = self._script(
            keys=self._keys,
            args=[wanted, self._turn, Job.redis_job_namespace_prefix, WORKERS_SUSPENDED, *first_choices],
        )
        self._turn = (self._turn + len(moved)) % len(self._cycle)
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
