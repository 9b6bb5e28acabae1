"""The fake Twilio of the run. Of some messages that it takes nobody hears that it took them: the connection breaks."""

from __future__ import annotations

import argparse
import random
import sys

from tests.fakes.server import FakeReply, FakeRequest, Fault, run_as_process
from tests.fakes.twilio import FakeTwilio


class Carrier(FakeTwilio):
    """Takes every message, and breaks the connection after a `silent` share (0 to 1) of them."""

    def __init__(self, port: int = 0, *, silent: float = 0.0, seed: int = 0) -> None:
        super().__init__(port)
        self.silent = silent
        self.unheard = 0
        self._chance = random.Random(seed)

    def _accept(self, request: FakeRequest) -> Fault | None:
        fault = super()._accept(request)
        if fault is None and request.method == "POST":
            with self.lock:
                if self._chance.random() < self.silent:
                    self.unheard += 1
                    return Fault(drop=True, handled=True)
        return fault

    def control(self, request: FakeRequest) -> FakeReply:
        if request.path == "/_unheard":
            return FakeReply.json(self.unheard)
        return super().control(request)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--silent", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    mine, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    run_as_process(
        lambda port: Carrier(port, silent=mine.silent, seed=mine.seed),
        "The fake Twilio of the fault run. --silent: the share of messages of which nobody hears that they were taken.",
    )
