"""The queue page, the queue for programs, and what the chat tells of a wait."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from flask import Flask
from sqlalchemy import insert, select

from tests.integration import queue_support
from tests.integration.queue_support import ask, change, later, sign
from tests.integration.web_support import ADMIN, ALICE, BOB, HTMX, Site
from webapp.extensions import now, queue_redis, reading, writing, writing_session
from webapp.models import AuditEntry, DeadLetter, Person, PersonRole
from webapp.pipeline import lease
from webapp.pipeline.claims import claim
from webapp.services import people, waiting

HOME = "/dashboard/queue"


@pytest.fixture
def site(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("SWITCHHOOK_DEMO_DELAY_MS", "0")
    monkeypatch.setattr(waiting, "FRESH_S", 0.0)
    site = Site(make_app())
    site.add(ALICE, plan="premium")
    return site


def of(site: Site, email: str) -> uuid.UUID:
    with site.app.app_context(), reading() as connection:
        return connection.execute(select(Person.id).where(Person.email == email)).scalar_one()


def waits(site: Site, email: str = ALICE) -> uuid.UUID:
    person_id = of(site, email)
    with site.app.app_context():
        return ask(person_id)


def busy(site: Site) -> None:
    with site.app.app_context():
        sign(slots=2, in_flight=2)
        queue_support.pace(ended=40, busy_s=240, normal=3)


def bearer(site: Site, email: str, *scopes: str) -> dict[str, str]:
    with site.app.app_context(), writing_session() as session:
        person = session.execute(select(Person).where(Person.email == email)).scalar_one()
        return {"Authorization": f"Bearer {people.make_token(session, person, 'test', scopes, None, 'test')}"}


sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
pytestmark = sqlite_only


# -- the page --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("role", [PersonRole.MEMBER, PersonRole.MANAGER])
def test_the_page_is_for_administrators(site: Site, role: PersonRole) -> None:
    site.add(BOB, role=role)
    bob, request_id = site.browser(BOB), waits(site)
    assert bob.get(HOME).status_code == 403
    assert bob.get(f"{HOME}/{request_id}/stop").status_code == 403
    assert bob.post(f"{HOME}/{request_id}/stop").status_code == 403
    assert site.browser().get(HOME).status_code == 303
    assert HOME not in bob.get("/").text
    assert site.newest_request().status == "queued"


def test_an_empty_installation_is_told_what_to_do(site: Site) -> None:
    page = site.admin().get(HOME).text
    for words in ("nobody waits", "Nothing runs.", "Nothing waits.", "switchhook worker", "No request was begun"):
        assert words in page
    assert f'href="{HOME}"' in page


def test_what_waits_runs_and_works_is_on_the_page(site: Site) -> None:
    site.add(BOB, plan="enterprise")
    running, first, later_one = waits(site, BOB), waits(site), waits(site)
    with site.app.app_context():
        taken = claim(running)
        assert taken is not None
        change(later_one, not_before=later(600))
        sign("w1", slots=8, in_flight=3)
        sign("killed", seen_s_ago=300)
        queue_support.pace(ended=4, busy_s=4, normal=5, low=2)
        queue_redis().hset(f"rq:job:execute-{running}", "worker_name", "w1")
        with writing() as connection:
            letter = {"request_id": first, "reason": "vendor", "error_code": "unavailable", "last_error": "", "attempts": 3}
            connection.execute(insert(DeadLetter), letter | {"created_at": now()})
    whole = site.admin().get(HOME).text
    part = site.admin().get(HOME, headers=HTMX).text
    assert 'id="queue-status"' in whole
    assert "<html" not in part
    for words in (
        'hx-trigger="every 5s"',
        BOB,
        ALICE,
        "3 of 8",
        "host-1",
        "100 MB",
        "1.2.3",
        "gone",
        'href="/dashboard/dead-letters">1 dead letter<',
        f'id="running-{running}"',
        f'id="waiting-{first}"',
        "<rect",
        "42 requests in the last 30 minutes",
        f'href="{HOME}/{first}/stop"',
    ):
        assert words in part, words
    assert f'id="waiting-{later_one}"' not in part
    assert "<td>w1</td>" in part
    assert "<script" not in part
    assert "style=" not in part


def test_while_redis_is_away_the_page_tells_what_the_database_knows(make_app: Callable[..., Flask]) -> None:
    site = Site(make_app(redis_url="unix:///nowhere"))
    request_id = waits(site, ADMIN)
    page = site.admin().get(HOME)
    assert page.status_code == 200
    assert "Redis does not answer" in page.text
    assert f'id="waiting-{request_id}"' in page.text
    assert "not known" in page.text


def test_a_waiting_request_is_stopped_after_one_question(site: Site) -> None:
    request_id, admin = waits(site), site.admin()
    asked = admin.get(f"{HOME}/{request_id}/stop")
    assert "Stop this request?" in asked.text
    assert site.newest_request().status == "queued"
    done = admin.post(f"{HOME}/{request_id}/stop", follow_redirects=True)
    assert "stopped before it began" in done.text
    assert site.newest_request().status == "cancelled"
    with site.app.app_context(), reading() as connection:
        entry = connection.execute(select(AuditEntry.__table__).where(AuditEntry.action == "request.cancel")).one()
        assert entry.actor_id == of(site, ADMIN)
        assert entry.subject == f"request:{request_id}"
        assert entry.organization_id == site.newest_request().organization_id
        assert entry.detail == {"person": str(of(site, ALICE)), "was": "queued"}
    assert "had ended already" in admin.post(f"{HOME}/{request_id}/stop", follow_redirects=True).text
    assert admin.get(f"{HOME}/{request_id}/stop").status_code == 404
    assert admin.post(f"{HOME}/{uuid.uuid4()}/stop").status_code == 404


def test_a_running_request_is_told_to_stop(site: Site) -> None:
    request_id = waits(site)
    with site.app.app_context():
        taken = claim(request_id)
        assert taken is not None
        lease.begin(taken.claim)
    try:
        assert "running since" in site.admin().get(f"{HOME}/{request_id}/stop").text
        done = site.admin().post(f"{HOME}/{request_id}/stop", follow_redirects=True)
        assert "told to stop" in done.text
        assert "stopping" in done.text
        assert site.newest_request().status == "processing"
        assert site.newest_request().cancel_asked_at is not None
        with site.app.app_context():
            assert queue_redis().exists(f"switchhook:cancel:{request_id}")
    finally:
        lease.end(taken.claim)


def test_a_page_from_elsewhere_cannot_stop_anything(site: Site) -> None:
    request_id = waits(site)
    assert site.admin().client.post(f"{HOME}/{request_id}/stop").status_code == 400
    assert site.newest_request().status == "queued"


# -- for programs ----------------------------------------------------------------------------------------------------
def test_programs_of_administrators_read_the_queue(site: Site) -> None:
    request_id = waits(site)
    busy(site)
    for answer in (
        site.admin().get("/api/queue"),
        site.browser().get("/api/queue", headers=bearer(site, ADMIN, "admin")),
    ):
        assert answer.status_code == 200
        assert answer.json is not None
        assert answer.json["queues"][1] == answer.json["queues"][1] | {"name": "normal", "in_redis": 1, "in_database": 1}
        assert answer.json["waiting"][0]["id"] == str(request_id)
        assert answer.json["workers"][0] == answer.json["workers"][0] | {"slots": 2, "in_flight": 2, "process_id": 4711}
        assert answer.json["slots"] == 2
        assert answer.headers["Cache-Control"] == "no-store"


def test_others_are_told_no_and_why(site: Site) -> None:
    nobody = site.browser()
    wrong = (
        {},
        {"Authorization": "Bearer sh_nonsense"},
        {"Authorization": "Basic YTpi"},
    )
    for headers in wrong:
        answer = nobody.get("/api/queue", headers=headers)
        assert answer.status_code == 401
        assert answer.mimetype == "application/problem+json"
        assert answer.json is not None
        assert answer.json["status"] == 401
        assert answer.json["code"] == "unauthorized"
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    # A token that does not open the door is not made good by a session.
    assert site.admin().get("/api/queue", headers={"Authorization": "Bearer sh_nonsense"}).status_code == 401
    for answer in (
        site.browser(ALICE).get("/api/queue"),
        nobody.get("/api/queue", headers=bearer(site, ADMIN, "chat")),
        nobody.get("/api/queue", headers=bearer(site, ADMIN, "read")),
        nobody.get("/api/queue", headers=bearer(site, ALICE, "read", "admin")),
    ):
        assert answer.status_code == 403
        assert answer.json is not None
        assert answer.json["code"] == "not_allowed"
        assert ADMIN not in answer.text


def test_everybody_reads_their_own_wait_and_nobody_elses(site: Site) -> None:
    site.add(BOB)
    busy(site)
    waits(site)
    request_id = waits(site)
    address = f"/api/requests/{request_id}/wait"
    for answer in (site.browser(ALICE).get(address), site.browser().get(address, headers=bearer(site, ALICE, "read"))):
        assert answer.status_code == 200
        assert answer.json == {
            "position": 1,
            "seconds": pytest.approx(6.0, abs=0.2),
            "reason": None,
            "words": "1 ahead of you, a few seconds",
        }
    for other in (site.browser(BOB).get(address), site.admin().get(address)):
        assert other.status_code == 404
        assert other.mimetype == "application/problem+json"
    assert site.browser(ALICE).get(f"/api/requests/{uuid.uuid4()}/wait").status_code == 404
    assert site.browser().get(address).status_code == 401


def test_a_person_who_was_shut_out_reads_nothing(site: Site) -> None:
    headers, request_id = bearer(site, ALICE, "read"), waits(site)
    site.change_person(ALICE, active=False)
    assert site.browser().get(f"/api/requests/{request_id}/wait", headers=headers).status_code == 401


# -- the chat --------------------------------------------------------------------------------------------------------
def test_the_page_tells_the_wait_without_scripts_and_stops_when_the_answer_begins(site: Site) -> None:
    alice = site.browser(ALICE)
    busy(site)
    for number in range(4):
        alice.ask(f"question {number}")
    request = site.newest_request()
    page = alice.get("/").text
    assert "3 ahead of you, about 10 seconds" in page
    assert f'hx-get="/requests/{request.id}/wait" hx-trigger="every 3s"' in page
    line = alice.get(f"/requests/{request.id}/wait", headers=HTMX).text
    assert "3 ahead of you, about 10 seconds" in line
    assert "every 3s" in line
    with site.app.app_context():
        claim(request.id)
    begun = alice.get(f"/requests/{request.id}/wait", headers=HTMX).text
    assert "hx-trigger" not in begun
    assert "ahead" not in begun
    site.change(request.id, status="queued")
    site.run_jobs()
    assert "ahead of you" not in alice.get("/").text
    assert "/wait" not in alice.get("/").text


def test_a_message_that_is_sent_by_script_asks_for_its_wait_a_second_later(site: Site) -> None:
    sent = site.browser(ALICE).ask("hello", htmx=True).text
    assert f'hx-get="/requests/{site.newest_request().id}/wait" hx-trigger="load delay:1s"' in sent
    assert "ahead" not in sent


def test_the_wait_of_others_is_not_found_and_an_address_leads_to_the_exchange(site: Site) -> None:
    site.add(BOB)
    request_id = waits(site)
    assert site.browser(BOB).get(f"/requests/{request_id}/wait", headers=HTMX).status_code == 404
    answer = site.browser(ALICE).get(f"/requests/{request_id}/wait")
    assert answer.status_code == 303
    assert answer.location == f"/requests/{request_id}"
    assert site.browser().get(f"/requests/{request_id}/wait").status_code == 303


def test_what_waits_for_cheaper_hours_has_no_line_of_its_own(site: Site) -> None:
    site.browser(ALICE).ask("later")
    site.change(site.newest_request().id, not_before=later(3600))
    page = site.browser(ALICE).get("/").text
    assert "Waiting for cheaper hours" in page
    assert "/wait" not in page


def test_what_waits_to_be_tried_again_says_so(site: Site) -> None:
    site.browser(ALICE).ask("again")
    site.change(site.newest_request().id, not_before=later(20), started_at=later(-5))
    page = site.browser(ALICE).get("/").text
    assert "the next try is at" in page
    assert "cheaper hours" not in page
    assert "every 5s" in page


def test_while_redis_is_away_the_chat_still_waits(make_app: Callable[..., Flask]) -> None:
    site = Site(make_app(redis_url="unix:///nowhere"))
    admin = site.admin()
    admin.ask("hello")
    page = admin.get("/")
    assert page.status_code == 200
    assert "Waiting…" in page.text
