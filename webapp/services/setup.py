"""First run and every run: the database is made, migrated, and has somebody who can sign in."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from alembic.util import CommandError
from flask import current_app
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from webapp.contracts.errors import SetupError
from webapp.extensions import current_settings, db, writing_session
from webapp.models import Organization, Person, PersonRole
from webapp.resources import folder
from webapp.services import people

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FirstRun:
    """The administrator made by the first run. `password` is None if the operator gave it."""

    email: str
    password: str | None


def prepare() -> FirstRun | None:
    """Migrate the database to this release and make the first administrator. None when there was one already.

    Needs an application context. `SetupError` when the database cannot be reached, or is newer than this release.
    """
    upgrade()
    return _first_admin()


def _config() -> Config:
    config = Config(str(folder("migrations") / "alembic.ini"))
    config.set_main_option("script_location", str(folder("migrations")))
    return config


def heads() -> tuple[set[str], set[str]]:
    """(revisions that the database is at, revisions of this release)."""
    script = ScriptDirectory.from_config(_config())
    with db.engine.connect() as connection:
        at = MigrationContext.configure(connection).get_current_heads()
    return set(at), set(script.get_heads())


def check_schema() -> None:
    """Raise `SetupError` unless the database is at this release's schema."""
    at, wanted = heads()
    if at == wanted:
        return
    script = ScriptDirectory.from_config(_config())
    known = {revision.revision for revision in script.walk_revisions()}
    if at - known:
        raise SetupError(
            f"The database is newer than this release (it is at {', '.join(sorted(at))}): install the release that "
            "migrated it, or restore a backup made with this one."
        )
    raise SetupError("The database is older than this release: run `switchhook db upgrade`.")


def upgrade() -> None:
    """Run the migrations that are missing."""
    current_settings().data_dir.mkdir(parents=True, exist_ok=True)
    try:
        try:
            check_schema()
        except SetupError as fault:
            if "newer" in fault.message:
                raise
            command.upgrade(_config(), "head")
    except OperationalError as exc:
        where = db.engine.url.render_as_string(hide_password=True)
        raise SetupError(
            f"The database at {where} cannot be used ({str(exc.orig).strip().splitlines()[0]}): start it, or correct "
            "DATABASE_URL."
        ) from exc
    except CommandError as exc:
        raise SetupError(f"The migrations cannot run: {exc}.") from exc


def make_revision(text: str) -> Path:
    """Write the migration that takes the database to what the models say; returns its file. For developers.

    `SetupError` where migrations cannot be added: in an installed wheel, or below a directory that is not writable.
    """
    config = _config()
    if "_bundled" in folder("migrations").parts:
        raise SetupError("Migrations are made in a checkout: this is an installed release.")
    try:
        made = command.revision(config, message=text, autogenerate=True)
    except (CommandError, OSError) as exc:
        raise SetupError(f"The migration cannot be made: {exc}.") from exc
    assert isinstance(made, Script), "autogenerate makes one script"
    return Path(made.path)


def _first_admin() -> FirstRun | None:
    settings = current_settings()
    with writing_session() as session:
        if session.scalar(select(func.count()).select_from(Person).where(Person.role == PersonRole.ADMIN)):
            return None
        given = settings.admin_password.get_secret_value()
        password = given or secrets.token_urlsafe(12)
        organization = session.scalars(select(Organization).order_by(Organization.id)).first()
        assert organization is not None, "the first migration makes one"
        if settings.time_zone != "UTC":
            organization.time_zone = settings.time_zone
        people.add(
            session,
            email=settings.admin_email,
            password=password,
            full_name="Administrator",
            role=PersonRole.ADMIN,
            plan=people.ADMIN_PLAN,
        )
    current_app.logger.info("the administrator %s was made", settings.admin_email)
    return FirstRun(settings.admin_email, None if given else password)
