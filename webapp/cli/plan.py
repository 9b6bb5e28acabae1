"""`switchhook plan`: what people are entitled to, and who is on which plan."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from webapp.cli import context

if TYPE_CHECKING:
    from webapp.services.people_bulk import Report
    from webapp.services.plans import PlanView


@click.group()
def plan() -> None:
    """See and change plans, and put people and organizations on them. WHO is an e-mail, a phone number, or an id."""


@plan.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List all plans, lowest first, with how many people have each."""
    with context.application():
        from webapp.services import plans

        rows = plans.rows()
        default = [row.code for row in rows if row.default]
    if as_json:
        context.print_json([_as_dict(row) for row in rows])
        return
    context.print_table(
        ("code", "name", "rank", "priority", "people", "organizations", "a month"),
        [
            (
                f"{row.code}{' (default)' if row.code in default else ''}",
                row.name,
                row.rank,
                row.priority,
                row.persons,
                row.organizations,
                _numbers(row),
            )
            for row in rows
        ],
    )


@plan.command()
@click.argument("code")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(code: str, as_json: bool) -> None:
    """Show all of one plan."""
    with context.application():
        from webapp.services import plans
        from webapp.services.amounts import describe

        found = plans.show(code)
        more = [describe(limit) for limit in found.more_limits]
    if as_json:
        context.print_json(_as_dict(found))
        return
    lines = [
        ("code", found.code),
        ("name", found.name),
        ("rank", found.rank),
        ("priority", found.priority),
        ("a month", _numbers(found)),
        ("other limits", "; ".join(more) or "none"),
        ("features", ", ".join(found.features) or "none"),
        ("longest answer", f"{found.max_output_tokens:,} tokens"),
        ("earlier conversation", f"{found.context_tokens:,} tokens"),
        ("people", found.persons),
        ("organizations", found.organizations),
    ]
    context.print_table(("what", "value"), lines)


def _values(command: Any) -> Any:
    options = [
        click.option("--name", help="What people call it."),
        click.option("--rank", help="Of two plans the one with the higher rank holds."),
        click.option("--priority", help="0 to 200: who is served first."),
        click.option("--output", help="The longest answer, in tokens."),
        click.option("--context", "context_", help="How much earlier conversation goes along, in tokens."),
        click.option(
            "--limit",
            "limits",
            multiple=True,
            metavar="NAME=NUMBER",
            help="A number a month: messages, content, sentiment, optimisation, tokens, or cost_microusd in dollars "
            "(cost_microusd=25.50); `unlimited`, or `none` for a plan that says nothing about it. May be repeated.",
        ),
        click.option("--feature", "features", multiple=True, help="What it includes: urgent, batch; `none` for nothing."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@plan.command()
@click.argument("code")
@_values
def create(code: str, as_json: bool, **given: Any) -> None:
    """Make a plan. What is not given is as in a small plan: rank 0, priority 50, nothing said about limits."""
    with context.application():
        from webapp.services import plans
        from webapp.services.organizations import Actor
        from webapp.services.plans import Typed

        start = Typed(code, "0", "50", "1000", "2000", {})
        made = plans.create(code, _changed(start, given), Actor.operator(context.actor()))
    _tell(made, as_json, "was made")


@plan.command("set")
@click.argument("code")
@_values
def set_(code: str, as_json: bool, **given: Any) -> None:
    """Change a plan's values; those that are not given stay. They count from the next request on."""
    with context.application():
        from webapp.services import plans
        from webapp.services.organizations import Actor

        before = plans.show(code)
        typed = _changed(plans.as_typed(before), given)
        made = plans.change(code, typed, before.version, Actor.operator(context.actor()))
    _tell(made, as_json, "was saved")


@plan.command()
@click.argument("code")
@click.option("--replacement", default="", help="The plan that its people and organizations get instead.")
@click.option("--reason", default="", help="Why; kept with everybody who gets the other plan.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def delete(code: str, replacement: str, reason: str, yes: bool, as_json: bool) -> None:
    """Delete a plan. While somebody has it, --replacement names the plan that they get."""
    with context.application():
        from webapp.services import plans
        from webapp.services.organizations import Actor

        found = plans.show(code)
        if not yes:
            click.confirm(f"Delete the plan {found.code}, which {found.persons} people have?", abort=True, err=True)
        moved = plans.delete(
            code,
            Actor.operator(context.actor()),
            replacement=replacement,
            reason=reason,
            progress=lambda count: click.echo(f"{count} people moved so far", err=True),
        )
    if as_json:
        context.print_json({"code": code} | asdict(moved))
    if moved.failures:
        raise context.Failed(f"The plan {code} stays: {len(moved.failures)} could not be moved. {moved.failures[0]}")
    if not as_json:
        click.echo(f"The plan {code} was deleted; {moved.persons} people and {moved.organizations} organizations were moved.")


@plan.command()
@click.argument("who", nargs=-1, metavar="[WHO]")
@click.argument("code", metavar="PLAN")
@click.option("--organization", help="Change the plan of this organization (name or id) instead; PLAN none ends it.")
@click.option("--reason", required=True, help="Why; kept with the change.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def change(who: tuple[str, ...], code: str, organization: str | None, reason: str, as_json: bool) -> None:
    """Put WHO, or an organization's people, on PLAN. Where it is higher, their month starts afresh."""
    if len(who) + bool(organization) != 1:
        raise click.UsageError("Give either WHO or --organization.")
    with context.application():
        from sqlalchemy.orm import Session

        from webapp.extensions import reading
        from webapp.services import organizations, people, plan_changes
        from webapp.services.organizations import Actor

        actor = Actor.operator(context.actor())
        if organization:
            place = organizations.find(organization)
            after = "" if code == "none" else code
            changed = plan_changes.change_organization(place.id, after, reason, actor, _progress)
        else:
            with reading() as connection, Session(bind=connection) as session:
                person_id = people.find(session, who[0]).id
            changed = plan_changes.change_person(person_id, code, reason, actor)
    if as_json:
        context.print_json(asdict(changed))
        return
    whose = f"The organization {changed.organization_id}" if organization else f"The person {changed.person_id}"
    afresh = f"; the month of {changed.restarted} starts afresh" if changed.restarted else ""
    click.echo(f"{whose} is on the plan {changed.plan or 'none'} now (so far: {changed.before or 'none'}){afresh}.")


@plan.command()
@click.argument("act", type=click.Choice(["plan", "month", "deactivate", "activate"]))
@click.argument("who", nargs=-1)
@click.option("--on", "on_plan", default="", help="Everybody on this plan.")
@click.option("--organization", default="", help="Everybody who works in this organization (name or id).")
@click.option("--to", "to_plan", default="", help="The plan that they get, for `plan`.")
@click.option("--reason", default="", help="Why, for `plan` and `month`; kept with each.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bulk(
    act: str, who: tuple[str, ...], on_plan: str, organization: str, to_plan: str, reason: str, yes: bool, as_json: bool
) -> None:
    """Change the plan, start the month afresh, deactivate or activate: for each WHO, or for all whom the options name."""
    if bool(who) == bool(on_plan or organization):
        raise click.UsageError("Name people, or all of them by --on or --organization.")
    with context.application():
        from sqlalchemy.orm import Session

        from webapp.extensions import reading
        from webapp.services import organizations, people, people_bulk, people_lists
        from webapp.services.organizations import Actor
        from webapp.services.people_bulk import WORDS, Act, Order
        from webapp.services.people_lists import Filter

        actor, order = Actor.operator(context.actor()), Order(Act(act), to_plan, reason)
        people_bulk.check(order, actor)
        with reading() as connection, Session(bind=connection) as session:
            chosen = [people.find(session, each).id for each in who]
        place = organizations.find(organization).id if organization else None
        wanted = Filter(plan=on_plan, organization_id=place)
        many = len(chosen) or people_lists.count(wanted)
        if not yes:
            click.confirm(f"{WORDS[order.act].capitalize()} for {many} people?", abort=True, err=True)
        report = people_bulk.run(chosen or people_bulk.matching(wanted), order, actor, _count)
    _report(report, as_json)


def _report(report: Report, as_json: bool) -> None:
    if as_json:
        context.print_json(asdict(report))
    else:
        click.echo(f"{report.done} changed, {report.unchanged} were so already, {report.failed} failed.")
        for person_id, why in report.failures:
            click.echo(f"{person_id}: {why}", err=True)
    if report.failed:
        raise context.Failed(f"{report.failed} of {report.seen} people could not be changed.")


def _count(report: Report) -> None:
    if report.seen % 100 == 0:
        _progress(report.seen)


def _progress(count: int) -> None:
    click.echo(f"{count} people so far", err=True)


def _changed(typed: Any, given: dict[str, Any]) -> Any:
    """What is typed, with what the options say in its place."""
    from dataclasses import replace

    from webapp.contracts.errors import BadInput

    limits = dict(typed.limits)
    for text in given["limits"]:
        name, equals, number = text.partition("=")
        if not equals:
            raise BadInput("limits", f"Write a limit as NAME=NUMBER, such as messages=100, and not as {text[:40]!r}.")
        limits.pop(name, None)
        if number != "none":
            limits[name] = "" if number == "unlimited" else number or "nothing"
    values = {
        "name": given["name"],
        "rank": given["rank"],
        "priority": given["priority"],
        "max_output_tokens": given["output"],
        "context_tokens": given["context_"],
    }
    if given["features"]:
        values["features"] = tuple(name for name in given["features"] if name != "none")
    return replace(typed, limits=limits, **{name: value for name, value in values.items() if value is not None})


def _numbers(found: PlanView) -> str:
    from webapp.services.amounts import shown
    from webapp.services.plans import NUMBERS

    parts = []
    for key, (label, dimension) in NUMBERS.items():
        if key in found.limits:
            number = found.limits[key]
            if number is None:
                parts.append(f"unlimited {label}")
            else:
                parts.append(shown(number, dimension) if dimension == "cost" else f"{number:,} {label}")
    return ", ".join(parts) or "nothing said"


def _as_dict(found: PlanView) -> dict[str, Any]:
    from webapp.quota import stored

    return asdict(found) | {"more_limits": stored.write(found.more_limits), "default": found.code == _default()}


def _default() -> str:
    from webapp.settings import read_settings

    return read_settings().default_plan


def _tell(made: PlanView, as_json: bool, what: str) -> None:
    if as_json:
        context.print_json(_as_dict(made))
    else:
        click.echo(f"The plan {made.code} {what}: {_numbers(made)}.")
