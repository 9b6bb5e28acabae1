"""What messages cost: in the ledger once, at the price of whoever knows it, and nowhere in the figures of models."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal

import pytest
from flask import Flask
from sqlalchemy import insert, select, update

from tests.fakes.server import Fault
from tests.fakes.twilio import FakeTwilio
from tests.support import add_person, assert_books_balance, one, rows, run_jobs, sent, text
from webapp.contracts.channels import DeliveryStatus, Receipt
from webapp.extensions import now, writing
from webapp.models import Delivery, LedgerEntry, Organization, Person, PersonRole, Request
from webapp.models.columns import new_id
from webapp.pipeline import receipts
from webapp.pipeline.deliver import deliver, look_up, send_by_hand
from webapp.plugin import Channel, OutboundMessage, SendUnknown, Sent, hookimpl
from webapp.registry import current_registry
from webapp.services import ledger_sums

ALICE = "+15005550010"


@pytest.fixture
def app(make_app: Callable[..., Flask], twilio: FakeTwilio) -> Iterator[Flask]:
    app = make_app()
    with app.app_context():
        yield app


class Pigeon(Channel):
    """A channel that says of what it sent whatever `answer` is."""

    name = "pigeon"
    medium = "sms"

    def __init__(self, answer: Sent | None = None) -> None:
        self.answer = answer

    def send(self, message: OutboundMessage, http: object) -> Sent:  # type: ignore[override]
        if self.answer is None:
            raise SendUnknown("It flew away.")
        return self.answer

    def find_sent(self, message: OutboundMessage, since_s: float, http: object) -> Sent | None:  # type: ignore[override]
        return Sent("p-found", DeliveryStatus.SENT, 2)


def use(pigeon: Pigeon) -> Pigeon:
    class Plugin:
        @hookimpl
        def register_channels(self) -> list[Channel]:
            return [pigeon]

    assert not current_registry().add(Plugin(), f"pigeons-{id(pigeon)}", {}).error
    return pigeon


def sms(body: str = "hello", to: str = ALICE, by: str = "twilio", request_id: uuid.UUID | None = None) -> uuid.UUID:
    delivery_id = send_by_hand(to, body, current_registry().channels[by], None, request_id)
    deliver(delivery_id)
    return delivery_id


def entries() -> list[LedgerEntry]:
    return rows(select(LedgerEntry).where(LedgerEntry.operation == "message.send").order_by(LedgerEntry.created_at))


def test_a_text_message_is_in_the_ledger_once_at_the_ceiling(app: Flask) -> None:
    person_id = add_person(phone=ALICE)
    delivery_id = sms("x" * 200)
    [entry] = entries()
    person = one(select(Person).where(Person.id == person_id))
    assert (entry.id, entry.request_id, entry.attempt_id, entry.payer) == (delivery_id, None, None, "house")
    assert (entry.person_id, entry.organization_id) == (person_id, person.organization_id)
    assert (entry.channel, entry.operation, entry.provider, entry.model) == ("sms", "message.send", "twilio", "sms")
    assert (entry.requests, entry.input_tokens, entry.output_tokens) == (0, 0, 0)
    assert (entry.cost_microusd, entry.price_source, entry.price_date, entry.estimated) == (40_000, "ceiling", None, False)
    [delivery] = sent()
    assert (delivery.segments, delivery.cost_microusd) == (2, None)
    assert deliver(delivery_id) is None
    assert len(entries()) == 1


def test_the_operators_price_goes_before_the_ceiling(make_app: Callable[..., Flask], twilio: FakeTwilio) -> None:
    with make_app(sms_part_usd=0.0079).app_context():
        sms("x" * 200)
        [entry] = entries()
        assert (entry.cost_microusd, entry.price_source) == (15_800, "override")


@pytest.mark.parametrize(
    ("answer", "cost", "source", "estimated"),
    [
        (Sent("p1", DeliveryStatus.SENT, 3, Decimal("0.0123")), 12_300, "vendor", False),
        (Sent("p1", DeliveryStatus.SENT, None, Decimal("0.0123")), 12_300, "vendor", False),
        (Sent("p1", DeliveryStatus.SENT, 3, Decimal(0)), 0, "vendor", False),
        (Sent("p1", DeliveryStatus.UNDELIVERED, 3), 60_000, "ceiling", False),
        # Parts that the vendor does not count are counted from the text.
        (Sent("p1", DeliveryStatus.QUEUED), 40_000, "ceiling", True),
        # What nobody can have meant is no price.
        (Sent("p1", DeliveryStatus.SENT, 1, Decimal(-1)), 20_000, "ceiling", False),
        (Sent("p1", DeliveryStatus.SENT, 1, Decimal("NaN")), 20_000, "ceiling", False),
        (Sent("p1", DeliveryStatus.SENT, 1, Decimal(1000)), 20_000, "ceiling", False),
        (Sent("p1", DeliveryStatus.SENT, 1, 0.5), 20_000, "ceiling", False),  # type: ignore[arg-type]
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_the_vendor_tells_goes_before_everything(
    app: Flask, answer: Sent, cost: int, source: str, estimated: bool
) -> None:
    use(Pigeon(answer))
    sms("é" * 161, by="pigeon")
    [entry] = entries()
    assert (entry.cost_microusd, entry.price_source, entry.estimated) == (cost, source, estimated)
    told = cost if source == "vendor" else None
    assert one(select(Delivery)).cost_microusd == told
    assert (entry.price_date == now().date().isoformat()) is (source == "vendor")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_was_not_taken_or_nobody_bills_for_is_not_in_the_ledger(app: Flask, twilio: FakeTwilio) -> None:
    refusal = json.dumps({"code": 21211, "message": "no", "status": 400}).encode()
    twilio.faults.append(Fault(path="Messages", status=400, body=refusal))
    sms()
    sms(by="simulator")
    use(Pigeon(Sent("p1", DeliveryStatus.FAILED, 1)))
    sms(by="pigeon")
    assert [d.status for d in sent()] == [DeliveryStatus.FAILED, DeliveryStatus.DELIVERED, DeliveryStatus.FAILED]
    assert entries() == []


def test_a_message_of_unknown_outcome_is_entered_when_it_is_found_and_only_once(app: Flask) -> None:
    use(Pigeon())
    delivery_id = sms(by="pigeon")
    assert entries() == []
    together = threading.Barrier(4)

    def look() -> None:
        with app.app_context():
            together.wait()
            look_up(delivery_id)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [entry] = entries()
    assert (entry.id, entry.cost_microusd) == (delivery_id, 40_000)
    assert one(select(Delivery)).status == DeliveryStatus.SENT


def test_a_higher_price_that_comes_later_is_entered_as_the_difference_once(app: Flask) -> None:
    delivery_id = sms()
    [delivery] = sent()
    news = Receipt("twilio", str(delivery.external_id), DeliveryStatus.DELIVERED, "", Decimal("0.05"))
    for _ in range(2):
        assert receipts.record(news)
    receipts.record(Receipt("twilio", str(delivery.external_id), DeliveryStatus.DELIVERED, "", Decimal("0.09")))
    first, rest = entries()
    assert (first.id, first.cost_microusd, first.price_source) == (delivery_id, 20_000, "ceiling")
    assert (rest.cost_microusd, rest.price_source, rest.request_id) == (30_000, "vendor", None)
    [delivery] = sent()
    assert (delivery.cost_microusd, delivery.status) == (50_000, DeliveryStatus.DELIVERED)


def test_a_lower_price_that_comes_later_is_told_with_the_delivery_alone(app: Flask) -> None:
    sms()
    [delivery] = sent()
    receipts.record(Receipt("twilio", str(delivery.external_id), DeliveryStatus.DELIVERED, "", Decimal("0.0075")))
    assert [entry.cost_microusd for entry in entries()] == [20_000]
    assert one(select(Delivery)).cost_microusd == 7_500


@pytest.mark.parametrize("told", [Decimal("-0.05"), Decimal("Infinity"), Decimal(101), "0.05"])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_price_that_cannot_be_is_not_told(app: Flask, told: object) -> None:
    sms()
    [delivery] = sent()
    receipts.record(
        Receipt("twilio", str(delivery.external_id), DeliveryStatus.DELIVERED, "", told)  # type: ignore[arg-type]
    )
    assert [entry.cost_microusd for entry in entries()] == [20_000]
    assert one(select(Delivery)).cost_microusd is None


def test_a_price_that_overtakes_the_vendors_own_answer_counts_too(app: Flask) -> None:
    for code in ("", "30001"):
        news = Receipt("pigeon", "p-early" + code, DeliveryStatus.DELIVERED, code, Decimal("0.0512"))
        assert receipts.record(news) is False
    use(Pigeon(Sent("p-early", DeliveryStatus.SENT, 1)))
    sms(by="pigeon")
    assert [entry.cost_microusd for entry in entries()] == [20_000, 31_200]
    assert one(select(Delivery)).cost_microusd == 51_200
    [kept] = receipts.early("pigeon", "p-early30001")
    assert (kept.status, kept.error_code, kept.cost_usd) == (DeliveryStatus.DELIVERED, "30001", Decimal("0.0512"))


def test_a_message_to_a_stranger_is_in_the_administrators_name(app: Flask) -> None:
    sms(to="+15005550077")
    [entry] = entries()
    assert entry.person_id == one(select(Person.id).where(Person.role == PersonRole.ADMIN))


def test_an_answer_belongs_to_the_organization_in_which_it_was_asked_for(app: Flask, twilio: FakeTwilio) -> None:
    text("hello", ALICE, channel="twilio")
    run_jobs()
    [entry] = entries()
    request = one(select(Request))
    assert (entry.request_id, entry.person_id, entry.organization_id) == (
        request.id,
        request.person_id,
        request.organization_id,
    )
    # The person has moved on when the next message about that request is sent.
    elsewhere = new_id()
    with writing() as connection:
        connection.execute(
            insert(Organization), {"id": elsewhere, "name": "Elsewhere", "time_zone": "UTC", "limits": [], "preferences": {}}
        )
        connection.execute(update(Person).where(Person.id == request.person_id).values(organization_id=elsewhere))
    again = sms(request_id=request.id)
    alone = sms()
    found = {entry.id: entry.organization_id for entry in entries()}
    assert (found[again], found[alone]) == (request.organization_id, elsewhere)
    assert_books_balance()


def test_sums_show_messages_beside_what_models_cost(app: Flask) -> None:
    text("hello", ALICE, channel="twilio")
    run_jobs()
    start = now() - timedelta(days=1)
    demo, twilio = sorted(ledger_sums.summary(ledger_sums.By.PROVIDER, start), key=lambda row: row.name)
    assert (twilio.name, twilio.entries, twilio.requests) == ("twilio", 1, 0)
    assert twilio.messages_microusd == twilio.cost_microusd > 0
    assert (twilio.house_requests, twilio.house_microusd, twilio.estimated_percent) == (0, 0, 0.0)
    assert (demo.name, demo.requests, demo.messages_microusd) == ("demo", 1, 0)
    [day] = ledger_sums.summary(ledger_sums.By.DAY, start)
    assert (day.requests, day.messages_microusd) == (1, twilio.cost_microusd)
    # There is nothing in it to compare with a vendor of models.
    assert ledger_sums.providers() == ["demo"]
    assert ledger_sums.by_day_and_model("twilio", start, now() + timedelta(days=1)) == []
