"""Twilio's webhooks: a small real application, an inbox that keeps what it gets."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import TestResponse

from plugins.channels.twilio import TwilioChannel
from plugins.channels.twilio.wire import parse_message, parse_receipt
from tests.fakes.twilio import AUTH_TOKEN, FORM, NUMBER, TwilioSigner
from webapp.contracts.channels import Consent, DeliveryStatus, InboundMessage, Receipt
from webapp.contracts.errors import BadInput

ALICE = "+15005551234"
SEEN = "http://localhost/sms/receive"


class RecordingInbox:
    """The core's side, as far as a channel can see it."""

    def __init__(self) -> None:
        self.messages: list[InboundMessage] = []
        self.receipts: list[Receipt] = []

    def receive(self, message: InboundMessage) -> None:
        if message.text == "too much":
            raise BadInput("Body", "Body is too long.")
        self.messages.append(message)

    def receipt(self, receipt: Receipt) -> None:
        self.receipts.append(receipt)


def make_client(inbox: RecordingInbox, *, hops: int = 0, **settings: str) -> FlaskClient:
    channel = TwilioChannel({"TWILIO_AUTH_TOKEN": AUTH_TOKEN} | settings)
    app = Flask(__name__)
    app.register_blueprint(channel.blueprint(inbox))
    if hops:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops, x_port=hops, x_prefix=hops)  # type: ignore[method-assign]
    return app.test_client()


@pytest.fixture
def inbox() -> RecordingInbox:
    return RecordingInbox()


@pytest.fixture
def client(inbox: RecordingInbox) -> FlaskClient:
    return make_client(inbox)


@pytest.fixture
def twilio() -> TwilioSigner:
    return TwilioSigner()


@pytest.fixture
def security_lines() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("switchhook.security")
    logger.addHandler(handler)
    before = logger.level
    # An application that was made before, in the same process, may have asked for less.
    logger.setLevel(logging.INFO)
    yield lines
    logger.setLevel(before)
    logger.removeHandler(handler)


def post(client: FlaskClient, signed: tuple[dict[str, str], bytes], path: str = "/sms/receive", **more: Any) -> TestResponse:
    headers, data = signed
    return client.post(path, headers=headers | more.pop("headers", {}), data=data, **more)


def test_a_signed_message_reaches_the_inbox_and_is_answered_at_once(client, inbox, twilio) -> None:
    response = post(client, twilio.message(SEEN, ALICE, "hello", MessageSid="SM1"))
    assert (response.status_code, response.text) == (200, "<Response/>")
    assert response.mimetype == "text/xml"
    assert inbox.messages == [InboundMessage("twilio", "SM1", ALICE, NUMBER, "hello", None)]


@pytest.mark.parametrize("text", ["Héllo & welcome", "😀👩‍👩‍👧", "שלום עולם", "a=b&c%20d+e", "line\r\ntwo", " ", ""])
def test_any_text_arrives_as_it_was_written(client, inbox, twilio, text: str) -> None:
    assert post(client, twilio.message(SEEN, ALICE, text)).status_code == 200
    assert inbox.messages[0].text == text


def test_nul_and_control_characters_are_signed_but_not_kept(client, inbox, twilio) -> None:
    assert post(client, twilio.message(SEEN, ALICE, "a\x00b\x1b[31mc")).status_code == 200
    assert inbox.messages[0].text == "ab[31mc"


def test_a_parameter_twilio_adds_one_day_is_signed_and_ignored(client, inbox, twilio) -> None:
    assert post(client, twilio.message(SEEN, ALICE, "hi", BrandNew="", Ünïcode="✓")).status_code == 200
    assert len(inbox.messages) == 1


@pytest.mark.parametrize("path", ["/sms/receive", "/sms/status"])
@pytest.mark.parametrize("signature", [None, "", "forged", "GYll0lblLopKxxgvsfq4XNPFtBQ="])
def test_a_wrong_or_absent_signature_gets_403_and_one_line(client, inbox, twilio, security_lines, path, signature) -> None:
    headers, data = twilio.message(f"http://localhost{path}", ALICE, "my secret text", MessageStatus="sent")
    headers.pop("X-Twilio-Signature")
    if signature is not None:
        headers["X-Twilio-Signature"] = signature
    response = client.post(path, headers=headers, data=data)
    assert (response.status_code, response.data) == (403, b"")
    assert inbox.messages == []
    assert inbox.receipts == []
    assert len(security_lines) == 1
    assert path in security_lines[0]
    assert ALICE not in security_lines[0]
    assert "secret" not in security_lines[0]


def test_a_body_altered_on_the_way_is_refused(client, inbox, twilio) -> None:
    headers, data = twilio.message(SEEN, ALICE, "pay 10")
    response = client.post("/sms/receive", headers=headers, data=data.replace(b"pay+10", b"pay+90"))
    assert response.status_code == 403
    assert inbox.messages == []


def test_a_signature_for_the_other_route_does_not_count(client, inbox, twilio) -> None:
    assert post(client, twilio.message(SEEN, ALICE, "x", MessageStatus="sent"), "/sms/status").status_code == 403
    assert inbox.receipts == []


def test_bytes_that_are_no_utf8_are_refused_even_when_their_lenient_reading_is_signed(client, inbox, twilio) -> None:
    headers, data = twilio.message(SEEN, ALICE, "\ufffd")
    assert client.post("/sms/receive", headers=headers, data=data.replace(b"%EF%BF%BD", b"%FF")).status_code == 403
    assert inbox.messages == []


def test_without_a_token_the_operator_is_told_what_to_set(inbox, twilio) -> None:
    client = make_client(inbox, TWILIO_AUTH_TOKEN="")
    response = post(client, twilio.message(SEEN, ALICE, "hi"))
    assert response.status_code == 503
    assert "TWILIO_AUTH_TOKEN is not set" in response.text
    assert inbox.messages == []


# -- the address ---------------------------------------------------------------------------------------------------


def test_the_query_string_is_signed_as_it_is(client, inbox, twilio) -> None:
    query = "?ch=1&x=%7e%2F+a"
    assert post(client, twilio.message(SEEN + query, ALICE, "hi"), "/sms/receive" + query).status_code == 200
    assert post(client, twilio.message(SEEN + query, ALICE, "hi"), "/sms/receive?ch=1").status_code == 403


def test_behind_a_proxy_the_public_address_counts(inbox, twilio) -> None:
    client = make_client(inbox, SWITCHHOOK_PUBLIC_URL="https://sms.example.com")
    url = "https://sms.example.com/sms/receive?ch=1"
    assert post(client, twilio.message(url, ALICE, "hi"), "/sms/receive?ch=1").status_code == 200
    assert post(client, twilio.message(url.replace(".com", ".com:443"), ALICE, "hi"), "/sms/receive?ch=1").status_code == 200
    # What the proxy shows us is not what Twilio called.
    assert post(client, twilio.message(SEEN, ALICE, "hi")).status_code == 403


@pytest.mark.parametrize("public", ["https://example.com/bot", "https://example.com"])
def test_an_application_under_a_prefix_is_found(inbox, twilio, public: str) -> None:
    client = make_client(inbox, SWITCHHOOK_PUBLIC_URL=public)
    signed = twilio.message("https://example.com/bot/sms/receive", ALICE, "hi")
    assert post(client, signed, environ_overrides={"SCRIPT_NAME": "/bot"}).status_code == 200


def test_a_proxy_that_strips_the_prefix_needs_it_in_the_public_address_only(inbox, twilio) -> None:
    client = make_client(inbox, SWITCHHOOK_PUBLIC_URL="https://example.com/bot")
    assert post(client, twilio.message("https://example.com/bot/sms/receive", ALICE, "hi")).status_code == 200


def test_a_trusted_proxy_tells_the_address(inbox, twilio) -> None:
    client = make_client(inbox, hops=1)
    told = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "bot.example.org", "X-Forwarded-For": "192.0.2.1"}
    signed = twilio.message("https://bot.example.org/sms/receive", ALICE, "hi")
    assert post(client, signed, headers=told).status_code == 200
    assert post(make_client(inbox), signed, headers=told).status_code == 403


# -- what cannot be read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "application/xml", ""])
def test_another_content_type_gets_415(client, inbox, twilio, kind: str) -> None:
    headers, data = twilio.message(SEEN, ALICE, "hi")
    assert client.post("/sms/receive", headers=headers | {"Content-Type": kind}, data=data).status_code == 415
    assert inbox.messages == []


def test_a_body_over_64_kib_gets_413(client, inbox, twilio) -> None:
    response = post(client, twilio.message(SEEN, ALICE, "x" * 65536))
    assert response.status_code == 413
    assert inbox.messages == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("MessageSid", ""),
        ("MessageSid", "SM1; drop"),
        ("MessageSid", "1"),
        ("From", ""),
        ("From", "whatsapp:+15005551234"),
        ("From", "AMAZON"),
        ("From", "15005551234"),
        ("From", "+0123456789"),
        ("From", "+1500555123456789"),
        ("From", "+١٥٠٠٥٥٥"),
        ("From", "+15005551234x"),
    ],
)
def test_a_field_that_cannot_be_right_is_named(client, inbox, twilio, field: str, value: str) -> None:
    response = post(client, twilio.message(SEEN, ALICE, "hi", **{field: value}))
    assert response.status_code == 400
    assert response.mimetype == "text/plain"
    assert response.text.startswith(f"{field}: ")
    assert not value or value not in response.text
    assert inbox.messages == []


def test_a_field_with_two_values_is_refused(client, inbox, twilio) -> None:
    pairs = [("MessageSid", "SM1"), ("From", ALICE), ("From", "+15005559999"), ("Body", "hi")]
    headers = {"Content-Type": FORM, "X-Twilio-Signature": twilio.sign(SEEN, pairs)}
    response = client.post("/sms/receive", headers=headers, data=urlencode(pairs))
    assert response.status_code == 400
    assert response.text.startswith("From: ")
    assert inbox.messages == []


def test_what_the_inbox_finds_wrong_is_named_too(client, twilio) -> None:
    response = post(client, twilio.message(SEEN, ALICE, "too much"))
    assert (response.status_code, response.text) == (400, "Body: Body is too long.\n")


def test_a_short_code_and_an_unknown_recipient_are_fine() -> None:
    message = parse_message({"MessageSid": "MM1", "From": "72975", "To": "rcs:brand", "Body": "hi"})
    assert (message.sender, message.recipient) == ("72975", "")


@pytest.mark.parametrize(
    ("kind", "consent"),
    [("STOP", Consent.STOP), ("START", Consent.START), ("HELP", Consent.HELP), ("", None), ("MAYBE", None)],
)
def test_twilios_own_reading_of_an_opt_out_word_is_kept(kind: str, consent: Consent | None) -> None:
    form = {"MessageSid": "SM1", "From": ALICE, "Body": "arret", "OptOutType": kind}
    assert parse_message(form).consent is consent


# -- JSON ----------------------------------------------------------------------------------------------------------


def test_a_json_body_counts_when_its_hash_is_signed(client, inbox, twilio) -> None:
    body = json.dumps({"MessageSid": "SM9", "From": ALICE, "Body": "hi", "Extra": 1}).encode()
    query = f"?bodySHA256={hashlib.sha256(body).hexdigest()}"
    headers = {"Content-Type": "application/json", "X-Twilio-Signature": twilio.sign(SEEN + query)}
    assert client.post("/sms/receive" + query, headers=headers, data=body).status_code == 200
    assert inbox.messages[0].external_id == "SM9"
    assert client.post("/sms/receive" + query, headers=headers, data=body.replace(b"hi", b"ho")).status_code == 403
    unhashed = {"Content-Type": "application/json", "X-Twilio-Signature": twilio.sign(SEEN)}
    assert client.post("/sms/receive", headers=unhashed, data=body).status_code == 403


@pytest.mark.parametrize("body", [b"[]", b"{", b"1", b"\xff", b"[" * 60000])
def test_json_that_is_no_object_is_refused(client, inbox, twilio, body: bytes) -> None:
    query = f"?bodySHA256={hashlib.sha256(body).hexdigest()}"
    headers = {"Content-Type": "application/json", "X-Twilio-Signature": twilio.sign(SEEN + query)}
    assert client.post("/sms/receive" + query, headers=headers, data=body).status_code == 403
    assert inbox.messages == []


# -- receipts ------------------------------------------------------------------------------------------------------


def test_a_receipt_reaches_the_inbox(client, inbox, twilio) -> None:
    signed = twilio.receipt("http://localhost/sms/status", "SM7", "undelivered", "30003")
    response = post(client, signed, "/sms/status")
    assert (response.status_code, response.data) == (204, b"")
    assert inbox.receipts == [Receipt("twilio", "SM7", DeliveryStatus.UNDELIVERED, "30003")]


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("accepted", DeliveryStatus.QUEUED),
        ("scheduled", DeliveryStatus.QUEUED),
        ("queued", DeliveryStatus.QUEUED),
        ("sending", DeliveryStatus.QUEUED),
        ("sent", DeliveryStatus.SENT),
        ("partially_delivered", DeliveryStatus.SENT),
        ("delivered", DeliveryStatus.DELIVERED),
        ("read", DeliveryStatus.DELIVERED),
        ("undelivered", DeliveryStatus.UNDELIVERED),
        ("failed", DeliveryStatus.FAILED),
        ("canceled", DeliveryStatus.CANCELLED),
    ],
)
def test_every_state_of_a_sent_message_is_understood(word: str, status: DeliveryStatus) -> None:
    assert parse_receipt({"MessageSid": "SM1", "MessageStatus": word}).status is status
    assert parse_receipt({"MessageSid": "SM1", "SmsStatus": word.upper()}).status is status


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"MessageStatus": "sent"}, "MessageSid"),
        ({"MessageSid": "SM1"}, "MessageStatus"),
        ({"MessageSid": "SM1", "MessageStatus": "received"}, "MessageStatus"),
        ({"MessageSid": "SM1", "MessageStatus": "exploded"}, "MessageStatus"),
    ],
)
def test_a_receipt_that_says_nothing_names_its_fault(form: dict[str, str], field: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_receipt(form)
    assert caught.value.field == field


@pytest.mark.parametrize(("code", "kept"), [("30008", "30008"), ("0", ""), ("", ""), ("<script>", "")])
def test_an_error_code_is_a_number_or_nothing(code: str, kept: str) -> None:
    assert parse_receipt({"MessageSid": "SM1", "MessageStatus": "failed", "ErrorCode": code}).error_code == kept
