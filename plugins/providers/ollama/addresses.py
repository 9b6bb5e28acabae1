"""Where Ollama is: OLLAMA_HOST as operators write it, made an address."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

_LOCAL_ENDINGS = (".localhost", ".local", ".lan", ".home", ".internal")
_API_PATHS = ("v1", "api")


def base_url(host: str) -> str:
    """The base URL of Ollama's own API for a value of OLLAMA_HOST, without a slash at its end.

    The variable also tells the server where to listen, so it may lack the scheme or the port, and 0.0.0.0 means this
    machine. The default port is 11434, or the scheme's own where a scheme is given, as in Ollama's client. An address that
    leads to one of its APIs (`/v1`, `/api`) is taken for the server's.

    >>> base_url("0.0.0.0"), base_url("https://gpu.example.com/v1")
    ('http://127.0.0.1:11434', 'https://gpu.example.com:443')
    """
    scheme, separator, rest = host.strip().partition("://")
    if not separator:
        scheme, rest = "http", host.strip()
        if rest.partition("/")[0] == "ollama.com":
            scheme = "https"
    scheme = scheme.lower()
    port = {"http": 80, "https": 443}.get(scheme, 11434) if separator or scheme == "https" else 11434
    place, _, path = rest.partition("/")
    name = place
    if place.count(":") == 1 or (place.startswith("[") and "]:" in place):
        name, _, digits = place.rpartition(":")
        if digits.isascii() and digits.isdigit() and 0 < int(digits[:6]) < 65_536:
            port = int(digits[:6])
    name = name.strip("[]")
    if name in ("", "0.0.0.0"):  # noqa: S104 - read, not bound
        name = "127.0.0.1"
    elif name == "::":
        name = "::1"
    if ":" in name:
        name = f"[{name}]"
    steps = [step for step in path.split("/") if step]
    if steps and steps[-1] in _API_PATHS:
        steps.pop()
    return "/".join([f"{scheme}://{name}:{port}", *steps])


def is_local(url: str) -> bool:
    """Whether `url` leads to this machine or the operator's own network, judged by its name alone."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return bool(host) and ("." not in host or host.endswith(_LOCAL_ENDINGS))
    return address.is_loopback or address.is_private or address.is_link_local
