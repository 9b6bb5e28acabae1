"""A message as the bytes that follow DATA: headers that nobody can add to, plain text in UTF-8, lines that every server takes.

Source: RFC 5322, RFC 2047, RFC 3834 (Auto-Submitted), RFC 5321 4.5.2 (a dot at the start of a line is doubled).
"""

from __future__ import annotations

import re
from email.charset import QP, Charset
from email.header import Header
from email.mime.text import MIMEText
from email.policy import compat32
from email.utils import formataddr, formatdate
from typing import Any

from plugins.channels.email.addresses import Sender
from webapp.plugin import clean

SUBJECT_CHARS = 255
_FIRST_LINE_CHARS = 70
_DOT = re.compile(rb"^\.", re.MULTILINE)
_PLAIN = re.compile(r"[ -~]{1,60}")


def message_id(delivery_id: str, domain: str) -> str:
    """The same for every try of a delivery, so that a repeated one is recognised."""
    return f"<{delivery_id}@{domain}>"


def compose(delivery_id: str, sender: Sender, recipient: str, subject: str, text: str) -> bytes:
    """The message without its closing dot, ready to be sent after DATA. Addresses have been checked before."""
    text = clean(text)
    charset = Charset("utf-8")
    # Lines of any length and any script arrive whole at servers that take seven bits and 998 characters a line.
    charset.body_encoding = QP
    letter = MIMEText(text, "plain", charset)  # type: ignore[arg-type]
    letter["From"] = _from(sender)
    letter["To"] = recipient
    letter["Subject"] = _header(one_line(subject) or one_line(text)[:_FIRST_LINE_CHARS])
    letter["Date"] = formatdate()
    letter["Message-ID"] = message_id(delivery_id, sender.domain)
    letter["Auto-Submitted"] = "auto-generated"
    data = letter.as_bytes(policy=compat32.clone(linesep="\r\n"))
    if not data.endswith(b"\r\n"):
        data += b"\r\n"
    return _DOT.sub(b"..", data)


def one_line(subject: str) -> str:
    """A subject on one line, whatever was in it: a line break would begin a header of the writer's choice."""
    return " ".join(clean(subject).split())[:SUBJECT_CHARS].rstrip()


def _from(sender: Sender) -> Any:
    if sender.name.isascii():
        return formataddr((sender.name, sender.address))
    # An encoded word has 75 characters at most, so a long name is several.
    value = Header(sender.name, "utf-8", header_name="From")
    value.append(f"<{sender.address}>", "us-ascii")
    return value


def _header(text: str) -> Any:
    """A header's value. What is longer, not ASCII, or looks like an encoded word already is encoded, never taken as it is."""
    if _PLAIN.fullmatch(text) and "=?" not in text:
        return text
    return Header(text, "utf-8", header_name="Subject")
