"""`switchhook provider`: vendors from the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.integration.cli_support import Operator, operator

__all__ = ["operator"]

SECRET = "sk-typed-at-the-prompt-7731"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    """An OpenAI that wants the secret; the environment names its address and no key."""
    with FakeOpenAI() as server:
        server.key = SECRET
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        yield server


def audit(operator: Operator) -> list[tuple[str, str]]:
    """What the trail says was done, and in which words."""
    return [(row[0], str(row[1])) for row in operator.rows("SELECT action, detail FROM audit_entry ORDER BY id")]


def variable(operator: Operator, name: str, key: str) -> tuple[str, str]:
    (found,) = [v for v in operator.json("provider", "show", name)["variables"] if v["name"] == key]
    return found["source"], found["shown"]


def test_all_providers_are_listed_with_what_they_lack(operator: Operator) -> None:
    listed = operator.json("provider", "list")
    openai = next(row for row in listed if row["name"] == "openai")
    assert (openai["kinds"], openai["ready"], openai["enabled"]) == (["text", "images"], False, True)
    assert openai["missing"] == "OPENAI_API_KEY is not set"
    assert openai["live"] == {
        "calls": 0,
        "failures": 0,
        "p50_ms": None,
        "p95_ms": None,
        "first_piece_p50_ms": None,
        "last_error": "",
        "last_error_at": None,
        "error_rate": 0,
    }
    table = operator.ok("provider", "list")
    assert "not ready (OPENAI_API_KEY is not set)" in table
    assert listed[-1]["name"] == "demo"


def test_a_secret_is_typed_unseen_kept_sealed_and_used(operator: Operator, fake: FakeOpenAI) -> None:
    result = operator("provider", "set", "openai", "--secret", "OPENAI_API_KEY", given=f"{SECRET}\n")
    assert result.exit_code == 0, result.output
    assert SECRET not in result.output
    assert "openai is ready" in result.output
    assert variable(operator, "openai", "OPENAI_API_KEY") == ("set here", "…7731")
    tested = operator.json("provider", "test", "openai")
    assert tested["ok"]
    assert tested["cost_microusd"] > 0
    assert fake.calls[0]["max_completion_tokens"] == 1
    assert operator.rows("SELECT payer, operation, request_id FROM ledger_entry") == [("house", "test", None)]
    assert SECRET not in str(operator.rows("SELECT * FROM provider_setting") + operator.rows("SELECT * FROM audit_entry"))
    assert audit(operator)[0][0] == "provider.change"
    assert "fake-model" in operator.ok("provider", "models", "openai")
    assert "fake-model" in [row["id"] for row in operator.json("provider", "models", "openai")]


def test_a_secret_comes_from_standard_input_where_it_is_asked_to(operator: Operator, fake: FakeOpenAI) -> None:
    del fake
    operator.ok("provider", "set", "openai", "--secret", "OPENAI_API_KEY=-", given=f"{SECRET}\n")
    assert operator.json("provider", "test", "openai")["ok"]
    nothing = operator("provider", "set", "openai", "--secret", "OPENAI_API_KEY=-", given="")
    assert nothing.exit_code == 1
    assert "nothing came" in nothing.stderr


@pytest.mark.parametrize("how", [(f"OPENAI_API_KEY={SECRET}",), ("--secret", f"OPENAI_API_KEY={SECRET}")])
def test_a_secret_as_an_argument_is_refused_with_the_cure(operator: Operator, how: tuple[str, ...]) -> None:
    result = operator("provider", "set", "openai", *how)
    assert result.exit_code == 1
    assert "--secret OPENAI_API_KEY" in result.stderr
    assert SECRET not in result.output
    assert operator.rows("SELECT * FROM provider_setting") == []


def test_rotated_keys_leave_the_secret_usable(operator: Operator, fake: FakeOpenAI) -> None:
    del fake
    operator.ok("provider", "set", "openai", "--secret", "OPENAI_API_KEY", given=f"{SECRET}\n")
    [(before,)] = operator.rows('SELECT "values" FROM provider_setting')
    operator.ok("keys", "rotate", "--yes")
    [(after,)] = operator.rows('SELECT "values" FROM provider_setting')
    assert str(before) != str(after)
    assert operator.json("provider", "test", "openai")["ok"]
    assert operator.json("provider", "show", "openai")["trouble"] == ""


def test_what_was_set_is_shown_and_can_be_unset(operator: Operator) -> None:
    operator.ok("provider", "set", "openai", "OPENAI_MODEL=gpt-5", "OPENAI_ORG_ID=org-1", "--model", "gpt-5-mini")
    shown = operator.ok("provider", "show", "openai")
    assert "org-1" in shown
    assert "gpt-5-mini" in shown
    operator.ok("provider", "unset", "openai", "OPENAI_MODEL", "OPENAI_ORG_ID")
    operator.ok("provider", "set", "openai", "--model", "")
    assert variable(operator, "openai", "OPENAI_MODEL") == ("default", "gpt-4.1-mini")
    assert operator.json("provider", "show", "openai")["default_model"] == "gpt-4.1-mini"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("set", "openai", "PATH=/bin"), 1, "no variable 'PATH'"),
        (("set", "openai", "OPENAI_BASE_URL=http://10.0.0.1/v1"), 1, "SWITCHHOOK_ALLOW_OUTBOUND"),
        (("set", "openai", "OPENAI_MODEL"), 2, "KEY=VALUE"),
        (("set", "openai", "OPENAI_MODEL="), 2, "provider unset openai OPENAI_MODEL"),
        (("set", "openai"), 2, "nothing to set"),
        (("set", "nobody", "A=1"), 1, "no provider 'nobody'"),
        (("limits", "openai"), 2, "Name a limit"),
        (("limits", "openai", "--concurrent", "many"), 2, "whole number"),
        (("limits", "openai", "--concurrent", "-1"), 1, "from 0 to"),
        (("price", "openai", "gpt-5"), 2, "Give an amount"),
        (("price", "openai", "gpt-5", "--input", "cheap"), 1, "amount of dollars"),
        (("price", "openai", "gpt-5", "--remove", "--input", "1"), 2, "Give an amount"),
        (("peak", "openai", "at noon"), 1, "span of hours"),
        (("test", "anthropic", "--kind", "images"), 1, "no images"),
        (("models", "openai"), 1, "OPENAI_API_KEY is not set"),
    ],
)
def test_what_cannot_be_is_explained(operator: Operator, arguments: tuple[str, ...], code: int, said: str) -> None:
    result = operator("provider", *arguments)
    assert result.exit_code == code, result.output
    assert said in result.stderr
    assert operator.rows("SELECT * FROM provider_setting") == []


def test_limits_prices_hours_and_the_switch(operator: Operator) -> None:
    operator.ok("provider", "limits", "mistral", "--requests-per-minute", "5", "--tokens-per-minute", "0")
    operator.ok("provider", "price", "mistral", "*", "--input", "0.5", "--output", "1.5", "--cache-write", "2")
    operator.ok("provider", "peak", "mistral", "mon-fri 01:00-04:00")
    assert "switched off" in operator.ok("provider", "disable", "mistral")
    found = operator.json("provider", "show", "mistral")
    assert found["limits"] == {"requests_per_minute": 5, "tokens_per_minute": 0}
    assert found["pace"]["requests_per_minute"] == 5
    price = found["prices"]["*"]
    assert (price["input_usd"], price["output_usd"], price["cache_write_usd"]) == ("0.5", "1.5", "2")
    assert (found["peak_hours"], found["enabled"]) == ("Mon-Fri 01:00-04:00", False)
    shown = operator.ok("provider", "show", "mistral")
    assert "5 requests/min" in shown
    assert "Mon-Fri 01:00-04:00" in shown
    operator.ok("provider", "limits", "mistral", "--requests-per-minute", "default", "--tokens-per-minute", "default")
    operator.ok("provider", "price", "mistral", "*", "--remove")
    operator.ok("provider", "peak", "mistral", "none")
    operator.ok("provider", "enable", "mistral")
    found = operator.json("provider", "show", "mistral")
    assert (found["limits"], found["prices"], found["peak_hours_set"], found["enabled"]) == ({}, {}, "", True)
    operator.ok("provider", "peak", "mistral", "default")
    assert operator.json("provider", "show", "mistral")["peak_hours_set"] is None
    assert len([action for action, _ in audit(operator) if action == "provider.change"]) == 9


def test_a_test_that_fails_shows_the_vendors_words_and_ends_with_one(operator: Operator, fake: FakeOpenAI) -> None:
    operator.ok("provider", "set", "openai", "--secret", "OPENAI_API_KEY", given=f"{SECRET}\n")
    refusal = json.dumps({"error": {"message": f"The key {SECRET} may not do this."}}).encode()
    fake.faults.append(Fault(status=403, body=refusal))
    result = operator("provider", "test", "openai")
    assert result.exit_code == 1
    assert "may not do this" in result.stderr
    assert SECRET not in result.output
    fake.faults.append(Fault(path="models", status=403, body=refusal))
    result = operator("provider", "models", "openai")
    assert result.exit_code == 1
    assert "may not do this" in result.stderr
    assert SECRET not in result.output


def test_the_demo_answers_and_a_reset_is_noted(operator: Operator) -> None:
    assert "demo answers" in operator.ok("provider", "test", "demo")
    assert "called again" in operator.ok("provider", "reset", "demo")
    assert [action for action, _ in audit(operator)] == ["provider.reset"]


def test_a_change_says_what_was_saved_and_that_nothing_was_tried(operator: Operator, fake: FakeOpenAI) -> None:
    def said(*arguments: str, given: str = "") -> str:
        result = operator("provider", *arguments, given=given)
        assert result.exit_code == 0, result.output
        return result.stdout

    limited = said("limits", "openai", "--requests-per-minute", "1200", "--concurrent", "0", "--tokens-per-minute", "default")
    assert "requests a minute 1,200" in limited
    assert "requests at the same time without a limit" in limited
    assert "tokens a minute as everywhere" in limited
    assert "openai is not ready (OPENAI_API_KEY is not set)." in limited
    keyed = said("set", "openai", "--secret", "OPENAI_API_KEY", "--model", "gpt-5", given=f"{SECRET}\n")
    assert "Saved: default model gpt-5; OPENAI_API_KEY is set." in keyed
    assert "openai is ready; nothing was tried. Try it: `switchhook provider test openai`." in keyed
    assert SECRET not in keyed
    assert fake.requests == []
    priced = said("price", "openai", "*", "--input", "0.15", "--picture", "0.04")
    assert "Saved: the price of all models is $0.15 per million input tokens, $0.04 per picture." in priced
    assert "no price of your own for all models" in said("price", "openai", "*", "--remove")
    assert "peak hours (UTC) Mon-Fri 01:00-04:00" in said("peak", "openai", "mon-fri 01:00-04:00")
    assert "peak hours as the vendor has them (none)" in said("peak", "openai", "default")
    assert "Saved: switched off.\nopenai is switched off." in said("disable", "openai")
    assert "Saved: switched on." in said("enable", "openai")
    assert "OPENAI_API_KEY is removed" in said("unset", "openai", "OPENAI_API_KEY")
