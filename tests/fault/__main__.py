"""`python -m tests.fault [--seed N]`: 1,000 messages while processes, Redis and the database are killed; exits with 1 if any
promise is broken. The same seed kills the same things at the same moments."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from tests.fault import plan, verdict
from tests.fault.site import Site, built
from tests.fault.traffic import Traffic

_IN_ALL_S = 285.0


def say(line: str) -> None:
    """Show a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run, print the table, say what was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="default: a random one")
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=100.0, help="how long messages come and things are killed")
    parser.add_argument("--keep", action="store_true", help="keep the logs of the processes")
    given = parser.parse_args()
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # What a developer has set for real vendors and channels must not reach the run.
    for name in [n for n in os.environ if n.startswith(("SWITCHHOOK_", "TWILIO_")) or n.endswith(("_API_KEY", "_BASE_URL"))]:
        del os.environ[name]
    os.environ["OLLAMA_HOST"] = "http://127.0.0.1:9"
    folder = Path(tempfile.mkdtemp(prefix="switchhook-fault-"))
    say(f"seed {given.seed}, {given.messages} messages in {given.seconds:.0f} s; logs in {folder}")
    try:
        return _run(folder, given.seed, given.messages, given.seconds, began + _IN_ALL_S)
    finally:
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)
        say(f"{time.monotonic() - began:.0f} s in all; again with: python -m tests.fault --seed {given.seed}")


def _run(folder: Path, seed: int, messages: int, seconds: float, until: float) -> int:
    events = plan.make(seed, seconds)
    with built(folder, seed) as (site, vendor, carrier):
        traffic = Traffic(site.url, messages, 100, seconds, seed)
        posting = threading.Thread(target=traffic.run, name="traffic")
        began = time.monotonic()
        posting.start()
        try:
            _strike(site, events, began)
            drained_s = _drain(site, posting, until)
        finally:
            traffic.given_up.set()
            posting.join()
        found = verdict.judge(traffic.accepted, vendor.ask("/_record"), carrier.ask("/_sent"), carrier.ask("/_unheard"))
        table = [(f"times that broke: {name}", str(times)) for name, times in plan.tell(events).items()]
        table += [("processes that ended by themselves", str(site.fell)), ("webhook answers", _told(traffic))]
        table += [("until all was done after the last fault", "never" if drained_s is None else f"{drained_s:.0f} s")]
        _print(table + found.figures)
        found.breaches += [] if traffic.accepted == messages else [f"only {traffic.accepted} of {messages} were accepted"]
        found.breaches += [] if drained_s is not None else ["not everything was done in time"]
    for breach in found.breaches:
        say(f"BROKEN  {breach}")
    say("nothing was lost, nothing was done twice" if not found.breaches else f"{len(found.breaches)} promises broken")
    return 1 if found.breaches else 0


def _strike(site: Site, events: list[plan.Event], began: float) -> None:
    """Break what is to be broken at its time, and keep the processes running in between."""
    away: list[threading.Thread] = []
    for event in events:
        while (left := began + event.at_s - time.monotonic()) > 0:
            site.tend()
            time.sleep(min(left, 0.1))
        if event.what == plan.KILL:
            site.strike(event.process)
            continue
        server = site.redis_away if event.what == plan.REDIS else site.database_away
        away.append(threading.Thread(target=server, args=(event.away_s,)))
        away[-1].start()
    for thread in away:
        thread.join()


def _drain(site: Site, posting: threading.Thread, until: float) -> float | None:
    """Wait until everything is accepted, ended and sent; seconds that it took, None if time runs out."""
    began = time.monotonic()
    while time.monotonic() < until:
        site.tend()
        try:
            if not posting.is_alive() and verdict.still_going() == 0:
                return time.monotonic() - began
        except DBAPIError as exc:
            say(f"the books cannot be read yet: {type(exc).__name__}")
        time.sleep(0.2)
    return None


def _told(traffic: Traffic) -> str:
    return ", ".join(f"{times}× {status}" for status, times in sorted(traffic.tries.items()))


def _print(rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        say(f"  {name.ljust(width)}  {value}")


if __name__ == "__main__":
    sys.exit(main())
