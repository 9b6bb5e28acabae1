"""`switchhook retention` and `switchhook rollup`: what the scheduler does with old content and with sums, by hand."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from webapp.cli import context

if TYPE_CHECKING:
    from webapp.services.retention import Erased


@click.group()
def retention() -> None:
    """Erase the content of old requests."""


@retention.command()
@click.option("--dry-run", is_flag=True, help="Say what would be erased, and erase nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def run(dry_run: bool, yes: bool, as_json: bool) -> None:
    """Erase the content of all requests that ended more than SWITCHHOOK_RETENTION_DAYS days ago.

    Prompts, answers, pictures, messages and vendors' words are erased for good; who asked when, tokens and costs stay.
    """
    with context.application():
        from webapp.contracts.errors import SetupError
        from webapp.extensions import current_settings
        from webapp.pipeline import pictures
        from webapp.services import retention as service

        days = current_settings().retention_days
        if not days:
            raise SetupError("Nothing is ever erased: set SWITCHHOOK_RETENTION_DAYS to a number of days first.")
        if not dry_run and not yes:
            click.confirm(f"The content of everything older than {days} days is erased. Go on?", abort=True, err=True)
        if dry_run:
            erased = service.dry_run()
        else:
            erased = service.run(pictures.remove, None, from_the_beginning=True)
            _note(days, erased)
    if as_json:
        context.print_json({"days": days, "dry_run": dry_run} | {k: v for k, v in asdict(erased).items() if k != "more"})
    else:
        click.echo(f"{'Would be erased' if dry_run else 'Erased'}: {_told(erased)}.")


def _note(days: int, erased: Erased) -> None:
    from webapp.extensions import writing_session
    from webapp.models import AuditEntry

    counts = {name: value for name, value in asdict(erased).items() if name != "more"}
    with writing_session() as session:
        session.add(
            AuditEntry(actor=context.actor(), action="retention.run", subject="requests", detail={"days": days, **counts})
        )


def _told(erased: Erased) -> str:
    from webapp.services import schedule

    return schedule.told(schedule.figures(erased, "")) or "nothing"


@click.command()
@click.option("--rebuild", is_flag=True, help="Throw the sums away and take them anew from the ledger.")
@click.option(
    "--from",
    "from_hour",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M"]),
    help="With --rebuild: the first hour, in UTC; default: all.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rollup(rebuild: bool, from_hour: datetime | None, as_json: bool) -> None:
    """Sum the ledger up by the hour now, for charts. The scheduler does it every five minutes."""
    if from_hour is not None and not rebuild:
        raise click.UsageError("--from needs --rebuild.")
    with context.application():
        from webapp.extensions import writing_session
        from webapp.models import AuditEntry
        from webapp.services import rollups

        if rebuild:
            rolled = rollups.rebuild(from_hour.replace(tzinfo=UTC) if from_hour else None)
            with writing_session() as session:
                session.add(AuditEntry(actor=context.actor(), action="rollup.rebuild", subject="hourly sums"))
        else:
            rolled = rollups.run(None)
    if as_json:
        context.print_json({"sums": rolled.sums, "rebuilt": rebuild})
    else:
        click.echo(f"{rolled.sums:,} sum{'' if rolled.sums == 1 else 's'} written.")
