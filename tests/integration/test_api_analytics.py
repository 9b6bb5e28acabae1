"""Figures, the error log and templates on both databases: what their SQL has to say alike."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from flask import Flask, current_app
from sqlalchemy import insert, select, update

from tests.support import add_person
from webapp.contracts.errors import Conflict, NotFound
from webapp.extensions import now, reading, writing
from webapp.models import ErrorLog, LedgerEntry, Membership, Organization, Person, Request, Template, TemplateVersion
from webapp.models.columns import new_id
from webapp.services import analytics, error_log, recent_requests, rollups, template_changes, template_figures, templates
from webapp.services.error_log import Filters
from webapp.services.organizations import Actor
from webapp.services.template_changes import Change, Draft
from webapp.services.templates import Viewer

NOON = datetime(2026, 11, 20, 12, 17, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@pytest.fixture
def clock(app: Flask) -> Iterator[Any]:
    with time_machine.travel(NOON, tick=False) as traveller:
        yield traveller


def id_at(moment: datetime) -> uuid.UUID:
    return uuid.UUID(int=(int(moment.timestamp() * 1000) << 80) | (new_id().int & ((1 << 80) - 1)))


def place(name: str) -> uuid.UUID:
    key = new_id()
    with writing() as connection:
        connection.execute(insert(Organization), {"id": key, "name": name, "time_zone": "UTC", "created_at": NOON})
    return key


def somebody(email: str, organization_id: uuid.UUID, active: datetime | None = None, joined: datetime = NOON) -> uuid.UUID:
    person_id = add_person(email=email, organization_id=organization_id)
    with writing() as connection:
        values = {"last_active_at": active, "created_at": joined}
        connection.execute(update(Person).where(Person.id == person_id).values(values))
        connection.execute(update(Membership).where(Membership.person_id == person_id).values(created_at=joined))
    return person_id


def asked(person_id: uuid.UUID, organization_id: uuid.UUID, at: datetime, took_s: float = 1.0, **values: Any) -> uuid.UUID:
    """A request that has ended, with its entry in the ledger where it was completed."""
    row = {
        "id": id_at(at),
        "person_id": person_id,
        "organization_id": organization_id,
        "channel": "web",
        "operation": "chat",
        "prompt": "hello",
        "status": "completed",
        "max_input_tokens": 10,
        "max_output_tokens": 10,
        "queue": "normal",
        "priority": 5,
        "created_at": at,
        "started_at": at + timedelta(seconds=2),
        "ended_at": at + timedelta(seconds=2 + took_s),
    } | values
    with writing() as connection:
        connection.execute(insert(Request), row)
        if row["status"] == "completed":
            spend(connection, person_id, organization_id, at, request_id=row["id"])
    return uuid.UUID(str(row["id"]))


def spend(connection: Any, person_id: uuid.UUID, organization_id: uuid.UUID, at: datetime, **values: Any) -> None:
    entry = {
        "id": new_id(),
        "person_id": person_id,
        "organization_id": organization_id,
        "payer": "person",
        "channel": "web",
        "operation": "chat",
        "provider": "openai",
        "model": "one",
        "requests": 1,
        "input_tokens": 10,
        "output_tokens": 5,
        "cost_microusd": 100,
        "estimated": False,
        "price_source": "test",
        "created_at": at,
    } | values
    connection.execute(insert(LedgerEntry), entry)


def test_the_figures_are_the_same_from_the_ledger_and_from_its_sums(clock: Any) -> None:
    here, there = place("Here"), place("There")
    alice = somebody("alice@example.com", here, NOON - HOUR, NOON - 2 * DAY)
    bob = somebody("bob@example.com", here, NOON - 3 * DAY, NOON - 60 * DAY)
    carol = somebody("carol@example.com", there, NOON - 20 * DAY)
    for number, at in enumerate((NOON - 40 * DAY, NOON - 2 * DAY, NOON - 20 * HOUR, NOON - HOUR, NOON)):
        asked(alice, here, at, float(number), category="coding", rating=number + 1)
    asked(bob, here, NOON - DAY, status="failed", error_code="provider_timeout", category="debug")
    asked(carol, there, NOON - DAY, 10.0)
    with writing() as connection:
        spend(connection, alice, here, NOON - DAY, payer="house", requests=0, cost_microusd=7, provider="gemini")
        spend(connection, alice, here, NOON - DAY, requests=0, cost_microusd=900, provider="twilio", model="sms", channel="sms")
        # The last moment of a day, and the first of the next one.
        for at in (datetime(2026, 11, 10, 23, 59, 59, 999999, tzinfo=UTC), datetime(2026, 11, 11, tzinfo=UTC)):
            spend(connection, alice, here, at, requests=0, cost_microusd=1)

    def told() -> tuple[Any, ...]:
        return (
            analytics.overview(here), analytics.overview(), analytics.task_figures(here), analytics.task_figures(None, 3),
            analytics.user_figures(here), analytics.user_figures(here, bob), analytics.dashboard(),
        )  # fmt: skip

    plain = told()
    rollups.run(None)
    assert told() == plain
    mine, everything, tasks, short, users, bobs, together = plain
    assert (mine.people.total, mine.people.active_24h, mine.people.active_7d) == (2, 1, 2)
    assert everything.people.total == 4, "and the administrator"
    assert sum(everything.people.plans.values()) == 4
    assert (mine.total.requests, mine.total.cost_microusd, mine.total.input_tokens) == (5, 1402, 80)
    assert (everything.total.requests, everything.total.cost_microusd) == (6, 1502)
    assert (mine.last_24h.requests, mine.last_24h.cost_microusd) == (3, 1200)
    recent = mine.recent
    assert (recent.counted, recent.complete, recent.since) == (5, True, NOON - 2 * DAY)
    assert (recent.statuses, recent.success_rate) == ({"completed": 4, "failed": 1}, 0.8)
    assert (recent.mean_s, recent.p95_s, recent.mean_wait_s) == (2.5, 4.0, 2.0)
    assert (recent.categories, recent.failures) == ({"coding": 4, "debug": 1}, {"provider_timeout": 1})
    assert (recent.ratings, recent.rating) == ({1: 0, 2: 1, 3: 1, 4: 1, 5: 1}, 3.5)
    days = {used.name: used for used in tasks.days}
    assert (len(days), tasks.days[-1].name, tasks.days[0].name) == (30, "2026-11-20", "2026-10-22")
    assert days["2026-11-20"].requests == 2
    assert (days["2026-11-10"].cost_microusd, days["2026-11-11"].cost_microusd) == (1, 1)
    assert [(used.name, used.cost_microusd) for used in tasks.providers] == [("twilio", 900), ("openai", 402)]
    assert [used.name for used in tasks.models] == ["twilio/sms", "openai/one"]
    assert [used.name for used in tasks.channels] == ["sms", "web"]
    assert (tasks.house_microusd, short.house_microusd, len(short.days)) == (None, 7, 3)
    assert {person.name: person.recent.counted for person in users.people} == {"alice@example.com": 4, "bob@example.com": 1}
    assert [day for day in users.joined if day[1]] == [("2026-11-18", 1)]
    assert [(person.person_id, person.recent.success_rate) for person in bobs.people] == [(bob, 0.0)]
    assert (together.overview, together.errors.unresolved) == (everything, 0)
    assert analytics.user_figures(here, carol).people == ()
    nobody_yet = analytics.user_figures(there, somebody("dave@example.com", there)).people
    assert [person.recent.counted for person in nobody_yet] == [0]


def test_no_more_requests_are_read_than_the_bound(clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_requests, "COUNTED_MAX", 3)
    here = place("Here")
    alice = somebody("alice@example.com", here)
    for hours in range(5):
        asked(alice, here, NOON - hours * HOUR, category=f"c{hours}")
    found = analytics.overview(here)
    assert (found.recent.counted, found.recent.complete, found.recent.since) == (3, False, NOON - 2 * HOUR)
    assert list(found.recent.categories) == ["c0", "c1", "c2"]
    assert found.total.requests == 5


def test_errors_are_counted_by_kind_and_day_and_found_by_their_time(clock: Any) -> None:
    for days, kind in ((0, "internal"), (1, "provider_timeout"), (1, "provider_timeout"), (40, "internal")):
        at = NOON - days * DAY
        with writing() as connection:
            connection.execute(insert(ErrorLog), {"id": id_at(at), "kind": kind, "message": "An Error", "created_at": at})
    late = error_log.page(Filters(kind="provider_timeout", created_from=NOON - 2 * DAY, q="an error"), total=True)
    assert (len(late.entries), late.total, late.next_id) == (2, 2, None)
    error_log.resolve(late.entries[0].id, "done", Actor.operator("test"))
    found = analytics.error_figures()
    assert [(each.kind, each.count, each.unresolved, each.days) for each in found.kinds] == [
        ("provider_timeout", 2, 1, (("2026-11-19", 2),)), ("internal", 1, 1, (("2026-11-20", 1),))
    ]  # fmt: skip
    assert [day for day in found.days if day[1]] == [("2026-11-19", 2), ("2026-11-20", 1)]
    assert (found.unresolved, found.complete) == (3, True)
    first = error_log.page(Filters(resolved=False), size=2)
    rest = error_log.page(Filters(resolved=False), size=2, after=first.next_id)
    assert [len(first.entries), len(rest.entries), rest.next_id] == [2, 1, None]
    assert error_log.resolve_kind("internal", "", Actor.operator("test")).resolved == 2
    assert len(error_log.page(Filters(resolved=True)).entries) == 3
    with pytest.raises(NotFound):
        error_log.reopen(uuid.uuid4(), Actor.operator("test"))


def at_once(app: Flask, *works: Any) -> list[Any]:
    """Do all of these in threads of their own that start together; what each gave or raised."""
    start, found = threading.Barrier(len(works)), [None] * len(works)

    def run(place: int, work: Any) -> None:
        with app.app_context():
            start.wait()
            try:
                found[place] = work()
            except Conflict as exc:
                found[place] = exc

    threads = [threading.Thread(target=run, args=each) for each in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_of_many_changes_to_one_version_one_is_kept_and_every_use_counts(app: Flask) -> None:
    here = place("Here")
    viewer = Viewer(somebody("alice@example.com", here), here)
    made = template_changes.create(viewer, Draft("Mine", "Hello {{name}}"))
    plain: Flask = current_app._get_current_object()  # type: ignore[attr-defined]

    def change(number: int) -> Any:
        return lambda: template_changes.change(viewer, made.line.id, 1, Change(text=f"Hello {{{{name}}}} {number}"))

    done = at_once(plain, *(change(number) for number in range(6)))
    assert sum(1 for each in done if not isinstance(each, Conflict)) == 1
    at_once(plain, *(lambda: templates.note_use(made.current.id) for _ in range(8)))
    found = templates.show(viewer, made.line.id)
    assert (found.line.version, found.line.used) == (2, 8)
    with reading() as connection:
        assert len(connection.execute(select(TemplateVersion.id)).all()) == 2
    filled = templates.render(made.line.id, {"name": "{{name}} \U0001f600"}, viewer, version=1)
    assert filled.text == "Hello {{name}} \U0001f600"


def test_the_figures_of_a_template_are_those_of_its_newest_requests(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    here = place("Here")
    alice = somebody("alice@example.com", here)
    viewer = Viewer(alice, here)
    made = template_changes.create(viewer, Draft("Mine", "Hello"))
    later = template_changes.change(viewer, made.line.id, 1, Change(text="Good day"))
    for number, status in enumerate(("failed", "completed", "completed")):
        at = now() - (3 - number) * HOUR
        asked(alice, here, at, status=status, template_version_id=made.current.id, rating=number + 1)
    asked(alice, here, now(), status="failed", template_version_id=later.current.id)
    asked(alice, here, now(), status="cancelled", template_version_id=later.current.id)
    found = template_figures.figures(made.line.id)
    assert (found.counted, found.completed, found.failed, found.success_rate) == (5, 2, 2, 0.5)
    assert (found.ratings, found.rating) == (3, 2.0)
    monkeypatch.setattr(template_figures, "EACH_MAX", 1)
    assert (template_figures.figures(made.line.id).counted, template_figures.figures(made.line.id).completed) == (2, 1)
    monkeypatch.setattr(template_figures, "VERSIONS_MAX", 1)
    assert template_figures.figures(made.line.id).counted == 1
    page = templates.page(viewer, templates.Filters(q="MINE"), total=True)
    assert ([line.id for line in page.lines], page.more, page.total) == ([made.line.id], False, 1)
    with writing() as connection:
        connection.execute(update(Template).values(archived_at=now()))
    assert templates.page(viewer).lines == ()
