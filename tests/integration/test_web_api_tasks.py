"""Tasks: made, waited for, watched, rated, made again, cancelled, found; by those whose they are."""

from __future__ import annotations

import base64
import io
import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from werkzeug.test import TestResponse

from tests.integration.api_support import bearer, token_for
from tests.integration.test_web_stream import parse, text_of
from tests.integration.web_support import ADMIN, ALICE, BOB, Site
from webapp.api.base import make_cursor
from webapp.extensions import db, reading, writing_session
from webapp.models import Attachment, AuditEntry, Membership, Person, PersonRole, Request
from webapp.pipeline import stream
from webapp.services import organizations
from webapp.services.organizations import Actor

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
TASKS = "/api/tasks"
CAROL = "carol@example.com"


class Program:
    """A program with a token."""

    def __init__(self, site: Site, email: str, *scopes: str, **values: Any) -> None:
        self.client = site.app.test_client()
        self.headers = bearer(token_for(site.app, email, *(scopes or ("read", "write")), **values))

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.client.get(path, headers=self.headers | options.pop("headers", {}), **options)

    def post(self, path: str, body: Any = None, **headers: str) -> TestResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(path, json={} if body is None else body, headers=self.headers | named)

    def patch(self, path: str, body: Any) -> TestResponse:
        return self.client.patch(path, json=body, headers=self.headers)

    def make(self, prompt: str = "show me a table", **more: Any) -> str:
        """The address of a new task."""
        return self.make_of({"prompt": prompt} | more)

    def make_of(self, body: dict[str, Any]) -> str:
        """The address of a new task with this body."""
        answer = self.post(TASKS, body)
        assert answer.status_code == 202, answer.text
        return str(answer.headers["Location"])


@pytest.fixture
def site(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("SWITCHHOOK_DEMO_DELAY_MS", "0")
    site = Site(make_app(throttle_signed_in_per_h=0))
    site.add(ALICE)
    return site


def picture(kind: str = "PNG", side: int = 8) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (side, side), (200, 30, 30)).save(out, kind)
    return out.getvalue()


def test_a_task_is_made_executed_read_rated_and_made_again(site: Site) -> None:
    alice = Program(site, ALICE)
    made = alice.post(TASKS, {"prompt": "  show me a table ", "allocation": 50})
    assert made.status_code == 202
    assert int(made.headers["Retry-After"]) >= 1
    task = made.json
    assert made.headers["Location"] == f"{TASKS}/{task['id']}"
    assert (task["status"], task["prompt"], task["channel"], task["operation"]) == ("queued", "show me a table", "api", "chat")
    assert (task["allocation_millicredits"], task["readable"], task["answer"]) == (50_000, True, None)
    assert alice.get(f"{TASKS}/{task['id']}/wait").json.keys() == {"position", "seconds", "reason", "words"}
    assert alice.post(f"{TASKS}/{task['id']}/rate", {"rating": 4}).status_code == 409
    assert alice.post(f"{TASKS}/{task['id']}/regenerate").status_code == 409
    site.run_jobs()

    done = alice.get(f"{TASKS}/{task['id']}").json
    assert (done["status"], done["provider"], done["answer"]) == ("completed", "demo", site.newest_request().answer)
    assert [call["outcome"] for call in done["calls"]] == ["completed"]
    assert done["why"]["answered"].startswith("demo/")
    assert done["took_s"] >= 0
    assert done["queue_s"] >= 0

    rated = alice.post(f"{TASKS}/{task['id']}/rate", {"rating": 4, "comment": " fine "}).json
    assert (rated["rating"], rated["rating_comment"]) == (4, "fine")
    rated = alice.post(f"{TASKS}/{task['id']}/rate", {"rating": 2}).json
    assert (rated["rating"], rated["rating_comment"]) == (2, "fine")
    assert alice.post(f"{TASKS}/{task['id']}/rate", {"rating": 2, "comment": ""}).json["rating_comment"] is None

    again = alice.post(f"{TASKS}/{task['id']}/regenerate", {"model": "demo/demo"}).json
    assert (again["again_of_id"], again["conversation_id"]) == (task["id"], task["conversation_id"])
    assert again["parameters"] == {"fresh": True, "model": "demo/demo"}
    assert again["allocation_millicredits"] == 50_000
    site.run_jobs()
    assert alice.get(f"{TASKS}/{again['id']}").json["cached"] is False
    assert alice.post(f"{TASKS}/{again['id']}/cancel").status_code == 409
    # What came by /v1 brought its conversation along, which is not kept.
    site.change(uuid.UUID(again["id"]), conversation_id=None)
    refused = alice.post(f"{TASKS}/{again['id']}/regenerate")
    assert (refused.status_code, "was not kept" in refused.json["detail"]) == (409, True)


def test_a_call_waits_for_the_end_without_a_connection_and_is_woken_by_it(site: Site) -> None:
    alice = Program(site, ALICE)
    answers: list[TestResponse] = []
    waiting = threading.Thread(
        target=lambda: answers.append(alice.client.post(f"{TASKS}?wait=30", json={"prompt": "hello"}, headers=alice.headers))
    )
    waiting.start()
    seats = site.app.extensions["switchhook.seats"]
    while not seats._taken:
        assert waiting.is_alive(), answers
    with site.app.app_context():
        assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    site.run_jobs()
    waiting.join(20)
    assert answers[0].status_code == 201
    assert answers[0].json["status"] == "completed"
    assert answers[0].headers["Location"] == f"{TASKS}/{answers[0].json['id']}"
    assert not seats._taken
    # Time that is over, and an end that is there already.
    slow = alice.post(f"{TASKS}?wait=1", {"prompt": "nobody works"})
    assert (slow.status_code, slow.json["status"]) == (202, "queued")
    assert alice.get(f"{TASKS}/{answers[0].json['id']}?wait=60").json["status"] == "completed"
    # Where all seats of a person are taken the call does not wait.
    me = uuid.UUID(slow.json["person_id"])
    leave = [seats.take(me) for _ in range(8)]
    assert alice.get(f"{TASKS}/{slow.json['id']}?wait=60").json["status"] == "queued"
    assert alice.get(f"{TASKS}/{slow.json['id']}/events").status_code == 503
    for each in leave:
        each()


def test_an_answer_is_watched_and_taken_up_where_it_was_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "WAIT_MS", 20)
    alice = Program(site, ALICE)
    place = alice.make()
    response = alice.get(f"{place}/events", buffered=False)
    chunks = iter(response.response)
    assert [next(chunks), next(chunks)] == [b"retry: 1000\n\n", b": waiting\n\n"]
    site.run_jobs()
    events = parse("".join(chunk.decode() if isinstance(chunk, bytes) else chunk for chunk in chunks))
    response.close()
    answer = alice.get(place).json["answer"]
    assert events[-1][1:] == ("end", "completed")
    assert text_of(events) == answer
    middle = len(events) // 2
    rest = parse(alice.get(f"{place}/events", headers={"Last-Event-ID": events[middle][0]}).text)
    assert text_of(events[: middle + 1]) + text_of(rest) == answer
    assert not site.app.extensions["switchhook.seats"]._taken


def test_the_same_key_makes_one_task(site: Site) -> None:
    alice = Program(site, ALICE)
    first = alice.post(TASKS, {"prompt": "once"}, Idempotency_Key="k1")
    second = alice.post(TASKS, {"prompt": "once"}, Idempotency_Key="k1")
    assert (second.json, second.headers["Idempotent-Replayed"]) == (first.json, "true")
    assert second.headers["Location"] == first.headers["Location"]
    assert alice.post(TASKS, {"prompt": "twice"}, Idempotency_Key="k1").status_code == 422
    assert site.count(Request) == 1


def test_a_waiting_task_is_cancelled_and_one_of_others_only_by_those_who_may(site: Site) -> None:
    site.add(BOB)
    alice, bob, admin = Program(site, ALICE), Program(site, BOB), Program(site, ADMIN, "admin")
    mine, other = alice.make(), alice.make()
    assert alice.post(f"{mine}/cancel").json["status"] == "cancelled"
    assert bob.post(f"{other}/cancel").status_code == 404
    assert admin.post(f"{other}/cancel").json["status"] == "cancelled"
    with site.app.app_context(), reading() as connection:
        entry = connection.execute(select(AuditEntry.__table__).where(AuditEntry.action == "request.cancel")).one()
    assert entry.subject == f"request:{other.rpartition('/')[2]}"


def test_everybody_sees_what_is_theirs_to_see(site: Site) -> None:
    bob_id = site.add(BOB, role=PersonRole.MANAGER)
    carol_id = site.add(CAROL)
    with site.app.app_context():
        elsewhere = organizations.create(Actor.operator("test"), "Elsewhere").id
        with writing_session() as session:
            carol = session.get_one(Person, carol_id)
            carol.organization_id = elsewhere
            session.query(Membership).filter_by(person_id=carol_id).delete()
            session.add(Membership(person_id=carol_id, organization_id=elsewhere, role="manager"))
    alice, chatty = Program(site, ALICE), Program(site, ALICE, "chat")
    bob, bob_plain = Program(site, BOB, "read", "write", "admin"), Program(site, BOB)
    carol, admin = Program(site, CAROL, "read", "write", "admin"), Program(site, ADMIN, "read", "admin")
    of_alice, of_chat, of_bob = alice.make("a secret word"), chatty.make("small talk"), bob.make("management")
    site.run_jobs()
    ids = [place.rpartition("/")[2] for place in (of_alice, of_chat, of_bob)]

    def sees(program: Program, query: str = "") -> list[str]:
        answer = program.get(f"{TASKS}?{query}")
        assert answer.status_code == 200, answer.text
        return [str(item["id"]) for item in reversed(answer.json["items"])]

    assert sees(alice) == ids[:2]
    assert sees(chatty) == ids[1:2]
    assert sees(bob) == sees(admin) == ids
    assert sees(bob, "whose=own") == sees(bob_plain) == ids[2:]
    assert sees(carol) == sees(carol, f"person={bob_id}") == sees(carol, "whose=organization") == []
    assert sees(alice, f"person={bob_id}") == []
    assert alice.get(f"{TASKS}?whose=organization").status_code == 403
    assert bob.get(f"{TASKS}?whose=all").status_code == 403

    # A manager reads no texts of others, neither there nor by searching, nor by watching.
    seen = bob.get(of_alice).json
    assert (seen["readable"], seen["prompt"], seen["answer"], seen["parameters"]) == (False, "", None, {})
    assert seen["cost_microusd"] == alice.get(of_alice).json["cost_microusd"]
    assert sees(bob, "q=secret") == []
    assert sees(admin, "q=SECRET") == sees(alice, "q=Secret") == ids[:1]
    assert bob.get(f"{of_alice}/events").status_code == 404
    assert bob.post(f"{of_alice}/rate", {"rating": 1}).status_code == 404
    assert bob.post(f"{of_alice}/regenerate").status_code == 404
    assert admin.get(of_alice).json["prompt"] == "a secret word"
    for way in ("", "/wait", "/events"):
        assert carol.get(of_alice + way).status_code == chatty.get(of_alice + way).status_code == 404
    for way in ("/cancel", "/regenerate"):
        assert carol.post(of_alice + way).status_code == 404

    sums = alice.get(f"{TASKS}/analytics").json
    assert (sums["total"], sums["by_status"]["completed"], sums["success_rate"], sums["complete"]) == (2, 2, 1.0, True)
    assert bob.get(f"{TASKS}/analytics").json["total"] == 3
    assert carol.get(f"{TASKS}/analytics").json["total"] == 0
    assert alice.get(f"{TASKS}/analytics?created_from=2020-01-01").status_code == 422
    nobody = site.app.test_client().get(TASKS)
    assert (nobody.status_code, nobody.mimetype) == (401, "application/problem+json")
    assert Program(site, ALICE, "read").post(TASKS, {"prompt": "x"}).status_code == 403


def test_pages_follow_each_other_without_gaps_and_filters_choose(site: Site) -> None:
    alice = Program(site, ALICE)
    places = [alice.make(f"word {number} 100% of_it") for number in range(5)]
    site.run_jobs()
    alice.post(f"{places[0]}/rate", {"rating": 5})
    last = alice.make("still waiting")
    ids = [place.rpartition("/")[2] for place in (*places, last)]

    def walk(query: str) -> list[str]:
        found: list[str] = []
        cursor = ""
        while True:
            answer = alice.get(f"{TASKS}?limit=2&{query}{cursor}").json
            found += [item["id"] for item in answer["items"]]
            if answer["next_cursor"] is None:
                return found
            cursor = f"&cursor={answer['next_cursor']}"

    assert walk("") == ids[::-1]
    assert walk("order=created") == ids
    assert alice.get(f"{TASKS}?total=true&limit=1").json["total"] == 6
    created = alice.get(places[2]).json["created_at"].replace("+", "%2B")
    conversation = alice.get(places[1]).json["conversation_id"]
    table = {
        "status=queued": ids[5:],
        "status=queued&status=completed": ids[::-1],
        "operation=image.generate": [],
        "channel=api&provider=demo": ids[4::-1],
        "model=demo/demo": ids[4::-1],
        "rating=5": ids[:1],
        f"conversation={conversation}": [ids[1]],
        f"conversation={uuid.uuid4()}": [],
        f"batch={uuid.uuid4()}": [],
        f"created_from={created}": ids[:1:-1],
        f"created_to={created}": ids[1::-1],
        "cost_from_microusd=1": [],
        "cost_to_microusd=0": ids[::-1],
        "q=WORD 3": [ids[3]],
        "q=100%25": ids[4::-1],
        "q=of_it": ids[4::-1],
        "q=ofXit": [],
    }
    for query, wanted in table.items():
        assert walk(query) == wanted, query
        assert alice.get(f"{TASKS}?{query}&total=true").json["total"] == len(wanted), query
    for wrong in ("limit=0", "limit=101", "cursor=abc", "status=lost", "order=cost", "rating=6", "person=me", "nothing=1"):
        answer = alice.get(f"{TASKS}?{wrong}")
        assert (answer.status_code, answer.mimetype) == (422, "application/problem+json"), wrong


def test_what_cannot_be_is_refused_by_the_name_of_its_member(site: Site) -> None:
    site.add(BOB)
    alice, bob = Program(site, ALICE), Program(site, BOB)
    of_bob = bob.make("mine")
    conversation = bob.get(of_bob).json["conversation_id"]
    site.give_limits("free", messages=100)
    fine = base64.b64encode(picture()).decode()
    table: list[tuple[dict[str, Any], int, str]] = [
        ({}, 422, "prompt"),
        ({"prompt": "  "}, 422, "prompt"),
        ({"prompt": "x" * 200_000}, 422, "prompt"),
        ({"prompt": 7}, 422, "prompt"),
        ({"prompt": "x", "promt": "y"}, 422, "promt"),
        ({"prompt": "x", "operation": "sentiment.analyze"}, 422, "operation"),
        ({"prompt": "x", "model": "No Such Model!"}, 422, "model"),
        ({"prompt": "x", "model": "nobody/nothing"}, 422, "model"),
        ({"prompt": "x", "model": "demo/demo", "parameters": {"model": "demo/other"}}, 422, "model"),
        ({"prompt": "x", "parameters": {"model": "nobody/nothing"}}, 422, "parameters.model"),
        ({"prompt": "x", "parameters": {"width": 1}}, 422, "parameters.width"),
        ({"prompt": "x", "parameters": {"colour": "red"}}, 422, "parameters.colour"),
        ({"prompt": "x", "pictures": ["%%%"]}, 422, "pictures.0"),
        ({"prompt": "x", "pictures": [fine, base64.b64encode(b"no picture").decode()]}, 422, "pictures.1"),
        ({"prompt": "x", "pictures": [fine] * 5}, 422, "pictures"),
        ({"prompt": "x", "allocation": 9}, 422, "allocation"),
        ({"prompt": "x", "allocation": 501}, 422, "allocation"),
        ({"prompt": "x", "allocation": "50"}, 422, "allocation"),
        ({"prompt": "x", "urgent": True}, 403, ""),
        ({"prompt": "x", "conversation_id": conversation}, 404, ""),
        ({"prompt": "x", "conversation_id": str(uuid.uuid4())}, 404, ""),
        ({"prompt": "x", "conversation_id": "7"}, 422, "conversation_id"),
        ({"prompt": "x", "conversation_id": conversation, "new_conversation": True}, 422, "new_conversation"),
        ({"prompt": "x", "variables": {"a": "b"}}, 422, "variables"),
        ({"prompt": "x", "template_id": str(uuid.uuid4())}, 422, "prompt"),
        ({"template_id": str(uuid.uuid4())}, 404, ""),
    ]
    for body, status, field in table:
        answer = alice.post(TASKS, body)
        assert (answer.status_code, answer.json.get("field", "")) == (status, field), (str(body)[:80], answer.text)
        assert answer.mimetype == "application/problem+json"
    assert site.count(Request) == 1
    for wrong in ({"rating": 0}, {"rating": 6}, {"rating": "5"}, {}, {"rating": 5, "comment": "x" * 2001}):
        assert bob.post(f"{of_bob}/rate", wrong).status_code == 422
    assert alice.client.post(f"{TASKS}?wait=61", json={"prompt": "x"}, headers=alice.headers).status_code == 422
    assert alice.get(f"{TASKS}/{uuid.uuid4()}").status_code == alice.get(f"{TASKS}/7x").status_code - 18 == 404


def test_a_limit_that_is_full_is_told_with_when_it_starts_again(site: Site) -> None:
    site.give_limits("free", messages=1)
    alice = Program(site, ALICE)
    alice.make()
    refused = alice.post(TASKS, {"prompt": "one too many"})
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 0
    stored = alice.get(f"{TASKS}/{refused.json['request_id']}").json
    assert (stored["status"], stored["error_code"], stored["prompt"]) == ("rejected", "limit_reached", "one too many")


def test_a_conversation_goes_on_is_listed_named_and_closed(site: Site) -> None:
    site.add(BOB)
    alice, bob = Program(site, ALICE), Program(site, BOB)
    first = alice.get(alice.make("the first words")).json
    site.run_jobs()
    place = f"/api/conversations/{first['conversation_id']}"
    on = alice.get(alice.make("and more", conversation_id=first["conversation_id"])).json
    latest = alice.get(alice.make("and still more", new_conversation=False)).json
    assert on["conversation_id"] == latest["conversation_id"] == first["conversation_id"]
    other = alice.get(alice.make("something else")).json["conversation_id"]

    listed = alice.get("/api/conversations?total=true").json
    assert ([item["id"] for item in listed["items"]], listed["total"]) == ([other, first["conversation_id"]], 2)
    for moment in ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2027-01-04", "yesterday"):
        forged = alice.get(f"/api/conversations?cursor={make_cursor(moment, uuid.uuid4())}")
        assert forged.status_code == (200 if moment[:4] == "2027" else 422), (moment, forged.text)
    one = alice.get("/api/conversations?limit=1").json
    two = alice.get(f"/api/conversations?limit=1&cursor={one['next_cursor']}").json
    assert ([two["items"][0]["id"]], two["next_cursor"]) == ([first["conversation_id"]], None)
    tasks = alice.get(f"{place}?limit=2&total=true").json
    rest = alice.get(f"{place}?limit=2&cursor={tasks['next_cursor']}").json
    assert [task["id"] for task in (*tasks["tasks"], *rest["tasks"])] == [latest["id"], on["id"], first["id"]]
    assert (tasks["total"], rest["next_cursor"], tasks["title"]) == (3, None, "the first words")

    changed = alice.patch(place, {"title": " Travel \n plans ", "active": False}).json
    assert (changed["title"], changed["active"]) == ("Travel plans", False)
    assert [item["id"] for item in alice.get("/api/conversations?active=false").json["items"]] == [first["conversation_id"]]
    assert [item["id"] for item in alice.get("/api/conversations?q=TRAVEL").json["items"]] == [first["conversation_id"]]
    assert alice.patch(place, {"active": True}).json["active"] is True
    for wrong in ({}, {"title": ""}, {"title": "x" * 121}, {"active": "yes"}, {"name": "x"}):
        assert alice.patch(place, wrong).status_code == 422, wrong
    assert bob.get(place).status_code == bob.patch(place, {"title": "mine"}).status_code == 404
    assert bob.get("/api/conversations").json["items"] == []


def test_pictures_travel_in_the_body_and_are_seen_by_those_who_read_the_task(site: Site) -> None:
    site.add(BOB, role=PersonRole.MANAGER)
    alice, bob, admin = Program(site, ALICE), Program(site, BOB, "read", "admin"), Program(site, ADMIN, "read", "admin")
    plain = base64.b64encode(picture(side=600)).decode()
    url = "data:image/jpeg;base64," + base64.b64encode(picture("JPEG", 9)).decode()
    task = alice.get(alice.make("what is this?", pictures=[plain, url])).json
    assert [(each["kind"], each["media_type"], each["width"]) for each in task["pictures"]] == [
        ("given", "image/png", 600),
        ("given", "image/jpeg", 9),
    ]
    place = task["pictures"][0]["url"]
    with alice.get(place) as got, admin.get(place) as seen:
        assert (got.status_code, got.mimetype, got.headers["Cache-Control"]) == (200, "image/png", "private, no-cache")
        assert seen.data == got.data
    assert bob.get(place).status_code == site.app.test_client().get(place).status_code + 3 == 404
    assert alice.get("/api/pictures/" + "0" * 64).status_code == alice.get("/api/pictures/..").status_code == 404
    site.change(uuid.UUID(task["id"]), status="failed")
    again = alice.post(f"{TASKS}/{task['id']}/regenerate").json
    assert [each["sha256"] for each in again["pictures"]] == [each["sha256"] for each in task["pictures"]]
    assert site.count(Attachment) == 4


def test_a_template_makes_the_prompt_and_the_call_may_say_otherwise(site: Site) -> None:
    alice = Program(site, ALICE)
    draft = {
        "name": "Haiku",
        "text": "A haiku about {{thing}}",
        "variables": [{"name": "thing"}],
        "parameters": {"fresh": True, "model": "demo/demo"},
    }
    template = alice.post("/api/templates", draft)
    assert template.status_code == 201, template.text
    template_id = template.json["id"]
    task = alice.get(alice.make_of({"template_id": template_id, "variables": {"thing": "rain"}})).json
    assert (task["prompt"], task["parameters"]) == ("A haiku about rain", {"fresh": True, "model": "demo/demo"})
    assert task["template_version_id"] == template.json["current"]["id"]
    other = {"template_id": template_id, "variables": {"thing": "sun"}, "model": "demo/other", "parameters": {"fresh": False}}
    assert alice.get(alice.make_of(other)).json["parameters"] == {"fresh": False, "model": "demo/other"}
    assert alice.get(f"/api/templates/{template_id}").json["used"] == 2
    for body, field in (
        ({"template_id": template_id}, "variables.thing"),
        ({"template_id": template_id, "variables": {"thing": "x", "more": "y"}}, "variables.more"),
        ({"template_id": template_id, "variables": {"thing": 7}}, "variables.thing"),
    ):
        refused = alice.post(TASKS, body)
        assert (refused.status_code, refused.json["field"]) == (422, field), refused.text


def test_a_session_needs_no_token_but_says_that_it_is_a_page_of_ours(site: Site) -> None:
    browser = site.browser(ALICE)
    assert browser.get(TASKS).json["items"] == []
    refused = browser.client.post(TASKS, json={"prompt": "x"})
    assert (refused.status_code, refused.mimetype) == (400, "application/problem+json")
