"""Plugins meet real requests: listeners hear of them, and those that misbehave harm nobody else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from tests.support import add_person, assert_books_balance, books, requests, rows, run_jobs, sent, text
from webapp import queues
from webapp.extensions import queue_redis
from webapp.models import ErrorLog, RequestStatus
from webapp.pipeline import admit as admission
from webapp.pipeline.cancel import cancel
from webapp.plugin import (
    Categorizer,
    Dimension,
    Limit,
    ProviderError,
    QuotaPolicy,
    QuotaQuestion,
    Rejected,
    Sorting,
    Text,
    TextCall,
    TextProvider,
    Usage,
    Window,
    hookimpl,
)
from webapp.registry import current_registry

ALICE = "+15005550006"
HOOKS = (
    "request_admitted",
    "request_completed",
    "request_failed",
    "quota_warning",
    "person_created",
    "message_received",
    "delivery_updated",
)


def install(name: str, **functions: Any) -> None:
    """Load a plugin made of these hook functions."""
    module = ModuleType(name)
    for hook, function in functions.items():
        function.__name__ = hook
        setattr(module, hook, hookimpl(function))
    record = current_registry().add(module, name, {})
    assert not record.error, record.error


@pytest.fixture
def heard(app: Flask) -> list[tuple[str, Any]]:
    """What a listener to every event hears, beside one that always fails."""
    found: list[tuple[str, Any]] = []

    def listen(hook: str) -> Any:
        return lambda event: found.append((hook, event))

    def fail(event: Any) -> None:
        raise RuntimeError("this listener is broken")

    def failing() -> Any:
        return lambda event: fail(event)

    install("listens", **{hook: listen(hook) for hook in HOOKS})
    install("fails", **{hook: failing() for hook in HOOKS})
    return found


def test_listeners_hear_of_everything_after_it_happened(heard: list[tuple[str, Any]]) -> None:
    text("hello", ALICE)
    run_jobs()
    names = [hook for hook, _ in heard]
    assert names == ["person_created", "message_received", "request_admitted", "request_completed", "delivery_updated"]
    completed = dict(heard)["request_completed"]
    assert (completed.status, completed.provider, completed.category) == ("completed", "demo", "general")
    assert "hello" not in repr(heard)
    assert ALICE not in repr(heard)


def test_listeners_hear_of_a_full_limit_once_and_of_a_cancelled_request(heard: list[tuple[str, Any]]) -> None:
    person = add_person(phone=ALICE)
    text("waits", ALICE)
    cancel(requests()[0].id, person)
    for i in range(13):
        text(f"message {i}", ALICE)
    names = [hook for hook, _ in heard]
    assert names.count("request_failed") == 1
    assert names.count("quota_warning") == 1
    assert names.count("request_admitted") == 14


class Broken(TextProvider):
    """A provider that does what `act` does."""

    name = "broken"
    label = "Broken"
    default_model = "m"
    free_of_charge = True
    preference = 0

    def __init__(self, act: Any) -> None:
        self.act = act

    def stream(self, call: TextCall, http: Any) -> Iterator[Text | Usage]:
        return self.act(call)  # type: ignore[no-any-return]


class Endless(ProviderError):
    code = "x" * 300


def gives(*pieces: Any) -> Any:
    def act(call: TextCall) -> Iterator[Any]:
        for piece in pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    return act


BROKEN = {
    "nothing at all": gives(),
    "no usage": gives(Text("a")),
    "an empty answer": gives(Usage(1, 1)),
    "a string": gives("text"),
    "no generator": lambda call: 7,
    "a number as text": gives(Text(7)),  # type: ignore[arg-type]
    "its own exception": gives(Text("a"), KeyError("oops")),
    "an exit": gives(SystemExit(3)),
    "an error that cannot be stored": gives(Text("a"), Rejected("x", detail="a\x00b\ud800")),
    "an error with an endless code": gives(Text("a"), Endless("x")),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_provider_fails_the_request_and_nothing_else(app: Flask, what: str) -> None:
    install("broken", register_providers=lambda settings: [Broken(BROKEN[what])])
    text("hello", ALICE)
    if what == "an exit":
        with pytest.raises(AssertionError, match="jobs failed"):
            run_jobs()
        run_jobs_again()
    else:
        run_jobs()
    (request,) = requests()
    assert request.status == RequestStatus.FAILED
    assert [d.kind for d in sent()] == ["notice"]
    assert len(rows(select(ErrorLog))) == 1
    assert_books_balance()
    assert books().counters["requests"] == 0


def run_jobs_again() -> None:
    for name in queues.QUEUES:
        registry = queues.queue(name, queue_redis()).failed_job_registry
        for job_id in registry.get_job_ids():
            registry.remove(job_id, delete_job=True)
    run_jobs()


@pytest.mark.parametrize(
    "usage",
    [Usage(-5, 10), Usage(10, 10**15), Usage(True, "many"), Usage(3, 3, cached_tokens=-1, model="x" * 500)],  # type: ignore[arg-type]
)
def test_impossible_counts_do_not_reach_the_books(app: Flask, usage: Usage) -> None:
    install("broken", register_providers=lambda settings: [Broken(gives(Text("an answer"), usage))])
    text("hello", ALICE)
    run_jobs()
    (request,) = requests()
    assert request.status == RequestStatus.COMPLETED
    assert 0 < request.input_tokens + request.output_tokens < 10_000
    assert_books_balance()


def test_a_provider_that_never_returns_is_ended_by_the_jobs_time_limit(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "job_timeout_s", lambda operation: 1)

    def forever(call: TextCall) -> Iterator[Text]:
        while True:
            time.sleep(0.02)
            yield from ()

    install("broken", register_providers=lambda settings: [Broken(forever)])
    text("hello", ALICE)
    with pytest.raises(AssertionError, match="jobs failed"):
        run_jobs()
    (request,) = requests()
    assert (request.status, request.error_code) == (RequestStatus.FAILED, "provider_timeout")
    assert_books_balance()
    run_jobs_again()
    assert [d.kind for d in sent()] == ["notice"]


def test_a_categorizer_that_fails_has_no_opinion(app: Flask) -> None:
    class Bad(Categorizer):
        name = "bad"

        def sort(self, text: str) -> Sorting | None:
            raise ValueError(text)

    install("bad", register_categorizers=lambda settings: [Bad()])
    text("How do I reverse a list in Python?", ALICE)
    run_jobs()
    assert requests()[0].category == "coding"


def test_the_surest_categorizer_wins(app: Flask) -> None:
    class Sure(Categorizer):
        name = "sure"

        def sort(self, text: str) -> Sorting | None:
            return Sorting("poetry", 1.0, 0.5)

    install("sure", register_categorizers=lambda settings: [Sure()])
    text("How do I reverse a list in Python?", ALICE)
    run_jobs()
    assert requests()[0].category == "poetry"


def test_a_policy_that_fails_refuses_and_loses_nothing(app: Flask) -> None:
    class Bad(QuotaPolicy):
        name = "bad"

        def limits(self, question: QuotaQuestion) -> list[Limit]:
            raise ValueError("no idea")

    install("bad", register_quota_policies=lambda settings: [Bad()])
    text("hello", ALICE)
    run_jobs()
    (request,) = requests()
    assert (request.status, request.error_code) == (RequestStatus.REJECTED, "limits_unknown")
    assert [d.kind for d in sent()] == ["notice"]
    assert len(rows(select(ErrorLog))) == 1


@pytest.mark.parametrize(
    "opinion",
    [
        Sorting("x" * 90, 1.0, 0.5),
        Sorting("poetry", float("nan"), 0.5),
        Sorting("poetry", None, 0.5),  # type: ignore[arg-type]
        Sorting(["poetry"], 1.0, 0.5),  # type: ignore[arg-type]
        Sorting("poetry", 1.0, "high"),  # type: ignore[arg-type]
        "poetry",
    ],
)
def test_an_opinion_that_cannot_be_stored_is_none(app: Flask, opinion: Any) -> None:
    class Odd(Categorizer):
        name = "odd"

        def sort(self, text: str) -> Sorting | None:
            return opinion  # type: ignore[no-any-return]

    install("odd", register_categorizers=lambda settings: [Odd()])
    text("How do I reverse a list in Python?", ALICE)
    run_jobs()
    assert (requests()[0].category, requests()[0].status) == ("coding", RequestStatus.COMPLETED)


def fails(*_: object) -> Any:
    raise RuntimeError("this plugin is broken")


@pytest.mark.parametrize("method", ["missing", "check"])
def test_a_provider_that_fails_before_it_is_asked_is_passed_over(app: Flask, method: str) -> None:
    broken = Broken(fails)
    setattr(broken, method, fails)
    broken.probe_needed = method == "check"
    install("broken", register_providers=lambda settings: [broken])
    text("hello", ALICE)
    run_jobs()
    assert (requests()[0].provider, requests()[0].status) == ("demo", RequestStatus.COMPLETED)


def test_two_policies_with_the_same_limit_count_once_and_the_stricter_holds(app: Flask) -> None:
    class Strict(QuotaPolicy):
        name = "strict"

        def limits(self, question: QuotaQuestion) -> list[Limit]:
            subject = f"person:{question.person_id}"
            return [Limit(subject, "messages", Dimension.REQUESTS, Window.MONTH, maximum, "messages") for maximum in (7, 2)]

    install("strict", register_quota_policies=lambda settings: [Strict()])
    for i in range(3):
        text(f"message {i}", ALICE)
    assert [r.status for r in requests()] == ["queued", "queued", "rejected"]
    run_jobs()
    assert books().counters["requests"] == 2


def test_a_model_that_costs_more_than_was_held_must_find_room_first(make_app: Callable[..., Flask]) -> None:
    asked: list[TextCall] = []

    def answer(call: TextCall) -> Iterator[Any]:
        asked.append(call)
        return gives(Text("an answer"), Usage(10, 10))(call)  # type: ignore[no-any-return]

    # Nobody knows the model's price, so the ceiling counts: more than the plan's ten cents for a single answer.
    with make_app(ceiling_output_usd=300).app_context():
        text("held while nothing costs anything", ALICE)
        dear = Broken(answer)
        dear.free_of_charge = False
        install("dear", register_providers=lambda settings: [dear])
        run_jobs()
        (request,) = requests()
        assert (request.status, request.error_code) == (RequestStatus.FAILED, "limit_reached")
        assert asked == []
        assert_books_balance()


def test_a_dearer_model_takes_what_room_there_is(make_app: Callable[..., Flask]) -> None:
    with make_app().app_context():
        text("held while nothing costs anything", ALICE)
        dear = Broken(gives(Text("an answer"), Usage(10, 10)))
        dear.free_of_charge = False
        install("dear", register_providers=lambda settings: [dear])
        run_jobs()
        assert requests()[0].status == RequestStatus.COMPLETED
        assert_books_balance()
        assert books().counters["cost"] == 10 * 15 + 10 * 75
