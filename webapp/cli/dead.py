"""`switchhook dead`: requests that were set aside, and how to go on with them."""

from __future__ import annotations

import uuid
from dataclasses import asdict

import click

from webapp.cli import context


@click.group()
def dead() -> None:
    """See what was set aside after everything was tried, and put it back or close it."""


@dead.command("list")
@click.option("--reason", default="", help="Only those set aside for this: vendor, account, worker, queue, internal.")
@click.option("--state", default="open", show_default=True, help="open, replayed or dismissed.")
@click.option("--after", type=click.UUID, help="Go on behind this request's id.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many to show.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show_list(reason: str, state: str, after: uuid.UUID | None, limit: int, as_json: bool) -> None:
    """List them, newest first."""
    with context.application():
        from webapp.services import dead_letters

        found = dead_letters.letters(reason, state, after, limit)
        counts = dead_letters.reasons()
    if as_json:
        context.print_json({"open": {each.name: each.open for each in counts}, "requests": [asdict(each) for each in found]})
        return
    if not found:
        click.echo("There is none.")
        return
    context.print_table(
        ("request", "asked", "person", "reason", "tries", "last error"),
        [
            (
                str(each.request_id),
                f"{each.asked_at:%Y-%m-%d %H:%M}",
                each.person,
                each.reason,
                str(each.attempts),
                " ".join(each.last_error.split())[:80],
            )
            for each in found
        ],
    )


@dead.command()
@click.argument("request_id", type=click.UUID)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(request_id: uuid.UUID, as_json: bool) -> None:
    """Show one, with the whole of its last error."""
    with context.application():
        from webapp.services import dead_letters

        found = dead_letters.letter(request_id)
    if as_json:
        context.print_json(asdict(found))
        return
    for name, value in asdict(found).items():
        click.echo(f"{name}: {value}")


@dead.command()
@click.argument("request_id", type=click.UUID, required=False)
@click.option("--reason", help="Put back all that were set aside for this.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def replay(request_id: uuid.UUID | None, reason: str | None, yes: bool) -> None:
    """Put a request back on the road, or with --reason all of one kind.

    Their people get the answers by the way they asked; it counts on their limits as they are now. Exit code 1 if one could not
    be put back.
    """
    if (request_id is None) == (reason is None):
        raise click.UsageError("Give a request's id, or --reason.")
    with context.application():
        from webapp.pipeline import replay as replaying
        from webapp.services import dead_letters

        if request_id is not None:
            replaying.replay(request_id, context.actor())
            click.echo(f"The request {request_id} is on the road again.")
            return
        assert reason is not None
        dead_letters.letters(reason, size=1)  # says which reasons there are
        waiting = next(each.open for each in dead_letters.reasons() if each.name == reason)
        if not waiting:
            click.echo(f"Nothing is set aside for the reason {reason}.")
            return
        if not yes:
            click.confirm(f"Put {waiting:,} requests back? Each may call a vendor", abort=True)
        done = troubles = 0
        with click.progressbar(replaying.replay_all(reason, context.actor()), length=waiting, label="Replaying") as all_of_them:
            for each in all_of_them:
                done += not each.trouble
                troubles += bool(each.trouble)
                if each.trouble:
                    click.echo(f"\n{each.request_id}: {each.trouble}", err=True)
    click.echo(f"{done:,} are on the road again.")
    if troubles:
        raise context.Failed(f"{troubles:,} could not be put back.")


@dead.command()
@click.argument("request_id", type=click.UUID)
def dismiss(request_id: uuid.UUID) -> None:
    """Close the matter of a request: it is not tried again."""
    with context.application():
        from webapp.pipeline import replay as replaying

        replaying.dismiss(request_id, context.actor())
    click.echo(f"The request {request_id} was dismissed.")
