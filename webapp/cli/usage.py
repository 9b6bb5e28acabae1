"""`switchhook usage`: what is used of every limit of somebody."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import click

from webapp.cli import context

if TYPE_CHECKING:
    from webapp.services.usage import Line, Usage


@click.command()
@click.argument("who", required=False)
@click.option("--organization", "organization", help="Name or id of an organization: its own limits, or WHO's limits in it.")
@click.option("--token", "token", help="Id of an API token: its limits with those of its person.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def usage(who: str | None, organization: str | None, token: str | None, as_json: bool) -> None:
    """Show what is used, held and left of every limit of WHO: an e-mail, a phone number or an id.

    Without WHO, of the first administrator, or of the organization or token that is named.
    """
    if token and (who or organization):
        raise click.UsageError("A token has a person and an organization of its own: give it alone.")
    with context.application():
        found = _found(who, organization, token)
    if as_json:
        context.print_json(_json(found))
    else:
        _show(found)


def _found(who: str | None, organization: str | None, token: str | None) -> Usage:
    from webapp.cli.asked import person
    from webapp.contracts.errors import BadInput
    from webapp.services import organizations, usage_organization
    from webapp.services import usage as service

    if token:
        try:
            token_id = uuid.UUID(token)
        except ValueError:
            raise BadInput("token", "A token is named by its id: `switchhook token list` shows it.") from None
        return service.usage_of(service.token_owner(token_id), token_id=token_id)
    if organization:
        place = organizations.find(organization)
        if who is None:
            return usage_organization.limits_of(place.id)
        return service.usage_of(person(who), organization_id=place.id)
    return service.usage_of(person(who))


def _json(found: Usage) -> dict[str, Any]:
    return {
        "time_zone": found.time_zone,
        "at": found.at,
        "lines": [_line_json(line) for line in found.lines],
        "troubles": list(found.troubles),
    }


def _line_json(line: Line) -> dict[str, Any]:
    return {
        "what": line.what,
        "whose": line.whose,
        "subject": line.subject,
        "name": line.name,
        "provider": line.provider or None,
        "operations": list(line.operations),
        "dimension": line.dimension,
        "window": line.window,
        "used": line.used,
        "held": line.held,
        "limit": line.limit,
        "used_percent": line.used_percent,
        "percent": line.percent,
        "remaining": line.remaining,
        "resets_at": line.resets_at,
    }


def _show(found: Usage) -> None:
    for trouble in found.troubles:
        click.echo(f"! {trouble}")
    if not found.lines and not found.troubles:
        click.echo("There is no limit.")
    if not found.lines:
        return
    context.print_table(
        ("what", "whose", "for", "window", "used", "held", "limit", "percent", "left", "resets"),
        [
            (
                line.what,
                line.whose.value,
                ", ".join(line.operations) or "everything",
                "per request" if line.resets_at is None else line.window.value,
                "" if line.resets_at is None else _amount(line, line.used),
                "" if line.resets_at is None else _amount(line, line.held),
                "none" if line.limit is None else _amount(line, line.limit),
                "" if line.limit is None or line.resets_at is None else f"{line.percent} %",
                "" if line.remaining is None else _amount(line, line.remaining, left=True),
                line.resets_at or "",
            )
            for line in found.lines
        ],
    )


def _amount(line: Line, number: int, *, left: bool = False) -> str:
    from webapp.contracts.rounding import rounded_microusd
    from webapp.pipeline.words import amount

    if line.dimension == "cost":
        return rounded_microusd(number, left=left)
    return amount(line.dimension, number)
