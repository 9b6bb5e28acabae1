"""A vendor that is down makes the product degraded, not dead; only a missing database makes it not ready."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from flask import Flask
from sqlalchemy import text

from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from webapp.extensions import queue_redis, writing
from webapp.jobs.worker import ThreadWorker
from webapp.queues import NORMAL, queue
from webapp.services import health, schedule


def get(app: Flask, path: str) -> tuple[int, dict[str, object]]:
    response = app.test_client().get(path)
    assert response.json is not None
    return response.status_code, response.json


def working(app: Flask) -> ThreadWorker:
    """A worker that has just signed on, and a scheduler that acts."""
    connection = queue_redis()
    schedule.keep_leader(connection, schedule.Leader("one", "here", 1, time.time(), time.time()))
    worker = ThreadWorker([queue(NORMAL, connection)], connection)
    worker.register_birth()  # type: ignore[no-untyped-call]
    return worker


def test_everything_there_is_healthy(app: Flask) -> None:
    working(app)
    health.check_vendors()
    status, body = get(app, "/health")
    assert (status, body["status"]) == (200, "healthy"), body
    assert {check["name"] for check in body["checks"]} == {  # type: ignore[union-attr, attr-defined, index]
        "database",
        "queue",
        "scheduler",
        "provider demo",
        "channel simulator",
    }


def test_without_a_worker_it_is_degraded_and_says_the_cure(app: Flask) -> None:
    status, body = get(app, "/health")
    assert (status, body["status"]) == (200, "degraded")
    assert "switchhook worker" in str(body)


def test_a_vendor_that_is_down_degrades_and_a_load_balancer_keeps_sending(
    make_app: Callable[..., Flask], openai: FakeOpenAI
) -> None:
    with make_app().app_context() as context:
        working(context.app)
        openai.faults.append(Fault(path="models", status=503, body=b""))
        health.check_vendors()
        assert get(context.app, "/health")[1]["status"] == "degraded"
        assert get(context.app, "/health/ready")[0] == 200
        health.check_vendors()
        assert get(context.app, "/health")[1]["status"] == "healthy"
        assert "sk-for-tests-only" not in str(get(context.app, "/health"))


def test_without_redis_it_is_degraded_and_ready(make_app: Callable[..., Flask]) -> None:
    with make_app(redis_url="unix:///nowhere/at/all.sock").app_context() as context:
        assert get(context.app, "/health")[1]["status"] == "degraded"
        assert get(context.app, "/health/ready") == (200, {"status": "ready"})


def test_without_its_schema_it_is_not_ready(app: Flask) -> None:
    with writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'from_the_future'"))
    assert get(app, "/health/ready")[0] == 503
    assert get(app, "/health")[0] == 503
    assert get(app, "/health/live") == (200, {"status": "alive"})


def test_without_its_database_it_lives_and_is_not_ready(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    gone = make_app(database_url=f"sqlite:///{tmp_path}/no/such/folder/x.db")
    assert get(gone, "/health/live")[0] == 200
    assert get(gone, "/health/ready")[0] == 503
