"""The jobs that the benchmarks enqueue beside the product's own."""

from __future__ import annotations

import time
from http.client import HTTPConnection

import redis
from rq import get_current_job

_CALL = b'{"model": "fake-model", "messages": [{"role": "user", "content": "hello"}]}'


def nothing(_: str = "") -> None:
    """What the floor of the webhook enqueues; no worker runs then."""


def call_vendor(port: int) -> None:
    """A job that waits: one plain HTTP call to the fake vendor, nothing else."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/v1/chat/completions", _CALL, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"the vendor answered {answer.status}")
    finally:
        connection.close()


def pause(seconds: float) -> None:
    """A job that waits, and does nothing else."""
    time.sleep(seconds)


def note_delay(enqueued_at_ns: str) -> None:
    """Write down how long the way from `queues.put` into a job took, in seconds."""
    delay_s = (time.time_ns() - int(enqueued_at_ns)) / 1e9
    job = get_current_job()
    assert job is not None
    client = redis.Redis(connection_pool=job.connection.connection_pool)
    client.rpush("delays", delay_s)
