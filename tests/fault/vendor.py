"""The fake vendor of the run: `GET /_record` tells each call, whose it was, whether its answer was given to the end, and what
it counted."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import FakeReply, FakeRequest, run_as_process
from tests.fault import words


@dataclass(slots=True)
class Call:
    """One call, under the id that the vendor gave it."""

    id: str
    number: int | None
    input_tokens: int
    output_tokens: int
    finished: bool = False


class Vendor(FakeOpenAI):
    """Answers each message with a text that names it."""

    def __init__(self, port: int = 0, *, first_delay_s: float = 0.0, piece_delay_s: float = 0.0) -> None:
        super().__init__(port, first_delay_s=first_delay_s, piece_delay_s=piece_delay_s)
        self.text = lambda body: words.answer(_asked(body) or 0)
        self.record: list[Call] = []

    def _complete(self, body: dict[str, Any]) -> FakeReply:
        reply = super()._complete(body)
        number = _asked(body)
        counted = self.usage(body, words.answer(number or 0))
        call = Call(reply.headers["x-request-id"], number, counted["prompt_tokens"], counted["completion_tokens"])
        with self.lock:
            self.record.append(call)
        if isinstance(reply.body, bytes):
            call.finished = True
        else:
            reply.body = _watched(iter(reply.body), call)
        return reply

    def control(self, request: FakeRequest) -> FakeReply:
        if request.path == "/_record":
            with self.lock:
                return FakeReply.json([asdict(call) for call in self.record])
        return super().control(request)


def _asked(body: dict[str, Any]) -> int | None:
    return words.number_in(str(body["messages"][-1]["content"]))


def _watched(pieces: Iterator[bytes], call: Call) -> Iterator[bytes]:
    yield from pieces
    call.finished = True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--piece-delay", type=float, default=0.0)
    mine, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    run_as_process(
        lambda port: Vendor(port, first_delay_s=mine.delay, piece_delay_s=mine.piece_delay),
        "The fake vendor of the fault run. --delay and --piece-delay: seconds before and between the pieces of an answer.",
    )
