"""`switchhook db`: the schema of the database."""

from __future__ import annotations

import click

from webapp.cli import context


@click.group()
def db() -> None:
    """Bring the database up to date, or look at its schema."""


@db.command()
def upgrade() -> None:
    """Run the migrations that are missing. `switchhook up` does so by itself."""
    with context.application(current_schema=False, installed=False):
        from webapp.services import setup

        before = _revisions()
        setup.upgrade()
        after = _revisions()
    if before == after:
        click.echo(f"The database is up to date ({after}).")
    else:
        click.echo(f"The database was upgraded from {before} to {after}.")


@db.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """Show which schema the database has and which one this release needs. Exit code 2 if they differ."""
    with context.application(current_schema=False, installed=False):
        from webapp.services import setup

        at, wanted = setup.heads()
        if as_json:
            context.print_json({"at": sorted(at), "wanted": sorted(wanted), "current": at == wanted})
        else:
            click.echo(f"database: {_names(at)}; this release: {_names(wanted)}")
        if at != wanted and as_json:
            raise click.exceptions.Exit(2)
        context.check_schema()


@db.command()
@click.argument("text")
def revision(text: str) -> None:
    """Write a migration for what the models have and the database has not. For developers, in a checkout.

    TEXT says in a few words what it does; it becomes the file's name. Read the file before you use it.
    """
    with context.application():
        from webapp.services import setup

        path = setup.make_revision(text)
    click.echo(f"Written: {path}. Read it, and correct what could not be found out by comparing.")


def _revisions() -> str:
    from sqlalchemy.exc import OperationalError

    from webapp.services import setup

    try:
        return _names(setup.heads()[0])
    except OperationalError:
        return "unknown"  # the upgrade will say what is wrong with it


def _names(revisions: set[str]) -> str:
    return ", ".join(sorted(revisions)) or "nothing"
