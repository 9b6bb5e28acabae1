"""A failure that may pass is tried again, then set aside, and can be put back from there. Redis's lists follow the table."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import insert, select, update

from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.integration import batch_support
from tests.integration.limits_support import add_organization, organization_id
from tests.support import add_person, assert_books_agree, assert_books_balance, one, requests, rows, run_jobs, sent, text
from webapp import queues
from webapp.contracts.errors import Conflict, LimitReached, NotAllowed, NotFound
from webapp.contracts.limits import Dimension, StoredLimit, Window
from webapp.extensions import now, queue_redis, writing, writing_session
from webapp.models import (
    ApiToken,
    Attempt,
    AuditEntry,
    DeadLetter,
    ErrorLog,
    Hold,
    Identity,
    LedgerEntry,
    LimitCounter,
    Membership,
    Organization,
    Person,
    PersonRole,
    Plan,
    Request,
    RequestStatus,
)
from webapp.pipeline import cancel, replay, sweep, words
from webapp.pipeline.admit import admit
from webapp.pipeline.claims import claim
from webapp.pipeline.execute import execute, run
from webapp.pipeline.intake import Intake
from webapp.plugin import hookimpl
from webapp.quota import credits, stored
from webapp.registry import current_registry
from webapp.services import erasing, people

ALICE = "+15005550006"
DOWN = Fault(status=503, body=b"")


@pytest.fixture
def app(make_app: Callable[..., Flask], openai: FakeOpenAI) -> Iterator[Flask]:
    app = make_app(
        job_retries=2,
        job_retry_waits_s="0",
        retries=0,
        silence_timeout_s=0.5,
        request_timeout_s=3.0,
        breaker_failures=1000,
    )
    with app.app_context():
        yield app


def letters() -> list[DeadLetter]:
    return rows(select(DeadLetter).order_by(DeadLetter.request_id))


def broken(openai: FakeOpenAI, times: int = 3) -> uuid.UUID:
    """A request that was set aside."""
    openai.faults += [DOWN] * times
    text("hello", ALICE)
    run_jobs()
    (request,) = requests()
    assert request.status == RequestStatus.FAILED
    return request.id


def test_a_failure_that_passes_costs_time_and_nothing_else(app: Flask, openai: FakeOpenAI) -> None:
    openai.faults += [DOWN, DOWN]
    text("hello", ALICE)
    run_jobs()
    (request,) = requests()
    assert (request.status, request.retries, request.attempts, request.error_code) == (RequestStatus.COMPLETED, 2, 3, None)
    assert [message.kind for message in sent()] == ["answer"]
    assert [(a.execution, a.outcome) for a in rows(select(Attempt).order_by(Attempt.execution))] == [
        (1, "failed"),
        (2, "failed"),
        (3, "completed"),
    ]
    assert letters() == []
    assert_books_balance()


def test_after_the_last_try_the_person_is_told_once_and_the_request_is_set_aside(app: Flask, openai: FakeOpenAI) -> None:
    request_id = broken(openai)
    (letter,) = letters()
    assert (letter.request_id, letter.reason, letter.error_code, letter.attempts, letter.state) == (
        request_id,
        "vendor",
        "provider_unavailable",
        3,
        "open",
    )
    assert [message.kind for message in sent()] == ["notice"]
    assert_books_balance()


def test_what_a_failed_try_has_used_is_counted_with_the_rest(app: Flask, openai: FakeOpenAI) -> None:
    openai.text = ""
    openai.faults.append(Fault())  # an empty answer, which the vendor has counted
    text("hello", ALICE)
    claimed = claim(requests()[0].id)
    assert claimed is not None
    for _ in run(claimed, patient=True):
        pass
    (waiting,) = requests()
    assert waiting.status == RequestStatus.QUEUED
    used = waiting.input_tokens + waiting.output_tokens
    assert used > 0
    tokens = one(select(LimitCounter).where(LimitCounter.name == "tokens"))
    assert tokens.used == 0, "it is still held"
    openai.text = "an answer"
    sweep.sweep()
    run_jobs()
    (request,) = requests()
    assert request.status == RequestStatus.COMPLETED
    entries = rows(select(LedgerEntry).order_by(LedgerEntry.id))
    assert [entry.requests for entry in entries] == [0, 1]
    total = sum(entry.input_tokens + entry.output_tokens for entry in entries)
    assert total == request.input_tokens + request.output_tokens > used
    assert one(select(LimitCounter).where(LimitCounter.name == "tokens")).used == total
    assert_books_balance()


def test_a_request_of_its_own_making_is_not_tried_again(app: Flask, openai: FakeOpenAI) -> None:
    openai.faults.append(Fault(status=400, body=b'{"error":{"message":"no such model","code":"model_not_found"}}'))
    text("hello", ALICE)
    run_jobs()
    (request,) = requests()
    assert (request.status, request.attempts) == (RequestStatus.FAILED, 1)
    assert letters() == []


def test_what_was_read_by_somebody_is_not_begun_anew(app: Flask, openai: FakeOpenAI) -> None:
    openai.text = "word " * 200
    openai.faults.append(Fault(cut_after_bytes=3000))
    text("hello", ALICE)
    run_jobs()
    (request,) = requests()
    assert (request.status, request.attempts) == (RequestStatus.FAILED, 1)
    assert_books_balance()


def test_a_request_that_waits_for_its_next_try_is_left_alone_and_can_be_cancelled(
    make_app: Callable[..., Flask], openai: FakeOpenAI
) -> None:
    with make_app(job_retries=1, job_retry_waits_s="3600", retries=0).app_context():
        openai.faults.append(DOWN)
        text("hello", ALICE)
        run_jobs()
        (request,) = requests()
        assert (request.status, request.error_code) == (RequestStatus.QUEUED, "provider_unavailable")
        assert request.not_before is not None
        assert timedelta(minutes=59) < request.not_before - now() <= timedelta(hours=1)
        assert sweep.sweep().enqueued == 0
        assert cancel.cancel(request.id, request.person_id) == RequestStatus.CANCELLED
        assert_books_balance()


def test_a_vendor_that_asks_for_more_time_gets_it(make_app: Callable[..., Flask], openai: FakeOpenAI) -> None:
    with make_app(job_retries=1, job_retry_waits_s="10", retries=0).app_context():
        openai.faults.append(Fault(status=429, headers={"Retry-After": "900"}, body=b"{}"))
        text("hello", ALICE)
        run_jobs()
        (request,) = requests()
        assert request.not_before is not None
        assert timedelta(minutes=14) < request.not_before - now() <= timedelta(minutes=15)


def test_a_second_job_does_not_begin_what_waits_for_its_next_try(make_app: Callable[..., Flask], openai: FakeOpenAI) -> None:
    with make_app(job_retries=2, job_retry_waits_s="3600", retries=0).app_context():
        openai.faults.append(DOWN)
        text("hello", ALICE)
        (request,) = requests()
        assert execute(request.id)
        assert not execute(request.id)
        (request,) = requests()
        assert (request.status, request.attempts, request.retries) == (RequestStatus.QUEUED, 1, 1)
        with writing() as connection:
            connection.execute(update(Request).values(not_before=now()))
        assert execute(request.id)
        assert requests()[0].status == RequestStatus.COMPLETED
        assert_books_balance()


@pytest.mark.parametrize(
    ("fault", "troubles"), [(DOWN, []), (Fault(status=401, body=b"{}"), ["provider_credentials"])], ids=["down", "key"]
)
def test_what_fails_after_somebody_wanted_it_stopped_is_cancelled(
    app: Flask, openai: FakeOpenAI, fault: Fault, troubles: list[str]
) -> None:
    """Nobody is sent an apology, and nobody finds it among what could be replayed; the operator still learns of a bad key."""
    openai.faults.append(fault)
    text("hello", ALICE)
    taken = claim(requests()[0].id)
    assert taken is not None
    assert cancel.cancel(taken.id, taken.person_id) == RequestStatus.PROCESSING
    for _ in run(taken, patient=True):
        pass
    (request,) = requests()
    assert (request.status, request.error_code, request.error_message) == (RequestStatus.CANCELLED, "cancelled", None)
    assert letters() == []
    assert sent() == []
    assert [attempt.outcome for attempt in rows(select(Attempt))] == ["failed"]
    assert rows(select(ErrorLog.kind)) == troubles
    assert_books_balance()


def test_what_is_given_up_after_somebody_wanted_it_stopped_is_cancelled(app: Flask) -> None:
    text("hello", ALICE)
    taken = claim(requests()[0].id)
    assert taken is not None
    cancel.cancel(taken.id, taken.person_id)
    with writing() as connection:
        connection.execute(update(Request).values(lease_until=now() - timedelta(seconds=1)))
    sweep.sweep()
    with writing() as connection:
        connection.execute(update(Request).values(expires_at=now() - timedelta(seconds=1)))
    assert sweep.sweep().expired == 1
    assert requests()[0].status == RequestStatus.CANCELLED
    assert letters() == []
    assert sent() == []
    assert_books_balance()


def test_what_is_running_at_stop_is_not_tried_again(app: Flask, openai: FakeOpenAI) -> None:
    openai.faults.append(DOWN)
    text("hello", ALICE)
    taken = claim(requests()[0].id)
    assert taken is not None
    text("STOP", ALICE)
    for _ in run(taken, patient=True):
        pass
    assert requests()[0].status == RequestStatus.CANCELLED
    assert [attempt.outcome for attempt in rows(select(Attempt))] == ["failed"]
    assert sent() == []
    assert_books_balance()


def test_plugins_are_told_the_cost_of_all_tries(app: Flask, openai: FakeOpenAI) -> None:
    heard: list[Any] = []
    module = ModuleType("listening")
    module.request_completed = hookimpl(lambda event: heard.append(event))  # type: ignore[attr-defined]
    assert not current_registry().add(module, "listening", {}).error
    openai.text = ""
    openai.faults.append(Fault())  # an empty answer, which the vendor has counted
    text("hello", ALICE)
    assert execute(requests()[0].id)
    openai.text = "an answer"
    assert execute(requests()[0].id)
    entries = rows(select(LedgerEntry.cost_microusd))
    assert len(entries) == 2
    assert min(entries) > 0
    assert [event.cost_microusd for event in heard] == [sum(entries)] == [requests()[0].cost_microusd]


def test_a_request_that_kills_its_process_twice_is_set_aside(app: Flask) -> None:
    text("hello", ALICE)
    for _ in range(2):
        assert claim(requests()[0].id) is not None
        with writing() as connection:
            connection.execute(update(Request).values(lease_until=now() - timedelta(seconds=1)))
        swept = sweep.sweep()
    assert (swept.taken_over, swept.given_up) == (0, 1)
    (request,) = requests()
    assert (request.status, request.error_code) == (RequestStatus.FAILED, "worker_lost")
    assert [(letter.reason, letter.attempts) for letter in letters()] == [("worker", 2)]
    assert_books_balance()


def test_what_waits_too_long_is_given_up_and_gives_back_what_it_held(app: Flask) -> None:
    text("hello", ALICE)
    with writing() as connection:
        connection.execute(update(Request).values(expires_at=now() - timedelta(seconds=1)))
    assert sweep.sweep().expired == 1
    (request,) = requests()
    assert (request.status, request.error_code) == (RequestStatus.FAILED, "expired")
    assert [letter.reason for letter in letters()] == ["queue"]
    hold = rows(select(Hold))[0]
    assert (hold.settled_by, hold.why, hold.used) == ("sweep", "expired", 0)
    run_jobs()
    assert requests()[0].status == RequestStatus.FAILED
    assert_books_balance()


def test_what_is_over_its_time_between_two_tries_keeps_its_failure(make_app: Callable[..., Flask], openai: FakeOpenAI) -> None:
    with make_app(job_retries=2, job_retry_waits_s="3600", retries=0).app_context():
        openai.faults.append(Fault(status=503, body=b'{"error":{"message":"out of order"}}'))
        text("hello", ALICE)
        run_jobs()
        with writing() as connection:
            connection.execute(update(Request).values(expires_at=now() - timedelta(seconds=1)))
        assert sweep.sweep().expired == 1
        (request,) = requests()
        assert (request.status, request.error_code) == (RequestStatus.FAILED, "provider_unavailable")
        assert request.error_message == words.failed("provider_unavailable")
        (letter,) = letters()
        assert (letter.reason, letter.error_code) == ("vendor", "provider_unavailable")
        assert "out of order" in letter.last_error
        assert "SWITCHHOOK_QUEUE_MAX_H" in letter.last_error
        assert_books_balance()


# -- replay --------------------------------------------------------------------------------------------------------------
def test_what_was_set_aside_is_answered_after_a_replay_as_the_same_request(app: Flask, openai: FakeOpenAI) -> None:
    request_id = broken(openai)
    replay.replay(request_id, "admin@example.com")
    run_jobs()
    (request,) = requests()
    assert (request.id, request.status, request.error_code, request.attempts) == (request_id, RequestStatus.COMPLETED, None, 4)
    assert [message.kind for message in sent()] == ["notice", "answer"]
    assert [(letter.state, letter.replays) for letter in letters()] == [("replayed", 1)]
    entry = one(select(AuditEntry).where(AuditEntry.action == "request.replay"))
    assert (entry.actor, entry.subject) == ("admin@example.com", f"request:{request_id}")
    assert_books_balance()


def test_a_replay_that_fails_is_set_aside_once_more(app: Flask, openai: FakeOpenAI) -> None:
    request_id = broken(openai)
    openai.faults += [DOWN] * 3
    replay.replay(request_id, "admin")
    run_jobs()
    assert [(letter.state, letter.replays, letter.attempts) for letter in letters()] == [("open", 1, 6)]
    replay.replay(request_id, "admin")
    run_jobs()
    assert requests()[0].status == RequestStatus.COMPLETED
    assert_books_balance()


def test_of_many_replays_at_once_one_succeeds(app: Flask, openai: FakeOpenAI) -> None:
    request_id = broken(openai)
    outcomes: list[str] = []
    barrier = threading.Barrier(6)

    def press() -> None:
        with app.app_context():
            barrier.wait()
            try:
                replay.replay(request_id, "admin")
                outcomes.append("replayed")
            except Conflict:
                outcomes.append("conflict")

    threads = [threading.Thread(target=press) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["conflict"] * 5 + ["replayed"]
    run_jobs()
    assert len(openai.calls) == 1
    assert_books_balance()


def test_all_of_a_reason_are_put_back_and_each_that_is_not_says_why(app: Flask, openai: FakeOpenAI) -> None:
    openai.faults += [DOWN] * 9
    for number in range(3):
        text("hello", f"+1500555{2000 + number}")
    run_jobs()
    assert len(letters()) == 3
    gone = requests()[1]
    with writing() as connection:
        connection.execute(update(Person).where(Person.id == gone.person_id).values(active=False))
    outcomes = {each.request_id: each.trouble for each in replay.replay_all("vendor", "admin")}
    assert [bool(trouble) for trouble in outcomes.values()] == [False, True, False]
    assert "not active" in outcomes[gone.id]
    assert list(replay.replay_all("worker", "admin")) == []
    run_jobs()
    assert [r.status for r in requests()] == [RequestStatus.COMPLETED, RequestStatus.FAILED, RequestStatus.COMPLETED]
    assert_books_balance()


def test_a_replay_needs_room_in_the_limits(app: Flask, openai: FakeOpenAI) -> None:
    request_id = broken(openai)
    with writing() as connection:
        connection.execute(update(Plan).values(limits={"messages": 0}))
    with pytest.raises(LimitReached):
        replay.replay(request_id, "admin")
    assert [letter.state for letter in letters()] == ["open"]
    assert requests()[0].status == RequestStatus.FAILED
    assert_books_balance()


def test_a_replay_holds_what_it_may_use_afresh_and_nothing_that_is_counted_already(app: Flask, openai: FakeOpenAI) -> None:
    openai.text = ""
    request_id = broken(openai, 0)  # empty answers, which the vendor has counted
    (request,) = requests()
    used, may_use = request.input_tokens + request.output_tokens, request.max_input_tokens + request.max_output_tokens
    assert used > 0
    before = request.cost_microusd
    with writing() as connection:
        connection.execute(update(Plan).values(limits={"tokens": used + may_use, "cost_microusd": 10**9}))
    replay.replay(request_id, "admin")
    counters = {counter.name: (counter.used, counter.held) for counter in rows(select(LimitCounter))}
    assert counters["tokens"] == (used, may_use)
    (request,) = requests()
    assert counters["cost_microusd"] == (before, request.held_microusd)
    openai.text = "an answer"
    run_jobs()
    assert requests()[0].status == RequestStatus.COMPLETED
    assert_books_balance()


def test_what_earlier_lives_have_used_counts_on_what_one_request_may_cost(app: Flask, openai: FakeOpenAI) -> None:
    openai.text = ""
    request_id = broken(openai, 0)
    (request,) = requests()
    with writing() as connection:
        connection.execute(update(Request).values(allocation_millicredits=credits.of_cost(request.held_microusd) + 1))
        connection.execute(update(Request).values(cost_microusd=request.held_microusd))
    with pytest.raises(LimitReached):
        replay.replay(request_id, "admin")
    assert requests()[0].status == RequestStatus.FAILED


def test_a_replay_counts_in_the_organization_in_which_it_was_asked(app: Flask, openai: FakeOpenAI) -> None:
    """The person works elsewhere meanwhile, and a token without an organization with them."""
    here, there = organization_id(), add_organization("Elsewhere")
    ada = add_person(email="ada@example.com", plan="enterprise")
    mine = {
        "person_id": ada,
        "organization_id": there,
        "role": PersonRole.MEMBER,
        "limits": [],
        "created_at": now(),
    }
    with writing_session() as session:
        people.make_token(session, session.get_one(Person, ada), "a program", ["chat"], None, "test")
    token_id = one(select(ApiToken.id))
    with writing() as connection:
        connection.execute(insert(Membership), mine)
        for place, name in ((here, "here"), (there, "there")):
            limits = stored.write([StoredLimit(name, Dimension.TOKENS, Window.MONTH, 10**6)])
            connection.execute(update(Organization).where(Organization.id == place).values(limits=limits))
        of_token = stored.write([StoredLimit("token", Dimension.TOKENS, Window.MONTH, 10**6)])
        connection.execute(update(ApiToken).values(limits=of_token))
    openai.faults += [DOWN] * 3
    admit(Intake("api", "hello", person_id=ada, token_id=token_id))
    run_jobs()
    with writing() as connection:
        connection.execute(update(Person).where(Person.id == ada).values(organization_id=there))
    replay.replay(requests()[0].id, "admin")
    run_jobs()
    (request,) = requests()
    assert request.status == RequestStatus.COMPLETED
    used = {counter.name: counter.used for counter in rows(select(LimitCounter))}
    assert used["limit:here"] == used["limit:token"] == request.input_tokens + request.output_tokens > 0
    assert "limit:there" not in used
    assert_books_agree()


def test_what_was_erased_is_not_replayed(make_app: Callable[..., Flask], openai: FakeOpenAI) -> None:
    with make_app(retries=0).app_context():
        request_id = broken(openai, 1)
        replay.dismiss(request_id, "admin")
        with writing() as connection:
            these = select(Request.id, Request.conversation_id, Request.batch_id, Request.parameters, Request.route)
            erasing.requests(connection, connection.execute(these).all(), 1)
        with pytest.raises(Conflict, match="erased"):
            replay.replay(request_id, "admin")
        assert [letter.state for letter in letters()] == ["dismissed"]
        assert requests()[0].status == RequestStatus.FAILED
        assert_books_balance()


def test_a_request_of_a_batch_waits_for_as_long_as_it_takes_after_a_replay_too(app: Flask, openai: FakeOpenAI) -> None:
    openai.faults += [DOWN] * 3
    batch_support.make(batch_support.person(), batch_support.table(1))
    batch_support.feed()
    run_jobs()
    (request,) = requests()
    assert (request.status, request.expires_at) == (RequestStatus.FAILED, None)
    replay.replay(request.id, "admin")
    assert requests()[0].expires_at is None
    text("hello", ALICE)
    alone = requests()[-1]
    openai.faults += [DOWN] * 3
    with writing() as connection:
        connection.execute(update(Request).where(Request.id == request.id).values(not_before=now() + timedelta(hours=1)))
    run_jobs()
    replay.replay(alone.id, "admin")
    assert requests()[-1].expires_at is not None


def test_nobody_is_answered_after_stop_by_a_replay(app: Flask, openai: FakeOpenAI) -> None:
    request_id = broken(openai)
    with writing() as connection:
        connection.execute(update(Identity).values(opted_out_at=now()))
    with pytest.raises(NotAllowed):
        replay.replay(request_id, "admin")


def test_only_what_was_set_aside_can_be_replayed_or_dismissed(app: Flask, openai: FakeOpenAI) -> None:
    text("hello", ALICE)
    run_jobs()
    (request,) = requests()
    for act in (replay.replay, replay.dismiss):
        with pytest.raises(NotFound):
            act(request.id, "admin")
        with pytest.raises(NotFound):
            act(uuid.uuid4(), "admin")


def test_a_dismissed_request_is_closed_and_can_still_be_replayed(app: Flask, openai: FakeOpenAI) -> None:
    request_id = broken(openai)
    replay.dismiss(request_id, "admin")
    with pytest.raises(Conflict):
        replay.dismiss(request_id, "admin")
    assert list(replay.replay_all("vendor", "admin")) == []
    replay.replay(request_id, "admin")
    run_jobs()
    assert requests()[0].status == RequestStatus.COMPLETED


# -- Redis and the table -------------------------------------------------------------------------------------------------
def test_a_job_whose_request_has_ended_is_taken_out_of_redis(app: Flask) -> None:
    text("hello", ALICE)
    (request,) = requests()
    cancel.cancel(request.id, request.person_id)
    assert any(queues.waiting(queue_redis(), name) for name in queues.QUEUES)
    assert sweep.sweep().forgotten == 1
    assert not any(queues.waiting(queue_redis(), name) for name in queues.QUEUES)


def test_a_job_that_waits_and_one_of_a_delivery_stay(app: Flask) -> None:
    text("hello", ALICE)
    run_jobs()
    text("again", ALICE)
    before = {name: queues.waiting(queue_redis(), name) for name in queues.QUEUES}
    sweep.sweep()
    assert {name: queues.waiting(queue_redis(), name) for name in queues.QUEUES} == before


def test_a_request_that_redis_has_lost_is_enqueued_again(app: Flask) -> None:
    text("hello", ALICE)
    queue_redis().flushall()
    with writing() as connection:
        connection.execute(update(Request).values(created_at=now() - timedelta(minutes=1)))
    assert sweep.sweep().enqueued == 1
    run_jobs()
    assert requests()[0].status == RequestStatus.COMPLETED
