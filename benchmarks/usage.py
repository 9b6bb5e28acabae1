"""What a process and its descendants use of the machine, from /proc. Systems without it give None."""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float | None:
    """Processor seconds of a process and all its descendants, those included that have ended and were waited for."""
    total = 0.0
    for member in _family(pid):
        fields = _stat(member)
        if fields:
            total += sum(int(fields[i]) for i in (11, 12, 13, 14)) / _TICKS
    return total or None


def pss_mb(pid: int, *, children_only: bool = False) -> float | None:
    """Proportional set size in MB (10^6 bytes): memory of its own, and its share of what it has in common with others."""
    found = [_pss(member) for member in _family(pid) if not (children_only and member == pid)]
    known = [value for value in found if value is not None]
    return sum(known) if known else None


def pss_by_process_mb(pid: int) -> list[tuple[str, float]]:
    """The same of a process and each of its descendants alone, with its command line."""
    found = []
    for member in _family(pid):
        value = _pss(member)
        if value is not None:
            command = (_PROC / str(member) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found.append((command.strip(), value))
    return found


def _pss(pid: int) -> float | None:
    try:
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return None


def _family(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for folder in _PROC.iterdir() if _PROC.is_dir() else ():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))):
            parents.setdefault(int(fields[1]), []).append(int(folder.name))
    family, unseen = [], [pid]
    while unseen:
        member = unseen.pop()
        family.append(member)
        unseen += parents.get(member, [])
    return family


def _stat(pid: int) -> list[str]:
    """The fields after the command's name: state, parent, …"""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
