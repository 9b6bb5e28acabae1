"""E-mail by SMTP: messages go out, none come in. Plain text in UTF-8, by whichever mail server takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from plugins.channels.email.addresses import Sender, Server, read_address, read_sender, read_server
from webapp.plugin import (
    Channel,
    DeliveryStatus,
    Health,
    OutboundMessage,
    SendFailed,
    SendUnknown,
    Sent,
    Variable,
    VariableKind,
    hookimpl,
)

if TYPE_CHECKING:
    import httpx

SWITCHHOOK_CONTRACT = 1

CHECK_S = 5.0
ID_CHARS = 120


class EmailChannel(Channel):
    """E-mail by SMTP. Immutable once made; every method may be called from many threads."""

    name = "email"
    medium = "email"
    max_chars = 100_000
    environment: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "SMTP_URL",
            "The mail server that takes e-mails: smtp://user:password@host:587 (STARTTLS) or smtps://user:password@host:465. "
            "smtp:// without TLS is for this machine (smtp://localhost:1025), or where ?tls=none says so.",
            secret=True,
            kind=VariableKind.URL,
        ),
        Variable("MAIL_FROM", 'Whom e-mails are from: an address, or "Name <address>".'),
    )

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._server: Server | None = None
        self._sender: Sender | None = None
        self._missing = ""
        faults, unset = [], []
        try:
            if url := settings.get("SMTP_URL", "").strip():
                self._server = read_server(url)
            else:
                unset.append("SMTP_URL")
        except ValueError as exc:
            faults.append(f"SMTP_URL {_as_address(exc)}")
        try:
            if sender := settings.get("MAIL_FROM", "").strip():
                self._sender = read_sender(sender)
            else:
                unset.append("MAIL_FROM")
        except ValueError as exc:
            faults.append(f"MAIL_FROM {exc}")
        if unset:
            faults.append(f"{' and '.join(unset)} {'is' if len(unset) == 1 else 'are'} not set")
        self._missing = "; ".join(faults)

    def missing(self) -> str:
        return self._missing

    def send(self, message: OutboundMessage, http: httpx.Client) -> Sent:  # noqa: ARG002
        from plugins.channels.email.letter import compose, message_id
        from plugins.channels.email.session import Session
        from plugins.channels.email.troubles import NotTold, Trouble

        server, sender = self._ready()
        try:
            recipient = read_address(message.recipient)
        except ValueError:
            raise SendFailed("The recipient's is not an e-mail address that can be written to.", permanent=True) from None
        data = compose(message.delivery_id, sender, recipient, message.subject, message.text)
        session: Session | None = None
        try:
            session = Session(server, sender.domain, message.timeout_s)
            session.hand_over(sender.address, recipient, data)
        except Trouble as exc:
            raise SendFailed(f"{exc.what} {exc.cure}", vendor_code=exc.code, permanent=exc.permanent) from exc
        except NotTold as exc:
            raise SendUnknown(
                "The connection to the mail server failed after the message was handed over: it may have been sent."
            ) from exc
        finally:
            if session is not None:
                session.leave()
        return Sent(message_id(message.delivery_id, sender.domain)[:ID_CHARS], DeliveryStatus.SENT)

    def check(self, http: httpx.Client) -> Health:  # noqa: ARG002
        from plugins.channels.email.session import Session
        from plugins.channels.email.troubles import Trouble

        if gap := self.missing():
            return Health(False, f"{gap}.", "Set it in the environment or in .env and start again.")
        server, sender = self._ready()
        try:
            Session(server, sender.domain, CHECK_S).leave()
        except Trouble as exc:
            return Health(False, exc.what, exc.cure)
        kept = {"tls": "by TLS", "starttls": "by STARTTLS", "none": "without TLS"}[server.security]
        return Health(True, f"The mail server {server.host} answers, {kept}{', and knows our user' if server.user else ''}.")

    def _ready(self) -> tuple[Server, Sender]:
        if self._server is None or self._sender is None:
            raise SendFailed(f"{self._missing}.", permanent=True)
        return self._server, self._sender


def _as_address(exc: ValueError) -> str:
    """A fault of the host is one of the address."""
    return str(exc) if str(exc).startswith("must be") else "must be smtp://… or smtps://… with a host: the one it has is none"


@hookimpl
def register_channels(settings: Mapping[str, str]) -> list[Channel]:
    return [EmailChannel(settings)]
