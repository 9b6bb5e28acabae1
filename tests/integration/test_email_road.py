"""E-mails on the road: from a delivery's row to the mail server, with what can happen in between; and `switchhook mail`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from flask import Flask
from sqlalchemy import insert, select, update

from tests.fakes.smtp import FakeSmtp, SmtpFault
from tests.integration.cli_support import Operator, operator
from tests.support import add_person, one, rows, run_jobs, sent
from webapp.contracts.channels import DeliveryStatus
from webapp.contracts.errors import NotAllowed
from webapp.extensions import now, writing
from webapp.models import Delivery, ErrorLog, Identity, LedgerEntry, Person
from webapp.models.columns import new_id
from webapp.pipeline import sweep
from webapp.pipeline.deliver import deliver, send_by_hand
from webapp.registry import current_registry
from webapp.services import health, messages

__all__ = ["operator"]

ALICE, FROM = "alice@example.com", "Switchhook <bot@example.org>"


@pytest.fixture
def smtp(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSmtp]:
    """A mail server that the application made after it sends by."""
    with FakeSmtp() as fake:
        monkeypatch.setenv("SMTP_URL", fake.url())
        monkeypatch.setenv("MAIL_FROM", FROM)
        yield fake


@pytest.fixture
def app(make_app: Callable[..., Flask], smtp: FakeSmtp) -> Iterator[Flask]:
    app = make_app(send_timeout_s=1)
    with app.app_context():
        yield app


def mail(text: str = "hello", to: str = ALICE, subject: str = "A notice") -> uuid.UUID:
    return send_by_hand(to, text, current_registry().channels["email"], None, subject=subject)


def due() -> None:
    """As if the wait before the next try were over."""
    with writing() as connection:
        connection.execute(update(Delivery).values(next_try_at=now() - timedelta(seconds=1)))


def identity(address: str, person_id: uuid.UUID, *, opted_out: bool) -> None:
    with writing() as connection:
        connection.execute(
            insert(Identity),
            {
                "id": new_id(),
                "person_id": person_id,
                "medium": "email",
                "address": address,
                "opted_out_at": now() if opted_out else None,
            },
        )


def test_two_messages_go_by_the_job_to_the_person_whose_address_it_is(app: Flask, smtp: FakeSmtp) -> None:
    person_id = add_person(email=ALICE)
    mail("one", subject="Ümlaut")
    mail("two")
    run_jobs()
    assert sorted((letter.text, letter.message["Subject"]) for letter in smtp.letters) == [
        ("one\n", "Ümlaut"),
        ("two\n", "A notice"),
    ]
    assert [(d.status, d.person_id, d.medium, d.segments, d.cost_microusd) for d in sent()] == [
        (DeliveryStatus.SENT, person_id, "email", None, None)
    ] * 2
    assert {letter.message["Message-ID"] for letter in smtp.letters} == {f"<{d.id}@example.org>" for d in sent()}
    assert rows(select(LedgerEntry)) == []


def test_what_is_refused_for_the_moment_is_tried_again_under_the_same_id(app: Flask, smtp: FakeSmtp) -> None:
    smtp.faults.append(SmtpFault("RCPT", "450 4.2.0 Greylisted"))
    delivery_id = mail()
    run_jobs()
    [waiting] = sent()
    assert (waiting.status, waiting.error_code, waiting.attempts) == (DeliveryStatus.PENDING, "450", 1)
    assert waiting.next_try_at is not None
    assert waiting.next_try_at > now()
    assert deliver(delivery_id) is None
    due()
    assert deliver(delivery_id) is DeliveryStatus.SENT
    [letter] = smtp.letters
    assert letter.message["Message-ID"] == f"<{delivery_id}@example.org>"
    assert one(select(Delivery)).error_code is None


def test_a_recipient_that_does_not_exist_is_not_tried_again(app: Flask, smtp: FakeSmtp) -> None:
    smtp.faults.append(SmtpFault("RCPT", "550 5.1.1 alice@example.com unknown"))
    mail()
    run_jobs()
    [failed] = sent()
    assert (failed.status, failed.error_code) == (DeliveryStatus.FAILED, "550")
    written = one(select(ErrorLog))
    assert "550 5.1.1" in written.message
    assert ALICE not in written.message + (written.detail or "")


@pytest.mark.parametrize("taken", [True, False])
def test_an_unknown_outcome_is_not_repeated_by_itself(app: Flask, smtp: FakeSmtp, taken: bool) -> None:
    smtp.faults.append(SmtpFault("END", drop=True, taken=taken))
    delivery_id = mail()
    run_jobs()
    assert one(select(Delivery)).status == DeliveryStatus.UNKNOWN
    with writing() as connection:
        connection.execute(update(Delivery).values(updated_at=now() - timedelta(hours=1)))
    sweep.sweep()
    due()
    run_jobs()
    assert deliver(delivery_id) is None
    assert one(select(Delivery)).status == DeliveryStatus.UNKNOWN
    assert len(smtp.letters) == int(taken)


def test_an_address_that_opted_out_gets_nothing_however_it_is_written(app: Flask, smtp: FakeSmtp) -> None:
    person_id = add_person(email=ALICE)
    waiting = mail(to=ALICE)
    capital = mail(to="Alice@Example.com")
    identity(ALICE, person_id, opted_out=True)
    assert deliver(waiting) is DeliveryStatus.SUPPRESSED
    assert deliver(capital) is DeliveryStatus.SUPPRESSED
    with pytest.raises(NotAllowed, match="This address has opted out"):
        mail()
    assert smtp.letters == []


def test_an_address_that_is_known_and_has_not_opted_out_gets_it(app: Flask, smtp: FakeSmtp) -> None:
    identity(ALICE, add_person(phone="+15005550006"), opted_out=False)
    assert deliver(mail()) is DeliveryStatus.SENT
    assert one(select(Delivery.person_id)) == one(select(Identity.person_id).where(Identity.medium == "email"))


def test_every_address_that_a_person_may_have_can_be_written_to(app: Flask, smtp: FakeSmtp) -> None:
    longest = "a" * 64 + "@" + ".".join(["b" * 60] * 3) + ".co"
    for address in (longest, "o'brien+tag@mail.example.com"):
        add_person(email=address)
    for address in rows(select(Person.email).where(Person.email.like("%+tag%") | (Person.email == longest))):
        assert address is not None
        assert deliver(mail(to=address)) is DeliveryStatus.SENT


def test_the_channel_is_looked_at_like_the_others_and_found_by_its_medium(app: Flask, smtp: FakeSmtp) -> None:
    found = messages.outgoing_mail()
    assert found.name == "email"
    assert health.look(found).ok
    smtp.faults.append(SmtpFault("CONNECT", "421 4.3.2 Too busy"))
    assert not health.look(found).ok


# -- the command -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
class TestMailTest:
    def test_it_sends_at_once_without_a_worker(self, smtp: FakeSmtp, operator: Operator) -> None:
        assert operator.ok("mail", "test", " Alice@Example.com ").startswith("email: sent")
        [letter] = smtp.letters
        assert letter.recipients == (ALICE,)
        assert "test message" in letter.text
        said = operator.json("mail", "test", ALICE)
        assert (said["channel"], said["status"], said["error_code"]) == ("email", "sent", None)

    def test_what_the_server_refuses_is_told_with_its_cure(self, smtp: FakeSmtp, operator: Operator) -> None:
        smtp.faults.append(SmtpFault("MAIL", "550 5.7.1 No"))
        result = operator("mail", "test", ALICE)
        assert result.exit_code == 1
        assert "refuses the sender (550 5.7.1). Set MAIL_FROM" in result.stdout
        smtp.faults.append(SmtpFault("RCPT", "450 4.2.0 Later"))
        result = operator("mail", "test", ALICE)
        assert result.exit_code == 1
        assert "not sent yet" in result.stdout

    def test_without_settings_it_says_which(self, operator: Operator) -> None:
        result = operator("mail", "test", ALICE)
        assert result.exit_code == 1
        assert "SMTP_URL and MAIL_FROM are not set" in result.stderr
        assert operator.rows("SELECT id FROM delivery") == []

    @pytest.mark.parametrize(
        ("arguments", "said"), [(("nobody",), "name@example.com"), ((ALICE, "--channel", "pigeon"), "no channel 'pigeon'")]
    )
    def test_what_cannot_be_is_refused(self, smtp: FakeSmtp, operator: Operator, arguments: tuple[str, ...], said: str) -> None:
        result = operator("mail", "test", *arguments)
        assert result.exit_code == 1
        assert said in result.stderr
        assert smtp.commands == []

    def test_the_doctor_knows_the_mail_server(
        self, smtp: FakeSmtp, operator: Operator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def finding() -> dict[str, str]:
            found = operator("doctor", "--json")
            return next(each for each in json.loads(found.stdout)["findings"] if each["name"] == "email")

        assert (finding()["level"], finding()["area"]) == ("ok", "channels")
        monkeypatch.setenv("SMTP_URL", "smtp://bot:sesame-open@mail.example.com?tls=maybe")
        assert finding()["level"] == "warning"
        assert "sesame" not in str(finding())
        monkeypatch.delenv("SMTP_URL")
        monkeypatch.delenv("MAIL_FROM")
        assert finding()["level"] == "off"
