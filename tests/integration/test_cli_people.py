"""The operator's commands about administrators, people and their tokens."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.integration.cli_support import SENDER, Operator, fresh_operator, operator

__all__ = ["fresh_operator", "operator"]


def can_sign_in(email: str, password: str) -> bool:
    from webapp.cli import context
    from webapp.services import people

    with context.application():
        return people.sign_in(email, password) is not None


def test_an_administrator_is_made_with_a_password_that_is_shown_once(operator: Operator) -> None:
    said = operator.ok("admin", "create", "--email", "Ada@Example.com")
    password = said.strip().rpartition(" ")[2]
    assert can_sign_in("ada@example.com", password)
    [(role, plan, stored)] = operator.rows("SELECT role, plan_code, password_hash FROM person WHERE email='ada@example.com'")
    assert (role, plan) == ("admin", "enterprise")
    assert password not in stored


def test_a_given_password_is_not_printed(operator: Operator) -> None:
    said = operator.json("admin", "create", "--email", "ada@example.com", "--password", "a long enough one")
    assert said["password"] is None
    assert said["created"]
    assert can_sign_in("ada@example.com", "a long enough one")


def test_a_password_can_be_typed_without_being_shown(operator: Operator) -> None:
    result = operator("admin", "create", "--email", "ada@example.com", "--prompt", given="typed secret 1\ntyped secret 1\n")
    assert result.exit_code == 0
    assert "typed secret 1" not in result.output
    assert can_sign_in("ada@example.com", "typed secret 1")


def test_somebody_who_exists_becomes_an_administrator_and_their_sessions_end(operator: Operator) -> None:
    operator.ok("person", "create", "--email", "bo@example.com", "--password", "the first password")
    [(before,)] = operator.rows("SELECT session_key FROM person WHERE email='bo@example.com'")
    said = operator.ok("admin", "create", "--email", "BO@example.com", "--password", "the second password")
    assert "so far: member" in said
    assert "reset" in said
    assert can_sign_in("bo@example.com", "the second password")
    assert not can_sign_in("bo@example.com", "the first password")
    [(role, after)] = operator.rows("SELECT role, session_key FROM person WHERE email='bo@example.com'")
    assert role == "admin"
    assert after != before
    actions = [row[0] for row in operator.rows("SELECT action FROM audit_entry ORDER BY id")]
    assert actions == ["person.create", "person.password", "person.role"]


def test_an_administrator_who_forgot_the_password_gets_a_new_one(operator: Operator) -> None:
    said = operator.ok("admin", "create", "--email", "admin@example.com")
    assert "already" in said
    assert can_sign_in("admin@example.com", said.strip().rpartition(" ")[2])
    assert operator.rows("SELECT count(*) FROM person") == [(1,)]


def test_a_person_is_made_with_a_normal_phone_number_and_listed(operator: Operator) -> None:
    made = operator.json("person", "create", "--phone", "+1 (500) 555-0006", "--name", "Bo [bold]", "--plan", "starter")
    listed = operator.json("person", "list")
    assert listed["total"] == 2
    [bo] = [row for row in listed["people"] if row["id"] == made["id"]]
    assert (bo["phones"], bo["plan"], bo["role"], bo["active"]) == ([SENDER], "starter", "member", True)
    table = operator.ok("person", "list")
    assert "Bo [bold]" in table
    assert SENDER in table


def test_a_long_list_says_how_much_is_left_out(operator: Operator) -> None:
    operator.ok("person", "create", "--email", "bo@example.com")
    assert "1 of 2" in operator.ok("person", "list", "--limit", "1")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "needs a phone number or an e-mail"),
        (("--phone", "5005550006"), "country code"),
        (("--email", "nobody"), "not an e-mail"),
        (("--email", "admin@example.com"), "already"),
        (("--phone", SENDER, "--plan", "gold"), "free, starter"),
        (("--phone", SENDER, "--password", "long enough but"), "e-mail address to sign in"),
        (("--email", "bo@example.com", "--password", "short"), "10 to 200"),
    ],
)
def test_a_person_who_cannot_be_made_is_explained_in_one_line(
    operator: Operator, arguments: tuple[str, ...], said: str
) -> None:
    result = operator("person", "create", *arguments)
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert operator.rows("SELECT count(*) FROM person") == [(1,)]


def test_somebody_who_is_shut_out_is_let_in_again(operator: Operator) -> None:
    operator.ok("person", "create", "--phone", SENDER)
    operator.ok("person", "deactivate", SENDER)
    assert [row["active"] for row in operator.json("person", "list")["people"]] == [True, False]
    again = operator("person", "create", "--phone", SENDER)
    assert again.exit_code == 1
    assert f"person activate {SENDER}" in again.stderr
    operator.ok("person", "activate", SENDER)
    assert operator("person", "activate", SENDER).exit_code == 1
    actions = operator.rows("SELECT action FROM audit_entry WHERE action LIKE 'person.%activate' ORDER BY id")
    assert actions == [("person.deactivate",), ("person.activate",)]


def test_a_plan_is_changed_only_with_a_reason_that_is_kept(operator: Operator) -> None:
    operator.ok("person", "create", "--phone", SENDER)
    assert operator("person", "set-plan", SENDER, "business").exit_code == 2
    assert operator("person", "set-plan", SENDER, "business", "--reason", " ").exit_code == 1
    changed = operator.json("person", "set-plan", SENDER, "business", "--reason", "a good customer")
    assert (changed["from"], changed["to"]) == ("free", "business")
    [(actor, detail)] = operator.rows("SELECT actor, detail FROM audit_entry WHERE action='person.plan'")
    assert actor.startswith("command line")
    assert "a good customer" in str(detail)
    again = operator("person", "set-plan", SENDER, "business", "--reason", "a good customer")
    assert again.exit_code == 1
    assert "already" in again.stderr


def test_a_token_works_until_it_is_revoked(operator: Operator) -> None:
    from webapp.cli import context
    from webapp.services import tokens

    def works(token: str, scope: str) -> bool:
        with context.application():
            known = tokens.find(token)
            return known is not None and scope in known.scopes

    token = operator.ok(
        "token", "create", "admin@example.com", "--name", "nightly", "--scope", "chat", "--scope", "sms"
    ).strip()
    assert works(token, "sms")
    assert not works(token, "admin")
    [row] = operator.json("token", "list", "admin@example.com")
    assert (row["name"], row["state"], row["scopes"]) == ("nightly", "active", ["chat", "sms"])
    assert token.startswith(row["prefix"])
    assert token not in operator.ok("token", "list", "admin@example.com")
    assert "nightly" in operator.ok("token", "revoke", row["prefix"])
    assert not works(token, "sms")
    assert operator.json("token", "list", "admin@example.com")[0]["state"] == "revoked"
    operator.ok("token", "revoke", token)
    assert operator.rows("SELECT count(*) FROM audit_entry WHERE action='token.revoke'") == [(1,)]


def test_a_token_lives_as_many_days_as_were_asked_for(operator: Operator) -> None:
    made = operator.json("token", "create", "admin@example.com", "--name", "short", "--days", "3")
    assert made["scopes"] == ["chat"]
    [(created, expires)] = operator.rows("SELECT created_at, expires_at FROM api_token")
    lived = datetime.fromisoformat(str(expires)) - datetime.fromisoformat(str(created))
    assert round(lived / timedelta(days=1)) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "admin@example.com", "--name", "x", "--scope", "everything"), "chat, read, write, admin, sms"),
        (("create", "admin@example.com", "--name", " "), "needs a name"),
        (("create", "nobody@example.com", "--name", "x"), "no person"),
        (("revoke", "sh_"), "first 9 characters"),
        (("revoke", "sh_abcdef"), "no such token"),
    ],
)
def test_a_wrong_token_command_is_explained(operator: Operator, arguments: tuple[str, ...], said: str) -> None:
    result = operator("token", *arguments)
    assert result.exit_code == 1
    assert said in result.stderr


def test_the_help_for_scopes_names_every_scope(operator: Operator) -> None:
    from webapp.services.people import SCOPES

    help_text = operator.ok("token", "create", "--help")
    assert [scope for scope in SCOPES if scope not in help_text] == []


def test_listeners_hear_of_people_whom_the_operator_makes(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = operator.folder / "plugins"
    plugins.mkdir()
    (plugins / "ear.py").write_text(
        "from pathlib import Path\n"
        "from webapp.plugin import hookimpl\n"
        "@hookimpl\n"
        "def person_created(event):\n"
        f"    Path({str(operator.folder / 'heard')!r}).write_text(event.person_id + ' ' + event.channel)\n"
    )
    monkeypatch.setenv("SWITCHHOOK_PLUGINS_DIR", str(plugins))
    made = operator.json("person", "create", "--phone", SENDER)
    assert (operator.folder / "heard").read_text() == f"{made['id']} operator"


def test_a_command_on_a_database_that_is_empty_says_how_to_fill_it(fresh_operator: Operator) -> None:
    (fresh_operator.folder / "switchhook.db").touch()
    result = fresh_operator("admin", "create", "--email", "ada@example.com")
    assert result.exit_code == 2
    assert "switchhook db upgrade" in result.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [("DATABASE_URL", "nonsense"), ("DATABASE_URL", "oracle+nothing://x/y"), ("REDIS_URL", "http://x")],
)
def test_a_url_that_is_none_is_one_line_and_not_a_traceback(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    result = operator("person", "list")
    assert result.exit_code == 2
    assert variable in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_database_that_is_away_is_one_line_without_its_password(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:very-secret@127.0.0.1:9/none?connect_timeout=2")
    result = operator("person", "list")
    assert result.exit_code == 2
    assert "DATABASE_URL" in result.stderr
    assert "very-secret" not in result.output


@pytest.mark.parametrize(
    "command",
    [
        ("person", "list"),
        ("admin", "create", "--email", "a@example.com"),
        ("token", "list", "a@example.com"),
        ("sms", "send", "--to", "+15005550006", "hello"),
        ("sms", "simulate", "--from", "+15005550006", "hello"),
    ],
)
def test_in_a_directory_without_an_installation_nothing_is_made(
    fresh_operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv("SWITCHHOOK_DATA_DIR")
    result = fresh_operator(*command)
    assert result.exit_code == 2
    assert result.stderr == (
        "switchhook: There is no Switchhook in ./instance: run this where you started it, or set SWITCHHOOK_DATA_DIR.\n"
    )
    assert list(elsewhere.iterdir()) == []


def test_a_database_file_that_is_not_there_is_named_by_its_setting(
    fresh_operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/other.db")
    result = fresh_operator("person", "list")
    assert result.exit_code == 2
    assert f"There is no database at {tmp_path}/other.db" in result.stderr
    assert "DATABASE_URL" in result.stderr
    assert not (tmp_path / "other.db").exists()


def test_a_file_that_is_no_database_is_named_with_a_cure_that_fits_a_file(fresh_operator: Operator, tmp_path: Path) -> None:
    (tmp_path / "switchhook.db").write_text("not a database " * 100)
    result = fresh_operator("person", "list")
    assert result.exit_code == 2
    assert f"The database at {tmp_path}/switchhook.db cannot be used (file is not a database)" in result.stderr
    assert "SWITCHHOOK_DATA_DIR" in result.stderr
    assert "start it" not in result.stderr
