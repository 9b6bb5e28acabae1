"""Batches from the file to the result, on both databases: each row once, whatever happens in between."""

from __future__ import annotations

import csv
import io
import json
import threading
import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
import time_machine
from flask import Flask
from sqlalchemy import func, select, update

from tests.fakes.openai import FakeOpenAI
from tests.integration.batch_support import (
    OPERATOR,
    change,
    change_person,
    feed,
    make,
    order,
    person,
    requests_of,
    results,
    row_states,
    run_to_the_end,
    table,
    view,
    viewer_of,
)
from tests.support import assert_books_balance, run_jobs
from webapp.contracts.errors import Conflict, NotAllowed, NotFound
from webapp.extensions import now, reading, writing
from webapp.models import AuditEntry, Batch, BatchRow, Conversation, Membership, Organization, Plan, Request
from webapp.models.columns import new_id
from webapp.pipeline import batch_feed
from webapp.pipeline.admit import admit
from webapp.pipeline.intake import Intake
from webapp.services import batch_results, batch_views, batches
from webapp.services.batches import NotTaken, Viewer

pytestmark = pytest.mark.usefixtures("app")


@pytest.fixture
def app(openai: FakeOpenAI, make_app: Callable[..., Flask]) -> object:
    made = make_app(batch_in_flight=4)
    with made.app_context():
        yield made


def limit(**limits: int) -> None:
    """Change the plan's limits; what is not named is plenty, and counted."""
    plenty = {"messages": 1000, "tokens": 10**9, "cost_microusd": 10**12}
    with writing() as connection:
        connection.execute(update(Plan).where(Plan.code == "professional").values(limits=plenty | limits))


def count(model: type) -> int:
    with reading() as connection:
        return connection.execute(select(func.count()).select_from(model)).scalar_one()


def test_every_row_is_answered_once_and_the_books_balance() -> None:
    ada = person()
    batch_id = make(ada, table(10))
    ended = run_to_the_end(batch_id)
    assert (ended.status, ended.counts.completed, ended.counts.total, ended.counts.waiting) == ("completed", 10, 10, 0)
    found = requests_of(batch_id)
    assert [request.prompt for request in found] == [f"say {n}" for n in range(1, 11)]
    assert {(request.queue, request.conversation_id, request.expires_at) for request in found} == {("low", None, None)}
    assert count(Conversation) == 0
    assert ended.counts.cost_microusd == sum(request.cost_microusd for request in found) > 0
    assert ended.most_microusd >= ended.counts.cost_microusd
    assert 0 < ended.likely_microusd <= ended.most_microusd
    assert_books_balance()


def test_no_more_are_under_way_than_the_setting_says() -> None:
    batch_id = make(person(), table(10))
    assert feed() == 4
    assert (feed(), batch_feed.feed(0.5)) == (0, 0)
    assert view(batch_id).counts.waiting == 10
    run_jobs()
    seen = view(batch_id)
    assert (seen.counts.completed, seen.counts.percent) == (4, 40)
    assert seen.per_minute is not None
    assert seen.ends_at is not None
    assert seen.ends_at > seen.at
    assert feed() == 4


def test_the_feeder_looks_again_while_requests_end_quickly() -> None:
    batch_id = make(person(), table(6))
    stop = threading.Event()

    def answer(app: Flask) -> None:
        with app.app_context():
            while not stop.is_set():
                run_jobs()
                stop.wait(0.02)

    from flask import current_app

    thread = threading.Thread(target=answer, args=(current_app._get_current_object(),))
    thread.start()
    try:
        assert batch_feed.feed(3) == 6 or view(batch_id).counts.waiting == 0
    finally:
        stop.set()
        thread.join()


def test_nothing_runs_before_the_price_is_confirmed_and_it_can_be_thrown_away() -> None:
    ada = person()
    batch_id = make(ada, table(3), start=False)
    assert feed() == 0
    ready = view(batch_id)
    assert (ready.status, ready.counts.waiting) == ("ready", 3)
    batches.remove(viewer_of(ada), batch_id)
    assert (count(Batch), count(BatchRow), count(Request)) == (0, 0, 0)


def test_of_two_clicks_at_once_one_starts_it_and_the_other_is_told() -> None:
    ada = person()
    viewer = viewer_of(ada)
    batch_id = make(ada, table(1), start=False)
    batches.confirm(viewer, batch_id)
    with pytest.raises(Conflict, match="is running"):
        batches.confirm(viewer, batch_id)
    with pytest.raises(Conflict, match="is running"):
        batches.remove(viewer, batch_id)
    with pytest.raises(Conflict, match="is running"):
        batches.resume(viewer, batch_id)
    assert row_states(batch_id) == ["waiting"]
    run_to_the_end(batch_id)
    for late in (batches.cancel, batches.pause, batches.resume):
        with pytest.raises(Conflict, match="is completed"):
            late(viewer, batch_id)


def test_a_paused_batch_begins_no_row_and_goes_on_where_it_was() -> None:
    ada = person()
    viewer = viewer_of(ada)
    batch_id = make(ada, table(9))
    feed()
    batches.pause(viewer, batch_id)
    assert feed() == 0
    run_jobs()
    paused = view(batch_id)
    assert (paused.status, paused.counts.completed, paused.counts.waiting, paused.ends_at) == ("paused", 4, 5, None)
    batches.resume(viewer, batch_id)
    assert run_to_the_end(batch_id).counts.completed == 9
    assert len(requests_of(batch_id)) == 9


def test_when_every_row_is_begun_there_is_nothing_to_pause() -> None:
    ada = person()
    batch_id = make(ada, table(2))
    feed()
    with pytest.raises(Conflict, match="begun already"):
        batches.pause(viewer_of(ada), batch_id)
    assert run_to_the_end(batch_id).status == "completed"


def test_cancelling_stops_what_is_queued_and_begins_nothing_more() -> None:
    ada = person()
    batch_id = make(ada, table(9))
    feed()
    batches.cancel(viewer_of(ada), batch_id)
    assert batch_feed.stop(batch_id) == 4
    feed()
    run_jobs()
    after = view(batch_id)
    assert (after.status, after.counts.cancelled, after.counts.waiting, after.counts.running) == ("cancelled", 4, 5, 0)
    assert after.ended_at is not None
    assert "cancelled" in results(batch_id)
    assert_books_balance()


def test_the_clock_stops_what_was_admitted_while_its_batch_was_cancelled() -> None:
    ada = person()
    batch_id = make(ada, table(2))
    feed()
    batches.cancel(viewer_of(ada), batch_id)
    feed()
    assert {request.status for request in requests_of(batch_id)} == {"cancelled"}
    assert_books_balance()


def test_a_full_limit_pauses_it_and_it_goes_on_by_itself_when_the_limit_starts_again() -> None:
    limit(messages=5)
    batch_id = make(person(), table(8))
    for _ in range(4):
        feed()
        run_jobs()
    paused = view(batch_id)
    assert (paused.status, paused.counts.completed, paused.counts.waiting, paused.counts.refused) == ("paused", 5, 3, 0)
    assert "5 messages of this month" in (paused.pause_reason or "")
    assert paused.resume_at is not None
    assert paused.resume_at > now()
    assert count(Request) == 5
    feed()
    assert view(batch_id).status == "paused"
    with time_machine.travel(paused.resume_at + timedelta(seconds=1)):
        ended = run_to_the_end(batch_id)
    assert (ended.status, ended.counts.completed, ended.pause_reason, ended.resume_at) == ("completed", 8, None, None)
    assert len(requests_of(batch_id)) == 8
    assert_books_balance()


def test_a_limit_that_is_full_of_what_runs_only_holds_it_up() -> None:
    """Requests hold more than they use: when they have ended there is room again."""
    batch_id = make(person(), table(6))
    feed()
    held = requests_of(batch_id)[0]
    room = 2 * (held.max_input_tokens + held.max_output_tokens) + 600
    batches.cancel(OPERATOR, batch_id)
    feed()
    limit(tokens=room)
    tight = make(person("bob@example.com"), table(6))
    assert feed() == 2
    assert (feed(), view(tight).status) == (0, "running")
    ended = run_to_the_end(tight)
    assert (ended.status, ended.counts.completed) == ("completed", 6)
    assert_books_balance()


def test_a_row_that_no_limit_has_room_for_is_refused_and_the_others_go_on() -> None:
    ada = person()
    short = make(ada, table(1))
    feed()
    (one,) = requests_of(short)
    run_jobs()
    feed()
    limit(tokens=one.max_input_tokens + one.max_output_tokens + 2_000)
    batch_id = make(ada, "prompt\nshort\n" + "long " * 3000 + "\nshort again\n")
    ended = run_to_the_end(batch_id)
    assert (ended.status, ended.counts.completed, ended.counts.refused) == ("completed", 2, 1)
    assert row_states(batch_id) == ["admitted", "refused", "admitted"]
    (line,) = [line for line in csv.DictReader(io.StringIO(results(batch_id))) if line["status"] == "refused"]
    assert "alone needs more" in line["error"]


def test_a_feeder_that_died_after_admitting_a_row_makes_no_second_request_of_it() -> None:
    ada = person()
    batch_id = make(ada, table(3))
    place = viewer_of(ada).organization_id
    # As far as the other one came: the request is there, its mark in the row is not.
    admit(
        Intake(
            medium="batch",
            text="say 1",
            person_id=ada,
            organization_id=place,
            idempotency_key=f"batch:{batch_id}:1",
            batch_id=batch_id,
        )
    )
    assert row_states(batch_id) == ["waiting"] * 3
    between = view(batch_id).counts
    assert (between.total, between.waiting + between.running) == (3, 3)
    ended = run_to_the_end(batch_id)
    assert (ended.counts.completed, len(requests_of(batch_id))) == (3, 3)
    assert row_states(batch_id) == ["admitted"] * 3
    assert_books_balance()


def test_a_key_that_somebody_used_before_does_not_bring_a_foreign_request_into_the_batch() -> None:
    ada = person()
    batch_id = make(ada, table(2), start=False)
    stolen = admit(Intake(medium="web", text="say 2", person_id=ada, idempotency_key=f"batch:{batch_id}:2"))
    batches.confirm(viewer_of(ada), batch_id)
    ended = run_to_the_end(batch_id)
    assert (ended.status, ended.counts.completed, ended.counts.refused) == ("completed", 1, 1)
    assert stolen.request_id not in {request.id for request in requests_of(batch_id)}


def test_two_feeders_at_once_admit_every_row_once(app: Flask) -> None:
    batch_id = make(person(), table(12))
    ready = threading.Barrier(3)
    fed: list[int] = []

    def one() -> None:
        with app.app_context():
            ready.wait()
            fed.append(feed())

    for _ in range(3):
        threads = [threading.Thread(target=one) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert view(batch_id).counts.running + len([r for r in requests_of(batch_id) if r.status == "queued"]) <= 4
        run_jobs()
    assert len(fed) == 9
    feed()
    ended = view(batch_id)
    assert (ended.status, ended.counts.completed) == ("completed", 12)
    assert sorted(request.idempotency_key for request in requests_of(batch_id)) == sorted(
        f"batch:{batch_id}:{n}" for n in range(1, 13)
    )
    assert_books_balance()


@pytest.mark.parametrize("loss", ["person", "plan", "organization"])
def test_who_may_not_any_more_pauses_the_batch_with_the_reason(loss: str) -> None:
    ada = person()
    batch_id = make(ada, table(6))
    feed()
    run_jobs()
    if loss == "person":
        change_person(ada, active=False)
    elif loss == "plan":
        change_person(ada, plan_code="free")
    else:
        with writing() as connection:
            connection.execute(update(Organization).values(active=False))
    feed()
    paused = view(batch_id)
    assert (paused.status, paused.counts.completed, paused.counts.waiting, paused.resume_at) == ("paused", 4, 2, None)
    assert ("not include batches" if loss == "plan" else "not active") in (paused.pause_reason or "")


def test_a_batch_that_cannot_be_fed_waits_a_minute_and_does_not_keep_the_others() -> None:
    ada = person()
    broken, sound = make(ada, table(2)), make(ada, table(2))
    change(broken, parameters=[])
    assert feed() == 2
    with reading() as connection:
        state = connection.execute(select(Batch.status, Batch.pause_reason, Batch.resume_at).where(Batch.id == broken)).one()
    assert (state.status, "tried again in a minute" in state.pause_reason) == ("paused", True)
    assert state.resume_at > now()
    change(broken, parameters={"columns": ["prompt", "n"]}, resume_at=now())
    assert [run_to_the_end(batch_id).counts.completed for batch_id in (sound, broken)] == [2, 2]


def test_the_file_s_name_is_the_batch_s_where_none_is_given() -> None:
    ada = person()
    given = {"C:\\lists\\my words.csv": "my words", "../../etc/x.jsonl": "x", "": "Batch", "y" * 300 + ".csv": "y" * 120}
    for file_name, name in given.items():
        text = '{"prompt": "x"}' if "jsonl" in file_name else table(1)
        assert view(make(ada, text, start=False, file_name=file_name)).name == name


def test_the_plan_must_include_batches() -> None:
    free = person("free@example.com", plan="free")
    with pytest.raises(NotAllowed, match="does not include batches"):
        make(free, table(1))
    assert batches.why_not(free)
    assert not batches.why_not(person())


def test_faults_store_nothing_and_name_row_and_column() -> None:
    ada = person()
    with pytest.raises(NotTaken) as refused:
        batches.create(ada, order("city\nBonn\n\n \nX\n", template="About {{town}}", model="nobody/x"), viewer_of(ada))
    assert refused.value.fields.keys() == {"model"}
    assert refused.value.file is not None
    assert "“town”" in str(refused.value.file.faults.shown[0])
    with pytest.raises(NotTaken) as refused:
        batches.create(ada, order(table(3), template="no names"), viewer_of(ada))
    assert refused.value.fields.keys() == {"template"}
    assert (count(Batch), count(BatchRow)) == (0, 0)


def test_the_result_file_has_the_rows_in_order_with_their_columns_and_what_became_of_them(openai: FakeOpenAI) -> None:
    ada = person()
    text = 'city;status;note\n"Bonn; am Rhein";capital;=1+2\nKöln;"a\nb";-5\n'
    batch_id = make(ada, text, template="About {{city}}")
    waiting = list(csv.DictReader(io.StringIO(results(batch_id).removeprefix("\ufeff"))))
    assert [row["result_status"] for row in waiting] == ["waiting", "waiting"]
    run_to_the_end(batch_id)
    rows = list(csv.DictReader(io.StringIO(results(batch_id).removeprefix("\ufeff"))))
    assert [(row["city"], row["status"], row["note"]) for row in rows] == [
        ("Bonn; am Rhein", "capital", "'=1+2"),
        ("Köln", "a\nb", "-5"),
    ]
    assert [row["result_status"] for row in rows] == ["completed", "completed"]
    requests = requests_of(batch_id)
    assert [row["answer"] for row in rows] == [batch_results.safe_cell(request.answer) for request in requests]
    assert [row["model"] for row in rows] == [f"{request.provider}/{request.model}" for request in requests]
    assert [int(row["tokens"]) for row in rows] == [request.input_tokens + request.output_tokens for request in requests]
    assert sum(round(float(row["cost_usd"]) * 1e6) for row in rows) == view(batch_id).counts.cost_microusd
    again = make(ada, results(batch_id), template="About {{city}}", start=False)
    with reading() as connection:
        asked = connection.execute(select(BatchRow.prompt).where(BatchRow.batch_id == again).order_by(BatchRow.number))
        assert list(asked.scalars()) == [request.prompt for request in requests]
    lines = [json.loads(line) for line in results(batch_id, "jsonl").splitlines()]
    assert [line["note"] for line in lines] == ["=1+2", "-5"]
    assert [line["answer"] for line in lines] == [request.answer for request in requests]


def test_a_long_result_file_is_read_in_pieces_and_complete() -> None:
    batch_id = make(person(), table(1203), start=False)
    pieces = list(batch_results.result(OPERATOR, batch_id, "jsonl").pieces)
    assert len(pieces) == 3
    assert [json.loads(line)["n"] for line in "".join(pieces).splitlines()] == [str(n) for n in range(1, 1204)]


def test_json_lines_keep_their_types() -> None:
    given = [{"prompt": "say a", "n": 1, "x": None, "on": True}, {"prompt": "say b", "other": 2.5}]
    batch_id = make(person(), "\n".join(json.dumps(line) for line in given), file_name="a.jsonl")
    run_to_the_end(batch_id)
    lines = [json.loads(line) for line in results(batch_id, "jsonl").splitlines()]
    assert [{name: line[name] for name in one} for line, one in zip(lines, given, strict=True)] == given
    rows = list(csv.DictReader(io.StringIO(results(batch_id).removeprefix("\ufeff"))))
    assert [(row["n"], row["x"], row["on"], row["other"]) for row in rows] == [("1", "", "true", ""), ("", "", "", "2.5")]


def test_other_people_s_batches_are_not_there() -> None:
    ada, bob = person(), person("bob@example.com")
    batch_id = make(ada, table(1), start=False)
    stranger = viewer_of(bob)
    for act in (batch_views.view, batches.confirm, batches.pause, batches.resume, batches.cancel, batches.remove):
        with pytest.raises(NotFound):
            act(stranger, batch_id)
        with pytest.raises(NotFound):
            act(stranger, uuid.uuid4())
    with pytest.raises(NotFound):
        batch_results.result(stranger, batch_id, "csv")
    assert batch_views.lines(stranger, everybody=True) == []
    assert view(batch_id).status == "ready"


def test_a_manager_sees_and_stops_their_organization_s_batches_and_reads_no_answer() -> None:
    ada, boss = person(), person("boss@example.com")
    with writing() as connection:
        connection.execute(update(Membership).where(Membership.person_id == boss).values(role="manager"))
    batch_id = make(ada, table(6), template="secret {{n}}")
    manager = viewer_of(boss)
    seen = batch_views.view(manager, batch_id)
    assert (seen.mine, seen.template, seen.columns, seen.counts.total) == (False, None, (), 6)
    assert [line.id for line in batch_views.lines(manager, everybody=True)] == [batch_id]
    assert batch_views.lines(manager) == []
    with pytest.raises(NotFound):
        batch_results.result(manager, batch_id, "csv")
    batches.pause(manager, batch_id)
    with reading() as connection:
        entry = connection.execute(select(AuditEntry.__table__).where(AuditEntry.action == "batch.pause")).one()
    assert (entry.actor_id, entry.subject, entry.organization_id) == (boss, f"batch:{batch_id}", manager.organization_id)


def test_a_manager_of_another_organization_sees_nothing_and_own_batches_stay_in_theirs() -> None:
    ada, boss = person(), person("boss@example.com")
    batch_id = make(ada, table(1), start=False)
    other = new_id()
    with writing() as connection:
        connection.execute(
            Organization.__table__.insert().values(
                id=other, name="Other", time_zone="UTC", limits=[], preferences={}, created_at=now()
            )
        )
        for who in (ada, boss):
            connection.execute(
                Membership.__table__.insert().values(
                    person_id=who, organization_id=other, role="manager", limits=[], created_at=now()
                )
            )
    for who in (ada, boss):
        change_person(who, organization_id=other)
        with pytest.raises(NotFound):
            batch_views.view(viewer_of(who), batch_id)
        assert batch_views.lines(viewer_of(who), everybody=True) == []


def test_a_batch_goes_on_in_its_organization_when_its_person_works_in_another() -> None:
    ada = person()
    batch_id = make(ada, table(2))
    home, other = viewer_of(ada).organization_id, new_id()
    with writing() as connection:
        connection.execute(
            Organization.__table__.insert().values(
                id=other, name="Other", time_zone="UTC", limits=[], preferences={}, created_at=now()
            )
        )
        connection.execute(
            Membership.__table__.insert().values(
                person_id=ada, organization_id=other, role="member", limits=[], created_at=now()
            )
        )
    change_person(ada, organization_id=other)
    assert run_to_the_end(batch_id).counts.completed == 2
    assert {request.organization_id for request in requests_of(batch_id)} == {home}


def test_the_list_goes_on_where_the_page_before_ended() -> None:
    ada = person()
    made = [make(ada, table(1), start=False) for _ in range(3)]
    first = batch_views.lines(viewer_of(ada), size=2)
    rest = batch_views.lines(viewer_of(ada), size=2, before=first[-1].id)
    assert [line.id for line in (*first, *rest)] == list(reversed(made))


def test_an_operator_without_ids_is_no_stranger() -> None:
    assert batch_views.sees_others(Viewer(None, None, True, "test"))
    assert not batch_views.sees_others(viewer_of(person()))
