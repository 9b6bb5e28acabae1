"""Twilio's webhooks against the whole application, and what goes back through its API."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select

from tests.fakes.server import Fault
from tests.fakes.twilio import FakeTwilio
from tests.support import add_person, assert_books_balance, one, persons, requests, rows, run_jobs, sent
from webapp.extensions import db, now, writing, writing_session
from webapp.models import Delivery, Identity, Person, Receipt
from webapp.pipeline import sweep
from webapp.services import people

PUBLIC = "https://bot.example.com"
ALICE = "+15005550010"


@pytest.fixture
def app(make_app: Callable[..., Flask], twilio: FakeTwilio) -> Iterator[Flask]:
    app = make_app(public_url=PUBLIC)
    with app.app_context():
        yield app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def receive(client: FlaskClient, twilio: FakeTwilio, body: str, sender: str = ALICE, **more: str) -> int:
    headers, data = twilio.message(f"{PUBLIC}/sms/receive", sender, body, **more)
    response = client.post("/sms/receive", headers=headers, data=data)
    assert response.status_code != 200 or b"<Response" in response.data
    return response.status_code


def test_a_signed_message_is_answered_through_the_api(client: FlaskClient, twilio: FakeTwilio) -> None:
    assert receive(client, twilio, "How do I reverse a list?") == 200
    run_jobs()
    (message,) = twilio.sent
    assert message["to"] == ALICE
    assert message["status_callback"] == f"{PUBLIC}/sms/status"
    (delivery,) = sent()
    assert delivery.external_id == message["sid"]
    assert_books_balance()


def test_a_message_that_twilio_delivers_twice_is_answered_once(client: FlaskClient, twilio: FakeTwilio) -> None:
    headers, data = twilio.message(f"{PUBLIC}/sms/receive", ALICE, "hello")
    for _ in range(2):
        assert client.post("/sms/receive", headers=headers, data=data).status_code == 200
    run_jobs()
    assert [m["to"] for m in twilio.sent] == [ALICE]


def test_a_forged_message_is_refused_and_leaves_only_a_security_line(
    client: FlaskClient, twilio: FakeTwilio, caplog: pytest.LogCaptureFixture
) -> None:
    headers, data = twilio.message(f"{PUBLIC}/sms/receive", ALICE, "let me in")
    before = len(persons())
    with caplog.at_level(logging.INFO):
        for forged in (headers | {"X-Twilio-Signature": "AAAA"}, {"Content-Type": headers["Content-Type"]}):
            response = client.post("/sms/receive", headers=forged, data=data)
            assert (response.status_code, response.data) == (403, b"")
    assert requests() == []
    assert len(persons()) == before
    assert db.session.scalar(select(func.count()).select_from(Delivery)) == 0
    lines = [r.getMessage() for r in caplog.records if r.name == "switchhook.security"]
    assert len(lines) == 2
    assert not any("let me in" in line or ALICE in line for line in lines)


@pytest.mark.parametrize("field", ["MessageSid", "From"])
def test_a_missing_field_is_named(client: FlaskClient, twilio: FakeTwilio, field: str) -> None:
    form = {"MessageSid": "SM" + "1" * 32, "From": ALICE, "To": twilio.number, "Body": "x"}
    del form[field]
    headers, data = twilio.signed(f"{PUBLIC}/sms/receive", **form)
    response = client.post("/sms/receive", headers=headers, data=data)
    assert response.status_code == 400
    assert field in response.text


def test_a_sender_that_is_no_number_is_a_clear_400(client: FlaskClient, twilio: FakeTwilio) -> None:
    headers, data = twilio.signed(f"{PUBLIC}/sms/receive", MessageSid="SM1", From="not a number", Body="x", To="+15005550001")
    response = client.post("/sms/receive", headers=headers, data=data)
    assert response.status_code == 400
    assert "From" in response.text


def test_a_body_of_100_kb_is_refused_without_a_trace(client: FlaskClient, twilio: FakeTwilio) -> None:
    assert receive(client, twilio, "x" * 100_000) == 413
    assert requests() == []


@pytest.mark.parametrize("body", ["a\x00b", "😀" * 50, "مرحبا", "a & b = c + d", ""])
def test_odd_bodies_are_taken(client: FlaskClient, twilio: FakeTwilio, body: str) -> None:
    assert receive(client, twilio, body) == 200
    run_jobs()
    assert len(twilio.sent) == 1


def test_stop_is_left_to_twilio_to_answer_and_silences_the_number(client: FlaskClient, twilio: FakeTwilio) -> None:
    receive(client, twilio, "STOP", OptOutType="STOP")
    receive(client, twilio, "hello?")
    run_jobs()
    assert twilio.sent == []
    assert one(select(Identity.opted_out_at)) is not None


def test_help_is_left_to_twilio_to_answer(client: FlaskClient, twilio: FakeTwilio) -> None:
    receive(client, twilio, "HELP")
    run_jobs()
    assert twilio.sent == []


def status(client: FlaskClient, twilio: FakeTwilio, sid: str, state: str, code: str = "") -> int:
    headers, data = twilio.receipt(f"{PUBLIC}/sms/status", sid, state, code)
    return client.post("/sms/status", headers=headers, data=data).status_code


def test_receipts_move_a_delivery_forward_only(client: FlaskClient, twilio: FakeTwilio) -> None:
    receive(client, twilio, "hello")
    run_jobs()
    sid = twilio.sent[0]["sid"]
    for state in ("sent", "delivered", "sent", "delivered", "queued"):
        assert status(client, twilio, sid, state) == 204
    assert sent()[0].status == "delivered"
    assert sorted(rows(select(Receipt.status))) == ["delivered", "queued", "sent"]


def test_an_undelivered_message_keeps_twilios_error_code(client: FlaskClient, twilio: FakeTwilio) -> None:
    receive(client, twilio, "hello")
    run_jobs()
    status(client, twilio, twilio.sent[0]["sid"], "undelivered", "30003")
    assert (sent()[0].status, sent()[0].error_code) == ("undelivered", "30003")


def test_a_receipt_that_comes_before_twilios_answer_is_not_lost(client: FlaskClient, twilio: FakeTwilio) -> None:
    receive(client, twilio, "hello")
    expected = "SM" + "0" * 31 + "1"
    handle = twilio._create

    def early(request: object) -> object:
        reply = handle(request)  # type: ignore[arg-type]
        status(client, twilio, twilio.sent[-1]["sid"], "delivered")
        return reply

    twilio._create = early  # type: ignore[method-assign, assignment]
    run_jobs()
    assert sent()[0].status == "delivered", expected


def test_a_carrier_that_knows_of_an_opt_out_teaches_us(client: FlaskClient, twilio: FakeTwilio) -> None:
    twilio.opt_outs.add(ALICE)
    receive(client, twilio, "hello")
    run_jobs()
    assert sent()[0].status == "failed"
    assert one(select(Identity.opted_out_at)) is not None


def test_a_busy_twilio_is_tried_again_later(client: FlaskClient, twilio: FakeTwilio) -> None:
    twilio.faults.append(Fault(path="Messages", status=429, body=b'{"code":20429,"message":"Too Many Requests","status":429}'))
    receive(client, twilio, "hello")
    run_jobs()
    (waiting,) = sent()
    assert (waiting.status, len(twilio.sent)) == ("pending", 0)
    assert waiting.next_try_at is not None
    assert waiting.next_try_at > now()
    make_old(waiting)
    assert sweep.sweep().deliveries == 1
    run_jobs()
    assert len(twilio.sent) == 1


def make_old(delivery: Delivery, **values: object) -> None:
    """As if an hour had passed over a delivery."""
    past = now().replace(year=now().year - 1)
    columns = {"next_try_at": past, "updated_at": past, "claimed_at": past} | values
    with writing() as connection:
        connection.execute(Delivery.__table__.update().where(Delivery.id == delivery.id).values(columns))


def test_a_send_whose_answer_was_lost_is_looked_up_and_not_repeated(client: FlaskClient, twilio: FakeTwilio) -> None:
    twilio.faults.append(Fault(path="Messages", status=503, body=b"", handled=True))
    receive(client, twilio, "hello")
    run_jobs()
    assert sent()[0].status == "unknown"
    with writing() as connection:
        connection.execute(Delivery.__table__.update().values(updated_at=now().replace(year=2025)))
    sweep.sweep()
    run_jobs()
    assert len(twilio.sent) == 1
    assert sent()[0].external_id == twilio.sent[0]["sid"]
    assert sent()[0].status == "queued"


def test_a_send_that_never_reached_twilio_is_sent_again_after_the_look_up(client: FlaskClient, twilio: FakeTwilio) -> None:
    twilio.faults.append(Fault(path="Messages", status=503, body=b"", handled=False))
    receive(client, twilio, "hello")
    run_jobs()
    assert sent()[0].status == "unknown"
    with writing() as connection:
        connection.execute(Delivery.__table__.update().values(updated_at=now().replace(year=2025)))
    sweep.sweep()
    run_jobs()
    assert len(twilio.sent) == 1
    assert sent()[0].status == "queued"


# -- POST /sms/send ----------------------------------------------------------------------------------------------------
def token(scope: str) -> str:
    with writing_session() as session:
        admin = session.scalars(select(Person).where(Person.role == "admin")).one()
        return people.make_token(session, admin, "tests", [scope], None, "tests")


def test_a_program_sends_a_message_with_its_token(client: FlaskClient, twilio: FakeTwilio) -> None:
    headers = {"Authorization": f"Bearer {token('sms')}"}
    response = client.post("/sms/send", json={"to": ALICE, "body": "Hello from the house"}, headers=headers)
    assert response.status_code == 202
    run_jobs()
    assert [(m["to"], m["body"]) for m in twilio.sent] == [(ALICE, "Hello from the house")]


def test_sending_needs_a_token_with_the_scope(client: FlaskClient, twilio: FakeTwilio) -> None:
    for value in (f"Bearer {token('read')}", "Bearer nonsense", "Basic YTpi", "", None):
        headers = {} if value is None else {"Authorization": value}
        assert client.post("/sms/send", json={"to": ALICE, "body": "x"}, headers=headers).status_code == 401
    run_jobs()
    assert twilio.sent == []


def test_json_that_is_nested_without_end_is_refused(client: FlaskClient, twilio: FakeTwilio) -> None:
    headers = {"Authorization": f"Bearer {token('sms')}", "Content-Type": "application/json"}
    assert client.post("/sms/send", data="[" * 100_000, headers=headers).status_code == 400


@pytest.mark.parametrize(
    ("given", "field"),
    [({"body": "x"}, "to"), ({"to": "12"}, "to"), ({"to": ALICE}, "body"), ({"to": ALICE, "body": 7}, "body")],
)
def test_what_is_wrong_with_a_message_is_named(
    client: FlaskClient, twilio: FakeTwilio, given: dict[str, object], field: str
) -> None:
    response = client.post("/sms/send", json=given, headers={"Authorization": f"Bearer {token('sms')}"})
    assert (response.status_code, response.json["error"]["field"]) == (400, field)


def test_nobody_writes_to_a_number_that_opted_out(client: FlaskClient, twilio: FakeTwilio) -> None:
    add_person(phone=ALICE)
    receive(client, twilio, "STOP")
    response = client.post("/sms/send", json={"to": ALICE, "body": "x"}, headers={"Authorization": f"Bearer {token('sms')}"})
    assert response.status_code == 409
    run_jobs()
    assert twilio.sent == []
