"""Addresses of the proxy as operators write them, and of pictures as the proxy tells them."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urljoin, urlsplit

_INNER_ENDINGS = (".localhost", ".local", ".lan", ".home", ".internal", ".arpa")
_URL_CHARS = 4000


def proxy_url(value: str) -> str:
    """The address without a slash at its end, and without the `/mj` that every path has anyway."""
    return value.strip().rstrip("/").removesuffix("/mj").rstrip("/")


def picture_url(url: str, proxy: str) -> str:
    """Where a picture may be fetched. `ValueError` for an address that leads into somebody's own network: only the proxy
    itself, which the operator named, may be there."""
    if not url.strip():
        raise ValueError("the task has no picture")
    whole = urljoin(f"{proxy}/", url)
    parts, named = urlsplit(whole), urlsplit(proxy)
    if len(whole) > _URL_CHARS or parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError("the picture has no http address")
    if (parts.scheme, parts.hostname, parts.port) != (named.scheme, named.hostname, named.port) and not _public(parts.hostname):
        raise ValueError("the picture is at an address that is not public: let the proxy itself serve it")
    return whole


def _public(host: str) -> bool:
    """Whether a host is one of the open Internet, judged by its name alone."""
    host = host.rstrip(".").lower()
    try:
        address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(host)
    except ValueError:
        try:  # 2130706433 and 0x7f.1 are this machine too
            address = ipaddress.ip_address(socket.inet_aton(host))
        except (OSError, UnicodeError, ValueError):
            return "." in host and not host.endswith(_INNER_ENDINGS)
    return address.is_global and not address.is_multicast
