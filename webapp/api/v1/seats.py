"""Seats for attended calls: each takes a thread of the web server for as long as its vendor thinks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar, cast

from flask import Response

from webapp.api.v1.calls import NoSeat
from webapp.api.v1.whole import Whole
from webapp.extensions import of_application

_OWN_S, _ALL_S = 2, 5

Answer = TypeVar("Answer", bound=Whole | Response)


class _Seats(Protocol):
    """See `webapp.web.streams`."""

    def attend(self, key: str) -> Callable[[], None] | None: ...

    def has_its_share(self, key: str) -> bool: ...


def seated(token: str, serve: Callable[[], Answer]) -> Answer:
    """What `serve` answers to a call with this token, which has a seat until that is all sent. `NoSeat` if there is none."""
    leave = _take(token)
    streamed = False
    try:
        answer = serve()
        if isinstance(answer, Response) and answer.is_streamed:
            answer.response = _sent(cast(Iterable[Any], answer.response), leave)
            # A generator that was never begun has no `finally`: who goes before the first byte is only seen here.
            answer.call_on_close(leave)
            streamed = True
        return answer
    finally:
        if not streamed:
            leave()


def _sent(pieces: Iterable[Any], leave: Callable[[], None]) -> Iterator[Any]:
    try:
        yield from pieces
    finally:
        leave()


def _take(token: str) -> Callable[[], None]:
    seats: _Seats = of_application("switchhook.seats")
    leave = seats.attend(token)
    if leave is not None:
        return leave
    if seats.has_its_share(token):
        raise NoSeat("Too many calls of this API key run at once: wait until some have ended.", 429, _OWN_S)
    raise NoSeat("Too many calls run here at once: come back in a few seconds.", 503, _ALL_S)
