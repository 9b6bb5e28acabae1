"""When the vendor fails, the person gets a polite text, the error log the truth, and the hold is given back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from sqlalchemy import select

from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.support import assert_books_balance, books, requests, rows, run_jobs, sent, text
from webapp.models import ErrorLog, LedgerEntry, RequestStatus

ALICE = "+15005550006"

TROUBLE = {
    "429": (Fault(status=429, body=b'{"error":{"message":"slow down","code":"rate_limit_exceeded"}}'), "provider_rate_limited"),
    "500": (Fault(status=500, body=b"upstream exploded"), "provider_unavailable"),
    "wrong key": (
        Fault(status=401, body=b'{"error":{"message":"Incorrect API key provided: sk-f***","code":"invalid_api_key"}}'),
        "provider_credentials",
    ),
    "no money": (
        Fault(status=429, body=b'{"error":{"message":"no quota","code":"insufficient_quota"}}'),
        "provider_out_of_credit",
    ),
    "garbage": (Fault(garbage=b"\x00\xff\x13 this is no HTTP\r\n\r\n"), "provider_malformed"),
    "hangs up": (Fault(drop=True), "provider_unavailable"),
    "a page instead": (
        Fault(status=200, headers={"Content-Type": "text/html"}, body=b"<html>Welcome to the hotel's network</html>"),
        "provider_malformed",
    ),
    "silence": (Fault(hang=True), "provider_timeout"),
}


@pytest.fixture
def app(make_app: Callable[..., Flask], openai: FakeOpenAI) -> Iterator[Flask]:
    app = make_app(silence_timeout_s=0.4, request_timeout_s=2.0, retries=0)
    with app.app_context():
        yield app


@pytest.mark.parametrize("what", TROUBLE)
def test_trouble_gives_a_polite_text_an_error_entry_and_the_hold_back(app: Flask, openai: FakeOpenAI, what: str) -> None:
    fault, code = TROUBLE[what]
    openai.faults.append(fault)
    text("hello", ALICE)
    run_jobs()
    (request,) = requests()
    assert (request.status, request.error_code) == (RequestStatus.FAILED, code)
    (apology,) = sent()
    assert apology.kind == "notice"
    assert "again" in apology.body
    assert "OpenAI" not in apology.body
    (entry,) = rows(select(ErrorLog))
    assert (entry.kind, entry.request_id) == (code, request.id)
    assert "sk-for-tests-only" not in f"{entry.message} {entry.detail}"
    assert_books_balance()
    assert books().counters["requests"] == 0


def test_after_trouble_the_next_message_is_answered(app: Flask, openai: FakeOpenAI) -> None:
    openai.faults.append(Fault(status=503, body=b""))
    for body in ("first", "second"):
        text(body, ALICE)
        run_jobs()
    assert [r.status for r in requests()] == [RequestStatus.FAILED, RequestStatus.COMPLETED]
    assert_books_balance()


def test_half_a_stream_is_a_failure_that_is_charged_as_an_estimate(app: Flask, openai: FakeOpenAI) -> None:
    openai.text = "word " * 200
    openai.faults.append(Fault(cut_after_bytes=3000))
    text("hello", ALICE)
    run_jobs()
    (request,) = requests()
    assert request.status == RequestStatus.FAILED
    (entry,) = rows(select(LedgerEntry))
    assert (entry.estimated, entry.requests) == (True, 0)
    assert entry.output_tokens > 0
    assert_books_balance()


def test_what_the_vendor_counted_is_what_is_charged(app: Flask, openai: FakeOpenAI) -> None:
    text("hello", ALICE)
    run_jobs()
    (entry,) = rows(select(LedgerEntry))
    assert not entry.estimated
    assert entry.provider == "openai"
    assert entry.cost_microusd > 0
    assert entry.price_source.startswith("genai-prices")
    assert_books_balance()


def test_earlier_turns_go_along_and_end_with_the_new_one(app: Flask, openai: FakeOpenAI) -> None:
    for body in ("My name is Ada.", "What is my name?"):
        text(body, ALICE)
        run_jobs()
    turns = [(m["role"], m["content"]) for m in openai.calls[1]["messages"]]
    assert turns[0][0] == "system"
    assert turns[1:] == [("user", "My name is Ada."), ("assistant", openai.text), ("user", "What is my name?")]


def test_earlier_turns_stay_within_the_plans_budget(app: Flask, openai: FakeOpenAI) -> None:
    openai.text = "An answer of some length. " * 12
    for i in range(6):
        text(f"question number {i}", ALICE)
        run_jobs()
    assert len(openai.calls[-1]["messages"]) < 2 + 2 * 5
    assert openai.calls[-1]["messages"][-1]["content"] == "question number 5"
    assert all(call["max_completion_tokens"] == 450 for call in openai.calls)
    assert_books_balance()


def test_a_slow_drip_ends_at_the_requests_own_time_limit(app: Flask, openai: FakeOpenAI) -> None:
    openai.text = "drip " * 100
    openai.piece_delay_s = 0.2
    text("hello", ALICE)
    run_jobs()
    (request,) = requests()
    assert (request.status, request.error_code) == (RequestStatus.FAILED, "provider_timeout")
    assert_books_balance()
