"""`switchhook org`: organizations, who is in them and as what, and invitations."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from webapp.cli import context

if TYPE_CHECKING:
    from webapp.services.invitations import Made
    from webapp.services.organizations import Actor

ROLES = ("member", "manager", "admin")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_limit = click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many at most.")
_role = click.option("--role", type=click.Choice(ROLES), default="member", show_default=True, help="What they may do there.")


@click.group()
def org() -> None:
    """Organizations: their people, roles and invitations.

    ORG is an organization's name or id; WHO is an e-mail, a phone number with its country code, or an id.
    """


def _actor() -> Actor:
    from webapp.services.organizations import Actor

    return Actor.operator(context.actor())


def _find(which: str) -> Any:
    from webapp.services import organizations

    return organizations.find(which)


def _person(who: str) -> Any:
    from webapp.extensions import db
    from webapp.services import people

    return people.find(db.session, who)  # type: ignore[arg-type]


# -- organizations -------------------------------------------------------------------------------------------------------
@org.command("list")
@click.option("--search", default="", help="Part of the name.")
@_limit
@_json
def list_(search: str, limit: int, as_json: bool) -> None:
    """List organizations in the order in which they were made."""
    with context.application():
        from webapp.services import organizations

        found = organizations.rows(_actor(), search=search, size=limit)
    if as_json:
        context.print_json([asdict(each) for each in found])
        return
    context.print_table(
        ("id", "name", "time zone", "plan", "state", "made"),
        [(o.id, o.name, o.time_zone, o.plan or "", "active" if o.active else "inactive", o.created_at) for o in found],
    )


@org.command()
@click.argument("name")
@click.option("--time-zone", default="UTC", show_default=True, help="In which its hours, days and months begin.")
@_json
def create(name: str, time_zone: str, as_json: bool) -> None:
    """Make an organization, without anybody in it."""
    with context.application():
        from webapp.services import organizations

        made = organizations.create(_actor(), name, time_zone)
    if as_json:
        context.print_json(asdict(made))
    else:
        click.echo(f"The organization {made.name} was made: {made.id}.")


@org.command()
@click.argument("which", metavar="ORG")
@_json
def show(which: str, as_json: bool) -> None:
    """Show what is set for an organization."""
    with context.application():
        found = _find(which)
    if as_json:
        context.print_json(asdict(found))
        return
    percents = ", ".join(map(str, found.alert_percents or ())) or "as for the whole installation"
    rows = [
        ("id", found.id),
        ("name", found.name),
        ("state", "active" if found.active else "inactive"),
        ("time zone", found.time_zone),
        ("plan", found.plan or "none of its own"),
        ("alerts at percent", percents),
        ("made", found.created_at),
    ]
    context.print_table(("what", "value"), rows)


@org.command()
@click.argument("which", metavar="ORG")
@click.argument("name")
def rename(which: str, name: str) -> None:
    """Call an organization something else."""
    with context.application():
        from webapp.services import organizations

        found = _find(which)
        changed = organizations.change(_actor(), found.id, found.version, organizations.Change(name=name))
    click.echo(f"The organization {changed.id} is called {changed.name} now.")


@org.command()
@click.argument("which", metavar="ORG")
def activate(which: str) -> None:
    """Open an organization again: its people are served."""
    _set_active(which, True)


@org.command()
@click.argument("which", metavar="ORG")
def deactivate(which: str) -> None:
    """Close an organization: nobody is served in it. Nothing is deleted."""
    _set_active(which, False)


def _set_active(which: str, active: bool) -> None:
    with context.application():
        from webapp.services import organizations

        found = _find(which)
        organizations.set_active(_actor(), found.id, active, found.version)
    click.echo(f"The organization {found.name} is {'active' if active else 'inactive'} now.")


# -- people --------------------------------------------------------------------------------------------------------------
@org.command()
@click.argument("which", metavar="ORG")
@click.option("--search", default="", help="Part of a name, an e-mail or a phone number.")
@_limit
@_json
def members(which: str, search: str, limit: int, as_json: bool) -> None:
    """List an organization's people. Shows whole phone numbers: take care where the output goes."""
    with context.application():
        from webapp.services import memberships

        found = memberships.rows(_actor(), _find(which).id, search=search, size=limit)
    if as_json:
        context.print_json([asdict(each) for each in found])
        return
    context.print_table(
        ("id", "name", "e-mail", "phone", "role", "works here", "joined"),
        [
            (
                each.id,
                each.name,
                each.email,
                ", ".join(each.phones),
                each.role if each.active else f"{each.role} (inactive)",
                "yes" if each.here else "no",
                each.joined_at,
            )
            for each in found
        ],
    )


@org.command()
@click.argument("which", metavar="ORG")
@click.argument("who")
@_role
def add(which: str, who: str, role: str) -> None:
    """Put somebody who is known here into an organization, without asking them."""
    with context.application():
        from webapp.services import memberships

        found = _find(which)
        member = memberships.add(_actor(), found.id, who, memberships.role_named(role))
    click.echo(f"{member.title} is in {found.name} now, as {member.role}.")


@org.command()
@click.argument("which", metavar="ORG")
@click.argument("who")
def remove(which: str, who: str) -> None:
    """End somebody's membership. Whoever worked there goes on in another organization of theirs, or in the default one."""
    with context.application():
        from webapp.services import memberships

        found = _find(which)
        memberships.remove(_actor(), found.id, _person(who).id)
    click.echo(f"They are in {found.name} no longer.")


@org.command()
@click.argument("which", metavar="ORG")
@click.argument("who")
@click.argument("role", type=click.Choice(ROLES))
def role(which: str, who: str, role: str) -> None:
    """Change what a member may do: member, manager or admin of the organization."""
    with context.application():
        from webapp.services import memberships

        found, person_id = _find(which), _person(who).id
        seen = memberships.show(_actor(), found.id, person_id).role
        member = memberships.change_role(_actor(), found.id, person_id, memberships.role_named(role), seen)
    click.echo(f"{member.title} is {member.role} in {found.name} now (so far: {seen}).")


@org.command()
@click.argument("who")
@click.argument("which", metavar="ORG")
def switch(who: str, which: str) -> None:
    """Let a person go on in another of their organizations."""
    with context.application():
        from webapp.services import memberships

        found = _find(which)
        memberships.switch(_actor(), _person(who).id, found.id)
    click.echo(f"They work in {found.name} now.")


# -- invitations ---------------------------------------------------------------------------------------------------------
@org.command()
@click.argument("which", metavar="ORG")
@click.argument("address")
@_role
@click.option("--resend", is_flag=True, help="Give an open or expired invitation of this address a new link.")
@_json
def invite(which: str, address: str, role: str, resend: bool, as_json: bool) -> None:
    """Invite an e-mail address or a phone number. Prints the link, once; a channel that can carry it sends it too."""
    with context.application():
        from webapp.services import invitations, memberships

        found = _find(which)
        if resend:
            waiting = _invitation(found.id, address)
            made = invitations.resend(_actor(), found.id, waiting, _link_of())
        else:
            made = invitations.create(_actor(), found.id, address, memberships.role_named(role), _link_of())
    _print_made(made, as_json)


def _print_made(made: Made, as_json: bool) -> None:
    if as_json:
        context.print_json({**asdict(made.invitation), "link": made.link, "sent_by": made.sent_by})
        return
    click.echo(made.link)
    sent = f"It is on its way by {made.sent_by}." if made.sent_by else "No channel here can carry it: send it yourself."
    click.echo(f"{made.invitation.address} is invited as {made.invitation.role}. {sent} The link works once.", err=True)


@org.command("invitations")
@click.argument("which", metavar="ORG")
@_limit
@_json
def list_invitations(which: str, limit: int, as_json: bool) -> None:
    """List an organization's invitations, the latest first."""
    with context.application():
        from webapp.services import invitations

        found = invitations.rows(_actor(), _find(which).id, size=limit)
    if as_json:
        context.print_json([asdict(each) for each in found])
        return
    context.print_table(
        ("id", "address", "role", "state", "invited by", "made", "ends"),
        [(i.id, i.address, i.role, i.state, i.invited_by, i.created_at, i.expires_at) for i in found],
    )


@org.command()
@click.argument("which", metavar="ORG")
@click.argument("invitation")
def revoke(which: str, invitation: str) -> None:
    """Take an invitation back. INVITATION is its id, or the address that was invited."""
    with context.application():
        from webapp.services import invitations

        found = _find(which)
        invitations.revoke(_actor(), found.id, _invitation(found.id, invitation))
    click.echo("The invitation was revoked: its link leads nowhere any more.")


def _invitation(organization_id: uuid.UUID, which: str) -> uuid.UUID:
    """The id of the invitation that is meant: by itself, or the latest of an address."""
    from webapp.contracts.errors import NotFound
    from webapp.services import invitations

    try:
        return uuid.UUID(which)
    except ValueError:
        _, address = invitations.checked_address(which)
    found = invitations.latest(_actor(), organization_id, address)
    if found is None:
        raise NotFound(f"Nobody was invited as {address}: `switchhook org invitations` shows who was.")
    return found


def _link_of() -> Callable[[str], str]:
    from webapp.extensions import current_settings

    settings = current_settings()
    # What listens everywhere is found here by this name.
    host = "localhost" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104
    base = settings.public_url or f"http://{host}:{settings.port}"
    return lambda token: f"{base.rstrip('/')}/join/{token}"
