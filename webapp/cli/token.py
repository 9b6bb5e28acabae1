"""`switchhook token`: tokens by which programs act for a person."""

from __future__ import annotations

from dataclasses import asdict

import click

from webapp.cli import context


@click.group()
def token() -> None:
    """Make and revoke API tokens. WHO is an e-mail, a phone number with its country code, or an id."""


@token.command()
@click.argument("who")
@click.option("--name", required=True, help="What it is for, so that you know it again.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    default=("chat",),
    show_default=True,
    help="What it may do: chat, read, write, sms, admin. Repeat it for several.",
)
@click.option("--days", type=click.IntRange(1, 3650), help="Days until it ends; default: it does not end.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create(who: str, name: str, scopes: tuple[str, ...], days: int | None, as_json: bool) -> None:
    """Make a token for a person and print it. It is shown this once: only its hash is kept."""
    with context.application():
        from webapp.services import accounts

        made = accounts.create_token(who, name, scopes, days, context.actor())
    if as_json:
        context.print_json({"token": made, "name": name, "scopes": list(scopes), "days": days})
        return
    click.echo(made)
    click.echo("Keep it now: it is not shown again.", err=True)


@token.command("list")
@click.argument("who")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(who: str, as_json: bool) -> None:
    """List a person's tokens, by their first characters."""
    with context.application():
        from webapp.cli.typed import own_command
        from webapp.services import accounts

        rows = accounts.tokens_of(who)
    if as_json:
        context.print_json([asdict(row) for row in rows])
    elif not rows:
        click.echo(f"No tokens. Make one with `{own_command()} token create`.")
    else:
        context.print_table(
            ("begins with", "name", "scopes", "state", "made", "ends", "last used"),
            [
                (
                    row.prefix,
                    row.name,
                    " ".join(row.scopes),
                    row.state,
                    row.created_at,
                    row.expires_at or "never",
                    row.last_used_at or "never",
                )
                for row in rows
            ],
        )


@token.command()
@click.argument("prefix")
def revoke(prefix: str) -> None:
    """End a token at once. PREFIX is how it begins (`token list` shows it), or the whole token."""
    with context.application():
        from webapp.services import accounts

        name = accounts.revoke_token(prefix, context.actor())
    click.echo(f"The token {name!r} is revoked.")
