"""`switchhook doctor` and `switchhook plugin list`: what is wrong, and what to do about it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.openai import FakeOpenAI
from tests.integration.cli_support import Operator, fresh_operator, operator

__all__ = ["fresh_operator", "operator"]

KEY = "sk-a-key-that-must-not-be-seen"


def examined(operator: Operator, code: int = 0) -> dict[str, dict[str, Any]]:
    """What the doctor found, by 'area/name'."""
    result = operator("doctor", "--json")
    assert result.exit_code == code, result.output
    said = json.loads(result.stdout)
    assert said["ok"] is (code == 0)
    return {f"{f['area']}/{f['name']}": f for f in said["findings"]}


def uncured(found: dict[str, dict[str, Any]]) -> list[str]:
    return [name for name, f in found.items() if f["level"] in ("warning", "fault") and not f["cure"]]


def plugin(operator: Operator, monkeypatch: pytest.MonkeyPatch, name: str, code: str) -> None:
    folder = operator.folder / "plugins"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(code)
    monkeypatch.setenv("SWITCHHOOK_PLUGINS_DIR", str(folder))


def test_a_demo_only_installation_is_well_but_warned_how_to_get_real_answers(operator: Operator) -> None:
    with operator.worker():
        found = examined(operator)
        page = operator("doctor")
    assert page.exit_code == 0
    assert found["providers/chat"]["level"] == "warning"
    assert "OPENAI_API_KEY" in found["providers/chat"]["cure"]
    assert found["queue/workers"]["level"] == "ok"
    assert found["providers/openai"]["level"] == "off"
    assert uncured(found) == []
    assert "✓ workers: 1 at work" in page.stdout
    assert "! chat: served by demo/demo" in page.stdout
    assert "no faults" in page.stdout


def test_before_the_first_start_nothing_is_broken_and_everything_says_how_to_start(
    fresh_operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REDIS_URL")
    found = examined(fresh_operator)
    assert found["database/schema"]["level"] == found["queue/redis"]["level"] == "warning"
    assert "make run" in found["queue/redis"]["cure"]
    assert uncured(found) == []


def test_a_queue_without_workers_is_a_fault(operator: Operator) -> None:
    found = examined(operator, code=1)
    assert found["queue/workers"]["level"] == "fault"
    assert "switchhook worker" in found["queue/workers"]["cure"]


def test_a_redis_that_keeps_nothing_is_warned_about_and_one_that_does_is_not(operator: Operator, redis_url: str) -> None:
    import redis

    with redis.Redis.from_url(redis_url) as client, operator.worker():
        before = client.config_get("save")["save"], client.config_get("appendonly")["appendonly"]
        try:
            client.config_set("save", "")
            client.config_set("appendonly", "no")
            assert examined(operator)["queue/persistence"]["level"] == "warning"
            client.config_set("save", "3600 1")
            assert examined(operator)["queue/persistence"]["level"] == "ok"
        finally:
            client.config_set("save", before[0])
            client.config_set("appendonly", before[1])


def test_a_redis_that_is_away_is_a_fault_without_its_password(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://me:very-secret-word@127.0.0.1:9/0")
    result = operator("doctor")
    assert result.exit_code == 1
    assert "✗ redis: does not answer at 127.0.0.1:9" in result.stdout
    assert "very-secret-word" not in result.output


def test_every_wrong_setting_is_named_with_its_cure(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {
        "SWITCHHOOK_PORT": "eighty",
        "SWITCHHOOK_TIME_ZONE": "Mars/Olympus",
        "SWITCHHOOK_CHAT_MODEL": "gpt",
        "SWITCHHOOK_SMS_REGISTRATION": "maybe",
    }
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    found = examined(operator, code=1)
    assert {f["name"] for f in found.values()} == set(wrong)
    assert uncured(found) == []


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [
        ("DATABASE_URL", "nonsense", "settings/DATABASE_URL"),
        ("DATABASE_URL", "mysql://u:pw-not-shown@h/d", "settings/DATABASE_URL"),
        ("REDIS_URL", "amqp://u:pw-not-shown@h", "settings/REDIS_URL"),
        ("DATABASE_URL", "postgresql://u:pw-not-shown@127.0.0.1:9/d", "database/database"),
        ("DATABASE_URL", "sqlite:////nowhere/at/all.db", "database/database"),
        ("SWITCHHOOK_DEFAULT_PLAN", "gold", "database/default plan"),
        ("SWITCHHOOK_CHAT_MODEL", "nobody/x", "providers/chat"),
    ],
)
def test_what_keeps_it_from_working_is_a_fault_with_a_cure(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, name: str, value: str, where: str
) -> None:
    monkeypatch.setenv(name, value)
    result = operator("doctor", "--json")
    assert result.exit_code == 1
    found = {f"{f['area']}/{f['name']}": f for f in json.loads(result.stdout)["findings"]}
    assert found[where]["level"] == "fault"
    assert uncured(found) == []
    assert "pw-not-shown" not in result.output


def test_a_database_that_is_not_supported_is_told_from_one_whose_driver_is_missing(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://u:p@h/d")
    found = examined(operator, code=1)["settings/DATABASE_URL"]
    assert found["detail"] == "mysql is not supported: Switchhook runs on SQLite and PostgreSQL"


def test_a_file_that_cannot_be_opened_is_not_told_to_be_started(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:////nowhere/at/all.db")
    found = examined(operator, code=1)["database/database"]
    assert found["detail"] == "cannot be opened (unable to open database file)"
    assert "readable and writable" in found["cure"]
    assert "DATABASE_URL" in found["cure"]
    assert "tart it" not in found["cure"]


def test_a_look_at_an_empty_directory_makes_nothing_there(
    fresh_operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SWITCHHOOK_DATA_DIR")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    examined(fresh_operator, code=1)  # a Redis without a worker
    fresh_operator.ok("plugin", "list")
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SWITCHHOOK_PORT", "eighty", "must be a whole number"),
        ("SWITCHHOOK_PORT", "0", "must be at least 1"),
        ("SWITCHHOOK_PORT", "70000", "must be at most 65535"),
        ("SWITCHHOOK_LEASE_S", "long", "must be a number"),
        ("SWITCHHOOK_SMS_REGISTRATION", "maybe", "must be 'open', 'invite' or 'closed'"),
        ("SWITCHHOOK_TIME_ZONE", "Moon", "must be an IANA time zone such as Europe/Berlin"),
    ],
)
def test_what_is_wrong_with_a_setting_is_said_in_plain_words(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    assert examined(operator, code=1)[f"settings/{name}"]["detail"] == said


def test_a_misspelled_variable_is_warned_about_with_the_name_it_resembles(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWITCHHOOK_WORKER_JOB", "3")
    (operator.folder / ".env").write_text("SWITCHHOOK_DEMO_DELAY=3\nSWITCHHOOK_XYZZY_QUUX=1\nMY_OWN=1\n")
    with operator.worker():
        found = {name: f for name, f in examined(operator).items() if "nothing reads" in f["detail"]}
    assert {name: f["level"] for name, f in found.items()} == {
        "settings/SWITCHHOOK_DEMO_DELAY": "warning",
        "settings/SWITCHHOOK_WORKER_JOB": "warning",
        "settings/SWITCHHOOK_XYZZY_QUUX": "warning",
    }
    assert "SWITCHHOOK_DEMO_DELAY_MS" in found["settings/SWITCHHOOK_DEMO_DELAY"]["cure"]
    assert "SWITCHHOOK_WORKER_JOBS" in found["settings/SWITCHHOOK_WORKER_JOB"]["cure"]
    assert "docs/settings.md" in found["settings/SWITCHHOOK_XYZZY_QUUX"]["cure"]


def test_a_vendor_that_somebody_began_to_set_up_is_what_the_hint_for_real_answers_is_about(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "notaurl")
    with operator.worker():
        found = examined(operator)
    assert found["providers/openai"]["level"] == "warning"
    assert "Correct it" in found["providers/openai"]["cure"]
    assert "OPENAI_BASE_URL is not an http or https address" in found["providers/chat"]["cure"]


def test_a_data_directory_that_cannot_be_written_is_a_fault(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    (operator.folder / "file").touch()
    monkeypatch.setenv("SWITCHHOOK_DATA_DIR", str(operator.folder / "file"))
    found = examined(operator, code=1)
    assert found["settings/data directory"]["level"] == "fault"
    assert "SWITCHHOOK_DATA_DIR" in found["settings/data directory"]["cure"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"SWITCHHOOK_PUBLIC_URL": "http://bot.example.com"}, "is not https"),
        ({"SWITCHHOOK_PUBLIC_URL": "https://bot.example.com"}, "no proxy is trusted"),
        ({"SWITCHHOOK_HOST": "0.0.0.0"}, "without encryption"),
    ],
)
def test_a_public_address_that_endangers_sign_ins_is_warned_about(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, values: dict[str, str], said: str
) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with operator.worker():
        found = examined(operator)["settings/public address"]
    assert found["level"] == "warning"
    assert said in found["detail"]


@pytest.mark.parametrize(
    ("values", "warned"),
    [
        ({"SWITCHHOOK_HOST": "0.0.0.0"}, True),
        ({"SWITCHHOOK_HOST": "0.0.0.0", "SWITCHHOOK_TRUSTED_PROXIES": "1"}, False),
        ({"SWITCHHOOK_HOST": "127.0.0.1"}, False),
    ],
)
def test_a_server_that_the_world_reaches_without_a_proxy_is_warned_about_slow_clients(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, values: dict[str, str], warned: bool
) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with operator.worker():
        found = examined(operator)
    assert ("settings/proxy" in found) is warned
    assert not warned or "docs/operations.md" in found["settings/proxy"]["cure"]


def test_a_weak_secret_key_is_warned_about_and_not_shown(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "hunter22")
    result = operator("doctor", "--json")
    assert "short enough to be guessed" in result.stdout
    assert "hunter22" not in result.output


def test_a_vendor_that_is_set_up_is_asked(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeOpenAI() as openai:
        openai.key = KEY
        monkeypatch.setenv("OPENAI_BASE_URL", f"{openai.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        with operator.worker():
            well = examined(operator)
            monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}-wrong")
            ill = operator("doctor", "--json")
    assert well["providers/openai"]["level"] == "ok"
    assert well["providers/chat"]["level"] == "ok"
    assert "openai/" in well["providers/chat"]["detail"]
    assert ill.exit_code == 1
    [found] = [f for f in json.loads(ill.stdout)["findings"] if f["area"] == "providers" and f["name"] == "openai"]
    assert found["level"] == "fault"
    assert found["cure"]
    assert KEY not in ill.output
    [chat] = [f for f in json.loads(ill.stdout)["findings"] if f["name"] == "chat"]
    assert chat["level"] == "fault"
    assert "openai" in chat["cure"]


def test_an_ollama_that_was_only_looked_for_is_nobodys_fault_but_one_that_was_named_is(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with operator.worker():
        assert examined(operator)["providers/ollama"]["level"] == "off"
        monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:9")
        assert examined(operator, code=1)["providers/ollama"]["level"] == "fault"


def test_a_secret_that_a_vendor_or_a_plugin_repeats_is_blotted_out(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from webapp.plugin import *\n"
        "class Chatty(TextProvider):\n"
        "    name, label, default_model = 'chatty', 'Chatty', 'x'\n"
        "    environment = (Variable('CHATTY_KEY', 'Key.', secret=True),)\n"
        "    def __init__(self, key): self.key = key\n"
        "    def check(self, http): return Health(False, f'key {self.key} is wrong', f'not {self.key}')\n"
        "@hookimpl\n"
        "def register_providers(settings): return [Chatty(settings['CHATTY_KEY'])]\n"
    )
    monkeypatch.setenv("CHATTY_KEY", KEY)
    plugin(operator, monkeypatch, "chatty", code)
    result = operator("doctor")
    assert result.exit_code == 1
    assert "✗ chatty: key *** is wrong" in result.stdout
    assert KEY not in result.output


def test_a_vendor_that_says_nothing_does_not_hold_the_doctor_up_for_long(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.fakes.server import Fault
    from webapp.services import doctor

    monkeypatch.setattr(doctor, "LOOK_S", 0.3)
    with FakeOpenAI() as openai:
        openai.faults += [Fault(hang=True)] * 3
        monkeypatch.setenv("OPENAI_BASE_URL", f"{openai.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        found = examined(operator, code=1)
    assert found["providers/openai"]["level"] == "fault"


def test_a_plugin_whose_check_raises_is_a_fault_and_the_others_are_looked_at(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "from webapp.plugin import *\n"
        "class Bad(TextProvider):\n"
        "    name, label, default_model = 'bad', 'Bad', 'x'\n"
        "    def check(self, http): raise ZeroDivisionError('oh')\n"
        "@hookimpl\n"
        "def register_providers(): return [Bad()]\n"
    )
    plugin(operator, monkeypatch, "bad", code)
    found = examined(operator, code=1)
    assert "ZeroDivisionError" in found["providers/bad"]["detail"]
    assert found["providers/demo"]["level"] == "ok"


def test_plugins_that_are_left_out_are_listed_first_and_are_faults(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(operator, monkeypatch, "broken", "import nothing_of_that_name\n")
    result = operator("plugin", "list")
    assert result.exit_code == 0
    first = result.stdout.splitlines()[0]
    assert first.startswith("✗ broken (folder) is left out: ModuleNotFoundError")
    assert result.stderr == ""
    [record] = [r for r in operator.json("plugin", "list") if r["name"] == "broken"]
    assert record["state"] == "left out"
    assert examined(operator, code=1)["plugins/broken"]["level"] == "fault"


def test_every_built_in_plugin_is_listed_with_what_it_gives(operator: Operator) -> None:
    records = {r["name"]: r for r in operator.json("plugin", "list")}
    assert {r["state"] for r in records.values()} == {"loaded"}
    assert records["channels.twilio"]["gives"] == ["channels: twilio"]
    assert records["providers.demo"]["source"] == "built-in"
    assert "register_providers" in records["providers.demo"]["hooks"]
    table = operator.ok("plugin", "list")
    assert [name for name in records if name not in table] == []


def test_the_list_of_plugins_needs_no_database(fresh_operator: Operator, tmp_path: Path) -> None:
    fresh_operator.ok("plugin", "list")
    assert not (tmp_path / "switchhook.db").exists()


def test_a_worker_without_a_recent_sign_of_life_is_not_counted(operator: Operator, redis_url: str) -> None:
    from datetime import timedelta

    import redis
    from rq.utils import utcformat

    from webapp.extensions import now
    from webapp.services import workers

    with redis.Redis.from_url(redis_url) as client, operator.worker():
        assert workers.alive(client) == 1
        [key] = client.smembers("rq:workers")
        dead = {"birth": utcformat(now()), "last_heartbeat": utcformat(now() - timedelta(seconds=40))}
        client.hset("rq:worker:killed", mapping=dead)
        client.sadd("rq:workers", "rq:worker:killed", "rq:worker:expired")
        assert workers.alive(client) == 1
        client.srem("rq:workers", key)
        assert workers.alive(client) == 0


def test_commands_in_hints_are_spelled_as_they_are_typed_here(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [".venv/bin/switchhook"])
    page = operator("doctor").stdout
    assert "Start one: `.venv/bin/switchhook worker` (`.venv/bin/switchhook up` runs one)." in page
    assert "`switchhook " not in page
    refused = operator("sms", "simulate", "--from", "+15005550006", "hello").stderr
    assert "(or `.venv/bin/switchhook up`)" in refused


def test_a_vendor_that_is_set_up_in_the_pages_and_refuses_its_key_is_a_fault_without_the_key(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = "sk-typed-into-a-page-8842"
    code = (
        "from webapp.plugin import *\n"
        "class Chatty(TextProvider):\n"
        "    name, label, default_model, probe_needed = 'chatty', 'Chatty', 'x', True\n"
        "    environment = (Variable('CHATTY_KEY', 'Key.', secret=True),)\n"
        "    def __init__(self, key): self.key = key\n"
        "    def check(self, http): return Health(False, f'key {self.key} is wrong', 'Correct CHATTY_KEY.')\n"
        "@hookimpl\n"
        "def register_providers(settings): return [Chatty(settings.get('CHATTY_KEY', ''))]\n"
    )
    plugin(operator, monkeypatch, "chatty", code)
    with operator.worker():
        assert examined(operator)["providers/chatty"]["level"] == "off"
        assert operator("provider", "set", "chatty", "--secret", "CHATTY_KEY", given=f"{typed}\n").exit_code == 0
        result = operator("doctor", "--json")
        found = examined(operator, code=1)["providers/chatty"]
    assert typed not in result.output
    assert (found["level"], found["detail"]) == ("fault", "key *** is wrong")
    assert "the Providers page" in found["cure"]
    assert "switchhook provider set chatty" in found["cure"]


def test_a_vendor_that_is_switched_off_is_not_asked(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeOpenAI() as openai, operator.worker():
        monkeypatch.setenv("OPENAI_BASE_URL", f"{openai.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-that-openai-does-not-know")
        openai.key = KEY
        assert examined(operator, code=1)["providers/openai"]["level"] == "fault"
        operator.ok("provider", "disable", "openai")
        asked = len(openai.requests)
        found = examined(operator)
        assert len(openai.requests) == asked
    for name in ("providers/openai", "providers/openai (pictures)"):
        assert (found[name]["level"], found[name]["detail"]) == ("off", "switched off")


def test_a_rule_whose_only_model_is_a_server_that_does_not_run_says_that_it_does_not_answer(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:9")
    operator.ok("route", "add", "ollama/llama3.2", "--name", "Own machine", "--category", "own")
    operator.ok("route", "add", "ollama", "--name", "Own machine too", "--category", "owner")
    with operator.worker():
        found = examined(operator, code=1)
    for name in ("Own machine", "Own machine too"):
        rule = found[f"providers/rule “{name}”"]
        assert rule["level"] == "fault"
        assert "it does not answer at http://127.0.0.1:9" in rule["detail"]
    assert not any("switchhook doctor" in f["detail"] + f["cure"] for f in found.values())
    assert "does not answer" in operator("route", "list").output


def test_a_cure_names_the_pages_and_the_command_beside_the_file(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    with operator.worker():
        hint = examined(operator)["providers/chat"]["cure"]
        monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
        begun = examined(operator)["providers/openai"]
    assert "Providers page" in hint
    assert "switchhook provider set openai --secret OPENAI_API_KEY" in hint
    assert "start again" not in hint
    assert begun["level"] == "warning"
    assert "switchhook provider set openai" in begun["cure"]
