"""Figures for programs: whose anybody sees, and what is in them."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from flask import Flask
from sqlalchemy import insert

from tests.integration.api_program import Caller, Town
from tests.integration.web_support import ALICE, BOB, Site
from webapp.extensions import now, writing
from webapp.models import ErrorLog
from webapp.models.columns import new_id

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
HOME = "/api/analytics"
ROUTES = ("overview", "task-stats", "user-stats", "dashboard")


@pytest.fixture
def town(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> Town:
    monkeypatch.setenv("SWITCHHOOK_DEMO_DELAY_MS", "0")
    return Town(Site(make_app(throttle_signed_in_per_h=0)))


def test_everybody_sees_the_figures_that_are_for_them(town: Town) -> None:
    for caller, count in ((town.alice, 3), (town.carol, 1)):
        for number in range(count):
            made = caller.post("/api/templates", {"name": "Hello", "text": f"hello {number}"}).json
            assert caller.post(f"/api/templates/{made['id']}/use").status_code == 202
    town.site.run_jobs()
    here = town.bob.get(f"{HOME}/overview").json
    assert here["people"]["total"] == 3, "Alice, Bob and the administrator"
    assert (here["total"]["requests"], here["last_24h"]["requests"]) == (3, 3)
    assert (here["recent"]["counted"], here["recent"]["success_rate"]) == (3, 1.0)
    assert here["recent"]["statuses"] == [{"name": "completed", "count": 3}]
    assert {each["name"]: each["count"] for each in here["recent"]["ratings"]} == dict.fromkeys("12345", 0)
    there = town.dave.get(f"{HOME}/overview").json
    assert (there["organization_id"], there["total"]["requests"]) == (str(town.elsewhere), 1)
    everything = town.admin.get(f"{HOME}/overview").json
    assert (everything["organization_id"], everything["people"]["total"], everything["total"]["requests"]) == (None, 5, 4)
    assert town.admin.get(f"{HOME}/overview", organization_id=town.elsewhere).json == there

    tasks = town.bob.get(f"{HOME}/task-stats", days=7).json
    assert (len(tasks["days"]), tasks["days"][-1]["requests"], tasks["house_microusd"]) == (7, 3, None)
    assert [each["name"] for each in tasks["providers"]] == ["demo"]
    assert [(each["name"], each["requests"]) for each in tasks["channels"]] == [("api", 3)]
    assert town.admin.get(f"{HOME}/task-stats").json["house_microusd"] == 0

    own = town.alice.get(f"{HOME}/user-stats").json
    assert (own["joined"], [each["person_id"] for each in own["people"]]) == ([], [str(town.ids[ALICE])])
    assert own["people"][0]["recent"]["counted"] == 3
    assert town.alice.get(f"{HOME}/user-stats", person_id=town.ids[BOB]).json["people"] == []
    assert town.alice.get(f"{HOME}/user-stats", organization_id=town.elsewhere).json["people"] == []
    of_bob = town.bob.get(f"{HOME}/user-stats").json
    assert [each["name"] for each in of_bob["people"]] == [ALICE]
    assert sum(day["count"] for day in of_bob["joined"]) == 3
    assert town.dave.get(f"{HOME}/user-stats", person_id=town.ids[ALICE]).json["people"] == []
    assert len(town.admin.get(f"{HOME}/user-stats", person_id=town.ids[ALICE]).json["people"]) == 1

    dashboard = town.bob.get(f"{HOME}/dashboard").json
    assert dashboard["errors"] is None
    assert (dashboard["overview"], dashboard["users"]) == (here, of_bob)
    row = {"id": new_id(), "kind": "internal", "message": "A fault.", "created_at": now()}
    with town.site.app.app_context(), writing() as connection:
        connection.execute(insert(ErrorLog.__table__), row)
    errors = town.admin.get(f"{HOME}/dashboard").json["errors"]
    today = {"name": row["created_at"].date().isoformat(), "count": 1}
    assert errors["kinds"] == [{"kind": "internal", "count": 1, "unresolved": 1, "days": [today]}]
    assert (errors["unresolved"], errors["complete"], errors["days"][-1], len(errors["days"])) == (1, True, today, 30)


def test_figures_that_are_not_for_somebody_are_refused(town: Town) -> None:
    plain = Caller(town.site, BOB, "read", "write")
    for route in ROUTES:
        member = 200 if route == "user-stats" else 403
        assert town.alice.get(f"{HOME}/{route}").status_code == member
        assert plain.get(f"{HOME}/{route}").status_code == member
        assert town.site.app.test_client().get(f"{HOME}/{route}").status_code == 401
        assert town.bob.get(f"{HOME}/{route}", organization_id=town.elsewhere).status_code == 404
        assert town.admin.get(f"{HOME}/{route}", organization_id=uuid.uuid4()).status_code == 404
        for query in ({"organization_id": "x"}, {"organisation": "x"}, {"days": "0"}, {"person_id": "1"}):
            if query == {"days": "0"} and route != "task-stats":
                query = {"days": "30"}
            assert town.admin.get(f"{HOME}/{route}", **query).status_code == 422, (route, query)
    assert town.admin.get(f"{HOME}/task-stats", days=91).status_code == 422
    nobodys = plain.get(f"{HOME}/user-stats").json
    assert [each["person_id"] for each in nobodys["people"]] == [str(town.ids[BOB])]
