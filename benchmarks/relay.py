"""A streamed answer from a vendor's wire to the readers' stream: what a piece costs beyond the bytes alone."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

import httpx

from benchmarks.place import Place
from benchmarks.report import Report, median
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.gemini import FakeGemini
from tests.fakes.ollama import FakeOllama
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import FakeRequest
from tests.fakes.vendor import FakeTextVendor
from webapp.contracts.calls import Role, Text, TextCall, Turn, Usage
from webapp.extensions import current_settings
from webapp.pipeline.stream import Publisher
from webapp.registry import current_registry
from webapp.routing import http

PIECES = 200
_TEXT = " ".join(f"word{number}" for number in range(PIECES))
_BAR_MS = 1.0
_FORMATS: dict[str, Callable[[], FakeTextVendor]] = {
    "openai": FakeOpenAI,
    "anthropic": FakeAnthropic,
    "gemini": FakeGemini,
    "ollama": FakeOllama,
}


def run(place: Place, report: Report, *, quick: bool) -> None:
    """One format after the other; ours and the floor in turns."""
    rounds = 5 if quick else 25
    report.heading(f"relay: a stream of {PIECES} pieces, through the provider and the publisher, one thread")
    rows, added = [], {}
    # The product's client but for its guard, which knows the addresses that the settings name, and these fakes' are not.
    with place.app(f"sqlite:///{place.folder / 'unused.db'}", 13), http.build_client() as client:
        for name, make in _FORMATS.items():
            with make() as fake:
                fake.text = _TEXT
                current_registry().configure({**current_settings().for_plugins(), **fake.settings})
                pairs = [(_through(name, fake, client), _directly(fake, client)) for _ in range(rounds + 1)][1:]
            added[name] = median([ours - floor for ours, floor in pairs])
            ours, floor = (median([pair[i] for pair in pairs]) for i in (0, 1))
            rows.append([name, f"{1000 * ours:.0f}", f"{1000 * floor:.0f}", f"{1000 * added[name]:.0f}"])
    report.table([f"us of CPU a piece, median of {rounds}", "Switchhook", "floor: bytes alone", "added"], rows)
    for name, milliseconds in added.items():
        report.below(f"relay: CPU added to a piece, {name}", milliseconds, _BAR_MS, "ms")


def _through(name: str, fake: FakeTextVendor, client: httpx.Client) -> float:
    """Milliseconds of this thread's processor time for a piece: call, read, parse, publish."""
    provider = current_registry().providers[name]
    call = TextCall(str(uuid.uuid4()), fake.model, (Turn(Role.USER, "Say two hundred words."),), 1000, 60.0)
    publisher = Publisher(uuid.uuid4(), 1)
    pieces, ended = 0, False
    began = time.thread_time()
    for piece in provider.stream(call, client):
        if isinstance(piece, Text):
            publisher.piece(piece.text)
            pieces += 1
        ended = isinstance(piece, Usage)
    used = time.thread_time() - began
    if publisher.text != _TEXT or pieces != PIECES or not ended:
        raise RuntimeError(f"{name}: {pieces} pieces of {PIECES} came through")
    return 1000 * used / PIECES


def _directly(fake: FakeTextVendor, client: httpx.Client) -> float:
    """The same for the very same call, sent again by the same client, with its bytes thrown away."""
    asked: FakeRequest = fake.requests[-1]
    skipped = {"host", "content-length", "transfer-encoding", "connection"}
    headers = {key: value for key, value in asked.headers.items() if key.lower() not in skipped}
    size = 0
    began = time.thread_time()
    with client.stream(asked.method, fake.url + asked.target, headers=headers, content=asked.body) as response:
        for data in response.iter_bytes():
            size += len(data)
    used = time.thread_time() - began
    if response.status_code != 200 or size < len(_TEXT):
        raise RuntimeError(f"{fake.name}: the floor got {size} bytes and status {response.status_code}")
    return 1000 * used / PIECES
