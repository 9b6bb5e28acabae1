"""Outgoing webhooks: what is written in which transaction, what is sent, what becomes of a receiver that fails."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, select, update

from tests.fakes.receiver import FakeReceiver
from tests.fakes.server import FakeReply, Fault
from tests.fakes.smtp import FakeSmtp
from tests.fakes.twilio import FakeTwilio
from tests.support import add_person, one, requests, rows, run_jobs, sent, text
from webapp.contracts import webhooks as events
from webapp.contracts.channels import DeliveryStatus, Receipt
from webapp.contracts.errors import BadInput, Conflict, LimitReached, NotFound
from webapp.extensions import db, now, writing
from webapp.models import AuditEntry, ErrorLog, Membership, Organization, PersonRole, Plan
from webapp.models import WebhookDelivery as Delivery
from webapp.models import WebhookEndpoint as Endpoint
from webapp.models import WebhookState as State
from webapp.pipeline import cancel, execute, receipts, sweep, webhook_send, webhooks
from webapp.pipeline.admit import admit
from webapp.pipeline.intake import Intake
from webapp.routing import listeners, vendors
from webapp.services import accounts, organizations, webhook_log
from webapp.services import webhooks as endpoints
from webapp.services.organizations import Actor
from webapp.services.webhooks import Change

OPERATOR = Actor.operator("a test")
ALICE = "+15005550006"
sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def receiver() -> Iterator[FakeReceiver]:
    with FakeReceiver() as fake:
        yield fake


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Iterator[Flask]:
    app = make_app(allow_outbound="127.0.0.1", webhook_waits_s="0,0,60", webhook_timeout_s=2.0, webhook_disable_after_h=1)
    with app.app_context():
        yield app


def home() -> uuid.UUID:
    """The organization in which everybody is who is in no other."""
    return rows(select(Organization.id).order_by(Organization.id).limit(1))[0]


def add(receiver: FakeReceiver, *wanted: str, organization_id: uuid.UUID | None = None) -> uuid.UUID:
    made = endpoints.create(OPERATOR, organization_id or home(), receiver.hook, events=wanted)
    receiver.secrets.append(made.secret)
    return made.endpoint.id


def deliveries() -> list[Delivery]:
    return rows(select(Delivery).order_by(Delivery.id))


def noted(count: int, endpoint_event: str = events.MESSAGE_UPDATED) -> list[uuid.UUID]:
    """So many events, as a transaction writes them."""
    with writing() as connection:
        return [
            found
            for number in range(count)
            for found in webhooks.note(connection, endpoint_event, home(), lambda number=number: {"number": number}, now())
        ]


def later() -> None:
    """Let what waits for its next try be due."""
    with writing() as connection:
        waiting = update(Delivery).where(Delivery.state == State.PENDING)
        connection.execute(waiting.values(next_try_at=now() - timedelta(seconds=5)))


# -- what happens is told ------------------------------------------------------------------------------------------------
def test_a_request_a_message_and_its_receipts_are_told(
    make_app: Callable[..., Flask], twilio: FakeTwilio, receiver: FakeReceiver
) -> None:
    with make_app(allow_outbound="127.0.0.1").app_context():
        add(receiver)
        text("How do I reverse a list?", ALICE, channel="twilio")
        run_jobs()
        answer = sent(ALICE)[0]
        receipts.record(Receipt("twilio", answer.external_id or "", DeliveryStatus.DELIVERED))
        receipts.record(Receipt("twilio", answer.external_id or "", DeliveryStatus.SENT))
        run_jobs()
        (request,) = requests()
        (completed,) = receiver.data(events.REQUEST_COMPLETED)
        (received,) = receiver.data(events.MESSAGE_RECEIVED)
        updates = receiver.data(events.MESSAGE_UPDATED)
        assert completed == {
            "request_id": str(request.id),
            "person_id": str(request.person_id),
            "conversation_id": str(request.conversation_id),
            "channel": "sms",
            "operation": "chat",
            "status": "completed",
            "category": request.category,
            "provider": request.provider,
            "model": request.model,
            "cached": False,
            "input_tokens": request.input_tokens,
            "output_tokens": request.output_tokens,
            "cost_microusd": request.cost_microusd,
            "error_code": None,
        }
        assert received["request_id"] == str(request.id)
        assert [update["status"] for update in updates] == ["queued", "delivered"]
        assert {update["message_id"] for update in updates} == {str(answer.id)}
        assert not any(ALICE in request.body.decode() or "reverse" in request.body.decode() for request in receiver.requests)
        assert {row.state for row in deliveries()} == {State.DELIVERED}
        assert len({message_id for message_id, _ in receiver.messages}) == len(receiver.messages) == 4


@sqlite
def test_a_failure_a_cancel_and_a_full_limit_are_told(app: Flask, receiver: FakeReceiver) -> None:
    add(receiver, events.REQUEST_FAILED, events.QUOTA_WARNING)
    person = add_person(email="alice@example.com")
    waiting = admit(Intake(medium="web", text="first", person_id=person))
    assert waiting.request_id is not None
    cancel.cancel(waiting.request_id, person)
    with writing() as connection:
        connection.execute(update(Plan).values(limits={"messages": 1}))
    done = admit(Intake(medium="web", text="second", person_id=person))
    assert done.request_id is not None
    execute.execute(done.request_id)
    with pytest.raises(LimitReached):
        admit(Intake(medium="web", text="third", person_id=person))
    run_jobs()
    (failed,) = receiver.data(events.REQUEST_FAILED)
    assert (failed["request_id"], failed["status"]) == (str(waiting.request_id), "cancelled")
    (warned,) = receiver.data(events.QUOTA_WARNING)
    assert (warned["person_id"], warned["percent"], warned["maximum"]) == (str(person), 100, 1)
    assert warned["organization_id"] == str(home())


def test_an_attended_request_is_told_like_any_other(app: Flask, receiver: FakeReceiver) -> None:
    accounts.create_person(actor="test", email="alice@example.com")
    headers = {"Authorization": f"Bearer {accounts.create_token('alice@example.com', 'test', ['chat'], None, 'test')}"}

    def ask(text: str) -> None:
        body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
        assert app.test_client().post("/v1/chat/completions", json=body, headers=headers).status_code == 200

    ask("What is one and one?")
    ask("What is one and two?")
    add(receiver, events.REQUEST_COMPLETED)
    ask("What is one and three?")
    run_jobs()
    (told,) = receiver.data(events.REQUEST_COMPLETED)
    assert told["request_id"] == str(requests()[-1].id)


def test_what_is_rolled_back_is_not_told(app: Flask, receiver: FakeReceiver) -> None:
    add(receiver)
    here = home()
    with writing() as connection:
        assert len(webhooks.note(connection, events.MESSAGE_UPDATED, here, lambda: {}, now())) == 1
        connection.rollback()
    assert deliveries() == []


def test_an_organization_hears_nothing_of_another_and_only_what_it_wants(app: Flask, receiver: FakeReceiver) -> None:
    other = organizations.create(OPERATOR, "Dyers").id
    theirs = add(receiver, organization_id=other)
    mine = add(receiver, events.REQUEST_FAILED)
    receiver.secrets.clear()
    text("hello")
    run_jobs()
    assert receiver.messages == []
    assert deliveries() == []
    with writing() as connection:
        assert len(webhooks.note(connection, events.REQUEST_FAILED, home(), lambda: {}, now())) == 1
        assert len(webhooks.note(connection, events.REQUEST_FAILED, other, lambda: {}, now())) == 1
    assert {row.endpoint_id for row in deliveries()} == {mine, theirs}


def test_without_an_endpoint_for_it_an_event_costs_no_statement(app: Flask, receiver: FakeReceiver) -> None:
    add(receiver, events.QUOTA_WARNING)
    other = organizations.create(OPERATOR, "Dyers").id
    add(receiver, organization_id=other)
    counted: list[str] = []

    def statement(_c: object, _cursor: object, sql: str, *_: object) -> None:
        counted.append(sql)

    here = home()
    with writing() as connection:
        event.listen(db.engine, "before_cursor_execute", statement)
        try:
            for name in events.EVENTS:
                if name != events.QUOTA_WARNING:
                    assert webhooks.note(connection, name, here, lambda: pytest.fail("asked for nothing"), now()) == ()
        finally:
            event.remove(db.engine, "before_cursor_execute", statement)
    assert counted == []


def test_another_process_notices_a_change_at_its_next_look(
    app: Flask, make_app: Callable[..., Flask], receiver: FakeReceiver
) -> None:
    other = make_app()
    with other.app_context():
        vendors.current()
    endpoint_id = add(receiver, events.QUOTA_WARNING)
    organization_id = home()
    with other.app_context():
        assert not listeners.wanted(organization_id, events.QUOTA_WARNING)
        vendors.look_again()
        assert listeners.wanted(organization_id, events.QUOTA_WARNING)
        assert not listeners.wanted(organization_id, events.REQUEST_FAILED)
    endpoints.change(OPERATOR, organization_id, endpoint_id, Change(active=False))
    assert not listeners.wanted(organization_id, events.QUOTA_WARNING)
    with other.app_context():
        vendors.look_again()
        assert not listeners.wanted(organization_id, events.QUOTA_WARNING)


# -- the way out ---------------------------------------------------------------------------------------------------------
@sqlite
@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        (Fault(status=500, body=b"sk-123 whsec_abc +15005550006"), 500, "It answered 500. It said: sk-123 [key] +1********06"),
        (Fault(status=302, headers={"Location": "http://127.0.0.1:1/inside"}), 302, "a redirect, which is not followed"),
        (Fault(hang=True), None, "no answer within 2 seconds"),
        (Fault(drop=True), None, "There was no answer"),
        (Fault(garbage=b"\x00\x01 nonsense\r\n\r\n"), None, "not HTTP"),
        (Fault(status=503, body=b"x" * 10_000_000), 503, "It answered 503"),
    ],
    ids=["error", "redirect", "hang", "drop", "garbage", "huge"],
)
def test_a_receiver_that_fails_gets_it_again_with_the_same_id(
    app: Flask, receiver: FakeReceiver, fault: Fault, status: int | None, words: str
) -> None:
    endpoint_id = add(receiver)
    receiver.faults.append(fault)
    (delivery_id,) = noted(1)
    assert webhook_send.send(delivery_id) is State.PENDING
    (row,) = deliveries()
    assert (row.log[0]["status"], row.attempts) == (status, 1)
    assert words in row.log[0]["words"]
    assert len(row.log[0]["words"]) < 500
    assert one(select(Endpoint)).failing_since is not None
    assert webhook_send.send(delivery_id) is State.DELIVERED
    assert [message_id for message_id, _ in receiver.messages] == [str(delivery_id)]
    assert [each.header("webhook-id") for each in receiver.requests] == [str(delivery_id)] * 2
    assert one(select(Endpoint)).failing_since is None
    view = webhook_log.rows(OPERATOR, home(), endpoint_id)[0]
    assert (view.state, [each.status for each in view.tries]) == (State.DELIVERED, [status, 204])


@sqlite
def test_an_answer_that_drips_or_has_no_end_is_cut_and_still_counts(app: Flask, receiver: FakeReceiver) -> None:
    add(receiver)

    def drip() -> Iterator[bytes]:
        while not receiver.stopping.wait(0.1):
            yield b"x"

    def flood() -> Iterator[bytes]:
        while not receiver.stopping.is_set():
            yield b"x" * 65_536

    for body in (drip(), flood()):
        receiver.reply = FakeReply(200, {}, body)
        (delivery_id,) = noted(1)
        assert webhook_send.send(delivery_id) is State.DELIVERED
    assert max(row.log[0]["ms"] for row in deliveries()) < 5000
    assert [row.log[0]["words"] for row in deliveries()] == ["", ""]


@sqlite
def test_tries_end_after_the_last_wait_and_a_message_may_be_sent_again_by_hand(app: Flask, receiver: FakeReceiver) -> None:
    endpoint_id = add(receiver)
    receiver.reply = FakeReply(500)
    (delivery_id,) = noted(1)
    states = []
    for _ in range(5):
        states.append(webhook_send.send(delivery_id))
        later()
    assert states == [State.PENDING, State.PENDING, State.PENDING, State.FAILED, None]
    receiver.reply = None
    webhook_log.resend(OPERATOR, home(), endpoint_id, delivery_id)
    with pytest.raises(Conflict, match="still on its way"):
        webhook_log.resend(OPERATOR, home(), endpoint_id, delivery_id)
    run_jobs()
    (row,) = deliveries()
    assert (row.state, [each["status"] for each in row.log]) == (State.DELIVERED, [500, 500, 500, 500, 204])
    assert {message_id for message_id, _ in receiver.messages} == {str(delivery_id)}
    with pytest.raises(NotFound):
        webhook_log.resend(OPERATOR, organizations.create(OPERATOR, "Dyers").id, endpoint_id, delivery_id)


def test_two_workers_never_send_the_same_try(app: Flask, receiver: FakeReceiver) -> None:
    add(receiver)
    ids = noted(12)
    begin = threading.Barrier(2)

    def work() -> None:
        with app.app_context():
            begin.wait(10)
            for delivery_id in ids:
                webhook_send.send(delivery_id)
            db.session.remove()

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work) for _ in range(2)]:
            done.result()
    assert sorted(message_id for message_id, _ in receiver.messages) == sorted(map(str, ids))
    assert {(row.state, row.attempts) for row in deliveries()} == {(State.DELIVERED, 1)}


def test_what_a_dead_worker_had_in_its_hands_is_sent_again(app: Flask, receiver: FakeReceiver) -> None:
    add(receiver)
    (delivery_id,) = noted(1)
    assert webhook_send._take(delivery_id) is not None
    # Its claim still holds: nobody else sends it.
    assert webhook_send.send(delivery_id) is None
    assert webhook_send.due() == []
    with writing() as connection:
        past = now() - timedelta(seconds=1)
        connection.execute(update(Delivery).values(claimed_until=past, next_try_at=past))
    sweep.sweep()
    run_jobs()
    assert [message_id for message_id, _ in receiver.messages] == [str(delivery_id)]
    (row,) = deliveries()
    assert (row.state, row.attempts, [each["words"] for each in row.log]) == (
        State.DELIVERED,
        2,
        ["The process that sent it has died.", ""],
    )


_SENDER = """
import sys, uuid
from pathlib import Path
from tests.conftest import make_settings
from webapp import create_app
from webapp.pipeline import webhook_send
folder, redis_url, database_url, delivery_id = sys.argv[1:]
settings = make_settings(Path(folder), redis_url, database_url=database_url, allow_outbound="127.0.0.1", webhook_timeout_s=30.0)
with create_app(settings).app_context():
    webhook_send.send(uuid.UUID(delivery_id))
"""


@sqlite
def test_a_process_that_is_killed_while_it_sends_loses_nothing(
    app: Flask, receiver: FakeReceiver, tmp_path: Path, redis_url: str, database_url: str
) -> None:
    add(receiver)
    (delivery_id,) = noted(1)
    receiver.gate = threading.Event()
    command = [sys.executable, "-c", _SENDER, str(tmp_path), redis_url, database_url, str(delivery_id)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as process:
        receiver.wait_until(lambda: len(receiver.messages) == 1, 30)
        process.kill()
    receiver.gate.set()
    with writing() as connection:
        # Its claim runs out.
        past = now() - timedelta(seconds=1)
        connection.execute(update(Delivery).values(claimed_until=past, next_try_at=past))
    sweep.sweep()
    run_jobs()
    assert [message_id for message_id, _ in receiver.messages] == [str(delivery_id)] * 2
    assert [(row.state, row.attempts) for row in deliveries()] == [(State.DELIVERED, 2)]


@sqlite
def test_endpoints_that_fail_get_a_part_of_the_jobs_however_many_they_are(
    make_app: Callable[..., Flask], receiver: FakeReceiver
) -> None:
    app = make_app(allow_outbound="127.0.0.1", worker_jobs=8)
    with app.app_context(), FakeReceiver() as well:
        for _ in range(2):
            add(receiver, events.MESSAGE_UPDATED)
        receiver.secrets.clear()
        with writing() as connection:
            connection.execute(update(Endpoint).values(failing_since=now()))
        add(well, events.QUOTA_WARNING)
        receiver.gate = threading.Event()
        first, second = noted(1)
        (other,) = noted(1, events.QUOTA_WARNING)

        def work() -> Any:
            with app.app_context():
                return webhook_send.send(first)

        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(work)
            receiver.wait_until(lambda: len(receiver.messages) == 1)
            assert webhook_send.send(second) is None
            assert webhook_send.send(other) is State.DELIVERED
            receiver.gate.set()
            assert running.result() is State.DELIVERED
        assert webhook_send.send(second) is State.DELIVERED


def test_the_sweep_finds_what_was_never_enqueued_a_few_of_each_endpoint(app: Flask, receiver: FakeReceiver) -> None:
    add(receiver)
    assert len(noted(30)) == 30
    assert webhook_send.due() == []
    later()
    other = organizations.create(OPERATOR, "Dyers").id
    add(receiver, organization_id=other)
    receiver.secrets.clear()
    with writing() as connection:
        (theirs,) = webhooks.note(connection, events.MESSAGE_UPDATED, other, lambda: {}, now() - timedelta(seconds=4))
    found = webhook_send.due()
    # Thirty that wait for one do not keep the other's only message from being sent.
    assert len(found) == webhook_send.LANES + 1
    assert theirs in found
    assert sweep.sweep().webhooks == webhook_send.LANES + 1
    run_jobs()
    assert len(receiver.messages) == 31


@sqlite
def test_an_endpoint_has_a_few_lanes_and_a_failing_one_has_one(app: Flask, receiver: FakeReceiver) -> None:
    add(receiver)
    receiver.gate = threading.Event()
    ids = noted(8)

    def work(delivery_id: uuid.UUID) -> Any:
        with app.app_context():
            return webhook_send.send(delivery_id)

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(work, delivery_id) for delivery_id in ids]
        receiver.wait_until(lambda: len(receiver.messages) == webhook_send.LANES)
        receiver.gate.set()
        states = [done.result() for done in running]
    # Those who found the lanes taken left theirs to whoever was in them.
    assert states.count(None) >= 1
    later()
    sweep.sweep()
    run_jobs()
    assert {row.state for row in deliveries()} == {State.DELIVERED}
    assert len(receiver.messages) == 8
    with writing() as connection:
        connection.execute(update(Endpoint).values(failing_since=now()))
    receiver.gate = threading.Event()
    first, second = noted(2)
    with ThreadPoolExecutor(1) as pool:
        running = [pool.submit(work, first)]
        receiver.wait_until(lambda: len(receiver.messages) == 9)
        assert webhook_send.send(second) is None
        receiver.gate.set()
        assert running[0].result() is State.DELIVERED


# -- an endpoint that is switched off ------------------------------------------------------------------------------------
def test_an_endpoint_that_only_fails_is_switched_off_and_its_managers_are_told(
    make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch, receiver: FakeReceiver
) -> None:
    with FakeSmtp() as mail:
        monkeypatch.setenv("SMTP_URL", mail.url())
        monkeypatch.setenv("MAIL_FROM", "Switchhook <bot@example.com>")
        with make_app(allow_outbound="127.0.0.1", webhook_waits_s="60", webhook_disable_after_h=2).app_context():
            boss = add_person(email="boss@example.com")
            with writing() as connection:
                connection.execute(update(Membership).where(Membership.person_id == boss).values(role=PersonRole.MANAGER))
            endpoint_id = add(receiver)
            receiver.reply = FakeReply(500)
            first, second = noted(2)
            assert webhook_send.send(first) is State.PENDING
            assert one(select(Endpoint)).active
            with writing() as connection:
                connection.execute(update(Endpoint).values(failing_since=now() - timedelta(hours=3)))
            webhook_send.send(second)
            endpoint = one(select(Endpoint))
            assert not endpoint.active
            assert "failed for 2 hours" in (endpoint.disabled_reason or "")
            assert noted(1) == []
            later()
            assert webhook_send.due() == []
            assert {row.state for row in deliveries()} == {State.CANCELLED}
            audited = rows(select(AuditEntry.action).where(AuditEntry.subject == f"webhook:{endpoint_id}"))
            assert sorted(audited) == ["webhook.create", "webhook.disable"]
            assert one(select(ErrorLog.kind).where(ErrorLog.kind == "webhook_disabled"))
            run_jobs()
            told = [row for row in sent("boss@example.com") if "webhook" in (row.subject or "")]
            assert len(told) == 1
            assert "failed for 2 hours" in told[0].body
            with pytest.raises(Conflict, match="switched off"):
                webhook_log.resend(OPERATOR, home(), endpoint_id, first)
            endpoints.change(OPERATOR, home(), endpoint_id, Change(active=True))
            again = one(select(Endpoint))
            assert (again.failing_since, again.disabled_reason) == (None, None)


@sqlite
def test_gone_switches_an_endpoint_off_at_once(app: Flask, receiver: FakeReceiver) -> None:
    add(receiver)
    receiver.faults.append(Fault(status=410))
    (delivery_id,) = noted(1)
    assert webhook_send.send(delivery_id) is State.FAILED
    assert "410" in (one(select(Endpoint)).disabled_reason or "")


@sqlite
def test_a_test_message_goes_out_at_once_and_harms_nobody(app: Flask, receiver: FakeReceiver) -> None:
    endpoint_id = add(receiver, events.QUOTA_WARNING)
    answer = webhook_send.ping(endpoint_id)
    assert answer is not None
    assert answer.delivered
    assert receiver.types == [events.PING]
    receiver.faults.append(Fault(status=410))
    failed = webhook_send.ping(endpoint_id)
    assert failed is not None
    assert (failed.delivered, failed.status) == (False, 410)
    assert one(select(Endpoint)).active
    endpoints.change(OPERATOR, home(), endpoint_id, Change(active=False))
    assert webhook_send.ping(endpoint_id) is not None
    assert [row.state for row in deliveries()] == [State.DELIVERED, State.FAILED, State.DELIVERED]
    assert webhook_send.ping(uuid.uuid4()) is None


# -- endpoints -----------------------------------------------------------------------------------------------------------
@sqlite
def test_for_a_day_after_a_change_of_the_secret_both_fit(app: Flask, receiver: FakeReceiver) -> None:
    endpoint_id = add(receiver)
    made = endpoints.rotate(OPERATOR, home(), endpoint_id)
    receiver.secrets.append(made.secret)
    assert len(set(receiver.secrets)) == 2
    assert made.endpoint.both_until is not None
    (first,) = noted(1)
    assert webhook_send.send(first) is State.DELIVERED
    with writing() as connection:
        connection.execute(update(Endpoint).values(secret_before_until=now()))
    del receiver.secrets[0]
    (second,) = noted(1)
    assert webhook_send.send(second) is State.DELIVERED
    assert " " not in receiver.requests[-1].header("webhook-signature")
    stored = one(select(Endpoint))
    assert made.secret not in stored.secret
    assert "whsec" not in stored.secret


@sqlite
def test_internal_addresses_are_refused_when_set_and_when_called(
    make_app: Callable[..., Flask], receiver: FakeReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    # That the operator named it as a vendor's address is not enough.
    monkeypatch.setenv("OPENAI_BASE_URL", receiver.url)
    with make_app().app_context():
        for url in (receiver.hook, "http://169.254.169.254/latest", "http://localhost:1/", "http://[::ffff:10.0.0.1]/"):
            with pytest.raises(BadInput, match="internal address"):
                endpoints.create(OPERATOR, home(), url)
        made = endpoints.create(OPERATOR, home(), "https://hooks.invalid/x?token=abc123")
        with writing() as connection:
            connection.execute(update(Endpoint).values(url=receiver.hook))
        answer = webhook_send.ping(made.endpoint.id)
        assert answer is not None
        assert answer.status is None
        assert "internal address" in answer.words
        assert receiver.requests == []


@sqlite
def test_what_is_wrong_with_an_endpoint_names_the_field(app: Flask) -> None:
    wrong = {
        "url": [
            "",
            "example.com",
            "ftp://example.com/",
            "https://",
            "https://user:pw@example.com/",
            "https://example.com/#x",
            "https://example.com:0/",
            "https://exa mple.com/",
            "https://-x-/",
            "https://example.com/" + "x" * 2000,
            "https://münchen.example/",
            "https://example.com/\x00",
        ],
        "description": ["x" * 256],
        "events": ["request.done"],
    }
    for field, values in wrong.items():
        for value in values:
            given: dict[str, Any] = {"url": "https://example.com/", field: [value] if field == "events" else value}
            with pytest.raises(BadInput) as found:
                endpoints.create(OPERATOR, home(), **given)
            assert found.value.field == field, value
    assert endpoints.count(OPERATOR, home()) == 0


def test_endpoints_are_changed_by_version_and_removed_with_their_log(app: Flask, receiver: FakeReceiver) -> None:
    endpoint_id = add(receiver)
    noted(3)
    here = home()
    changed = endpoints.change(OPERATOR, here, endpoint_id, Change(description="a  b", events=["quota.warning"]), seen=0)
    assert (changed.version, changed.description, changed.events) == (1, "a b", ("quota.warning",))
    for act in (
        lambda: endpoints.change(OPERATOR, here, endpoint_id, Change(active=False), seen=0),
        lambda: endpoints.rotate(OPERATOR, here, endpoint_id, seen=0),
        lambda: endpoints.remove(OPERATOR, here, endpoint_id, seen=0),
    ):
        with pytest.raises(Conflict):
            act()
    other = organizations.create(OPERATOR, "Dyers").id
    for act in (
        lambda: endpoints.show(OPERATOR, other, endpoint_id),
        lambda: endpoints.change(OPERATOR, other, endpoint_id, Change(active=False)),
        lambda: endpoints.rotate(OPERATOR, other, endpoint_id),
        lambda: endpoints.remove(OPERATOR, other, endpoint_id),
        lambda: webhook_log.rows(OPERATOR, other, endpoint_id),
    ):
        with pytest.raises(NotFound):
            act()
    endpoints.remove(OPERATOR, here, endpoint_id, seen=1)
    assert deliveries() == []
    assert endpoints.rows(OPERATOR, here) == []
    actions = rows(select(AuditEntry.action).where(AuditEntry.subject == f"webhook:{endpoint_id}").order_by(AuditEntry.id))
    assert actions == ["webhook.create", "webhook.change", "webhook.remove"]


def test_an_endpoint_that_is_removed_in_the_middle_of_a_settle_keeps_nobody_from_it(app: Flask, receiver: FakeReceiver) -> None:
    if db.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    endpoint_id, here = add(receiver), home()
    noting, go_on = threading.Event(), threading.Event()

    def settle() -> int:
        with app.app_context(), writing() as connection:
            ids = webhooks.note(connection, events.MESSAGE_UPDATED, here, lambda: {}, now())
            noting.set()
            go_on.wait(10)
            return len(ids)

    def remove() -> None:
        with app.app_context():
            endpoints.remove(OPERATOR, here, endpoint_id)

    with ThreadPoolExecutor(2) as pool:
        settled = pool.submit(settle)
        assert noting.wait(10)
        removed = pool.submit(remove)
        go_on.set()
        assert settled.result(10) == 1
        removed.result(10)
    assert deliveries() == []


@sqlite
def test_there_are_only_so_many_endpoints_of_an_organization(make_app: Callable[..., Flask]) -> None:
    with make_app(webhook_endpoints_max=2).app_context():
        for _ in range(2):
            endpoints.create(OPERATOR, home(), "https://hooks.invalid/")
        with pytest.raises(Conflict, match="at most 2"):
            endpoints.create(OPERATOR, home(), "https://hooks.invalid/")


def test_what_is_older_than_thirty_days_is_removed(app: Flask, receiver: FakeReceiver) -> None:
    add(receiver)
    old, fresh = noted(2)
    with writing() as connection:
        connection.execute(update(Delivery).where(Delivery.id == old).values(created_at=now() - timedelta(days=31)))
    assert webhook_log.remove_old().deliveries == 1
    assert [row.id for row in deliveries()] == [fresh]
