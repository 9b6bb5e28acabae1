"""The short way of attended requests: counted, never past a limit, and the same rows as by the general way."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from flask import Flask, request_started
from sqlalchemy import event, insert, select, update
from sqlalchemy.orm import Session

from tests.balance import counters_passed
from tests.integration.quick_support import (
    Exact,
    Owner,
    ask,
    at_once,
    change_token,
    counter,
    driven,
    in_general,
    limit,
    owner,
    watched,
)
from tests.integration.vendor_support import install
from tests.support import assert_books_agree, requests, rows
from webapp.contracts.errors import LimitReached
from webapp.contracts.limits import MAXIMUM, Dimension, StoredLimit, Window
from webapp.extensions import db, now, reading, writing
from webapp.models import LimitCounter, Organization, Person, Plan, WebhookEndpoint
from webapp.models.columns import new_id
from webapp.pipeline.admit import admit
from webapp.pipeline.execute import execute
from webapp.pipeline.intake import Intake
from webapp.plugin import QuotaEvent, Text, ToolPiece, Unavailable, Usage, hookimpl
from webapp.registry import current_registry
from webapp.routing import listeners, resilience, vendors
from webapp.routing.resilience import Grant, Pace, Verdict


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Iterator[Flask]:
    app = make_app(retries=0, breaker_failures=1000, warn_percents="80,100")
    with app.app_context():
        yield app


def plan(**limits: int | None) -> None:
    with writing() as connection:
        connection.execute(update(Plan).values(limits=limits))


# -- counted -----------------------------------------------------------------------------------------------------------
SQLITE = [
    "SELECT api_token",
    "BEGIN IMMEDIATE",
    "INSERT INTO request",
    "INSERT INTO limit_counter",
    "INSERT INTO hold",
    "COMMIT",
    "BEGIN IMMEDIATE",
    "UPDATE request",
    "UPDATE person",
    "UPDATE hold",
    "INSERT INTO limit_counter",
    "INSERT INTO attempt",
    "INSERT INTO ledger_entry",
    "COMMIT",
]
POSTGRESQL = ["SELECT api_token", "WITH r", "WITH e"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_takes_the_fewest_statements_and_no_round_trip_to_redis(
    app: Flask, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    install(Exact())
    alice = owner()
    plan(messages=1000, tokens=10**9, cost_microusd=10**12)
    # What Redis said in the calls before is still good, however slow the machine is.
    monkeypatch.setattr(resilience, "CLEAN_S", 3600.0)
    for _ in range(2):
        assert ask(app, alice.token).status_code == 200
    monkeypatch.setattr(vendors, "LOOK_S", 3600.0)
    vendors.look_again()
    seen = watched(monkeypatch)
    routed: list[object] = []
    loaded: list[object] = []
    trips: list[object] = []
    send = redis.connection.AbstractConnection.send_packed_command

    def trip(self: redis.Connection, command: Any, check_health: bool = True) -> None:
        trips.append(command)
        send(self, command, check_health)

    monkeypatch.setattr(redis.connection.AbstractConnection, "send_packed_command", trip)
    request_started.connect(lambda *_, **__: routed.append(1), app, weak=False)
    db.session.rollback()

    def note(state: object) -> None:
        loaded.append(state)

    event.listen(Session, "do_orm_execute", note)
    try:
        with driven(monkeypatch) as given:
            answer = ask(app, alice.token, stream=stream)
    finally:
        event.remove(Session, "do_orm_execute", note)
    assert answer.status_code == 200
    assert "42." in answer.text
    expected = SQLITE if db.engine.dialect.name == "sqlite" else POSTGRESQL
    assert [start for text, start in zip(given, expected, strict=False) if not text.startswith(start)] == []
    assert len(given) == len(expected), given
    assert trips == [], "nothing is against the target, and a good end says nothing new"
    assert (seen.admitted, seen.settled) == (1, 1)
    assert routed == [], "it went through the application's routing"
    assert loaded == [], "objects were loaded"
    assert_books_agree()


# -- limits ------------------------------------------------------------------------------------------------------------
THREADS, CALLS, FIT = 8, 6, 23


def _calls(app: Flask, alice: Owner, statuses: list[int]) -> Callable[[], None]:
    def act() -> None:
        for _ in range(CALLS):
            statuses.append(ask(app, alice.token).status_code)

    return act


def _chats(alice: Owner, statuses: list[int]) -> Callable[[], None]:
    def act() -> None:
        for number in range(CALLS):
            intake = Intake(
                medium="web",
                text=f"Question {number}?",
                person_id=alice.person_id,
                parameters={"model": "exact", "fresh": True},
            )
            try:
                execute(admit(intake).request_id)  # type: ignore[arg-type]
            except LimitReached:
                statuses.append(429)
            else:
                statuses.append(200)

    return act


@pytest.mark.parametrize("of", ["person", "organization", "token"])
def test_no_limit_of_requests_is_passed_by_any_mixture_of_ways(app: Flask, monkeypatch: pytest.MonkeyPatch, of: str) -> None:
    install(Exact())
    alice = owner()
    plan(messages=None, tokens=None, cost_microusd=None)
    limit(alice, StoredLimit("n", Dimension.REQUESTS, Window.MONTH, FIT), of=of)
    seen = watched(monkeypatch)
    statuses: list[int] = []
    chats = 0 if of == "token" else 3
    at_once(
        app, *[_calls(app, alice, statuses) for _ in range(THREADS - chats)], *[_chats(alice, statuses) for _ in range(chats)]
    )
    assert Counter(statuses) == {200: FIT, 429: THREADS * CALLS - FIT}
    who = {"person": alice.person_id, "organization": alice.organization_id, "token": alice.token_id}[of]
    assert counter(f"{of}:{who}", "limit:n") == (FIT, 0, FIT)
    assert seen.admitted > 0
    assert Counter(request.status for request in requests()) == {"completed": FIT, "rejected": THREADS * CALLS - FIT}
    assert rows(select(Person.requests_total).where(Person.id == alice.person_id)) == [FIT]
    with reading() as connection:
        assert counters_passed(connection) == []
    assert_books_agree()


def test_no_limit_of_tokens_is_passed(app: Flask) -> None:
    install(Exact())
    alice = owner()
    plan(messages=None, tokens=None, cost_microusd=None)
    assert ask(app, alice.token).status_code == 200
    (first,) = requests()
    each = first.input_tokens + first.output_tokens
    assert each == first.max_input_tokens + first.max_output_tokens
    limit(alice, StoredLimit("t", Dimension.TOKENS, Window.DAY, FIT * each + each - 1))
    statuses: list[int] = []
    at_once(app, *[_calls(app, alice, statuses) for _ in range(THREADS)])
    assert Counter(statuses) == {200: FIT, 429: THREADS * CALLS - FIT}
    assert counter(f"organization:{alice.organization_id}", "limit:t")[:2] == (FIT * each, 0)
    assert_books_agree()


def test_people_are_told_once_of_each_mark_whoever_passes_it(app: Flask) -> None:
    heard: list[QuotaEvent] = []
    module = ModuleType("listener")

    def quota_warning(event: QuotaEvent) -> None:
        heard.append(event)

    module.quota_warning = hookimpl(quota_warning)  # type: ignore[attr-defined]
    assert not current_registry().add(module, "listener", {}).error
    install(Exact())
    alice = owner()
    plan(messages=THREADS * CALLS, tokens=None, cost_microusd=None)
    limit(alice, StoredLimit("n", Dimension.REQUESTS, Window.MONTH, 2 * THREADS * CALLS), of="organization")
    statuses: list[int] = []
    at_once(app, *[_calls(app, alice, statuses) for _ in range(THREADS - 2)], *[_chats(alice, statuses) for _ in range(2)])
    assert Counter(statuses) == {200: THREADS * CALLS}
    assert sorted(event.percent for event in heard if event.subject.startswith("person:")) == [80, 100]
    assert [event.percent for event in heard if event.subject.startswith("organization:")] == []
    assert_books_agree()


# -- the same rows -----------------------------------------------------------------------------------------------------
Prepared = dict[str, Any]
LARGE = 2**60
"""A sum that is too large to be taken times 100 in 64 bits."""


def _usual(alice: Owner) -> Prepared:
    return {}


def _many_limits(alice: Owner) -> Prepared:
    number = iter(range(100))
    for of in ("organization", "person", "token"):
        limit(
            alice,
            *[
                StoredLimit(f"{next(number)}", dimension, window, 10**9)
                for dimension in Dimension
                for window in (Window.HOUR, Window.DAY, Window.MONTH, Window.REQUEST)
            ],
            of=of,
        )
    with writing() as connection:
        mine = update(Organization).where(Organization.id == alice.organization_id)
        connection.execute(mine.values(time_zone="Asia/Kathmandu"))
    return {}


def _nearly_used(alice: Owner) -> Prepared:
    limit(alice, StoredLimit("n", Dimension.REQUESTS, Window.HOUR, 1), of="person")
    return {}


def _nearly_used_by_all(alice: Owner) -> Prepared:
    limit(alice, StoredLimit("n", Dimension.REQUESTS, Window.HOUR, 5))
    return {}


def _at_a_provider(alice: Owner) -> Prepared:
    limit(alice, StoredLimit("n", Dimension.TOKENS, Window.HOUR, 10**6, provider="exact"))
    return {}


def _full(alice: Owner) -> Prepared:
    limit(alice, StoredLimit("n", Dimension.REQUESTS, Window.HOUR, 0), of="token")
    return {"status": 429}


def _full_at_last(alice: Owner) -> Prepared:
    limit(alice, StoredLimit("n", Dimension.REQUESTS, Window.HOUR, 1), of="token")
    return {"twice": True, "status": 429}


def _too_large(alice: Owner) -> Prepared:
    limit(alice, StoredLimit("n", Dimension.TOKENS, Window.REQUEST, 10), of="token")
    return {"status": 400}


def _capped(alice: Owner) -> Prepared:
    limit(alice, StoredLimit("n", Dimension.COST, Window.REQUEST, 50_000), of="token")
    return {"max_tokens": 100_000}


def _use_due(alice: Owner) -> Prepared:
    change_token(alice, last_used_at=now() - timedelta(hours=1))
    return {}


def _expired(alice: Owner) -> Prepared:
    change_token(alice, expires_at=now() - timedelta(seconds=1))
    return {"status": 401}


def _revoked(alice: Owner) -> Prepared:
    change_token(alice, revoked_at=now())
    return {"status": 401}


def _no_scope(alice: Owner) -> Prepared:
    change_token(alice, scopes=["read"])
    return {"status": 403}


def _inactive(alice: Owner) -> Prepared:
    with writing() as connection:
        connection.execute(update(Person).where(Person.id == alice.person_id).values(active=False))
    return {"status": 401}


def _inactive_place(alice: Owner) -> Prepared:
    with writing() as connection:
        mine = update(Organization).where(Organization.id == alice.organization_id)
        connection.execute(mine.values(active=False))
    return {"status": 401}


def _broken_limits(alice: Owner) -> Prepared:
    change_token(alice, limits=[{"id": 1}])
    return {"status": 503}


def _down(alice: Owner) -> Prepared:
    return {"act": [Unavailable("down", detail="a detail")], "status": 503}


def _broken_off(alice: Owner) -> Prepared:
    return {"act": [Text("It"), Unavailable("down")], "status": 503}


def _second(alice: Owner) -> Prepared:
    return {"act": [Unavailable("down")], "model": "auto"}


def _tools(alice: Owner) -> Prepared:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    return {"act": [ToolPiece(0, "c1", "look", "{}"), Usage(10, 5)], "tools": [tool]}


def _unstorable(alice: Owner) -> Prepared:
    return {"act": [Text("a\x00b\ud800c\udfff"), Usage(10, 5, model="\ud800\x00", vendor_request_id="\x00\ud800")]}


def _wild_counts(alice: Owner) -> Prepared:
    return {"act": [Text("ok"), Usage(10**30, -5, quality=float("nan"))]}


def _no_counts(alice: Owner) -> Prepared:
    return {"act": [Text("Nobody has counted this."), Usage()]}


def _no_json(alice: Owner) -> Prepared:
    shape = {"response_format": {"type": "json_object"}}
    return shape | {"act": [Text('{"a": NaN}'), Usage(10, 5)]}


def _odd_json(alice: Owner) -> Prepared:
    shape = {"response_format": {"type": "json_object"}}
    return shape | {"act": [Text('{"b": "\\ud800", "c": "\\u0000"}'), Usage(10, 5)]}


def _json(alice: Owner) -> Prepared:
    return {"response_format": {"type": "json_object"}, "act": [Text('{"a": [1, null, "é"]}'), Usage(10, 5)]}


def _hooked(alice: Owner) -> Prepared:
    with writing() as connection:
        row = {"id": new_id(), "organization_id": alice.organization_id, "url": "https://example.com/", "events": []}
        connection.execute(
            insert(WebhookEndpoint), row | {"secret": "sealed", "created_at": now(), "updated_at": now(), "description": ""}
        )
        listeners.changed(connection)
    vendors.look_again()
    return {}


def _large_sums(alice: Owner) -> Prepared:
    limit(alice, StoredLimit("huge", Dimension.TOKENS, Window.MONTH, MAXIMUM), of="person")
    return {"counted": LARGE}


def _kept(alice: Owner) -> Prepared:
    return {"headers": {"x-switchhook-cache": "allow"}, "twice": True}


CASES = [
    _usual,
    _many_limits,
    _nearly_used,
    _nearly_used_by_all,
    _at_a_provider,
    _full,
    _full_at_last,
    _too_large,
    _capped,
    _use_due,
    _expired,
    _revoked,
    _no_scope,
    _inactive,
    _inactive_place,
    _broken_limits,
    _down,
    _broken_off,
    _second,
    _tools,
    _unstorable,
    _wild_counts,
    _no_counts,
    _no_json,
    _odd_json,
    _json,
    _hooked,
    _large_sums,
    _kept,
]
USUAL = {_usual, _many_limits, _capped, _tools, _unstorable, _wild_counts, _no_counts, _no_json, _odd_json, _json}
# Of each table, whose rows are somebody's: by a condition on their person, their organization, or both.
_OF_REQUEST = "request_id IN (SELECT id FROM request WHERE person_id = :person)"
TABLES = {
    "request": "person_id = :person",
    "hold": _OF_REQUEST,
    "limit_counter": "subject LIKE :persons OR subject LIKE :places OR subject LIKE :tokens",
    "attempt": _OF_REQUEST,
    "ledger_entry": "person_id = :person",
    "person": "id = :person",
    "api_token": "person_id = :person",
    "error_log": "person_id = :person",
    "delivery": "person_id = :person",
    "dead_letter": _OF_REQUEST,
    "conversation": "person_id = :person",
    "webhook_delivery": "endpoint_id IN (SELECT id FROM webhook_endpoint WHERE organization_id = :place)",
}
_IDS = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?7[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}")
_MOMENTS = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(\+00(:00)?)?")
_LEFT_OUT = {
    "hold": {"id"},
    "attempt": {"first_piece_ms"},
    "person": {"email", "session_key"},
    "api_token": {"digest", "prefix"},
}


def _written(who: Owner) -> dict[str, list[tuple[str | None, ...]]]:
    """Somebody's rows as the database writes them, without ids, moments and what measures time."""
    found = {}
    values = {"person": who.person_id, "place": who.organization_id}
    kinds = {"persons": who.person_id, "places": who.organization_id, "tokens": who.token_id}
    with reading() as connection:
        for table, condition in TABLES.items():
            columns = {each["name"] for each in sa.inspect(db.engine).get_columns(table)} - _LEFT_OUT.get(table, set())
            names = ", ".join(f'CAST("{name}" AS TEXT)' for name in sorted(columns))
            marks = re.findall(r":(\w+)", condition)
            query = sa.text(f'SELECT {names} FROM "{table}" WHERE {condition}').bindparams(
                *[
                    sa.bindparam(mark, values[mark], sa.Uuid) if mark in values else sa.bindparam(mark, f"%{kinds[mark]}%")
                    for mark in marks
                ]
            )
            found[table] = sorted((tuple(map(_plain, row)) for row in connection.execute(query)), key=str)
    return found


def _plain(value: str | None) -> str | None:
    return None if value is None else _MOMENTS.sub("<moment>", _IDS.sub("<id>", value))


def _comes_to(app: Flask, exact: Exact, name: str, case: Callable[[Owner], Prepared]) -> tuple[Any, Any]:
    """What the caller is told, and what is written."""
    alice = owner(name)
    given = case(alice)
    exact.act, status = given.pop("act", None), given.pop("status", 200)
    twice, counted = given.pop("twice", False), given.pop("counted", 0)
    if twice or counted:
        assert ask(app, alice.token, **given).status_code == 200
    if counted:
        with writing() as connection:
            huge = (LimitCounter.name == "limit:huge", LimitCounter.used < counted)
            connection.execute(update(LimitCounter).where(*huge).values(used=LimitCounter.used + counted))
    answer = ask(app, alice.token, **given)
    assert answer.status_code == status, (name, answer.text)
    told = re.sub(r'"created":\d+', "", _plain(answer.text) or "")
    return re.sub(r"chatcmpl-<id>", "", told), _written(alice)


def test_both_ways_write_the_same(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = Exact()
    install(exact, Exact("other", preference=1))
    plan(messages=1000, tokens=10**9, cost_microusd=10**12)
    different, slow = {}, set()
    for number, case in enumerate(CASES):
        with monkeypatch.context() as patch:
            seen = watched(patch)
            quick = _comes_to(app, exact, f"quick{number}", case)
        if not seen.settled:
            slow.add(case)
        with monkeypatch.context() as patch:
            in_general(patch)
            general = _comes_to(app, exact, f"general{number}", case)
        for (what, found), expected in zip(
            {"told": quick[0], **quick[1]}.items(), (general[0], *general[1].values()), strict=True
        ):
            if found != expected:
                different[f"{case.__name__} {what}"] = (found, expected)
    assert different == {}
    assert not slow & USUAL, "they did not take the short way to its end"
    with writing() as connection:
        huge = LimitCounter.name == "limit:huge"
        assert connection.execute(update(LimitCounter).where(huge).values(used=LimitCounter.used - LARGE)).rowcount == 2
    assert_books_agree()


# -- circuits ----------------------------------------------------------------------------------------------------------
def test_a_few_bad_ends_among_many_good_ones_are_not_some_in_a_row(make_app: Callable[..., Flask]) -> None:
    """Also of calls that have all begun before the first of them went bad."""
    with make_app(breaker_failures=5).app_context():
        grants = [resilience.enter("exact", "exact/m", Pace(), tokens=1, hold_s=60) for _ in range(60)]
        for number, grant in enumerate(grants):
            assert isinstance(grant, Grant)
            resilience.leave(grant, Verdict.GOOD if number % 6 else Verdict.BAD)
        assert not resilience.is_open("exact/m")
        for _ in range(5):
            grant = resilience.enter("exact", "exact/m", Pace(), tokens=1, hold_s=60)
            assert isinstance(grant, Grant)
            resilience.leave(grant, Verdict.BAD)
        assert resilience.is_open("exact/m")
