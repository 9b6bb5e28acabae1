"""The guard of outbound calls: which addresses a call may be connected to.

A URL that somebody typed into a page must not make this server look into the network it stands in: the database beside it,
the cloud's metadata service, the router. So every address that a host's name was resolved to is checked at the moment of the
connection, and the connection goes to that very address: a name that resolves to something else a second later, a redirect
or another spelling of `127.0.0.1` change nothing.

Internal is whatever is not reachable from everywhere: the special-purpose registries of IANA (RFC 6890), multicast, and IPv6
addresses that carry an internal IPv4 address. Two things open the way to one:

- The operator named the origin in the environment (`trust`): that host and port, wherever it resolves to.
- The operator allowed the address, its network or the host in SWITCHHOOK_ALLOW_OUTBOUND (`allow`).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from webapp.contracts.errors import SetupError

SETTING = "SWITCHHOOK_ALLOW_OUTBOUND"

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Listed here because releases of Python differ about them: IETF protocol assignments, and the relays of 6to4 (RFC 7526).
_INTERNAL_V4 = (IPv4Network("192.0.0.0/24"), IPv4Network("192.88.99.0/24"))
_UNICAST_V6 = IPv6Network("2000::/3")
"""All of IPv6 that has been given out for use in the world: the rest is local, special or not assigned."""
# IETF protocol assignments (Teredo is one), documentation twice.
_INTERNAL_V6 = (IPv6Network("2001::/23"), IPv6Network("2001:db8::/32"), IPv6Network("3fff::/20"))
_NAT64 = IPv6Network("64:ff9b::/96")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Forbidden(OSError):
    """The address is internal, and nobody allowed it. The message names the host as it was called."""


class Guard:
    """What may be connected to. What it was told once it never forgets; safe to share between threads. `cure` is how refusals
    end: what their reader can do."""

    def __init__(self, cure: str = f"add it to {SETTING} if it is meant") -> None:
        self._cure = cure
        self._lock = threading.Lock()
        self._origins: frozenset[tuple[str, int]] = frozenset()
        self._hosts: frozenset[str] = frozenset()
        self._networks: tuple[tuple[Network, int | None], ...] = ()

    def trust(self, url: str) -> None:
        """Let calls to the origin of `url` (its host and port) reach whatever address it resolves to.

        Anything but an http or https URL with a host is passed over: values of the environment are of all kinds.
        """
        try:
            parts = urlsplit(url.strip())
            host, port = parts.hostname, parts.port
        except ValueError:
            return
        if parts.scheme not in _DEFAULT_PORTS or not host:
            return
        with self._lock:
            self._origins |= {(_normal(host), _DEFAULT_PORTS[parts.scheme] if port is None else port)}

    def allow(self, entries: str) -> None:
        """Let calls reach what an operator lists, separated by commas: networks, addresses, hosts, `host:port`.

        An address or a network opens it to every host that resolves into it; a host opens it wherever it resolves to.
        `SetupError` names the first entry that is none of these; then nothing of the list counts.
        """
        hosts: set[str] = set()
        origins: set[tuple[str, int]] = set()
        networks: list[tuple[Network, int | None]] = []
        for entry in filter(None, (part.strip() for part in entries.split(","))):
            place, port = _read(entry)
            if not isinstance(place, str):
                networks.append((place, port))
            elif port is None:
                hosts.add(place)
            else:
                origins.add((place, port))
        with self._lock:
            self._hosts |= hosts
            self._origins |= origins
            self._networks += tuple(rule for rule in networks if rule not in self._networks)

    def check(self, host: str, port: int, address: str) -> None:
        """Raise `Forbidden` unless a call to `host` and `port` may be connected to `address`, one that it resolved to."""
        try:
            found: Address | None = ip_address(address.partition("%")[0])
        except ValueError:
            found = None
        if found is not None and (_public(found) or self._allowed(found, port)):
            return
        name = _normal(host)
        if name in self._hosts or (name, port) in self._origins:
            return
        shown = f"[{host}]" if ":" in host else host
        raise Forbidden(f"{shown}:{port} is an internal address: {self._cure}")

    def _allowed(self, address: Address, port: int) -> bool:
        forms = (address, *_carried(address))
        return any(only in (None, port) and any(form in network for form in forms) for network, only in self._networks)


_current = Guard()


def current() -> Guard:
    """The guard of this process's shared client. Until `install` was called it lets nothing internal through."""
    return _current


def install(allow: str, trusted_urls: Iterable[str]) -> None:
    """Tell this process's guard what SWITCHHOOK_ALLOW_OUTBOUND holds, and which URLs the operator named elsewhere.

    `SetupError` names the entry of `allow` that cannot be read.
    """
    _current.allow(allow)
    for url in trusted_urls:
        _current.trust(url)


def _public(address: Address) -> bool:
    """Whether an address can be reached from everywhere, so that calling it from here tells nobody anything new."""
    if isinstance(address, IPv4Address):
        special = address.is_multicast or address.is_reserved or any(address in network for network in _INTERNAL_V4)
        return address.is_global and not special
    if address in _NAT64 or address.sixtofour is not None:
        return all(_public(inner) for inner in _carried(address))
    return address.is_global and address in _UNICAST_V6 and not any(address in network for network in _INTERNAL_V6)


def _carried(address: Address) -> tuple[IPv4Address, ...]:
    """The IPv4 address that an IPv6 address leads to: mapped (RFC 4291), by NAT64 (RFC 6052), by 6to4 (RFC 3056)."""
    if isinstance(address, IPv4Address):
        return ()
    if address in _NAT64:
        return (IPv4Address(int(address) & 0xFFFF_FFFF),)
    inner = address.ipv4_mapped or address.sixtofour
    return () if inner is None else (inner,)


def _normal(host: str) -> str:
    """One spelling of a host: lower case, no root dot, Punycode, the short form of an IPv6 address."""
    host = host.strip("[]").lower().removesuffix(".")
    if not host.isascii():
        # The library of httpx, so that both make the same of a name. It is slow to import and rarely needed.
        import idna

        try:
            host = idna.encode(host).decode("ascii")
        except idna.IDNAError:
            return host
    try:
        return str(ip_address(host))
    except ValueError:
        return host


def _read(entry: str) -> tuple[Network | str, int | None]:
    """An entry of the setting: a network (an address is one of a single member) or a host, and the only port it is for."""
    bracketed = entry.startswith("[") and entry.endswith("]")
    try:
        if "%" not in entry:  # an interface's name in an address means nothing on another machine, and never matches here
            return ip_network(entry[1:-1] if bracketed else entry), None
    except ValueError:
        pass
    host, colon, port_text = entry.rpartition(":")
    if not colon:
        return _host(entry, entry), None
    if not (port_text.isascii() and port_text.isdecimal() and len(port_text) <= 5 and 0 < int(port_text) < 65_536):
        raise _unreadable(entry)
    if host.startswith("[") and host.endswith("]"):
        try:
            return IPv6Network(host[1:-1]), int(port_text)
        except ValueError as exc:
            raise _unreadable(entry) from exc
    try:
        return IPv4Network(host), int(port_text)
    except ValueError:
        return _host(host, entry), int(port_text)


def _host(host: str, entry: str) -> str:
    """The normal spelling of a host's name. What ends in a number is a mistyped address, and would never match."""
    name = _normal(host)
    labels = name.split(".")
    if len(name) > 253 or _NUMERIC.fullmatch(labels[-1]) or not all(_LABEL.fullmatch(label) for label in labels):
        raise _unreadable(entry)
    return name


def _unreadable(entry: str) -> SetupError:
    return SetupError(
        f"Wrong setting: {SETTING}: {entry[:100]!r} is no network (such as 10.0.0.0/8, its host bits zero), address, host or "
        "host:port. Separate several by commas."
    )
