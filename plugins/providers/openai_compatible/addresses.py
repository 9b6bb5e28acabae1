"""Where a server is: addresses as operators write them, judged before anything is sent there."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

_LOCAL_ENDINGS = (".localhost", ".local", ".lan", ".home", ".internal")


def is_usable(url: str) -> bool:
    """Whether `url` is an http or https address with a host, and nothing that a path cannot be put behind."""
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname and parts.port != 0)
        # A sign-in would be shown wherever the address is; keys have variables of their own.
        return whole and not parts.query and "@" not in parts.netloc
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
