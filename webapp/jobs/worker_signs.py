"""What a worker tells of itself with its heartbeat, for people who look."""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from redis.client import Pipeline

from webapp.turns import LOADS, SIGNS

_FORGET_AFTER_S = 3600


class Sign:
    """Writes the worker's line into the hash of signs."""

    def __init__(self, name: str, queues: list[str], slots: int) -> None:
        self._name = name
        self._started = time.time()
        self._fixed = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": _version(),
            "queues": queues,
            "slots": slots,
        }

    def give(self, in_flight: int, pipe: Pipeline) -> None:
        """Write it, with the number of jobs that run now."""
        told = self._fixed | {
            "in_flight": in_flight,
            "memory": memory_bytes(),
            "started": self._started,
            "seen": time.time(),
        }
        pipe.hset(SIGNS, self._name, json.dumps(told))
        pipe.hset(LOADS, self._name, in_flight)

    def withdraw(self, pipe: Pipeline) -> None:
        """Take it back: the worker has stopped."""
        pipe.hdel(SIGNS, self._name)
        pipe.hdel(LOADS, self._name)


def forgotten(signs: dict[bytes, bytes]) -> list[bytes]:
    """The names of workers that gave no sign for an hour: killed ones, which cannot withdraw theirs."""
    before = time.time() - _FORGET_AFTER_S
    return [name for name, told in signs.items() if _seen(told) < before]


def _seen(told: bytes) -> float:
    try:
        return float(json.loads(told)["seen"])
    except (ValueError, KeyError, TypeError):
        return 0.0


def _version() -> str:
    try:
        return metadata.version("switchhook")
    except metadata.PackageNotFoundError:  # a copy of the files that was never installed
        return "unknown"


def memory_bytes() -> int:
    """How much memory this process has in use (its resident set); where the system does not say, the most it ever had."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
