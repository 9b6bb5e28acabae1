"""What may be set for a provider. Every value is checked before it is kept: plugins put them into headers and addresses."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from urllib.parse import SplitResult, urlsplit

from webapp.contracts.errors import BadInput
from webapp.contracts.hours import Hours
from webapp.contracts.providers import Variable, VariableKind
from webapp.extensions import now
from webapp.routing import guard
from webapp.routing.prices import Override

LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrent")
LIMIT_MAX = 1_000_000
VALUE_CHARS = 4096
MODEL_CHARS = 120
HOURS_CHARS = 255
PRICES_MAX = 200
DEFAULT = "default"
"""What stands for peak hours that nobody set here."""

_ON = ("1", "true", "yes", "on")
_OFF = ("0", "false", "no", "off")
_NUMBER = re.compile(r"[+-]?[0-9]{1,12}(\.[0-9]{1,9})?")
_HOST_CHARS = 253
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_PORTS = {"http": 80, "https": 443}


def checked(variable: Variable, text: str) -> str:
    """A value as it is kept. `BadInput` names the variable, and never repeats what was given: it may be a secret."""
    name, text = variable.name, text.strip()
    if len(text) > VALUE_CHARS:
        raise BadInput(name, f"{name} is longer than {VALUE_CHARS} characters.")
    if not (text.isascii() and text.isprintable()):
        raise BadInput(name, f"{name} holds characters that cannot be sent in a header: only printable ASCII goes there.")
    if variable.kind is VariableKind.FLAG:
        return _flag(name, text)
    if variable.choices:
        if text not in variable.choices:
            raise BadInput(name, f"{name} has to be one of: {', '.join(variable.choices)}.")
        return text
    if variable.kind is VariableKind.NUMBER:
        return _number(name, text)
    if variable.kind is VariableKind.MODEL:
        return model(name, text)
    if variable.kind is VariableKind.URL:
        return url(name, text)
    return text


def model(field: str, text: str) -> str:
    """The name of a model, in one piece. `BadInput` names the field."""
    text = text.strip()
    if not text or len(text) > MODEL_CHARS or not text.isprintable() or re.search(r"[\s,]", text):
        raise BadInput(field, f"A model's name has at most {MODEL_CHARS} visible characters, without blanks and commas.")
    return text


def url(field: str, text: str) -> str:
    """An http or https address that may be called. `BadInput`, in the words of the guard where it is an internal one."""
    bad = BadInput(field, f"{field} has to be a whole address, such as https://host/path.")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise bad from None
    if parts.scheme not in _PORTS or not parts.hostname or port == 0 or re.search(r"[\s\\]", text):
        raise bad
    if not can_be_host(parts.hostname):
        raise BadInput(field, f"{field}: no host is called so: at most 253 letters, digits and hyphens, between single dots.")
    if "@" in parts.netloc:
        raise BadInput(field, f"{field} must not hold a user or a password: a key has a variable of its own.")
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise BadInput(field, f"{field} must end before the `?` or `#`: paths are put behind it.")
    _check_outbound(field, parts)
    return text


def can_be_host(host: str) -> bool:
    """Whether a host is an address without a zone, or a name by its form alone."""
    if ":" in host:
        try:
            return "%" not in host and bool(ipaddress.IPv6Address(host))
        except ValueError:
            return False
    name = host.removesuffix(".")  # the root of all names may be written
    return len(name) <= _HOST_CHARS and all(_HOST_LABEL.fullmatch(label) for label in name.split("."))


def _check_outbound(field: str, parts: SplitResult) -> None:
    """Refuse an address that leads inside. A host that nobody knows now may be known later: every call is checked again."""
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return
    for *_, address in found:
        try:
            guard.current().check(host, port, str(address[0]))
        except guard.Forbidden as exc:
            raise BadInput(field, f"{field}: {exc}.") from exc


def _flag(name: str, text: str) -> str:
    if text.lower() in _ON:
        return "1"
    if text.lower() in _OFF:
        return ""
    raise BadInput(name, f"{name} is either on (1) or off (0).")


def _number(name: str, text: str) -> str:
    try:
        number = Decimal(text) if _NUMBER.fullmatch(text) else None
    except InvalidOperation:
        number = None
    if number is None:
        raise BadInput(name, f"{name} has to be a number, such as 4 or 0.5.")
    return text


def limit(name: str, value: int | None) -> int | None:
    """A limit, None for the installation's own. `BadInput` names it."""
    if name not in LIMITS:
        raise BadInput(name, f"There is no limit {name[:40]!r}; there are {', '.join(LIMITS)}.")
    if value is not None and (type(value) is not int or not 0 <= value <= LIMIT_MAX):
        raise BadInput(name, f"{name} is a whole number from 0 to {LIMIT_MAX}; 0 means no limit.")
    return value


def price(name: str, value: Override) -> Mapping[str, str]:
    """An operator's price as it is kept, with today's date where it has none. `BadInput` names the model."""
    try:
        read = Override.read(value.as_json())
    except (ValueError, AttributeError, TypeError) as exc:
        raise BadInput(f"price {name}", f"The price of {name}: {exc}.") from exc
    kept = read.as_json()
    if not kept.keys() - {"as_of"}:
        raise BadInput(f"price {name}", f"The price of {name} says nothing: give an amount, or remove it.")
    return kept if read.as_of else kept | {"as_of": now().date().isoformat()}


def hours(text: str) -> str | None:
    """Peak hours as they are kept: '' for none, None for the plugin's own. `BadInput` says what is wrong."""
    text = text.strip()
    if text.lower() == DEFAULT:
        return None
    if len(text) > HOURS_CHARS:
        raise BadInput("peak_hours", f"Peak hours have at most {HOURS_CHARS} characters.")
    try:
        return str(Hours.parse(text)) if text else ""
    except ValueError as exc:
        raise BadInput("peak_hours", f"{exc}.") from exc
