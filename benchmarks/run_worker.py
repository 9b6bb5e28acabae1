"""A worker as a process: `python -m benchmarks.run_worker thread|fork|simple [--app] [--slots N]`.

With `--app` the application is made before the first job, and for the forking worker before the first fork: the best case
for RQ's own worker, which otherwise imports everything in every child.
"""

from __future__ import annotations

import argparse

import redis
from rq import SimpleWorker, Worker
from rq.serializers import JSONSerializer

from benchmarks import tasks  # noqa: F401  (imported once, before any job)
from webapp import create_app, queues
from webapp.extensions import db
from webapp.jobs.worker import ThreadWorker
from webapp.settings import read_settings

SLOTS = 128


def main() -> None:
    """Work until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("thread", "fork", "simple"))
    parser.add_argument("--app", action="store_true")
    parser.add_argument("--slots", type=int, default=SLOTS)
    given = parser.parse_args()
    connection = redis.Redis.from_url(read_settings().effective_redis_url)
    if given.app:
        from webapp.jobs import tasks as _  # noqa: F401
        from webapp.routing import http

        app = create_app()
        app.app_context().push()
        http.client()
        db.engine.dispose()  # A connection that two processes share would be the end of both.
    names = [queues.queue(name, connection) for name in queues.QUEUES]
    if given.kind == "thread":
        ThreadWorker(names, connection, slots=given.slots).work()
        return
    worker = (Worker if given.kind == "fork" else SimpleWorker)(names, connection=connection, serializer=JSONSerializer)
    worker.work(logging_level="WARNING")


if __name__ == "__main__":
    main()
