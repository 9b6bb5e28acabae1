"""The schema goes up, down and up again on both databases, agrees with the models, and loses no rows on the way."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from flask import Flask
from sqlalchemy import func, inspect, select, text
from sqlalchemy.exc import IntegrityError

from tests import support
from tests.support import add_person
from webapp.contracts.errors import SetupError
from webapp.extensions import Base, db, reading, without_foreign_keys, writing
from webapp.models import Hold, Identity, Plan, Request
from webapp.pipeline import text_work
from webapp.services import history, setup


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


def test_the_way_to_the_fourth_schema_and_back_keeps_holds_and_their_conditions(app: Flask) -> None:
    add_person(phone="+15005550006")
    support.text("hello")
    support.run_jobs()
    before = _holds()
    assert before
    command.downgrade(setup._config(), "0004")
    with pytest.raises(IntegrityError), writing() as connection:
        connection.execute(text("UPDATE hold SET request_id = :none"), {"none": uuid.uuid4().hex})
    assert _holds() == before
    command.upgrade(setup._config(), "head")
    assert _holds() == before
    for broken in ("amount = -1", "request_id = NULL"):
        with pytest.raises(IntegrityError), writing() as connection:
            connection.execute(text(f"UPDATE hold SET {broken}"))
    assert {"ix_hold_request", "ix_hold_expiry"} == {index["name"] for index in inspect(db.engine).get_indexes("hold")}


def _holds() -> list[tuple[object, ...]]:
    with reading() as connection:
        return [tuple(row) for row in connection.execute(text("SELECT * FROM hold ORDER BY id"))]


def test_turns_of_a_conversation_are_found_by_the_index_of_those_that_have_one(app: Flask) -> None:
    some = uuid.uuid4()
    exchanges = history._exchanges(some, some).where(Request.conversation_id == some).order_by(Request.id.desc()).limit(10)
    with reading() as connection:
        if connection.dialect.name != "sqlite":
            # The table is empty: what is asked is whether there is a way that leads through this index.
            connection.execute(text("SET LOCAL enable_seqscan = off"))
        explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
        for query in (exchanges, text_work._history.params(conversation=some, before=some)):
            sql = str(query.compile(connection.engine, compile_kwargs={"literal_binds": True}))
            plan = str(connection.execute(text(f"{explain} {sql}")).all())
            assert "ix_request_conversation" in plan, plan


def test_a_hold_names_a_request_that_is_there(app: Flask) -> None:
    """The database does not check it, so we do."""
    add_person(phone="+15005550006")
    for _ in range(3):
        support.text("hello")
    support.run_jobs()
    lost = select(func.count()).where(Hold.request_id.is_not(None), Hold.request_id.not_in(select(Request.id)))
    with reading() as connection:
        assert connection.execute(select(func.count(Hold.id))).scalar()
        assert connection.execute(lost).scalar() == 0


def test_a_database_from_the_future_is_refused_with_a_cure(app: Flask) -> None:
    with writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'from_the_future'"))
    with pytest.raises(SetupError, match="newer than this release"):
        setup.upgrade()


def test_the_first_run_makes_an_administrator_once(make_app: Callable[..., Flask]) -> None:
    with make_app().app_context():
        assert setup.prepare() is None
