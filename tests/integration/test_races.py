"""Two at once at the same request: whoever comes second sees what the first has done, and nobody's work is lost for it."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy import select, update

from tests.support import assert_books_balance, one, requests, text
from webapp.contracts.limits import Dimension, StoredLimit, Window
from webapp.extensions import db, now, writing
from webapp.models import LimitCounter, Organization, Request, RequestStatus
from webapp.pipeline import incoming, replay, sweep
from webapp.pipeline.cancel import cancel
from webapp.pipeline.claims import claim
from webapp.pipeline.endings import Ending
from webapp.pipeline.settle import _put_back, settle
from webapp.quota import stored

ALICE = "+15005550006"
FAILED = Ending(RequestStatus.FAILED, error_code="provider_unavailable", error_message="It is down.", may_pass=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


class Meanwhile:
    """Something that is done in a thread of its own."""

    def __init__(self, app: Flask, act: Callable[[], object]) -> None:
        self._app, self._act = app, act
        self._failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with self._app.app_context():
            try:
                self._act()
            except BaseException as exc:
                self._failures.append(exc)

    def begin(self) -> None:
        """Begin it, and go on when it waits for a lock in the database. On SQLite it waits for its turn to write."""
        self._thread.start()
        if db.engine.dialect.name == "sqlite":
            return
        locked = sa.text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        ends = time.monotonic() + 10
        while True:
            with db.engine.connect() as connection:
                if connection.execute(locked).scalar_one():
                    return
            assert self._thread.is_alive(), f"it has ended: {self._failures}"
            assert time.monotonic() < ends, "it does not wait"
            time.sleep(0.01)

    def end(self) -> None:
        """It has ended well."""
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert self._failures == []


@pytest.mark.parametrize("wish", ["cancel", "STOP"])
def test_what_is_put_back_at_the_moment_at_which_it_is_stopped_does_not_wait_on(app: Flask, wish: str) -> None:
    text("question", ALICE)
    taken = claim(requests()[0].id)
    assert taken is not None

    def stop() -> None:
        if wish == "cancel":
            assert cancel(taken.id, taken.person_id) == RequestStatus.CANCELLED
        else:
            text(wish, ALICE)

    stopping = Meanwhile(app, stop)
    with writing() as connection:
        assert _put_back(connection, taken.id, taken.claim, FAILED, now(), now() + timedelta(hours=1))
        stopping.begin()
    stopping.end()
    assert requests()[0].status == RequestStatus.CANCELLED
    assert_books_balance()


@pytest.mark.parametrize("wish", ["cancel", "STOP"])
def test_what_is_stopped_at_the_moment_at_which_it_fails_is_not_put_back(app: Flask, wish: str) -> None:
    text("question", ALICE)
    taken = claim(requests()[0].id)
    assert taken is not None
    failing = Meanwhile(app, lambda: settle(taken.id, taken.claim, FAILED, again_after_s=3600))
    with writing() as connection:
        if wish == "cancel":
            connection.execute(update(Request).values(cancel_asked_at=now()))
        else:
            incoming.silence(connection, "sms", ALICE, now())
        failing.begin()
    failing.end()
    (request,) = requests()
    assert (request.status, request.not_before) == (RequestStatus.CANCELLED, None)
    assert_books_balance()


def cancelled(request_id: uuid.UUID) -> None:
    cancel(request_id, requests()[0].person_id)


def replayed(request_id: uuid.UUID) -> None:
    replay.replay(request_id, "admin")


def swept(_request_id: uuid.UUID) -> None:
    assert sweep.sweep().anything


@on_postgresql
@pytest.mark.parametrize(
    ("act", "ends"),
    [(cancelled, RequestStatus.CANCELLED), (replayed, RequestStatus.QUEUED), (swept, RequestStatus.FAILED)],
    ids=["cancel", "replay", "sweep"],
)
def test_what_the_database_ends_for_another_is_done_again(
    app: Flask, act: Callable[[uuid.UUID], None], ends: RequestStatus
) -> None:
    """Somebody has the counters and wants the request, which has the request and wants the counters."""
    text("question", ALICE)
    request_id = requests()[0].id
    if act is replayed:
        taken = claim(request_id)
        assert taken is not None
        settle(taken.id, taken.claim, FAILED)
    if act is swept:
        with writing() as connection:
            connection.execute(update(Request).values(expires_at=now() - timedelta(seconds=1)))
    acting = Meanwhile(app, lambda: act(request_id))
    with writing() as connection:
        # The database ends the one that looks first, which is not this.
        connection.exec_driver_sql("SET LOCAL deadlock_timeout = '20s'")
        connection.execute(select(LimitCounter.used).with_for_update())
        acting.begin()
        connection.execute(select(Request.id).with_for_update())
    acting.end()
    assert requests()[0].status == ends


def _of_organization(name: str) -> None:
    limits = stored.write([StoredLimit(name, Dimension.REQUESTS, Window.MONTH, 10)])
    with writing() as connection:
        connection.execute(update(Organization).values(limits=limits))


@on_postgresql
def test_stop_gives_back_what_several_requests_hold_in_the_order_of_everybody_else(app: Flask) -> None:
    """Of two requests the first holds on the counter that comes last."""
    for name in ("zebra", "aardvark"):
        _of_organization(name)
        text("question", ALICE)

    def stop() -> None:
        with writing() as connection:
            incoming.silence(connection, "sms", ALICE, now())

    stopping = Meanwhile(app, stop)
    with writing() as connection:
        connection.exec_driver_sql("SET LOCAL deadlock_timeout = '20s'")
        used = select(LimitCounter.used)
        connection.execute(used.where(LimitCounter.name == "limit:aardvark").with_for_update())
        stopping.begin()
        connection.execute(used.where(LimitCounter.name == "limit:zebra").with_for_update())
    stopping.end()
    assert {request.status for request in requests()} == {RequestStatus.CANCELLED}
    assert one(select(LimitCounter.held).where(LimitCounter.name == "limit:zebra")) == 0
    assert_books_balance()
