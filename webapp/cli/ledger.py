"""`switchhook ledger`: what was used and what it cost, beside what the vendors say."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from webapp.cli import context
from webapp.contracts.money import format_microusd
from webapp.contracts.rounding import rounded_microusd

if TYPE_CHECKING:
    from webapp.services.ledger_comparison import Comparison, Line
    from webapp.services.ledger_sums import Summary
    from webapp.services.ledger_verify import Verified

SHOWN_LINES = 60
"""How many days and models a table has at most; the JSON has all."""

_WORDS = {"input_tokens": "input", "output_tokens": "output", "cost_microusd": "cost"}


@click.group()
def ledger() -> None:
    """Look at what was used and what it cost, and compare it with a vendor's own count."""


@ledger.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--provider", required=True, help="The provider's name here, such as openai.")
@click.option("--from", "first", type=click.DateTime(["%Y-%m-%d"]), help="First UTC day; default: the export's first.")
@click.option("--to", "last", type=click.DateTime(["%Y-%m-%d"]), help="Last UTC day, included; default: the export's last.")
@click.option("--tolerance", type=click.FloatRange(0, 100), default=1.0, show_default=True, help="Percent that may differ.")
@click.option("--columns", default="", help="Which column is what, such as date=Day,model=Name,input=In,output=Out,cost=USD.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(
    file: Path,
    provider: str,
    first: datetime | None,
    last: datetime | None,
    tolerance: float,
    columns: str,
    as_json: bool,
) -> None:
    """Compare the ledger with FILE, a usage or cost export of the vendor as CSV.

    Known are the exports of OpenAI, Anthropic, Google and DeepSeek, and files with customary headers. Exit code 1 if a day and
    model, or the total, differs by more than the tolerance.
    """
    with context.application():
        from webapp.services import ledger_comparison, usage_exports

        given = usage_exports.parse_columns(columns)
        with usage_exports.opened(file, provider, given) as export:
            found = ledger_comparison.compare(
                export,
                provider,
                first=first.date() if first else None,
                last=last.date() if last else None,
                tolerance_percent=tolerance,
            )
    if as_json:
        context.print_json(_comparison_json(found))
    else:
        _show_comparison(found)
    if not found.agree:
        raise click.exceptions.Exit(1)


@ledger.command()
@click.option("--days", type=click.IntRange(1, 3660), default=30, show_default=True, help="UTC days up to today, included.")
@click.option(
    "--by", type=click.Choice(["provider", "model", "day"]), default="provider", show_default=True, help="A row for each."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def summary(days: int, by: str, as_json: bool) -> None:
    """Show tokens and costs, how much of the cost rests on estimated tokens, and where the prices are from."""
    start = datetime.combine(datetime.now(UTC).date() - timedelta(days=days - 1), time(0), UTC)
    with context.application():
        from webapp.services import ledger_sums

        rows = ledger_sums.summary(ledger_sums.By(by), start)
    if as_json:
        context.print_json({"from": start.date().isoformat(), "by": by, "rows": [_summary_json(row) for row in rows]})
    elif not rows:
        click.echo(f"Nothing was used since {start:%Y-%m-%d}.")
    else:
        _show_summary(by, rows)


@ledger.command()
@click.option("--organization", metavar="NAME", help="Name or id: the books of one organization only.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(organization: str | None, as_json: bool) -> None:
    """Prove the books: ledger, requests, receipts of limits, counters and sums by the hour say the same.

    Looks at one moment, while the product runs, and changes nothing. Exit code 1 if something disagrees; the first 100
    disagreements of each kind are printed.
    """
    with context.application():
        from webapp.services import ledger_verify, organizations

        organization_id = organizations.find(organization).id if organization else None
        shown = None if as_json or not sys.stderr.isatty() else _progress
        found = ledger_verify.verify(organization_id, shown)
    if shown:
        click.echo("\r\x1b[K", nl=False, err=True)
    if as_json:
        context.print_json(_verified_json(found))
    else:
        _show_verified(found)
    if not found.agree:
        raise click.exceptions.Exit(1)


def _progress(rows: str, number: int, of: int) -> None:
    click.echo(f"\r\x1b[K{number}/{of} {rows} …", nl=False, err=True)


def _verified_json(found: Verified) -> dict[str, Any]:
    return {
        "at": found.at,
        "agree": found.agree,
        "disagreements": found.disagreements,
        "checks": [asdict(check) for check in found.checks],
        "notes": asdict(found.notes) if found.notes else None,
    }


def _show_verified(found: Verified) -> None:
    context.print_table(
        ("looked at", "how many", "disagree"),
        [(check.rows, f"{check.looked_at:,}", f"{check.total:,}" if check.total else "none") for check in found.checks],
    )
    for check in found.checks:
        for each in check.listed:
            click.echo(f"- {each.subject}: {each.what}: expected {each.expected}, found {each.found}")
        if check.total > len(check.listed):
            click.echo(f"  … and {check.total - len(check.listed):,} more of {check.rows}")
    if found.notes and found.notes.total:
        click.echo(
            f"{found.notes.total:,} counters are above their maximum: a limit was lowered, or a vendor counted more than was "
            "held. That is no disagreement."
        )
    if found.agree:
        click.echo("All books agree.")
    else:
        click.echo(
            f"{found.disagreements:,} disagreements. The ledger is what counts: compare with `switchhook receipt REQUEST_ID`."
        )


def _summary_json(row: Summary) -> dict[str, Any]:
    return asdict(row) | {"estimated_percent": row.estimated_percent}


def _show_summary(by: str, rows: list[Summary]) -> None:
    context.print_table(
        (by, "requests", "tests, sorting (house)", "messages", "input", "cached", "output", "cost", "estimated", "prices from"),
        [
            (
                row.name,
                f"{row.requests:,}",
                f"{row.house_requests:,}, {rounded_microusd(row.house_microusd)}"
                if row.house_requests or row.house_microusd
                else "",
                rounded_microusd(row.messages_microusd) if row.messages_microusd else "",
                f"{row.input_tokens:,}",
                f"{row.cached_tokens:,}",
                f"{row.output_tokens:,}",
                rounded_microusd(row.cost_microusd),
                f"{row.estimated_percent} %",
                "; ".join(f"{source} {rounded_microusd(cost)}" for source, cost in row.sources.items()),
            )
            for row in rows
        ],
    )
    house = sum(row.house_microusd for row in rows)
    messages = sum(row.messages_microusd for row in rows)
    parts = [f"the house's own tests and sorting {rounded_microusd(house)}"] if house else []
    parts += [f"messages {rounded_microusd(messages)}"] if messages else []
    of_it = f", of which {' and '.join(parts)}" if parts else ""
    click.echo(f"Together {rounded_microusd(sum(row.cost_microusd for row in rows))}{of_it}.")


def _comparison_json(found: Comparison) -> dict[str, Any]:
    return {
        "provider": found.provider,
        "from": found.first.isoformat(),
        "to": found.last.isoformat(),
        "tolerance_percent": found.tolerance_percent,
        "agree": found.agree,
        "compared": list(found.judged),
        "ours": asdict(found.ours),
        "theirs": asdict(found.theirs),
        "total_differs": list(found.total_differs),
        "lines": [_line_json(line) for line in found.lines],
        "reasons": list(found.reasons),
    }


def _line_json(line: Line) -> dict[str, Any]:
    return {
        "day": line.day.isoformat(),
        "model": line.model,
        "ours": asdict(line.ours) if line.ours else None,
        "theirs": asdict(line.theirs) if line.theirs else None,
        "differs": list(line.differs),
        "shifted": line.shifted,
    }


def _show_comparison(found: Comparison) -> None:
    # What differs first, so that a long table cut off shows what matters.
    lines = sorted(found.lines, key=lambda line: (not line.differs or line.shifted, not line.differs, line.day, line.model))
    rows = [_row(line.day.isoformat(), line, found.judged) for line in lines[:SHOWN_LINES]]
    heads = [f"{_WORDS[name]} {side}" for name in found.judged for side in ("here", "there")]
    context.print_table(("day", "model", *heads, "verdict"), [*rows, _total_row(found)])
    if len(lines) > SHOWN_LINES:
        click.echo(f"{SHOWN_LINES} of {len(lines)} days and models: --json has all.")
    span = f"{found.first:%Y-%m-%d} to {found.last:%Y-%m-%d}"
    if found.agree:
        click.echo(f"{found.provider}, {span}: the ledger and the vendor agree within {found.tolerance_percent:g} %.")
    else:
        click.echo(f"{found.provider}, {span}: the ledger and the vendor differ by more than {found.tolerance_percent:g} %.")
    for reason in found.reasons:
        click.echo(f"- {reason}")


def _row(first: str, line: Line, judged: tuple[str, ...]) -> tuple[str, ...]:
    cells = [_amount(name, side) for name in judged for side in (line.ours, line.theirs)]
    return (first, line.model, *cells, _verdict(line))


def _total_row(found: Comparison) -> tuple[str, ...]:
    cells = [_amount(name, side) for name in found.judged for side in (found.ours, found.theirs)]
    differs = ", ".join(_WORDS[name] for name in found.total_differs)
    return ("total", "", *cells, f"differs: {differs}" if differs else "agrees")


def _amount(name: str, side: object) -> str:
    if side is None:
        return "-"
    value: int = getattr(side, name)
    return format_microusd(value) if name == "cost_microusd" else f"{value:,}"


def _verdict(line: Line) -> str:
    if not line.differs:
        return "agrees"
    if line.shifted:
        return "shifted by a day"
    where = " (only there)" if line.ours is None else " (only here)" if line.theirs is None else ""
    return f"differs: {', '.join(_WORDS[name] for name in line.differs)}{where}"
