"""`switchhook cache`: kept answers, what they save, and the questions whose answers are kept ready."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from webapp.cli import context

if TYPE_CHECKING:
    from webapp.pipeline.warm import Plan, Summary

COUNTED_AT_MOST = 100_000
"""Above this many kept answers nobody needs to know how many there are."""
AWAY = "The queue (Redis) is away, and answers are kept there: start Switchhook."


@click.group()
def cache() -> None:
    """Look at, warm up and clear kept answers."""


@cache.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """Show who gets kept answers, for how long they are kept, how many there are, and what they saved in the last 24 hours."""
    with context.application():
        found = _status()
    if as_json:
        context.print_json(found)
    else:
        _show_status(found)


def _status() -> dict[str, Any]:
    import redis

    from webapp.extensions import current_settings, now
    from webapp.pipeline import kept, warm

    settings = current_settings()
    count: int | None = None
    try:
        count = kept.count(COUNTED_AT_MOST)
    except redis.RedisError:
        count = None
    questions: dict[str, Any] = {"file": settings.cache_warm_file, "questions": None, "ready": None, "fault": ""}
    if settings.cache_warm_file is not None:
        try:
            found = warm.plan(settings.cache_warm_file)
            questions |= {"questions": found.questions, "ready": found.questions - len(found.missing)}
        except warm.CannotWarm as exc:
            questions["fault"] = exc.message
    return {
        "scope": settings.cache_scope,
        "chat_s": settings.cache_chat_s,
        "content_s": settings.cache_content_s,
        "sentiment_s": settings.cache_sentiment_s,
        "kept": count,
        "counted_at_most": COUNTED_AT_MOST,
        "last_24_h": asdict(kept.saved(now() - timedelta(hours=24))),
        "warm_up": questions,
    }


_SCOPES = {
    "person": "the same person",
    "organization": "everybody of the same organization",
    "off": "nobody: no answers are kept",
}


def _show_status(found: dict[str, Any]) -> None:
    from webapp.contracts.money import format_microusd

    count, saved, questions = found["kept"], found["last_24_h"], found["warm_up"]
    many = f"unknown. {AWAY}"
    if count is not None:
        many = f"{count:,}" if count < COUNTED_AT_MOST else f"{count:,} or more"
    spared = f"{saved['hits']:,}"
    if saved["known"]:
        about = "" if saved["known"] == saved["hits"] else f" (known of {saved['known']:,} of them)"
        spared += f"; they would have cost {format_microusd(saved['cost_microusd'])}{about}"
    lines = [
        ("given to", _SCOPES[found["scope"]]),
        ("kept for", f"chat {found['chat_s']:,} s, content {found['content_s']:,} s, sentiment {found['sentiment_s']:,} s"),
        ("kept now", many),
        ("used in the last 24 hours", spared),
    ]
    if questions["fault"]:
        lines.append(("kept ready", questions["fault"]))
    elif questions["file"] is not None:
        lines.append(("kept ready", f"{questions['ready']} of {questions['questions']} questions of {questions['file']}"))
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        click.echo(f"{name:{width}}  {text}")


@cache.command("warm")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def warm_(file: Path | None, as_json: bool) -> None:
    """Ask the questions of FILE now, one a line, whose answers are not kept; default: SWITCHHOOK_CACHE_WARM_FILE.

    They are requests of the first administrator and cost what they cost. Blank lines and lines that begin with # are passed
    over. Exit code 1 if not every question has its answer ready in the end.
    """
    with context.application():
        from webapp.extensions import current_settings
        from webapp.pipeline import warm

        found = warm.plan(file or current_settings().cache_warm_file)
        for note in found.notes:
            click.secho(note, fg="yellow", err=True)
        summary = _warm(found)
    if as_json:
        context.print_json(asdict(summary) | {"good": summary.good, "left_out": list(found.notes)})
    else:
        _show_summary(summary)
    if not summary.good:
        raise click.exceptions.Exit(1)


def _warm(found: Plan) -> Summary:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from webapp.pipeline import warm

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=context.console(stderr=True), transient=True) as progress:
        bar = progress.add_task("questions", total=len(found.missing))
        return warm.warm(found, told=lambda: progress.advance(bar))


def _show_summary(summary: Summary) -> None:
    from webapp.contracts.money import format_microusd
    from webapp.pipeline.warm import Fate

    counts = [
        (summary.kept_before + summary.fates[Fate.FREE], "kept already"),
        (summary.fates[Fate.ANSWERED], "answered now"),
        (summary.fates[Fate.NOT_KEPT], "answered, but cut off or filtered: such answers are not kept"),
        (summary.fates[Fate.FAILED], "failed (the error log says why)"),
        (summary.fates[Fate.REFUSED], "refused"),
        (summary.left, "not asked"),
    ]
    parts = [f"{number} {words}" for number, words in counts if number]
    noun = "question" if summary.questions == 1 else "questions"
    click.echo(
        f"{summary.questions} {noun}: {', '.join(parts) or 'nothing to do'}. Cost {format_microusd(summary.cost_microusd)}."
    )
    if summary.stopped:
        click.secho(f"Stopped early: {summary.stopped}", fg="yellow", err=True)


@cache.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def clear(yes: bool, as_json: bool) -> None:
    """Forget all kept answers, and what the sorting model said of requests. The next such questions are asked anew."""
    with context.application():
        import redis

        from webapp.contracts.errors import SetupError
        from webapp.extensions import writing_session
        from webapp.models import AuditEntry
        from webapp.pipeline import kept, sorting, warm

        if not yes:
            click.confirm("All kept answers are forgotten: the same questions cost again. Go on?", abort=True, err=True)
        try:
            gone = {"answers": kept.clear(), "opinions": kept.clear(sorting.PREFIX)}
            kept.clear(warm.VAIN)
        except redis.RedisError as exc:
            raise SetupError(AWAY) from exc
        with writing_session() as session:
            session.add(AuditEntry(actor=context.actor(), action="cache.clear", subject="cache", detail=gone))
    if as_json:
        context.print_json(gone)
    else:
        answers, opinions = _number(gone["answers"], "kept answer"), _number(gone["opinions"], "opinion")
        click.echo(f"Forgotten: {answers} and {opinions} of the sorting model.")


def _number(count: int, thing: str) -> str:
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"
