"""The schema goes up, down and up again on both databases, agrees with the models, and loses no rows on the way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from flask import Flask
from sqlalchemy import func, inspect, select, text

from tests.support import add_person
from webapp.contracts.errors import SetupError
from webapp.extensions import Base, db, without_foreign_keys, writing
from webapp.models import Identity, Plan
from webapp.services import setup


def test_up_down_and_up_again(app: Flask) -> None:
    command.downgrade(setup._config(), "base")
    assert set(inspect(db.engine).get_table_names()) <= {"alembic_version"}
    command.upgrade(setup._config(), "head")
    assert set(inspect(db.engine).get_table_names()) == {*Base.metadata.tables, "alembic_version"}


def test_models_and_tables_agree(app: Flask) -> None:
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_the_six_plans_have_the_limits_that_were_promised(app: Flask) -> None:
    plans = db.session.scalars(select(Plan).order_by(Plan.rank)).all()
    assert [(p.code, p.priority, p.limits["messages"], p.limits["tokens"], p.limits["cost_microusd"]) for p in plans] == [
        ("free", 20, 10, 10_000, 100_000),
        ("starter", 40, 50, 100_000, 10_000_000),
        ("premium", 50, 100, 100_000, 10_000_000),
        ("professional", 60, 250, 500_000, 50_000_000),
        ("business", 80, 500, 2_000_000, 200_000_000),
        ("enterprise", 100, 1_000, None, 1_000_000_000),
    ]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # only SQLite rebuilds tables
def test_rebuilding_a_parent_table_keeps_the_children(app: Flask) -> None:
    """SQLite's batch mode drops the old table; with foreign keys on, that would empty what refers to it."""
    add_person(phone="+15005550006")
    from alembic.operations import Operations

    with db.engine.connect() as connection, without_foreign_keys(connection):
        operations = Operations(MigrationContext.configure(connection, opts={"render_as_batch": True}))
        with connection.begin(), operations.batch_alter_table("person", recreate="always"):
            pass
    assert db.session.scalar(select(func.count()).select_from(Identity)) == 1


def test_a_database_from_the_future_is_refused_with_a_cure(app: Flask) -> None:
    with writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'from_the_future'"))
    with pytest.raises(SetupError, match="newer than this release"):
        setup.upgrade()


def test_the_first_run_makes_an_administrator_once(make_app: Callable[..., Flask]) -> None:
    with make_app().app_context():
        assert setup.prepare() is None
