"""`switchhook schedule`: what runs by the clock, and one task of it now."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from webapp.cli import context

if TYPE_CHECKING:
    from webapp.services.schedule import Row, View


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def schedule(ctx: click.Context, as_json: bool) -> None:
    """Show what runs by the clock: how often, how it went last, and which process runs it."""
    if ctx.invoked_subcommand is not None:
        return
    with context.application():
        from webapp.services import schedule as tasks

        found = tasks.view()
    if as_json:
        context.print_json(asdict(found) | {"rows": [asdict(row) | {"did": row.did} for row in found.rows]})
    else:
        _show(found)


def _show(found: View) -> None:
    from webapp.services.schedule import pace

    context.print_table(
        ("task", "pace", "last run", "took", "outcome", "next run", "did last"),
        [
            (
                row.name,
                "off" if row.off else pace(row.every_s),
                _second(row.last_at),
                "" if row.took_s is None else f"{row.took_s:.3f} s",
                _outcome(row),
                _second(row.next_at),
                f"{row.did} ({_second(row.did_at)})" if row.did else "",
            )
            for row in found.rows
        ],
    )
    for row in found.rows:
        if row.off:
            click.echo(f"{row.name} is off: {row.off}.")
    if found.fault:
        click.secho(f"Nothing runs by the clock: {found.fault}. Start `switchhook cron`.", fg="yellow", err=True)
    else:
        click.echo(f"Run by {found.leader_host}, process {found.leader_pid}, since {_second(found.leading_since)}.")


def _outcome(row: Row) -> str:
    if row.last_at is None:
        return "not run yet"
    if not row.error:
        return "ok"
    well = f"last well {_second(row.well_at)}" if row.well_at else "never well"
    return f"{row.error}, {row.failures} in a row, {well}"


def _second(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else ""


@schedule.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def run(name: str, as_json: bool) -> None:
    """Run the task NAME now, in this process, and say what it did.

    Exit code 1 if it failed. What it does by the clock it does all the same.
    """
    with context.application():
        from webapp.extensions import current_settings, writing_session
        from webapp.jobs.schedule import do_now
        from webapp.models import AuditEntry
        from webapp.services import schedule as tasks

        task = tasks.task(name)
        off = "" if task.on(current_settings()) else task.off_because
        with writing_session() as session:
            session.add(AuditEntry(actor=context.actor(), action="schedule.run", subject=f"task:{task.name}"))
        done = do_now(task)
    if as_json:
        said = {"task": task.name, "took_s": done.run.took_s, "error": done.run.error, "figures": done.run.figures, "off": off}
        context.print_json(said)
    elif done.error is None:
        did = tasks.told(done.run.figures) or "nothing was to be done"
        more = " There is more to do: run it again." if getattr(done.result, "more", False) else ""
        click.echo(f"{task.name}: {did} ({done.run.took_s:.3f} s).{more}")
        if off:
            click.echo(f"By the clock it is off: {off}.")
    if done.error is not None:
        raise context.Failed(f"{task.name} failed: {type(done.error).__name__}: {' '.join(str(done.error).split())}")
