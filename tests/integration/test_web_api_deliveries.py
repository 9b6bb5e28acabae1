"""Messages through the REST API: who finds which, what is told of them, page by page."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
from flask import Flask

from tests.integration.people_api_support import ALICE, ALICE_PHONE, ANN, MARY, OLGA, OTTO, World, ok, refused
from tests.integration.web_support import ADMIN
from webapp.contracts.channels import DeliveryStatus
from webapp.extensions import now, writing_session
from webapp.models import Receipt, Request


@pytest.fixture
def world(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("SWITCHHOOK_DEMO_DELAY_MS", "0")
    return World(make_app())


def ids(items: list[dict[str, object]]) -> list[object]:
    return [item["id"] for item in items]


def asked(world: World, email: str) -> uuid.UUID:
    world.browser(email).ask("hello")
    world.run_jobs()
    request_id: uuid.UUID = world.newest_request().id
    return request_id


def test_everybody_finds_the_messages_that_are_theirs_to_see(world: World) -> None:
    hers, foreign = asked(world, ALICE), asked(world, ALICE)
    world.put(Request, Request.id == foreign, organization_id=world.other)
    bare = str(world.message(ALICE))
    answered = str(world.message(ALICE, kind="answer", request_id=hers))
    elsewhere = str(world.message(ALICE, kind="answer", request_id=foreign))
    anns, olgas, nobodys = str(world.message(ANN)), str(world.message(OLGA)), str(world.message(None))
    everything = {bare, answered, elsewhere, anns, olgas, nobodys}
    for caller, seen in (
        (world.api(ALICE), {bare, answered}),
        (world.api(MARY, "read"), set()),
        (world.api(MARY), {bare, answered, anns}),
        (world.api(OTTO), {elsewhere, olgas}),
        (world.api(ADMIN), everything),
        (world.api(ADMIN, "read"), set()),
    ):
        assert set(ids(caller.pages("/deliveries"))) == seen
        assert set(ids(caller.pages("/deliveries", person_id=str(world.ids[ALICE])))) == seen & {bare, answered, elsewhere}
        assert set(ids(caller.pages("/deliveries", request_id=str(hers)))) == seen & {answered}
        assert ok(caller.get("/deliveries", total="true"))["total"] == len(seen)
        for each in everything:
            response = caller.get(f"/deliveries/{each}")
            assert response.status_code == (200 if each in seen else 404)
    for path in ("/deliveries", f"/deliveries/{bare}"):
        refused(world.api(ALICE, "chat", "write").get(path), 403)
        refused(world.api().get(path), 401)


def test_managers_read_no_texts_of_others_and_vendors_words_are_for_administrators(world: World) -> None:
    words = {"error_code": "30003", "error_message": "the vendor's words", "external_id": "SM1", "address": ALICE_PHONE}
    alices = world.message(ALICE, "a secret", **words)
    marys, invitation = world.message(MARY, "to me"), world.message(None, "Join: https://x/secret", kind="notice")
    for email, body, detail in ((ALICE, "a secret", None), (MARY, None, None), (ADMIN, "a secret", "the vendor's words")):
        told = ok(world.api(email).get(f"/deliveries/{alices}"))["delivery"]
        assert (told["body"], told["error_message"], told["error_code"]) == (body, detail, "30003")
        assert told["external_id"] == ("SM1" if email == ADMIN else None)
        assert told["address"] == ALICE_PHONE
    assert ok(world.api(MARY).get(f"/deliveries/{marys}"))["delivery"]["body"] == "to me"
    assert ok(world.api(ADMIN).get(f"/deliveries/{invitation}"))["delivery"]["body"] is None
    assert "secret" not in world.api(MARY).get("/deliveries").text
    # Whoever may only send follows what was sent, and reads nothing.
    assert ok(world.api(MARY, "sms").get(f"/deliveries/{alices}"))["delivery"]["body"] is None
    assert ok(world.api(ALICE, "sms").get(f"/deliveries/{alices}"))["delivery"]["body"] is None
    refused(world.api(OTTO, "sms").get(f"/deliveries/{alices}"), 404)
    refused(world.api(ALICE, "sms").get("/deliveries"), 403)


def test_receipts_are_told_in_the_order_in_which_they_came(world: World) -> None:
    sent, at = world.message(ALICE, status="failed"), now()
    with world.app.app_context(), writing_session() as session:
        for number, status in enumerate((DeliveryStatus.SENT, DeliveryStatus.FAILED)):
            code = "30005" if number else None
            moment = at + timedelta(seconds=number)
            session.add(Receipt(delivery_id=sent, status=status, error_code=code, received_at=moment))
    found = ok(world.api(ALICE).get(f"/deliveries/{sent}"))
    assert [(each["status"], each["error_code"]) for each in found["receipts"]] == [("sent", None), ("failed", "30005")]
    assert found["delivery"]["status"] == "failed"
    refused(world.api(ALICE).get(f"/deliveries/{uuid.uuid4()}"), 404)
    refused(world.api(ALICE).get("/deliveries/nonsense"), 422, "delivery_id")


def test_messages_are_paged_to_the_end_and_filtered(world: World) -> None:
    made = []
    for number in range(12):
        status, direction = ("received", "in") if number % 3 == 0 else ("sent", "out")
        address, channel = f"+1500555{number:04d}", "twilio" if number % 2 else "simulator"
        made.append(str(world.message(ALICE, status=status, direction=direction, address=address, channel=channel)))
        world.message(OLGA)
    whole = made[::-1]
    earlier, later = ((now() + timedelta(minutes=m)).strftime("%Y-%m-%dT%H:%M:%SZ") for m in (-5, 5))
    for caller in (world.api(ALICE), world.api(MARY)):
        for limit in (5, 12):
            assert ids(caller.pages("/deliveries", limit=limit)) == whole
        for query, found in (
            ({"status": "received"}, whole[2::3]),
            ({"direction": "out", "channel": "twilio"}, [made[n] for n in (11, 7, 5, 1)]),
            ({"address": "+15005550004"}, [made[4]]),
            ({"kind": "manual", "created_from": earlier, "created_to": later}, whole),
            ({"created_from": later}, []),
            ({"person_id": str(world.ids[OLGA])}, []),
            ({"request_id": str(uuid.uuid4())}, []),
        ):
            assert ids(caller.pages("/deliveries", limit=3, **query)) == found, query
            assert ok(caller.get("/deliveries", total="true", **query))["total"] == len(found)
    for wrong, field in (
        ({"status": "x"}, "status"),
        ({"direction": "up"}, "direction"),
        ({"kind": "x"}, "kind"),
        ({"person_id": "x"}, "person_id"),
        ({"limit": 101}, "limit"),
        ({"cursor": "x"}, "cursor"),
        ({"created_from": "x"}, "created_from"),
        ({"phone": "x"}, "phone"),
    ):
        refused(world.api(ALICE).get("/deliveries", **wrong), 422, field)
