"""A request that goes on to another model holds what that one may use: by every limit, neither more nor less, and without
waiting for others who do the same."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import insert, select, update

from tests.integration.test_charges import Vendor
from tests.integration.vendor_support import install
from tests.support import add_person, assert_books_agree, one, requests, run_jobs, text
from webapp.contracts.limits import Dimension, StoredLimit, Window
from webapp.extensions import db, now, reading, writing
from webapp.models import ApiToken, Hold, LimitCounter, Membership, Organization, Person, Plan, Request, RequestStatus
from webapp.models.columns import new_id
from webapp.pipeline import replay
from webapp.pipeline.admit import admit
from webapp.pipeline.execute import execute
from webapp.pipeline.intake import Intake
from webapp.plugin import Text, TextCall, Unavailable, Usage
from webapp.quota import stored

DOWN: list[Any] = [Unavailable("down")]
FINE: list[Any] = [Text("ok"), Usage(50, 50)]


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Iterator[Flask]:
    app = make_app(retries=2, retry_wait_s=0.05, breaker_failures=1000)
    with app.app_context():
        yield app


def organization_limits(*limits: StoredLimit, organization: uuid.UUID | None = None) -> None:
    change = update(Organization).values(limits=stored.write(limits))
    with writing() as connection:
        connection.execute(change if organization is None else change.where(Organization.id == organization))


class Looking(Vendor):
    """Notes what is held of tokens whenever it is called."""

    def __init__(self, name: str, *calls: list[Any], seen: list[tuple[str, int]], **values: Any) -> None:
        super().__init__(name, *calls, **values)
        self.seen = seen

    def stream(self, call: TextCall, http: Any) -> Iterator[Any]:
        where = (Hold.dimension == "tokens", Hold.provider.is_(None), Hold.settled_at.is_(None))
        with reading() as connection:
            self.seen.append((self.name, connection.execute(select(Hold.amount).where(*where)).scalars().one()))
        return super().stream(call, http)


def test_what_a_refused_model_would_have_held_is_held_for_the_next_one(app: Flask) -> None:
    seen: list[tuple[str, int]] = []
    organization_limits(StoredLimit("full", Dimension.REQUESTS, Window.MONTH, 0, provider="b"))
    install(
        Looking("a", [Unavailable("x", usage=Usage(300, 200))], preference=0, seen=seen),
        Vendor("b", [Text("no"), Usage(1, 1)], preference=1),
        Looking("c", [Text("ok"), Usage(300, 500)], preference=2, seen=seen),
    )
    text("What is the answer?")
    run_jobs()
    assert requests()[-1].provider == "c"
    (first, held), (last, held_then) = seen
    assert (first, last) == ("a", "c")
    assert held_then == held + 500, "what a's failed call was billed for comes on top"
    assert_books_agree()


def test_a_limit_at_one_provider_is_not_passed_by_a_second_call_there(app: Flask) -> None:
    organization_limits(StoredLimit("ata", Dimension.TOKENS, Window.MONTH, 10**6, provider="a"))
    first = Vendor("a", [Unavailable("x", usage=Usage(300, 200))], FINE, preference=0)
    install(first, Vendor("b", DOWN, preference=1))
    text("What is the answer?")
    with writing() as connection:
        mine = LimitCounter.name == "limit:ata"
        connection.execute(update(LimitCounter).where(mine).values(maximum=LimitCounter.held))
    run_jobs()
    assert len(first.calls) == 1, "there is no room for what the second may use on top of what the first was billed for"
    assert requests()[-1].status == RequestStatus.FAILED
    assert one(select(LimitCounter).where(LimitCounter.name == "limit:ata")).used == 500
    assert_books_agree()


def test_a_replayed_request_may_fall_back_to_a_dearer_model(make_app: Callable[..., Flask]) -> None:
    with make_app(retries=0, breaker_failures=1000).app_context():
        dear = Vendor("b", DOWN, FINE, preference=1)
        install(Vendor("a", DOWN, preference=0, free_of_charge=True), dear)
        text("What is the answer?")
        run_jobs()
        (request,) = requests()
        assert (request.status, len(dear.calls)) == (RequestStatus.FAILED, 1)
        replay.replay(request.id, "admin")
        run_jobs()
        assert requests()[0].status == RequestStatus.COMPLETED
        assert_books_agree()


def test_many_that_fall_back_at_once_do_not_wait_for_each_other(make_app: Callable[..., Flask]) -> None:
    """All counters are locked in one order, whatever a fallback has to hold: PostgreSQL ends one of two that wait crosswise."""
    app = make_app(retries=0, breaker_failures=1000)
    with app.app_context():
        install(Vendor("a", DOWN, preference=0, free_of_charge=True), Vendor("b", FINE, preference=1))
        plenty = {"messages": 10**9, "tokens": 10**15, "cost_microusd": 10**15}
        with writing() as connection:
            connection.execute(update(Plan).values(limits=plenty))
        organization_limits(
            StoredLimit("cr", Dimension.CREDITS, Window.MONTH, 10**15),
            StoredLimit("atb", Dimension.COST, Window.DAY, 10**15, provider="b"),
        )
        people = [add_person(email=f"p{n}@example.com", plan="enterprise") for n in range(2)]

        def go(number: int) -> None:
            with app.app_context():
                for turn in range(4):
                    asked = Intake("web", f"{number} {turn}", person_id=people[number % 2], new_conversation=True)
                    request_id = admit(asked).request_id
                    assert request_id is not None
                    execute(request_id)
                db.session.remove()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(go, range(8)))
        assert Counter((r.status, r.provider) for r in requests()) == {(RequestStatus.COMPLETED, "b"): 32}
        assert_books_agree()


def test_the_limits_of_the_organization_that_a_request_belongs_to_count_wherever_its_person_works_now(
    make_app: Callable[..., Flask],
) -> None:
    with make_app(retries=0, breaker_failures=1000).app_context():
        install(Vendor("a", DOWN, preference=0), Vendor("b", FINE, preference=1))
        person = add_person(email="alice@example.com")
        token, elsewhere = new_id(), new_id()
        with writing() as connection:
            here = connection.execute(select(Person.organization_id).where(Person.id == person)).scalar_one()
            place = {"id": elsewhere, "name": "Elsewhere", "time_zone": "UTC", "created_at": now()}
            connection.execute(insert(Organization), place)
            member = {"person_id": person, "organization_id": elsewhere, "created_at": now()}
            connection.execute(insert(Membership), member)
            values = {"id": token, "person_id": person, "name": "t", "prefix": "sh_", "digest": "x", "scopes": []}
            connection.execute(insert(ApiToken), values | {"created_at": now()})
        organization_limits(StoredLimit("off", Dimension.REQUESTS, Window.MONTH, 0, provider="b"), organization=here)
        request_id = admit(Intake("api", "What is the answer?", person_id=person, token_id=token)).request_id
        with writing() as connection:
            connection.execute(update(Person).where(Person.id == person).values(organization_id=elsewhere))
        assert request_id is not None
        execute(request_id)
        request = one(select(Request))
        assert (request.status, request.organization_id) == (RequestStatus.FAILED, here)
        assert "may cost more than is left" in str(request.route)
        assert_books_agree()
