"""`switchhook receipt`: everything on record about what one request cost."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from webapp.cli import context

if TYPE_CHECKING:
    from webapp.services.receipts import Held, Receipt


@click.command()
@click.argument("request_id", metavar="REQUEST_ID", type=click.UUID)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def receipt(request_id: uuid.UUID, as_json: bool) -> None:
    """Show the receipt of a request: its calls, what the ledger says of them, and what was held and used of each limit.

    Shows no texts.
    """
    with context.application():
        from webapp.services import receipts

        found = receipts.receipt(request_id)
    if as_json:
        context.print_json(_json(found))
    else:
        _show(found)


def _json(found: Receipt) -> dict[str, Any]:
    # What a vendor wrote may quote the person.
    calls = [{name: value for name, value in asdict(call).items() if name != "detail"} for call in found.calls]
    letter = None if found.letter is None else {k: v for k, v in asdict(found.letter).items() if k != "last_error"}
    whole = asdict(found) | {"calls": calls, "letter": letter, "house_microusd": found.house_microusd}
    return {name: value for name, value in whole.items() if name not in ("prompt", "answer")}


def _show(found: Receipt) -> None:
    from webapp.contracts.money import format_microusd

    click.echo(f"Request {found.request_id}: {found.status}{f' ({found.error_code})' if found.error_code else ''}")
    click.echo(f"{found.operation} by {found.channel}, of {found.person or found.person_id} in {found.organization}")
    times = (("made", found.created_at), ("begun", found.started_at), ("ended", found.ended_at))
    click.echo(", ".join(f"{word} {context.when(moment)}" for word, moment in times if moment))
    tokens = f"{found.input_tokens:,} + {found.output_tokens:,} tokens"
    paid = f"{format_microusd(found.cost_microusd)}, {found.credits_millicredits / 1000:,.10g} credits"
    house = f"; the house paid {format_microusd(found.house_microusd)}" if found.house_microusd else ""
    click.echo(f"{tokens}, {paid}{house}{'; a kept answer, which is free' if found.cached else ''}")
    if found.executions > 1:
        click.echo(f"Begun {found.executions} times, put back to the queue {_times(found.retries)}.")
    if found.letter:
        again = f", put back {_times(found.letter.replays)}" if found.letter.replays else ""
        click.echo(f"Set aside for {found.letter.reason} ({found.letter.error_code}): {found.letter.state}{again}.")
    _show_parts(found)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _show_parts(found: Receipt) -> None:
    from webapp.contracts.money import format_microusd

    if found.calls:
        click.echo("\nCalls")
        context.print_table(
            ("execution", "provider/model", "outcome", "tokens in", "out", "cost", "seconds"),
            [
                (
                    f"{call.execution}.{call.number}",
                    "/".join(part for part in (call.provider, call.model) if part),
                    call.outcome + (f" ({call.error_code})" if call.error_code else ""),
                    f"{call.input_tokens:,}",
                    f"{call.output_tokens:,}",
                    format_microusd(call.cost_microusd),
                    f"{call.took_s:.1f}",
                )
                for call in found.calls
            ],
        )
    if found.entries:
        click.echo("\nLedger")
        context.print_table(
            ("entered", "paid by", "operation", "provider/model", "requests", "tokens in", "out", "cost", "price from"),
            [
                (
                    entry.created_at,
                    entry.payer,
                    entry.operation,
                    f"{entry.provider}/{entry.model}",
                    entry.requests,
                    f"{'about ' if entry.estimated else ''}{entry.input_tokens:,}",
                    f"{entry.output_tokens:,}",
                    format_microusd(entry.cost_microusd),
                    " ".join(part for part in (entry.price_source, entry.price_date) if part),
                )
                for entry in found.entries
            ],
        )
    if found.holds:
        click.echo("\nHeld and used of limits")
        context.print_table(
            ("limit", "of", "window from", "held", "used", "at", "settled", "by", "why"), [_hold(hold) for hold in found.holds]
        )


def _hold(hold: Held) -> tuple[Any, ...]:
    from webapp.pipeline.words import amount, counter_label

    return (
        counter_label(hold.name, hold.dimension),
        hold.subject.partition(":")[0],
        f"{hold.window.value} {context.when(hold.starts_at)}",
        amount(hold.dimension, hold.held),
        amount(hold.dimension, hold.used),
        hold.provider or "",
        hold.settled_at or "not yet",
        hold.settled_by or "",
        hold.why or "",
    )
