"""What falls off the road is put back: nothing accepted is lost, nothing is answered or charged twice."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
from flask import Flask
from sqlalchemy import insert, select, update

from tests.fakes.openai import FakeOpenAI
from tests.support import add_person, assert_books_balance, one, requests, rows, run_jobs, sent, text
from webapp.contracts.errors import Conflict, NotFound
from webapp.extensions import now, queue_redis, writing
from webapp.models import Attempt, Conversation, Delivery, Hold, LedgerEntry, LimitCounter, Request, RequestStatus
from webapp.models.columns import new_id
from webapp.pipeline import lease, sweep
from webapp.pipeline.cancel import cancel
from webapp.pipeline.claims import claim
from webapp.pipeline.endings import Call, Ending, Used
from webapp.pipeline.execute import execute, run
from webapp.pipeline.settle import settle, settle_unowned

ALICE = "+15005550006"


def age_everything() -> None:
    """As if a minute had passed over everything that is unfinished."""
    past = now() - timedelta(minutes=1)
    with writing() as connection:
        connection.execute(update(Request).values(created_at=past))
        connection.execute(update(Request).where(Request.lease_until.is_not(None)).values(lease_until=past))
        connection.execute(update(Delivery).values(updated_at=past))


def test_a_redis_that_forgot_everything_loses_nothing(app: Flask) -> None:
    for i in range(5):
        text(f"question {i}", ALICE)
    queue_redis().flushall()
    run_jobs()
    assert {r.status for r in requests()} == {RequestStatus.QUEUED}
    age_everything()
    assert sweep.sweep().enqueued == 5
    run_jobs()
    assert {r.status for r in requests()} == {RequestStatus.COMPLETED}
    assert len(sent()) == 5
    assert_books_balance()


def test_a_sweep_leaves_alone_what_is_waiting_its_turn(app: Flask) -> None:
    text("question", ALICE)
    age_everything()
    assert not sweep.sweep().anything


def test_messages_are_accepted_while_redis_is_away(make_app: Callable[..., Flask]) -> None:
    with make_app(redis_url="unix:///nowhere/at/all.sock").app_context():
        text("question", ALICE)
        (request,) = requests()
        assert request.status == RequestStatus.QUEUED
        execute(request.id)
        assert requests()[0].status == RequestStatus.COMPLETED
        assert_books_balance()


def test_what_a_dead_process_was_executing_is_taken_over_and_charged_once(app: Flask) -> None:
    text("question", ALICE)
    # Its process dies before it begins: nobody prolongs the lease.
    assert claim(requests()[0].id) is not None
    assert sweep.sweep().taken_over == 0
    age_everything()
    assert sweep.sweep().taken_over == 1
    run_jobs()
    (request,) = requests()
    assert (request.status, request.attempts) == (RequestStatus.COMPLETED, 2)
    assert [a.outcome for a in rows(select(Attempt).order_by(Attempt.number))] == ["lost", "completed"]
    assert len(sent()) == 1
    assert_books_balance()


def test_a_process_that_was_only_slow_cannot_settle_what_was_taken_over(app: Flask) -> None:
    text("question", ALICE)
    slow = claim(requests()[0].id)
    assert slow is not None
    pieces = run(slow)
    next(pieces)
    age_everything()
    sweep.sweep()
    run_jobs()
    for _ in pieces:
        pass
    run_jobs()
    assert len(sent()) == 1
    assert len(rows(select(LedgerEntry).where(LedgerEntry.payer == "person"))) == 1
    assert_books_balance()


@pytest.mark.parametrize("given_up", [False, True], ids=["taken over", "given up"])
def test_what_a_slow_process_used_for_nothing_is_on_the_house(make_app: Callable[..., Flask], given_up: bool) -> None:
    """The vendor bills both executions, so the ledger tells of both; the person pays for the one that they had."""
    with make_app(poison_after=1 if given_up else 3).app_context():
        text("question", ALICE)
        slow = claim(requests()[0].id)
        assert slow is not None
        pieces = run(slow)
        next(pieces)
        age_everything()
        swept = sweep.sweep()
        assert (swept.taken_over, swept.given_up) == ((0, 1) if given_up else (1, 0))
        run_jobs()
        ended = requests()[0]
        before = (ended.status, ended.answer, ended.cost_microusd, ended.input_tokens, ended.output_tokens, ended.ended_at)
        for _ in pieces:
            pass
        request = requests()[0]
        after = (request.status, request.answer, request.cost_microusd, request.input_tokens, request.output_tokens)
        assert (*after, request.ended_at) == before
        mine = rows(select(Attempt).where(Attempt.execution == 1).order_by(Attempt.number))
        assert [(attempt.number, attempt.outcome) for attempt in mine] == [(1, "lost"), (2, "completed")]
        entry = one(select(LedgerEntry).where(LedgerEntry.payer == "house"))
        assert entry.attempt_id == mine[1].id
        assert (entry.requests, entry.output_tokens) == (0, mine[1].output_tokens)
        assert entry.output_tokens > 0
        assert lease.held() == []
        assert_books_balance()


def test_an_end_whose_commit_was_not_heard_of_is_not_charged_to_the_house_as_well(app: Flask) -> None:
    """The connection broke after the commit: trying again finds the request ended, by this very execution."""
    text("question", ALICE)
    taken = claim(requests()[0].id)
    assert taken is not None
    ending = Ending(RequestStatus.COMPLETED, (Call(Used("demo", "demo", 10, 20, cost_microusd=7)),), answer="yes")
    assert settle(taken.id, taken.claim, ending)
    assert settle(taken.id, taken.claim, ending) is None
    settle_unowned(taken.id, taken.attempt, ending)
    assert one(select(LedgerEntry)).payer == "person"
    assert_books_balance()


def test_what_was_used_for_a_request_that_is_gone_is_no_failure(app: Flask) -> None:
    ending = Ending(RequestStatus.COMPLETED, (Call(Used("demo", "demo", 10, 20, cost_microusd=7)),), answer="yes")
    settle_unowned(uuid.uuid4(), 1, ending)
    assert rows(select(LedgerEntry)) == []


def test_a_process_that_must_end_hands_back_what_it_executes_at_once(app: Flask) -> None:
    text("question", ALICE)
    queue_redis().flushall()
    taken = claim(requests()[0].id)
    assert taken is not None
    lease.begin(taken.claim)
    assert sweep.hand_back() == 1
    run_jobs()
    (request,) = requests()
    assert (request.status, request.attempts) == (RequestStatus.COMPLETED, 2)
    assert sorted(rows(select(Attempt.outcome))) == ["completed", "handed back"]
    lease.end(taken.claim)
    assert_books_balance()


def test_a_live_process_keeps_its_lease(make_app: Callable[..., Flask], openai: FakeOpenAI) -> None:
    with make_app(lease_s=1.0).app_context():
        text("question", ALICE)
        taken = claim(requests()[0].id)
        assert taken is not None
        lease.begin(taken.claim)
        age_everything()
        renewed = threading.Event()
        for _ in range(40):
            (request,) = requests()
            if request.lease_until and request.lease_until > now():
                renewed.set()
                break
            renewed.wait(0.1)
        assert renewed.is_set()
        assert sweep.sweep().taken_over == 0
        lease.end(taken.claim)


def test_a_request_whose_workers_keep_dying_is_given_up_with_an_apology(make_app: Callable[..., Flask]) -> None:
    with make_app(poison_after=2).app_context():
        text("poison", ALICE)
        for _ in range(2):
            assert claim(requests()[0].id) is not None
            age_everything()
            sweep.sweep()
        (request,) = requests()
        assert (request.status, request.error_code) == (RequestStatus.FAILED, "worker_lost")
        run_jobs()
        assert [d.kind for d in sent()] == ["notice"]
        assert_books_balance()


def test_settling_twice_charges_once(app: Flask) -> None:
    text("question", ALICE)
    taken = claim(requests()[0].id)
    assert taken is not None
    ending = Ending(RequestStatus.COMPLETED, (Call(Used("demo", "demo", 10, 20, cost_microusd=7)),), answer="yes")
    assert [bool(settle(taken.id, taken.claim, ending)) for _ in range(3)] == [True, False, False]
    assert len(rows(select(LedgerEntry))) == 1
    assert_books_balance()


def test_two_workers_cannot_both_take_a_request(app: Flask) -> None:
    text("question", ALICE)
    request_id = requests()[0].id
    taken = [claim(request_id), claim(request_id)]
    assert taken[1] is None
    assert taken[0] is not None


def test_a_request_that_cannot_be_ended_does_not_keep_the_others_from_it(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(4):
        text("question", f"+1500555{2000 + number}")
    bad, late, bad_too, lost = requests()
    for request in (bad_too, lost):
        assert claim(request.id) is not None
    with writing() as connection:
        broken = [f"person:{request.person_id}" for request in (bad, bad_too)]
        connection.execute(update(LimitCounter).where(LimitCounter.subject.in_(broken)).values(held=0))
        late_ones = Request.id.in_((bad.id, late.id))
        connection.execute(update(Request).where(late_ones).values(expires_at=now() - timedelta(seconds=1)))
        connection.execute(
            insert(Attempt),
            [
                {
                    "id": new_id(),
                    "request_id": request.id,
                    "execution": 0,
                    "number": number,
                    "outcome": "lost",
                    "error_code": "worker_lost",
                    "started_at": now(),
                    "ended_at": now(),
                }
                for request in (bad_too, lost)
                for number in (1, 2)
            ],
        )
    text("waiting", "+15005552010")
    queue_redis().flushall()
    age_everything()
    swept = sweep.sweep()
    assert (swept.expired, swept.given_up) == (1, 1)
    assert swept.enqueued >= 1
    assert [request.status for request in requests()[:4]] == [
        RequestStatus.QUEUED,
        RequestStatus.FAILED,
        RequestStatus.PROCESSING,
        RequestStatus.FAILED,
    ]
    said = [record.getMessage() for record in caplog.records if record.name == "webapp.pipeline.sweep"]
    for request in (bad, bad_too):
        assert any(f"the sweep cannot give up request {request.id}: IntegrityError" in line for line in said)


def test_the_receipts_of_what_was_cancelled_say_so(app: Flask, alice: object) -> None:
    text("question", ALICE)
    cancel(requests()[0].id, alice)  # type: ignore[arg-type]
    assert {(hold.settled_by, hold.why) for hold in rows(select(Hold))} == {("cancel", "cancelled")}


@pytest.fixture
def alice(app: Flask) -> object:
    return add_person(phone=ALICE, email="alice@example.com")


def test_a_waiting_request_is_cancelled_at_once_and_free(app: Flask, alice: object) -> None:
    text("question", ALICE)
    (request,) = requests()
    assert cancel(request.id, alice) == RequestStatus.CANCELLED  # type: ignore[arg-type]
    run_jobs()
    assert requests()[0].status == RequestStatus.CANCELLED
    assert sent() == []
    assert_books_balance()
    with pytest.raises(Conflict):
        cancel(request.id, alice)  # type: ignore[arg-type]


def test_a_running_request_stops_at_its_next_piece_and_is_charged_for_what_it_gave(app: Flask, alice: object) -> None:
    text("question", ALICE)
    taken = claim(requests()[0].id)
    assert taken is not None
    pieces = run(taken)
    given = next(pieces)
    cancel(taken.id, alice)  # type: ignore[arg-type]
    given += "".join(pieces)
    (request,) = requests()
    assert (request.status, request.answer) == (RequestStatus.CANCELLED, given)
    (entry,) = rows(select(LedgerEntry))
    assert entry.estimated
    assert sent() == []
    assert_books_balance()


def test_what_was_handed_back_can_be_cancelled(app: Flask, alice: object) -> None:
    text("question", ALICE)
    taken = claim(requests()[0].id)
    assert taken is not None
    lease.begin(taken.claim)
    sweep.hand_back()
    lease.end(taken.claim)
    assert cancel(taken.id, alice) == RequestStatus.CANCELLED  # type: ignore[arg-type]
    assert rows(select(Attempt.outcome)) == ["handed back"]
    assert_books_balance()


def test_a_wish_to_stop_outlives_redis_and_the_worker(app: Flask, alice: object) -> None:
    text("question", ALICE)
    taken = claim(requests()[0].id)
    assert taken is not None
    lease.begin(taken.claim)
    cancel(taken.id, alice)  # type: ignore[arg-type]
    queue_redis().flushall()
    assert lease.prolong() == 1
    assert lease.asked_to_stop(taken.claim)
    lease.end(taken.claim)
    age_everything()
    sweep.sweep()
    run_jobs()
    assert requests()[0].status == RequestStatus.CANCELLED
    assert rows(select(LedgerEntry)) == []
    assert_books_balance()


def test_a_process_that_came_back_to_life_is_not_given_up(make_app: Callable[..., Flask]) -> None:
    with make_app(poison_after=1).app_context():
        text("question", ALICE)
        taken = claim(requests()[0].id)
        assert taken is not None
        seen = now() - timedelta(minutes=1)
        row = next(r for r in requests())
        assert sweep._give_up(row, seen) == 0
        assert requests()[0].status == RequestStatus.PROCESSING


def test_admission_and_settlement_do_not_wait_for_each_other(app: Flask, openai: FakeOpenAI) -> None:
    """A person with a running request and no active conversation: both sides lock the person and the counters."""
    person = add_person(phone=ALICE, plan="enterprise")
    failures: list[BaseException] = []
    ends = time.monotonic() + 3

    def loop(act: Callable[[], None]) -> None:
        with app.app_context():
            while time.monotonic() < ends:
                try:
                    act()
                except Exception as exc:
                    failures.append(exc)

    def admit_one() -> None:
        with writing() as connection:
            connection.execute(update(Conversation).values(active=False))
        text("question", ALICE)

    def settle_one() -> None:
        for request in requests()[-3:]:
            if request.status == "queued" and (taken := claim(request.id)):
                ending = Ending(RequestStatus.COMPLETED, (Call(Used("demo", "demo", 1, 1)),), answer="yes")
                settle(taken.id, taken.claim, ending)

    threads = [threading.Thread(target=loop, args=(act,)) for act in (admit_one, admit_one, settle_one, settle_one)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert person


def test_a_reader_who_hangs_up_is_charged_for_what_was_produced(app: Flask) -> None:
    text("question", ALICE)
    taken = claim(requests()[0].id)
    assert taken is not None
    pieces = run(taken)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert requests()[0].status == RequestStatus.CANCELLED
    assert one(select(LedgerEntry)).output_tokens > 0
    assert_books_balance()


def test_nobody_cancels_what_is_not_theirs(app: Flask) -> None:
    text("question", ALICE)
    with pytest.raises(NotFound):
        cancel(requests()[0].id, add_person(email="mallory@example.com"))


def test_idle_conversations_are_closed_and_the_next_message_starts_a_new_one(app: Flask) -> None:
    text("long ago", ALICE)
    run_jobs()
    with writing() as connection:
        connection.execute(update(Conversation).values(last_activity_at=now() - timedelta(days=8)))
    assert sweep.close_idle_conversations() == 1
    text("today", ALICE)
    assert len({r.conversation_id for r in requests()}) == 2
