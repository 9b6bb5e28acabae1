"""`switchhook mail`: whether e-mails can be sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from webapp.cli import context

if TYPE_CHECKING:
    import uuid

SUBJECT = "Test message"
_SENT = ("queued", "sent", "delivered")


@click.group()
def mail() -> None:
    """Look whether e-mails can be sent."""


@mail.command()
@click.argument("address")
@click.option("--channel", default="", help="Channel to send by; default: the first for e-mail that is ready.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def test(address: str, channel: str, as_json: bool) -> None:
    """Send a short message to ADDRESS, at once and with the settings that this command sees. Needs no worker.

    Addresses that have opted out get nothing. Exit code 1 if it was not sent, or nobody knows whether it was.
    """
    with context.application():
        from webapp.pipeline import deliver
        from webapp.services import messages

        to, by = messages.checked_mail(address, channel)
        delivery_id = deliver.write_by_hand(to, _text(), by, None, subject=SUBJECT)
        deliver.deliver(delivery_id)
        row = _delivery(delivery_id)
    if as_json:
        context.print_json(row)
    else:
        click.echo(_sentence(row))
    if row["status"] not in _SENT:
        raise click.exceptions.Exit(1)


def _text() -> str:
    from webapp.extensions import current_settings

    where = current_settings().public_url
    return (
        f"This is a test message from Switchhook{f' at {where}' if where else ''}.\n\n"
        "It was sent by `switchhook mail test`. E-mails from there reach you.\n"
    )


def _delivery(delivery_id: uuid.UUID) -> dict[str, Any]:
    from sqlalchemy import select

    from webapp.extensions import reading
    from webapp.models import Delivery

    query = select(
        Delivery.id, Delivery.channel, Delivery.status, Delivery.external_id, Delivery.error_code, Delivery.error_message
    ).where(Delivery.id == delivery_id)
    with reading() as connection:
        return connection.execute(query).one()._asdict()


def _sentence(row: dict[str, Any]) -> str:
    why = f" {row['error_message']}" if row["error_message"] else ""
    if row["status"] == "pending":
        return f"{row['channel']}: not sent yet (message {row['id']}): a worker tries it again.{why}"
    return f"{row['channel']}: {row['status']} (message {row['id']}).{why}"
