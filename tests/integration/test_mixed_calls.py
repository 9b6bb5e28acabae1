"""Many requests over four vendors that fail at random: everything ends, and the books say what the vendors say."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from flask import Flask
from sqlalchemy import func, select

from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.gemini import FakeGemini
from tests.fakes.ollama import FakeOllama
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.fakes.vendor import FakeTextVendor, Trouble
from tests.integration.vendor_support import lead
from tests.support import add_person, assert_books_agree, assert_books_balance, books, requests, run_jobs
from webapp.extensions import db, reading
from webapp.models import ENDED, Attempt, LedgerEntry, RequestStatus
from webapp.pipeline.admit import admit
from webapp.pipeline.intake import Intake
from webapp.routing import resilience

VENDORS: tuple[type[FakeTextVendor], ...] = (FakeOpenAI, FakeAnthropic, FakeGemini, FakeOllama)
PERSONS = 5
FAULTY = 0.15
PLACES = 2
"""Calls to each vendor at once: 16 requests in flight fill all four, so that each gets its share."""


def faults(fake: FakeTextVendor, dice: random.Random, count: int) -> list[Fault]:
    """What happens to so many calls in turn; most of them go well."""
    busy = fake.trouble(Trouble.RATE_LIMITED)
    assert busy is not None

    def bad() -> Fault:
        return dice.choice(
            [
                Fault(status=500, body=b"upstream exploded"),
                Fault(status=503, body=b"", headers={"Retry-After": "0"}),
                Fault(status=429, body=busy.body, headers={**busy.headers, "Retry-After": "0", "retry-after-ms": "0"}),
                Fault(drop=True),
                Fault(garbage=b"\x00\xff\x13 this is no HTTP\r\n\r\n"),
                Fault(status=200, headers={"Content-Type": "text/html"}, body=b"<html>Welcome to the hotel</html>"),
                Fault(cut_after_bytes=dice.randrange(700)),
            ]
        )

    # A vendor thinks: without that, calls are over before there are as many at once as fill all the places.
    return [bad() if dice.random() < FAULTY else Fault(delay_s=0.02) for _ in range(count)]


@pytest.mark.parametrize(("database_url", "count"), [("sqlite", 1000), ("postgresql", 300)], indirect=["database_url"])
def test_requests_over_four_vendors_in_trouble_all_end_and_the_books_say_what_the_vendors_say(
    make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    dice = random.Random(20261121)
    with ExitStack() as stack:
        fakes = [stack.enter_context(vendor()) for vendor in VENDORS]
        for fake in fakes:
            lead(monkeypatch, fake.name, fake)
            fake.text = f"A streamed answer of some words by {fake.name}, which counts every one of them."
            fake.faults += faults(fake, dice, 2 * count)
        app = make_app(
            chat_model=",".join(f"{fake.name}/{fake.model}" for fake in fakes),
            request_timeout_s=60.0,
            provider_concurrent=PLACES,
            breaker_open_s=0.5,
            log_level="ERROR",
        )
        stack.enter_context(app.app_context())
        # Ollama bills nobody and has no limit of its own: it takes what the others leave, and never stands before them.
        persons = [add_person(email=f"person{number}@example.com", plan="enterprise") for number in range(PERSONS)]
        for number in range(count):
            admit(Intake(medium="web", text=f"question {number}", person_id=persons[number % PERSONS], new_conversation=True))
        run_jobs()

        ended = Counter(request.status for request in requests())
        assert sum(ended.values()) == count
        assert set(ended) <= set(ENDED)
        assert ended[RequestStatus.COMPLETED] >= 0.9 * count
        # A stream that broke off after its first piece is all that may have failed, and the vendors' own cuts are few.
        assert ended[RequestStatus.FAILED] <= 0.08 * count
        compare_with(fakes)
        balanced()
        for fake in fakes:
            assert resilience.state(fake.name).in_flight == 0
        db.session.remove()


def compare_with(fakes: list[FakeTextVendor]) -> None:
    """What is charged as counted is what the fakes have counted, call by call in sum; the rest is labelled."""
    entry = LedgerEntry
    with reading() as connection:
        charged = {
            row.provider: (int(row.input), int(row.output), row.calls)
            for row in connection.execute(
                select(
                    entry.provider,
                    func.sum(entry.input_tokens).label("input"),
                    func.sum(entry.output_tokens).label("output"),
                    func.count().label("calls"),
                )
                .where(entry.estimated.is_(False))
                .group_by(entry.provider)
            )
        }
        of_failed = connection.execute(
            select(func.count()).select_from(entry).where(entry.requests == 0, entry.estimated.is_(False))
        ).scalar_one()
        outcomes = Counter(connection.execute(select(Attempt.outcome)).scalars())
        made = Counter(connection.execute(select(Attempt.provider)).scalars())
    reported = {
        fake.name: (
            sum(counts.input_tokens for counts in fake.reported),
            sum(counts.output_tokens for counts in fake.reported),
            len(fake.reported),
        )
        for fake in fakes
    }
    assert charged == reported
    assert of_failed == 0
    assert set(outcomes) == {"completed", "failed"}
    assert outcomes["failed"] > 0.08 * outcomes["completed"]
    # Every vendor had its share of the work, and each call that was made is on the record.
    assert {fake.name: len(fake.requests) for fake in fakes} == made
    assert min(made.values()) > 0.03 * sum(made.values())


def balanced() -> None:
    """The plan counts messages and money, not tokens: those are compared by the ledger and the requests alone."""
    found = books()
    if "tokens" in found.counters:
        assert_books_balance()
    assert found.ledger == found.requests
    assert found.counters["cost"] == found.ledger[1]
    assert (found.held, found.open_holds) == (0, 0)
    assert_books_agree()
