"""What administrators are told of the queues, and how they stop a request."""

from __future__ import annotations

import uuid

import pytest
from flask import Flask
from sqlalchemy import insert, select

from tests.integration.queue_support import ask, change, later
from tests.integration.test_counts import counting
from tests.support import add_person
from webapp.contracts.errors import Conflict, NotFound
from webapp.extensions import db, now, queue_redis, reading, table_of, writing
from webapp.models import AuditEntry, Request, RequestStatus
from webapp.pipeline.cancel import cancel_any
from webapp.services import queue_status


def test_redis_and_the_database_are_told_side_by_side_in_few_statements(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = add_person(email="alice@example.com", plan="premium")
    ids = [ask(alice) for _ in range(15)]
    queue_redis().lrem("rq:queue:normal", 0, f"execute-{ids[0]}")
    change(ids[14], not_before=later(60))
    db.session.rollback()
    queue_status.status()
    with counting(monkeypatch) as counted:
        found = queue_status.status()
    assert (counted.database, counted.trips) == (4, 1)
    normal = found.queues[1]
    assert (normal.name, normal.in_redis, normal.in_database) == ("normal", 14, 14)
    assert normal.oldest_s is not None
    assert found.queues[0].oldest_s is None
    assert found.scheduled == 1
    assert found.scheduled_next_at is not None
    assert [line.id for line in found.waiting] == ids[1:11]
    assert len(found.minutes) == 30
    with pytest.raises(NotFound):
        cancel_any(alice, "test")
    assert cancel_any(ids[3], "command line (me)") == RequestStatus.CANCELLED
    with pytest.raises(Conflict):
        cancel_any(ids[3], "command line (me)")
    with reading() as connection:
        assert connection.execute(select(AuditEntry.actor).where(AuditEntry.action == "request.cancel")).all() == [
            ("command line (me)",)
        ]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # PostgreSQL plans by the size of its tables
def test_the_lists_have_an_end_and_use_the_index_of_the_unfinished(app: Flask) -> None:
    template = ask(add_person(email="alice@example.com"))
    table = table_of(Request)
    with writing() as connection:
        row = dict(connection.execute(select(table).where(table.c.id == template)).mappings().one())
        more = [row | {"id": uuid.uuid4(), "status": "processing", "started_at": now()} for _ in range(70)]
        connection.execute(insert(table), more)
    found = queue_status.status()
    assert len(found.running) == queue_status.RUNNING_MAX
    assert found.running_total == 70
    with db.engine.connect() as connection:
        for query in (queue_status._running(), queue_status._waiting(None, now())):
            sql = query.compile(db.engine, compile_kwargs={"literal_binds": True})
            plan = " ".join(str(each) for each in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}"))
            assert "SCAN request" not in plan
            assert "ix_request_unfinished" in plan
