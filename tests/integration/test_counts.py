"""The hot paths' statements and round trips, counted: a number that grows here is a decision, not an accident.

The figures are repeated in benchmarks/README.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import redis
from flask import Flask
from sqlalchemy import Engine, event

from tests.fakes.twilio import FakeTwilio
from tests.integration.web_support import ALICE as ALICE_MAIL
from tests.integration.web_support import HTMX, Site, token
from tests.support import add_person, requests, run_jobs, sent, text
from webapp.extensions import db, queue_redis
from webapp.models import Request
from webapp.pipeline import lease, sweep
from webapp.pipeline.admit import admit
from webapp.pipeline.claims import claim
from webapp.pipeline.deliver import deliver
from webapp.pipeline.execute import execute
from webapp.pipeline.intake import Intake
from webapp.routing import resilience, vendors

PUBLIC = "https://bot.example.com"
ALICE = "+15005550010"


@dataclass
class Counted:
    statements: list[str] = field(default_factory=list)
    trips: int = 0

    @property
    def database(self) -> int:
        """Statements apart from the transaction's own BEGIN."""
        return len([s for s in self.statements if not s.startswith("BEGIN")])


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch, engine: Engine | None = None) -> Iterator[Counted]:
    counted = Counted()
    if engine is None:
        engine = db.engine
        db.session.rollback()
        # The look for changed settings, every two seconds, is not what is counted: on a slow machine it would be.
        with monkeypatch.context() as patch:
            patch.setattr(vendors, "LOOK_S", 3600.0)
            vendors.look_again()

    def statement(_c: object, _cursor: object, sql: str, *_: object) -> None:
        counted.statements.append(" ".join(sql.split()))

    send = redis.connection.AbstractConnection.send_packed_command

    def trip(self: redis.Connection, command: object, check_health: bool = True) -> None:
        counted.trips += 1
        send(self, command, check_health)

    event.listen(engine, "before_cursor_execute", statement)
    with monkeypatch.context() as patch:
        patch.setattr(redis.connection.AbstractConnection, "send_packed_command", trip)
        try:
            yield counted
        finally:
            event.remove(engine, "before_cursor_execute", statement)


@pytest.fixture
def app(make_app: Callable[..., Flask], twilio: FakeTwilio) -> Iterator[Flask]:
    app = make_app(public_url=PUBLIC)
    with app.app_context():
        yield app


def test_the_webhook(app: Flask, twilio: FakeTwilio, monkeypatch: pytest.MonkeyPatch) -> None:
    client = app.test_client()
    for body in ("the first one registers", "the second one warms up"):
        headers, data = twilio.message(f"{PUBLIC}/sms/receive", ALICE, body)
        client.post("/sms/receive", headers=headers, data=data)
    headers, data = twilio.message(f"{PUBLIC}/sms/receive", ALICE, "counted")
    with counting(monkeypatch) as counted:
        assert client.post("/sms/receive", headers=headers, data=data).status_code == 200
    # Who and what plan; the request; the message; all counters; all holds.
    assert counted.database == 5, counted.statements
    assert counted.trips == 1


def test_a_repeated_webhook(app: Flask, twilio: FakeTwilio, monkeypatch: pytest.MonkeyPatch) -> None:
    client = app.test_client()
    headers, data = twilio.message(f"{PUBLIC}/sms/receive", ALICE, "hello")
    client.post("/sms/receive", headers=headers, data=data)
    with counting(monkeypatch) as counted:
        client.post("/sms/receive", headers=headers, data=data)
    assert counted.database == 3, counted.statements
    assert counted.trips == 0


def test_a_chat_turn_is_admitted(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    person = add_person(email="alice@example.com")
    conversation = admit(Intake(medium="web", text="first", person_id=person)).conversation_id
    with counting(monkeypatch) as counted:
        admit(Intake(medium="web", text="second", person_id=person, conversation_id=conversation))
    assert counted.database == 4, counted.statements
    assert counted.trips == 1


def test_a_request_is_executed_settled_and_delivered(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    # As where nobody has asked this model lately: right after another call, the gate is entered without a trip.
    monkeypatch.setattr(resilience, "CLEAN_S", 0.0)
    text("warm up", ALICE)
    run_jobs()
    text("How do I reverse a list?", ALICE)
    request_id = requests()[-1].id
    with counting(monkeypatch) as counted:
        execute(request_id)
    # The claim; earlier turns; the request's end; its holds; the counters; attempt; ledger; person; conversation; delivery.
    assert counted.database == 10, counted.statements
    # One trip a piece; one to look for a kept answer and one to keep it; one to enter the vendor's gate, which
    # a good end leaves without a word; one to enqueue the delivery, one for the end of the stream.
    assert counted.trips == pieces_of(requests()[-1]) + 5


def pieces_of(request: Request) -> int:
    entries = queue_redis().xrange(f"switchhook:stream:{request.id}")
    return len([fields for _, fields in entries if fields[b"k"] == b"piece"])


def test_a_delivery(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    text("hello", ALICE, channel="twilio")
    execute(requests()[-1].id)
    delivery_id = sent()[-1].id
    with counting(monkeypatch) as counted:
        deliver(delivery_id)
    # The claim; what the vendor said; what it costs.
    assert counted.database == 3, counted.statements
    assert counted.trips == 1


def test_a_chat_message_from_the_page(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app()
    site = Site(app)
    site.add(ALICE_MAIL, plan="premium")
    browser = site.browser(ALICE_MAIL)
    first = browser.ask("first", htmx=True)
    conversation = first.headers["HX-Push-Url"].rpartition("/")[2]
    csrf = token(browser.get("/settings"))
    form = {"csrf_token": csrf, "text": "second", "conversation": conversation, "key": "k"}
    with app.app_context():
        engine = db.engine
    with counting(monkeypatch, engine) as counted:
        assert browser.client.post("/chat", data=form, headers=HTMX).status_code == 200
    # Who is signed in; the four of admission; what to show.
    assert counted.database == 6, counted.statements
    assert counted.trips == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # PostgreSQL plans by the size of its tables
def test_looking_for_lost_work_reads_unfinished_requests_only(app: Flask) -> None:
    text("waits", ALICE)
    text("runs", ALICE)
    taken = claim(requests()[-1].id)
    assert taken is not None
    lease.begin(taken.claim)
    seen: list[tuple[str, object]] = []

    def note(_c: object, _cursor: object, sql: str, values: object, *_: object) -> None:
        if ("request." in sql and "lease_until" in sql) or "created_at <" in sql:
            seen.append((sql, values))

    event.listen(db.engine, "before_cursor_execute", note)
    sweep.sweep()
    lease.prolong()
    sweep.hand_back()
    event.remove(db.engine, "before_cursor_execute", note)
    lease.end(taken.claim)
    assert len(seen) >= 4
    with db.engine.connect() as connection:
        for sql, values in seen:
            plan = " ".join(str(row) for row in connection.exec_driver_sql("EXPLAIN QUERY PLAN " + sql, values))
            assert "SCAN request" not in plan, sql
