"""`switchhook provider`: vendors, set up and tried from the command line as in the pages."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from webapp.cli import context, provider_words
from webapp.contracts.money import format_microusd

if TYPE_CHECKING:
    from webapp.services.providers import Change

STDIN = "-"
_KINDS = click.Choice(["text", "images"])
_LIMIT_HELP = "0 for no limit, `default` for the installation's own."


@click.group()
def provider() -> None:
    """Set vendors up, test them, and see how they do. NAME is a provider's, such as openai: `provider list` shows them."""


@provider.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List all providers in the order in which they are preferred, with how they did in the last hour."""
    with context.application():
        from webapp.services import providers

        views = providers.overview()
        if as_json:
            context.print_json([provider_words.as_json(view) for view in views])
            return
        context.print_table(
            ("name", "vendor", "gives", "state", "default model", "calls", "failed", "p50", "balance"),
            [
                (
                    view.name,
                    view.label,
                    ", ".join(view.kinds),
                    provider_words.standing(view),
                    view.default_model,
                    view.live.calls,
                    view.live.failures,
                    f"{view.live.p50_ms:,} ms" if view.live.p50_ms is not None else "",
                    view.balance,
                )
                for view in views
            ],
        )
        provider_words.warn(views)


@provider.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, as_json: bool) -> None:
    """Show what is set for a provider and where, and how it does. Of secrets only the end is shown."""
    with context.application():
        from webapp.services import providers

        view = providers.show(name)
    if as_json:
        context.print_json(provider_words.as_json(view))
        return
    for what, value in provider_words.lines(view):
        if value:
            click.echo(f"{what + ':':<18} {value}")
    if view.variables:
        context.print_table(
            ("variable", "from", "holds", "meaning"),
            [(v.variable.name, v.source, v.shown, v.variable.meaning) for v in view.variables],
        )
    if view.prices:
        context.print_table(
            ("model", *(price.replace("_", " ") for price in provider_words.PRICES), "since"),
            [(model, *provider_words.amounts(price), price.as_of) for model, price in sorted(view.prices.items())],
        )
    provider_words.warn([view])


@provider.command("set")
@click.argument("name")
@click.argument("pairs", metavar="[KEY=VALUE]...", nargs=-1)
@click.option(
    "--secret",
    "secrets",
    metavar="KEY",
    multiple=True,
    help="Ask for a secret variable without showing it; KEY=- reads a line of standard input instead.",
)
@click.option("--model", help="The model to use where none is named; empty for the plugin's own.")
def set_(name: str, pairs: tuple[str, ...], secrets: tuple[str, ...], model: str | None) -> None:
    """Set variables of a provider, over what the environment says. Processes that run notice within seconds.

    Secrets are kept sealed. They are never arguments: those stay in the shell's history, and others can read them.
    """
    with context.application():
        from webapp.services import providers

        known = {each.variable.name: each.variable for each in providers.show(name).variables}
        values: dict[str, str | None] = {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if key in known and known[key].secret and value != STDIN:
                raise context.Failed(f"{key} is secret, so it is no argument: use `--secret {key}` and type it when asked.")
            if not equals:
                raise click.UsageError(f"{key}: write KEY=VALUE, or --secret KEY for what is secret.")
            if not value:
                raise click.UsageError(f"{key}: to remove what was set use `provider unset {name} {key}`.")
            values[key] = _line(key) if value == STDIN else value
        for given in secrets:
            key, _, value = given.partition("=")
            if value not in ("", STDIN):
                raise context.Failed(f"{key} is secret, so it is no argument: use `--secret {key}` and type it when asked.")
            values[key] = _line(key) if value == STDIN else click.prompt(key, hide_input=True, err=True)
        if not values and model is None:
            raise click.UsageError("There is nothing to set: write KEY=VALUE, --secret KEY or --model MODEL.")
        _change(name, providers.Change(default_model=model, values=values))


@provider.command()
@click.argument("name")
@click.argument("keys", metavar="KEY...", nargs=-1, required=True)
def unset(name: str, keys: tuple[str, ...]) -> None:
    """Remove what was set here for variables: the environment or the default counts again."""
    with context.application():
        from webapp.services import providers

        _change(name, providers.Change(values=dict.fromkeys(keys)))


@provider.command()
@click.argument("name")
def enable(name: str) -> None:
    """Let a provider serve again."""
    _switch(name, True)


@provider.command()
@click.argument("name")
def disable(name: str) -> None:
    """Switch a provider off: no request goes to it, whatever the rules say."""
    _switch(name, False)


def _switch(name: str, enabled: bool) -> None:
    with context.application():
        from webapp.services import providers

        _change(name, providers.Change(enabled=enabled))


@provider.command()
@click.argument("name")
@click.option("--requests-per-minute", metavar="N", help=f"Calls a minute. {_LIMIT_HELP}")
@click.option("--tokens-per-minute", metavar="N", help=f"Tokens a minute. {_LIMIT_HELP}")
@click.option("--concurrent", metavar="N", help=f"Calls at the same time. {_LIMIT_HELP}")
def limits(name: str, **given: str | None) -> None:
    """Limit how fast a provider is called, over all processes."""
    wanted = {limit: _limit(limit, text) for limit, text in given.items() if text is not None}
    if not wanted:
        raise click.UsageError("Name a limit: --requests-per-minute, --tokens-per-minute or --concurrent.")
    with context.application():
        from webapp.services import providers

        _change(name, providers.Change(limits=wanted))


@provider.command()
@click.argument("name")
@click.argument("model")
@click.option("--input", metavar="USD", help="Dollars for a million input tokens.")
@click.option("--output", metavar="USD", help="Dollars for a million output tokens.")
@click.option("--cached", metavar="USD", help="Dollars for a million input tokens that were read from the vendor's cache.")
@click.option("--cache-write", metavar="USD", help="Dollars for a million input tokens that were written to it.")
@click.option("--picture", metavar="USD", help="Dollars for a picture.")
@click.option("--credit", metavar="USD", help="Dollars for a credit, where the vendor charges in a unit of its own.")
@click.option("--remove", is_flag=True, help="Remove the price: what is known of the vendor's counts again.")
def price(name: str, model: str, remove: bool, **given: str | None) -> None:
    """Set your own price of MODEL, or `*` for every model of the provider. What is not given is as it would be without."""
    amounts = {f"{part}_usd": text for part, text in given.items() if text is not None}
    if remove == bool(amounts):
        raise click.UsageError("Give an amount, such as --input 0.15, or --remove.")
    with context.application():
        from webapp.contracts.errors import BadInput
        from webapp.routing.prices import Override
        from webapp.services import providers

        try:
            own = None if remove else Override.read(amounts)
        except ValueError as exc:
            raise BadInput("price", f"{exc}.") from exc
        _change(name, providers.Change(prices={model: own}))


@provider.command()
@click.argument("name")
@click.argument("hours")
def peak(name: str, hours: str) -> None:
    """Say when the vendor's calls cost more: HOURS in UTC such as "Mon-Fri 01:00-04:00", `none`, or `default`.

    Work that may wait is held until they are over.
    """
    with context.application():
        from webapp.services import providers

        _change(name, providers.Change(peak_hours="" if hours.strip().lower() == "none" else hours))


@provider.command()
@click.argument("name")
@click.option("--model", default="", help="The model to try; default: the provider's own.")
@click.option("--kind", type=_KINDS, help="Which of its kinds to try; default: text if it has it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def test(name: str, model: str, kind: str | None, as_json: bool) -> None:
    """Have a provider answer with one token, and print what it says. Of images only a look is taken: none is made.

    The house pays for the token. Exit code 1 if the provider does not answer.
    """
    from dataclasses import asdict

    with context.application():
        from webapp.services import providers

        found = providers.test(name, kind or providers.show(name).kinds[0], model, context.actor())
    if as_json:
        context.print_json(asdict(found))
    elif found.ok:
        paid = f", {found.tokens} tokens, {format_microusd(found.cost_microusd)}" if found.tokens else ""
        click.echo(f"{name} answers ({found.model}, {found.latency_ms:,} ms{paid}): {found.said}")
    else:
        click.echo(f"switchhook: {name} fails ({found.code}): {found.said}", err=True)
    if not found.ok:
        raise click.exceptions.Exit(1)


@provider.command()
@click.argument("name")
@click.option("--kind", type=_KINDS, help="Which of its kinds to ask for; default: text if it has it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def models(name: str, kind: str | None, as_json: bool) -> None:
    """List the models that the vendor offers now."""
    with context.application():
        from webapp.contracts.errors import ProviderError
        from webapp.contracts.wire import vendor_words
        from webapp.services import provider_views, providers

        try:
            found = providers.models(name, kind or providers.show(name).kinds[0])
        except ProviderError as exc:
            said = vendor_words(f"{exc.message} {exc.detail}", provider_views.secrets_of(name))
            raise context.Failed(said) from exc
    rows = [
        {
            "id": model.id,
            "label": model.label,
            "context_tokens": model.context_tokens,
            "output_tokens": model.output_tokens,
            "capabilities": None if model.capabilities is None else sorted(model.capabilities),
            "note": model.note,
        }
        for model in found
    ]
    if as_json:
        context.print_json(rows)
    elif not rows:
        click.echo("The vendor lists no model.")
    else:
        context.print_table(
            ("model", "reads", "writes", "can", "note"),
            [
                (
                    row["id"],
                    f"{row['context_tokens']:,}" if row["context_tokens"] else "",
                    f"{row['output_tokens']:,}" if row["output_tokens"] else "",
                    "?" if row["capabilities"] is None else ", ".join(row["capabilities"]),  # type: ignore[arg-type]
                    row["note"],
                )
                for row in rows
            ],
        )


@provider.command()
@click.argument("name")
def reset(name: str) -> None:
    """Close a provider's circuits and end its pause: it is called again at once."""
    with context.application():
        from webapp.services import providers

        providers.reset(name, context.actor())
    click.echo(f"{name} is called again.")


# -- reading arguments ---------------------------------------------------------------------------------------------------
def _line(key: str) -> str:
    """A line of standard input."""
    text = sys.stdin.readline().rstrip("\r\n")
    if not text.strip():
        raise context.Failed(f"{key}: nothing came on standard input.")
    return text


def _limit(name: str, text: str) -> int | None:
    if text.strip().lower() == "default":
        return None
    try:
        return int(text)
    except ValueError:
        raise click.UsageError(f"{name}: write a whole number, or `default`.") from None


def _change(name: str, change: Change) -> None:
    """Make a change inside the application's context, and say what was saved, how it stands, and that nothing was tried."""
    from webapp.cli.typed import as_typed
    from webapp.services import providers

    view = providers.change(name, change, context.actor())
    click.echo(f"Saved: {provider_words.saved(change, view)}.")
    if view.enabled and view.ready:
        click.echo(as_typed(f"{name} is ready; nothing was tried. Try it: `switchhook provider test {name}`."))
    else:
        click.echo(f"{name} is {provider_words.standing(view)}.")
    provider_words.warn([view])
