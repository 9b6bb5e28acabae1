"""`switchhook route`: which models serve which requests."""

from __future__ import annotations

import uuid
from dataclasses import asdict, replace
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import click

from webapp.cli import context
from webapp.contracts.money import format_microusd, to_microusd

if TYPE_CHECKING:
    from webapp.services.routes import Explained, RuleView

ANY = "any"
"""What an option says to make a rule fit everything."""
_LEAST_OF_ID = 4
"""Characters of an id that are taken for one. A shorter number is a rule's place."""
_NEEDS = click.Choice(["vision", "json", "tools"])


@click.group()
def route() -> None:
    """Say which models serve which requests, and see why. The first rule that fits a request decides."""


@route.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List the rules in their order, with what keeps them from working as they read."""
    with context.application():
        from webapp.services import routes

        found = routes.rules()
    if as_json:
        context.print_json([asdict(rule) for rule in found])
        return
    if not found:
        click.echo("There are no rules: SWITCHHOOK_CHAT_MODEL decides or, without it, the providers that are ready.")
        return
    context.print_table(
        ("", "id", "name", "for", "models", "at most"),
        [(rule.position, rule.id, rule.name, _about(rule), ", ".join(rule.targets), _most(rule)) for rule in found],
    )
    _warn(found)


@route.command()
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@click.option("--name", required=True, help="What it is called in the pages and in explanations.")
@click.option("--operation", help="Only for this kind of work, such as chat or image.generate.")
@click.option("--category", help="Only for requests about this, such as coding.")
@click.option("--plan", help="Only for people on this plan.")
@click.option("--organization", type=click.UUID, help="Only for this organization, by its id.")
@click.option("--max-cost", metavar="USD", help="Pass over models that may cost more dollars than this for the request.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def add(
    targets: tuple[str, ...],
    name: str,
    operation: str | None,
    category: str | None,
    plan: str | None,
    organization: uuid.UUID | None,
    max_cost: str | None,
    as_json: bool,
) -> None:
    """Add a rule behind the others. TARGET is provider/model, or a provider's name; they are tried in this order."""
    most = _dollars(max_cost) if max_cost is not None else None
    with context.application():
        from webapp.services import routes

        values = routes.RuleValues(name, targets, operation, category, plan, organization, most)
        made = routes.add(values, context.actor())
    _say(made, f"The rule “{made.name}” is number {made.position} ({made.id}).", as_json)


@route.command()
@click.argument("which", metavar="RULE")
@click.option("--name", help="Another name.")
@click.option("--operation", help="Another kind of work; `any` for all.")
@click.option("--category", help="Another category; `any` for all.")
@click.option("--plan", help="Another plan; `any` for all.")
@click.option("--organization", help="Another organization, by its id; `any` for all.")
@click.option("--max-cost", metavar="USD", help="Another bound in dollars; `any` for none.")
@click.option("--target", "targets", multiple=True, help="Other models, in this order: repeat it for several.")
@click.option("--enable/--disable", "enabled", default=None, help="Switch the rule on or off.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def change(which: str, max_cost: str | None, organization: str | None, as_json: bool, **given: Any) -> None:
    """Change a rule; what is not named stays. RULE is its number in `route list`, or its id or the beginning of that."""
    steps = {name: value for name, value in given.items() if value not in (None, ())}
    for name in ("operation", "category", "plan"):
        if steps.get(name) == ANY:
            steps[name] = None
    if organization is not None:
        steps["organization_id"] = None if organization == ANY else _id(organization)
    if max_cost is not None:
        steps["max_cost_microusd"] = None if max_cost == ANY else _dollars(max_cost)
    if not steps:
        raise click.UsageError("There is nothing to change: name an option.")
    with context.application():
        from webapp.services import routes

        rule = _rule(which)
        values = replace(routes.values_of(rule), **steps)
        changed = routes.change(rule.id, values, context.actor())
    _say(changed, f"The rule “{changed.name}” is changed.", as_json)


@route.command()
@click.argument("which", metavar="RULE")
@click.option("--up/--down", "up", default=None, required=True, help="Towards the first, or towards the last.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def move(which: str, up: bool, as_json: bool) -> None:
    """Let a rule change places with its neighbour. RULE is its number in `route list`, or its id or the beginning of that."""
    with context.application():
        from webapp.services import routes

        moved = routes.move(_rule(which).id, up, context.actor())
    _say(moved, f"The rule “{moved.name}” is number {moved.position}.", as_json)


@route.command()
@click.argument("which", metavar="RULE")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(which: str, yes: bool) -> None:
    """Remove a rule. RULE is its number in `route list`, or its id or the beginning of that."""
    with context.application():
        from webapp.services import routes

        rule = _rule(which)
        if not yes:
            click.confirm(f"Remove the rule “{rule.name}”?", abort=True, err=True)
        routes.remove(rule.id, context.actor())
    click.echo(f"The rule “{rule.name}” is removed.")


@route.command()
@click.option("--operation", default="chat", show_default=True, help="The kind of work.")
@click.option("--category", help="What the request is about.")
@click.option("--plan", help="The person's plan.")
@click.option("--organization", type=click.UUID, help="The person's organization, by its id.")
@click.option("--needs", type=_NEEDS, multiple=True, help="What the model has to be able to do. Repeat it for several.")
@click.option("--tokens", type=click.IntRange(0, 100_000_000), default=1000, show_default=True, help="Input tokens.")
@click.option(
    "--output-tokens", type=click.IntRange(0, 100_000_000), default=1000, show_default=True, help="Most tokens of the answer."
)
@click.option("--model", default="", help="The model that the request itself names, as provider/model.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(
    operation: str,
    category: str | None,
    plan: str | None,
    organization: uuid.UUID | None,
    needs: tuple[str, ...],
    tokens: int,
    output_tokens: int,
    model: str,
    as_json: bool,
) -> None:
    """Say which models would serve a request now, in which order, and why the others would not. No model is called.

    Exit code 1 if none would.
    """
    with context.application():
        from webapp.contracts.providers import Capability
        from webapp.routing.route import IMAGES
        from webapp.services import routes

        ask = routes.Ask(
            operation=operation,
            category=category,
            plan=plan,
            organization_id=organization,
            needs=frozenset(Capability(need) for need in needs),
            input_tokens=tokens,
            output_tokens=output_tokens,
            pictures=1 if operation == IMAGES else 0,
            named=model,
        )
        found = routes.explain(ask)
    if as_json:
        passed = [asdict(each) for each in found.passed]
        context.print_json({"by": found.by, "targets": [asdict(each) for each in found.targets], "passed": passed})
    else:
        _show(found)
    if not found.targets:
        raise click.exceptions.Exit(1)


def _rule(which: str) -> RuleView:
    """The rule that is meant: by its place, its id or the beginning of that, as far as that tells one rule."""
    from webapp.contracts.errors import NotFound
    from webapp.services import routes

    rules = routes.rules()
    text = which.strip().lower().removesuffix(".")
    if text.isascii() and text.isdecimal() and len(text) < _LEAST_OF_ID:
        found = [rule for rule in rules if rule.position == int(text)]
    else:
        text = text.replace("-", "")
        found = [rule for rule in rules if len(text) >= _LEAST_OF_ID and rule.id.hex.startswith(text)]
    if len(found) > 1:
        raise NotFound(f"{len(found)} rules have an id that begins with {which[:40]}: write more of it, or the rule's number.")
    if not found:
        raise NotFound(f"There is no rule {which[:40]}: `switchhook route list` shows those that there are.")
    return found[0]


def _show(found: Explained) -> None:
    click.echo(f"Decided by {found.by}.")
    if found.targets:
        context.print_table(
            ("", "model", "why", "costs at most", "now"),
            [
                (
                    place,
                    target.name,
                    target.why,
                    format_microusd(target.most_microusd) + ("" if target.price_known else " (ceiling)"),
                    _now(target),
                )
                for place, target in enumerate(found.targets, 1)
            ],
        )
    else:
        click.echo("No model can serve this.")
    if found.passed:
        context.print_table(("passed over", "because"), [(each.target, each.reason) for each in found.passed])


def _now(target: Any) -> str:
    if target.paused_until is not None:
        return f"left alone until {context.when(target.paused_until)}: {target.pause_reason}".rstrip(": ")
    return "left alone: it failed several times" if target.circuit_open else "is called"


def _about(rule: RuleView) -> str:
    named = [
        *(filter(None, (rule.operation, rule.category))),
        *([f"plan {rule.plan}"] if rule.plan else []),
        *([f"organization {rule.organization_id}"] if rule.organization_id else []),
    ]
    return (", ".join(named) or "everything") + ("" if rule.enabled else " (off)")


def _most(rule: RuleView) -> str:
    return format_microusd(rule.max_cost_microusd) if rule.max_cost_microusd is not None else ""


def _say(rule: RuleView, text: str, as_json: bool) -> None:
    if as_json:
        context.print_json(asdict(rule))
    else:
        click.echo(text)
        _warn([rule])


def _warn(found: list[RuleView]) -> None:
    for rule in found:
        for fault in rule.faults:
            click.echo(f"{rule.name}: {fault}", err=True)


def _dollars(text: str) -> int:
    try:
        amount = Decimal(text.strip().removeprefix("$"))
        if not amount.is_finite() or not 0 < amount <= 1_000_000:
            raise InvalidOperation
    except InvalidOperation:
        raise click.UsageError("--max-cost: write an amount of dollars above 0, such as 0.05.") from None
    return to_microusd(amount)


def _id(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise click.UsageError("--organization: write its id, or `any`.") from None
