"""How many threads are lent, and to whom."""

from __future__ import annotations

import io
import threading
import time
import uuid

import pytest
from werkzeug.exceptions import RequestTimeout

from webapp.api import bodies
from webapp.api.bodies import Body
from webapp.web import streams
from webapp.web.streams import Seats


@pytest.mark.parametrize(("threads", "calls", "share"), [(2, 1, 1), (8, 6, 3), (128, 96, 48), (256, 224, 112), (512, 480, 240)])
def test_attended_calls_get_most_of_the_threads_and_one_token_half_of_these(threads: int, calls: int, share: int) -> None:
    seats = Seats(threads)
    one = [seats.attend("one") for _ in range(share)]
    assert all(one)
    assert seats.has_its_share("one")
    assert seats.attend("one") is None
    others = [seats.attend(f"other {number}") for number in range(calls - share)]
    assert all(others)
    assert seats.attend("somebody") is None
    assert not seats.has_its_share("somebody")
    for leave in one + others:
        assert leave is not None
        leave()
        leave()
    assert not seats._attended
    assert seats.attend("somebody") is not None


def test_streams_and_calls_and_bodies_together_leave_threads_for_pages() -> None:
    seats = Seats(128)
    streams_open = [seats.take(uuid.uuid4()) for _ in range(60)]
    calls = [seats.attend(str(number)) for number in range(40)]
    assert (sum(map(bool, streams_open)), sum(map(bool, calls))) == (60, 36)
    received = [seats.receive(str(number)) for number in range(40)]
    assert sum(map(bool, received)) == 16
    for leave in filter(None, streams_open + calls + received):
        leave()
    assert (seats._lent, seats._bodies, seats._senders, seats._taken, seats._attended) == (0, 0, {}, {}, {})


def test_a_crowd_behind_one_address_gets_its_turns_and_stuck_bodies_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seats = Seats(128)
    counts: list[bool] = []

    def send() -> None:
        leave = seats.receive("203.0.113.7")
        counts.append(leave is not None)
        if leave is not None:
            time.sleep(0.005)
            leave()

    threads = [threading.Thread(target=send) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert counts == [True] * 100
    assert (seats._bodies, seats._senders) == (0, {})

    monkeypatch.setattr(streams, "_STUCK_S", 0.05)
    stuck = [seats.receive("203.0.113.7") for _ in range(streams.BODIES_PER_ADDRESS)]
    assert all(stuck)
    assert seats.receive("203.0.113.7") is None, "its turn did not come"
    time.sleep(0.06)
    begun = time.monotonic()
    assert seats.receive("203.0.113.7") is None
    assert time.monotonic() - begun < 0.04
    assert seats.receive("203.0.113.8") is not None


def test_a_body_gives_its_seat_back_with_its_last_byte_and_may_not_take_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[str] = []
    body = Body(io.BytesIO(b"a" * 100_000), 100_000, lambda: left.append("known"))
    assert (len(body.read(99_999)), left) == (99_999, [])
    assert (body.read(1), left) == (b"a", ["known"])
    body = Body(io.BytesIO(b"ab\ncd"), 0, lambda: left.append("chunked"))
    assert (body.readline(), body.read(), left) == (b"ab\n", b"cd", ["known", "chunked"])
    assert list(Body(io.BytesIO(b"ab\ncd"), 5, list)) == [b"ab\n", b"cd"]

    monkeypatch.setattr(bodies, "PATIENCE_S", -10.0)
    body = Body(io.BytesIO(b"a" * 200_000), 200_000, list)
    with pytest.raises(RequestTimeout):
        body.read()
