"""Where a server is: addresses as operators write them, judged before anything is sent there."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

_LOCAL_ENDINGS = (".localhost", ".local", ".lan", ".home", ".internal")


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
