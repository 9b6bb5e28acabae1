"""Retention: the content of what is old goes, figures stay, and nothing that is still needed is touched."""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from flask import Flask, current_app
from sqlalchemy import func, insert, select, update

from tests.fakes.vendor import tiny_png
from tests.integration.cli_support import Operator, operator
from tests.integration.web_support import ALICE, Site
from tests.support import add_person, one, rows
from webapp.extensions import now, reading, writing
from webapp.models import (
    Attachment,
    Attempt,
    Batch,
    BatchRow,
    Conversation,
    DeadLetter,
    Delivery,
    ErrorLog,
    LedgerEntry,
    Person,
    Request,
)
from webapp.pipeline import pictures
from webapp.services import erasing, retention
from webapp.services.retention import Erased

__all__ = ["operator"]

DAYS = 30
OLD, YOUNG = timedelta(days=DAYS, hours=2), timedelta(days=DAYS - 1)
SECRET = "the secret words of a person"


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Iterator[Flask]:
    app = make_app(retention_days=DAYS)
    with app.app_context():
        yield app


def id_at(moment: datetime) -> uuid.UUID:
    """A UUIDv7 as it would have been made at that moment."""
    ms = int(moment.timestamp() * 1000)
    return uuid.UUID(int=ms << 80 | 7 << 76 | random.getrandbits(12) << 64 | 2 << 62 | random.getrandbits(62))


class House:
    """A person with requests of any age."""

    def __init__(self) -> None:
        self.person = add_person(email=ALICE, phone="+15005550006")
        with reading() as connection:
            query = select(Person.organization_id).where(Person.id == self.person)
            self.organization = connection.execute(query).scalar_one()
        self.mine = {"person_id": self.person, "organization_id": self.organization}

    def conversation(self) -> uuid.UUID:
        made = id_at(now() - OLD * 2)
        values = {"id": made, "title": SECRET, "active": True, "created_at": now(), "last_activity_at": now()}
        with writing() as connection:
            connection.execute(insert(Conversation), values | self.mine)
        return made

    def request(self, age: timedelta, *, ended: timedelta | None = None, **values: Any) -> uuid.UUID:
        return self.requests(1, age, ended=ended, **values)[0]

    def requests(self, count: int, age: timedelta, *, ended: timedelta | None = None, **values: Any) -> list[uuid.UUID]:
        """Requests of this age, a second apart, each with an attempt, a ledger entry, a message and an error."""
        made: list[dict[str, Any]] = []
        for number in range(count):
            at = now() - age - timedelta(seconds=number)
            made.append(
                {
                    "id": id_at(at),
                    "channel": "web",
                    "operation": "chat",
                    "prompt": SECRET,
                    "parameters": {
                        "model": "demo/demo",
                        "seed": 7,
                        "fresh": True,
                        "negative_prompt": SECRET,
                        "pictures": ["x"],
                    },
                    "status": "completed",
                    "answer": SECRET,
                    "result": {"document": SECRET},
                    "error_message": SECRET,
                    "rating_comment": SECRET,
                    "rating": 4,
                    "route": {"by": "the rule", "models": [{"model": "demo/demo", "what": "completed", "why": SECRET}]},
                    "extra": {"note": SECRET},
                    "input_tokens": 11,
                    "output_tokens": 5,
                    "cost_microusd": 17,
                    "max_input_tokens": 100,
                    "max_output_tokens": 100,
                    "queue": "normal",
                    "priority": 50,
                    "attempts": 1,
                    "created_at": at,
                    "ended_at": now() - (age if ended is None else ended),
                }
                | self.mine
                | values
            )
        with writing() as connection:
            connection.execute(insert(Request), made)
            for row in made:
                self._beside(connection, row)
        return [row["id"] for row in made]

    def _beside(self, connection: Any, row: dict[str, Any]) -> None:
        at, attempt = row["created_at"], id_at(row["created_at"])
        connection.execute(
            insert(Attempt),
            {"id": attempt, "request_id": row["id"], "number": 1, "outcome": "completed", "detail": SECRET}
            | {"started_at": at, "ended_at": at},
        )
        connection.execute(
            insert(LedgerEntry),
            {"id": id_at(at), "request_id": row["id"], "attempt_id": attempt, "channel": "web", "operation": "chat"}
            | {"provider": "demo", "model": "demo", "requests": 1, "input_tokens": 11, "output_tokens": 5, "cost_microusd": 17}
            | {"estimated": False, "price_source": "", "created_at": at}
            | self.mine,
        )
        self.delivery(connection, row["id"], at)
        error = {"id": id_at(at), "kind": "k", "message": "A vendor failed.", "detail": SECRET, "created_at": at}
        connection.execute(insert(ErrorLog), error | {"request_id": row["id"]})

    def delivery(self, connection: Any, request_id: uuid.UUID | None, at: datetime, **values: Any) -> uuid.UUID:
        made = id_at(at)
        given = {"id": made, "channel": "simulator", "medium": "sms", "direction": "out", "kind": "answer", "body": SECRET}
        given |= {"subject": SECRET, "status": "delivered", "address": "+15005550006", "created_at": at, "updated_at": at}
        connection.execute(insert(Delivery), given | {"request_id": request_id} | values)
        return made

    def picture(self, request_id: uuid.UUID, age: timedelta, data: bytes, *, stored_s_ago: float = 7200) -> Path:
        digest = pictures.store(data).sha256
        path = pictures.path_of(digest)
        os.utime(path, (time.time() - stored_s_ago,) * 2)
        at = now() - age
        given = {"id": id_at(at), "request_id": request_id, "kind": "made", "sha256": digest, "media_type": "image/png"}
        given |= {"size_bytes": 1, "width": 1, "height": 1, "actions": [["Again", SECRET]], "created_at": at}
        with writing() as connection:
            connection.execute(insert(Attachment), given | self.mine)
        return path


@pytest.fixture
def house(app: Flask) -> House:
    return House()


def everything() -> str:
    """Whatever the tables say in which content is."""
    found = []
    with reading() as connection:
        for model in (Request, Attempt, Attachment, Delivery, ErrorLog, Conversation, DeadLetter, Batch, BatchRow):
            found += connection.execute(select(model.__table__)).all()
    return str(found)


def full() -> set[uuid.UUID]:
    """Requests that have their content."""
    with reading() as connection:
        return set(connection.execute(select(Request.id).where(Request.prompt != "")).scalars())


def finish(**options: Any) -> Erased:
    return retention.run(pictures.remove, None, **options)


# -- what goes, and what stays -------------------------------------------------------------------------------------------
def test_hundreds_of_old_requests_lose_their_content_and_keep_their_figures(house: House) -> None:
    conversation = house.conversation()
    old = house.requests(350, OLD, conversation_id=conversation)
    young = house.requests(20, YOUNG)
    with reading() as connection:
        sums = select(func.sum(LedgerEntry.cost_microusd), func.sum(LedgerEntry.input_tokens), func.count())
        before = connection.execute(sums).one()
    assert retention.dry_run() == finish() == Erased(requests=350, messages=350, error_details=350)
    assert full() == set(young)
    row = rows(select(Request).where(Request.id == old[0]))[0]
    assert (row.prompt, row.answer, row.result, row.error_message, row.rating_comment) == ("", None, None, None, None)
    assert row.parameters == {"model": "demo/demo", "seed": 7, "fresh": True}
    assert row.route == {"by": "the rule", "models": [{"model": "demo/demo", "what": "completed"}]}
    assert row.extra == {"erased_days": DAYS}
    assert (row.status, row.rating, row.input_tokens, row.cost_microusd) == ("completed", 4, 11, 17)
    assert one(select(Conversation).where(Conversation.id == conversation)).title == "Erased after 30 days"
    with reading() as connection:
        assert connection.execute(sums).one() == before
        kept = connection.execute(select(func.count()).where(Attempt.detail.is_not(None))).scalar_one()
        bodies = connection.execute(select(func.count()).where(Delivery.body != "")).scalar_one()
        details = connection.execute(select(func.count()).where(ErrorLog.detail.is_not(None))).scalar_one()
        null = connection.exec_driver_sql("SELECT count(*) FROM request WHERE result IS NULL").scalar_one()
    assert (kept, bodies, details, null) == (20, 20, 20, 350)
    assert retention.dry_run() == finish(from_the_beginning=True) == Erased()


def test_nothing_of_what_was_written_is_left_anywhere(house: House, tmp_path: Path) -> None:
    request_id = house.request(OLD, status="failed", conversation_id=house.conversation())
    house.picture(request_id, OLD, tiny_png())
    letter = {"request_id": request_id, "reason": "vendor", "error_code": "x", "last_error": SECRET, "attempts": 1}
    with writing() as connection:
        connection.execute(insert(DeadLetter), letter | {"state": "dismissed", "replays": 0, "created_at": now()})
    assert SECRET in everything()
    finish()
    assert SECRET not in everything()
    if (file := tmp_path / "switchhook.db").exists():
        with reading() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        # Neither in the pages that SQLite has set free.
        assert SECRET.encode() not in file.read_bytes()


@pytest.mark.parametrize("status", ["queued", "processing", "awaiting_review"])
def test_what_has_not_ended_is_never_touched_however_old(house: House, status: str) -> None:
    request_id = house.request(OLD * 3, status=status, ended_at=None)
    with writing() as connection:
        house.delivery(connection, request_id, now() - OLD, status="received", direction="in")
        waiting = house.delivery(connection, None, now() - OLD, status="pending")
    finish()
    assert full() == {request_id}
    assert all(each.body == SECRET for each in rows(select(Delivery)))
    with writing() as connection:
        connection.execute(update(Request).values(status="completed", ended_at=now() - OLD))
    finish(from_the_beginning=True)
    assert full() == set()
    assert [each.id for each in rows(select(Delivery).where(Delivery.body != ""))] == [waiting]


def test_what_is_set_aside_keeps_its_content_until_somebody_has_decided(house: House) -> None:
    request_id = house.request(OLD, status="failed")
    letter = {"request_id": request_id, "reason": "vendor", "error_code": "x", "last_error": SECRET, "attempts": 1}
    with writing() as connection:
        connection.execute(insert(DeadLetter), letter | {"state": "open", "replays": 0, "created_at": now()})
    assert finish().requests == retention.dry_run().requests == 0
    with writing() as connection:
        connection.execute(update(DeadLetter).values(state="dismissed"))
    # Its turn is over: the next round finds it.
    with time_machine.travel(now() + timedelta(hours=25), tick=True):
        assert finish().requests == 1
    assert one(select(DeadLetter)).last_error == ""


def test_what_ended_lately_waits_for_its_own_time(house: House) -> None:
    late = house.request(OLD * 2, ended=YOUNG)
    assert finish().requests == 0
    assert full() == {late}
    with time_machine.travel(now() + timedelta(days=1, hours=3), tick=True):
        assert finish().requests == 1


def test_what_is_written_to_an_erased_request_goes_at_the_next_round(house: House) -> None:
    request_id = house.request(OLD)
    finish()
    with writing() as connection:
        connection.execute(update(Request).where(Request.id == request_id).values(rating_comment=SECRET))
    with time_machine.travel(now() + timedelta(hours=25), tick=True):
        assert finish().requests == 1
    assert SECRET not in everything()


def test_a_conversation_keeps_its_title_while_one_of_its_requests_has_content(house: House) -> None:
    conversation = house.conversation()
    house.requests(3, OLD, conversation_id=conversation)
    house.request(YOUNG, conversation_id=conversation)
    finish()
    assert one(select(Conversation)).title == SECRET
    with time_machine.travel(now() + timedelta(days=2), tick=True):
        finish()
    assert one(select(Conversation)).title == "Erased after 30 days"


def test_switched_off_nothing_is_erased(make_app: Callable[..., Flask]) -> None:
    with make_app().app_context():
        request_id = House().request(OLD * 9)
        assert finish() == retention.dry_run() == Erased()
        assert full() == {request_id}


# -- pictures ------------------------------------------------------------------------------------------------------------
def test_a_picture_that_somebody_else_still_has_stays_and_one_that_nobody_has_goes(house: House) -> None:
    first, second, young = house.request(OLD), house.request(OLD), house.request(YOUNG)
    shared, alone, twice = tiny_png(3, 3), tiny_png(4, 4), tiny_png(5, 5)
    kept = house.picture(first, OLD, shared)
    house.picture(young, YOUNG, shared)
    gone = house.picture(first, OLD, alone)
    both = house.picture(first, OLD, twice)
    house.picture(second, OLD, twice)
    assert retention.dry_run().pictures == 4
    assert finish().pictures == 4
    assert (kept.exists(), gone.exists(), both.exists()) == (True, False, False)
    assert [each.request_id for each in rows(select(Attachment))] == [young]
    with time_machine.travel(now() + timedelta(days=2), tick=True):
        finish()
    assert not kept.exists()


def test_a_picture_of_several_batches_goes_with_its_last_row(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    paths = {house.picture(request_id, OLD, tiny_png()) for request_id in house.requests(7, OLD)}
    assert finish().pictures == 7
    assert [path.exists() for path in paths] == [False]


def test_a_picture_that_was_stored_again_a_moment_ago_is_left_to_its_new_owner(house: House) -> None:
    path = house.picture(house.request(OLD), OLD, tiny_png())
    pictures.store(tiny_png())  # a request that is being admitted: its row is not there yet
    assert finish().pictures == 0
    assert path.exists()
    young = house.request(YOUNG)
    house.picture(young, YOUNG, tiny_png())
    assert finish(from_the_beginning=True).pictures == 1
    assert path.exists()
    assert [each.request_id for each in rows(select(Attachment))] == [young]


def test_two_at_once_leave_no_picture_behind_and_take_none_too_much(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 3)
    gone, kept = set(), set()
    for number in range(1, 13):
        for request_id in house.requests(3, OLD):
            gone.add(house.picture(request_id, OLD, tiny_png(number, 1)))
        kept.add(house.picture(house.request(OLD), OLD, tiny_png(number, 2)))
        house.picture(house.request(YOUNG), YOUNG, tiny_png(number, 2))
    here: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    errors: list[BaseException] = []

    def erase() -> None:
        try:
            with here.app_context():
                finish(from_the_beginning=True)
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=erase) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    finish(from_the_beginning=True)
    assert errors == []
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in kept)


# -- batches -------------------------------------------------------------------------------------------------------------
def test_the_rows_of_an_ended_batch_go_and_those_of_one_that_runs_stay(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 4)

    def batch(status: str, ended_at: datetime | None, count: int) -> uuid.UUID:
        made = id_at(now() - OLD)
        values = {"id": made, "name": "n", "operation": "chat", "template": SECRET, "parameters": {"style": SECRET}}
        values |= {"status": status, "total": count, "likely_microusd": 1, "most_microusd": 1, "created_at": now()}
        row = {"batch_id": made, "prompt": SECRET, "given": {"column": SECRET}, "state": "waiting"}
        with writing() as connection:
            connection.execute(insert(Batch), values | {"ended_at": ended_at} | house.mine)
            connection.execute(insert(BatchRow), [row | {"number": number + 1} for number in range(count)])
            # A row that was refused for saying nothing has its columns all the same.
            connection.execute(update(BatchRow).where(BatchRow.batch_id == made, BatchRow.number == 1).values(prompt=""))
        return made

    done = batch("completed", now() - OLD, 11)
    running = batch("running", None, 5)
    batch("cancelled", now() - YOUNG, 5)
    request_id = house.request(OLD, batch_id=running)
    with writing() as connection:
        mine = (BatchRow.batch_id == running, BatchRow.number == 2)
        connection.execute(update(BatchRow).where(*mine).values(request_id=request_id, state="admitted"))
    assert retention.dry_run().batch_rows == 11
    assert finish().batch_rows == 11
    with reading() as connection:
        full_rows = connection.execute(select(BatchRow.batch_id, BatchRow.number).where(erasing.full_row())).all()
        ended = connection.execute(select(Batch.template, Batch.parameters).where(Batch.id == done)).one()
    assert len(full_rows) == 4 + 5
    assert (running, 2) not in [tuple(row) for row in full_rows]
    assert done not in {row.batch_id for row in full_rows}
    assert tuple(ended) == (None, {})
    assert retention.dry_run().batch_rows == 0


# -- in pieces -----------------------------------------------------------------------------------------------------------
def test_a_run_that_was_killed_in_the_middle_goes_on_where_it_stopped(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 40)
    house.requests(200, OLD)
    real, calls = erasing.requests, 0

    def dies(connection: Any, found: Any, days: int) -> None:
        nonlocal calls
        calls += 1
        real(connection, found, days)
        if calls == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(erasing, "requests", dies)
    with pytest.raises(KeyboardInterrupt):
        finish()
    # Its third batch was not committed, its first two were.
    assert len(full()) == 120
    monkeypatch.setattr(erasing, "requests", real)
    assert finish().requests == 120
    assert full() == set()
    assert SECRET not in everything()


def test_a_run_whose_time_is_over_says_so_and_the_next_ones_do_the_rest(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 10)
    house.requests(60, OLD)
    assert retention.run(pictures.remove, -1.0) == Erased(requests=10, more=True)
    done, runs = 10, 1
    while (erased := retention.run(pictures.remove, -1.0)).more:
        done, runs = done + erased.requests, runs + 1
        assert runs < 200
    assert done + erased.requests == 60
    assert runs >= 3 * 6
    assert SECRET not in everything()


def test_an_hour_later_only_what_has_become_old_is_looked_at(house: House) -> None:
    house.requests(30, OLD)
    finish()
    later = house.request(OLD - timedelta(hours=3))
    with time_machine.travel(now() + timedelta(hours=2), tick=True):
        assert finish() == Erased(requests=1, messages=1, error_details=1)
    assert later not in full()
    with reading() as connection:
        mark = connection.exec_driver_sql("SELECT number FROM revision WHERE subject = 'retention:requests'").scalar_one()
    assert datetime.fromtimestamp(mark / 1000, UTC) > now() - timedelta(days=DAYS + 2)


# -- what people see -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_history_says_what_was_erased_and_offers_no_second_try(make_app: Callable[..., Flask]) -> None:
    site = Site(make_app(retention_days=DAYS))
    with site.app.app_context():
        house = House()
        conversation = house.conversation()
        house.request(OLD, conversation_id=conversation)
        failed = house.request(OLD, conversation_id=conversation, status="failed")
        finish()

    page = site.browser(ALICE).get(f"/c/{conversation}").text
    assert page.count("Erased after 30 days.") == 4
    assert '<h1 id="chat-title" dir="auto">Erased after 30 days</h1>' in page
    assert "17" in page
    assert "Try again" not in page
    assert "None" not in page
    assert site.browser(ALICE).get(f"/requests/{failed}").status_code in (200, 303)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_command_counts_first_and_erases_when_told(operator: Operator, app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    house = House()
    house.picture(house.requests(3, OLD)[0], OLD, tiny_png())
    off = operator("retention", "run")
    assert off.exit_code == 2
    assert "SWITCHHOOK_RETENTION_DAYS" in off.output
    monkeypatch.setenv("SWITCHHOOK_RETENTION_DAYS", str(DAYS))
    counts = {"requests": 3, "pictures": 1, "batch_rows": 0, "messages": 3, "error_details": 3}
    assert operator.json("retention", "run", "--dry-run") == {"days": DAYS, "dry_run": True, **counts}
    assert operator("retention", "run", given="n\n").exit_code == 1
    assert len(full()) == 3
    assert "requests: 3, pictures: 1" in operator.ok("retention", "run", given="y\n")
    assert full() == set()
    assert operator.ok("retention", "run", "--yes").startswith("Erased: nothing.")
    assert len(operator.rows("SELECT id FROM audit_entry WHERE action = 'retention.run'")) == 2
    assert_books_balance_of_figures()


def assert_books_balance_of_figures() -> None:
    with reading() as connection:
        ledger = connection.execute(select(func.sum(LedgerEntry.cost_microusd))).scalar_one()
        said = connection.execute(select(func.sum(Request.cost_microusd))).scalar_one()
    assert ledger == said
