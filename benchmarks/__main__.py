"""`python -m benchmarks [--quick] [--strict] [NAME…]`: measure the hot paths beside their floors."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import signal
import sys
import time
from pathlib import Path

from benchmarks.place import Options, Place
from benchmarks.report import Report

NAMES = ("webhook", "worker", "queue", "quota", "stream", "fallback", "relay", "gateway")

GATEWAY_PARTS = ("throughput", "latency", "waiting", "streams", "memory")


def main() -> int:
    """Run what was asked for. 1 if a bar is missed and `--strict` was given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to run: {', '.join(NAMES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="short runs, to see whether all works; the figures are rough")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--parts", metavar="A,B", default="", help="of the gateway's benchmark: only these parts")
    parser.add_argument("--litellm", metavar="DIR", type=Path, help="environment with litellm[proxy], to measure its proxy too")
    parser.add_argument("--servers", metavar="DIR", type=Path, help="environment with gunicorn, to measure our server under it")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in NAMES]:
        parser.error(f"there is no benchmark {unknown[0]!r}: choose from {', '.join(NAMES)}")
    for folder in filter(None, (given.litellm, given.servers)):
        if not (folder / "bin" / "python").exists():
            parser.error(f"{folder} is not a virtual environment")
    parts = frozenset(filter(None, given.parts.split(",")))
    if unknown_parts := sorted(parts - set(GATEWAY_PARTS)):
        parser.error(f"there is no part {unknown_parts[0]!r}: choose from {', '.join(GATEWAY_PARTS)}")
    options = Options(parts, *(folder and folder.resolve() for folder in (given.litellm, given.servers)))
    began = time.monotonic()
    load = os.getloadavg()[0]
    print(f"Python {platform.python_version()}, {os.cpu_count()} processors, load {load:.1f}")
    if load > 1.0:
        print("The machine is busy with something else: trust the ratios, not the figures.")
    report = Report()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # By way of the context managers: nothing stays behind.
    with Place(options) as place:
        for name in given.names or NAMES:
            importlib.import_module(f"benchmarks.{name}").run(place, report, quick=given.quick)
    all_met = report.summary()
    print(f"{time.monotonic() - began:.0f} s, load at the end {os.getloadavg()[0]:.1f}")
    return 1 if given.strict and not all_met else 0


if __name__ == "__main__":
    sys.exit(main())
