"""`switchhook doctor`: what is wrong, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING

import click

from webapp.cli import context

if TYPE_CHECKING:
    from webapp.services.doctor import Finding

_MARKS = {"ok": ("✓", "green"), "off": ("-", None), "warning": ("!", "yellow"), "fault": ("✗", "red")}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Check settings, database, queue, workers, plugins, providers and channels, and say what to mend.

    ✓ works, - is not set up, ! works with a drawback, ✗ is broken. Shows no secrets.

    Exit code 0 if nothing is broken, 1 otherwise.
    """
    findings = _examine()
    broken = [finding for finding in findings if finding.level == "fault"]
    if as_json:
        context.print_json({"ok": not broken, "findings": [asdict(finding) for finding in findings]})
    else:
        _show(findings)
        warnings = sum(finding.level == "warning" for finding in findings)
        click.echo(f"\n{_count(len(broken), 'fault')}, {_count(warnings, 'warning')}.")
    if broken:
        raise click.exceptions.Exit(1)


def _examine() -> list[Finding]:
    from webapp.services import doctor

    settings, findings = doctor.check_settings()
    if settings is None:
        return findings
    with (
        context.application(current_schema=False, quiet_plugins=True, installed=False),
        context.console(stderr=True).status("looking …"),
    ):
        return findings + doctor.check_installation()


def _show(findings: list[Finding]) -> None:
    from webapp.cli.typed import as_typed
    from webapp.contracts.texts import clean

    for area, group in groupby(findings, key=lambda finding: finding.area):
        click.secho(f"\n{area}", bold=True)
        for finding in group:
            mark, colour = _MARKS[finding.level]
            line = " ".join(clean(f"{finding.name}: {finding.detail}").split())
            cure = f"\n      → {' '.join(clean(finding.cure).split())}" if finding.cure else ""
            click.echo(f"  {click.style(mark, fg=colour)} {as_typed(f'{line}{cure}')}")


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
