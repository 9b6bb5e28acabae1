"""What a fake said once, said again with its answer spoilt: thousands of broken answers without thousands of connections."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from webapp.plugin import TextCall, TextProvider
from webapp.testkit.asking import run

_OF_THE_CONNECTION = {"transfer-encoding", "content-length", "connection"}

ODD_VALUES: tuple[object, ...] = (None, True, -1, 2.5, 10**30, "", "x", [], {}, [[]], {"error": "x"}, "\x00\x1b[31m\ud800")
"""What may stand anywhere in a hostile server's JSON."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One answer of the fake."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Recording(httpx.BaseTransport):
    """Passes calls on to the fake and keeps its answers."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http
        self.kept: list[Exchange] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        headers = {name: value for name, value in request.headers.items() if name not in _OF_THE_CONNECTION}
        answer = self.http.request(request.method, str(request.url), content=request.read(), headers=headers)
        kept = {name: value for name, value in answer.headers.items() if name not in _OF_THE_CONNECTION}
        self.kept.append(Exchange(answer.status_code, kept, answer.content))
        return httpx.Response(answer.status_code, headers=kept, content=answer.content)


class _Pieces(httpx.SyncByteStream):
    def __init__(self, pieces: Iterable[bytes], broken: bool) -> None:
        self._pieces = pieces
        self._broken = broken

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces
        if self._broken:
            raise httpx.RemoteProtocolError("the answer broke off")


class Replay(httpx.BaseTransport):
    """Gives the recorded answers in their order; the last one with `pieces` for its body, ended as `broken` says."""

    def __init__(self, kept: list[Exchange], pieces: Iterable[bytes], *, broken: bool = False) -> None:
        self._kept = kept
        self._pieces = list(pieces)
        self._broken = broken
        self._next = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:  # noqa: ARG002 - whatever is asked
        """The next recorded answer; the last one again when there are no more."""
        position = min(self._next, len(self._kept) - 1)
        self._next += 1
        kept = self._kept[position]
        if position < len(self._kept) - 1:
            return httpx.Response(kept.status, headers=kept.headers, content=kept.body)
        return httpx.Response(kept.status, headers=kept.headers, stream=_Pieces(self._pieces, self._broken))


def record(provider: TextProvider, http: httpx.Client, made: TextCall) -> list[Exchange]:
    """What the fake answered to a call that succeeds."""
    transport = _Recording(http)
    with httpx.Client(transport=transport, trust_env=False) as recording:
        outcome = run(provider, recording, made)
    if outcome.error is not None:
        raise outcome.error
    return transport.kept


def replaying(kept: list[Exchange], pieces: Iterable[bytes], *, broken: bool = False) -> httpx.Client:
    """A client whose last answer is `pieces`."""
    return httpx.Client(transport=Replay(kept, pieces, broken=broken), trust_env=False)


# -- bodies made odd -------------------------------------------------------------------------------------------------
def mutations(body: bytes) -> Iterator[bytes]:
    """The body with each value of each of its JSON documents replaced by something that nobody expects there.

    The documents are the lines of the body, or what follows `data:` in them; a body that is one document is taken whole.
    """
    lines = body.split(b"\n")
    seen: set[tuple[str, str, type]] = set()
    for number, line in enumerate(lines):
        start = line.find(b"{") if line.startswith((b"data:", b"{")) else -1
        if start < 0:
            continue
        document = json.loads(line[start:])
        name = lines[number - 1].decode() if line.startswith(b"data:") and number else ""
        for path, value in _paths(document):
            if (name, str(path), type(value)) in seen:  # pieces of text are all alike
                continue
            seen.add((name, str(path), type(value)))
            for odd in ODD_VALUES:
                changed = line[:start] + json.dumps(_with(document, path, odd)).encode()
                yield b"\n".join([*lines[:number], changed, *lines[number + 1 :]])


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _paths(inner, (*path, key))


def _with(value: Any, path: tuple[Any, ...], odd: object) -> Any:
    if not path:
        return odd
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _with(value[path[0]], path[1:], odd)
    return copy
