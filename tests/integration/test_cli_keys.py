"""`switchhook keys`: replacing the keys that seal what is stored, without losing a secret on the way."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.integration.cli_support import Operator, operator
from webapp.cli import context
from webapp.extensions import db, writing_session
from webapp.models import ProviderSetting, WebhookEndpoint
from webapp.vault import FILE_NAME, SETTLE_S, Key, Vault, current_vault, new_key

__all__ = ["operator"]

SECRETS = {
    "anthropic": {"ANTHROPIC_API_KEY": "sk-ant-0123456789"},
    "openai": {"OPENAI_API_KEY": "sk-0123456789abcdef", "OPENAI_ORG_SECRET": "org"},
}


@pytest.fixture(autouse=True)
def no_keys_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWITCHHOOK_ENCRYPTION_KEYS", raising=False)


@pytest.fixture
def stored(operator: Operator) -> Operator:
    """An operator whose installation keeps three secrets, sealed with its first key."""
    store(SECRETS)
    return operator


def store(secrets: dict[str, dict[str, str]]) -> None:
    with context.application(), writing_session() as session:
        vault = current_vault()
        for provider, values in secrets.items():
            sealed = {name: {"sealed": vault.seal(value), "hint": Vault.hint(value)} for name, value in values.items()}
            plain = {"BASE_URL": {"plain": "https://vendor.example/v1"}}
            session.add(ProviderSetting(provider=provider, values=sealed | plain))


def values() -> dict[str, Any]:
    """What the database holds."""
    with context.application():
        rows = db.session.execute(db.select(ProviderSetting.provider, ProviderSetting.values)).all()
        return {row[0]: row[1] for row in rows}


def opened() -> dict[str, dict[str, str]]:
    """Every stored secret, as a process that starts now reads it."""
    held = values()
    with context.application():
        vault = current_vault()
        return {
            provider: {name: vault.unseal(value["sealed"]) for name, value in found.items() if "sealed" in value}
            for provider, found in held.items()
        }


def keys_in_file(folder: Path) -> list[Key]:
    return [Key(line) for line in (folder / FILE_NAME).read_text().split()]


def made_long_ago(folder: Path) -> None:
    then = time.time() - SETTLE_S - 1
    os.utime(folder / FILE_NAME, (then, then))


def audited(operator: Operator) -> list[str]:
    return [row[0] for row in operator.rows("SELECT action FROM audit_entry WHERE action LIKE 'keys.%' ORDER BY id")]


# -- looking -------------------------------------------------------------------------------------------------------------
def test_a_list_before_anything_was_sealed_makes_no_key(operator: Operator) -> None:
    assert operator.json("keys", "list") == {
        "source": str(operator.folder / FILE_NAME),
        "keys": [],
        "secrets": 0,
        "unreadable": [],
    }
    assert "no key yet" in operator.ok("keys", "list")
    assert not (operator.folder / FILE_NAME).exists()


def test_a_list_shows_what_each_key_seals_and_no_key(stored: Operator) -> None:
    stored.ok("keys", "rotate", "--yes")
    store({"gemini": {"GEMINI_API_KEY": "AIza-0123"}})
    newest, first = keys_in_file(stored.folder)
    listed = stored.json("keys", "list")
    assert listed["keys"] == [
        {"fingerprint": newest.fingerprint, "newest": True, "secrets": 4},
        {"fingerprint": first.fingerprint, "newest": False, "secrets": 0},
    ]
    said = stored.ok("keys", "list")
    assert re.search(rf"{newest.fingerprint} +seals and opens +4\b", said)
    assert re.search(rf"{first.fingerprint} +opens +0\b", said)
    for key in (newest, first):
        assert key.text not in said + json.dumps(listed)


def test_a_secret_that_no_key_opens_is_named(stored: Operator) -> None:
    (stored.folder / FILE_NAME).write_text(new_key().text)
    listed = stored.json("keys", "list")
    assert listed["unreadable"] == ["anthropic ANTHROPIC_API_KEY", "openai OPENAI_API_KEY", "openai OPENAI_ORG_SECRET"]
    assert listed["secrets"] == 3
    shown = stored("keys", "list")
    assert shown.exit_code == 0
    assert "openai OPENAI_API_KEY" in shown.stderr


def test_a_key_is_made_for_the_setting_anywhere(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:////nowhere/at/all.db")
    monkeypatch.setenv("SWITCHHOOK_ENCRYPTION_KEYS", "broken")
    made = operator.ok("keys", "make").strip()
    assert Key.parse(made).text == made
    assert operator.json("keys", "make")["key"] != made


# -- rotating ------------------------------------------------------------------------------------------------------------
def test_a_rotation_seals_everything_anew_and_leaves_all_else_as_it_is(stored: Operator) -> None:
    before = values()
    [first] = keys_in_file(stored.folder)
    result = stored("keys", "rotate", "--yes")
    assert result.exit_code == 0
    assert "1/2 anthropic: 1 stored secret is sealed anew" in result.stderr
    assert "2/2 openai: 2 stored secrets are sealed anew" in result.stderr
    newest, second = keys_in_file(stored.folder)
    assert second == first
    assert newest.fingerprint in result.stdout
    assert opened() == SECRETS
    after = values()
    for provider, held in SECRETS.items():
        assert after[provider]["BASE_URL"] == before[provider]["BASE_URL"]
        for name in held:
            assert newest.opens(after[provider][name]["sealed"])
            assert after[provider][name]["hint"] == before[provider][name]["hint"]
    assert audited(stored) == ["keys.rotate"]
    for key in (newest, first):
        assert key.text not in result.output


def test_a_rotation_asks_first(stored: Operator) -> None:
    before = (values(), keys_in_file(stored.folder))
    result = stored("keys", "rotate", given="n\n")
    assert result.exit_code == 1
    assert (values(), keys_in_file(stored.folder)) == before
    assert stored("keys", "rotate", given="y\n").exit_code == 0
    assert len(keys_in_file(stored.folder)) == 2


def test_a_rotation_with_nothing_stored_makes_the_first_key_and_then_another(operator: Operator) -> None:
    made = operator.json("keys", "rotate", "--yes")
    assert made["added"] == keys_in_file(operator.folder)[0].fingerprint
    again = operator.json("keys", "rotate", "--yes")
    assert [key.fingerprint for key in keys_in_file(operator.folder)] == [again["added"], made["added"]]
    assert (again["sealed_anew"], again["unchanged"], again["unreadable"]) == (0, 0, [])


def test_a_rotation_that_died_after_its_key_was_written_is_finished_by_the_next(stored: Operator) -> None:
    [first] = keys_in_file(stored.folder)
    newest = new_key()
    (stored.folder / FILE_NAME).write_text(f"{newest.text}\n{first.text}\n")
    assert opened() == SECRETS
    done = stored.json("keys", "rotate", "--yes")
    assert (done["added"], done["newest"], done["sealed_anew"]) == ("", newest.fingerprint, 3)
    assert keys_in_file(stored.folder) == [newest, first]
    assert all(newest.opens(value["sealed"]) for held in values().values() for value in held.values() if "sealed" in value)
    assert opened() == SECRETS


def test_a_rotation_that_fails_in_the_database_changes_no_secret_and_can_be_run_again(stored: Operator) -> None:
    before = values()
    with stored.database() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(
                text("CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$")
            )
            statement = "CREATE TRIGGER no BEFORE UPDATE ON provider_setting FOR EACH ROW WHEN (NEW.provider = 'openai')"
            connection.execute(text(f"{statement} EXECUTE FUNCTION no()"))
        else:
            statement = "CREATE TRIGGER no BEFORE UPDATE ON provider_setting WHEN NEW.provider = 'openai'"
            connection.execute(text(f"{statement} BEGIN SELECT RAISE(ABORT, 'no'); END"))
    with pytest.raises(DBAPIError):
        stored("keys", "rotate", "--yes")
    assert values() == before
    assert opened() == SECRETS
    assert len(keys_in_file(stored.folder)) == 2
    with stored.database() as connection:
        connection.execute(
            text("DROP TRIGGER no" + (" ON provider_setting" if connection.dialect.name == "postgresql" else ""))
        )
    assert stored.json("keys", "rotate", "--yes")["sealed_anew"] == 3
    assert len(keys_in_file(stored.folder)) == 2
    assert opened() == SECRETS


def test_what_cannot_be_opened_is_named_and_does_not_keep_the_rest_from_being_sealed_anew(stored: Operator) -> None:
    with context.application(), writing_session() as session:
        lost = {"LOST": {"sealed": "gAAAAAnonsense"}, "ODD": {"sealed": 7}, "ODDER": "text", "ODDEST": None}
        session.add(ProviderSetting(provider="lost", values=lost))
        session.add(ProviderSetting(provider="odd", values=["no", "object"]))  # type: ignore[arg-type]
    result = stored("keys", "rotate", "--yes", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["unreadable"] == ["lost LOST"]
    assert json.loads(result.stdout)["sealed_anew"] == 3
    assert "lost LOST" in result.stderr
    assert values()["lost"] == lost
    assert values()["odd"] == ["no", "object"]


# -- pruning -------------------------------------------------------------------------------------------------------------
def test_keys_are_removed_only_when_no_secret_needs_them(stored: Operator) -> None:
    [first] = keys_in_file(stored.folder)
    newest = new_key()
    (stored.folder / FILE_NAME).write_text(f"{newest.text}\n{first.text}\n")
    made_long_ago(stored.folder)
    refused = stored("keys", "prune", "--yes")
    assert refused.exit_code == 1
    assert "3 stored secrets are still sealed with an older key: run `switchhook keys rotate` first" in refused.stderr
    assert keys_in_file(stored.folder) == [newest, first]
    stored.ok("keys", "rotate", "--yes")
    assert stored.json("keys", "prune", "--yes")["removed"] == [first.fingerprint]
    assert keys_in_file(stored.folder) == [newest]
    assert (stored.folder / FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert opened() == SECRETS
    assert audited(stored) == ["keys.rotate", "keys.prune"]
    assert "nothing to remove" in stored.ok("keys", "prune")


def test_signing_secrets_of_webhooks_are_sealed_anew_too(operator: Operator) -> None:
    operator.ok("org", "create", "Weavers")
    secret = operator.json("webhook", "add", "Weavers", "https://hooks.invalid/x")["secret"]
    with context.application(), writing_session() as session:
        endpoint = session.scalars(db.select(WebhookEndpoint)).one()
        endpoint.secret_before = current_vault().seal("whsec_before")
    assert sum(key["secrets"] for key in operator.json("keys", "list")["keys"]) == 2
    assert operator.json("keys", "rotate", "--yes")["sealed_anew"] == 2
    made_long_ago(operator.folder)
    assert len(operator.json("keys", "prune", "--yes")["removed"]) == 1
    with context.application():
        endpoint = db.session.scalars(db.select(WebhookEndpoint)).one()
        opened_now = [current_vault().unseal(token or "") for token in (endpoint.secret, endpoint.secret_before)]
    assert opened_now == [secret, "whsec_before"]


def test_removing_keys_asks_first(stored: Operator) -> None:
    stored.ok("keys", "rotate", "--yes")
    made_long_ago(stored.folder)
    result = stored("keys", "prune", given="n\n")
    assert result.exit_code == 1
    assert "older backups" in result.stderr
    assert len(keys_in_file(stored.folder)) == 2
    assert stored("keys", "prune", given="y\n").exit_code == 0
    assert len(keys_in_file(stored.folder)) == 1
    assert opened() == SECRETS


def test_an_older_key_stays_until_processes_have_had_time_to_notice_the_newest(
    stored: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.vault.SETTLE_S", 0.5)
    stored.ok("keys", "rotate", "--yes")
    ahead = time.time() + 3600  # a clock that was set back meanwhile: the key counts as just made
    os.utime(stored.folder / FILE_NAME, (ahead, ahead))
    started = time.monotonic()
    result = stored("keys", "prune", "--yes")
    assert time.monotonic() - started >= 0.5
    assert "Waiting" in result.stderr
    assert len(keys_in_file(stored.folder)) == 1


# -- keys from the environment -------------------------------------------------------------------------------------------
def test_keys_of_the_environment_are_used_but_never_changed(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = new_key(), new_key()
    monkeypatch.setenv("SWITCHHOOK_ENCRYPTION_KEYS", old.text)
    store(SECRETS)
    nothing = operator.ok("keys", "rotate", "--yes")
    assert "`switchhook keys make`" in nothing
    monkeypatch.setenv("SWITCHHOOK_ENCRYPTION_KEYS", f"{new.text}, {old.text}")
    early = operator("keys", "prune")
    assert early.exit_code == 1
    assert "3 stored secrets" in early.stderr
    done = operator.json("keys", "rotate", "--yes")
    assert (done["source"], done["newest"], done["added"]) == ("SWITCHHOOK_ENCRYPTION_KEYS", new.fingerprint, "")
    assert (done["sealed_anew"], done["unchanged"]) == (3, 0)
    assert operator.json("keys", "rotate", "--yes")["unchanged"] == 3
    assert operator.json("keys", "prune") == {
        "source": "SWITCHHOOK_ENCRYPTION_KEYS",
        "removed": [],
        "not_needed": [old.fingerprint],
    }
    assert old.fingerprint in operator.ok("keys", "prune")
    monkeypatch.setenv("SWITCHHOOK_ENCRYPTION_KEYS", new.text)
    assert opened() == SECRETS
    assert not list(operator.folder.glob(f"{FILE_NAME}*"))


def test_a_wrong_setting_is_said_in_one_line_without_the_key(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWITCHHOOK_ENCRYPTION_KEYS", "hunter2-hunter2")
    for command in ("list", "rotate", "prune"):
        result = operator("keys", command)
        assert result.exit_code == 2
        assert "SWITCHHOOK_ENCRYPTION_KEYS: key 1" in result.stderr
        assert "hunter2" not in result.output
