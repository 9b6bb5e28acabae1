"""The whole road, from a text message to its answer and its place in the books."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Flask
from sqlalchemy import select

from tests.support import add_person, assert_books_balance, books, one, persons, requests, rows, run_jobs, sent, text
from webapp.contracts.errors import BadInput, Conflict, LimitReached, NotAllowed, NotFound
from webapp.extensions import writing_session
from webapp.models import Attempt, Conversation, Delivery, Direction, Identity, LedgerEntry, Person, Plan, RequestStatus
from webapp.pipeline.admit import admit
from webapp.pipeline.intake import Intake, Outcome

ALICE = "+15005550006"
BOB = "+15005550009"


def test_a_strangers_text_is_answered_and_written_down(app: Flask) -> None:
    text("How do I reverse a list in Python?", ALICE)
    run_jobs()
    (request,) = requests()
    assert request.status == RequestStatus.COMPLETED
    assert request.answer
    assert (request.provider, request.category, request.channel) == ("demo", "coding", "sms")
    assert request.input_tokens > 0
    assert request.output_tokens > 0
    (answer,) = sent()
    assert (answer.address, answer.status, answer.kind) == (ALICE, "delivered", "answer")
    assert "demo" in answer.body.lower()
    (stranger,) = [p for p in persons() if p.email is None]
    assert (stranger.plan_code, stranger.requests_total) == ("free", 1)
    assert_books_balance()
    assert books().counters["requests"] == 1


def test_a_message_delivered_twice_is_answered_once(app: Flask) -> None:
    for _ in range(3):
        text("hello", ALICE, external_id="SM1")
    run_jobs()
    text("hello", ALICE, external_id="SM1")
    run_jobs()
    assert len(requests()) == len(sent()) == 1
    assert_books_balance()


def test_a_person_without_an_e_mail_keeps_one_conversation_over_many_messages(app: Flask) -> None:
    for body in ("My name is Ada.", "What is my name?"):
        text(body, ALICE)
        run_jobs()
    assert len({r.conversation_id for r in requests()}) == 1
    conversation = one(select(Conversation))
    assert conversation.title == "My name is Ada."


def test_a_conversation_begun_by_text_goes_on_in_the_page_and_back(app: Flask) -> None:
    person = add_person(phone=ALICE, email="alice@example.com", plan="premium")
    text("first, by text", ALICE)
    run_jobs()
    conversation = requests()[0].conversation_id
    admit(Intake(medium="web", text="second, in the page", person_id=person, conversation_id=conversation))
    run_jobs()
    text("third, by text again", ALICE)
    run_jobs()
    assert {r.conversation_id for r in requests()} == {conversation}
    assert [r.channel for r in requests()] == ["sms", "web", "sms"]
    assert len(sent()) == 2


@pytest.mark.parametrize("word", ["STOP", "stop", " Stop. ", "STOPALL", "unsubscribe", "QUIT"])
def test_after_stop_nothing_is_sent(app: Flask, word: str) -> None:
    text("a question that is waiting", ALICE)
    text(word, ALICE)
    text("another one", ALICE)
    run_jobs()
    assert [d for d in sent() if d.status not in ("suppressed", "cancelled")] == []
    assert [r.status for r in requests()] == [RequestStatus.CANCELLED]
    identity = one(select(Identity).where(Identity.address == ALICE))
    assert identity.opted_out_at is not None
    assert_books_balance()


def test_an_answer_that_was_written_before_stop_is_not_sent_after_it(app: Flask) -> None:
    from webapp.pipeline.claims import claim
    from webapp.pipeline.execute import run

    text("a question", ALICE)
    taken = claim(requests()[0].id)
    assert taken is not None
    pieces = run(taken)
    next(pieces)
    text("STOP", ALICE)
    for _ in pieces:
        pass
    run_jobs()
    assert [d.status for d in sent()] == ["suppressed"]
    assert requests()[0].status == RequestStatus.COMPLETED
    assert_books_balance()


def test_start_opens_the_line_again(app: Flask) -> None:
    for body in ("STOP", "are you there?", "START", "are you there now?"):
        text(body, ALICE)
    run_jobs()
    assert [(r.prompt, r.status) for r in requests()] == [("are you there now?", RequestStatus.COMPLETED)]


def test_yes_is_an_answer_unless_the_sender_has_opted_out(app: Flask) -> None:
    text("yes", ALICE)
    text("STOP", ALICE)
    text("YES", ALICE)
    assert [r.prompt for r in requests()] == ["yes"]
    assert one(select(Identity)).opted_out_at is None


def test_help_is_answered_without_using_the_plan(app: Flask) -> None:
    text("help", ALICE)
    run_jobs()
    (answer,) = sent()
    assert "STOP" in answer.body
    assert requests() == []
    assert books().counters == {}


def test_a_picture_without_a_word_gets_a_word_back(app: Flask) -> None:
    text("", ALICE)
    run_jobs()
    assert "Only text" in sent()[0].body


def test_the_eleventh_message_of_a_free_person_is_refused_once_in_words(app: Flask) -> None:
    for i in range(14):
        text(f"message {i}", ALICE)
        run_jobs()
    states = [r.status for r in requests()]
    assert states == [RequestStatus.COMPLETED] * 10 + [RequestStatus.REJECTED] * 4
    notices = [d for d in sent() if d.kind == "notice"]
    assert len(notices) == 1
    assert "10 messages of this month" in notices[0].body
    assert "(UTC)" in notices[0].body
    assert_books_balance()
    assert books().counters["requests"] == 10


def test_the_page_hears_of_every_refusal(app: Flask) -> None:
    person = add_person(email="alice@example.com")
    with writing_session() as session:
        session.get_one(Plan, "free").limits = {"messages": 1}
    admit(Intake(medium="web", text="one", person_id=person))
    for _ in range(2):
        with pytest.raises(LimitReached) as refused:
            admit(Intake(medium="web", text="two", person_id=person))
        assert refused.value.limit == "messages"
        assert "You get new" in refused.value.message
    assert [r.status for r in requests()] == ["queued", "rejected", "rejected"]


def test_the_same_key_gives_the_same_request_and_another_text_under_it_is_refused(app: Flask) -> None:
    person = add_person(email="alice@example.com")
    first = admit(Intake(medium="web", text="hello", person_id=person, idempotency_key="k1"))
    again = admit(Intake(medium="web", text="hello", person_id=person, idempotency_key="k1"))
    assert again.outcome is Outcome.REPEATED
    assert (again.request_id, again.conversation_id) == (first.request_id, first.conversation_id)
    with pytest.raises(Conflict):
        admit(Intake(medium="web", text="other", person_id=person, idempotency_key="k1"))
    run_jobs()
    assert len(requests()) == 1
    assert_books_balance()


def test_somebody_elses_conversation_does_not_exist(app: Flask) -> None:
    alice, bob = add_person(email="alice@example.com"), add_person(email="bob@example.com")
    hers = admit(Intake(medium="web", text="mine", person_id=alice)).conversation_id
    with pytest.raises(NotFound):
        admit(Intake(medium="web", text="let me in", person_id=bob, conversation_id=hers))


def test_an_inactive_person_gets_no_answer(app: Flask) -> None:
    person = add_person(phone=ALICE, email="alice@example.com")
    with writing_session() as session:
        session.get_one(Person, person).active = False
    text("hello", ALICE)
    run_jobs()
    assert requests() == []
    assert sent() == []
    with pytest.raises(NotAllowed):
        admit(Intake(medium="web", text="hello", person_id=person))


@pytest.mark.parametrize("prompt", ["", "   ", "\x00\x01", "x" * 16_001])
def test_a_prompt_that_cannot_be_is_refused_by_name(app: Flask, prompt: str) -> None:
    person = add_person(email="alice@example.com")
    with pytest.raises(BadInput) as refused:
        admit(Intake(medium="web", text=prompt, person_id=person))
    assert refused.value.field == "text"


@pytest.mark.parametrize("body", ["nul \x00 byte", "lone \ud800 surrogate", "😀👩‍👩‍👧‍👦", "مرحبا كيف حالك", "é" * 700])
def test_any_text_is_answered(app: Flask, body: str) -> None:
    text(body, ALICE)
    run_jobs()
    (request,) = requests()
    assert request.status == RequestStatus.COMPLETED
    assert "\x00" not in request.prompt


def test_by_invitation_only_strangers_are_told_once(make_app: Callable[..., Flask]) -> None:
    with make_app(sms_registration="invite").app_context():
        add_person(phone=BOB)
        for _ in range(3):
            text("hello", ALICE)
        text("hello", BOB)
        run_jobs()
        assert [(d.address, d.kind) for d in sent()] == [(ALICE, "notice"), (BOB, "answer")]
        assert len(requests()) == 1


def test_where_registration_is_closed_strangers_hear_nothing_and_their_stop_is_kept(make_app: Callable[..., Flask]) -> None:
    with make_app(sms_registration="closed").app_context():
        text("hello", ALICE)
        text("STOP", ALICE)
        run_jobs()
        assert sent() == []
        assert one(select(Identity)).opted_out_at is not None
        received = rows(select(Delivery.body).where(Delivery.direction == Direction.IN))
        assert sorted(received) == ["STOP", "hello"]


def test_every_request_has_one_attempt_and_one_ledger_entry(app: Flask) -> None:
    for i in range(4):
        text(f"question {i}", ALICE)
    run_jobs()
    assert len(rows(select(Attempt))) == 4
    assert len(rows(select(LedgerEntry))) == 4
    assert {d.request_id for d in sent()} == {r.id for r in requests()}
