"""`switchhook queue`: what waits, what runs, who works."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from webapp.cli import context

if TYPE_CHECKING:
    from webapp.services.queue_status import QueueStatus

_PACE_MIN = 5


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --watch one document after the other.")
@click.option("--watch", is_flag=True, help="Go on, until Ctrl+C.")
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(0.2, 3600),
    default=2.0,
    show_default=True,
    help="Seconds between two looks of --watch.",
)
def queue(as_json: bool, watch: bool, every_s: float) -> None:
    """See what waits in each queue, what runs, who works, and how many requests were begun in the last minutes."""
    with context.application():
        from webapp.services import queue_status

        try:
            while True:
                status = queue_status.status()
                if watch and not as_json:
                    click.clear()
                if as_json:
                    context.print_json(status.as_dict())
                else:
                    _show(status)
                if not watch:
                    break
                time.sleep(every_s)
        except KeyboardInterrupt:
            click.echo()


def _show(status: QueueStatus) -> None:
    if not status.redis:
        click.echo("Redis does not answer: this is what the database knows.")
    elif status.suspended:
        click.echo("The workers are suspended: `rq resume` lets them go on.")
    _show_queues(status)
    working = [worker for worker in status.workers if worker.alive]
    click.echo(
        f"{status.running_total} running, {status.in_flight} of {status.slots} slots in use; {status.scheduled} scheduled for "
        f"later; {status.dead_letters} set aside"
    )
    if status.redis and not working:
        click.echo("No worker is at work: start one with `switchhook worker` (`switchhook up` runs one).")
    if status.workers:
        click.echo()
        context.print_table(
            ("worker", "process", "jobs", "memory", "queues", "version", "last sign"),
            [
                (
                    worker.host,
                    worker.process_id,
                    f"{worker.in_flight} of {worker.slots}" if worker.alive else "gone",
                    f"{worker.memory_bytes / 1_048_576:,.0f} MB",
                    ", ".join(worker.queues),
                    worker.version,
                    f"{abs((status.at - worker.seen_at).total_seconds()):.0f} s ago",
                )
                for worker in status.workers
            ],
        )
    if status.running:
        click.echo()
        context.print_table(
            ("running", "person", "operation", "provider", "since"),
            [
                (
                    line.id,
                    line.person,
                    line.operation,
                    line.provider or "",
                    f"{(status.at - line.started_at).total_seconds():.0f} s" if line.started_at else "",
                )
                for line in status.running
            ],
        )


def _show_queues(status: QueueStatus) -> None:
    recent = status.minutes[-_PACE_MIN:]
    context.print_table(
        ("queue", "requests", "jobs in Redis", "oldest waits", f"begun in {_PACE_MIN} min"),
        [
            (
                line.name,
                line.in_database,
                "" if line.in_redis is None else line.in_redis,
                "" if line.oldest_s is None else f"{line.oldest_s:.0f} s",
                sum(minute.requests[line.name] for minute in recent),
            )
            for line in status.queues
        ],
    )
