"""First run and every run: the database is made, migrated, and has somebody who can sign in."""

from __future__ import annotations

import logging
import re
import secrets
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from flask import current_app
from sqlalchemy import Column, MetaData, String, Table, func, inspect, select
from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError

from webapp.contracts.errors import BadInput, Conflict, SetupError
from webapp.extensions import current_settings, db, writing_session
from webapp.models import Organization, Person, PersonRole
from webapp.resources import folder
from webapp.services import people

# Alembic is imported where it is used: it takes ten megabytes, and most processes migrate nothing.
if TYPE_CHECKING:
    from alembic.config import Config

log = logging.getLogger(__name__)

_VERSIONS = Table("alembic_version", MetaData(), Column("version_num", String))
_REVISION = {name: re.compile(rf'^{name} = "(\w+)"', re.MULTILINE) for name in ("revision", "down_revision")}


@dataclass(frozen=True, slots=True)
class FirstRun:
    """The administrator made by the first run. `password` is None if the operator gave it."""

    email: str
    password: str | None


def prepare() -> FirstRun | None:
    """Migrate the database to this release and make the first administrator. None when there was one already.

    Needs an application context. `SetupError` when the database cannot be reached or is newer than this release, and for
    settings that do not fit it.
    """
    upgrade()
    _check_default_plan()
    return _first_admin()


def _config() -> Config:
    from alembic.config import Config

    config = Config(str(folder("migrations") / "alembic.ini"))
    config.set_main_option("script_location", str(folder("migrations")))
    return config


def heads() -> tuple[set[str], set[str]]:
    """(revisions that the database is at, revisions of this release). Read without Alembic: health asks for them."""
    with db.engine.connect() as connection:
        known = inspect(connection).has_table(_VERSIONS.name)
        at = set(connection.execute(select(_VERSIONS.c.version_num)).scalars()) if known else set()
    return at, _heads_of_release()


@lru_cache(maxsize=1)
def _heads_of_release() -> set[str]:
    """The revisions that no other follows."""
    texts = [path.read_text() for path in (folder("migrations") / "versions").glob("*.py")]
    found = {name: {match[1] for text in texts for match in _REVISION[name].finditer(text)} for name in _REVISION}
    return found["revision"] - found["down_revision"]


def check_schema() -> None:
    """Raise `SetupError` unless the database is at this release's schema."""
    at, wanted = heads()
    if at == wanted:
        return
    from alembic.script import ScriptDirectory

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
    from alembic import command
    from alembic.util import CommandError

    current_settings().make_data_dir()
    try:
        try:
            check_schema()
        except SetupError as fault:
            if "newer" in fault.message:
                raise
            command.upgrade(_config(), "head")
    except DatabaseError as exc:
        # Exactly this class is a file that is no database; what else is below it is a fault in a migration.
        if not isinstance(exc, OperationalError) and type(exc) is not DatabaseError:
            raise
        raise unusable_database(exc) from exc
    except CommandError as exc:
        raise SetupError(f"The migrations cannot run: {exc}.") from exc


def unusable_database(exc: DBAPIError) -> SetupError:
    """What to tell the operator about a database that cannot be opened or does not answer."""
    url = db.engine.url
    where = url.database if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)
    return SetupError(f"The database at {where} cannot be used ({database_says(exc)}): {database_cure()}")


def database_says(exc: DBAPIError) -> str:
    """The first line of what the database's driver says."""
    return (str(exc.orig).strip().splitlines() or [type(exc.orig).__name__])[0]


def database_cure() -> str:
    """What to do about a database that cannot be used; a file cannot be started."""
    if db.engine.url.get_backend_name() != "sqlite":
        return "start it, or correct DATABASE_URL."
    setting = "DATABASE_URL" if current_settings().database_url else "SWITCHHOOK_DATA_DIR"
    return f"make its file and folder readable and writable for this user, restore a backup, or correct {setting}."


def make_revision(text: str) -> Path:
    """Write the migration that takes the database to what the models say; returns its file. For developers.

    `SetupError` where migrations cannot be added: in an installed wheel, or below a directory that is not writable.
    """
    from alembic import command
    from alembic.script import Script
    from alembic.util import CommandError

    config = _config()
    if "_bundled" in folder("migrations").parts:
        raise SetupError("Migrations are made in a checkout: this is an installed release.")
    try:
        made = command.revision(config, message=text, autogenerate=True)
    except (CommandError, OSError) as exc:
        raise SetupError(f"The migration cannot be made: {exc}.") from exc
    assert isinstance(made, Script), "autogenerate makes one script"
    return Path(made.path)


def _check_default_plan() -> None:
    """`SetupError` if new people would get a plan that does not exist."""
    wanted = current_settings().default_plan
    codes = people.plan_codes(db.session())
    db.session.remove()
    if wanted not in codes:
        raise SetupError(f"SWITCHHOOK_DEFAULT_PLAN: there is no plan {wanted!r}, set it to one of {', '.join(codes)}.")


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
        try:
            people.add(
                session,
                email=settings.admin_email,
                password=password,
                full_name="Administrator",
                role=PersonRole.ADMIN,
                plan=people.ADMIN_PLAN,
            )
        except BadInput as exc:
            name = "SWITCHHOOK_ADMIN_PASSWORD" if exc.field == "password" else "SWITCHHOOK_ADMIN_EMAIL"
            raise SetupError(f"{name}: {exc.message}") from exc
        except Conflict as exc:
            command = f"`switchhook admin create --email {settings.admin_email}`"
            raise SetupError(f"There is no administrator, and SWITCHHOOK_ADMIN_EMAIL is a member's: run {command}.") from exc
    current_app.logger.info("the administrator %s was made", settings.admin_email)
    return FirstRun(settings.admin_email, None if given else password)
