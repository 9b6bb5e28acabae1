"""A cheap model sorts what the keywords are unsure of: at the house's cost, within its bound, and never at the request's."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.support import add_person, assert_books_balance, one, requests, rows, run_jobs, sent, text
from webapp.contracts.sorting import AskingCategorizer, Question, Sorting
from webapp.extensions import queue_redis, writing, writing_session
from webapp.hookspecs import hookimpl
from webapp.models import Attempt, LedgerEntry, LimitCounter, Organization, Person, Request, RequestStatus, RouteRule
from webapp.models.columns import new_id
from webapp.pipeline import sorting
from webapp.pipeline.admit import admit
from webapp.pipeline.execute import execute
from webapp.pipeline.intake import Intake
from webapp.pipeline.sweep import sweep
from webapp.quota import house
from webapp.registry import current_registry
from webapp.routing import vendors

UNSURE = "Tell me something about the old bridge"
SURE = "I get a Traceback with a KeyError, please debug this crash"
ANSWER = "The bridge is old."
SORT_MODEL = "openai/cheap"
Say = Callable[[dict[str, Any]], str]


def is_sorting(body: dict[str, Any]) -> bool:
    return body["model"] == "cheap"


@pytest.fixture
def vendor(openai: FakeOpenAI) -> FakeOpenAI:
    """A vendor whose model `cheap` says that everything is design."""
    says(openai, lambda _: "design 0.6")
    return openai


def says(vendor: FakeOpenAI, sort: Say) -> None:
    vendor.text = lambda body: sort(body) if is_sorting(body) else ANSWER


def sort_calls(vendor: FakeOpenAI) -> list[dict[str, Any]]:
    return [body for body in vendor.calls if is_sorting(body)]


@pytest.fixture
def make(make_app: Callable[..., Flask], vendor: FakeOpenAI) -> Iterator[Callable[..., Flask]]:
    """Makes the application and enters its context."""
    with ExitStack() as stack:

        def enter(**values: Any) -> Flask:
            given: dict[str, Any] = {"sort_model": SORT_MODEL, "chat_model": "openai/fake-model", "retries": 0}
            app = make_app(**(given | values))
            stack.enter_context(app.app_context())
            return app

        yield enter


def person(email: str = "alice@example.com") -> uuid.UUID:
    return add_person(email=email, plan="premium")


def ask(who: uuid.UUID, prompt: str = UNSURE, **values: Any) -> Request:
    """A question in a conversation of its own, with its answer."""
    admission = admit(Intake(medium="web", text=prompt, person_id=who, new_conversation=True, **values))
    assert admission.request_id is not None
    assert execute(admission.request_id)
    return one(select(Request).where(Request.id == admission.request_id))


def house_counter() -> tuple[int, int, int]:
    """(used, held, maximum) of the house, nothing if it never spent."""
    found = rows(select(LimitCounter).where(LimitCounter.subject == house.SUBJECT))
    return (found[0].used, found[0].held, found[0].maximum) if found else (0, 0, 0)


def house_entries() -> list[LedgerEntry]:
    return rows(select(LedgerEntry).where(LedgerEntry.payer == "house"))


def attempts() -> list[Attempt]:
    return rows(select(Attempt).order_by(Attempt.request_id, Attempt.execution, Attempt.number))


def assert_house_balances() -> None:
    """What the house's counter says is what the ledger says it paid, and nothing is held."""
    assert_books_balance()
    used, held, _ = house_counter()
    assert (used, held) == (sum(entry.cost_microusd for entry in house_entries()), 0)


# -- when a model is asked -----------------------------------------------------------------------------------------------
def test_by_default_no_model_is_asked(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make(sort_model="")
    request = ask(person())
    assert (request.status, request.category) == (RequestStatus.COMPLETED, "general")
    assert len(vendor.calls) == 1
    assert house_entries() == []
    assert_house_balances()


def test_a_model_is_asked_where_the_keywords_are_unsure(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make()
    request = ask(person())
    assert (request.answer, request.category, request.complexity) == (ANSWER, "design", 0.6)
    (asked,) = sort_calls(vendor)
    system, user = asked["messages"]
    assert "You sort requests" in system["content"]
    assert UNSURE in user["content"]
    assert asked["max_completion_tokens"] == 60
    assert_house_balances()


def test_no_model_is_asked_where_the_keywords_are_sure(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make()
    assert ask(person(), SURE).category == "debug"
    assert sort_calls(vendor) == []
    assert house_entries() == []


def test_a_model_sorts_what_comes_by_text_message(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make()
    text(UNSURE)
    run_jobs()
    (request,) = requests()
    assert (request.category, sent()[0].body) == ("design", ANSWER)
    assert len(sort_calls(vendor)) == 1
    assert_house_balances()


def test_auto_takes_chats_route_and_a_rule_for_sorting_before_it(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make(sort_model="auto")
    vendor.text = "design 0.6"
    who = person()
    ask(who)
    assert [body["model"] for body in vendor.calls] == ["fake-model", "fake-model"]
    add_rule(operation="categorize", targets=["openai/cheap"])
    ask(who, "Tell me something about the new bridge")
    assert [body["model"] for body in vendor.calls[2:]] == ["cheap", "fake-model"]
    assert_house_balances()


def test_auto_does_not_ask_the_demo(make_app: Callable[..., Flask]) -> None:
    with make_app(sort_model="auto").app_context():
        request = ask(person())
        assert (request.provider, request.category) == ("demo", "general")
        assert house_entries() == []


def add_rule(**values: Any) -> None:
    with writing_session() as session:
        session.add(RouteRule(id=new_id(), position=1, name="a rule", **values))
    with writing() as connection:
        vendors.changed(connection)
    vendors.look_again()


def test_a_routing_rule_by_category_takes_effect_from_the_models_opinion(
    make: Callable[..., Flask], vendor: FakeOpenAI
) -> None:
    make()
    add_rule(category="design", targets=["openai/for-design"])
    request = ask(person())
    assert [body["model"] for body in vendor.calls] == ["cheap", "for-design"]
    assert request.route is not None
    assert "a rule" in request.route["by"]


# -- what it costs -------------------------------------------------------------------------------------------------------
def test_the_house_pays_and_the_persons_counters_are_untouched(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make()
    request = ask(person())
    (entry,) = house_entries()
    assert (entry.payer, entry.operation, entry.request_id, entry.requests) == ("house", "categorize", request.id, 0)
    assert entry.cost_microusd > 0
    (mine,) = rows(select(LedgerEntry).where(LedgerEntry.payer == "person"))
    assert (mine.operation, mine.requests) == ("chat", 1)
    assert (request.input_tokens, request.cost_microusd) == (mine.input_tokens, mine.cost_microusd)
    assert (request.provider, request.model) == (mine.provider, mine.model)
    assert one(select(Person.requests_total).where(Person.id == request.person_id)) == 1
    assert_house_balances()


def test_attempts_are_numbered_the_houses_first(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make()
    ask(person())
    found = attempts()
    assert [a.number for a in found] == [1, 2]
    entries = {entry.attempt_id: entry.operation for entry in rows(select(LedgerEntry))}
    assert [entries[a.id] for a in found] == ["categorize", "chat"]
    assert [a.outcome for a in found] == ["completed", "completed"]


def test_a_request_that_is_begun_again_keeps_its_attempts_apart(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    from datetime import timedelta

    from sqlalchemy import update

    from webapp.extensions import now
    from webapp.pipeline import lease
    from webapp.pipeline.claims import claim
    from webapp.pipeline.execute import run

    make()
    admission = admit(Intake(medium="web", text=UNSURE, person_id=person()))
    assert admission.request_id is not None
    lost = claim(admission.request_id)
    assert lost is not None
    lease.end(lost.claim)
    with writing() as connection:
        connection.execute(update(Request).values(lease_until=now() - timedelta(seconds=60)))
    sweep()
    taken = claim(admission.request_id)
    assert taken is not None
    for _ in run(taken):
        pass
    assert one(select(Request)).status == RequestStatus.COMPLETED
    # However many rows an execution leaves, none clashes with another.
    mine = [(a.execution, a.number) for a in attempts() if a.execution == 2]
    assert mine == [(2, 1), (2, 2)]
    assert_house_balances()


def test_nothing_is_asked_once_the_days_bound_is_spent(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make(house_daily_usd=0.0)
    request = ask(person())
    assert (request.status, request.category) == (RequestStatus.COMPLETED, "general")
    assert sort_calls(vendor) == []
    assert_house_balances()


def test_the_bound_is_not_passed_by_one_call_with_32_requests_at_once(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    app = make(house_daily_usd=0.05)
    who, many = person(), 32
    # The vendor counts exactly what was held for the output, so that the bound is met as closely as it can be.
    says(vendor, lambda _: "design " + "so " * 58 + "0.6")
    ids = [
        admit(Intake(medium="web", text=f"{UNSURE}, number {n}", person_id=who, new_conversation=True)).request_id
        for n in range(many)
    ]
    together = threading.Barrier(many)

    def run(request_id: uuid.UUID) -> None:
        with app.app_context():
            together.wait(30)
            execute(request_id)

    with ThreadPoolExecutor(many) as pool:
        list(pool.map(run, [each for each in ids if each is not None]))
    found = requests()
    assert [r.status for r in found] == [RequestStatus.COMPLETED] * many
    sorted_by_model = [r for r in found if r.category == "design"]
    used, _, maximum = house_counter()
    assert maximum == 50_000
    assert used <= maximum
    assert 0 < len(sorted_by_model) < many
    assert len(sort_calls(vendor)) == len(house_entries()) == len(sorted_by_model)
    assert_house_balances()


# -- opinions are kept ---------------------------------------------------------------------------------------------------
def test_an_opinion_is_kept_for_a_day_within_the_organization(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make(cache_scope="off")
    alice, bob, eve = person(), person("bob@example.com"), person("eve@example.com")
    with writing_session() as session:
        other = Organization(id=new_id(), name="Another", time_zone="UTC")
        session.add(other)
        session.flush()
        session.get_one(Person, eve).organization_id = other.id
    assert [ask(who).category for who in (alice, bob)] == ["design", "design"]
    assert len(sort_calls(vendor)) == len(house_entries()) == 1
    (key,) = queue_redis().keys(f"{sorting.PREFIX}*")
    assert sorting.KEEP_S - 60 < queue_redis().ttl(key) <= sorting.KEEP_S == 86_400
    assert ask(eve).category == "design"
    assert len(sort_calls(vendor)) == 2
    assert_house_balances()


POISON: dict[str, object] = {
    "no JSON": b"\xff\x00",
    "a list": [1, 2],
    "another shape": {"answer": "x"},
    "numbers for words": {"category": 5, "confidence": 0.9, "complexity": 0.1},
    "absurdly sure": {"category": "coding", "confidence": 1e308, "complexity": 0.1},
    "not a number": {"category": "coding", "confidence": float("nan"), "complexity": 0.1},
    "true": {"category": "coding", "confidence": True, "complexity": 0.1},
    "a long word": {"category": "c" * 500, "confidence": 0.9, "complexity": 0.1},
}


@pytest.mark.parametrize("poison", POISON)
def test_a_damaged_opinion_in_redis_is_ignored(make: Callable[..., Flask], vendor: FakeOpenAI, poison: str) -> None:
    make(cache_scope="off")
    who = person()
    ask(who)
    (key,) = queue_redis().keys(f"{sorting.PREFIX}*")
    value = POISON[poison]
    queue_redis().set(key, value if isinstance(value, bytes) else json.dumps(value))
    assert ask(who).category == "design"
    assert len(sort_calls(vendor)) == 2
    assert_house_balances()


# -- nothing that happens to it is the request's business ----------------------------------------------------------------
GARBAGE: dict[str, str] = {
    "prose": "I'm sorry, I cannot help with that.",
    "several": "coding or debug or design",
    "unknown": "poetry 0.4",
    "empty JSON": "{}",
    "control characters": "\x00\x1b[2J \ud7ff",
    "endless": "word " * 3000,
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_from_the_sorting_model_leaves_the_keywords_opinion(
    make: Callable[..., Flask], vendor: FakeOpenAI, what: str
) -> None:
    make()
    says(vendor, lambda _: GARBAGE[what])
    request = ask(person())
    assert (request.status, request.answer, request.category) == (RequestStatus.COMPLETED, ANSWER, "general")
    # It was paid for all the same.
    assert len(house_entries()) == 1
    assert queue_redis().keys(f"{sorting.PREFIX}*") == []
    assert_house_balances()


FAULTS = {
    "500": Fault(status=500, body=b"upstream exploded"),
    "garbage": Fault(garbage=b"\x00\xff\x13 this is no HTTP\r\n\r\n"),
    "hangs up": Fault(drop=True),
    "cut off": Fault(cut_after_bytes=700),
    "wrong key": Fault(status=401, body=b'{"error":{"message":"wrong key","code":"invalid_api_key"}}'),
    "slow down": Fault(status=429, headers={"Retry-After": "120"}, body=b'{"error":{"message":"slow down"}}'),
    "no money": Fault(status=429, body=b'{"error":{"message":"no quota","code":"insufficient_quota"}}'),
}


@pytest.mark.parametrize("what", FAULTS)
def test_failure_of_the_sorting_model_never_fails_or_delays_the_request(
    make: Callable[..., Flask], vendor: FakeOpenAI, what: str
) -> None:
    make()
    vendor.faults.append(FAULTS[what])
    began = time.monotonic()
    request = ask(person())
    assert time.monotonic() - began < sorting.TIMEOUT_S
    assert (request.status, request.answer, request.category) == (RequestStatus.COMPLETED, ANSWER, "general")
    assert [a.outcome for a in attempts()] == ["failed", "completed"]
    assert_house_balances()


def test_a_vendor_that_asks_for_fewer_calls_is_spared_the_sorting(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make()
    vendor.faults.append(FAULTS["slow down"])
    who = person()
    ask(who)
    assert ask(who, "Tell me something about the new bridge").status == RequestStatus.COMPLETED
    assert sort_calls(vendor) == []
    assert len(vendor.requests) == 3


def test_a_slow_sorting_model_is_given_up(
    make: Callable[..., Flask], vendor: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sorting, "TIMEOUT_S", 0.4)
    make()

    def wait(_: dict[str, Any]) -> str:
        vendor.stopping.wait(20)
        return "design 0.6"

    says(vendor, wait)
    began = time.monotonic()
    request = ask(person())
    assert time.monotonic() - began < 5
    assert (request.status, request.answer, request.category) == (RequestStatus.COMPLETED, ANSWER, "general")
    assert (attempts()[0].error_code, attempts()[1].outcome) == ("provider_timeout", "completed")
    assert_house_balances()


def test_a_dripping_sorting_model_is_given_up_and_what_came_is_charged(
    make: Callable[..., Flask], vendor: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sorting, "TIMEOUT_S", 0.5)
    make()
    says(vendor, lambda _: "so " * 200)
    vendor.piece_delay_s = 0.02
    request = ask(person())
    assert (request.status, request.category) == (RequestStatus.COMPLETED, "general")
    (entry,) = house_entries()
    assert entry.estimated
    assert entry.cost_microusd > 0
    assert_house_balances()


def test_a_sorting_model_that_does_not_exist_changes_nothing(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make(sort_model="nobody/nothing")
    request = ask(person())
    assert (request.status, request.category) == (RequestStatus.COMPLETED, "general")
    assert_house_balances()


def test_with_redis_away_requests_are_sorted_all_the_same(
    make: Callable[..., Flask], vendor: FakeOpenAI, tmp_path: Any
) -> None:
    make(redis_url=f"unix://{tmp_path}/nobody.sock")
    assert ask(person()).category == "design"
    assert_house_balances()


# -- plugins -------------------------------------------------------------------------------------------------------------
class Asking(AskingCategorizer):
    """Asks, and reads by `reads`."""

    name = "asking"

    def __init__(self, reads: Callable[[str], Any], question: Question | None) -> None:
        self.reads = reads
        self.asks = question

    def question(self, text: str) -> Question | None:
        return self.asks

    def read(self, answer: str) -> Sorting | None:
        found: Sorting | None = self.reads(answer)
        return found


def install_alone(categorizer: AskingCategorizer) -> None:
    """Put this categorizer in the place of the built-in one that asks."""
    module = ModuleType("asking")
    module.register_categorizers = hookimpl(register_only(categorizer))  # type: ignore[attr-defined]
    record = current_registry().add(module, "asking", {})
    assert not record.error, record.error
    del current_registry().categorizers["model"]


def register_only(categorizer: AskingCategorizer) -> Any:
    def register_categorizers(settings: Any) -> list[AskingCategorizer]:
        return [categorizer]

    return register_categorizers


def boom(_: str) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("reads", [boom, lambda _: "design", lambda _: Sorting("x" * 99, 9.0, float("nan"))])
def test_a_categorizer_that_cannot_read_the_answer_has_no_opinion_and_the_call_is_on_the_books(
    make: Callable[..., Flask], vendor: FakeOpenAI, reads: Callable[[str], Any]
) -> None:
    make()
    install_alone(Asking(reads, Question("Sort this.", "text")))
    request = ask(person())
    assert (request.status, request.category) == (RequestStatus.COMPLETED, "general")
    assert len(house_entries()) == len(sort_calls(vendor)) == 1
    assert_house_balances()


def test_a_plugins_greed_for_tokens_is_capped(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make()
    install_alone(Asking(lambda _: Sorting("brewing", 0.9, 0.1), Question("Sort this.", "text", 10**9)))
    assert ask(person()).category == "brewing"
    assert sort_calls(vendor)[0]["max_completion_tokens"] == 2000
    assert_house_balances()


def test_a_categorizer_with_nothing_to_ask_costs_nothing(make: Callable[..., Flask], vendor: FakeOpenAI) -> None:
    make()
    install_alone(Asking(boom, None))
    assert ask(person()).category == "general"
    assert sort_calls(vendor) == []
