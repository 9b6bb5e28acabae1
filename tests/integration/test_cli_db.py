"""`switchhook db`: making, upgrading and comparing the schema."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.integration.cli_support import Operator, fresh_operator, operator
from webapp import resources
from webapp.cli import context
from webapp.contracts.errors import SetupError
from webapp.services import setup

__all__ = ["fresh_operator", "operator"]


def test_a_new_database_is_made_once_and_then_up_to_date(fresh_operator: Operator) -> None:
    before = fresh_operator("db", "status", "--json")
    assert before.exit_code == 2
    assert json.loads(before.stdout)["at"] == []
    assert "upgraded from nothing" in fresh_operator.ok("db", "upgrade")
    assert "up to date" in fresh_operator.ok("db", "upgrade")
    status = fresh_operator.json("db", "status")
    assert status["current"]
    assert fresh_operator.rows("SELECT version_num FROM alembic_version") == [(name,) for name in status["at"]]


def test_a_database_of_a_newer_release_is_left_alone(operator: Operator) -> None:
    with operator.database() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num='9999'"))
    for command in (("db", "upgrade"), ("db", "status"), ("person", "list")):
        result = operator(*command)
        assert result.exit_code == 2
        assert "newer than this release" in result.stderr
    assert operator.rows("SELECT version_num FROM alembic_version") == [("9999",)]


def test_a_revision_holds_what_the_models_have_and_the_database_has_not(
    operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "migrations"
    shutil.copytree(resources.folder("migrations"), copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(setup, "folder", lambda name: tmp_path / name)
    with operator.database() as connection:
        connection.execute(text("DROP TABLE receipt"))
    known = set((copy / "versions").iterdir())
    said = operator.ok("db", "revision", "receipts again")
    [made] = set((copy / "versions").glob("*.py")) - known
    assert str(made) in said
    assert made.name.endswith("_receipts_again.py")
    assert "'receipt'" in made.read_text()
    compile(made.read_text(), made.name, "exec")


def test_a_revision_cannot_be_made_in_an_installed_release(
    operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = tmp_path / "_bundled"
    shutil.copytree(resources.folder("migrations"), bundled / "migrations")
    monkeypatch.setattr(setup, "folder", lambda name: bundled / name)
    result = operator("db", "revision", "anything")
    assert result.exit_code == 2
    assert "checkout" in result.stderr


def test_an_installation_whose_only_administrator_became_a_member_says_how_to_make_one(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with operator.database() as connection:
        connection.execute(text("UPDATE person SET role='member'"))
    monkeypatch.setenv("SWITCHHOOK_ADMIN_EMAIL", "admin@example.com")
    with context.application(), pytest.raises(SetupError) as caught:
        setup.prepare()
    assert "`switchhook admin create --email admin@example.com`" in caught.value.message
    operator.ok("admin", "create", "--email", "admin@example.com")
    assert operator.rows("SELECT role FROM person") == [("admin",)]
