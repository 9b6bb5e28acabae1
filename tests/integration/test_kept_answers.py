"""The very same question again: the same answer at once, free, to whom it may be given and to nobody else."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select, update

from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.fakes.vendor import tiny_png
from tests.support import add_person, assert_books_balance, books, one, requests, rows, run_jobs, sent, text
from webapp.contracts.errors import LimitReached
from webapp.extensions import now, queue_redis, writing, writing_session
from webapp.hookspecs import hookimpl
from webapp.jobs import schedule
from webapp.models import (
    Attempt,
    Conversation,
    LedgerEntry,
    Organization,
    Person,
    PersonRole,
    Plan,
    Request,
    RequestStatus,
)
from webapp.models.columns import new_id
from webapp.pipeline import kept, warm
from webapp.pipeline.admit import admit
from webapp.pipeline.claims import claim
from webapp.pipeline.execute import execute, run
from webapp.pipeline.intake import Intake
from webapp.pipeline.warm import CannotWarm, Fate
from webapp.registry import current_registry

QUESTION = "How high is the tower?"
SHARED = {"cache_scope": "organization"}
ALICE = "+15005550006"


@pytest.fixture
def vendor(openai: FakeOpenAI) -> FakeOpenAI:
    """A vendor that never says the same twice."""
    openai.text = lambda _: f"Answer number {len(openai.calls)}."
    return openai


@pytest.fixture
def make(make_app: Callable[..., Flask], vendor: FakeOpenAI) -> Iterator[Callable[..., Flask]]:
    """Makes the application and enters its context."""
    with ExitStack() as stack:

        def enter(**values: Any) -> Flask:
            app = make_app(**({"chat_model": "openai/gpt-4.1-mini", "retries": 0} | values))
            stack.enter_context(app.app_context())
            return app

        yield enter


def person(name: str = "alice", plan: str = "premium") -> uuid.UUID:
    return add_person(email=f"{name}@example.com", plan=plan)


def person_elsewhere(name: str) -> uuid.UUID:
    """A person of an organization of their own."""
    who = person(name)
    with writing_session() as session:
        other = Organization(id=new_id(), name=f"{name}'s", time_zone="UTC")
        session.add(other)
        session.flush()
        session.get_one(Person, who).organization_id = other.id
    return who


def ask(who: uuid.UUID, prompt: str = QUESTION, **values: Any) -> Request:
    """A question in a conversation of its own, with its answer."""
    given: dict[str, Any] = {"new_conversation": True} | values
    admission = admit(Intake(medium="web", text=prompt, person_id=who, **given))
    assert admission.request_id is not None
    assert execute(admission.request_id)
    return one(select(Request).where(Request.id == admission.request_id))


def assert_ledger_agrees() -> None:
    """For the administrator, whose plan has no limit of tokens and so no counter of them."""
    found = books()
    assert found.ledger == found.requests
    assert (found.held, found.open_holds) == (0, 0)


def names() -> list[bytes]:
    found: list[bytes] = queue_redis().keys(f"{kept.PREFIX}*")
    return found


# -- a hit ---------------------------------------------------------------------------------------------------------------
def test_the_same_question_again_is_answered_at_once_and_free(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make()
    who = person()
    first = ask(who)
    before = books()
    again = ask(who)
    assert (first.cached, again.cached) == (False, True)
    assert again.answer == first.answer == "Answer number 1."
    assert (again.status, again.finish) == (RequestStatus.COMPLETED, "stop")
    assert (again.input_tokens, again.output_tokens, again.cost_microusd) == (0, 0, 0)
    assert len(vendor.calls) == 1
    assert rows(select(Attempt.id).where(Attempt.request_id == again.id)) == []
    assert rows(select(LedgerEntry.id).where(LedgerEntry.request_id == again.id)) == []
    # Nothing is counted, and what was held is free again.
    assert books() == before
    assert one(select(Person.requests_total).where(Person.id == who)) == 1
    assert_books_balance()


def test_the_record_says_that_it_was_kept_and_who_gave_it_first(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make()
    who = person()
    ask(who)
    again = ask(who)
    assert again.route == {
        "by": "a kept answer",
        "models": [{"model": "openai/gpt-4.1-mini", "what": "completed", "why": "it gave this answer before"}],
    }
    assert (again.provider, again.model) == (None, None)


def test_a_kept_document_is_a_document_again(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make()
    vendor.text = lambda _: json.dumps({"metres": 12})
    who = person()
    found = [ask(who, "JSON please", parameters={"output": {"schema": None}}) for _ in range(2)]
    assert [r.result for r in found] == [{"metres": 12}] * 2
    assert [r.cached for r in found] == [False, True]


def test_listeners_hear_of_a_kept_answer(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make()
    heard: list[Any] = []

    def request_completed(event: Any) -> None:
        heard.append(event)

    module = ModuleType("listens")
    module.request_completed = hookimpl(request_completed)  # type: ignore[attr-defined]
    assert not current_registry().add(module, "listens", {}).error
    who = person()
    ids = [str(ask(who).id) for _ in range(2)]
    assert [event.request_id for event in heard] == ids
    assert [event.status for event in heard] == [RequestStatus.COMPLETED] * 2
    assert heard[1].cost_microusd == 0


def test_by_text_message_too(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make()
    for _ in range(2):
        text(QUESTION, ALICE)
        run_jobs()
        # Another day: what was said before is no part of the question any more.
        with writing() as connection:
            connection.execute(update(Conversation).values(active=False))
    assert [r.cached for r in requests()] == [False, True]
    assert [d.body for d in sent()] == ["Answer number 1."] * 2
    assert len(vendor.calls) == 1
    assert books().counters["requests"] == 1
    assert_books_balance()


def test_an_answer_is_found_by_the_page_that_a_text_message_got(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make()
    who = add_person(email="alice@example.com", phone=ALICE, plan="premium")
    text(QUESTION, ALICE)
    run_jobs()
    assert ask(who).cached
    assert len(vendor.calls) == 1


# -- for whom ------------------------------------------------------------------------------------------------------------
def test_other_people_are_not_given_it_by_default(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make()
    assert not ask(person("alice")).cached
    assert not ask(person("bob")).cached
    assert len(vendor.calls) == 2


def test_an_organization_shares_and_no_other_one_is_given_it(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make(**SHARED)
    assert not ask(person("alice")).cached
    assert ask(person("bob")).cached
    eve = person_elsewhere("eve")
    assert not ask(eve).cached
    assert ask(eve).answer == "Answer number 2."
    assert ask(person("carol")).answer == "Answer number 1."
    assert len(vendor.calls) == 2
    assert_books_balance()


def test_nothing_is_kept_where_it_is_switched_off(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make(cache_scope="off")
    who = person()
    assert [ask(who).cached for _ in range(2)] == [False, False]
    assert names() == []


def test_nothing_is_kept_for_no_time(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make(cache_chat_s=0)
    who = person()
    assert [ask(who).cached for _ in range(2)] == [False, False]
    assert names() == []


# -- for what ------------------------------------------------------------------------------------------------------------
def test_after_other_turns_it_is_another_question(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make()
    who = person()
    first, more = ask(who), "And how wide?"
    goes_on = {"new_conversation": False, "conversation_id": first.conversation_id}
    wide = ask(who, more, **goes_on)
    assert not wide.cached
    # The same words after other turns, or after none.
    assert not ask(who, more, **goes_on).cached
    assert not ask(who, more).cached
    # After the very same turns it is the same question.
    same = ask(who)
    again = ask(who, more, new_conversation=False, conversation_id=same.conversation_id)
    assert (same.cached, again.cached, again.answer) == (True, True, wide.answer)


SHAPES: dict[str, dict[str, Any]] = {
    "any JSON": {"parameters": {"output": {"schema": None}}},
    "JSON of a schema": {
        "parameters": {
            "output": {"schema": {"type": "object", "properties": {}, "required": [], "additionalProperties": False}}
        }
    },
    "another model": {"parameters": {"model": "openai/gpt-4.1"}},
    "a picture": {"pictures": (tiny_png(64, 64),)},
    "another picture": {"pictures": (tiny_png(64, 64, "red"),)},
}


def test_another_shape_model_or_picture_is_another_question(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make()
    vendor.text = lambda _: json.dumps({"number": len(vendor.calls)})
    who = person(plan="business")
    prompt = "Answer in JSON: how high is the tower?"
    assert not ask(who, prompt).cached
    answers = {name: ask(who, prompt, **given) for name, given in SHAPES.items()}
    assert {name: r.status for name, r in answers.items()} == dict.fromkeys(SHAPES, "completed")
    assert [name for name, r in answers.items() if r.cached] == []
    # And each of them is kept by itself.
    for name, given in SHAPES.items():
        again = ask(who, prompt, **given)
        assert (again.cached, again.answer) == (True, answers[name].answer)
    assert_books_balance()


def test_what_is_no_json_although_json_was_asked_for_is_not_kept(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make()
    who = person()
    for _ in range(2):
        assert not ask(who, "JSON please", parameters={"output": {"schema": None}}).cached
    assert names() == []


def test_an_answer_that_is_longer_than_ones_plan_allows_is_not_given(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make(**SHARED)
    vendor.text = lambda _: "long " * 600
    rich, poor = person("rich", "business"), person("poor", "free")
    assert not ask(rich).cached
    assert ask(rich).cached
    assert not ask(poor).cached
    assert len(vendor.calls) == 2


def test_a_short_answer_is_given_under_any_plan(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make(**SHARED)
    assert not ask(person("rich", "business")).cached
    assert ask(person("poor", "free")).cached


def test_an_answer_is_given_again_under_the_cap_it_was_given_under_however_its_tokens_are_estimated(
    make: Callable[..., Flask], vendor: FakeOpenAI
) -> None:
    make()
    # 440 words, that is tokens of the fake vendor: within the cap of 450, but our estimate is far above it.
    vendor.text = lambda _: "considerable " * 440
    who = person(plan="free")
    assert [ask(who).cached for _ in range(2)] == [False, True]


def test_a_fresh_answer_can_be_asked_for_and_is_kept_in_turn(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make()
    who = person()
    ask(who)
    assert ask(who, parameters={"fresh": True}).answer == "Answer number 2."
    assert ask(who, parameters={"fresh": False}).answer == "Answer number 2."
    assert ask(who).answer == "Answer number 2."
    assert len(vendor.calls) == 2


# -- what is worth keeping -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_an_answer_that_was_cut_off_is_not_kept(make: Callable[..., Flask], vendor: FakeOpenAI, finish: str) -> None:
    make()
    vendor.finish = finish
    who = person()
    for _ in range(2):
        assert not ask(who).cached
    assert names() == []


def test_a_failure_is_not_kept(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make()
    who = person()
    vendor.faults.append(Fault(cut_after_bytes=700))
    assert ask(who).status == RequestStatus.FAILED
    assert names() == []
    assert not ask(who).cached


def test_a_cancelled_answer_is_not_kept(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make()
    admission = admit(Intake(medium="web", text=QUESTION, person_id=person()))
    assert admission.request_id is not None
    taken = claim(admission.request_id)
    assert taken is not None
    pieces = run(taken)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert one(select(Request)).status == RequestStatus.CANCELLED
    assert names() == []


# -- Redis ---------------------------------------------------------------------------------------------------------------
def test_with_redis_away_the_models_are_asked(make: Callable[..., Flask], vendor: FakeOpenAI, tmp_path: Path) -> None:
    make(redis_url=f"unix://{tmp_path}/nobody.sock")
    who = person()
    assert [ask(who).answer for _ in range(2)] == ["Answer number 1.", "Answer number 2."]
    assert_books_balance()


def test_it_is_kept_for_its_time_and_no_longer(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make(cache_chat_s=100)
    who = person()
    ask(who)
    (name,) = names()
    assert 90_000 < queue_redis().pttl(name) <= 100_000
    queue_redis().pexpire(name, 0)
    assert not ask(who).cached


def _signed_for_another(make_it_ours: bytes) -> bytes:
    other = f"{kept.PREFIX}{'0' * 64}"
    return kept._signature(other, make_it_ours) + make_it_ours


LIE = json.dumps({"answer": "A lie.", "finish": "stop", "by": "", "cap": 1}).encode()
POISON: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "noise": lambda _: b"\xff\x00\x13" * 40,
    "unsigned": lambda _: LIE,
    "signed by nobody": lambda _: bytes(32) + LIE,
    "signed for another question": lambda _: _signed_for_another(LIE),
    "one bit off": lambda raw: raw[:-3] + bytes([raw[-3] ^ 1]) + raw[-2:],
    "cut off": lambda raw: raw[:-1],
}


@pytest.mark.parametrize("poison", POISON)
def test_a_poisoned_or_damaged_entry_is_ignored_and_replaced(
    make: Callable[..., Flask], vendor: FakeOpenAI, poison: str
) -> None:
    make()
    who = person()
    ask(who)
    (name,) = names()
    raw = queue_redis().get(name)
    assert isinstance(raw, bytes)
    queue_redis().set(name, POISON[poison](raw))
    assert ask(who).answer == "Answer number 2."
    assert ask(who).answer == "Answer number 2."


def test_an_entry_of_another_kind_is_ignored(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make()
    who = person()
    ask(who)
    (name,) = names()
    queue_redis().delete(name)
    queue_redis().rpush(name, "a list")
    assert ask(who).answer == "Answer number 2."


# -- warm-up -------------------------------------------------------------------------------------------------------------
@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.txt"
    path.write_text(f"# what everybody asks\n\n{QUESTION}\n  Who built it?  \nWho built it?\n# the end\n", "utf-8")
    return path


def test_a_warmed_answer_is_found_by_everybody_under_every_plan(
    make: Callable[..., Flask], vendor: FakeOpenAI, questions: Path
) -> None:
    make(**SHARED, cache_warm_file=questions)
    assert warm.look()
    run_jobs()
    assert [(r.prompt, r.channel, r.status) for r in sorted(requests(), key=lambda r: r.prompt)] == [
        (QUESTION, "warmup", "completed"),
        ("Who built it?", "warmup", "completed"),
    ]
    asker = one(select(Person.id).where(Person.role == PersonRole.ADMIN))
    assert {r.person_id for r in requests()} == {asker}
    assert len({r.conversation_id for r in requests()}) == 2
    for plan in rows(select(Plan.code)):
        assert ask(person(plan, plan)).cached
    assert len(vendor.calls) == 2
    assert not warm.look()
    assert_ledger_agrees()


def test_the_clock_looks_every_five_minutes(make: Callable[..., Flask], questions: Path) -> None:
    make(cache_warm_file=questions)
    assert [task.every_s for task in schedule.periodics() if task.do is warm.look] == [300]


def test_the_administrators_next_text_does_not_go_on_in_the_warm_up(
    make: Callable[..., Flask], vendor: FakeOpenAI, questions: Path
) -> None:
    make(**SHARED)
    warm.warm(warm.plan(questions))
    assert rows(select(Conversation.active)) == [False, False]


def test_only_what_is_not_kept_any_more_is_asked(make: Callable[..., Flask], vendor: FakeOpenAI, questions: Path) -> None:
    make(**SHARED, cache_warm_file=questions)
    ask(person(), "Who built it?")
    found = warm.plan(questions)
    assert (found.questions, list(found.missing.values())) == (2, [QUESTION])
    summary = warm.warm(found)
    assert (summary.kept_before, summary.fates[Fate.ANSWERED], summary.good) == (1, 1, True)
    assert summary.cost_microusd == one(select(Request.cost_microusd).where(Request.channel == "warmup")) > 0
    assert not warm.look()


def test_never_more_than_four_are_asked_at_once(make: Callable[..., Flask], vendor: FakeOpenAI, tmp_path: Path) -> None:
    make(**SHARED)
    path = tmp_path / "many.txt"
    path.write_text("\n".join(f"Question {n}?" for n in range(14)))
    under_way: list[int] = []
    running = 0

    def count(_: dict[str, Any]) -> str:
        nonlocal running
        with vendor.lock:
            running += 1
            under_way.append(running)
        vendor.stopping.wait(0.05)
        with vendor.lock:
            running -= 1
        return "So it is."

    vendor.text = count
    told: list[None] = []
    summary = warm.warm(warm.plan(path), told=lambda: told.append(None))
    assert summary.fates[Fate.ANSWERED] == len(told) == 14
    assert 1 < max(under_way) <= warm.AT_ONCE == 4
    assert_ledger_agrees()


def test_one_warm_up_at_a_time(make: Callable[..., Flask], vendor: FakeOpenAI, questions: Path) -> None:
    make(**SHARED, cache_warm_file=questions)
    found = warm.plan(questions)
    second: list[str] = []

    def told() -> None:
        with pytest.raises(CannotWarm) as refused:
            warm.warm(found)
        second.append(refused.value.message)
        assert not warm.look()

    warm.warm(found, told=told)
    assert len(second) == 2
    assert "under way" in second[0]
    # And the lock is free again.
    assert warm.warm(warm.plan(questions)).good


def test_it_is_queued_once_on_the_low_queue(make: Callable[..., Flask], vendor: FakeOpenAI, questions: Path) -> None:
    from webapp import queues

    make(**SHARED, cache_warm_file=questions)
    assert [warm.look() for _ in range(3)] == [True, False, False]
    assert len(queues.waiting(queue_redis(), queues.LOW)) == 1


def test_a_full_limit_stops_it_until_there_is_room(make: Callable[..., Flask], vendor: FakeOpenAI, tmp_path: Path) -> None:
    path = tmp_path / "many.txt"
    path.write_text("\n".join(f"Question {n}?" for n in range(30)))
    make(**SHARED, cache_warm_file=path)
    with writing_session() as session:
        session.get_one(Plan, "enterprise").limits = {"messages": 6}
    assert warm.look()
    run_jobs()
    states = [r.status for r in requests()]
    assert states.count("completed") == 6
    assert 1 <= states.count("rejected") <= warm.AT_ONCE
    assert len(states) < 12
    assert not warm.look()
    assert_ledger_agrees()
    with pytest.raises(LimitReached):
        admit(Intake(medium="web", text="x", person_id=one(select(Person.id).where(Person.role == "admin"))))


def test_failures_in_a_row_stop_it_and_the_clock_leaves_them_alone_for_a_while(
    make: Callable[..., Flask], vendor: FakeOpenAI, tmp_path: Path
) -> None:
    path = tmp_path / "many.txt"
    path.write_text("\n".join(f"Question {n}?" for n in range(30)))
    make(**SHARED, cache_warm_file=path, breaker_failures=1000)
    vendor.faults += [Fault(status=500, body=b"")] * 30
    summary = warm.warm(warm.plan(path))
    assert 3 <= summary.fates[Fate.FAILED] <= 3 + warm.AT_ONCE
    assert summary.left > 20
    assert "in a row failed" in summary.stopped
    asked_again = warm._not_in_vain(warm.plan(path))
    assert len(asked_again) == 30 - summary.fates[Fate.FAILED]
    assert_ledger_agrees()


def test_an_answer_that_cannot_be_kept_is_not_paid_for_every_five_minutes(
    make: Callable[..., Flask], vendor: FakeOpenAI, questions: Path
) -> None:
    make(**SHARED, cache_warm_file=questions)
    vendor.finish = "length"
    assert warm.look()
    run_jobs()
    assert len(vendor.calls) == 2
    assert not warm.look()
    # By hand it is asked all the same.
    assert warm.warm(warm.plan(questions)).fates[Fate.NOT_KEPT] == 2


UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "the scope": ({"cache_scope": "person"}, "SWITCHHOOK_CACHE_SCOPE=organization"),
    "off": ({"cache_scope": "off"}, "SWITCHHOOK_CACHE_SCOPE=organization"),
    "no time": ({"cache_scope": "organization", "cache_chat_s": 0}, "SWITCHHOOK_CACHE_CHAT_S"),
    "no Redis": ({"cache_scope": "organization", "redis_url": "unix:///nowhere/at/all.sock"}, "Redis"),
}


@pytest.mark.parametrize("why", UNFIT)
def test_what_keeps_it_from_making_sense_is_said_clearly_and_once(
    make: Callable[..., Flask], questions: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(warm, "_warned", set())
    values, words = UNFIT[why]
    make(**values, cache_warm_file=questions)
    assert [warm.look() for _ in range(3)] == [False] * 3
    (said,) = [r.getMessage() for r in caplog.records if "warmed up" in r.getMessage()]
    assert words in said
    with pytest.raises(CannotWarm):
        warm.plan(questions)


def test_without_an_administrator_nobody_asks(make: Callable[..., Flask], questions: Path) -> None:
    make(**SHARED)
    with writing() as connection:
        connection.execute(update(Person).values(active=False))
    with pytest.raises(CannotWarm, match="administrator"):
        warm.plan(questions)


def test_a_file_is_read_with_care(make: Callable[..., Flask], tmp_path: Path) -> None:
    make(**SHARED, prompt_max_chars=100)
    path = tmp_path / "q.txt"
    path.write_bytes("\ufeffFirst?\r\nSecond?\x00\x1b\r\n".encode() + b"x" * 101 + b"\n#\n   # no\n" + "é".encode() * 100)
    found, notes = warm.read(path)
    assert found == ["First?", "Second?", "é" * 100]
    assert len(notes) == 1
    assert notes[0].startswith("Line 3 is left out")
    path.write_text("\n".join(f"{n}?" for n in range(600)))
    found, notes = warm.read(path)
    assert (len(found), len(notes)) == (500, 1)
    for content in (b"\xff\xfe\x00", b"x" * 1_000_000):
        path.write_bytes(content)
        with pytest.raises(CannotWarm):
            warm.read(path)
    for nothing in (tmp_path, tmp_path / "absent", Path("/dev/zero")):
        with pytest.raises(CannotWarm):
            warm.read(nothing)


# -- what it saved -------------------------------------------------------------------------------------------------------
def test_what_kept_answers_saved_is_reckoned_from_the_requests(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make(**SHARED)
    since = now() - timedelta(hours=24)
    assert kept.saved(since) == kept.Saved(0, 0, 0)
    first = ask(person("alice"))
    bob = person("bob")
    for _ in range(2):
        ask(bob)
    assert kept.saved(since) == kept.Saved(2, 2, 2 * first.cost_microusd)
    assert first.cost_microusd > 0
    with writing() as connection:
        connection.execute(update(Request).where(Request.id == first.id).values(prompt="erased"))
    assert kept.saved(since) == kept.Saved(2, 0, 0)
    assert kept.saved(now() + timedelta(minutes=1)) == kept.Saved(0, 0, 0)


def test_clearing_forgets_kept_answers_and_nothing_else(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make()
    who = person()
    for n in range(3):
        ask(who, f"Question {n}?")
    queue_redis().set("switchhook:other", "stays")
    assert (kept.count(100), kept.count(2)) == (3, 2)
    assert kept.clear() == 3
    assert (kept.count(100), kept.clear()) == (0, 0)
    assert queue_redis().get("switchhook:other") == b"stays"
    assert not ask(who, "Question 0?").cached
    assert one(select(func.count()).select_from(Request)) == 4
