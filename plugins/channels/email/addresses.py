"""Where mail is handed over, whom it is from and for. Pure functions: `ValueError` says what is wrong, quoting nothing."""

from __future__ import annotations

import ipaddress
import re
from typing import Literal, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

Security = Literal["tls", "starttls", "none"]

ADDRESS_CHARS, LOCAL_CHARS, NAME_CHARS = 254, 64, 100

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_LOCAL = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NAMED = re.compile(r"(?P<name>[^<>]*?)\s*<(?P<address>[^<>]*)>")
_PORTS: dict[str, int] = {"smtp": 587, "smtps": 465}
_FORM = "must be smtp://user:password@host:587 or smtps://user:password@host:465"


class Server(NamedTuple):
    """The mail server that takes our messages. `security` is how the connection is kept from others."""

    host: str
    port: int
    security: Security
    user: str = ""
    password: str = ""


class Sender(NamedTuple):
    """Whom messages are from. `name` may be ''."""

    address: str
    name: str = ""

    @property
    def domain(self) -> str:
        """The part after the @, in ASCII."""
        return self.address.rpartition("@")[2]


def read_server(url: str) -> Server:
    """The server that `SMTP_URL` names. Without TLS only to this machine, or where the URL says so (`?tls=none`)."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise ValueError(f"{_FORM}: this is no address") from None
    if parts.scheme not in _PORTS:
        raise ValueError(_FORM)
    if not parts.hostname:
        raise ValueError(f"{_FORM}: it names no host")
    if parts.path.strip("/") or parts.fragment:
        raise ValueError(
            f"{_FORM}: nothing but ?tls= may follow the port; write /, ?, # and @ in a password as %2F, %3F, %23, %40"
        )
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if bool(user) != bool(password):
        raise ValueError(f"{_FORM}: a user needs a password, and a password a user")
    if not (user + password).isascii() or any(ord(char) < 32 or ord(char) == 127 for char in user + password):
        raise ValueError(f"{_FORM}: user and password may have plain ASCII characters only")
    host = _host(parts.hostname)
    return Server(host, port or _PORTS[parts.scheme], _security(parts.scheme, parts.query, host), user, password)


def _security(scheme: str, query: str, host: str) -> Security:
    given = parse_qsl(query, keep_blank_values=True)
    wish = dict(given).get("tls", "")
    allowed = ("none", "starttls") if scheme == "smtp" else ()
    if len(given) > 1 or any(name != "tls" for name, _ in given) or (given and wish not in allowed):
        raise ValueError(f"{_FORM}: of options there are only ?tls=starttls and ?tls=none, for smtp://")
    if scheme == "smtps":
        return "tls"
    if wish:
        return "none" if wish == "none" else "starttls"
    return "none" if _is_this_machine(host) else "starttls"


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return _domain(name)


def read_sender(text: str) -> Sender:
    """The sender that `MAIL_FROM` names: an address, or `Name <address>`."""
    text = text.strip()
    found = _NAMED.fullmatch(text)
    name = found["name"].strip() if found else ""
    if len(name) > 1 and name[0] == name[-1] == '"':
        name = name[1:-1].strip()
    if not name.isprintable() or len(name) > NAME_CHARS:
        raise ValueError(f'must be an address or "Name <address>", the name at most {NAME_CHARS} printable characters')
    try:
        return Sender(read_address(found["address"] if found else text), name)
    except ValueError:
        raise ValueError('must be an address such as bot@example.com, or "Name <bot@example.com>"') from None


def read_address(text: str) -> str:
    """An address as it goes to a mail server: ASCII, one word, nothing quoted, the domain in its ASCII form."""
    local, at, domain = text.strip(" ").rpartition("@")
    if not at or not _LOCAL.fullmatch(local) or len(local) > LOCAL_CHARS:
        raise ValueError("is not an e-mail address that can be written to")
    address = f"{local}@{_domain(domain)}"
    if len(address) > ADDRESS_CHARS:
        raise ValueError("is not an e-mail address that can be written to")
    return address


def _domain(name: str) -> str:
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError("names no domain") from None
    if not _DOMAIN.fullmatch(name):
        raise ValueError("names no domain")
    return name
