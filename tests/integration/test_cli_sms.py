"""`switchhook sms`: texting the product without a phone, and people by hand."""

from __future__ import annotations

import json
import threading

import pytest
from sqlalchemy import text

from tests.fakes.twilio import FakeTwilio
from tests.integration.cli_support import SENDER, Operator, fresh_operator, operator

__all__ = ["fresh_operator", "operator"]


@pytest.fixture
def working(operator: Operator) -> object:
    with operator.worker():
        yield operator


def simulate(operator: Operator, text: str, *options: str) -> dict[str, object]:
    return operator.json("sms", "simulate", "--from", SENDER, text, *options)


def test_a_simulated_message_is_answered_with_what_it_cost_and_what_is_left(working: Operator) -> None:
    result = working("sms", "simulate", "--from", "+1 500 555 0006", "How do I reverse a list in Python?")
    assert result.exit_code == 0, result.output
    assert "reverse" in result.stdout
    figures = result.stdout.strip().splitlines()[-1]
    assert "no model" in figures
    assert "$0.00" in figures
    assert "1 of 10 messages used this month" in figures
    [(channel, status, medium)] = working.rows("SELECT reply_channel, status, channel FROM request")
    assert (channel, status, medium) == ("simulator", "completed", "sms")
    [(external_id, address)] = working.rows("SELECT external_id, address FROM delivery WHERE direction='in'")
    assert external_id.startswith("sim-")
    assert address == SENDER


def test_the_figures_of_a_simulated_message_are_those_of_the_books(working: Operator) -> None:
    said = simulate(working, "hello")
    [(provider, model, tokens_in, tokens_out, cost)] = working.rows(
        "SELECT provider, model, input_tokens, output_tokens, cost_microusd FROM ledger_entry"
    )
    assert [said["provider"], said["model"], said["input_tokens"], said["output_tokens"], said["cost_microusd"]] == [
        provider,
        model,
        tokens_in,
        tokens_out,
        cost,
    ]
    [(body,)] = working.rows("SELECT body FROM delivery WHERE direction='out'")
    assert said["reply"] == body
    assert said["demo"] is True


def test_consent_words_are_honoured_and_their_silence_is_explained(working: Operator) -> None:
    simulate(working, "hello")
    stopped = working("sms", "simulate", "--from", SENDER, "STOP")
    assert stopped.exit_code == 0
    assert stopped.stdout == ""
    assert "opted out" in stopped.stderr
    silent = simulate(working, "are you there?")
    assert silent["reply"] is None
    assert "Text START" in str(silent["note"])
    back = simulate(working, "START")
    assert "answers again" in str(back["reply"])
    assert simulate(working, "hello again")["status"] == "completed"
    assert len(working.rows("SELECT id FROM request")) == 2


def test_a_message_over_the_limit_is_told_once_and_explained_always(working: Operator) -> None:
    [(limits,)] = working.rows("SELECT limits FROM plan WHERE code='free'")
    with working.database() as connection:
        stored = json.loads(limits) if isinstance(limits, str) else limits
        changed = json.dumps(stored | {"messages": 1})
        connection.execute(text("UPDATE plan SET limits=:l WHERE code='free'"), {"l": changed})
    assert simulate(working, "one")["status"] == "completed"
    first, second = simulate(working, "two"), simulate(working, "three")
    assert first["status"] == second["status"] == "rejected"
    assert "You have used" in str(first["reply"])
    assert second["reply"] is None
    assert "told once already" in str(second["note"])
    assert (second["used"], second["maximum"]) == (1, 1)


def test_a_stranger_gets_no_reply_where_only_known_numbers_are_served(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWITCHHOOK_SMS_REGISTRATION", "closed")
    with operator.worker():
        said = simulate(operator, "hello")
    assert said["reply"] is None
    assert "SWITCHHOOK_SMS_REGISTRATION is closed" in str(said["note"])
    assert said["request_id"] is None


def test_a_request_that_fails_is_reported_with_exit_code_1(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWITCHHOOK_CHAT_MODEL", "nobody/at-all")
    monkeypatch.setenv("SWITCHHOOK_JOB_RETRIES", "0")
    with operator.worker():
        result = operator("sms", "simulate", "--from", SENDER, "hello")
    assert result.exit_code == 1
    assert "The assistant" in result.stdout
    assert "switchhook doctor" in result.stderr


def test_a_request_that_is_tried_again_later_is_not_waited_for(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWITCHHOOK_CHAT_MODEL", "nobody/at-all")
    with operator.worker():
        result = operator("sms", "simulate", "--from", SENDER, "hello")
    assert result.exit_code == 1
    assert "It failed (provider_unavailable) and is tried again at" in result.output


def test_without_redis_nothing_is_stored_and_it_says_how_to_start(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", f"unix://{operator.folder}/nobody.sock")
    result = operator("sms", "simulate", "--from", SENDER, "hello")
    assert result.exit_code == 2
    assert "Switchhook is not running: start it with `make run`" in result.stderr
    assert operator.rows("SELECT id FROM delivery") == []


def test_without_a_worker_nothing_is_stored_and_it_says_how_to_start(operator: Operator) -> None:
    with operator.worker():
        pass
    result = operator("sms", "simulate", "--from", SENDER, "hello")
    assert result.exit_code == 2
    assert "Switchhook is not running" in result.stderr
    assert operator.rows("SELECT id FROM delivery") == []


def test_an_operator_who_is_in_the_wrong_directory_is_told_so(
    fresh_operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REDIS_URL")
    result = fresh_operator("sms", "simulate", "--from", SENDER, "hello")
    assert result.exit_code == 2
    assert f"There is no Switchhook in {fresh_operator.folder}:" in result.stderr


def test_a_message_without_a_text_is_refused_in_words_of_the_command_line(operator: Operator) -> None:
    result = operator("sms", "send", "--to", SENDER, " ")
    assert (result.exit_code, result.stderr) == (1, "switchhook: Write the message.\n")


def test_a_reply_that_does_not_come_in_time_is_said_to_come_later(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWITCHHOOK_DEMO_DELAY_MS", "25")
    with operator.worker():
        result = operator("sms", "simulate", "--from", SENDER, "hello", "--timeout", "0.2")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "stored and will be answered later" in result.stderr
    assert len(operator.rows("SELECT id FROM request")) == 1


@pytest.mark.parametrize(("sender", "said"), [("5005550006", "country code"), ("+1", "phone number")])
def test_a_sender_that_is_no_number_is_refused(operator: Operator, sender: str, said: str) -> None:
    result = operator("sms", "simulate", "--from", sender, "hello")
    assert result.exit_code == 1
    assert said in result.stderr


# -- sending -----------------------------------------------------------------------------------------------------------
def test_a_message_by_hand_goes_by_the_real_channel_and_its_status_is_waited_for(
    twilio: FakeTwilio, operator: Operator
) -> None:
    with operator.worker():
        said = operator.json("sms", "send", "--to", SENDER, "Your table is ready")
    assert (said["channel"], said["status"]) == ("twilio", "queued")
    assert said["external_id"].startswith("SM")
    [sent] = twilio.sent
    assert (sent["to"], sent["body"]) == (SENDER, "Your table is ready")


def test_a_message_that_the_vendor_refuses_is_reported_with_exit_code_1(twilio: FakeTwilio, operator: Operator) -> None:
    from tests.fakes.server import Fault

    refusal = json.dumps({"code": 21211, "message": "Invalid 'To' Phone Number", "status": 400}).encode()
    twilio.faults.append(Fault(path="Messages", status=400, body=refusal))
    with operator.worker():
        result = operator("sms", "send", "--to", SENDER, "hello")
    assert result.exit_code == 1
    assert "failed" in result.stdout


def test_without_a_real_channel_the_simulator_says_that_nobody_got_it(operator: Operator) -> None:
    with operator.worker():
        assert "Nobody's phone got it" in operator.ok("sms", "send", "--to", SENDER, "hello")


def test_a_message_that_nobody_waits_for_is_stored_and_sent_by_the_next_worker(operator: Operator) -> None:
    said = operator.json("sms", "send", "--to", SENDER, "hello", "--no-wait")
    assert said["status"] == "pending"
    delivered = threading.Event()
    with operator.worker():
        for _ in range(200):
            if operator.rows("SELECT status FROM delivery") == [("delivered",)]:
                delivered.set()
                break
            delivered.wait(0.05)
    assert delivered.is_set()


def test_nothing_is_sent_to_a_number_that_opted_out(operator: Operator) -> None:
    with operator.worker():
        simulate(operator, "STOP")
    result = operator("sms", "send", "--to", SENDER, "hello")
    assert result.exit_code == 1
    assert "opted out" in result.stderr
    assert operator.rows("SELECT id FROM delivery WHERE direction='out'") == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to", "12", "hello"), "country code"),
        (("--to", SENDER, " "), "Write the message"),
        (("--to", SENDER, "x" * 1601), "1,600"),
        (("--to", SENDER, "--channel", "pigeon", "hello"), "simulator"),
        (("--to", SENDER, "--channel", "twilio", "hello"), "simulator"),
    ],
)
def test_a_message_that_cannot_be_sent_is_explained(operator: Operator, arguments: tuple[str, ...], said: str) -> None:
    result = operator("sms", "send", *arguments)
    assert result.exit_code == 1
    assert said in result.stderr
    assert operator.rows("SELECT id FROM delivery") == []
