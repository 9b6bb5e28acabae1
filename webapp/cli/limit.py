"""`switchhook limit`: limits of plans, organizations, people and tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from webapp.cli import context

if TYPE_CHECKING:
    from webapp.contracts.limits import StoredLimit
    from webapp.services.limits import Owner


@click.group()
def limit() -> None:
    """See and set limits. Say whose: --plan, --organization, --person (where they work, or in --organization) or --token."""


def _whose(command: Any) -> Any:
    options = [
        click.option("--plan", default="", help="Code of a plan: for each person on it."),
        click.option("--organization", default="", help="Name or id of an organization."),
        click.option("--person", default="", help="E-mail, phone number or id of a person."),
        click.option("--token", default="", help="Id or first characters of an API token."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _owner(given: dict[str, str]) -> Owner:
    from webapp.services import limit_owners

    return limit_owners.named(**{name: given[name] for name in ("plan", "organization", "person", "token")})


@limit.command("list")
@_whose
def list_(as_json: bool, **given: Any) -> None:
    """List the limits of somebody or something."""
    with context.application():
        from webapp.services import limits
        from webapp.services.organizations import Actor

        listed = limits.show(_owner(given), Actor.operator(context.actor()))
    if as_json:
        context.print_json([_as_dict(view.limit) for view in listed.limits])
        return
    if not listed.limits:
        click.echo(f"{listed.title} has no limits: `switchhook limit add` adds one.")
        return
    context.print_table(
        ("id", "limit", "told as", "changed by"),
        [
            (
                view.limit.id,
                view.words + (" (budget)" if view.budget else ""),
                view.limit.label,
                "the installation" if view.limit.by_house else "",
            )
            for view in listed.limits
        ],
    )


@limit.command()
@click.option(
    "--dimension", type=click.Choice(["cost", "requests", "tokens", "credits"]), required=True, help="What is counted."
)
@click.option("--window", type=click.Choice(["hour", "day", "month", "request"]), required=True, help="How long it is counted.")
@click.option("--maximum", required=True, help="The number; dollars for cost.")
@click.option("--provider", default="", help="Only what is used at this provider.")
@click.option("--operation", default="", help="Only this kind of work, such as chat.")
@click.option("--each", is_flag=True, help="For each person of the organization, and not for all together.")
@click.option("--label", default="", help="What people are told that it is.")
@click.option(
    "--open/--house",
    "open_",
    default=False,
    help="Whether those of the organization may change it. Default: only the installation.",
)
@_whose
def add(as_json: bool, open_: bool, **given: Any) -> None:
    """Add a limit. It begins with what was used before it in the running window."""
    with context.application():
        from webapp.services import limits
        from webapp.services.limits import Kind, Typed
        from webapp.services.organizations import Actor

        owner = _owner(given)
        names = ("maximum", "dimension", "window", "provider", "operation", "each", "label")
        by_house = not open_ and owner.kind is not Kind.PLAN
        typed = Typed(**{name: given[name] for name in names}, by_house=by_house)
        made = limits.add(owner, typed, Actor.operator(context.actor()))
    _tell(made, as_json, "was added")


@limit.command()
@click.argument("limit_id")
@click.option("--maximum", required=True, help="The number; dollars for cost.")
@click.option("--label", default=None, help="What people are told that it is.")
@_whose
def change(limit_id: str, maximum: str, label: str | None, as_json: bool, **given: Any) -> None:
    """Give a limit another number. What was used stays."""
    with context.application():
        from webapp.services import limits
        from webapp.services.organizations import Actor

        made = limits.change(_owner(given), limit_id, maximum, Actor.operator(context.actor()), label=label)
    _tell(made, as_json, "was changed")


@limit.command()
@click.argument("limit_id")
@_whose
def remove(limit_id: str, as_json: bool, **given: Any) -> None:
    """Take a limit away."""
    with context.application():
        from webapp.services import limits
        from webapp.services.organizations import Actor

        gone = limits.remove(_owner(given), limit_id, Actor.operator(context.actor()))
    _tell(gone, as_json, "was removed")


def _as_dict(found: StoredLimit) -> dict[str, Any]:
    from webapp.quota import stored
    from webapp.services.amounts import describe

    return stored.write([found])[0] | {"words": describe(found)}


def _tell(found: StoredLimit, as_json: bool, what: str) -> None:
    from webapp.services.amounts import describe

    if as_json:
        context.print_json(_as_dict(found))
    else:
        click.echo(f"The limit {found.id} {what}: {describe(found)}.")
