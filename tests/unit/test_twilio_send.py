"""Sending by Twilio, against a server that speaks its wire format and fails in its ways."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import plugins.channels.twilio as plugin
from plugins.channels.simulator import SimulatorChannel
from plugins.channels.twilio import TwilioChannel, register_channels
from plugins.channels.twilio.wire import ERRORS, TRIAL_PREFIX, parse_sent
from tests.fakes.server import Fault
from tests.fakes.twilio import ACCOUNT_SID, AUTH_TOKEN, NUMBER, FakeTwilio
from webapp.contracts.channels import DeliveryStatus, OutboundMessage, Sent
from webapp.contracts.errors import RecipientOptedOut, SendFailed, SendUnknown

ALICE = "+15005551234"
SERVICE = "MG00000000000000000000000000000001"


@pytest.fixture
def twilio() -> Iterator[FakeTwilio]:
    with FakeTwilio() as fake:
        yield fake


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client() as client:
        yield client


@pytest.fixture
def channel(twilio: FakeTwilio) -> TwilioChannel:
    return TwilioChannel(twilio.settings)


def message(text: str = "hello", recipient: str = ALICE, **more: str) -> OutboundMessage:
    return OutboundMessage("d1", recipient, more.pop("sender", NUMBER), text, **more)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- taken ---------------------------------------------------------------------------------------------------------


def test_a_message_is_handed_over_with_its_address_for_receipts(channel, twilio, http) -> None:
    sent = channel.send(message("Héllo & 😀", status_url="https://bot.example.com/sms/status"), http)
    assert sent == Sent(twilio.sent[0]["sid"], DeliveryStatus.QUEUED, 1)
    assert twilio.sent[0] | {"sid": ""} == {
        "to": ALICE,
        "from_": NUMBER,
        "body": "Héllo & 😀",
        "sid": "",
        "status_callback": "https://bot.example.com/sms/status",
    }


@pytest.mark.parametrize(
    ("numbers", "sender", "used"),
    [
        (NUMBER, "+15005557777", NUMBER),
        (NUMBER, "", NUMBER),
        (f"{NUMBER}, +15005557777", "+15005557777", "+15005557777"),
        ("+1 (500) 555-0006", "", NUMBER),
    ],
)
def test_the_answer_comes_from_the_number_that_was_texted_if_it_is_ours(twilio, http, numbers, sender, used) -> None:
    twilio.numbers.add("+15005557777")
    TwilioChannel(twilio.settings | {"TWILIO_PHONE_NUMBER": numbers}).send(message(sender=sender), http)
    assert twilio.sent[0]["from_"] == used


def test_a_messaging_service_chooses_the_sender_and_counts_later(twilio, http) -> None:
    settings = twilio.settings | {"TWILIO_PHONE_NUMBER": "", "TWILIO_MESSAGING_SERVICE_SID": SERVICE}
    sent = TwilioChannel(settings).send(message(), http)
    assert (sent.status, sent.segments) == (DeliveryStatus.QUEUED, None)
    assert twilio.sent[0]["from_"] == ""


@pytest.mark.parametrize(
    ("price", "unit", "told"),
    [
        ("-0.00750", "USD", Decimal("0.0075")),
        ("-0.00750", "EUR", None),
        (None, "USD", None),
        ("much", "USD", None),
        (-1, "USD", None),
        ("-0", "USD", Decimal(0)),
    ],
)
def test_a_price_is_what_twilio_says_in_dollars(price, unit, told) -> None:
    assert parse_sent({"sid": "SM1", "price": price, "price_unit": unit}).cost_usd == told


def test_an_api_key_sends_in_place_of_the_token(twilio, http) -> None:
    twilio.api_keys["SK1"] = "key secret"
    settings = twilio.settings | {"TWILIO_API_KEY": "SK1", "TWILIO_API_KEY_SECRET": "key secret"}
    channel = TwilioChannel(settings)
    assert channel.send(message(), http).external_id == twilio.sent[0]["sid"]
    assert channel.check(http).ok


def test_characters_that_cannot_be_sent_are_left_out(channel, twilio, http) -> None:
    channel.send(message("a\x00b\ud800"), http)
    assert twilio.sent[0]["body"] == "ab\ufffd"


@hypothesis_settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=200))
def test_any_text_arrives_at_twilio_as_it_is(channel, twilio, http, text: str) -> None:
    assert channel.send(message(text), http).external_id == twilio.sent[-1]["sid"]
    assert twilio.sent[-1]["body"] == text


# -- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipient", "code"),
    [("+15005550001", "21211"), ("+15005550002", "21612"), ("+15005550003", "21408"), ("+15005550009", "21614")],
)
def test_a_recipient_that_cannot_be_texted_is_final_and_says_why(channel, twilio, http, recipient, code) -> None:
    with pytest.raises(SendFailed) as caught:
        channel.send(message(recipient=recipient), http)
    assert caught.value.permanent
    assert caught.value.vendor_code == code
    assert caught.value.message == f"{ERRORS[code].says} (error {code}). {ERRORS[code].cure}"
    assert recipient not in caught.value.message
    assert twilio.sent == []


@pytest.mark.parametrize(("number", "code"), [("+15005550001", "21212"), ("+15005550007", "21606"), ("+1999555", "21606")])
def test_a_sender_that_is_not_ours_is_a_matter_of_settings(twilio, http, number: str, code: str) -> None:
    with pytest.raises(SendFailed, match="TWILIO_PHONE_NUMBER") as caught:
        TwilioChannel(twilio.settings | {"TWILIO_PHONE_NUMBER": number}).send(message(), http)
    assert (caught.value.permanent, caught.value.vendor_code) == (True, code)


def test_who_opted_out_at_twilio_is_told_apart(channel, twilio, http) -> None:
    twilio.opt_outs.add(ALICE)
    with pytest.raises(RecipientOptedOut) as caught:
        channel.send(message(), http)
    assert caught.value.vendor_code == "21610"
    assert ALICE not in caught.value.message


def test_a_text_that_is_too_long_is_final(channel, http) -> None:
    with pytest.raises(SendFailed, match="1600") as caught:
        channel.send(message("x" * 1601), http)
    assert caught.value.permanent


def test_wrong_credentials_name_the_variables(twilio, http) -> None:
    with pytest.raises(SendFailed, match="TWILIO_AUTH_TOKEN") as caught:
        TwilioChannel(twilio.settings | {"TWILIO_AUTH_TOKEN": "wrong"}).send(message(), http)
    assert (caught.value.permanent, caught.value.vendor_code) == (True, "20003")
    assert "wrong" not in caught.value.message.split()


def test_a_full_queue_is_tried_again(twilio, http) -> None:
    with pytest.raises(SendFailed) as caught:
        TwilioChannel(twilio.settings | {"TWILIO_PHONE_NUMBER": "+15005550008"}).send(message(), http)
    assert (caught.value.permanent, caught.value.vendor_code) == (False, "21611")


@pytest.mark.parametrize(
    ("headers", "low", "high"),
    [
        ({"Retry-After": "7"}, 7, 7),
        ({"Retry-After": "Sat, 01 Jan 2000 00:00:00 GMT"}, 0, 0),
        ({"Retry-After": "soon"}, None, None),
        ({}, None, None),
    ],
)
def test_too_many_calls_at_once_are_tried_again_when_twilio_says(channel, twilio, http, headers, low, high) -> None:
    body = json.dumps({"code": 20429, "message": "Too Many Requests", "status": 429}).encode()
    twilio.faults.append(Fault(status=429, headers=headers, body=body))
    with pytest.raises(SendFailed) as caught:
        channel.send(message(), http)
    assert (caught.value.permanent, caught.value.vendor_code) == (False, "20429")
    after = caught.value.retry_after_s
    assert after is None if low is None else low <= after <= high


def test_a_429_from_a_proxy_without_twilios_json_is_tried_again_too(channel, twilio, http) -> None:
    twilio.faults.append(Fault(status=429, headers={"Retry-After": "2"}, body=b"slow down"))
    with pytest.raises(SendFailed) as caught:
        channel.send(message(), http)
    assert (caught.value.permanent, caught.value.retry_after_s) == (False, 2.0)


@pytest.mark.parametrize("status", [400, 402, 404, 410, 302, 304])
def test_an_answer_that_is_not_twilios_points_at_the_address(channel, twilio, http, status: int) -> None:
    twilio.faults.append(Fault(status=status, headers={"Location": "https://elsewhere.invalid/"}, body=b"<html>"))
    with pytest.raises(SendFailed, match="TWILIO_API_BASE_URL") as caught:
        channel.send(message(), http)
    assert caught.value.permanent


def test_a_code_we_do_not_know_points_at_its_page(channel, twilio, http) -> None:
    twilio.faults.append(Fault(status=400, body=b'{"code": 21999, "message": "About +15005551234"}'))
    with pytest.raises(SendFailed, match="errors/21999") as caught:
        channel.send(message(), http)
    assert ALICE not in caught.value.message


# -- unknown -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500, body=b"oops"),
        Fault(status=503, headers={"Retry-After": "1"}),
        Fault(status=408),
        Fault(status=500, body=b'{"code": 20500, "message": "Internal"}', handled=True),
        Fault(drop=True),
        Fault(drop=True, handled=True),
        Fault(garbage=b"SSH-2.0-OpenSSH\r\n\r\n"),
        Fault(cut_after_bytes=10),
        Fault(status=201, body=b"<html>hello</html>"),
        Fault(status=201, body=b""),
        Fault(status=201, body=b"[]"),
        Fault(status=201, body=b'{"sid": null}'),
        Fault(status=201, body=b'{"sid": "../../etc"}'),
        Fault(status=200, body=b'{"sid": 5}'),
        Fault(status=201, body=b"[" * 100_000),
        Fault(status=201, body=b"\xff\xfe{}"),
        Fault(headers={"Content-Encoding": "gzip"}),
    ],
    ids=str,
)
def test_whatever_happens_after_the_message_left_is_unknown_and_not_repeated(channel, twilio, http, fault: Fault) -> None:
    twilio.faults.append(fault)
    with pytest.raises(SendUnknown):
        channel.send(message(), http)
    assert len(twilio.requests) == 1


def test_a_time_out_is_unknown_though_the_message_was_taken(channel, twilio, http, monkeypatch) -> None:
    monkeypatch.setattr(plugin, "READ_S", 0.2)
    twilio.faults.append(Fault(hang=True, handled=True))
    with pytest.raises(SendUnknown, match="ReadTimeout"):
        channel.send(message(), http)
    assert channel.find_sent(message(), 60, http) == Sent(twilio.sent[0]["sid"], DeliveryStatus.QUEUED, 1)


def test_an_answer_of_another_content_type_is_still_read(channel, twilio, http) -> None:
    twilio.faults.append(Fault(headers={"Content-Type": "text/html"}))
    assert channel.send(message(), http).external_id == twilio.sent[0]["sid"]


def test_a_port_nobody_listens_on_is_certainly_not_sent(twilio, http) -> None:
    settings = twilio.settings | {"TWILIO_API_BASE_URL": f"http://127.0.0.1:{free_port()}"}
    with pytest.raises(SendFailed) as caught:
        TwilioChannel(settings).send(message(), http)
    assert not caught.value.permanent


@pytest.mark.parametrize("url", ["localhost:80", "ftp://127.0.0.1", "http://[::1", "nonsense"])
def test_an_address_that_is_none_is_a_matter_of_settings(twilio, http, url: str) -> None:
    with pytest.raises(SendFailed, match="TWILIO_API_BASE_URL") as caught:
        TwilioChannel(twilio.settings | {"TWILIO_API_BASE_URL": url}).send(message(), http)
    assert caught.value.permanent
    assert not TwilioChannel(twilio.settings | {"TWILIO_API_BASE_URL": url}).check(http).ok


def test_nothing_secret_is_logged(channel, twilio, http, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    channel.send(message("my secret"), http)
    assert AUTH_TOKEN not in caplog.text
    assert "my secret" not in caplog.text
    assert ALICE not in caplog.text


# -- looking up ----------------------------------------------------------------------------------------------------


def test_a_message_that_never_arrived_is_certainly_not_there(channel, twilio, http) -> None:
    channel.send(message("another text"), http)
    channel.send(message("hello", recipient="+15005559999"), http)
    assert channel.find_sent(message(), 60, http) is None


def test_an_older_message_with_the_same_text_is_not_taken_for_it(channel, twilio, http) -> None:
    twilio.date_skew_s = -3600
    channel.send(message(), http)
    assert channel.find_sent(message(), 60, http) is None
    assert channel.find_sent(message(), 4000, http) is not None


def test_a_text_that_twilio_made_plainer_or_prefixed_is_recognized(channel, twilio, http) -> None:
    channel.send(message('It\'s "fine" - really...'), http)
    channel.send(message(f"{TRIAL_PREFIX}on trial"), http)
    assert channel.find_sent(message("It’s “fine” — really…"), 60, http).external_id == twilio.sent[0]["sid"]
    assert channel.find_sent(message("on trial"), 60, http).external_id == twilio.sent[1]["sid"]


def test_texts_without_letters_are_compared_as_they_are(channel, twilio, http) -> None:
    channel.send(message("👍"), http)
    assert channel.find_sent(message("👎"), 60, http) is None
    assert channel.find_sent(message("👍"), 60, http) is not None


def test_a_message_from_the_person_is_not_one_of_ours(channel, twilio, http) -> None:
    channel.send(message(), http)
    twilio._messages[0]["direction"] = "inbound"
    assert channel.find_sent(message(), 60, http) is None


def test_the_search_goes_over_pages_and_stops_at_older_messages(channel, twilio, http, monkeypatch) -> None:
    monkeypatch.setattr(plugin, "PAGE_SIZE", 2)
    channel.send(message("wanted"), http)
    for number in range(4):
        channel.send(message(f"later {number}"), http)
    assert channel.find_sent(message("wanted"), 60, http).external_id == twilio.sent[0]["sid"]
    assert len([r for r in twilio.requests if r.method == "GET"]) == 3
    for listed in twilio._messages[:4]:
        listed["date_created"] = "Thu, 01 Jan 2026 00:00:00 +0000"
    assert channel.find_sent(message("wanted"), 60, http) is None
    assert len([r for r in twilio.requests if r.method == "GET"]) == 4


def test_more_messages_than_we_read_leave_it_unknown(channel, twilio, http, monkeypatch) -> None:
    monkeypatch.setattr(plugin, "PAGE_SIZE", 1)
    for number in range(plugin.MAX_PAGES + 1):
        channel.send(message(f"number {number}"), http)
    with pytest.raises(SendUnknown, match="more than"):
        channel.find_sent(message("number 0"), 60, http)


def test_a_link_to_another_host_does_not_get_the_credentials(channel, twilio, http) -> None:
    page = {"messages": [{"direction": "inbound"}], "next_page_uri": "http://127.0.0.1:9/2010-04-01/elsewhere?x=1"}
    twilio.faults.append(Fault(status=200, body=json.dumps(page).encode()))
    with pytest.raises(SendUnknown):
        channel.find_sent(message(), 60, http)
    assert twilio.requests[-1].target == "/2010-04-01/elsewhere?x=1"


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500),
        Fault(status=401, body=b'{"code": 20003}'),
        Fault(status=429),
        Fault(drop=True),
        Fault(status=200, body=b"<html>"),
        Fault(status=200, body=b'{"messages": null}'),
        Fault(cut_after_bytes=5),
    ],
    ids=str,
)
def test_a_look_up_that_fails_proves_nothing(channel, twilio, http, fault: Fault) -> None:
    twilio.faults.append(fault)
    with pytest.raises(SendUnknown):
        channel.find_sent(message(), 60, http)


@pytest.mark.parametrize("listed", [[None], [1], [{}], [{"date_created": "yesterday"}], [{"direction": "outbound-api"}]])
def test_entries_that_are_no_messages_are_passed_over(channel, twilio, http, listed: list[object]) -> None:
    twilio.faults.append(Fault(status=200, body=json.dumps({"messages": listed}).encode()))
    assert channel.find_sent(message(), 60, http) is None


# -- settings and health -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {},
            "TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN and TWILIO_PHONE_NUMBER (or TWILIO_MESSAGING_SERVICE_SID) are not set",
        ),
        ({"TWILIO_ACCOUNT_SID": "AC1", "TWILIO_PHONE_NUMBER": NUMBER}, "TWILIO_AUTH_TOKEN is not set"),
        (
            {"TWILIO_ACCOUNT_SID": "AC1", "TWILIO_PHONE_NUMBER": NUMBER, "TWILIO_API_KEY": "SK1"},
            "TWILIO_API_KEY_SECRET is not set",
        ),
        (
            {"TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN": "t"},
            "TWILIO_PHONE_NUMBER (or TWILIO_MESSAGING_SERVICE_SID) is not set",
        ),
        ({"TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN": "t", "TWILIO_MESSAGING_SERVICE_SID": "MG1"}, ""),
        (
            {"TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN": "t", "TWILIO_PHONE_NUMBER": "1"}
            | {"TWILIO_OPT_OUT_REPLIES": "me"},
            "TWILIO_OPT_OUT_REPLIES must be 'twilio' or 'app'",
        ),
    ],
)
def test_what_is_missing_is_said_precisely(http, settings: dict[str, str], told: str) -> None:
    channel = TwilioChannel(settings)
    assert channel.missing() == told
    if told:
        with pytest.raises(SendFailed) as caught:
            channel.send(message(), http)
        assert caught.value.permanent
        assert channel.check(http).detail == f"{told}."


@pytest.mark.parametrize(("value", "answers"), [("", True), ("twilio", True), ("app", False), ("APP", False), ("x", True)])
def test_who_answers_stop_is_a_setting(value: str, answers: bool) -> None:
    assert TwilioChannel({"TWILIO_OPT_OUT_REPLIES": value}).answers_consent_words is answers


def test_a_healthy_account_is_ok(channel, http) -> None:
    health = channel.check(http)
    assert (health.ok, health.detail, health.cure) == (True, "The Twilio account is active.", "")


def test_a_suspended_account_is_not(channel, twilio, http) -> None:
    twilio.account_status = "suspended"
    health = channel.check(http)
    assert (health.ok, health.detail) == (False, "The Twilio account is suspended.")
    assert health.cure


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=503),
        Fault(status=200, body=b"hello"),
        Fault(drop=True),
        Fault(garbage=b"\x00\x00"),
        Fault(status=302),
    ],
    ids=str,
)
def test_a_check_never_raises_and_names_a_cure(channel, twilio, http, fault: Fault) -> None:
    twilio.faults.append(fault)
    health = channel.check(http)
    assert not health.ok
    assert health.detail
    assert health.cure


def test_a_wrong_token_is_found_by_the_check(twilio, http) -> None:
    health = TwilioChannel(twilio.settings | {"TWILIO_AUTH_TOKEN": "wrong"}).check(http)
    assert not health.ok
    assert "20003" in health.detail
    assert "TWILIO_AUTH_TOKEN" in health.cure


def test_an_installation_that_can_only_send_is_told_so(twilio, http) -> None:
    twilio.api_keys["SK1"] = "s"
    key = {"TWILIO_API_KEY": "SK1", "TWILIO_API_KEY_SECRET": "s", "TWILIO_AUTH_TOKEN": ""}
    health = TwilioChannel(twilio.settings | key).check(http)
    assert health.ok
    assert "webhooks are refused" in health.detail


def test_every_variable_that_is_read_is_declared() -> None:
    read: set[str] = set()

    class Recorder(dict[str, str]):
        def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
            read.add(name)
            return default

    (channel,) = register_channels(Recorder())
    assert read - {"SWITCHHOOK_PUBLIC_URL"} == {variable.name for variable in channel.environment}
    assert {v.name for v in channel.environment if "TOKEN" in v.name or "SECRET" in v.name} == {
        v.name for v in channel.environment if v.secret
    }


def test_registering_twilio_loads_no_http_library() -> None:
    code = (
        "import sys, webapp.plugin; before = set(sys.modules); "
        "import plugins.channels.twilio as t; t.register_channels({}); "
        "print(*(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "plugins.channels.twilio.wire" in loaded
    assert not {"flask", "httpx", "werkzeug", "plugins.channels.twilio.webhook"} & loaded


# -- the simulator, and the fake as a process ----------------------------------------------------------------------


def test_the_simulator_delivers_at_once_without_a_vendor(http) -> None:
    channel = SimulatorChannel()
    assert channel.send(message(), http) == Sent("sim-d1", DeliveryStatus.DELIVERED, None)
    assert channel.find_sent(message(), 60, http) is None
    assert (channel.missing(), channel.check(http).ok, channel.answers_consent_words) == ("", True, False)


def test_the_fake_runs_as_a_process_and_tells_what_it_took() -> None:
    with subprocess.Popen([sys.executable, "-m", "tests.fakes.twilio"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            settings = {
                "TWILIO_ACCOUNT_SID": ACCOUNT_SID,
                "TWILIO_AUTH_TOKEN": AUTH_TOKEN,
                "TWILIO_PHONE_NUMBER": NUMBER,
                "TWILIO_API_BASE_URL": url,
            }
            with httpx.Client() as http:
                assert http.post(f"{url}/_faults", json=[{"status": 503}]).status_code == 204
                with pytest.raises(SendUnknown):
                    TwilioChannel(settings).send(message("lost"), http)
                TwilioChannel(settings).send(message("hello"), http)
                assert [taken["body"] for taken in http.get(f"{url}/_sent").json()] == ["hello"]
        finally:
            begin = time.monotonic()
            process.terminate()
            assert process.wait(10) == 0
            assert time.monotonic() - begin < 5
