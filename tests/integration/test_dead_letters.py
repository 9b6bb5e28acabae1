"""The page and the commands about what was set aside."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from flask import Flask
from sqlalchemy import insert, select, update

from tests.integration.cli_support import Operator, operator
from tests.integration.web_support import ALICE, Site
from webapp import create_app
from webapp.extensions import db, now, reading, writing
from webapp.models import DeadLetter, Person, Plan, Request, RequestStatus
from webapp.models.columns import new_id
from webapp.services import dead_letters
from webapp.settings import read_settings

__all__ = ["operator"]

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def set_aside(count: int = 1, reason: str = "vendor", last_error: str = "It answered 503.") -> list[uuid.UUID]:
    """Requests that failed after everything was tried."""
    made = []
    with writing() as connection:
        person = connection.execute(select(Person.id, Person.organization_id).order_by(Person.id.desc())).first()
        assert person is not None
        for _ in range(count):
            request_id = new_id()
            made.append(request_id)
            values = {
                "id": request_id,
                "person_id": person.id,
                "organization_id": person.organization_id,
                "channel": "web",
                "operation": "chat",
                "prompt": "hello",
                "status": RequestStatus.FAILED,
                "error_code": "provider_unavailable",
                "max_input_tokens": 10,
                "max_output_tokens": 10,
                "queue": "low",
                "priority": 20,
                "attempts": 4,
                "created_at": now(),
            }
            connection.execute(insert(Request), values)
            letter = {
                "request_id": request_id,
                "reason": reason,
                "error_code": "provider_unavailable",
                "last_error": last_error,
                "attempts": 4,
                "replays": 0,
                "state": "open",
                "created_at": now(),
            }
            connection.execute(insert(DeadLetter), letter)
    return made


def states(app: Flask) -> list[str]:
    with app.app_context(), reading() as connection:
        return list(connection.execute(select(DeadLetter.state).order_by(DeadLetter.request_id)).scalars())


@pytest.fixture
def site(make_app: Callable[..., Flask]) -> Site:
    return Site(make_app())


def test_the_page_says_what_was_set_aside_why_and_how_often(site: Site) -> None:
    admin = site.admin()
    with site.app.app_context():
        (request_id,) = set_aside(last_error="It answered <b>503</b>.")
    page = admin.get("/dashboard/dead-letters").text
    assert "It answered &lt;b&gt;503&lt;/b&gt;." in page
    assert str(request_id) in page
    assert "The models that may answer did not." in page
    one = admin.get(f"/dashboard/dead-letters/{request_id}").text
    assert "provider_unavailable" in one
    assert "Nothing is set aside" in admin.get("/dashboard/dead-letters?reason=worker").text


def test_one_is_replayed_and_another_dismissed(site: Site) -> None:
    admin = site.admin()
    with site.app.app_context():
        first, second = set_aside(2)
    answer = admin.post(f"/dashboard/dead-letters/{first}/replay", follow_redirects=True)
    assert "on the road again" in answer.text
    answer = admin.post(f"/dashboard/dead-letters/{second}/dismiss", follow_redirects=True)
    assert "was dismissed" in answer.text
    assert states(site.app) == ["replayed", "dismissed"]
    again = admin.post(f"/dashboard/dead-letters/{first}/replay", follow_redirects=True)
    assert "on the road again already" in again.text
    site.run_jobs()
    with site.app.app_context(), reading() as connection:
        assert connection.execute(select(Request.status).where(Request.id == first)).scalar_one() == RequestStatus.COMPLETED


def test_all_of_a_reason_are_replayed_and_those_that_are_not_say_why(site: Site) -> None:
    admin = site.admin()
    with site.app.app_context():
        set_aside(2)
        set_aside(1, "internal")
        with writing() as connection:
            connection.execute(update(Plan).values(limits={"messages": 1}))
    answer = admin.post("/dashboard/dead-letters/replay", {"reason": "vendor"}, follow_redirects=True)
    assert "1 request is on the road again." in answer.text
    assert "1 could not be put back: You have used" in answer.text
    assert sorted(states(site.app)) == ["open", "open", "replayed"]
    assert admin.post("/dashboard/dead-letters/replay", {"reason": "nonsense"}).status_code == 404


def test_a_long_list_comes_in_pages(site: Site) -> None:
    admin = site.admin()
    with site.app.app_context():
        made = set_aside(dead_letters.PAGE + 3)
    page = admin.get("/dashboard/dead-letters").text
    assert str(made[-1]) in page
    assert str(made[0]) not in page
    assert "Older ones" in page
    rest = admin.get(f"/dashboard/dead-letters?after={made[3]}").text
    assert str(made[0]) in rest
    assert "Older ones" not in rest


@pytest.mark.parametrize("path", ["?reason=nonsense", "?state=lost", "?after=17", f"/{uuid.UUID(int=17)}"])
def test_what_there_is_not_is_not_found(site: Site, path: str) -> None:
    assert site.admin().get(f"/dashboard/dead-letters{path}").status_code == 404


def test_only_administrators_see_it(site: Site) -> None:
    site.add(ALICE)
    alice = site.browser(ALICE)
    with site.app.app_context():
        (request_id,) = set_aside()
    assert alice.get("/dashboard/dead-letters").status_code == 403
    assert alice.post(f"/dashboard/dead-letters/{request_id}/replay").status_code == 403
    assert site.browser().get("/dashboard/dead-letters").status_code == 303
    assert states(site.app) == ["open"]


# -- commands ------------------------------------------------------------------------------------------------------------
def in_database(operator: Operator, count: int = 1) -> list[uuid.UUID]:
    settings = read_settings(data_dir=operator.folder, database_url=operator.database_url, redis_url=operator.redis_url)
    app = create_app(settings)
    with app.app_context():
        made = set_aside(count)
        db.engine.dispose()
        return made


def test_the_command_lists_shows_replays_and_dismisses(operator: Operator) -> None:
    assert operator.ok("dead", "list").strip() == "There is none."
    first, second, third = in_database(operator, 3)
    assert str(first) in operator.ok("dead", "list")
    found = operator.json("dead", "list", "--json")
    assert found["open"]["vendor"] == 3
    assert [each["request_id"] for each in found["requests"]] == [str(third), str(second), str(first)]
    assert "It answered 503." in operator.ok("dead", "show", str(first))
    assert operator.json("dead", "show", str(first), "--json")["attempts"] == 4
    operator.ok("dead", "dismiss", str(first))
    operator.ok("dead", "replay", str(second))
    assert "1 are on the road again." in operator.ok("dead", "replay", "--reason", "vendor", "--yes")
    assert "Nothing is set aside" in operator.ok("dead", "replay", "--reason", "vendor")
    assert operator("dead", "replay", str(second)).exit_code == 1
    assert operator("dead", "replay").exit_code == 2
    assert "there is no reason" in operator("dead", "replay", "--reason", "nonsense").output.lower()
