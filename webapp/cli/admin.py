"""`switchhook admin`: who may do everything."""

from __future__ import annotations

import secrets

import click

from webapp.cli import context


@click.group()
def admin() -> None:
    """Make administrators and reset their passwords."""


@admin.command()
@click.option("--email", required=True, help="E-mail to sign in with.")
@click.option("--password", help="The password; without it, one is generated and printed once.")
@click.option("--prompt", is_flag=True, help="Ask for the password, so that it is not in the shell's history.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create(email: str, password: str | None, prompt: bool, as_json: bool) -> None:
    """Make an administrator.

    If there is a person with this e-mail already, they become an administrator and get the new password; their sessions
    end.
    """
    if prompt:
        if password is not None:
            raise click.UsageError("Give --password or --prompt, not both.")
        password = str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    with context.application():
        from webapp.services import accounts

        generated = None if password is not None else secrets.token_urlsafe(12)
        made = accounts.make_admin(email, password if password is not None else str(generated), context.actor())
    if as_json:
        context.print_json(
            {"id": made.id, "email": made.email, "created": not made.before, "was": made.before, "password": generated}
        )
        return
    if not made.before:
        click.echo(f"The administrator {made.email} was made.")
    elif made.before == "admin":
        click.echo(f"{made.email} is an administrator already: the password was reset, all sessions ended.")
    else:
        click.echo(f"{made.email} (so far: {made.before}) is an administrator now: the password was reset, all sessions ended.")
    if generated:
        click.echo(f"Password (not shown again): {generated}")
