"""What can go wrong with a mail server, in words for the operator. The server's own are left out: they quote addresses."""

from __future__ import annotations

import re
import smtplib
import socket
import ssl
from enum import StrEnum

_ENHANCED = re.compile(rb"\s*([245]\.\d{1,3}\.\d{1,3})(?![\d.])")


class Step(StrEnum):
    """What was being done."""

    CONNECT = "connection"
    TLS = "STARTTLS"
    LOGIN = "sign-in"
    SENDER = "sender"
    RECIPIENT = "recipient"
    MESSAGE = "message"


_CURES: dict[Step, str] = {
    Step.CONNECT: "Ask whoever runs the server why it refuses this machine.",
    Step.TLS: "Use smtps:// and port 465 in SMTP_URL if the server has it.",
    Step.LOGIN: "Correct user and password in SMTP_URL.",
    Step.SENDER: "Set MAIL_FROM to an address that this server lets you send from.",
    Step.RECIPIENT: "Check the address, and that this server may send to other domains.",
    Step.MESSAGE: "The server's log says what it does not like in it.",
}


class Trouble(Exception):
    """The server certainly does not have the message. `code` is the server's, '' if it gave none."""

    def __init__(self, what: str, cure: str, *, permanent: bool, code: str = "") -> None:
        super().__init__(what)
        self.what, self.cure, self.permanent, self.code = what, cure, permanent, code


class NotTold(Exception):
    """The message was handed over, and the server did not say what became of it."""


def refused(step: Step, code: int, words: bytes) -> Trouble:
    """A reply that is no consent: 4xx passes, 5xx does not, and what is neither is no reply of a mail server."""
    if not 400 <= code < 600:
        return Trouble("What answered did not answer like a mail server.", "Check host and port in SMTP_URL.", permanent=False)
    found = _ENHANCED.match(words)
    said = f"{code} {found[1].decode()}" if found else str(code)
    if code < 500:
        return Trouble(
            f"The mail server refuses the {step} for the moment ({said}).",
            "It is tried again by itself.",
            permanent=False,
            code=str(code),
        )
    return Trouble(f"The mail server refuses the {step} ({said}).", _CURES[step], permanent=True, code=str(code))


def trouble(exc: BaseException, step: Step, host: str) -> Trouble:
    """What an exception of `smtplib` or of the connection means, before the message is the server's."""
    match exc:
        case smtplib.SMTPResponseException():
            words = exc.smtp_error if isinstance(exc.smtp_error, bytes) else b""
            return refused(step, exc.smtp_code, words)
        case smtplib.SMTPNotSupportedError() if step is Step.TLS:
            cure = "Use smtps:// and port 465 if it has that; ?tls=none in SMTP_URL sends everything readable for others."
            return Trouble(f"The mail server {host} offers no STARTTLS.", cure, permanent=True)
        case smtplib.SMTPServerDisconnected():
            if isinstance(exc.__context__, TimeoutError):
                return _away(host, "did not answer in time")
            return _away(host, "hung up")
        case smtplib.SMTPException():
            cure = "Take user and password out of SMTP_URL, or use the port on which the server wants them (587 or 465)."
            return Trouble(f"The mail server {host} takes no sign-in that we know.", cure, permanent=True)
        case ssl.SSLCertVerificationError():
            cure = "Correct the host in SMTP_URL; for an authority of your own set SSL_CERT_FILE."
            return Trouble(f"The certificate of {host} is not accepted ({exc.verify_message}).", cure, permanent=True)
        case ssl.SSLError():
            cure = "smtps:// is for port 465, smtp:// for port 587: check SMTP_URL."
            return Trouble(f"TLS with {host} failed.", cure, permanent=False)
        case socket.gaierror():
            return Trouble(f"The host {host} is not found.", "Correct SMTP_URL, or look at the name server.", permanent=False)
        case TimeoutError():
            return _away(host, "did not answer in time")
    return _away(host, f"cannot be reached ({type(exc).__name__})")


def _away(host: str, how: str) -> Trouble:
    cure = "Check SMTP_URL and whether this machine may reach it."
    return Trouble(f"The mail server {host} {how}.", cure, permanent=False)
