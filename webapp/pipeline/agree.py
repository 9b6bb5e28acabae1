"""The queue in Redis brought in line with the table: what waits there although its request does not is taken out.

The table is the truth. What waits in it and not in Redis the sweep enqueues; this is the other half.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Sequence

import redis
from rq.job import Job
from rq.registry import FailedJobRegistry
from sqlalchemy import select

from webapp import queues
from webapp.extensions import queue_redis, reading
from webapp.models import Request, RequestStatus

log = logging.getLogger(__name__)

_AT_ONCE = 500
_PREFIX = f"{queues.EXECUTE.name}-"


def forget_ended() -> int:
    """Take jobs out of Redis's queues and its list of failed ones whose requests do not wait and do not run; returns how many.
    Nothing while Redis is away."""
    client = queue_redis()
    forgotten = 0
    try:
        for name in queues.QUEUES:
            waiting = _of_requests(queues.waiting(client, name))
            forgotten += _drop(client, name, waiting, failed=False)
            registry = FailedJobRegistry(queue=queues.queue(name, client))
            forgotten += _drop(client, name, _of_requests(registry.get_job_ids(cleanup=False)), failed=True)
    except redis.RedisError as exc:
        log.warning("the queue is not compared with the table: Redis is away (%s)", type(exc).__name__)
    return forgotten


def _of_requests(job_ids: Sequence[str]) -> dict[uuid.UUID, str]:
    found = {}
    for job_id in job_ids:
        if job_id.startswith(_PREFIX):
            try:
                found[uuid.UUID(job_id.removeprefix(_PREFIX))] = job_id
            except ValueError:
                continue
    return found


def _drop(client: redis.Redis, name: str, jobs: dict[uuid.UUID, str], *, failed: bool) -> int:
    ended = [jobs[request_id] for request_id in _not_on_the_road(list(jobs))]
    if not ended:
        return 0
    queue = queues.queue(name, client)
    with client.pipeline(transaction=False) as pipe:
        for job_id in ended:
            if failed:
                pipe.zrem(queue.failed_job_registry.key, job_id)
            else:
                pipe.lrem(queue.key, 0, job_id)
            pipe.delete(Job.key_for(job_id))
        pipe.execute()
    return len(ended)


def _not_on_the_road(request_ids: Sequence[uuid.UUID]) -> Iterator[uuid.UUID]:
    """Those that neither wait nor run."""
    for start in range(0, len(request_ids), _AT_ONCE):
        some = request_ids[start : start + _AT_ONCE]
        with reading() as connection:
            alive = set(
                connection.execute(
                    select(Request.id).where(
                        Request.id.in_(some), Request.status.in_((RequestStatus.QUEUED, RequestStatus.PROCESSING))
                    )
                ).scalars()
            )
        yield from (request_id for request_id in some if request_id not in alive)
