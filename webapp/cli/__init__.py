"""The `switchhook` command. A subcommand's module is imported when that subcommand is used: help comes at once."""

from __future__ import annotations

import importlib
from typing import Any

import click

from webapp.contracts.errors import SetupError, SwitchhookError

COMMANDS = {
    "up": ("webapp.cli.up:up", "Run everything on this machine."),
    "web": ("webapp.cli.processes:web", "Run the web server alone."),
    "worker": ("webapp.cli.processes:worker", "Run one worker alone."),
    "cron": ("webapp.cli.processes:cron", "Run the scheduler alone."),
    "schedule": ("webapp.cli.schedule:schedule", "See what runs by the clock, and run a task of it now."),
    "retention": ("webapp.cli.upkeep:retention", "Erase the content of old requests."),
    "rollup": ("webapp.cli.upkeep:rollup", "Sum the ledger up by the hour."),
    "db": ("webapp.cli.db:db", "Bring the database up to date, or look at its schema."),
    "admin": ("webapp.cli.admin:admin", "Make administrators and reset their passwords."),
    "person": ("webapp.cli.person:person", "Look up and change people."),
    "org": ("webapp.cli.organization:org", "Organizations: their people, roles and invitations."),
    "plan": ("webapp.cli.plan:plan", "See and change plans, and put people on them."),
    "limit": ("webapp.cli.limit:limit", "Set limits and budgets of plans, organizations, people and tokens."),
    "provider": ("webapp.cli.provider:provider", "Set vendors up, test them, and see how they do."),
    "route": ("webapp.cli.route:route", "Say which models serve which requests, and see why."),
    "keys": ("webapp.cli.keys:keys", "Look at and rotate the keys that seal vendors' keys in the database."),
    "usage": ("webapp.cli.usage:usage", "See what is used of every limit of somebody."),
    "receipt": ("webapp.cli.receipt:receipt", "See everything on record about what a request cost."),
    "ledger": ("webapp.cli.ledger:ledger", "Sum the ledger up, compare it with a vendor's bill, and prove the books."),
    "ask": ("webapp.cli.ask:ask", "Ask a model by the whole road, from the command line."),
    "draw": ("webapp.cli.ask:draw", "Have a picture made, from the command line."),
    "batch": ("webapp.cli.batch:batch", "Run many prompts from a file, and get the results."),
    "dead": ("webapp.cli.dead:dead", "See what was set aside after everything was tried, and put it back."),
    "cache": ("webapp.cli.cache:cache", "Look at, warm up and clear kept answers."),
    "webhook": ("webapp.cli.webhook:webhook", "Outgoing webhooks: where the events of organizations are sent."),
    "token": ("webapp.cli.token:token", "Make and revoke API tokens."),
    "queue": ("webapp.cli.queue:queue", "See what waits and runs, and who works."),
    "sms": ("webapp.cli.sms:sms", "Send a text message, or simulate an incoming one."),
    "mail": ("webapp.cli.mail:mail", "Send an e-mail to see whether it works."),
    "plugin": ("webapp.cli.plugin:plugin", "List plugins, what they give, and why one is left out."),
    "doctor": ("webapp.cli.doctor:doctor", "Check the installation and say what to mend."),
}
"""Subcommand -> (module:attribute, what `switchhook --help` says about it)."""


class Fault(click.ClickException):
    """Something the operator can do something about: one line, no traceback."""

    def show(self, file: Any = None) -> None:
        from webapp.cli.typed import as_typed

        click.echo(f"switchhook: {as_typed(' '.join(self.message.split()))}", file=file, err=file is None)


class SetupFault(Fault):
    """The installation cannot run as it is configured."""

    exit_code = 2


class LazyGroup(click.Group):
    """A group that knows its subcommands by name and imports the one that is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *(name for name in super().list_commands(ctx) if name not in COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, help_text) for name, (_, help_text) in COMMANDS.items()]
        for name in self.list_commands(ctx)[len(COMMANDS) :]:
            rows.append((name, self.commands[name].get_short_help_str()))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SetupError as exc:
            raise SetupFault(exc.message) from exc
        except SwitchhookError as exc:
            raise Fault(exc.message) from exc


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="switchhook", prog_name="switchhook")
def main() -> None:
    """Switchhook: text a number, open a page or call an API, and get answers from the model you chose."""
