"""The receipt of a request: everything on record about what it cost, for those whom it concerns."""

from __future__ import annotations

import html
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, insert, select, update

from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.integration.cli_support import Operator, operator
from tests.integration.web_support import ALICE, BOB, Site
from tests.support import add_person, one, requests, rows, run_jobs
from webapp.contracts.errors import NotFound
from webapp.extensions import db, now, writing
from webapp.models import Attempt, Hold, LedgerEntry, Membership, Organization, Person, PersonRole, Request
from webapp.models.columns import new_id
from webapp.pipeline import replay
from webapp.pipeline.admit import admit
from webapp.pipeline.intake import Intake
from webapp.services import receipts

__all__ = ["operator"]

SECRET = "what only they may read"
DOWN = Fault(status=503, body=b"")
sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_a_receipt_has_every_call_entry_and_hold_of_all_lives(make_app: Callable[..., Flask], openai: FakeOpenAI) -> None:
    openai.faults += [DOWN, DOWN]
    with make_app(job_retries=1, job_retry_waits_s="0", retries=0, breaker_failures=1000).app_context():
        who = add_person(email=ALICE, plan="premium")
        admit(Intake(medium="web", text=SECRET, person_id=who))
        run_jobs()
        (failed,) = requests()
        replay.replay(failed.id, "admin")
        run_jobs()
        found = receipts.receipt(failed.id)
        assert (found.status, found.executions, found.person) == ("completed", 3, ALICE)
        assert [(call.execution, call.outcome) for call in found.calls] == [(1, "failed"), (2, "failed"), (3, "completed")]
        [entry] = found.entries
        assert (entry.payer, entry.provider, entry.requests) == ("person", "openai", 1)
        assert entry.cost_microusd == found.cost_microusd > 0
        assert entry.attempt_id == found.calls[-1].id
        by_life = [(hold.name, hold.used, hold.why) for hold in found.holds if hold.name == "messages"]
        assert by_life == [("messages", 0, "provider_unavailable"), ("messages", 1, "completed")]
        assert all(hold.settled_at and hold.settled_by == "execution" and hold.maximum for hold in found.holds)
        assert found.letter is not None
        assert (found.letter.state, found.letter.replays, found.letter.error_code) == ("replayed", 1, "provider_unavailable")
        with pytest.raises(NotFound):
            receipts.receipt(new_id())
        db.session.remove()


def test_receipts_are_read_by_index(app: Flask) -> None:
    who = add_person(email=ALICE, plan="premium")
    admit(Intake(medium="web", text="hello", person_id=who))
    run_jobs()
    (request,) = requests()
    with writing() as connection:
        made = dict(connection.execute(select(Request.__table__)).mappings().first() or {})
        others = [made | {"id": new_id(), "conversation_id": None} for _ in range(3000)]
        connection.execute(insert(Request), others)
        of_others = [other["id"] for other in others]
        for model in (Attempt, LedgerEntry, Hold):
            row = dict(connection.execute(select(model.__table__)).mappings().first() or {})
            changed: list[dict[str, Any]] = []
            for n, key in enumerate(of_others):
                new = {"id": 10_000 + n} if model is Hold else {"id": new_id()}
                changed.append(row | new | {"request_id": key} | ({"attempt_id": None} if model is LedgerEntry else {}))
            connection.execute(insert(model), changed)
        connection.exec_driver_sql("ANALYZE")
    seen: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, sql: str, values: Any, *_: object) -> None:
        seen.append((sql, values))

    event.listen(db.engine, "before_cursor_execute", note)
    receipts.receipt(request.id)
    event.remove(db.engine, "before_cursor_execute", note)
    looked = [each for each in seen if each[0].startswith("SELECT")]
    assert len(looked) == 5
    with db.engine.connect() as connection:
        explain = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
        for sql, values in looked:
            plan = " ".join(str(row) for row in connection.exec_driver_sql(explain + sql, values))
            for table in ("request", "attempt", "ledger_entry", "hold"):
                assert f"SCAN {table}'" not in plan, (sql, plan)
                assert f"Seq Scan on {table} " not in plan, (sql, plan)


@pytest.fixture
def site(make_app: Callable[..., Flask]) -> Site:
    """Two people, one of whom has asked something."""
    site = Site(make_app())
    site.add(ALICE, plan="premium")
    site.add(BOB, plan="premium")
    site.browser(ALICE).ask(SECRET)
    site.run_jobs()
    return site


def manager_of(site: Site, email: str, organization_id: uuid.UUID | None = None) -> None:
    """Make somebody a manager where they are, or of another organization."""
    with site.app.app_context(), writing() as connection:
        who = connection.execute(select(Person.id).where(Person.email == email)).scalar_one()
        change: dict[str, Any] = {"role": PersonRole.MANAGER}
        if organization_id is not None:
            change["organization_id"] = organization_id
            connection.execute(update(Person).where(Person.id == who).values(organization_id=organization_id))
        connection.execute(update(Membership).where(Membership.person_id == who).values(**change))


@sqlite
def test_the_page_is_for_the_person_their_managers_and_administrators(site: Site) -> None:
    address = f"/dashboard/requests/{site.newest_request().id}"
    own = site.browser(ALICE).get(address)
    assert own.status_code == 200
    assert SECRET in own.text
    assert "Held and used of limits" in own.text
    assert "demo" in own.text
    assert SECRET in site.admin().get(address).text
    # Another member, and somebody without a session.
    assert site.browser(BOB).get(address).status_code == 404
    assert "/login" in site.browser().get(address).headers["Location"]
    assert site.browser(ALICE).get(f"/dashboard/requests/{new_id()}").status_code == 404
    # A manager sees the figures, and no texts.
    manager_of(site, BOB)
    seen = site.browser(BOB).get(address)
    assert seen.status_code == 200
    assert SECRET not in seen.text
    assert ALICE in seen.text


@sqlite
def test_a_manager_of_another_organization_finds_nothing(site: Site) -> None:
    other = new_id()
    with site.app.app_context(), writing() as connection:
        connection.execute(insert(Organization).values(id=other, name="Other", time_zone="UTC", limits=[], created_at=now()))
    manager_of(site, BOB, other)
    assert site.browser(BOB).get(f"/dashboard/requests/{site.newest_request().id}").status_code == 404


@sqlite
def test_the_chat_leads_to_the_receipt(site: Site) -> None:
    page = html.unescape(site.browser(ALICE).get("/").text)
    assert f'href="/dashboard/requests/{site.newest_request().id}"' in page


@sqlite
def test_the_command_shows_the_receipt_without_texts(operator: Operator, app: Flask) -> None:
    who = add_person(email=ALICE, plan="premium")
    admit(Intake(medium="web", text=SECRET, person_id=who))
    run_jobs()
    request_id = one(select(Request.id))
    shown = operator.ok("receipt", str(request_id))
    for words in ("completed", "Calls", "Ledger", "Held and used of limits", "messages", "by web"):
        assert words in shown
    said = operator.json("receipt", str(request_id))
    assert said["request_id"] == str(request_id)
    assert len(said["holds"]) == len(rows(select(Hold)))
    assert SECRET not in shown + str(said)
    assert operator("receipt", str(new_id())).exit_code == 1
    assert operator("receipt", "nonsense").exit_code == 2
