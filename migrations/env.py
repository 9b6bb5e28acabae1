"""Runs the migrations on the application's database."""

from __future__ import annotations

from alembic import context
from flask import current_app
from sqlalchemy import text

import webapp.models  # noqa: F401  (the tables register themselves with the metadata)
from webapp.extensions import Base, db, without_foreign_keys

# One number for the whole product: two machines that deploy at once run the migrations one after the other.
_LOCK = 7_467_411


def run() -> None:
    """Migrate in one transaction, guarded against running twice at once."""
    engine = db.engine
    with engine.connect().execution_options(switchhook_writing=True) as connection, without_foreign_keys(connection):
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_as_batch=True,
            compare_type=True,
            include_object=_included,
        )
        with context.begin_transaction():
            if engine.dialect.name == "postgresql":
                connection.execute(text("SET LOCAL lock_timeout = '10s'"))
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            context.run_migrations()


def _included(_object: object, name: str | None, kind: str, _reflected: bool, _compare_to: object) -> bool:
    return not (kind == "table" and name == "alembic_version")


if context.is_offline_mode():
    raise SystemExit("Migrations need a database: set DATABASE_URL.")
assert current_app
run()
