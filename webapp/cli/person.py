"""`switchhook person`: the people that are served."""

from __future__ import annotations

from dataclasses import asdict

import click

from webapp.cli import context


@click.group()
def person() -> None:
    """Look up and change people. WHO is an e-mail, a phone number with its country code, or an id."""


@person.command()
@click.option("--phone", help="Phone number with its country code, such as +15005550006.")
@click.option("--email", help="E-mail to sign in with.")
@click.option("--name", default="", help="Full name.")
@click.option("--plan", help="Code of the plan; default: SWITCHHOOK_DEFAULT_PLAN.")
@click.option("--password", help="Password to sign in with; without it, they cannot sign in yet.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create(phone: str | None, email: str | None, name: str, plan: str | None, password: str | None, as_json: bool) -> None:
    """Make a person who may text, sign in, or both. They need a phone number or an e-mail."""
    with context.application():
        from webapp.services import accounts

        made = accounts.create_person(
            actor=context.actor(), email=email, phone=phone, password=password, full_name=name, plan=plan
        )
    if as_json:
        context.print_json({"id": made.id, "email": made.email, "plan": made.plan})
    else:
        click.echo(f"The person {made.id} was made, on the plan {made.plan}.")


@person.command("set-plan")
@click.argument("who")
@click.argument("plan")
@click.option("--reason", required=True, help="Why; kept in the audit trail.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def set_plan(who: str, plan: str, reason: str, as_json: bool) -> None:
    """Put a person on another plan. What they have used so far still counts."""
    with context.application():
        from webapp.services import accounts

        changed = accounts.change_plan(who, plan, reason, context.actor())
    if as_json:
        context.print_json({"id": changed.id, "from": changed.before, "to": changed.plan})
    else:
        click.echo(f"The person {changed.id} is on the plan {changed.plan} now (so far: {changed.before}).")


@person.command()
@click.argument("who")
def activate(who: str) -> None:
    """Let a person in again, or somebody who only ever texted STOP to a closed number."""
    _set_active(who, True)


@person.command()
@click.argument("who")
def deactivate(who: str) -> None:
    """Shut a person out: they are neither answered nor signed in. Their history stays."""
    _set_active(who, False)


def _set_active(who: str, active: bool) -> None:
    with context.application():
        from webapp.services import accounts

        changed = accounts.set_active(who, active, context.actor())
    click.echo(f"The person {changed.id} is {'active' if active else 'inactive'} now.")


@person.command("list")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many at most.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(limit: int, as_json: bool) -> None:
    """List people in the order in which they came. Shows whole phone numbers: take care where the output goes."""
    with context.application():
        from webapp.services import people

        rows, total = people.rows(size=limit), people.total()
    if as_json:
        context.print_json({"total": total, "people": [asdict(row) for row in rows]})
        return
    context.print_table(
        ("id", "name", "e-mail", "phone", "plan", "role", "requests", "last active"),
        [
            (
                row.id,
                row.name,
                row.email,
                ", ".join(row.phones),
                row.plan,
                row.role if row.active else f"{row.role} (inactive)",
                row.requests_total,
                row.last_active_at or "",
            )
            for row in rows
        ],
    )
    if total > len(rows):
        click.echo(f"{len(rows)} of {total}: --limit shows more.")
