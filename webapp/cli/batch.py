"""`switchhook batch`: many prompts from a file, from the command line."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from webapp.cli import Fault, context

if TYPE_CHECKING:
    from webapp.services.batch_views import BatchView
    from webapp.services.batches import NotTaken, Viewer

_LOOK_S = 0.5
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_wait = click.option(
    "--wait", is_flag=True, help="Wait until it ends or pauses, with a progress bar. Ctrl-C only stops waiting."
)
_id = click.argument("batch_id", type=click.UUID)


@click.group()
def batch() -> None:
    """Run many prompts from one file on the low queue. Workers and cron have to run: they do the work."""


@batch.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--person", "who", required=True, metavar="WHO", help="Whose batch it is: e-mail, phone number or id.")
@click.option("--name", default="", help="What to call it; default: as the file.")
@click.option("--template", default="", help="Text with {{names}} of columns; without it the file has a column `prompt`.")
@click.option("--template-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="File with the template.")
@click.option("--model", default="", metavar="PROVIDER/MODEL", help="The one model that may serve it; default: by the rules.")
@click.option("--yes", is_flag=True, help="Start it at its price without asking.")
@_wait
@_json
def create(
    file: Path,
    who: str,
    name: str,
    template: str,
    template_file: Path | None,
    model: str,
    yes: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Check FILE (CSV with a header, or JSON Lines), show the price, and start it.

    It costs what it costs, and counts on that person's limits. Without --yes it asks; where nobody can answer, it is stored and
    `switchhook batch start` starts it.

    Exit code 1 if the file has faults, or if the batch did not complete while it was waited for.
    """
    if template and template_file:
        raise click.UsageError("--template and --template-file exclude each other.")
    if template_file is not None:
        template = _text(template_file)
    with context.application():
        from webapp.cli import asked
        from webapp.services import batches

        viewer = _operator()
        try:
            with file.open("rb") as opened:
                order = batches.Order(name, opened, file.name, template, model)
                batch_id = batches.create(asked.person(who), order, viewer)
        except batches.NotTaken as exc:
            _tell_faults(exc, as_json)
            raise click.exceptions.Exit(1) from exc
        found = _view(batch_id)
        if not as_json:
            _tell_price(found)
        if yes or (not as_json and _agreed()):
            batches.confirm(viewer, batch_id)
            _finish(batch_id, wait=wait, as_json=as_json)
        elif as_json:
            context.print_json(_values(found))
        else:
            click.echo(f"It is stored and not started: `switchhook batch start {batch_id}` starts it.")


@batch.command("list")
@click.option("--person", "who", metavar="WHO", help="Only this person's: e-mail, phone number or id.")
@click.option("--limit", type=click.IntRange(1, 1000), default=30, show_default=True, help="How many at most.")
@_json
def list_(who: str | None, limit: int, as_json: bool) -> None:
    """List batches, the latest first."""
    with context.application():
        from webapp.cli import asked
        from webapp.services import batch_views

        person_id = asked.person(who) if who else None
        lines = batch_views.lines(_operator(), everybody=True, person_id=person_id, size=limit)
    if as_json:
        context.print_json([asdict(line) | {"percent": line.counts.percent if line.counts else None} for line in lines])
        return
    context.print_table(
        ("id", "name", "of", "state", "rows", "done", "made"),
        [
            (
                line.id,
                line.name,
                line.owner,
                line.status,
                line.total,
                f"{line.counts.percent} %" if line.counts else "100 %" if line.status == "completed" else "",
                line.created_at,
            )
            for line in lines
        ],
    )


@batch.command()
@_id
@_wait
@_json
def show(batch_id: uuid.UUID, wait: bool, as_json: bool) -> None:
    """Show how far a batch is."""
    with context.application():
        _finish(batch_id, wait=wait, as_json=as_json)


@batch.command()
@_id
@_wait
@_json
def start(batch_id: uuid.UUID, wait: bool, as_json: bool) -> None:
    """Start a batch that was stored and not started."""
    _act("confirm", batch_id, wait=wait, as_json=as_json)


@batch.command()
@_id
@_json
def pause(batch_id: uuid.UUID, as_json: bool) -> None:
    """Begin no further row; what runs is finished."""
    _act("pause", batch_id, wait=False, as_json=as_json)


@batch.command()
@_id
@_wait
@_json
def resume(batch_id: uuid.UUID, wait: bool, as_json: bool) -> None:
    """Go on with a paused batch."""
    _act("resume", batch_id, wait=wait, as_json=as_json)


@batch.command()
@_id
@click.option("--yes", is_flag=True, help="Do not ask.")
@_json
def cancel(batch_id: uuid.UUID, yes: bool, as_json: bool) -> None:
    """End a batch: rows that wait are not asked, those that run are stopped and charged for what was written."""
    if not yes:
        click.confirm("Cancel this batch? It does not go on again.", abort=True, err=True)
    _act("cancel", batch_id, wait=False, as_json=as_json)


@batch.command()
@_id
@click.option("--format", "form", type=click.Choice(("csv", "jsonl")), default="csv", show_default=True, help="Kind of file.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="File to write; default: standard output.")
def results(batch_id: uuid.UUID, form: str, output: Path | None) -> None:
    """Write the results, as far as they are there: the file's own columns, and what became of each row."""
    with context.application():
        from webapp.services import batch_results

        result = batch_results.result(_operator(), batch_id, form)
        if output is None:
            for piece in result.pieces:
                click.echo(piece.encode(), nl=False)
            return
        with output.open("w", encoding="utf-8", newline="") as opened:
            for piece in result.pieces:
                opened.write(piece)
    click.echo(f"The results are in {output}.", err=True)


# -- parts ---------------------------------------------------------------------------------------------------------------
def _operator() -> Viewer:
    from webapp.services.batches import Viewer

    return Viewer(None, None, True, context.actor())


def _view(batch_id: uuid.UUID) -> BatchView:
    from webapp.services import batch_views

    return batch_views.view(_operator(), batch_id)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise Fault(f"The template file is not UTF-8: save {path.name} as UTF-8 again.") from exc


def _agreed() -> bool:
    """Whether somebody at a terminal says yes; nobody there is a no."""
    try:
        return click.confirm("Start it?", default=False, err=True)
    except click.Abort:
        return False


def _act(action: str, batch_id: uuid.UUID, *, wait: bool, as_json: bool) -> None:
    with context.application():
        from webapp.pipeline import batch_feed
        from webapp.services import batches

        getattr(batches, action)(_operator(), batch_id)
        if action == "cancel":
            batch_feed.stop(batch_id)
        _finish(batch_id, wait=wait, as_json=as_json)


def _finish(batch_id: uuid.UUID, *, wait: bool, as_json: bool) -> None:
    """Say how it is, after its end if that is waited for."""
    found = _view(batch_id)
    if wait and found.status == "running":
        found = _waited(found)
    if as_json:
        context.print_json(_values(found))
    else:
        _tell(found)
    if wait and found.status != "completed":
        raise click.exceptions.Exit(1)


def _waited(found: BatchView) -> BatchView:
    with _bar(found) as bar:
        try:
            while found.status == "running":
                time.sleep(_LOOK_S)
                found = _view(found.id)
                bar.update(found)
        except KeyboardInterrupt:
            click.echo("\nIt goes on without you.", err=True)
    return found


class _Bar:
    """A progress bar on standard error that tells what is there."""

    def __init__(self, progress: Any, task: Any) -> None:
        self._progress, self._task = progress, task

    def update(self, found: BatchView) -> None:
        counts = found.counts
        self._progress.update(self._task, completed=counts.ended, description=_counted(found))


@contextmanager
def _bar(found: BatchView) -> Iterator[_Bar]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}", markup=False), TimeRemainingColumn())
    with Progress(*columns, console=context.console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        yield _Bar(progress, progress.add_task("", total=found.counts.total, completed=found.counts.ended))


def _counted(found: BatchView) -> str:
    from webapp.contracts.money import format_microusd

    counts = found.counts
    parts = [(counts.completed, "completed"), (counts.running, "running"), (counts.waiting, "waiting")]
    parts += [(counts.failed, "failed"), (counts.refused, "refused"), (counts.cancelled, "cancelled")]
    parts += [(counts.in_review, "in review")]
    said = ", ".join(f"{number:,} {word}" for number, word in parts if number or word == "completed")
    return f"{said}; {format_microusd(counts.cost_microusd)}"


def _tell(found: BatchView) -> None:
    click.echo(
        f"{found.name}: {found.status}, {found.counts.ended:,} of {found.counts.total:,} rows ({found.counts.percent} %)."
    )
    click.echo(f"  {_counted(found)}")
    if found.pause_reason:
        click.echo(f"  {found.pause_reason}")
    if found.resume_at:
        click.echo(f"  It goes on by itself at {context.when(found.resume_at)}.")
    if found.ends_at:
        click.echo(f"  At this pace it ends at {context.when(found.ends_at)}.")
    click.echo(f"  id {found.id}")


def _tell_price(found: BatchView) -> None:
    from webapp.contracts.rounding import rounded_microusd

    likely, most = rounded_microusd(found.likely_microusd), rounded_microusd(found.most_microusd)
    click.echo(f"The file is fine: {found.counts.total:,} rows, likely {likely}, at most {most}.")


def _tell_faults(exc: NotTaken, as_json: bool) -> None:
    shown = exc.file.faults.shown if exc.file else []
    total = exc.file.faults.total if exc.file else 0
    if as_json:
        faults = [asdict(fault) for fault in shown]
        context.print_json({"fields": exc.fields, "faults": faults, "faults_total": total})
        return
    click.echo("switchhook: nothing was stored.", err=True)
    for name, words in exc.fields.items():
        click.echo(f"  {name}: {words}", err=True)
    for fault in shown:
        click.echo(f"  {fault}", err=True)
    if total > len(shown):
        click.echo(f"  {total - len(shown):,} more", err=True)


def _values(found: BatchView) -> dict[str, Any]:
    return asdict(found) | {"percent": found.counts.percent, "per_minute": found.per_minute, "ends_at": found.ends_at}
