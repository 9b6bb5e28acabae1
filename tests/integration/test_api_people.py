"""Lists of people and messages, and what makes people and tokens, on both databases: in bounds, by indexes, and at once."""

from __future__ import annotations

import re
import threading
import uuid
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, insert

from tests.integration.people_api_support import ALICE, ANN, MARY, OTTO, World
from tests.integration.web_support import ADMIN
from webapp.contracts.errors import Conflict
from webapp.extensions import db, reading, writing
from webapp.models import ApiToken, Delivery, Membership, Person, PersonRole
from webapp.models.columns import new_id
from webapp.services import delivery_lists, person_changes, person_views, personal_tokens
from webapp.services.limits import Typed
from webapp.services.organizations import Actor
from webapp.services.person_changes import NewPerson
from webapp.services.person_views import Wanted
from webapp.services.personal_tokens import Maker, NewToken
from webapp.services.request_lists import Scope


@pytest.fixture
def world(app: Flask) -> World:
    return World(app)


def members(world: World, count: int) -> None:
    """People in the home organization, every second with a membership there and a place elsewhere to work."""
    people, places = [], []
    for number in range(count):
        person_id = new_id()
        place = world.other if number % 2 else world.home
        values = {"id": person_id, "organization_id": place, "plan_code": "free", "email": f"m{number}@example.com"}
        people.append(values | {"full_name": f"Member {number}", "active": number % 3 > 0})
        if number % 2 or number % 4 == 0:
            places.append({"person_id": person_id, "organization_id": world.home, "role": "member", "limits": []})
    with writing() as connection:
        connection.execute(insert(Person), people)
        connection.execute(insert(Membership), places)


def walk(page: Any, **options: Any) -> list[uuid.UUID]:
    found: list[uuid.UUID] = []
    after = None
    for _ in range(500):
        here = page(after=after, **options)
        found += [line.id for line in here.lines]
        if here.next_id is None:
            return found
        after = here.next_id
    raise AssertionError("the list has no end")


def test_lists_of_people_have_no_gaps_however_few_are_looked_at(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    members(world, 14)
    home, other = Scope.organization(world.ids[MARY], world.home), Scope.organization(world.ids[OTTO], world.other)
    for scope, size in ((home, 18), (other, 9), (Scope.all(world.ids[ADMIN]), 20), (Scope.own(world.ids[ANN], world.home), 1)):
        whole = walk(lambda s=scope, **o: person_views.page(s, **o), size=100)
        assert len(whole) == len(set(whole)) == size
        assert whole == sorted(whole, reverse=True)
        active = [line.id for line in person_views.page(scope, size=100).lines if line.active]
        for looked, oldest_first in ((1, False), (3, True)):
            monkeypatch.setattr(person_views, "LOOKED_MAX", looked)
            for wanted, found in ((Wanted(), whole), (Wanted(active=True), active), (Wanted(q="nobody at all"), [])):
                seen = walk(lambda s=scope, w=wanted, **o: person_views.page(s, w, **o), size=4, oldest_first=oldest_first)
                assert seen == (found[::-1] if oldest_first else found)
        assert person_views.page(scope, Wanted(active=True), total=True).total == len(active)
        monkeypatch.setattr(person_views, "COUNTED_MAX", 0)
        assert person_views.page(scope, total=True).total is None
        monkeypatch.setattr(person_views, "COUNTED_MAX", 100)


def test_lists_of_messages_have_no_gaps_however_few_are_looked_at(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [world.message(ALICE, status="failed" if number % 4 == 0 else "sent") for number in range(20)]
    for _ in range(20):
        world.message(None)
    whole = made[::-1]
    for scope in (Scope.own(world.ids[ALICE], world.home), Scope.organization(world.ids[MARY], world.home)):
        for looked in (1, 3, 5_000):
            monkeypatch.setattr(delivery_lists, "LOOKED_MAX", looked)
            for wanted, found in ((delivery_lists.Wanted(), whole), (delivery_lists.Wanted(status="failed"), made[::4][::-1])):
                assert walk(lambda s=scope, w=wanted, **o: delivery_lists.page(s, w, **o), size=4) == found


def plans_of(run: Any) -> str:
    """How the database goes about the statements of a function."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, _context: Any, _many: bool) -> None:
        seen.append((statement, values))

    event.listen(db.engine, "before_cursor_execute", note)
    try:
        run()
    finally:
        event.remove(db.engine, "before_cursor_execute", note)
    explain = "EXPLAIN QUERY PLAN " if db.engine.dialect.name == "sqlite" else "EXPLAIN "
    with reading() as connection:
        if db.engine.dialect.name != "sqlite":
            # The tables are small: what is asked is whether there is a way without reading them whole.
            connection.exec_driver_sql("SET enable_seqscan = off")
        rows = [row for sql, values in seen for row in connection.exec_driver_sql(explain + sql, values)]
    return "\n".join(str(row[-1]) for row in rows)


def test_no_list_reads_a_table_whole_or_sorts_it(world: World) -> None:
    members(world, 30)
    for _ in range(30):
        world.message(ALICE)
    me, place = world.ids[ALICE], world.home
    wanted = delivery_lists.Wanted(status="sent", channel="simulator", direction="out")
    of_address = delivery_lists.Wanted(address="+15005550099", status="sent")
    everybody = Scope.all(world.ids[ADMIN])
    for run in (
        lambda: delivery_lists.page(Scope.own(me, place), wanted),
        lambda: delivery_lists.page(Scope.organization(me, place), wanted),
        lambda: delivery_lists.page(Scope.organization(me, place), delivery_lists.Wanted(person_id=me)),
        lambda: delivery_lists.page(everybody, wanted),
        lambda: delivery_lists.page(everybody, of_address),
        lambda: person_views.page(everybody),
        lambda: personal_tokens.rows(me),
    ):
        told = plans_of(run)
        for line in told.splitlines():
            assert not re.search(r"SCAN (delivery|person|request|membership|api_token)(?! USING)", line), told
            assert not re.search(r"Seq Scan on (delivery|person|request|membership|api_token)\b", line), told
            # An index that is not in the order of the list leads to all rows that it has of one kind.
            assert "ix_delivery_open" not in line, told
            assert "delivery_once_per_vendor_message" not in line, told
            assert not re.search(r"SEARCH identity .*\(medium=\?\)", line), told


def test_two_who_register_the_same_at_once_make_one_person(world: World) -> None:
    outcomes: list[str] = []
    start = threading.Barrier(4)

    def register() -> None:
        with world.app.app_context():
            start.wait(20)
            try:
                actor = Actor.person(world.ids[MARY])
                person_changes.register(actor, world.home, NewPerson(phone="+15005550077"))
                outcomes.append("made")
            except Conflict:
                outcomes.append("conflict")

    threads = [threading.Thread(target=register) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outcomes) == ["conflict", "conflict", "conflict", "made"]
    found = person_views.find(Scope.organization(world.ids[MARY], world.home), "+15005550077")
    assert (found.email, found.role, found.here) == (None, PersonRole.MEMBER, True)


def test_a_token_and_its_limits_are_one_step(world: World) -> None:
    maker = Maker(world.ids[ALICE], world.home, frozenset({"read", "write"}))
    limits = [Typed("0.000001", "cost", "month"), Typed("1.5", "credits", "day")]
    _, view = personal_tokens.create(maker, NewToken("t", ["write", "read"], 7, world.home, limits))
    shown = personal_tokens.show(world.ids[ALICE], view.id)
    assert shown == view
    assert [limit.maximum for limit in shown.limits] == [1, 1500]
    assert shown.scopes == ("read", "write")
    personal_tokens.revoke(world.ids[ALICE], view.id)
    assert personal_tokens.show(world.ids[ALICE], view.id).state == "revoked"
    assert [token.id for token in world.all(ApiToken)] == [view.id]


def test_figures_of_a_person_are_told(world: World) -> None:
    view = person_views.find(Scope.all(world.ids[ADMIN]), str(world.ids[ALICE]))
    figures = person_views.statistics(view)
    assert (figures.recent, figures.success_rate, figures.requests_this_month) == (0, None, 0)
    assert person_views.phone_of(view) == view.phones[0]
    assert world.all(Delivery) == []
