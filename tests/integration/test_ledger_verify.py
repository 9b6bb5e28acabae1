"""The proof of the books: it agrees after everything that can happen, and names every way in which books can be broken."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import delete, event, insert, select, update

from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.integration.cli_support import Operator, operator
from tests.support import add_person, assert_books_agree, one, requests, rows, run_jobs
from webapp.contracts.errors import LimitReached
from webapp.contracts.limits import Dimension, StoredLimit, Window
from webapp.extensions import db, now, writing
from webapp.models import (
    Attempt,
    CounterChange,
    Hold,
    HourlyStat,
    LedgerEntry,
    LimitCounter,
    Membership,
    Organization,
    Person,
    Plan,
    Request,
    RequestStatus,
)
from webapp.models.columns import new_id
from webapp.pipeline import cancel, replay, sweep
from webapp.pipeline.admit import admit
from webapp.pipeline.claims import claim
from webapp.pipeline.endings import Call, Ending, Used
from webapp.pipeline.execute import execute, run
from webapp.pipeline.intake import Intake
from webapp.pipeline.settle import settle, settle_unowned
from webapp.quota import house, stored
from webapp.services import ledger_verify, rollups

__all__ = ["operator"]

QUESTION = "Tell me something about the old bridge"
DOWN = Fault(status=503, body=b"")
AT_OPENAI = StoredLimit("atopenai", Dimension.TOKENS, Window.MONTH, 10**7, provider="openai")
ANSWERS_AT_OPENAI = StoredLimit("asked", Dimension.REQUESTS, Window.DAY, 10**4, provider="openai")
CREDITS = StoredLimit("credits", Dimension.CREDITS, Window.HOUR, 10**9)


@pytest.fixture
def app(make_app: Callable[..., Flask], openai: FakeOpenAI) -> Iterator[Flask]:
    """An application with limits of every dimension, in windows of every length, some of them at a provider."""
    app = make_app(
        chat_model="openai/gpt-4.1-mini",
        sort_model="openai/cheap",
        job_retries=1,
        job_retry_waits_s="0",
        retries=0,
        breaker_failures=1000,
        request_timeout_s=5.0,
    )
    openai.text = lambda body: "design 0.6" if body["model"] == "cheap" else f"Answer number {len(openai.calls)}."
    with app.app_context():
        with writing() as connection:
            limits = stored.write([AT_OPENAI, ANSWERS_AT_OPENAI, CREDITS])
            connection.execute(update(Plan).where(Plan.code == "premium").values(more_limits=limits))
        yield app


def person(email: str = "alice@example.com") -> uuid.UUID:
    return add_person(email=email, plan="premium")


def enter(who: uuid.UUID, prompt: str = QUESTION) -> uuid.UUID:
    request_id = admit(Intake(medium="web", text=prompt, person_id=who, new_conversation=True)).request_id
    assert request_id is not None
    return request_id


def found() -> dict[str, str]:
    """What disagrees: the check's name -> its disagreements as one text."""
    verified = ledger_verify.verify()
    return {check.name: "; ".join(map(str, check.listed)) for check in verified.checks if check.total}


def change(statement: Any) -> None:
    with writing() as connection:
        connection.execute(statement)


# -- books that agree ----------------------------------------------------------------------------------------------------
def test_books_agree_after_whatever_can_become_of_a_request(app: Flask, openai: FakeOpenAI) -> None:
    alice, bob = person(), person("bob@example.com")
    for number in range(3):
        enter(alice, f"{QUESTION} {number}")
    run_jobs()
    # The same again is free.
    enter(alice, f"{QUESTION} 1")
    run_jobs()
    assert requests()[-1].cached
    # Cancelled before it was begun.
    cancel.cancel(enter(bob), bob)
    # Its process died, and comes back with what it had used.
    lost = claim(enter(bob, "lost"))
    assert lost is not None
    change(update(Request).where(Request.id == lost.id).values(lease_until=now() - timedelta(minutes=1)))
    assert sweep.sweep().taken_over == 1
    run_jobs()
    ending = Ending(RequestStatus.COMPLETED, (Call(Used("openai", "gpt-4.1-mini", 10, 20, cost_microusd=7)),), answer="late")
    assert settle(lost.id, lost.claim, ending) is None
    settle_unowned(lost.id, lost.attempt, ending)
    # Refused.
    change(update(Person).where(Person.id == bob).values(plan_code="free"))
    change(update(Plan).where(Plan.code == "free").values(limits={"messages": 0}))
    with pytest.raises(LimitReached):
        enter(bob, "once more")
    statuses = {request.status for request in requests()}
    assert {RequestStatus.COMPLETED, RequestStatus.CANCELLED, RequestStatus.REJECTED} <= statuses
    assert {entry.payer for entry in rows(select(LedgerEntry))} == {"person", "house"}
    assert_books_agree()
    looked = {check.name: check.looked_at for check in ledger_verify.verify().checks}
    assert looked["requests"] == 7
    assert all(looked[name] > 0 for name in ("entries", "calls", "people", "holds", "receipts", "counters"))


def test_books_agree_while_a_request_is_tried_again_and_put_back(app: Flask, openai: FakeOpenAI) -> None:
    alice = person()
    openai.text = lambda body: "design 0.6" if body["model"] == "cheap" else ""
    request_id = enter(alice)
    for _ in range(2):  # an empty answer, which the vendor counts, is tried again
        taken = claim(request_id)
        assert taken is not None
        for _piece in run(taken, patient=True):
            pass
        assert_books_agree()
    (failed,) = requests()
    assert (failed.status, failed.retries) == (RequestStatus.FAILED, 1)
    assert failed.input_tokens > 0
    replay.replay(request_id, "admin")
    assert_books_agree()
    openai.text = lambda _: "design 0.6"
    run_jobs()
    (done,) = requests()
    assert done.status == RequestStatus.COMPLETED
    assert len({hold.settled_at for hold in rows(select(Hold).where(Hold.request_id.is_not(None)))}) == 2
    assert_books_agree()
    # What one life of it used is not what the other did.
    holds = rows(select(Hold).where(Hold.dimension == "tokens", Hold.provider.is_(None), Hold.request_id.is_not(None)))
    first, second = sorted(holds, key=lambda hold: hold.id)
    assert 0 < first.used != second.used > 0
    total = first.used + second.used
    change(update(Hold).where(Hold.id == first.id).values(used=total))
    change(update(Hold).where(Hold.id == second.id).values(used=0))
    broken = found()
    assert set(broken) == {"receipts"}
    assert f"hold {first.id} " in broken["receipts"]
    assert f"hold {second.id} " in broken["receipts"]


def test_a_limit_at_a_provider_that_came_between_two_tries_is_no_disagreement(app: Flask, openai: FakeOpenAI) -> None:
    change(update(Plan).where(Plan.code == "premium").values(more_limits=[]))
    openai.text = lambda body: "design 0.6" if body["model"] == "cheap" else ""
    request_id = enter(person())
    taken = claim(request_id)
    assert taken is not None
    for _piece in run(taken, patient=True):
        pass
    change(update(Plan).where(Plan.code == "premium").values(more_limits=stored.write([AT_OPENAI])))
    change(update(Request).values(held_provider="another"))  # as if it had been expected to answer
    openai.text = lambda _: "design 0.6"
    run_jobs()
    hold = one(select(Hold).where(Hold.provider == "openai"))
    (request,) = requests()
    assert 0 < hold.used < request.input_tokens + request.output_tokens
    assert_books_agree()
    change(update(Hold).where(Hold.id == hold.id).values(used=hold.used - 1))
    assert set(found()) == {"receipts", "counters"}


def test_the_books_are_looked_at_as_of_one_moment(app: Flask) -> None:
    alice = person()
    execute(enter(alice))
    begun = threading.Event()
    seen: list[ledger_verify.Verified] = []

    def meanwhile(_rows: str, number: int, _of: int) -> None:
        if number == 2 and not begun.is_set():
            begun.set()
            execute(enter(alice, "between two looks"))

    seen.append(ledger_verify.verify(begun=meanwhile))
    assert begun.is_set()
    assert seen[0].agree
    looked = {check.name: check.looked_at for check in seen[0].checks}
    assert looked["requests"] == 1
    assert looked["calls"] == len(rows(select(Attempt).where(Attempt.request_id == requests()[0].id)))


# -- books that are broken -----------------------------------------------------------------------------------------------
def test_every_way_of_breaking_the_books_is_named(app: Flask) -> None:
    alice, bob = person(), person("bob@example.com")
    request_id = enter(alice)
    execute(request_id)
    waiting = enter(bob)
    (entry,) = rows(select(LedgerEntry).where(LedgerEntry.payer == "person"))
    attempt = entry.attempt_id
    holds = rows(select(Hold).where(Hold.request_id == request_id).order_by(Hold.id))
    tokens = next(hold for hold in holds if hold.name == "tokens")
    there = next(hold for hold in holds if hold.provider == "openai" and hold.dimension == "tokens")
    assert_books_agree()

    ways: list[tuple[str, Any, Any, set[str], str]] = [
        *(
            (
                f"a request's {name}",
                update(Request).where(Request.id == request_id).values({name: Request.__table__.c[name] + 1}),
                update(Request).where(Request.id == request_id).values({name: Request.__table__.c[name] - 1}),
                {"requests"},
                f"request {request_id}",
            )
            for name in ("input_tokens", "output_tokens", "cost_microusd", "credits_millicredits")
        ),
        (
            "a request that waits says that it was tried",
            update(Request).where(Request.id == waiting).values(cost_microusd=5),
            update(Request).where(Request.id == waiting).values(cost_microusd=0),
            {"requests"},
            f"request {waiting}",
        ),
        (
            "two answers to one request",
            update(LedgerEntry).where(LedgerEntry.id == entry.id).values(requests=2),
            update(LedgerEntry).where(LedgerEntry.id == entry.id).values(requests=1),
            {"requests", "people", "receipts"},
            "at most 1",
        ),
        (
            "a kept answer that was charged",
            update(Request).where(Request.id == request_id).values(cached=True),
            update(Request).where(Request.id == request_id).values(cached=False),
            {"requests"},
            f"request {request_id}",
        ),
        (
            "an ended request that still holds",
            update(Hold).where(Hold.id == tokens.id).values(settled_at=None),
            update(Hold).where(Hold.id == tokens.id).values(settled_at=tokens.settled_at),
            {"holds", "counters"},
            f"hold {tokens.id} (tokens)",
        ),
        (
            "a waiting request that holds nothing",
            update(Hold).where(Hold.request_id == waiting).values(settled_at=now(), settled_by="x"),
            update(Hold).where(Hold.request_id == waiting).values(settled_at=None, settled_by=None),
            {"holds", "counters"},
            f"request {waiting}",
        ),
        (
            "a receipt",
            update(Hold).where(Hold.id == tokens.id).values(used=tokens.used + 3),
            update(Hold).where(Hold.id == tokens.id).values(used=tokens.used),
            {"receipts", "counters"},
            f"{tokens.used + 3:,}",
        ),
        (
            "a receipt at a provider",
            update(Hold).where(Hold.id == there.id).values(used=0),
            update(Hold).where(Hold.id == there.id).values(used=there.used),
            {"receipts", "counters"},
            "tokens used at openai",
        ),
        (
            "a receipt below nothing",
            update(Hold).where(Hold.id == tokens.id).values(used=-1),
            update(Hold).where(Hold.id == tokens.id).values(used=tokens.used),
            {"receipts", "counters"},
            "found='-1'",
        ),
        *(
            (
                f"a counter's {name}",
                update(LimitCounter).where(LimitCounter.name == "tokens").values({name: LimitCounter.__table__.c[name] + 1}),
                update(LimitCounter).where(LimitCounter.name == "tokens").values({name: LimitCounter.__table__.c[name] - 1}),
                {"counters"},
                f"counter person:{alice} tokens of the month",
            )
            for name in ("used", "held")
        ),
        (
            "a change that was not counted",
            insert(CounterChange).values(
                id=new_id(),
                subject=tokens.subject,
                name=tokens.name,
                period=tokens.period,
                starts_at=tokens.starts_at,
                amount=-4,
                reason="x",
                actor="x",
                created_at=now(),
            ),
            delete(CounterChange),
            {"counters"},
            f"expected='{tokens.used - 4:,}'",
        ),
        (
            "an entry without its call",
            update(LedgerEntry).where(LedgerEntry.id == entry.id).values(attempt_id=None),
            update(LedgerEntry).where(LedgerEntry.id == entry.id).values(attempt_id=attempt),
            {"entries", "calls"},
            f"ledger entry {entry.id}",
        ),
        (
            "an entry without its request",
            update(LedgerEntry).where(LedgerEntry.id == entry.id).values(request_id=None),
            update(LedgerEntry).where(LedgerEntry.id == entry.id).values(request_id=request_id),
            {"requests", "receipts", "entries"},
            f"ledger entry {entry.id}",
        ),
        (
            "an entry of another's request",
            update(LedgerEntry).where(LedgerEntry.id == entry.id).values(person_id=bob),
            update(LedgerEntry).where(LedgerEntry.id == entry.id).values(person_id=alice),
            {"entries", "people"},
            "the person and organization of its request",
        ),
        (
            "a call of another request",
            update(Attempt).where(Attempt.id == attempt).values(request_id=waiting),
            update(Attempt).where(Attempt.id == attempt).values(request_id=request_id),
            {"entries"},
            "one of another",
        ),
        (
            "a call that says something else",
            update(Attempt).where(Attempt.id == attempt).values(output_tokens=entry.output_tokens + 9),
            update(Attempt).where(Attempt.id == attempt).values(output_tokens=entry.output_tokens),
            {"entries"},
            f"found='{entry.output_tokens + 9:,}'",
        ),
        (
            "credits below nothing",
            update(LedgerEntry).where(LedgerEntry.id == entry.id).values(credits_millicredits=-1),
            update(LedgerEntry).where(LedgerEntry.id == entry.id).values(credits_millicredits=entry.credits_millicredits),
            {"entries", "requests", "receipts"},
            "none below 0",
        ),
        (
            "a person's number of requests",
            update(Person).where(Person.id == alice).values(requests_total=7),
            update(Person).where(Person.id == alice).values(requests_total=1),
            {"people"},
            f"person {alice}",
        ),
        (
            "a hold that nobody has and whose time is over",
            insert(Hold).values(
                expires_at=now() - timedelta(hours=1),
                subject="house",
                name="nobody",
                period="day",
                starts_at=tokens.starts_at,
                dimension="cost",
                amount=0,
            ),
            delete(Hold).where(Hold.name == "nobody"),
            {"reservations"},
            "(nobody) without a request",
        ),
    ]
    for name, broken, mended, checks, words in ways:
        change(broken)
        said = found()
        assert set(said) == checks, (name, said)
        assert words in " ".join(said.values()), (name, said)
        change(mended)
        assert found() == {}, name


def test_lost_rows_are_named_from_both_sides(app: Flask) -> None:
    alice = person()
    request_id = enter(alice)
    execute(request_id)
    entry = one(select(LedgerEntry).where(LedgerEntry.payer == "person"))
    hold = one(select(Hold).where(Hold.request_id == request_id, Hold.name == "tokens"))
    change(delete(LimitCounter).where(LimitCounter.name == "tokens"))
    assert found() == {"counters": found()["counters"]}
    assert "found='none'" in found()["counters"]
    change(delete(Hold).where(Hold.id == hold.id))
    assert found() == {}
    change(delete(LedgerEntry).where(LedgerEntry.id == entry.id))
    said = found()
    assert set(said) == {"requests", "receipts", "calls", "people"}
    assert f"call {entry.attempt_id} of request {request_id}" in said["calls"]


def test_sums_by_the_hour_are_compared_for_hours_that_are_over(app: Flask) -> None:
    alice = person()
    moments = (now() - timedelta(hours=30), now() - timedelta(hours=7))
    for number, moment in enumerate(moments):
        execute(enter(alice, f"question {number}"))
        ids = rows(select(LedgerEntry.id).order_by(LedgerEntry.id))[-2:]
        change(update(LedgerEntry).where(LedgerEntry.id.in_(ids)).values(created_at=moment))
    execute(enter(alice, "just now"))
    assert_books_agree()
    assert next(check for check in ledger_verify.verify().checks if check.name == "hours").looked_at == 0
    rollups.rebuild()
    assert next(check for check in ledger_verify.verify().checks if check.name == "hours").looked_at == 4
    assert_books_agree()
    of_chat = (HourlyStat.operation == "chat", HourlyStat.hour == rollups.whole_hour(moments[0]))
    change(update(HourlyStat).where(*of_chat).values(calls=5))
    assert "what='calls', expected='1', found='5'" in found()["hours"]
    change(delete(HourlyStat).where(*of_chat))
    assert "expected='1', found='0'" in found()["hours"]
    rollups.rebuild()
    assert_books_agree()


def test_a_counter_above_its_maximum_is_a_note_and_no_disagreement(app: Flask) -> None:
    execute(enter(person()))
    change(update(LimitCounter).where(LimitCounter.name == "tokens").values(maximum=1))
    verified = ledger_verify.verify()
    assert verified.agree
    assert verified.notes is not None
    assert verified.notes.total == 1
    assert "at most 1" in str(verified.notes.listed[0])


def test_what_the_house_holds_is_looked_at_too(app: Flask) -> None:
    with writing() as connection:
        reserved = house.reserve(connection, 100, 10**6, now())
    assert reserved is not None
    assert next(check for check in ledger_verify.verify().checks if check.name == "reservations").looked_at == 1
    assert_books_agree()
    with writing() as connection:
        house.settle(connection, reserved, 70)
    assert_books_agree()
    change(update(LimitCounter).where(LimitCounter.subject == house.SUBJECT).values(used=71))
    assert "counter house calls of the day" in found()["counters"]


def test_of_many_disagreements_the_first_are_listed_and_all_are_counted(app: Flask) -> None:
    add_person(email="somebody@example.com")
    with writing() as connection:
        first = connection.execute(select(Person.__table__)).mappings().first()
        assert first is not None
        copies = [dict(first) | {"id": new_id(), "email": f"{n}@example.com", "requests_total": 1} for n in range(130)]
        connection.execute(insert(Person), copies)
    people = next(check for check in ledger_verify.verify().checks if check.name == "people")
    assert (people.total, len(people.listed)) == (130, ledger_verify.LISTED_MAX)


def test_one_organization_is_looked_at_by_itself(app: Flask) -> None:
    alice, bob = person(), person("bob@example.com")
    here = one(select(Organization.id))
    elsewhere = new_id()
    change(insert(Organization).values(id=elsewhere, name="Elsewhere", time_zone="UTC", limits=[], created_at=now()))
    change(update(Person).where(Person.id == bob).values(organization_id=elsewhere))
    change(update(Membership).where(Membership.person_id == bob).values(organization_id=elsewhere))
    execute(enter(alice))
    execute(enter(bob))
    change(update(LimitCounter).where(LimitCounter.subject == f"person:{bob}").values(used=LimitCounter.used + 1))
    change(update(Request).where(Request.person_id == bob).values(cost_microusd=0))
    assert ledger_verify.verify(here).agree
    verified = ledger_verify.verify(elsewhere)
    assert {check.name for check in verified.checks if check.total} == {"counters", "requests"}
    assert {check.name: check.looked_at for check in verified.checks}["requests"] == 1


# -- how it is read ------------------------------------------------------------------------------------------------------
@contextmanager
def statements() -> Iterator[list[str]]:
    seen: list[str] = []

    def note(_c: object, _cursor: object, sql: str, *_: object) -> None:
        seen.append(" ".join(sql.split()))

    event.listen(db.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(db.engine, "before_cursor_execute", note)


def test_the_number_of_statements_does_not_grow_with_the_books(app: Flask) -> None:
    alice = person()
    execute(enter(alice))
    with statements() as few:
        assert ledger_verify.verify().agree
    for number in range(5):
        execute(enter(alice, f"question {number}"))
    with statements() as more:
        assert ledger_verify.verify().agree
    assert len(few) == len(more)
    assert not [sql for sql in more if sql.startswith(("INSERT", "UPDATE", "DELETE"))]


# -- the command ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_command_says_what_disagrees_and_exits_with_one(operator: Operator, app: Flask) -> None:
    alice = person()
    execute(enter(alice))
    out = operator.ok("ledger", "verify")
    assert "All books agree." in out
    assert operator.json("ledger", "verify")["agree"] is True
    change(update(Person).where(Person.id == alice).values(requests_total=5))
    broken = operator("ledger", "verify")
    assert broken.exit_code == 1
    assert f"person {alice}: requests in all: expected 1, found 5" in broken.stdout
    said = json.loads(operator("ledger", "verify", "--json").stdout)
    assert (said["agree"], said["disagreements"]) == (False, 1)
    assert operator("ledger", "verify", "--organization", "nowhere").exit_code == 1
    name = one(select(Organization.name))
    assert operator("ledger", "verify", "--organization", name).exit_code == 1
