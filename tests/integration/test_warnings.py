"""Who is told that a limit is nearly used: by their channel, by e-mail, by the event; once for each mark, limit and window."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest
from flask import Flask, current_app
from sqlalchemy import select, update

from tests.fakes.smtp import FakeSmtp
from tests.support import add_person, assert_books_balance, one, requests, rows, run_jobs, sent, text
from webapp.contracts.errors import LimitReached
from webapp.contracts.limits import Dimension, StoredLimit, Window
from webapp.extensions import writing
from webapp.models import (
    Hold,
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
from webapp.pipeline.admit import admit
from webapp.pipeline.execute import execute
from webapp.pipeline.intake import Intake
from webapp.plugin import BadInput, QuotaEvent, hookimpl
from webapp.quota import credits, stored
from webapp.registry import current_registry

ALICE = "+15005550006"
BOSS = "boss@example.com"


@pytest.fixture
def mail(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSmtp]:
    with FakeSmtp() as fake:
        monkeypatch.setenv("SMTP_URL", fake.url())
        monkeypatch.setenv("MAIL_FROM", "Switchhook <bot@example.com>")
        yield fake


@pytest.fixture
def heard(mail: FakeSmtp, make_app: Callable[..., Flask]) -> Iterator[list[QuotaEvent]]:
    """What listeners hear; the application runs meanwhile, with one manager who has an e-mail address."""
    app = make_app(warn_percents="80,100")
    with app.app_context():
        found: list[QuotaEvent] = []
        module = ModuleType("listener")

        def quota_warning(event: QuotaEvent) -> None:
            found.append(event)

        module.quota_warning = hookimpl(quota_warning)  # type: ignore[attr-defined]
        assert not current_registry().add(module, "listener", {}).error
        manager(BOSS)
        yield found


def manager(email: str) -> uuid.UUID:
    person = add_person(email=email)
    with writing() as connection:
        where = Membership.person_id == person
        connection.execute(update(Membership).where(where).values(role=PersonRole.MANAGER))
    return person


def plan_limits(**limits: int | None) -> None:
    with writing() as connection:
        connection.execute(update(Plan).where(Plan.code == "free").values(limits=limits))


def organization_limit(dimension: Dimension, maximum: int, window: Window = Window.MONTH) -> None:
    limit = StoredLimit("0123456789", dimension, window, maximum)
    with writing() as connection:
        connection.execute(update(Organization).values(limits=stored.write([limit])))


def notices(address: str) -> list[str]:
    return [message.body for message in sent(address) if message.kind == "notice"]


def ask(times: int = 1, sender: str = ALICE) -> None:
    for number in range(times):
        text(f"question {number}", sender)
        run_jobs()


def test_the_answer_that_reaches_80_percent_says_so_and_the_next_does_not(heard: list[QuotaEvent]) -> None:
    plan_limits(messages=10)
    ask(9)
    bodies = [message.body for message in sent(ALICE)]
    assert len(bodies) == 9
    assert [("8 of 10 messages of this month" in body) for body in bodies] == [False] * 7 + [True, False]
    assert [(event.percent, event.limit, event.maximum) for event in heard] == [(80, "messages", 10)]


def test_at_100_percent_everybody_is_told_once_and_a_refusal_answers_once(heard: list[QuotaEvent]) -> None:
    plan_limits(messages=2)
    ask(4)
    answers = [message.body for message in sent(ALICE) if message.kind == "answer"]
    assert ["2 of 2 messages" in body for body in answers] == [False, True]
    assert len(notices(ALICE)) == 1
    assert "all 2 messages" in notices(ALICE)[0]
    assert [event.percent for event in heard] == [100]
    mails = sent(BOSS)
    assert len(mails) == 1
    assert mails[0].subject is not None
    assert "limit is used up" in mails[0].subject


def test_a_refusal_by_a_number_below_what_was_used_warns_too(heard: list[QuotaEvent]) -> None:
    plan_limits(messages=10)
    ask(3)
    plan_limits(messages=2)
    ask(2)
    assert [request.status for request in requests()][3:] == [RequestStatus.REJECTED] * 2
    assert [event.percent for event in heard] == [100]
    assert len(sent(BOSS)) == 1


def test_a_manager_gets_a_letter_with_who_and_what_and_no_text_of_theirs(heard: list[QuotaEvent], mail: FakeSmtp) -> None:
    plan_limits(messages=1)
    text("my secret question", ALICE)
    run_jobs()
    (letter,) = [letter for letter in mail.letters if BOSS in letter.recipients]
    assert letter.recipients == (BOSS,)
    assert "1 of 1 messages of this month are used" in letter.text
    assert "secret" not in letter.text
    assert ALICE not in letter.text


def test_an_organization_has_marks_of_its_own(heard: list[QuotaEvent]) -> None:
    plan_limits()
    organization_limit(Dimension.REQUESTS, 10)
    with writing() as connection:
        connection.execute(update(Organization).values(preferences={"alert_percents": [30, 50]}))
    ask(6)
    assert [(event.percent, event.subject.partition(":")[0]) for event in heard] == [(30, "organization"), (50, "organization")]
    assert len(sent(BOSS)) == 2
    assert all("of this month" not in message.body for message in sent(ALICE)), "it is not the person's limit"


def test_one_request_may_pass_several_marks_and_tells_of_the_highest(heard: list[QuotaEvent]) -> None:
    plan_limits()
    organization_limit(Dimension.REQUESTS, 2)
    with writing() as connection:
        connection.execute(update(Organization).values(preferences={"alert_percents": [10, 20, 50]}))
    ask(1)
    assert [event.percent for event in heard] == [50]


def test_of_many_requests_at_once_one_tells(heard: list[QuotaEvent]) -> None:
    plan_limits()
    organization_limit(Dimension.REQUESTS, 20)
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    for number in range(20):
        text("hello", f"+1500555{2000 + number}")
    ids = [row.id for row in requests()]

    def run(request_id: uuid.UUID) -> None:
        with app.app_context():
            execute(request_id)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, ids))
    assert sorted(event.percent for event in heard) == [80, 100]


@pytest.mark.parametrize(("setting", "letters"), [("all", 1), ("organization", 0), ("none", 0)])
def test_managers_are_told_of_what_the_operator_chose(
    make_app: Callable[..., Flask], mail: FakeSmtp, setting: str, letters: int
) -> None:
    with make_app(warn_managers=setting).app_context():
        manager(BOSS)
        plan_limits(messages=1)
        ask()
        assert len(sent(BOSS)) == letters


def test_without_mail_the_person_and_the_event_are_told_all_the_same(make_app: Callable[..., Flask]) -> None:
    with make_app().app_context():
        manager(BOSS)
        plan_limits(messages=1)
        ask()
        assert sent(BOSS) == []
        assert "1 of 1 messages" in sent(ALICE)[0].body


def test_no_marks_no_warnings(make_app: Callable[..., Flask]) -> None:
    with make_app(warn_percents="").app_context():
        plan_limits(messages=1)
        ask()
        assert "1 of 1" not in sent(ALICE)[0].body


# -- what one request may cost -------------------------------------------------------------------------------------------
@pytest.fixture
def alice(app: Flask) -> uuid.UUID:
    return add_person(email="alice@example.com", plan="enterprise")


def send(person: uuid.UUID, **values: object) -> Request:
    admit(Intake(medium="api", text="hello", person_id=person, **values))  # type: ignore[arg-type]
    return requests()[-1]


@pytest.mark.parametrize("wanted", [9, 501, -1, 0, 10**30, 10.5, True, "50"])
def test_an_allocation_is_a_whole_number_from_10_to_500(alice: uuid.UUID, wanted: object) -> None:
    with pytest.raises(BadInput, match="10 to 500") as refused:
        send(alice, allocation=wanted)
    assert refused.value.field == "allocation"
    assert requests() == []


def test_an_answer_is_cut_to_what_the_request_may_cost(make_app: Callable[..., Flask], openai: object) -> None:
    with make_app(credit_usd=0.001, ceiling_output_usd=75.0).app_context():
        person = add_person(email="alice@example.com", plan="enterprise")
        model = {"model": "openai/a-model-of-tomorrow"}
        plenty, tight = send(person, parameters=model, allocation=500), send(person, parameters=model, allocation=50)
        assert plenty.cap_microusd == 500_000
        assert tight.cap_microusd == 50_000
        assert tight.held_microusd <= 50_000
        assert 64 <= tight.max_output_tokens < plenty.max_output_tokens
        with pytest.raises(LimitReached, match="one request may"):
            admit(Intake(medium="api", text="x" * 15_000, person_id=person, parameters=model, allocation=10))
        assert requests()[-1].status == RequestStatus.REJECTED


def test_credits_are_counted_like_everything_else(make_app: Callable[..., Flask], openai: object) -> None:
    with make_app(credit_usd=0.0001).app_context():
        add_person(phone=ALICE, plan="starter")
        organization_limit(Dimension.CREDITS, 1_000_000, Window.DAY)
        ask(2)
        entries = rows(select(LedgerEntry))
        total = sum(entry.credits_millicredits for entry in entries)
        assert total == sum(credits.of_cost(entry.cost_microusd) for entry in entries) > 0
        assert sum(request.credits_millicredits for request in requests()) == total
        assert one(select(LimitCounter).where(LimitCounter.dimension == "credits")).used == total
        assert sum(hold.used for hold in rows(select(Hold).where(Hold.dimension == "credits"))) == total
        assert_books_balance()


def test_urgent_requests_go_first_where_the_plan_includes_them(alice: uuid.UUID) -> None:
    free = add_person(email="free@example.com", plan="free")
    starter = add_person(email="starter@example.com", plan="starter")
    assert (send(starter).queue, send(starter, urgent=True).queue) == ("normal", "high")
    with pytest.raises(Exception, match="does not include urgent"):
        send(free, urgent=True)
    with writing() as connection:
        connection.execute(update(Person).where(Person.id == alice).values(plan_code="free"))
        connection.execute(update(Organization).values(plan_code="business"))
    shared = send(alice, urgent=True)
    assert (shared.plan_code, shared.priority) == ("business", 130), "the organization's plan is higher than theirs"
