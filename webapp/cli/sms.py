"""`switchhook sms`: text messages by hand."""

from __future__ import annotations

import time
import uuid
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from webapp.cli import context

if TYPE_CHECKING:
    from webapp.cli.simulation import Simulated

SEND_WAIT_S = 10.0
_POLL_S = 0.1


@click.group()
def sms() -> None:
    """Send a text message, or simulate an incoming one."""


@sms.command("simulate")
@click.option("--from", "sender", required=True, help="The number that texts, such as +15005550006.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, 3600),
    default=60.0,
    show_default=True,
    help="Seconds to wait for the reply.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.argument("text")
def simulate_(sender: str, timeout_s: float, as_json: bool, text: str) -> None:
    """Text the assistant without a phone: TEXT takes the road of a real message, and the reply is printed.

    Needs a running Switchhook. Nothing is sent to anybody, but the answer costs what it costs.

    Exit code 0 if the message was dealt with, 1 if it failed or no reply came in time, 2 if Switchhook is not running.
    """
    with context.application(current_schema=False):
        from webapp.cli import simulation
        from webapp.services import people

        number = people.normal_phone(sender)
        simulation.check_running()
        context.check_schema()
        with context.console(stderr=True).status("waiting for the reply …"):
            result = simulation.simulate(number, text, timeout_s)
    if as_json:
        context.print_json({"reply": "\n".join(result.replies) or None} | asdict(result))
    else:
        _show(result, timeout_s)
    if result.failed:
        raise click.exceptions.Exit(1)


def _show(result: Simulated, timeout_s: float) -> None:
    from webapp.cli.typed import as_typed
    from webapp.contracts.texts import clean

    for reply in result.replies if result.ended else ():
        click.echo(clean(reply))
    if not result.ended:
        click.secho(f"No reply within {min(timeout_s, result.time_s):g} s. {as_typed(result.note)}", fg="yellow", err=True)
    elif result.note:
        click.secho(as_typed(result.note), fg="yellow", err=True)
    if result.request_id and result.ended and (line := _figures(result)):
        click.secho(line, dim=True)


def _figures(result: Simulated) -> str:
    """One line: who answered, how much it was, what it cost, how long it took, what is left."""
    from webapp.contracts.money import format_microusd

    parts = []
    if result.provider:
        demo = " (the demo: no model)" if result.demo else ""
        about = "about " if result.estimated else ""
        parts += [
            f"{result.provider}/{result.model}{demo}",
            f"{about}{result.input_tokens} tokens in, {result.output_tokens} out",
            format_microusd(result.cost_microusd),
        ]
    parts.append(f"{result.time_s:.2f} s")
    if result.maximum is not None:
        parts.append(f"{result.used} of {result.maximum} messages used this month")
    return " · ".join(parts)


@sms.command()
@click.option("--to", required=True, help="Recipient's number with its country code, such as +15005550006.")
@click.option("--channel", default="", help="Channel to send by; default: the first that is ready, the simulator last.")
@click.option("--no-wait", is_flag=True, help="Do not wait up to 10 seconds for what becomes of it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.argument("text")
def send(to: str, channel: str, no_wait: bool, as_json: bool, text: str) -> None:
    """Send TEXT to a number. Numbers that have opted out get nothing.

    Exit code 1 if it was not sent, or nobody knows whether it was.
    """
    with context.application():
        from webapp.pipeline import deliver
        from webapp.services import messages

        address, checked, by = messages.checked(to, text, channel)
        delivery_id = deliver.send_by_hand(address, checked, by, None)
        row = _delivery(delivery_id, 0 if no_wait else SEND_WAIT_S)
        by_simulator = by.name == messages.SIMULATOR
    if as_json:
        context.print_json(row)
    else:
        click.echo(_sentence(row, by_simulator))
    if row["status"] in ("failed", "undelivered", "unknown", "suppressed"):
        raise click.exceptions.Exit(1)


def _delivery(delivery_id: uuid.UUID, wait_s: float) -> dict[str, Any]:
    """The delivery, as soon as its channel was asked, or after `wait_s` seconds as it is then."""
    from sqlalchemy import select

    from webapp.extensions import reading
    from webapp.models import Delivery

    query = select(
        Delivery.id, Delivery.channel, Delivery.status, Delivery.external_id, Delivery.error_code, Delivery.error_message
    ).where(Delivery.id == delivery_id)
    end = time.monotonic() + wait_s
    while True:
        with reading() as connection:
            row = connection.execute(query).one()._asdict()
        asked = row["status"] not in ("pending", "sending") or row["error_code"]
        if asked or time.monotonic() >= end:
            return row
        time.sleep(_POLL_S)


def _sentence(row: dict[str, Any], by_simulator: bool) -> str:
    why = f" {row['error_message']}" if row["error_message"] else ""
    if row["status"] in ("pending", "sending"):
        return f"Stored as {row['id']}, not sent yet: a worker sends it by {row['channel']}.{why}"
    simulated = " Nobody's phone got it: the simulator is no real channel." if by_simulator else ""
    return f"{row['channel']}: {row['status']} (message {row['id']}).{why}{simulated}"
