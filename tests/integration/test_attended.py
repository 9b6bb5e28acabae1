"""Attended requests: whoever asked goes, somebody else stops it, the process dies, the database goes away."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from flask import Flask, request_started
from sqlalchemy import event, select, update
from werkzeug.test import EnvironBuilder

from tests.integration.quick_support import PATH, QUESTION, Exact, Owner, ask, owner, watched
from tests.integration.vendor_support import install
from tests.support import assert_books_agree, requests, rows
from webapp import logs, queues
from webapp.contracts.limits import Dimension, StoredLimit, Window
from webapp.extensions import db, now, queue_redis, reading, writing
from webapp.models import Attempt, DeadLetter, Hold, LedgerEntry, LimitCounter, Plan, Request, straight
from webapp.pipeline import sweep
from webapp.pipeline.cancel import cancel
from webapp.plugin import Text, TextCall, Usage
from webapp.quota import stored

ROOT = Path(__file__).parents[2]
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Iterator[Flask]:
    app = make_app(retries=0, breaker_failures=1000)
    with app.app_context():
        yield app


class Slow(Exact):
    """Says a word again and again until it is told to end; `hung_up` once nobody reads it any more."""

    def __init__(self, every_s: float = 0.02) -> None:
        super().__init__()
        self.every_s = every_s
        self.end, self.hung_up = threading.Event(), threading.Event()

    def stream(self, call: TextCall, http: Any) -> Iterator[Any]:
        try:
            while not self.end.wait(self.every_s):
                yield Text("word ")
            yield Usage(10, 5)
        finally:
            self.hung_up.set()


class Caller:
    """Somebody who has a streamed answer, as a web server gives it to them: piece by piece, closed at the end."""

    def __init__(self, app: Flask, who: Owner, **body: Any) -> None:
        self.status = ""
        given = {"model": "exact", "messages": [QUESTION], "max_tokens": 50, "stream": True} | body
        builder = EnvironBuilder(PATH, method="POST", json=given, headers={"Authorization": f"Bearer {who.token}"})
        self._answer: Iterable[bytes] = app.wsgi_app(builder.get_environ(), self._start)
        self.pieces = iter(self._answer)

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Callable[[bytes], object]:
        self.status = status
        return lambda _: None

    def hang_up(self) -> None:
        """Go away, as a web server tells it."""
        self._answer.close()  # type: ignore[attr-defined]

    def wait_for(self, text: str) -> None:
        """Read until this is said."""
        for piece in self.pieces:
            if text in piece.decode():
                return
        raise AssertionError(f"{text!r} was never said")


def ended(status: str) -> Request:
    """The only request, once it has ended like this."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        (found,) = requests()
        if found.status == status:
            return found
        assert found.status == "processing"
        time.sleep(0.01)
    raise AssertionError(f"it is {found.status} still")


def assert_nothing_is_held() -> None:
    assert rows(select(Hold.id).where(Hold.settled_at.is_(None))) == []
    assert set(rows(select(LimitCounter.held))) <= {0}
    assert_books_agree()


# -- whoever asked goes ------------------------------------------------------------------------------------------------
def test_who_hangs_up_is_charged_for_what_was_produced(app: Flask) -> None:
    slow = Slow()
    install(slow)
    alice = owner()
    caller = Caller(app, alice)
    caller.wait_for("word")
    caller.hang_up()
    assert slow.hung_up.wait(5)
    request = ended("cancelled")
    assert request.answer is not None
    assert request.answer.startswith("word ")
    assert request.output_tokens > 0
    (entry,) = rows(select(LedgerEntry))
    assert (entry.estimated, entry.cost_microusd > 0) == (True, True)
    assert_nothing_is_held()


def test_who_hangs_up_before_reading_anything_lets_it_end_too(app: Flask) -> None:
    slow = Slow()
    install(slow)
    caller = Caller(app, owner())
    # A web server may find its client gone before it asks for the first piece, and in another thread.
    threads = [threading.Thread(target=caller.hang_up) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert slow.hung_up.wait(5)
    ended("cancelled")
    assert_nothing_is_held()


def test_who_has_read_it_all_may_close_it_as_often_as_they_like(app: Flask) -> None:
    install(Exact())
    caller = Caller(app, owner())
    text = b"".join(caller.pieces).decode()
    caller.hang_up()
    caller.hang_up()
    assert text.endswith("data: [DONE]\n\n")
    assert caller.status == "200 OK"
    ended("completed")
    assert_nothing_is_held()


# -- somebody else stops it --------------------------------------------------------------------------------------------
def test_what_another_door_cancels_ends_soon_and_is_charged_for_what_was_produced(app: Flask) -> None:
    slow = Slow()
    install(slow)
    alice = owner()
    caller = Caller(app, alice)
    caller.wait_for("word")
    (request,) = requests()
    assert cancel(request.id, alice.person_id) == "processing"
    began = time.monotonic()
    caller.wait_for('"error"')
    assert time.monotonic() - began < 2.5
    assert slow.hung_up.wait(1)
    request = ended("cancelled")
    assert request.output_tokens > 0
    assert_nothing_is_held()


# -- the process dies --------------------------------------------------------------------------------------------------
DOOMED = """
    import sys, time
    from pathlib import Path
    from tests.conftest import make_settings
    from tests.integration.quick_support import Owner
    from tests.integration.test_attended import Caller, Slow
    from tests.integration.vendor_support import install
    from webapp import create_app

    folder, redis_url, database_url, token = sys.argv[1:]
    app = create_app(make_settings(Path(folder), redis_url, database_url=database_url))
    with app.app_context():
        install(Slow())
        caller = Caller(app, Owner(None, None, None, token))
        caller.wait_for("word")
        print("reading", flush=True)
        for _ in caller.pieces:
            pass
"""


def test_what_a_killed_web_process_has_begun_is_ended_by_the_sweep(
    app: Flask, tmp_path: Path, redis_url: str, database_url: str
) -> None:
    alice = owner()
    arguments = [sys.executable, "-c", textwrap.dedent(DOOMED), str(tmp_path), redis_url, database_url, alice.token]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as doomed:
        try:
            assert doomed.stdout is not None
            assert doomed.stdout.readline() == "reading\n"
        finally:
            doomed.kill()
    (request,) = requests()
    assert (request.status, request.queue) == ("processing", queues.NONE)
    assert sweep.sweep().given_up == 0, "its lease is not over"
    with writing() as connection:
        connection.execute(update(Request).values(lease_until=now()))
    assert sweep.sweep().given_up == 1
    request = ended("failed")
    assert request.error_code == "worker_lost"
    assert [(attempt.outcome, attempt.error_code) for attempt in rows(select(Attempt))] == [("lost", "worker_lost")]
    assert rows(select(DeadLetter)) == []
    assert_nothing_is_held()
    sweep.sweep()
    assert [waiting for name in queues.QUEUES for waiting in queues.waiting(queue_redis(), name)] == []
    assert len(rows(select(Attempt))) == 1


# -- the database goes away --------------------------------------------------------------------------------------------
def _limited() -> None:
    with writing() as connection:
        limit = StoredLimit("n", Dimension.TOKENS, Window.MONTH, 10**9)
        connection.execute(update(Plan).values(limits={"messages": 1000}, more_limits=stored.write([limit])))


@on_postgresql
def test_a_connection_that_is_cut_while_it_is_settled_costs_nothing(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    install(Exact())
    alice = owner()
    _limited()
    seen = watched(monkeypatch)
    waiting = sa.text(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE :what"
    )
    answers: list[Any] = []

    def call() -> None:
        with app.app_context():
            answers.append(ask(app, alice.token))

    caller = threading.Thread(target=call)
    with db.engine.connect() as holder, db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as killer:
        holder.execute(sa.text("SELECT 1 FROM person WHERE id = :id FOR NO KEY UPDATE"), {"id": alice.person_id})
        caller.start()
        until = time.monotonic() + 10
        while (pid := killer.execute(waiting, {"what": "%WITH e%"}).scalar()) is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        killer.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        while killer.execute(waiting, {"what": "%UPDATE person%"}).scalar() in (None, pid):
            assert time.monotonic() < until
            time.sleep(0.01)
        holder.rollback()
    caller.join(20)
    assert answers[0].status_code == 200
    assert answers[0].json["choices"][0]["message"]["content"] == "It is 42."
    assert (seen.admitted, seen.settled) == (1, 0)
    ended("completed")
    assert len(rows(select(Attempt))) == len(rows(select(LedgerEntry))) == 1
    assert_nothing_is_held()
    assert ask(app, alice.token).status_code == 200
    assert seen.settled == 1, "the next one has a connection that lives"


@on_postgresql
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_was_settled_is_given_although_nobody_was_told_so(
    app: Flask, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """The connection dies after the commit, before the database's word of it arrives."""
    install(Exact())
    alice = owner()
    _limited()
    execute = psycopg.Cursor.execute
    died: list[str] = []

    def dying(self: Any, query: Any, *values: Any, **options: Any) -> Any:
        done = execute(self, query, *values, **options)
        if not died and "WITH e" in str(query):
            died.append("settling")
            self.connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return done

    monkeypatch.setattr(psycopg.Cursor, "execute", dying)
    answer = ask(app, alice.token, stream=stream)
    assert died
    ended("completed")
    assert len(rows(select(Attempt))) == len(rows(select(LedgerEntry))) == 1, "nothing on the house, nothing twice"
    assert_nothing_is_held()
    assert answer.status_code == 200
    assert "42." in answer.text
    assert "could not be written down" not in answer.text


@on_postgresql
def test_a_request_that_was_stored_although_nobody_was_told_so_is_ended_by_the_sweep(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(Exact())
    alice = owner()
    _limited()
    execute = psycopg.Cursor.execute
    died: list[str] = []

    def dying(self: Any, query: Any, *values: Any, **options: Any) -> Any:
        done = execute(self, query, *values, **options)
        if not died and "WITH r" in str(query):
            died.append("admission")
            self.connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return done

    monkeypatch.setattr(psycopg.Cursor, "execute", dying)
    assert ask(app, alice.token).status_code == 200
    assert died
    lost, answered = requests()
    assert (lost.status, answered.status) == ("processing", "completed")
    with writing() as connection:
        connection.execute(update(Request).where(Request.id == lost.id).values(lease_until=now()))
    assert sweep.sweep().given_up == 1
    assert [request.status for request in requests()] == ["failed", "completed"]
    assert_nothing_is_held()


@on_sqlite
def test_a_database_that_is_locked_by_another_process_for_longer_than_its_patience_is_waited_for(
    app: Flask, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    alice = owner()
    _limited()
    another = sa.create_engine(database_url).raw_connection()
    held = threading.Event()

    class Locking(Exact):
        """While it answers, somebody else takes the database."""

        def stream(self, call: TextCall, http: Any) -> Iterator[Any]:
            yield Text("It is 42.")
            another.driver_connection.execute("BEGIN IMMEDIATE")
            held.set()
            yield Usage(10, 5)

    def let_go() -> None:
        held.wait(10)
        time.sleep(0.4)
        another.driver_connection.execute("ROLLBACK")

    install(Locking())
    another.driver_connection.isolation_level = None
    another.driver_connection.execute("SELECT 1 FROM request").fetchall()

    def impatient(connection: Any, *_: object) -> None:
        connection.execute("PRAGMA busy_timeout=50")

    event.listen(db.engine.pool, "checkout", impatient)
    seen = watched(monkeypatch)
    other = threading.Thread(target=let_go)
    other.start()
    try:
        answer = ask(app, alice.token)
    finally:
        other.join(10)
        event.remove(db.engine.pool, "checkout", impatient)
        another.close()
    assert answer.status_code == 200
    assert seen.reasons == ["settled: OperationalError"]
    ended("completed")
    assert len(rows(select(LedgerEntry))) == 1
    assert_nothing_is_held()


def test_the_connections_of_the_short_way_go_with_those_of_the_application(app: Flask) -> None:
    install(Exact())
    alice = owner()
    assert ask(app, alice.token).status_code == 200
    kept = straight.way()._connections
    assert kept.open == 1
    db.engine.dispose()
    assert kept.open == 0
    assert ask(app, alice.token).status_code == 200


# -- around the application's routing ----------------------------------------------------------------------------------
def test_the_short_way_answers_as_the_long_one(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    install(Exact())
    alice = owner()
    _limited()
    routed: list[object] = []
    request_started.connect(lambda *_, **__: routed.append(1), app, weak=False)
    client = app.test_client()
    headers = {"Authorization": f"Bearer {alice.token}"}
    body = json.dumps({"model": "exact", "messages": [QUESTION]})

    def call(**given: Any) -> tuple[int, Any, bool]:
        del routed[:]
        values = {"data": body, "headers": headers, "content_type": "application/json"} | given
        answer = client.post(PATH, **values)
        answer.get_data()
        found = answer.get_json(silent=True) or {}
        return answer.status_code, found.get("error", {}).get("code"), bool(routed)

    assert call() == (200, None, False)
    assert call(headers=headers | {"Origin": "https://example.com"}) == (200, None, True)
    assert call(content_type="text/plain")[0] == 415
    assert call(content_type="application/json; charset=utf-8") == (200, None, False)
    assert call(data="{") == (400, call(data="{", headers=headers | {"X-Request-Id": "a"})[1], False)
    assert call(headers={"Authorization": "Bearer sh_nobody"}) == (401, "invalid_api_key", True)
    assert call(headers={"Authorization": "Bearer sh_nobody"}, data="{}")[0] in (400, 401)
    assert client.get(PATH, headers=headers).status_code == 405
    assert logs.call_id.get() == "", "what is logged after a call is not said to be of it"
    assert_nothing_is_held()


def test_nothing_of_a_call_is_in_the_logs(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    install(Exact(act=[Text("walruses"), RuntimeError("sea lions")]))
    alice = owner()
    with caplog.at_level(logging.DEBUG):
        assert ask(app, alice.token, messages=[{"role": "user", "content": "penguins?"}]).status_code == 503
    said = "\n".join(logs.MaskingFormatter("%(message)s").format(record) for record in caplog.records)
    assert not any(word in said for word in ("penguins", "walruses", "sea lions"))
    assert alice.token not in said
    with reading() as connection:
        assert connection.execute(select(Request.status)).scalars().all() == ["failed"]
    assert_nothing_is_held()


def test_no_depth_of_a_models_json_keeps_a_request_from_being_settled(app: Flask) -> None:
    """What can be read at one depth of the stack may be too deep to be written at another."""
    exact = Exact()
    install(exact)
    alice = owner()
    _limited()
    statuses = []
    for depth in (50, 99, 100, *range(860, 1000, 4)):
        exact.act = [Text('{"a":' + "[" * depth + "]" * depth + "}"), Usage(10, 5)]
        statuses.append(ask(app, alice.token, response_format={"type": "json_object"}).status_code)
    assert set(statuses) == {200}
    assert {request.status for request in requests()} == {"completed"}
    assert sum(request.result is not None for request in requests()) == 2
    assert_nothing_is_held()
