"""Where a server is: addresses as operators write them, made usable."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

_LOCAL_ENDINGS = (".localhost", ".local", ".lan", ".home", ".internal")


def ollama_base_url(host: str) -> str:
    """The base URL of Ollama's OpenAI-compatible API for a value of OLLAMA_HOST.

    The variable also tells the server where to listen, so it may lack the scheme or the port, and 0.0.0.0 means this
    machine. The default port is 11434, or the scheme's own where a scheme is given, as in Ollama's client.

    >>> ollama_base_url("0.0.0.0"), ollama_base_url("https://gpu.example.com/")
    ('http://127.0.0.1:11434/v1', 'https://gpu.example.com:443/v1')
    """
    scheme, separator, rest = host.strip().partition("://")
    if not separator:
        scheme, rest = "http", host.strip()
        if rest == "ollama.com":
            scheme = "https"
    port = {"http": 80, "https": 443}.get(scheme, 11434) if separator or scheme == "https" else 11434
    place, _, path = rest.partition("/")
    name = place
    if place.count(":") == 1 or (place.startswith("[") and "]:" in place):
        name, _, digits = place.rpartition(":")
        if digits.isascii() and digits.isdigit() and 0 < int(digits) < 65_536:
            port = int(digits)
    name = name.strip("[]")
    if name in ("", "0.0.0.0"):  # noqa: S104 - read, not bound
        name = "127.0.0.1"
    elif name == "::":
        name = "::1"
    if ":" in name:
        name = f"[{name}]"
    path = path.strip("/").removesuffix("v1").rstrip("/")
    return f"{scheme}://{name}:{port}" + (f"/{path}" if path else "") + "/v1"


def is_usable(url: str) -> bool:
    """Whether `url` is an http or https address with a host, and nothing that a path cannot be put behind."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname and parts.port != 0) and not parts.query
    except ValueError:
        return False


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
