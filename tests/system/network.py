"""Two hosts on this machine: network namespaces on two bridges, each with a cable that can be pulled."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

HOSTS = ("a", "b")
DATA, OUTSIDE = "d", "o"
"""The network of the database and the queue, and that of the vendors. Both end at this machine."""

_OURS = re.compile(r"sh(\d+)-[a-z]{1,2}")


class NotPossible(Exception):
    """This machine or this user cannot make networks; says why."""


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise NotPossible(f"`ip {' '.join(arguments)}` says: {done.stderr.strip()}")
    return done.stdout


def _sweep() -> None:
    """Remove what processes have left that were killed before they could."""
    names = [line.split()[0] for line in _ip("netns", "list").splitlines() if line.strip()]
    links = [link["ifname"] for link in json.loads(_ip("-j", "link"))]
    for kind, found in (("netns", names), ("link", links)):
        for name in found:
            made_by = _OURS.fullmatch(name)
            if made_by and not Path(f"/proc/{made_by[1]}").exists():
                with contextlib.suppress(NotPossible):
                    _ip(kind, "delete", name)


class TwoHosts:
    """`address(network)` is where this machine is reached from the hosts; `command(host)` goes before what runs on one. Nothing
    leads out of these networks. Raises `NotPossible`; leaves nothing behind."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise NotPossible("network namespaces need root")
        if shutil.which("ip") is None:
            raise NotPossible("there is no `ip` (iproute2) on this machine")
        # Named after this process, so that the next run knows what a killed one has left.
        self._tag = str(os.getpid())
        _sweep()
        self._clean: list[tuple[str, ...]] = []
        taken = {address["local"] for link in json.loads(_ip("-j", "address")) for address in link["addr_info"]}
        while True:
            self._net = f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(200)}"
            if not any(address.startswith(self._net) for address in taken):
                break

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        # A link goes with its namespace, so some of this may be gone already.
        for command in reversed(self._clean):
            with contextlib.suppress(NotPossible):
                _ip(*command)
        self._clean.clear()

    def address(self, network: str) -> str:
        """Where this machine listens in a network."""
        return f"{self._net}.{1 if network == DATA else 129}"

    def network(self, network: str) -> str:
        """All addresses of a network."""
        return f"{self._net}.{0 if network == DATA else 128}/25"

    def command(self, host: str) -> list[str]:
        """Put this before a command to run it on a host."""
        return ["ip", "netns", "exec", self._namespace(host)]

    def cut(self, host: str, *networks: str) -> None:
        """Pull a host's cables, at the end that is not its own: it notices no more than a host whose switch has died."""
        for network in networks:
            _ip("link", "set", self._cable(host, network), "down")

    def join(self, host: str, *networks: str) -> None:
        """Put them back."""
        for network in networks:
            _ip("link", "set", self._cable(host, network), "up")

    def _make(self) -> None:
        for network in (DATA, OUTSIDE):
            bridge = self._bridge(network)
            self._run(("link", "add", bridge, "type", "bridge"), ("link", "delete", bridge))
            _ip("address", "add", f"{self.address(network)}/25", "dev", bridge)
            _ip("link", "set", bridge, "up")
        for number, host in enumerate(HOSTS, start=11):
            space = self._namespace(host)
            self._run(("netns", "add", space), ("netns", "delete", space))
            _ip("-n", space, "link", "set", "lo", "up")
            for network in (DATA, OUTSIDE):
                cable, inside = self._cable(host, network), f"eth{network}"
                self._run(
                    ("link", "add", cable, "type", "veth", "peer", "name", inside, "netns", space), ("link", "delete", cable)
                )
                _ip("link", "set", cable, "master", self._bridge(network), "up")
                own = f"{self._net}.{number if network == DATA else number + 128}/25"
                _ip("-n", space, "address", "add", own, "dev", inside)
                _ip("-n", space, "link", "set", inside, "up")

    def _run(self, command: tuple[str, ...], undo: tuple[str, ...]) -> None:
        _ip(*command)
        self._clean.append(undo)

    def _bridge(self, network: str) -> str:
        return f"sh{self._tag}-{network}"

    def _namespace(self, host: str) -> str:
        return f"sh{self._tag}-{host}"

    def _cable(self, host: str, network: str) -> str:
        return f"sh{self._tag}-{host}{network}"
