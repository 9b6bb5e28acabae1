"""`switchhook webhook`: where the events of organizations are sent."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from webapp.cli import context

if TYPE_CHECKING:
    from webapp.services.organizations import Actor
    from webapp.services.webhooks import EndpointView

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def webhook() -> None:
    """Outgoing webhooks: where the events of organizations are sent.

    ORG is an organization's name or id; ID is a webhook's, which `webhook list` shows.
    """


def _actor() -> Actor:
    from webapp.services.organizations import Actor

    return Actor.operator(context.actor())


def _plain(view: EndpointView) -> dict[str, Any]:
    return asdict(view) | {"state": _state(view)}


def _state(view: EndpointView) -> str:
    if view.active:
        return "failing" if view.failing_since else "on"
    return "switched off" if view.disabled_reason else "off"


@webhook.command("list")
@click.argument("organization", metavar="[ORG]", default="")
@click.option("--limit", type=click.IntRange(1, 10_000), default=1000, show_default=True, help="How many at most.")
@_json
def list_(organization: str, limit: int, as_json: bool) -> None:
    """List an organization's webhooks; without one those of all, the failing ones first."""
    with context.application():
        from webapp.services import organizations, webhooks

        if organization:
            place = organizations.find(organization)
            found = [(place.name, view) for view in webhooks.rows(_actor(), place.id, size=limit)]
        else:
            found = webhooks.everywhere(limit)
    if as_json:
        context.print_json([_plain(view) | {"organization": name} for name, view in found])
    elif not found:
        click.echo("No webhooks.")
    else:
        context.print_table(
            ("organization", "id", "address", "events", "state", "for"),
            [(name, v.id, v.url, ", ".join(v.events) or "all", _state(v), v.description) for name, v in found],
        )


@webhook.command()
@click.argument("organization", metavar="ORG")
@click.argument("url")
@click.option(
    "--event", "events", multiple=True, help="An event that it gets, such as request.completed. Repeat it; default: all."
)
@click.option("--description", default="", help="What it is for.")
@_json
def add(organization: str, url: str, events: tuple[str, ...], description: str, as_json: bool) -> None:
    """Add a webhook and print its signing secret. It is shown this once."""
    with context.application():
        from webapp.services import organizations, webhooks

        made = webhooks.create(_actor(), organizations.find(organization).id, url, description, events)
    if as_json:
        context.print_json(_plain(made.endpoint) | {"secret": made.secret})
        return
    click.echo(made.secret)
    click.echo(f"Webhook {made.endpoint.id} was added. Keep its secret now: it is not shown again.", err=True)


@webhook.command()
@click.argument("webhook_id", metavar="ID", type=click.UUID)
@_json
def test(webhook_id: uuid.UUID, as_json: bool) -> None:
    """Send a test message now. Exit code 1 unless the receiver takes it."""
    with context.application():
        from webapp.contracts.errors import NotFound
        from webapp.pipeline import webhook_send

        found = webhook_send.ping(webhook_id)
        if found is None:
            raise NotFound("There is no such webhook.")
    if as_json:
        context.print_json(asdict(found) | {"delivered": found.delivered})
        if not found.delivered:
            raise SystemExit(1)
    elif found.delivered:
        click.echo(f"It arrived: the receiver answered {found.status} after {found.ms} ms.")
    else:
        raise context.Failed(f"It did not arrive. {found.words} {found.excerpt}".strip())


@webhook.command()
@click.argument("webhook_id", metavar="ID", type=click.UUID)
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(webhook_id: uuid.UUID, yes: bool) -> None:
    """Remove a webhook for good, with the log of what was sent to it."""
    with context.application():
        from webapp.services import webhooks

        view = webhooks.find(webhook_id)
        if not yes:
            click.confirm(f"The webhook to {view.host} is removed for good. Go on?", abort=True, err=True)
        webhooks.remove(_actor(), view.organization_id, webhook_id)
    click.echo(f"The webhook to {view.host} was removed.")
